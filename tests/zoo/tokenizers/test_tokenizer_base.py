"""Reading and making tokenizers by name or path, and the few tensors that the graph sides share."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.zoo.tokenizers.unicode_texts import invalid_bytes
from zoo.tokenizers.base import create, kept, load, row_ids, to_text, valid_utf8


@settings(max_examples=300, deadline=None)
@given(batch=st.lists(st.one_of(st.binary(max_size=12), invalid_bytes), min_size=1, max_size=20))
def test_graph_and_python_replace_the_same_invalid_bytes(batch):
    assert [text.decode("utf8") for text in valid_utf8(tf.constant(batch)).numpy()] == [to_text(data) for data in batch]


def test_one_replacement_for_each_maximal_invalid_part():
    # Unicode 15, table 3-11: C0 AF / E0 80 BF / F0 81 82 / 41 are 2 + 3 + 3 parts and a letter.
    data = b"\xc0\xaf\xe0\x80\xbf\xf0\x81\x82A"
    assert to_text(data) == "\ufffd" * 8 + "A"
    assert valid_utf8(tf.constant([data])).numpy()[0].decode() == "\ufffd" * 8 + "A"
    assert to_text(b"\xe2\x82\x41") == "\ufffdA"


def test_rows_and_what_is_kept_of_them():
    ragged = tf.ragged.constant([[5, 6], [], [7, 8, 9], []], dtype=tf.int32)
    assert row_ids(ragged).numpy().tolist() == [0, 0, 2, 2, 2]
    assert kept(ragged, ragged.flat_values % 2 == 1).to_list() == [[5], [], [7, 9], []]
    empty = tf.RaggedTensor.from_row_splits(tf.zeros([0], tf.int32), [0])
    assert row_ids(empty).shape == (0,) and kept(empty, tf.zeros([0], tf.bool)).to_list() == []


def test_create_trains_a_name():
    assert create("byte").vocab_size == 257
    assert create("char", ["abca"]).vocab_size == 5
    assert create("word", ["a b a c"], vocab_size=4).encode("a b c") == [2, 3, 0]


def test_create_finds_files(tmp_path):
    made = create("bpe", ["the theme of the thesis " * 3], vocab_size=261)
    made.save(tmp_path)
    expected = made.encode("the theme")
    assert create(tmp_path).encode("the theme") == expected
    assert create(str(tmp_path / "tokenizer.json")).encode("the theme") == expected
    (tmp_path / "zoo_tokenizer.json").unlink()
    assert create(tmp_path).encode("the theme") == expected
    model = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf8"))["model"]
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "encoder.json").write_text(json.dumps(model["vocab"]), encoding="utf8")
    lines = [" ".join(pair) for pair in model["merges"]]
    (tmp_path / "vocab.bpe").write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf8")
    assert create(tmp_path).encode("the theme") == expected


def test_create_says_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="No tokenizer is called 'bep' and no such path exists; did you mean 'bpe'"):
        create("bep", ["text"])
    with pytest.raises(ValueError, match="holds no tokenizer: it has neither"):
        create(tmp_path)
    with pytest.raises(ValueError, match="list of texts"):
        create("char", "text")
    for name in ("char", "word", "bpe"):
        with pytest.raises(ValueError, match="There is no text"):
            create(name, [])
        with pytest.raises(ValueError, match="at least .* got vocab_size 2"):
            create(name, ["text"], vocab_size=2)
    with pytest.raises(ValueError, match="has 257 ids"):
        create("byte", ["text"], vocab_size=300)


def damaged(directory, change):
    path = directory / "zoo_tokenizer.json"
    path.write_text(change(path.read_text(encoding="utf8")), encoding="utf8")


@pytest.mark.parametrize("name", ["byte", "char", "word", "bpe"])
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-5],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"algorithm": "', '"algorithm": "x'),
        lambda text: re.sub(r'"vocab_size": \d+', '"vocab_size": 3', text),
    ],
)
def test_a_damaged_description_is_refused(name, change, tmp_path):
    create(name, ["the theme of the thesis"] * 2).save(tmp_path)
    damaged(tmp_path, change)
    with pytest.raises(ValueError, match="damaged"):
        load(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="holds no tokenizer: zoo_tokenizer.json is missing"):
        load(tmp_path)
    for name, file in [("word", "words.txt"), ("bpe", "tokenizer.json")]:
        create(name, ["the theme of the thesis"]).save(tmp_path / name)
        (tmp_path / name / file).unlink()
        with pytest.raises(ValueError, match=f"damaged .*{file}"):
            load(tmp_path / name)


def test_ids_come_in_any_integer_array():
    byte = create("byte")
    for ids in ((104, 105), np.array([104, 105], np.uint8), tf.constant([104, 105]), np.array([[104], [105]])):
        assert byte.decode(ids) == "hi"
    assert byte.decode([]) == ""
