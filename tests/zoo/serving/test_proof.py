"""Proving an export where TensorFlow's library is not what it is on Linux."""

import importlib.util
import os
import time
from types import SimpleNamespace

import pytest

from zoo.config import Refusal
from zoo.serving import c_api, proof, replay


def test_a_package_without_the_library_is_told_with_the_way_out(tmp_path, monkeypatch):
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(OSError, match="has no libtensorflow_cc.so.2 here, .* export on Linux, .* --noexport"):
        c_api.library()


def test_an_export_that_cannot_be_proved_is_refused_in_these_words(tmp_path, monkeypatch):
    program = tmp_path / "replay.py"
    program.write_text("raise OSError('There is no library: export on Linux.')\n")
    monkeypatch.setattr(proof.replay, "__file__", str(program))
    with pytest.raises(Refusal, match="^There is no library: export on Linux.$"):
        proof.prove(tmp_path)
    with pytest.raises(Refusal, match="^There is no library: export on Linux.$"), proof.proving(tmp_path) as repeat:
        for number in range(10_000):  # more than a pipe holds: who writes is not stopped by a process that has ended
            repeat({"signature": "score", "inputs": {"text": [str(number) * 9]}})


def test_a_process_that_proves_does_not_outlive_the_export(tmp_path, monkeypatch):
    program = tmp_path / "replay.py"
    program.write_text("import os, sys, time\nopen(sys.argv[1] + '/pid', 'w').write(str(os.getpid()))\ntime.sleep(60)\n")
    monkeypatch.setattr(proof.replay, "__file__", str(program))
    with pytest.raises(KeyboardInterrupt), proof.proving(tmp_path):
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
        raise KeyboardInterrupt
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_library_is_loaded_before_the_export_is_there(tmp_path, monkeypatch):
    done = []

    def load(path):
        done.append("model")
        raise ValueError("There is no model.")

    def told():
        done.append("told")
        return "null\n"

    monkeypatch.setattr(replay.c_api, "library", lambda: done.append("library"))
    monkeypatch.setattr(replay.c_api, "SavedModel", load)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(readline=told))
    with pytest.raises(SystemExit, match="There is no model"):
        replay.main(tmp_path, "-")
    assert done == ["library", "told", "model"]
