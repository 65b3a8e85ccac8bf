"""A run that is killed, again and again, ends like one that was not: a small version of benchmarks/kills.py."""

import random
import signal
import sys
import time

import pytest

from benchmarks import kills

ARGUMENTS = (*kills.SHORT, *kills.DROPOUT["gpt"], "--model=gpt", "--data_path=corpus.txt")


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_text(kills.sentences(), encoding="utf8")
    return tmp_path


def finished(directory):
    process = kills.start([sys.executable, "-m", "trainers.run", *ARGUMENTS, f"--model_dir={directory}"])
    out, _ = process.communicate()
    assert process.returncode == 0, out
    return out


def test_kills_while_training_and_while_a_checkpoint_is_written_change_nothing(workplace):
    run, chance = workplace / "killed", random.Random(3)
    command = [sys.executable, "-m", "trainers.run", *ARGUMENTS, f"--model_dir={run}"]
    for moment in ("between steps", "while writing"):
        assert kills.killed(kills.start(command), moment, run / "checkpoints", whole=None, chance=chance)
        assert not (run / "bundle").exists()
    assert "Resuming after step" in finished(run)
    finished(workplace / "reference")
    assert kills.compare(workplace / "reference", run) == []
    # ... and the comparison is one that would have seen a difference.
    log = run / "metrics.jsonl"
    log.write_text(log.read_text().replace('"loss": ', '"loss": 1', 1))
    assert kills.compare(workplace / "reference", run) == ["metrics.jsonl differs"]


def test_sigterm_ends_the_default_preset_within_ten_seconds_with_status_75(workplace):
    command = [
        sys.executable, "-m", "trainers.run", "--model=gpt", "--data_path=corpus.txt", "--tokenizer=byte", "--noexport",
        "--model_dir=run",
    ]  # fmt: skip
    process = kills.start(command)
    log = workplace / "run" / "metrics.jsonl"
    while process.poll() is None and not log.exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    began = time.perf_counter()
    out, _ = process.communicate(timeout=60)
    assert time.perf_counter() - began < 10
    assert process.returncode == 75, out
    assert "Interrupted after step" in out and kills.newest(workplace / "run") >= 50
