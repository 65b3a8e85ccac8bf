"""The logit lens and attention maps: beside models with fewer blocks, and beside a product by hand.

Shape letters: T positions, N heads, H head width.
"""

import numpy as np
import pytest
import tensorflow as tf

from tests import exports
from zoo.api import Loaded
from zoo.bundle import Bundle
from zoo.config import Refusal

TEXT = "the cat sat"


def loaded(name, task):
    made = exports.made(name, task)
    return Loaded(Bundle(made.model, made.tokenizer, made.task, {}))


@pytest.mark.parametrize("name", ["gpt", "glm"])
def test_each_layer_of_the_lens_is_a_model_with_so_many_blocks(name, monkeypatch):
    zoo = loaded(name, "language_modeling")
    model, lens = zoo.model, zoo.lens(TEXT, num_words=3)
    before, ids = zoo.task.frame(model.kind, zoo.tokenizer).before, zoo.tokenizer.encode(TEXT)
    blocks, last = model.blocks, None
    assert len(lens.words) == len(blocks) + 1 and "".join(lens.tokens) == TEXT
    for count in reversed(range(len(blocks) + 1)):
        monkeypatch.setattr(model, "blocks", blocks[:count])
        probs = np.asarray(tf.nn.softmax(model.limited(model(np.array([[*before, *ids]], np.int32)))))[0, len(before) :]
        np.testing.assert_allclose(lens.probs[count], np.sort(probs, 1)[:, ::-1][:, :3], atol=1e-6)
        last = probs.argmax(1) if last is None else last
        ranks = [1 + (row > row[i]).sum() for row, i in zip(probs, last, strict=True)]
        assert lens.ranks[count].tolist() == ranks
        best = [zoo.tokenizer.decode([i]) for i in probs.argmax(1).tolist()]
        assert [row[0] for row in lens.words[count]] == best
    settled = [min(k for k in range(len(lens.ranks)) if (lens.ranks[k:, i] == 1).all()) for i in range(len(ids))]
    assert lens.settled.tolist() == settled
    assert all("call" not in vars(block) for block in blocks)


@pytest.mark.parametrize("task", ["masked_lm", "classification"])
def test_the_last_layer_of_the_lens_gives_the_answers_of_the_model(task):
    zoo = loaded("bert", task)
    mask, frame = zoo.tokenizer.mask_token, zoo.task.frame(zoo.model.kind, zoo.tokenizer)
    text = f"the{mask} sat on{mask}" if task == "masked_lm" else TEXT
    lens = zoo.lens(text)
    ids = [zoo.tokenizer.encode(part) for part in text.split(mask)]
    row = [*frame.before, *ids[0], *(i for part in ids[1:] for i in (zoo.tokenizer.mask_id, *part)), *frame.after]
    batch = {"token_ids": np.array([row], np.int32)}
    if task == "masked_lm":
        batch["label_positions"] = np.flatnonzero(np.array(row) == zoo.tokenizer.mask_id)[None].astype(np.int32)
        assert lens.tokens == (mask, mask)
    logits = zoo.model(batch)
    probs = np.asarray(tf.nn.softmax(logits[0] if isinstance(logits, tuple) else logits))
    probs = probs.reshape(-1, probs.shape[-1])
    best, names = np.argsort(-probs, 1)[:, : lens.probs.shape[2]], zoo.task.facts.labels if task == "classification" else None
    np.testing.assert_allclose(lens.probs[-1], np.take_along_axis(probs, best, 1), atol=1e-6)
    assert [row[0] for row in lens.words[-1]] == [names[i] if names else zoo.tokenizer.decode([i]) for i in best[:, 0].tolist()]


def test_attention_weights_are_those_of_the_product():
    zoo = loaded("bert", "classification")
    maps, body = zoo.attention(TEXT), zoo.model.without_head()
    frame = zoo.task.frame(body.kind, zoo.tokenizer)
    ids = np.array([[*frame.before, *zoo.tokenizer.encode(TEXT), *frame.after]])
    first, heads = body.blocks[0].attention, body.config.num_heads
    x = body.embeddings(ids) + body.positions(np.arange(ids.shape[1])[None]) + body._segments(None)
    qkv = np.asarray(first.qkv(body.embedding_norm(x)))[0].reshape(ids.shape[1], 3, heads, -1)
    scores = np.einsum("tnh,snh->nts", qkv[:, 0], qkv[:, 1]) / qkv.shape[-1] ** 0.5
    np.testing.assert_allclose(maps.weights[0], tf.nn.softmax(scores), atol=1e-6)
    assert maps.queries == maps.keys and maps.queries[0] == "[CLS]" and maps.queries[-1] == "[SEP]"
    assert maps.weights.shape == (len(body.blocks), heads, *ids.shape[1:] * 2)
    np.testing.assert_allclose(maps.mean, maps.weights.mean(1))
    assert all("call" not in vars(block.attention) for block in body.blocks)


def test_a_language_model_looks_back_alone_and_a_translation_at_its_source():
    zoo = loaded("gpt", "language_modeling")
    weights = zoo.attention(TEXT).weights
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert not np.triu(weights, 1).any()
    zoo = loaded("transformer", "translation")
    maps, frame = zoo.attention("the cat", "un chat"), zoo.task.frame(zoo.model.kind, zoo.tokenizer)
    source, target = zoo.tokenizer.encode("the cat"), zoo.tokenizer.target.encode("un chat")
    batch = {"source_ids": np.array([[*frame.before, *source, *frame.after]])}
    whole = zoo.model.alignment({**batch, "token_ids": np.array([[*frame.target_start, *target]])})
    first = len(frame.before)
    expected = np.asarray(whole)[0, : len(target), first : first + len(source)]
    np.testing.assert_allclose(maps.weights[0, 0], expected, atol=1e-5)


def test_pictures_escape_the_text_and_json_holds_all():
    zoo = loaded("gpt", "language_modeling")
    lens, maps = zoo.lens("a<b>"), zoo.attention("a<b>")
    layers, heads = maps.weights.shape[:2]
    assert "<th>&lt;</th>" in lens.html() and maps.html().count("<svg") == layers * (1 + heads * (heads > 1))
    assert ">&lt;</text>" in maps.html()
    told = lens.to_dict()
    np.testing.assert_allclose(told["probs"], lens.probs, atol=1e-5)
    assert told["tokens"] == ["a", "<", "b", ">"] and told["settled"] == lens.settled.tolist()
    np.testing.assert_allclose(maps.to_dict()["weights"], maps.weights, atol=1e-5)


@pytest.mark.parametrize(("name", "task", "text", "sentence"), [
    ("lstm", "language_modeling", TEXT, "has no Transformer blocks"),
    ("ngram", "language_modeling", TEXT, "has no Transformer blocks"),
    ("transformer", "translation", TEXT, "has no Transformer blocks that read one text"),
    ("bert", "tagging", TEXT, "was made for tagging"), ("gpt", "language_modeling", "", "The text is empty"),
    ("gpt", "language_modeling", "a" * 80, "this model takes 64"),
])  # fmt: skip
def test_what_has_no_layers_to_show_is_refused(name, task, text, sentence):
    with pytest.raises(Refusal, match=sentence):
        loaded(name, task).lens(text)


def test_a_target_is_for_a_source_alone():
    with pytest.raises(Refusal, match="takes a text alone"):
        loaded("gpt", "language_modeling").attention(TEXT, "on")
