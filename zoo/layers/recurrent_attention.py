"""Attention of a recurrent decoder to what a recurrent encoder made of the source: three ways to score a pair of vectors.

Shape letters: B batch, T target positions, S source positions, D width of queries, X width of the memory, A width of keys.
"""

import keras
from keras import ops

from zoo.config import Refusal
from zoo.layers.forms import ATTENTION_SCORES
from zoo.layers.linear import Linear, row_matmul
from zoo.layers.masks import MASKED


class RecurrentAttention(keras.layers.Layer):
    """context_t = sum_s a_ts m_s with a_t = softmax_s score(h_t, m_s), for queries h and a memory m.

    dot:       score = h' m                      (Luong et al. 2015, eq. 8; D = X)
    general:   score = h' W m                    (Luong et al. 2015, eq. 8)
    additive:  score = v' tanh(W h + U m)        (Bahdanau et al. 2015, appendix A.1.2)

        >>> import numpy as np
        >>> attention = RecurrentAttention("general")
        >>> attention.build((None, None, 4), (None, None, 6))
        >>> memory = np.ones((1, 5, 6), "float32")
        >>> context, weights = attention(np.ones((1, 3, 4), "float32"), attention.memory_keys(memory), memory)
        >>> context.shape, weights.shape
        (TensorShape([1, 3, 6]), TensorShape([1, 3, 5]))

    Args:
        score: dot, general or additive.

    Call:
        query: float (B, T, D).
        keys: float (B, S, A), `memory_keys` of the memory: they are the same for every query. A is D.
        values: the memory, float (B, S, X).
        mask: bool (B, S), True for positions that may be looked at, at least one a row; or None: all.

    Returns:
        `(context, weights)`: float (B, T, X), and float32 (B, T, S).

    Raises:
        Refusal: `score` is unknown, or it is dot and the memory is not as wide as the queries.
    """

    def __init__(self, score="dot", **kwargs):
        super().__init__(**kwargs)
        if score not in ATTENTION_SCORES:
            raise Refusal(f"The score of a recurrent attention is one of {', '.join(ATTENTION_SCORES)}, got {score!r}.")
        self.score = score

    def build(self, query_shape, memory_shape):
        width, memory_width = query_shape[-1], memory_shape[-1]
        if self.score == "dot":
            if width != memory_width:
                raise Refusal(
                    f"A dot product needs a memory as wide as its queries, {width}, got {memory_width}; take general."
                )
            return
        self.of_memory = Linear(width, use_bias=False, stddev=memory_width**-0.5, name="memory")
        self.of_memory.build(memory_shape)
        if self.score == "additive":
            self.of_query = Linear(width, use_bias=False, stddev=width**-0.5, name="query")
            self.of_query.build(query_shape)
            normal = keras.initializers.RandomNormal(stddev=width**-0.5)
            self.vector = self.add_weight(shape=(width, 1), initializer=normal, name="vector")

    def memory_keys(self, memory_BSX):
        """Keys (B, S, A) of a memory: what of the score does not depend on the query."""
        return memory_BSX if self.score == "dot" else self.of_memory(memory_BSX)

    def call(self, query, keys, values, mask=None):
        product = row_matmul if query.shape[1] == 1 else _matmul
        if self.score == "additive":
            pairs_BTSA = ops.tanh(self.of_query(query)[:, :, None] + keys[:, None])
            scores_BTS = ops.matmul(pairs_BTSA, ops.convert_to_tensor(self.vector))[..., 0]
        else:
            scores_BTS = product(query, keys, transpose_y=True)
        scores_BTS = ops.cast(scores_BTS, "float32")
        if mask is not None:
            scores_BTS = ops.where(mask[:, None], scores_BTS, MASKED)
        weights_BTS = ops.softmax(scores_BTS, axis=-1)
        return product(ops.cast(weights_BTS, values.dtype), values), weights_BTS


def _matmul(x, y, transpose_y=False):
    return ops.matmul(x, ops.transpose(y, (0, 2, 1)) if transpose_y else y)
