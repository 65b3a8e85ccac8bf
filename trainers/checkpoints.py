"""Everything a run needs to go on bit for bit: weights, optimizer, seeds, carried state, step.

    checkpoints/step_00000200/arrays.npz     every variable by name
    checkpoints/step_00000200/progress.json  step and scores so far

A checkpoint is written aside, synced and renamed: one that has its name is whole.
"""

import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np

KEPT = 2
SEED_NUMBER = re.compile(r"(?<=seed_generator)_\d+")


class Checkpoints:
    """The checkpoints of one run.

    Args:
        directory: where they stand.
        variables: dict name -> variable with `.numpy()` and `.assign()`.
    """

    def __init__(self, directory, variables):
        self.directory, self.variables = Path(directory), variables

    def save(self, step, progress):
        """Writes the checkpoint of `step` and removes all but the newest ones."""
        final = self.directory / f"step_{step:08d}"
        aside = self.directory / f".{final.name}.partial"
        shutil.rmtree(aside, ignore_errors=True)
        try:
            self._write(aside, {**progress, "step": step})
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        if final.exists():
            shutil.rmtree(final)
        os.replace(aside, final)
        folder = os.open(self.directory, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        for old in self._complete()[:-KEPT]:
            shutil.rmtree(old)

    def _write(self, directory, progress):
        directory.mkdir(parents=True)
        with open(directory / "arrays.npz", "wb") as file:
            np.savez(file, **{name: np.asarray(variable) for name, variable in self.variables.items()})
            _sync(file)
        with open(directory / "progress.json", "w", encoding="utf8") as file:
            json.dump(progress, file)
            _sync(file)

    def restore(self, report=print):
        """Assigns the newest whole checkpoint to the variables.

        A damaged one is reported and the one before it is used.

        Returns:
            Its progress dict with `step`, or None when there is no checkpoint.

        Raises:
            ValueError: if there are checkpoints and every one is damaged, or one belongs to another model.
        """
        found = self._complete()
        for path in reversed(found):
            try:
                progress = json.loads((path / "progress.json").read_text(encoding="utf8"))
                with open(path / "arrays.npz", "rb") as file, np.load(file, allow_pickle=False) as arrays:
                    values = {name: arrays[name] for name in arrays.files}
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                report(f"Checkpoint {path} is damaged ({error}); trying the one before.")
                continue
            self._assign(path, values)
            return progress
        if found:
            raise ValueError(f"Every checkpoint under {self.directory} is damaged; start anew in another --model_dir.")
        return None

    def _assign(self, path, values):
        if values.keys() != self.variables.keys():
            differing = sorted(values.keys() ^ self.variables.keys())
            raise ValueError(f"{path} belongs to another model or optimizer; it differs in {', '.join(differing[:5])}.")
        for name, variable in self.variables.items():
            if values[name].shape != tuple(variable.shape):
                raise ValueError(f"{path}: {name} has shape {values[name].shape}, here it is {tuple(variable.shape)}.")
            variable.assign(values[name])

    def _complete(self):
        return sorted(self.directory.glob("step_*"))


def named_variables(**groups):
    """Dict of names for lists of variables: `model=model.variables` gives `model/0003/gpt/...`.

    Paths alone are neither unique nor lasting: Keras numbers the seed generators of a process as they come.
    """
    return {
        f"{group}/{i:04d}/{SEED_NUMBER.sub('', getattr(variable, 'path', variable.name))}": variable
        for group, variables in groups.items()
        for i, variable in enumerate(variables)
    }


def _sync(file):
    file.flush()
    os.fsync(file.fileno())
