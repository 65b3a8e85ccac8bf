"""Dropout: shares, scales, gradients and independence of the masks that XLA makes for a CPU."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.layers import fusion
from zoo.layers.dropout import Dropout, locked_dropout

SCOPES = {"whole": fusion.compiled_whole, "chains": fusion.fuse_elementwise, "none": contextlib.nullcontext}
for_each_scope = pytest.mark.parametrize("scope", SCOPES)
ONES = np.ones((16, 64, 96), "float32")


def step(layer, scope, x=ONES, shape=None):
    """Two calls of `layer` in a graph as a training step has it, and the gradient of the sum of the first."""

    def run(x):
        with SCOPES[scope]():
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True)
                total = tf.reduce_sum(y)
            return y, layer(x, training=True), tape.gradient(total, x, unconnected_gradients="zero")

    signature = [tf.TensorSpec(shape or x.shape, x.dtype)]
    function = tf.function(run, input_signature=signature, jit_compile=scope == "whole", autograph=False)
    return [tf.cast(value, "float32").numpy() for value in function(x)]


@for_each_scope
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_a_share_is_dropped_and_the_others_are_scaled(scope, rate):
    y, _, gradient = step(Dropout(rate, seed=1), scope)
    np.testing.assert_allclose(np.mean(y == 0), rate, atol=4 * (rate * (1 - rate) / y.size) ** 0.5)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-6)
    np.testing.assert_array_equal(gradient, y)  # of a sum of ones times the mask


@for_each_scope
def test_masks_of_calls_layers_and_places_are_independent(scope):
    rate, expected = 0.3, 0.3**2 + 0.7**2
    first, second, _ = step(Dropout(rate, seed=1), scope)
    other, _, _ = step(Dropout(rate, seed=2), scope)
    masks = [y == 0 for y in (first, second, other)]
    pairs = [(masks[0], masks[1]), (masks[0], masks[2]), (masks[1], masks[2])]
    for axis in range(3):
        half = masks[0].shape[axis] // 2
        pairs.append((masks[0].take(range(half), axis), masks[0].take(range(half, 2 * half), axis)))
        pairs.append((np.delete(masks[0], 0, axis), np.delete(masks[0], -1, axis)))
    for a, b in pairs:
        np.testing.assert_allclose(np.mean(a == b), expected, atol=4.5 * (expected * (1 - expected) / a.size) ** 0.5)


@for_each_scope
def test_a_locked_mask_is_one_for_all_steps(scope):
    y, _, gradient = step(locked_dropout(0.4, "dropout"), scope)
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1], y.shape))
    assert len({row.tobytes() for row in y[:, 0]}) == len(y)
    np.testing.assert_array_equal(gradient, y)


def test_both_scopes_have_the_same_masks_in_every_dtype_and_of_shapes_known_late():
    whole = step(Dropout(0.25, seed=7), "whole")
    for found in (
        step(Dropout(0.25, seed=7), "chains"),
        step(Dropout(0.25, seed=7), "chains", shape=(None, None, 96)),
        step(Dropout(0.25, seed=7, dtype="bfloat16"), "whole", x=tf.cast(ONES, "bfloat16")),
    ):
        for expected, y in zip(whole, found, strict=True):
            np.testing.assert_array_equal(expected == 0, y == 0)


def test_outside_a_step_for_a_cpu_the_masks_are_those_of_keras():
    for shape in (None, (None, 1, None)):
        ours, theirs = (each(0.5, noise_shape=shape, seed=3) for each in (Dropout, keras.layers.Dropout))
        np.testing.assert_array_equal(ours(ONES, training=True), theirs(ONES, training=True))


@for_each_scope
def test_the_ends_of_the_rate_and_no_training(scope):
    np.testing.assert_array_equal(step(Dropout(0.0), scope)[0], ONES)
    np.testing.assert_array_equal(step(Dropout(1.0), scope)[0], 0 * ONES)
    with SCOPES[scope]():
        np.testing.assert_array_equal(Dropout(0.5)(ONES), ONES)


def test_a_mask_goes_on_where_the_seed_stands():
    """What a checkpoint keeps of dropout is the seed's state."""
    layer = Dropout(0.5, seed=1)
    _, second, _ = step(layer, "whole")
    again = Dropout(0.5, seed=9)
    again.seed_generator.state.assign([1, 1])
    np.testing.assert_array_equal(step(again, "whole")[0], second)
    np.testing.assert_array_equal(layer.seed_generator.state, [1, 2])
