"""A tokenizer over real text: speed of both sides, and whether they agree with each other and with the reference.

    python -m benchmarks.tokenizers --data_path='GLOB' --tokenizer=FILES_OF_GPT2
    python -m benchmarks.tokenizers --data_path='GLOB' --tokenizer=wordpiece --train_on=corpus.txt
    python -m benchmarks.tokenizers --data_path=FILE --tokenizer=bpe --train_on=corpus.txt --shards

`--tokenizer` is what trainers.run takes: a directory with GPT-2's encoder.json and vocab.bpe, with a tokenizer.json, a
SentencePiece model, ...; or bpe, wordpiece or unigram, trained on the lines of `--train_on`. The reference is the Rust
library `tokenizers`, or for unigram `sentencepiece`, called on whole documents.

Every line (with its end) is a document, and so is every megabyte of lines. For each file: megabytes, the speed of the
native side, of the reference and of the graph side on megabytes, and the number of documents for which the native ids
are not those of the reference, or not those of the graph. Any such document makes the exit status 1.

With `--shards` instead the whole way from a file to token shards on disk (`trainers/prepare.py`), every line a document and
then the file as one, beside the reference called directly: the file read, all documents encoded in one call, the ids written to
one file; and beside that call alone. The sides take turns, and each reads its tokenizer from a file.
"""

import argparse
import functools
import glob
import json
import operator
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import sentencepiece
import tensorflow as tf
import tokenizers

import tfds_configs
from trainers.prepare import prepare
from zoo.tokenizers.base import create

MEGABYTE = 1_000_000
PROMPT = "The capital of France is"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", required=True, help="glob of UTF-8 text files; ** goes into folders")
    parser.add_argument("--tokenizer", required=True, help="bpe, wordpiece, unigram, or a path")
    parser.add_argument("--train_on", help="UTF-8 text file, for a tokenizer that is trained")
    parser.add_argument("--vocab_size", type=int, help="for a tokenizer that is trained")
    parser.add_argument("--shards", action="store_true", help="measure the way into shards")
    parser.add_argument("--rounds", type=int, default=5, help="of --shards")
    args = parser.parse_args(argv)
    paths = sorted(path for path in map(Path, glob.glob(args.data_path, recursive=True)) if path.is_file())
    if not paths:
        parser.error(f"no file matches --data_path={args.data_path}")

    texts = Path(args.train_on).read_text(encoding="utf8").splitlines(keepends=True) if args.train_on else ()
    ours = create(args.tokenizer, texts, args.vocab_size)
    if args.shards:
        for path in paths:
            _report_shards(path, ours, args.rounds)
        return 0
    direct = _direct(ours, args.tokenizer)
    graph = tf.function(ours.tokenize, input_signature=[tf.TensorSpec([None], tf.string)])
    graph(tf.constant([PROMPT]))
    widths = {"MB": 6, "native MB/s": 12, "direct MB/s": 12, "graph MB/s": 11, "documents": 10, "!= direct": 10, "!= graph": 9}
    columns = " ".join(f"{title:>{width}}" for title, width in widths.items())
    print(f"{'file':40} {columns}")
    wrong = 0
    for path in paths:
        wrong += _report(path, ours, direct, graph)
    print(f"one prompt of {len(PROMPT)} characters in graph: {_latency(graph) * 1e3:.2f} ms")
    return 1 if wrong else 0


def _direct(ours, spec):
    """A function from texts to lists of ids that calls the reference alone, on the files given or on those of `ours`."""
    path = Path(spec)
    if (path / "encoder.json").is_file():
        vocabulary = json.loads((path / "encoder.json").read_text(encoding="utf8"))
        merges = (path / "vocab.bpe").read_text(encoding="utf8").splitlines()[1:]
        native = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [tuple(m.split()) for m in merges if m]))
        native.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        return functools.partial(_by_rust, native)
    with tempfile.TemporaryDirectory() as saved:
        if not path.exists():
            ours.save(saved)
            path = Path(saved)
        if found := [path] if path.suffix == ".model" else sorted(path.glob("*.model")):
            native = sentencepiece.SentencePieceProcessor(model_file=str(found[0]))
            return functools.partial(native.encode, out_type=int)
        config = json.loads((path if path.is_file() else path / "tokenizer.json").read_text(encoding="utf8"))
    config.update(added_tokens=[], truncation=None, padding=None)  # text that looks like a special token is text
    return functools.partial(_by_rust, tokenizers.Tokenizer.from_str(json.dumps({**config, "post_processor": None})))


