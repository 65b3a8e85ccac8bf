"""Unigram language-model pieces (Kudo 2018, arXiv:1804.10959) in SentencePiece's model files (Kudo and Richardson 2018).

A text is normalised as its model says (NFKC by default), a blank becomes "▁", and of all ways to cut it into pieces of the
vocabulary the likeliest is taken, each piece having a probability of its own. The native side is the library
`sentencepiece`; the graph side is tensorflow-text's op, the same program, which a stock TF Serving has linked in.
"""

import base64
import dataclasses
import io
from pathlib import Path

import numpy as np
import sentencepiece
import tensorflow as tf
import tokenizers
from sentencepiece import sentencepiece_model_pb2

from zoo.config import Refusal
from zoo.registry import TOKENIZERS
from zoo.tokenizers import sentencepiece_bpe
from zoo.tokenizers.added import Added, add_to, split_added
from zoo.tokenizers.base import CUT_AT_BLANKS, Tokenizer, cut_at_spaces, read_json, require_list, to_text, valid_utf8
from zoo.tokenizers.pieces_by_step import PiecesByStep
from zoo.tokenizers.sentencepiece_bpe import Blanks, Piece
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
        special: what third-party files say of the special tokens, a `Special`.
        added: plain text that somebody added, a list of `Added`.
        blanks: how blanks are treated, a `Blanks`; None where SentencePiece does it by itself.

    Raises:
        Refusal: the bytes are not such a model, or it has neither [SEP] nor </s>.
    """

    def __init__(self, model, special=NOTHING, added=(), blanks=None):
        super().__init__()
        self.special, self.added, self._blanks = special, tuple(added), blanks
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
            named["sep"] = ids.get(special.roles.get("eos"))
        if named["sep"] is None:
            raise Refusal(f"The model has neither of {' and '.join(ROLES['sep'])}; one must end what is read.")
        named |= {role: ids[token] for role, token in special.roles.items() if role in named and token in ids}
        eos, bos = (ids.get(special.roles.get(role)) for role in ("eos", "bos"))
        self.sentinel_ids = sentinels_among(ids)
        # A sentinel with a blank before its name, as mT5 has it, is an ordinary piece: plain text spells it.
        sentinels = [i for i in self.sentinel_ids if not proto.pieces[i].piece.startswith(BLANK)]
        for i in (*named.values(), eos, bos, *sentinels):
            if i is not None and proto.pieces[i].type != Piece.UNKNOWN:  # which files of Llamas and ChatGLM3 also pad with
                proto.pieces[i].type = Piece.CONTROL
        self._model = proto.SerializeToString()
        self._native = sentencepiece.SentencePieceProcessor(model_proto=self._model)
        self.vocab_size, self.unk_id = len(proto.pieces), self._native.unk_id()
        self.cls_id, self.sep_id, self.mask_id = (named[role] for role in ("cls", "sep", "mask"))
        self.eos_id = self.sep_id if eos is None else eos
        self.bos_id = None if bos in (None, self.eos_id) else bos
        # Whether a blank is put before a text.
        self.prepends = proto.normalizer_spec.add_dummy_prefix or (blanks is not None and blanks.prepend != "never")
        self._pad_id = self.sep_id if named["pad"] is None else named["pad"]
        self._graph = self._by_step = None
        if self.added or blanks is not None:
            self._by_step = PiecesByStep(self._model, blanks or _blanks_of(proto.normalizer_spec), self.added)
        if self._by_step is not None or not _spells_words_alone(proto):
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
        spoken = {token.id for token in self.added}
        return {i: piece for i, piece in enumerate(self.vocabulary) if self._native.is_control(i) and i not in spoken}

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
    def from_sentencepiece(cls, path, *, fairseq=False, behind=(), special=NOTHING, added=(), blanks=None):
        """From a `.model` file. Raises Refusal when there is none or it is something else.

        With `fairseq` the ids are those of fairseq's models, such as XLM-R: `<s> <pad> </s> <unk>`, the pieces, `<mask>`.
        The tokens `behind`, special or added, stand behind the pieces.
        """
        try:
            with open(path, "rb") as file:
                model = file.read()
        except FileNotFoundError as error:
            raise Refusal(f"There is no file {path}.") from error
        made = cls(_as_fairseq(model) if fairseq else model, special)
        if not (behind or added or blanks):
            return made
        return cls(_with_tokens(made._model, behind), special, added, blanks)

    @classmethod
    def from_huggingface(cls, tokenizer_json, special=NOTHING):
        """From a `tokenizer.json` of type Unigram whose normalizer is SentencePiece's own and whose words Metaspace's; or of
        type BPE with byte_fallback, as of Llama 2."""
        config, path = read_json(tokenizer_json), Path(tokenizer_json)
        try:
            silent, added = split_added(config, special)
            plain = {token.content: token.id for token in added}
            if config["model"].get("byte_fallback") and config["model"].get("type") == "BPE":
                beside = sorted(path.parent.glob("*.model"))
                model = beside[0].read_bytes() if beside else None
                proto, blanks = sentencepiece_bpe.model_of(config, path, silent, plain, model)
                own = blanks.prepend != "never" and blanks.prepend != "text"
            else:
                proto, blanks, own = _model_of(config, path, silent, plain)
        except (KeyError, TypeError, AttributeError) as error:
            raise Refusal(f"{tokenizer_json} is not a tokenizer.json of Hugging Face ({error!r}).") from error
        return cls(proto.SerializeToString(), special, added, blanks if added or own else None)

    def encode_batch(self, texts):
        if self._by_step is not None:
            return self._by_step.encode_batch(texts)
        texts = [to_text(text) for text in require_list(texts)]
        return [np.array(ids, np.int32) for ids in self._native.encode(texts, out_type=int)]

    def decode(self, ids):
        """As the contract says; `unk_id` becomes " ⁇ "."""
        return (self._by_step or self._native).decode(self.checked_ids(ids).tolist())

    def lost_bytes(self, text):
        """As the contract says, counted in the text as the model normalises it."""
        text = to_text(text)
        if self._by_step is not None:
            lost = self._by_step.lost(text, self.unk_id)
        else:
            ids, pieces = (self._native.encode(text, out_type=kind) for kind in (int, str))
            lost = (piece for i, piece in zip(ids, pieces, strict=True) if i == self.unk_id)
        lost = (piece.replace(BLANK, " ") for piece in lost)
        return min(sum(len(piece.encode("utf8")) for piece in lost), len(text.encode("utf8")))

    def _make_graph(self):
        if self._by_step is not None:
            return self._by_step
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
        added = {"added": [token.saved() for token in self.added]} if self.added else {}
        blanks = {} if self._blanks is None else {"blanks": dataclasses.asdict(self._blanks)}
        return {**self.special.saved(), **added, **blanks}

    def save_huggingface(self, directory):
        proto = sentencepiece_model_pb2.ModelProto.FromString(self._model)
        user = next((piece.piece for piece in proto.pieces if piece.type == Piece.USER_DEFINED), None)
        if user is not None:
            raise Refusal(f"The pieces have {user!r}, defined by a user; such a model cannot be written for Hugging Face.")
        plain = {token.content for token in self.added}
        # Added tokens behind all pieces do not belong to the model.
        last = max(i for i, piece in enumerate(proto.pieces) if piece.type != Piece.CONTROL)
        behind = min((token.id for token in self.added if token.id > last), default=None)
        controls = [(i, p.piece) for i, p in enumerate(proto.pieces) if p.type == Piece.CONTROL and p.piece not in plain]
        bpe = proto.trainer_spec.model_type == sentencepiece_model_pb2.TrainerSpec.BPE
        native = (_native_bpe if bpe else _native_unigram)(proto, self.unk_id, behind, self._blanks)
        if bpe and self._by_step is None:
            (directory / "tokenizer.model").write_bytes(self._model)  # from which it is read again
        lstrip = self.special.mask_lstrip
        special = [Added(t, i, lstrip=t == self.mask_token and lstrip, normalized=False) for i, t in controls]
        add_to(native, [*((token, True) for token in special), *((token, False) for token in self.added)], self.vocab_size)
        processor = post_processor(self.template, native.token_to_id)
        if processor is not None:
            native.post_processor = processor
        native.save(str(directory / "tokenizer.json"))

    @classmethod
    def from_directory(cls, directory, config):
        if "numbered_by" in config:
            from zoo.tokenizers.numbered_pieces import NumberedPieces  # which knows all that this file knows

            return NumberedPieces.from_directory(directory, config)
        added = [Added(**fields) for fields in config.get("added", ())]
        blanks = Blanks(**config["blanks"]) if "blanks" in config else None
        model = directory / "sentencepiece.model"
        return cls.from_sentencepiece(model, special=Special.loaded(config), added=added, blanks=blanks)


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


def _blanks_of(spec):
    """How SentencePiece itself treats blanks, a `Blanks`."""
    extra = spec.remove_extra_whitespaces
    prepend = "text" if spec.add_dummy_prefix else "never"
    return Blanks("left right" if extra else "", " " if extra else "", prepend, escape=True)


def _normalizers(spec, blanks):
    """Changes of characters, then of blanks, as steps of the `tokenizers` library."""
    normalizers = tokenizers.normalizers
    steps = [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    if blanks.strip:
        steps.append(normalizers.Strip("left" in blanks.strip, "right" in blanks.strip))
    return steps + [normalizers.Replace(tokenizers.Regex(" {2,}"), blanks.collapse)] * bool(blanks.collapse)


def _native_unigram(proto, unk_id, behind, blanks):
    """As `tokenizers` has it, without the pieces from the id `behind` on."""
    pieces = [(piece.piece, piece.score) for piece in proto.pieces[:behind]]
    native = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id, byte_fallback=proto.trainer_spec.byte_fallback))
    blanks = blanks or dataclasses.replace(_blanks_of(proto.normalizer_spec), prepend=(
        "always" if proto.normalizer_spec.add_dummy_prefix else "never"))  # fmt: skip
    native.normalizer = tokenizers.normalizers.Sequence(_normalizers(proto.normalizer_spec, blanks))
    split = tokenizers.pre_tokenizers
    native.pre_tokenizer = split.Metaspace(BLANK, prepend_scheme=blanks.prepend)
    if blanks.words:
        native.pre_tokenizer = split.Sequence([split.WhitespaceSplit(), native.pre_tokenizer])
    native.decoder = tokenizers.decoders.Metaspace(BLANK, prepend_scheme=blanks.prepend)
    return native


def _native_bpe(proto, unk_id, behind, blanks):
    """SentencePiece's BPE, likewise: of two neighbours those are merged first whose piece has the highest score."""
    ids = {piece.piece: i for i, piece in enumerate(proto.pieces[:behind])}
    merges = []
    for piece in proto.pieces:
        text = piece.piece
        if piece.type == Piece.NORMAL:
            halves = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
            pairs = [pair for pair in halves if pair[0] in ids and pair[1] in ids]
            merges += [(piece.score, pair) for pair in sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))]
    merges.sort(key=lambda merge: -merge[0])
    model = tokenizers.models.BPE(
        ids, [pair for _, pair in merges], unk_token=proto.pieces[unk_id].piece, fuse_unk=True,
        byte_fallback=proto.trainer_spec.byte_fallback,
    )  # fmt: skip
    native, decoders = tokenizers.Tokenizer(model), tokenizers.decoders
    blanks = blanks or _blanks_of(proto.normalizer_spec)
    steps = _normalizers(proto.normalizer_spec, blanks)
    if not blanks.escape:
        native.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(BLANK, prepend_scheme=blanks.prepend, split=False)
    else:
        steps += [tokenizers.normalizers.Prepend(BLANK)] * (blanks.prepend == "text")
        steps.append(tokenizers.normalizers.Replace(" ", BLANK))
    if steps:
        native.normalizer = tokenizers.normalizers.Sequence(steps)
    spelling = [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    native.decoder = decoders.Sequence([*spelling, *([decoders.Strip(" ", 1, 0)] if blanks.prepend != "never" else [])])
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


def _model_of(config, path, special, plain):
    """The SentencePiece model that a tokenizer.json describes, how it treats blanks, and whether SentencePiece does otherwise.

    Raises Refusal for what it cannot describe.
    """
    model, steps = config["model"], _flat(config.get("normalizer"), "normalizers")
    words = _flat(config.get("pre_tokenizer"), "pretokenizers")
    precompiled = [step for step in steps if step["type"] == "Precompiled"]
    kinds = [step["type"] for step in words]
    others = [step for step in steps if step not in precompiled and not _of_blanks(step)]
    other = " ".join([others[0]["type"], *map(repr, others[0].get("pattern", {}).values())]) if others else None
    for true, sentence in [
        (model.get("type") == "Unigram", f"a {model.get('type')} model; only Unigram is read here"),
        (other is None, f"the normalizer {other}; only Precompiled, and Strip and Replace of blanks behind it, are read"),
        (precompiled == steps[: len(precompiled)][:1], "normalizers in front of Precompiled; only such behind it are read"),
        (
            kinds in (["Metaspace"], ["WhitespaceSplit", "Metaspace"]),
            f"the pre-tokenizer {' + '.join(kinds) or None}; only Metaspace, and WhitespaceSplit before it, are read",
        ),
        (not model.get("byte_fallback"), "byte_fallback=true; read the .model file that it was made of instead"),
    ]:
        if not true:
            raise Refusal(f"{path} has {sentence}.")
    strip = next((step for step in steps if step["type"] == "Strip"), {})
    blanks = Blanks(
        strip=" ".join(side for side in ("left", "right") if strip.get(f"strip_{side}")),
        collapse=next((step["content"] for step in steps if step["type"] == "Replace" and "Regex" in step["pattern"]), ""),
        prepend=words[-1].get("prepend_scheme", "always"),
        words=len(words) == 2,
    )
    if blanks.prepend == "first" and (blanks.words or "left" in blanks.strip):
        raise Refusal(
            f"{path} puts a blank before the first word alone (prepend_scheme=first) and takes white space from before it; "
            "only one of both is supported."
        )
    proto, vocabulary = sentencepiece_model_pb2.ModelProto(), model["vocab"]
    known = {piece for piece, _ in vocabulary}
    for i, (piece, score) in enumerate(vocabulary):
        kind = Piece.UNKNOWN if i == model["unk_id"] else Piece.CONTROL if piece in special else Piece.NORMAL
        proto.pieces.add(piece=piece, score=score, type=kind)
    for token, i in sorted({**special, **plain}.items(), key=lambda item: item[1]):
        if token not in known:
            if i != len(proto.pieces):
                raise Refusal(f"{path} gives {token!r} the id {i}, and none {len(proto.pieces)}.")
            proto.pieces.add(piece=token, score=0.0, type=Piece.CONTROL)
    proto.trainer_spec.model_type = sentencepiece_model_pb2.TrainerSpec.UNIGRAM
    proto.trainer_spec.unk_piece = vocabulary[model["unk_id"]][0]
    spec, extra = proto.normalizer_spec, blanks.words or (blanks.collapse and "right" in blanks.strip)
    if precompiled:
        spec.precompiled_charsmap = base64.b64decode(precompiled[0]["precompiled_charsmap"])
    else:
        spec.name = "identity"
    spec.add_dummy_prefix, spec.remove_extra_whitespaces = blanks.prepend != "never", bool(extra)
    # Without a table of characters other white space than blanks stays, and does not part words.
    own = not (extra and precompiled and blanks.prepend != "first")
    return proto, blanks, own and blanks != Blanks(prepend="never")


def _flat(step, key):
    """The steps of a normalizer or a pre-tokenizer in JSON, one after another."""
    if step is None:
        return []
    if step["type"] != "Sequence":
        return [step]
    return [part for inner in step[key] for part in _flat(inner, key)]


def _of_blanks(step):
    """Whether a normalizer in JSON does no more than to take blanks away, or to write them as SentencePiece does."""
    collapses = {"pattern": {"Regex": " {2,}"}}, {"pattern": {"String": " "}}
    replaces = step["type"] == "Replace" and {"pattern": step["pattern"]} in collapses and step["content"] in (" ", BLANK)
    return replaces or step["type"] == "Strip"
