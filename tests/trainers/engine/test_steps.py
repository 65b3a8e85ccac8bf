"""The loop over steps with a trainer of one weight: going back, leaving out, being interrupted, all to equal ends."""

import json
import os
import signal
from typing import NamedTuple

import numpy as np
import pytest

from trainers import program
from trainers.cost.meter import Meter
from trainers.engine import recovery
from trainers.engine.checkpoints import Checkpoints
from trainers.engine.metrics_log import MEASURED, MetricsLog
from trainers.engine.steps import Progress, Run
from trainers.engine.strategies import Placement


class Step(NamedTuple):
    """What a step tells."""

    loss: float
    count: float
    gradient_norm: float
    stop: float


class Weight:
    """A variable."""

    name = "w"

    def __init__(self):
        self.value = np.zeros((), "float64")

    shape = property(lambda self: self.value.shape)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.value, dtype)

    def assign(self, value):
        self.value = np.array(value)


class Task:
    """What the loop asks of a task."""

    shown, reads = ("loss",), "text"

    def training_metrics(self, loss, data):
        return {}


class Trainer:
    """Its weight becomes w / 2 + number of the batch; its loss tells the weight, so that any mistake shows.

    Args:
        nan_at: batches whose loss is not a number; they also ruin the weight.
        poison_at: batches whose loss looks well and that ruin the weight.
        signal_at: batch at whose step the process is asked to stop; `signal_in_evaluation`: the evaluation likewise.
    """

    task, placement, guarantee = Task(), Placement("one"), None

    def __init__(self, nan_at=(), poison_at=(), signal_at=None, signal_in_evaluation=None):
        self.weight, self.trained = Weight(), []
        self.nan_at, self.poison_at, self.signal_at = nan_at, poison_at, signal_at
        self.signal_in_evaluation = signal_in_evaluation

    def follow_chief(self, progress):
        return progress

    tokens_evaluated = 5

    def step(self, batch, starts_epoch=False, stop=False):
        number = int(batch["token_ids"][0, 0])
        self.trained.append(number)
        if number == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        loss = float(self.weight.value)
        self.weight.assign(self.weight.value / 2 + number)
        if number in self.nan_at or number in self.poison_at:
            self.weight.assign(np.nan)
        loss = np.nan if number in self.nan_at else loss
        return Step(loss, 6.0, float(number), float(stop))

    def evaluate(self, data, layout, with_intervals=False):
        step = len(self.trained)
        if self.signal_in_evaluation == step:
            self.signal_in_evaluation = None
            os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": 100 + float(self.weight.value), "perplexity": 1.0, "num_tokens": 5}


class Batches:
    """The one token of a batch is the number of its step."""

    def batch(self, step):
        return {"token_ids": np.array([[step]], np.int32)}

    def starts_epoch(self, step):
        return False


class Stream(list):
    num_bytes = 10


class Config:
    model = "gpt"
    batch_size, seq_length, separate_documents, seed, eval_tokens = 2, 3, False, 0, None
    schedule, learning_rate, warmup_steps = "linear", 0.5, 10

    def __init__(self, steps=40, eval_every=15, checkpoint_every=10):
        self.steps, self.eval_every, self.checkpoint_every = steps, eval_every, checkpoint_every


def go_on(directory, trainer, profile=None, **settings):
    """One life of a run. Returns its `Steps`, or None if it was interrupted."""
    streams = {"train": Stream(range(11)), "validation": Stream(range(5)), "test": Stream(range(5))}
    checkpoints = Checkpoints(directory / "checkpoints", {"w": trainer.weight})
    restored = checkpoints.restore()
    progress, log = (Progress.of(restored), restored["metrics"]) if restored else (Progress(), "")
    steps = Run(
        directory, Config(**settings), trainer, Batches(), checkpoints, MetricsLog(directory, log), streams, progress,
        Meter(flops_per_token=10.0, peak=1e6), profile,
    )  # fmt: skip
    try:
        steps.run()
    except SystemExit as end:
        assert end.code == program.RESUME_STATUS == 75
        return None
    return steps


def lines(directory, *names):
    """The log's lines, without what is measured; only the values of `names`, if given."""
    found = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    if names:
        return [tuple(line.get(name) for name in names) for line in found]
    return [{key: value for key, value in line.items() if key not in MEASURED} for line in found]


def weight_after(batches):
    w = 0.0
    for number in batches:
        w = w / 2 + number
    return w


@pytest.fixture(autouse=True)
def in_a_place_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_step_is_trained_told_judged_and_saved(tmp_path):
    trainer = Trainer()
    steps = go_on(tmp_path, trainer)
    assert trainer.trained == list(range(40))
    assert trainer.weight.value == weight_after(range(40))
    told = lines(tmp_path, "step", "split")
    assert told == sorted(
        [(step, "train") for step in range(2, 41, 2)] + [(15, "validation"), (30, "validation")], key=lambda line: line[0]
    )
    first = lines(tmp_path)[0]
    # w before batches 0 and 1; the norms are the numbers of the batches; the second of ten steps of warm-up to 0.5
    assert first == {
        "step": 2, "split": "train", "loss": 0.0, "gradient_norm": 0.5, "learning_rate": pytest.approx(0.1)
    }  # fmt: skip
    # step 15 was the best of the evaluations: the weight grows; 30 and 40 are the newest
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["best", "step_00000015", "step_00000030", "step_00000040"]
    assert steps.progress.step == 40


