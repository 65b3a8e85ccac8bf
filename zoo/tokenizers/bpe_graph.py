"""The graph side of byte-level BPE: flat tensors over all bytes of all texts, TensorFlow's core ops only.

Three steps, each without a loop over words or characters:

1. `word_starts`: GPT-2's pattern `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+`.
   Whether a word starts at a character depends on that character and three on either side of it, never on the whole
   text, so no regular expression is run. Which characters are \\p{L}, \\p{N} and \\s is asked of the native side:
   regular expression libraries differ in their Unicode versions.
2. `_distinct`: text repeats its words, so each distinct one is merged once.
3. `_merge`: one pass over all words applies every merge that nothing before it in the learnt order can touch.

Symbols number what BPE merges: 0..255 are bytes, 256 + i is what merge i makes. The order of symbols is the order in
which they were learnt.

Shape letters: B texts, N bytes, W words, D distinct words, S symbols, M merges, V vocabulary.
"""

import functools

import numpy as np
import tensorflow as tf
import tokenizers

from zoo.config import Refusal
from zoo.tokenizers.base import byte_values, kept, row_ids, valid_utf8

LETTER, NUMBER, SPACE, OTHER = range(4)
PAGE = 256
# Planes 4 to 13 hold no character in any version of Unicode, 15 and 16 only private ones: all of them are OTHER.
CLASSIFIED = [*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xF0000)]
SYMBOL_BITS = 21
# Strings live there, and hundreds of small integer operations would wait for copies to an accelerator and back.
DEVICE = "CPU:0"
NOTHING = 2**31 - 1


