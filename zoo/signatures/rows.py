"""Texts as rows of ids in graph, equal to the native rows of `zoo/data/examples.py`.

Shape letters: B batch, T positions.
"""

import tensorflow as tf

from zoo.data.examples import kept_lengths
from zoo.signatures.request import refusal_unless


def rows_in_graph(parts, frame, pad_id, limit=None, overlong="cut", what="text"):
    """A batch of rows, each of one or two texts in their frame, padded at the right.

    Args:
        parts: list of one or two RaggedTensors (B, None) of ids.
        frame: a `Frame`.
        pad_id: what fills rows up.
        limit: the most tokens of a row, or None for any number.
        overlong: what becomes of texts that do not fit: `cut`, the longer of a pair first, or `refuse`, an
            InvalidArgumentError that names both numbers.
        what: the word for a text in that error.

    Returns:
        dict of `token_ids` int32 (B, T), `padding_mask` bool (B, T) and, where the frame has them, `segment_ids` int32 (B, T).
    """
    ids, segments = _framed(parts, frame, limit if overlong == "cut" else None)
    longest = tf.reduce_max(tf.concat([tf.cast(ids.row_lengths(), tf.int32), [least_length(frame, len(parts))]], 0))
    if overlong == "refuse":
        longest = within(longest, limit, what)
    shape = tf.stack([ids.nrows(out_type=tf.int32), longest])
    batch = {
        "token_ids": ids.to_tensor(pad_id, shape=shape),
        "padding_mask": tf.sequence_mask(ids.row_lengths(), longest),
    }
    if frame.segments:
        batch["segment_ids"] = segments.to_tensor(0, shape=shape)
    return batch


def left_padded_rows(parts, frame, pad_id, limit=None, least=1, what="prompt"):
    """As `rows_in_graph`, padded at the left; texts that do not fit are refused.

    Returns:
        `(token_ids, padding_mask, lengths)`: int32 (B, T), bool (B, T), int32 (B,). T is the length of the longest row, or
        `least` where that is more.
    """
    ids, _ = _framed(parts, frame, None)
    lengths = tf.cast(ids.row_lengths(), tf.int32)
    longest = within(tf.reduce_max(tf.concat([lengths, [0]], 0)), limit, what)
    longest = tf.maximum(longest, least)
    source = tf.range(longest)[None] - (longest - lengths)[:, None]
    dense = ids.to_tensor(shape=tf.stack([tf.shape(lengths)[0], longest]))
    dense = tf.gather(dense, tf.maximum(source, 0), batch_dims=1)
    return tf.where(source >= 0, dense, pad_id), source >= 0, lengths


def framed_ids(ids, frame, limit=None, what="text"):
    """int32 RaggedTensor (B, None): each text in its frame. A text that does not fit is refused."""
    framed, _ = _framed([ids], frame, None)
    longest = tf.reduce_max(tf.concat([tf.cast(framed.row_lengths(), tf.int32), [0]], 0))
    if limit is None:
        return framed
    # Without the dependency the model might fail first, on a position that it does not have.
    with tf.control_dependencies([within(longest, limit, what)]):
        return framed.with_flat_values(tf.identity(framed.flat_values))


def least_length(frame, num_parts=1):
    """The fewest columns that a batch has: a model needs at least one, though a batch may have no rows."""
    return max(frame.num_special(num_parts), 1)


def within(longest, limit, what):
    """`longest`, int32 scalar, once it is known to be at most `limit` (None for any)."""
    if limit is None:
        return longest
    sentence = f"The longest {what} has {{}} tokens, with the special ones around it; this model takes at most {limit}."
    with tf.control_dependencies([refusal_unless(longest <= limit, sentence, longest)]):
        return tf.identity(longest)


def _framed(parts, frame, limit):
    """int32 RaggedTensors (B, None): the rows, cut to `limit`, and their segment ids."""
    parts = [tf.cast(part, tf.int32) for part in parts]
    if limit is not None:
        lengths = [tf.cast(part.row_lengths(), tf.int32) for part in parts]
        room = limit - frame.num_special(len(parts))
        kept = kept_lengths(lengths, room, tf.minimum, tf.maximum)
        parts = [_cut(part, length) for part, length in zip(parts, kept, strict=True)]
    count = parts[0].nrows(out_type=tf.int32)
    ids, segments = [], []

    def add(values, segment):
        column = tf.tile(tf.constant([values], tf.int32, shape=(1, len(values))), [count, 1])
        ids.append(column)
        segments.append(tf.zeros_like(column) + segment)

    add(frame.before, 0)
    for number, part in enumerate(parts):
        ids.append(part)
        segments.append(part.with_flat_values(tf.fill(tf.shape(part.flat_values), number)))
        add(frame.behind(number, len(parts)), number)
    return tf.concat(ids, 1), tf.concat(segments, 1)


def _cut(ragged, lengths):
    """The first `lengths` int32 (B,) values of each row of a RaggedTensor."""
    starts = ragged.row_splits[:-1]
    kept = tf.RaggedTensor.from_row_lengths(tf.range(tf.reduce_sum(lengths)), tf.cast(lengths, tf.int64), validate=False)
    offsets = tf.cast(kept.row_splits[:-1], tf.int64)
    shift = tf.repeat(starts - offsets, tf.cast(lengths, tf.int64))
    return kept.with_flat_values(tf.gather(ragged.flat_values, tf.cast(kept.flat_values, tf.int64) + shift))
