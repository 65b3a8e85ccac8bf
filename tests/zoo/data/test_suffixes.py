"""The suffix array against brute force on small streams."""

import numpy as np
import pytest

from zoo.config import Refusal
from zoo.data.shards import write_shards
from zoo.data.suffixes import Suffixes, open_or_build, suffix_array

STREAMS = {
    "random": np.random.default_rng(0).integers(0, 4, 301),
    "one id": np.zeros(77, np.int64),
    "period 3": np.tile([2, 0, 1], 67),
    "one token": np.array([3]),
    "documents again": np.tile(np.append(np.random.default_rng(1).integers(1, 5, 40), 0), 9),
    "wide ids": np.random.default_rng(2).choice([0, 50_000, 99_999], 120),
}


def times(stream, ngram):
    """How often an n-gram occurs, counted window by window."""
    windows = (stream[i : i + len(ngram)] for i in range(len(stream) - len(ngram) + 1))
    return sum(list(window) == list(ngram) for window in windows)


@pytest.mark.parametrize(
    ("name", "vocab_size"),
    [(name, size) for name, stream in STREAMS.items() for size in (5, 100_000, 2**40) if stream.max() < size],
)
def test_positions_stand_in_the_order_of_their_suffixes(name, vocab_size):
    stream = STREAMS[name]
    expected = sorted(range(len(stream)), key=lambda i: stream[i:].tolist())
    assert suffix_array(stream, vocab_size).tolist() == expected
    for at_once in (1, 2, 7, 64):  # some positions after others, with groups larger than that
        assert suffix_array(stream, vocab_size, at_once=at_once).tolist() == expected


@pytest.mark.parametrize("name", STREAMS)
def test_counts_and_longest_matches_are_those_of_brute_force(name):
    stream, random = STREAMS[name], np.random.default_rng(5)
    suffixes = Suffixes(stream, suffix_array(stream, 100_000), np.flatnonzero(stream == 0))
    starts = [int(random.integers(0, len(stream))) for _ in range(20)]
    ngrams = [stream[start : start + length] for start, length in zip(starts, [1, 2, 3, 5, 30] * 4, strict=True)]
    ngrams += [random.choice(np.unique(stream), length) for length in (1, 2, 3, 4)] + [np.array([77]), np.array([], int)]
    expected = [times(stream, ngram) for ngram in ngrams[:-1]]
    assert suffixes.counts(ngrams).tolist() == [*expected, len(stream)]
    text = np.concatenate([ngrams[4], [77], ngrams[2], random.choice(np.unique(stream), 6)])
    longest = [max(n for n in range(len(text) - i + 1) if n == 0 or times(stream, text[i : i + n])) for i in range(len(text))]
    assert suffixes.longest_matches(text).tolist() == longest
    assert suffixes.longest_matches([]).tolist() == [] == suffixes.counts([]).tolist()


def test_ranges_hold_the_positions_of_an_ngram_and_documents_are_found():
    stream = np.array([0, 3, 1, 2, 0, 1, 2, 1, 2, 0])
    suffixes = Suffixes(stream, suffix_array(stream, 4), np.flatnonzero(stream == 0))
    (first,), (last,) = suffixes.ranges([[1, 2]])
    positions = sorted(suffixes.order[first:last].tolist())
    assert positions == [2, 5, 7]
    assert [suffixes.document(position) for position in positions] == [(0, 1, 4), (1, 5, 9), (1, 5, 9)]


def test_it_lies_beside_the_shards_whatever_their_number(tmp_path):
    documents = [np.random.default_rng(i).integers(1, 6, 30 + i) for i in range(7)]
    shards = write_shards(tmp_path / "train", documents, vocab_size=6, eos_id=0, shard_tokens=50)
    said = []
    made, read = (open_or_build(shards, said.append) for _ in range(2))
    assert len(said) == 1
    assert sorted(path.name for path in (tmp_path / "train.suffixes").iterdir()) == ["ends.bin", "index.json", "order.bin"]
    assert read.order.tolist() == made.order.tolist() == suffix_array(shards[:], 6).tolist()
    ngrams = [shards[i : i + n] for i, n in ((3, 2), (48, 4), (97, 8))]  # across files, too
    assert read.counts(ngrams).tolist() == [times(shards[:], ngram) for ngram in ngrams]
    (tmp_path / "train.suffixes" / "order.bin").write_bytes(b"\0" * 8)
    with pytest.raises(Refusal, match="delete it, and it is made again"):
        open_or_build(shards)