def _from_saved(directory):
    """The same function, of a tokenizer that `Tokenizer.save` wrote: the library reads the file itself."""
    if (directory / "tokenizer.json").is_file():
        return functools.partial(_by_rust, tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json")))
    (model,) = directory.glob("*.model")
    return functools.partial(sentencepiece.SentencePieceProcessor(model_file=str(model)).encode, out_type=int)


def _by_rust(native, texts):
    return [encoding.ids for encoding in native.encode_batch_fast(texts, add_special_tokens=False)]


def _report(path, ours, direct, graph):
    """Prints one file's row; returns the number of documents on which the sides disagree."""
    size, documents, not_direct, not_graph = path.stat().st_size, 0, 0, 0
    native_seconds = direct_seconds = graph_seconds = 0.0
    for lines in _megabytes(path):
        whole = ["".join(lines)]
        start = time.perf_counter()
        ours.encode_batch(whole)
        native_seconds += time.perf_counter() - start
        start = time.perf_counter()
        direct(whole)
        direct_seconds += time.perf_counter() - start
        start = time.perf_counter()
        graph(tf.constant(whole))
        graph_seconds += time.perf_counter() - start
        for texts in (lines, whole):
            native = [ids.tolist() for ids in ours.encode_batch(texts)]
            reference = direct(texts)
            in_graph = graph(tf.constant(texts)).to_list()
            documents += len(texts)
            not_direct += sum(a != b for a, b in zip(native, reference, strict=True))
            not_graph += sum(a != b for a, b in zip(native, in_graph, strict=True))
    megabytes = size / MEGABYTE
    speeds = f"{megabytes / native_seconds:12.2f} {megabytes / direct_seconds:12.2f} {megabytes / graph_seconds:11.2f}"
    name = "/".join(path.parts[-2:])
    print(f"{name:40} {megabytes:6.2f} {speeds} {documents:10,} {not_direct:10} {not_graph:9}", flush=True)
    return not_direct + not_graph


def _report_shards(path, ours, rounds):
    """Prints the speed into shards of one file's lines and of the whole file, and of the two ways to call the reference."""
    for format in ("lines", "text"):
        source = tfds_configs.get("local_text", f"train={path},validation={path},format={format}")
        seconds = {"ours": [], "direct": [], "the call alone": []}
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as scratch:
                scratch = Path(scratch)
                (scratch / "tokenizer").mkdir()
                ours.save(scratch / "tokenizer")
                start = time.perf_counter()
                prepare(source, scratch / "tokenizer", cache_dir=scratch / "cache", splits=["train"])
                seconds["ours"].append(time.perf_counter() - start)
                start = time.perf_counter()
                direct = _from_saved(scratch / "tokenizer")
                with path.open(encoding="utf8", newline="\n") as file:
                    documents = [line.removesuffix("\n") for line in file] if format == "lines" else [file.read()]
                called = time.perf_counter()
                encoded = direct(documents)
                seconds["the call alone"].append(time.perf_counter() - called)
                np.concatenate([np.array(ids, np.uint32) for ids in encoded]).tofile(scratch / "ids.bin")
                seconds["direct"].append(time.perf_counter() - start)
        speeds = ", ".join(f"{side} {path.stat().st_size / MEGABYTE / statistics.median(s):.2f}" for side, s in seconds.items())
        ratios = [statistics.median(map(operator.truediv, seconds[side], seconds["ours"])) for side in list(seconds)[1:]]
        print(
            f"{path.name} as {format}: MB/s {speeds}; ours / direct {ratios[0]:.2f}, / the call alone {ratios[1]:.2f}",
            flush=True,
        )


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
