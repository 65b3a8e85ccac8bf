"""What stands between hidden states and a task's outputs.

Shape letters: B batch, T positions, P positions that are asked for, N all leading axes in one, D hidden, E width of a table,
V vocabulary, C classes.
"""

import keras
from keras import ops

from zoo.layers.activations import named_activation
from zoo.layers.crf import CRF
from zoo.layers.dropout import Dropout
from zoo.layers.linear import Linear
from zoo.layers.norms import Norm

IMPOSSIBLE = -1e9  # the logit of a position at which no answer starts or ends


class MaskedLMHead(keras.layers.Layer):
    """Logits over the vocabulary: norm(gelu(W x + b)) E' + c, with the encoder's own table E (Devlin et al. 2019, section 3.1).

    The head is computed at the hidden positions alone: for a vocabulary of 30,522 it would else cost more than the encoder.

    Args:
        table: a function without arguments that gives the table, a variable (V, E).
        activation: a name of `activations.ACTIVATIONS`.
        epsilon: of the norm.
        use_bias: whether there are b and the norm's beta.

    Call: hidden states (B, T, D) and a batch -> float32 (B, P, V), at the batch's `label_positions` int32 (B, P); without
    those at every position, (B, T, V).

    Example:
        >>> table = keras.Variable(ops.ones((11, 4)))
        >>> head = MaskedLMHead(lambda: table)
        >>> head.build((None, None, 6))
        >>> head(ops.ones((2, 5, 6)), {"label_positions": ops.zeros((2, 3), "int32")}).shape
        TensorShape([2, 3, 11])
    """

    def __init__(self, table, activation="gelu_exact", epsilon=1e-12, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        self.use_bias, self.table = use_bias, table  # a function, so that Keras does not take the table for the head's own
        self.activation = named_activation(activation)
        self.norm = Norm("layer" if use_bias else "layer_gain", epsilon, dtype=self.dtype_policy, name="norm")

    def build(self, input_shape):
        vocab_size, width = self.table().shape
        self.transform = Linear(width, use_bias=self.use_bias, dtype=self.dtype_policy, name="transform")
        self.transform.build(input_shape)
        self.norm.build((*input_shape[:-1], width))
        self.bias = self.add_weight(shape=(vocab_size,), initializer="zeros", name="bias")

    def call(self, hidden_BTD, batch, training=False):
        positions_BP = batch.get("label_positions")
        return self.logits(hidden_BTD if positions_BP is None else taken_at(hidden_BTD, positions_BP))

    def logits(self, x):
        """float32 (..., V) of hidden states (..., D)."""
        x = self.transform(x)
        x = self.norm(self.activation(x))
        x_NE = ops.reshape(x, (-1, x.shape[-1]))
        logits_NV = ops.matmul(x_NE, ops.transpose(ops.cast(self.table(), x.dtype))) + self.bias
        return ops.cast(ops.reshape(logits_NV, (*ops.shape(x)[:-1], logits_NV.shape[-1])), "float32")


class PretrainingHead(MaskedLMHead):
    """As `MaskedLMHead`, and whether the two parts of a row stand as they did in the text.

    `pair` is W c + b of the row's vector c (Devlin et al. 2019, section 3.1, task 2).

    Args:
        table, activation, epsilon, use_bias: as `MaskedLMHead`.
        pool: a function from hidden states (B, T, D) to the vector of each row, (B, D).

    Call: as `MaskedLMHead` -> its logits, and float32 (B, 2) for the parts.
    """

    def __init__(self, table, activation="gelu_exact", epsilon=1e-12, use_bias=True, *, pool, **kwargs):
        super().__init__(table, activation, epsilon, use_bias, **kwargs)
        self.pool = pool

    def build(self, input_shape):
        super().build(input_shape)
        self.pair = Linear(2, dtype=self.dtype_policy, name="pair")
        self.pair.build((None, input_shape[-1]))

    def call(self, hidden_BTD, batch, training=False):
        return super().call(hidden_BTD, batch), ops.cast(self.pair(self.pool(hidden_BTD)), "float32")


def taken_at(hidden_BTD, positions_BP):
    """(B, P, D): the hidden states at some positions of each row, int32 (B, P)."""
    length, width = ops.shape(hidden_BTD)[1], hidden_BTD.shape[-1]
    rows_B1 = ops.arange(ops.shape(positions_BP)[0], dtype="int32")[:, None]
    places_N = ops.reshape(rows_B1 * length + positions_BP, (-1,))
    picked_ND = ops.take(ops.reshape(hidden_BTD, (-1, width)), places_N, axis=0)
    return ops.reshape(picked_ND, (*ops.shape(positions_BP), width))


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


class PooledDense(keras.layers.Layer):
    """v = a(W pooled + b): a layer between the pooling of a sentence encoder and its vector (LaBSE, Feng et al. 2022).

    Args:
        dim: E, width of v.
        pooling: as `pooled`.
        activation: a; `identity`, `tanh` or a name of `activations.ACTIVATIONS`.
        use_bias: whether there is b.

    Call: hidden states (B, T, D) and a batch, of which `padding_mask` bool (B, T) is read -> float32 (B, E).

    Example:
        >>> head = PooledDense(4)
        >>> head(ops.ones((2, 5, 6)), {}).shape
        TensorShape([2, 4])
    """

    def __init__(self, dim, pooling="mean", activation="tanh", use_bias=True, **kwargs):
        super().__init__(**kwargs)
        self.dim, self.pooling, self.use_bias = dim, pooling, use_bias
        beside = {"identity": lambda x: x, "tanh": ops.tanh}
        self.activation = beside[activation] if activation in beside else named_activation(activation)

    def build(self, input_shape):
        self.dense = Linear(self.dim, use_bias=self.use_bias, name="dense")
        self.dense.build((None, input_shape[-1]))

    def call(self, hidden_BTD, batch, training=False):
        padding_mask = batch.get("padding_mask")
        mask_BT = ops.ones(ops.shape(hidden_BTD)[:2], "bool") if padding_mask is None else padding_mask
        return self.projected(pooled(ops.cast(hidden_BTD, "float32"), mask_BT, self.pooling))

    def projected(self, vectors_BD):
        """float32 (B, E) of pooled vectors (B, D)."""
        return ops.cast(self.activation(self.dense(vectors_BD)), "float32")


class SequenceClassifier(keras.layers.Layer):
    """One answer a row: logits = W_2 tanh(W_1 pooled + b_1) + b_2 (Devlin et al. 2019, section 4.1, with BERT's pooler).

    Args:
        num_classes: C.
        pooling: how a row becomes one vector; see `pooled`.
        dropout: rate on what each of the two matrices takes.

    Call: hidden states (B, T, D) and a batch, of which `padding_mask` bool (B, T) is read -> float32 (B, C).

    Example:
        >>> head = SequenceClassifier(3, "mean")
        >>> head(ops.ones((2, 5, 6)), {}).shape
        TensorShape([2, 3])
    """

    def __init__(self, num_classes, pooling="first", dropout=0.1, **kwargs):
        super().__init__(**kwargs)
        self.num_classes, self.pooling, self.dropout = num_classes, pooling, dropout

    def build(self, input_shape):
        width = input_shape[-1]
        self.dense = Linear(width, name="dense")
        self.dense.build((None, width))
        self.dropped = Dropout(self.dropout, name="dropout")
        self.projection = Linear(self.num_classes, name="projection")
        self.projection.build((None, width))

    def call(self, hidden_BTD, batch, training=False):
        padding_mask = batch.get("padding_mask")
        mask_BT = ops.ones(ops.shape(hidden_BTD)[:2], "bool") if padding_mask is None else padding_mask
        x_BD = self.dropped(pooled(hidden_BTD, mask_BT, self.pooling), training=training)
        x_BD = self.dropped(ops.tanh(self.dense(x_BD)), training=training)
        return ops.cast(self.projection(x_BD), "float32")


class TokenClassifier(keras.layers.Layer):
    """One answer a position: logits = W h + b. Where the batch says which positions are asked for, only those are computed.

    Args:
        num_classes: C.
        dropout: rate on the hidden states.

    Call: hidden states (B, T, D) and a batch -> float32 (B, P, C), at the batch's `label_positions` int32 (B, P); without those
    at every position, (B, T, C).

    Example:
        >>> head = TokenClassifier(3)
        >>> head(ops.ones((2, 5, 6)), {"label_positions": ops.zeros((2, 4), "int32")}).shape
        TensorShape([2, 4, 3])
    """

    def __init__(self, num_classes, dropout=0.1, **kwargs):
        super().__init__(**kwargs)
        self.num_classes, self.dropout = num_classes, dropout

    def build(self, input_shape):
        self.dropped = Dropout(self.dropout, name="dropout")
        self.projection = Linear(self.num_classes, name="projection")
        self.projection.build(input_shape)

    def call(self, hidden_BTD, batch, training=False):
        positions_BP = batch.get("label_positions")
        x = hidden_BTD if positions_BP is None else taken_at(hidden_BTD, positions_BP)
        return self.logits(self.dropped(x, training=training))

    def logits(self, x):
        """What is answered at each position, given its hidden state (B, P, D)."""
        return ops.cast(self.projection(x), "float32")


class CRFHead(TokenClassifier):
    """As `TokenClassifier`, with a conditional random field over the positions that are asked for (Lample et al. 2016).

    Args:
        num_classes, dropout: as `TokenClassifier`.
        forbidden: bool (C + 1, C + 1), the moves that no sequence of tags has, or None; see `zoo.data.schemes.forbidden_moves`.
        forbid_in_training: whether they are left out of the likelihood that is trained too.

    Call: as `TokenClassifier` -> float32 (B, P, C), and the weights of all moves, float32 (C + 1, C + 1).

    Example:
        >>> unary, moves = CRFHead(3)(ops.ones((2, 5, 6)), {})
        >>> unary.shape, moves.shape
        (TensorShape([2, 5, 3]), TensorShape([4, 4]))
    """

    def __init__(self, num_classes, dropout=0.1, forbidden=None, forbid_in_training=False, **kwargs):
        super().__init__(num_classes, dropout, **kwargs)
        self.crf = CRF(num_classes, forbidden, forbid_in_training, name="crf")

    def build(self, input_shape):
        super().build(input_shape)
        self.crf.build()

    def call(self, hidden_BTD, batch, training=False):
        return super().call(hidden_BTD, batch, training=training), self.crf.moves(
            forbid=self.crf.forbid_in_training or not training
        )


class RoleHead(TokenClassifier):
    """Semantic roles of words, and whether they are predicates: two outputs of one encoder.

    With a width, a word is read beside the predicate that the segment ids mark, by one hidden layer, as Shi and Lin (2019,
    section 3.2) do: logits = W_2 gelu(W_1 h + W_p p + b_1) + b_2, with p the hidden state of the predicate's first token.

    Args:
        num_classes, dropout: as `TokenClassifier`.
        width: of the hidden layer; 0 for logits = W h + b.

    Call: as `TokenClassifier`, with `label_positions` in the batch and, for a width, `segment_ids` int32 (B, T) -> the roles'
    logits, float32 (B, P, C), and those of "not a predicate" and "a predicate", float32 (B, P, 2).

    Example:
        >>> roles, predicates = RoleHead(3)(ops.ones((2, 5, 6)), {"label_positions": ops.zeros((2, 4), "int32")})
        >>> roles.shape, predicates.shape
        (TensorShape([2, 4, 3]), TensorShape([2, 4, 2]))
    """

    def __init__(self, num_classes, dropout=0.1, width=0, **kwargs):
        super().__init__(num_classes, dropout, **kwargs)
        self.width = width

    def build(self, input_shape):
        super().build((*input_shape[:-1], self.width or input_shape[-1]))
        self.predicates = Linear(2, name="predicates")
        self.predicates.build(input_shape)
        if self.width:
            self.word = Linear(self.width, name="word")
            self.word.build(input_shape)
            self.predicate = Linear(self.width, use_bias=False, name="predicate")
            self.predicate.build(input_shape)

    def call(self, hidden_BTD, batch, training=False):
        x = self.dropped(taken_at(hidden_BTD, batch["label_positions"]), training=training)
        predicates = ops.cast(self.predicates(x), "float32")
        if self.width:
            first_B1 = ops.argmax(batch["segment_ids"], axis=1)[:, None]
            marked = self.dropped(taken_at(hidden_BTD, ops.cast(first_B1, "int32")), training=training)
            x = self.dropped(ops.gelu(self.word(x) + self.predicate(marked), approximate=True), training=training)
        return self.logits(x), predicates


class SpanHead(TokenClassifier):
    """Where an answer starts and where it ends: two logits a position, very low where neither can be.

    Args:
        dropout: rate on the hidden states.

    Call: hidden states (B, T, D) and a batch, of which `candidates` bool (B, T) is read, if it is there -> float32 (B, T, 2).

    Example:
        >>> SpanHead()(ops.ones((2, 5, 6)), {}).shape
        TensorShape([2, 5, 2])
    """

    def __init__(self, dropout=0.1, **kwargs):
        super().__init__(2, dropout, **kwargs)

    def call(self, hidden_BTD, batch, training=False):
        logits_BT2 = super().call(hidden_BTD, batch, training=training)
        if batch.get("candidates") is None:
            return logits_BT2
        return ops.where(ops.expand_dims(batch["candidates"], -1), logits_BT2, IMPOSSIBLE)
