"""Recurrent layers: plain (Elman), GRU and LSTM, written for speed on wide matrix products.

What makes them fast is where the matrix products stand:
  - inputs are projected before the time loop, one product over all B x T positions
  - the loop holds one product a step, h W_h, and a few element-wise operations
  - the gradient is written by hand (`_recurrence`): everything that does not depend on the gradients of later steps is
    computed for all steps at once, and dW_h is one product over all B x T positions instead of a sum of T small ones

Shape letters: B batch, T steps, X input width, D hidden, G gates (1 plain, 3 GRU, 4 LSTM).
"""

import keras
from keras import ops

from zoo.config import Refusal
from zoo.layers.dropout import dropped
from zoo.layers.fusion import fused

# A loop of at most this many steps is written out in the graph; longer ones, and those of unknown length, are a scan.
UNROLLED_STEPS = 64


# A cell is four functions of the projected inputs x, the product p = h W_h, both (..., B, G D), and the states before:
#   step               the states after
#   linearize          for all steps at once, the factors in which the gradients of a step are linear
#   step_gradient      (factors, gradients of the states after) -> gradient of x, and what reaches each state directly
#   product_gradient   (factors, gradient of x) -> gradient of p, through which h is reached besides


class PlainCell:
    """h' = tanh(x + h W_h)  (Elman 1990)."""

    num_gates, state_names = 1, ("h",)

    @staticmethod
    def step(x, product, h):
        return (ops.tanh(x + product),)

    @staticmethod
    @fused
    def linearize(x, product, h):
        return (1 - ops.square(ops.tanh(x + product)),)

    @staticmethod
    def step_gradient(factors, d_h):
        return d_h * factors[0], (0.0,)

    @staticmethod
    def product_gradient(factors, d_x):
        return d_x


class GRUCell:
    """z = s(x_z + h W_z);  r = s(x_r + h W_r);  n = tanh(x_n + r * (h W_n));  h' = z h + (1 - z) n

    with the reset gate after the product, as in cuDNN, where the paper (Cho et al. 2014) has it before.
    Gate order: z, r, n.
    """

    num_gates, state_names = 3, ("h",)

    @staticmethod
    def _gates(x, product):
        (x_z, x_r, x_n), (p_z, p_r, p_n) = ops.split(x, 3, axis=-1), ops.split(product, 3, axis=-1)
        z, r = ops.sigmoid(x_z + p_z), ops.sigmoid(x_r + p_r)
        return z, r, ops.tanh(x_n + r * p_n), p_n

    @staticmethod
    def step(x, product, h):
        z, _, n, _ = GRUCell._gates(x, product)
        return (n + z * (h - n),)

    @staticmethod
    @fused
    def linearize(x, product, h):
        z, r, n, p_n = GRUCell._gates(x, product)
        by_n = (1 - z) * (1 - n * n)
        by_x = ops.concatenate([(h - n) * z * (1 - z), by_n * p_n * r * (1 - r), by_n], axis=-1)
        return by_x, z, ops.concatenate([ops.ones_like(z), ops.ones_like(r), r], axis=-1)

    @staticmethod
    def step_gradient(factors, d_h):
        by_x, z, _ = factors
        return ops.concatenate([d_h, d_h, d_h], axis=-1) * by_x, (d_h * z,)

    @staticmethod
    def product_gradient(factors, d_x):
        return d_x * factors[2]


class LSTMCell:
    """i, f, o = s(x + h W_h);  g = tanh(x + h W_h);  c' = f c + i g;  h' = o tanh(c'); each gate has its part of W_h.

    Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000. Gate order: i, f, g, o.
    """

    num_gates, state_names = 4, ("h", "c")

    @staticmethod
    def _gates(x, product):
        i, f, g, o = ops.split(x + product, 4, axis=-1)
        return ops.sigmoid(i), ops.sigmoid(f), ops.tanh(g), ops.sigmoid(o)

    @staticmethod
    def step(x, product, h, c):
        i, f, g, o = LSTMCell._gates(x, product)
        c = f * c + i * g
        return o * ops.tanh(c), c

    @staticmethod
    @fused
    def linearize(x, product, h, c):
        i, f, g, o = LSTMCell._gates(x, product)
        squashed = ops.tanh(f * c + i * g)
        by_x = ops.concatenate([g * i * (1 - i), c * f * (1 - f), i * (1 - g * g), squashed * o * (1 - o)], axis=-1)
        return by_x, o * (1 - squashed * squashed), f

    @staticmethod
    def step_gradient(factors, d_h, d_c):
        by_x, by_c, f = factors
        d_c = d_c + d_h * by_c
        return ops.concatenate([d_c, d_c, d_c, d_h], axis=-1) * by_x, (0.0, d_c * f)

    @staticmethod
    def product_gradient(factors, d_x):
        return d_x


