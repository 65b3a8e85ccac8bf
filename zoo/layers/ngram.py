"""The tables of a back-off n-gram model as a Keras layer: find n-grams, score given words, or spell out all of V.

    log p(w | h) = log_prob(h w)                      if the n-gram h w is in the tables
                 = log_backoff(h) + log p(w | h')     otherwise, where h' is h without its oldest word

An n-gram is named by its *node*: its row among the n-grams of its order, which are sorted by
`key = node of all but the last word * (V + 1) + last word`. Finding one is a binary search for a key; what can follow a
history is one run of neighbouring rows. Each table ends in one more row, the *missing* node: its key is above all
others, so what is looked for below it is missing too; its log_backoff is 0; and its log_prob is above 0, which no
n-gram's is. So nothing here asks whether a history exists.

Shape letters: B batch, T positions, V vocabulary, R rows (any flat batch of histories), M n-grams of one order.
"""

import math

import keras
import numpy as np
from keras import ops

from zoo import private

MISSING_KEY = 2**63 - 1
MISSING_LOGS = (1.0, 0.0)


class BackoffTables(keras.layers.Layer):
    """Sorted n-gram tables with their log-probabilities and back-off weights, all of them non-trainable.

    Weights, for n = 1 to `order`: `keys_n` int64 (M + 1,) from n = 2, and `logs_n` float32 (M + 1, 2) with log_prob
    and log_backoff, (M + 1, 1) at the top order, which is not a history. Keys need 64 bits: switch them on for JAX.

    Args:
        order: longest n-gram.
        vocab_size: V. The id V (and every negative id) stands for "no word".
        num_ngrams: how many n-grams each order has, V unigrams first; () makes a table without any counts, uniform.

    Example:
        >>> tables = BackoffTables(order=2, vocab_size=5, num_ngrams=(5, 3))
        >>> [(variable.name, tuple(variable.shape)) for variable in tables.variables]
        [('logs_1', (6, 2)), ('keys_2', (4,)), ('logs_2', (4, 1))]
    """

    def __init__(self, order, vocab_size, num_ngrams=(), name="tables", **kwargs):
        super().__init__(name=name, trainable=False, **kwargs)
        self.order, self.vocab_size = order, vocab_size
        self.resize(num_ngrams)

    def resize(self, num_ngrams):
        """Makes new, empty tables in place of the old ones. Functions traced before still see the old."""
        private.forget(self, self.weights)
        self.num_ngrams = tuple(num_ngrams) or (self.vocab_size,) + (0,) * (self.order - 1)
        # Each list is indexed by the order n.
        with private.opened(self):
            self.keys, self.logs = [None], [None]
            for n, size in enumerate(self.num_ngrams, start=1):
                for made, kept in zip(self._make(n, size), (self.keys, self.logs), strict=True):
                    kept.append(made)
            self.keys, self.logs = tuple(self.keys), tuple(self.logs)
        self.built = True

    def _make(self, n, size):
        """What finds the n-grams of one order, and what holds their logs: empty, but for the missing row."""
        keys = self._table(f"keys_{n}", (size + 1,), "int64", MISSING_KEY) if n > 1 else None
        nothing = (-math.log(self.vocab_size), 0.0) if n == 1 else MISSING_LOGS
        width = 2 if n < self.order else 1
        return keys, self._table(f"logs_{n}", (size + 1, width), "float32", nothing[:width])

    def _table(self, name, shape, dtype, row):
        # No autocast: a log-probability in bfloat16 has two digits.
        initializer = keras.initializers.Constant(np.array(row, dtype))
        return self.add_weight(shape, initializer, dtype, trainable=False, autocast=False, name=name)

    def assign(self, tables):
        """Replaces the contents by `zoo.layers.ngram_estimation.Tables` of each order, of arrays or of what slices give arrays
        of; empties the list as it goes."""
        self.resize([len(table.keys) for table in tables])
        for n in range(1, self.order + 1):
            self._assign(n, tables.pop(0))

    def _assign(self, n, table):
        if n > 1:
            self.keys[n].assign(np.append(table.keys[:], MISSING_KEY))
        columns = [table.log_probs, table.log_backoffs][: 2 if n < self.order else 1]
        logs = np.empty((len(table.log_probs) + 1, len(columns)), np.float32)
        for i, (column, end) in enumerate(zip(columns, MISSING_LOGS, strict=False)):
            logs[:-1, i], logs[-1, i] = column[:], end
        self.logs[n].assign(logs)

    def arrays(self, n):
        """Of the n-grams of order n the keys, int64 (M,), None for unigrams, and the logs, float32 (M, 2) or (M, 1)."""
        return None if n == 1 else self.keys[n].numpy()[:-1], self.logs[n].numpy()[:-1]

    def find(self, n, prefixes, words, searches=1):
        """The nodes of the n-grams that end in `words`, given the nodes of all their other words; int32. `searches` as in
        `walk`."""
        wanted = self._first_key(prefixes) + ops.cast(words, "int64")
        flat_R = ops.reshape(wanted, (-1,))
        if searches == 1:
            rows = ops.searchsorted(self.keys[n], flat_R)
        else:
            ends = [ops.shape(flat_R)[0] * part // searches for part in range(searches + 1)]
            parts = [ops.searchsorted(self.keys[n], flat_R[i:j]) for i, j in zip(ends[:-1], ends[1:], strict=True)]
            rows = ops.concatenate(parts)
        rows = ops.reshape(rows, ops.shape(wanted))
        return ops.where(ops.take(self.keys[n], rows) == wanted, rows, self.num_ngrams[n - 1])

    def _first_key(self, prefixes):
        return ops.cast(prefixes, "int64") * (self.vocab_size + 1)

    def walk(self, token_ids, linked, longest, searches=1):
        """The n-grams that end at each position of a text.

        Args:
            token_ids: int32 (B, T); negative ids stand for "no word".
            linked: bool (B, T), whether a token sees the one before it. Or None: each does.
            longest: order of the longest n-gram wanted.
            searches: into how many parts to cut each search: TensorFlow's runs on one core, and several run side by side.

        Returns:
            A list of int32 (B, T): the nodes of the n-grams of order 1 to `longest` that end at each position.
        """
        words = ops.where(token_ids < 0, self.vocab_size, token_ids)
        nodes = [words]
        for n in range(2, longest + 1):
            missing = self.num_ngrams[n - 2]
            before = ops.pad(nodes[-1], ((0, 0), (1, 0)), constant_values=missing)[:, :-1]
            before = before if linked is None else ops.where(linked, before, missing)
            nodes.append(self.find(n, before, words, searches))
        return nodes

    def follow(self, contexts, labels):
        """The nodes of the n-grams made of each context and its label.

        Args:
            contexts: for each length 1 to order - 1 the node of the history of that length, int32 of one shape.
            labels: int32 of the same shape.

        Returns:
            A list of `order` such arrays, unigrams first.
        """
        return [labels] + [self.find(n, context, labels) for n, context in enumerate(contexts, start=2)]

    def rows(self, nodes):
        """The logs of nodes of order 1, 2 and so on: a list of float32 (..., 2), log_prob and log_backoff."""
        return [self._logs(n, node) for n, node in enumerate(nodes, start=1)]

    def _logs(self, n, node):
        return ops.take(self.logs[n], node, axis=0)

    def _followers(self, n, context):
        """Where the n-grams that begin with each context, a node, stand in the table, and how many they are: two of (R,)."""
        first_key = self._first_key(context)
        start = ops.searchsorted(self.keys[n], first_key)
        return start, ops.searchsorted(self.keys[n], first_key + self.vocab_size) - start

    def _last_word(self, n, child, context):
        """The last word of n-grams that begin with `context`, int32."""
        return ops.cast(ops.take(self.keys[n], child) - self._first_key(context), "int32")

    def score(self, contexts, ngrams):
        """Log-probabilities of n-grams, float32, from the `rows` of order 1 and up and those of their contexts."""
        log_probs = ngrams[0][..., 0]
        for context, ngram in zip(contexts, ngrams[1:], strict=True):
            log_probs = ops.where(ngram[..., 0] > 0, log_probs + context[..., 1], ngram[..., 0])
        return log_probs

    def distribution(self, contexts, num_rows):
        """Log-probabilities of all V words, float32 (R, V), for R histories given by their nodes, a list of int32 (R,).

        Starts from the unigrams and writes the words that follow each longer history over them, shortest first.
        """
        backoffs = [row[:, 1] for row in self.rows(contexts)]
        # left[n - 1]: what remains to be added to an n-gram's log-probability, the back-offs of its longer histories.
        left = [sum(backoffs[n:], ops.zeros((), "float32")) for n in range(self.order)]
        unigrams = ops.broadcast_to(self.logs[1][: self.vocab_size, 0], (num_rows, self.vocab_size))
        log_probs = unigrams + ops.reshape(left[0], (-1, 1))
        for n, context in enumerate(contexts, start=2):
            start, length = self._followers(n, context)
            before = ops.cumsum(length) - length
            row = ops.repeat(ops.arange(num_rows), length)
            child = ops.arange(ops.sum(length)) + ops.take(start - before, row)
            word = self._last_word(n, child, ops.take(context, row))
            values = self._logs(n, child)[:, 0]
            values = values if n == self.order else values + ops.take(left[n - 1], row)
            log_probs = ops.scatter_update(log_probs, ops.stack([row, word], axis=-1), values)
        return log_probs
