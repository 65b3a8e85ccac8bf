"""y = x W + b."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.layers.linear import Linear, leading_shape, times_rows, transposed_kernels


def linear(inputs, units, **options):
    layer = Linear(units, **options)
    layer.build((None, inputs))
    layer.kernel.assign(np.arange(inputs * units, dtype="float32").reshape(inputs, units))
    if layer.use_bias:
        layer.bias.assign(10 * np.arange(1, units + 1, dtype="float32"))
    return layer


def test_hand_computed():
    # W = [[0 1 2], [3 4 5]], b = [10 20 30]
    outputs = linear(2, 3)(np.array([[[1, 2], [0, -1]]], "float32"))
    np.testing.assert_array_equal(outputs, [[[16, 29, 42], [7, 16, 25]]])


def test_without_bias():
    layer = linear(2, 3, use_bias=False)
    np.testing.assert_array_equal(layer(np.array([[1, 2]], "float32")), [[6, 9, 12]])
    assert [variable.path for variable in layer.variables] == ["linear/kernel"] or len(layer.variables) == 1


@pytest.mark.parametrize("leading", [(2,), (2, 3), (2, 3, 7)])
def test_any_leading_axes(leading):
    x = np.random.default_rng(0).normal(size=(*leading, 5)).astype("float32")
    layer = linear(5, 11)
    expected = x @ np.asarray(layer.kernel) + np.asarray(layer.bias)
    outputs = layer(x)
    assert layer.compute_output_shape(x.shape) == tuple(outputs.shape) == (*leading, 11)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5)


def test_the_gradient_sums_over_all_leading_axes():
    layer, x = linear(2, 3), np.arange(12, dtype="float32").reshape(3, 2, 2)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x))
    kernel, bias = tape.gradient(loss, [layer.kernel.value, layer.bias.value])
    np.testing.assert_array_equal(kernel, [[30] * 3, [36] * 3])  # 0+2+...+10, 1+3+...+11
    np.testing.assert_array_equal(bias, [6, 6, 6])


def test_the_initial_spread_is_stddev():
    layer = Linear(300, stddev=0.3)
    layer.build((None, 200))
    kernel = np.asarray(layer.kernel)
    assert kernel.std() == pytest.approx(0.3, rel=0.02)
    assert np.asarray(layer.bias).tolist() == [0.0] * 300


@pytest.mark.parametrize("shape", [(5,), (1, 1, 5), (7, 1, 5), (2, 3, 5)])
def test_a_kernel_stored_the_other_way_round_gives_the_same(shape):
    layer = linear(5, 11)
    x = np.random.default_rng(0).normal(size=shape if len(shape) > 1 else (2, *shape)).astype("float32")
    expected = layer(x)
    holder = keras.Sequential([layer])
    with transposed_kernels(holder) as variables:
        assert sorted(tuple(variable.shape) for variable in variables) == [(11,), (11, 5)]
        layer.kernel.assign(0 * layer.kernel)  # is not read
        np.testing.assert_allclose(layer(x), expected, rtol=1e-6, atol=1e-5)
    np.testing.assert_array_equal(layer(0 * x), np.broadcast_to(layer.bias, expected.shape))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_every_kernel_for_a_decoding_step_gives_the_same(batch, dtype):
    # small whole numbers, which bfloat16 holds exactly
    rng = np.random.default_rng(0)
    x, table, bias = (rng.integers(-2, 3, shape) for shape in ((batch, 1, 5), (11, 5), (11,)))
    expected = x @ table.T
    for known in (None, batch):
        given = tf.function(times_rows, input_signature=[tf.TensorSpec([known, 1, 5], dtype), tf.TensorSpec([11, 5], dtype)])
        np.testing.assert_array_equal(tf.cast(given(tf.cast(x, dtype), tf.cast(table, dtype)), "int64"), expected)
    with_bias = times_rows(tf.cast(x, dtype), tf.cast(table, dtype), tf.cast(bias, dtype))
    np.testing.assert_array_equal(tf.cast(with_bias, "int64"), expected + bias)


@pytest.mark.parametrize("shape", [(2, 3, 5), (None, 3, 5), (None, None, 5), (0, 1, 5)])
def test_leading_axes_come_back_in_a_reshape(shape):
    sizes = [7 if size is None else size for size in shape]
    back = tf.function(lambda x: tf.reshape(tf.reshape(x, [-1, 5]), [*leading_shape(x), 5]))
    given = back.get_concrete_function(tf.TensorSpec(shape))(tf.ones(sizes))
    assert given.shape == tuple(sizes)
