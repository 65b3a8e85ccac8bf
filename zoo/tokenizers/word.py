"""Words between white space, a sentence a line: text as KenLM's `lmplz` reads it."""

import collections
import functools
import itertools
import re

import numpy as np
import tensorflow as tf

from zoo.registry import TOKENIZERS
from zoo.tokenizers.base import Tokenizer, kept, row_ids, several, to_text, valid_utf8

# lmplz separates words at NUL, tab, carriage return and space, sentences at line feed; all else is part of a word.
SPACES = bytes.maketrans(b"\0\t\r", b"   ")
SPECIALS = (b"<s>", b"</s>", b"<unk>")
# What `_split` leaves between words, as ids: nothing (from two spaces in a row), the end of a line, the end of a text.
GAP, LINE_END, TEXT_END = -1, -2, -3
CHUNK_BYTES = 1 << 22


def _marked(text):
    """UTF-8 of a text in which single spaces separate words from each other and from line ends."""
    return to_text(text).encode("utf8").translate(SPACES).replace(b"\n", b" \n ")


def _split(data):
    """Yields lists of words, a few megabytes of text at a time: a list takes ten times the memory of its text."""
    start = 0
    while start < len(data):
        end = data.find(b" ", start + CHUNK_BYTES)
        end = len(data) if end < 0 else end
        yield data[start:end].split(b" ")
        start = end + 1


@TOKENIZERS.register("word")
class WordTokenizer(Tokenizer):
    """Every word seen in training is an id; `unk_id` 0 and `eos_id` 1 come first, then the words, most frequent first.

    Every line of a text is a document: `encode` puts `eos_id` between lines and skips blank ones. The words `<s>`,
    `</s>` and `<unk>`, where they stand in a text, are unknown words: no text can spell a special id.

    Args:
        words: the distinct words. Raises ValueError for one that is there twice, is special, or has white space in it.
    """

    unk_id = 0
    eos_id = 1
    line_documents = True

    def __init__(self, words):
        super().__init__()
        self._words = np.array(["<unk>", "\n", *words], object)
        self.vocab_size = len(self._words)
        ids = {to_text(word).encode("utf8"): i for i, word in enumerate(words, 2)}
        for word in words:
            if word.encode("utf8") in SPECIALS or not word or re.search("[\0\t\n\r ]", word):
                raise ValueError(f"{word!r} cannot be a word: it is empty, a special token, or has white space in it.")
        if len(ids) != len(words):
            twice = collections.Counter(words).most_common(1)[0][0]
            raise ValueError(f"The word {twice!r} is in the vocabulary twice; each must be there once.")
        ids.update({b"": GAP, b"\n": LINE_END, b"\0": TEXT_END})
        self._id_of_word = ids.get  # the bound method: tf.Module would wrap the dict itself and slow it down
        self._table = None

    @classmethod
    def train(cls, texts, vocab_size=None):
        """Keeps all words, or the most frequent `vocab_size` - 2; ties go to the one that appeared first."""
        if vocab_size is not None and vocab_size < 3:
            raise ValueError(f"A word vocabulary needs at least 3 ids, got vocab_size {vocab_size}.")
        counts = collections.Counter()
        for text in texts:
            for words in _split(_marked(text)):
                counts.update(words)
        for word in (b"", b"\n", *SPECIALS):
            counts.pop(word, None)
        if not counts:
            raise ValueError("There is no text to take words from.")
        by_count = sorted(counts.items(), key=lambda item: -item[1])
        return cls([word.decode("utf8") for word, _ in by_count[: vocab_size and vocab_size - 2]])

    def encode_batch(self, texts):
        texts = list(several(texts))
        ids = [np.zeros(0, np.int32)]
        for words in _split(b" \0 ".join(map(_marked, texts))):
            ids.append(np.fromiter(map(self._id_of_word, words, itertools.repeat(self.unk_id)), np.int32, len(words)))
        return _documents(np.concatenate(ids), len(texts), self.eos_id)

    def decode(self, ids):
        """As the contract says: words joined by a space, lines by a line feed; `unk_id` becomes `<unk>`."""
        text = " ".join(self._words[self.checked_ids(ids)])
        return re.sub(r" *\n[ \n]*", "\n", text).strip(" \n")

    def lost_bytes(self, text):
        known = self._id_of_word
        return sum(len(word) for words in _split(_marked(text)) for word in words if known(word) is None)

    def tokenize(self, texts):
        texts = tf.strings.regex_replace(valid_utf8(texts), r"[\x00\t\r ]+", " ")
        texts = tf.strings.regex_replace(texts, r" *\n[ \n]*", " \n ")
        words = tf.strings.split(tf.strings.regex_replace(texts, r"^[ \n]+|[ \n]+$", ""), " ")
        words = kept(words, words.flat_values != "")  # an empty text splits into one empty word
        return words.with_flat_values(self._graph_table().lookup(words.flat_values))

    @functools.cached_property
    def _word_of_id(self):
        with tf.init_scope():  # outside any function being traced, so that all its traces share it
            return tf.constant([word.encode("utf8") for word in self._words])

    def _graph_table(self):
        if self._table is None:  # an attribute of the module, not a cached property: so it is saved with the module
            with tf.init_scope():
                pairs = tf.lookup.KeyValueTensorInitializer(self._word_of_id[1:], tf.range(1, self.vocab_size))
                self._table = tf.lookup.StaticHashTable(pairs, self.unk_id)
        return self._table

    def detokenize(self, token_ids):
        words = tf.gather(self._word_of_id, token_ids.flat_values)
        texts = tf.strings.unsorted_segment_join(words, row_ids(token_ids), token_ids.nrows(), " ")
        texts = tf.strings.regex_replace(texts, r" *\n[ \n]*", "\n")
        return tf.strings.regex_replace(texts, r"^[ \n]+|[ \n]+$", "")

    def save_assets(self, directory):
        (directory / "words.txt").write_bytes("".join(word + "\n" for word in self._words[2:]).encode("utf8"))
        return {}

    @classmethod
    def from_directory(cls, directory, config):
        *words, rest = (directory / "words.txt").read_bytes().decode("utf8").split("\n")
        if rest:
            raise ValueError(f"words.txt ends in the middle of a line, {rest!r}")
        return cls(words)


def _documents(ids, count, eos_id):
    """Ids with the three marks in them -> a list of `count` int32 arrays, `eos_id` between lines that have words."""
    ids = ids[ids != GAP]
    after_word = np.concatenate([[False], ids[:-1] >= 0])
    ids = ids[(ids != LINE_END) | after_word]
    before_word = np.concatenate([ids[1:] >= 0, [False]])
    ids = ids[(ids != LINE_END) | before_word[: len(ids)]]
    ids[ids == LINE_END] = eos_id
    ends = [*np.flatnonzero(ids == TEXT_END).tolist(), len(ids)][:count]
    starts = [0, *(end + 1 for end in ends[:-1])]
    return [ids[start:end] for start, end in zip(starts, ends, strict=True)] if count else []
