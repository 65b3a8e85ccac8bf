"""A SavedModel through TensorFlow's C API: the loader that TF Serving uses, with neither TensorFlow's Python nor our code.

    model = SavedModel("export/1")
    model.run("generate", {"prompt": ["The list"], "max_new_tokens": [20]})

Stands alone: numpy and the two libraries of the tensorflow package are all it needs. Inputs that a request leaves out are
filled in with the defaults of the signature, as the server does (predict_util.cc), and a request that does not fit is
refused by a sentence that says what the signature wants.
"""

import ctypes
import importlib.util
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

STRING = 7
# DataType of types.proto -> numpy.
DTYPES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    6: "int8",
    STRING: "object",
    9: "int64",
    10: "bool",
    14: "bfloat16",
}
CODES = {
    3: "INVALID_ARGUMENT",
    5: "NOT_FOUND",
    8: "RESOURCE_EXHAUSTED",
    9: "FAILED_PRECONDITION",
    11: "OUT_OF_RANGE",
    12: "UNIMPLEMENTED",
    13: "INTERNAL",
}


class Slot(NamedTuple):
    """One input or output of a signature: the tensor behind it, its DataType, its shape (None where unknown)."""

    tensor: str
    dtype: int
    shape: tuple | None


class Signature(NamedTuple):
    """Name -> `Slot` of inputs and outputs, and name -> array of the inputs that have a default."""

    inputs: dict
    outputs: dict
    defaults: dict


