"""Attention against numbers worked out by hand and a plain NumPy loop.

Shape letters: B batch, T queries, S keys, D hidden, N query heads, K key/value heads, H head width.
"""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests import tiny_models
from zoo.layers.attention import Attention, append_to_cache, attend
from zoo.layers.masks import MaskRule
from zoo.layers.positions import rotary_angles, rotate_pairs

B, T, D, N, K, H = 2, 3, 5, 6, 2, 4


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attend_by_loops(q, k, v, mask, bias=None, scale=None):
    """One head and one query at a time: the output and the weights."""
    out, weights = np.zeros_like(q), np.zeros((*q.shape[:3], k.shape[2]))
    for b, n, t in np.ndindex(q.shape[:3]):
        shared = n // (q.shape[1] // k.shape[1])
        seen = [s for s in range(k.shape[2]) if mask is None or mask[b % mask.shape[0], t, s]]
        scores = np.array([q[b, n, t] @ k[b, shared, s] for s in seen]) * (
            1 / math.sqrt(q.shape[3]) if scale is None else scale
        )
        if bias is not None:
            scores = scores + bias[b % bias.shape[0], n, t, seen]
        weights[b, n, t, seen] = softmax(scores)
        out[b, n, t] = weights[b, n, t] @ v[b, shared]
    return out, weights


def test_hand_computed():
    # scores 0 and ln 3, so weights 1/4 and 3/4
    q, k, v = (np.array(x, "float32").reshape(1, 1, -1, 1) for x in ([1], [0, math.log(3)], [4, 8]))
    np.testing.assert_allclose(attend(q, k, v, None), [[[[7.0]]]], rtol=1e-6)
    np.testing.assert_allclose(attend(q, k, v, np.array([[[True, False]]])), [[[[4.0]]]], rtol=1e-6)
    # a head of width 4: scores are halved, weights sqrt(1):sqrt(3)
    q4, k4, v4 = (np.concatenate([x, np.zeros((*x.shape[:3], 3), "float32")], -1) for x in (q, k, v))
    weights = np.array([1, math.sqrt(3)]) / (1 + math.sqrt(3))
    np.testing.assert_allclose(attend(q4, k4, v4, None)[0, 0, 0, 0], weights @ [4, 8], rtol=1e-6)


@pytest.mark.parametrize("num_kv_heads", [1, 2, 3, 6])
@pytest.mark.parametrize("masked", [None, "shared", "row"])
def test_grouped_heads_equal_the_loop(num_kv_heads, masked):
    random = np.random.default_rng(num_kv_heads)
    q = random.normal(size=(B, N, T, H)).astype("float32")
    k, v = random.normal(size=(2, B, num_kv_heads, 7, H)).astype("float32")
    mask = None
    if masked:
        mask = random.random((1 if masked == "shared" else B, T, 7)) < 0.6
        mask[..., 0] = True
    np.testing.assert_allclose(attend(q, k, v, mask), attend_by_loops(q, k, v, mask)[0], rtol=1e-5, atol=1e-6)


def test_a_query_that_sees_nothing_gives_finite_numbers():
    x = np.ones((1, 1, 2, 3), "float32")
    out = attend(x, x, x, np.array([[[False, False], [True, False]]]))
    assert np.isfinite(out).all()
    np.testing.assert_allclose(out[0, 0, 1], [1, 1, 1], rtol=1e-6)


def test_the_dtype_of_the_queries_stays():
    q = tf.ones((1, 1, 1, 1), tf.bfloat16)
    k = tf.constant([[[[0.0], [1.0]]]], tf.bfloat16)
    v = tf.constant([[[[0.0], [1.0]]]], tf.bfloat16)
    out = attend(q, k, v, None)
    assert out.dtype == tf.bfloat16
    assert float(out[0, 0, 0, 0]) == pytest.approx(1 / (1 + math.exp(-1)), abs=3e-3)


def test_the_cache_is_written_from_its_index_on_and_nowhere_else():
    cache = -np.arange(B * K * 5 * H, dtype="float32").reshape(B, K, 5, H)
    new = 1 + np.arange(B * K * 2 * H, dtype="float32").reshape(B, K, 2, H)
    before = tf.constant(cache)
    written = append_to_cache(before, tf.constant(new), tf.constant(2))
    np.testing.assert_array_equal(written, np.concatenate([cache[:, :, :2], new, cache[:, :, 4:]], axis=2))
    np.testing.assert_array_equal(before, cache)  # whoever holds the old one keeps it


def layer(**options):
    attention = Attention(N, K, H, **options)
    attention.build((None, None, D))
    random = np.random.default_rng(1)
    for variable in attention.trainable_variables:
        variable.assign(random.normal(0, 0.5, variable.shape).astype("float32"))
    return attention


