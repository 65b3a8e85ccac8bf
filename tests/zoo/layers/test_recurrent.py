"""Recurrent layers: equal to Keras's and PyTorch's in values and gradients; loops written out and scanned; masks.

Sizes: B 3 rows, T 7 steps, X 2 inputs, D 5 hidden.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.layers import recurrent
from zoo.layers.recurrent import Bidirectional, Recurrent

B, T, X, D = 3, 7, 2, 5
KERAS = {
    "rnn": lambda: keras.layers.SimpleRNN(D, return_sequences=True, return_state=True),
    "gru": lambda: keras.layers.GRU(D, return_sequences=True, return_state=True, reset_after=True),
    "lstm": lambda: keras.layers.LSTM(D, return_sequences=True, return_state=True),
}
CELLS = sorted(KERAS)
CLOSE = dict(rtol=1e-5, atol=1e-5)


@pytest.fixture(params=["written out", "scanned"])
def loop(request, monkeypatch):
    if request.param == "scanned":
        monkeypatch.setattr(recurrent, "UNROLLED_STEPS", 0)
    return request.param


def normal(*shape, seed=0, scale=0.7):
    return np.random.default_rng([seed, *shape]).normal(0, scale, shape).astype("float32")


def layer_of(cell, **kwargs):
    """A layer with weights that no initialiser would choose."""
    layer = Recurrent(D, cell, **kwargs)
    layer.build((None, None, X))
    layer.set_weights([normal(*w.shape, seed=i) for i, w in enumerate(layer.weights)])
    return layer


def state_of(layer, seed=1):
    return tuple(tf.constant(normal(B, D, seed=seed + i)) for i, _ in enumerate(layer.state_names))


def everything(run, layer, inputs, state, jit_compile=False):
    """Outputs, last states, and the gradients of a weighted sum of both for inputs, first states and weights."""

    def compute(inputs, *state):
        with tf.GradientTape() as tape:
            tape.watch([inputs, *state])
            outputs, last = run(inputs, state)
            total = tf.reduce_sum(outputs * normal(*outputs.shape, seed=5))
            total += sum(tf.reduce_sum(s * normal(*s.shape, seed=6 + i)) for i, s in enumerate(last))
        sources = [inputs, *state, *(w.value for w in layer.trainable_variables)]
        return outputs, *last, *tape.gradient(total, sources)

    results = tf.function(compute, jit_compile=jit_compile)(tf.constant(inputs), *state)
    return [np.asarray(value) for value in results]


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("cell", CELLS)
def test_values_and_gradients_are_those_of_keras(cell, loop, jit_compile):
    ours, theirs = layer_of(cell), KERAS[cell]()
    theirs.build((None, None, X))
    theirs.set_weights(ours.get_weights())

    def run_theirs(inputs, state):
        outputs, *last = theirs(inputs, initial_state=list(state))
        return outputs, last

    inputs, state = normal(B, T, X), state_of(ours)
    mine = everything(lambda x, s: ours(x, s), ours, inputs, state, jit_compile)
    other = everything(run_theirs, theirs, inputs, state)
    assert len(mine) == len(other) == 1 + 2 * len(state) + 1 + 3
    for a, b in zip(mine, other, strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)


def gates_of_torch(cell, array):
    """PyTorch's GRU has r before z in the last axis, ours z before r; the other cells agree."""
    if cell != "gru":
        return array
    z, r, n = np.split(np.asarray(array), 3, axis=-1)
    return np.concatenate([r, z, n], axis=-1)


@pytest.mark.parametrize("cell", CELLS)
def test_values_and_gradients_are_those_of_torch(cell):
    torch = pytest.importorskip("torch", reason="parity needs the extra [bench]: torch is not installed")
    ours = layer_of(cell)
    theirs = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[cell](X, D, batch_first=True)
    kernel, recurrent_kernel, bias = (gates_of_torch(cell, w) for w in ours.get_weights())
    input_bias, recurrent_bias = bias if cell == "gru" else (bias, 0 * bias)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(torch.tensor(kernel.T))
        theirs.weight_hh_l0.copy_(torch.tensor(recurrent_kernel.T))
        theirs.bias_ih_l0.copy_(torch.tensor(input_bias))
        theirs.bias_hh_l0.copy_(torch.tensor(recurrent_bias))
    inputs, state = normal(B, T, X), state_of(ours)
    mine = everything(lambda x, s: ours(x, s), ours, inputs, state)
    mine[-3:] = [gates_of_torch(cell, gradient) for gradient in mine[-3:]]

    x = torch.tensor(inputs, requires_grad=True)
    first = [torch.tensor(np.asarray(s)[None], requires_grad=True) for s in state]
    outputs, last = theirs(x, tuple(first) if cell == "lstm" else first[0])
    last = last if cell == "lstm" else (last,)
    total = (outputs * torch.tensor(normal(B, T, D, seed=5))).sum()
    total = total + sum((s[0] * torch.tensor(normal(B, D, seed=6 + i))).sum() for i, s in enumerate(last))
    total.backward()
    biases = theirs.bias_ih_l0.grad
    if cell == "gru":
        biases = torch.stack([biases, theirs.bias_hh_l0.grad])
    other = [outputs, *(s[0] for s in last), x.grad, *(s.grad[0] for s in first)]
    other += [theirs.weight_ih_l0.grad.T, theirs.weight_hh_l0.grad.T, biases]
    for a, b in zip(mine, other, strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), **CLOSE)