class BPEGraph(tf.Module):
    """Texts -> ids and back, as tensors.

    Args:
        pairs: int64 (M, 2), the symbols that merge i joins; each is below 256 + i.
        ids: int32 (256 + M,), the vocabulary's id of each symbol; -1 for a byte that it lacks, which texts then lose.
        pieces: object (V,), the bytes of each id; empty for special ones.
        individual_digits: whether every digit is a word of its own.
    """

    def __init__(self, pairs, ids, pieces, individual_digits=False):
        super().__init__()
        if len(ids) >= 2**SYMBOL_BITS:
            raise Refusal(f"There are {len(pairs)} merges; fewer than {2**SYMBOL_BITS - 256} are supported.")
        self._pairs, self._ids, self._pieces, self._individual_digits = pairs, ids, pieces, individual_digits

    @functools.cached_property
    def _tensors(self):
        """Constants, made once outside any function being traced, so that all its traces share them."""
        with tf.init_scope(), tf.device(DEVICE):
            table, multipliers = cuckoo_table(self._pairs)
            pages, classes = character_classes()
            return {
                "table": tf.constant(table),
                "multipliers": multipliers,
                "ids": tf.constant(self._ids),
                "pages": tf.constant(pages),
                "classes": tf.constant(classes),
                "hashes": tf.constant(np.random.RandomState(0).randint(-(2**63), 2**63 - 1, PAGE, np.int64)),
            }

    @functools.cached_property
    def _piece_of_id(self):
        with tf.init_scope():
            return tf.constant(self._pieces)

    def tokenize(self, texts):
        """string (B,) -> int32 RaggedTensor (B, None)."""
        with tf.device(DEVICE):
            return self._tokenize(valid_utf8(texts))

    def _tokenize(self, texts):
        data = byte_values(texts)
        starts = self.word_starts(texts, data)
        word_splits = tf.concat([tf.where(starts)[:, 0], data.row_splits[-1:]], 0)
        words = tf.RaggedTensor.from_row_splits(data.flat_values, word_splits, validate=False)
        if np.any(self._ids < 0):
            words = kept(words, tf.gather(self._tensors["ids"], data.flat_values) >= 0)
        which, words = self._distinct(words)
        merged = self._merge(words)
        tokens = tf.gather(merged.with_flat_values(tf.gather(self._tensors["ids"], merged.flat_values)), which)
        words_before = _splits(tf.cast(starts, tf.int64))
        token_splits = tf.gather(tokens.row_splits, tf.gather(words_before, data.row_splits))
        return tf.RaggedTensor.from_row_splits(tokens.flat_values, token_splits, validate=False)

    def detokenize(self, token_ids):
        """int32 RaggedTensor (B, None) -> string (B,)."""
        pieces = tf.gather(self._piece_of_id, token_ids.flat_values)
        return valid_utf8(tf.strings.unsorted_segment_join(pieces, row_ids(token_ids), token_ids.nrows()))

    def word_starts(self, texts, data):
        """Where GPT-2's pattern starts a word: valid UTF-8 string (B,) and its bytes, ragged (B, None) -> bool (N,)."""
        points = tf.strings.unicode_decode(tf.strings.reduce_join(texts), "UTF-8")
        lead = tf.bitwise.bitwise_and(data.flat_values, 0xC0) != 0x80
        text = tf.boolean_mask(row_ids(data), lead)
        page = tf.gather(self._tensors["pages"], tf.bitwise.right_shift(points, 8))
        kind = tf.gather(self._tensors["classes"], page * PAGE + tf.bitwise.bitwise_and(points, PAGE - 1))

        if self._individual_digits:
            # A digit is a text of its own, and so is what stands between two.
            digit = kind == NUMBER
            text = tf.cumsum(tf.cast((text != _shift(text, 1, -1)) | digit | _shift(digit, 1, False), tf.int32))
        first = text != _shift(text, 1, -1)
        last = text != _shift(text, -1, -1)
        space = kind == SPACE
        # The last white space before a word is a word of its own, or, when it is a blank, the start of that word.
        space_starts = ~_shift(space, 1, False) | ~(last | _shift(space, -1, True))
        other_starts = (kind != _shift(kind, 1, OTHER)) & (_shift(points, 1, 0) != ord(" "))
        starts = first | tf.where(space, space_starts, other_starts)

        second = tf.where(_shift(text, -1, -1) == text, _shift(points, -1, 0), 0)
        third = tf.where(_shift(text, -2, -1) == text, _shift(points, -2, 0), 0)
        quote = starts & (points == ord("'"))
        short = quote & _any_equal(second, "stmd")
        long = _any_equal(second, "rv") & (third == ord("e")) | (second == ord("l")) & (third == ord("l"))
        long &= quote
        starts &= ~(_shift(short | long, 1, False) | _shift(long, 2, False))
        starts |= _shift(short, 2, False) | _shift(long, 3, False)
        return tf.scatter_nd(tf.where(lead), starts, tf.shape(lead, tf.int64))

    def _distinct(self, words):
        """Words' bytes, ragged (W, None) -> int32 (W,) which distinct word each is, and their bytes, ragged (D, None).

        Words are told apart by a sum of random numbers; should two different words ever have equal sums, none is taken
        for another.
        """
        data, splits, lengths = words.flat_values, words.row_splits, words.row_lengths()
        size, count = tf.size(data, tf.int64), words.nrows()
        word = row_ids(words)
        offset = tf.range(size) - tf.gather(splits, word)
        factors = tf.gather(self._tensors["hashes"], tf.bitwise.bitwise_and(offset, PAGE - 1))
        sums = tf.math.unsorted_segment_sum(tf.cast(data + 1, tf.int64) * factors, word, count)
        unique, which = tf.unique(sums)
        every = tf.range(tf.size(which))
        first = tf.math.unsorted_segment_min(every, which, tf.size(unique))

        twin = tf.gather(first, which)
        there = tf.minimum(tf.gather(tf.gather(splits, twin), word) + offset, size - 1)
        equal = tf.reduce_all(tf.gather(lengths, twin) == lengths) & tf.reduce_all(tf.gather(data, there) == data)
        which, first = tf.cond(equal, lambda: (which, first), lambda: (every, every))

        row_splits = _splits(tf.gather(lengths, first))
        places = tf.RaggedTensor.from_row_splits(tf.range(row_splits[-1]), row_splits, validate=False)
        source = tf.gather(tf.gather(splits, first) - row_splits[:-1], row_ids(places)) + places.flat_values
        return which, places.with_flat_values(tf.gather(data, source))

    def _merge(self, words):
        """Symbols of words, ragged (D, None) -> the same after all merges.

        BPE takes, again and again, the pair that was learnt first, the leftmost of equals. A pair may be taken at once
        when no pair within the length of the longest token to either side was learnt before it: what could touch its
        two symbols earlier would have to be made of such pairs. So long words are cut into blocks of twice that length,
        and a pair is taken when it is the lowest of its own and the two neighbouring blocks: one pass for all its
        equals, whatever the length of the word.
        """
        symbols, word = words.flat_values, row_ids(words)
        offset = tf.range(tf.size(symbols, tf.int64)) - tf.gather(words.row_splits, word)
        starts_block = offset % (2 * max(map(len, self._pieces))) == 0
        block = tf.cumsum(tf.cast(starts_block, tf.int32)) - 1
        word_of_block = tf.boolean_mask(word, starts_block)
        joined = word_of_block[1:] == word_of_block[:-1]

        def merge_once(symbols, made, block):
            lowest = tf.math.unsorted_segment_min(made, block, tf.size(word_of_block))
            right = tf.where(joined, lowest[1:], NOTHING)
            left = tf.where(joined, lowest[:-1], NOTHING)
            lowest = tf.minimum(lowest, tf.minimum(tf.concat([right, [NOTHING]], 0), tf.concat([[NOTHING], left], 0)))
            lowest = tf.where(lowest == NOTHING, -1, lowest)
            taken = _every_second(made, tf.where(made == tf.gather(lowest, block))[:, 0])

            symbols = tf.tensor_scatter_nd_update(symbols, taken[:, None], tf.gather(made, taken))
            eaten = tf.scatter_nd(taken[:, None] + 1, tf.ones_like(taken, tf.bool), tf.shape(symbols, tf.int64))
            stays = tf.where(~eaten)[:, 0]
            symbols, made, block = tf.gather(symbols, stays), tf.gather(made, stays), tf.gather(block, stays)
            # Only the pairs on either side of a merged symbol are new; each merge before it moved it one to the left.
            at = taken - tf.range(tf.size(taken, tf.int64))
            at = tf.concat([at, tf.maximum(at - 1, 0)], 0)
            then = tf.minimum(at + 1, tf.size(symbols, tf.int64) - 1)
            word, word_then = (tf.gather(word_of_block, tf.gather(block, i)) for i in (at, then))
            new = self._made(tf.gather(symbols, at), tf.gather(symbols, then), (word == word_then) & (at != then))
            return symbols, tf.tensor_scatter_nd_update(made, at[:, None], new), block

        symbols, _, block = tf.while_loop(
            lambda symbols, made, block: tf.reduce_min(made) != NOTHING,
            merge_once,
            (symbols, self._made(symbols, _shift(symbols, -1, 0), word == _shift(word, -1, -1)), block),
            shape_invariants=(tf.TensorShape([None]),) * 3,
        )
        word = tf.gather(word_of_block, block)
        counts = tf.math.unsorted_segment_sum(tf.ones_like(symbols, tf.int64), word, words.nrows())
        return tf.RaggedTensor.from_row_splits(symbols, _splits(counts), validate=False)

    def _made(self, left, right, in_one_word):
        """int32 (S,): what the symbols `left` and `right` make, NOTHING where no merge joins them or a word ends."""
        bits, low = tf.constant(SYMBOL_BITS, tf.int64), tf.constant(2**SYMBOL_BITS - 1, tf.int64)
        key = tf.bitwise.left_shift(tf.cast(left, tf.int64), bits) + tf.cast(right, tf.int64)
        table = self._tensors["table"]
        half = table.shape[0] // 2
        made = tf.fill(tf.shape(left), NOTHING)
        for side, multiplier in enumerate(self._tensors["multipliers"]):
            entry = tf.gather(table, side * half + slots(key, multiplier, half, tf.bitwise.right_shift))
            found = in_one_word & (tf.bitwise.right_shift(entry, bits) == key)
            made = tf.where(found, tf.cast(tf.bitwise.bitwise_and(entry, low), tf.int32), made)
        return made


