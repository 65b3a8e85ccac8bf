"""Batches in which each unit is or is not, independently of all others: what a promise of privacy is counted from."""

import math

import numpy as np

from zoo.data.batch import random_stream, uniform


class PoissonBatches:
    """Training batches in which each unit is with probability B / N; `batch(step)` is a pure function of (seed, step).

    The size of a batch is random, and shapes are not: rows that weigh 0 fill it up to B + 4 sqrt(B), or, once in many thousand
    steps, to a multiple of that.

    Args:
        units: what has `num_units` and `of(chosen, step)`, the batch of the units with some numbers.
        batch_size: B.
        seed: any integer.
    """

    def __init__(self, units, batch_size, seed):
        self._units, self.batch_size, self.seed = units, batch_size, seed
        self.steps_per_epoch = -(-units.num_units // batch_size)
        self.capacity = batch_size + math.ceil(4 * math.sqrt(batch_size))

    def starts_epoch(self, step):
        """True: rows never go on from the batch before."""
        return True

    def chosen(self, step):
        """The numbers of the units of a step, int (n,)."""
        count = self._units.num_units
        return np.flatnonzero(uniform(random_stream(self.seed, "sampling", step), count) < self.batch_size / count)

    def batch(self, step):
        """The batch of training step `step`, counted from 0."""
        chosen = self.chosen(step)
        size = self.capacity * max(1, -(-len(chosen) // self.capacity))
        batch = self._units.of(np.append(chosen, np.zeros(size - len(chosen), chosen.dtype)), step)
        batch["loss_weights"] = batch["loss_weights"].copy()
        batch["loss_weights"][len(chosen) :] = 0
        return batch
