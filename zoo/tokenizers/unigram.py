"""Unigram language-model pieces (Kudo 2018, arXiv:1804.10959) in SentencePiece's model files (Kudo and Richardson 2018).

A text is normalised as its model says (NFKC by default), a blank becomes "▁", and of all ways to cut it into pieces of the
vocabulary the likeliest is taken, each piece having a probability of its own. The native side is the library
`sentencepiece`; the graph side is tensorflow-text's op, the same program, which a stock TF Serving has linked in.
"""

import base64
import io

import numpy as np
import sentencepiece
import tensorflow as tf
import tokenizers
from sentencepiece import sentencepiece_model_pb2

from zoo.config import Refusal
from zoo.registry import TOKENIZERS
from zoo.tokenizers import sentencepiece_bpe
from zoo.tokenizers.base import CUT_AT_BLANKS, Tokenizer, cut_at_spaces, read_json, require_list, to_text, valid_utf8
from zoo.tokenizers.sentencepiece_bpe import Piece
from zoo.tokenizers.special import BLANK, NOTHING, Special, post_processor, sentinels_among

DEFAULT_VOCAB_SIZE = 8_192
# What each special token is for, and the names it goes by, those of models trained here first.
ROLES = {
    "pad": ("<pad>", "[PAD]"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
MAX_LINE_BYTES = 1 << 16
MOST_CHARACTERS = 1 << 26


@TOKENIZERS.register("unigram")
class UnigramTokenizer(Tokenizer):
    """A SentencePiece model; `eos_id` is [SEP] or </s>, and `cls_id`, `sep_id`, `mask_id`, `pad_id` stand for no text.

    Args:
        model: bytes of a SentencePiece model. Its special tokens become control symbols, whatever they were: no text
            can spell one.
        special: what other people's files say of the special tokens, a `Special`.

    Raises:
        Refusal: the bytes are not such a model, or it has neither [SEP] nor </s>.
    """

    def __init__(self, model, special=NOTHING):
        super().__init__()
        self.special = special
        proto = sentencepiece_model_pb2.ModelProto()
        try:
            proto.ParseFromString(model)
        except Exception as error:  # protobuf's DecodeError is another class in each of its implementations
            raise Refusal(f"This is not a SentencePiece model ({error}).") from error
        ids = {piece.piece: i for i, piece in enumerate(proto.pieces)}
        if len(ids) < len(proto.pieces) or not ids:
            twice = next((p.piece for i, p in enumerate(proto.pieces) if ids[p.piece] != i), None)
            raise Refusal(f"The model has the piece {twice!r} twice." if ids else "The model has no pieces.")
        named = {role: next((ids[name] for name in names if name in ids), None) for role, names in ROLES.items()}
        if named["sep"] is None:
            raise Refusal(f"The model has neither of {' and '.join(ROLES['sep'])}; one must end what is read.")
        named |= {role: ids[token] for role, token in special.roles.items() if role in named and token in ids}
        eos, bos = (ids.get(special.roles.get(role)) for role in ("eos", "bos"))
        self.sentinel_ids = sentinels_among(ids)
        # A sentinel with a blank before its name, as mT5 has it, is an ordinary piece: plain text spells it.
        sentinels = [i for i in self.sentinel_ids if not proto.pieces[i].piece.startswith(BLANK)]
        for i in (*named.values(), eos, bos, *sentinels):
            if i is not None:
                proto.pieces[i].type = Piece.CONTROL
        self._model = proto.SerializeToString()
        self._native = sentencepiece.SentencePieceProcessor(model_proto=self._model)
        self.vocab_size, self.unk_id = len(proto.pieces), self._native.unk_id()
        self.cls_id, self.sep_id, self.mask_id = (named[role] for role in ("cls", "sep", "mask"))
        self.eos_id = self.sep_id if eos is None else eos
        self.bos_id = None if bos in (None, self.eos_id) else bos
        self._pad_id = self.sep_id if named["pad"] is None else named["pad"]
        self._graph = None
        if not _spells_words_alone(proto):
            self.cut = None
        elif self._native.normalize("a\nb") != self._native.normalize("a b"):
            self.cut = CUT_AT_BLANKS  # a line feed is not white space to this model

    @property
    def pad_id(self):
        return self._pad_id

    @property
    def vocabulary(self):
        """Every piece as the model writes it, in the order of ids."""
        return tuple(map(self._native.id_to_piece, range(self.vocab_size)))

    @property
    def control_ids(self):
        return sorted(self.control_tokens)

    @property
    def control_tokens(self):
        """dict, id -> piece, of those that stand for no text."""
        return {i: piece for i, piece in enumerate(self.vocabulary) if self._native.is_control(i)}

    def begins_word(self):
        return np.array([piece.startswith(BLANK) for piece in self.vocabulary])

    @classmethod
    def train(cls, texts, vocab_size=None):
        """Fits pieces to texts; there may be fewer than `vocab_size` (8,192 by default) when there is little text.

        SentencePiece holds all that it learns from, so of more than `MOST_CHARACTERS` only every second
        (or fourth, ...) line is taken.
        """
        vocab_size = DEFAULT_VOCAB_SIZE if vocab_size is None else vocab_size
        if vocab_size < len(ROLES) + 2:
            needs = f"at least {len(ROLES) + 2} ids ({len(ROLES)} of them special)"
            raise Refusal(f"A unigram vocabulary has {needs}, got vocab_size {vocab_size}.")
        lines = _thinned(_lines(texts), MOST_CHARACTERS)
        if not lines:
            raise Refusal("There is no text to learn pieces from.")
        model = io.BytesIO()
        # Every character of the text has a piece, unless they are too many; then the most frequent have.
        num_characters = len(set().union(*lines))
        coverage = 1.0 if num_characters < vocab_size // 2 else 0.9995
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, vocab_size=vocab_size, model_type="unigram",
            character_coverage=coverage, hard_vocab_limit=False, max_sentence_length=2 * MAX_LINE_BYTES,
            pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, control_symbols=[ROLES[r][0] for r in ("cls", "sep", "mask")],
            minloglevel=2,
        )  # fmt: skip
        return cls(model.getvalue())

    @classmethod
    def from_sentencepiece(cls, path, *, fairseq=False, added=(), special=NOTHING):
        """From a `.model` file. Raises Refusal when there is none or it is something else.

        With `fairseq` the ids are those of fairseq's models, such as XLM-R: `<s> <pad> </s> <unk>`, the pieces, `<mask>`.
        The special tokens `added` stand behind the pieces.
        """
        try:
            with open(path, "rb") as file:
                model = file.read()
        except FileNotFoundError as error:
            raise Refusal(f"There is no file {path}.") from error
        made = cls(_as_fairseq(model) if fairseq else model, special)
        return cls(_with_tokens(made._model, added), special) if added else made

    @classmethod
    def from_huggingface(cls, tokenizer_json, special=NOTHING):
        """From a `tokenizer.json` of type Unigram whose normalizer is SentencePiece's own and whose words Metaspace's; or of
        type BPE with byte_fallback, as of Llama 2."""
        config = read_json(tokenizer_json)
        model_of = sentencepiece_bpe.model_of if sentencepiece_bpe.is_spelt(config) else _model_of
        try:
            return cls(model_of(config, tokenizer_json).SerializeToString(), special)
        except (KeyError, TypeError, AttributeError) as error:
            raise Refusal(f"{tokenizer_json} is not a tokenizer.json of Hugging Face ({error!r}).") from error

    def encode_batch(self, texts):
        texts = [to_text(text) for text in require_list(texts)]
        return [np.array(ids, np.int32) for ids in self._native.encode(texts, out_type=int)]

    def decode(self, ids):
        """As the contract says; `unk_id` becomes " ⁇ "."""
        return self._native.decode(self.checked_ids(ids).tolist())

    def lost_bytes(self, text):
        """As the contract says, counted in the text as the model normalises it."""
        text = to_text(text)
        ids, pieces = (self._native.encode(text, out_type=kind) for kind in (int, str))
        lost = (piece.replace(BLANK, " ") for i, piece in zip(ids, pieces, strict=True) if i == self.unk_id)
        return min(sum(len(piece.encode("utf8")) for piece in lost), len(text.encode("utf8")))

    def _make_graph(self):
        if self._graph is None:  # an attribute of the module: so the op's model is saved with it
            import tensorflow_text

            with tf.init_scope():
                self._graph = tensorflow_text.SentencepieceTokenizer(self._model)
        return self._graph

    def tokenize(self, texts):
        return self._make_graph().tokenize(valid_utf8(texts))

    def detokenize(self, token_ids):
        return self._make_graph().detokenize(token_ids)

    def save_assets(self, directory):
        """Writes `sentencepiece.model`, which every SentencePiece reads."""
        (directory / "sentencepiece.model").write_bytes(self._model)
        return self.special.saved()

    def save_huggingface(self, directory):
        proto = sentencepiece_model_pb2.ModelProto.FromString(self._model)
        own = next((piece.piece for piece in proto.pieces if piece.type == Piece.USER_DEFINED), None)
        if own is not None:
            raise Refusal(f"The pieces have {own!r}, defined by a user; such a model cannot be written for Hugging Face.")
        bpe = proto.trainer_spec.model_type == sentencepiece_model_pb2.TrainerSpec.BPE
        native = _native_bpe(proto) if bpe else _native_unigram(proto, self.unk_id)
        if bpe:
            (directory / "tokenizer.model").write_bytes(self._model)  # from which it is read again
        mask = self.mask_token
        controls = [piece.piece for piece in proto.pieces if piece.type == Piece.CONTROL]
        native.add_special_tokens(
            [tokenizers.AddedToken(t, special=True, lstrip=t == mask and self.special.mask_lstrip) for t in controls]
        )
        processor = post_processor(self.template, native.token_to_id)
        if processor is not None:
            native.post_processor = processor
        native.save(str(directory / "tokenizer.json"))

    @classmethod
    def from_directory(cls, directory, config):
        if "numbered_by" in config:
            from zoo.tokenizers.numbered_pieces import NumberedPieces  # which knows all that this file knows

            return NumberedPieces.from_directory(directory, config)
        return cls.from_sentencepiece(directory / "sentencepiece.model", special=Special.loaded(config))


def _spells_words_alone(proto):
    """Whether a word's pieces do not depend on what stands before and behind it.

    That is so where every run of white space becomes one blank, in front of the text too, no piece goes on over a blank, and
    a blank has a piece of its own (or unknown characters of two words would be one piece).
    """
    spec, trained = proto.normalizer_spec, proto.trainer_spec
    spoken = [piece.piece for piece in proto.pieces if piece.type in (Piece.NORMAL, Piece.USER_DEFINED)]
    return (
        spec.add_dummy_prefix and spec.remove_extra_whitespaces and spec.escape_whitespaces and BLANK in spoken
        and not trained.treat_whitespace_as_suffix
        and not any({BLANK, " ", "\n"}.intersection(piece[1:]) for piece in spoken)
    )  # fmt: skip


def _normalizers(spec):
    """SentencePiece's normalisation, as steps of the `tokenizers` library."""
    normalizers = tokenizers.normalizers
    steps = [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    return steps


def _native_unigram(proto, unk_id):
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    native = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id, byte_fallback=proto.trainer_spec.byte_fallback))
    native.normalizer = tokenizers.normalizers.Sequence(_normalizers(proto.normalizer_spec))
    prepend = "always" if proto.normalizer_spec.add_dummy_prefix else "never"
    native.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(BLANK, prepend_scheme=prepend)
    native.decoder = tokenizers.decoders.Metaspace(BLANK, prepend_scheme=prepend)
    return native


