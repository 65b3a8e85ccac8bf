"""The one atomic writer: files and directories appear whole or not at all, and what a killed writer left is removed.

    replace_file(path, write)      a file, or a link: written under another name, then renamed
    staged(parent, name)           a directory under another name; `replace_directory` gives it its own
    appearing(directory)           a directory that must not exist yet; it is on disk before it has its name
    exclusive(directory)           one writer at a time
    remove_stale(parent, names)    removes what dead writers left of `staged`

The writer of a staged directory holds a lock on it. The kernel frees the lock when the process dies, however it dies, so a
directory that nobody holds is stale. Where the file system has no locks nothing is removed.
"""

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from pathlib import Path

from zoo.config import Refusal


def replace_file(path, write):
    """Writes a file or a link under another name and renames it into place; an older one is there until then.

    Args:
        path: the file to make or to replace.
        write: called with the path to write to.

    Raises:
        OSError: of the system, with `path` as its file name.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.unlink(missing_ok=True)
        write(partial)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def staged(parent, name):
    """Yields a new directory `<parent>/.<name>-<random>.partial`; it is gone after the block, unless the block has renamed it.

    Directories above it that were missing are made, and removed again where nothing has come into them.

    Raises:
        Refusal: `parent` cannot be made, or written.
    """
    parent = Path(parent)
    missing = [path for path in (parent, *parent.parents) if not path.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        path, lock = _locked_directory(parent, name)
    except OSError as error:
        raise Refusal(f"The directory {parent} cannot be written: {error.strerror}; choose another place.") from error
    try:
        path.chmod(0o755)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)
        with contextlib.suppress(OSError):  # as it is not empty
            for directory in missing:
                directory.rmdir()


def replace_directory(path, target):
    """Gives a staged directory its name; an older one there is replaced at the last moment."""
    before = path.with_suffix(".before")
    if target.exists():
        os.replace(target, before)  # at every moment the older one or the newer one is whole
    os.replace(path, target)
    shutil.rmtree(before, ignore_errors=True)


def remove_directory(path):
    """Removes a directory, its name first: a process that is killed here leaves no half of it under that name."""
    if path.exists():
        removed = path.with_name(f".{path.name}.removed")
        shutil.rmtree(removed, ignore_errors=True)
        os.replace(path, removed)
        shutil.rmtree(removed)


def remove_stale(parent, names):
    """Removes what dead processes left of `staged`.

    Args:
        parent: as for `staged`.
        names: a regular expression for whole names.
    """
    stale = re.compile(rf"\.({names})-[a-z0-9_]{{8}}\.(partial|before)")
    for path in Path(parent).iterdir():
        if not stale.fullmatch(path.name):
            continue
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # another process has removed it, or it is not ours
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # its writer is at work, or there are no locks here
        finally:
            os.close(lock)


def _locked_directory(parent, name):
    """The new directory, and the descriptor that holds its lock."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=f".{name}-", suffix=".partial", dir=parent))
        try:
            lock = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue  # removed before it was locked
        with contextlib.suppress(OSError):  # without locks nobody removes it either
            fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return path, lock
        os.close(lock)


@contextlib.contextmanager
def exclusive(directory):
    """Holds a lock on the name `directory` (which need not exist); the kernel frees it when the process dies."""
    directory = Path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with open(directory.with_name(f".{directory.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def appearing(directory):
    """Yields an empty directory that takes the name `directory` in one step, and only if the block ends without error.

    What a killed writer left is removed first; call it under `exclusive(directory)`.
    """
    directory = Path(directory)
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in [*partial.rglob("*"), partial]:
            sync(path)
        os.rename(partial, directory)
        sync(directory.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def sync(path):
    """Returns when a file or a directory is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
