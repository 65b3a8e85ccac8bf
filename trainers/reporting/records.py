"""What a run has left behind, read from its directory: config.json, metrics.jsonl, bundle/config.json. Needs no TensorFlow."""

import dataclasses
import functools
import json
import re
from pathlib import Path
from types import SimpleNamespace

from trainers import flags as trainer_flags
from trainers.cost import plan
from zoo.config import Refusal
from zoo.registry import MODELS, TASKS

SPLITS = ("validation", "test")
# Scores by which runs are compared, the first that all of them have.
COMPARED = (
    "bits_per_byte", "accuracy", "entity_f1", "role_f1", "f1", "bleu", "rougeLsum", "pair_accuracy", "similarity", "loss",
)  # fmt: skip
LOWER_IS_BETTER = ("bits_per_byte", "loss", "perplexity", "calibration_error")
# Numbers of a line that are not scores.
NO_SCORES = re.compile("step|tokens_.*|num_.*|.*_unknown")


@dataclasses.dataclass(frozen=True)
class Record:
    """A run as its files tell it.

    Attributes:
        directory: of the run, as the user gave it.
        config: its config.json.
        lines: the lines of its metrics.jsonl, dicts.
        bundle: the config.json of its bundle; empty for a run that has not ended.
    """

    directory: Path
    config: dict
    lines: list
    bundle: dict

    def of(self, split):
        """The lines of one split, in order."""
        return [line for line in self.lines if line["split"] == split]

    def column(self, split, name):
        """`(steps, values)` of the lines of a split that have the value `name`."""
        some = [line for line in self.of(split) if _is_number(line.get(name))]
        return [line["step"] for line in some], [line[name] for line in some]

    def score_names(self, split):
        """Names of the numbers that the last line of a split has, counts left out."""
        last = self.last(split)
        return [name for name in last if _is_number(last[name]) and not NO_SCORES.fullmatch(name)]

    def last(self, split):
        """The last line of a split, or an empty dict."""
        return next(iter(self.of(split)[-1:]), {})

    @property
    def judged(self):
        """The last line of the test split; of a run that has none, of the validation split."""
        return self.last("test") or self.last("validation")

    @property
    def steps(self):
        """Steps done."""
        return max((line["step"] for line in self.lines), default=0)

    @property
    def tokens_a_step(self):
        """Places for tokens in a batch, padding included."""
        return self.config["batch_size"] * self.config["seq_length"]

    @property
    def tokens(self):
        """Places for tokens that were trained on, or the tokens that were counted in closed form; None where no line tells."""
        fit = self.last("fit")
        return fit.get("tokens") if fit else self.steps * self.tokens_a_step or None

    @property
    def seconds(self):
        """Seconds of training as `Meter` counts them, without judging. None where a line does not tell."""
        lines = self.of("fit") or self.of("train")
        return sum(line["seconds"] for line in lines) if lines and all("seconds" in line for line in lines) else None

    def clock(self):
        """Step -> seconds of training until then; empty where the log does not tell."""
        total, clock = 0.0, {}
        for line in self.of("train"):
            if "seconds" not in line:
                return {}
            total += line["seconds"]
            clock[line["step"]] = total
        return clock

    @functools.cached_property
    def model_config(self):
        """The config of the model; None for a run that has not ended."""
        return MODELS.config(self.bundle["model"]).from_dict(self.bundle["model_config"]) if self.bundle else None

    @functools.cached_property
    def plan(self):
        """The `Plan` of the run, or None: it has not ended, or its model is fitted in closed form."""
        if self.model_config is None or self.model_config.fitted or not self.config["steps"]:
            return None
        config = SimpleNamespace(**{**trainer_flags.DEFAULTS, **self.config})
        task_config = TASKS.config(self.bundle["task"]).from_dict(self.bundle.get("task_config", {}))
        facts = SimpleNamespace(**self.bundle["task_facts"]) if self.bundle.get("task_facts") else None
        tuning = trainer_flags.tuning_config(config)
        return plan.make(config, self.model_config, task_config, tuning=tuning, facts=facts)

    @property
    def num_params(self):
        """Parameters of the model with its head; None for a run that has not ended."""
        if self.model_config is None:
            return None
        return self.plan.num_params if self.plan else self.model_config.num_params()

    @property
    def labels(self):
        """The classes, in the order of the confusion matrix; empty where there are none."""
        return list(self.bundle.get("task_facts", {}).get("labels") or self.config.get("data", {}).get("labels", ()))

    @property
    def text(self):
        """What identifies the text of the run, or None."""
        return self.config.get("data", {}).get("text")


def read(directory):
    """The `Record` of the run in `directory`. Raises Refusal, in a sentence, when it holds none or a damaged one."""
    directory = Path(directory)
    config_path, log_path = directory / "config.json", directory / "metrics.jsonl"
    if not config_path.is_file() or not log_path.is_file():
        raise Refusal(
            f"{directory} holds no run with scores: config.json and metrics.jsonl are not both there; give the directory of a "
            "run, such as runs/gpt/latest."
        )
    config = _parsed(config_path, config_path.read_text(encoding="utf8"))
    lines = [_parsed(log_path, line) for line in log_path.read_text(encoding="utf8").splitlines() if line.strip()]
    for name in ("model", "task", "dataset", "batch_size", "seq_length", "steps"):
        if name not in config:
            raise Refusal(f"{config_path} is damaged (it has no {name!r}); give the directory of a run.")
    if not all({"step", "split"} <= line.keys() for line in lines):
        raise Refusal(f"{log_path} is damaged (a line has no step or no split); copy the run again from where it was made.")
    bundle = directory / "bundle" / "config.json"
    found = _parsed(bundle, bundle.read_text(encoding="utf8")) if bundle.is_file() else {}
    return Record(directory, config, lines, found)


def names(records):
    """A short name for each record, no two alike: its family; where two have the same, with the directory."""
    families = [record.config["model"] for record in records]
    return [
        family if families.count(family) == 1 else f"{family} ({record.directory})"
        for family, record in zip(families, records, strict=True)
    ]


def compared(records):
    """The name of the score by which runs are compared, or None: they share none."""
    return next((name for name in COMPARED if all(_is_number(record.judged.get(name)) for record in records)), None)


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _parsed(path, text):
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise Refusal(f"{path} is damaged ({error}); copy the run again from where it was made.") from error
