"""A matrix product with bias, over the last axis.

Shape letters: B batch, T positions, N all leading axes in one, X input width, Y output width.
"""

import contextlib
import functools

import keras
from keras import ops


def times_rows(x_BTX, table_YX):
    """x W' for a table W that has a row an output, such as tied embeddings: float (B, T, X) -> (B, T, Y).

    A decoding step multiplies one position of each row of a batch, which is little work on much memory, and TensorFlow's CPU kernels
    differ: for eight rows W x' as a batched product takes half the time of x W', for one row it takes longer (benchmarks/LOG.md).
    """

    def flat():
        y_NY = ops.matmul(ops.reshape(x_BTX, (-1, x_BTX.shape[-1])), ops.transpose(table_YX))
        return ops.reshape(y_NY, (*ops.shape(x_BTX)[:2], table_YX.shape[0]))

    def turned():
        y_1YB = ops.matmul(table_YX[None], ops.transpose(x_BTX, (1, 2, 0)))
        return ops.transpose(y_1YB, (2, 0, 1))

    if x_BTX.shape[1] != 1:
        return flat()
    return ops.cond(ops.shape(x_BTX)[0] > 2, turned, flat)


class Linear(keras.layers.Layer):
    """y = x W + b, computed as one two-dimensional matrix product.

    Leading axes are folded into one first: TensorFlow otherwise runs a batched product, one small matrix a row, and its
    gradient for W holds a copy a row.

    Args:
        units: Y.
        use_bias: whether b is added.
        stddev: of the normal initialisation of W.

    Call: float (..., X) -> (..., Y).
    """

    def __init__(self, units, use_bias=True, stddev=0.02, **kwargs):
        super().__init__(**kwargs)
        self.turned = None  # see `turned_kernels`
        self.units, self.use_bias, self.stddev = units, use_bias, stddev

    def build(self, input_shape):
        normal = keras.initializers.RandomNormal(stddev=self.stddev)
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), initializer=normal, name="kernel")
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias") if self.use_bias else None

    def call(self, x):
        if self.turned is not None and len(x.shape) == 3:
            y_BTY = times_rows(x, self.turned())
            return ops.add(y_BTY, self.bias) if self.use_bias else y_BTY
        leading = ops.shape(x)[:-1]
        kernel = self.kernel if self.turned is None else ops.transpose(self.turned())
        y_NY = ops.matmul(ops.reshape(x, (-1, x.shape[-1])), kernel)
        if self.use_bias:
            y_NY = ops.add(y_NY, self.bias)
        return ops.reshape(y_NY, (*leading, self.units))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)


@contextlib.contextmanager
def turned_kernels(model):
    """While graphs are traced in this block, the `Linear` layers of `model` multiply by W' (Y, X), stored that way round.

    A decoding step reads every weight for a few rows of numbers, and TensorFlow's CPU kernels read W' faster than W
    (benchmarks/LOG.md).

    Yields:
        The list of the variables that such graphs read: those of the model, with W' in place of W.
    """
    linears = [layer for layer in model._flatten_layers() if isinstance(layer, Linear)]
    replaced = {id(layer.kernel) for layer in linears}
    variables = [variable for variable in model.variables if id(variable) not in replaced]
    try:
        for layer in linears:
            turned = keras.Variable(ops.transpose(layer.kernel), trainable=False, name="turned_kernel")
            variables.append(turned)
            # A function, which Keras does not take for a weight of the layer.
            layer.turned = functools.partial(ops.cast, turned, layer.compute_dtype)
        yield variables
    finally:
        for layer in linears:
            layer.turned = None
