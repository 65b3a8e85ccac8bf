"""Which query may attend to which key, as boolean masks: True attends.

Shape letters: B batch, T queries, S keys.
"""

from keras import ops


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
