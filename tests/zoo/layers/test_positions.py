"""Learned and rotary positions."""

import math

import numpy as np
import pytest

from zoo.layers.positions import LearnedPositions, rotary_angles, rotate, sinusoids


def test_learned_positions_are_rows_of_a_table():
    layer = LearnedPositions(5, 3)
    layer.build()
    layer.embeddings.assign(np.arange(15, dtype="float32").reshape(5, 3))
    np.testing.assert_array_equal(layer(np.array([[4, 0]])), [[[12, 13, 14], [0, 1, 2]]])


def test_angles_fall_geometrically_over_the_pairs():
    cos, sin = rotary_angles(np.array([[0, 1, 30], [2, 2, 2]]), width=6, theta=1000.0)
    assert cos.shape == sin.shape == (2, 1, 3, 3)
    # 1000^(-2i/6): 1, 0.1, 0.01
    expected = np.array([[[0, 0, 0], [1, 0.1, 0.01], [30, 3, 0.3]], [[2, 0.2, 0.02]] * 3])[:, None]
    np.testing.assert_allclose(cos, np.cos(expected), atol=1e-6)
    np.testing.assert_allclose(sin, np.sin(expected), atol=1e-6)


def test_pairs_stand_half_a_head_apart():
    cos, sin = np.array([0.0, 1.0], "float32"), np.array([1.0, 0.0], "float32")  # a quarter turn, and none
    turned = rotate(np.array([[[[1, 2, 3, 4]]]], "float32"), (cos, sin))
    np.testing.assert_array_equal(turned, [[[[-3, 2, 1, 4]]]])


def test_sinusoids_tell_distances():
    layer = LearnedPositions(7, 5, from_sinusoids=True)
    layer.build()
    table = np.asarray(layer.embeddings)
    np.testing.assert_allclose(table[0], np.array([0, 0, 0, 1, 1]) * 0.02 * 2**0.5, atol=1e-8)
    np.testing.assert_allclose(table[3] / (0.02 * 2**0.5), [np.sin(3), np.sin(3 / 10_000**0.4), np.sin(3 / 10_000**0.8),
                                                           np.cos(3), np.cos(3 / 10_000**0.4)], rtol=1e-5)  # fmt: skip
    even = np.asarray(sinusoids(7, 6))
    products = even @ even.T
    for distance in range(7):
        along = np.diagonal(products, distance)
        np.testing.assert_allclose(along, along[0], rtol=1e-4)
    assert products[0, 0] == pytest.approx(3) and (products[0, 1:] < 3).all()


def test_rotation_keeps_lengths_and_products_know_only_distances():
    random = np.random.default_rng(0)
    q, k = random.normal(size=(2, 1, 1, 1, 10)).astype("float32")

    def product(m, n):
        turned = [
            np.asarray(rotate(x, rotary_angles(np.array([[p]]), 10, 100.0))) for x, p in ((q, m), (k, n))
        ]  # fmt: skip
        assert np.linalg.norm(turned[0]) == pytest.approx(np.linalg.norm(q), rel=1e-5)
        return float((turned[0] * turned[1]).sum())

    assert product(7, 3) == pytest.approx(product(104, 100), abs=1e-4)
    assert product(0, 0) == pytest.approx(float((q * k).sum()), rel=1e-5)
    assert abs(product(7, 3) - product(3, 7)) > 1e-3


def test_the_dtype_of_what_is_turned_stays():
    import tensorflow as tf

    x = tf.ones((1, 2, 3, 4), tf.bfloat16)
    turned = rotate(x, rotary_angles(np.array([[0, 1, 2]]), 4, 10_000.0))
    assert turned.dtype == tf.bfloat16
    assert float(turned[0, 0, 1, 0]) == pytest.approx(math.cos(1) - math.sin(1), abs=4e-3)
