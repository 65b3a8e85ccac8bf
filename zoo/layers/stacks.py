"""A stack (M, ...) of M equal blocks in a loop: read and written at an index that is known only while the graph runs."""

import keras
from keras import ops


def read_block(stack, i):
    """Block i of a stack (M, ...): (...)."""
    shape = ops.shape(stack)
    return ops.slice(stack, (i, *[0] * (len(shape) - 1)), (1, *shape[1:]))[0]


def write_block(stack, block, i):
    """The stack with another block i. In a loop that hands the stack on, it is written in place."""
    if keras.backend.backend() == "tensorflow":  # where slice_update is an operation of XLA's alone
        return ops.scatter_update(stack, [[i]], block[None])
    return ops.slice_update(stack, (i, *[0] * (len(stack.shape) - 1)), block[None])
