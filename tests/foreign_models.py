"""Tiny models of every family that can be carried out and in, with a tokenizer each."""

import io
import json
import tempfile
from pathlib import Path

import keras
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from tests import tiny_models
from zoo.bundle import Bundle
from zoo.registry import MODELS, TASKS, TOKENIZERS
from zoo.tokenizers.base import create as create_tokenizer
from zoo.tokenizers.numbered_pieces import NumberedPieces
from zoo.tokenizers.pair import PairTokenizer
from zoo.tokenizers.special import Special

TEXTS = ["the cat sat on the mat .", "a cat is not a dog , 1984", "the naive dog ran ."] * 3
LLAMA = dict(
    position="rotary", norm="rms", activation="swiglu", use_bias=False, num_heads=6, num_kv_heads=2, head_dim=4, mlp_dim=26
)
MARIAN = dict(
    position="sinusoidal_halves",
    activation="silu",
    output_bias=True,
    epsilon=1e-5,
    num_decoder_layers=1,
    num_heads=3,
    mlp_dim=10,
)
# The targets of `TEXTS`.
FRENCH = ["le chat est sur le tapis .", "un chat n' est pas un chien , 1984", "le chien naïf court ."] * 3
GLM = dict(
    position="rotary", norm="rms", activation="swiglu", bias="qkv", num_heads=6, num_kv_heads=2, head_dim=8, mlp_dim=26,
    tie_embeddings=False, rotary_theta=500.0,
)  # fmt: skip
# name -> (model, its fields, task, tokenizer)
CASES = {
    "bert": ("bert", dict(pooler=True), "embedding", "wordpiece"),
    "bert-masked_lm": ("bert", dict(activation="gelu"), "masked_lm", "wordpiece"),
    "roberta": ("bert", dict(num_segments=1, position_offset=2, epsilon=1e-5), "masked_lm", "roberta"),
    "xlm-roberta": ("bert", dict(num_segments=1, position_offset=2, epsilon=1e-5), "masked_lm", "xlm-roberta"),
    "gpt2": ("gpt", dict(num_layers=3), "language_modeling", "bpe"),
    "llama": ("gpt", dict(**LLAMA, tie_embeddings=False, rotary_theta=500.0), "language_modeling", "bpe"),
    "glm": ("glm", GLM, "language_modeling", "bpe"),
    "glm4": ("glm", dict(GLM, norm_outputs=True, bias="none", tie_embeddings=True), "language_modeling", "bpe"),
    "llama-tied": ("gpt", LLAMA, "language_modeling", "bpe"),
    "t5": ("t5", dict(activation="relu", tie_embeddings=True, scale_outputs=True), "span_corruption", "t5"),
    "flan-t5": ("t5", dict(num_decoder_layers=1, scale_outputs=False), "span_corruption", "bpe"),
    "umt5": (
        "t5",
        dict(bias_per_layer=True, num_layers=1, num_decoder_layers=2, scale_outputs=False),
        "translation",
        "unigram",
    ),
    "marian": ("transformer", MARIAN, "translation", "bpe"),
}


def bundle(name, **changes):
    """A bundle of a case, perhaps with further fields of its config, with weights that no initialiser would choose."""
    model_name, fields, task_name, algorithm = CASES[name]
    fields = {**fields, **changes}
    if algorithm == "roberta":
        tokenizer = _roberta()
    elif algorithm == "xlm-roberta":
        tokenizer = _xlm_roberta()
    elif algorithm == "t5":
        tokenizer = create_tokenizer(t5_vocabulary(Path(tempfile.mkdtemp()), num_sentinels=4))
    else:
        tokenizer = create_tokenizer(algorithm, TEXTS, dict(wordpiece=61, bpe=270, unigram=48)[algorithm])
    keras.utils.set_random_seed(5)
    task, model_class = TASKS.get(task_name)(), MODELS.get(model_name)
    config = model_class.config_class.preset("tiny", vocab_size=task.model_fields(tokenizer)["vocab_size"], **fields)
    model = tiny_models.strengthen(task.assemble(model_class(config)).build_from_ids())
    return Bundle(model, tokenizer, task, {})


