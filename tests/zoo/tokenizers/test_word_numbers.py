"""Numbers of words by arrays, beside a dictionary."""

import re

import numpy as np
import pytest

from zoo.tokenizers import word_numbers
from zoo.tokenizers.word_numbers import UNKNOWN, WordNumbers, Words, blocks_of


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
        assert known.add(Words(text)).tolist() == by_dictionary(text, expected)
    assert len(known) == len(expected)
    text = text_of(rng, 500) + b" " + b" ".join(list(expected)[::3])
    found = [expected.get(word, UNKNOWN) for word in re.split(b"[ \n\t\r\0]+", text) if word]
    assert known.find(Words(text)).tolist() == found
    assert UNKNOWN in found and max(found) > 0
    order = rng.permutation(len(known))
    assert known.in_order(order).split(b"\n") == [list(expected)[i] for i in order]
    assert known.text.split(b"\n") == list(expected)
    some = known.taken(order[: len(order) // 2])
    assert some.text.split(b"\n") == [list(expected)[i] for i in order[: len(order) // 2]]
    numbers = {list(expected)[i]: number for number, i in enumerate(order[: len(order) // 2])}
    assert some.add(Words(text)).tolist() == by_dictionary(text, numbers)


def test_blocks_change_nothing(monkeypatch):
    text = text_of(np.random.default_rng(0), 2_000)
    whole = WordNumbers()
    expected = whole.add(Words(text)).tolist()
    monkeypatch.setattr(word_numbers, "BLOCK_BYTES", 7)
    known = WordNumbers()
    blocks = list(blocks_of(text))
    assert len(blocks) > 500 and b"".join(blocks) == text
    assert [i for block in blocks for i in known.add(Words(block))] == expected
    assert [i for block in blocks for i in whole.find(Words(block))] == expected


def test_a_word_without_an_end_is_one_block():
    assert list(blocks_of(b"a" * (3 << 18))) == [b"a" * (3 << 18)]
    assert WordNumbers().add(Words(b"a" * (3 << 18) + b" b")).tolist() == [0, 1]


def test_an_equal_hash_is_not_an_equal_word(monkeypatch):
    monkeypatch.setattr(word_numbers, "BASE", 1)  # hashes are sums of bytes
    known = WordNumbers()
    known.add(Words(b"ab ccc"))
    assert known.find(Words(b"ba ab acb")).tolist() == [UNKNOWN, 0, UNKNOWN]


@pytest.mark.parametrize("seed", range(3))
def test_words_of_one_hash_get_numbers_of_their_own(monkeypatch, seed):
    monkeypatch.setattr(word_numbers, "BASE", 1)
    rng, known, seen = np.random.default_rng(seed), WordNumbers(), []
    for _ in range(4):
        seen += [bytes(rng.integers(97, 100, rng.integers(1, 6), np.uint8)) for _ in range(300)]
        numbers = known.add(Words(b" ".join(seen[-300:])))
        assert known.in_order(numbers).split(b"\n") == seen[-300:]
    assert len({Words(word).hashes[0] for word in seen}) < len(set(seen)) / 3
    assert len(known) == len(set(seen))
    assert known.find(Words(b"d " + seen[0])).tolist() == [UNKNOWN, 0]


def test_words_that_have_one_hash_with_every_base_end_all_the_same():
    """Thue-Morse words of 2^11 letters: the difference of their hashes has the factor 2^64, whatever the base is."""
    bits = [number.bit_count() % 2 for number in range(1 << 11)]
    one, other = (bytes(97 + (bit ^ flipped) for bit in bits) for flipped in (0, 1))
    assert Words(one).hashes == Words(other).hashes and one != other
    assert WordNumbers().add(Words(b" ".join([one, other, other, b"a", one]))).tolist() == [0, 2, 2, 1, 0]


def test_lines_are_counted_before_each_word():
    words = Words(b"\na b\n\n c\r\nd")
    assert words.lines.tolist() == [1, 1, 3, 4] and words.lengths.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("text", [b"", b" ", b"\n\n"])
def test_no_words(text):
    assert WordNumbers().add(Words(text)).tolist() == WordNumbers().find(Words(text)).tolist() == []
