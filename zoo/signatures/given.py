"""What Python gives where a signature takes tensors: strings and numbers of any kind, or one sentence that says what is wrong.

text("stop", b"x")                      one string
texts("prompt", np.array(["a", "b"]))   several, and whether it was one
number("top_k", np.int64(5), tf.int32)  one number, as Python's
tensor("temperature", 1, spec)          what a signature with that spec is called with
"""

import collections.abc
import math

import numpy as np
import tensorflow as tf

from zoo.config import Refusal
from zoo.tokenizers.base import to_bytes


def text(name, value):
    """One string, as str or bytes, whether it is Python's, NumPy's or a tensor. Raises Refusal for anything else."""
    plain = _plain(value)
    if not isinstance(plain, (str, bytes)):
        raise Refusal(f"{name} takes a string; got {_shown(value)}.")
    return plain


def texts(name, value):
    """`(rows, one)`: strings as a list of str or bytes, and whether one was given that is not in a list.

    Raises:
        Refusal: it is neither a string nor an ordered collection of strings.
    """
    plain = _plain(value)
    if isinstance(plain, (str, bytes)):
        return [plain], True
    if isinstance(plain, (collections.abc.Mapping, collections.abc.Set)) or not isinstance(plain, collections.abc.Iterable):
        raise Refusal(f"{name} takes a string, or a list of strings; got {_shown(value)}.")
    rows = [_plain(row) for row in plain]
    for i, row in enumerate(rows):
        if not isinstance(row, (str, bytes)):
            raise Refusal(f"{name} takes a string, or a list of strings; number {i + 1} of the list is {_shown(row)}.")
    return rows, False


def number(name, value, dtype):
    """One number as Python's int or float, as `dtype` says; 2.0 is an integer too.

    Raises:
        Refusal: it is not a number, not a whole one where `dtype` is an integer's, or larger than `dtype` can hold.
    """
    plain = _plain(value)
    if isinstance(plain, bool) or not isinstance(plain, (int, float)):
        raise Refusal(f"{name} takes one {'integer' if dtype.is_integer else 'number'}; got {_shown(value)}.")
    if dtype.is_integer and isinstance(plain, float) and not plain.is_integer():
        raise Refusal(f"{name} takes an integer; got {plain}.")
    least, most = (int(end) if dtype.is_integer else float(end) for end in (dtype.min, dtype.max))
    if not least <= plain <= most and (isinstance(plain, int) or math.isfinite(plain)):
        kind = "an integer" if dtype.is_integer else "a number"
        raise Refusal(f"{name} is {kind} of {dtype.size * 8} bits; got {_shown(plain)}.")
    return int(plain) if dtype.is_integer else float(plain)


def tensor(name, value, spec):
    """`value` as a tensor for an input of a signature; one value is taken for one row.

    Args:
        name: the input's.
        value: a value, nested lists of them, an array or a tensor.
        spec: the input's `tf.TensorSpec`.

    Raises:
        Refusal: values of another type, or another shape.
    """
    if spec.dtype == tf.string and spec.shape.rank == 1:
        return tf.constant([to_bytes(row) for row in texts(name, value)[0]], tf.string)
    if isinstance(value, tf.Tensor):
        value = value.numpy()
    try:
        array = np.asarray(value)
    except ValueError:
        raise Refusal(f"{name} has rows of unequal length; got {_shown(value)}.") from None
    if spec.shape.rank and not array.shape:
        array = array.reshape([1] * spec.shape.rank)
    if not spec.shape.is_compatible_with(array.shape):
        wanted = ", ".join("any" if size is None else str(size) for size in spec.shape)
        raise Refusal(f"{name} has the shape ({wanted}); got {array.shape}.")
    if spec.dtype == tf.string:
        return tf.constant(array, tf.string)
    if array.size:
        _require_numbers(name, value, array, spec.dtype)
    return tf.constant(array.astype(spec.dtype.as_numpy_dtype))


def _require_numbers(name, value, array, dtype):
    if dtype == tf.bool:
        if array.dtype.kind != "b":
            raise Refusal(f"{name} takes True or False; got {_shown(value)}.")
        return
    if array.dtype.kind == "O" and all(type(each) is int for each in array.flat):  # too large for any of NumPy's
        number(name, max(array.flat, key=abs), dtype)
    if array.dtype.kind not in "iuf" or dtype.is_integer and not (np.isfinite(array) & (array == np.rint(array))).all():
        raise Refusal(f"{name} takes {'integers' if dtype.is_integer else 'numbers'}; got {_shown(value)}.")
    if dtype.is_integer:
        for each in (array.min(), array.max()):
            number(name, each, dtype)


def _plain(value):
    """A scalar of NumPy or a tensor as Python's; an array or a tensor of several as an array; other values as they are."""
    if isinstance(value, tf.Tensor):
        value = value.numpy()
    return value.item() if isinstance(value, (np.generic, np.ndarray)) and not value.shape else value


def _shown(value):
    """How a sentence tells a value, in a few words."""
    spelt = " ".join(repr(value).split())
    return spelt if len(spelt) <= 60 else f"{spelt[:57]}..."
