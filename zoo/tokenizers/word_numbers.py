"""Words of a text and their numbers, by arrays: a dictionary of Python's strings takes more time and more memory.

The hash of a word of bytes b_0 b_1 ... is the sum over i of b_i p^i modulo 2^64, with an odd p (Karp and Rabin 1987, "Efficient
randomized pattern-matching algorithms"). Of all words of a block at once it is a difference of running sums, times an inverse
power of p. A word is known where the hash is in the table and its bytes are those that stand there: equal hashes alone decide
nothing.

Shape letters: C bytes of a block, N words in it, V words known.
"""

import functools
import re

import numpy as np

BASE = 0x9E3779B97F4A7C15 | 1
SPREAD = np.uint64(0xD6E8FEB86659FD93)  # odd: the high bits of a product depend on all bits of a hash
BLOCK_BYTES = 1 << 18  # what is made of a block stays in a core's cache
ORDERED = 1 << 14  # words whose bytes are found together
UNKNOWN = -1
LINE_FEED = ord("\n")
SEPARATORS = b"\0\t\n\r "
SEPARATOR = re.compile(b"[" + SEPARATORS + b"]")


class WordNumbers:
    """Gives words the numbers 0, 1, 2, ... in the order in which they are added.

    Args:
        base: p, odd, to begin with. Where two words turn out to have one hash, it becomes the next odd number.

    Example:
        >>> known = WordNumbers()
        >>> known.add(b"to be or not to be").numbers.tolist(), known.find(b"not me").numbers.tolist()
        ([0, 1, 2, 3, 0, 1], [3, -1])
    """

    def __init__(self, base=BASE):
        self._base, self._count = base, 0
        self._hashes = np.zeros(16, np.uint64)  # (V,) and room for more, as all of these
        self._starts = np.zeros(17, np.int64)  # of each word's bytes, which a line feed ends, and of the next word's
        self._bytes = np.zeros(64, np.uint8)
        self._slots = np.full(32, UNKNOWN, np.int32)  # a hash's place, or one behind it, holds the number of its word

    def __len__(self):
        return self._count

    def find(self, block):
        """The `Words` of a text in bytes; the number of a word that was not added is `UNKNOWN`."""
        words = self.read(block)
        words.numbers = self._of_hashes(words.hashes)
        words.numbers[self._others(words)] = UNKNOWN
        return words

    def read(self, block):
        """The `Words` of a text in bytes, without numbers. Another thread may be adding words."""
        return Words(block, self._base)

    def add(self, block):
        """As `find`, after giving numbers to the words that have none. `block` may be what `read` returned."""
        words = block if isinstance(block, Words) else self.read(block)
        while True:
            if words.base != self._base:
                words = self.read(words.block)
            words.numbers = self._of_hashes(words.hashes)
            new = np.flatnonzero(words.numbers == UNKNOWN)
            if len(new):
                self._append(words, new)
                words.numbers[new] = self._of_hashes(words.hashes[new])
            if not len(self._others(words)):
                return words
            self._base += 2
            blocks = blocks_of(self.in_order(np.arange(self._count)))
            self._hashes[: self._count] = np.concatenate([Words(each, self._base).hashes for each in blocks])
            self._enter_all()

    def in_order(self, numbers):
        """The words with these numbers, int (N,), as bytes with a line feed between two."""
        starts, lengths = self._starts[numbers], self._starts[numbers + 1] - self._starts[numbers]
        some = range(0, len(numbers), ORDERED)
        return b"".join(self._bytes[_runs(starts[i : i + ORDERED], lengths[i : i + ORDERED])].tobytes() for i in some)[:-1]

    def _others(self, words):
        """Which words of a block are not those that their numbers say: indices, each at least once."""
        numbers = words.numbers
        starts = self._starts[numbers]
        # A word that is longer than the known one may reach behind all bytes.
        there = self._bytes.take(_runs(starts, words.lengths), mode="clip") == words.letters
        other = np.flatnonzero(self._starts[numbers + 1] - starts != words.lengths + 1)
        if not there.all():
            ends = np.cumsum(words.lengths)
            other = np.concatenate([other, np.searchsorted(ends, np.flatnonzero(~there), side="right")])
        return other

    def _of_hashes(self, hashes):
        places = self._places(hashes)
        numbers = self._slots[places]
        left = np.flatnonzero((numbers != UNKNOWN) & (self._hashes[numbers] != hashes))
        while len(left):  # another word has this place
            places[left] = (places[left] + 1) & (len(self._slots) - 1)
            numbers[left] = found = self._slots[places[left]]
            left = left[(found != UNKNOWN) & (self._hashes[found] != hashes[left])]
        return numbers

    def _places(self, hashes):
        return (hashes * SPREAD >> np.uint64(65 - len(self._slots).bit_length())).astype(np.int64)

    def _append(self, words, chosen):
        """Adds some words of a block, int (N,), each once."""
        hashes, first = np.unique(words.hashes[chosen], return_index=True)
        order = np.argsort(first)
        hashes, chosen = hashes[order], chosen[first[order]]
        before, self._count = self._count, self._count + len(chosen)
        self._hashes = _with_room(self._hashes, self._count)
        self._hashes[before : self._count] = hashes
        lengths = words.lengths[chosen]
        self._starts = _with_room(self._starts, self._count + 1)
        starts = self._starts[before : self._count + 1]
        starts[1:] = starts[0] + np.cumsum(lengths + 1)
        self._bytes = _with_room(self._bytes, starts[-1])
        self._bytes[starts[1:] - 1] = LINE_FEED
        letters = _runs((np.cumsum(words.lengths) - words.lengths)[chosen], lengths)
        self._bytes[_runs(starts[:-1], lengths)] = words.letters[letters]
        if 2 * self._count > len(self._slots):
            self._enter_all()
        else:
            self._enter(np.arange(before, self._count, dtype=np.int32))

    def _enter_all(self):
        self._slots = np.full(2 << self._count.bit_length(), UNKNOWN, np.int32)
        self._enter(np.arange(self._count, dtype=np.int32))

    def _enter(self, numbers):
        """Finds free places for words that have none."""
        places = self._places(self._hashes[numbers])
        while len(numbers):
            free = self._slots[places] == UNKNOWN
            self._slots[places[free]] = numbers[free]  # of several that want one place one gets it
            left = self._slots[places] != numbers
            numbers, places = numbers[left], (places[left] + 1) & (len(self._slots) - 1)


