"""Rows of a table that are none of the tokenizer's ids: they have no probability, wherever text is written or judged."""

import numpy as np
import pytest
import tensorflow as tf

from tests import exports, tiny_models
from zoo.bundle import Bundle, load
from zoo.decoding import Sampling, generate
from zoo.layers import chunked_cross_entropy
from zoo.registry import MODELS, TASKS
from zoo.signatures.fill_mask import token_logits
from zoo.tokenizers.base import create as create_tokenizer

PADDED = 320  # rows; the byte tokenizer has 257 ids


def padded(name, task_name, tokenizer, rows):
    """A strengthened model of `rows` rows with its task, told of a tokenizer with fewer ids."""
    task = TASKS.get(task_name)(
        None, exports.FACTS.get(task_name) and TASKS.get(task_name).facts_class(**exports.FACTS[task_name])
    )
    fields = {**task.model_fields(tokenizer), "vocab_size": rows, "max_length": 64, "dropout": 0.0}
    config = {k: v for k, v in fields.items() if k in MODELS.config(name).field_names()}
    model = tiny_models.strengthen(task.assemble(tiny_models.create(name, **config)).build_from_ids())
    return task.limit_ids(model, tokenizer), task


@pytest.mark.parametrize("name", ["gpt", "lstm"])
def test_decoding_and_scoring_spread_all_probability_over_the_ids_that_the_tokenizer_has(name, monkeypatch):
    tokenizer = create_tokenizer("byte")
    model, _ = padded(name, "language_modeling", tokenizer, PADDED)
    ids = tf.constant([tokenizer.encode("the cat")])
    logits, _ = model.next_logits(ids, model.init_state(1, 16))
    probs = tf.nn.softmax(logits)[0].numpy()
    assert probs[tokenizer.vocab_size :].max() == 0 and probs[: tokenizer.vocab_size].min() > 0
    raw = model(ids)[0, -1, : tokenizer.vocab_size].numpy()
    np.testing.assert_allclose(probs[: tokenizer.vocab_size], np.exp(raw) / np.exp(raw).sum(), rtol=1e-4)
    every = tf.range(tokenizer.vocab_size)[:, None]
    for chunk in (1 << 25, 1):  # logits whole, and in chunks
        monkeypatch.setattr(chunked_cross_entropy, "CHUNK", chunk)
        log_probs, _ = model.token_log_probs(tf.repeat(ids[:, -1:], len(every), 0), every)
        np.testing.assert_allclose(np.exp(log_probs).sum(), 1.0, rtol=1e-5)


def test_a_loaded_bundle_never_draws_an_id_that_the_tokenizer_lacks(tmp_path):
    tokenizer = create_tokenizer("byte")
    model, task = padded("gpt", "language_modeling", tokenizer, 4 * PADDED)
    model.num_ids = None
    Bundle(model, tokenizer, task, {}).save(tmp_path / "bundle")
    model = load(tmp_path / "bundle").model
    assert model.num_ids == tokenizer.vocab_size
    rows, new = 16, 12
    sampling = Sampling(temperature=tf.fill([rows], 3.0), seed=tf.range(rows, dtype=tf.int64))
    written = generate(
        model.next_logits, model.init_state(rows, new + 1), tf.fill([rows, 1], 97), max_new_tokens=new, sampling=sampling
    )
    assert written.token_ids.numpy().max() < tokenizer.vocab_size and len(np.unique(written.token_ids)) > rows


def test_a_hole_is_filled_by_tokens_that_there_are():
    tokenizer = create_tokenizer("wordpiece", exports.TEXTS, 61)
    model, task = padded("bert", "masked_lm", tokenizer, 128)
    probs = tf.nn.softmax(token_logits(model, {"token_ids": tf.constant([[tokenizer.cls_id, tokenizer.mask_id]])})).numpy()
    assert probs[..., tokenizer.vocab_size :].max() == 0
    np.testing.assert_allclose(probs.sum(-1), 1.0, rtol=1e-5)


def test_a_table_of_the_tokenizers_size_costs_nothing_in_the_graph():
    tokenizer = create_tokenizer("byte")
    model, _ = padded("gpt", "language_modeling", tokenizer, tokenizer.vocab_size)
    logits = tf.zeros((1, tokenizer.vocab_size))
    assert model.num_ids is None and model.limited(logits) is logits


def test_sentinels_are_ids_of_span_corruption_and_of_no_other_task():
    tokenizer = create_tokenizer("byte")
    config = TASKS.get("span_corruption").config_class(num_sentinels=10)
    assert TASKS.get("span_corruption")(config).num_ids(tokenizer) == tokenizer.vocab_size + 10
    assert TASKS.get("translation")().num_ids(tokenizer) == tokenizer.vocab_size
