"""What a step that is compiled by XLA computes in another form gives the same numbers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.layers.fusion import add_bias, compiled_whole, sum_of_rows


@pytest.mark.parametrize("number", [1, 13, 30, 96, 2 * 17])
def test_sum_of_rows(number):
    x = np.random.default_rng(0).integers(-9, 9, (number, 5)).astype("float32")  # integers: their sums are exact
    np.testing.assert_array_equal(sum_of_rows(tf.constant(x)), x.sum(0))
    with compiled_whole():
        np.testing.assert_array_equal(sum_of_rows(tf.constant(x)), x.sum(0))


def test_a_bias_has_the_same_gradients_in_a_whole_step():
    x, weights = np.random.default_rng(0).integers(-9, 9, (2, 12, 5)).astype("float32")
    bias = keras.Variable(np.arange(5.0))

    @tf.function(jit_compile=True, autograph=False)
    def step(x):
        with compiled_whole(), tf.GradientTape() as tape:
            tape.watch(x)
            y = add_bias(x, bias)
            value = tf.reduce_sum(y * weights)
        return y, *tape.gradient(value, (x, bias.value))

    for seen, right in zip(step(tf.constant(x)), (x + np.arange(5), weights, weights.sum(0)), strict=True):
        np.testing.assert_array_equal(seen, right)
