"""TF Serving's REST protocol: what a request's JSON means to a signature, and the JSON of its answer.

    request = read_request(b'{"signature_name": "generate", "instances": [{"prompt": "The"}]}')
    answer = model.run(request.signature, tensors(request, model.signatures[request.signature]))
    write_answer(answer, request.by_row)

After json_tensor.cc and http_rest_api_handler.cc of tensorflow/serving: row form (`instances`), column form (`inputs`),
`signature_name`, `{"b64": ...}` for bytes, errors as `{"error": ...}`. An input with a default may be left out in both forms.
"""

import base64
import binascii
import json
import math
from typing import Any, NamedTuple

import numpy as np

from zoo.serving.c_api import DTYPES, STRING, RequestError, plainly

DEFAULT_SIGNATURE = "serving_default"
MOST_DIMENSIONS = 32
LARGEST_FLOAT32 = float(np.finfo("float32").max)
BYTES_SUFFIX = "_bytes"  # of the name of an output whose strings are sent as base64
# Status of TensorFlow -> status of HTTP.
STATUSES = {
    "INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "OUT_OF_RANGE": 400, "NOT_FOUND": 404, "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501, "UNAVAILABLE": 503,
}  # fmt: skip
TYPE_NAMES = {
    "float32": "DT_FLOAT", "float64": "DT_DOUBLE", "int32": "DT_INT32", "uint8": "DT_UINT8", "int8": "DT_INT8",
    "object": "DT_STRING", "int64": "DT_INT64", "bool": "DT_BOOL", "bfloat16": "DT_BFLOAT16",
}  # fmt: skip


class Request(NamedTuple):
    """A request whose JSON has been read: the signature, the values as JSON has them, and whether they come row by row."""

    signature: str
    values: Any
    by_row: bool


