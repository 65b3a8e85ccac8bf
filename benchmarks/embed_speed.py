"""`embed` of a converted sentence encoder beside `transformers`, text in and vectors out: 32 texts of 64 tokens a request.

    python -m benchmarks.embed_speed --source=all-MiniLM-L6-v2 --peer_python=PATH

Ours is the exported SavedModel, loaded by plain TensorFlow. The peer tokenises, encodes and averages, as sentence-transformers
does, in float32 with the attention that transformers chooses. Both use all cores.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from benchmarks import sides

BATCH_SIZE, NUM_TOKENS, LOOPS = 32, 64, 10
# One token each in the uncased vocabulary; with the two special ones a text has NUM_TOKENS.
WORDS = ["the", "house", "stands", "on", "a", "hill", "and", "people", "walk", "to", "it", "every", "day"]


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embed_speed", description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True, help="the Hugging Face directory of a sentence encoder")
    parser.add_argument("--peer_python", default=sys.executable, help="an interpreter with torch and transformers")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--worker", choices=sorted(WORKERS), help=argparse.SUPPRESS)
    parser.add_argument("--directory", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return WORKERS[args.worker](args)
    pythons = {"ours": sys.executable, "transformers": args.peer_python}
    if not sides.has_module(args.peer_python, "transformers"):
        print(f"transformers is not installed in {args.peer_python}: no figure and no ratio for it.")
        del pythons["transformers"]
    with tempfile.TemporaryDirectory() as directory:
        _export(args, directory)
        commands = {
            side: [python, "-m", "benchmarks.embed_speed", *sys.argv[1:], f"--worker={side}", f"--directory={directory}"]
            for side, python in pythons.items()
        }
        seconds = sides.measure(commands, args.rounds)
    sides.report(seconds, ["ours"], ["transformers"], BATCH_SIZE * LOOPS, "texts")
    return None


def _texts():
    words = [WORDS[i % len(WORDS)] for i in range(NUM_TOKENS - 2 + BATCH_SIZE)]
    return [" ".join(words[row : row + NUM_TOKENS - 2]) for row in range(BATCH_SIZE)]


def _export(args, directory):
    from zoo.convert import huggingface
    from zoo.export import export_saved_model

    bundle = huggingface.read(args.source)
    longest = bundle.tokenizer.encode_batch(_texts())
    if {len(ids) for ids in longest} != {NUM_TOKENS - 2}:
        raise SystemExit(f"The texts are to have {NUM_TOKENS - 2} tokens in this vocabulary; theirs: {len(longest[0])}.")
    export_saved_model(directory, bundle.model, bundle.tokenizer, bundle.task)


def _ours(args):
    import tensorflow as tf

    embed = tf.saved_model.load(str(Path(args.directory) / "1")).signatures["embed"]
    texts = tf.constant(_texts())

    def work():
        for _ in range(LOOPS):
            embed(text=texts)["embedding"].numpy()

    work()
    sides.serve(work)


def _transformers(args):
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count())
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.source)
    model = transformers.AutoModel.from_pretrained(args.source, dtype=torch.float32).eval()
    texts = _texts()

    def work():
        for _ in range(LOOPS):
            batch = tokenizer(texts, padding=True, return_tensors="pt")
            with torch.inference_mode():
                hidden = model(**batch).last_hidden_state
                mask = batch["attention_mask"][..., None]
                vectors = (hidden * mask).sum(1) / mask.sum(1)
                torch.nn.functional.normalize(vectors).numpy()

    work()
    sides.serve(work)


WORKERS = {"ours": _ours, "transformers": _transformers}

if __name__ == "__main__":
    main()