def test_lstm_by_hand():
    layer = Recurrent(1, "lstm")
    layer.build((None, None, 1))
    layer.set_weights([np.zeros((1, 4)), np.zeros((1, 4)), np.log([1.0, 3.0, 1.0, 4.0])])  # i 1/2, f 3/4, o 4/5
    outputs, (h, c) = layer(np.ones((1, 2, 1), "float32"), (tf.constant([[9.0]]), tf.constant([[2.0]])))
    first = 3 / 4 * 2
    second = 3 / 4 * first
    np.testing.assert_allclose(c, [[second]], rtol=1e-6)
    np.testing.assert_allclose(outputs, [[[4 / 5 * np.tanh(first)], [4 / 5 * np.tanh(second)]]], rtol=1e-6)
    np.testing.assert_array_equal(h, outputs[:, -1])


def test_the_forget_gate_starts_open_and_the_rest_at_zero():
    layer = Recurrent(2, "lstm", forget_bias=1.5)
    layer.build((None, None, 3))
    np.testing.assert_array_equal(layer.bias, [0, 0, 1.5, 1.5, 0, 0, 0, 0])


@pytest.mark.parametrize("cell", CELLS)
def test_no_state_is_a_state_of_zeros(cell):
    layer, inputs = layer_of(cell), normal(B, T, X)
    zeros = tuple(tf.zeros((B, D)) for _ in layer.state_names)
    for a, b in zip(tf.nest.flatten(layer(inputs)), tf.nest.flatten(layer(inputs, zeros)), strict=True):
        np.testing.assert_array_equal(a, b)


def masked_by_hand(layer, inputs, state, keep, starts):
    """Each row alone, cut where documents start, its dropped steps left out; a dropped step repeats the last output."""
    rows = []
    for b in range(B):
        now, outputs = tuple(s[b : b + 1] for s in state), []
        for t in range(T):
            if starts[b, t]:
                now = tuple(tf.zeros_like(s) for s in now)
            if keep[b, t]:
                _, now = layer(inputs[b : b + 1, t : t + 1], now)
            outputs.append(now[0])
        rows.append((tf.stack(outputs, 1), *now))
    outputs, *last = (tf.concat(column, 0) for column in zip(*rows, strict=True))
    return outputs, last


@pytest.mark.parametrize("cell", CELLS)
def test_masks_leave_and_forget_the_state(cell, loop):
    keep = np.array([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 0, 1, 0, 0], [1] * 7], bool)
    starts = np.array([[0, 0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 1, 1]], bool)
    layer, inputs = layer_of(cell), normal(B, T, X)
    state = state_of(layer)
    mine = everything(lambda x, s: layer(x, s, keep=keep, starts=starts), layer, inputs, state)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recurrent, "UNROLLED_STEPS", T)  # by hand each call is of one step, which needs no loop
        other = everything(lambda x, s: masked_by_hand(layer, x, s, keep, starts), layer, inputs, state)
    for a, b in zip(mine, other, strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)


@pytest.mark.parametrize("cell", CELLS)
def test_pieces_with_their_state_are_the_whole(cell, loop):
    layer, inputs = layer_of(cell), normal(B, T, X)
    whole, last = layer(inputs)
    pieces, state = [], None
    for piece in np.split(inputs, [1, 4], axis=1):
        outputs, state = layer(piece, state)
        pieces.append(outputs)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, **CLOSE)
    for a, b in zip(state, last, strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)


