"""The state that training carries from batch to batch, over all replicas."""

import numpy as np
import tensorflow as tf

from trainers.engine.strategies import rows_of


class Carried:
    """The state that training carries from batch to batch, each replica that of its own rows.

    Args:
        placement: where the replicas are.
        initial: dict of tensors (B of a replica, ...), one such dict a replica.
        batch_size: B of all replicas; rows beyond it fill up the last replica.

    Attributes:
        state: what the next step is given, laid out like `initial`.
    """

    def __init__(self, placement, initial, batch_size):
        self._placement, self._batch_size = placement, batch_size
        self.state, self._written = initial, {}

    def variables(self):
        """What a checkpoint holds of it: rows in the order of the batch, whichever replica has them."""
        return [CarriedRows(self, name) for name in self.state]

    def read(self, name):
        """float (B, ...). Every worker must call this."""
        return self._placement.gather(self.state[name])[: self._batch_size]

    def written(self, name):
        """What was last written (or zeros like it): a worker that has restored a checkpoint holds the rows of all."""
        like = self._placement.first(self.state[name])
        return self._written.get(name, np.zeros((self._batch_size, *like.shape[1:]), like.dtype.as_numpy_dtype))

    def write(self, name, value):
        """Gives every replica of this process its rows of (B, ...)."""
        self._written[name] = value
        rows = {"rows": value, "loss_weights": np.ones(len(value))}
        replicas = self._placement.num_replicas
        dtype = self._placement.first(self.state[name]).dtype
        size = len(self._placement.first(self.state[name]))
        self.state = {**self.state, name: self._placement.spread(
            lambda i: tf.constant(rows_of(rows, i, replicas, size)["rows"], dtype)
        )}  # fmt: skip


class CarriedRows:
    """One tensor of a `Carried` state, to be read and assigned as a variable is."""

    def __init__(self, carried, name):
        self._carried, self.name = carried, name

    @property
    def shape(self):
        first = self._carried._placement.first(self._carried.state[self.name])
        return (self._carried._batch_size, *first.shape[1:])

    def numpy(self):
        return self._carried.read(self.name)

    def written(self):
        """See `Carried.written`."""
        return self._carried.written(self.name)

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.numpy(), dtype)

    def assign(self, value):
        self._carried.write(self.name, np.asarray(value))
