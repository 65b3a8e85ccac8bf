"""Names that are not public are there in the versions that are installed."""

from importlib import metadata

import keras
import tensorflow as tf

from zoo import private

SEEN = f"seen in {private.SEEN}; here are keras {metadata.version('keras')}, tensorflow {metadata.version('tensorflow')}"


def test_a_built_layer_takes_a_weight_only_where_it_is_opened():
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    with private.opened(layer):
        layer.more = layer.add_weight((2,), name="more")
    assert layer.weights[-1] is layer.more, SEEN
    try:
        layer.again = layer.add_weight((2,), name="again")
    except ValueError as error:
        assert "locked" in str(error) or "build" in str(error), SEEN
    private.forget(layer, [layer.more])
    assert len(layer.weights) == 2, SEEN


def test_inner_layers_are_all_of_them():
    inner = keras.layers.Dense(1, name="inner")
    model = keras.Sequential([keras.Input((2,)), keras.Sequential([inner])])
    layers = private.inner_layers(model)
    assert model in layers and inner in layers, SEEN


def test_a_variable_is_stored_in_one_of_tensorflow():
    variable = keras.Variable([1.0, 2.0])
    assert isinstance(private.stored(variable), tf.Variable), SEEN
    plain = tf.Variable(1.0)
    assert private.stored(plain) is plain
    with private.storing([variable], [tf.Variable([3.0, 4.0])]):
        assert variable.numpy().tolist() == [3.0, 4.0], SEEN
    assert variable.numpy().tolist() == [1.0, 2.0], SEEN


def test_optimizers_have_the_hooks_that_ours_override():
    assert not [name for name in private.OPTIMIZER_HOOKS if not hasattr(keras.optimizers.Optimizer, name)], SEEN


def test_ops_and_fingerprints(tmp_path):
    assert private.op_definition("MatMul").input_arg[0].name == "a" and private.op_definition("NoSuchOp") is None, SEEN
    module = tf.Module()
    module.double = tf.function(lambda x: 2 * x, input_signature=[tf.TensorSpec((), tf.float32)])
    tf.saved_model.save(module, str(tmp_path))
    assert len(private.fingerprint(tmp_path)) > 8, SEEN
