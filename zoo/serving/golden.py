"""What an export is proved and warmed up with: requests, and the answers that Python gave.

assets.extra/golden.json                     for people and for zoo/serving/replay.py
assets.extra/tf_serving_warmup_requests      TFRecord of PredictionLog, which the server replays before it takes requests
"""

import inspect
import json
from pathlib import Path

import numpy as np
import tensorflow as tf

EXTRA = "assets.extra"
# An answer with more numbers than this is left out of golden.json: what is computed from it is checked.
MOST_NUMBERS = 4_096
# Nor are names in order of rank: rounding may exchange two that are as good as equal. Their numbers are compared.
RANKED = ("likeliest",)


def write(export, functions, left_out, requests, model_name, repeat=lambda request: None):
    """Answers the requests in Python and writes both files into the SavedModel at `export`.

    Args:
        functions: name -> concrete function.
        left_out: name -> the `defaults` of its arguments.
        requests: as of a task: (signature, inputs as lists), and perhaps the number of an earlier request whose answer
            is fed in besides.
        model_name: the name that the model is served under.
        repeat: is given each request with its answer as soon as it is made.

    Returns:
        What golden.json holds: a list of dicts of `signature`, `inputs`, `feed` and `outputs`.
    """
    folder = Path(export) / EXTRA
    folder.mkdir(exist_ok=True)
    golden, answers = [], []
    with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
        for name, inputs, *feed in requests:
            specs = _specs(functions[name])
            fed = {key: value for key, value in answers[feed[0]].items() if key in specs} if feed else {}
            tensors = {**fed, **{key: tf.constant(value, specs[key].dtype) for key, value in inputs.items()}}
            tensors |= {key: tf.constant(value) for key, value in left_out[name].items() if key not in tensors}
            answers.append(functions[name](**tensors))
            kept = [key for key, value in answers[-1].items() if tf.size(value) <= MOST_NUMBERS and key not in RANKED]
            outputs = {key: as_json(answers[-1][key]) for key in kept}
            golden.append({"signature": name, "inputs": inputs, "feed": feed[0] if feed else None, "outputs": outputs})
            repeat(golden[-1])
            writer.write(_prediction_log(model_name, name, _of_equal_rows(tensors)))
    (folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n", encoding="utf8")
    return golden


def _specs(function):
    """Name -> TensorSpec of what a concrete function takes."""
    return {spec.name: spec for spec in tf.nest.flatten(function.structured_input_signature)}


def defaults(function):
    """Name -> array of the arguments of a tf.function that a request may leave out."""
    parameters = inspect.signature(function.python_function).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


def _of_equal_rows(tensors):
    """With what stands for all rows repeated for each: a server that batches takes nothing else (ComputeInputSize of
    batching_session.cc), and a model whose warm-up is refused is not served."""
    rows = max(tensor.shape[0] for tensor in tensors.values())
    return {name: tf.repeat(tensor, rows, 0) if tensor.shape[0] == 1 else tensor for name, tensor in tensors.items()}


def as_json(tensor):
    """A tensor as lists; bytes that are not UTF-8 become surrogates, which JSON can hold."""
    array = tensor.numpy()
    if array.dtype != object:
        return array.tolist()
    return np.vectorize(lambda text: text.decode("utf8", "surrogateescape"), otypes=[object])(array).tolist()


# PredictionLog{6: PredictLog{1: PredictRequest{1: ModelSpec{1: name, 3: signature}, 2: map of inputs}}}, spelt out because
# the package that has these classes is not needed for anything else here; the tests read it with them.


def _prediction_log(model_name, signature, tensors):
    request = _field(1, _field(1, model_name.encode()) + _field(3, signature.encode()))
    for name in sorted(tensors):
        array = tensors[name].numpy()
        proto = tf.make_tensor_proto(array, tensors[name].dtype, shape=array.shape)
        request += _field(2, _field(1, name.encode()) + _field(2, proto.SerializeToString(deterministic=True)))
    return _field(6, _field(1, request))


def _field(number, data):
    """A length-delimited field of a protocol buffer."""
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value):
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    return bytes([*data, value])
