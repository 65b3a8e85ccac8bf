"""Words between white space, a sentence a line: text as KenLM's `lmplz` reads it."""

import collections
import itertools
import re

import numpy as np
import tensorflow as tf

from zoo.config import Refusal
from zoo.registry import TOKENIZERS
from zoo.tokenizers.base import Tokenizer, ahead, kept, require_list, row_ids, to_text, valid_utf8
from zoo.tokenizers.word_numbers import BLOCK_BYTES, UNKNOWN, WordNumbers, Words, blocks_of

SPECIALS = b"<s> </s> <unk>"
NUM_SPECIAL = 2  # ids before the first word's
DEFAULTS = {"lowercase": False, "punctuation": True, "zero_digits": False}
# At the end of a line, or between two words of one that certainly are words.
CUT = re.compile(r"\n|(?<=\w) (?=\w)")
COUNTED = 1 << 20  # words at a time
FEW = 1 << 12  # characters: of so few a dictionary gives the ids sooner than arrays do
THREADS = 2  # beside each other; more of them wait for Python's lock
SPACES = bytes.maketrans(b"\0\t\r", b"   ")


@TOKENIZERS.register("word")
class WordTokenizer(Tokenizer):
    """Every word seen in training is an id; `unk_id` 0 and `eos_id` 1 come first, then the words, most frequent first.

    Every line of a text is a document: `encode` puts `eos_id` between lines and skips blank ones. The words `<s>`,
    `</s>` and `<unk>`, where they stand in a text, are unknown words: no text can spell a special id.

    Args:
        words: the distinct words. Raises Refusal for one that is there twice, is special, or has white space in it.
        lowercase: whether every text is written in lower case first.
        punctuation: whether it stays; otherwise characters that are not letters, marks, digits or `_` separate words.
        zero_digits: whether every digit from 0 to 9 is written as 0 first.
        known: from `train`: the `WordNumbers` of the words in their order. They are not checked again.

    Example:
        >>> tokenizer = WordTokenizer.train(["the list and the set"], vocab_size=8)
        >>> [tokenizer.vocabulary[i] for i in tokenizer.encode("the tuple")]
        ['the', '<unk>']
    """

    unk_id = 0
    eos_id = 1
    line_documents = True
    cut = CUT

    def __init__(self, words, lowercase=False, punctuation=True, zero_digits=False, known=None):
        super().__init__()
        self.lowercase, self.punctuation, self.zero_digits = lowercase, punctuation, zero_digits
        self._spelling = (lowercase, punctuation, zero_digits)
        self._words = np.array(["<unk>", "\n", *words], object)
        self.vocab_size = len(self._words)
        self._known = _checked(words) if known is None else known
        self._knows_replacement = "\ufffd".encode() in self._known.text
        self._stored_words = self._table = self._id_of_word = None

    @classmethod
    def train(cls, texts, vocab_size=None, *, lowercase=False, punctuation=True, min_count=1, zero_digits=False):
        """Keeps all words that occur `min_count` times, or the most frequent `vocab_size` - 2 of them; ties go to the one that
        appeared first."""
        if vocab_size is not None and vocab_size < 3:
            raise Refusal(f"A word vocabulary needs at least 3 ids, got vocab_size {vocab_size}.")
        known = WordNumbers()
        blocks = (
            block
            for plain in map("\n".join, _together(texts))
            for text in normalised([plain], lowercase, punctuation, zero_digits)
            for block in blocks_of(text.encode("utf8"))
        )
        counts = _counted(known.add(words) for _, words in ahead(Words, blocks))
        specials = known.find(Words(SPECIALS))
        counts[specials[specials != UNKNOWN]] = 0
        if not counts.any():
            raise Refusal("There is no text to take words from.")
        by_count = np.argsort(-counts, kind="stable")[: vocab_size and vocab_size - NUM_SPECIAL]
        kept = by_count[counts[by_count] >= max(min_count, 1)]
        if not len(kept):
            raise Refusal(f"No word occurs {min_count} times in the text: give more text or a smaller min_count.")
        known = known.taken(kept)
        return cls(known.text.decode("utf8").split("\n"), lowercase, punctuation, zero_digits, known)

    @property
    def vocabulary(self):
        return self._words.tolist()

    def encode_batch(self, texts):
        plain = [to_text(text) for text in normalised(list(require_list(texts)), *self._spelling)]
        if sum(map(len, plain)) < FEW:
            return [self._of_few(text) for text in plain]
        ids, lines, behind = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)], 0
        for block, (words, numbers) in ahead(self._found, blocks_of("\n".join(plain).encode("utf8")), THREADS):
            ids.append(np.where(numbers == UNKNOWN, self.unk_id, numbers + NUM_SPECIAL))
            lines.append(words.lines + behind)
            behind += block.count(b"\n")
        ids, lines = np.concatenate(ids, dtype=np.int32), np.concatenate(lines)
        first_lines = np.cumsum([0, *(text.count("\n") + 1 for text in plain)])
        starts = np.searchsorted(lines, first_lines)  # of texts, and the end of the last
        begins_line = np.diff(lines, prepend=-1) != 0
        begins_line[starts[starts < len(ids)]] = False
        separators = np.flatnonzero(begins_line)
        ids = np.insert(ids, separators, self.eos_id)
        starts += np.searchsorted(separators, starts)
        return [ids[start:end] for start, end in itertools.pairwise(starts.tolist())]

    def _found(self, block):
        words = Words(block)
        return words, self._known.find(words)

    def _of_few(self, text):
        if self._id_of_word is None:
            words = self._known.text.split(b"\n")
            # The bound method: tf.Module would wrap the dict itself and slow it down.
            self._id_of_word = dict(zip(words, itertools.count(NUM_SPECIAL), strict=False)).get
        ids = []
        for line in text.encode("utf8").translate(SPACES).split(b"\n"):
            if words := [self._id_of_word(word, self.unk_id) for word in line.split(b" ") if word]:
                ids += [self.eos_id, *words] if ids else words
        return np.array(ids, np.int32)

    def decode(self, ids):
        """As the contract says: words joined by a space, lines by a line feed; `unk_id` becomes `<unk>`."""
        text = " ".join(self._words[self.checked_ids(ids)])
        return re.sub(r" *\n[ \n]*", "\n", text).strip(" \n")

    def lost_bytes(self, text):
        (text,) = normalised([text], *self._spelling)
        found = map(self._found, blocks_of(to_text(text).encode("utf8")))
        return sum(int(words.lengths[numbers == UNKNOWN].sum()) for words, numbers in found)

    def tokenize(self, texts):
        if self._knows_replacement:  # to all other vocabularies a word with an invalid part is unknown either way
            texts = valid_utf8(texts)
        texts = normalised_in_graph(texts, *self._spelling)
        texts = tf.strings.regex_replace(texts, r"\n", " \n ")
        # The first version of the op takes a set of bytes to split at, of which several in a row count as one.
        words = tf.raw_ops.StringSplit(input=texts, delimiter="\0\t\r ", skip_empty=True)
        ids = self._graph_side()[1].lookup(words.values)
        row_of_id = words.indices[:, 0]
        rows = tf.RaggedTensor.from_value_rowids(ids, row_of_id, tf.size(texts, tf.int64), validate=False)
        return kept(rows, _is_word_or_separates(ids, row_of_id, rows.row_splits, self.eos_id))

    def _graph_side(self):
        """The words in the order of ids, a variable, and the table of their ids."""
        if self._table is None:  # attributes of the module, so that they are saved with it
            with tf.init_scope():  # outside any function being traced, so that all its traces share them
                self._stored_words = tf.Variable([word.encode("utf8") for word in self._words], trainable=False, name="words")
                self._table = _IdOfWord(self._stored_words, self.unk_id)
        return self._stored_words.value(), self._table

    def detokenize(self, token_ids):
        words = tf.gather(self._graph_side()[0], token_ids.flat_values)
        texts = tf.strings.unsorted_segment_join(words, row_ids(token_ids), token_ids.nrows(), " ")
        texts = tf.strings.regex_replace(texts, r" *\n[ \n]*", "\n")
        return tf.strings.regex_replace(texts, r"^[ \n]+|[ \n]+$", "")

    def save_assets(self, directory):
        (directory / "words.txt").write_bytes("\n".join([*self._words[2:], ""]).encode("utf8"))
        asked = {"lowercase": self.lowercase, "punctuation": self.punctuation, "zero_digits": self.zero_digits}
        return {name: value for name, value in asked.items() if value != DEFAULTS[name]}

    @classmethod
    def from_directory(cls, directory, config):
        *words, rest = (directory / "words.txt").read_bytes().decode("utf8").split("\n")
        if rest:
            raise Refusal(f"words.txt ends in the middle of a line, {rest!r}")
        return cls(words, *(config.get(name, default) for name, default in DEFAULTS.items()))


