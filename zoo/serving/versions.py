"""The versions of one export as a server holds them: the newest is loaded, and the one before it stays while it is in use.

versions = Versions("runs/gpt/latest/export")
with versions.borrowed() as loaded:
    loaded.model.run("generate", {"prompt": ["The"]})
versions.refresh()      # takes a newer version, if there is one
"""

import contextlib
import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

from zoo.config import Refusal
from zoo.serving.c_api import SavedModel, plainly
from zoo.serving.rest import unknown

GRAPH = "saved_model.pb"
KEPT_STATES = 8  # how many versions of the past a status tells of


def numbered(directory):
    """Number -> path of what is called by a number in a directory, which is how a server knows versions.

    Example:
        >>> numbered("not/there")
        {}
    """
    directory = Path(directory)
    paths = directory.iterdir() if directory.is_dir() else ()
    return {int(path.name): path for path in paths if path.name.isascii() and path.name.isdecimal()}


@dataclasses.dataclass
class Loaded:
    """A version in memory: its number, its directory, its `SavedModel`, how many requests use it, and whether a newer one has
    taken its place."""

    number: int
    path: Path
    model: Any
    users: int = 0
    retired: bool = False


class Versions:
    """The newest version of an export, loaded, and those before it that requests still use. Many threads may call it.

    Args:
        directory: holds the versions, in directories called by their numbers; or is one version itself.

    Attributes:
        name: the family's, as the export's own files say; the directory's if they do not.

    Raises:
        Refusal: there is no version, or the newest cannot be loaded.
    """

    def __init__(self, directory):
        directory = Path(directory).absolute()
        self._fixed = (directory / GRAPH).is_file()
        self._directory = directory.parent if self._fixed else directory
        self._only = {int(directory.name) if directory.name.isdecimal() else 1: directory} if self._fixed else None
        self._lock, self._refreshing = threading.Lock(), threading.Lock()
        self._current, self._states = None, {}
        if not self._found():
            inside = directory / "export"
            hint = f"give {inside}" if inside.is_dir() else "write one with python -m trainers.export"
            raise Refusal(f"{directory} holds no version of a SavedModel; {hint}.")
        self.refresh()
        if not self._current:
            number, (_, message) = self._states.popitem()
            raise Refusal(f"Version {number} in {self._directory} cannot be loaded ({message}); export it again.")
        self.name = _name_of(self._directory, self._current.path) or self._directory.name

    def _found(self):
        """Number -> directory of the versions that are there."""
        if self._fixed:
            return self._only
        return {number: place for number, place in numbered(self._directory).items() if (place / GRAPH).is_file()}

    def refresh(self):
        """Loads the newest version if it is not the one in memory. One that cannot be loaded is reported by `states`
        and is not tried again; the version before it goes on. Returns whether a version was taken."""
        with self._refreshing:
            places = self._found()
            number = max(places, default=None)
            if number is None or number in self._states:
                return False
            self._tell(number, "LOADING")
            try:
                model = SavedModel(places[number])
            except (ValueError, OSError) as error:
                self._tell(number, "END", plainly(str(error)))
                return False
            with self._lock:
                before, self._current = self._current, Loaded(number, places[number], model)
                self._states[number] = ("AVAILABLE", "")
                if before:
                    before.retired = True
                    self._states[before.number] = ("UNLOADING", "")
            if before:
                self._free(before)
            return True

    def _tell(self, number, state, message=""):
        with self._lock:
            self._states[number] = (state, message)
            for old in list(self._states)[:-KEPT_STATES]:
                del self._states[old]

    @contextlib.contextmanager
    def borrowed(self, number=None):
        """The `Loaded` version that requests now get, which stays in memory inside the block. Raises Fault for another
        `number`."""
        with self._lock:
            loaded = self._current
            if number is not None and number != loaded.number:
                raise unknown(self.name, number)
            loaded.users += 1
        try:
            yield loaded
        finally:
            with self._lock:
                loaded.users -= 1
            self._free(loaded)

    def _free(self, loaded):
        with self._lock:
            if loaded.users or not loaded.retired or loaded.model is None:
                return
            model, loaded.model = loaded.model, None
            self._states[loaded.number] = ("END", "")
        model.close()

    def states(self, number=None):
        """(number, state, error message) of versions, the newest first, in TF Serving's words. Raises Fault."""
        with self._lock:
            known = sorted(self._states.items(), reverse=True)
        found = [(each, *state) for each, state in known if number in (None, each)]
        if not found:
            raise unknown(self.name, number, state=True)
        return found

    def examples(self):
        """Signature -> the inputs of a request that the export was proved with, as JSON has them."""
        path = self._current.path / "assets.extra" / "golden.json"
        if not path.is_file():
            return {}
        requests = json.loads(path.read_text(encoding="utf8"))
        return {request["signature"]: request["inputs"] for request in reversed(requests) if request.get("feed") is None}


def _name_of(directory, version):
    """The name of a model: what its `deployment/` serves it as, else the heading of its card."""
    for path, start, end in (
        (directory / "deployment" / "models.config", 'name: "', '"'),
        (version / "assets.extra" / "model_card.md", "# ", "\n"),
    ):
        if path.is_file():
            _, found, rest = path.read_text(encoding="utf8").partition(start)
            if found:
                return rest.partition(end)[0]
    return None
