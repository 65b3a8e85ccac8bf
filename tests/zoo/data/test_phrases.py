"""Phrases by hand, and against a loop over the words."""

import collections

import numpy as np
import pytest

from zoo.config import Refusal
from zoo.data.pairs import count_words
from zoo.data.phrases import find_phrases, join_phrases

EOS, V = 0, 13


def text(size=3000, seed=0):
    random = np.random.default_rng(seed)
    return random.choice(V, size, p=np.arange(V, 0, -1) / 91).astype(np.int32)


def test_a_score_by_hand():
    # a b x a b y a b, with a = 1, b = 2: (3 - 1) 8 / (3 3)
    stream = np.array([EOS, 1, 2, 3, 1, 2, 4, 1, 2, EOS])
    counts = count_words(stream, 5, special_ids=(EOS,))
    phrases, scores = find_phrases(stream, counts, min_count=1, threshold=1.0)
    assert phrases.tolist() == [[1, 2]]
    np.testing.assert_allclose(scores, [16 / 9])


@pytest.mark.parametrize("memory_bytes", [2**29, 2000])
def test_scores_are_those_of_a_loop(memory_bytes):
    stream = text()
    counts = count_words(stream, V, min_count=40, special_ids=(EOS,))
    pairs = collections.Counter(zip(stream[:-1].tolist(), stream[1:].tolist(), strict=True))
    expected = {
        pair: (number - 5) * counts.sum() / (counts[pair[0]] * counts[pair[1]])
        for pair, number in pairs.items()
        if counts[list(pair)].all() and (number - 5) * counts.sum() / (counts[pair[0]] * counts[pair[1]]) > 0.8
    }
    phrases, scores = find_phrases(stream, counts, threshold=0.8, memory_bytes=memory_bytes)
    assert len(expected) > 10
    assert dict(zip(map(tuple, phrases.tolist()), scores.round(9), strict=True)) == {
        k: round(v, 9) for k, v in expected.items()
    }
    assert (np.diff(scores) <= 0).all()
    np.testing.assert_array_equal(find_phrases(stream, counts, threshold=0.8, most=4)[0], phrases[:4])


def test_words_are_joined_from_the_left():
    phrases = [[1, 2], [2, 3], [1, 1]]
    stream = np.array([0, 1, 2, 3, 0, 2, 3, 1, 1, 1, 2, 0, 1, 0, 2])
    # 1_2 3 | 2_3 1_1 1_2 | 1 | 2
    assert np.concatenate(list(join_phrases(stream, phrases, V))).tolist() == [0, 13, 3, 0, 14, 15, 13, 0, 1, 0, 2]


@pytest.mark.parametrize("block_tokens", [1, 2, 7, 50, 5000])
def test_joining_is_the_loops_whatever_the_block(block_tokens):
    stream = text(400, seed=3)
    phrases = np.random.default_rng(1).permutation(144)[:60]
    phrases = np.stack(np.divmod(phrases, 12), 1) + 1
    number = {tuple(pair): V + i for i, pair in enumerate(phrases.tolist())}
    expected, i = [], 0
    while i < len(stream):
        joined = number.get(tuple(stream[i : i + 2].tolist()))
        expected.append(int(stream[i]) if joined is None else joined)
        i += 1 if joined is None else 2
    parts = list(join_phrases(stream, phrases, V, block_tokens))
    assert np.concatenate(parts).tolist() == expected
    assert all(part.dtype == np.int32 for part in parts)


def test_without_phrases_nothing_changes():
    stream = text(100)
    np.testing.assert_array_equal(np.concatenate(list(join_phrases(stream, np.zeros((0, 2), int), V, 30))), stream)


def test_a_negative_threshold_is_refused():
    with pytest.raises(Refusal, match="threshold"):
        find_phrases(text(10), np.ones(V), threshold=-1.0)
