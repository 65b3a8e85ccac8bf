"""Norms and gelu, whose gradients are written by hand, against Keras's, whose gradients are derived.

Shape letters: D hidden.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.layers.activations import gelu
from zoo.layers.norms import Norm

PEERS = {"layer": keras.layers.LayerNormalization, "rms": keras.layers.RMSNormalization}


def pair(kind, epsilon, width):
    ours, theirs = Norm(kind, epsilon), PEERS[kind](epsilon=epsilon)
    random = np.random.default_rng(0)
    ours.build((None, None, width))
    theirs.build((None, None, width))
    names = ("gamma", "beta") if kind == "layer" else ("gamma",)
    other = {"gamma": "gamma" if hasattr(theirs, "gamma") else "scale", "beta": "beta"}
    for name in names:
        values = random.normal(1, 0.5, width).astype("float32")
        getattr(ours, name).assign(values)
        getattr(theirs, other[name]).assign(values)
    return ours, theirs


def test_layer_norm_by_hand():
    norm = Norm("layer", epsilon=0.0)
    norm.build((None, 4))
    # mean 5, variance 5
    np.testing.assert_allclose(norm(np.array([[2, 4, 6, 8]], "float32"))[0], np.array([-3, -1, 1, 3]) / 5**0.5, rtol=1e-6)


def test_rms_norm_by_hand():
    norm = Norm("rms", epsilon=0.0)
    norm.build((None, 2))
    norm.gamma.assign([1.0, 10.0])
    # mean square 25
    np.testing.assert_allclose(norm(np.array([[1, 7]], "float32")), [[0.2, 14]], rtol=1e-6)


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("epsilon", [1e-5, 0.3])
def test_values_and_gradients_are_those_of_keras(kind, epsilon):
    ours, theirs = pair(kind, epsilon, 7)
    x = tf.constant(np.random.default_rng(1).normal(2, 3, (2, 5, 7)).astype("float32"))
    weights = tf.constant(np.random.default_rng(2).normal(size=(2, 5, 7)).astype("float32"))
    results = []
    for norm in (ours, theirs):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = norm(x)
            loss = tf.reduce_sum(y * weights)
        results.append([y, *tape.gradient(loss, [x, *(v.value for v in norm.trainable_variables)])])
    for mine, their in zip(*results, strict=True):
        np.testing.assert_allclose(mine, their, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_statistics_are_in_float32_under_bfloat16(kind):
    norm = Norm(kind, dtype="mixed_bfloat16")
    x = tf.constant([[256.0, 258.0, 260.0, 262.0]], tf.bfloat16)
    y = norm(x)
    assert y.dtype == tf.bfloat16 and norm.gamma.dtype == "float32"
    wide = np.array([256, 258, 260, 262])
    expected = (wide - wide.mean()) / wide.std() if kind == "layer" else wide / np.sqrt((wide**2).mean())
    np.testing.assert_allclose(np.asarray(tf.cast(y, tf.float32))[0], expected, rtol=0.01)


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="norm must be layer, layer_gain or rms, got 'batch'"):
        Norm("batch")


def test_gelu_is_the_tanh_form_with_its_gradient():
    x = tf.constant(np.concatenate([np.linspace(-6, 6, 101), [-1e4, 1e4, 0]]).astype("float32"))
    results = []
    for function in (gelu, lambda x: keras.ops.gelu(x, approximate=True)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        results.append((y, tape.gradient(y, x)))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(results[0][1][:-3], results[1][1][:-3], rtol=1e-4, atol=1e-5)
    assert np.isfinite(results[0][1]).all()
    assert float(gelu(tf.constant(1.0))) == pytest.approx(0.841192, abs=1e-6)
