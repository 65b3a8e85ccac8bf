"""Exports of every registered model and of every task, at preset `tiny`; each is made once a session.

served: served("gpt", "language_modeling").run("generate", {"prompt": ["The"]})

The suite exports each model for its default task, and each task with one model of every kind that it serves: models + tasks,
not models x tasks. `python -m tests.exports` makes and proves every pair.
"""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from tests import tiny_models
from zoo.export import export_saved_model
from zoo.registry import MODELS, TASKS, tasks_of
from zoo.serving import c_api
from zoo.signatures.word_vectors import measure
from zoo.tokenizers.base import create as create_tokenizer

PROVENANCE = {"dataset": "toy", "licence": "CC0", "steps": 3, "scores": {"test": {"loss": 1.5}}}
TEXTS = ["the cat sat on the mat .", "a cat is not a dog ,", "the naive dog ran ."]
LABELS = ("no", "perhaps", "yes")
# The model of each kind with which a task is exported that is not the default of any model of this kind.
USUAL = ("bert", "gpt", "transformer", "bag_of_words")
# What is asked of a task, and what it would have learnt from its data.
FIELDS = {
    "question_answering": dict(max_question=12, stride=8, match=True),
    "tagging:crf": dict(crf=True),
    "classification:pattern": dict(pattern="{text} It was {label}.", verbalizers="no=bad,perhaps=so so,yes=good"),
}
FACTS = {
    "classification": dict(labels=LABELS, max_tokens=64),
    "tagging": dict(labels=LABELS, max_tokens=64),
    "tagging:crf": dict(labels=("B-A", "B-M", "I-A", "I-M", "O"), scheme="BIO", max_tokens=64),
    "semantic_roles": dict(labels=("B-A0", "B-V", "I-A0", "O"), scheme="BIO", max_tokens=64),
    "question_answering": dict(max_tokens=48),
    **dict.fromkeys(("translation", "summarization"), dict(max_tokens=64, target_start=(0,))),
    "span_corruption": dict(max_tokens=64),
    "blank_infilling": dict(max_tokens=64),
}


class Made(NamedTuple):
    """What an export was made of."""

    model: Any
    tokenizer: Any
    task: Any


def pairs():
    """(model, task) of every registered model and every task that it can serve."""
    return [(name, task) for name in MODELS.names() for task in tasks_of(MODELS.config(name))]


def cases():
    """The pairs that the suite exports: each model with its default task, and each task with one model of every kind;
    classification by a pattern, and tagging with a random field."""
    chosen = [pair for pair in pairs() if pair[1] == MODELS.config(pair[0]).default_task]
    covered = {(task, MODELS.config(name).kind) for name, task in chosen}
    for kind in {kind: None for _, kind in sorted(covered)}:
        name = next((name for name in USUAL if MODELS.config(name).kind == kind), None)
        tasks = tasks_of(MODELS.config(name)) if name else ()
        chosen += [(name, task) for task in tasks if (task, kind) not in covered]
    return [*chosen, ("glm", "classification:pattern"), ("bilstm", "tagging:crf")]


@functools.cache
def made(name, task_name):
    """What the export of a case is made of."""
    return make(name, task_name)


def make(name, task_name, strong=True, **fields):
    """A model with the head of a task, perhaps with weights that make it prefer some answers clearly, and a tokenizer.

    Args:
        name, task_name: of the model and of its task, perhaps with `:pattern` or `:crf`.
        fields: of the model's config.
    """
    plain, _, way = task_name.partition(":")
    task_class = TASKS.get(plain)
    tokenizer = create_tokenizer("wordpiece", TEXTS, 61) if MODELS.config(name).kind == "encoder" else create_tokenizer("byte")
    facts = task_class.facts_class(**FACTS.get(task_name, FACTS.get(plain, {})))
    task = task_class(task_class.config_class(**FIELDS.get(task_name, {})), facts)
    of_blanks = TASKS.get("blank_infilling")().model_fields(tokenizer) if way == "pattern" else {}
    fields = {**task.model_fields(tokenizer), **of_blanks, "max_length": 64, "num_layers": 1, "dropout": 0.0, **fields}
    fields = {key: value for key, value in fields.items() if key in MODELS.config(name).field_names()}
    model = tiny_models.create(name, **fields)
    model = task.assemble(model).build_from_ids()
    model = tiny_models.strengthen(model) if strong else model
    if plain == "word_vectors":  # what was never seen in training is nobody's neighbour
        model.head.counts.assign([bool(tokenizer.decode([i])) for i in range(tokenizer.vocab_size)])
        measure(model)
    return Made(model, tokenizer, task)


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


if __name__ == "__main__":
    for pair in pairs():
        print(*pair, directory(*pair).is_dir() and "proved", flush=True)
