"""A bundle: the directory that crosses between training, conversion, evaluation and export.

bundle/config.json        format version, model name, model config, task, task config, provenance, perhaps a temperature
bundle/tokenizer/         the tokenizer's own files
bundle/model.weights.h5   the weights, by variable path
"""

import contextlib
import dataclasses
import json
import math
import os
import re
from pathlib import Path
from typing import Any

from zoo.config import Refusal
from zoo.files import remove_stale, replace_directory, replace_file, staged
from zoo.registry import MODELS, TASKS
from zoo.version import __version__

FORMAT_VERSION = 2  # 1 had what the task learnt from its data among what the user asked
FORMER_TASKS = {"embed": "embedding"}  # what version 0.1 called a task
# By these a directory is known that `trainers.convert` makes a bundle of.
FOREIGN = ("model.safetensors", "model.safetensors.index.json", "tf_model.h5", "bert_config.json")
# What is read or written at once of a weight. A whole table of embeddings would be a third of a small model over again.
PIECE_BYTES = 4 << 20


@dataclasses.dataclass
class Bundle:
    """A model with the tokenizer and the task that it was made with.

    Attributes:
        model: a built model, with the task's head if it has one.
        tokenizer: a `zoo.tokenizers.base.Tokenizer`.
        task: an instance of a registered task, or the name of one with its defaults.
        provenance: JSON values that say where it comes from: dataset, steps, scores.
    """

    model: Any
    tokenizer: Any
    task: Any
    provenance: dict

    def __post_init__(self):
        if isinstance(self.task, str):
            self.task = TASKS.get(self.task)()
        self.task.limit_ids(self.model, self.tokenizer)

    def save(self, directory):
        """Writes the bundle aside and renames it into place; an older bundle there is replaced at the last moment."""
        directory = Path(directory)
        with staged(directory.parent, directory.name) as path:
            config = {
                "format_version": FORMAT_VERSION,
                "zoo_version": __version__,
                "model": self.model.registered_name,
                "model_config": self.model.config.to_dict(),
                "task": self.task.registered_name,
                "task_config": self.task.config.to_dict(),
                "task_facts": self.task.facts.to_dict(),
                "provenance": self.provenance,
                **({} if self.task.temperature == 1 else {"temperature": self.task.temperature}),
            }
            (path / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf8")
            self.tokenizer.save(path / "tokenizer")
            _write_weights(self.model, path / "model.weights.h5")
            replace_directory(path, directory)
        # Not before: of one that was killed between two names, nothing but leavings may be whole.
        remove_stale(directory.parent, re.escape(directory.name))
        return directory


def read_config(directory):
    """The config.json of the bundle in `directory`. Raises Refusal, in a sentence, when it is not one, damaged or too new."""
    path = Path(directory) / "config.json"
    if not path.is_file():
        raise Refusal(f"{directory} is not a bundle: it holds no config.json.")
    try:
        config = json.loads(path.read_text(encoding="utf8"))
        version, *_ = (config[name] for name in ("format_version", "model", "task", "model_config"))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise Refusal(f"{path} is damaged ({error}); copy the bundle again from where it was made.") from error
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise Refusal(f"{directory} has format version {version}, this zoo reads up to {FORMAT_VERSION}; update it.")
    return {**config, "task": FORMER_TASKS.get(config["task"], config["task"])}


def write_temperature(directory, temperature):
    """Keeps a temperature in the bundle in `directory`, which stays as it is otherwise."""
    path = Path(directory) / "config.json"
    config = {**json.loads(path.read_text(encoding="utf8")), "temperature": float(temperature)}
    text = json.dumps(config, indent=1, sort_keys=True) + "\n"
    replace_file(path, lambda new: new.write_text(text, encoding="utf8"))


def write_measured(directory, name, on, scores):
    """Keeps in the bundle in `directory` what was measured of it (`zoo/serving/measured.py`); it stays as it is otherwise.

    Args:
        name: one of `measured.QUESTIONS`.
        on: what it was measured on, a string.
        scores: list of dicts of JSON values.
    """
    path = Path(directory) / "config.json"
    config = json.loads(path.read_text(encoding="utf8"))
    provenance = config.get("provenance", {})
    kept = {**provenance.get("measured", {}), name: {"on": on, "scores": scores}}
    config["provenance"] = {**provenance, "measured": kept}
    text = json.dumps(config, indent=1, sort_keys=True) + "\n"
    replace_file(path, lambda new: new.write_text(text, encoding="utf8"))


def _asked_and_learnt(config, task_class):
    """Fields of the task's config and of its facts, as dicts, from a bundle's config.json of any format."""
    asked, learnt = config.get("task_config", {}), config.get("task_facts")
    if learnt is not None:
        return asked, learnt
    names = {field.name for field in dataclasses.fields(task_class.facts_class)}
    return ({k: v for k, v in asked.items() if k not in names}, {k: v for k, v in asked.items() if k in names})


def load(directory):
    """Reads the bundle in `directory`. Raises Refusal, in a sentence, when it is not one, or damaged, or too new."""
    directory, config = Path(directory), read_config(directory)
    from zoo.tokenizers import base as tokenizers  # here, so that `find` answers without TensorFlow

    task_class, model_class = TASKS.get(config["task"]), MODELS.get(config["model"])
    asked, learnt = _asked_and_learnt(config, task_class)
    task = task_class(task_class.config_class.from_dict(asked), task_class.facts_class.from_dict(learnt))
    task.temperature = config.get("temperature", 1.0)
    structure = model_class.config_class.from_dict(config["model_config"])
    tokenizer = tokenizers.load(directory / "tokenizer")
    rows = getattr(structure, "source_vocab_size", None) or structure.vocab_size
    for size, there in ((tokenizer.vocab_size, rows), (tokenizer.target.vocab_size, structure.vocab_size)):
        if size > there:  # a table may have a few rows more, for a round number
            raise Refusal(
                f"{directory} has a vocabulary of {size} ids and a model of {there}: they do not belong together. "
                "Copy the bundle again from where it was made."
            )
    with unfilled():
        model = task.assemble(model_class(structure)).build_from_ids()
    weights = directory / "model.weights.h5"
    if not weights.is_file():
        raise Refusal(f"{directory} is damaged: model.weights.h5 is missing.")
    try:
        model.load_weights(str(weights))
    except PermissionError as error:
        raise PermissionError(error.errno, os.strerror(error.errno), str(weights)) from error
    except (OSError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0].partition(" Example error message")[0].rstrip(".")
        sentence = f"{weights} is damaged or of another model ({reason}); copy the bundle again from where it was made."
        raise Refusal(sentence) from error
    return Bundle(model, tokenizer, task, config.get("provenance", {}))


@contextlib.contextmanager
def unfilled():
    """While this is on, weights are made as zeros that take no memory yet: for a model that reads all of them from a file.
    To draw a table of embeddings takes several times its size."""
    import tensorflow as tf  # here, so that `find` answers without it

    def zeros(next_creator, **fields):
        draw = fields["initial_value"]
        if callable(draw) and fields.get("dtype") == "float32":
            with tf.Graph().as_default():  # tells the shape, and computes nothing
                shape = draw().shape
            fields["initial_value"] = lambda: as_tensor(aligned_zeros(shape))
        return next_creator(**fields)

    with tf.variable_creator_scope(zeros):
        yield


def aligned_zeros(shape):
    """A float32 array of zeros that begins where TensorFlow's tensors must, at a multiple of 64 bytes. What was not written to
    takes no memory."""
    import numpy as np

    size = 4 * math.prod(shape)
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(np.float32).reshape(shape)


def as_tensor(array):
    """The tensor of an array from `aligned_zeros`, in the same memory: what is written to the one is written to the other."""
    import tensorflow as tf

    return tf.experimental.dlpack.from_dlpack(array.__dlpack__()) if array.size else tf.constant(array)


def row_slices(shape):
    """Slices along the first axis of a tensor of this shape, each of about `PIECE_BYTES` of float32."""
    step = max(1, PIECE_BYTES // (4 * max(1, math.prod(shape[1:]))))
    return [slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]


def _write_weights(model, path):
    """Writes the file that Keras's `save_weights` would, but no weight whole, of which Keras makes two copies.

    Keras writes where each variable stands, with a number in its place; then variables replace the numbers, in pieces.
    """
    import h5py
    import keras
    import numpy as np

    class Numbered(keras.StatelessScope):
        def get_current_value(self, variable):
            variables.append(variable)
            return np.int64(len(variables) - 1)

    variables = []
    with Numbered(initialize_variables=False):  # no business of a file
        model.save_weights(str(path))
    with h5py.File(path, "r+") as file:
        places = []
        file.visititems(lambda name, item: places.append(name) if isinstance(item, h5py.Dataset) else None)
        for place in places:
            variable = variables[int(file[place][()])]
            value, shape = variable.value, tuple(variable.shape)
            del file[place]
            dataset = file.create_dataset(place, shape, keras.backend.standardize_dtype(variable.dtype))
            for rows in row_slices(shape) if shape else [...]:
                piece = np.asarray(value[rows])
                if piece.tobytes().strip(b"\0"):  # a weight of zeros is not written: it takes no room, and reads as zeros
                    dataset[rows] = piece


def find(path):
    """The bundle at `path`, which may be the bundle itself or the run that holds it. Raises Refusal."""
    path = Path(path)
    for directory in (path, path / "bundle"):
        if (directory / "tokenizer").is_dir():
            return directory
    if (path / "checkpoints").is_dir():
        raise Refusal(f"{path} holds a run that has not ended; start its command again to go on with it.")
    if path.suffix == ".gguf" or any((path / name).is_file() for name in FOREIGN):
        raise Refusal(
            f"{path} holds third-party weights, not a bundle; convert it first: python -m trainers.convert --from={path} "
            "--to=NEW"
        )
    raise Refusal(f"{path} holds no bundle; give the directory of a run, such as runs/gpt/latest.")
