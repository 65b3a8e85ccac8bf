"""SentencePiece's BPE, as a `tokenizer.json` spells it (Llama 2, Mistral), back into a SentencePiece model.

SentencePiece joins the two neighbours whose piece has the highest score; a tokenizer.json lists every such pair in that order.
So the scores are read off the order of the merges, and the rest is checked: then both cut every text alike.
"""

import dataclasses
import re
from dataclasses import dataclass

from sentencepiece import sentencepiece_model_pb2

from zoo.config import Refusal
from zoo.tokenizers.special import BLANK

Piece = sentencepiece_model_pb2.ModelProto.SentencePiece
REPLACED = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
PREPENDED = {"type": "Prepend", "prepend": BLANK}
AT_BLANKS = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
WAY_OUT = "put the tokenizer.model that it was made of beside it, and leave tokenizer.json out"


@dataclass(frozen=True)
class Blanks:
    r"""What a tokenizer.json does with blanks, where SentencePiece itself does something else.

    Attributes:
        strip: the sides at which white space goes: "", "left", "right" or "left right".
        collapse: what several blanks become: one, as " " or as "\u2581"; or "", nothing changes.
        prepend: where a blank is put in front. "text": of all that stands between tokens which are found as they are
            written. "always": of what stands between any two added tokens and does not begin with one. "first": of that,
            where the text begins. "never": nowhere.
        escape: whether all this is done by a normalizer, which leaves no blank but "\u2581" for added tokens to take.
        words: whether words are cut at white space of any kind, and each has one blank in front.
    """

    strip: str = ""
    collapse: str = ""
    prepend: str = "always"
    escape: bool = False
    words: bool = False


def says_less(config):
    """Whether a `.model` file says all that such a tokenizer.json says: blanks are SentencePiece's, added tokens special."""
    words = config.get("pre_tokenizer") or {}
    prepends = words.get("type") == "Metaspace" and words.get("prepend_scheme") != "never"
    return not prepends and all(token.get("special") for token in config.get("added_tokens") or [])


def model_of(config, path, special, plain, model=None):
    """The SentencePiece model, a `ModelProto`, that a tokenizer.json describes, and how it treats blanks, a `Blanks`.

    Args:
        config: dict, the JSON.
        path: of the file, for messages.
        special, plain: the added tokens, dict, token -> id, each.
        model: bytes of the SentencePiece model beside it, if there is one; then the merges are not looked at.

    Raises:
        Refusal: it cuts texts in a way that no SentencePiece model does.
    """
    model_json = config["model"]
    vocabulary = {**model_json["vocab"], **special, **plain}
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model_json["merges"]]
    blanks, unknown = _blanks(config, path), model_json.get("unk_token")
    for true, sentence in [
        (sorted(vocabulary.values()) == list(range(len(vocabulary))), "ids that are not 0, 1, 2, ..., each once"),
        (unknown in vocabulary, "no token for what is unknown (unk_token)"),
        (all(f"<0x{byte:02X}>" in vocabulary for byte in range(256)), "byte_fallback=true, but not all of <0x00> to <0xFF>"),
        (not model_json.get("dropout"), "BPE dropout; only null is supported"),
        (not model_json.get("ignore_merges"), "ignore_merges=true beside byte_fallback=true; only false is supported"),
        (not model_json.get("continuing_subword_prefix"), "a continuing_subword_prefix; only an empty one is supported"),
        (not model_json.get("end_of_word_suffix"), "an end_of_word_suffix; only an empty one is supported"),
    ]:
        if not true:
            raise Refusal(f"{path} has {sentence}.")
    silent = {*special, *(plain.keys() - model_json["vocab"].keys()), unknown}
    pieces = {token for token in vocabulary if token not in silent and not re.fullmatch("<0x[0-9A-F]{2}>", token)}
    if blanks.words:
        crossing = next((piece for piece in sorted(pieces) if BLANK in piece[1:]), None)
        if crossing is not None:
            raise Refusal(f"{path} cuts words at blanks (Metaspace, split=true) and has the token {crossing!r}; {WAY_OUT}.")
        blanks = dataclasses.replace(blanks, words=False)  # no piece goes on over a blank
    scores = _scores(merges, pieces, path) if model is None else _scores_of(model, pieces, path)
    proto = sentencepiece_model_pb2.ModelProto()
    for token in sorted(vocabulary, key=vocabulary.get):
        kind = Piece.NORMAL if token in pieces else Piece.CONTROL if token in silent else Piece.BYTE
        kind = Piece.UNKNOWN if token == unknown else kind
        proto.pieces.add(piece=token, score=float(scores.get(token, 0 if kind != Piece.NORMAL else -len(scores))), type=kind)
    proto.trainer_spec.model_type = sentencepiece_model_pb2.TrainerSpec.BPE
    proto.trainer_spec.byte_fallback = True
    proto.trainer_spec.unk_piece = unknown
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = blanks.prepend == "text"
    proto.normalizer_spec.remove_extra_whitespaces = False
    return proto, blanks


