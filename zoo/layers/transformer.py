"""The Transformer block: attention and a two-layer network, each with a norm and a residual.

Shape letters: B batch, T positions, S positions of a memory, D hidden, F mlp width, N query heads; b = B or 1.
"""

import keras
from keras import ops

from zoo.config import Refusal
from zoo.layers.activations import network_activation
from zoo.layers.dropout import Dropout
from zoo.layers.linear import Linear
from zoo.layers.norms import Norm


class MLP(keras.layers.Layer):
    """The position-wise network: W2 a(W1 x), or, gated, W2 (a(Wg x) * W1 x) (Shazeer 2020, eq. 6).

    Args:
        mlp_dim: F.
        activation: a name of `activations.ACTIVATIONS`, such as `gelu` (tanh form, Hendrycks and Gimpel 2016), `gelu_exact` or
            `relu`; or of `activations.GATED`, such as `swiglu` or `geglu`.
        use_bias: whether the projections have biases.
        dropout: rate on the output.
        output_stddev, input_stddev: of the initialisation of the last projection, and of the first.

    Call: (B, T, D) -> (B, T, D).

    Raises:
        Refusal: for another activation.

    Example:
        >>> MLP(16, "swiglu")(ops.ones((2, 3, 4))).shape
        TensorShape([2, 3, 4])
    """

    def __init__(
        self, mlp_dim, activation="gelu", *, use_bias=True, dropout=0.0, output_stddev=0.02, input_stddev=0.02, **kwargs
    ):
        super().__init__(**kwargs)
        self.mlp_dim, self.activation, self.use_bias, self.output_stddev = mlp_dim, activation, use_bias, output_stddev
        self.function, self.is_gated = network_activation(activation)
        # Gate and value share one product: half the launches, the same arithmetic.
        width = 2 * mlp_dim if self.is_gated else mlp_dim
        self.expand = Linear(width, use_bias, input_stddev, dtype=self.dtype_policy, name="expand")
        self.dropout = Dropout(dropout, name="dropout") if dropout else None

    def build(self, input_shape):
        self.expand.build(input_shape)
        self.contract = Linear(input_shape[-1], self.use_bias, self.output_stddev, dtype=self.dtype_policy, name="contract")
        self.contract.build((*input_shape[:-1], self.mlp_dim))

    def call(self, x, training=False):
        hidden = self.expand(x)
        if self.is_gated:
            gate, value = ops.split(hidden, 2, axis=-1)
            hidden = self.function(gate) * value
        else:
            hidden = self.function(hidden)
        out = self.contract(hidden)
        return out if self.dropout is None else self.dropout(out, training=training)