CELLS = {"rnn": PlainCell, "gru": GRUCell, "lstm": LSTMCell}


class Recurrent(keras.layers.Layer):
    """One recurrent layer. Weights are laid out as in `keras.layers.SimpleRNN`, `GRU(reset_after=True)` and `LSTM`.

    x = inputs kernel + bias;  state_t = cell(x_t, h_{t-1} recurrent_kernel, state_{t-1})

    Args:
        hidden_dim: D.
        cell: rnn, gru or lstm.
        forget_bias: initial bias of the LSTM's forget gate.
        weight_dropout: rate at which entries of the recurrent kernel are dropped while training, one mask for all steps
            (DropConnect; Merity et al. 2017, section 2).

    Call:
        inputs: float (B, T, X).
        state: tuple of float (B, D), one for each of `state_names`, or None: zeros.
        keep: bool (B, T), False where the state stays as it was, or None.
        starts: bool (B, T), True where the state is forgotten before the step, or None.
        training: whether `weight_dropout` is on.

    Returns:
        `(outputs, state)`: h of every step, (B, T, D), and the state after the last.

    Raises:
        Refusal: if `cell` is unknown.

    Example:
        >>> outputs, state = Recurrent(4, "gru")(ops.ones((2, 3, 5)))
        >>> outputs.shape, [h.shape for h in state]
        (TensorShape([2, 3, 4]), [TensorShape([2, 4])])
    """

    def __init__(self, hidden_dim, cell="lstm", forget_bias=1.0, weight_dropout=0.0, seed=None, **kwargs):
        super().__init__(**kwargs)
        if cell not in CELLS:
            raise Refusal(f"A recurrent cell is one of {', '.join(CELLS)}, got {cell!r}.")
        self.hidden_dim, self.cell, self.forget_bias = hidden_dim, CELLS[cell], forget_bias
        self.weight_dropout = weight_dropout
        self.seed_generator = keras.random.SeedGenerator(seed) if weight_dropout else None

    @property
    def state_names(self):
        return self.cell.state_names

    def build(self, input_shape):
        width = self.cell.num_gates * self.hidden_dim
        self.kernel = self.add_weight(shape=(input_shape[-1], width), initializer="glorot_uniform", name="kernel")
        self.recurrent_kernel = self.add_weight(
            shape=(self.hidden_dim, width), initializer="orthogonal", name="recurrent_kernel"
        )
        # The GRU's second row is added inside the loop: its last third is multiplied by the reset gate.
        shape = (2, width) if self.cell is GRUCell else (width,)
        self.bias = self.add_weight(shape=shape, initializer=self._initial_bias, name="bias")

    def _initial_bias(self, shape, dtype=None):
        bias = ops.zeros(shape, dtype)
        if self.cell is LSTMCell:
            forget = ops.full((self.hidden_dim,), self.forget_bias, dtype)
            bias = ops.slice_update(bias, (self.hidden_dim,), forget)
        return bias

    def call(self, inputs, state=None, keep=None, starts=None, training=False):
        x_TBX = ops.transpose(inputs, (1, 0, 2))
        input_bias, recurrent_bias = (self.bias[0], self.bias[1]) if self.cell is GRUCell else (self.bias, None)
        x_TBGD = _project(x_TBX, self.kernel) + input_bias
        if state is None:
            state = tuple(ops.zeros((ops.shape(inputs)[0], self.hidden_dim), x_TBGD.dtype) for _ in self.state_names)
        kernel = ops.copy(self.recurrent_kernel)  # a custom gradient takes tensors, no variables
        if self.weight_dropout and training:
            kernel = dropped(kernel, self.weight_dropout, self.seed_generator)
        masks = {
            "bias": recurrent_bias,
            "keep": None if keep is None else _column_mask(keep, x_TBGD.dtype),
            "carry": None if starts is None else _column_mask(ops.logical_not(starts), x_TBGD.dtype),
        }
        outputs_TBD, *state = recurrence(self.cell, x_TBGD, kernel, state, **masks)
        return ops.transpose(outputs_TBD, (1, 0, 2)), tuple(state)

    def compute_output_spec(self, inputs, state=None, **masks):
        b, t, _ = inputs.shape
        dtype = self.compute_dtype
        outputs = keras.KerasTensor((b, t, self.hidden_dim), dtype)
        return outputs, tuple(keras.KerasTensor((b, self.hidden_dim), dtype) for _ in self.state_names)


