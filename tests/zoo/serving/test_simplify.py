"""A graph with less in it answers the same."""

import collections

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from zoo.serving import c_api
from zoo.serving.simplify import simplify


class Model(tf.Module):
    def __init__(self):
        super().__init__()
        self.count, self.weight = tf.Variable(0), tf.Variable(2.0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def answer(self, x):
        tf.exp(x)  # nobody asks for it
        twice = (x + 3.0) * (x + 3.0)
        self.count.assign_add(1)
        self.count.assign_add(1)  # the same again, but it is done twice
        _, total = tf.while_loop(lambda i, t: i < 3, lambda i, t: (i + 1, t + twice + tf.nn.relu(x)), (0, tf.zeros_like(x)))
        return {"total": total, "once": x + 3.0, "count": self.count.read_value()}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def weigh(self, x):
        return {"weighed": (x + self.weight) * (x + self.weight) - self.weight}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path, model = str(tmp_path_factory.mktemp("leaner")), Model()
    tf.saved_model.save(model, path, signatures={"answer": model.answer, "weigh": model.weigh})
    simplify(path)
    return path


def functions(path):
    """Operations and their numbers, of each function of a SavedModel by the beginning of its name."""
    with open(f"{path}/saved_model.pb", "rb") as file:
        graph = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs[0].graph_def
    by_name = {f.signature.name.removeprefix("__inference_").rsplit("_", 1)[0]: f.node_def for f in graph.library.function}
    return {name: list(nodes) for name, nodes in by_name.items()}


def test_equal_operations_are_one_and_unused_ones_none(path):
    nodes = functions(path)["answer"]
    numbers = collections.Counter(node.op for node in nodes)
    assert numbers["AddV2"] == numbers["Mul"] == 1 and numbers["Exp"] == 0
    assert numbers["AssignAddVariableOp"] == 2
    assert sum(node.op == "Const" and node.attr["dtype"].type == tf.float32.as_datatype_enum for node in nodes) == 1


def test_a_variable_that_nothing_writes_is_read_once(path):
    assert [node.op for node in functions(path)["weigh"] if node.op in ("ReadVariableOp", "AddV2", "Mul")] == [
        "ReadVariableOp", "AddV2", "Mul",
    ]  # fmt: skip


def test_the_answers_are_the_same_through_both_loaders(path):
    x = np.array([-2.0, 0.0, 1.5], np.float32)
    expected = 3 * ((x + 3) ** 2 + np.maximum(x, 0))
    loaded = tf.saved_model.load(path)
    for count in (2, 4):
        answer = loaded.signatures["answer"](x=tf.constant(x))
        np.testing.assert_allclose(answer["total"], expected)
        assert answer["count"] == count
        np.testing.assert_allclose(loaded.signatures["weigh"](x=tf.constant(x))["weighed"], (x + 2) ** 2 - 2)
    answer = c_api.SavedModel(path).run("answer", {"x": x})
    np.testing.assert_allclose(answer["total"], expected)
    np.testing.assert_array_equal(answer["once"], x + 3)
    assert answer["count"] == 2
