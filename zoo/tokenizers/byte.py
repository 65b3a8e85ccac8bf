"""Tokenizers without an algorithm: an id a byte, and an id a character."""

import collections
import functools

import numpy as np
import tensorflow as tf

from zoo.config import Refusal
from zoo.registry import TOKENIZERS
from zoo.tokenizers.base import ANYWHERE, Tokenizer, byte_values, kept, require_list, row_ids, to_bytes, to_text, valid_utf8

REPLACEMENT = 0xFFFD
NUM_CODE_POINTS = 0x110000


@TOKENIZERS.register("byte")
class ByteTokenizer(Tokenizer):
    """Every byte of the text's UTF-8 is its own id, 0..255; `eos_id` is 256. Nothing is learnt or unknown.

    Example:
        >>> ByteTokenizer().encode("aé"), ByteTokenizer().eos_id
        ([97, 195, 169], 256)
    """

    vocab_size = 257
    eos_id = 256
    cut = ANYWHERE

    @classmethod
    def train(cls, texts, vocab_size=None):
        if vocab_size not in (None, cls.vocab_size):
            raise Refusal(f"The byte tokenizer has 257 ids; leave vocab_size out, it cannot be {vocab_size}.")
        return cls()

    def encode_batch(self, texts):
        return [np.frombuffer(to_bytes(text), np.uint8).astype(np.int32) for text in require_list(texts)]

    def decode(self, ids):
        ids = self.checked_ids(ids)
        return ids[ids != self.eos_id].astype(np.uint8).tobytes().decode("utf8", errors="replace")

    def tokenize(self, texts):
        return byte_values(texts)

    def detokenize(self, token_ids):
        # No core op turns numbers into bytes: each id picks a string of one byte, and eos an empty one.
        pieces = tf.gather(tf.constant([bytes([b]) for b in range(256)] + [b""]), token_ids.flat_values)
        return valid_utf8(tf.strings.unsorted_segment_join(pieces, row_ids(token_ids), token_ids.nrows()))

    def save_assets(self, directory):
        return {}

    @classmethod
    def from_directory(cls, directory, config):
        return cls()


@TOKENIZERS.register("char")
class CharTokenizer(Tokenizer):
    """Every Unicode character seen in training is an id, in order of code point; then `eos_id` and `unk_id`.

    Args:
        characters: string of the distinct characters. Raises Refusal when one is there twice.

    Example:
        >>> tokenizer = CharTokenizer("春花")
        >>> tokenizer.encode("花月"), tokenizer.unk_id
        ([1, 3], 3)
    """

    cut = ANYWHERE

    def __init__(self, characters):
        super().__init__()
        points = np.array(sorted(map(ord, to_text(characters))), np.int32)
        if len(np.unique(points)) != len(points):
            twice = chr(points[:-1][points[:-1] == points[1:]][0])
            raise Refusal(f"The character {twice!r} is in the vocabulary twice; each must be there once.")
        self.eos_id, self.unk_id, self.vocab_size = len(points), len(points) + 1, len(points) + 2
        self._points = points

    @classmethod
    def train(cls, texts, vocab_size=None):
        """Keeps all characters, or the most frequent `vocab_size` - 2; ties go to the one that appeared first."""
        counts = collections.Counter()
        for text in texts:
            counts.update(to_text(text))
        if not counts:
            raise Refusal("There is no text to take characters from.")
        if vocab_size is not None and vocab_size < 3:
            raise Refusal(f"A character vocabulary needs at least 3 ids, got vocab_size {vocab_size}.")
        return cls("".join(c for c, _ in counts.most_common(vocab_size and vocab_size - 2)))

    @property
    def vocabulary(self):
        return [*map(chr, self._points), "", chr(REPLACEMENT)]

    @functools.cached_property
    def _id_of_point(self):
        table = np.full(NUM_CODE_POINTS, self.unk_id, np.int32)
        table[self._points] = np.arange(len(self._points))
        return table

    def encode_batch(self, texts):
        points = (np.frombuffer(to_text(text).encode("utf-32-le"), np.uint32) for text in require_list(texts))
        return [self._id_of_point[row] for row in points]

    def decode(self, ids):
        """As the contract says; `unk_id` becomes U+FFFD."""
        ids = self.checked_ids(ids)
        points = np.append(self._points, [0, REPLACEMENT])[ids[ids != self.eos_id]]
        return points.astype("<u4").tobytes().decode("utf-32-le")

    def lost_bytes(self, text):
        text = to_text(text)
        lost = self.encode_batch([text])[0] == self.unk_id
        return sum(len(text[i].encode("utf8")) for i in np.flatnonzero(lost))

    def tokenize(self, texts):
        points = tf.strings.unicode_decode(texts, "UTF-8", errors="replace", replacement_char=REPLACEMENT)
        return points.with_flat_values(self._lookup(points.flat_values))

    def _lookup(self, points):
        """int32 code points (N,) -> ids (N,), by binary search in the sorted vocabulary."""
        known = tf.constant(np.append(self._points, NUM_CODE_POINTS), tf.int32)
        ids = tf.searchsorted(known, points)
        return tf.where(tf.gather(known, ids) == points, ids, self.unk_id)

    def detokenize(self, token_ids):
        token_ids = kept(token_ids, token_ids.flat_values != self.eos_id)
        points = tf.gather(tf.constant(np.append(self._points, [0, REPLACEMENT]), tf.int32), token_ids.flat_values)
        return tf.strings.unicode_encode(token_ids.with_flat_values(points), "UTF-8")

    def save_assets(self, directory):
        return {"characters": "".join(map(chr, self._points))}

    @classmethod
    def from_directory(cls, directory, config):
        return cls(config["characters"])
