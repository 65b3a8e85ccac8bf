"""How the weights of an export are stored: float32, bfloat16 or int8, and laid out as a server reads them fastest.

    float32     as trained
    bfloat16    matrices and the computation in bfloat16: half the size, and the faster product on CPUs that have it
    int8        matrices as int8 with one float32 scale a channel (weight-only): a quarter of the size. They are dequantised
                once, while the model is loaded, since TensorFlow has no fast int8 product on CPU; the answers are float32's

Matrices of `Linear` layers are stored (out, in). Vectors stay float32. Nothing in a model knows of this: while a graph is
traced, reading a variable gives what is stored instead.

    w[y, x] ~ q[y, x] * scale[y],   scale[y] = max_x |w[y, x]| / 127     (Jacob et al. 2018, eq. 1, with zero point 0)

A channel is a row, unless rows are so short that their scales would take much of the room: then it is a column.
"""

import contextlib
import functools

import keras
import numpy as np
import tensorflow as tf

from zoo import private
from zoo.config import Refusal
from zoo.layers.linear import Linear, transposed_kernels

PRECISIONS = ("float32", "bfloat16", "int8")
# A row of so many numbers or more has a scale of its own in int8: 4 bytes beside 32.
LONG_ROW = 32


def at_precision(model, precision, task):
    """The model that computes at a precision: a twin of `model`, with the head of its task, for bfloat16; `model` itself
    otherwise.

    Raises:
        Refusal: the precision is unknown, or the model cannot take it.
    """
    if precision not in PRECISIONS:
        raise Refusal(f"An export's precision is {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}, got {precision!r}.")
    if precision != "float32" and not _matrices(model):
        raise Refusal(
            f"{model.registered_name} has tables and no matrices, which {precision} could store; export it in float32."
        )
    if precision != "bfloat16":
        return model
    base = model.without_head()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        twin = task.assemble(type(base)(base.config)).build_from_ids()
    finally:
        keras.config.set_dtype_policy(before)
    for variable, value in zip(twin.variables, model.variables, strict=True):
        variable.assign(value)
    return twin


@contextlib.contextmanager
def stored_weights(model, precision):
    """While graphs are traced in this block, `model` reads its weights as an export of that precision stores them.

    Yields:
        The objects that such graphs read, which a SavedModel must track and which must live as long as the graphs are called.
    """
    if precision == "float32":
        with transposed_kernels(model) as variables:
            yield [variable.value for variable in variables]
        return
    store = _Dequantised if precision == "int8" else _Half
    kernels = {id(layer.kernel): layer for layer in private.inner_layers(model) if isinstance(layer, Linear)}
    stored, reads = [], {}
    matrices = {id(variable) for variable in _matrices(model)}
    for variable in model.variables:
        if id(variable) not in matrices:
            stored.append(variable.value)
            continue
        layer = kernels.get(id(variable))
        value = variable.numpy()
        weight = store(np.ascontiguousarray(value.T) if layer else value, variable.path)
        stored.append(weight)
        if layer:
            # A function, which Keras does not take for a weight of the layer.
            layer.transposed = functools.partial(_read, weight)
        else:
            reads[id(variable)] = weight
    try:
        with _Reading(reads):
            yield stored
    finally:
        for layer in kernels.values():
            layer.transposed = None


def handle_of(weight):
    """What a graph captures that reads an object of `stored_weights`."""
    if isinstance(weight, tf.Variable):
        return weight.handle
    return weight.resource_handle if isinstance(weight, _Dequantised) else weight.value.handle


def _matrices(model):
    return [v for v in model.trainable_variables if len(v.shape) == 2 and v.dtype == "float32"]


def _read(weight):
    return weight.read()


class _Reading(keras.StatelessScope):
    """A scope in which some variables are read from elsewhere: id of a variable -> what has a `read()`."""

    def __init__(self, reads):
        super().__init__(initialize_variables=False)
        self.reads = reads

    def get_current_value(self, ref):
        weight = self.reads.get(id(ref))
        return None if weight is None else weight.read()


class _Half(tf.Module):
    """A matrix in bfloat16."""

    def __init__(self, value, name):
        super().__init__()
        self.value = tf.Variable(tf.cast(value, tf.bfloat16), trainable=False, name=f"{name}/bfloat16")

    def read(self):
        """The matrix, in bfloat16."""
        return self.value.read_value()


class _Dequantised(tf.saved_model.experimental.TrackableResource):
    """A matrix as int8 rows (or columns) with a scale each; as a resource it is made when the SavedModel is loaded, after its
    int8 values."""

    def __init__(self, value, name):
        super().__init__()
        largest = np.abs(value).max(int(value.shape[1] >= LONG_ROW), keepdims=True)
        scale = np.maximum(largest / 127, np.finfo(np.float32).tiny).astype(np.float32)
        self.path, self.shape = name, value.shape
        self.rows = tf.Variable(np.rint(value / scale).astype(np.int8), trainable=False, name=f"{name}/int8")
        self.scale = tf.Variable(scale, trainable=False, name=f"{name}/scale")
        for name, variable in (("rows", self.rows), ("scale", self.scale)):
            self._track_trackable(variable, name)  # a resource tracks nothing by itself
        self._initialize()

    def _create_resource(self):
        return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=self.shape, shared_name=f"{self.path}/dequantised")

    def _initialize(self):
        value = tf.cast(self.rows, tf.float32) * self.scale
        tf.raw_ops.AssignVariableOp(resource=self.resource_handle, value=value)

    def read(self):
        """The matrix, in float32."""
        value = tf.raw_ops.ReadVariableOp(resource=self.resource_handle, dtype=tf.float32)
        return tf.ensure_shape(value, self.shape)
