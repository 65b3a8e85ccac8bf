"""Names of Keras and TensorFlow that are not public: they are used here and nowhere else.

A new version may move them. `tests/zoo/test_private.py` then fails, names what is gone, and the versions that had it.
"""

import contextlib

SEEN = {"keras": "3.15.1", "tensorflow": "2.21.0"}  # the newest versions in which all of these names were there
# Modules of TensorFlow that its public names do not lead to.
SAVED_MODEL_CLI = "tensorflow.python.tools.saved_model_cli"
# Methods and attributes of Keras's optimizers that `trainers/engine/optimizers.py` overrides or reads.
OPTIMIZER_HOOKS = ("_backend_update_step", "_apply_weight_decay", "_use_weight_decay", "_get_variable_index")


def inner_layers(layer):
    """All layers within a layer or model, itself first."""
    return layer._flatten_layers()


@contextlib.contextmanager
def opened(layer):
    """In this block a layer that is built takes new weights, as Keras's own layers do for LoRA."""
    layer._tracker.unlock()
    try:
        yield
    finally:
        layer._tracker.lock()


def forget(layer, variables):
    """Takes weights away from a layer."""
    for variable in list(variables):
        layer._untrack_variable(variable)


def stored(variable):
    """The `tf.Variable` that a Keras variable stores its value in, without a cast; any other object as it is."""
    return getattr(variable, "_value", variable)


@contextlib.contextmanager
def storing(variables, values):
    """In this block Keras variables store their values in other `tf.Variable`s."""
    before = [variable._value for variable in variables]
    for variable, value in zip(variables, values, strict=True):
        variable._value = value
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable._value = value


def op_definition(name):
    """The `OpDef` of an op of TensorFlow, or None."""
    from tensorflow.python.framework import op_def_registry

    return op_def_registry.get(name)


def fingerprint(export):
    """The bytes of a SavedModel's `FingerprintDef`, as TensorFlow computes them from its directory."""
    from tensorflow.python.saved_model.pywrap_saved_model import fingerprinting

    return fingerprinting.CreateFingerprintDef(str(export))
