"""What stands between hidden states and a task's outputs.

Shape letters: N all leading axes in one, D hidden, V vocabulary.
"""

import keras
from keras import ops

from zoo.layers.activations import gelu, gelu_exact
from zoo.layers.linear import Linear
from zoo.layers.norms import Norm


class MaskedLMHead(keras.layers.Layer):
    """Logits over the vocabulary: norm(gelu(W x + b)) E' + c, with the encoder's own table E (Devlin et al. 2019, section 3.1).

    Args:
        vocab_size: V.
        activation: `gelu` or `gelu_exact`.
        epsilon: of the norm.

    Call: hidden states (..., D) and the table (V, D) -> float32 (..., V).
    """

    def __init__(self, vocab_size, activation="gelu_exact", epsilon=1e-12, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size, self.activation = vocab_size, activation
        self.norm = Norm("layer", epsilon, dtype=self.dtype_policy, name="norm")

    def build(self, input_shape):
        self.transform = Linear(input_shape[-1], dtype=self.dtype_policy, name="transform")
        self.transform.build(input_shape)
        self.norm.build(input_shape)
        self.bias = self.add_weight(shape=(self.vocab_size,), initializer="zeros", name="bias")

    def call(self, x, table_VD):
        x = self.transform(x)
        x = self.norm(gelu_exact(x) if self.activation == "gelu_exact" else gelu(x))
        x_ND = ops.reshape(x, (-1, x.shape[-1]))
        logits_NV = ops.matmul(x_ND, ops.transpose(ops.cast(table_VD, x.dtype))) + self.bias
        return ops.cast(ops.reshape(logits_NV, (*ops.shape(x)[:-1], self.vocab_size)), "float32")
