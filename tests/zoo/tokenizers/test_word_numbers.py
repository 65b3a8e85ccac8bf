"""Numbers of words by arrays, beside a dictionary."""

import re

import numpy as np
import pytest

from zoo.tokenizers import word_numbers
from zoo.tokenizers.word_numbers import UNKNOWN, WordNumbers, blocks_of


def text_of(rng, num_words, separators=b" \n\t\r\0"):
    """Words of one to some hundred bytes, many of them several times, as bytes."""
    words = [bytes(rng.integers(33, 256, max(1, int(rng.exponential(6))), np.uint8)) for _ in range(num_words // 3)]
    words += [b"\x0b\x1f", b"a" * 300, b"ab", b"ba", b"a", b"aa"]
    marks = [bytes(rng.choice(list(separators), rng.integers(1, 3))) for _ in range(num_words)]
    return b"".join(words[i] + mark for i, mark in zip(rng.integers(0, len(words), num_words), marks, strict=True))


def by_dictionary(text, known):
    """Numbers of the words, which are given to those that are not in the dictionary."""
    return [known.setdefault(word, len(known)) for word in re.split(b"[ \n\t\r\0]+", text) if word]


@pytest.mark.parametrize("seed", range(4))
def test_numbers_are_those_of_a_dictionary(seed):
    rng = np.random.default_rng(seed)
    known, expected = WordNumbers(), {}
    for _ in range(5):
        text = text_of(rng, 500)
        assert known.add(text).numbers.tolist() == by_dictionary(text, expected)
    assert len(known) == len(expected)
    text = text_of(rng, 500) + b" " + b" ".join(list(expected)[::3])
    found = [expected.get(word, UNKNOWN) for word in re.split(b"[ \n\t\r\0]+", text) if word]
    assert known.find(text).numbers.tolist() == found
    assert UNKNOWN in found and max(found) > 0
    order = rng.permutation(len(known))
    assert known.in_order(order).split(b"\n") == [list(expected)[i] for i in order]


def test_blocks_change_nothing(monkeypatch):
    text = text_of(np.random.default_rng(0), 2_000)
    whole = WordNumbers()
    expected = whole.add(text).numbers.tolist()
    monkeypatch.setattr(word_numbers, "BLOCK_BYTES", 7)
    known = WordNumbers()
    blocks = list(blocks_of(text))
    assert len(blocks) > 500 and b"".join(blocks) == text
    assert [i for block in blocks for i in known.add(block).numbers] == expected
    assert [i for block in blocks for i in whole.find(block).numbers] == expected


def test_a_word_without_an_end_is_one_block():
    assert list(blocks_of(b"a" * (3 << 18))) == [b"a" * (3 << 18)]
    assert WordNumbers().add(b"a" * (3 << 18) + b" b").numbers.tolist() == [0, 1]


def test_an_equal_hash_is_not_an_equal_word():
    known = WordNumbers(base=1)  # hashes are sums of bytes
    known.add(b"ab ccc")
    assert known.find(b"ba ab acb").numbers.tolist() == [UNKNOWN, 0, UNKNOWN]


@pytest.mark.parametrize("texts", [(b"ab ba ab", b"ba"), (b"ab d", b"ba ab"), (b"ad bc cb da", b"da e")])
def test_words_of_one_hash_get_numbers_of_their_own(texts):
    known, expected = WordNumbers(base=1), {}
    for text in texts:
        assert known.add(text).numbers.tolist() == by_dictionary(text, expected)
    assert known.in_order(np.arange(len(known))).split(b"\n") == list(expected)


def test_lines_are_counted_before_each_word():
    words = WordNumbers().add(b"\na b\n\n c\r\nd")
    assert words.lines.tolist() == [1, 1, 3, 4] and words.lengths.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("text", [b"", b" ", b"\n\n"])
def test_no_words(text):
    assert WordNumbers().add(text).numbers.tolist() == WordNumbers().find(text).numbers.tolist() == []
