"""The tokenizer contract: strings <-> ids, twice.

The *native* side (`encode`, `decode`) prepares training data and talks to people: plain Python strings, fast, no graph.
The *graph* side (`tokenize`, `detokenize`) serves: string tensors in, TensorFlow's core ops only. Both give equal ids.

Bytes that are not UTF-8 reach the graph, and only the graph, unasked; the native side takes `bytes` too, so that the two
can be compared: `encode(data)` is row 0 of `tokenize([data])` for every `bytes`. The byte tokenizer keeps them as they
are. For the others each maximal invalid part becomes one U+FFFD (Unicode chapter 3, "substitution of maximal
subparts"), as in Python's `errors="replace"`.
"""

import collections
import concurrent.futures
import hashlib
import inspect
import json
import re
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from zoo import text_files
from zoo.config import Refusal, nearest
from zoo.registry import TOKENIZERS
from zoo.tokenizers.chat import ChatFrame
from zoo.tokenizers.special import NOTHING

# The Rust side tracks every character of a text; pieces keep that small and share the work among cores.
PIECE_CHARACTERS = 1 << 14
SENTENCE_ENDS = (".", "?", "!", "。", "？", "！")
CUT, CUT_AT_BLANKS = re.compile(r"(?<=\S)[ \n]"), re.compile(r"(?<=\S) ")
ANYWHERE = re.compile(".", re.DOTALL)


