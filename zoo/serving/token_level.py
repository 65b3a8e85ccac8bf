"""The forward pass of a model on token ids as one file for another runtime: ONNX or LiteRT.

    export/onnx/model.onnx        token_ids int32 (B, T), padding_mask bool (B, T) -> what the model gives: logits (B, T, V) of
                                  a language model or a masked language model, hidden states (B, T, D) of an encoder, else
                                  what the head of the task gives
    export/litert/model.tflite    the same for one row of a fixed length, since LiteRT wants to know its shapes
    export/<format>/tokenizer/    turns texts into the ids

Text in and out needs string tensors and tables, which these formats have not; and one pass is not a `generate`. Both are what
Keras's own `Model.export` writes, and a file only appears once its runtime has given the same numbers.
"""

import importlib.util
from pathlib import Path

import keras
import numpy as np

from zoo.config import Refusal
from zoo.files import remove_stale, replace_directory, staged

FORMATS = {"onnx": "model.onnx", "litert": "model.tflite"}
# Tokens of the row of a LiteRT file, where the model sets no limit.
ROW = 128
TOLERANCE = 1e-4


class Forward(keras.Model):
    """One pass of a model, with the two inputs that every family takes."""

    def __init__(self, model):
        super().__init__(name="forward")
        self.model, self.built = model, True

    def call(self, token_ids, padding_mask):
        outputs = self.model({"token_ids": token_ids, "padding_mask": padding_mask})
        return outputs[0] if isinstance(outputs, tuple) else outputs


def export_forward(directory, model, tokenizer, kind):
    """Writes `<directory>/<kind>/`, in place of an older one, once the runtime of that format gives the same numbers.

    Args:
        directory: the parent.
        model: a built model.
        tokenizer: saved beside it.
        kind: `onnx` or `litert`.

    Returns:
        The file, and the largest difference from the model's own outputs.

    Raises:
        Refusal: a package is missing, the format cannot hold the model, or its runtime gives other numbers.
        OSError: the directory cannot be written.
    """
    missing = [name for name in ("tf2onnx", "onnxruntime") if kind == "onnx" and importlib.util.find_spec(name) is None]
    if missing:
        raise Refusal(f"--export_format=onnx needs {' and '.join(missing)}: pip install -e '.[onnx]'.")
    directory = Path(directory)
    with staged(directory, kind) as path:
        remove_stale(directory, kind)
        forward, (rows, length) = Forward(model), (None, None) if kind == "onnx" else (1, model.max_length or ROW)
        ids, mask = _example(model, length)
        expected = np.asarray(forward(ids, mask), np.float32)
        file = path / FORMATS[kind]
        try:
            shape = (rows, length)
            specs = [
                keras.InputSpec(dtype, shape, name=name) for dtype, name in (("int32", "token_ids"), ("bool", "padding_mask"))
            ]
            forward.export(str(file), format=kind, input_signature=specs, verbose=False)
            actual = (_onnx if kind == "onnx" else _litert)(file, ids, mask)
        except Exception as error:  # a converter's, or its runtime's, of whatever kind
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise Refusal(
                f"{model.registered_name} uses operations that {kind} has not; export it as a saved_model. ({reason[:200]})"
            ) from error
        by_token = expected.shape[:2] == mask.shape
        difference = float(np.abs(actual - expected)[mask if by_token else ...].max())
        if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
            raise Refusal(f"In {kind} the outputs differ by {difference:.1e}; export it as a saved_model.")
        tokenizer.save(path / "tokenizer")
        replace_directory(path, directory / kind)
    return directory / kind / FORMATS[kind], difference


def _example(model, length):
    """Random ids and their mask: rows of unequal lengths, or one of a fixed number of columns that is partly padding."""
    random = np.random.default_rng(0)
    lengths = np.array([7, 5, 1] if length is None else [max(length // 2, 1)])
    ids = random.integers(0, model.config.vocab_size, (len(lengths), length or 7)).astype(np.int32)
    return ids, np.arange(ids.shape[1]) < lengths[:, None]


def _onnx(file, ids, mask):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file))
    return session.run(None, {"token_ids": ids, "padding_mask": mask})[0]


def _litert(file, ids, mask):
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tensorflow.lite.python.interpreter import Interpreter
    interpreter = Interpreter(model_path=str(file))
    interpreter.allocate_tensors()
    for slot in interpreter.get_input_details():
        interpreter.set_tensor(slot["index"], mask if slot["dtype"] == np.bool_ else ids)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
