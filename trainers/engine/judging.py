"""How much of a split an evaluation reads, and what it says of it.

The amount follows from the run's config and from the sizes of its data, never from a clock: two runs of one command judge the
same tokens. Evaluations while training take about 5% of the time. Those at the end take a tenth of it, or less where the whole
split takes less.
"""

import time
from typing import NamedTuple

from trainers.cost.plan import FORWARD_SHARE
from zoo.data.batch import Layout
from zoo.registry import MODELS

SHARE_WHILE_TRAINING, SHARE_AT_END = 0.05, 0.1  # of the time of training
ENOUGH = 50_000  # tokens: more tell little while training; and no run, however short, is judged at its end on less


class Reading(NamedTuple):
    """How many tokens of a split are read, of how many."""

    tokens: int
    available: int

    @property
    def limit(self):
        """Most tokens to read; None for the whole split."""
        return None if self.tokens >= self.available else self.tokens

    def sentence(self):
        """What stands behind the scores of a part of a split; nothing behind those of a whole one."""
        return "" if self.limit is None else f"  (the first {self.tokens:,} of {self.available:,} tokens)"


def layout_of(config):
    """The `Layout` of a `TrainConfig`."""
    share = MODELS.config(config.model).kind == "language_model"
    return Layout(config.seq_length, config.batch_size, config.seed, config.separate_documents, share)


def while_training(config, task, data):
    """The `Reading` of the validation split between two steps."""
    trained = config.eval_every * config.batch_size * config.seq_length
    fair = max(int(SHARE_WHILE_TRAINING / FORWARD_SHARE * trained), config.batch_size * config.seq_length)
    return _reading(config, task, data, "validation", min(fair, ENOUGH))


def at_end(config, task, data, split, fitted=False):
    """The `Reading` of a split after the last step. A model that is `fitted` in closed form is quick to judge: it reads all."""
    trained = config.steps * config.batch_size * config.seq_length
    fair = max(int(SHARE_AT_END / FORWARD_SHARE * trained), ENOUGH)
    return _reading(config, task, data, split, _size(config, task, data[split]) if fitted else fair)


def _reading(config, task, data, split, fair):
    size = _size(config, task, data[split])
    return Reading(min(size, config.eval_tokens or fair), size)


def _size(config, task, part):
    """Tokens of a split; an example counts as a whole row."""
    return len(part) * (1 if task.reads == "text" else config.seq_length)


def split_scores(config, trainer, data, split, reading, with_intervals=False):
    """Scores on a split, or on the front of it, with the speed; and how much was read, where that is not all."""
    began = time.perf_counter()
    scores = trainer.evaluate(data[split], layout_of(config), reading.limit, with_intervals)
    read = {} if reading.limit is None else {"tokens_read": reading.tokens, "tokens_available": reading.available}
    return {**scores, **read, "tokens_per_second": trainer.tokens_evaluated / (time.perf_counter() - began)}


def shown(task, scores):
    """The scores that the user wants to see, in one line."""
    return "  ".join(f"{name} {scores[name]:.4f}" for name in task.shown if name in scores)
