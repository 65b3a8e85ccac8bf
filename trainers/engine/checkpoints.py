"""Everything a run needs to go on bit for bit: weights, optimizer, seeds, carried state, step, scores so far.

    checkpoints/step_00000200/arrays.npz     every variable by name
    checkpoints/step_00000200/progress.json  the step, and what the loop keeps between steps
    checkpoints/step_00000200/metrics.jsonl  the lines that the run had written
    checkpoints/step_00000200/complete.json  size and checksum of the three above: the mark of a whole checkpoint
    checkpoints/best -> step_00000150        the one with the lowest validation loss

A checkpoint is written aside, synced, marked complete and renamed: one that has its name is whole. The step waits only
while the values are copied to memory that is kept for it; a thread writes the copies.
"""

import concurrent.futures
import json
import os
import re
import shutil
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np

from zoo.config import Refusal
from zoo.files import remove_directory, replace_file, sync

KEPT = 2  # newest checkpoints that stay, besides the best
MARK = "complete.json"
FORMAT_VERSION = 1
SEED_NUMBER = re.compile(r"(?<=seed_generator)_\d+")
CHUNK_BYTES = 2**24
# What reading a checkpoint raises that is not whole.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        directory: where they stand.
        variables: dict name -> variable with `.assign()`, a shape, and a value that numpy can read.
        writes: whether this process writes and removes them; of several workers only the chief does.
        keeps: steps whose checkpoints stay besides the newest and the best.

    Attributes:
        stall_seconds: for how long each `save` held up the step.
        write_seconds: how long each took in the background.
    """

    def __init__(self, directory, variables, writes=True, keeps=()):
        self.directory, self.variables, self.writes, self.keeps = Path(directory), variables, writes, keeps
        self.stall_seconds, self.write_seconds = [], []
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "checkpoint", initializer=_yield_to_others)
        self._writing, self._copies = None, {}

    def save(self, step, progress, metrics=""):
        """Copies the variables and has a thread write the checkpoint of `step`; then all but the newest and best go.

        One is written at a time: this waits for the one before. An error of that one is raised here.

        Args:
            step: steps done.
            progress: JSON values; `validation_loss`, if it is there, decides which checkpoint is the best.
            metrics: the text of `metrics.jsonl` so far.
        """
        began = time.perf_counter()
        self.wait()
        # Workers that do not write read all the same: what is spread over them takes all of them to be gathered.
        values = {name: _value(variable) for name, variable in self.variables.items()}
        if not self.writes:
            return
        values = {name: self._copied(name, value) for name, value in values.items()}
        self._writing = self._writer.submit(self._write, step, values, {**progress, "step": step}, metrics)
        self.stall_seconds.append(time.perf_counter() - began)

    def _copied(self, name, value):
        """A copy in the memory of the last one: to map fresh memory takes several times as long as to copy."""
        if name not in self._copies:
            self._copies[name] = np.empty_like(value)
        np.copyto(self._copies[name], value)
        return self._copies[name]

    def wait(self):
        """Returns when the last `save` is on disk. Raises what went wrong with it."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def poll(self):
        """Whether the last `save` is on disk. Raises what went wrong with it, if that is known already."""
        if self._writing is not None and self._writing.done():
            self.wait()
        return self._writing is None

    def _write(self, step, values, progress, metrics):
        began = time.perf_counter()
        final = self._path(step)
        aside = self.directory / f".{final.name}.partial"
        shutil.rmtree(aside, ignore_errors=True)
        try:
            _write_files(aside, values, progress, metrics)
        except BaseException as error:
            shutil.rmtree(aside, ignore_errors=True)
            if isinstance(error, OSError) and error.errno and not error.filename:  # of a write, which knows no name
                raise OSError(error.errno, error.strerror, str(final)) from error
            raise
        remove_directory(final)
        os.replace(aside, final)
        sync(self.directory)
        self._retain()
        self.write_seconds.append(time.perf_counter() - began)

    def _retain(self):
        steps = self._steps()
        best = self._best(steps)
        for step in steps[:-KEPT]:
            if step != best and step not in self.keeps:
                remove_directory(self._path(step))
        if best is not None:
            replace_file(self.directory / "best", lambda link: link.symlink_to(self._path(best).name))

    def _best(self, steps):
        """The step with the lowest validation loss, or None if none was judged; the earliest of equals."""
        losses = {}
        for step in steps:
            try:
                progress = json.loads((self._path(step) / "progress.json").read_text(encoding="utf8"))
            except (OSError, ValueError):
                continue  # damaged: `restore` will say so
            if progress.get("validation_loss") is not None:
                losses[step] = progress["validation_loss"]
        return min(losses, key=losses.get, default=None)

    def restore(self, report=print, before=None):
        """Assigns the newest whole checkpoint to the variables.

        A damaged one is reported and the one before it is used. It loses its name, so that it is never taken for one of
        the newest again, and stays as `damaged_step_...` for whoever wants to know.

        Args:
            report: called with a sentence for each damaged one.
            before: a step; later checkpoints are removed first, unless none would be left: then all but the oldest go.

        Returns:
            Its progress dict with `step` and `metrics`, or None when there is no checkpoint.

        Raises:
            Refusal: if there are checkpoints and every one is damaged, or one belongs to another model.
        """
        self.wait()
        steps = self._steps()
        if before is not None and steps:
            last = max((step for step in steps if step <= before), default=steps[0])
            self._clean([step for step in steps if step > last])
            steps = [step for step in steps if step <= last]
        else:
            self._clean([])
        damaged = []
        for step in reversed(steps):
            path = self._path(step)
            try:
                values, progress = _read(path)
            except UNREADABLE as error:
                report(f"Checkpoint {path} is damaged ({error}); trying the one before.")
                damaged.append(path)
                continue
            self._assign(path, values)
            self._set_aside(damaged)
            return progress
        if steps:
            raise Refusal(f"Every checkpoint under {self.directory} is damaged; start anew in another --model_dir.")
        return None

    def _assign(self, path, values):
        if values.keys() != self.variables.keys():
            differing = sorted(values.keys() ^ self.variables.keys())
            raise Refusal(f"{path} belongs to another model or optimizer; it differs in {', '.join(differing[:5])}.")
        for name, variable in self.variables.items():
            value = values[name]
            if value.shape != tuple(variable.shape):
                raise Refusal(f"{path}: {name} has shape {value.shape}, here it is {tuple(variable.shape)}.")
            if value.dtype.kind == "V":  # numpy's format does not know bfloat16, and keeps its bytes as they are
                value = value.view(np.asarray(variable).dtype)
            variable.assign(value)

    def average(self, steps, prefix, report=print):
        """Assigns the mean over checkpoints to the variables whose names begin with `prefix` and that are floats.

        It is added up in float64, in the order of the steps. A checkpoint that is damaged or not there is reported, and left
        out.

        Args:
            steps: of the checkpoints.
            prefix: of the names.
            report: called with a sentence for each that is left out.

        Returns:
            The steps of those that were read.
        """
        self.wait()
        names = [name for name in self.variables if name.startswith(prefix)]
        sums, read = {}, []
        for step in steps:
            try:
                values, _ = _read(self._path(step), names)
            except UNREADABLE as error:
                report(f"Checkpoint {self._path(step)} is left out of the mean ({error}).")
                continue
            read.append(step)
            for name, value in values.items():
                if value.dtype.kind == "f":
                    sums[name] = sums.get(name, 0.0) + value.astype(np.float64)
        for name, total in sums.items():
            self.variables[name].assign((total / len(read)).astype(np.float32))
        return read

    def exist(self):
        """Whether there is any."""
        return bool(self._steps())

    def summary(self):
        """A sentence on what saving has cost."""
        if not self.write_seconds:
            return "Checkpoints: none was written."
        stall, write = (1000 * np.median(times) for times in (self.stall_seconds, self.write_seconds))
        return (
            f"Checkpoints: {len(self.write_seconds)} written; each held up the step for {stall:.1f} ms "
            f"and took {write:.0f} ms in the background (medians)."
        )

    def _path(self, step):
        return self.directory / f"step_{step:08d}"

    def _steps(self):
        """The steps of all checkpoints, in order."""
        return sorted(int(path.name.removeprefix("step_")) for path in self.directory.glob("step_*"))

    def _clean(self, steps):
        """Removes the checkpoints of `steps`, and what a killed process left half done."""
        if self.writes:
            for step in steps:
                remove_directory(self._path(step))
            for path in self.directory.glob(".step_*"):
                shutil.rmtree(path)

    def _set_aside(self, damaged):
        for path in damaged if self.writes else ():
            target = path.with_name(f"damaged_{path.name}")
            shutil.rmtree(target, ignore_errors=True)
            os.replace(path, target)


