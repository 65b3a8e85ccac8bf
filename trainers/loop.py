"""The training loop: one step, made once, the same for every model.

    loss    = sum over the batch's tokens / number of tokens         (task)
    weights = optimizer(weights, d loss / d weights)                 (one replica: one compiled function)

A strategy of several replicas splits this in two where it is marked: gradients a replica, then all-reduce and update.
"""

import contextlib
import queue
import threading
import time

import keras
import numpy as np
import tensorflow as tf

from zoo.layers.fusion import islands

# Measured on two CPU cores (benchmarks/LOG.md): below, XLA's fusion wins; above, the matrix products rule and it loses.
XLA_CPU_MAX_PARAMS = 3_000_000


def resolve_xla(requested, model, devices):
    """(whether the step is compiled by XLA, why), for `--xla`."""
    if requested in ("on", "require"):
        return True, f"--xla={requested}"
    if requested == "off":
        return False, "--xla=off"
    if any(device.device_type in ("GPU", "TPU") for device in devices):
        return True, "auto: an accelerator is present"
    if model.carries_state:
        return False, "auto: on a CPU the recurrent loop is faster without"
    num_params = model.count_params()
    small = num_params <= XLA_CPU_MAX_PARAMS
    return small, f"auto: {num_params:,} parameters are {'few' if small else 'many'} for a CPU"


class Trainer:
    """Fits a model to batches.

    Args:
        model: a built model, with the task's head if it has one.
        task: an instance of a registered task.
        optimizer: a built Keras optimizer.
        tokenizer: for a task whose batches hold ids that no text yields, such as those of masks.
        batch_size, seq_length: sizes of a batch, for the carried state.
        xla: whether the step is compiled.
        fuse: whether XLA makes the elementwise chains of a step that it does not compile as a whole.
    """

    def __init__(self, model, task, optimizer, *, tokenizer=None, batch_size, seq_length, xla, fuse=False):
        self.model, self.task, self.optimizer, self.tokenizer = model, task, optimizer, tokenizer
        self._fusion = islands if fuse else contextlib.nullcontext
        self.carried = None
        if model.carries_state:
            self.initial = model.init_state(batch_size, seq_length)
            self.carried = {name: tf.Variable(value, name=name) for name, value in self.initial.items()}
        # With a carried state the variables that hold it are assigned outside the compiled part.
        self._compute = tf.function(self._compute_step, jit_compile=xla, autograph=False)
        self._evaluate = tf.function(self._evaluate_step, reduce_retracing=True, autograph=False)

    def variables(self):
        """Everything a checkpoint must hold, as named groups."""
        groups = dict(model=self.model.variables, optimizer=self.optimizer.variables)
        if self.carried is not None:
            groups["carried"] = list(self.carried.values())
        return groups

    def step(self, batch, starts_epoch=False):
        """One update. Returns the mean loss in nats a token, and the number of tokens, as tensors."""
        state = None
        if self.carried is not None:
            state = self.initial if starts_epoch else {name: v.value() for name, v in self.carried.items()}
        loss, count, state = self._compute({name: tf.constant(value) for name, value in batch.items()}, state)
        if self.carried is not None:
            for name, value in state.items():
                self.carried[name].assign(value)
        return loss, count

    def _compute_step(self, batch, state):
        variables = self.model.trainable_variables
        with self._fusion():
            with tf.GradientTape() as tape:
                outputs, state = self.task.forward(self.model, batch, state=state, training=True)
                loss_sum, count = self.task.loss(batch, outputs)
                loss = loss_sum / count  # several replicas: the count of all of them, so that their gradients add up
            gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)]
        # Several replicas: from here on outside the compiled part, after an all-reduce of the gradients.
        self.optimizer.apply(gradients, variables)
        return loss, count, state

    def _evaluate_step(self, batch, state):
        return self.task.score(self.model, batch, state=state)

    def evaluate(self, data, layout, max_tokens=None):
        """The task's scores of a split, or of its first `max_tokens` tokens: a dict of numbers."""
        return evaluate(self.task, self.model, self._evaluate, data, self.tokenizer, layout, max_tokens)


def evaluate(task, model, score, data, tokenizer, layout, max_tokens=None):
    """Runs `score(batch, state)`, which is the task's in a tf.function, over a split; see `Trainer.evaluate`."""
    if model.max_length is not None and layout.seq_length > model.max_length:
        raise ValueError(f"seq_length {layout.seq_length} is more than this model's max_length of {model.max_length}.")
    state = model.init_state(layout.batch_size, layout.seq_length) if model.carries_state else None
    totals, rows = {}, {}
    for batch in task.evaluation_batches(data, model, tokenizer, layout, max_tokens):
        sums, kept, state = score({name: tf.constant(value) for name, value in batch.items()}, state)
        for name, value in sums.items():
            totals[name] = totals.get(name, 0.0) + np.asarray(value, np.float64)
        for name, value in kept.items():
            rows.setdefault(name, []).append(np.asarray(value))
    return task.metrics(totals, rows, data)


class Prefetcher:
    """Calls `make(step)` a few steps ahead in a thread; iterating gives (step, batch, seconds waited)."""

    def __init__(self, make, start, stop, depth=4):
        self._make, self._start, self._stop = make, start, stop
        self._queue, self._ended = queue.Queue(depth), threading.Event()
        self._thread = threading.Thread(target=self._fill, daemon=True)
        self._thread.start()

    def _fill(self):
        for step in range(self._start, self._stop):
            try:
                item = (step, self._make(step))
            except Exception as error:  # handed to the consumer, who raises it in its own thread
                item = (step, error)
            while not self._ended.is_set():
                try:
                    self._queue.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if self._ended.is_set() or isinstance(item[1], Exception):
                return

    def __iter__(self):
        for _ in range(self._start, self._stop):
            began = time.perf_counter()
            step, batch = self._queue.get()
            if isinstance(batch, Exception):
                raise batch
            yield step, batch, time.perf_counter() - began

    def close(self):
        """Ends the thread."""
        self._ended.set()
        self._thread.join()


def set_seed(seed):
    """Seeds Keras's initialisers and dropout, NumPy and TensorFlow."""
    keras.utils.set_random_seed(int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1))
