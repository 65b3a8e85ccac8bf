"""Texts as rows of ids in graph, equal to the native rows of `zoo/data/examples.py`.

Shape letters: B batch, T positions.
"""

import tensorflow as tf

from zoo.data.examples import kept_lengths, marks


def rows_in_graph(texts, tokenizer, max_tokens):
    """`row` for string tensors.

    Args:
        texts: list of one or two string tensors (B,).
        tokenizer: a `Tokenizer`.
        max_tokens: int, or None for no limit.

    Returns:
        dict of `token_ids` int32 (B, T), `segment_ids` int32 (B, T) and `padding_mask` bool (B, T).
    """
    begin, end = marks(tokenizer)
    parts = [tokenizer.tokenize(text) for text in texts]
    if max_tokens is not None:
        lengths = kept_lengths([tf.cast(part.row_lengths(), tf.int32) for part in parts], max_tokens - 1 - len(parts))
        parts = [_cut(part, length) for part, length in zip(parts, lengths, strict=True)]
    column = tf.zeros([tf.shape(texts[0])[0], 1], tf.int32)
    ids, segments = [column + begin], [column]
    for number, part in enumerate(parts):
        ids += [part, column + end]
        segments += [part.with_flat_values(tf.fill(tf.shape(part.flat_values), number)), column + number]
    ids, segments = tf.concat(ids, 1), tf.concat(segments, 1)
    longest = tf.reduce_max(tf.concat([ids.row_lengths(), [1]], 0))  # a batch may have no rows
    shape = tf.stack([ids.nrows(), longest])
    return {
        "token_ids": ids.to_tensor(tokenizer.pad_id, shape=shape),
        "segment_ids": segments.to_tensor(0, shape=shape),
        "padding_mask": tf.sequence_mask(ids.row_lengths(), longest),
    }


def _cut(ragged, lengths):
    """The first `lengths` int32 (B,) values of each row of a RaggedTensor."""
    starts = ragged.row_splits[:-1]
    kept = tf.RaggedTensor.from_row_lengths(tf.range(tf.reduce_sum(lengths)), tf.cast(lengths, tf.int64), validate=False)
    offsets = tf.cast(kept.row_splits[:-1], tf.int64)
    shift = tf.repeat(starts - offsets, tf.cast(lengths, tf.int64))
    return kept.with_flat_values(tf.gather(ragged.flat_values, tf.cast(kept.flat_values, tf.int64) + shift))
