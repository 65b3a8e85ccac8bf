"""Learned, sinusoidal, rotary and relative positions."""

import math

import numpy as np
import pytest
import tensorflow as tf

from zoo.layers.positions import (
    LearnedPositions,
    RelativeBias,
    SinusoidalPositions,
    relative_buckets,
    rotary_angles,
    rotary_frequencies,
    rotate,
    rotate_in_two_rows,
    rotate_pairs,
    sinusoids,
)


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


def _as_the_papers_say(width, theta, scaling, numbers):
    """The frequencies pair by pair, by the conditions on wavelengths and turns that the papers write."""
    made = []
    for i in range(width // 2):
        plain = theta ** (-2 * i / width)
        if scaling == "linear":
            made.append(plain / numbers[0])
        elif scaling == "llama3":
            factor, low, high, length = numbers
            wavelength = 2 * math.pi / plain
            if wavelength < length / high:
                made.append(plain)
            elif wavelength > length / low:
                made.append(plain / factor)
            else:
                smooth = (length / wavelength - low) / (high - low)
                made.append((1 - smooth) * plain / factor + smooth * plain)
        else:
            factor, length, _, fast, slow, rounded = numbers
            pairs = [width * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta)) for turns in (fast, slow)]
            first, last = (math.floor(pairs[0]), math.ceil(pairs[1])) if rounded else pairs
            first, last = max(first, 0), min(last, width - 1)
            gamma = 1 - min(max((i - first) / (last - first), 0), 1)
            made.append((1 - gamma) * plain / factor + gamma * plain)
    return np.array(made)


SCALINGS = [
    ("linear", (4.0,)),
    ("llama3", (8.0, 1.0, 4.0, 8_192.0)),
    ("llama3", (32.0, 1.0, 4.0, 64.0)),
    ("yarn", (4.0, 32_768.0, 1.1386, 32.0, 1.0, 1.0)),
    ("yarn", (16.0, 64.0, 1.0, 8.0, 2.0, 0.0)),
]


@pytest.mark.parametrize(("scaling", "numbers"), SCALINGS)
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
def test_scaled_frequencies_are_those_of_the_papers(scaling, numbers, theta):
    for width in (8, 64, 128):
        got, factor = rotary_frequencies(width, theta, scaling, numbers)
        np.testing.assert_allclose(got, _as_the_papers_say(width, theta, scaling, numbers), rtol=1e-5)
        assert factor == (numbers[2] if scaling == "yarn" else 1.0)
        cos, sin = rotary_angles(np.array([[0, 3]]), width, theta, scaling, numbers)
        np.testing.assert_allclose(cos[0, 0], factor * np.cos(np.outer([0, 3], got)), atol=1e-5)
        np.testing.assert_allclose(sin[0, 0], factor * np.sin(np.outer([0, 3], got)), atol=1e-5)


def test_frequencies_of_llama_3_by_hand():
    """theta 100, R 4: wavelengths 2 pi and 20 pi. L = 40 pi: one turns 20 times, more than 4; the other twice, so 1/3 of it is
    plain."""
    got, _ = rotary_frequencies(4, 100.0, "llama3", (8.0, 1.0, 4.0, 40 * np.pi))
    np.testing.assert_allclose(got, [1.0, 0.1 / 3 + 0.1 / 8 * 2 / 3], rtol=1e-12)


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


def test_sinusoids_of_any_position_in_either_order():
    positions = np.array([[0, 3], [50_000, 1]])
    angles = positions[..., None] / 10_000 ** np.array([0, 0.4, 0.8])  # width 5: three sines and two cosines
    sin, cos = np.sin(angles), np.cos(angles)
    halves, turns = SinusoidalPositions(5)(positions), SinusoidalPositions(5, interleaved=True)(positions)
    np.testing.assert_allclose(halves, np.concatenate([sin, cos[..., :2]], -1), atol=1e-2)  # float32 angles of 50,000
    np.testing.assert_allclose(halves[0], np.concatenate([sin, cos[..., :2]], -1)[0], atol=1e-6)
    expected = np.stack([sin[..., 0], cos[..., 0], sin[..., 1], cos[..., 1], sin[..., 2]], -1)
    np.testing.assert_allclose(turns[0], expected[0], atol=1e-6)
    np.testing.assert_array_equal(sinusoids(4, 5, interleaved=True)[3], turns[0, 1])
    assert not SinusoidalPositions(5).variables


def test_sinusoids_of_opennmt_count_from_one_and_end_at_ten_thousand():
    table = np.asarray(sinusoids(3, 6, opennmt=True))
    rates = np.array([1, 1e-2, 1e-4])
    for row, position in zip(table, (1, 2, 3), strict=True):
        np.testing.assert_allclose(row, [*np.sin(position * rates), *np.cos(position * rates)], rtol=1e-5)
    np.testing.assert_array_equal(SinusoidalPositions(6, opennmt=True)(np.array([[2, 0]]))[0], table[[2, 0]])


def test_pairs_may_be_neighbours():
    cos, sin = np.array([0.0, 1.0], "float32"), np.array([1.0, 0.0], "float32")  # a quarter turn, and none
    turned = rotate_pairs(np.array([[[[1, 2, 3, 4]]]], "float32"), (cos, sin))
    np.testing.assert_array_equal(turned, [[[[-2, 1, 3, 4]]]])


