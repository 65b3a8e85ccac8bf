"""What it takes to index a text for `trainers.trace`: preparation, sorting, and a query.

    python -m benchmarks.trace --text=FILE                   bpe of 8,192 tokens
    python -m benchmarks.trace --text=FILE --tokenizer=byte

A query is a passage of 100 tokens of the text whose every tenth token is another, and is asked for its longest matches and
their places. Everything is made anew in a cache of its own.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time

QUERIES, LENGTH = 200, 100


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trace", description=__doc__.splitlines()[0])
    parser.add_argument("--text", required=True, help="a file of text, as --data_path takes it")
    parser.add_argument("--tokenizer", default="bpe")
    parser.add_argument("--vocab_size", type=int, default=8_192)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["ZOO_CACHE"] = cache
        print(json.dumps(measured(args)))


def measured(args):
    """The figures, a dict."""
    import numpy as np

    import tfds_configs
    from trainers.prepare import prepare
    from zoo.data.suffixes import open_or_build

    source = tfds_configs.get("local_text", f"train={args.text},validation={args.text},test={args.text}")
    sized = args.vocab_size if args.tokenizer != "byte" else None
    began, processor = time.perf_counter(), time.process_time()
    _, streams = prepare(source, args.tokenizer, sized, splits=["train"])
    shards = streams["train"]
    prepared = time.perf_counter() - began, time.process_time() - processor
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, processor = time.perf_counter(), time.process_time()
    suffixes = open_or_build(shards)
    indexed = time.perf_counter() - began, time.process_time() - processor
    random, seconds = np.random.default_rng(0), []
    for start in random.integers(0, len(shards) - LENGTH, QUERIES).tolist():
        ids = np.array(shards[start : start + LENGTH], np.int64)
        ids[::10] = random.integers(0, shards.vocab_size, len(ids[::10]))
        before = time.perf_counter(), time.process_time()
        longest = suffixes.longest_matches(ids)
        suffixes.ranges([ids[i : i + longest[i]] for i in np.argsort(-longest)[:10].tolist()])
        seconds.append((time.perf_counter() - before[0], time.process_time() - before[1]))
    query = [round(1e3 * statistics.median(each), 2) for each in zip(*seconds, strict=True)]
    return {
        "bytes": shards.num_bytes, "tokens": len(shards),
        "preparing, seconds (wall clock, processor)": [round(each, 2) for each in prepared],
        "indexing, seconds (wall clock, processor)": [round(each, 2) for each in indexed],
        "indexing / preparing": [round(b / a, 2) for a, b in zip(prepared, indexed, strict=True)],
        "a query, milliseconds (wall clock, processor)": query,
        "largest memory in MB (before indexing, behind)": [
            memory // 1_000, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1_000
        ],
    }  # fmt: skip


if __name__ == "__main__":
    main()