class RequestError(ValueError):
    """A request that was refused: `code` is the name of TensorFlow's status."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code


class _Output(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


class _Buffer(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("deallocator", ctypes.c_void_p)]


class _String(ctypes.Structure):
    """TF_TString, 24 opaque bytes."""

    _fields_ = [("opaque", ctypes.c_uint64 * 3)]


def library():
    """TensorFlow's C library, loaded without importing TensorFlow. Raises OSError if there is none."""
    spec = importlib.util.find_spec("tensorflow")
    if spec is None:
        raise OSError("The tensorflow package, whose libraries are needed, is not installed.")
    folder = Path(spec.submodule_search_locations[0])
    # Not RTLD_GLOBAL: the cryptography inside would then stand in for OpenSSL in whatever is loaded later.
    path = folder / "libtensorflow_cc.so.2"
    if not path.is_file():
        raise OSError(
            f"TensorFlow's package has no {path.name} here, through which an export is proved: export on Linux, and leave it "
            "out elsewhere with --noexport."
        )
    lib = ctypes.CDLL(str(path))
    pointer = ctypes.c_void_p
    for name, result, arguments in (
        ("TF_NewStatus", pointer, []),
        ("TF_DeleteStatus", None, [pointer]),
        ("TF_GetCode", ctypes.c_int, [pointer]),
        ("TF_Message", ctypes.c_char_p, [pointer]),
        ("TF_NewGraph", pointer, []),
        ("TF_DeleteGraph", None, [pointer]),
        ("TF_NewSessionOptions", pointer, []),
        ("TF_DeleteSessionOptions", None, [pointer]),
        ("TF_NewBuffer", ctypes.POINTER(_Buffer), []),
        ("TF_DeleteBuffer", None, [ctypes.POINTER(_Buffer)]),
        (
            "TF_LoadSessionFromSavedModel",
            pointer,
            [pointer, pointer, ctypes.c_char_p, pointer, ctypes.c_int, pointer, pointer, pointer],
        ),
        ("TF_CloseSession", None, [pointer, pointer]),
        ("TF_DeleteSession", None, [pointer, pointer]),
        ("TF_GraphOperationByName", pointer, [pointer, ctypes.c_char_p]),
        ("TF_AllocateTensor", pointer, [ctypes.c_int, pointer, ctypes.c_int, ctypes.c_size_t]),
        ("TF_DeleteTensor", None, [pointer]),
        ("TF_TensorData", pointer, [pointer]),
        ("TF_TensorType", ctypes.c_int, [pointer]),
        ("TF_NumDims", ctypes.c_int, [pointer]),
        ("TF_Dim", ctypes.c_int64, [pointer, ctypes.c_int]),
        ("TF_TensorByteSize", ctypes.c_size_t, [pointer]),
        ("TF_StringInit", None, [pointer]),
        ("TF_StringCopy", None, [pointer, ctypes.c_char_p, ctypes.c_size_t]),
        ("TF_StringDealloc", None, [pointer]),
        ("TF_StringGetDataPointer", pointer, [pointer]),
        ("TF_StringGetSize", ctypes.c_size_t, [pointer]),
        ("TF_LoadLibrary", pointer, [ctypes.c_char_p, pointer]),
        ("TF_GetAllRegisteredKernels", ctypes.POINTER(_Buffer), [pointer]),
        ("TF_Version", ctypes.c_char_p, []),
        (
            "TF_SessionRun",
            None,
            [
                pointer,
                pointer,
                pointer,
                pointer,
                ctypes.c_int,
                pointer,
                pointer,
                ctypes.c_int,
                pointer,
                ctypes.c_int,
                pointer,
                pointer,
            ],
        ),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


class SavedModel:
    """A loaded SavedModel. `run` may be called from many threads at once.

    Args:
        path: the directory of one version.

    Attributes:
        signatures: name -> `Signature`.

    Raises:
        RequestError: it cannot be loaded.
    """

    def __init__(self, path):
        self.lib = lib = library()
        graph = Path(path) / "saved_model.pb"
        written = graph.read_bytes() if graph.is_file() else b""
        # The ops that a stock server has and the libraries of TensorFlow have not.
        for name, file in ((b"SentencepieceOp", "_sentencepiece_tokenizer.so"), (b"NormalizeUTF8", "_normalize_ops.so")):
            if name in written:
                package = importlib.util.find_spec("tensorflow_text").submodule_search_locations[0]
                self._checked(lib.TF_LoadLibrary, str(Path(package) / "python" / "ops" / file).encode())
        self.graph = lib.TF_NewGraph()
        options, meta_graph, tags = lib.TF_NewSessionOptions(), lib.TF_NewBuffer(), (ctypes.c_char_p * 1)(b"serve")
        try:
            self.session = self._checked(
                lib.TF_LoadSessionFromSavedModel, options, None, str(path).encode(), tags, 1, self.graph, meta_graph
            )
            meta = ctypes.string_at(meta_graph.contents.data, meta_graph.contents.length)
        finally:
            lib.TF_DeleteBuffer(meta_graph)
            lib.TF_DeleteSessionOptions(options)
        self.signatures = _signatures(meta)

    def close(self):
        """Frees the session and the graph."""
        self._checked(self.lib.TF_CloseSession, self.session)
        self._checked(self.lib.TF_DeleteSession, self.session)
        self.lib.TF_DeleteGraph(self.graph)

    def run(self, signature, inputs):
        """Answers one request.

        Args:
            signature: its name.
            inputs: name -> array, or nested lists; strings as str or bytes.

        Returns:
            name -> array; strings are bytes in an object array.

        Raises:
            RequestError: the request was refused; nothing else is raised for anything that a client can send.
        """
        if signature not in self.signatures:
            raise RequestError(
                "NOT_FOUND", f"no signature is called {signature!r}; there are {', '.join(sorted(self.signatures))}."
            )
        wanted = self.signatures[signature]
        values = {**wanted.defaults, **inputs}
        if values.keys() != wanted.inputs.keys():
            raise RequestError(
                "INVALID_ARGUMENT",
                f"{signature} takes {described(wanted.inputs, wanted.defaults)}; this request has "
                f"{', '.join(sorted(inputs)) or 'nothing'}.",
            )
        tensors, places, outputs = [], [], list(wanted.outputs.items())
        try:
            for name, slot in wanted.inputs.items():
                tensors.append(self._tensor(_array(name, values[name], slot), slot.dtype))
                places.append(self._place(slot.tensor))
            results = (ctypes.c_void_p * len(outputs))()
            self._checked(
                self.lib.TF_SessionRun, self.session, None, (_Output * len(places))(*places),
                (ctypes.c_void_p * len(tensors))(*(tensor for tensor, _ in tensors)), len(places),
                (_Output * len(outputs))(*(self._place(slot.tensor) for _, slot in outputs)), results, len(outputs),
                None, 0, None,
            )  # fmt: skip
            return {name: self._take(result) for (name, _), result in zip(outputs, results, strict=True)}
        finally:
            for tensor, strings in tensors:
                for string in strings:
                    self.lib.TF_StringDealloc(ctypes.byref(string))
                self.lib.TF_DeleteTensor(tensor)

    def _checked(self, function, *arguments):
        """Calls a function of the C API whose last argument is a status; raises what the status says."""
        status = self.lib.TF_NewStatus()
        try:
            result = function(*arguments, status)
            code = self.lib.TF_GetCode(status)
            if code:
                message = self.lib.TF_Message(status).decode("utf8", "replace")
                raise RequestError(CODES.get(code, f"CODE_{code}"), message)
            return result
        finally:
            self.lib.TF_DeleteStatus(status)

    def _place(self, tensor):
        name, _, index = tensor.partition(":")
        return _Output(self.lib.TF_GraphOperationByName(self.graph, name.encode()), int(index or 0))

    def _tensor(self, array, dtype):
        """A TF_Tensor with a copy of the array, and the strings in it, which must be freed after the run."""
        is_string = dtype == STRING
        size = array.size * (ctypes.sizeof(_String) if is_string else array.itemsize)
        dims = (ctypes.c_int64 * array.ndim)(*array.shape)
        tensor = self.lib.TF_AllocateTensor(dtype, dims, array.ndim, size)
        data = self.lib.TF_TensorData(tensor)
        if not is_string:
            ctypes.memmove(data, array.ctypes.data, size)
            return tensor, ()
        strings = (_String * array.size).from_address(data) if array.size else ()
        for string, value in zip(strings, array.flat, strict=True):
            self.lib.TF_StringInit(ctypes.byref(string))
            self.lib.TF_StringCopy(ctypes.byref(string), value, len(value))
        return tensor, strings

    def _take(self, tensor):
        """The array of a TF_Tensor, which is freed."""
        shape = tuple(self.lib.TF_Dim(tensor, i) for i in range(self.lib.TF_NumDims(tensor)))
        data, dtype = self.lib.TF_TensorData(tensor), self.lib.TF_TensorType(tensor)
        try:
            if dtype == STRING:
                count = int(np.prod(shape))
                array = np.empty(count, object)
                for i, string in enumerate((_String * count).from_address(data) if count else ()):
                    place = ctypes.byref(string)
                    array[i] = ctypes.string_at(self.lib.TF_StringGetDataPointer(place), self.lib.TF_StringGetSize(place))
                return array.reshape(shape)
            raw = ctypes.string_at(data, self.lib.TF_TensorByteSize(tensor))
            return np.frombuffer(raw, "uint16" if DTYPES[dtype] == "bfloat16" else DTYPES[dtype]).reshape(shape)
        finally:
            self.lib.TF_DeleteTensor(tensor)


def plainly(message):
    """What TensorFlow says of a refused request, in one line and without the names of nodes; of an Assert its sentence
    alone."""
    line = " ".join(message.split())
    found = re.search(r"assertion failed: \[(.*?)\] (\[\[|\[Op:)", line)
    return found[1] if found else line.partition(" [[{{")[0]


def read_signatures(path):
    """Name -> `Signature` of the SavedModel at `path`, without loading it."""
    meta_graphs = [value for number, value in _fields((Path(path) / "saved_model.pb").read_bytes()) if number == 2]
    return _signatures(meta_graphs[0])


def type_name(slot):
    """Type and shape of a slot, for people."""
    shape = "" if slot.shape is None else f"[{', '.join('?' if size < 0 else str(size) for size in slot.shape)}]"
    return f"{'string' if slot.dtype == STRING else DTYPES[slot.dtype]}{shape}"


def described(slots, defaults=()):
    """Inputs or outputs of a signature, with the defaults of what may be left out, for people."""
    state = [name for name in slots if name.startswith("state_")]
    parts = []
    for name, slot in sorted(slots.items(), key=lambda item: (item[0] in defaults, item[0])):
        default = f" = {_spelt(defaults[name].tolist()[0])}" if name in defaults else ""
        if name not in state:
            parts.append(f"{name} {type_name(slot)}{default}")
    if state:
        parts.append(f"state_* ({len(state)} tensors that the last answer held)")
    return ", ".join(parts)


def _spelt(value):
    return repr(value.decode()) if isinstance(value, bytes) else f"{value:g}"


def _array(name, value, slot):
    """A value as the array that a slot takes. Raises RequestError."""
    dtype = "uint16" if DTYPES[slot.dtype] == "bfloat16" else DTYPES[slot.dtype]
    try:
        array = np.array(value, dtype=dtype, order="C")
    except (ValueError, TypeError, OverflowError) as error:
        raise RequestError("INVALID_ARGUMENT", f"{name} takes {DTYPES[slot.dtype]}: {error}.") from error
    if slot.dtype == STRING:
        encoded = np.empty(array.shape, object)
        for place, text in np.ndenumerate(array):
            if not isinstance(text, (str, bytes)):
                raise RequestError("INVALID_ARGUMENT", f"{name} takes strings, got {type(text).__name__}.")
            encoded[place] = text if isinstance(text, bytes) else text.encode("utf8", "surrogateescape")
        array = encoded
    return array


# Protocol buffers, as far as a signature goes: https://protobuf.dev/programming-guides/encoding


def _varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _fields(data):
    """Yields (field number, value): an int for a varint, a memoryview for everything else."""
    data, at = memoryview(data), 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        size = {1: 8, 5: 4}.get(wire)
        if size is None:
            size, at = _varint(data, at)
        yield number, data[at : at + size]
        at += size


def _map_entry(data):
    entry = dict(_fields(data))
    return bytes(entry.get(1, b"")).decode(), entry.get(2, b"")


def _signatures(meta_graph):
    entries = (_map_entry(value) for number, value in _fields(meta_graph) if number == 5)
    return {name: _signature(value) for name, value in entries if not name.startswith("__saved_model")}


def _signature(data):
    parts = {number: [] for number in (1, 2, 4)}
    for number, value in _fields(data):
        if number in parts:
            parts[number].append(_map_entry(value))
    inputs, outputs = ({name: _slot(value) for name, value in parts[number]} for number in (1, 2))
    return Signature(inputs, outputs, {name: _constant(value) for name, value in parts[4]})


def _slot(data):
    info = dict(_fields(data))
    return Slot(bytes(info[1]).decode(), info[2], _shape(info.get(3, b"")))


def _shape(data):
    sizes = []
    for number, value in _fields(data):
        if number == 3 and value:
            return None
        if number == 2:
            size = dict(_fields(value)).get(1, 0)
            sizes.append(size - (1 << 64) if size >> 63 else size)
    return tuple(sizes)


def _constant(data):
    """The array of a small TensorProto that spells its values out in `tensor_content`, or strings in `string_val`."""
    proto = dict(_fields(data))
    if proto[1] == STRING:
        strings = [bytes(value) for number, value in _fields(data) if number == 8]
        return np.array(strings, object).reshape(_shape(proto.get(2, b"")))
    return np.frombuffer(bytes(proto[4]), DTYPES[proto[1]]).reshape(_shape(proto.get(2, b"")))
