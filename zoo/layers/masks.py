"""Which query may attend to which key, as boolean masks: True attends.

Shape letters: B batch, T queries, S keys; t, s those of one block.
"""

from dataclasses import dataclass
from typing import Any

from keras import ops

MASKED = -1e9  # finite, so that a query that sees nothing gives numbers and not NaN; its output is never read


def causal_mask(query_columns_T, key_columns_S):
    """bool (1, T, S): a query sees the keys at its own column and before."""
    return (key_columns_S[None, :] <= query_columns_T[:, None])[None]


def prefix_keys(key_columns_S, prefix_lengths_B):
    """bool (B, 1, S): the keys of row b before column prefix_lengths[b]."""
    return (key_columns_S[None, :] < prefix_lengths_B[:, None])[:, None]


def windowed_keys(query_columns_T, key_columns_S, window):
    """bool (1, T, S): a query sees the keys less than `window` columns before its own, and less than `window` behind it."""
    distance_TS = key_columns_S[None, :] - query_columns_T[:, None]
    return ops.logical_and(distance_TS > -window, distance_TS < window)[None]


def padding_keys(padding_mask_BS):
    """bool (B, 1, S): only real tokens are seen."""
    return padding_mask_BS[:, None, :]


def same_segment(query_segments_BT, key_segments_BS):
    """bool (B, T, S): a query sees the keys of its own document."""
    return query_segments_BT[:, :, None] == key_segments_BS[:, None, :]


def conjunction(*masks):
    """The logical and of the masks that are given; None stands for a mask that lets everything through."""
    masks = [mask for mask in masks if mask is not None]
    result = masks[0] if masks else None
    for mask in masks[1:]:
        result = ops.logical_and(result, mask)
    return result


@dataclass(frozen=True, eq=False)
class MaskRule:
    """A mask given by columns and not by pairs, so that any block of it can be made alone.

    A query in column t + query_offset sees the key in column s if all of these hold:

        not causal, or s <= t + query_offset, or s < prefix_length
        no window, or t + query_offset - window < s < t + query_offset + window
        the key is not padding
        query and key are of the same segment

    Queries and keys are columns of one sequence (with `query_offset`, where a cache holds the columns before), or of two
    sequences, where `causal` is False. Under a causal rule every query stands in a column that the keys have.

    Fields:
        causal: whether a query sees only the keys at its own column and before, and those of the prefix.
        padding_mask: bool (B or 1, S), True for real tokens, or None: padded keys are not seen.
        segments: a pair, the int32 segments of the queries (B, T) and of the keys (B, S), or None.
        prefix_lengths: int32 (B,), or None: the keys that every query of a row sees, counted in columns from the first one on,
            at most S.
        query_offset: column of the first query, an int or a scalar tensor.
        window: how many keys, its own the last, a query sees to its left, and as many to its right where the rule is not
            causal (Beltagy et al. 2020, section 3.1), or None: all of them.

    Example:
        >>> import numpy as np
        >>> np.asarray(MaskRule(causal=True, prefix_lengths=np.array([2])).whole(3, 3)).tolist()
        [[[True, True, False], [True, True, False], [True, True, True]]]
    """

    causal: bool = False
    padding_mask: Any = None
    segments: Any = None
    prefix_lengths: Any = None
    query_offset: Any = 0
    window: int | None = None

    def block(self, first_query, num_queries, first_key, num_keys):
        """bool (B or 1, t, s) for t queries and s keys, or None if nothing is hidden.

        Args:
            first_query, first_key: of the queries and of the keys, ints or tensors; `query_offset` is added to the former here.
            num_queries, num_keys: t and s.
        """
        padding, segments = self.padding_mask, self.segments
        if padding is not None:
            padding = _cut(padding, first_key, num_keys)
        if segments is not None:
            segments = _cut(segments[0], first_query, num_queries), _cut(segments[1], first_key, num_keys)
        return self._mask((first_query, num_queries), (first_key, num_keys), padding, segments)

    def whole(self, num_queries, num_keys):
        """bool (B or 1, T, S), or None: all pairs."""
        return self._mask((0, num_queries), (0, num_keys), self.padding_mask, self.segments)

    def _mask(self, queries, keys, padding_mask, segments):
        """The mask of some queries and keys, each as (first, number), with what is padding and the segments of just those."""
        causal = near = None
        if self.causal or self.window is not None:
            keys_s, queries_t = _columns(*keys), _columns(_sum(queries[0], self.query_offset), queries[1])
            causal = causal_mask(queries_t, keys_s) if self.causal else None
            near = None if self.window is None else windowed_keys(queries_t, keys_s, self.window)
            if self.causal and self.prefix_lengths is not None:
                causal = ops.logical_or(causal, prefix_keys(keys_s, self.prefix_lengths))
        padding = None if padding_mask is None else padding_keys(padding_mask)
        return conjunction(causal, near, padding, None if segments is None else same_segment(*segments))

    def keys_within(self, end_query, num_keys):
        """How many keys, from the first one on, the queries before `end_query` may see at most: an int; `num_keys` where the
        graph that is built does not know."""
        return min(end_query + self.query_offset, num_keys) if self.is_triangle else num_keys

    @property
    def is_triangle(self):
        """Whether each query sees one key more than the one before it, and the graph knows how many while it is built."""
        return self.causal and self.prefix_lengths is None and isinstance(self.query_offset, int)


def _sum(a, b):
    """a + b, without an operation where one of them is the int 0."""
    if isinstance(a, int) and a == 0:
        return b
    return a if isinstance(b, int) and b == 0 else a + b


def _columns(first, number):
    """int32 (number,): the columns from `first` on."""
    return _sum(first, ops.arange(number))


def _cut(x_BS, first, number):
    """(B, number): the columns of x from `first` on, ints or tensors."""
    return ops.slice(x_BS, (0, first), (ops.shape(x_BS)[0], number))
