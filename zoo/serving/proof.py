"""The ways to prove an export that is already written; each takes the directory of a version and returns a sentence.

Raises Refusal at the first answer that differs from the golden one.
"""

import ast
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import tensorflow as tf

from zoo import private
from zoo.config import Refusal
from zoo.serving import c_api, golden, replay
from zoo.serving.ops import check_ops


def prove(export):
    """Repeats the golden requests of an export in a process that has neither TensorFlow's Python nor our code.

    Returns:
        A sentence that says how many requests gave the same answers.

    Raises:
        Refusal: an answer differs, or the SavedModel does not load.
    """
    with _clean_process(export) as process:
        process.wait()
    return _verdict(export, process)


@contextlib.contextmanager
def proving(export):
    """Proves an export that is still being made, on a core of its own.

    Gives a function that takes None once the export is written (meanwhile the process loads TensorFlow's library), and then
    each request, with its answer, as it is made: what golden.json holds of it. The end of the block waits for the last answer.

    Raises:
        Refusal: an answer differs, or the SavedModel does not load.
    """
    with _clean_process(export, "-", stdin=subprocess.PIPE) as process:

        def repeat(request):
            with contextlib.suppress(BrokenPipeError):  # it has found a difference, and says so at the end
                print(json.dumps(request), file=process.stdin, flush=True)

        yield repeat
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.wait()
    _verdict(export, process)


@contextlib.contextmanager
def _clean_process(export, *arguments, **pipes):
    """A process that replays an export. It does not outlive the block; afterwards its output is in `said` and `complained`."""
    # -I leaves out PYTHONPATH, the user's site directory and the program's own directory.
    command = [sys.executable, "-I", str(Path(replay.__file__).resolve()), str(Path(export).resolve()), *arguments]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        process = subprocess.Popen(command, stdout=said, stderr=complained, text=True, env=environment, **pipes)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            for file in (said, complained):
                file.seek(0)
            process.said, process.complained = said.read().strip(), complained.read().strip()


def _verdict(export, process):
    """What a process that replayed an export said; Refusal if it failed."""
    if process.returncode:
        reason = (process.complained or f"exit status {process.returncode}").splitlines()[-1]
        if reason.startswith("OSError: "):  # the library itself, not the model
            raise Refusal(reason.removeprefix("OSError: "))
        raise Refusal(f"In a clean process the SavedModel {export} fails or answers otherwise: {reason}")
    return process.said


def through_the_c_api(export):
    """In a process without TensorFlow's Python and without our code."""
    return f"C API: {prove(export)}."


def through_protos(export):
    """As a gRPC client and the server would speak: the warm-up records as PredictRequests, the answers as PredictResponses."""
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError:
        return "Protos: left out; pip install tensorflow-serving-api brings them."
    folder = Path(export) / golden.EXTRA
    requests = json.loads((folder / "golden.json").read_text(encoding="utf8"))
    records = [bytes(record.numpy()) for record in tf.data.TFRecordDataset(str(folder / "tf_serving_warmup_requests"))]
    if len(records) != len(requests):
        raise Refusal(f"The warm-up file holds {len(records)} records for {len(requests)} golden requests.")
    model = c_api.SavedModel(export)
    for record, expected in zip(records, requests, strict=True):
        log = prediction_log_pb2.PredictionLog.FromString(record)
        request = predict_pb2.PredictRequest.FromString(log.predict_log.request.SerializeToString())
        inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        answer = model.run(request.model_spec.signature_name, inputs)
        response = predict_pb2.PredictResponse()
        for name, value in answer.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value, shape=value.shape))
        response = predict_pb2.PredictResponse.FromString(response.SerializeToString())
        for name, value in expected["outputs"].items():
            if replay.differs(tf.make_ndarray(response.outputs[name]), value):
                raise Refusal(f"Through the protos, signature {expected['signature']} answers another {name}.")
    model.close()
    return f"Protos: {len(records)} PredictRequests from the warm-up file, the same answers in their PredictResponses."


def through_saved_model_cli(export):
    """As TensorFlow's own command line runs it: the default signature, one row."""
    requests = json.loads((Path(export) / golden.EXTRA / "golden.json").read_text(encoding="utf8"))
    request = next(request for request in requests if request["signature"] == "serving_default")
    row = max(
        range(len(next(iter(request["inputs"].values())))), key=lambda i: sum(len(v[i]) for v in request["inputs"].values())
    )
    given = {name: values[row].encode("utf8", "surrogateescape") for name, values in request["inputs"].items()}
    expression = ";".join(f"{name}=[{value!r}]" for name, value in given.items())
    code = f"import sys; from {private.SAVED_MODEL_CLI} import main; sys.exit(main())"
    command = [
        "run",
        "--dir",
        str(export),
        "--tag_set",
        "serve",
        "--signature_def",
        "serving_default",
        "--input_exprs",
        expression,
    ]
    result = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    if result.returncode:
        raise Refusal(f"saved_model_cli failed: {(result.stderr.strip() or 'no message').splitlines()[-1]}")
    for name, values in request["outputs"].items():
        printed = result.stdout.partition(f"Result for output key {name}:\n")[2].partition("Result for output key")[0]
        if isinstance(values[row], str) and ast.literal_eval(printed.strip()) != [
            values[row].encode("utf8", "surrogateescape")
        ]:
            raise Refusal(f"saved_model_cli answers another {name}: {printed.strip()}")
    return "saved_model_cli: the default signature gives the same answer."


def through_the_list_of_operations(export):
    """Against what a stock server registers."""
    check_ops(export)
    return "Operations: only what a stock server has."


CHECKS = (through_the_c_api, through_protos, through_saved_model_cli, through_the_list_of_operations)
