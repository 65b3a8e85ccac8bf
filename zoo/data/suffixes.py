"""A suffix array over a token stream: where any n-gram of any order stands, and how often.

    suffixes = open_or_build(shards)                   on disk, in the directory `train.suffixes` beside the shards `train`
    suffixes.counts([ids[i : i + 3] for i in ...])     how often each of these trigrams occurs
    suffixes.longest_matches(ids)                      of each position, how many tokens from there on the stream holds in a row

The array lists the positions of a stream in the lexicographic order of the ids that follow (Manber and Myers 1993). All places
of an n-gram are neighbours in it, so two binary searches count them. The end of the stream is smaller than every id.

Building keeps the stream and its ranks in memory, about 48 bytes a token at the peak, and takes 4 bytes a token on disk (8 from
2^32 tokens on). A query reads the array and the stream from the disk where they lie.
"""

import json

import numpy as np

from zoo.config import Refusal
from zoo.data.shards import TokenShards
from zoo.files import appearing, exclusive

FORMAT_VERSION = 1
WIDTH = 16  # ids that are compared at once


def suffix_array(ids, vocab_size):
    """The positions of a stream in the order of the ids that stand from each on.

        >>> suffix_array([2, 1, 2, 1], 3).tolist()
        [3, 1, 2, 0]

    The first sort goes by as many ids as fit into 63 bits. Each round after it doubles the number, and sorts only those
    suffixes that are still equal to others (Larsson and Sadakane 2007).

    Args:
        ids: int (N,), each in [0, vocab_size).
        vocab_size: int.

    Returns:
        int64 (N,), a permutation.
    """
    ids = np.asarray(ids)
    count, bits = len(ids), int(vocab_size).bit_length()
    depth = max(63 // bits, 1)
    keys = np.zeros(count, np.int64)
    for offset in range(depth):
        keys <<= bits
        keys[: max(count - offset, 0)] |= ids[offset:].astype(np.int64) + 1  # 0 is the end of the stream
    order = np.argsort(keys)
    heads, lengths = _runs(keys[order])
    del keys
    rank = np.empty(count, np.int64)
    rank[order] = np.repeat(heads, lengths)
    unsettled = np.flatnonzero(np.repeat(lengths > 1, lengths))
    while len(unsettled):
        chosen = order[unsettled]
        following = chosen + depth
        keys = rank[chosen] * (count + 1)
        inside = following < count
        keys[inside] += rank[following[inside]] + 1
        sort = np.argsort(keys)
        chosen = chosen[sort]
        order[unsettled] = chosen  # the first part of a key keeps each group in its place
        heads, lengths = _runs(keys[sort])
        rank[chosen] = np.repeat(unsettled[heads], lengths)
        unsettled = unsettled[np.repeat(lengths > 1, lengths)]
        depth *= 2
    return order


def _runs(values):
    """Where each run of equal values starts, and how long it is."""
    heads = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])) if len(values) else np.zeros(0, np.int64)
    return heads, np.diff(heads, append=len(values))


def open_or_build(shards, progress=None):
    """The `Suffixes` of token shards, from the disk or made now.

    Args:
        shards: a `TokenShards` with a directory.
        progress: called with a sentence before the array is built.
    """
    directory = shards.directory.with_name(f"{shards.directory.name}.suffixes")
    with exclusive(directory):
        if not directory.exists():
            if progress:
                progress(f"Sorting {shards.num_tokens:,} tokens into {directory}")
            ids = shards[:]
            order = suffix_array(ids, shards.vocab_size)
            dtype = np.dtype("<u4" if len(ids) < 2**32 else "<u8")
            index = {"format_version": FORMAT_VERSION, "num_tokens": len(ids), "dtype": dtype.str}
            with appearing(directory) as partial:
                order.astype(dtype).tofile(partial / "order.bin")
                np.flatnonzero(ids == shards.eos_id).astype(dtype).tofile(partial / "ends.bin")
                (partial / "index.json").write_text(json.dumps(index) + "\n", encoding="utf8")
    return Suffixes(shards, *_mapped(directory, shards.num_tokens))


def _mapped(directory, num_tokens):
    """The sorted positions and those of the document ends. Raises Refusal when they are damaged."""
    damaged = Refusal(f"{directory} is damaged or of other tokens; delete it, and it is made again.")
    try:
        index = json.loads((directory / "index.json").read_text(encoding="utf8"))
        order, ends = (np.memmap(directory / name, np.dtype(index["dtype"]), "r") for name in ("order.bin", "ends.bin"))
        fits = (index["format_version"], index["num_tokens"], len(order)) == (FORMAT_VERSION, num_tokens, num_tokens)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged from error
    if not fits:
        raise damaged
    return order.view(np.ndarray), ends.view(np.ndarray)


