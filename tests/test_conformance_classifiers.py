"""What every model promises that is a classifier as it stands (bag of words), checked at preset `tiny`.

Shape letters: B batch, T positions, V vocabulary, C classes.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import tiny_models
from zoo import bundle as bundles
from zoo.tasks.classification import Classification, ClassificationFacts
from zoo.tokenizers.base import create as create_tokenizer

B, T = 3, 7
LABELS = ("no", "perhaps", "yes")


@pytest.fixture(params=tiny_models.cases("classifier"))
def model(request):
    return tiny_models.strengthen(tiny_models.create(request.param, dropout=0.0))


@pytest.fixture
def ids(model):
    return tiny_models.token_ids(model, B, T)


def test_logits_are_float32_with_one_row_a_text(model, ids):
    logits = model(ids)
    assert logits.shape == (B, 3) and logits.dtype == "float32"
    assert model.config.num_params() == sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert len({v.path for v in model.variables}) == len(model.variables)


def test_padding_and_company_change_nothing(model, ids):
    lengths = np.array([T, 3, 1])
    mask = np.arange(T + 2) < lengths[:, None]
    padded = np.asarray(model(np.where(mask, np.pad(ids, ((0, 0), (0, 2))), 9), padding_mask=mask))
    for row, length in enumerate(lengths):
        alone = np.asarray(model(ids[row : row + 1, :length]))[0]
        np.testing.assert_allclose(padded[row], alone, rtol=2e-5, atol=2e-5)


def test_gradients_reach_every_weight_that_a_text_touches(model, ids):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(ids)[:, 0])
    for variable, gradient in zip(model.trainable_variables, tape.gradient(loss, model.trainable_weights), strict=True):
        assert np.abs(np.asarray(tf.convert_to_tensor(gradient))).max() > 1e-7, variable.path


def test_bfloat16_and_xla(model, ids, restore_dtype_policy):
    expected = np.asarray(model(ids))
    compiled = tf.function(lambda ids: model(ids), jit_compile=True)(ids)
    np.testing.assert_allclose(compiled, expected, rtol=2e-5, atol=2e-5)
    keras.config.set_dtype_policy("mixed_bfloat16")
    half = type(model)(model.config).build_from_ids()
    for variable, value in zip(half.variables, model.variables, strict=True):
        assert variable.dtype == value.dtype
        variable.assign(value)
    np.testing.assert_allclose(half(ids), expected, rtol=0.04, atol=0.04)


def test_a_bundle_brings_back_task_and_weights(model, tmp_path):
    tokenizer = create_tokenizer("byte")
    made = type(model)(model.config.replace(vocab_size=tokenizer.vocab_size)).build_from_ids()
    tiny_models.strengthen(made)
    task = Classification(facts=ClassificationFacts(labels=LABELS, max_tokens=20))
    bundles.Bundle(made, tokenizer, task, {}).save(tmp_path / "bundle")
    loaded = bundles.load(tmp_path / "bundle")
    assert (loaded.task.config, loaded.task.facts) == (task.config, task.facts) and type(loaded.model) is type(made)
    ids = tiny_models.token_ids(made, B, T)
    np.testing.assert_array_equal(loaded.model(ids), made(ids))