def _steps(config):
    normalizer = config.get("normalizer") or {}
    return normalizer.get("normalizers") if normalizer.get("type") == "Sequence" else [normalizer] if normalizer else []


def _blanks(config, path):
    """How blanks are treated, a `Blanks`. Raises Refusal for other changes of a text, and for words."""
    words, steps = config.get("pre_tokenizer"), _steps(config)
    if words is None and steps in ([PREPENDED, REPLACED], [REPLACED]):
        return Blanks(prepend="text" if len(steps) == 2 else "never", escape=True)
    words = words or {}
    if words == AT_BLANKS and steps == [REPLACED]:
        return Blanks(prepend="never", escape=True)  # no blank is left to cut at
    if words.get("type") == "Metaspace" and words.get("replacement") == BLANK and not steps:
        scheme = words.get("prepend_scheme", "always")
        if scheme in ("always", "first", "never"):
            return Blanks(prepend=scheme, words=bool(words.get("split", True)))
    kinds = " + ".join([*(str(step.get("type")) for step in steps), str(words.get("type"))])
    raise Refusal(
        f"{path} has BPE with byte_fallback=true behind {kinds}; only Prepend + Replace, Replace, and Metaspace alone are "
        f"supported: {WAY_OUT}."
    )


def _scores_of(model, pieces, path):
    """Piece -> score, as the SentencePiece model beside a tokenizer.json has it."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    scores = {piece.piece: piece.score for piece in proto.pieces}
    lacking = next((piece for piece in sorted(pieces) if piece not in scores), None)
    if lacking is not None:
        raise Refusal(f"{path} has the token {lacking!r}, which the .model file beside it lacks; take one of both away.")
    return scores


def _scores(merges, pieces, path):
    """Piece -> score, the highest where it is made first. Raises Refusal where pieces alone would not make these merges."""
    scores, last = {}, None
    for left, right in merges:
        if left + right != last and left + right in scores:
            raise Refusal(f"{path} has merges of {left + right!r} in two places, which SentencePiece's BPE has not; {WAY_OUT}.")
        last = left + right
        scores.setdefault(last, -len(scores))
    known = set(merges)
    for piece in pieces:
        cuts = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        for left, right in cuts:
            made = all(part in pieces or len(part) == 1 for part in (left, right))
            if made and (left, right) not in known:
                raise Refusal(
                    f"{path} has no merge of {left!r} and {right!r}, which SentencePiece's BPE would join to the piece "
                    f"{piece!r}; {WAY_OUT}."
                )
    lacking = next((token for token in scores if token not in pieces), None)
    if lacking is not None:
        raise Refusal(f"{path} has merges of {lacking!r}, which is not a plain token of its vocabulary.")
    return scores
