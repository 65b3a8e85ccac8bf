"""Words between white space, a sentence a line."""

import pytest
import tensorflow as tf

from zoo.tokenizers import word as word_module
from zoo.tokenizers import word_numbers
from zoo.tokenizers.base import create, load
from zoo.tokenizers.word import WordTokenizer

UNK, EOS = 0, 1


def test_ids_go_by_frequency_and_then_by_first_appearance():
    word = create("word", ["b a c a", "a c d"])
    assert [word.encode(w) for w in ("a", "c", "b", "d", "e")] == [[2], [3], [4], [5], [UNK]]
    assert (word.vocab_size, word.unk_id, word.eos_id, word.line_documents) == (6, UNK, EOS, True)
    assert create("word", ["b a c a", "a c d"], vocab_size=5).encode("a b c d") == [2, 4, 3, UNK]


def test_lines_are_documents_and_blank_ones_are_none():
    word = WordTokenizer(["a", "b"])
    assert word.encode("a b\nb\n") == [2, 3, EOS, 3]
    assert word.encode("\n \n\na\n\n\t\n b \n\n") == [2, EOS, 3]
    assert [ids.tolist() for ids in word.encode_batch(["\n", "a\n", "", "\nb"])] == [[], [2], [], [3]]


def test_white_space_is_that_of_lmplz():
    word = WordTokenizer(["a", "b", "a\vb", "a\fb", "a\u00a0b", "a\x85b"])
    assert word.encode("a\tb\rb\0a b  a\r\nb") == [2, 3, 3, 2, 3, 2, EOS, 3]
    assert word.encode("a\vb a\fb a\u00a0b a\x85b") == [4, 5, 6, 7]


def test_no_text_spells_a_special_id():
    word = create("word", ["<s> a </s> <unk> a"])
    assert word.vocab_size == 3
    assert word.encode("<s> a </s>\n<unk>") == [UNK, 2, UNK, EOS, UNK]
    assert word.tokenize(tf.constant(["<s> a </s>\n<unk>"])).to_list() == [[UNK, 2, UNK, EOS, UNK]]


@pytest.mark.parametrize("words", [["a", "b"], ["a", "\ufffd", "a\ufffdb"]])
def test_in_graph_an_invalid_part_is_the_replacement_character_and_lines_separate(words):
    word = WordTokenizer(words)
    texts = [b"a\xffb \xe2\x82 a", b"\n\n a\xffb \n\n \n a\n", b"\n", b"\xff\n\xff\n\na", b"", b"a\n"]
    assert word.tokenize(tf.constant(texts)).to_list() == [ids.tolist() for ids in word.encode_batch(texts)]


def test_decoding_shows_unknown_words_and_lines():
    word = WordTokenizer(["a", "b"])
    assert word.decode([EOS, 2, UNK, EOS, EOS, 3, EOS]) == "a <unk>\nb"
    assert word.encode(word.decode([2, UNK, EOS, 3])) == [2, UNK, EOS, 3]


def test_lost_bytes_are_those_of_unknown_words():
    word = WordTokenizer(["a"])
    assert word.lost_bytes("a a\na") == 0
    assert word.lost_bytes("a bcd\né <unk>  a") == 3 + 2 + 5


def test_blocks_change_nothing_and_few_texts_get_the_ids_of_many(monkeypatch):
    texts = ["a bb  ccc\n\n" * 7, "", "bb", "\n", "a" * 31 + " a", "\r\n a\tb\0c\x0bd d\xa0d\n \n<s> bb \r", " \n\nd"]
    whole = create("word", texts[:5])
    expected = [ids.tolist() for ids in whole.encode_batch(texts)]
    assert expected[5:] == [[2, UNK, UNK, UNK, EOS, UNK, 3], [UNK]]
    monkeypatch.setattr(word_module, "FEW", 0)
    assert [ids.tolist() for ids in whole.encode_batch(texts)] == expected
    monkeypatch.setattr(word_numbers, "BLOCK_BYTES", 5)
    pieces = create("word", texts[:5])
    assert pieces.decode(range(2, pieces.vocab_size)) == whole.decode(range(2, whole.vocab_size))
    assert [ids.tolist() for ids in pieces.encode_batch(texts)] == expected


@pytest.mark.parametrize("wrong", ["<s>", "", "a b", "a\n"])
def test_what_cannot_be_a_word_is_refused(wrong):
    with pytest.raises(ValueError, match="cannot be a word"):
        WordTokenizer(["a", wrong])


def test_a_word_twice_is_refused():
    with pytest.raises(ValueError, match="'b' is in the vocabulary twice"):
        WordTokenizer(["a", "b", "c", "b"])


def test_a_file_cut_short_is_refused(tmp_path):
    create("word", ["alpha beta gamma"]).save(tmp_path)
    path = tmp_path / "words.txt"
    whole = path.read_bytes()
    for size in (len(whole) - 2, len(whole) - len("gamma\n")):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="damaged"):
            load(tmp_path)


def test_which_texts_a_vocabulary_spells():
    characters = create("char", ["明月几时有"])
    assert characters.spells("明月") and not characters.spells("The") and characters.spells("")
    assert create("byte").spells("The 明月")
