"""The network and the block of a Transformer.

Shape letters: B batch, T positions, D hidden, F mlp width.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.layers.attention import Attention
from zoo.layers.transformer import MLP, TransformerBlock

B, T, D, F = 2, 3, 6, 11


def filled(layer, shape):
    layer.build(shape)
    random = np.random.default_rng(4)
    for variable in layer.trainable_variables:
        variable.assign(random.normal(0, 0.5, variable.shape).astype("float32"))
    return layer


def inputs():
    return np.random.default_rng(5).normal(size=(B, T, D)).astype("float32")


def test_gelu_network_by_hand():
    mlp = MLP(2)
    mlp.build((None, None, 1))
    mlp.expand.kernel.assign([[1.0, -2.0]])
    mlp.expand.bias.assign([0.0, 1.0])
    mlp.contract.kernel.assign([[10.0], [100.0]])
    mlp.contract.bias.assign([5.0])
    # gelu(1) = 0.841192, gelu(-1) = -0.158808
    np.testing.assert_allclose(mlp(np.ones((1, 1, 1), "float32")), [[[10 * 0.841192 - 100 * 0.158808 + 5]]], rtol=1e-5)


def test_swiglu_network_by_hand():
    mlp = MLP(1, "swiglu", use_bias=False)
    mlp.build((None, None, 1))
    mlp.expand.kernel.assign([[2.0, 3.0]])  # gate, then value
    mlp.contract.kernel.assign([[7.0]])
    silu = 2 / (1 + np.exp(-2))
    np.testing.assert_allclose(mlp(np.ones((1, 1, 1), "float32")), [[[silu * 3 * 7]]], rtol=1e-6)


@pytest.mark.parametrize(("activation", "width"), [("gelu", F), ("swiglu", 2 * F)])
def test_sizes_of_the_network(activation, width):
    mlp = filled(MLP(F, activation, use_bias=False), (None, None, D))
    assert [tuple(v.shape) for v in mlp.trainable_variables] == [(D, width), (F, D)]
    assert mlp(inputs()).shape == (B, T, D)


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("norm_first", [True, False])
def test_where_the_norms_stand(norm, norm_first):
    attention, mlp = Attention(2, 1, 4, name="attention"), MLP(F, name="mlp")
    block = filled(TransformerBlock(attention, mlp, norm=norm, norm_first=norm_first), (None, None, D))
    x, mask = inputs(), np.tril(np.ones((1, T, T), bool))

    def attend(x):
        return np.asarray(attention(x, attention_mask=mask)[0])

    first, second = (lambda x, n=n: np.asarray(n(x)) for n in (block.attention_norm, block.mlp_norm))
    if norm_first:
        between = x + attend(first(x))
        expected = between + np.asarray(mlp(second(between)))
    else:
        between = first(x + attend(x))
        expected = second(between + np.asarray(mlp(between)))
    out, cache = block(x, attention_mask=mask)
    assert cache is None
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_dropout_is_off_unless_training():
    mlp = filled(MLP(F, dropout=0.9), (None, None, D))
    x = inputs()
    np.testing.assert_array_equal(mlp(x), mlp(x, training=False))
    assert (np.asarray(mlp(x, training=True)) == 0).mean() > 0.6


@pytest.mark.parametrize("graph", ["eager", "graph", "xla"])
def test_a_block_computed_again_has_the_same_gradients_and_drops_the_same(graph):
    def train(remat):
        keras.utils.set_random_seed(3)
        attention, mlp = Attention(2, 1, 4, dropout=0.4, name="attention"), MLP(F, dropout=0.3, name="mlp")
        block = filled(TransformerBlock(attention, mlp, remat=remat), (None, None, D))
        calls = []
        block._call = lambda *arguments, call=block._call: (calls.append(1), call(*arguments))[1]

        def step(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = block(x, attention_mask=np.tril(np.ones((1, T, T), bool)), training=True)[0]
                loss = tf.reduce_sum(y**2)
            return [y, *tape.gradient(loss, [x, *(v.value for v in block.trainable_variables)])]

        if graph != "eager":
            step = tf.function(step, jit_compile=graph == "xla", autograph=False)
        steps = [[np.asarray(a) for a in step(tf.constant(inputs()))] for _ in range(2)]
        return steps, [np.asarray(v) for v in block.non_trainable_variables], len(calls)

    kept, seeds, calls = train(remat=False)
    again, seeds_again, calls_again = train(remat=True)
    assert calls_again == (calls if graph == "eager" else 2 * calls)
    np.testing.assert_array_equal(seeds_again, seeds)
    assert not np.allclose(kept[0][0], kept[1][0])  # the next step drops others
    for mine, other in zip(again, kept, strict=True):
        for a, b in zip(mine, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * np.abs(b).max())


def test_nothing_is_computed_again_outside_training():
    block = filled(TransformerBlock(Attention(2, 1, 4), MLP(F), remat=True), (None, None, D))
    mask = np.tril(np.ones((1, T, T), bool))
    expected = block(inputs(), attention_mask=mask)[0]
    np.testing.assert_allclose(block(inputs(), attention_mask=mask, training=True)[0], expected, rtol=1e-6)
