"""How much of a split an evaluation reads, and what it says of it.

The amount follows from the run's config and from the sizes of its data, never from a clock. A part is drawn from the whole
split (`Task.part`), the same whatever the seed: runs that read as much of the same data judge the same tokens. Evaluations
while training take about 5% of the time. Those at the end take a tenth of it, or less where the whole split takes less.
"""

import math
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
    def whole(self):
        """Whether the whole split is read."""
        return self.tokens >= self.available

    def of(self, task, data, layout):
        """What is read of a split, as data of a split."""
        return data if self.whole else task.part(data, self.tokens, layout)

    def sentence(self):
        """What stands behind the scores of a part of a split; nothing behind those of a whole one."""
        return "" if self.whole else f"  ({self.tokens:,} of {self.available:,} tokens, drawn once)"


def layout_of(config):
    """The `Layout` of a `TrainConfig`."""
    share = MODELS.config(config.model).kind == "language_model"
    return Layout(config.seq_length, config.batch_size, config.seed, config.separate_documents, share)


def while_training(config, task, data):
    """The `Reading` of the validation split between two steps."""
    trained = config.eval_every * config.batch_size * config.seq_length
    fair = max(int(SHARE_WHILE_TRAINING / FORWARD_SHARE * trained), config.batch_size * config.seq_length)
    return at_most(config.eval_tokens or min(fair, ENOUGH), task, data["validation"], layout_of(config))


def at_end(config, task, data, split, fitted=False):
    """The `Reading` of a split after the last step. A model that is `fitted` in closed form is quick to judge: it reads all."""
    trained = config.steps * config.batch_size * config.seq_length
    fair = max(int(SHARE_AT_END / FORWARD_SHARE * trained), ENOUGH)
    return at_most(config.eval_tokens or (math.inf if fitted else fair), task, data[split], layout_of(config))


def at_most(tokens, task, data, layout):
    """The `Reading` of so many tokens of a split, where it has more. An example counts as a whole row."""
    size = len(data) * (1 if task.reads == "text" else layout.seq_length)
    return Reading(min(size, tokens), size)


def split_scores(config, trainer, data, reading, with_intervals=False):
    """Scores on what a `Reading` takes of a split, with the speed; and how much that was, where it is not all."""
    began = time.perf_counter()
    scores = trainer.evaluate(data, layout_of(config), with_intervals)
    read = {} if reading.whole else {"tokens_read": reading.tokens, "tokens_available": reading.available}
    return {**scores, **read, "tokens_per_second": trainer.tokens_evaluated / (time.perf_counter() - began)}


def shown(task, scores):
    """The scores that the user wants to see, in one line."""
    return "  ".join(f"{name} {scores[name]:.4f}" for name in task.shown if name in scores)
