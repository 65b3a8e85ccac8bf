"""Bytes and characters as ids."""

import pytest
import tensorflow as tf

from zoo.tokenizers.base import create
from zoo.tokenizers.byte import ByteTokenizer, CharTokenizer


def test_bytes_are_ids():
    byte = ByteTokenizer()
    assert (byte.vocab_size, byte.eos_id, byte.pad_id, byte.unk_id) == (257, 256, 256, None)
    assert byte.encode("aé€") == [97, 195, 169, 226, 130, 172]
    assert byte.decode([97, 256, 195, 169, 256]) == "aé"


def test_invalid_bytes_keep_their_ids_and_become_marks_in_text():
    byte = ByteTokenizer()
    assert byte.encode(b"\xff\x00a") == [255, 0, 97]
    assert byte.tokenize(tf.constant([b"\xff\x00a"])).to_list() == [[255, 0, 97]]
    assert byte.decode([255, 97, 226, 130]) == "\ufffda\ufffd"


def test_characters_are_ids_in_order_of_code_point():
    char = create("char", ["hello", "€ß"])
    assert [char.encode(c) for c in "ehloß€"] == [[0], [1], [2], [3], [4], [5]]
    assert (char.vocab_size, char.eos_id, char.unk_id) == (8, 6, 7)
    assert char.encode("h?l") == [1, 7, 2]
    assert char.decode([1, 7, 6, 2, 6]) == "h\ufffdl"


def test_the_most_frequent_characters_are_kept_and_ties_go_to_the_first():
    char = create("char", ["zzz", "yx", "xya"], vocab_size=4)
    assert [char.encode(c) for c in "zyxa"] == [[1], [0], [char.unk_id], [char.unk_id]]


def test_lost_bytes_are_those_of_unknown_characters():
    char = create("char", ["ab"])
    assert char.lost_bytes("abba") == 0
    assert char.lost_bytes("a?é中😀") == 1 + 2 + 3 + 4
    assert char.lost_bytes(b"a\xff") == 3  # one U+FFFD


def test_a_character_twice_is_refused():
    with pytest.raises(ValueError, match="'b' is in the vocabulary twice"):
        CharTokenizer("abcb")
