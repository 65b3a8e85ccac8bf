"""An export of every registered model for each task that it can serve, at preset `tiny`; each is made once a session.

served: served("gpt", "language_modeling").run("generate", {"prompt": ["The"]})
"""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from tests import tiny_models
from zoo.export import export_saved_model
from zoo.models.base import Classifier, Encoder
from zoo.registry import MODELS, TASKS
from zoo.serving import c_api
from zoo.tokenizers.base import create as create_tokenizer

PROVENANCE = {"dataset": "toy", "licence": "CC0", "steps": 3, "scores": {"test": {"loss": 1.5}}}
TEXTS = ["the cat sat on the mat .", "a cat is not a dog ,", "the naive dog ran ."]
LABELS = ("no", "perhaps", "yes")
# What a task would have learnt from its data.
FIELDS = {
    "classification": dict(labels=LABELS, max_tokens=64),
    "tagging": dict(labels=LABELS, max_tokens=64),
    "question_answering": dict(max_tokens=48, max_question=12, stride=8, match=True),
}


class Made(NamedTuple):
    """What an export was made of."""

    model: Any
    tokenizer: Any
    task: Any


def cases():
    """(model, task) of every registered model and every task that its config names."""
    return [(name, task) for name in MODELS.names() for task in MODELS.config(name).tasks]


@functools.cache
def made(name, task_name):
    """What the export of a case is made of."""
    return make(name, task_name)


def make(name, task_name, strong=True, **fields):
    """A model with the head of a task, perhaps with weights that make it prefer some answers clearly, and a tokenizer.

    Args:
        fields: of the model's config.
    """
    model_class, task_class = MODELS.get(name), TASKS.get(task_name)
    tokenizer = create_tokenizer("wordpiece", TEXTS, 61) if issubclass(model_class, Encoder) else create_tokenizer("byte")
    task = task_class(task_class.config_class(**FIELDS.get(task_name, {})))
    fields = {**task.model_fields(tokenizer), "max_length": 64, "num_layers": 1, "dropout": 0.0, **fields}
    fields = {key: value for key, value in fields.items() if hasattr(MODELS.config(name), key)}
    if issubclass(model_class, Classifier):
        model = model_class(model_class.config_class.preset("tiny", **fields))
    else:
        model = tiny_models.create(name, **fields)
    model = task.assemble(model).build_from_ids()
    return Made(tiny_models.strengthen(model) if strong else model, tokenizer, task)


@functools.cache
def directory(name, task_name):
    """The directory of the versions of a case, with version 1. Making it raises unless the replay in a clean process agrees."""
    path = Path(tempfile.mkdtemp(prefix="export-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    export_saved_model(path / "export", *made(name, task_name), provenance=PROVENANCE)
    return path / "export"


@functools.cache
def served(name, task_name):
    """The export of a case, loaded through the C API."""
    return c_api.SavedModel(directory(name, task_name) / "1")