class Bidirectional(keras.layers.Layer):
    """Two recurrent layers over one sequence, one from the left and one from the right (Schuster and Paliwal 1997).

    outputs_t = [forward_t ; backward_t], where backward is `Recurrent` on the reversed sequence

        >>> import numpy as np
        >>> outputs, states = Bidirectional(4, "lstm")(np.ones((2, 3, 5), "float32"))
        >>> outputs.shape
        TensorShape([2, 3, 8])

    Args:
        hidden_dim: D, the width of each direction.
        cell: rnn, gru or lstm.

    Call:
        inputs: float (B, T, X).
        keep: bool (B, T), False at padding, which changes no state; or None.

    Returns:
        `(outputs, states)`: float (B, T, 2 D), and for each of `state_names` the states of both directions after their last
        step, float (B, 2 D).
    """

    def __init__(self, hidden_dim, cell="lstm", **kwargs):
        super().__init__(**kwargs)
        self.forward = Recurrent(hidden_dim, cell, dtype=self.dtype_policy, name="forward")
        self.backward = Recurrent(hidden_dim, cell, dtype=self.dtype_policy, name="backward")
        self.state_names = self.forward.state_names

    def build(self, input_shape):
        self.forward.build(input_shape)
        self.backward.build(input_shape)

    def call(self, inputs, keep=None):
        left_BTD, left = self.forward(inputs, keep=keep)
        right_BTD, right = self.backward(ops.flip(inputs, 1), keep=None if keep is None else ops.flip(keep, 1))
        outputs = ops.concatenate([left_BTD, ops.flip(right_BTD, 1)], axis=-1)
        return outputs, tuple(ops.concatenate(pair, axis=-1) for pair in zip(left, right, strict=True))

    def compute_output_spec(self, inputs, keep=None):
        batch, length, _ = inputs.shape
        width, dtype = 2 * self.forward.hidden_dim, self.compute_dtype
        states = tuple(keras.KerasTensor((batch, width), dtype) for _ in self.state_names)
        return keras.KerasTensor((batch, length, width), dtype), states


def recurrence(cell, x_TBGD, kernel, state, bias=None, keep=None, carry=None):
    """Runs `cell` over all steps.

    Args:
        cell: one of `CELLS`.
        x_TBGD: the projected inputs.
        kernel: W_h, (D, G D).
        state: tuple of (B, D).
        bias: (G D), added to h W_h, or None.
        keep: (T, B, 1), 1 where a step counts, 0 where the state stays as it was, or None.
        carry: (T, B, 1), 0 where the state is forgotten before the step, else 1, or None.

    Returns:
        h of every step, (T, B, D), then each state after the last step, (B, D).
    """
    optional = {name: value for name, value in (("bias", bias), ("keep", keep), ("carry", carry)) if value is not None}
    num_states = len(cell.state_names)

    def run(x_TBGD, kernel, *rest):
        state, extra = rest[:num_states], dict(zip(optional, rest[num_states:], strict=True))
        histories, products, last = _forward(cell, x_TBGD, kernel, state, **extra)

        def gradient(*upstream, **_):
            return _backward(cell, x_TBGD, kernel, state, extra, histories, products, upstream)

        return (histories[0], *last), gradient

    return ops.custom_gradient(run)(x_TBGD, kernel, *state, *optional.values())