def test_a_bad_batch_is_left_out_as_if_it_had_never_been_there(tmp_path):
    trainer = Trainer(nan_at=[23])
    steps = go_on(tmp_path, trainer)
    assert trainer.trained == [*range(24), *range(20, 23), *range(24, 40)]  # back to the checkpoint of step 20
    assert trainer.weight.value == weight_after(number for number in range(40) if number != 23)
    assert steps.progress.skipped == {23: "the loss is nan"}
    skipped = [line for line in lines(tmp_path) if line["split"] == "skipped"]
    assert skipped == [{"step": 24, "split": "skipped", "reason": "the loss is nan"}]
    told = lines(tmp_path, "step", "split")
    assert len(told) == len(set(told))  # no line is there twice
    rates = {line["step"]: line["learning_rate"] for line in lines(tmp_path) if line["split"] == "train"}
    assert rates[22] == pytest.approx(0.5 * (1 - 0.9 * 11 / 30))  # update 22, number 21: eleven of thirty steps after warm-up
    assert rates[26] == pytest.approx(0.5 * (1 - 0.9 * 14 / 30))  # two updates more, as one step was left out, and one
    assert [step for step, split in told if split == "train"] == list(range(2, 41, 2))


def test_weights_that_were_ruined_without_a_sign_are_found_out(tmp_path):
    """Batch 25 ruins the weights, and its loss looks well: step 26 shows it, and step 27 that 26 was not to blame."""
    trainer = Trainer(poison_at=[25])
    steps = go_on(tmp_path, trainer)
    assert steps.progress.skipped == {25: "left out with step 28", 26: "the loss is nan", 27: "the loss is nan"}
    assert trainer.weight.value == weight_after(number for number in range(40) if not 25 <= number <= 27)


def test_so_are_those_that_are_in_a_checkpoint_already(tmp_path):
    trainer = Trainer(poison_at=[19])  # the last before the checkpoint of step 20
    steps = go_on(tmp_path, trainer)
    assert list(steps.progress.skipped) == [19, 20, 21]
    assert trainer.weight.value == weight_after(number for number in range(40) if not 19 <= number <= 21)


def test_it_gives_up_with_the_step_and_the_batch(tmp_path):
    with pytest.raises(ValueError) as refusal:
        go_on(tmp_path, Trainer(nan_at=range(12, 40)))
    assert str(refusal.value).startswith("Step 17 (batch 16) cannot be trained on: the loss is nan. Leaving out steps 9, ")
    assert "--learning_rate" in str(refusal.value)
    skipped = [line["step"] for line in lines(tmp_path) if line["split"] == "skipped"]
    assert skipped == list(range(11, 17))  # and 10, which the oldest checkpoint that was left held already


def test_a_spike_is_one_only_when_the_window_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(recovery, "WINDOW", 10)
    monkeypatch.setattr(recovery, "SIGMAS", 0.0)

    class Steady(Trainer):
        def step(self, batch, starts_epoch=False, stop=False):
            told = super().step(batch)
            return told._replace(loss=2.0 + 5.0 * (int(batch["token_ids"][0, 0]) in (4, 33)))

    trainer = Steady()
    steps = go_on(tmp_path, trainer)
    assert list(steps.progress.skipped) == [33]
    assert trainer.weight.value == weight_after(number for number in range(40) if number != 33)


@pytest.mark.parametrize(("validation_loss", "trained"), [(2.9, 40), (3.1, 33), (np.nan, 33)])
def test_a_stretch_of_other_text_is_trained_on_where_the_weights_are_good(
    validation_loss, trained, tmp_path, monkeypatch, capsys
):
    """Batches 20 to 23 have a loss of 7 after a steady 2; what is a nat above the median is a spike."""
    monkeypatch.setattr(recovery, "WINDOW", 10)

    class Mixed(Trainer):
        def step(self, batch, starts_epoch=False, stop=False):
            return super().step(batch)._replace(loss=2.0 + 5.0 * (20 <= int(batch["token_ids"][0, 0]) < 24))

        def evaluate(self, data, layout, with_intervals=False):  # at step 15, and at a spike
            return {"loss": 2.5 if len(self.trained) == 15 else validation_loss, "perplexity": 1.0, "num_tokens": 5}

    trainer = Mixed()
    steps = go_on(tmp_path, trainer)
    assert len(set(trainer.trained)) == 40 and 40 - len(steps.progress.skipped) == trained
    spikes = [line for line in lines(tmp_path) if line["split"] == "spike"]
    if trained == 40:
        assert trainer.trained == list(range(40)) and trainer.weight.value == weight_after(range(40))
        assert [line["step"] for line in spikes] == [21]
        said = (
            "the loss is 7 where the median of the last 10 is 2; that of the validation text is 2.9, so the text is another one"
        )
        assert f"Step 21: {said} here, and the run goes on." in capsys.readouterr().out
    else:
        assert not spikes


