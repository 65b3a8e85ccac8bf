"""Tensors of a foreign file into the variables of a model, one at a time, by the table of its family."""

import re

import numpy as np

from zoo.convert.tables import to_ours


def assign(model, family, tensors, *, with_head, where):
    """Fills a model with the tensors of a file.

    Args:
        model: a built model, with a head if `with_head`.
        family: the `Family` that says which tensor is which variable.
        tensors: has `names()`, `shape(name)` and `read(name)`, which gives float32.
        with_head: whether the model has the head that the family's table tells of.
        where: what the file is called in a message.

    Returns:
        Sorted names of tensors that belong to heads no task here has, and were left out.

    Raises:
        ValueError: tensors are missing, left over or of another shape; all of them are named.
    """
    named = {family.our_name(name): name for name in tensors.names()}
    variables = variables_by_path(model)
    rules = {rule.ours: rule for rule in family.rules(model.config, with_head=with_head)}
    if rules.keys() != variables.keys():
        raise ValueError(f"The table and the model differ in {sorted(rules.keys() ^ variables.keys())}.")
    wanted = {name for rule in rules.values() for name in rule.theirs}
    missing = sorted(wanted - named.keys())
    if missing:
        raise ValueError(f"{where} lacks {len(missing)} tensors that this model has: {', '.join(missing)}.")
    dropped = _check_leftover(family, named, wanted, tensors, where)
    for path, rule in rules.items():
        shape, variable = None, variables[path]
        value = to_ours(rule, [tensors.read(named[name]) for name in rule.theirs])
        shape = tuple(variable.shape)
        if value.shape != shape:
            raise ValueError(f"{where}: {', '.join(rule.theirs)} make shape {value.shape}, the model's {path} has {shape}.")
        variable.assign(value)
    return dropped


def _check_leftover(family, named, wanted, tensors, where):
    """Names of tensors that are left out on purpose. Raises ValueError for those that nobody knows, or copies that differ."""
    dropped, unknown = [], []
    for name in sorted(named.keys() - wanted):
        if any(re.fullmatch(pattern, name) for pattern in family.ignored):
            continue
        if family.copies.get(name) in wanted:
            if not np.array_equal(tensors.read(named[name]), tensors.read(named[family.copies[name]])):
                raise ValueError(f"{where}: {name} differs from {family.copies[name]}, which this model has only once.")
        elif any(re.fullmatch(pattern, name) for pattern in family.dropped):
            dropped.append(name)
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(f"{where} has {len(unknown)} tensors that this model has no place for: {', '.join(unknown)}.")
    return dropped


def variables_by_path(model):
    """Path -> variable, without the model's own name in front; a head's paths begin with `head/`."""
    backbone = getattr(model, "backbone", model)
    prefix = f"{backbone.name}/"
    # The state of a dropout's random numbers is no weight.
    return {v.path.removeprefix(prefix): v for v in model.variables if "seed_generator" not in v.path}
