"""A matrix product with bias, over the last axis.

Shape letters: N all leading axes in one, X input width, Y output width.
"""

import keras
from keras import ops


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
        self.units, self.use_bias, self.stddev = units, use_bias, stddev

    def build(self, input_shape):
        normal = keras.initializers.RandomNormal(stddev=self.stddev)
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), initializer=normal, name="kernel")
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias") if self.use_bias else None

    def call(self, x):
        leading = ops.shape(x)[:-1]
        y_NY = ops.matmul(ops.reshape(x, (-1, x.shape[-1])), self.kernel)
        if self.use_bias:
            y_NY = ops.add(y_NY, self.bias)
        return ops.reshape(y_NY, (*leading, self.units))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)
