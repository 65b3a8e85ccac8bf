"""Chains of elementwise operations as single XLA kernels, inside a graph that is otherwise TensorFlow's own.

On a CPU the two compilers are good at different things: TensorFlow's matrix products (oneDNN) are faster than XLA's, but it
runs each elementwise operation as a pass over memory of its own, where XLA makes one pass of the whole chain. A training step
inside `fuse_elementwise()` takes the better half of each. Everywhere else, and so in every export, a `fused` function is plain.
Inside `compiled_whole()` XLA compiles the whole step for a CPU; there layers choose forms that XLA does well, such as
`sum_of_rows`.

Shape letters: N rows, Y their width.
"""

import contextlib
import functools
import threading

from keras import ops

_scope = threading.local()


@contextlib.contextmanager
def fuse_elementwise():
    """While a graph is traced in this block, `fused` functions become XLA kernels in it."""
    with _as("fuse_elementwise"):
        yield


@contextlib.contextmanager
def compiled_whole():
    """While a graph is traced in this block, layers know that XLA will compile it as a whole."""
    with _as("compiled_whole"):
        yield


@contextlib.contextmanager
def _as(name):
    before = _current()
    _scope.name = name
    try:
        yield
    finally:
        _scope.name = before


def _current():
    return getattr(_scope, "name", None)


def for_cpu():
    """Whether a graph is being traced of which XLA compiles all or chains for a CPU."""
    return _current() is not None


def is_whole():
    """Whether a graph is being traced inside `compiled_whole()`."""
    return _current() == "compiled_whole"


def fused(function):
    """Decorates a function of tensors alone, which may become one XLA kernel; see `fuse_elementwise`."""
    compiled = []

    @functools.wraps(function)
    def call(*tensors):
        if _current() != "fuse_elementwise":
            return function(*tensors)
        if not compiled:
            import tensorflow as tf  # other backends compile whole steps and have no use for it

            compiled.append(tf.function(function, jit_compile=True, autograph=False))
        return compiled[0](*tensors)

    return call


SPLITS = (16, 12, 10, 9, 8, 7, 6, 5, 4, 3, 2)  # into how many parts rows are cut to be added up


def sum_of_rows(x_NY):
    """Sum over the first axis: (N, Y) -> (Y,).

    XLA's own sum walks down one column after the other, a number at a time. Adding up to sixteen parts of the rows, and then
    again what comes of it, runs along the rows, with vector instructions: a fifth of the time at (768, 512)
    (benchmarks/LOG.md).
    """
    number = x_NY.shape[0]
    if not is_whole() or number is None:
        return ops.sum(x_NY, axis=0)
    while parts := next((n for n in SPLITS if number % n == 0), None):
        number //= parts
        x_NY = functools.reduce(ops.add, (x_NY[i * number : (i + 1) * number] for i in range(parts)))
    return ops.sum(x_NY, axis=0)


@ops.custom_gradient
def _add_bias(x_NY, bias_Y):
    return ops.add(x_NY, bias_Y), lambda *upstream: (upstream[-1], sum_of_rows(upstream[-1]))


def add_bias(x_NY, bias_Y):
    """x + b, whose gradient for b is a `sum_of_rows`."""
    if not is_whole():  # TensorFlow has one kernel for a product and its bias, which it finds in plain graphs
        return ops.add(x_NY, bias_Y)
    return _add_bias(x_NY, ops.convert_to_tensor(bias_Y))  # a tensor: a custom gradient may not see a variable