def by_hand(attention, x, mask, angles=None, bias=None):
    """The layer in NumPy: q, k and v side by side in one product, heads, attention, output."""
    qkv = x @ np.asarray(attention.qkv.kernel)
    if attention.use_bias:
        qkv = qkv + np.asarray(attention.qkv.bias)
    heads = qkv.reshape(*x.shape[:2], N + 2 * K, H).transpose(0, 2, 1, 3)
    q, k, v = heads[:, :N], heads[:, N : N + K], heads[:, N + K :]
    if attention.normalize_qk:
        norms = (attention.query_norm, attention.key_norm)
        q, k = (
            a / np.sqrt((a**2).mean(-1, keepdims=True) + 1e-6) * np.asarray(norm.gamma)
            for a, norm in zip((q, k), norms, strict=True)
        )
    if angles is not None:
        cos, sin = map(np.asarray, angles)
        q, k = (np.concatenate([a[..., :2] * cos - a[..., 2:] * sin, a[..., 2:] * cos + a[..., :2] * sin], -1) for a in (q, k))
    out = attend_by_loops(q, k, v, mask, bias, attention.scale)[0].transpose(0, 2, 1, 3).reshape(*x.shape[:2], N * H)
    out = out @ np.asarray(attention.output_projection.kernel)
    return out + np.asarray(attention.output_projection.bias) if attention.use_bias else out


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("normalize_qk", [True, False])
@pytest.mark.parametrize("rotary", [True, False])
def test_the_layer_equals_numpy(use_bias, normalize_qk, rotary):
    attention = layer(use_bias=use_bias, normalize_qk=normalize_qk)
    x = np.random.default_rng(2).normal(size=(B, T, D)).astype("float32")
    mask = np.tril(np.ones((1, T, T), bool))
    angles = rotary_angles(np.array([[4, 5, 6]]), H, 100.0) if rotary else None
    out, cache = attention(x, attention_mask=mask, angles=angles)
    assert cache is None
    np.testing.assert_allclose(out, by_hand(attention, x, mask, angles), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["plain", "rows", "blockwise"])
@pytest.mark.parametrize("prefix", [None, np.array([3, 2], np.int32)])
def test_a_cached_pass_in_pieces_equals_the_whole(form, prefix):
    """One rule for both; queries stand from `query_offset` on among the keys. Prefixes are in the first piece."""
    attention = layer(normalize_qk=True, form=form)
    random = np.random.default_rng(3)
    x, bias = random.normal(size=(B, 7, D)).astype("float32"), random.normal(size=(1, N, 7, 8)).astype("float32")
    whole, _ = attention(x, attention_mask=MaskRule(True, prefix_lengths=prefix), bias=bias[..., :7])
    length, start, pieces = 8, 0, []
    cache = {name: tf.zeros((B, K, length, H)) for name in ("keys", "values")}
    for size in (3, 1, 2, 1):
        rule = MaskRule(True, prefix_lengths=prefix, query_offset=tf.constant(start))
        out, cache = attention(
            x[:, start : start + size], attention_mask=rule, bias=bias[:, :, start : start + size],
            cache={**cache, "index": tf.constant(start)},
        )  # fmt: skip
        pieces.append(out)
        start += size
    np.testing.assert_allclose(np.concatenate(pieces, 1), whole, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(cache["keys"][:, :, 7:], 0)


def test_dropout_acts_on_the_output_while_training_only():
    attention = layer(dropout=0.5)
    x = np.ones((1, 50, D), "float32")
    still, _ = attention(x, training=False)
    dropped = np.asarray(attention(x, training=True)[0])
    share = (dropped == 0).mean()
    assert 0.3 < share < 0.7
    np.testing.assert_allclose(dropped[dropped != 0], 2 * np.asarray(still)[dropped != 0], rtol=1e-5)


def test_the_output_projection_starts_smaller_when_told():
    attention = Attention(8, 8, 16, output_stddev=0.003)
    attention.build((None, None, 96))
    assert np.asarray(attention.output_projection.kernel).std() == pytest.approx(0.003, rel=0.05)
    assert np.asarray(attention.qkv.kernel).std() == pytest.approx(0.02, rel=0.05)


# To another sequence


def crossed(**options):
    return layer(cross=True, **options)


def cross_by_hand(attention, x, memory, mask, bias=None):
    """Queries of x, keys and values of the memory, side by side in one product."""

    def product(linear, a, heads):
        y = a @ np.asarray(linear.kernel) + (np.asarray(linear.bias) if attention.use_bias else 0)
        return y.reshape(*a.shape[:2], heads, H).transpose(0, 2, 1, 3)

    q, (k, v) = product(attention.query, x, N), np.split(product(attention.key_value, memory, 2 * K), 2, axis=1)
    out, weights = attend_by_loops(q, k, v, mask, bias, attention.scale)
    out = out.transpose(0, 2, 1, 3).reshape(*x.shape[:2], N * H) @ np.asarray(attention.output_projection.kernel)
    return out + (np.asarray(attention.output_projection.bias) if attention.use_bias else 0), weights


def sequences(num_memory=7):
    random = np.random.default_rng(6)
    return random.normal(size=(B, T, D)).astype("float32"), random.normal(size=(B, num_memory, D)).astype("float32")


PADDING = np.arange(7) < np.array([[7], [4]])


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("form", ["auto", "blockwise"])
def test_attention_to_a_memory_equals_numpy(use_bias, form):
    attention, (x, memory) = crossed(use_bias=use_bias, form=form), sequences()
    rule = MaskRule(padding_mask=PADDING)
    expected, weights = cross_by_hand(attention, x, memory, np.repeat(PADDING[:, None], T, axis=1))
    out, cache = attention(x, memory=memory, attention_mask=rule)
    assert cache is None
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    out, _, ours = attention(x, memory=memory, attention_mask=rule, with_weights=True)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours, weights, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.sum(ours, -1), 1, rtol=1e-5)
    assert (np.asarray(ours)[1, :, :, 4:] == 0).all()


