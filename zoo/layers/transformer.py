"""The Transformer block: attention and a two-layer network, each with a norm and a residual.

Shape letters: B batch, T positions, D hidden, F mlp width.
"""

import keras
from keras import ops

from zoo.layers.activations import gelu, gelu_exact
from zoo.layers.linear import Linear
from zoo.layers.norms import Norm


class MLP(keras.layers.Layer):
    """The position-wise network: W2 gelu(W1 x), or with `swiglu`, W2 (silu(Wg x) * W1 x) (Shazeer 2020, eq. 6).

    Args:
        mlp_dim: F.
        activation: `gelu` (tanh form, Hendrycks and Gimpel 2016), `gelu_exact` or `swiglu`.
        use_bias: whether the projections have biases.
        dropout: rate on the output.
        output_stddev: of the last projection's initialisation.

    Call: (B, T, D) -> (B, T, D).
    """

    def __init__(self, mlp_dim, activation="gelu", *, use_bias=True, dropout=0.0, output_stddev=0.02, **kwargs):
        super().__init__(**kwargs)
        self.mlp_dim, self.activation, self.use_bias, self.output_stddev = mlp_dim, activation, use_bias, output_stddev
        # Gate and value share one product: half the launches, the same arithmetic.
        width = 2 * mlp_dim if activation == "swiglu" else mlp_dim
        self.expand = Linear(width, use_bias, dtype=self.dtype_policy, name="expand")
        self.dropout = keras.layers.Dropout(dropout, name="dropout") if dropout else None

    def build(self, input_shape):
        self.expand.build(input_shape)
        self.contract = Linear(input_shape[-1], self.use_bias, self.output_stddev, dtype=self.dtype_policy, name="contract")
        self.contract.build((*input_shape[:-1], self.mlp_dim))

    def call(self, x, training=False):
        hidden = self.expand(x)
        if self.activation == "swiglu":
            gate, value = ops.split(hidden, 2, axis=-1)
            hidden = ops.silu(gate) * value
        else:
            hidden = gelu_exact(hidden) if self.activation == "gelu_exact" else gelu(hidden)
        out = self.contract(hidden)
        return out if self.dropout is None else self.dropout(out, training=training)


class TransformerBlock(keras.layers.Layer):
    """x + Attention(norm(x)), then x + MLP(norm(x)); with `norm_first=False`, norm(x + Attention(x)) as in 2017.

    Args:
        attention: an `Attention` layer.
        mlp: an `MLP` layer.
        norm: `layer` or `rms`.
        norm_first: whether the norms stand before the sublayers or after the residuals.
        epsilon: of the norms.
        remat: whether training keeps only the block's input and computes the rest again for the gradient (Chen et al. 2016).
            TensorFlow does so in graphs, as every training step is one; executed eagerly, it keeps all.

    Call: as `Attention`. Returns (B, T, D) and the updated cache.
    """

    def __init__(self, attention, mlp, *, norm="layer", norm_first=True, epsilon=1e-5, remat=False, **kwargs):
        super().__init__(autocast=False, **kwargs)  # as Attention, through which the angles go
        self.attention, self.mlp, self.norm_first, self.remat = attention, mlp, norm_first, remat
        self.attention_norm = Norm(norm, epsilon, dtype=self.dtype_policy, name="attention_norm")
        self.mlp_norm = Norm(norm, epsilon, dtype=self.dtype_policy, name="mlp_norm")

    def build(self, input_shape):
        for layer in (self.attention, self.mlp, self.attention_norm, self.mlp_norm):
            layer.build(input_shape)

    def call(self, x, attention_mask=None, angles=None, cache=None, training=False):
        if not (self.remat and training and cache is None) or _is_eager():
            return self._call(x, attention_mask, angles, cache, training)
        # Both passes must drop the same: the seeds are drawn once, out here.
        dropouts = [layer.dropout for layer in (self.attention, self.mlp) if layer.dropout is not None]
        values = [(dropout.seed_generator.state, dropout.seed_generator.next()) for dropout in dropouts]
        if keras.backend.backend() != "tensorflow":  # where a scope inside another hides all that the outer one says
            values += [(v, v.value) for v in self.trainable_variables]

        def compute(x):
            with keras.StatelessScope(values):
                return self._call(x, attention_mask, angles, None, training)[0]

        return keras.remat(compute)(x), None

    def _call(self, x, attention_mask, angles, cache, training):
        inner = self.attention_norm(x) if self.norm_first else x
        attended, cache = self.attention(inner, attention_mask=attention_mask, angles=angles, cache=cache, training=training)
        x = x + attended
        if not self.norm_first:
            x = self.attention_norm(x)
            return self.mlp_norm(x + self.mlp(x, training=training)), cache
        return x + self.mlp(self.mlp_norm(x), training=training), cache


def _is_eager():
    """Whether TensorFlow executes line by line, where `tf.recompute_grad` was seen to hang after a thousand other tests."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf  # other backends need not have it

    return tf.executing_eagerly()
