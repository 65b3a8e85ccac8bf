"""Weights that TensorFlow's older libraries left behind, which nothing reads any more.

Hugging Face's `tf_model.h5`, written by transformers up to version 4 beside or instead of other weights, is read as part of
their directories. Google's BERT (2018) came as a directory of its own, and is read here:

bundle = read("uncased_L-12_H-768_A-12")      bert_config.json, vocab.txt, bert_model.ckpt.index, bert_model.ckpt.data-...
"""

import re
from pathlib import Path

import h5py
import tensorflow as tf

from zoo.bundle import Bundle
from zoo.config import Refusal
from zoo.convert.assembly import assemble
from zoo.convert.checklist import CONFIG as CONFIG_FIELDS
from zoo.convert.checklist import INERT, Checklist
from zoo.convert.tables import FAMILIES
from zoo.convert.weights import Reshaped, Tensors, Transposed
from zoo.registry import TOKENIZERS
from zoo.tokenizers.base import read_json

CONFIG, H5 = "bert_config.json", "tf_model.h5"
# What stands in a checkpoint beside the weights: the optimizer's moments and the number of steps.
NO_WEIGHTS = re.compile(r"(^|/)(adam_[mv]|(AdamWeightDecay|LAMB)Optimizer(_\d+)?|global_step|good_steps|loss_scale)(/|$)")
# The last part of a name: a matrix is stored as (inputs, outputs), a row of GPT-2's biases as a matrix.
WEIGHTS = ("kernel", "embeddings", "gamma", "output_weights")
BIASES = ("beta", "output_bias")


def table_name(name):
    """TensorFlow's name of a variable -> the name in a family's table.

    The rules are those of transformers 4 (`convert_tf_weight_name_to_pt_weight_name`) and of its reader of Google's
    checkpoints.
    """
    name = re.sub(r"(^|/)[^/]*___", r"\1", name)  # `mlm___cls` is written `cls`
    name = re.sub(r"(^|/)(layer)_(\d+)(?=/)", r"\1\2/\3", name.replace("_._", "/"))
    *parts, last = name.split("/")
    if last in WEIGHTS:
        last = "weight"
    elif last in BIASES:
        last = "bias"
    elif last.endswith("_embeddings"):
        parts, last = [*parts, last], "weight"
    return ".".join([*parts, last])


def _shown(name, array):
    """The view of a stored tensor that the tables speak of."""
    if name.endswith("/kernel"):
        return Transposed(array)
    if name.endswith("/bias") and len(array.shape) == 2 and array.shape[0] == 1:
        return Reshaped(array, (array.shape[1],))
    return array


def datasets(file):
    """Path -> dataset of all that an h5 file holds."""
    found = []
    file.visititems(lambda name, item: found.append((name, item)))  # which ends where a function gives something
    return {name: item for name, item in found if isinstance(item, h5py.Dataset)}


def open_h5(directory):
    """The tensors of a `tf_model.h5` as `Tensors`. Raises Refusal for a damaged file."""
    path = Path(directory) / H5
    try:
        file = h5py.File(path, "r")
        stored = datasets(file)
    except (OSError, RuntimeError) as error:
        raise Refusal(f"{path} is damaged ({error}); copy it again from where it was made.") from error
    arrays = {}
    for name, dataset in stored.items():
        # layer / model / the variable's own name, which begins with a layer's; without the model where it was built and never
        # called. What layers share stands in the file once for each.
        _, *rest = name.removesuffix(":0").split("/")
        own = "/".join(rest if rest and rest[0] in file else rest[1:])
        arrays.setdefault(table_name(own), _shown(own, dataset))
    return Tensors(arrays)


class _InCheckpoint:
    """One tensor of a checkpoint, read when it is sliced."""

    def __init__(self, reader, name, shape):
        self._reader, self._name, self.shape = reader, name, tuple(shape)

    def __getitem__(self, rows):
        return self._reader.get_tensor(self._name)[rows]


def _named(name, array):
    """(name in the table, view) of a variable of Google's."""
    return table_name(name), _shown(name, array)


def open_checkpoint(directory, view=_named):
    """The tensors of the only checkpoint in a directory as `Tensors`.

    Args:
        directory: where it lies.
        view: (name, what has a shape and gives rows) -> the same as the family's table speaks of it.

    Raises:
        Refusal: there is none, or several, or it is damaged.
    """
    found = sorted(Path(directory).glob("*.index"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise Refusal(f"{directory} must hold one checkpoint, NAME.index with its .data files; it has {names}.")
    prefix = str(found[0]).removesuffix(".index")
    try:
        reader = tf.train.load_checkpoint(prefix)
        shapes = {name: shape for name, shape in reader.get_variable_to_shape_map().items() if not NO_WEIGHTS.search(name)}
        for name in list(shapes)[:1]:
            reader.get_tensor(name)  # the index alone opens without its data
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise Refusal(f"{prefix} is damaged or incomplete ({reason}); copy its files again.") from error
    return Tensors(dict(view(name, _InCheckpoint(reader, name, shape)) for name, shape in shapes.items()))


def read(directory):
    """The bundle of a directory of Google's BERT.

    The files do not say whether text is lower-cased. A vocabulary without a capital letter is taken to be of lower-cased text,
    as all of Google's are; `provenance` tells what was taken.

    Raises:
        Refusal: files are missing or damaged, tensors are missing or left over.
    """
    directory = Path(directory)
    theirs, checklist, known = read_json(directory / CONFIG), Checklist(directory), FAMILIES["bert"].known_fields()
    checklist.fields(
        CONFIG, theirs, known, CONFIG_FIELDS, {name: values for name, values in INERT.items() if name not in known}
    )
    tensors = open_checkpoint(directory)
    wordpiece = TOKENIZERS.get("wordpiece")
    tokenizer = wordpiece.from_vocabulary(directory / "vocab.txt")
    special = set(tokenizer.special_tokens.values())
    lowercase = not any(re.search("[A-Z]", token) for token in tokenizer.vocabulary if token not in special)
    tokenizer = wordpiece.from_vocabulary(directory / "vocab.txt", {"lowercase": lowercase, "strip_accents": lowercase})
    model, task, dropped = assemble("bert", theirs, tensors, directory, tokenizer)
    provenance = {
        "converted_from": "google_bert", "model_type": "bert", "source": directory.name, "left_out": dropped,
        "lower_cased": lowercase, "checklist": checklist.report(),
    }  # fmt: skip
    return Bundle(model, tokenizer, task, provenance)
