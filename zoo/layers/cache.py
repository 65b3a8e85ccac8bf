"""Texts that are read piece by piece: where the tokens of a piece stand, which keys they may see, and where those are kept.

A state holds the keys and values of every layer in columns that all rows of the batch share. A row that has fewer tokens than
the piece is wide is padded at the left; the columns of that padding stay unused, and the row goes on as if they were not there.

Shape letters: B batch, T tokens of a piece, S columns of a cache, K key/value heads, H head width.
"""

from typing import Any, NamedTuple

import keras
from keras import ops

from zoo.config import Refusal
from zoo.layers.masks import MaskRule


class Piece(NamedTuple):
    """The tokens of one pass.

    Attributes:
        rule: the `MaskRule` of its queries and of all keys.
        positions: int32 (B or 1, T): a token's place among its row's tokens, padding not counted.
        state: what the state becomes, without keys and values; None without a state.
        before: the state as it was, known to have room; or None.
    """

    rule: Any
    positions: Any
    state: Any
    before: Any

    def cache(self, i):
        """What `Attention` of layer i takes as its cache; None without a state."""
        if self.before is None:
            return None
        return {
            "keys": self.before[f"layer_{i}/keys"],
            "values": self.before[f"layer_{i}/values"],
            "index": self.before["index"],
        }

    def key_positions(self):
        """int32 (B or 1, S): the place of every key among its row's tokens, as relative positions need it."""
        if self.state is None:
            return self.positions
        return ops.cumsum(ops.cast(self.rule.padding_mask, "int32"), axis=1) - 1


def init_cache(num_layers, batch_size, max_length, num_kv_heads, head_dim, dtype):
    """The state before the first token.

    Args:
        num_layers: of each the keys and values are kept.
        batch_size, max_length: B and S, ints or scalar tensors.
        num_kv_heads, head_dim: K and H.
        dtype: of keys and values.

    Returns:
        A dict: `index`, the next column to be written, a scalar; `start` int32 (B,), how many columns of each row so far are
        padding; `padding` bool (B, S), which ones; `layer_i/keys` and `layer_i/values` (B, K, S, H).

    Example:
        >>> init_cache(1, 3, 5, 2, 4, "float32")["layer_0/keys"].shape
        TensorShape([3, 2, 5, 4])
    """
    state = {
        "index": ops.zeros((), "int32"),
        "start": ops.zeros((batch_size,), "int32"),
        "padding": ops.zeros((batch_size, max_length), "bool"),
    }
    for i in range(num_layers):
        for name in ("keys", "values"):
            state[f"layer_{i}/{name}"] = ops.zeros((batch_size, num_kv_heads, max_length, head_dim), dtype)
    return state


def room_left(state):
    """How many columns of a state are not written yet, a scalar."""
    return ops.shape(state["padding"])[1] - state["index"]


def rewound(state, num_columns):
    """The state as it was when it held `num_columns` columns, a scalar: those behind are free again. Only for rows without
    padding in them, and keys and values that no ring overwrites.

    Example:
        >>> int(rewound(init_cache(1, 1, 5, 2, 4, "float32"), 3)["index"])
        3
    """
    return {**state, "index": num_columns}


def place(token_ids, state=None, padding_mask=None, segment_ids=None, prefix_lengths=None):
    """Where the tokens of a causal pass stand.

    Args:
        token_ids: int32 (B, T).
        state: as from `init_cache`, or None: the tokens are the whole text.
        padding_mask: bool (B, T), True for real tokens, or None. With a state, padding may only stand at the left of a row.
        segment_ids: int32 (B, T), or None; not with a state.
        prefix_lengths: int32 (B,), or None: so many tokens of each row, from its first on, are seen by all. With a state they
            must all be in the first piece.

    Returns:
        A `Piece`.

    Raises:
        Refusal: there are both a state and segments; or the state has no room for T more tokens. In a graph that room is known
            only when it runs: there it is an assertion that fails, except under XLA, which has none.
    """
    num_tokens = ops.shape(token_ids)[1]
    columns_T = ops.arange(num_tokens)
    padded_B = None if padding_mask is None else _left_padding(padding_mask)
    if state is None:
        segments = None if segment_ids is None else (segment_ids, segment_ids)
        rule = MaskRule(True, padding_mask, segments, _in_columns(prefix_lengths, padded_B, num_tokens))
        return Piece(rule, _positions(columns_T, padded_B), None, None)
    if segment_ids is not None:
        raise Refusal("segment_ids go with whole rows; a state holds one document a row.")
    start_B, padding_BS = state["start"], state["padding"]
    index = checked_index(state["index"], num_tokens, ops.shape(padding_BS)[1])
    end = index + num_tokens
    if padding_mask is not None:
        start_B = start_B + padded_B
        padding_BS = _written(padding_BS, ops.logical_not(padding_mask), index)
    prefix_lengths = _in_columns(prefix_lengths, start_B, end)
    rule = MaskRule(True, ops.logical_not(padding_BS), None, prefix_lengths, index)
    after = {"index": end, "start": start_B, "padding": padding_BS}
    return Piece(rule, _positions(columns_T + index, start_B), after, {**state, "index": index})


def checked_index(index, num_new, room):
    """The column `index`, once `num_new` columns from there on are known to fit into a cache of `room` columns.

    Raises:
        Refusal: they do not fit; see `place`.
    """
    if keras.backend.backend() != "tensorflow":  # whose graphs alone can refuse while they run
        return index
    import tensorflow as tf  # for one op; other backends need not have it

    if tf.executing_eagerly():
        if int(index) + int(num_new) > int(room):
            raise Refusal(f"This state has room for {room} tokens: it holds {int(index)}, and {num_new} more do not fit.")
        return index
    # Not formatted: that would be done in every step of a decoding loop, whether or not the assertion fails.
    words = "This state has less room than it is to hold: columns, tokens that it holds, tokens to be added:"
    fits = tf.raw_ops.Assert(condition=index + num_new <= room, data=[words, room, index, num_new])
    with tf.control_dependencies([fits]):  # or the write might fail first, in other words
        return tf.identity(index)


def _in_columns(prefix_lengths_B, start_B, end):
    """Prefixes of so many tokens in columns, of which none is behind `end`, the last one that has been written."""
    if prefix_lengths_B is None:
        return None
    return ops.minimum(prefix_lengths_B if start_B is None else prefix_lengths_B + start_B, end)


def _positions(columns_T, start_B):
    return columns_T[None] if start_B is None else ops.maximum(columns_T[None] - start_B[:, None], 0)


def _written(padding_BS, new_BT, index):
    """`padding` with new columns from `index` on."""
    source_S = ops.arange(ops.shape(padding_BS)[1]) - index
    num_new = ops.shape(new_BT)[1]
    new_BS = ops.take(new_BT, ops.clip(source_S, 0, num_new - 1), axis=1)
    return ops.where(ops.logical_and(source_S >= 0, source_S < num_new), new_BS, padding_BS)


def _left_padding(padding_mask_BT):
    """int32 (B,): how many columns stand before the first real token of each row; all of them if there is none."""
    seen = ops.cumsum(ops.cast(padding_mask_BT, "int32"), axis=1) > 0
    return ops.sum(ops.cast(ops.logical_not(seen), "int32"), axis=1)
