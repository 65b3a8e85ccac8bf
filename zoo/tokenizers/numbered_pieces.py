"""SentencePiece's pieces under the ids of another vocabulary, as Marian, OpenNMT and CTranslate2 keep them.

A SentencePiece model cuts a text into pieces, and a list of tokens, made from the training text, says which id each piece has.
A piece that the list lacks is unknown. What the model itself does not know has an id where the list has it, as pieces of the
other language where two languages share one list.

A vocabulary with language codes, such as `>>fra<<`, reads one at the very front of a text and never sends it through
SentencePiece (Tiedemann and Thottingal 2020, OPUS-MT).
"""

import json
import re

import numpy as np
import sentencepiece
import tensorflow as tf

from zoo.config import Refusal
from zoo.tokenizers.base import Tokenizer, read_json, require_list, row_ids, to_text, valid_utf8
from zoo.tokenizers.special import BLANK, Special
from zoo.tokenizers.unigram import UnigramTokenizer

# A language code at the front of a text, as `re` and RE2 read it.
CODE = r"(?s)>>.*?<<"
BYTE = re.compile("<0x([0-9A-F]{2})>")
UNKNOWN = " \u2047 "  # as SentencePiece writes it


class NumberedPieces(Tokenizer):
    """A SentencePiece model and the ids of its pieces; `eos_id`, `pad_id`, `bos_id` and `unk_id` stand for no text.

    Args:
        model: bytes of a SentencePiece model.
        vocabulary: the tokens in the order of their ids.
        special: a `Special` whose roles name at least `eos` and `unk`. Its template is what an encoder reads around a source,
            beside a decoder.

    Raises:
        Refusal: the bytes are not such a model, a token is there twice, or one of the special tokens is not there.

    Example:
        >>> import io
        >>> import sentencepiece
        >>> model = io.BytesIO()
        >>> sentencepiece.SentencePieceTrainer.train(
        ...     sentence_iterator=iter(["a b a", "b a"]), model_writer=model, vocab_size=6, hard_vocab_limit=False,
        ...     bos_id=-1, eos_id=-1, minloglevel=2,
        ... )
        >>> special = Special({"eos": "</s>", "unk": "<unk>"})
        >>> tokenizer = NumberedPieces(model.getvalue(), ["</s>", "<unk>", "▁a", "<pad>"], special)
        >>> tokenizer.encode("a a")
        [2, 2]
    """

    registered_name = UnigramTokenizer.registered_name  # which saves and loads it
    cut = None  # a language code stands at the front alone

    def __init__(self, model, vocabulary, special):
        super().__init__()
        self._model, self.special = model, special
        try:
            self._native = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise Refusal(f"This is not a SentencePiece model ({error}).") from error
        self._tokens = np.array(list(vocabulary), object)
        self._id_of = ids = {token: i for i, token in enumerate(self._tokens)}
        if len(ids) < len(self._tokens):
            twice = next(token for i, token in enumerate(self._tokens) if ids[token] != i)
            raise Refusal(f"The vocabulary has the token {twice!r} twice; each must be there once.")
        for role in ("eos", "unk"):
            if special.roles.get(role) not in ids:
                raise Refusal(f"The vocabulary lacks the token {special.roles.get(role)!r}, which is its {role}.")
        named = {role: ids.get(special.roles.get(role)) for role in ("eos", "unk", "pad", "bos")}
        self.vocab_size, self.eos_id, self.unk_id = len(ids), named["eos"], named["unk"]
        self.bos_id = None if named["bos"] in (None, self.eos_id) else named["bos"]
        self._pad_id = self.eos_id if named["pad"] is None else named["pad"]
        silent = {i for i in named.values() if i is not None}
        self._spoken = {token: i for token, i in ids.items() if i not in silent}
        self._codes = {token: i for token, i in self._spoken.items() if re.fullmatch(CODE, token)}
        self._written = [b"" if i in silent else _written(token) for i, token in enumerate(self._tokens)]
        self._written[self.unk_id] = UNKNOWN.encode()
        self._graph = None

    @property
    def pad_id(self):
        return self._pad_id

    @property
    def source_template(self):
        if self.special.template is None:
            return super().source_template
        return tuple(tuple(self._id_of[token] for token in part) for part in self.special.template)

    @property
    def vocabulary(self):
        return tuple(self._tokens)

    @property
    def model(self):
        """Bytes of the SentencePiece model."""
        return self._model

    def begins_word(self):
        return np.array([token.startswith(BLANK) for token in self._tokens])

    def _without_code(self, text):
        """(ids of the language code, the text behind it)."""
        found = re.match(CODE, text) if self._codes else None
        if found is None:
            return [], text
        return [self._codes.get(found.group(), self.unk_id)], text[found.end() :]

    def encode_batch(self, texts):
        parts = [self._without_code(to_text(text)) for text in require_list(texts)]
        native = self._native.encode([rest for _, rest in parts], out_type=str)
        return [np.array([*code, *self._ids(pieces)], np.int32) for (code, _), pieces in zip(parts, native, strict=True)]

    def _ids(self, pieces):
        return [self._spoken.get(piece, self.unk_id) for piece in pieces]

    def decode(self, ids):
        """As the contract says; `unk_id` becomes " ⁇ "."""
        written = b"".join(self._written[i] for i in self.checked_ids(ids))
        return written.decode("utf8", errors="replace").strip(" ")

    def lost_bytes(self, text):
        """As the contract says, counted in the text as the model normalises it."""
        text = to_text(text)
        code, rest = self._without_code(text)
        lost = [piece.replace(BLANK, " ") for piece in self._native.encode(rest, out_type=str) if piece not in self._spoken]
        lost += [text[: len(text) - len(rest)]] if code == [self.unk_id] else []
        return min(sum(len(piece.encode("utf8")) for piece in lost), len(text.encode("utf8")))

    def _make_graph(self):
        """SentencePiece's op, the table of ids, and how each id is written."""
        if self._graph is None:  # an attribute of the module: so what the graph needs is saved with it
            import tensorflow_text

            with tf.init_scope():
                tokens, numbers = tf.constant(list(self._spoken)), tf.constant(list(self._spoken.values()), tf.int32)
                self._graph = (
                    tensorflow_text.SentencepieceTokenizer(self._model, out_type=tf.string),
                    tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(tokens, numbers), self.unk_id),
                    tf.Variable(self._written, trainable=False, name="written"),
                )
        return self._graph

    def tokenize(self, texts):
        native, ids, _ = self._make_graph()
        texts = valid_utf8(texts)
        if not self._codes:
            pieces = native.tokenize(texts)
            return pieces.with_flat_values(ids.lookup(pieces.flat_values))
        there = tf.strings.regex_full_match(texts, CODE + ".*")
        rests = tf.strings.regex_replace(texts, "^" + CODE, "", replace_global=False)
        lengths = tf.strings.length(texts) - tf.strings.length(rests)
        codes = tf.boolean_mask(tf.strings.substr(texts, tf.zeros_like(lengths), lengths), there)
        front = tf.RaggedTensor.from_row_lengths(ids.lookup(codes), tf.cast(there, tf.int64), validate=False)
        pieces = native.tokenize(rests)
        return tf.concat([front, pieces.with_flat_values(ids.lookup(pieces.flat_values))], 1)

    def detokenize(self, token_ids):
        written = tf.gather(self._make_graph()[2], token_ids.flat_values)
        texts = valid_utf8(tf.strings.unsorted_segment_join(written, row_ids(token_ids), token_ids.nrows()))
        return tf.strings.regex_replace(texts, "^ +| +$", "")

    def save_assets(self, directory):
        """Writes `sentencepiece.model` and `vocabulary.json`, the list of tokens."""
        (directory / "sentencepiece.model").write_bytes(self._model)
        text = json.dumps({"tokens": list(self._tokens)}, ensure_ascii=False, indent=0)
        (directory / "vocabulary.json").write_text(text + "\n", encoding="utf8")
        return {**self.special.saved(), "numbered_by": "vocabulary.json"}

    @classmethod
    def from_directory(cls, directory, config):
        tokens = read_json(directory / config["numbered_by"])["tokens"]
        return cls((directory / "sentencepiece.model").read_bytes(), tokens, Special.loaded(config))


def _written(token):
    """UTF-8 of what a token stands for in a text."""
    byte = BYTE.fullmatch(token)
    return bytes([int(byte.group(1), 16)]) if byte else token.replace(BLANK, " ").encode("utf8")