class Tokenizer(tf.Module):
    """Base class of every tokenizer.

    A subclass sets `vocab_size` and `eos_id`, and implements the four conversions, `save_assets` and `from_directory`.

    Attributes:
        vocab_size: number of ids, special ones included; every id is in [0, vocab_size).
        eos_id: the one id that stands before the first and after every document: beginning- and end-of-text alike.
        pad_id: fills rows to equal length under a mask; it is `eos_id` unless the vocabulary has one of its own.
        unk_id: stands for what the vocabulary does not have, or None when every string can be spelt.
        cls_id, sep_id, mask_id: begins what an encoder reads, ends each part of it, hides a token; None where the
            vocabulary has none.
        bos_id: begins what a language model reads; None where `eos_id` does.
        sentinel_ids: stand for spans of a text, as T5's `<extra_id_0>` and so on, in the order of their numbers.
        special: what third-party files say of special tokens, a `Special`.
        added: plain text that somebody added, each an `Added`.
    """

    vocab_size: int
    eos_id: int
    unk_id = cls_id = sep_id = mask_id = bos_id = None
    sentinel_ids = ()
    added = ()
    special = NOTHING
    # The class of transformers that reads what `save_huggingface` writes.
    huggingface_class = "PreTrainedTokenizerFast"
    # True when each line of a text is a document of its own (the word tokenizer, as KenLM reads text).
    line_documents = False
    # Before a match of this a text may be cut: the ids of both parts are those of the whole. None: nowhere is that sure.
    cut = CUT

    @property
    def pad_id(self):
        return self.eos_id

    @property
    def target(self):
        """The tokenizer of what a decoder beside an encoder writes: this one, except in a `PairTokenizer`."""
        return self

    @property
    def shares_ids(self):
        """Whether sources and targets have one numbering of tokens: always, except in a `PairTokenizer`."""
        return True

    @property
    def source_template(self):
        """Ids before a text, between two and after the last, as an encoder beside a decoder reads them: three tuples."""
        return (), (self.eos_id,), (self.eos_id,)

    @property
    def stop_ids(self):
        """The ids that end what a model writes."""
        return self.special.ends or (self.eos_id,)

    @property
    def special_ids(self):
        """Sorted ids that stand for no word: of end, padding, unknown, an encoder's frame and mask."""
        ids = {self.eos_id, self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id}
        return sorted(ids - {None})

    @property
    def control_ids(self):
        """Ids of the tokens that no text yields: those that stand for no word, and others that mark the parts of a text."""
        return self.special_ids

    @property
    def vocabulary(self):
        """Every token as vocabulary files write it, in the order of ids."""
        raise Refusal(
            f"A {type(self).registered_name} tokenizer has no written vocabulary; take another, such as --tokenizer=word."
        )

    @property
    def mask_token(self):
        """How the token `mask_id` is written by who wants a hole filled; None without one."""
        return None if self.mask_id is None else self.vocabulary[self.mask_id]

    @property
    def roles(self):
        """Role, one of `special.ROLES`, -> token, as Hugging Face's `tokenizer_config.json` names them."""
        written = self.vocabulary
        bos = self.cls_id if self.bos_id is None else self.bos_id
        ids = {
            "bos": self.eos_id if bos is None else bos, "eos": self.eos_id, "unk": self.unk_id, "sep": self.sep_id,
            "pad": self.pad_id, "cls": self.cls_id, "mask": self.mask_id,
        }  # fmt: skip
        return {**{role: written[i] for role, i in ids.items() if i is not None}, **self.special.roles}

    @property
    def template(self):
        """The tokens before a text, between two and after the last, by default of a Hugging Face tokenizer: three tuples."""
        if self.special.template is not None:
            return self.special.template
        if self.cls_id is None:
            return (), (), ()
        cls, sep = self.vocabulary[self.cls_id], self.vocabulary[self.sep_id]
        return (cls,), (sep,), (sep,)

    @property
    def chat_frame(self):
        """The `ChatFrame` of conversations.

        Raises:
            Refusal: the files that it came from have no chat template, or one of a kind that is not known.
        """
        template = self.special.chat_template
        if template is None:
            raise Refusal("This vocabulary came without a chat template, so there are no conversations; give a plain prompt.")
        return ChatFrame.of(template, self.roles.get("bos"))

    def begins_word(self):
        """bool (V,): whether a token begins a word; the others go on with one. Where an algorithm does not tell, tokens with
        letters that stand side by side are a word."""
        return ~self.letters()

    def letters(self):
        """bool (V,): whether a token has a letter in it."""
        texts = (self.decode([token_id]) for token_id in range(self.vocab_size))
        return np.array([any(map(str.isalpha, text)) for text in texts])

    def ends_sentence(self):
        """bool (V,): whether a token ends a sentence: with one of `SENTENCE_ENDS`, or a line."""
        texts = (self.decode([token_id]) for token_id in range(self.vocab_size))
        return np.array(["\n" in text or text.rstrip().endswith(SENTENCE_ENDS) for text in texts])

    @classmethod
    def train(cls, texts, vocab_size=None):
        """A tokenizer fitted to an iterable of strings; `vocab_size` None means the algorithm's own default."""
        raise TypeError(f"{cls.__name__} cannot be trained.")

    def encode(self, text):
        """One string (or bytes) -> list of ids, without special ids: plain text never yields one.

        The one exception is a tokenizer with `line_documents`: `eos_id` stands between the lines of a text.
        """
        return self.encode_batch([text])[0].tolist()

    def encode_batch(self, texts):
        """Strings -> one int32 numpy array of ids for each; in parallel where that pays."""
        raise TypeError(f"{type(self).__name__} cannot encode.")

    def spells(self, text):
        """Whether the vocabulary has all of a text."""
        return self.unk_id is None or self.unk_id not in self.encode(text)

    def decode(self, ids):
        """Ids -> string. Special ids are left out, `unk_id` leaves a mark; bytes that are not UTF-8 become U+FFFD.

        Raises Refusal when an id is outside [0, vocab_size).
        """
        raise TypeError(f"{type(self).__name__} cannot decode.")

    def checked_ids(self, ids):
        """Ids as a flat int64 numpy array. Raises Refusal when one is outside [0, vocab_size)."""
        ids = np.asarray(ids)
        if ids.size and not np.issubdtype(ids.dtype, np.integer):
            raise Refusal(f"Token ids are integers, got {ids.dtype}.")
        ids = ids.astype(np.int64).reshape(-1)
        outside = ids[(ids < 0) | (ids >= self.vocab_size)]
        if outside.size:
            raise Refusal(f"Token id {outside[0]} is outside this tokenizer's 0..{self.vocab_size - 1}.")
        return ids

    def lost_bytes(self, text):
        """UTF-8 bytes of `text` that the ids do not tell, as they stand under `unk_id`."""
        return 0

    def tokenize(self, texts):
        """string (B,) -> int32 RaggedTensor (B, None), in graph, equal to `encode` of each row."""
        raise TypeError(f"{type(self).__name__} has no graph side.")

    def detokenize(self, token_ids):
        """int32 RaggedTensor (B, None) -> string (B,), in graph, equal to `decode` of each row."""
        raise TypeError(f"{type(self).__name__} has no graph side.")

    def save(self, directory):
        """Writes `zoo_tokenizer.json`, and the files it names, into an existing or new directory."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        named = {"algorithm": type(self).registered_name, "vocab_size": self.vocab_size}
        config = {**named, **self.save_assets(directory)}
        text = json.dumps(config, ensure_ascii=False, indent=1, sort_keys=True)
        (directory / "zoo_tokenizer.json").write_text(text + "\n", encoding="utf8")

    def digest(self):
        """64 hexadecimal digits that identify the tokenizer: of all that `save` would write."""
        digest = hashlib.sha256()
        with tempfile.TemporaryDirectory() as directory:
            self.save(directory)
            for path in sorted(path for path in Path(directory).rglob("*") if path.is_file()):
                name = path.relative_to(directory).as_posix()
                digest.update(f"{name} {path.stat().st_size} ".encode() + path.read_bytes())
        return digest.hexdigest()

    def save_assets(self, directory):
        """Writes vocabulary files and returns the JSON fields that `from_directory` needs besides."""
        raise TypeError(f"{type(self).__name__} cannot be saved.")

    def save_huggingface(self, directory):
        """Writes a `tokenizer.json` for Hugging Face's libraries into an existing directory. Raises Refusal when there is no
        such form of this tokenizer."""
        raise Refusal(f"A {type(self).registered_name} tokenizer has no form that Hugging Face's libraries read.")

    @classmethod
    def from_directory(cls, directory, config):
        """The tokenizer that `save_assets` wrote; `config` is what it returned."""
        raise TypeError(f"{cls.__name__} cannot be loaded.")


def to_bytes(text):
    """UTF-8 of a string; bytes as they are. Raises Refusal for a lone surrogate, which UTF-8 cannot spell."""
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise Refusal(f"A tokenizer takes strings, got {type(text).__name__}.")
    try:
        return text.encode("utf8")
    except UnicodeEncodeError as error:
        sentence = f"The text has a lone surrogate at character {error.start}, which no UTF-8 can spell."
        raise Refusal(sentence) from error


def require_list(texts):
    """The texts unchanged. Raises Refusal for one string, which would pass for a list of its characters."""
    if isinstance(texts, (str, bytes)):
        raise Refusal("A list of texts is expected here, got one string; put it in a list.")
    return texts


def to_text(text):
    """A string that UTF-8 can spell: bytes are decoded with U+FFFD for each maximal invalid part."""
    if isinstance(text, bytes):
        return text.decode("utf8", errors="replace")
    if not (isinstance(text, str) and text.isascii()):
        to_bytes(text)
    return text


def cut_at_spaces(text, cut=CUT, size=None):
    """Yields pieces of about `size` (`PIECE_CHARACTERS`), cut where words are cut anyway: between a word and white space."""
    start = 0
    while start < len(text):
        match = cut.search(text, start + (size or PIECE_CHARACTERS))
        end = match.start() if match else len(text)
        yield text[start:end]
        start = end


def cut_parts(pieces, tokenizer):
    """Cuts documents that come in pieces into parts of about that size, whose ids or counts are those of the document.

    The parts of a document end where `cut_at_spaces` would have cut the whole. A document that came whole stays whole.

        list(cut_parts([("a b", False), ("c d", True)], tokenizer))     -> [("a", False), (" bc d", True)], of small pieces

    Args:
        pieces: iterable of (text, whether it ends a document), cut between any two characters.
        tokenizer: a `Tokenizer` or a class of them. If it has `line_documents`, a part before a line feed ends a document.

    Yields:
        (text, whether it ends a document).
    """
    held, length, wanted = [], 0, 0
    for piece, ends in pieces:
        held.append(piece)
        length += len(piece)
        if ends:
            yield piece if len(held) == 1 else "".join(held), True
            held, length, wanted = [], 0, 0
        elif tokenizer.cut is not None and length >= wanted:
            text, at = "".join(held), 0
            while match := tokenizer.cut.search(text, at + PIECE_CHARACTERS):
                at = match.start()
            if at:
                yield text[:at], tokenizer.line_documents and text[at] == "\n"
            held, length = [text[at:]], len(text) - at
            wanted = 2 * length  # so that a long row without a place to cut is not searched at every piece


def ahead(function, items, threads=1):
    """Yields (item, function(item)) in the order of the items; threads compute the next ones' while the caller works on one.

    What `function` raises is raised where its item's turn comes.

    Args:
        function: takes an item; called from several threads at once where there are several.
        items: an iterable, which is read by the caller's thread, at most `threads` items ahead.
        threads: how many.

    Example:
        >>> list(ahead(str.upper, "ab"))
        [('a', 'A'), ('b', 'B')]
    """
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        waiting = collections.deque()
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) > threads:
                item, result = waiting.popleft()
                yield item, result.result()
        for item, result in waiting:
            yield item, result.result()


def encode_pieces(native, texts, cut=CUT):
    """Ids of texts by the Rust library, which is given long ones in pieces to keep all cores busy.

    A special token's string in the text is ordinary text: `native` must not have been told of special tokens.

    Args:
        native: a `tokenizers.Tokenizer`.
        texts: list of strings or bytes.
        cut: pattern of where words are cut anyway.

    Returns:
        list of int32 arrays.
    """
    pieces, ends = [], []
    for text in map(to_text, require_list(texts)):
        pieces += cut_at_spaces(text, cut) if len(text) > PIECE_CHARACTERS else (text,)
        ends.append(len(pieces))
    ids = [np.array(encoding.ids, np.int32) for encoding in native.encode_batch_fast(pieces, add_special_tokens=False)]
    # Most texts are one piece, and a call of numpy costs as much as the tokens of a short one.
    return [
        ids[start] if end == start + 1 else np.concatenate(ids[start:end]) for start, end in zip([0, *ends], ends, strict=False)
    ]


def read_text(path):
    """The text of a vocabulary's file, without a byte order mark. Raises Refusal when there is none or it is not UTF-8."""
    try:
        return text_files.whole(str(path))
    except FileNotFoundError as error:
        raise Refusal(f"There is no file {path}.") from error


