"""What --list and --list=FAMILY print."""

import re

import pytest

from tests import programs
from tests.programs import refusal
from trainers import listing
from trainers.cost import machine
from zoo.registry import MODELS


def rows(text):
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]


def test_the_list_fits_into_100_columns_and_cuts_nothing(capfd):
    out = programs.call(capfd, "run", "--list").out
    assert max(map(len, out.splitlines())) <= 100 and "…" not in out
    assert programs.call(capfd, "run", "--list=true").out == out
    joined = {}
    for cells in rows(out):
        name = cells[0] or name  # noqa: F821
        joined[name] = f"{joined.get(name, '')} {' '.join(cells)}"
    for name in MODELS.names():
        assert all(preset in joined[name] for preset in MODELS.config(name).presets), name


@pytest.mark.parametrize("family", MODELS.names())
def test_each_family_tells_what_its_presets_take(family, capfd, monkeypatch):
    monkeypatch.setattr(machine, "processor_peak", lambda: 200e9)
    out = programs.call(capfd, "run", f"--list={family}").out
    assert max(map(len, out.splitlines())) <= 100 and "…" not in out
    presets = MODELS.config(family).presets
    assert all(preset in out for preset in presets)
    if MODELS.config(family).fitted:
        assert "fitted in closed form" in out
    else:
        assert [cells[0] for cells in rows(out)] == list(presets)
        assert all(re.fullmatch(r"[\d,.]+ GB( \(!\))?", cells[4]) for cells in rows(out))
        assert all(re.fullmatch(r"under 1 min|[\d,]+ (min|h|days)", cells[5]) for cells in rows(out))


def test_the_time_of_a_preset_is_its_flops_over_half_the_speed_of_a_product(capfd, monkeypatch):
    monkeypatch.setattr(machine, "processor_peak", lambda: 200e9)
    monkeypatch.setattr(machine, "memory_limit", lambda: 8 * 10**9)
    out = programs.call(capfd, "run", "--list=gpt").out
    told = {cells[0]: cells for cells in rows(out)}
    # 1,200 steps of 16 x 128 tokens, 6 FLOPs for each of 1.3M parameters and 12 T N H a layer for attention, at 100 GFLOP/s
    assert told["default"][1:4] == ["1.33M", "16 x 128", "1,200"] and told["default"][5] == "4 min"
    assert told["tiny"][5] == "under 1 min" and told["gpt2_small"][5].endswith(" h")
    assert "(!)" in told["gpt2_medium"][4] and "(!)" not in told["gpt2_small"][4]
    assert "200 GFLOP/s" in out and "8.0 GB" in out


@pytest.mark.parametrize("family", ["bag_of_words", "glove", "word2vec"])
def test_what_is_not_a_product_takes_time_too(family, capfd, monkeypatch):
    monkeypatch.setattr(machine, "processor_peak", lambda: 22e9)
    out = programs.call(capfd, "run", f"--list={family}").out
    told = {cells[0]: cells[5] for cells in rows(out)}
    # By products alone word2vec would take 19 s, and the others under 1 s. Measured beside 22 GFLOP/s: 58 s, 111 s and 76 s.
    assert told["default"] == {"bag_of_words": "1 min", "glove": "2 min", "word2vec": "1 min"}[family]
    assert "Most of a step reads tables and compares" in out


def test_a_wrong_family_is_answered_with_the_nearest(capfd):
    assert refusal(capfd, "run", "--list=gpd") == "No model is called 'gpd'; did you mean 'gpt'?"


@pytest.mark.parametrize(
    ("seconds", "told"), [(59, "under 1 min"), (90 * 60, "90 min"), (7 * 3600, "7 h"), (9 * 86400, "9 days")]
)
def test_times_are_told_roughly(seconds, told):
    assert listing._roughly(seconds) == told


def test_a_product_is_measured_without_tensorflow():
    assert machine.processor_peak(0.01) > 1e8
