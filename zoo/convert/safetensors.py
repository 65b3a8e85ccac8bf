"""Tensor files as the rest of the world writes them, one tensor in memory at a time.

Hugging Face directories hold `model.safetensors`, or several files and `model.safetensors.index.json`. What is there as a
pickle (`pytorch_model.bin`) can run code when it is read, and is refused.
"""

import contextlib
import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from zoo.config import Refusal
from zoo.files import replace_file

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.bin", "pytorch_model.pt")


def found(directory):
    """Whether a directory holds weights as safetensors."""
    return any((Path(directory) / name).is_file() for name in (FILE, INDEX))


def files(directory):
    """Names of the files that the weights are read from."""
    directory = Path(directory)
    if (directory / FILE).is_file() or not (directory / INDEX).is_file():
        return [FILE]
    return [INDEX, *sorted(set(TensorFiles(directory).located().values()))]


class TensorFiles:
    """The tensors of a Hugging Face directory: `names()`, `shape(name)`, `read(name)`.

    Raises:
        Refusal: the directory holds no safetensors, only a pickle, or they are damaged.
    """

    def __init__(self, directory):
        self._directory = Path(directory)
        self._file_of = self.located()

    def located(self):
        """Name of a tensor -> name of the file that holds it."""
        index = self._directory / INDEX
        if index.is_file() and not (self._directory / FILE).is_file():  # transformers too takes the whole file if it is there
            try:
                return dict(json.loads(index.read_text(encoding="utf8"))["weight_map"])
            except (ValueError, KeyError, TypeError) as error:
                raise Refusal(f"{index} is damaged ({error!r}); copy it again from where it was made.") from error
        if not (self._directory / FILE).is_file():
            pickles = [name for name in PICKLES if (self._directory / name).is_file()]
            if pickles:
                raise Refusal(
                    f"{self._directory / pickles[0]} is a pickle, which can run code when it is read, and is not. "
                    "Where it can be trusted, save it anew with transformers: "
                    "AutoModel.from_pretrained(DIR).save_pretrained(NEW) writes safetensors."
                )
            raise Refusal(f"{self._directory} holds no weights: there is no {FILE}.")
        with self._opened(FILE) as file:
            return dict.fromkeys(file.keys(), FILE)

    @contextlib.contextmanager
    def _opened(self, name):
        path = self._directory / name
        try:
            with safe_open(path, framework="np") as file:
                yield file
        except (SafetensorError, OSError) as error:
            raise Refusal(f"{path} is damaged or missing ({error}); copy it again from where it was made.") from error

    def names(self):
        """Sorted names of all tensors."""
        return sorted(self._file_of)

    def shape(self, name):
        """Shape of a tensor, a tuple, without reading it."""
        with self._opened(self._file_of[name]) as file:
            return tuple(file.get_slice(name).get_shape())

    def read(self, name, rows=slice(None)):
        """Some rows of a tensor, a slice along its first axis, as a float32 numpy array."""
        with self._opened(self._file_of[name]) as file:
            return np.asarray(file.get_slice(name)[rows]).astype(np.float32, copy=False)


def write(path, tensors):
    """Writes float32 tensors one at a time; the library's own writer wants all of them in memory at once.

    Args:
        path: the file to make; it appears when it is complete.
        tensors: list of (name, shape, function that gives the numpy array), in the order of the file.
    """
    header, start = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, _ in tensors:
        end = start + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode("utf8")
    text += b" " * (-len(text) % 8)

    def write_to(path):
        with open(path, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name, shape, read in tensors:
                array = np.ascontiguousarray(read(), "<f4")
                if array.shape != tuple(shape):
                    raise Refusal(f"{name} has shape {array.shape} where {tuple(shape)} was announced.")
                file.write(array.data)

    replace_file(path, write_to)