def _native_bpe(proto):
    """SentencePiece's BPE: of two neighbours those are merged first whose piece has the highest score."""
    ids = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    merges = []
    for piece in proto.pieces:
        text = piece.piece
        if piece.type == Piece.NORMAL:
            halves = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
            pairs = [pair for pair in halves if pair[0] in ids and pair[1] in ids]
            merges += [(piece.score, pair) for pair in sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))]
    merges.sort(key=lambda merge: -merge[0])
    unknown = next(piece.piece for piece in proto.pieces if piece.type == Piece.UNKNOWN)
    model = tokenizers.models.BPE(
        ids, [pair for _, pair in merges], unk_token=unknown, fuse_unk=True, byte_fallback=proto.trainer_spec.byte_fallback
    )
    native, decoders = tokenizers.Tokenizer(model), tokenizers.decoders
    steps, prefix = _normalizers(proto.normalizer_spec), proto.normalizer_spec.add_dummy_prefix
    steps += [tokenizers.normalizers.Prepend(BLANK)] if prefix else []
    native.normalizer = tokenizers.normalizers.Sequence([*steps, tokenizers.normalizers.Replace(" ", BLANK)])
    spelling = [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    native.decoder = decoders.Sequence([*spelling, *([decoders.Strip(" ", 1, 0)] if prefix else [])])
    return native


def _as_fairseq(model):
    """A SentencePiece model with its pieces in fairseq's order, which has four special tokens of its own in front."""
    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(model)
    except Exception as error:  # protobuf's DecodeError is another class in each of its implementations
        raise Refusal(f"This is not a SentencePiece model ({error}).") from error
    pieces = {piece.piece: piece for piece in proto.pieces}
    if [piece.piece for piece in proto.pieces[:3]] != ["<unk>", "<s>", "</s>"]:
        raise Refusal("The model's first three pieces must be <unk>, <s> and </s>, as XLM-R has them.")
    pad, mask = (Piece(piece=name, score=0.0, type=Piece.CONTROL) for name in ("<pad>", "<mask>"))
    ordered = [pieces["<s>"], pad, pieces["</s>"], pieces["<unk>"], *proto.pieces[3:], mask]
    ordered = [Piece.FromString(piece.SerializeToString()) for piece in ordered]
    del proto.pieces[:]
    proto.pieces.extend(ordered)
    return proto.SerializeToString()


def _with_tokens(model, tokens):
    """A SentencePiece model with control symbols behind its pieces."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    proto.pieces.extend(Piece(piece=token, score=0.0, type=Piece.CONTROL) for token in tokens)
    return proto.SerializeToString()


def _lines(texts):
    """Lines that have anything in them; SentencePiece leaves out what is longer than a line may be."""
    for text in texts:
        for piece in cut_at_spaces(to_text(text)):
            yield from (line for line in piece.split("\n") if line.strip())


def _thinned(lines, most):
    """A list of the lines, or of every second (or fourth, ...) from the first on: of at most `most` characters."""
    kept, size, every = [], 0, 1
    for number, line in enumerate(lines):
        if number % every == 0:
            kept.append(line)
            size += len(line)
        while size > most and len(kept) > 1:
            kept, every = kept[::2], 2 * every
            size = sum(map(len, kept))
    return kept


def _model_of(config, path):
    """The SentencePiece model that a tokenizer.json describes. Raises Refusal for what it cannot describe."""
    model, added = config["model"], config.get("added_tokens") or []
    normalizer, words = config.get("normalizer") or {}, config.get("pre_tokenizer") or {}
    normalizers = normalizer["normalizers"] if normalizer.get("type") == "Sequence" else [normalizer]
    splitters = words["pretokenizers"] if words.get("type") == "Sequence" else [words]
    metaspace = [splitter for splitter in splitters if splitter.get("type") == "Metaspace"]
    precompiled = [step for step in normalizers if step.get("type") == "Precompiled"]
    for true, sentence in [
        (model.get("type") == "Unigram", f"a {model.get('type')} model; only Unigram is read here"),
        (len(precompiled) == 1, "no precompiled normalizer; only SentencePiece's own is read"),
        (len(metaspace) == 1, "no Metaspace pre-tokenizer; only SentencePiece's words are read"),
        (not model.get("byte_fallback"), "byte_fallback=true; read the .model file that it was made of instead"),
    ]:
        if not true:
            raise Refusal(f"{path} has {sentence}.")
    proto = sentencepiece_model_pb2.ModelProto()
    special = {token["content"] for token in added}
    for i, (piece, score) in enumerate(model["vocab"]):
        kind = Piece.UNKNOWN if i == model["unk_id"] else Piece.CONTROL if piece in special else Piece.NORMAL
        proto.pieces.add(piece=piece, score=score, type=kind)
    known = {piece for piece, _ in model["vocab"]}
    for token in sorted(added, key=lambda token: token["id"]):
        if token["content"] not in known:
            if token["id"] != len(proto.pieces):
                raise Refusal(f"{path} gives {token['content']!r} the id {token['id']}, and none {len(proto.pieces)}.")
            proto.pieces.add(piece=token["content"], score=0.0, type=Piece.CONTROL)
    proto.trainer_spec.model_type = sentencepiece_model_pb2.TrainerSpec.UNIGRAM
    proto.trainer_spec.unk_piece = model["vocab"][model["unk_id"]][0]
    proto.normalizer_spec.precompiled_charsmap = base64.b64decode(precompiled[0]["precompiled_charsmap"])
    proto.normalizer_spec.add_dummy_prefix = metaspace[0].get("prepend_scheme", "always") != "never"
    proto.normalizer_spec.remove_extra_whitespaces = len(normalizers) > 1 or len(splitters) > 1
    return proto