def marian(**changes):
    """A bundle with the two SentencePiece models and the one list of tokens of a Marian."""
    keras.utils.set_random_seed(5)
    task, tokenizer, model_class = TASKS.get("translation")(), marian_tokenizer(), MODELS.get("transformer")
    config = model_class.config_class.preset(
        "tiny", vocab_size=tokenizer.vocab_size, **{**MARIAN, "max_length": 128, **changes}
    )
    return Bundle(tiny_models.strengthen(task.assemble(model_class(config)).build_from_ids()), tokenizer, task, {})


def marian_tokenizer(code=">>fra<<", without="c"):
    """Pieces of English and of French under one list of ids, which lacks one piece and has a language code."""
    models = [sentencepiece_model(texts) for texts in (TEXTS, FRENCH)]
    pieces = [piece.piece for model in models for piece in sentencepiece_model_pb2.ModelProto.FromString(model).pieces]
    spoken = [piece for piece in dict.fromkeys(pieces) if piece not in ("<unk>", without)]
    tokens = ["</s>", "<unk>", *spoken[::-1], code, "<pad>"]  # in another order than either model's
    roles = {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
    special = Special(roles, ((), (), ("</s>",)))
    return PairTokenizer(*(NumberedPieces(model, tokens, special) for model in models))


def sentencepiece_model(texts, **options):
    """Bytes of a small SentencePiece model."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, hard_vocab_limit=False, bos_id=-1, eos_id=-1, minloglevel=2,
        **{"vocab_size": 40, **options},
    )  # fmt: skip
    return model.getvalue()


def _roberta():
    """A byte-level BPE with RoBERTa's special tokens in RoBERTa's places: padding has id 1."""
    trained = create_tokenizer("bpe", TEXTS, 270)
    with tempfile.TemporaryDirectory() as directory:
        trained.save(directory)
        merges = json.loads((Path(directory) / "tokenizer.json").read_text(encoding="utf8"))["model"]["merges"]
    front = ["<s>", "<pad>", "</s>", "<unk>"]
    tokens = [*front, *(token for i, token in enumerate(trained.vocabulary) if i != trained.eos_id), "<mask>"]
    return TOKENIZERS.get("bpe")({token: i for i, token in enumerate(tokens)}, merges, [*front, "<mask>"], "</s>")


def _xlm_roberta():
    """Pieces of SentencePiece with XLM-R's special tokens in XLM-R's places: padding has id 1."""
    trained = create_tokenizer("unigram", TEXTS, 48)
    with tempfile.TemporaryDirectory() as directory:
        trained.save(directory)
        proto = sentencepiece_model_pb2.ModelProto.FromString((Path(directory) / "sentencepiece.model").read_bytes())
    pieces = {piece.piece: piece for piece in proto.pieces}
    kinds = sentencepiece_model_pb2.ModelProto.SentencePiece
    special = [kinds(piece=name, score=0.0, type=kinds.CONTROL) for name in ("<s>", "</s>", "<mask>")]
    front = [special[0], pieces.pop("<pad>"), special[1], pieces.pop("<unk>")]
    spoken = [piece for name, piece in pieces.items() if not name.startswith("[")]
    del proto.pieces[:]
    proto.pieces.extend([*front, *spoken, special[2]])
    return TOKENIZERS.get("unigram")(proto.SerializeToString())


def t5_vocabulary(directory, num_sentinels=None):
    """Writes the files of a T5's vocabulary: pieces of SentencePiece with its special tokens in their places.

    Args:
        directory: where to; it holds a config.json that names a T5, if it is empty.
        num_sentinels: what `tokenizer_config.json` says; None for no such file.

    Returns:
        `directory`.
    """
    trained = create_tokenizer("unigram", TEXTS, 48)
    with tempfile.TemporaryDirectory() as made:
        trained.save(made)
        proto = sentencepiece_model_pb2.ModelProto.FromString((Path(made) / "sentencepiece.model").read_bytes())
    pieces = {piece.piece: piece for piece in proto.pieces}
    kinds = sentencepiece_model_pb2.ModelProto.SentencePiece
    front = [pieces.pop("<pad>"), kinds(piece="</s>", score=0.0, type=kinds.CONTROL), pieces.pop("<unk>")]
    spoken = [piece for name, piece in pieces.items() if not name.startswith("[")]
    del proto.pieces[:]
    proto.pieces.extend([*front, *spoken])
    (directory / "spiece.model").write_bytes(proto.SerializeToString())
    if not (directory / "config.json").exists():
        (directory / "config.json").write_text('{"model_type": "t5"}')
    if num_sentinels is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps({"extra_ids": num_sentinels}))
    return directory