class Suffixes:
    """The suffix array of a stream, ready for questions.

    Args:
        stream: a `TokenShards`, or an integer array (N,).
        order: integer (N,), as `suffix_array` makes it.
        ends: integer (E,), the positions at which a document ends, sorted; the first is what stands before document 0.
    """

    def __init__(self, stream, order, ends):
        self.order, self.ends, self.num_tokens = order, ends, len(order)
        self._pieces = stream.arrays if isinstance(stream, TokenShards) else [np.asarray(stream)]
        self._starts = np.cumsum([0, *map(len, self._pieces)])

    def counts(self, ngrams):
        """How often each n-gram occurs in the stream, int64 (Q,).

        Args:
            ngrams: sequence of sequences of ids, of any lengths; an empty one occurs at every position.
        """
        first, last = self.ranges(ngrams)
        return last - first

    def ranges(self, ngrams):
        """Of each n-gram, the range of `order` that holds its positions: two int64 arrays (Q,), first and one behind last."""
        lengths = np.array([len(ngram) for ngram in ngrams], np.int64)
        queries = np.full((len(lengths), max(lengths, default=0)), -1, np.int64)
        for i, ngram in enumerate(ngrams):
            queries[i, : lengths[i]] = ngram
        return self._search(queries, lengths, False)[0], self._search(queries, lengths, True)[0]

    def longest_matches(self, ids):
        """Of each position i of a text, the largest n such that ids[i : i + n] stands in the stream, int64 (T,)."""
        ids = np.asarray(ids, np.int64)
        lengths = np.arange(len(ids), 0, -1)
        columns = np.arange(len(ids)) + np.arange(len(ids))[:, None]
        queries = np.append(ids, np.full(len(ids), -1, np.int64))[columns] if len(ids) else np.zeros((0, 0), np.int64)
        return self._search(queries, lengths, False)[1]

    def document(self, position):
        """(number of the document that a position lies in, from 0; the position of its first token; that of its end)."""
        number = int(np.searchsorted(self.ends, position)) - 1
        return number, int(self.ends[number]) + 1, int(self.ends[number + 1])

    def _ids(self, positions):
        """The ids at positions (any shape), -1 from the end of the stream on."""
        inside = positions < self.num_tokens
        positions = np.where(inside, positions, 0)
        if len(self._pieces) == 1:
            found = self._pieces[0][positions]
        else:
            found = np.zeros(positions.shape, np.int64)
            of_piece = np.searchsorted(self._starts, positions, side="right") - 1
            for piece in np.unique(of_piece):
                here = of_piece == piece
                found[here] = self._pieces[piece][positions[here] - self._starts[piece]]
        return np.where(inside, found.astype(np.int64), -1)

    def _search(self, queries, lengths, behind):
        """Binary search for all queries (Q, L) together.

        Both ends of a query's interval remember how many ids they share with it; what lies between shares the lesser number
        at least, and is compared from there on.

        Returns:
            For each query the number of suffixes that are smaller than it or, with `behind`, begin with it; and the most ids
            that a neighbour of this place shares with the query.
        """
        count = len(lengths)
        low, high = np.full(count, -1), np.full(count, self.num_tokens)  # low: before the place; high: behind it
        shared_low, shared_high = np.zeros(count, np.int64), np.zeros(count, np.int64)
        while len(open_ := np.flatnonzero(high - low > 1)):
            middle = (low[open_] + high[open_]) // 2
            positions = self.order[middle].astype(np.int64)
            shared = np.minimum(shared_low[open_], shared_high[open_])
            shared, less = self._compare(queries[open_], lengths[open_], positions, shared, behind)
            low[open_[less]], shared_low[open_[less]] = middle[less], shared[less]
            high[open_[~less]], shared_high[open_[~less]] = middle[~less], shared[~less]
        return high, np.maximum(shared_low, shared_high)

    def _compare(self, queries, lengths, positions, shared, equal_is_less):
        """How many ids each query shares with the suffix at its position, and whether the suffix belongs before the query."""
        less = np.zeros(len(queries), bool)
        going, columns = np.arange(len(queries)), np.arange(WIDTH)
        while len(going):
            at = shared[going, None] + columns
            wanted = np.take_along_axis(queries[going], np.minimum(at, queries.shape[1] - 1), 1) if queries.shape[1] else at
            found = self._ids(positions[going, None] + at)
            differs = (wanted != found) | (at >= lengths[going, None])
            first = np.where(differs.any(1), differs.argmax(1), WIDTH)
            shared[going] += first
            ended = first < WIDTH
            rows, place = np.flatnonzero(ended), first[ended]
            whole = shared[going[rows]] >= lengths[going[rows]]
            less[going[rows]] = np.where(whole, equal_is_less, found[rows, place] < wanted[rows, place])
            going = going[~ended]
        return shared, less
