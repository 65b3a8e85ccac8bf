"""The loss in chunks is the loss: values and gradients, biases, both layouts, smoothing, both graphs.

Shape letters: B batch, T positions, D hidden, V vocabulary.
"""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests import tiny_models
from zoo.layers import chunked_cross_entropy
from zoo.layers.chunked_cross_entropy import (
    CHUNK,
    Projection,
    Unprojected,
    chunked_log_probs,
    resolve_logits,
    summed_cross_entropy,
    weighted_cross_entropy,
)  # fmt: skip
from zoo.tasks.language_modeling import LanguageModeling, LanguageModelingConfig

B, T, D, V = 3, 7, 5, 11


def inputs(transposed, has_bias, dtype="float32"):
    random = np.random.default_rng(0)
    x = tf.constant(random.normal(size=(B, T, D)), dtype)
    kernel = tf.Variable(random.normal(size=(V, D) if transposed else (D, V)), dtype="float32")
    bias = tf.Variable(random.normal(size=V).astype("float32")) if has_bias else None
    labels = random.integers(0, V, (B, T)).astype("int32")
    weights = random.random((B, T)).astype("float32") * (random.random((B, T)) < 0.8)
    return Unprojected(x, Projection(kernel, bias, transposed)), labels, weights


def whole(outputs, labels, weights, label_smoothing=0.0, z_loss=0.0):
    """The loss from all logits at once, by the formula and TensorFlow's own softmax."""
    kernel, bias, transposed = outputs.projection
    logits = tf.matmul(outputs.features, tf.cast(kernel, outputs.features.dtype), transpose_b=transposed)
    logits = tf.cast(logits if bias is None else logits + bias, tf.float32)
    log_probs = tf.nn.log_softmax(logits)
    losses = -(1 - label_smoothing) * tf.gather(log_probs, labels, batch_dims=2)
    losses = losses - label_smoothing * tf.reduce_mean(log_probs, -1) + z_loss * tf.reduce_logsumexp(logits, -1) ** 2
    return tf.reduce_sum(losses * weights)


