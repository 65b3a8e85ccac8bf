"""Back-off tables in less room: log-probabilities and back-off weights in 256 bins each, and words instead of keys.

    keys      a history's n-grams are neighbours, so `starts` says where they begin, and `words` which word each ends in
    logs      one byte says the bin; a bin's value is the mean of what is in it, and every bin holds as many n-grams

This is KenLM's trie with `-q 8 -b 8` (Heafield 2011, "KenLM: Faster and Smaller Language Model Queries", section 3.2), in
whole bytes. Of an n-gram that is a history too it keeps 8 bytes, where `BackoffTables` keeps 16; of the longest 3, where
those keep 12. Above 65,536 words both take 2 more. Unigrams stay float32. Probabilities of a history then sum to about 1.

Shape letters as in `zoo/layers/ngram.py`.
"""

import numpy as np
from keras import ops

from zoo.layers.ngram import MISSING_LOGS, BackoffTables

BINS = 256
# The last bin is kept for the row of missing n-grams, and for back-off weights that are 0 to the last bit.
KEPT = BINS - 1
SAMPLED, BLOCK = 2**22, 2**20


class PackedTables(BackoffTables):
    """`BackoffTables` in bins, with the same methods.

    Weights, for n from 2 to `order`: `starts_n` int32 (M' + 2,) with M' the n-grams one word shorter, `words_n` uint16 or int32
    (M + 1,), `codes_n` uint8 (M + 1, 2), and `bins_n` float32 (2, 256): of log_probs and of log_backoffs; at the top order
    `codes_n` and `bins_n` have only the first of both. `logs_1` is as in `BackoffTables`.
    """

    def _make(self, n, size):
        if n == 1:
            return super()._make(n, size)
        width, word = 2 if n < self.order else 1, "uint16" if self.vocab_size <= 2**16 else "int32"
        starts = self._table(f"starts_{n}", (self.num_ngrams[n - 2] + 2,), "int32", 0)
        words = self._table(f"words_{n}", (size + 1,), word, 0)
        codes = self._table(f"codes_{n}", (size + 1, width), "uint8", KEPT)
        missing = np.array(MISSING_LOGS[:width])[:, None]
        return (starts, words), (codes, self._table(f"bins_{n}", (width, BINS), "float32", missing))

    def _assign(self, n, table):
        if n == 1:
            super()._assign(n, table)
            return
        (starts, words), (codes, bins), size = self.keys[n], self.logs[n], len(table.keys)
        columns = [table.log_probs, table.log_backoffs][: codes.shape[1]]
        values = np.stack([bin_values(column, end) for column, end in zip(columns, MISSING_LOGS, strict=False)])
        last_words = np.zeros(size + 1, words.dtype)
        counts = np.zeros(self.num_ngrams[n - 2] + 1, np.int32)
        coded = np.full((size + 1, len(columns)), KEPT, np.uint8)
        for rows in _slices(size):
            prefixes, last_words[rows] = np.divmod(table.keys[rows], self.vocab_size + 1)
            np.add.at(counts, prefixes, 1)
            for i, column in enumerate(columns):
                coded[rows, i] = nearest_bin(column[rows], values[i])
        starts.assign(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
        words.assign(last_words)
        codes.assign(coded)
        bins.assign(values)

    def arrays(self, n):
        if n == 1:
            return super().arrays(n)
        (starts, words), size = (part.numpy() for part in self.keys[n]), self.num_ngrams[n - 1]
        prefixes = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        keys = prefixes * (self.vocab_size + 1) + words[:size]
        return keys, ops.convert_to_numpy(self._logs(n, np.arange(size)))

    def find(self, n, prefixes, words, searches=1):
        """As in `BackoffTables`: a binary search among the words that follow each history."""
        starts, last_words = self.keys[n]
        words = ops.cast(words, "int32")
        low, end = ops.take(starts, prefixes), ops.take(starts, prefixes + 1)

        def halve(low, high):
            middle = (low + high) // 2
            is_less = ops.cast(ops.take(last_words, middle), "int32") < words
            is_open = low < high
            return ops.where(is_open & is_less, middle + 1, low), ops.where(is_open & ~is_less, middle, high)

        low, _ = ops.while_loop(lambda low, high: ops.any(low < high), halve, (low, end))
        found = (low < end) & (ops.cast(ops.take(last_words, low), "int32") == words)
        return ops.where(found, low, self.num_ngrams[n - 1])

    def _logs(self, n, node):
        if n == 1:
            return super()._logs(n, node)
        codes, bins = self.logs[n]
        row = ops.cast(ops.take(codes, node, axis=0), "int32") + BINS * np.arange(codes.shape[1], dtype=np.int32)
        return ops.take(ops.reshape(bins, (-1,)), row)

    def _followers(self, n, context):
        starts, _ = self.keys[n]
        start = ops.take(starts, context)
        return start, ops.take(starts, context + 1) - start

    def _last_word(self, n, child, context):
        return ops.cast(ops.take(self.keys[n][1], child), "int32")


def bin_values(column, missing):
    """The values of 256 bins of a column, float32: rising, each the mean of an equal part of it, and `missing` as the last.

    A column with no more than 255 different values keeps them all. Of more than `SAMPLED` rows, evenly many are looked at.
    """
    step = -(-len(column) // SAMPLED) or 1
    values = np.concatenate([column[rows][-rows.start % step :: step] for rows in _slices(len(column))] or [column[:]])
    values = np.sort(values[values != 0]).astype(np.float64)
    different = np.unique(values)
    if len(different) > KEPT:
        ends = np.arange(KEPT + 1) * len(values) // KEPT
        different = np.unique(np.add.reduceat(values, ends[:-1]) / np.diff(ends))
    lowest = different[0] if len(different) else 0.0
    # Bins that are not needed repeat the lowest value, in front.
    return np.concatenate([np.full(KEPT - len(different), lowest), different, [missing]]).astype(np.float32)


def nearest_bin(values, bins):
    """The code of each value, uint8: its nearest bin; 0 is the bin of missing rows where that holds 0."""
    middles = (bins[: KEPT - 1] + bins[1:KEPT]) / 2
    codes = np.searchsorted(middles, values).astype(np.uint8)
    return np.where((values == 0) & (bins[KEPT] == 0), np.uint8(KEPT), codes)


def _slices(length):
    return [slice(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]
