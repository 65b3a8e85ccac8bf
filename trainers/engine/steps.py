"""The steps of a run: train, log, judge, save; stop when asked to; go back when a step went wrong."""

import contextlib
import dataclasses
import math
import time

import numpy as np
import tensorflow as tf

from trainers.cost.plan import seconds_left
from trainers.engine import judging, loop, recovery
from trainers.engine.interruption import Interruption
from trainers.engine.optimizers import Schedule
from trainers.program import RESUME_STATUS, command_to_go_on, quiet
from trainers.progress import ProgressBar, duration
from zoo.config import Refusal

STARVED = 0.02  # share of the time spent waiting for data from which on the user is told
# What checkpoints of version 0.1 call fields of `Progress`.
FORMER_NAMES = {"untold": "pending_losses", "untold_norms": "pending_norms"}


@dataclasses.dataclass
class Progress:
    """Where a run stands between two steps, besides its variables: what a checkpoint keeps as `progress.json`.

    Attributes:
        step: steps done; also the number of the next batch.
        pending_losses: losses of the steps since the last line of the log.
        pending_norms: norms of their gradients.
        recent: the last losses, by which a spike is known.
        skipped: step -> why it was left out.
        best_loss: the lowest validation loss so far, of the evaluations.
        lowest_loss: likewise, of the evaluations and of those at a spike.
        patient: (step, limit) until which spikes are not looked for, and what the losses must have come below by then.
        evaluation_due: the run was interrupted before it had judged itself at this step.
    """

    step: int = 0
    pending_losses: list = dataclasses.field(default_factory=list)
    pending_norms: list = dataclasses.field(default_factory=list)
    recent: list = dataclasses.field(default_factory=list)
    skipped: dict = dataclasses.field(default_factory=dict)
    best_loss: float | None = None
    lowest_loss: float | None = None
    patient: tuple = ()
    evaluation_due: bool = False

    @classmethod
    def of(cls, saved):
        """The progress that a checkpoint holds, a dict."""
        saved = {FORMER_NAMES.get(name, name): value for name, value in saved.items()}
        progress = cls(**{field.name: saved[field.name] for field in dataclasses.fields(cls) if field.name in saved})
        progress.skipped = {int(step): reason for step, reason in progress.skipped.items()}  # keys of JSON are strings
        return progress


