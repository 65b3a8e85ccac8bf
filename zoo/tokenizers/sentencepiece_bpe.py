"""SentencePiece's BPE, as a `tokenizer.json` spells it (Llama 2, Mistral), back into a SentencePiece model.

SentencePiece joins the two neighbours whose piece has the highest score; a tokenizer.json lists every such pair in that order.
So the scores are read off the order of the merges, and the rest is checked: then both cut every text alike.
"""

import re

from sentencepiece import sentencepiece_model_pb2

from zoo.config import Refusal
from zoo.tokenizers.special import BLANK

Piece = sentencepiece_model_pb2.ModelProto.SentencePiece
REPLACED = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
PREPENDED = {"type": "Prepend", "prepend": BLANK}
WAY_OUT = "put the tokenizer.model that it was made of beside it, which is read instead"


def is_spelt(config):
    """Whether the JSON of a tokenizer.json spells SentencePiece's BPE."""
    model = config.get("model")
    return isinstance(model, dict) and model.get("type") == "BPE" and bool(model.get("byte_fallback"))


def model_of(config, path):
    """The SentencePiece model, a `ModelProto`, that a tokenizer.json describes.

    Raises:
        Refusal: it cuts texts in a way that no SentencePiece model does.
    """
    model, added = config["model"], config.get("added_tokens") or []
    vocabulary = {**model["vocab"], **{token["content"]: token["id"] for token in added}}
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    prefix = _has_prefix(config, path)
    for true, sentence in [
        (sorted(vocabulary.values()) == list(range(len(vocabulary))), "ids that are not 0, 1, 2, ..., each once"),
        (model.get("unk_token") in vocabulary, "no token for what is unknown (unk_token)"),
        (all(f"<0x{byte:02X}>" in vocabulary for byte in range(256)), "byte_fallback=true, but not all of <0x00> to <0xFF>"),
        (not model.get("dropout"), "BPE dropout; only null is supported"),
        (not model.get("ignore_merges"), "ignore_merges=true beside byte_fallback=true; only false is supported"),
        (not model.get("continuing_subword_prefix"), "a continuing_subword_prefix; only an empty one is supported"),
        (not model.get("end_of_word_suffix"), "an end_of_word_suffix; only an empty one is supported"),
    ]:
        if not true:
            raise Refusal(f"{path} has {sentence}.")
    special = {token["content"] for token in added} | {model["unk_token"]}
    pieces = {token for token in vocabulary if token not in special and not re.fullmatch("<0x[0-9A-F]{2}>", token)}
    scores = _scores(merges, pieces, path)
    proto = sentencepiece_model_pb2.ModelProto()
    for token in sorted(vocabulary, key=vocabulary.get):
        kind = Piece.NORMAL if token in pieces else Piece.CONTROL if token in special else Piece.BYTE
        kind = Piece.UNKNOWN if token == model["unk_token"] else kind
        proto.pieces.add(piece=token, score=float(scores.get(token, 0 if kind != Piece.NORMAL else -len(scores))), type=kind)
    proto.trainer_spec.model_type = sentencepiece_model_pb2.TrainerSpec.BPE
    proto.trainer_spec.byte_fallback = True
    proto.trainer_spec.unk_piece = model["unk_token"]
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = prefix
    proto.normalizer_spec.remove_extra_whitespaces = False
    return proto


def _has_prefix(config, path):
    """Whether a blank is put before each text. Raises Refusal for other changes of a text, and for words."""
    normalizer, words = config.get("normalizer") or {}, config.get("pre_tokenizer")
    steps = normalizer.get("normalizers") if normalizer.get("type") == "Sequence" else [normalizer] if normalizer else []
    if words is None and steps in ([PREPENDED, REPLACED], [REPLACED]):
        return len(steps) == 2
    words = words or {}
    plain = words.get("type") == "Metaspace" and words.get("replacement") == BLANK and not words.get("split", True)
    if plain and not steps and words.get("prepend_scheme") == "never":
        return False
    kinds = " + ".join([*(str(step.get("type")) for step in steps), str(words.get("type"))])
    raise Refusal(
        f"{path} has BPE with byte_fallback=true behind {kinds}, prepend_scheme={words.get('prepend_scheme')!r}; only "
        f"Prepend + Replace, and Metaspace that neither splits nor prepends, are supported: {WAY_OUT}."
    )


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
