"""Tensors of a foreign file into the variables of a model, a few rows at a time, by the table of its family.

A file is shown as `Tensors`: names, as the family's table writes them, and for each something that has a `shape` and gives rows
    when it
is sliced. What other libraries store in another form is a view on what they store: `Transposed`, `Reshaped`, `Joined`.
"""

import re

import numpy as np

from zoo.bundle import aligned_zeros, as_tensor, row_slices
from zoo.config import Refusal
from zoo.convert.rules import made_shape


class Tensors:
    """Tensors by name, read as float32.

    Args:
        arrays: dict, name -> what has a `shape`, and gives an array of rows when it is sliced.
    """

    def __init__(self, arrays):
        self._arrays = arrays

    def names(self):
        """Sorted names of all tensors."""
        return sorted(self._arrays)

    def shape(self, name):
        """Shape of a tensor, a tuple, without reading it."""
        return tuple(self._arrays[name].shape)

    def read(self, name, rows=slice(None)):
        """Some rows of a tensor, a slice along its first axis, as a float32 numpy array."""
        return np.asarray(self._arrays[name][rows]).astype(np.float32, copy=False)


class Transposed:
    """A matrix that is stored as (columns, rows)."""

    def __init__(self, array):
        self._array, self.shape = array, tuple(array.shape)[::-1]

    def __getitem__(self, rows):
        return np.asarray(self._array[:, rows]).T


class Reshaped:
    """A tensor under another shape; it is read whole."""

    def __init__(self, array, shape):
        self._array, self.shape = array, tuple(np.empty(array.shape, np.void).reshape(shape).shape)

    def __getitem__(self, rows):
        return np.reshape(self._array[:], self.shape)[rows]


class Joined:
    """Tensors side by side along the last axis; of vectors, one after the other."""

    def __init__(self, arrays):
        self._arrays = arrays
        self.shape = (*arrays[0].shape[:-1], sum(array.shape[-1] for array in arrays))

    def __getitem__(self, rows):
        if len(self.shape) == 1:
            return np.concatenate([array[:] for array in self._arrays])[rows]
        return np.concatenate([array[rows] for array in self._arrays], axis=-1)


def assign(model, family, tensors, *, with_head, where):
    """Fills a model with the tensors of a file.

    Args:
        model: a built model, with a head if `with_head`.
        family: the `Family` that says which tensor is which variable.
        tensors: has `names()`, `shape(name)` and `read(name, rows)`, which gives float32; as `Tensors`.
        with_head: whether the model has the head that the family's table tells of.
        where: what the file is called in a message.

    Returns:
        Sorted names of tensors that belong to heads no task here has, and were left out.

    Raises:
        Refusal: tensors are missing, left over or of another shape; all of them are named.
    """
    named = {family.our_name(name): name for name in tensors.names()}
    variables = variables_by_path(model)
    rules = {rule.ours: rule for rule in family.rules(model.config, with_head=with_head)}
    if rules.keys() != variables.keys():
        raise Refusal(f"The table and the model differ in {sorted(rules.keys() ^ variables.keys())}.")
    wanted = {name for rule in rules.values() for name in rule.theirs}
    missing = sorted(wanted - named.keys())
    if missing:
        raise Refusal(f"{where} lacks {len(missing)} tensors that this model has: {', '.join(missing)}.")
    dropped = _check_leftover(family, named, wanted, tensors, where)
    for path, rule in rules.items():
        shape = made_shape(rule, [tensors.shape(named[name]) for name in rule.theirs])
        if shape != tuple(variables[path].shape):
            ours = f"the model's {path} has {tuple(variables[path].shape)}"
            raise Refusal(f"{where}: {', '.join(rule.theirs)} make shape {shape}, {ours}.")
    for path, rule in rules.items():
        _fill(variables[path].value, rule, [named[name] for name in rule.theirs], tensors, model.config)
    return dropped


def _fill(variable, rule, names, tensors, config):
    """Gives a tf.Variable the tensors of a rule, side by side, read piece by piece.

    Assigning to a part of the variable would do, were it not that TensorFlow from then on copies all of it whenever it is read.
    """
    array = aligned_zeros(tuple(variable.shape))
    start = 0  # along our last axis
    for name in names:
        shape = tensors.shape(name)
        width = shape[0] if rule.transposed else shape[-1]
        for rows in row_slices(shape):
            piece = tensors.read(name, rows)
            if rule.row:
                array[:] = piece[0]
            elif len(shape) == 1:
                array[start + rows.start : start + rows.stop] = piece
            elif rule.transposed:
                array[:, start + rows.start : start + rows.stop] = piece.T
            else:
                array[rows, start : start + width] = piece
        start += width
    variable.assign(as_tensor(rule.taken_in(array, config)))


def _check_leftover(family, named, wanted, tensors, where):
    """Names of tensors that are left out on purpose. Raises Refusal for those that nobody knows, or copies that differ."""
    dropped, unknown = [], []
    for name in sorted(named.keys() - wanted):
        if any(re.fullmatch(pattern, name) for pattern in family.ignored):
            continue
        if family.copies.get(name) in wanted:
            if not equal(tensors, named[name], named[family.copies[name]]):
                raise Refusal(f"{where}: {name} differs from {family.copies[name]}, which this model has only once.")
        elif any(re.fullmatch(pattern, name) for pattern in family.dropped):
            dropped.append(name)
        else:
            unknown.append(name)
    if unknown:
        raise Refusal(f"{where} has {len(unknown)} tensors that this model has no place for: {', '.join(unknown)}.")
    return dropped


def equal(tensors, one, other):
    """Whether two tensors of a file have the same shape and the same numbers."""
    shape = tensors.shape(one)
    same = shape == tensors.shape(other)
    return same and all(np.array_equal(tensors.read(one, rows), tensors.read(other, rows)) for rows in row_slices(shape))


def variables_by_path(model):
    """Path -> variable, without the model's own name in front; a head's paths begin with `head/`."""
    prefix = f"{model.without_head().name}/"
    # The state of a dropout's random numbers is not a weight.
    return {v.path.removeprefix(prefix): v for v in model.variables if "seed_generator" not in v.path}
