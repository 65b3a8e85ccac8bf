"""Files of questions about words, as they are published, and the ids of their words."""

import pytest

from zoo.config import Refusal
from zoo.data import word_questions
from zoo.data.word_questions import Lookup, read_analogies, read_similarity

TABS = "# scores by people\n# word 1\tword 2\tscore\nlove\tsex\t6.77\ntiger\tcat\t7.35\n"
COMMAS = "Word 1,Word 2,Human (mean)\r\nlove,sex,6.77\r\ntiger,cat,7.35\r\n"
BLANKS = "love sex 6.77\ntiger cat 7.35\n"
COLUMNS = "word1\tword2\tPOS\tSimLex999\tconc(w1)\nlove\tsex\tN\t6.77\t2.72\ntiger\tcat\tN\t7.35\t1.9\n"


def written(path, text):
    path.write_text(text, encoding="utf8")
    return str(path)


@pytest.mark.parametrize("text", [TABS, COMMAS, BLANKS, COLUMNS], ids=["tabs", "commas", "blanks", "columns"])
def test_judged_pairs_are_read_as_they_are_published(text, tmp_path):
    assert read_similarity(written(tmp_path / "pairs", text)) == [("love", "sex", 6.77), ("tiger", "cat", 7.35)]


@pytest.mark.parametrize(("text", "sentence"), [
    ("a\tb\t1\na\tb\n", "line 2: a line is `word TAB word TAB number`"),
    ("a\tb\t1\na\tb\tnan\n", "line 2: a line is"),
    ("a\tb\tx\na\tb\ty\n", "line 2: a line is"),
    ("a\tb\n", "line 1: a line is"),
    ("# nothing\n\n", "has no pair in it"),
    ("a\tb\tc\n", "has no pair in it"),
])  # fmt: skip
def test_damaged_pairs_name_their_line(text, sentence, tmp_path):
    with pytest.raises(Refusal) as error:
        read_similarity(written(tmp_path / "pairs.tsv", text))
    assert sentence in str(error.value) and "pairs.tsv" in str(error.value)


def test_analogies_have_their_section_and_four_words(tmp_path):
    path = written(
        tmp_path / "questions.txt", ": family\nboy girl king queen\n\n: gram1-adjective-to-adverb\ncalm calmly free freely\n"
    )
    found = read_analogies(path)
    assert found == [
        ("family", "boy", "girl", "king", "queen"), ("gram1-adjective-to-adverb", "calm", "calmly", "free", "freely"),
    ]  # fmt: skip
    assert [word_questions.is_semantic(section) for section, *_ in found] == [True, False]
    with pytest.raises(Refusal, match="line 2: a question has four words, got 3"):
        read_analogies(written(tmp_path / "short.txt", ": family\nboy girl king\n"))


class Words:
    """A tokenizer of single words that counts how often it is asked."""

    words, asked = ["<unk>", "Paris", "paris", "PARIS", "rare"], 0

    def encode(self, word):
        self.asked += 1
        return [self.words.index(word) if word in self.words else 0]

    def decode(self, ids):
        return self.words[ids[0]]


def test_a_word_is_looked_up_once_and_without_regard_to_case():
    words = Words()
    lookup = Lookup(words, [0, 3, 9, 5, 0])
    assert [lookup(word) for word in ("Paris", "pARIS", "rare", "nowhere", "<unk>")] == [1, 2, -1, -1, -1]
    asked = words.asked
    assert [lookup(word) for word in ("Paris", "pARIS", "nowhere")] * 9 == [1, 2, -1] * 9 and words.asked == asked
