"""The mean of the last checkpoints: which they are, what it is, and that interruptions change nothing of it."""

import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from tests import programs
from trainers import flags as trainer_flags
from trainers.engine import averaging, loop
from zoo.bundle import load
from zoo.config import Refusal

RUN = (
    "--model=gpt", "--preset=tiny", "--tokenizer=byte", "--data_path=corpus.txt", "--steps=20", "--checkpoint_every=3",
    "--eval_every=4", "--batch_size=4", "--seq_length=8", "--xla=off", "--noexport", "--set=dropout=0.2", "--set=average=3",
)  # fmt: skip


@pytest.mark.parametrize(("steps", "every", "count", "expected"), [
    (100, 30, 3, [60, 90, 100]), (90, 30, 2, [60, 90]), (5, 7, 1, [5]), (10, 5, 0, []), (0, 1, 1, [0]),
])  # fmt: skip
def test_the_last_regular_checkpoints(steps, every, count, expected):
    assert averaging.steps_of(SimpleNamespace(steps=steps, checkpoint_every=every), count) == expected


def test_a_run_with_too_few_checkpoints_is_refused_and_the_default_makes_enough():
    def asked(*arguments):
        with programs.parsed("run", "--model=gpt", *arguments):
            return trainer_flags.train_config()[0]

    with pytest.raises(Refusal, match=r"average=5 is more than the 4 checkpoints of this run; give a smaller"):
        asked("--set=average=5", "--steps=100", "--checkpoint_every=30")
    assert asked("--set=average=10", "--steps=8000").checkpoint_every == 200
    assert asked("--set=average=10", "--steps=12").checkpoint_every == 1


def test_the_bundle_is_the_mean_whatever_interrupts_the_run(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_text("the old cat sees a small house and the garden.\n" * 60, encoding="utf8")
    answer = programs.call(capfd, "run", *RUN, "--model_dir=whole")
    assert answer.status == 0, answer.err
    assert "Weights: the mean of the checkpoints of steps 15, 18, 20." in answer.out

    step, calls = loop.Trainer.step, []

    def interrupted(self, *arguments):
        calls.append(None)
        if len(calls) == 11:
            raise RuntimeError("the power fails")
        if len(calls) == 19:  # call 12 is step 10 again, so it is step 17 that is interrupted, and saved
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)

    monkeypatch.setattr(loop.Trainer, "step", interrupted)
    with pytest.raises(RuntimeError, match="the power fails"):
        programs.call(capfd, "run", *RUN, "--model_dir=killed")
    assert programs.call(capfd, "run", *RUN, "--model_dir=killed").status == 75
    assert (tmp_path / "killed" / "checkpoints" / "step_00000017").is_dir()
    answer = programs.call(capfd, "run", *RUN, "--model_dir=killed")
    assert answer.status == 0 and "Weights: the mean of the checkpoints of steps 15, 18, 20." in answer.out

    whole, killed = (_weights(tmp_path / name / "bundle") for name in ("whole", "killed"))
    arrays = [np.load(tmp_path / "whole" / "checkpoints" / f"step_{step:08d}" / "arrays.npz") for step in (15, 18, 20)]
    names = [name for name in arrays[0].files if name.startswith("model/") and arrays[0][name].dtype == np.float32]
    means = [sum(some[name].astype(np.float64) for some in arrays) / 3 for name in names]
    for mean, value in zip(means, whole, strict=True):
        np.testing.assert_array_equal(value, mean.astype(np.float32))
    assert not np.array_equal(means[0].astype(np.float32), arrays[2][names[0]])
    for one, other in zip(whole, killed, strict=True):
        np.testing.assert_array_equal(one, other)


def _weights(bundle):
    return [np.asarray(variable) for variable in load(bundle).model.variables if "seed" not in variable.path]
