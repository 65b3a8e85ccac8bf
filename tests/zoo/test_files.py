"""Directories that are made aside: what the dead leave is swept away, and nothing else is."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.config import Refusal
from zoo.files import remove_stale, replace_directory, staged

KILLED = """
import os, signal, sys
from zoo.config import Refusal
from zoo.files import staged

with staged(sys.argv[1], "7") as path:
    (path / "half").write_text("")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def leaving(tmp_path):
    """What a process that was killed has left."""
    result = subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=Path(__file__).parents[2], check=False)
    assert result.returncode == -signal.SIGKILL
    (path,) = tmp_path.iterdir()
    assert [file.name for file in path.iterdir()] == ["half"]
    return path


def test_what_a_killed_process_left_goes_and_all_else_stays(leaving, tmp_path):
    (tmp_path / "target").mkdir()
    kept = [".7-settings", ".7-notes", ".onnx-abcdefgh.partial", "7-abcdefgh.partial"]
    for name in kept:
        (tmp_path / name).mkdir()
    (tmp_path / ".7-linklink.partial").symlink_to("target")
    (tmp_path / ".7-filefile.partial").write_text("")
    with staged(tmp_path, 8) as living:
        remove_stale(tmp_path, r"\d+")
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {*kept, "target", ".7-linklink.partial", ".7-filefile.partial", living.name}
    assert not living.exists()


def test_a_directory_that_was_swept_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    made = []

    def swept(descriptor, operation):
        if not made:
            (path,) = tmp_path.iterdir()
            made.append(path)
            path.rmdir()

    monkeypatch.setattr("fcntl.flock", swept)
    with staged(tmp_path, "7") as path:
        assert path.is_dir() and [path] != made


def test_without_locks_a_directory_is_written_and_none_is_swept(leaving, tmp_path, monkeypatch):
    def none_here(descriptor, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", none_here)
    with staged(tmp_path, "7") as path:
        remove_stale(tmp_path, "7")
        os.rename(path, tmp_path / "7")
    assert (tmp_path / "7").is_dir() and leaving.is_dir()


def test_a_directory_takes_the_place_of_an_older_one(tmp_path):
    for content in ("old", "new"):
        with staged(tmp_path, "bundle") as path:
            (path / content).write_text("")
            replace_directory(path, tmp_path / "bundle")
    assert [path.name for path in tmp_path.rglob("*")] == ["bundle", "new"]


def test_a_place_that_cannot_be_written_is_told_by_its_own_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Refusal, match="The directory .*file cannot be written: File exists; choose another place"), staged(
        tmp_path / "file", "7"
    ):  # fmt: skip
        pass


def test_a_failure_leaves_no_empty_directory_of_its_own(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="no good"), staged(tmp_path / "a" / "b" / "c", "7"):
        raise ValueError("no good")
    assert list((tmp_path / "a").iterdir()) == []
    with staged(tmp_path / "b" / "c", "7") as path:
        os.rename(path, tmp_path / "b" / "c" / "7")
    assert (tmp_path / "b" / "c" / "7").is_dir()
