"""Tiny models of every family that can be carried out and in, with a tokenizer each."""

import io
import json
import tempfile
from pathlib import Path

import keras
import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2

from tests import tiny_models
from zoo.bundle import Bundle
from zoo.registry import MODELS, TASKS, TOKENIZERS
from zoo.tokenizers.base import create as create_tokenizer
from zoo.tokenizers.character_bpe import CharacterBPE
from zoo.tokenizers.numbered_pieces import NumberedPieces
from zoo.tokenizers.pair import PairTokenizer
from zoo.tokenizers.special import Special

TEXTS = ["the cat sat on the mat .", "a cat is not a dog , 1984", "the naive dog ran ."] * 3
# A chat template.
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
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
GATED = dict(position="rotary", norm="rms", activation="swiglu", use_bias=False, head_dim=4, mlp_dim=26)
GEMMA = dict(GATED, activation="geglu", scale_embeddings=True, epsilon=1e-6, num_heads=4, num_kv_heads=2, head_dim=6)
MODERNBERT = dict(
    modern=True, num_segments=1, activation="geglu_exact", epsilon=1e-5, num_layers=3, num_heads=3, mlp_dim=26, window=2,
    global_every=2, rotary_theta=500.0, window_theta=50.0,
)  # fmt: skip
PLAIN = dict(norm="layer", activation="gelu_exact", mlp_dim=26)
# Decoders by their `model_type`: what each has that no other has.
DECODERS = {
    "qwen2": dict(GATED, qkv_bias=True, num_heads=6, num_kv_heads=2, num_layers=3, window=5, global_layers=(0, 2)),
    "qwen3": dict(GATED, normalize_qk=True, epsilon=1e-6, num_heads=6, num_kv_heads=2, tie_embeddings=False),
    "mistral": dict(GATED, num_heads=6, num_kv_heads=2, window=5, tie_embeddings=False),
    "phi3": dict(GATED, num_heads=3, rotary_dim=2, window=7, tie_embeddings=False),
    "olmo2": dict(
        GATED, normalize_qk=True, whole_qk_norm=True, norm_at="output", epsilon=1e-6, num_heads=6, num_kv_heads=2,
        tie_embeddings=False,
    ),
    "smollm3": dict(GATED, num_heads=6, num_kv_heads=2, num_layers=3, unrotated_layers=(1,), rotary_theta=500.0),
    "stablelm": dict(GATED, norm="layer", num_heads=3, rotary_dim=2, qkv_bias=True, parallel="shared", tie_embeddings=False),
    "gemma": dict(GEMMA, num_kv_heads=1),
    "gemma2": dict(
        GEMMA, norm_at="both", window=5, global_layers=(1,), attention_scale=7**-0.5, attention_cap=2.0, logit_cap=3.0
    ),
    "gemma3_text": dict(
        GEMMA, norm_at="both", normalize_qk=True, window=5, global_layers=(1,), attention_scale=0.5, rotary_theta=500.0,
        window_theta=50.0, rotary_scaling="linear", rotary_numbers=(4.0,),
    ),
    "gpt_neox": dict(PLAIN, position="rotary", num_heads=3, rotary_dim=2, parallel="own", tie_embeddings=False),
    "opt": dict(PLAIN, activation="relu", position_offset=2),
    "bloom": dict(position="alibi", normalize_embeddings=True, num_heads=3),
    "falcon": dict(PLAIN, position="rotary", use_bias=False, num_heads=6, num_kv_heads=2, parallel="own", head_dim=2),
    "falcon-7b": dict(PLAIN, position="rotary", use_bias=False, num_heads=3, num_kv_heads=1, parallel="shared"),
}  # fmt: skip
# name -> (model, its fields, task, tokenizer)
CASES = {
    "bert": ("bert", dict(pooler=True), "embedding", "wordpiece"),
    "bert-masked_lm": ("bert", dict(activation="gelu"), "masked_lm", "wordpiece"),
    "roberta": ("bert", dict(num_segments=1, position_offset=2, epsilon=1e-5), "masked_lm", "roberta"),
    "xlm-roberta": ("bert", dict(num_segments=1, position_offset=2, epsilon=1e-5), "masked_lm", "xlm-roberta"),
    "modernbert": ("bert", MODERNBERT, "masked_lm", "modernbert"),
    "modernbert-embedding": ("bert", dict(MODERNBERT, activation="geglu", num_layers=2), "embedding", "modernbert"),
    "gpt2": ("gpt", dict(num_layers=3), "language_modeling", "bpe"),
    "openai-gpt": ("gpt", dict(num_layers=3, norm_first=False), "language_modeling", "character_bpe"),
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
    **{name: ("gpt", fields, "language_modeling", "qwen2" if name == "qwen2" else "bpe") for name, fields in DECODERS.items()},
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
    elif algorithm == "modernbert":
        tokenizer = _modernbert()
    elif algorithm == "character_bpe":
        tokenizer = CharacterBPE(*character_bpe(60))
    elif algorithm == "qwen2":
        tokenizer = _qwen2()
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


def trained_bpe():
    """A byte-level BPE and its merges."""
    trained = create_tokenizer("bpe", TEXTS, 270)
    with tempfile.TemporaryDirectory() as directory:
        trained.save(directory)
        return trained, json.loads((Path(directory) / "tokenizer.json").read_text(encoding="utf8"))["model"]["merges"]


def character_bpe(size):
    """Vocabulary and merges of characters, as GPT's: `</w>` behind the last character of a word."""
    native = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    native.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    native.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size - 1, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False,
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz東"),
    )  # fmt: skip
    native.train_from_iterator(TEXTS, trainer)
    model = json.loads(native.to_str())["model"]
    vocabulary = {**model["vocab"], "\n</w>": len(model["vocab"])}
    while len(vocabulary) < size:
        vocabulary[f"filler{len(vocabulary)}</w>"] = len(vocabulary)
    return vocabulary, [tuple(merge) for merge in model["merges"]]