@pytest.mark.parametrize("cell", CELLS)
def test_sizes_unknown_to_the_graph(cell):
    layer, inputs, keep = layer_of(cell), normal(B, T, X), np.arange(T) >= [[0], [2], [5]]

    def gradient(inputs, keep):
        with tf.GradientTape() as tape:
            outputs, state = layer(inputs, keep=keep)
            total = tf.reduce_sum(outputs**2)
        return outputs, *state, tape.gradient(total, layer.recurrent_kernel.value)

    shapes = [tf.TensorSpec((None, None, X)), tf.TensorSpec((None, None), tf.bool)]
    traced = tf.function(gradient, input_signature=shapes)(inputs, keep)
    for a, b in zip(traced, gradient(tf.constant(inputs), tf.constant(keep)), strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)


def test_weight_dropout_is_one_mask_for_all_steps():
    layer = layer_of("rnn", weight_dropout=0.4, seed=3)
    layer.set_weights([np.zeros((X, D)), 0.1 * np.eye(D), np.zeros(D)])
    zeros, ones = np.zeros((1, T, X), "float32"), (tf.ones((1, D)),)
    layer.kernel.assign(np.zeros((X, D)))
    outputs, _ = layer(zeros, ones, training=True)
    expected = np.ones(D)
    kept = np.asarray(outputs)[0, 0] != 0
    for t in range(T):
        expected = np.where(kept, np.tanh(expected * 0.1 / 0.6), 0)
        np.testing.assert_allclose(outputs[0, t], expected, rtol=1e-5)
    again, _ = layer(zeros, ones, training=False)
    np.testing.assert_allclose(again[0, 0], np.full(D, np.tanh(0.1)), rtol=1e-6)


def test_weight_dropout_keeps_its_share_and_its_expectation():
    layer = Recurrent(64, "rnn", weight_dropout=0.25, seed=1)
    layer.build((None, None, 1))
    layer.set_weights([np.zeros((1, 64)), np.full((64, 64), 1e-3), np.zeros(64)])
    outputs, _ = layer(np.zeros((1, 1, 1), "float32"), (tf.ones((1, 64)),), training=True)
    assert np.asarray(outputs).mean() == pytest.approx(0.064, rel=0.03)


def test_an_unknown_cell_is_refused():
    with pytest.raises(ValueError, match="one of rnn, gru, lstm, got 'mgu'"):
        Recurrent(3, "mgu")


def test_the_state_keeps_the_compute_dtype():
    layer = Recurrent(D, "lstm", dtype="mixed_bfloat16")
    outputs, state = layer(normal(B, T, X))
    assert {outputs.dtype, *(s.dtype for s in state)} == {tf.bfloat16}
    assert layer.kernel.dtype == "float32"


def test_symbolic_shapes():
    outputs, state = Recurrent(D, "lstm")(keras.Input((T, X), batch_size=B))
    assert outputs.shape == (B, T, D)
    assert [s.shape for s in state] == [(B, D), (B, D)]


def both_ways(cell):
    """A layer of both directions with weights that no initialiser would choose."""
    layer = Bidirectional(D, cell)
    layer.build((None, None, X))
    layer.set_weights([normal(*w.shape, seed=i) for i, w in enumerate(layer.weights)])
    return layer


@pytest.mark.parametrize("cell", CELLS)
def test_both_directions_are_those_of_keras(cell, loop):
    ours, inputs = both_ways(cell), normal(B, T, X)
    theirs = keras.layers.Bidirectional(KERAS[cell]())
    theirs.build((None, T, X))
    theirs.set_weights(ours.get_weights())
    outputs, states = ours(inputs)
    expected, *last = theirs(inputs)
    np.testing.assert_allclose(outputs, expected, **CLOSE)
    count = len(states)
    for i, state in enumerate(states):  # theirs: all states from the left, then all from the right
        np.testing.assert_allclose(state, np.concatenate([last[i], last[count + i]], axis=1), **CLOSE)


@pytest.mark.parametrize("cell", CELLS)
def test_padding_changes_neither_direction(cell, loop):
    layer, inputs, lengths = both_ways(cell), normal(B, T, X), (T, 3, 1)
    outputs, states = layer(inputs, keep=np.arange(T) < np.array(lengths)[:, None])
    for row, length in enumerate(lengths):
        alone, last = layer(inputs[row : row + 1, :length])
        np.testing.assert_allclose(outputs[row, :length], alone[0], **CLOSE)
        for a, b in zip(states, last, strict=True):
            np.testing.assert_allclose(a[row], b[0], **CLOSE)