def _shift(values, by, fill):
    """Values (N,) moved right by `by` (left when negative), with `fill` where nothing moved in."""
    fill = tf.fill([tf.minimum(abs(by), tf.size(values))], tf.constant(fill, values.dtype))
    return tf.concat([fill, values[:-by]] if by > 0 else [values[-by:], fill], 0)


def _splits(lengths):
    """Row lengths int64 (R,) -> row splits int64 (R + 1,)."""
    return tf.concat([tf.constant([0], tf.int64), tf.cumsum(lengths)], 0)


def _any_equal(points, characters):
    return functools.reduce(tf.logical_or, [points == ord(c) for c in characters])


def _every_second(made, hit):
    """Positions int64 (P,) of pairs to take -> those that do not overlap, as the pairs aa of aaaa do.

    Merging goes from left to right, so the first, third, ... of a run are taken; none if it began before its first hit.
    """
    begins = hit != _shift(hit, 1, -2) + 1
    begin = tf.gather(tf.boolean_mask(hit, begins), tf.cumsum(tf.cast(begins, tf.int32)) - 1)
    whole = (begin == 0) | (tf.gather(made, tf.maximum(begin - 1, 0)) != tf.gather(made, begin))
    return tf.boolean_mask(hit, whole & ((hit - begin) % 2 == 0))