class Fault(Exception):
    """A request that cannot be answered, with its status of HTTP; its text is what `error` says in the body."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


def fault_of(error):
    """The `Fault` that a `RequestError` means to a client of REST."""
    return Fault(STATUSES.get(error.code, 500), plainly(str(error).removeprefix(f"{error.code}: ")))


def unknown(name, version=None, state=False):
    """The `Fault` of a model or a version that is not served, in TF Serving's words.

    Args:
        name: of the model.
        version: its number, if the request names one.
        state: whether the request asks for the status.
    """
    if state:
        asked = "any versions" if version is None else f"version {version}"
        return Fault(404, f"Could not find {asked} of model {name}")
    asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
    return Fault(404, f"Servable not found for request: {asked}")


def write_error(message):
    """The body of an error, bytes."""
    return json.dumps({"error": message}, ensure_ascii=False).encode("utf8", "replace")


def read_request(body):
    """The `Request` in the body, bytes, of a `:predict`. Raises Fault."""
    if not body:
        raise Fault(400, "JSON Parse error: The document is empty")
    try:
        document = json.loads(body)
    except ValueError as error:
        raise Fault(400, f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise Fault(400, f"JSON Value: {_shown(document)} Is not object")
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise Fault(400, f"JSON Value: {_shown(name)} not formatted correctly. 'signature_name' key must be a string value.")
    forms = [key for key in ("instances", "inputs") if key in document]
    if not forms:
        raise Fault(400, "Missing 'inputs' or 'instances' key")
    if len(forms) == 2:
        raise Fault(400, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist")
    values, by_row = document[forms[0]], forms[0] == "instances"
    if by_row and not isinstance(values, list):
        raise Fault(400, f"JSON Value: {_shown(values)} Expecting 'instances' to be a list/array")
    if by_row and not values:
        raise Fault(400, "JSON Value: [] No values in 'instances' array")
    return Request(name or DEFAULT_SIGNATURE, values, by_row)


def signature_of(request, signatures):
    """The `Signature` that a request names. Raises Fault."""
    if request.signature not in signatures:
        raise Fault(400, f'Serving signature name: "{request.signature}" not found in signature def')
    return signatures[request.signature]


def tensors(request, signature):
    """What a request gives a signature: name -> array, strings as bytes in an object array. Raises Fault."""
    return (_of_rows if request.by_row else _of_columns)(request.values, signature)


def _of_rows(rows, signature):
    """The arrays of a list of values, where there is one input, or of a list of objects, one a row with equal keys."""
    named = _is_object(rows[0])
    if not named:
        rows = [_only(row, signature, f"Expecting value/list but got object at item {i} of input list", "instances")
                for i, row in enumerate(rows)]  # fmt: skip
    names = rows[0].keys() if _is_object(rows[0]) else ()
    for i, row in enumerate(rows):
        if not _is_object(row):
            raise Fault(400, f"Expecting object but got list at item {i} of input list")
        if row.keys() != names or not _fit(names, signature):
            wanted = ",".join(sorted(signature.inputs))
            raise Fault(400, f"Failed to process element: {i} of 'instances' list. JSON object: {_shown(row)} keys must be "
                        f"equal to: {wanted}")  # fmt: skip
    columns = {}
    for name in names:
        parts = []
        for i, row in enumerate(rows):
            try:
                parts.append(_array(row[name], signature.inputs[name].dtype))
                _same_shape(parts[0].shape, parts[-1].shape)
            except Fault as error:
                sentence = f"Failed to process element: {i} key: {name} of 'instances' list. Error: {error}"
                raise Fault(400, sentence) from error
        columns[name] = np.stack(parts)
    return columns


def _of_columns(values, signature):
    """The arrays of an object of columns, or of a plain list where there is one input."""
    if not _is_object(values):
        values = _only(values, signature, "", "inputs")
    for name in signature.inputs:
        if name not in values and name not in signature.defaults:
            raise Fault(400, f"Missing named input: {name} in 'inputs' object.")
    # A name that the signature does not have is passed over, as by the server.
    return {name: _array(values[name], slot.dtype) for name, slot in signature.inputs.items() if name in values}


def _only(value, signature, on_object, key):
    if _is_object(value):
        raise Fault(400, on_object)
    if len(signature.inputs) > 1:
        raise Fault(400, f"{key} is a plain value/list, but expecting an object as multiple input tensors required as per "
                    "tensorinfo_map")  # fmt: skip
    return {next(iter(signature.inputs)): value}


def _fit(names, signature):
    return names <= signature.inputs.keys() and signature.inputs.keys() - signature.defaults.keys() <= names


def _same_shape(first, other):
    if first != other:
        raise Fault(400, f"Expecting shape {list(first)} but got: {list(other)}")


def _is_base64(value):
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def _is_object(value):
    return isinstance(value, dict) and not _is_base64(value)


def _array(value, dtype):
    """A value of JSON as an array of a DataType: nothing is rounded, cut or taken for another type. Raises Fault."""
    shape, inner = [], value
    while isinstance(inner, list):
        shape.append(len(inner))
        if not inner:
            break
        inner = inner[0]
    if len(shape) > MOST_DIMENSIONS:
        raise Fault(400, f"JSON Value: {_shown(value)} has more than {MOST_DIMENSIONS} dimensions")
    leaves = []
    _collect(value, shape, 0, leaves, dtype)
    array = np.empty(len(leaves), _numpy_type(dtype))
    try:
        array[:] = leaves
    except OverflowError as error:
        raise Fault(400, f"JSON Value: {_shown(value)} is too large for {TYPE_NAMES[DTYPES[dtype]]}") from error
    return array.reshape(shape)


def _numpy_type(dtype):
    return "uint16" if DTYPES[dtype] == "bfloat16" else DTYPES[dtype]


def _collect(value, shape, level, leaves, dtype):
    if not isinstance(value, list):
        if level != len(shape):
            raise Fault(400, f"JSON Value: {_shown(value)} found at incorrect level: {level + 1} in the JSON DOM. Expected at "
                        f"level: {len(shape)}")  # fmt: skip
        leaves.append(_leaf(value, dtype))
        return
    if level >= len(shape):
        raise Fault(400, f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise Fault(400, f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}")
    for inner in value:
        _collect(inner, shape, level + 1, leaves, dtype)


def _leaf(value, dtype):
    name = DTYPES[dtype]
    if dtype == STRING and _is_base64(value):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise Fault(400, "Unable to base64 decode") from error
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if dtype == STRING:
        right = isinstance(value, str)
    elif name == "bool":
        right = isinstance(value, bool)
    elif name.startswith("float"):
        right = is_number
    else:
        right = is_number and isinstance(value, int) and name != "bfloat16"
    if not right:
        raise Fault(400, f"JSON Value: {_shown(value)} Type: {_type_name(value)} is not of expected type: {TYPE_NAMES[name]}")
    if name == "float32" and LARGEST_FLOAT32 < abs(value) != math.inf:
        raise Fault(400, f"Cannot convert JSON value: {_shown(value)} to float without loss of precision.")
    if dtype != STRING:
        return value
    try:
        return value.encode("utf8")
    except UnicodeEncodeError as error:
        raise Fault(400, f"JSON Value: {_shown(value)} holds half of a surrogate pair") from error


def _type_name(value):
    for kind, name in ((bool, "Boolean"), (str, "String"), (dict, "Object"), (list, "Array"), ((int, float), "Number")):
        if isinstance(value, kind):
            return name
    return "Null"


def _shown(value):
    """A value for a message, in at most 80 characters."""
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def write_answer(outputs, by_row):
    """The body, bytes, of an answer: name -> array. One output alone goes without its name. Raises Fault."""
    values = {name: _plain(array, name.endswith(BYTES_SUFFIX)) for name, array in sorted(outputs.items())}
    if not by_row:
        whole = {"outputs": values if len(values) > 1 else next(iter(values.values()))}
    else:
        sizes = {name: array.shape[0] if array.ndim else None for name, array in outputs.items()}
        if len(set(sizes.values())) > 1:
            raise Fault(400, f"The outputs have no common number of rows, {sizes}: ask with 'inputs'.")
        rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        whole = {"predictions": rows if len(values) > 1 else next(iter(values.values()))}
    return json.dumps(whole, ensure_ascii=False).encode("utf8", "replace")


def _plain(array, as_base64):
    if array.dtype != object:
        return array.tolist()
    spell = (lambda text: {"b64": base64.b64encode(text).decode()}) if as_base64 else _decoded
    flat = np.empty(array.size, object)
    flat[:] = [spell(text) for text in array.flat]
    return flat.reshape(array.shape).tolist()


def _decoded(text):
    return text.decode("utf8", "replace")


def status_body(versions):
    """The body of a model's status: `versions` is a list of (number, state, error message or "")."""
    entries = [
        {
            "version": str(number),
            "state": state,
            "status": {"error_code": "INTERNAL" if message else "OK", "error_message": message},
        }
        for number, state, message in versions
    ]
    return json.dumps({"model_version_status": entries}, indent=1).encode()


