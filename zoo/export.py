"""A trained model as a SavedModel that answers in text, proved in a process that has none of our code.

    export/<version>/                  what TF Serving loads; versions are integers that grow
    export/<version>/assets.extra/     golden.json: requests and the answers that Python gave

This file imports nothing of ours, because it is also the program that proves an export: `python -I zoo/export.py export/1` loads it with
plain TensorFlow, repeats the golden requests and compares.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

GOLDEN = Path("assets.extra") / "golden.json"
TOLERANCE = 1e-5


def export_saved_model(directory, model, tokenizer, task, version=None):
    """Writes the next version of a SavedModel, and proves it in a fresh process before it appears under its name.

    Args:
        directory: the parent of all versions; TF Serving's `--model_base_path`.
        model: a built model.
        tokenizer: a `Tokenizer`; the SavedModel holds its tables.
        task: gives the signatures, `task.signatures(model, tokenizer)`, and the requests that prove them, `task.requests(model,
            tokenizer)`: a list of (signature, inputs as lists).
        version: an integer above every version there, or None for the next one.

    Returns:
        The path of the new `<directory>/<version>`.

    Raises:
        ValueError: the version is not higher, the graph holds an op that a stock server cannot run, or the fresh process answers
            otherwise than this one. Nothing is left behind.
        OSError: the directory cannot be written.
    """
    directory = Path(directory)
    version = _next_version(directory, version)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{version}-", dir=directory))
    except OSError as error:
        raise OSError(f"The export directory {directory} cannot be written: {error.strerror}.") from error
    try:
        from zoo.layers.linear import turned_kernels

        module, functions = tf.Module(), task.signatures(model, tokenizer)
        with turned_kernels(model) as variables:
            # Traced here, once: saving and calling a tf.function would each trace it.
            functions = {name: function.get_concrete_function() for name, function in functions.items()}
        module.variables_ = [variable.value for variable in variables]
        module.tokenizer = tokenizer
        tf.saved_model.save(module, str(aside), signatures=functions)
        check_ops(aside)
        golden = [
            {"signature": name, "inputs": inputs, "outputs": _answer(functions[name], inputs)}
            for name, inputs in task.requests(model, tokenizer)
        ]
        (aside / GOLDEN).parent.mkdir(exist_ok=True)
        (aside / GOLDEN).write_text(json.dumps(golden, indent=1) + "\n", encoding="utf8")
        replay(aside)
        aside.chmod(0o755)
        os.rename(aside, directory / str(version))
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return directory / str(version)


def latest_version(directory):
    """The highest version under `directory`, or 0 if it has none."""
    directory = Path(directory)
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    return max((int(name) for name in names if name.isascii() and name.isdigit()), default=0)


def _next_version(directory, version):
    latest = latest_version(directory)
    if version is None:
        return latest + 1
    if version <= latest:
        raise ValueError(f"Version {version} must be above {latest}, the latest in {directory}.")
    return version


def check_ops(export):
    """Raises ValueError if the SavedModel in `export` holds an op that a stock TF Serving cannot run."""
    saved_model = saved_model_pb2.SavedModel.FromString((Path(export) / "saved_model.pb").read_bytes())
    for meta_graph in saved_model.meta_graphs:
        nodes = list(meta_graph.graph_def.node)
        for function in meta_graph.graph_def.library.function:
            if function.attr["_XlaMustCompile"].b:
                raise ValueError(f"{function.signature.name} must be compiled by XLA, which a stock server has switched off.")
            nodes += function.node_def
        for node in nodes:
            if node.attr["_XlaMustCompile"].b or node.op.startswith("Xla"):
                raise ValueError(f"{node.name} ({node.op}) needs XLA, which a stock server has switched off.")
            if node.op in ("PyFunc", "PyFuncStateless", "EagerPyFunc"):
                raise ValueError(f"{node.name} ({node.op}) calls Python, which a server does not have.")


def replay(export):
    """Loads `export` in a fresh process that can import nothing of ours and repeats its golden requests.

    Raises:
        ValueError: an answer differs, or the SavedModel does not load.
    """
    # -I leaves out PYTHONPATH, the user's site directory and this file's own directory.
    command = [sys.executable, "-I", str(Path(__file__).resolve()), str(Path(export).resolve())]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if result.returncode:
        reason = (result.stderr.strip() or f"exit status {result.returncode}").splitlines()[-1]
        raise ValueError(f"The SavedModel answers differently in a fresh process: {reason}")


def _answer(function, inputs):
    """Name -> list, the answer of a signature to inputs given as lists; strings as JSON can hold them."""
    positional, named = function.structured_input_signature
    specs = {spec.name: spec for spec in (*positional, *named.values())}
    outputs = function(**{name: tf.constant(value, specs[name].dtype) for name, value in inputs.items()})
    return {name: _as_json(value.numpy()) for name, value in outputs.items()}


def _as_json(array):
    if array.dtype != object:
        return array.tolist()
    return np.vectorize(lambda text: text.decode("utf8", "surrogateescape"), otypes=[object])(array).tolist()


def _differs(actual, expected):
    """Whether two answers are not the same strings, or numbers more than TOLERANCE apart (relative above 1)."""
    actual, expected = np.array(actual), np.array(expected)
    if actual.shape != expected.shape or actual.dtype.kind != expected.dtype.kind:
        return True
    if expected.dtype.kind != "f":
        return bool(np.any(actual != expected))
    return not np.allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


def main(export):
    """Repeats the golden requests of the SavedModel in `export`; exits with a sentence at the first answer that differs."""
    if b"SentencepieceOp" in (Path(export) / "saved_model.pb").read_bytes():
        import tensorflow_text  # noqa: F401 - the one op that a stock server has and plain TensorFlow has not
    signatures = tf.saved_model.load(export).signatures
    for request in json.loads((Path(export) / GOLDEN).read_text(encoding="utf8")):
        name, inputs = request["signature"], request["inputs"]
        answer = _answer(signatures[name], inputs)
        for output, expected in request["outputs"].items():
            if _differs(answer[output], expected):
                sys.exit(f"signature {name}, output {output}: {answer[output]} instead of {expected} for {inputs}.")


if __name__ == "__main__":
    # An export must do without whatever of ours an installation could import.
    sys.modules.update(dict.fromkeys(("zoo", "trainers", "tfds_configs")))
    main(sys.argv[1])
