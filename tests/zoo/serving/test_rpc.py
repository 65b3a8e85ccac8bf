"""The PredictionService of the playground, asked by tensorflow-serving-api's own stub."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

from tests import exports
from zoo.config import Refusal
from zoo.serving import rpc, stream_client
from zoo.serving.versions import Versions

MOST = 1_000_000


@pytest.fixture(scope="module")
def port():
    models = {
        "gpt": Versions(exports.directory("gpt", "language_modeling")),
        "words": Versions(exports.directory("bag_of_words", "classification")),
    }
    server, number = rpc.serve(models, "127.0.0.1", 0, MOST)
    yield number
    server.stop(grace=0).wait()


@pytest.fixture(scope="module")
def stub(port):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def request(signature="", model="gpt", outputs=(), version=None, **inputs):
    made = predict_pb2.PredictRequest()
    made.model_spec.name, made.model_spec.signature_name = model, signature
    if version:
        made.model_spec.version.value = version
    for name, value in inputs.items():
        made.inputs[name].CopyFrom(value if hasattr(value, "tensor_shape") else tf.make_tensor_proto(value))
    made.output_filter.extend(outputs)
    return made


def test_an_answer_is_what_the_export_answers(stub):
    seed = np.array([3], np.int64)
    answer = stub.Predict(request("generate", prompt=["The"], max_new_tokens=np.array([7], np.int32), seed=seed))
    wanted = exports.served("gpt", "language_modeling").run("generate", {"prompt": ["The"], "max_new_tokens": [7], "seed": [3]})
    assert answer.outputs.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(tf.make_ndarray(answer.outputs[name]), array)
    spec = answer.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("gpt", 1, "generate")


def test_some_outputs_alone(stub):
    answer = stub.Predict(request("classify", "words", ["scores"], version=1, text=["the cat", "a dog"]))
    assert list(answer.outputs) == ["scores"] and tf.make_ndarray(answer.outputs["scores"]).shape == (2, 3)
    assert stub.Predict(request(model="words", text=["the cat"])).model_spec.signature_name == "serving_default"


def test_the_stream_client_of_an_export_writes_what_generate_writes(port):
    predict = stream_client.Grpc("127.0.0.1", port, "gpt", 60)
    pieces = list(stream_client.stream(predict, "The", max_new_tokens=9))
    wanted = exports.served("gpt", "language_modeling").run("generate", {"prompt": ["The"], "max_new_tokens": [9]})
    assert len(pieces) > 1 and "The" + "".join(pieces) == wanted["text"][0].decode("utf8", "replace")


def test_metadata_are_the_signatures(stub):
    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    asked.model_spec.name = "gpt"
    answer, told = stub.GetModelMetadata(asked), get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(told) and answer.model_spec.version.value == 1
    assert told.signature_def["generate"].inputs["temperature"].dtype == tf.float32.as_datatype_enum
    assert told.signature_def.keys() == exports.served("gpt", "language_modeling").signatures.keys()


WIDE = tf.make_tensor_proto(np.array([1], np.int32))
WIDE.tensor_shape.dim[0].size = 10**12
BELOW = tf.make_tensor_proto(np.array([1], np.int32))
BELOW.tensor_shape.dim[0].size = -1
TORN = tf.make_tensor_proto(np.arange(4, dtype=np.int32))
TORN.tensor_content = TORN.tensor_content[:-3]


@pytest.mark.parametrize(("asked", "code", "words"), [
    (request(model="no", prompt=["a"]), "NOT_FOUND", "Servable not found for request: Latest(no)"),
    (request(model="no", version=3, prompt=["a"]), "NOT_FOUND", "Servable not found for request: Specific(no, 3)"),
    (request(version=9, prompt=["a"]), "NOT_FOUND", "Specific(gpt, 9)"),
    (request("no", prompt=["a"]), "FAILED_PRECONDITION", 'Serving signature key "no" not found.'),
    (request("generate", outputs=["no"], prompt=["a"]), "INVALID_ARGUMENT", "output tensor alias not found in signature: no"),
    (request("generate", outputs=["text"] * 2, prompt=["a"]), "INVALID_ARGUMENT", "duplicate output tensor alias: text"),
    (request("generate"), "INVALID_ARGUMENT", "Missing but required: {prompt}"),
    (request("generate", prompt=["a"], no=[1]), "INVALID_ARGUMENT", "Sent extra: {no}"),
    (request("generate", prompt=[1.0]), "INVALID_ARGUMENT", "prompt takes DT_STRING, got DT_FLOAT"),
    (request("generate", prompt=["a"], top_k=[1j]), "INVALID_ARGUMENT", "top_k takes DT_INT32, got DataType 18"),
    (request("generate", prompt=["a"], top_k=WIDE), "INVALID_ARGUMENT", "at most 1,000,000 values"),
    (request("generate", prompt=["a"], top_k=BELOW), "INVALID_ARGUMENT", "at most 1,000,000 values"),
    (request("generate", prompt=["a"], top_k=TORN), "INVALID_ARGUMENT", "top_k is damaged"),
    (request("generate", prompt=["a"], temperature=np.array([-1], np.float32)), "INVALID_ARGUMENT", "is 0 (greedy)"),
    (request("generate", prompt=["a" * 1_100_000]), "RESOURCE_EXHAUSTED", "larger than max"),
])  # fmt: skip
def test_a_wrong_request_gets_a_status_and_a_sentence(stub, asked, code, words):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(asked)
    assert caught.value.code().name == code and words in caught.value.details(), caught.value.details()


@pytest.mark.parametrize(("name", "fields", "words"), [
    (None, ["signature_def"], "Missing ModelSpec"),
    ("gpt", [], "at least one metadata_field"),
    ("gpt", ["no"], "Metadata field no is not supported"),
])  # fmt: skip
def test_a_wrong_request_for_metadata(stub, name, fields, words):
    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    if name:
        asked.model_spec.name = name
    with pytest.raises(grpc.RpcError, match=words) as caught:
        stub.GetModelMetadata(asked)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_the_methods_that_are_not_there_say_so_without_a_traceback(stub, caplog):
    from tensorflow_serving.apis import classification_pb2, inference_pb2, regression_pb2

    for method, request in (
        (stub.Classify, classification_pb2.ClassificationRequest()),
        (stub.Regress, regression_pb2.RegressionRequest()),
        (stub.MultiInference, inference_pb2.MultiInferenceRequest()),
    ):
        with pytest.raises(grpc.RpcError, match="Only Predict and GetModelMetadata") as caught:
            method(request)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert not caplog.records


def test_a_port_that_is_taken_is_refused(port):
    with pytest.raises(Refusal, match="choose another --grpc_port"):
        rpc.serve({}, "127.0.0.1", port, MOST)
