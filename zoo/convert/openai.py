"""OpenAI's first two models, in the files that their own programs read.

bundle = read("models/117M")    GPT-2 (2019): hparams.json, encoder.json, vocab.bpe, model.ckpt.index, model.ckpt.data-...
bundle = read("model")          GPT (2018): params_shapes.json, params_0.npy, ..., encoder_bpe_40000.json, vocab_40000.bpe

The variables of both have the names of one program, `model/h0/attn/c_attn/w`. GPT's files have only their order.
"""

import json
import math
import re
from pathlib import Path

import numpy as np

from zoo.bundle import Bundle
from zoo.config import Refusal
from zoo.convert.assembly import assemble
from zoo.convert.checklist import Checklist
from zoo.convert.old_tensorflow import open_checkpoint
from zoo.convert.tables import FAMILIES
from zoo.convert.weights import Reshaped, Tensors
from zoo.tokenizers import base as tokenizers
from zoo.tokenizers.base import read_json
from zoo.tokenizers.character_bpe import CharacterBPE

GPT2_CONFIG, GPT_SHAPES = "hparams.json", "params_shapes.json"
# Field of hparams.json -> Hugging Face's, which the table speaks of.
HPARAMS = {"n_vocab": "vocab_size", "n_ctx": "n_positions", "n_embd": "n_embd", "n_head": "n_head", "n_layer": "n_layer"}
GPT_VOCABULARY = ("encoder_bpe_40000.json", "vocab_40000.bpe")
# GPT's variables in a layer in the order of its files, behind the two tables; and how wide its heads are, which no file says.
GPT_LAYER = (
    "attn/c_attn/w", "attn/c_attn/b", "attn/c_proj/w", "attn/c_proj/b", "ln_1/g", "ln_1/b", "mlp/c_fc/w", "mlp/c_fc/b",
    "mlp/c_proj/w", "mlp/c_proj/b", "ln_2/g", "ln_2/b",
)  # fmt: skip
GPT_HEAD = 64
LAST = {"w": "weight", "g": "weight", "b": "bias"}


def is_there(directory):
    """Whether a directory holds one of the two."""
    return Path(directory).is_dir() and any((Path(directory) / name).is_file() for name in (GPT2_CONFIG, GPT_SHAPES))


def read(directory):
    """The bundle of a directory of OpenAI's GPT-2 or GPT.

    Raises:
        Refusal: files are missing or damaged, tensors are missing or left over.
    """
    directory = Path(directory)
    checklist = Checklist(directory)
    if (directory / GPT2_CONFIG).is_file():
        name, stored = "gpt2", read_json(directory / GPT2_CONFIG)
        checklist.fields(GPT2_CONFIG, stored, HPARAMS, {})
        theirs = {HPARAMS[field]: value for field, value in stored.items()}
        missing = sorted(HPARAMS[field] for field in HPARAMS.keys() - stored.keys())
        if missing:
            raise Refusal(f"{directory / GPT2_CONFIG} does not say {missing[0]}; copy it again from where it was made.")
        tensors, tokenizer = open_checkpoint(directory, _view), tokenizers.create(directory)
    else:
        name, tensors = "openai-gpt", _numbered(directory)
        tokenizer = CharacterBPE.from_files(*(directory / file for file in GPT_VOCABULARY))
        (positions, width), (vocab_size, _) = tensors.shape("positions_embed.weight"), tensors.shape("tokens_embed.weight")
        layers = sum(tensor.endswith("ln_1.weight") for tensor in tensors.names())
        theirs = {"vocab_size": vocab_size, "n_positions": positions, "n_embd": width, "n_head": width // GPT_HEAD}
        theirs["n_layer"] = layers
        checklist.apply(GPT_SHAPES)
    theirs = {**FAMILIES[name].defaults, **theirs}
    model, task, dropped = assemble(name, theirs, tensors, directory, tokenizer)
    provenance = {
        "converted_from": "openai", "model_type": name, "source": directory.name, "left_out": dropped,
        "checklist": checklist.report(),
    }  # fmt: skip
    return Bundle(model, tokenizer, task, provenance)


def table_name(name):
    """OpenAI's name of a variable -> the name in the family's table."""
    *parts, last = re.sub(r"(^|/)h(\d+)/", r"\1h/\2/", name.removeprefix("model/")).split("/")
    return ".".join([*parts, *((last, "weight") if last in ("wte", "wpe") else (LAST.get(last, last),))])


def _view(name, array):
    """(name in the table, view) of a variable: a matrix is stored as a convolution of width one."""
    return table_name(name), Reshaped(array, array.shape[1:]) if len(array.shape) == 3 and array.shape[0] == 1 else array


def _numbered(directory):
    """The tensors of GPT (2018): one row of numbers in several files, cut by a list of shapes."""
    path = directory / GPT_SHAPES
    try:
        shapes = [tuple(map(int, shape)) for shape in json.loads(path.read_text(encoding="utf8"))]
        count = len(list(directory.glob("params_*.npy")))
        files = [directory / f"params_{i}.npy" for i in range(count)]
        numbers = np.concatenate([np.load(file, mmap_mode="r", allow_pickle=False) for file in files])
    except (OSError, ValueError, TypeError) as error:
        raise Refusal(f"{directory} lacks a part of GPT, or has a damaged one ({error}); copy it again.") from error
    sizes = [math.prod(shape) for shape in shapes]
    layers = (len(shapes) - 2) // len(GPT_LAYER)
    if numbers.shape != (sum(sizes),) or len(shapes) != 2 + layers * len(GPT_LAYER):
        raise Refusal(
            f"{path} tells of {len(shapes)} arrays with {sum(sizes):,} numbers, and params_*.npy hold {numbers.size:,}; GPT "
            f"has two tables and {len(GPT_LAYER)} arrays a layer. Copy all of its files again."
        )
    arrays = [piece.reshape(shape) for piece, shape in zip(np.split(numbers, np.cumsum(sizes)[:-1]), shapes, strict=True)]
    named = dict(zip(("positions_embed.weight", "tokens_embed.weight"), arrays, strict=False))
    names = [f"model/h{i}/{name}" for i in range(layers) for name in GPT_LAYER]
    return Tensors({**named, **dict(_view(name, array) for name, array in zip(names, arrays[2:], strict=True))})
