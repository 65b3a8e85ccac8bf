"""The n-gram estimate on disk: equal to the one in memory bit for bit, however little memory it is given."""

import errno
import os
import tempfile

import numpy as np
import pytest

from zoo.config import Refusal
from zoo.layers import ngram_estimation, ngram_external

EOS = 3


def text(length, vocab_size, kind):
    rng = np.random.default_rng(7)
    if kind == "one word":
        ids = np.full(length, 1)
    elif kind == "one sentence":
        ids = rng.integers(4, vocab_size, length)
    else:
        ids = rng.zipf(1.3, length) % (vocab_size - 1)
    return np.concatenate([[EOS], ids, [EOS]]).astype(np.int32)


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("keys", "log_probs", "log_backoffs"):
            column, array = getattr(ours, name), getattr(theirs, name)
            if array is None:
                assert column is None
                continue
            rows = column[:]
            assert rows.dtype == array.dtype, name
            assert rows.tobytes() == array.tobytes(), name


@pytest.mark.parametrize("memory", [1_000, 30_000, 10**7])
@pytest.mark.parametrize("smoothing", ["kneser_ney", "add_k", "stupid_backoff"])
@pytest.mark.parametrize("cutoffs", [(), (0, 0, 1), (0, 1, 1, 2)])
def test_the_same_bits_as_in_memory(memory, smoothing, cutoffs):
    ids, settings = text(3_001, 97, "words"), dict(smoothing=smoothing, add_k=0.3, cutoffs=cutoffs)
    if memory == 1_000:
        ids = ids[:401]
        ids[-1] = EOS
    expected = ngram_estimation.estimate(ids, 4, 97, EOS, **settings)
    assert_equal(ngram_external.estimate(ids, 4, 97, EOS, memory=memory, **settings), expected)


@pytest.mark.parametrize("kind", ["one word", "one sentence", "words"])
@pytest.mark.parametrize("order", [1, 2, 7])
def test_odd_texts(kind, order):
    for length in (0, 1, 5, 1_777):
        ids = text(length, 11, kind)
        expected = ngram_estimation.estimate(ids, order, 11, EOS)
        assert_equal(ngram_external.estimate(ids, order, 11, EOS, memory=20_000), expected)


def test_too_many_tokens_are_refused():
    class Endless:
        def __len__(self):
            return 2**31

    with pytest.raises(Refusal, match="fewer than 2,147,483,648 tokens"):
        ngram_external.estimate(Endless(), 2, 11, EOS, memory=10**6)


def test_a_full_disk_is_named(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(OSError, match="No space left") as caught:
        ngram_external.estimate(text(50, 11, "words"), 2, 11, EOS, memory=10**6)
    assert caught.value.filename == tempfile.gettempdir()


def test_its_files_have_no_name(tmp_path, monkeypatch):
    """So a process that is killed leaves nothing behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    column = ngram_external.Column(np.int64, 2)
    column.append(np.arange(10).reshape(5, 2))
    column.write(1, np.zeros((2, 2)))
    assert column[1:9].tolist() == [[0, 0], [0, 0], [6, 7], [8, 9]] and column[3:2].shape == (0, 2) and len(column) == 5
    assert list(tmp_path.iterdir()) == []
