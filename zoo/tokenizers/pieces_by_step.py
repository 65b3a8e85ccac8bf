"""SentencePiece's pieces where a tokenizer.json treats blanks otherwise than SentencePiece, or has plain text added to it.

A text is normalised (characters, then blanks), added tokens are found, a blank is put before what is left, and the model cuts
that into pieces. SentencePiece itself does all this at once, so here it is a model that leaves blanks alone.

Shape letters: B texts, P parts of all texts.
"""

import re

import numpy as np
import sentencepiece
import tensorflow as tf
from sentencepiece import sentencepiece_model_pb2

from zoo.config import Refusal
from zoo.tokenizers.added import SPACE, AddedTokens
from zoo.tokenizers.base import row_ids, valid_utf8
from zoo.tokenizers.sentencepiece_bpe import Piece
from zoo.tokenizers.special import BLANK

UNKNOWN = " \u2047 "  # as SentencePiece writes it
# `SPACE` of the graph side, as Python writes it.
NATIVE_SPACE = "[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"


class PiecesByStep(tf.Module):
    """Texts -> ids and back, on both sides.

    Args:
        model: bytes of a SentencePiece model.
        blanks: how blanks are treated, a `Blanks`.
        added: list of `Added`; to the model they are control symbols, if they are not among its pieces.

    Raises:
        Refusal: the model spells unknown characters by bytes and normalises others too.
    """

    def __init__(self, model, blanks, added):
        super().__init__()
        self._blanks, self._graph = blanks, None
        proto = sentencepiece_model_pb2.ModelProto.FromString(model)
        self._changes = bool(proto.normalizer_spec.precompiled_charsmap)
        if self._changes and proto.trainer_spec.byte_fallback:
            raise Refusal(
                "The model spells unknown characters by bytes and normalises characters too; with added tokens or with blanks "
                "treated as this tokenizer.json does, only one of both is supported."
            )
        proto.normalizer_spec.add_dummy_prefix = proto.normalizer_spec.remove_extra_whitespaces = False
        self._cutting = proto.SerializeToString()
        self._native = sentencepiece.SentencePieceProcessor(model_proto=self._cutting)
        self.added = AddedTokens(added, self._normal)
        self._written = [_written(piece) for piece in proto.pieces]
        for i, form in self.added.written.items():
            self._written[i] = form.encode("utf8")
        # The blank in front is not written; in BPE an added token may have it.
        is_bpe = proto.trainer_spec.model_type == proto.trainer_spec.BPE
        self._lead = None if blanks.prepend == "never" else f"^[ {BLANK}]" if is_bpe else f"^{BLANK}"

    def encode_batch(self, texts):
        """Strings -> one int32 array of ids for each."""
        return self.added.encode_batch(texts, self._normal, self._encode)

    def decode(self, ids):
        """List of ids -> string."""
        text = b"".join(self._written[i] for i in ids).decode("utf8", errors="replace")
        text = text if self._lead is None else re.sub(self._lead, "", text)
        return text.replace(BLANK, " ")

    def lost(self, text, unk_id):
        """Yields the parts of a text, a string, that become `unk_id`."""
        for place, (i, part) in enumerate(self.added.segments(text, self._normal)):
            if i < 0:
                part = self._led(part, place == 0)
                ids, pieces = (self._native.encode(part, out_type=kind) for kind in (int, str))
                yield from (piece for piece, i in zip(pieces, ids, strict=True) if i == unk_id)

    def _normal(self, text):
        text = "".join(self._native.encode(text, out_type=str)).replace(BLANK, " ") if self._changes else text
        for pattern, by in self._edits(NATIVE_SPACE):
            text = re.sub(pattern, by, text)
        text = " " + text if text and self._blanks.prepend == "text" else text
        return text.replace(" ", BLANK) if self._blanks.escape else text

    def _edits(self, space):
        """[(pattern, what it becomes), ...] of blanks."""
        sides = {"left": f"^{space}+", "right": f"{space}+$"}
        return [(sides[side], "") for side in self._blanks.strip.split()] + [(" {2,}", self._blanks.collapse)] * bool(
            self._blanks.collapse
        )

    def _led(self, part, first):
        """A normalised part of a text with the blank that belongs before it."""
        if self._blanks.words:
            part = re.sub(f"{NATIVE_SPACE}+", " ", part).strip(" ")
        leads = self._blanks.prepend == "always" or (first and self._blanks.prepend == "first")
        return " " + part if leads and part and part[0] not in (" ", BLANK) else part

    def _encode(self, parts, firsts):
        parts = list(map(self._led, parts, firsts))
        return [np.array(ids, np.int32) for ids in self._native.encode(parts, out_type=int)]

    def _make_graph(self):
        if self._graph is None:  # an attribute of the module: so the models are saved with it
            import tensorflow_text

            with tf.init_scope():
                of = tensorflow_text.SentencepieceTokenizer
                characters = of(self._cutting, out_type=tf.string) if self._changes else None
                written = tf.Variable(self._written, trainable=False, name="written")
                self._graph = characters, of(self._cutting), written
        return self._graph

    def tokenize(self, texts):
        """string (B,) -> int32 RaggedTensor (B, None)."""
        return self.added.tokenize(valid_utf8(texts), self._normal_in_graph, self._tokenize)

    def detokenize(self, token_ids):
        """int32 RaggedTensor (B, None) -> string (B,)."""
        written = tf.gather(self._make_graph()[2], token_ids.flat_values)
        texts = valid_utf8(tf.strings.unsorted_segment_join(written, row_ids(token_ids), token_ids.nrows()))
        texts = texts if self._lead is None else tf.strings.regex_replace(texts, self._lead, "")
        return tf.strings.regex_replace(texts, BLANK, " ")

    def _normal_in_graph(self, texts):
        characters, _, _ = self._make_graph()
        if characters is not None:
            pieces = characters.tokenize(texts)
            texts = tf.strings.unsorted_segment_join(pieces.flat_values, row_ids(pieces), pieces.nrows())
            texts = tf.strings.regex_replace(texts, BLANK, " ")
        for pattern, by in self._edits(SPACE):
            texts = tf.strings.regex_replace(texts, pattern, by)
        texts = tf.where(texts == "", "", " " + texts) if self._blanks.prepend == "text" else texts
        return tf.strings.regex_replace(texts, " ", BLANK) if self._blanks.escape else texts

    def _tokenize(self, parts, firsts):
        if self._blanks.words:
            parts = tf.strings.regex_replace(tf.strings.regex_replace(parts, f"{SPACE}+", " "), "^ | $", "")
        if self._blanks.prepend in ("always", "first"):
            leads = ~tf.strings.regex_full_match(parts, f"(?s)(?: |{BLANK}).*") & (parts != "")
            leads &= firsts | (self._blanks.prepend == "always")
            parts = tf.where(leads, " " + parts, parts)
        return self._make_graph()[1].tokenize(parts)


def _written(piece):
    """UTF-8 of what a piece stands for in a text."""
    if piece.type == Piece.BYTE:
        return bytes([int(piece.piece[3:5], 16)])
    if piece.type == Piece.UNKNOWN:
        return UNKNOWN.encode()
    return b"" if piece.type == Piece.CONTROL else piece.piece.encode("utf8")
