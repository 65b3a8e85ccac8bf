"""What every registered tokenizer promises: one graph, one native side, equal ids; and nothing lost on disk."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.zoo.tokenizers.unicode_texts import ATOMS, CORPUS, INVALID, inputs, texts
from zoo.registry import TOKENIZERS
from zoo.tokenizers import base
from zoo.tokenizers.base import create, cut_parts, load, to_text

pytestmark = pytest.mark.parametrize("name", TOKENIZERS.names())
NAMES_THAT_SPELL_ALL = ("byte", "bpe")
OUR_KERNELS = ("PyFunc", "EagerPyFunc", "PyFuncStateless")


@functools.cache
def tokenizer_of(name):
    return create(name, CORPUS)


@functools.cache
def graph_of(name):
    """tokenize and detokenize, traced once."""
    tokenizer = tokenizer_of(name)
    ragged = tf.RaggedTensorSpec([None, None], tf.int32)
    return (
        tf.function(tokenizer.tokenize, input_signature=[tf.TensorSpec([None], tf.string)]),
        tf.function(tokenizer.detokenize, input_signature=[ragged]),
    )


def rows(ragged):
    """A RaggedTensor as lists; its own `to_list` is slow."""
    values, splits = ragged.flat_values.numpy().tolist(), ragged.row_splits.numpy().tolist()
    return [values[start:end] for start, end in zip(splits[:-1], splits[1:], strict=True)]


@settings(max_examples=200, deadline=None)
@given(batch=inputs)
def test_graph_ids_are_native_ids(name, batch):
    tokenizer = tokenizer_of(name)
    native = [ids.tolist() for ids in tokenizer.encode_batch(batch)]
    ragged = graph_of(name)[0](tf.constant(batch, tf.string))
    assert rows(ragged) == native
    assert native == [tokenizer.encode(text) for text in batch]
    if name != "byte":
        assert native == [tokenizer.encode(to_text(text)) for text in batch]


def in_pieces(documents, cuts):
    """Documents as (piece, whether it ends one), cut at random between two characters."""
    for document in documents:
        at = 0
        while at + (step := cuts.draw(st.integers(1, 9))) < len(document):
            yield document[at : at + step], False
            at += step
        yield document[at:], True


def stream(tokenizer, parts):
    """Ids of documents in parts, with `eos_id` after each that has any."""
    ids, begun = [], False
    for text, ends in parts:
        part = tokenizer.encode(text)
        ids += part
        begun = begun or bool(part)
        if ends and begun:
            ids.append(tokenizer.eos_id)
            begun = False
    return ids


@settings(max_examples=150, deadline=None)
@given(documents=st.lists(texts, max_size=3), cuts=st.data(), size=st.sampled_from([1, 3, 17]))
def test_a_document_in_parts_has_the_ids_of_the_whole(name, documents, cuts, size):
    tokenizer = tokenizer_of(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "PIECE_CHARACTERS", size)
        parts = list(cut_parts(in_pieces(documents, cuts), tokenizer))
    assert "".join(text for text, _ in parts) == "".join(documents)
    assert stream(tokenizer, parts) == stream(tokenizer, ((document, True) for document in documents))


@settings(max_examples=20, deadline=None)
@given(cuts=st.data())
def test_training_on_parts_is_training_on_the_whole(name, cuts):
    documents = [text * 3 for text in CORPUS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "PIECE_CHARACTERS", 20)
        parts = [text for text, _ in cut_parts(in_pieces(documents, cuts), TOKENIZERS.get(name))]
        assert len(parts) > 4
        assert create(name, parts).digest() == whole_of(name)


@functools.cache
def whole_of(name):
    return create(name, [text * 3 for text in CORPUS]).digest()


def test_graph_ids_are_native_ids_on_every_pair_of_awkward_texts(name):
    atoms = [*(atom.encode() for atom in ATOMS), *INVALID]
    batch = [a + b for a in atoms for b in atoms] + [a + b" " + b + b"." for a in atoms for b in atoms]
    native = [ids.tolist() for ids in tokenizer_of(name).encode_batch(batch)]
    assert rows(graph_of(name)[0](tf.constant(batch))) == native


@pytest.mark.parametrize("batch", [[], [""], ["", "", ""], ["", "a b", ""], ["\n", " ", "\0"]])
def test_empty_batches_and_empty_texts(name, batch):
    ragged = graph_of(name)[0](tf.constant(batch, tf.string))
    assert rows(ragged) == [ids.tolist() for ids in tokenizer_of(name).encode_batch(batch)]
    assert (ragged.dtype, ragged.row_splits.dtype, ragged.nrows()) == (tf.int32, tf.int64, len(batch))
    back = graph_of(name)[1](ragged)
    assert [text.decode() for text in back.numpy()] == [tokenizer_of(name).decode(ids) for ids in rows(ragged)]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_graph_text_is_native_text(name, data):
    tokenizer = tokenizer_of(name)
    one_id = st.integers(0, tokenizer.vocab_size - 1) | st.sampled_from([tokenizer.eos_id, tokenizer.unk_id or 0])
    ids = data.draw(st.lists(st.lists(one_id, max_size=12), max_size=4))
    ragged = tf.RaggedTensor.from_row_lengths(
        tf.constant([i for row in ids for i in row], tf.int32), tf.constant([len(row) for row in ids], tf.int64)
    )
    got = graph_of(name)[1](ragged).numpy()
    assert [text.decode("utf8") for text in got] == [tokenizer.decode(row) for row in ids]


@settings(max_examples=200, deadline=None)
@given(text=texts)
def test_text_survives_and_spells_no_special_id(name, text):
    tokenizer = tokenizer_of(name)
    ids = tokenizer.encode(text)
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.line_documents or tokenizer.eos_id not in ids
    assert 0 <= tokenizer.lost_bytes(text) <= len(text.encode())
    assert (tokenizer.lost_bytes(text) > 0) == (tokenizer.unk_id is not None and tokenizer.unk_id in ids)
    if name in NAMES_THAT_SPELL_ALL or (name == "char" and not tokenizer.lost_bytes(text)):
        assert tokenizer.decode(ids) == text
    # What these write for what they lost is what their users expect, and reads as something else.
    if name not in NAMES_THAT_SPELL_ALL and not (name in ("wordpiece", "unigram") and tokenizer.unk_id in ids):
        assert tokenizer.encode(tokenizer.decode(ids)) == ids


def test_saved_and_loaded_is_the_same(name, tmp_path):
    tokenizer = tokenizer_of(name)
    tokenizer.save(tmp_path / "made" / "here")
    loaded = load(tmp_path / "made" / "here")
    assert type(loaded) is type(tokenizer)
    for field in ("vocab_size", "eos_id", "pad_id", "unk_id"):
        assert getattr(loaded, field) == getattr(tokenizer, field)
    batch = [*CORPUS, "".join(ATOMS)]
    for ids, again in zip(tokenizer.encode_batch(batch), loaded.encode_batch(batch), strict=True):
        np.testing.assert_array_equal(ids, again)
    assert loaded.decode(range(loaded.vocab_size)) == tokenizer.decode(range(tokenizer.vocab_size))


def test_training_again_gives_the_same_vocabulary(name):
    again, tokenizer = create(name, iter(CORPUS)), tokenizer_of(name)
    assert again.encode("".join(CORPUS)) == tokenizer.encode("".join(CORPUS))
    assert again.decode(range(again.vocab_size)) == tokenizer.decode(range(tokenizer.vocab_size))


@pytest.mark.parametrize("delta", [0, 1000])
def test_ids_out_of_range_are_refused(name, delta):
    tokenizer = tokenizer_of(name)
    with pytest.raises(ValueError, match=f"Token id {tokenizer.vocab_size + delta} is outside"):
        tokenizer.decode([0, tokenizer.vocab_size + delta])
    with pytest.raises(ValueError, match="Token id -1 is outside"):
        tokenizer.decode([-1])
    with pytest.raises(ValueError, match="Token ids are integers"):
        tokenizer.decode([0.5])


def test_what_is_no_text_is_refused(name):
    with pytest.raises(ValueError, match="lone surrogate at character 2"):
        tokenizer_of(name).encode("ab\ud800")
    with pytest.raises(ValueError, match="takes strings, got int"):
        tokenizer_of(name).encode_batch([3])
    with pytest.raises(ValueError, match="one string"):
        tokenizer_of(name).encode_batch("text")


def test_saved_model_needs_none_of_our_code(name, tmp_path):
    tokenize, detokenize = graph_of(name)
    module = tf.Module()
    module.tokenizer = tokenizer_of(name)
    module.tokenize, module.detokenize = tokenize, detokenize
    batch = tf.constant([*CORPUS, b"\xff\xe2\x82 it's"])
    signature = tf.function(lambda text: {"text": detokenize(tokenize(text))}, input_signature=[batch_spec()])
    tf.saved_model.save(module, str(tmp_path), signatures=signature)

    loaded = tf.saved_model.load(str(tmp_path))
    ids = loaded.tokenize(batch)
    assert rows(ids) == [ids.tolist() for ids in tokenizer_of(name).encode_batch(batch.numpy().tolist())]
    served = loaded.signatures["serving_default"]
    expected = [tokenizer_of(name).decode(row) for row in rows(ids)]
    assert [text.decode() for text in served(text=batch)["text"].numpy()] == expected
    graph = served.graph.as_graph_def()
    kernels = {node.op for part in (graph, *graph.library.function) for node in getattr(part, "node_def", graph.node)}
    assert not kernels & set(OUR_KERNELS)


def batch_spec():
    return tf.TensorSpec([None], tf.string, name="text")


def test_long_texts_beside_short_ones_take_little_memory(name):
    """A batch of one long and many empty texts would be 4 GB as a rectangle."""
    batch = [b"it's nobler " * 20_000] + [b""] * 20_000
    ragged = graph_of(name)[0](tf.constant(batch))
    assert rows(ragged)[0] == tokenizer_of(name).encode(batch[0])
    assert graph_of(name)[1](ragged).numpy()[1] == b""
