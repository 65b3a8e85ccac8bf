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


def from_column(key_columns_S, start_B):
    """bool (B, 1, S): row b sees the keys from column start[b] on. Earlier columns are padding at the left."""
    return (key_columns_S[None, :] >= start_B[:, None])[:, None]


def padding_keys(padding_mask_BS):
    """bool (B, 1, S): only real tokens are seen."""
    return padding_mask_BS[:, None, :]


def same_segment(segment_ids_BT):
    """bool (B, T, T): a query sees the keys of its own document."""
    return segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]


def conjunction(*masks):
    """The logical and of the masks that are given; None stands for a mask that lets everything through."""
    masks = [mask for mask in masks if mask is not None]
    result = masks[0] if masks else None
    for mask in masks[1:]:
        result = ops.logical_and(result, mask)
    return result


@dataclass(frozen=True, eq=False)
class MaskRule:
    """The mask of a sequence that attends to itself, told by columns and not by pairs, so that any block of it can be made
    alone.

    Fields:
        causal: whether a query sees only the keys at its own column and before.
        padding_mask: bool (B, T), True for real tokens, or None: padded keys are not seen.
        segment_ids: int32 (B, T), or None: only keys of the query's own document are seen.
    """

    causal: bool = False
    padding_mask: Any = None
    segment_ids: Any = None

    def block(self, first_query, num_queries, first_key, num_keys):
        """bool (B or 1, t, s) for t queries and s keys from two columns on (ints or tensors), or None if nothing is hidden."""
        causal = padding = documents = None
        if self.causal:
            causal = causal_mask(first_query + ops.arange(num_queries), first_key + ops.arange(num_keys))
        if self.padding_mask is not None:
            padding = padding_keys(_columns(self.padding_mask, first_key, num_keys))
        if self.segment_ids is not None:
            queries_Bt = _columns(self.segment_ids, first_query, num_queries)
            documents = queries_Bt[:, :, None] == _columns(self.segment_ids, first_key, num_keys)[:, None, :]
        return conjunction(causal, padding, documents)

    def whole(self, length):
        """bool (B or 1, T, T), or None: all pairs."""
        return self.block(0, length, 0, length)


def _columns(x_BT, first, number):
    """(B, number): the columns of x from `first` on, ints or tensors."""
    return ops.slice(x_BT, (0, first), (ops.shape(x_BT)[0], number))
