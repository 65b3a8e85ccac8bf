"""Proof that a converted model gives the numbers of the one it came from: fixed texts, both sides, the largest difference.

    certify(bundle, "model_dir") -> {"ids": {...}, "outputs": {...}}

Nothing is claimed that was not compared: without a peer the certificate says so.
"""

import contextlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import tensorflow as tf
import tokenizers

from zoo.config import Refusal
from zoo.convert import reference, safetensors
from zoo.convert.old_tensorflow import CONFIG, H5
from zoo.data import examples

TEXTS = (
    "The capital of France is Paris, and in 1984 it was, too.",
    "Naïve café:\n\tdef f(x):  return x**2  # 東京 😀",
    "",
    " ".join(f"Sentence number {i} is a little longer than the one before." for i in range(8)),
)
# Of the largest output, or of 1 if that is smaller. Both sides add up float32 products in orders of their own.
TOLERANCE = 1e-3
# So many positions of a row are compared at once.
POSITIONS = 16


def certify(bundle, path, peer_python=None, library="transformers"):
    """Compares a bundle with what the files at `path` give in other people's hands.

    Args:
        bundle: the converted `Bundle`.
        path: a Hugging Face directory, a GGUF file, a preset of KerasHub's, or a directory of Google's BERT.
        peer_python: an interpreter with the peer; None for this one, if it has it.
        library: the peer: `transformers` (with torch) or `keras_hub`.

    Returns:
        dict of `texts`, how many; `ids` and `outputs`: what was compared with whom, and how far they are apart.

    Raises:
        Refusal: ids differ, or outputs by more than `TOLERANCE`; or the peer fails.
    """
    path = Path(path)
    certificate = {"texts": len(TEXTS), "dtype": "float32", "ids": _native_ids(bundle.tokenizer, path, library)}
    peer = sys.executable if _has(library) and (peer_python is None or library == "keras_hub") else peer_python
    if peer is None:
        certificate["outputs"] = {"compared": False, "reason": "torch and transformers are not installed; see --peer_python"}
        return certificate
    asked, task = rows(bundle), bundle.task.registered_name
    request = {
        "library": library, "path": str(path.resolve()), "task": task, "texts": TEXTS, "rows": asked,
        "old_tensorflow": path.is_dir() and not _is_written_anew(path),
    }  # fmt: skip
    with _asked(peer, request) as answer:
        compared = {"compared": True, "peer": library, "versions": json.loads(str(answer["versions"]))}
        if "ids_0" in answer:
            _check_ids(bundle.tokenizer, [answer[f"ids_{i}"].tolist() for i in range(len(TEXTS))], library)
            certificate["ids"] = {"identical": True, **compared}
        if "reason" in answer:
            certificate["outputs"] = {"compared": False, "reason": str(answer["reason"])}
            return certificate
        difference, largest = _compared(bundle, asked, answer)
    if not difference <= TOLERANCE * max(1.0, largest):
        raise Refusal(
            f"The converted model's outputs are up to {difference:.2e} away from those of {library} ({largest:.2e} at most); "
            "it is not the same model."
        )
    what = "hidden states" if task == "embedding" else "logits"
    certificate["outputs"] = {"what": what, "largest_difference": difference, "largest_output": largest, **compared}
    return certificate


def _is_written_anew(path):
    """Whether a directory has weights that the present libraries read: all but TensorFlow's old ones."""
    return safetensors.found(path) or not ((path / H5).is_file() or (path / CONFIG).is_file())


def _compared(bundle, asked, answer):
    """(the largest difference of our outputs from the peer's, the largest of these)."""
    difference = largest = 0.0
    for i, first, ours in outputs(bundle, asked):
        if first == 0:
            theirs = answer[f"outputs_{i}"]
            largest = max(largest, float(np.abs(theirs).max()))
        difference = max(difference, float(np.abs(ours - theirs[first : first + len(ours), : ours.shape[-1]]).max()))
    return difference, largest


def outputs(bundle, asked):
    """Yields what a model makes of rows of ids, a few positions at a time: logits for a whole text can be as large as a layer.

    Args:
        bundle: a `Bundle`.
        asked: list of rows.

    Yields:
        `(i, first, array)`: of row i, from position `first` on, float32 (n, V) logits, or (n, D) hidden states where there is
        no head.
    """
    model, task = bundle.model, bundle.task

    # In a graph, a tied table is multiplied as it is; line by line it would be transposed first, which takes its size again.
    @tf.function(reduce_retracing=True, autograph=False)
    def projected(hidden_1TD, first, end):
        if task.registered_name == "masked_lm":
            return model.head.logits(hidden_1TD[:, first:end])[0]
        return model.project(hidden_1TD[:, first:end])[0]

    for i, row in enumerate(asked):
        with warnings.catch_warnings():  # of the softmax over the only token of an empty text
            warnings.filterwarnings("ignore", "You are using a softmax over axis", UserWarning)
            hidden_1TD = model.without_head().hidden({"token_ids": tf.constant([row], tf.int32)})
        if task.registered_name == "embedding":
            yield i, 0, hidden_1TD[0].numpy()
            continue
        for first in range(0, len(row), POSITIONS):
            end = min(first + POSITIONS, len(row))
            yield i, first, projected(hidden_1TD, tf.constant(first), tf.constant(end)).numpy()


def rows(bundle):
    """The fixed texts as rows of ids, with the special ids around them."""
    frame = bundle.task.frame(bundle.model.kind, bundle.tokenizer)
    longest = min(bundle.model.max_length, 128)
    return [examples.row([bundle.tokenizer.encode(text)], frame, longest)[0].tolist() for text in TEXTS]


def _native_ids(tokenizer, path, library):
    """Compares ids with the `tokenizers` library's, if there is a file that it reads."""
    file = path / "tokenizer.json"
    if library != "transformers" or not file.is_file():
        return {"compared": False, "reason": f"{path.name} has no tokenizer.json of Hugging Face's"}
    native = tokenizers.Tokenizer.from_file(str(file))
    native.no_padding()
    native.no_truncation()
    _check_ids(tokenizer, [native.encode(text, add_special_tokens=False).ids for text in TEXTS], "tokenizers")
    return {"compared": True, "identical": True, "peer": "tokenizers", "versions": {"tokenizers": tokenizers.__version__}}


def _check_ids(tokenizer, theirs, peer):
    for text, ids in zip(TEXTS, theirs, strict=True):
        if tokenizer.encode(text) != ids:
            raise Refusal(f"The converted tokenizer gives other ids than {peer} for {text!r}: it is not the same.")


def _has(library):
    needed = ("keras_nlp",) if library == "keras_hub" else ("torch", "transformers")
    return all(importlib.util.find_spec(name) for name in needed)


@contextlib.contextmanager
def _asked(peer, request):
    """The answer of `zoo/convert/reference.py` in another process, whose memory goes when it ends; each array is read when it
    is asked for."""
    with tempfile.TemporaryDirectory() as directory:
        asked, answered = Path(directory) / "request.json", Path(directory) / "answer.npz"
        asked.write_text(json.dumps(request), encoding="utf8")
        command = [str(peer), "-I", str(Path(reference.__file__).resolve()), str(asked), str(answered)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            reason = (result.stderr.strip() or f"exit status {result.returncode}").splitlines()[-1]
            raise Refusal(f"The peer {peer} could not run this model: {reason}")
        with np.load(answered, allow_pickle=False) as arrays:
            yield arrays
