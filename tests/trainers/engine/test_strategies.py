"""Where a run computes: rows of replicas, refusals, TF_CONFIG; one replica against two and two workers in real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from trainers.engine import strategies, workers

ROOT = Path(__file__).parents[3]


def batch(size):
    rows = np.arange(size)
    return {"token_ids": 10 * rows[:, None] + np.arange(2), "loss_weights": np.ones((size, 2), "float32")}


# Rows


@pytest.mark.parametrize(("size", "replicas", "multiple", "expected"), [
    (5, 2, 1, [[0, 1, 2], [3, 4, None]]),
    (7, 3, 1, [[0, 1, 2], [3, 4, 5], [6, None, None]]),
    (5, 2, 2, [[0, 1, 2, 3], [4, None, None, None]]),
    (5, 1, 2, [[0, 1, 2, 3, 4, None]]),
    (1, 3, 1, [[0], [None], [None]]),
    (2, 3, 2, [[0, 1], [None, None], [None, None]]),
])  # fmt: skip
def test_every_row_counts_at_one_replica_and_what_fills_up_weighs_nothing(size, replicas, multiple, expected):
    for replica, rows in enumerate(expected):
        taken = strategies.rows_of(batch(size), replica, replicas, multiple)
        assert len(taken["token_ids"]) == strategies.share(size, replicas, multiple)
        assert taken["token_ids"][:, 0].tolist() == [10 * (size - 1 if row is None else row) for row in rows]
        assert taken["loss_weights"].tolist() == [[float(row is not None)] * 2 for row in rows]


def test_labels_of_whole_rows_have_rows_too():
    data = {"labels": np.arange(3), "loss_weights": np.ones(3, "float32")}
    assert strategies.rows_of(data, 1, 2)["loss_weights"].tolist() == [1, 0]


# Choices


@pytest.mark.parametrize(("requested", "sentence"), [
    ("gpu", "--strategy=gpu: TensorFlow sees no GPU here"),
    ("tpu", "--strategy=tpu: no TPU here"),
    ("multi_worker", "TF_CONFIG names no workers"),
    ("parameter_server", "--strategy=parameter_server is not supported"),
])  # fmt: skip
def test_what_is_not_there_is_refused(requested, sentence, monkeypatch):
    for name in ("TF_CONFIG", "TPU_NAME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=sentence):
        strategies.place(requested)


@pytest.mark.parametrize(("requested", "reason"), [
    ("auto", "cpu: auto: neither a TPU, nor TF_CONFIG, nor a GPU is present"),
    ("cpu", "cpu: --strategy=cpu"),
])  # fmt: skip
def test_one_replica_needs_no_strategy(requested, reason, monkeypatch):
    for name in ("TF_CONFIG", "TPU_NAME"):
        monkeypatch.delenv(name, raising=False)
    placement = strategies.place(requested)
    assert placement == strategies.Placement(reason)
    assert placement.num_replicas == placement.num_local == 1 and placement.is_chief
    assert placement.from_chief(lambda: {"step": 3}) == {"step": 3}


# TF_CONFIG


def config(cluster, kind, index):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


TWO = {"worker": ["a:1", "b:1"]}


@pytest.mark.parametrize(("text", "expected"), [
    (None, None),
    ("", None),
    (config(TWO, "worker", 0), workers.Cluster(0, 2)),
    (config(TWO, "worker", 1), workers.Cluster(1, 2)),
    (config({"chief": ["a:1"], **TWO}, "chief", 0), workers.Cluster(0, 3)),
    (config({"chief": ["a:1"], **TWO}, "worker", 1), workers.Cluster(2, 3)),
    (config({"worker": ["a:1"]}, "worker", 0), None),
])  # fmt: skip
def test_who_is_who(text, expected, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    assert workers.from_environment() == expected


@pytest.mark.parametrize("text", [
    "{", "[]", "{}", config(TWO, "worker", 2), config(TWO, "worker", "x"), config({**TWO, "ps": ["c:1"]}, "ps", 0),
    config(TWO, "evaluator", 0),
])  # fmt: skip
def test_a_tf_config_that_makes_no_sense_is_refused_in_a_sentence(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=r"^TF_CONFIG .*\.$"):
        workers.from_environment()


# In processes of their own


def environment():
    return {**{k: v for k, v in os.environ.items() if k != "TF_CONFIG"}, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("arguments", [
    ("--sides=both", "--covering"),  # every model and task, two replicas with two micro-batches each
    ("--models=gpt,lstm", "--sides=micro-batches,workers"),
])  # fmt: skip
def test_models_train_alike_on_one_replica_on_two_in_micro_batches_and_on_two_workers(arguments):
    """Steps of uneven rows, each from the weights of one replica, with SGD: Adam divides by the gradient, and so makes much of
    the rounding of those near 0."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.replicas", "--steps=8", *arguments], capture_output=True, text=True, cwd=ROOT,
        env=environment(), check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["worst"] < 1e-6, run.stdout


def test_when_a_worker_dies_the_others_end_and_the_same_command_goes_on(tmp_path):
    (tmp_path / "text.txt").write_text("A cat sat on a mat, and then it sat on another mat. " * 60, encoding="utf8")
    command = [
        sys.executable, "-m", "trainers.run", "--model=lstm", "--preset=tiny", "--tokenizer=byte", "--batch_size=3",
        "--seq_length=8", "--xla=off", "--noexport", "--data_path=text.txt", "--model_dir=r", "--num_workers=2",
        "--checkpoint_every=50", "--eval_every=100000", "--steps=1000",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        deadline = time.monotonic() + 300
        while not list(tmp_path.glob("r/checkpoints/step_*[1-9]*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[1]), signal.SIGKILL)
        said, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 75, said
    assert "A worker has gone" in said and "Worker 1 (signal 9) died" in said
    assert said.count("Go on with: python -m trainers.run") == 1 and "Traceback" not in said
    step = max(int(path.name[5:]) for path in (tmp_path / "r" / "checkpoints").glob("step_*"))
    assert 50 <= step < 1000
    went_on = subprocess.run(command, cwd=tmp_path, env=environment(), text=True, capture_output=True, check=False)
    assert went_on.returncode == 0, went_on.stderr
    assert f"Resuming after step {step:,}" in went_on.stdout and (tmp_path / "r" / "bundle").is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r", "text.txt"]