class TransformerBlock(keras.layers.Layer):
    """x + Attention(norm(x)), x + Cross(norm(x), memory), x + MLP(norm(x)), one after the other; the second only with `cross`.

    With `norm_first=False`, norm(x + Attention(x)) and so on, as in 2017 (Vaswani et al. 2017, section 3.1). With
    `norm_outputs`, x + norm'(Attention(norm(x))), as in GLM-4-0414, or without `norm_inputs` x + norm'(Attention(x)), as in
    OLMo 2; with a `residual_scale` a, a norm(x) + Attention(norm(x)), as in ChatGLM-6B; with `parallel`, x + Attention(norm(x))
    + MLP(norm(x)) (Wang and Komatsuzaki 2021, GPT-J).

    Args:
        attention: an `Attention` layer.
        mlp: an `MLP` layer.
        cross: an `Attention` layer with `cross=True`, or None.
        norm: a kind of `Norm`.
        norm_first: whether the norms stand before the sublayers or after the residuals.
        norm_outputs: whether a norm follows each sublayer, before the residual.
        norm_inputs: whether there are norms besides those; `mlp`: only the one before the network, as where the input of the
            attention is normed already (ModernBERT's first layer).
        parallel: whether attention and network read the same x, each by a norm of its `own` or by one that is `shared`; or
            `no`.
        residual_scale: what the normed input of a sublayer is multiplied by where it is the residual; None for x itself.
        epsilon: of the norms.
        remat: whether training keeps only the block's input and computes the rest again for the gradient (Chen et al. 2016).
            TensorFlow does so in graphs, as every training step is one; executed eagerly, it keeps all.

    Call:
        x, attention_mask, bias, angles, cache: as `Attention`, for the first sublayer.
        memory: (B, S, D), or its keys and values from `cross.memory_keys_values`; with `cross` alone.
        cross_mask: bool (B or 1, T, S) or a `MaskRule` without `causal`, for the memory; or None.
        with_weights: whether the weights of `cross` are returned, too.

    Returns:
        (B, T, D) and the updated cache; `with_weights`, also the weights (B, N, T, S).

    Raises:
        Refusal: there is a memory without `cross`, or none with it; weights are asked for without `cross`; `parallel` stands
            with `cross` or with other norms than those before the sublayers.

    Example:
        >>> import numpy as np
        >>> from zoo.layers.attention import Attention
        >>> from zoo.layers.masks import MaskRule
        >>> block = TransformerBlock(Attention(2, 2, 4), MLP(16, "relu"), cross=Attention(2, 2, 4, cross=True))
        >>> block.build((None, None, 8))
        >>> x, memory = np.ones((1, 3, 8), "float32"), np.ones((1, 5, 8), "float32")
        >>> block(x, memory=memory, attention_mask=MaskRule(causal=True))[0].shape
        TensorShape([1, 3, 8])
    """

    def __init__(
        self, attention, mlp, *, cross=None, norm="layer", norm_first=True, norm_outputs=False, norm_inputs=True,
        parallel="no", residual_scale=None, epsilon=1e-5, remat=False, **kwargs
    ):  # fmt: skip
        super().__init__(autocast=False, **kwargs)  # as Attention, through which the angles go
        self.attention, self.mlp, self.cross = attention, mlp, cross
        self.norm_first, self.residual_scale, self.remat, self.parallel = norm_first, residual_scale, remat, parallel
        if parallel != "no" and (cross is not None or norm_outputs or not (norm_first and norm_inputs)):
            raise Refusal("Parallel sublayers have norms before them, and no cross-attention beside them.")

        def of(sublayer, wanted=True):
            return Norm(norm, epsilon, dtype=self.dtype_policy, name=f"{sublayer}_norm") if wanted else None

        self.attention_norm = of("attention", norm_inputs is True)
        self.mlp_norm = of("mlp", norm_inputs and parallel != "shared")
        self.cross_norm = of("cross", norm_inputs is True and cross is not None)
        self.attention_output_norm = of("attention_output", norm_outputs)
        self.mlp_output_norm = of("mlp_output", norm_outputs)
        self.cross_output_norm = of("cross_output", norm_outputs and cross is not None)

    def build(self, input_shape, memory_shape=None):
        self.attention.build(input_shape)
        self.mlp.build(input_shape)
        if self.cross is not None:
            self.cross.build(input_shape, memory_shape)
        outputs = self.attention_output_norm, self.cross_output_norm, self.mlp_output_norm
        for norm in (self.attention_norm, self.mlp_norm, self.cross_norm, *outputs):
            if norm is not None:
                norm.build(input_shape)

    def call(
        self, x, memory=None, attention_mask=None, bias=None, angles=None, cache=None, cross_mask=None, with_weights=False,
        training=False,
    ):  # fmt: skip
        if (self.cross is None) != (memory is None) or with_weights and self.cross is None:
            raise Refusal("A memory, and the weights of it, go with a block that has a cross-attention, and with no other.")
        constants = {"attention_mask": attention_mask, "angles": angles, "cross_mask": cross_mask, "training": training}
        tensors = {name: value for name, value in (("memory", memory), ("bias", bias)) if value is not None}
        if not (self.remat and training and cache is None) or with_weights or _is_eager():
            return self._call(x, tensors, cache, with_weights, constants)
        # Both passes must drop the same: the seeds are drawn once, out here.
        dropouts = [layer.dropout for layer in self._sublayers() if layer.dropout is not None]
        values = [(dropout.seed_generator.state, dropout.seed_generator.next()) for dropout in dropouts]
        if keras.backend.backend() != "tensorflow":  # where a scope inside another hides all that the outer one says
            values += [(v, v.value) for v in self.trainable_variables]

        def compute(x, *flat):
            with keras.StatelessScope(values):
                return self._call(x, keras.tree.pack_sequence_as(tensors, flat), None, False, constants)[0]

        # Memory and bias are arguments: a tensor that `compute` only refers to would get no gradient.
        return keras.remat(compute)(x, *keras.tree.flatten(tensors)), None

    def _sublayers(self):
        return [layer for layer in (self.attention, self.cross, self.mlp) if layer is not None]

    def _call(self, x, tensors, cache, with_weights, constants):
        """The sublayers. `tensors`: `memory` and `bias`, as far as there are any; `constants`: what has no gradient."""
        angles, training = constants["angles"], constants["training"]
        normed = self._before(x, self.attention_norm)
        y, cache = self.attention(
            normed, attention_mask=constants["attention_mask"], bias=tensors.get("bias"), angles=angles, cache=cache,
            training=training,
        )  # fmt: skip
        if self.parallel != "no":
            z = self.mlp(normed if self.mlp_norm is None else self.mlp_norm(x), training=training)
            return x + y + z, cache
        x = self._after(x, normed, y, self.attention_norm, self.attention_output_norm)
        weights = []
        if self.cross is not None:
            normed = self._before(x, self.cross_norm)
            y, _, *weights = self.cross(
                normed, memory=tensors["memory"], attention_mask=constants["cross_mask"], with_weights=with_weights,
                training=training,
            )  # fmt: skip
            x = self._after(x, normed, y, self.cross_norm, self.cross_output_norm)
        normed = self._before(x, self.mlp_norm)
        y = self.mlp(normed, training=training)
        return self._after(x, normed, y, self.mlp_norm, self.mlp_output_norm), cache, *weights

    def _before(self, x, norm):
        return norm(x) if self.norm_first and norm is not None else x

    def _after(self, x, normed, y, norm, output_norm):
        """What follows a sublayer that made y of `normed`."""
        y = y if output_norm is None else output_norm(y)
        x = (x if self.residual_scale is None else normed * self.residual_scale) + y
        return x if self.norm_first else norm(x)


def _is_eager():
    """Whether TensorFlow executes line by line, where `tf.recompute_grad` was seen to hang after a thousand other tests."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf  # other backends need not have it

    return tf.executing_eagerly()