def _forward(cell, x_TBGD, kernel, state, bias=None, keep=None, carry=None):
    """Each state after every step (T, B, D), h W_h of every step (T, B, G D), and the last states (B, D)."""

    def step(loop_state, slices):
        state, x, keep_t, carry_t = loop_state[:-1], slices["x"], slices.get("keep"), slices.get("carry")
        if carry_t is not None:
            state = [s * carry_t for s in state]
        product = ops.matmul(state[0], kernel)
        if bias is not None:
            product = product + bias
        new = cell.step(x, product, *state)
        if keep_t is not None:
            new = [s + keep_t * (n - s) for n, s in zip(new, state, strict=True)]
        return (*new, product), (*new, product)

    (*last, _), (*histories, products) = _scan(
        step, (*state, ops.zeros_like(x_TBGD[0])), {"x": x_TBGD, "keep": keep, "carry": carry}
    )
    return histories, products, last


def _backward(cell, x_TBGD, kernel, state, extra, histories, products, upstream):
    """Gradients of the arguments of `run` in `recurrence`, given those of its results."""
    d_outputs, d_last = upstream[0], upstream[1:]
    keep, carry = extra.get("keep"), extra.get("carry")
    before = [ops.concatenate([s[None], hist[:-1]]) for s, hist in zip(state, histories, strict=True)]
    if carry is not None:
        before = [s * carry for s in before]
    factors = cell.linearize(x_TBGD, products, *before)
    width, gates = kernel.shape
    # Transposed once: the unit axis keeps TensorFlow from folding this into every step's product, at twice the cost.
    kernel_T = ops.reshape(ops.transpose(kernel[..., None], (1, 0, 2)), (gates, width))

    def step(loop_state, slices):
        d_h, *d_rest = loop_state[:-1]
        d_after = (d_h + slices["d_output"], *d_rest)
        d_new = d_after if keep is None else [d * slices["keep"] for d in d_after]
        d_x, (d_h, *d_rest) = cell.step_gradient(slices["factors"], *d_new)
        d_before = (d_h + ops.matmul(cell.product_gradient(slices["factors"], d_x), kernel_T), *d_rest)
        if keep is not None:
            d_before = [d + all_d - kept for d, all_d, kept in zip(d_before, d_after, d_new, strict=True)]
        if carry is not None:
            d_before = [d * slices["carry"] for d in d_before]
        return (*d_before, d_x), (*d_before, d_x)

    (*d_state, _), (*_, d_x) = _scan(
        step,
        (*d_last, ops.zeros_like(x_TBGD[0])),
        {"d_output": d_outputs, "factors": factors, "keep": keep, "carry": carry},
        reverse=True,
    )
    d_products = cell.product_gradient(factors, d_x)
    d_kernel = ops.matmul(ops.transpose(ops.reshape(before[0], (-1, width))), ops.reshape(d_products, (-1, gates)))
    d_extra = [ops.sum(d_products, (0, 1)) if name == "bias" else ops.zeros_like(v) for name, v in extra.items()]
    return (d_x, d_kernel, *d_state, *d_extra)


def _scan(step, init, slices, reverse=False):
    """`ops.scan` over the leading axis of what is not None in `slices`, written out when it is short.

    What `step` emits has the shapes of its loop state, which is what `ops.scan` asks for.
    """
    slices = {name: value for name, value in slices.items() if value is not None}
    flat = keras.tree.flatten(slices)
    length = flat[0].shape[0]
    if length is None or length > UNROLLED_STEPS:
        # Scanned by index: with several sequences of unknown length ops.scan fails on TensorFlow (Keras 3.15).
        steps = ops.arange(ops.shape(flat[0])[0])
        return ops.scan(
            lambda loop_state, t: step(loop_state, keras.tree.map_structure(lambda value: value[t], slices)),
            init, steps, reverse=reverse,
        )  # fmt: skip
    columns = [ops.unstack(value, length) for value in flat]
    loop_state, emitted = init, []
    for t in reversed(range(length)) if reverse else range(length):
        loop_state, out = step(loop_state, keras.tree.pack_sequence_as(slices, [column[t] for column in columns]))
        emitted.append(out)
    if reverse:
        emitted.reverse()
    return loop_state, tuple(ops.stack(values) for values in zip(*emitted, strict=True))


def _project(x_TBX, kernel):
    """x W as one two-dimensional product."""
    t, b, x = ops.shape(x_TBX)
    return ops.reshape(ops.matmul(ops.reshape(x_TBX, (-1, x)), kernel), (t, b, kernel.shape[1]))


def _column_mask(mask_BT, dtype):
    return ops.cast(ops.transpose(mask_BT), dtype)[..., None]