def value_and_gradients(loss, outputs, *others, jit_compile=None, **options):
    watched = [x for x in (outputs.projection.kernel, outputs.projection.bias) if x is not None]

    @tf.function(autograph=False, jit_compile=jit_compile)
    def compute(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = 3 * loss(outputs._replace(features=x), *others, **options)
        return [value, *tape.gradient(value, [x, *watched])]

    return [np.asarray(tf.cast(value, tf.float32)) for value in compute(outputs.features)]


def test_hand_computed():
    # logits ln 2, ln 1, ln 5 and their doubles: p = (2, 1, 5) / 8 and (4, 1, 25) / 30
    x = tf.constant([[[1.0], [2.0]]])
    projection = Projection(tf.constant([[math.log(2), 0.0, math.log(5)]]))
    outputs, labels, weights = Unprojected(x, projection), np.array([[0, 2]]), np.array([[1.0, 3.0]])
    loss = summed_cross_entropy(outputs, labels, weights, chunk=3)
    np.testing.assert_allclose(loss, math.log(4) + 3 * math.log(30 / 25), rtol=1e-6)
    np.testing.assert_allclose(chunked_log_probs(outputs, labels, chunk=3), [[-math.log(4), math.log(25 / 30)]], rtol=1e-6)


@pytest.mark.parametrize("chunk", [1, 4 * V, 10**6])  # a position, 4 of 21 positions (the last chunk is short), all
@pytest.mark.parametrize(("transposed", "has_bias"), [(True, False), (False, True)])
def test_equals_the_whole_loss(chunk, transposed, has_bias):
    arguments = inputs(transposed, has_bias)
    options = dict(label_smoothing=0.3, z_loss=0.2)
    ours = value_and_gradients(summed_cross_entropy, *arguments, chunk=chunk, **options)
    for mine, other in zip(ours, value_and_gradients(whole, *arguments, **options), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-6 * np.abs(other).max())


@pytest.mark.parametrize("jit_compile", [None, True])
@pytest.mark.parametrize("few", [2, 256])  # positions of a chunk: the last chunks of many are left out, or there is one
def test_positions_without_a_weight_need_no_logits(few, jit_compile, monkeypatch):
    monkeypatch.setattr(chunked_cross_entropy, "FEW", few)
    outputs, labels, weights = inputs(True, True)
    for share in (0.0, 0.3, 1.1):
        some = weights * (np.random.default_rng(1).random((B, T)) < share)
        ours = value_and_gradients(weighted_cross_entropy, outputs, labels, some, jit_compile=jit_compile, z_loss=0.2)
        for mine, other in zip(ours, value_and_gradients(whole, outputs, labels, some, z_loss=0.2), strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-6 * max(np.abs(other).max(), 1))


def test_positions_without_a_weight_are_not_looked_at(monkeypatch):
    monkeypatch.setattr(chunked_cross_entropy, "FEW", 1)
    outputs, labels, weights = inputs(True, False)
    broken = outputs._replace(features=tf.where(weights[..., None] > 0, outputs.features, np.nan))
    loss, dx, dkernel = value_and_gradients(weighted_cross_entropy, broken, labels, weights)
    assert np.isfinite(loss) and np.isfinite(dkernel).all() and (weights == 0).any() and not dx[weights == 0].any()
    np.testing.assert_allclose(loss, value_and_gradients(whole, outputs, labels, weights)[0], rtol=1e-6)


def test_compiles():
    arguments = inputs(True, True)
    ours = value_and_gradients(summed_cross_entropy, *arguments, chunk=5 * V, jit_compile=True)
    for mine, other in zip(ours, value_and_gradients(whole, *arguments), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-6 * np.abs(other).max())
    outputs, labels, _ = arguments
    log_probs = tf.function(lambda: chunked_log_probs(outputs, labels, chunk=5 * V), jit_compile=True)()
    np.testing.assert_allclose(log_probs, chunked_log_probs(outputs, labels), rtol=1e-5, atol=1e-5)


def test_bfloat16_features_give_their_gradients_in_bfloat16():
    arguments = inputs(True, False, "bfloat16")
    ours = value_and_gradients(summed_cross_entropy, *arguments, chunk=4 * V)
    for mine, other in zip(ours, value_and_gradients(whole, *arguments), strict=True):
        np.testing.assert_allclose(mine, other, rtol=0.02, atol=0.02 * np.abs(other).max())


def test_log_probs_of_any_number_of_positions_even_none():
    outputs, labels, _ = inputs(False, True)
    signature = [tf.TensorSpec((None, None, D)), tf.TensorSpec((None, None), tf.int32)]
    score = tf.function(
        lambda x, y: chunked_log_probs(outputs._replace(features=x), y, chunk=4 * V), signature, autograph=False
    )
    logits = outputs.features @ outputs.projection.kernel + outputs.projection.bias
    expected = tf.gather(tf.nn.log_softmax(logits), labels, batch_dims=2)
    np.testing.assert_allclose(score(outputs.features, labels), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(score(outputs.features[:1, :1], labels[:1, :1]), expected[:1, :1], rtol=1e-5, atol=1e-6)
    assert score(outputs.features[:0], labels[:0]).shape == (0, T)


def test_auto_goes_by_size():
    projection = Projection(np.zeros((CHUNK // 64, 1)), transposed=True)
    for batch, length, chunks in ((2, 64, False), (3, 64, True), (None, 1, True), (1, None, True)):
        token_ids = tf.keras.Input(batch_shape=(batch, length), dtype="int32")
        assert resolve_logits("auto", projection, token_ids) == chunks
        assert resolve_logits("chunks", projection, token_ids)
        assert not resolve_logits("whole", projection, token_ids)
        assert not resolve_logits("chunks", None, token_ids)


@pytest.mark.parametrize("case", ["gpt", "gpt-modern", "lstm", "lstm-gru"])
def test_a_model_trains_the_same_in_chunks(case):
    model = tiny_models.strengthen(tiny_models.create(case))
    ids = tiny_models.token_ids(model, B, T + 1)
    batch = dict(token_ids=tf.constant(ids[:, :-1]), labels=ids[:, 1:], loss_weights=np.ones((B, T), "float32"))
    results = []
    for logits in ("whole", "chunks"):
        task = LanguageModeling(LanguageModelingConfig(logits=logits), label_smoothing=0.1, z_loss=0.01)
        with tf.GradientTape() as tape:
            outputs, _ = task.forward(model, batch, training=True)
            loss, count = task.loss(batch, outputs)
        assert isinstance(outputs, Unprojected) == (logits == "chunks")
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        results.append([loss, count, *(tf.convert_to_tensor(g) for g in gradients)])
    for mine, other in zip(*results, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6 * max(1, np.abs(other).max()))
