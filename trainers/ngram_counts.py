"""The n-grams of token shards with their counts, made in parts that many processes count side by side.

    cache/x/train.counts-5/
        index.json               order, vocab_size, eos_id, and how many n-grams of each order
        ngrams-1.bin ...         little-endian uint32 (M, n + 1): the ids of an n-gram and its count, sorted by ids

`eos_id` opens an n-gram or closes it, as in `zoo/layers/ngram_estimation.py`. Files do not depend on how the work was divided.
"""

import functools
import json
import shutil
from pathlib import Path

import numpy as np

from zoo.config import Refusal
from zoo.data.shards import TokenShards
from zoo.files import appearing, exclusive, replace_file
from zoo.layers.ngram_estimation import NGrams

RANGE_TOKENS = 2**22
NUM_BUCKETS = 64


def make_counts(shards, order, runner):
    """The directory of the counts, made unless it is there.

    Args:
        shards: a `TokenShards` on disk.
        order: the longest n-gram, 1 or more.
        runner: a `trainers.parts.Beam`, or `Here`.
    """
    if shards.directory is None:
        raise Refusal("These tokens lie at a URL, and this needs them on a disk: leave out ZOO_SHARED_CACHE.")
    directory = shards.directory.with_name(f"{shards.directory.name}.counts-{order}")
    work = directory.with_name(f".{directory.name}.parts-{RANGE_TOKENS}")
    with exclusive(directory):
        if directory.exists():
            return directory
        work.mkdir(parents=True, exist_ok=True)
        ranges = [[start, min(start + RANGE_TOKENS, len(shards))] for start in range(1, len(shards), RANGE_TOKENS)]
        places = {"shards": str(shards.directory), "order": order, "directory": str(work)}
        runner.run(functools.partial(count_range, **places), ranges)
        buckets = [[n, bucket] for n in range(1, order + 1) for bucket in range(NUM_BUCKETS)]
        runner.run(functools.partial(merge_bucket, num_ranges=len(ranges), directory=str(work)), buckets)
        with appearing(directory) as partial:
            sizes = []
            for n in range(1, order + 1):
                with open(partial / f"ngrams-{n}.bin", "wb") as whole:
                    for bucket in range(NUM_BUCKETS):
                        with open(work / f"{n}-{bucket}.bin", "rb") as part:
                            shutil.copyfileobj(part, whole)
                    sizes.append(whole.tell() // (4 * (n + 1)))
            index = {"order": order, "vocab_size": shards.vocab_size, "eos_id": shards.eos_id, "num_ngrams": sizes}
            (partial / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf8")
        shutil.rmtree(work)
    return directory


def read_counts(directory, n):
    """`(ids, counts)` of the n-grams of order n: uint32 (M, n) and (M,), mapped."""
    rows = np.fromfile(Path(directory) / f"ngrams-{n}.bin", "<u4").reshape(-1, n + 1)
    return rows[:, :n], rows[:, n]


def nodes_of(directory):
    """The counts of a directory as `zoo.layers.ngram_estimation.corpus_count` gives them, a list of NGrams."""
    index = json.loads((Path(directory) / "index.json").read_text(encoding="utf8"))
    vocab_size, tables = index["vocab_size"], []
    for n in range(1, index["order"] + 1):
        ids, counts = read_counts(directory, n)
        ids = ids.astype(np.int64)
        if n == 1:
            of_all = np.zeros(vocab_size, np.int32)
            of_all[ids[:, 0]] = counts
            nothing = np.zeros(vocab_size, np.int32)
            tables.append(NGrams(np.arange(vocab_size), nothing, of_all, nothing > 0))
            continue
        prefixes, suffixes = ids[:, 0], ids[:, 1]
        for k in range(1, n - 1):
            keys = tables[k].keys
            prefixes = np.searchsorted(keys, prefixes * (vocab_size + 1) + ids[:, k])
            suffixes = np.searchsorted(keys, suffixes * (vocab_size + 1) + ids[:, k + 1])
        keys, opens = prefixes * (vocab_size + 1) + ids[:, n - 1], ids[:, 0] == index["eos_id"]
        tables.append(NGrams(keys, suffixes.astype(np.int32), counts.astype(np.int32), opens))
    return tables


def count_range(number, span, *, shards, order, directory):
    """Writes the n-grams that end in a range of positions, a file for each order and bucket."""
    done = Path(directory) / f"range-{number}"
    if done.exists():
        return
    stream = TokenShards.open(shards)
    start, stop = span
    first = max(start - order, 0)
    ids = stream[first:stop]
    position = np.arange(len(ids))
    opening = np.maximum.accumulate(np.where(ids == stream.eos_id, position, -order))
    ends = position[start - first :]
    before = ends - opening[ends - 1]  # words of the sentence that stand before each, <s> included
    for n in range(1, order + 1):
        chosen = ends[before >= n - 1]
        rows = np.stack([ids[chosen - back] for back in range(n - 1, -1, -1)], axis=1)
        _write(directory, number, n, stream.vocab_size, distinct(rows, np.ones(len(rows), np.int64)))
    replace_file(done, lambda aside: aside.touch())


def _write(directory, number, n, vocab_size, rows):
    bounds = np.searchsorted(rows[:, 0], -(-np.arange(NUM_BUCKETS + 1) * vocab_size // NUM_BUCKETS))
    for bucket in range(NUM_BUCKETS):
        part = rows[bounds[bucket] : bounds[bucket + 1]]
        if len(part):
            part.astype("<u4").tofile(Path(directory) / f"{n}-{bucket}-{number}.part")


def merge_bucket(_, place, *, num_ranges, directory):
    """Adds up what all ranges have found of one order and bucket."""
    n, bucket = place
    merged = Path(directory) / f"{n}-{bucket}.bin"
    if merged.exists():
        return
    files = [Path(directory) / f"{n}-{bucket}-{number}.part" for number in range(num_ranges)]
    found = [np.fromfile(file, "<u4").reshape(-1, n + 1) for file in files if file.exists()]
    rows = np.concatenate([np.zeros((0, n + 1), "<u4"), *found])
    rows = distinct(rows[:, :n], rows[:, n].astype(np.int64))
    replace_file(merged, lambda aside: rows.astype("<u4").tofile(aside))


def distinct(rows, counts):
    """Rows (R, n) without repetition and in order, each with the sum of its counts behind it: int64 (M, n + 1)."""
    if not len(rows):
        return np.zeros((0, rows.shape[1] + 1), np.int64)
    order = np.lexsort(rows.T[::-1])
    rows, counts = rows[order], counts[order]
    is_first = np.ones(len(rows), bool)
    is_first[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    first = np.flatnonzero(is_first)
    return np.column_stack([rows[first], np.add.reduceat(counts, first)]).astype(np.int64)