def named_variables(**groups):
    """Dict of names for lists of variables: `model=model.variables` gives `model/0003/gpt/...`.

    Paths alone are neither unique nor lasting: Keras numbers the seed generators of a process as they come.
    """
    return {
        f"{group}/{i:04d}/{SEED_NUMBER.sub('', getattr(variable, 'path', variable.name))}": variable
        for group, variables in groups.items()
        for i, variable in enumerate(variables)
    }


def _yield_to_others():
    """Lets the step have more of the cores. On Linux a thread has a priority of its own; elsewhere it would be the
    process's."""
    if sys.platform == "linux":
        os.nice(5)


def _value(variable):
    """The variable's value as an array, which on a CPU is a view of its own memory."""
    read = getattr(getattr(variable, "value", variable), "read_value", None)
    return np.asarray(variable if read is None else read())


def _write_files(directory, values, progress, metrics):
    directory.mkdir(parents=True)
    with open(directory / "arrays.npz", "wb") as file:
        np.savez(file, **values)
        _sync(file)
    for name, text in (("progress.json", json.dumps(progress)), ("metrics.jsonl", metrics)):
        with open(directory / name, "w", encoding="utf8") as file:
            file.write(text)
            _sync(file)
    files = {path.name: _fingerprint(path) for path in sorted(directory.iterdir())}
    with open(directory / MARK, "w", encoding="utf8") as file:
        json.dump({"format_version": FORMAT_VERSION, "files": files}, file)
        _sync(file)
    sync(directory)


def _read(directory, names=None):
    """(name -> array, progress with `metrics`) of one checkpoint, with all arrays or those of `names`; Refusal if a file is not
    what was written."""
    mark = json.loads((directory / MARK).read_text(encoding="utf8"))
    if mark["format_version"] > FORMAT_VERSION:
        raise Refusal(f"format version {mark['format_version']}, this zoo reads up to {FORMAT_VERSION}")
    for name, expected in mark["files"].items():
        if _fingerprint(directory / name) != expected:
            raise Refusal(f"{name} is not what was written")
    with open(directory / "arrays.npz", "rb") as file, np.load(file, allow_pickle=False) as arrays:
        values = {name: arrays[name] for name in (arrays.files if names is None else names)}
    progress = json.loads((directory / "progress.json").read_text(encoding="utf8"))
    return values, {**progress, "metrics": (directory / "metrics.jsonl").read_text(encoding="utf8")}


def _fingerprint(path):
    """Size and CRC-32 of a file."""
    checksum = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            checksum = zlib.crc32(chunk, checksum)
    return {"bytes": path.stat().st_size, "crc32": checksum}


def _sync(file):
    file.flush()
    os.fsync(file.fileno())
