"""Byte-level BPE with GPT-2's vocabulary over real text: speed of both sides, and whether they agree.

    python -m benchmarks.tokenizers --data_path='GLOB' --encoder=encoder.json --vocab=vocab.bpe

Every line (with its end) is a document, and so is every megabyte of lines. For each file: megabytes, the speed of the
native side and of the graph side on megabytes, and the number of documents for which the native ids are not those of
the Rust library called on the whole document with its own pre-tokenizer, or not those of the graph. Any such document
makes the exit status 1.
"""

import argparse
import glob
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
import tokenizers

from zoo.tokenizers.bpe import BPETokenizer

MEGABYTE = 1_000_000
PROMPT = "The capital of France is"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", required=True, help="glob of UTF-8 text files; ** goes into folders")
    parser.add_argument("--encoder", required=True, help="GPT-2's encoder.json")
    parser.add_argument("--vocab", required=True, help="GPT-2's vocab.bpe")
    args = parser.parse_args(argv)
    paths = sorted(path for path in map(Path, glob.glob(args.data_path, recursive=True)) if path.is_file())
    if not paths:
        parser.error(f"no file matches --data_path={args.data_path}")

    ours = BPETokenizer.from_gpt2(args.encoder, args.vocab)
    direct = _direct(args.encoder, args.vocab)
    graph = tf.function(ours.tokenize, input_signature=[tf.TensorSpec([None], tf.string)])
    graph(tf.constant([PROMPT]))
    columns = f"{'MB':>6} {'native MB/s':>12} {'graph MB/s':>11} {'documents':>10} {'!= direct':>10} {'!= graph':>9}"
    print(f"{'file':40} {columns}")
    wrong = 0
    for path in paths:
        wrong += _report(path, ours, direct, graph)
    print(f"one prompt of {len(PROMPT)} characters in graph: {_latency(graph) * 1e3:.2f} ms")
    return 1 if wrong else 0


def _direct(encoder, vocab):
    """The Rust library on its own, built from the same two files."""
    vocabulary = json.loads(Path(encoder).read_text(encoding="utf8"))
    merges = [tuple(line.split()) for line in Path(vocab).read_text(encoding="utf8").splitlines()[1:] if line]
    native = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    native.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return native


def _report(path, ours, direct, graph):
    """Prints one file's row; returns the number of documents on which the sides disagree."""
    size, documents, native_seconds, graph_seconds, not_direct, not_graph = path.stat().st_size, 0, 0.0, 0.0, 0, 0
    for lines in _megabytes(path):
        whole = ["".join(lines)]
        start = time.perf_counter()
        ours.encode_batch(whole)
        native_seconds += time.perf_counter() - start
        start = time.perf_counter()
        graph(tf.constant(whole))
        graph_seconds += time.perf_counter() - start
        for texts in (lines, whole):
            native = [ids.tolist() for ids in ours.encode_batch(texts)]
            by_rust = [encoding.ids for encoding in direct.encode_batch_fast(texts, add_special_tokens=False)]
            in_graph = graph(tf.constant(texts)).to_list()
            documents += len(texts)
            not_direct += sum(a != b for a, b in zip(native, by_rust, strict=True))
            not_graph += sum(a != b for a, b in zip(native, in_graph, strict=True))
    speeds = f"{size / MEGABYTE / native_seconds:12.2f} {size / MEGABYTE / graph_seconds:11.2f}"
    name = "/".join(path.parts[-2:])
    print(f"{name:40} {size / MEGABYTE:6.2f} {speeds} {documents:10,} {not_direct:10} {not_graph:9}", flush=True)
    return not_direct + not_graph


def _megabytes(path):
    """Yields lists of lines, about a megabyte together."""
    with path.open(encoding="utf8", newline="") as file:
        while lines := file.readlines(MEGABYTE):
            yield lines


def _latency(graph, calls=100):
    prompt = tf.constant([PROMPT])
    start = time.perf_counter()
    for _ in range(calls):
        graph(prompt)
    return (time.perf_counter() - start) / calls


if __name__ == "__main__":
    sys.exit(main())
