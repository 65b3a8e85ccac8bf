"""What stands between hidden states and a task's outputs.

Shape letters: B batch, T positions, N all leading axes in one, D hidden, V vocabulary, C classes.
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


class PretrainingHead(MaskedLMHead):
    """As `MaskedLMHead`, and whether the two parts of a row stand as they did in the text: `pair`, W c + b of the row's vector
    c (Devlin et al. 2019, section 3.1, task 2).

    Args:
        vocab_size, activation, epsilon: as `MaskedLMHead`.

    Call: as `MaskedLMHead`.
    """

    def build(self, input_shape):
        super().build(input_shape)
        self.pair = Linear(2, dtype=self.dtype_policy, name="pair")
        self.pair.build((None, input_shape[-1]))


def pooled(hidden_BTD, padding_mask_BT, pooling):
    """One vector a row: that of its first real token, that of its last, or the mean of all: float (B, D).

    Args:
        hidden_BTD: float (B, T, D).
        padding_mask_BT: bool (B, T), True for real tokens, which stand at the left; at least one a row.
        pooling: `first`, `last` or `mean`.
    """
    if pooling == "first":
        return hidden_BTD[:, 0]
    weights_BT = ops.cast(padding_mask_BT, hidden_BTD.dtype)
    if pooling == "last":
        last_B = ops.sum(ops.cast(padding_mask_BT, "int32"), axis=1) - 1
        weights_BT = ops.one_hot(last_B, ops.shape(hidden_BTD)[1], dtype=hidden_BTD.dtype)
    total_BD = ops.einsum("btd,bt->bd", hidden_BTD, weights_BT)
    return total_BD / ops.sum(weights_BT, axis=1, keepdims=True)


class SequenceClassifier(keras.layers.Layer):
    """One answer a row: logits = W_2 tanh(W_1 pooled + b_1) + b_2 (Devlin et al. 2019, section 4.1, with BERT's pooler).

    Args:
        num_classes: C.
        pooling: how a row becomes one vector; see `pooled`.
        dropout: rate on what each of the two matrices takes.

    Call: hidden states (B, T, D) and their padding mask (B, T) -> float32 (B, C).
    """

    def __init__(self, num_classes, pooling="first", dropout=0.1, **kwargs):
        super().__init__(**kwargs)
        self.num_classes, self.pooling, self.dropout = num_classes, pooling, dropout

    def build(self, input_shape):
        width = input_shape[-1]
        self.dense = Linear(width, name="dense")
        self.dense.build((None, width))
        self.dropped = keras.layers.Dropout(self.dropout, name="dropout")
        self.projection = Linear(self.num_classes, name="projection")
        self.projection.build((None, width))

    def call(self, hidden_BTD, padding_mask=None, training=False):
        mask_BT = ops.ones(ops.shape(hidden_BTD)[:2], "bool") if padding_mask is None else padding_mask
        x_BD = self.dropped(pooled(hidden_BTD, mask_BT, self.pooling), training=training)
        x_BD = self.dropped(ops.tanh(self.dense(x_BD)), training=training)
        return ops.cast(self.projection(x_BD), "float32")


class TokenClassifier(keras.layers.Layer):
    """One answer a position: logits = W h + b.

    Args:
        num_classes: C.
        dropout: rate on the hidden states.

    Call: hidden states (B, T, D) -> float32 (B, T, C).
    """

    def __init__(self, num_classes, dropout=0.1, **kwargs):
        super().__init__(**kwargs)
        self.num_classes, self.dropout = num_classes, dropout

    def build(self, input_shape):
        self.dropped = keras.layers.Dropout(self.dropout, name="dropout")
        self.projection = Linear(self.num_classes, name="projection")
        self.projection.build(input_shape)

    def call(self, hidden_BTD, training=False):
        return ops.cast(self.projection(self.dropped(hidden_BTD, training=training)), "float32")