def _qwen2():
    """A byte-level BPE that cuts words as Qwen2's does: transformers cuts them so for a qwen2, whatever its file says."""
    trained, merges = trained_bpe()
    vocabulary, end = {token: i for i, token in enumerate(trained.vocabulary)}, trained.vocabulary[trained.eos_id]
    return TOKENIZERS.get("bpe")(vocabulary, merges, [end], end, "qwen2", nfc=True)


def chat_tokenizer(chat_template=None):
    """A byte-level BPE with the two tokens of ChatML."""
    trained, merges = trained_bpe()
    tokens, end = [*trained.vocabulary, "<|im_start|>", "<|im_end|>"], trained.vocabulary[trained.eos_id]
    vocabulary, special = {token: i for i, token in enumerate(tokens)}, [end, *tokens[-2:]]
    around = Special({"eos": "<|im_end|>"}, chat_template=chat_template)
    return TOKENIZERS.get("bpe")(vocabulary, merges, special, "<|im_end|>", special=around)


def _roberta():
    """A byte-level BPE with RoBERTa's special tokens in RoBERTa's places: padding has id 1."""
    trained, merges = trained_bpe()
    front = ["<s>", "<pad>", "</s>", "<unk>"]
    tokens = [*front, *(token for i, token in enumerate(trained.vocabulary) if i != trained.eos_id), "<mask>"]
    return TOKENIZERS.get("bpe")({token: i for i, token in enumerate(tokens)}, merges, [*front, "<mask>"], "</s>")


def _modernbert():
    """A byte-level BPE with BERT's special tokens, one separator between two texts."""
    trained, merges = trained_bpe()
    last = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    tokens = [*trained.vocabulary, *last]
    around = Special(dict(zip(("unk", "cls", "sep", "pad", "mask"), last, strict=True)), (("[CLS]",), ("[SEP]",), ("[SEP]",)))
    vocabulary, special = {token: i for i, token in enumerate(tokens)}, [trained.vocabulary[trained.eos_id], *last]
    return TOKENIZERS.get("bpe")(vocabulary, merges, special, "[SEP]", special=around)


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
