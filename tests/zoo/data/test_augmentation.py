"""Small changes to training texts: each kind by what it may do, and that only (seed, step) decides."""

import numpy as np
import pytest

from zoo.data.augmentation import Augmentation, read_synonyms, uniform

TEXT = "The quick brown  fox jumps\nover the lazy dog."


def changed(step=0, text=TEXT, **settings):
    return Augmentation(**settings)(text, uniform(3, step))


def test_nothing_is_changed_by_default():
    assert changed() == TEXT


def test_deleted_words_leave_the_others_in_order_and_one_always_stays():
    words, kept = TEXT.split(), []
    for step in range(200):
        left = changed(step, deletion=0.3).split()
        rest = iter(words)
        assert left and all(word in rest for word in left)  # a subsequence
        kept.append(len(left) / len(words))
    assert np.mean(kept) == pytest.approx(0.7, abs=0.04)  # 1,800 draws: a standard deviation of 0.011
    assert {changed(step, deletion=1.0).strip() for step in range(60)} == set(words)


def test_swapped_words_are_the_same_words_and_white_space_stays():
    texts = {changed(step, swap=0.1) for step in range(50)}
    assert len(texts) > 20
    for text in texts:
        assert sorted(text.split()) == sorted(TEXT.split()) and "\n" in text
        assert sum(a != b for a, b in zip(text.split(), TEXT.split(), strict=True)) in (0, 2)  # one pair of nine words


def test_synonyms_are_those_of_the_table():
    table = {"quick": ["fast", "very swift"], "the": ["a"]}
    texts = {changed(step, synonym=0.5, synonyms=table) for step in range(60)}
    assert texts <= {
        TEXT.replace("The", the).replace("quick", quick).replace("over the", f"over {last}")
        for the in ("The", "a") for quick in ("quick", "fast", "very swift") for last in ("the", "a")
    }  # fmt: skip
    assert len(texts) == 12


def test_noise_drops_doubles_or_exchanges_characters():
    texts = {changed(step, text="abc", noise=0.3) for step in range(300)}
    for text in ("abc", "bc", "aabc", "bac", "acb", "ab"):
        assert text in texts
    assert all(text and set(text) <= set("abc") for text in texts)
    assert changed(text="x", noise=0.999) in ("x", "xx")


def test_chinese_characters_are_words():
    assert sorted(changed(text="我们很好", swap=0.2)) == sorted("我们很好")
    left = changed(text="我们很好", deletion=0.5)
    assert 0 < len(left) <= 4


def test_only_seed_and_step_decide():
    settings = dict(deletion=0.2, swap=0.2, noise=0.1)
    texts = [changed(step, **settings) for step in range(30)]
    assert texts == [changed(step, **settings) for step in range(30)]
    assert len(set(texts)) == 30
    assert Augmentation(**settings)(TEXT, uniform(4, 0)) != texts[0]


def test_a_table_is_read_and_what_is_none_refused(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_text("Good\tfine\tnice\n\nbad\tpoor\n", encoding="utf8")
    assert read_synonyms(path) == {"good": ["fine", "nice"], "bad": ["poor"]}
    path.write_text("good\tfine\nbad\n", encoding="utf8")
    with pytest.raises(ValueError, match="line 2: 'bad' is not a word with its synonyms; write word TAB synonym"):
        read_synonyms(path)
    with pytest.raises(ValueError, match="synonym_table=.*absent cannot be read"):
        read_synonyms(tmp_path / "absent")
