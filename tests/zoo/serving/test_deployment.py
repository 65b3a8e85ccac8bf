"""The files that start a server, read as their readers read them."""

import json
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from zoo.serving import deployment

# BatchingParameters of tensorflow_serving/servables/tensorflow/session_bundle_config.proto, which the package of the protos
# leaves out.
BATCHING_FIELDS = {
    "max_batch_size": (1, "Int64Value"), "batch_timeout_micros": (2, "Int64Value"), "max_enqueued_batches": (3, "Int64Value"),
    "num_batch_threads": (4, "Int64Value"), "thread_pool_name": (5, "StringValue"), "allowed_batch_sizes": (6, None),
    "pad_variable_length_inputs": (7, None),
}  # fmt: skip
# Of tensorflow_serving/model_servers/main.cc, those that are used here.
SERVER_FLAGS = {
    "port", "rest_api_port", "model_config_file", "enable_batching", "batching_parameters_file", "xla_cpu_compilation_enabled",
}  # fmt: skip


def batching_parameters():
    """The message class that a server parses the batching file with."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="batching.proto", package="tensorflow.serving", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    message = file.message_type.add(name="BatchingParameters")
    for name, (number, kind) in BATCHING_FIELDS.items():
        plain = field.TYPE_BOOL if name.startswith("pad") else field.TYPE_INT64
        made = message.field.add(
            name=name, number=number, type=field.TYPE_MESSAGE if kind else plain, label=field.LABEL_OPTIONAL
        )
        if kind:
            made.type_name = f".google.protobuf.{kind}"
    message.field[5].label = field.LABEL_REPEATED
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.serving.BatchingParameters"))


@pytest.mark.parametrize(("xla", "streams"), [(False, False), (False, True), (True, True)])
def test_deployment_files_are_what_their_readers_take(xla, streams, tmp_path):
    import yaml
    from tensorflow_serving.config import model_server_config_pb2

    signatures = ["serving_default", *["decode_step"] * streams]
    deployment.write(tmp_path, "bag_of_words", signatures, '[{"question": "?", "context": ""}]', xla)
    folder = tmp_path / "deployment"
    text = {path.name: path.read_text(encoding="utf8") for path in folder.iterdir()}
    config = text_format.Parse(text["models.config"], model_server_config_pb2.ModelServerConfig())
    assert [(c.name, c.base_path, c.model_platform) for c in config.model_config_list.config] == [
        ("bag_of_words", "/models/bag_of_words", "tensorflow")
    ]
    batching = text_format.Parse(text["batching_parameters.txt"], batching_parameters()())
    sizes = list(batching.allowed_batch_sizes)
    assert sizes == sorted(sizes) and sizes[-1] == batching.max_batch_size.value  # as the proto's comment demands
    assert batching.num_batch_threads.value >= 1 and not batching.pad_variable_length_inputs

    compose = yaml.safe_load(text["docker-compose.yaml"])["services"]["bag_of_words"]
    pod, service = yaml.safe_load_all(text["kubernetes.yaml"])
    container = pod["spec"]["template"]["spec"]["containers"][0]
    for arguments in (compose["command"], container["args"]):
        flags = [argument.removeprefix("--").partition("=") for argument in arguments]
        assert {name for name, _, _ in flags} <= SERVER_FLAGS
        assert ("xla_cpu_compilation_enabled" in {name for name, _, _ in flags}) == xla
        paths = [path for _, _, path in flags if path.startswith("/")]
        # Steps of streams that are not equally far cannot be joined; a server takes the file only together with the flag.
        batching = ["batching_parameters.txt"] * (not streams)
        assert sorted(Path(path).name for path in paths) == [*batching, "models.config"]
        assert ("enable_batching" in {name for name, _, _ in flags}) == bool(batching)
        assert {str(Path(path).parent) for path in paths} == {"/models/bag_of_words/deployment"}  # where the volume is
    assert compose["volumes"] == ["..:/models/bag_of_words:ro"]
    assert compose["healthcheck"]["test"][:3] == ["CMD", "bash", "-c"]  # a plain sh knows no /dev/tcp
    assert container["volumeMounts"][0]["mountPath"] == "/models/bag_of_words"
    assert container["readinessProbe"]["httpGet"]["path"] == "/v1/models/bag_of_words"
    assert pod["metadata"]["name"] == service["metadata"]["name"] == "bag-of-words"  # a DNS label has no underscore
    assert service["spec"]["selector"].items() <= pod["spec"]["template"]["metadata"]["labels"].items()
    assert ("--xla_cpu_compilation_enabled" in text["README.md"]) == xla
    for switched in ("docker-compose.yaml", "kubernetes.yaml"):  # the comments, made lines, are right as well
        first, *_ = yaml.safe_load_all(text[switched].replace("# - ", "- "))
        found = json.dumps(first)
        assert "--enable_batching" in found and "--batching_parameters_file=/models/bag_of_words/deployment/batching_" in found
    assert ("cannot be joined" in text["README.md"]) == streams == ("stream_client.py" in text)
    assert """-d '{"instances": [{"question": "?", "context": ""}]}'""" in text["README.md"]
    if streams:
        compile(text["stream_client.py"], "stream_client.py", "exec")


def test_the_curl_line_asks_with_the_longest_plain_row():
    requests = [{"signature": "serving_default", "inputs": {"prompt": ["", "It's", "naïve but long"]}}]
    assert deployment.example_instances(requests) == '["It\'s"]'
    line = deployment.curl_command("m", deployment.example_instances(requests))
    assert line.startswith("curl -d '{\"instances\": [\"It'\\''s\"]}' ")
    assert deployment.example_instances(requests, {"k": np.array([10], np.int32)}) == '[{"prompt": "It\'s", "k": 10}]'
