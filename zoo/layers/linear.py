"""A matrix product with bias, over the last axis.

Shape letters: B batch, T positions, N all leading axes in one, X input width, Y output width, R rank of an adapter.
"""

import contextlib
import functools

import keras
from keras import ops

from zoo import private
from zoo.layers import fusion
from zoo.layers.fusion import add_bias


def leading_shape(x):
    """The leading axes of x, as `ops.reshape` takes them: -1 for one that is unknown, which costs a graph nothing to find
    out."""
    known = tuple(x.shape[:-1])
    return ops.shape(x)[:-1] if known.count(None) > 1 else tuple(-1 if size is None else size for size in known)


def row_matmul(x, y, transpose_y=False):
    """x y, or x y', for stacks of matrices of which each x is one row: float (..., 1, X) -> (..., 1, Y).

    TensorFlow gives every product but `BatchMatMulV3` to oneDNN, whose kernels are made for many rows. With one, Eigen's read a
    large float32 matrix in nine tenths of the time and do a small product in a third (benchmarks/LOG.md).
    """
    if keras.backend.backend() != "tensorflow" or fusion.is_whole() or x.dtype != "float32":
        return ops.matmul(x, ops.swapaxes(y, -1, -2) if transpose_y else y)
    import tensorflow as tf  # for one op; other backends need not have it

    return tf.raw_ops.BatchMatMulV3(x=x, y=y, adj_y=transpose_y, Tout=tf.float32)


def times_rows(x_BTX, table_YX, bias_Y=None):
    """x W' + b for a table W that has a row an output, such as tied embeddings: float (B, T, X) -> (B, T, Y).

    TensorFlow has several CPU kernels for it, which differ by half where rows are few. Which form gets the fastest was measured
    (benchmarks/LOG.md); a single row must be known while the graph is built, since a choice inside would cost as much as it
    gains.
    """
    width = x_BTX.shape[-1]
    half, alone = keras.backend.standardize_dtype(table_YX.dtype) == "bfloat16", tuple(x_BTX.shape[:2]) == (1, 1)

    if half:
        x_NX = ops.reshape(x_BTX, (-1, width))
        y = ops.matmul(x_NX, ops.transpose(table_YX))
        if alone:  # TensorFlow makes one kernel of a product and a bias side by side, which is faster than the product's own
            y, bias_Y = ops.add(y, _unknown_zeros(x_NX, table_YX.shape[0]) if bias_Y is None else bias_Y), None
    elif alone:
        y = row_matmul(ops.reshape(x_BTX, (1, 1, width)), table_YX[None], transpose_y=True)
    else:
        y = ops.matmul(ops.reshape(x_BTX, (1, -1, width)), ops.transpose(table_YX[None], (0, 2, 1)))
    y_BTY = ops.reshape(y, (*leading_shape(x_BTX), table_YX.shape[0]))
    return y_BTY if bias_Y is None else ops.add(y_BTY, bias_Y)


def _unknown_zeros(x_NX, size):
    """float (size,) of zeros, of which TensorFlow's optimiser does not know that adding them changes nothing; ones after
    NaN."""
    return ops.broadcast_to(ops.cast(ops.isnan(x_NX[0, 0]), x_NX.dtype), (size,))


class Linear(keras.layers.Layer):
    """y = x W + b, computed as one two-dimensional matrix product.

    Leading axes are folded into one first: TensorFlow otherwise runs a batched product, one small matrix a row, and its
    gradient for W holds a copy a row.

    With an adapter it is y = x W + b + (alpha / R) x A B (Hu et al. 2021, section 4.1), where W and b stay as they are.

    Args:
        units: Y.
        use_bias: whether b is added.
        stddev: of the normal initialisation of W: a number, or one for each output, an array (Y,).

    Call: float (..., X) -> (..., Y).

    Example:
        >>> Linear(4)(ops.ones((2, 3, 5))).shape
        TensorShape([2, 3, 4])
    """

    def __init__(self, units, use_bias=True, stddev=0.02, **kwargs):
        super().__init__(**kwargs)
        self.transposed = None  # see `transposed_kernels`
        self.adapter_a = self.adapter_b = None
        self.units, self.use_bias, self.stddev = units, use_bias, stddev

    def build(self, input_shape):
        normal = keras.initializers.RandomNormal(stddev=self.stddev)
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), initializer=normal, name="kernel")
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias") if self.use_bias else None

    def add_adapter(self, rank, alpha):
        """Puts an adapter beside a built layer, which at first changes nothing: A is drawn at random and B is zero.

        Args:
            rank: R, columns of A (X, R) and rows of B (R, Y).
            alpha: what their product is weighed with, times 1 / R.
        """
        width, self.adapter_scale = self.kernel.shape[0], alpha / rank
        normal = keras.initializers.RandomNormal(stddev=width**-0.5)
        with private.opened(self):
            self.adapter_a = self.add_weight(shape=(width, rank), initializer=normal, name="adapter_a")
            self.adapter_b = self.add_weight(shape=(rank, self.units), initializer="zeros", name="adapter_b")

    def merge_adapter(self):
        """Adds the adapter to W and takes it away: from then on the layer has no trace of it, and computes the same."""
        a_XR, b_RY = self.adapter_a, self.adapter_b
        if a_XR is None:
            return
        self.kernel.assign(self.kernel + self.adapter_scale * ops.matmul(a_XR, b_RY))
        b_RY.assign(ops.zeros_like(b_RY))  # graphs that were traced before compute the same, too
        private.forget(self, (a_XR, b_RY))
        self.adapter_a = self.adapter_b = None

    def call(self, x):
        if self.transposed is not None and len(x.shape) == 3:
            return times_rows(x, self.transposed(), self.bias)
        kernel = self.kernel if self.transposed is None else ops.transpose(self.transposed())
        x_NX = ops.reshape(x, (-1, x.shape[-1]))
        y_NY = ops.matmul(x_NX, kernel)
        if self.adapter_a is not None:
            y_NY = ops.add(y_NY, self.adapter_scale * ops.matmul(ops.matmul(x_NX, self.adapter_a), self.adapter_b))
        if self.use_bias:
            y_NY = add_bias(y_NY, self.bias)
        return ops.reshape(y_NY, (*leading_shape(x), self.units))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)


@contextlib.contextmanager
def transposed_kernels(model):
    """While graphs are traced in this block, the `Linear` layers of `model` multiply by W' (Y, X), stored that way round.

    A decoding step reads every weight for a few rows of numbers, and TensorFlow's CPU kernels read W' faster than W
    (benchmarks/LOG.md).

    Yields:
        The list of the variables that such graphs read: those of the model, with W' in place of W.
    """
    linears = [layer for layer in private.inner_layers(model) if isinstance(layer, Linear)]
    replaced = {id(layer.kernel) for layer in linears}
    variables = [variable for variable in model.variables if id(variable) not in replaced]
    try:
        for layer in linears:
            transposed = keras.Variable(ops.transpose(layer.kernel), trainable=False, name="turned_kernel")
            variables.append(transposed)
            # A function, which Keras does not take for a weight of the layer.
            layer.transposed = functools.partial(ops.cast, transposed, layer.compute_dtype)
        yield variables
    finally:
        for layer in linears:
            layer.transposed = None
