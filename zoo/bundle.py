"""A bundle: the directory that crosses between training, conversion, evaluation and export.

bundle/config.json        format version, model name, model config, task, task config, provenance
bundle/tokenizer/         the tokenizer's own files
bundle/model.weights.h5   the weights, by variable path
"""

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import zoo
from zoo.aside import aside, sweep, take_the_place
from zoo.registry import MODELS, TASKS

FORMAT_VERSION = 1


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

    def save(self, directory):
        """Writes the bundle aside and renames it into place; an older bundle there is replaced at the last moment."""
        directory = Path(directory)
        with aside(directory.parent, directory.name) as path:
            config = {
                "format_version": FORMAT_VERSION,
                "zoo_version": zoo.__version__,
                "model": self.model.registered_name,
                "model_config": self.model.config.to_dict(),
                "task": self.task.registered_name,
                "task_config": self.task.config.to_dict(),
                "provenance": self.provenance,
            }
            (path / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf8")
            self.tokenizer.save(path / "tokenizer")
            self.model.save_weights(str(path / "model.weights.h5"))
            take_the_place(path, directory)
        # Not before: of one that was killed between two names, nothing but leavings may be whole.
        sweep(directory.parent, re.escape(directory.name))
        return directory


def read_config(directory):
    """The config.json of the bundle in `directory`. Raises ValueError, in a sentence, when it is none, damaged, or too new."""
    path = Path(directory) / "config.json"
    if not path.is_file():
        raise ValueError(f"{directory} is no bundle: it holds no config.json.")
    try:
        config = json.loads(path.read_text(encoding="utf8"))
        version, *_ = (config[name] for name in ("format_version", "model", "task", "model_config"))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); copy the bundle again from where it was made.") from error
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ValueError(f"{directory} has format version {version}, this zoo reads up to {FORMAT_VERSION}; update it.")
    return config


def load(directory):
    """Reads the bundle in `directory`. Raises ValueError, in a sentence, when it is none, damaged, or too new."""
    directory, config = Path(directory), read_config(directory)
    from zoo.tokenizers import base as tokenizers  # here, so that `find` answers without TensorFlow

    task_class, model_class = TASKS.get(config["task"]), MODELS.get(config["model"])
    task = task_class(task_class.config_class.from_dict(config.get("task_config", {})))
    model = task.assemble(model_class(model_class.config_class.from_dict(config["model_config"]))).build_from_ids()
    weights = directory / "model.weights.h5"
    if not weights.is_file():
        raise ValueError(f"{directory} is damaged: model.weights.h5 is missing.")
    try:
        model.load_weights(str(weights))
    except PermissionError as error:
        raise PermissionError(error.errno, os.strerror(error.errno), str(weights)) from error
    except (OSError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0].partition(" Example error message")[0].rstrip(".")
        sentence = f"{weights} is damaged or of another model ({reason}); copy the bundle again from where it was made."
        raise ValueError(sentence) from error
    return Bundle(model, tokenizers.load(directory / "tokenizer"), task, config.get("provenance", {}))


def find(path):
    """The bundle at `path`, which may be the bundle itself or the run that holds it. Raises ValueError."""
    path = Path(path)
    for directory in (path, path / "bundle"):
        if (directory / "tokenizer").is_dir():
            return directory
    if (path / "checkpoints").is_dir():
        raise ValueError(f"{path} holds a run that has not ended; start its command again to go on with it.")
    raise ValueError(f"{path} holds no bundle; give the directory of a run, such as runs/gpt/latest.")
