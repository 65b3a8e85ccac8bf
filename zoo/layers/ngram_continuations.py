"""What an n-gram model would write on its own, the likeliest word after the longest history that it knows, read off its tables
once: for a draft, whose every token must cost next to nothing.

    history "the end of"    longest known: "end of" -> "the"      then "of the" -> "list"      then ...

A *state* is a history that something follows: a node of the tables of one order. Which word is likeliest behind it, and which
state that word leads to, does not change, so both are kept; a draft of K tokens is one look-up of a history and K steps from
state to state.

Shape letters: R rows (histories), K words of a draft, S states, M n-grams of one order, V vocabulary.
"""

import keras
import numpy as np
from keras import ops


class Continuations(keras.layers.Layer):
    """The greedy continuations of histories, in graph.

    What the tables hold of p says how many words of a draft may be expected to be right, the first j of them with p_1 ... p_j:

        expected(h) = p(w | h) (1 + expected(h w)),    w the likeliest word behind h

    A draft of which less is expected than what it costs is not made.

    Weights, all of them non-trainable: `words` and `following` int32 (S,), and `lengths` uint8 (S,).

    Args:
        tables: the `BackoffTables` or `PackedTables` of a fitted model of order 2 or more.
        num_words: K.
        least: how many words must be expected.

    Call:
        token_ids int32 (R, n - 1) -> int32 (R, K), the words that follow, and int32 (R,), how long the history was that they
        were found behind; 0 for no draft.

    Example:
        >>> import numpy as np
        >>> import zoo
        >>> model = zoo.create("ngram", "trigram", vocab_size=4, eos_id=3)
        >>> model.fit_closed_form(np.array([0, 1, 2] * 20 + [3], np.uint16))
        >>> words, lengths = Continuations(model.tables, 4, 1.0)(np.array([[0, 1]]))
        >>> words.numpy().tolist(), lengths.numpy().tolist()
        ([[2, 0, 1, 2]], [2])
    """

    def __init__(self, tables, num_words, least, name="continuations", **kwargs):
        super().__init__(name=name, trainable=False, **kwargs)
        self.tables, self.num_words = tables, num_words
        self.history = tables.order - 1
        self._first, words, probs, following, lengths = _states(tables)
        expected = np.zeros_like(probs)
        for _ in range(num_words):
            expected = probs * (1 + expected[following])
        lengths = np.where(expected >= least, lengths, 0).astype(np.uint8)
        made = [self._kept(*one) for one in (("words", words), ("following", following), ("lengths", lengths))]
        self.words, self.following, self.lengths = made
        self.built = True

    def _kept(self, name, values):
        weight = self.add_weight(values.shape, "zeros", values.dtype.name, trainable=False, autocast=False, name=name)
        weight.assign(values)
        return weight

    @property
    def num_bytes(self):
        """Bytes of all that a graph reads."""
        read = [self.words, self.following, self.lengths]
        for keys in self.tables.keys[2 : self.history + 1]:
            read += keys if isinstance(keys, tuple) else [keys]
        return sum(int(np.prod(weight.shape)) * np.dtype(weight.dtype).itemsize for weight in read)

    def call(self, token_ids):
        """The words that follow histories, the last ids of each row, oldest first; -1 where a row had not begun. Ids that the
        tables do not have are words that were never seen."""
        token_ids = ops.cast(token_ids, "int32")
        known = ops.where(token_ids < self.tables.vocab_size, token_ids, -1)
        nodes = self.tables.walk(known, None, self.history)
        state = ops.full_like(nodes[0][:, -1], self.tables.vocab_size)  # the state that nothing follows
        for first, node in zip(self._first, nodes, strict=True):
            longer = first + node[:, -1]
            state = ops.where(ops.take(self.words, longer) >= 0, longer, state)
        lengths, words = ops.cast(ops.take(self.lengths, state), "int32"), []
        for _ in range(self.num_words):
            words.append(ops.take(self.words, state))
            state = ops.take(self.following, state)
        return ops.maximum(ops.stack(words, axis=-1), 0), lengths


def _states(tables):
    """The states of tables: histories of one word, the missing one last, then those of two words, and so on.

    Returns:
        The state of the first history of each length; and of each state the likeliest word, -1 where nothing follows, its
        probability, the state that it leads to, and the length of the history.
    """
    order, base, nothing = tables.order, tables.vocab_size + 1, tables.vocab_size
    sizes = [size + 1 for size in tables.num_ngrams[:-1]]
    first = [0, *np.cumsum(sizes).tolist()]
    lengths = np.repeat(np.arange(1, order), sizes)
    words, probs = np.full(first[-1], -1, np.int32), np.zeros(first[-1], np.float32)
    ngrams, best = {n: tables.arrays(n) for n in range(2, order + 1)}, {}
    for n, (keys, logs) in ngrams.items():
        best[n] = _likeliest(keys // base, logs[:, 0])
        histories = first[n - 2] + keys[best[n]] // base
        words[histories], probs[histories] = keys[best[n]] % base, np.exp(logs[best[n], 0])
    following = np.full(first[-1], nothing, np.int32)
    # Of each n-gram one word shorter: the state that it is as a history, and the n-gram without its oldest word.
    state_of, without_oldest = np.where(words[:base] >= 0, np.arange(base), nothing), None
    for n, (keys, _) in ngrams.items():
        prefixes, last = np.divmod(keys, base)
        shorter = last if n == 2 else _rows(ngrams[n - 1][0], without_oldest[prefixes] * base + last)
        states = state_of[shorter]
        if n < order:
            own = first[n - 1] + np.arange(len(keys))
            states = np.where(words[own] >= 0, own, states)
        following[first[n - 2] + prefixes[best[n]]] = states[best[n]]
        state_of, without_oldest = np.append(states, nothing), np.append(shorter, sizes[n - 2] - 1)
    return first[:-1], words, probs, following, lengths


def _likeliest(prefixes, log_probs):
    """Of each history the row of the likeliest n-gram that begins with it; of several the one with the lowest word."""
    begins = np.flatnonzero(np.diff(prefixes, prepend=-1))
    number = np.repeat(np.arange(len(begins)), np.diff(begins, append=len(prefixes)))
    rows = np.flatnonzero(log_probs == np.maximum.reduceat(log_probs, begins)[number]) if len(begins) else begins
    return rows[np.unique(number[rows], return_index=True)[1]]


def _rows(keys, wanted):
    """The rows of keys in a sorted array, whose length stands for those that it lacks."""
    rows = np.searchsorted(keys, wanted)
    found = keys[np.minimum(rows, len(keys) - 1)] == wanted
    return np.where(found, rows, len(keys))
