"""The graph side of byte-level BPE: flat tensors over all bytes of all texts, TensorFlow's core ops only.

Three steps, each without a loop over words or characters:

1. `word_starts`: where the pattern of `zoo/tokenizers/bpe_words.py` starts a word; no regular expression is run.
2. `_distinct`: text repeats its words, so each distinct one is merged once.
3. `_merge`: one pass over all words applies every merge that nothing before it in the learnt order can touch.

Symbols number what BPE merges: 0..255 are bytes, 256 + i is what merge i makes. The order of symbols is the order in
which they were learnt.

Shape letters: B texts, N bytes, W words, D distinct words, S symbols, M merges, V vocabulary.
"""

import functools

import numpy as np
import tensorflow as tf

from zoo.config import Refusal
from zoo.tokenizers import bpe_words
from zoo.tokenizers.base import byte_values, kept, row_ids, splits_of, valid_utf8
from zoo.tokenizers.bpe_words import PAGE, shift

SYMBOL_BITS = 21
# Strings live there, and hundreds of small integer operations would wait for copies to an accelerator and back.
DEVICE = "CPU:0"
NOTHING = 2**31 - 1
HASHES = np.random.RandomState(0).randint(-(2**63), 2**63 - 1, PAGE, np.int64)


class BPEGraph(tf.Module):
    """Texts -> ids and back, as tensors.

    Args:
        pairs: int64 (M, 2), the symbols that merge i joins; each is below 256 + i.
        ids: int32 (256 + M,), the vocabulary's id of each symbol; -1 for a byte that it lacks, which texts then lose.
        pieces: object (V,), the bytes of each id; empty for special ones.
        words: how texts are cut into words, a name in `bpe_words.PATTERNS`.
        firsts: int32 (256 + M,), the first symbol that stands for the same token; by default each is the only one.
        whole: ids of tokens that a word of their bytes becomes, whatever the merges make of it.
    """

    def __init__(self, pairs, ids, pieces, words="gpt2", firsts=None, whole=()):
        super().__init__()
        if len(ids) >= 2**SYMBOL_BITS:
            raise Refusal(f"There are {len(pairs)} merges; fewer than {2**SYMBOL_BITS - 256} are supported.")
        self._pairs, self._ids, self._pieces, self._words = pairs, ids, pieces, words
        own = np.arange(len(ids))
        self._firsts = None if firsts is None or np.array_equal(firsts, own) else np.asarray(firsts, np.int32)
        # Whether each merge is learnt after those that make its parts: then no merge makes one possible that comes before it.
        self._ordered = bool(np.all(pairs < own[256:, None]))
        self._whole = sorted(whole, key=lambda i: word_sum(pieces[i]))

    @functools.cached_property
    def _tensors(self):
        """Constants, made once outside any function being traced, so that all its traces share them."""
        with tf.init_scope(), tf.device(DEVICE):
            table, multipliers = cuckoo_table(self._pairs)
            pages, classes = bpe_words.character_classes()
            return {
                "table": tf.constant(table),
                "multipliers": multipliers,
                "ids": tf.constant(self._ids),
                "pages": tf.constant(pages),
                "classes": tf.constant(classes),
                "hashes": tf.constant(HASHES),
                "firsts": None if self._firsts is None else tf.constant(self._firsts),
                "whole_sums": tf.constant([word_sum(self._pieces[i]) for i in self._whole], tf.int64),
                "whole_words": tf.ragged.constant([list(self._pieces[i]) for i in self._whole], tf.int32, ragged_rank=1),
                "whole_ids": tf.constant(self._whole, tf.int32),
            }

    @functools.cached_property
    def _piece_of_id(self):
        with tf.init_scope():
            return tf.constant(self._pieces)

    def tokenize(self, texts):
        """string (B,) -> int32 RaggedTensor (B, None)."""
        with tf.device(DEVICE):
            texts = valid_utf8(texts)
            if self._words == "prefixed":
                texts = tf.where(tf.strings.regex_full_match(texts, "(?s)[^ ].*"), " " + texts, texts)
            return self._tokenize(texts)

    def _tokenize(self, texts):
        data = byte_values(texts)
        starts = self.word_starts(texts, data)
        word_splits = tf.concat([tf.where(starts)[:, 0], data.row_splits[-1:]], 0)
        words = tf.RaggedTensor.from_row_splits(data.flat_values, word_splits, validate=False)
        if np.any(self._ids < 0):
            words = kept(words, tf.gather(self._tensors["ids"], data.flat_values) >= 0)
        which, words = self._distinct(words)
        merged = self._merge(words)
        tokens = merged.with_flat_values(tf.gather(self._tensors["ids"], merged.flat_values))
        tokens = tf.gather(self._as_wholes(words, tokens) if self._whole else tokens, which)
        words_before = splits_of(tf.cast(starts, tf.int64))
        token_splits = tf.gather(tokens.row_splits, tf.gather(words_before, data.row_splits))
        return tf.RaggedTensor.from_row_splits(tokens.flat_values, token_splits, validate=False)

    def detokenize(self, token_ids):
        """int32 RaggedTensor (B, None) -> string (B,)."""
        pieces = tf.gather(self._piece_of_id, token_ids.flat_values)
        return valid_utf8(tf.strings.unsorted_segment_join(pieces, row_ids(token_ids), token_ids.nrows()))

    def word_starts(self, texts, data):
        """Where a word starts: valid UTF-8 string (B,) and its bytes, ragged (B, None) -> bool (N,)."""
        points = tf.strings.unicode_decode(tf.strings.reduce_join(texts), "UTF-8")
        lead = tf.bitwise.bitwise_and(data.flat_values, 0xC0) != 0x80
        text = tf.boolean_mask(row_ids(data), lead)
        page = tf.gather(self._tensors["pages"], tf.bitwise.right_shift(points, 8))
        kind = tf.gather(self._tensors["classes"], page * PAGE + tf.bitwise.bitwise_and(points, PAGE - 1))

        starts = bpe_words.starts(self._words, kind, points, text)
        return tf.scatter_nd(tf.where(lead), starts, tf.shape(lead, tf.int64))

    def _distinct(self, words):
        """Words' bytes, ragged (W, None) -> int32 (W,) which distinct word each is, and their bytes, ragged (D, None).

        Words are told apart by a sum of random numbers; should two different words ever have equal sums, none is taken
        for another.
        """
        data, splits, lengths = words.flat_values, words.row_splits, words.row_lengths()
        size = tf.size(data, tf.int64)
        word = row_ids(words)
        offset = tf.range(size) - tf.gather(splits, word)
        sums = self._sums(words)
        unique, which = tf.unique(sums)
        every = tf.range(tf.size(which))
        first = tf.math.unsorted_segment_min(every, which, tf.size(unique))

        twin = tf.gather(first, which)
        there = tf.minimum(tf.gather(tf.gather(splits, twin), word) + offset, size - 1)
        equal = tf.reduce_all(tf.gather(lengths, twin) == lengths) & tf.reduce_all(tf.gather(data, there) == data)
        which, first = tf.cond(equal, lambda: (which, first), lambda: (every, every))

        row_splits = splits_of(tf.gather(lengths, first))
        places = tf.RaggedTensor.from_row_splits(tf.range(row_splits[-1]), row_splits, validate=False)
        source = tf.gather(tf.gather(splits, first) - row_splits[:-1], row_ids(places)) + places.flat_values
        return which, places.with_flat_values(tf.gather(data, source))

    def _sums(self, words):
        """Words' bytes, ragged (W, None) -> int64 (W,): `word_sum` of each."""
        word = row_ids(words)
        offset = tf.range(tf.size(word, tf.int64)) - tf.gather(words.row_splits, word)
        factors = tf.gather(self._tensors["hashes"], tf.bitwise.bitwise_and(offset, PAGE - 1))
        return tf.math.unsorted_segment_sum(tf.cast(words.flat_values + 1, tf.int64) * factors, word, words.nrows())

    def _as_wholes(self, words, tokens):
        """Tokens of words, ragged (D, None), with one token for each word that is a token as a whole."""
        sums, others = self._tensors["whole_sums"], self._tensors["whole_words"]
        place = tf.minimum(tf.searchsorted(sums, self._sums(words)), len(self._whole) - 1)
        same = tf.gather(others.row_lengths(), place) == words.row_lengths()
        word = row_ids(words)
        offset = tf.range(tf.size(word, tf.int64)) - tf.gather(words.row_splits, word)
        there = tf.gather(others.row_starts(), tf.gather(place, word)) + offset
        there = tf.gather(others.flat_values, tf.minimum(there, tf.size(others.flat_values, tf.int64) - 1))
        differ = tf.cast(there != words.flat_values, tf.int32)
        same &= tf.math.unsorted_segment_sum(differ, word, words.nrows()) == 0

        word = row_ids(tokens)
        changed = tf.gather(same, word)
        first = tf.range(tf.size(word, tf.int64)) == tf.gather(tokens.row_starts(), word)
        values = tf.where(changed, tf.gather(self._tensors["whole_ids"], tf.gather(place, word)), tokens.flat_values)
        return kept(tokens.with_flat_values(values), first | ~changed)

    def _merge(self, words):
        """Symbols of words, ragged (D, None) -> the same after all merges.

        BPE takes, again and again, the pair that was learnt first, the leftmost of equals. A pair may be taken at once
        when no pair within the length of the longest token to either side was learnt before it: what could touch its
        two symbols earlier would have to be made of such pairs. So long words are cut into blocks of twice that length,
        and a pair is taken when it is the lowest of its own and the two neighbouring blocks: one pass for all its
        equals, whatever the length of the word. Where a merge may make one possible that was learnt before it, only the
        leftmost of equals is taken at once.
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
            if not self._ordered:
                lowest = tf.where(tf.concat([[NOTHING], left], 0) == lowest, -1, lowest)
            lowest = tf.where(lowest == NOTHING, -1, lowest)
            taken = tf.where(made == tf.gather(lowest, block))[:, 0]
            if self._ordered:
                taken = _every_second(made, taken)
            else:
                taken = tf.boolean_mask(taken, tf.gather(block, taken) != shift(tf.gather(block, taken), 1, -1))
            new = tf.gather(made, taken)
            new = new if self._firsts is None else tf.gather(self._tensors["firsts"], new)
            symbols = tf.tensor_scatter_nd_update(symbols, taken[:, None], new)
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
            (symbols, self._made(symbols, shift(symbols, -1, 0), word == shift(word, -1, -1)), block),
            shape_invariants=(tf.TensorShape([None]),) * 3,
        )
        word = tf.gather(word_of_block, block)
        counts = tf.math.unsorted_segment_sum(tf.ones_like(symbols, tf.int64), word, words.nrows())
        return tf.RaggedTensor.from_row_splits(symbols, splits_of(counts), validate=False)

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


def word_sum(word):
    """A hash of bytes, an integer: random factors times the bytes plus one, modulo 2^64."""
    with np.errstate(over="ignore"):
        factors = HASHES[np.arange(len(word)) % PAGE]
        return int(np.sum((np.frombuffer(word, np.uint8).astype(np.int64) + 1) * factors))


def _every_second(made, hit):
    """Positions int64 (P,) of pairs to take -> those that do not overlap, as the pairs aa of aaaa do.

    Merging goes from left to right, so the first, third, ... of a run are taken; none if it began before its first hit.
    """
    begins = hit != shift(hit, 1, -2) + 1
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
