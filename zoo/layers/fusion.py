"""Chains of elementwise operations as single XLA kernels, inside a graph that is otherwise TensorFlow's own.

On a CPU the two compilers are good at different things: TensorFlow's matrix products (oneDNN) are faster than XLA's, but it
runs each elementwise operation as a pass over memory of its own, where XLA makes one pass of the whole chain. A training step
inside `islands()` takes the better half of each; everywhere else, and so in every export, a `fused` function is plain.
"""

import contextlib
import functools
import threading

_scope = threading.local()


@contextlib.contextmanager
def islands():
    """While a graph is traced in this block, `fused` functions become XLA kernels in it."""
    before = getattr(_scope, "on", False)
    _scope.on = True
    try:
        yield
    finally:
        _scope.on = before


def fused(function):
    """Decorates a function of tensors alone, which may become one XLA kernel; see `islands`."""
    compiled = []

    @functools.wraps(function)
    def call(*tensors):
        if not getattr(_scope, "on", False):
            return function(*tensors)
        if not compiled:
            import tensorflow as tf  # other backends compile whole steps and have no islands

            compiled.append(tf.function(function, jit_compile=True, autograph=False))
        return compiled[0](*tensors)

    return call
