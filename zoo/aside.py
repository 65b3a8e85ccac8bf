"""Directories that are made under another name and renamed, so that nobody sees half of one; what a killed writer left goes.

The writer holds a lock on the directory, which the kernel frees when the process dies, however it dies: one that nobody holds
    is
a leaving. Where the file system has no locks nothing is swept away.
"""

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from pathlib import Path


@contextlib.contextmanager
def aside(parent, name):
    """Yields a new directory `<parent>/.<name>-<random>.partial`; it is gone after the block, unless the block has renamed it.

    So are the directories above it that were missing, where nothing has come into them.

    Raises:
        OSError: `parent` cannot be made, or written.
    """
    parent = Path(parent)
    missing = [path for path in (parent, *parent.parents) if not path.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        path, lock = _made(parent, name)
    except OSError as error:
        raise OSError(f"The directory {parent} cannot be written: {error.strerror}; choose another place.") from error
    try:
        path.chmod(0o755)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)
        with contextlib.suppress(OSError):  # as it is not empty
            for directory in missing:
                directory.rmdir()


def take_the_place(path, target):
    """Gives a directory of `aside` its name; an older one there is replaced at the last moment."""
    before = path.with_suffix(".before")
    if target.exists():
        os.replace(target, before)  # at no moment is the older one gone and the newer one not whole
    os.replace(path, target)
    shutil.rmtree(before, ignore_errors=True)


def sweep(parent, names):
    """Removes what dead processes left of `aside`.

    Args:
        parent: as for `aside`.
        names: a regular expression for whole names.
    """
    leaving = re.compile(rf"\.({names})-[a-z0-9_]{{8}}\.(partial|before)")
    for path in Path(parent).iterdir():
        if not leaving.fullmatch(path.name):
            continue
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # somebody else has swept it, or it is none of ours
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # somebody is at work, or there are no locks here
        finally:
            os.close(lock)


def _made(parent, name):
    """The new directory, and the descriptor that holds its lock."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=f".{name}-", suffix=".partial", dir=parent))
        try:
            lock = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue  # swept away before it was locked
        with contextlib.suppress(OSError):  # without locks nobody sweeps either
            fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return path, lock
        os.close(lock)