def normalised_in_graph(texts, lowercase, punctuation, zero_digits=False):
    """string (B,) -> string (B,), in lower case, without punctuation and with 0 for digits if asked for; line ends stay."""
    if lowercase or not punctuation:
        texts = valid_utf8(texts)
    if lowercase:
        texts = tf.strings.lower(texts, encoding="utf-8")
    if zero_digits:
        texts = tf.strings.regex_replace(texts, "[0-9]", "0")
    return texts if punctuation else tf.strings.regex_replace(texts, r"[^\pL\pM\pN_\n]+", " ")


def normalised(texts, lowercase, punctuation, zero_digits=False):
    """As `normalised_in_graph`, of a list of strings: by the same operations, whose Unicode is another than Python's."""
    if punctuation and not lowercase and not zero_digits:
        return texts
    encoded = tf.constant([to_text(text).encode("utf8") for text in texts], tf.string)
    return [text.decode("utf8") for text in normalised_in_graph(encoded, lowercase, punctuation, zero_digits).numpy()]


class _IdOfWord(tf.saved_model.experimental.TrackableResource):
    """A table from words to ids, filled when a SavedModel is loaded, from a variable: a constant of many strings would stand in
    each of the half dozen copies of a graph that TensorFlow keeps, at 60 bytes a string.

    Args:
        words: string variable (V,), in the order of ids; those from 1 on can be found.
        unk_id: the id of all others.
    """

    number = itertools.count()

    def __init__(self, words, unk_id):
        super().__init__()
        self.words, self.unk_id, self.name = words, unk_id, f"words_{next(self.number)}"
        self._initialize()

    def _create_resource(self):
        return tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int32, shared_name=self.name)

    def _initialize(self):
        words = self.words.value()[1:]
        ids = tf.range(1, tf.size(words) + 1)
        tf.raw_ops.LookupTableImportV2(table_handle=self.resource_handle, keys=words, values=ids)

    def lookup(self, words):
        """string (N,) -> int32 (N,)."""
        ids = tf.raw_ops.LookupTableFindV2(table_handle=self.resource_handle, keys=words, default_value=self.unk_id)
        ids.set_shape(words.shape)
        return ids