class Run:
    """Takes a trainer from where a run stands to its last step.

    Args:
        run: directory of the run.
        config: a `TrainConfig`.
        trainer: a `loop.Trainer`.
        batches: `batch(step)` and `starts_epoch(step)`.
        checkpoints: the run's `Checkpoints`.
        log: its `MetricsLog`.
        data: split -> what the task makes batches of.
        progress: where the run stands.
        meter: a `Meter`.
        profile: (first, last) of the steps that TensorBoard gets a trace of, or None.
        judged_at_end: the splits that are read after the last step, for the time that is left.
    """

    def __init__(
        self, run, config, trainer, batches, checkpoints, log, data, progress, meter, profile=None,
        judged_at_end=("validation", "test"),
    ):  # fmt: skip
        self.run_directory, self.config, self.trainer, self.batches = run, config, trainer, batches
        self.checkpoints, self.log, self.data, self.progress = checkpoints, log, data, progress
        self.meter, self.profile, self.judged_at_end = meter, profile, judged_at_end
        self._schedule = Schedule.of(config)
        self._log_every = max(1, min(50, config.steps // 20))
        self._compiled = self._all_stop = self._tracing = self._estimated = False

    def run(self):
        """Carries out all steps that are left. Raises SystemExit when interrupted, Refusal when they lead nowhere."""
        with ProgressBar("step", self.config.steps, self.progress.step) as self._bar, Interruption() as self._signals:
            if not self.trainer.placement.from_chief(self.checkpoints.exist):
                self._save()  # what the first steps can go back to
            self.meter.begin()
            if self.progress.evaluation_due:
                self._save(self._evaluate())
            while not self._stretch():
                pass
            self.checkpoints.wait()

    def _stretch(self):
        """Steps until the last one, or until a bad one. Returns whether the run is at its end."""
        prefetcher = loop.Prefetcher(self.batches.batch, self.progress.step, self.config.steps)
        self.meter.begin()
        try:
            for step, batch, waited in prefetcher:
                self.meter.waited(waited)
                self._trace(step + 1)
                if step in self.progress.skipped:
                    self.log.write(step + 1, "skipped", {"reason": self.progress.skipped[step]})
                elif reason := self._step(step, batch):
                    self._go_back(step, reason)
                    return False
                else:
                    self.meter.trained(loop.num_tokens(batch))
                self.progress.step = step + 1
                self._after_step()
        finally:
            prefetcher.close()
            self._trace(None)
        return True

    def _trace(self, step):
        """Begins or ends the trace for TensorBoard when `step` is next; None ends it whatever comes."""
        first, last = self.profile or (0, 0)
        if self._tracing and (step is None or step > last):
            tf.profiler.experimental.stop()
            self._tracing = False
        elif not self._tracing and step is not None and first <= step <= last:
            tf.profiler.experimental.start(str(self.run_directory / "tensorboard"))
            self._tracing = True

    @property
    def _stopping(self):
        """Whether the run ends here. Workers must stop after the same step: in one they say so, after it all know."""
        return self._all_stop if self.trainer.placement.num_workers > 1 else self._signals.requested

    def _step(self, step, batch):
        """Trains on one batch. Returns why the step is bad, or None."""
        if not self._compiled:
            self._bar.note("making the graph of a step")
        with contextlib.nullcontext() if self._compiled else quiet():  # the first call compiles, and chatters
            told = self.trainer.step(batch, self.batches.starts_epoch(step), self._signals.requested)
            loss, norm = float(told.loss), float(told.gradient_norm)
        if not self._compiled and (step + 1) % self._log_every and step + 1 < self.config.steps:
            self.meter.begin()  # speeds are those of a step that is compiled
        self._compiled = True
        self._all_stop = float(told.stop) > 0
        reason = recovery.badness(loss, norm, self.progress.recent)
        if reason is not None and self.trainer.guarantee is not None:
            reason = self._private_reason(loss, norm, reason)
        elif reason is not None and math.isfinite(loss) and math.isfinite(norm):
            reason = self._reason_in_weights(step, reason)
        if reason is None:
            self.progress.pending_losses.append(loss)
            self.progress.pending_norms.append(norm)
            self.progress.recent = recovery.remember(self.progress.recent, loss)
        if self.progress.patient and step + 1 >= self.progress.patient[0]:
            self._end_patience(step)
        return reason

    @staticmethod
    def _private_reason(loss, norm, reason):
        """None for a spike: to leave out a batch for its loss would tell of the data. Raises Refusal for what is not finite."""
        if math.isfinite(loss) and math.isfinite(norm):
            return None
        raise Refusal(f"{reason[0].upper()}{reason[1:]}, and a private run leaves out no step; begin anew with a lower rate.")

    def _reason_in_weights(self, step, reason):
        """Why a spike is the weights' fault, or None where the run goes on."""
        progress = self.progress
        if progress.patient:
            return None
        limit, before = recovery.limit(progress.recent), time.perf_counter()
        reading = judging.while_training(self.config, self.trainer.task, self.data)
        judged = self.trainer.placement.from_chief(lambda: self._scores(reading))["loss"]
        self.meter.leave_out(time.perf_counter() - before)
        skipped = recovery.widened(progress.skipped, step)
        if recovery.are_good(judged, progress.lowest_loss, progress.recent):
            self._note_lowest(judged)
            said = f"that of the validation text is {judged:.4g}, so the text is another one here, and the run goes on"
        elif recovery.hopeless(skipped, step):
            progress.patient = step + recovery.PATIENCE, limit
            said = (
                f"to leave out steps {self._near(skipped, step)} did not help; the run goes on, and ends after "
                f"{recovery.PATIENCE} steps if the loss stays above {limit:.4g}"
            )
        else:
            return reason
        self.log.write(step + 1, "spike", {"reason": f"{reason}; {said}"})
        self._bar.say(f"Step {step + 1:,}: {reason}; {said}.")
        progress.recent = []
        return None

    def _end_patience(self, step):
        """Raises Refusal where the loss stayed high for so long."""
        limit, self.progress.patient = self.progress.patient[1], ()
        if recovery.is_lost(self.progress.recent, limit):
            raise Refusal(
                f"The loss has stayed above {limit:.4g} for {recovery.PATIENCE} steps, up to step {step + 1:,}; give a lower "
                "--learning_rate, a --clip_norm or more --warmup_steps, in a new run."
            )

    @staticmethod
    def _near(skipped, step):
        return ", ".join(str(other + 1) for other in skipped if other > step - recovery.SKIPPED_WITHIN)

    def _note_lowest(self, loss):
        self.progress.lowest_loss = min(loss, math.inf if self.progress.lowest_loss is None else self.progress.lowest_loss)

    def _after_step(self):
        done, config = self.progress.step, self.config
        last = done == config.steps
        if (done % self._log_every == 0 or last) and self.progress.pending_losses:
            self._tell()
        judged, best = None, self.progress.best_loss
        if done % config.eval_every == 0 and not last:
            judged = self._evaluate()
        if done % config.checkpoint_every == 0 or last or self.progress.best_loss != best or self._stopping:
            self._save(judged)
        self._stop_if_asked()

    def _tell(self):
        """Writes a line of the log over the steps since the last one."""
        progress, loss = self.progress, float(np.mean(self.progress.pending_losses))
        told = self.trainer.task.training_metrics(loss, self.data["train"])
        told |= dict(gradient_norm=float(np.mean(progress.pending_norms)), learning_rate=self._learning_rate())
        if self.trainer.guarantee is not None:
            told["epsilon"] = self.trainer.guarantee.epsilon(progress.step)
        measured = self.meter.read()
        self.log.write(progress.step, "train", dict(loss=loss, **told, **measured))
        self._show(dict(loss=loss, **told), measured)
        self.checkpoints.poll()
        progress.pending_losses, progress.pending_norms = [], []
        self.meter.begin()

    def _show(self, told, measured):
        """What matters to the user, on the bar; and once, how long all of it will take."""
        speed, config = measured["tokens_per_second"], self.config
        task = self.trainer.task
        at_end = sum(judging.at_end(config, task, self.data, split).tokens for split in self.judged_at_end)
        judged = judging.while_training(config, task, self.data).tokens
        left = duration(seconds_left(config, self.progress.step, speed, judged, at_end))
        figures = {name: told[name] for name in ("loss", "bits_per_byte", "epsilon") if name in told}
        figures |= {"tokens/s": speed, "of peak": f"{measured['flop_utilisation']:.0%}"}
        if measured["data_wait"] > STARVED:
            figures["waiting for data"] = f"{measured['data_wait']:.0%}"
        self._bar.update(self.progress.step, **figures, left=left)
        if not self._estimated:
            self._bar.say(f"step {self.progress.step:,}: {speed:,.0f} tokens/s, about {left} to the end, evaluations included")
        self._estimated = True

    def _learning_rate(self):
        """The rate that the last step was taken with: steps that were left out made no update."""
        left_out = sum(step < self.progress.step for step in self.progress.skipped)
        return float(self._schedule(self.progress.step - left_out - 1))

    def _evaluate(self):
        """Judges the model on a part of the validation split. Returns its loss; a signal cuts this short."""
        before, placement = time.perf_counter(), self.trainer.placement
        try:
            with self._signals.at_once() if placement.num_workers == 1 else contextlib.nullcontext():
                reading = judging.while_training(self.config, self.trainer.task, self.data)
                scores = placement.from_chief(lambda: self._scores(reading))
        except KeyboardInterrupt:
            self.progress.evaluation_due = True
            self._save()
            self._stop_if_asked()
            raise
        self.progress.evaluation_due = False
        if scores["loss"] < (math.inf if self.progress.best_loss is None else self.progress.best_loss):
            self.progress.best_loss = scores["loss"]
        self._note_lowest(scores["loss"])
        self.log.write(self.progress.step, "validation", scores)
        told = judging.shown(self.trainer.task, scores) + reading.sentence()
        self._bar.say(f"step {self.progress.step:,}  validation {told}")
        self.meter.leave_out(time.perf_counter() - before)
        return scores["loss"]

    def _scores(self, reading):
        part = reading.of(self.trainer.task, self.data["validation"], judging.layout_of(self.config))
        return judging.split_scores(self.config, self.trainer, part, reading)

    def _save(self, validation_loss=None):
        progress = dataclasses.asdict(self.progress)
        self.checkpoints.save(self.progress.step, {**progress, "validation_loss": validation_loss}, self.log.text())

    def _stop_if_asked(self):
        if self._stopping:
            self.checkpoints.wait()
            self._bar.say(
                f"Interrupted after step {self.progress.step:,}, and saved. Go on with: {command_to_go_on(self.run_directory)}"
            )
            raise SystemExit(RESUME_STATUS)

    def _go_back(self, step, reason):
        """Restores the last good checkpoint and notes that `step` is to be left out."""
        skipped = recovery.widened(self.progress.skipped, step)
        if recovery.hopeless(skipped, step):
            raise Refusal(
                f"Step {step + 1:,} (batch {step}) cannot be trained on: {reason}. "
                f"Leaving out steps {self._near(skipped, step)} and going back before them did not help; give a lower "
                "--learning_rate, a --clip_norm or more --warmup_steps, in a new run."
            )
        new = {
            other: reason if other == step else f"left out with step {step + 1}" for other in skipped
        } | self.progress.skipped
        earliest = min(new.keys() - self.progress.skipped.keys())
        restored = self.trainer.follow_chief(self.checkpoints.restore(self._bar.say, before=earliest))
        self.log.rewind(restored["metrics"])
        self.progress = Progress.of(restored)
        self.progress.skipped = new
        self._bar.say(
            f"Step {step + 1:,}: {reason}. Gone back to the checkpoint of step {self.progress.step:,}; "
            f"left out from now on: {', '.join(str(other + 1) for other in skipped)}."
        )
