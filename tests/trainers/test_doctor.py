"""The doctor's findings, and what it takes the machine for."""

import os
import re
import shutil
from types import SimpleNamespace

import pytest

from tests import programs
from trainers import doctor
from trainers.cost import machine
from zoo.registry import MODELS


def test_a_sound_machine(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = programs.call(capfd, "doctor", "--nomeasure")
    assert answer.status == 0, answer.out
    lines = answer.out.splitlines()
    assert all(re.match(r"(ok    |note  ) \S", line) for line in lines), answer.out
    for finding in (
        "Python 3",
        "tensorflow 2",
        "keras 3",
        "CPU: ",
        "no GPU: ",
        "XLA compiles",
        "bfloat16: computes",
        "memory: ",
    ):
        assert finding in answer.out
    for name in MODELS.names():
        assert f" {name}: " in answer.out
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_shows_in_the_exit_status(capfd, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5 * 10**6))
    monkeypatch.setattr(machine, "memory_limit", lambda: 10**9)
    answer = programs.call(capfd, "doctor", "--nomeasure")
    assert answer.status == 1
    wrong = [line for line in answer.out.splitlines() if line.startswith("WRONG")]
    assert len(wrong) == 3 and "make room" in wrong[0] and "memory: 1.0 GB" in wrong[2]


def test_versions_and_backend(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("numpy", "no-such-package"))
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    report = doctor.Report()
    doctor.check_versions(report)
    assert report.wrong
    out = capsys.readouterr().out
    assert "no-such-package is not installed" in out and "KERAS_BACKEND is jax" in out


def test_why_a_gpu_is_not_seen(tmp_path):
    driver = tmp_path / "version"
    assert doctor.why_no_gpu(True, None, driver) == (
        False, "the machine shows no NVIDIA driver; if it has a GPU, install the driver"
    )  # fmt: skip
    driver.write_text("NVRM version")
    for hidden in ("-1", ""):
        wrong, why = doctor.why_no_gpu(True, hidden, driver)
        assert not wrong and f"CUDA_VISIBLE_DEVICES={hidden} hides it" in why
    wrong, why = doctor.why_no_gpu(False, "0", driver)
    assert wrong and "built without CUDA" in why
    wrong, why = doctor.why_no_gpu(True, None, driver, library="libnone.so.0")
    assert wrong and "libnone.so.0" in why
    wrong, why = doctor.why_no_gpu(True, "0,1", driver, library="libc.so.6")
    assert wrong and "tensorflow[and-cuda]" in why


# The machine


def test_a_containers_limit_counts_where_it_is_less(tmp_path, monkeypatch):
    whole = machine.memory_limit()
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "CGROUP_LIMITS", (str(limit), str(tmp_path / "none")))
    for text, expected in (("max", whole), ("123456789", 123456789), (str(2**63 - 1), whole)):
        limit.write_text(text + "\n")
        assert machine.memory_limit() == min(expected, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def test_room_is_asked_for_before_anything_is_written(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    machine.require_room(tmp_path / "not" / "yet", free // 2)
    with pytest.raises(OSError, match="No space left on device: '.*not/yet'"):
        machine.require_room(tmp_path / "not" / "yet", 10 * free)


def test_memory_that_a_process_holds_and_has_held():
    before = machine.resident_bytes()
    block = bytearray(b"x") * 100_000_000
    assert 90e6 < machine.resident_bytes() - before < 130e6
    del block
    assert machine.peak_resident_bytes() - before > 90e6
    machine.forget_peak()
    assert machine.peak_resident_bytes() - before < 60e6


def test_speeds_are_measured_once(monkeypatch):
    calls = []
    monkeypatch.setattr(machine, "_best_time", lambda work, seconds: calls.append(work) or 0.5)
    machine.matmul_peak.cache_clear()
    assert machine.matmul_peak() == machine.matmul_peak() == 2 * 1_536**3 / 0.5
    assert len(calls) == 1
    machine.matmul_peak.cache_clear()


def test_the_best_of_several_times_counts():
    assert machine._best_time(lambda: None, 0.01) < 0.01


def test_the_processor_has_a_name_and_cores():
    name, cores, flags = machine.processor()
    assert name and cores >= 1 and set(flags) <= set(machine.CPU_FLAGS)


@pytest.fixture(autouse=True)
def without_a_gpu(monkeypatch):
    """What is found must not depend on where the tests run."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
