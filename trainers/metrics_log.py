"""What a run tells about itself: a file of JSON lines, and TensorBoard."""

import json
import os

import tensorflow as tf


class MetricsLog:
    """`metrics.jsonl`, one object a line, and the same numbers for TensorBoard.

    Args:
        run: directory of the run.
        steps: all steps of the run; what is written after them is written anew.
        resumed_step: lines of later steps, written after the checkpoint that the run goes on from, are dropped.
    """

    def __init__(self, run, steps, resumed_step=0):
        self._path = run / "metrics.jsonl"
        if self._path.is_file():
            lines = self._path.read_text(encoding="utf8").splitlines(keepends=True)
            whole = (line for line in lines if line.endswith("\n"))
            kept = [line for line in whole if self._holds(json.loads(line), steps, resumed_step)]
            aside = self._path.with_suffix(".jsonl.partial")
            aside.write_text("".join(kept), encoding="utf8")
            os.replace(aside, self._path)
        self._board = tf.summary.create_file_writer(str(run / "tensorboard"))

    @staticmethod
    def _holds(line, steps, resumed_step):
        return 0 < line["step"] <= resumed_step and (line["split"] == "train" or line["step"] < steps)

    def write(self, step, split, values):
        with open(self._path, "a", encoding="utf8") as file:
            file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        with self._board.as_default():
            for name, value in values.items():
                tf.summary.scalar(f"{split}/{name}", value, step=step)
        self._board.flush()
