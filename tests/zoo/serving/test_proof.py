"""Proving an export where TensorFlow's library is not what it is on Linux."""

import importlib.util
from types import SimpleNamespace

import pytest

from zoo.config import Refusal
from zoo.serving import c_api, proof


def test_a_package_without_the_library_is_told_with_the_way_out(tmp_path, monkeypatch):
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(OSError, match="has no libtensorflow_cc.so.2 here, .* export on Linux, .* --noexport"):
        c_api.library()


def test_an_export_that_cannot_be_proved_is_refused_in_these_words(tmp_path, monkeypatch):
    result = SimpleNamespace(returncode=1, stderr="Traceback ...\nOSError: There is no library: export on Linux.\n")
    monkeypatch.setattr(proof.subprocess, "run", lambda *_, **__: result)
    with pytest.raises(Refusal, match="^There is no library: export on Linux.$"):
        proof.prove(tmp_path)
