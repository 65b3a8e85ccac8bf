"""Texts of words as rows in graph, equal to the native rows of `zoo/data/words.py`.

Shape letters: B batch, T positions, W words, L characters of a word, N some words of all rows.
"""

import tensorflow as tf

from zoo.data.words import MOST_CHARACTERS, WHITE_SPACE, blank_id
from zoo.signatures.rows import rows_in_graph
from zoo.tokenizers.base import row_ids


def words_in_graph(texts, tokenizer, frame, limit, takes=(), cut=tf.strings.split):
    """Texts, string (B,), as rows. A text that does not fit into one is an InvalidArgumentError that names both lengths.

    Args:
        takes: what the model takes; if `characters` are among that, the batch has them.
        cut: gives the words of texts, ragged string (B, W); by default those between white space.

    Returns:
        `(words, batch, real)`: the words, ragged string (B, W); a batch of `token_ids`, `padding_mask` and
        `label_positions` int32 (B, W), where each word's tokens begin; bool (B, W), True for real words.
    """
    words = cut(texts)
    flat = words.flat_values
    row = row_ids(words)
    is_first = tf.range(tf.size(flat), dtype=tf.int64) == tf.gather(words.row_splits, row)
    pieces = tokenizer.tokenize(tf.where(is_first, flat, tf.strings.join([" ", flat])))
    blank = tf.cast(pieces.row_lengths() == 0, tf.int64)
    blanks = tf.RaggedTensor.from_row_lengths(tf.fill([tf.reduce_sum(blank)], blank_id(tokenizer)), blank, validate=False)
    pieces = tf.concat([pieces, blanks], 1)
    splits = tf.gather(pieces.row_splits, words.row_splits)
    ids = tf.RaggedTensor.from_row_splits(pieces.flat_values, splits, validate=False)
    places = tf.cast(pieces.row_splits[:-1] - tf.gather(splits, row), tf.int32) + len(frame.before)
    batch = rows_in_graph([ids], frame, tokenizer.pad_id, limit, "refuse")
    batch.pop("segment_ids", None)  # of one part
    batch["label_positions"] = words.with_flat_values(places).to_tensor()
    if "characters" in takes:
        batch["characters"] = _characters_at(flat, row, places, tf.shape(batch["token_ids"]))
    return words, batch, tf.sequence_mask(words.row_lengths(), tf.shape(batch["label_positions"])[1])


def characters_in_graph(texts):
    """The characters of texts, string (B,), but white space: ragged string (B, W), as `zoo.data.words.characters_of`."""
    characters = tf.strings.unicode_split(texts, "UTF-8", errors="replace", replacement_char=0xFFFD)
    return tf.ragged.boolean_mask(characters, ~tf.strings.regex_full_match(characters, WHITE_SPACE))


def _characters_at(words_N, rows_N, places_N, shape):
    """As `zoo.data.words.characters_at`, int32 (B, T, L): the characters of words, string (N,), at places of rows."""
    points = tf.strings.unicode_decode(words_N, "UTF-8", errors="replace", replacement_char=0xFFFD)
    points_NL = points.to_tensor(0, shape=[None, MOST_CHARACTERS])
    at_N2 = tf.stack([tf.cast(rows_N, tf.int32), places_N], 1)
    return tf.scatter_nd(at_N2, points_NL, tf.concat([shape, [MOST_CHARACTERS]], 0))


def words_marked(batch, real_BW, rows_N, words_N, num_behind):
    """int32 (N, T): for each of some words, 1 at its tokens and 0 elsewhere in its row.

    Args:
        batch: of which `padding_mask` and `label_positions` are read.
        real_BW: bool, True for real words.
        rows_N, words_N: int (N,), the words.
        num_behind: how many ids stand behind the last word of a row.
    """
    places_NW = tf.gather(batch["label_positions"], rows_N)
    counts_N = tf.gather(tf.reduce_sum(tf.cast(real_BW, tf.int32), 1), rows_N)
    lengths_N = tf.gather(tf.reduce_sum(tf.cast(batch["padding_mask"], tf.int32), 1), rows_N)
    following_N = tf.cast(words_N, tf.int32) + 1
    nexts_NW = tf.concat([places_NW, tf.zeros_like(places_NW[:, :1])], 1)
    ends_N = tf.where(following_N < counts_N, tf.gather(nexts_NW, following_N, batch_dims=1), lengths_N - num_behind)
    columns_T = tf.range(tf.shape(batch["padding_mask"])[1])
    starts_N1 = tf.gather(places_NW, words_N, batch_dims=1)[:, None]
    return tf.cast((columns_T >= starts_N1) & (columns_T < ends_N[:, None]), tf.int32)