@pytest.mark.parametrize("stretch", [range(20, 34), range(20, 60)], ids=["passes", "stays"])
def test_a_long_stretch_of_high_losses_is_waited_for_and_ends_the_run_if_it_stays(stretch, tmp_path, monkeypatch, capsys):
    """The weights look bad throughout, so seven steps are left out first."""
    monkeypatch.setattr(recovery, "WINDOW", 5)
    monkeypatch.setattr(recovery, "PATIENCE", 20)

    class Mixed(Trainer):
        def step(self, batch, starts_epoch=False, stop=False):
            return super().step(batch)._replace(loss=2.0 + 5.0 * (int(batch["token_ids"][0, 0]) in stretch))

        def evaluate(self, data, layout, with_intervals=False):
            return {"loss": 2.0 if len(self.trained) < 20 else 9.0, "perplexity": 1.0, "num_tokens": 5}

    if stretch.stop == 60:
        with pytest.raises(
            ValueError, match="The loss has stayed above 3 for 20 steps, up to step 44; give a lower --learning_rate"
        ):
            go_on(tmp_path, Mixed(), steps=60)
    else:
        steps = go_on(tmp_path, Mixed(), steps=60)
        assert steps.progress.step == 60 and steps.progress.patient == () and len(steps.progress.skipped) == 7
    assert "the run goes on, and ends after 20 steps if the loss stays above 3." in capsys.readouterr().out


@pytest.mark.parametrize("at", [0, 9, 14, 22, 23, 29, 39])
def test_a_run_that_was_interrupted_ends_like_one_that_was_not(at, tmp_path):
    """Whatever the step is: one of a checkpoint, of an evaluation, the bad one, the last."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for directory in (whole, parts):
        directory.mkdir()
    expected = Trainer(nan_at=[23])
    go_on(whole, expected)
    assert go_on(parts, Trainer(nan_at=[23], signal_at=at)) is None
    second = Trainer(nan_at=[23])
    assert go_on(parts, second) is not None
    assert lines(parts) == lines(whole)
    assert second.weight.value == expected.weight.value


def test_an_evaluation_that_is_cut_short_is_made_up_for(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for directory in (whole, parts):
        directory.mkdir()
    go_on(whole, Trainer())
    first = Trainer(signal_in_evaluation=15)
    assert go_on(parts, first) is None
    assert first.trained == list(range(15)) and (15, "validation") not in lines(parts, "step", "split")
    go_on(parts, Trainer())
    assert lines(parts) == lines(whole)
    names = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (whole, parts)]
    assert names[0] == names[1]


def test_being_asked_to_stop_says_how_to_go_on(tmp_path, capsys):
    assert go_on(tmp_path, Trainer(signal_at=5)) is None
    out = capsys.readouterr().out
    assert "Interrupted after step 6, and saved. Go on with: python -m trainers.run" in out


def test_a_disk_that_fills_up_ends_the_run_with_the_reason(tmp_path, monkeypatch):
    def full(file, **arrays):
        raise OSError(28, "No space left on device", file.name)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        go_on(tmp_path, Trainer())


def test_the_log_tells_speed_utilisation_waiting_and_memory_and_the_screen_how_long_it_will_take(tmp_path, capsys):
    go_on(tmp_path, Trainer())
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[3])
    assert line.keys() == {"step", "split", "loss", "gradient_norm", "learning_rate", *MEASURED}
    assert line["flop_utilisation"] == pytest.approx(line["tokens_per_second"] * 10.0 / 1e6)
    assert 0 <= line["data_wait"] <= 1 and line["memory_bytes"] > 1e7
    assert len([line for line in capsys.readouterr().out.splitlines() if "to the end, evaluations included" in line]) == 1


def test_steps_are_traced_for_tensorboard(tmp_path, monkeypatch):
    import tensorflow as tf

    calls, trainer = [], Trainer()
    monkeypatch.setattr(tf.profiler.experimental, "start", lambda path: calls.append(("start", path, len(trainer.trained))))
    monkeypatch.setattr(tf.profiler.experimental, "stop", lambda: calls.append(("stop", len(trainer.trained))))
    go_on(tmp_path, trainer, profile=(3, 5))
    assert calls == [("start", str(tmp_path / "tensorboard"), 2), ("stop", 5)]
    calls.clear()
    trainer.trained.clear()
    (tmp_path / "to the last").mkdir()
    go_on(tmp_path / "to the last", trainer, profile=(39, 99))
    assert [call[0] for call in calls] == ["start", "stop"] and calls[1][1] == 40
