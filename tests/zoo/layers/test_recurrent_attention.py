"""Attention of a recurrent decoder: each score by its formula, one pair of vectors at a time, and equal to Keras's layers.

Sizes: B 2 rows, T 3 target positions, S 5 source positions, D 4 wide queries, X 6 wide memory.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.config import Refusal
from zoo.layers.forms import ATTENTION_SCORES
from zoo.layers.recurrent_attention import RecurrentAttention

B, T, S, D, X = 2, 3, 5, 4, 6
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], bool)
CLOSE = dict(rtol=1e-5, atol=1e-5)


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(0, 0.7, shape).astype("float32")


def width_of(score):
    return D if score == "dot" else X


def layer_of(score, **kwargs):
    """A layer with weights that no initialiser would choose."""
    layer = RecurrentAttention(score, **kwargs)
    layer.build((None, None, D), (None, None, width_of(score)))
    layer.set_weights([normal(*w.shape, seed=i) for i, w in enumerate(layer.weights)])
    return layer


def one_score(layer, h, m):
    """score(h, m) of two vectors, by the formula."""
    if layer.score == "dot":
        return sum(h[i] * m[i] for i in range(D))
    w = {v.path.split("/", 1)[1]: np.asarray(v, "float64") for v in layer.weights}
    if layer.score == "general":  # h' W m, where the kernel is W'
        return sum(h[i] * w["memory/kernel"][j, i] * m[j] for i in range(D) for j in range(X))
    return sum(
        w["vector"][a, 0] * np.tanh(h @ w["query/kernel"][:, a] + m @ w["memory/kernel"][:, a]) for a in range(D)
    )  # fmt: skip


def by_hand(layer, query, memory, mask):
    weights = np.zeros((B, T, S))
    for b in range(B):
        for t in range(T):
            for s in range(S):
                if mask[b, s]:
                    weights[b, t, s] = np.exp(one_score(layer, query[b, t].astype(float), memory[b, s].astype(float)))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bts,bsx->btx", weights, memory), weights


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
@pytest.mark.parametrize("score", ATTENTION_SCORES)
def test_each_score_is_its_formula(score, mask):
    layer, query, memory = layer_of(score), normal(B, T, D, seed=1), normal(B, S, width_of(score), seed=2)
    context, weights = layer(query, layer.memory_keys(memory), memory, mask)
    expected = by_hand(layer, query, memory, np.ones((B, S), bool) if mask is None else mask)
    np.testing.assert_allclose(context, expected[0], **CLOSE)
    np.testing.assert_allclose(weights, expected[1], **CLOSE)


@pytest.mark.parametrize("score", ATTENTION_SCORES)
def test_one_query_alone_is_that_query_of_many(score):
    layer, query, memory = layer_of(score), normal(B, T, D, seed=1), normal(B, S, width_of(score), seed=2)
    keys = layer.memory_keys(memory)
    whole = layer(query, keys, memory, MASK)
    for t in range(T):
        for one, many in zip(layer(query[:, t : t + 1], keys, memory, MASK), whole, strict=True):
            np.testing.assert_allclose(one[:, 0], many[:, t], **CLOSE)


@pytest.mark.parametrize(("score", "theirs"), [("dot", keras.layers.Attention), ("additive", keras.layers.AdditiveAttention)])
def test_values_and_gradients_are_those_of_keras(score, theirs):
    memory, query = tf.constant(normal(B, S, D, seed=2)), tf.constant(normal(B, T, D, seed=1))
    ours, theirs = RecurrentAttention(score), theirs(use_scale=score == "additive")
    ours.build((None, None, D), (None, None, D))
    theirs.build([(B, T, D), (B, S, D), (B, S, D)])
    for weight in ours.weights:  # theirs adds queries and keys as they are
        weight.assign(np.eye(D) if weight.path.endswith("kernel") else normal(D, 1))
    theirs.set_weights([normal(D, 1)[:, 0]] if theirs.weights else [])

    def gradients(run):
        with tf.GradientTape() as tape:
            tape.watch([query, memory])
            total = tf.reduce_sum(run() * normal(B, T, D, seed=5))
        return tape.gradient(total, [query, memory])

    mine = gradients(lambda: ours(query, ours.memory_keys(memory), memory, MASK)[0])
    other = gradients(lambda: theirs([query, memory, memory], mask=[None, tf.constant(MASK)]))
    for a, b in zip(mine, other, strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)


def test_weights_are_float32_and_the_context_keeps_the_compute_dtype():
    layer, memory = layer_of("general", dtype="mixed_bfloat16"), tf.cast(normal(B, S, X), "bfloat16")
    context, weights = layer(tf.cast(normal(B, T, D), "bfloat16"), layer.memory_keys(memory), memory)
    assert (context.dtype, weights.dtype) == (tf.bfloat16, tf.float32)


def test_what_cannot_be_is_refused():
    with pytest.raises(Refusal, match="one of dot, general, additive, got 'concat'"):
        RecurrentAttention("concat")
    with pytest.raises(Refusal, match="as wide as its queries, 4, got 6; take general"):
        RecurrentAttention("dot").build((None, None, D), (None, None, X))
