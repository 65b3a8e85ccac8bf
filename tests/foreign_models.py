"""Tiny models of every family that can be carried out and in, with a tokenizer each."""

import json
import tempfile
from pathlib import Path

import keras
from sentencepiece import sentencepiece_model_pb2

from tests import tiny_models
from zoo.bundle import Bundle
from zoo.registry import MODELS, TASKS, TOKENIZERS
from zoo.tokenizers.base import create as create_tokenizer

TEXTS = ["the cat sat on the mat .", "a cat is not a dog , 1984", "the naive dog ran ."] * 3
LLAMA = dict(
    position="rotary", norm="rms", activation="swiglu", use_bias=False, num_heads=6, num_kv_heads=2, head_dim=4, mlp_dim=26
)
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
}


def bundle(name, **changes):
    """A bundle of a case, perhaps with further fields of its config, with weights that no initialiser would choose."""
    model_name, fields, task_name, algorithm = CASES[name]
    fields = {**fields, **changes}
    if algorithm == "roberta":
        tokenizer = _roberta()
    elif algorithm == "xlm-roberta":
        tokenizer = _xlm_roberta()
    else:
        tokenizer = create_tokenizer(algorithm, TEXTS, dict(wordpiece=61, bpe=270)[algorithm])
    keras.utils.set_random_seed(5)
    task, model_class = TASKS.get(task_name)(), MODELS.get(model_name)
    config = model_class.config_class.preset("tiny", vocab_size=tokenizer.vocab_size, **fields)
    model = tiny_models.strengthen(task.assemble(model_class(config)).build_from_ids())
    return Bundle(model, tokenizer, task, {})


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
