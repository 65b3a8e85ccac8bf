"""TF Serving's PredictionService over gRPC, for exports of this process: `Predict` and `GetModelMetadata`.

    server = serve({"gpt": versions}, "127.0.0.1", 8500, max_bytes=64_000_000)
    server.stop(grace=3)

Needs grpcio and tensorflow-serving-api. After predict_util.cc and get_model_metadata_impl.cc of tensorflow/serving; the other
methods of the service answer UNIMPLEMENTED.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor

import grpc
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

from zoo.config import Refusal
from zoo.serving import rest
from zoo.serving.c_api import DTYPES, RequestError, plainly

SIGNATURES = "signature_def"  # the one field of a model's metadata
STATUSES = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND"}  # of HTTP -> of gRPC
BFLOAT16 = tf.bfloat16.as_numpy_dtype


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers as TF Serving does.

    Args:
        models: name -> `zoo.serving.versions.Versions`.
        most: values of one tensor: a few bytes can name a tensor that fills the memory.
    """

    def __init__(self, models, most):
        self.models, self.most = models, most

    def Predict(self, request, context):
        """The outputs of a signature, all of them or those that `output_filter` names."""
        return _answered(context, self._predict, request)

    def GetModelMetadata(self, request, context):
        """The signatures of a model."""
        return _answered(context, self._metadata, request)

    def Classify(self, request, context):
        """Classification, regression and several models at once are not here."""
        sentence = "Only Predict and GetModelMetadata are answered here; TF Serving has the rest."
        context.abort(grpc.StatusCode.UNIMPLEMENTED, sentence)

    Regress = MultiInference = Classify

    def _predict(self, request):
        name = request.model_spec.signature_name or rest.DEFAULT_SIGNATURE
        with self._borrowed(request.model_spec) as loaded:
            if name not in loaded.model.signatures:
                raise RequestError("FAILED_PRECONDITION", f'Serving signature key "{name}" not found.')
            wanted = loaded.model.signatures[name]
            chosen = _filtered(request.output_filter, wanted)
            _check_names(request.inputs, wanted)
            inputs = {key: _array(key, proto, wanted.inputs[key], self.most) for key, proto in request.inputs.items()}
            outputs = loaded.model.run(name, inputs)
            answer = predict_pb2.PredictResponse()
            _specify(answer.model_spec, request.model_spec.name, loaded.number)
            answer.model_spec.signature_name = name
        for key in chosen:
            answer.outputs[key].CopyFrom(_proto(outputs[key], wanted.outputs[key]))
        return answer

    def _metadata(self, request):
        if not request.HasField("model_spec"):
            raise RequestError("INVALID_ARGUMENT", "Missing ModelSpec")
        if not request.metadata_field:
            raise RequestError("INVALID_ARGUMENT", "GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != SIGNATURES:
                raise RequestError("INVALID_ARGUMENT", f"Metadata field {field} is not supported")
        answer = get_model_metadata_pb2.GetModelMetadataResponse()
        with self._borrowed(request.model_spec) as loaded:
            told = rest.metadata(request.model_spec.name, loaded.number, loaded.model.signatures)["metadata"][SIGNATURES]
            _specify(answer.model_spec, request.model_spec.name, loaded.number)
        signatures = json_format.ParseDict(told, get_model_metadata_pb2.SignatureDefMap(), ignore_unknown_fields=True)
        answer.metadata[SIGNATURES].Pack(signatures)
        return answer

    def _borrowed(self, spec):
        version = spec.version.value if spec.HasField("version") else None
        if spec.name not in self.models:
            raise rest.unknown(spec.name, version)
        return self.models[spec.name].borrowed(version)


def _answered(context, work, request):
    """What `work` makes of a request; what it refuses becomes a status."""
    try:
        return work(request)
    except rest.Fault as fault:
        code, sentence = STATUSES.get(fault.status, "INTERNAL"), str(fault)
    except RequestError as error:
        code, sentence = error.code, plainly(str(error).removeprefix(f"{error.code}: "))
    context.abort(getattr(grpc.StatusCode, code, grpc.StatusCode.UNKNOWN), sentence)


def _specify(spec, name, number):
    spec.name, spec.version.value = name, number


def _filtered(names, signature):
    """Names of the outputs that are asked for. Raises RequestError."""
    for name in names:
        if name not in signature.outputs:
            there = ",".join(sorted(signature.outputs))
            sentence = f"output tensor alias not found in signature: {name} Outputs expected to be in the set {{{there}}}."
            raise RequestError("INVALID_ARGUMENT", sentence)
        if list(names).count(name) > 1:
            raise RequestError("INVALID_ARGUMENT", f"duplicate output tensor alias: {name}")
    return list(names) or list(signature.outputs)


def _check_names(given, signature):
    """Raises RequestError where an input is missing that has no default, or one is there that the signature does not take."""
    extra, missing = set(given) - set(signature.inputs), set(signature.inputs) - set(signature.defaults) - set(given)
    if extra or missing:
        sizes = f"{len(given)}!={len(signature.inputs)}"
        sentence = f"input size does not match signature: {sizes}. Sent extra: {{{','.join(sorted(extra))}}}."
        raise RequestError("INVALID_ARGUMENT", f"{sentence} Missing but required: {{{','.join(sorted(missing))}}}.")


def _array(name, proto, slot, most):
    """The array in a TensorProto. Raises RequestError where its type is not the signature's, or where it is damaged."""
    if proto.dtype != slot.dtype:
        given = rest.TYPE_NAMES.get(DTYPES.get(proto.dtype), f"DataType {proto.dtype}")
        raise RequestError("INVALID_ARGUMENT", f"{name} takes {rest.TYPE_NAMES[DTYPES[slot.dtype]]}, got {given}.")
    sizes = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or min(sizes, default=0) < 0 or math.prod(sizes) > most:
        raise RequestError("INVALID_ARGUMENT", f"{name} has the shape {sizes}; at most {most:,} values are taken.")
    try:
        array = tf.make_ndarray(proto)
    except (ValueError, TypeError, OverflowError) as error:
        raise RequestError("INVALID_ARGUMENT", f"{name} is damaged: {' '.join(str(error).split())}") from error
    return array.view("uint16") if array.dtype == BFLOAT16 else array


def _proto(array, slot):
    if DTYPES[slot.dtype] == "bfloat16":
        array = array.view(BFLOAT16)
    return tf.make_tensor_proto(array, tf.as_dtype(slot.dtype), array.shape)


def serve(models, host, port, max_bytes):
    """Starts a server of the service in threads of its own.

    Args:
        models: name -> `Versions`.
        host, port: where it listens; port 0 takes a free one.
        max_bytes: of a request.

    Returns:
        The `grpc.Server`, and the port.

    Raises:
        Refusal: the port is taken.
    """
    options = [
        ("grpc.max_receive_message_length", max_bytes), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0),
    ]  # fmt: skip
    server = grpc.server(ThreadPoolExecutor(max(4, os.cpu_count() or 1), thread_name_prefix="rpc"), options=options)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(models, max_bytes), server)
    try:
        bound = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except RuntimeError as error:
        raise Refusal(f"Nothing can listen on {host}, port {port}; choose another --grpc_port or --host.") from error
    server.start()
    return server, bound
