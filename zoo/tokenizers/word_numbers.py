"""Words of a text and their numbers, by arrays: a dictionary of Python's strings takes more time and more memory.

The hash of a word of bytes b_0 b_1 ... is the sum over i of b_i p^i modulo 2^64, with an odd p (Karp and Rabin 1987, "Efficient
randomized pattern-matching algorithms"). Of all words of a block at once it is a difference of running sums, times an inverse
power of p. A word is known where the hash is in the table and its bytes are those that stand there: equal hashes alone decide
nothing.

Shape letters: C bytes of a block, N words in it, V words known.
"""

import copy
import functools
import re

import numpy as np

from zoo.tokenizers.base import cut_at_spaces

BASE = 0x9E3779B97F4A7C15  # p
SPREAD = np.uint64(0xD6E8FEB86659FD93)  # odd: the high bits of a product depend on all bits of a hash
BLOCK_BYTES = 1 << 18  # what is made of a block stays in a core's cache
ORDERED = 1 << 14  # words whose bytes are found together
UNKNOWN = -1
LINE_FEED = ord("\n")
SEPARATORS = b"\0\t\n\r "
SEPARATOR = re.compile(b"[" + SEPARATORS + b"]")


class Words:
    """The words of a block of text.

    Args:
        block: bytes (C,).

    Attributes:
        lengths: int64 (N,), in bytes.
        lines: int32 (N,), how many line feeds stand before each.
        letters: uint8, the bytes of all words without what separates them.
        hashes: uint64 (N,).
    """

    def __init__(self, block):
        data = np.frombuffer(block, np.uint8)
        inside = np.ones(len(data), bool)
        for separator in SEPARATORS:
            inside &= data != separator
        edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
        starts, ends = edges[::2], edges[1::2]
        self.lengths = ends - starts
        self.lines = np.cumsum(data == LINE_FEED, dtype=np.int32)[starts]
        self.letters = data[np.flatnonzero(inside)]
        up, down = _powers(BASE, max(len(data), BLOCK_BYTES).bit_length())
        sums = np.zeros(len(data) + 1, np.uint64)
        np.cumsum(data * up[: len(data)], out=sums[1:])
        self.hashes = (sums[ends] - sums[starts]) * down[starts]

    def take(self, chosen):
        """Some of them, int (N,)."""
        some = copy.copy(self)
        some.letters = self.letters[_runs((np.cumsum(self.lengths) - self.lengths)[chosen], self.lengths[chosen])]
        some.lengths, some.lines, some.hashes = self.lengths[chosen], self.lines[chosen], self.hashes[chosen]
        return some