def read_lines(path):
    """The lines of a vocabulary's file. Raises Refusal when there is none or it is not UTF-8."""
    try:
        return [line for _, line in text_files.lines(str(path))]
    except FileNotFoundError as error:
        raise Refusal(f"There is no file {path}.") from error


def read_json(path):
    """The object in a JSON file. Raises Refusal when there is none, or a key twice, of which JSON would keep the last."""

    def once(pairs):
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = collections.Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise Refusal(f"{path} has {twice!r} twice; each must be there once.")
        return found

    try:
        value = json.loads(read_text(path), object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise Refusal(f"{path} is not JSON ({error}); copy it again from where it was made.") from error
    if not isinstance(value, dict):
        raise Refusal(f"{path} must hold a JSON object, not a {type(value).__name__}.")
    return value


def valid_utf8(texts):
    """string (B,) -> string (B,) with U+FFFD for each maximal invalid part: `to_text`, in graph."""
    return tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace", replacement_char=0xFFFD)


def byte_values(texts):
    """string (B,) -> int32 RaggedTensor (B, None), the bytes of each."""
    values = tf.cast(tf.io.decode_raw(tf.strings.reduce_join(texts), tf.uint8), tf.int32)
    return tf.RaggedTensor.from_row_lengths(values, tf.cast(tf.strings.length(texts), tf.int64), validate=False)


def row_ids(ragged):
    """The row of each value of a RaggedTensor, int32 (N,).

    `RaggedTensor.value_rowids` and what is built on it take memory for all rows as long as the longest; this does not.
    """
    inner = ragged.row_splits[1:-1]
    starts = tf.math.unsorted_segment_sum(tf.ones_like(inner, tf.int32), inner, tf.shape(ragged.flat_values)[0] + 1)
    return tf.cumsum(starts)[:-1]


def splits_of(lengths):
    """Row lengths int64 (R,) -> row splits int64 (R + 1,)."""
    return tf.concat([tf.constant([0], tf.int64), tf.cumsum(lengths)], 0)


def kept(ragged, keep):
    """A RaggedTensor (B, None) without the values at which `keep`, bool (N,), is False."""
    before = tf.concat([[0], tf.cumsum(tf.cast(keep, tf.int64))], 0)
    splits = tf.gather(before, ragged.row_splits)
    return tf.RaggedTensor.from_row_splits(tf.boolean_mask(ragged.flat_values, keep), splits, validate=False)


def create(spec, texts=(), vocab_size=None, **options):
    """A tokenizer from what a user names.

    Args:
        spec: a registered name, which is trained on `texts`; or a path: a directory written by `Tokenizer.save`, a
            Hugging Face `tokenizer.json` or a directory that has one, a BERT's `vocab.txt` or a directory that has one,
            SentencePiece's `.model` or a directory that has one, or a directory with GPT-2's `encoder.json` and `vocab.bpe`.
        texts: iterable of strings, read only for a name.
        vocab_size: for a name; None means the algorithm's own default.
        **options: for a name: what else its `train` takes, such as `lowercase` of the word tokenizer.

    Raises:
        Refusal: `spec` is neither, or it takes no such option.
    """
    path = Path(spec)
    if str(spec) in TOKENIZERS.names():
        train = TOKENIZERS.get(str(spec)).train
        unknown = sorted(options.keys() - inspect.signature(train).parameters.keys())
        if unknown:
            raise Refusal(f"The {spec} tokenizer has no option {unknown[0]}; leave it out, or take --tokenizer=word.")
        return train(require_list(texts), vocab_size, **options)
    if (path / "zoo_tokenizer.json").is_file():
        return load(path)
    if path.is_file() or path.is_dir():
        from zoo.tokenizers import pretrained  # which knows all that this file knows

        return pretrained.from_files(path)
    hint = nearest(spec, TOKENIZERS.names())
    raise Refusal(f"No tokenizer is called {str(spec)!r} and no such path exists; {hint}")


def load(directory):
    """The tokenizer saved in `directory`. Raises Refusal when there is none or it is damaged."""
    path = Path(directory) / "zoo_tokenizer.json"
    if not path.is_file():
        raise Refusal(f"{directory} holds no tokenizer: {path.name} is missing.")
    try:
        config = json.loads(path.read_text(encoding="utf8"))
        algorithm, vocab_size = config.pop("algorithm"), config.pop("vocab_size")
        tokenizer = _class_of(algorithm).from_directory(Path(directory), config)
        if tokenizer.vocab_size != vocab_size:
            raise Refusal(f"{path.name} speaks of {vocab_size} ids, the files beside it have {tokenizer.vocab_size}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        sentence = f"The tokenizer in {directory} is damaged ({reason}); copy it again from where it was made."
        raise Refusal(sentence) from error
    return tokenizer


def _class_of(algorithm):
    """The class that saved a tokenizer. Some cannot be asked for by name: they are not registered."""
    if algorithm == "character_bpe":
        from zoo.tokenizers.character_bpe import CharacterBPE

        return CharacterBPE
    if algorithm == "ice":
        from zoo.tokenizers.chatglm import IceTokenizer

        return IceTokenizer
    if algorithm == "pair":
        from zoo.tokenizers.pair import PairTokenizer  # which knows all that this file knows

        return PairTokenizer
    return TOKENIZERS.get(algorithm)
