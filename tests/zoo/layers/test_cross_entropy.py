"""Cross entropy: hand-computed numbers, Keras's own, extremes, and the written-out gradient."""

import math

import keras
import numpy as np
import tensorflow as tf

from zoo.layers.cross_entropy import cross_entropy


def value_and_gradient(labels, logits, upstream, loss=cross_entropy):
    logits = tf.constant(logits, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = loss(labels, logits)
        total = tf.reduce_sum(losses * upstream)
    return np.asarray(losses), np.asarray(tape.gradient(total, logits))


def test_hand_computed():
    # softmax of (0, ln 2, ln 5) is (1, 2, 5) / 8
    logits = [[0.0, math.log(2), math.log(5)]] * 3
    losses, gradient = value_and_gradient([0, 1, 2], logits, [1.0, 2.0, -4.0])
    np.testing.assert_allclose(losses, [math.log(8), math.log(4), math.log(8 / 5)], rtol=1e-6)
    expected = [[-7 / 8, 2 / 8, 5 / 8], [2 / 8, -12 / 8, 10 / 8], [-4 / 8, -8 / 8, 12 / 8]]
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_is_keras_cross_entropy_on_any_leading_axes():
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (2, 5, 3, 7)).astype("float32")
    labels = random.integers(0, 7, (2, 5, 3))
    upstream = random.normal(size=(2, 5, 3)).astype("float32")
    ours = value_and_gradient(labels, logits, upstream)
    theirs = value_and_gradient(
        labels, logits, upstream, lambda y, x: keras.ops.sparse_categorical_crossentropy(y, x, from_logits=True)
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)


def test_huge_logits_stay_finite():
    losses, gradient = value_and_gradient([0, 1], [[1e30, -1e30], [1e30, -1e30]], [1.0, 1.0])
    np.testing.assert_allclose(losses, [0.0, 2e30], rtol=1e-6)
    np.testing.assert_array_equal(gradient, [[0, 0], [1, -1]])


def test_compiles_with_unknown_shapes():
    logits, labels = np.float32([[[0.0, 1.0, 3.0]]]), np.int32([[2]])
    traced = tf.function(cross_entropy, input_signature=[tf.TensorSpec((None, None), tf.int32), tf.TensorSpec((None, None, 3))])
    compiled = tf.function(cross_entropy, jit_compile=True)
    expected = math.log(1 + math.exp(1) + math.exp(3)) - 3
    np.testing.assert_allclose(traced(labels, logits), [[expected]], rtol=1e-6)
    np.testing.assert_allclose(compiled(labels, logits), [[expected]], rtol=1e-6)