class WordNumbers:
    """Gives words the numbers 0, 1, 2, ... in the order in which they appear first; of new words with one hash the second comes
    behind the others of its block.

    Example:
        >>> known = WordNumbers()
        >>> known.add(Words(b"to be or not to be")).tolist(), known.find(Words(b"not me")).tolist()
        ([0, 1, 2, 3, 0, 1], [3, -1])
    """

    def __init__(self):
        self._count = 0
        self._hashes = np.zeros(16, np.uint64)  # (V,) and room for more, as all of these
        self._starts = np.zeros(17, np.int64)  # of each word's bytes, which a line feed ends, and of the next word's
        self._bytes = np.zeros(64, np.uint8)
        self._slots = np.full(32, UNKNOWN, np.int32)  # a hash's place, or one behind it, holds the number of its word

    def __len__(self):
        return self._count

    def find(self, words):
        """The numbers of `Words`, int32 (N,), `UNKNOWN` for those that were not added."""
        places = self._places(words.hashes)
        numbers = self._of_hashes(words.hashes, places)
        other = np.flatnonzero((numbers != UNKNOWN) & ~self._are(words, numbers))
        while len(other):  # an equal hash of another word
            some, behind = words.take(other), (places[other] + 1) & (len(self._slots) - 1)
            numbers[other] = found = self._of_hashes(some.hashes, behind)
            places[other] = behind
            other = other[(found != UNKNOWN) & ~self._are(some, found)]
        return numbers

    def add(self, words):
        """As `find`, after giving numbers to the words that have none."""
        numbers = self._of_hashes(words.hashes, self._places(words.hashes))
        new = np.flatnonzero(numbers == UNKNOWN)
        if len(new):
            some = words.take(new)
            self._append(some)
            numbers[new] = self._of_hashes(some.hashes, self._places(some.hashes))
        other = np.flatnonzero(~self._are(words, numbers))
        if len(other):  # an equal hash of another word
            numbers[other] = self.find(words.take(other))
            while len(new := other[numbers[other] == UNKNOWN]):
                some = words.take(new)
                self._append(some)
                numbers[new] = self.find(some)
        return numbers

    @property
    def text(self):
        """All words in the order of their numbers, as bytes with a line feed between two."""
        return self._bytes[: self._starts[self._count]].tobytes()[:-1]

    def in_order(self, numbers):
        """The words with these numbers, int (N,), as `text` has all."""
        starts, lengths = self._starts[numbers], self._starts[numbers + 1] - self._starts[numbers]
        some = range(0, len(numbers), ORDERED)
        return b"".join(self._bytes[_runs(starts[i : i + ORDERED], lengths[i : i + ORDERED])].tobytes() for i in some)[:-1]

    def taken(self, numbers):
        """The `WordNumbers` of the words with these numbers, int (N,), each there once: their new ones are 0, 1, 2, ..."""
        some = WordNumbers()
        some._count, some._hashes = len(numbers), self._hashes[numbers]
        some._starts = np.concatenate([[0], np.cumsum(self._starts[numbers + 1] - self._starts[numbers])])
        some._bytes = np.frombuffer(self.in_order(numbers) + b"\n", np.uint8)
        some._enter_all()
        return some

    def _are(self, words, numbers):
        """Whether words are those with these numbers, bool (N,)."""
        starts = self._starts[numbers]
        same = self._starts[numbers + 1] - starts == words.lengths + 1
        # A word that is longer than the known one may reach behind all bytes.
        there = self._bytes.take(_runs(starts, words.lengths), mode="clip") == words.letters
        if not there.all():
            same[np.searchsorted(np.cumsum(words.lengths), np.flatnonzero(~there), side="right")] = False
        return same

    def _of_hashes(self, hashes, places):
        """The number of the first word with each hash at a place or behind it. Moves `places` to where it stands."""
        numbers = self._slots[places]
        left = np.flatnonzero((numbers != UNKNOWN) & (self._hashes[numbers] != hashes))
        while len(left):  # a word with another hash has this place
            places[left] = (places[left] + 1) & (len(self._slots) - 1)
            numbers[left] = found = self._slots[places[left]]
            left = left[(found != UNKNOWN) & (self._hashes[found] != hashes[left])]
        return numbers

    def _places(self, hashes):
        return (hashes * SPREAD >> np.uint64(65 - len(self._slots).bit_length())).astype(np.int64)

    def _append(self, words):
        """Adds the first word of each hash; none of them is known."""
        words = words.take(np.sort(np.unique(words.hashes, return_index=True)[1]))
        before, self._count = self._count, self._count + len(words.hashes)
        self._hashes = _with_room(self._hashes, self._count)
        self._hashes[before : self._count] = words.hashes
        self._starts = _with_room(self._starts, self._count + 1)
        starts = self._starts[before : self._count + 1]
        starts[1:] = starts[0] + np.cumsum(words.lengths + 1)
        self._bytes = _with_room(self._bytes, starts[-1])
        self._bytes[starts[1:] - 1] = LINE_FEED
        self._bytes[_runs(starts[:-1], words.lengths)] = words.letters
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


def blocks_of(data):
    """Yields a text in bytes as parts of some `BLOCK_BYTES`, cut where a word ends."""
    return cut_at_spaces(data, SEPARATOR, BLOCK_BYTES)


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
