"""What a run tells about itself: a file of JSON lines, and TensorBoard."""

import json

import tensorflow as tf

from zoo.files import replace_file

# What a line says of the machine and not of the model: the only values in which two runs of one command may differ.
MEASURED = ("seconds", "tokens_per_second", "flop_utilisation", "data_wait", "memory_bytes")


class MetricsLog:
    """`metrics.jsonl`, one object a line, and the same numbers for TensorBoard.

    Args:
        run: directory of the run.
        text: the lines so far, as the checkpoint holds them that the run goes on from. Lines that were written after
            that checkpoint are dropped: the run will write them again.
    """

    def __init__(self, run, text=""):
        self._path = run / "metrics.jsonl"
        self.rewind(text)
        self._board = tf.summary.create_file_writer(str(run / "tensorboard"))

    def rewind(self, text):
        """Goes back to the lines `text`."""
        if not text and not self._path.exists():
            return
        replace_file(self._path, lambda path: path.write_text(text, encoding="utf8"))

    def text(self):
        """All lines so far."""
        return self._path.read_text(encoding="utf8") if self._path.exists() else ""

    def write(self, step, split, values):
        with open(self._path, "a", encoding="utf8") as file:
            file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        with self._board.as_default():
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    tf.summary.scalar(f"{split}/{name}", value, step=step)
        self._board.flush()
