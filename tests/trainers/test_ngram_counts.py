"""n-gram counts of token shards: those of the estimate, in whatever parts they are made."""

import importlib.util

import numpy as np
import pytest

from tests.trainers.test_parts import Shuffled
from trainers import ngram_counts, parts
from zoo.data.shards import TokenShards, write_shards
from zoo.layers.ngram_estimation import corpus_count

EOS, V = 3, 29


def shards(directory):
    rng = np.random.default_rng(2)
    documents = [rng.zipf(1.5, rng.integers(1, 30)) % V for _ in range(200)]
    return write_shards(directory, documents, vocab_size=V, eos_id=EOS)


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_counts_are_those_of_the_estimate_however_they_are_divided(tmp_path, monkeypatch):
    monkeypatch.setattr(ngram_counts, "NUM_BUCKETS", 8)
    stream = shards(tmp_path / "a" / "train")
    whole = ngram_counts.make_counts(stream, 4, parts.Here(lambda done: None))
    ids = [np.arange(V)[:, None]]
    for n, table in enumerate(corpus_count(stream[:], 4, V, EOS), start=1):
        if n > 1:
            prefixes, words = np.divmod(table.keys, V + 1)
            ids.append(np.column_stack([ids[-1][prefixes], words]))
        found, counts = ngram_counts.read_counts(whole, n)
        there = table.counts > 0
        np.testing.assert_array_equal(found, ids[-1][there])
        np.testing.assert_array_equal(counts, table.counts[there])
    monkeypatch.setattr(ngram_counts, "RANGE_TOKENS", 101)
    with pytest.raises(KeyboardInterrupt):
        ngram_counts.make_counts(shards(tmp_path / "b" / "train"), 4, Shuffled(stop=9))
    again = ngram_counts.make_counts(TokenShards.open(tmp_path / "b" / "train"), 4, Shuffled())
    assert files(again) == files(whole)
    assert sorted(path.name for path in again.parent.iterdir() if not path.name.endswith(".lock")) == [
        "train",
        "train.counts-4",
    ]


@pytest.mark.skipif(not importlib.util.find_spec("apache_beam"), reason="needs apache_beam: pip install -e '.[beam]'")
def test_beam_counts_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(ngram_counts, "NUM_BUCKETS", 4)
    whole = ngram_counts.make_counts(shards(tmp_path / "a" / "train"), 3, parts.Here(lambda done: None))
    beam = parts.Beam("DirectRunner", ("--direct_num_workers=2", "--direct_running_mode=multi_threading"))
    assert files(ngram_counts.make_counts(shards(tmp_path / "b" / "train"), 3, beam)) == files(whole)