class Words:
    """The words of a block of text.

    Args:
        block: bytes (C,).
        base: as for `WordNumbers`.

    Attributes:
        numbers: int32 (N,), what `WordNumbers` found.
        block, base: the arguments.
        lengths: int64 (N,), in bytes.
        lines: int32 (N,), how many line feeds stand before each.
        letters: uint8, the bytes of all words without what separates them.
        hashes: uint64 (N,).
    """

    numbers = None

    def __init__(self, block, base):
        self.block, self.base = block, base
        data = np.frombuffer(block, np.uint8)
        inside = np.ones(len(data), bool)
        for separator in SEPARATORS:
            inside &= data != separator
        edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
        starts, ends = edges[::2], edges[1::2]
        self.lengths = ends - starts
        self.lines = np.cumsum(data == LINE_FEED, dtype=np.int32)[starts]
        self.letters = data[np.flatnonzero(inside)]
        up, down = _powers(base, max(len(data), BLOCK_BYTES).bit_length())
        sums = np.zeros(len(data) + 1, np.uint64)
        np.cumsum(data * up[: len(data)], out=sums[1:])
        self.hashes = (sums[ends] - sums[starts]) * down[starts]


def blocks_of(data):
    """Yields a text in bytes as parts of some `BLOCK_BYTES`, cut where a word ends."""
    start = 0
    while start < len(data):
        found = SEPARATOR.search(data, start + BLOCK_BYTES)
        end = found.start() if found else len(data)
        yield data[start:end]
        start = end


@functools.lru_cache(2)
def _powers(base, bits):
    """p^0, p^1, ... and p^-0, p^-1, ..., uint64, 2^bits of each."""
    return [
        np.concatenate([np.ones(1, np.uint64), np.cumprod(np.full((1 << bits) - 1, number, np.uint64))])
        for number in (base, pow(base, -1, 1 << 64))
    ]


def _runs(starts, lengths):
    """The indices of runs that begin at `starts`, one run after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)


def _with_room(array, size):
    """The array, or a longer copy of it that holds `size` elements."""
    if size <= len(array):
        return array
    longer = np.zeros(max(size, 2 * len(array)), array.dtype)
    longer[: len(array)] = array
    return longer
