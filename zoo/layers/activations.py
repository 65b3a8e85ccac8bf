"""The activations of networks, by name.

The gelus of GPT-2 and BERT have their gradients written out: few passes over the widest activations of the model.
"""

import math

from keras import ops

from zoo.config import Refusal
from zoo.layers.fusion import fused

SCALE = 1.5957691216057308  # 2 sqrt(2 / pi)
CUBIC = 0.044715


@ops.custom_gradient
def gelu(x):
    """x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)), which equals the tanh form 0.5 x (1 + tanh(...)) of gelu.

    Hendrycks and Gimpel 2016, section 2, with tanh(u) = 2 sigmoid(2u) - 1.
    """
    return _gelu(x), lambda *upstream: _gelu_gradient(x, upstream[-1])


@fused
def _gelu(x):
    return x * ops.sigmoid(x * (SCALE + SCALE * CUBIC * ops.square(x)))


@fused
def _gelu_gradient(x, dy):
    square = ops.square(x)
    gate = ops.sigmoid(x * (SCALE + SCALE * CUBIC * square))
    slope = x * (SCALE + 3 * SCALE * CUBIC * square)
    return dy * (gate + gate * (1 - gate) * slope)


@ops.custom_gradient
def gelu_exact(x):
    """x Phi(x), with the normal distribution's Phi(x) = (1 + erf(x / sqrt(2))) / 2: the gelu of BERT.

    Hendrycks and Gimpel 2016, section 2.
    """
    return _gelu_exact(x), lambda *upstream: _gelu_exact_gradient(x, upstream[-1])


@fused
def _gelu_exact(x):
    return x * (0.5 + 0.5 * ops.erf(x * math.sqrt(0.5)))


@fused
def _gelu_exact_gradient(x, dy):
    density = ops.exp(-0.5 * ops.square(x)) * (1 / math.sqrt(2 * math.pi))
    return dy * (0.5 + 0.5 * ops.erf(x * math.sqrt(0.5)) + x * density)


def silu(x):
    """x sigmoid(x), with one position a row as x / (1 + exp(-x)). Hendrycks and Gimpel 2016, section 2.

    TensorFlow makes one kernel of oneDNN of the product, which is good for many rows; on a few thousand numbers it takes 50
    microseconds, and the other form 2 (benchmarks/LOG.md).
    """
    if len(x.shape) != 3 or x.shape[1] != 1:
        return ops.silu(x)
    wide = ops.cast(x, "float32")
    return ops.cast(wide / (1.0 + ops.exp(-wide)), x.dtype)


# a(W x)
ACTIVATIONS = {"gelu": gelu, "gelu_exact": gelu_exact, "relu": ops.relu, "silu": silu}
# a(W_g x) * W x, the gated linear units of Shazeer 2020, eq. 6: a by the name of the unit
GATED = {"swiglu": silu, "geglu": gelu, "geglu_exact": gelu_exact, "reglu": ops.relu}


def named_activation(name):
    """The function that is called `name` in `ACTIVATIONS`.

    Raises:
        Refusal: there is none.

    Example:
        >>> float(named_activation("relu")(-2.0))
        0.0
    """
    return _entry(ACTIVATIONS, name)


def network_activation(name):
    """The function of a network's activation, and whether it is gated: a name of `ACTIVATIONS` or of `GATED`.

    Raises:
        Refusal: there is none.
    """
    return _entry({**ACTIVATIONS, **GATED}, name), name in GATED


def _entry(table, name):
    if name not in table:
        raise Refusal(f"activation must be {' or '.join(table)}, got {name!r}.")
    return table[name]


def softmax(scores):
    """softmax over the last axis; of one number it is 1, without Keras's warning that this is of little use."""
    return 0.0 * scores + 1.0 if scores.shape[-1] == 1 else ops.softmax(scores, axis=-1)
