"""What forbids or penalises tokens, given the rows so far: functions of logits, or of log-probabilities, in graph.

Rows are `ids` (B, L), written up to `column`; `real` (B, L) leaves out the padding at their left.

Shape letters: B batch, L length of a row, V vocabulary.
"""

import tensorflow as tf


def penalise_repetition(logits, ids, real, column, penalty):
    """Keskar et al. 2019, eq. in section 4.1, over the tokens in columns before `column` that are `real`."""
    # Columns that do not count name the row's latest token instead, which is penalised anyway: writing twice is harmless.
    counts = real & (tf.range(tf.shape(ids)[1]) < column)[None]
    ids = tf.where(counts, ids, tf.gather(ids, column - 1, axis=1)[:, None])
    found = tf.gather(logits, ids, batch_dims=1)
    penalty = tf.reshape(tf.cast(penalty, tf.float32), (-1, 1))
    return _scatter_rows(tf.tensor_scatter_nd_update, logits, ids, tf.where(found > 0, found / penalty, found * penalty))


class Forbidden:
    """Least lengths and n-grams as one rule, for every token of a loop: where no row asks for either, it costs one branch.

    Make it outside the loop, so that whether anything is asked is found out once.

    Args:
        min_new_tokens, no_repeat_ngram: Python ints, or int32 (B,), 0 is off.
        stop_ids: ids that end a row, Python ints.
    """

    def __init__(self, min_new_tokens, no_repeat_ngram, stop_ids):
        self._least, self._ngram, self._stop_ids = min_new_tokens, no_repeat_ngram, stop_ids
        asked = [n > 0 if isinstance(n, int) else tf.reduce_any(n > 0) for n in (min_new_tokens, no_repeat_ngram)]
        self._asked = any(asked) if all(isinstance(each, bool) for each in asked) else tf.reduce_any(tf.stack(asked))

    def __call__(self, logits, ids, real, column, written):
        """The logits, -inf for what may not come next; rows as at the top of this file, `written` as in `forbid_stops`."""

        def ruled():
            left = forbid_stops(logits, written, self._least, self._stop_ids)
            return forbid_repeated_ngrams(left, ids, real, column, self._ngram)

        if isinstance(self._asked, bool):
            return ruled() if self._asked else logits
        return tf.cond(self._asked, ruled, lambda: logits)


def forbid_repeated_ngrams(logits, ids, real, column, n):
    """-inf for each token that would complete an n-gram which the row already has; a row with no other choice is left alone.

    Args:
        logits: float32 (B, V).
        ids, real, column: see the top of this file.
        n: a Python int, or int32 (B,), 0 where every n-gram may come again.
    """
    if isinstance(n, int):
        return _forbidden(logits, ids, real, column, n, n) if n else logits
    n = tf.where(n <= column, n, 0)  # a longer one is nowhere yet
    longest = tf.reduce_max(tf.concat([n, [0]], 0))
    return tf.cond(longest > 0, lambda: _forbidden(logits, ids, real, column, n[:, None], longest), lambda: logits)


def _forbidden(logits, ids, real, column, n, longest):
    places = tf.range(tf.shape(ids)[1])[None]

    def same_before(i, repeats):
        """Whether what stands i before a place is what stands i before the next column, for the i that belong to the n-gram."""
        same = (
            tf.roll(real, i, 1)
            & (places >= i)
            & (tf.roll(ids, i, 1) == tf.gather(ids, tf.maximum(column - i, 0), axis=1)[:, None])
        )
        return i + 1, repeats & (same | (i >= n))

    repeats = real & (places < column) & (n > 0)
    _, repeats = tf.while_loop(lambda i, _: i < longest, same_before, (tf.constant(1), repeats))
    bound = tf.where(repeats, -float("inf"), float("inf"))
    left = _scatter_rows(tf.tensor_scatter_nd_min, logits, ids, bound)
    return tf.where(tf.reduce_max(left, -1, keepdims=True) > -float("inf"), left, logits)


def forbid_stops(logits, written, min_new_tokens, stop_ids):
    """-inf for the tokens that end a row, where it has `written` fewer tokens than it must.

    Args:
        logits: float32 (B, V).
        written: int32 scalar.
        min_new_tokens: a Python int, or int32 (B,).
        stop_ids: ids that end a row, Python ints.
    """
    if isinstance(min_new_tokens, int) and min_new_tokens == 0 or not len(stop_ids):
        return logits

    def forbidden():
        ends = tf.reduce_any(tf.range(tf.shape(logits)[1])[:, None] == tf.constant(stop_ids, tf.int32), 1)
        early = tf.broadcast_to(written < min_new_tokens, tf.shape(logits)[:1])
        return tf.where(early[:, None] & ends[None], -float("inf"), logits)

    return tf.cond(tf.reduce_any(written < min_new_tokens), forbidden, lambda: logits)


def _scatter_rows(scatter, x, columns, values):
    """`scatter` into x (B, V) at columns (B, M) of each row."""
    rows = tf.broadcast_to(tf.range(tf.shape(x)[0])[:, None], tf.shape(columns))
    return scatter(x, tf.stack([rows, columns], -1), values)