def test_keys_and_values_of_a_memory_are_made_once():
    attention, (x, memory) = crossed(normalize_qk=True), sequences()
    keys, values = attention.memory_keys_values(memory)
    assert keys.shape == values.shape == (B, K, 7, H)
    whole, _ = attention(x, memory=memory, attention_mask=MaskRule(padding_mask=PADDING))
    for t in range(T):  # one query after the other, as in decoding
        step = x[:, t : t + 1]
        out, _, weights = attention(
            step, memory=(keys, values), attention_mask=MaskRule(padding_mask=PADDING), with_weights=True
        )
        np.testing.assert_allclose(out[:, 0], whole[:, t], rtol=1e-5, atol=1e-5)
        assert weights.shape == (B, N, 1, 7)


def test_a_memory_may_be_of_another_width():
    attention = Attention(N, K, H, cross=True)
    attention.build((None, None, D), (None, None, D + 2))
    assert attention(np.ones((B, T, D)), memory=np.ones((B, 2, D + 2)))[0].shape == (B, T, D)


def test_which_weights_there_are():
    names = {cross: [v.path.split("/", 1)[1] for v in layer(cross=cross).variables] for cross in (False, True)}
    output = ["output_projection/kernel", "output_projection/bias"]
    assert names[False] == ["qkv/kernel", "qkv/bias", *output]
    assert names[True] == ["query/kernel", "query/bias", "key_value/kernel", "key_value/bias", *output]


@pytest.mark.parametrize("cross", [False, True])
def test_a_memory_without_a_cross_attention_is_refused_and_the_reverse(cross):
    x, memory = sequences()
    with pytest.raises(ValueError, match=f"cross={cross} takes {'a' if cross else 'no'} memory"):
        layer(cross=cross)(x, memory=None if cross else memory)


@pytest.mark.parametrize("num_kv_heads", [2, 6])
@pytest.mark.parametrize("num_queries", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_a_bias_is_added_to_the_scores_that_a_scale_multiplies(num_kv_heads, num_queries, masked):
    random = np.random.default_rng(7)
    q = random.normal(size=(B, N, num_queries, H)).astype("float32")
    k, v = random.normal(size=(2, B, num_kv_heads, 5, H)).astype("float32")
    mask = random.random((B, num_queries, 5)) < 0.7 if masked else None
    if masked:
        mask[..., 0] = True
    for batch in (1, B):
        bias = random.normal(size=(batch, N, num_queries, 5)).astype("float32")
        expected, weights = attend_by_loops(q, k, v, mask, bias, 1.0)
        out, ours = attend(q, k, v, mask, bias, 1.0, with_weights=True)
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ours, weights, rtol=1e-4, atol=1e-6)


def test_the_layer_hands_on_bias_and_scale():
    plain, attention = layer(), layer(scale=1.0)
    x = np.random.default_rng(2).normal(size=(B, T, D)).astype("float32")
    rule, bias = MaskRule(causal=True), np.random.default_rng(8).normal(size=(1, N, T, T)).astype("float32")
    for a in (plain, attention):
        expected = by_hand(a, x, np.tril(np.ones((1, T, T), bool)), bias=bias)
        np.testing.assert_allclose(a(x, attention_mask=rule, bias=bias)[0], expected, rtol=1e-4, atol=1e-5)


def test_the_rotation_is_what_it_is_told():
    x = np.random.default_rng(2).normal(size=(B, T, D)).astype("float32")
    angles = rotary_angles(np.array([[4, 5, 6]]), H, 100.0)
    halves, pairs = layer(), layer(rotation=rotate_pairs)
    order = np.arange(H).reshape(2, H // 2).T.ravel()  # head numbers 0 2 1 3: neighbours become halves
    for a, b in zip(halves.trainable_variables, pairs.trainable_variables, strict=True):
        value = np.asarray(a).copy()
        if "qkv" in a.path:
            value = value.reshape(-1, N + 2 * K, H)
            value[:, : N + K] = value[:, : N + K][..., order]
        b.assign(value.reshape(a.shape))
    rule = MaskRule(causal=True)
    expected = halves(x, attention_mask=rule, angles=angles)[0]
    np.testing.assert_allclose(pairs(x, attention_mask=rule, angles=angles)[0], expected, rtol=1e-4, atol=1e-5)


def test_one_token_alone_is_no_reason_for_a_warning(recwarn):
    model = tiny_models.create("gpt", max_length=8)
    model(np.array([[3]], np.int32))
    assert not [warning for warning in recwarn if "softmax" in str(warning.message)]