@pytest.mark.parametrize("turn", [rotate, rotate_pairs])
def test_only_the_first_part_of_a_head_may_be_turned(turn):
    x = np.random.default_rng(1).normal(size=(2, 3, 5, 10)).astype("float32")
    angles = rotary_angles(np.arange(5)[None], 4, 100.0)
    turned = np.asarray(turn(x, angles))
    np.testing.assert_array_equal(turned[..., 4:], x[..., 4:])
    np.testing.assert_array_equal(turned[..., :4], turn(x[..., :4], angles))
    assert not np.allclose(turned[:, :, 1:, :4], x[:, :, 1:, :4])


def test_halves_of_a_head_turn_by_rows_of_positions():
    x = np.random.default_rng(1).normal(size=(2, 3, 4, 12)).astype("float32")
    rows = np.array([[[0, 1, 2, 2]], [[0, 0, 0, 1]]])
    angles = [rotary_angles(row, 6, 100.0) for row in rows]
    turned = rotate_in_two_rows(x, angles)
    np.testing.assert_array_equal(turned[..., :6], rotate(x[..., :6], angles[0]))
    np.testing.assert_array_equal(turned[..., 6:], rotate(x[..., 6:], angles[1]))
    np.testing.assert_array_equal(turned[:, :, :3, 6:], x[:, :, :3, 6:])


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
    x = tf.ones((1, 2, 3, 4), tf.bfloat16)
    turned = rotate(x, rotary_angles(np.array([[0, 1, 2]]), 4, 10_000.0))
    assert turned.dtype == tf.bfloat16
    assert float(turned[0, 0, 1, 0]) == pytest.approx(math.cos(1) - math.sin(1), abs=4e-3)


def test_buckets_by_hand():
    # 8 buckets, both sides: 4 each, distances 0 and 1 exactly, then 2 + floor(2 log(r / 2) / log(16 / 2)): 6 is the first of 3.
    assert relative_buckets(8, 16, bidirectional=True).tolist() == [
        *[3] * 11, *[2] * 4, 1, 0, 5, *[6] * 4, *[7] * 11
    ]  # fmt: skip
    # One side: 0 to 3 exactly, then 4 + floor(4 log(r / 4) / log(16 / 4)), whose steps are at 4, 5.66, 8 and 11.3.
    before = [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7, 7]
    assert relative_buckets(8, 16, bidirectional=False).tolist() == before[::-1] + [0] * 16


def test_buckets_are_those_of_t5():
    """32 buckets up to 128, as T5's program computes them in float32."""
    for bidirectional, size in ((True, 16), (False, 32)):
        ours = relative_buckets(32, 128, bidirectional)
        exact = size // 2
        distances = np.arange(128, -1, -1)
        ratio = np.log(np.maximum(distances, 1).astype("float32") / np.float32(exact)) / np.float32(math.log(128 / exact))
        large = np.minimum(exact + (ratio * np.float32(size - exact)).astype(int), size - 1)
        expected = np.where(distances < exact, distances, large)
        np.testing.assert_array_equal(ours[:129], expected)
        np.testing.assert_array_equal(ours[129:], expected[:-1][::-1] + 16 if bidirectional else 0)
    both, one = relative_buckets(32, 128, True)[128:], relative_buckets(32, 128, False)[128::-1]  # by distance, from 0 on
    assert [int(both[r]) for r in (0, 1, 7, 8, 11, 12, 16, 64, 128)] == [0, 17, 23, 24, 24, 25, 26, 30, 31]
    assert [int(one[r]) for r in (0, 1, 15, 16, 18, 19, 32, 64, 128)] == [0, 1, 15, 16, 16, 17, 21, 26, 31]


@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_relative_bias_is_looked_up_by_distance(bidirectional):
    layer = RelativeBias(3, num_buckets=8, max_distance=16, bidirectional=bidirectional)
    layer.build()
    table = np.arange(24, dtype="float32").reshape(8, 3)
    layer.embeddings.assign(table)
    queries, keys = np.array([[0, 5], [30, 2]]), np.array([[0, 1, 5, 40]])
    bias = np.asarray(layer(queries, keys))
    assert bias.shape == (2, 3, 2, 4) and bias.dtype == np.float32
    buckets = relative_buckets(8, 16, bidirectional)
    for b, n, t, s in np.ndindex(bias.shape):
        distance = min(max(keys[0, s] - queries[b, t], -16), 16)
        assert bias[b, n, t, s] == table[buckets[16 + distance], n]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(queries, keys)[:, 1])
    gradient = tf.convert_to_tensor(tape.gradient(loss, layer.embeddings.value))
    assert float(tf.reduce_sum(gradient)) == 16 and not np.asarray(gradient)[:, [0, 2]].any()


@pytest.mark.parametrize("arguments", [(2, 128, True), (1, 8, False), (32, 8, True)])
def test_buckets_that_do_not_fit_are_refused(arguments):
    with pytest.raises(ValueError, match="buckets do not fit distances up to"):
        relative_buckets(*arguments)
