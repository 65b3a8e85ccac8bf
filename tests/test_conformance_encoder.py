"""What every registered encoder promises, checked at preset `tiny`, and its first task with it.

Shape letters: B batch, T positions, D hidden.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import goldens, tiny_models
from zoo import bundle as bundles
from zoo.registry import MODELS
from zoo.tokenizers.base import create as create_tokenizer

B, T = 3, 7
CLOSE = dict(rtol=2e-5, atol=2e-5)
TEXTS = ["the cat sat on the mat .", "a cat is not a dog ,", "the naive dog ran ."]


@pytest.fixture(scope="module", params=tiny_models.cases("encoder"))
def case(request):
    return request.param


@pytest.fixture(scope="module")
def model(case):
    return tiny_models.strengthen(tiny_models.create(case))


@pytest.fixture(scope="module")
def ids(model):
    return tiny_models.token_ids(model, B, T)


@pytest.fixture(scope="module")
def hidden(model, ids):
    return np.asarray(model(ids))


def test_hidden_states_have_one_row_a_position(model, hidden):
    assert hidden.shape == (B, T, model.config.hidden_dim)
    assert np.isfinite(hidden).all()


def test_a_batch_goes_in_whole(model, ids, hidden):
    batch = {"token_ids": ids, "labels": ids, "loss_weights": np.ones((B, T), np.float32)}
    np.testing.assert_allclose(model(batch), hidden, rtol=0, atol=0)
    np.testing.assert_allclose(model.hidden(batch), hidden, rtol=0, atol=0)


def test_num_params_of_the_config_counts_the_model(model):
    assert model.config.num_params() == model.count_params()


def test_variables_hidden_states_and_losses_are_those_of_the_golden(case):
    golden = goldens.load(case)
    assert goldens.variables(case) == golden["variables"]
    np.testing.assert_allclose(goldens.logits(case), golden["logits"], rtol=1e-4, atol=1e-4)
    losses = goldens.losses(case)
    np.testing.assert_allclose(losses, golden["losses"], rtol=1e-4, atol=1e-4)
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.3


def test_padding_at_the_right_changes_nothing(model, ids, hidden):
    mask = np.arange(T) < np.array([[T], [5], [1]])
    padded = np.asarray(model(np.where(mask, ids, 9), padding_mask=mask))
    other = np.asarray(model(np.where(mask, ids, 23), padding_mask=mask))
    np.testing.assert_allclose(padded[mask], other[mask], **CLOSE)
    for row, length in enumerate(mask.sum(1)):
        np.testing.assert_allclose(padded[row, :length], np.asarray(model(ids[row : row + 1, :length]))[0], **CLOSE)


def test_every_position_sees_every_other_or_none_but_itself(model, ids, hidden):
    for t in (0, 3, T - 1):
        other = ids.copy()
        other[:, t] = 1 + (other[:, t] + 3) % (model.config.vocab_size - 1)
        changed = np.abs(np.asarray(model(other)) - hidden).max(axis=-1) > 1e-4
        expected = np.ones((B, T), bool) if model.config.contextual else np.arange(T) == np.full((B, 1), t)
        np.testing.assert_array_equal(changed, expected)


def test_the_parts_of_a_pair_are_told_apart(model, ids, hidden):
    zeros = np.zeros((B, T), np.int32)
    np.testing.assert_allclose(model(ids, segment_ids=zeros), hidden, **CLOSE)
    ones = zeros.copy()
    ones[:, 4:] = 1
    apart = np.abs(np.asarray(model(ids, segment_ids=ones)) - hidden).max()
    if not model.config.contextual:
        assert apart == 0  # a word's vector is the same in every part
    elif model.config.num_segments > 1:
        assert apart > 1e-3


def test_a_row_alone_is_the_row_in_the_batch(model, ids, hidden):
    for row in range(B):
        np.testing.assert_allclose(model(ids[row : row + 1])[0], hidden[row], **CLOSE)


def test_rows_longer_than_the_model_are_refused(model):
    if model.max_length is None:
        assert model(np.ones((1, 17), np.int32)).shape == (1, 17, model.config.hidden_dim)
        return
    with pytest.raises(ValueError, match="17 tokens are more than this model's max_length of 16"):
        model(np.ones((1, 17), np.int32))


def test_bfloat16_is_finite_and_close(case, model, ids, hidden, restore_dtype_policy):
    keras.config.set_dtype_policy("mixed_bfloat16")
    half = tiny_models.create(case)
    for variable, value in zip(half.variables, model.variables, strict=True):
        assert variable.dtype == value.dtype
        variable.assign(value)
    values = np.asarray(tf.cast(half(ids), tf.float32))
    assert np.isfinite(values).all()
    assert np.abs(values - hidden).max() < 0.04 * np.abs(hidden).max()


def test_xla_computes_the_same(model, ids, hidden):
    np.testing.assert_allclose(tf.function(lambda ids: model(ids), jit_compile=True)(ids), hidden, **CLOSE)


def test_gradients_reach_every_weight_of_the_first_task(case):
    task = tiny_models.first_task(tiny_models.class_of(case).config_class)
    model = tiny_models.strengthen(tiny_models.assembled(case))
    batch = tiny_models.batches(model).batch(0)
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        loss, count = task.loss(batch, task.forward(model, batch, training=True)[0])
        loss = loss / count
    gradients = tape.gradient(loss, [v.value for v in variables])
    for variable, gradient in zip(variables, gradients, strict=True):
        assert gradient is not None, variable.path
        values = np.asarray(tf.convert_to_tensor(gradient))
        used = variable.path != "bert/segments/embeddings"  # its second row is for pairs, which this task has none of
        assert np.isfinite(values).all() and (np.abs(values).max() > 1e-7 or not used), variable.path


@pytest.mark.parametrize("name", [name for name in MODELS.names() if MODELS.config(name).kind == "encoder"])
def test_a_bundle_brings_back_task_and_weights(name, tmp_path):
    tokenizer = create_tokenizer("wordpiece", TEXTS, 61)
    task = tiny_models.first_task(MODELS.config(name))
    backbone = tiny_models.create(name, vocab_size=tokenizer.vocab_size)
    model = tiny_models.strengthen(task.assemble(backbone).build_from_ids())
    loaded = bundles.load(bundles.Bundle(model, tokenizer, task, {"steps": 3}).save(tmp_path / "bundle"))
    assert loaded.task.registered_name == task.registered_name and loaded.task.config == task.config
    for mine, theirs in zip(model.variables, loaded.model.variables, strict=True):
        assert mine.path == theirs.path
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))