def slots(keys, multiplier, size, right_shift):
    """int64 keys (N,) -> slots int64 (N,) in [0, size), size a power of two: the upper bits of the product."""
    return right_shift(keys * multiplier, np.int64(64 - size.bit_length())) & (size - 1)


def cuckoo_table(pairs):
    """A hash table that has each merge at one of two places (Pagh and Rodler 2004): looking up takes two gathers.

    Args:
        pairs: int64 (M, 2) symbols.

    Returns:
        int64 (2 * size,), left, right and made in `SYMBOL_BITS` bits each, -1 where empty; the halves' multipliers.
    """
    keys = pairs[:, 0] << SYMBOL_BITS | pairs[:, 1]
    size = 1 << max(4, int(1.25 * len(keys)).bit_length())
    random = np.random.RandomState(0)
    every = np.arange(len(keys))
    while True:
        multipliers = random.randint(1 << 62, (1 << 63) - 1, 2, np.int64) | 1
        places = np.stack([half * size + slots(keys, m, size, np.right_shift) for half, m in enumerate(multipliers)])
        side = np.zeros(len(keys), np.int64)
        moved = every
        for _ in range(200):
            owner = np.full(2 * size, -1)
            place = places[side, every]
            owner[place] = every
            owner[place[moved]] = moved  # who was driven out drives out in turn
            moved = np.flatnonzero(owner[place] != every)
            if not len(moved):
                table = np.where(owner < 0, -1, keys[owner] << SYMBOL_BITS | owner + 256) if len(keys) else owner
                return table, multipliers
            side[moved] ^= 1


@functools.cache
def character_classes():
    """What the native side's regular expressions take each character for.

    Returns:
        int32 (4352,), the page of each 256 code points, and int32 (pages * 256,), the classes on these pages.
    """
    kinds = np.full(0x110000, OTHER, np.int32)
    # One pass finds the runs of each class, a second one, over a character of each run, says which class it is.
    runs = _split_at(r"\p{L}+|\p{N}+|\s+", "".join(map(chr, CLASSIFIED)), "isolated")
    heads = "".join(chr(CLASSIFIED[start]) for start, _ in runs)
    for kind, name in [(LETTER, r"\p{L}"), (NUMBER, r"\p{N}"), (SPACE, r"\s")]:
        others = np.ones(len(runs), bool)
        for start, end in _split_at(name, heads, "removed"):
            others[start:end] = False
        for i in np.flatnonzero(others):
            kinds[CLASSIFIED[slice(*runs[i])]] = kind
    pages = {}
    page_of = [pages.setdefault(page.tobytes(), len(pages)) for page in kinds.reshape(-1, PAGE)]
    return np.array(page_of, np.int32), np.frombuffer(b"".join(pages), np.int32)


def _split_at(pattern, text, behavior):
    """(start, end) of each piece into which the native side splits a text."""
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), behavior)
    return [span for _, span in split.pre_tokenize_str(text)]