def _is_word_or_separates(ids, row_of_id, row_splits, eos_id):
    """bool (N,): words, and of the line ends between two words of a row the last."""
    is_word = ids != eos_id
    before_word = tf.concat([is_word[1:] & (row_of_id[1:] == row_of_id[:-1]), [False]], 0)
    words_before = tf.cumsum(tf.cast(is_word, tf.int32), exclusive=True)
    after_word = words_before > tf.gather(words_before, tf.gather(row_splits, row_of_id))
    return is_word | (before_word & after_word)


def _checked(words):
    """The `WordNumbers` of a vocabulary, of all words at once: one by one, millions of them take longer than all else."""
    text, known = to_text("\n".join(words)), WordNumbers()
    found = sum(len(known.add(Words(block))) for block in blocks_of(text.encode("utf8")))
    one_a_line = found == len(words) == text.count("\n") + bool(words) and not re.search("[\0\t\r ]", text)
    if not one_a_line or (known.find(Words(SPECIALS)) != UNKNOWN).any():
        no_word = next(word for word in words if word in ("", "<s>", "</s>", "<unk>") or re.search("[\0\t\n\r ]", word))
        raise Refusal(f"{no_word!r} cannot be a word: it is empty, a special token, or has white space in it.")
    if len(known) != len(words):
        twice = collections.Counter(words).most_common(1)[0][0]
        raise Refusal(f"The word {twice!r} is in the vocabulary twice; each must be there once.")
    return known


def _together(texts):
    """Yields lists of some `BLOCK_BYTES` of the texts: of many small ones each would take as long as a large one."""
    some, size = [], 0
    for text in map(to_text, texts):
        some.append(text)
        size += len(text)
        if size >= BLOCK_BYTES:
            yield some
            some, size = [], 0
    yield some


def _counted(arrays):
    """How often each number is in arrays of them, int64 (1 + the largest,)."""
    counts, waiting, size = np.zeros(0, np.int64), [], 0

    def added():
        found = np.bincount(np.concatenate(waiting or [np.zeros(0, np.int32)]), minlength=len(counts))
        found[: len(counts)] += counts
        return found

    for numbers in arrays:
        waiting.append(numbers)
        size += len(numbers)
        if size >= COUNTED:
            counts, waiting, size = added(), [], 0
    return added()