def metadata(name, version, signatures):
    """What `/metadata` says of a model, as JSON values: its signatures as their protocol buffers are printed."""
    described = {
        key: {
            "inputs": {name: _tensor_info(slot) for name, slot in signature.inputs.items()},
            "outputs": {name: _tensor_info(slot) for name, slot in signature.outputs.items()},
            "method_name": "tensorflow/serving/predict",
            "defaults": {name: _tensor_proto(array) for name, array in signature.defaults.items()},
        }
        for key, signature in sorted(signatures.items())
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(version)},
        "metadata": {"signature_def": {"signature_def": described}},
    }


def _shape(sizes):
    dims = [] if sizes is None else [{"size": str(size), "name": ""} for size in sizes]
    return {"dim": dims, "unknown_rank": sizes is None}


def _tensor_info(slot):
    return {"dtype": TYPE_NAMES[DTYPES[slot.dtype]], "tensor_shape": _shape(slot.shape), "name": slot.tensor}


def _tensor_proto(array):
    if array.dtype == object:
        strings = [base64.b64encode(text).decode() for text in array.flat]
        return {"dtype": TYPE_NAMES["object"], "tensor_shape": _shape(array.shape), "string_val": strings}
    content = base64.b64encode(array.tobytes()).decode()
    return {"dtype": TYPE_NAMES[array.dtype.name], "tensor_shape": _shape(array.shape), "tensor_content": content}


def predict(model, body):
    """The body of the answer of a `SavedModel` to the body of a `:predict`. Raises Fault."""
    try:
        request = read_request(body)
        arrays = tensors(request, signature_of(request, model.signatures))
        return write_answer(model.run(request.signature, arrays), request.by_row)
    except RecursionError as error:
        raise Fault(400, "JSON Parse error: lists are nested too deep") from error
    except RequestError as error:
        raise fault_of(error) from error
