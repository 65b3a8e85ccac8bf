"""Layer and RMS normalisation, with their gradients written out.

Automatic differentiation of these few lines makes some twenty passes over the activations; the closed forms below make a third
of that, which on a CPU is a tenth of a training step (benchmarks/LOG.md). Statistics are in float32 whatever the compute dtype.

Shape letters: D hidden; the leading axes are any.
"""

import keras
from keras import ops

from zoo.config import Refusal
from zoo.layers.fusion import sum_of_rows


def _parameter_gradient(values):
    """Sums over every axis but the last."""
    return sum_of_rows(ops.reshape(values, (-1, values.shape[-1])))


def layer_norm(x, gamma, beta, epsilon):
    """gamma * (x - mean(x)) / sqrt(var(x) + epsilon) + beta over the last axis, float32 (Ba et al. 2016, eq. 4)."""

    @ops.custom_gradient
    def normalise(x, gamma, beta):
        centred = x - ops.mean(x, axis=-1, keepdims=True)
        inverse = ops.rsqrt(ops.mean(ops.square(centred), axis=-1, keepdims=True) + epsilon)
        normal = centred * inverse

        def gradient(*upstream):
            dy = upstream[-1]
            dn = dy * gamma
            dx = dn - ops.mean(dn, axis=-1, keepdims=True) - normal * ops.mean(dn * normal, axis=-1, keepdims=True)
            return dx * inverse, _parameter_gradient(dy * normal), _parameter_gradient(dy)

        return normal * gamma + beta, gradient

    return normalise(x, gamma, beta)


def rms_norm(x, gamma, epsilon):
    """gamma * x / sqrt(mean(x^2) + epsilon) over the last axis, float32 (Zhang and Sennrich 2019, eq. 4)."""

    @ops.custom_gradient
    def normalise(x, gamma):
        inverse = ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + epsilon)
        normal = x * inverse

        def gradient(*upstream):
            dy = upstream[-1]
            dn = dy * gamma
            dx = (dn - normal * ops.mean(dn * normal, axis=-1, keepdims=True)) * inverse
            return dx, _parameter_gradient(dy * normal)

        return normal * gamma, gradient

    return normalise(x, gamma)


class Norm(keras.layers.Layer):
    """Normalises the last axis.

    Args:
        kind: `layer`, `layer_gain`, which has no beta, or `rms`.
        epsilon: keeps the division finite.

    Call: (..., D) -> (..., D), in the compute dtype.

    Raises:
        Refusal: for another kind.

    Example:
        >>> import numpy as np
        >>> np.asarray(Norm("rms")(np.array([[3.0, 4.0]], "float32"))).round(2)
        array([[0.85, 1.13]], dtype=float32)
    """

    def __init__(self, kind, epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        if kind not in ("layer", "layer_gain", "rms"):
            raise Refusal(f"norm must be layer, layer_gain or rms, got {kind!r}.")
        self.kind, self.epsilon = kind, epsilon

    def build(self, input_shape):
        width = (input_shape[-1],)
        self.gamma = self.add_weight(shape=width, initializer="ones", name="gamma", autocast=False)
        if self.kind == "layer":
            self.beta = self.add_weight(shape=width, initializer="zeros", name="beta", autocast=False)

    def call(self, x):
        wide = ops.cast(x, "float32")
        gamma = self.gamma + 0.0  # a tensor: a custom gradient may not see a variable
        if self.kind == "layer":
            y = layer_norm(wide, gamma, self.beta + 0.0, self.epsilon)
        elif self.kind == "layer_gain":
            y = layer_norm(wide, gamma, ops.zeros_like(gamma), self.epsilon)
        else:
            y = rms_norm(wide, gamma, self.epsilon)
        return ops.cast(y, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape
