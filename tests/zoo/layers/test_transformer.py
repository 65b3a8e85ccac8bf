"""The network and the block of a Transformer.

Shape letters: B batch, T positions, S positions of a memory, D hidden, F mlp width, N heads.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from zoo.layers.activations import named_activation
from zoo.layers.attention import Attention
from zoo.layers.masks import MaskRule
from zoo.layers.transformer import MLP, TransformerBlock

B, T, S, D, F, N = 2, 3, 5, 6, 11, 2


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


@pytest.mark.parametrize(("activation", "expected"), [
    ("relu", [0.0, 3.0]), ("silu", [-0.238406, 2.857722]), ("gelu", [-0.045402, 2.996363]),
    ("gelu_exact", [-0.045500, 2.995950]),
])  # fmt: skip
def test_activations_by_hand(activation, expected):
    mlp = MLP(2, activation, use_bias=False)
    mlp.build((None, None, 1))
    mlp.expand.kernel.assign([[-2.0, 3.0]])
    mlp.contract.kernel.assign([[1.0], [100.0]])
    np.testing.assert_allclose(mlp(np.ones((1, 1, 1), "float32"))[0, 0, 0], expected[0] + 100 * expected[1], rtol=1e-5)


@pytest.mark.parametrize(("activation", "gate"), [
    ("geglu", 1.954598), ("geglu_exact", 1.954500), ("reglu", 2.0), ("swiglu", 1.761594),
])  # fmt: skip
def test_gated_networks_by_hand(activation, gate):
    mlp = MLP(1, activation, use_bias=False)
    mlp.build((None, None, 1))
    mlp.expand.kernel.assign([[2.0, 3.0]])  # gate, then value
    mlp.contract.kernel.assign([[7.0]])
    np.testing.assert_allclose(mlp(np.ones((1, 1, 1), "float32")), [[[gate * 3 * 7]]], rtol=1e-6)


def test_no_other_activation():
    with pytest.raises(ValueError, match="activation must be gelu or .* or relu or .* or geglu .*, got 'tanh'."):
        MLP(8, "tanh")
    with pytest.raises(ValueError, match="activation must be gelu or gelu_exact or relu or silu, got 'swiglu'."):
        named_activation("swiglu")  # a gated one is not a function of one number


@pytest.mark.parametrize(("activation", "width"), [("gelu", F), ("swiglu", 2 * F), ("geglu", 2 * F), ("relu", F)])
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


# With a memory


def crossing(**options):
    attention, mlp = Attention(N, 1, 4, name="attention"), MLP(F, name="mlp")
    block = TransformerBlock(attention, mlp, cross=Attention(N, 1, 4, cross=True, name="cross"), name="block", **options)
    return filled(block, (None, None, D))


def memory_and_bias():
    random = np.random.default_rng(6)
    return (random.normal(size=shape).astype("float32") for shape in ((B, S, D), (1, N, T, T)))


RULES = dict(
    attention_mask=MaskRule(causal=True), cross_mask=MaskRule(padding_mask=np.arange(S) < np.array([[5], [2]]))
)  # fmt: skip


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_third_sublayer_reads_a_memory(norm_first):
    block, x = crossing(norm_first=norm_first), inputs()
    memory, bias = memory_and_bias()
    sublayers = [
        (block.attention_norm, lambda x: block.attention(x, attention_mask=RULES["attention_mask"], bias=bias)[0]),
        (block.cross_norm, lambda x: block.cross(x, memory=memory, attention_mask=RULES["cross_mask"])[0]),
        (block.mlp_norm, block.mlp),
    ]
    expected = x
    for norm, sublayer in sublayers:
        expected = expected + sublayer(norm(expected)) if norm_first else norm(expected + sublayer(expected))
    out, cache, weights = block(x, memory=memory, bias=bias, with_weights=True, **RULES)
    assert cache is None and weights.shape == (B, N, T, S)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    kept = block.cross.memory_keys_values(memory)
    np.testing.assert_allclose(block(x, memory=kept, bias=bias, **RULES)[0], expected, rtol=1e-5, atol=1e-5)
    assert [v.path for v in block.variables if "cross" in v.path] == [
        f"block/cross{name}"
        for name in ("/query/kernel", "/query/bias", "/key_value/kernel", "/key_value/bias",
                     "/output_projection/kernel", "/output_projection/bias", "_norm/gamma", "_norm/beta")
    ]  # fmt: skip


@pytest.mark.parametrize("precomputed", [False, True])
def test_memory_and_bias_have_their_gradients_when_computed_again(precomputed):
    def gradients(remat):
        block = crossing(remat=remat)

        @tf.function(autograph=False)
        def compute(x, memory, bias):
            with tf.GradientTape() as tape:
                tape.watch((x, memory, bias))
                given = block.cross.memory_keys_values(memory) if precomputed else memory
                y = block(x, memory=given, bias=bias, training=True, **RULES)[0]
                loss = tf.reduce_sum(y**2)
            return tape.gradient(loss, [x, memory, bias, *(v.value for v in block.trainable_variables)])

        return compute(*map(tf.constant, (inputs(), *memory_and_bias())))

    for again, kept in zip(gradients(True), gradients(False), strict=True):
        assert np.abs(kept).max() > 1e-3
        np.testing.assert_allclose(again, kept, rtol=1e-5, atol=1e-5 * np.abs(kept).max())


def test_a_memory_goes_with_a_cross_attention():
    memory, _ = memory_and_bias()
    block = filled(TransformerBlock(Attention(N, 1, 4), MLP(F)), (None, None, D))
    for call in (
        lambda: block(inputs(), memory=memory), lambda: crossing()(inputs()), lambda: block(inputs(), with_weights=True)
    ):  # fmt: skip
        with pytest.raises(ValueError, match="go with a block that has a cross-attention"):
            call()


@pytest.mark.parametrize(("dtype", "precision"), [("float32", 1e-6), ("bfloat16", 2**-8)])
def test_silu_of_one_position(dtype, precision):
    x = ops.cast(np.linspace(-120, 120, 961, dtype=np.float32).reshape(1, 1, -1), dtype)
    y = named_activation("silu")(x)
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    x, y = (np.array(ops.cast(each, "float32"), np.float64) for each in (x, y))
    np.testing.assert_allclose(y, x / (1 + np.exp(-x)), rtol=precision, atol=1e-36)
