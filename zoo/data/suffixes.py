"""A suffix array over a token stream: where any n-gram of any order stands, and how often.

    suffixes = open_or_build(shards)                   on disk, in the directory `train.suffixes` beside the shards `train`
    suffixes.counts([ids[i : i + 3] for i in ...])     how often each of these trigrams occurs
    suffixes.longest_matches(ids)                      of each position, how many tokens from there on the stream holds in a row

The array lists the positions of a stream in the lexicographic order of the ids that follow (Manber and Myers 1993). All places
of an n-gram are neighbours in it, so two binary searches count them. The end of the stream is smaller than every id.

Building sorts some millions of positions at once. All that is as long as the stream lies on the disk: about 11 bytes a token
while it is made, then 4 (8 from 2^32 tokens on). A query reads the array and the stream from the disk where they lie.
"""

import json

import numpy as np

from zoo.config import Refusal
from zoo.data.shards import TokenShards
from zoo.files import appearing, exclusive

FORMAT_VERSION = 1
WIDTH = 16  # ids that are compared at once
AT_ONCE = 1 << 22  # positions that are sorted together


def suffix_array(ids, vocab_size, array=np.empty, at_once=AT_ONCE):
    """The positions of a stream in the order of the ids that stand from each on.

        >>> suffix_array([2, 1, 2, 1], 3).tolist()
        [3, 1, 2, 0]

    The first sort goes by as many ids as fit into 63 bits, a range of keys after another. Each round after it doubles the
    number, and sorts only those suffixes that are still equal to others (Larsson and Sadakane 2007), some groups after others.

    Args:
        ids: int (N,), each in [0, vocab_size).
        vocab_size: int.
        array: (length, dtype) -> an array, in memory or on disk, for the three that are as long as the stream.
        at_once: about how many positions are sorted together. More are, where more suffixes begin alike.

    Returns:
        uint32 (N,), uint64 from 2^32 - 1 tokens on: a permutation.
    """
    ids = np.asarray(ids)
    count, bits = len(ids), int(vocab_size).bit_length()
    depth, dtype = max(63 // bits, 1), np.uint32 if len(ids) < 2**32 - 1 else np.uint64
    order, rank, tied = array(count, dtype), array(count, dtype), array(count, np.bool_)

    def settle(places, positions, keys):
        """Puts positions into places of the order by their keys; equal keys stay a group, whose rank is its first place."""
        sort = np.argsort(keys)
        heads, lengths = _runs(keys[sort])
        order[places] = positions[sort]
        rank[positions[sort]] = places[np.repeat(heads, lengths)]
        tied[places] = np.repeat(lengths > 1, lengths)

    start = 0
    for positions, keys in _by_ranges_of_keys(ids, bits, depth, at_once):
        settle(np.arange(start, start + len(positions)), positions, keys)
        start += len(positions)
    while _is_any(tied, at_once):
        for start, end in _whole_groups(order, rank, at_once):
            unsettled = start + np.flatnonzero(tied[start:end])
            if len(unsettled):
                chosen = order[unsettled].astype(np.int64)
                following = chosen + depth
                keys = rank[chosen].astype(np.int64) * (count + 1)
                inside = following < count
                keys[inside] += rank[following[inside]].astype(np.int64) + 1
                settle(unsettled, chosen, keys)  # a key's first part keeps each group in its place
        depth *= 2
    return order


def _by_ranges_of_keys(ids, bits, depth, at_once):
    """Positions and the keys of their first `depth` ids, one range of keys after another, about `at_once` positions each."""

    def keys_of(first, last):
        keys, window = np.zeros(last - first, np.int64), ids[first : last + depth]
        for offset in range(depth):
            keys <<= bits
            there = window[offset : offset + last - first]
            keys[: len(there)] |= there.astype(np.int64) + 1  # 0 is the end of the stream
        return keys

    pieces = [(first, min(first + at_once, len(ids))) for first in range(0, len(ids), at_once)]
    if len(pieces) <= 1:
        yield np.arange(len(ids)), keys_of(0, len(ids))
        return
    sample = np.sort(np.concatenate([keys_of(*piece)[:: max(len(pieces), 16)] for piece in pieces]))
    bounds = np.unique(sample[np.linspace(0, len(sample) - 1, len(pieces) + 1).astype(int)[1:-1]])
    for low, high in zip([-1, *bounds.tolist()], [*bounds.tolist(), np.iinfo(np.int64).max], strict=True):
        positions, found = [], []
        for first, last in pieces:
            keys = keys_of(first, last)
            chosen = np.flatnonzero((keys > low) & (keys <= high))
            positions.append(first + chosen)
            found.append(keys[chosen])
        yield np.concatenate(positions), np.concatenate(found)


def _whole_groups(order, rank, at_once):
    """Ranges of about `at_once` places of the order, none of which cuts a group."""
    start, count = 0, len(order)
    while start < count:
        end = min(start + at_once, count)
        if end < count:
            head = int(rank[order[end]])
            if head > start:
                end = head
            while end < count and int(rank[order[end]]) <= start:  # a group of more
                same = rank[order[end : end + at_once]] == rank[order[start]]
                end += len(same) if same.all() else int(same.argmin())
        yield start, end
        start = end


def _is_any(flags, at_once):
    return any(flags[first : first + at_once].any() for first in range(0, len(flags), at_once))


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
    if shards.directory is None:
        raise Refusal("These tokens lie at a URL, and this needs them on a disk: leave out ZOO_SHARED_CACHE.")
    directory = shards.directory.with_name(f"{shards.directory.name}.suffixes")
    with exclusive(directory):
        if not directory.exists():
            if progress:
                progress(f"Sorting {shards.num_tokens:,} tokens into {directory}")
            with appearing(directory) as partial:
                _build(shards, partial)
    return Suffixes(shards, *_mapped(directory, shards.num_tokens))


def _build(shards, directory):
    """Writes the sorted positions of a stream into a directory; whatever is as long as the stream lies on the disk."""
    names = iter(("stream.partial", "order.bin", "rank.partial", "tied.partial"))

    def on_disk(length, dtype):
        return np.memmap(directory / next(names), dtype, "w+", shape=(length,))

    stream = np.concatenate(shards.arrays, out=on_disk(len(shards), shards.arrays[0].dtype))
    order = suffix_array(stream, shards.vocab_size, on_disk)
    starts = range(0, len(stream), AT_ONCE)
    ends = [start + np.flatnonzero(stream[start : start + AT_ONCE] == shards.eos_id) for start in starts]
    np.concatenate(ends).astype(order.dtype).tofile(directory / "ends.bin")
    for file in directory.glob("*.partial"):
        file.unlink()
    index = {"format_version": FORMAT_VERSION, "num_tokens": len(stream), "dtype": order.dtype.str}
    (directory / "index.json").write_text(json.dumps(index) + "\n", encoding="utf8")


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
