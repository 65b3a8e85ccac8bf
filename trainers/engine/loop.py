"""The training loop: one step, made once, the same for every model.

    loss    = sum over the batch's tokens / number of tokens         (task)
    weights = optimizer(weights, d loss / d weights)

On one replica that is one compiled function. Several replicas each compile the gradients of their rows' sum, add up
sums, counts and gradients, and make the same update: their number changes nothing but the order of additions.
"""

import contextlib
import queue
import threading
import time
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainers.engine.carried import Carried, CarriedRows
from trainers.engine.gradients import Differentiation, PrivateDifferentiation, above_zero
from trainers.engine.loss_scaling import SMALLEST_SCALE, LossScaling
from trainers.engine.strategies import Placement, rows_of, share
from zoo.bootstrap import intervals
from zoo.config import Refusal
from zoo.layers.fusion import compiled_whole, fuse_elementwise, sum_of_rows


def has_accelerator():
    """Whether a GPU or a TPU computes."""
    return any(device.device_type in ("GPU", "TPU") for device in tf.config.list_logical_devices())


class Step(NamedTuple):
    """What one update tells, as tensors.

    Args:
        loss: mean over the batch's tokens, in nats.
        count: those tokens, or the sum of their weights.
        gradient_norm: global norm of the mean's gradient, before any clipping.
        stop: how many workers had asked to stop before this step.
    """

    loss: tf.Tensor
    count: tf.Tensor
    gradient_norm: tf.Tensor
    stop: tf.Tensor


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
        placement: a `strategies.Placement` in whose scope model and optimizer were made; by default one replica.
        grad_accumulation: k; a replica takes its rows in k micro-batches, and the update is that of the whole batch.
        guarantee: the `privacy.Guarantee` of a private run, or None.
        require_xla: whether a step that XLA cannot compile is an error, and not said and then run without.
    """

    def __init__(
        self, model, task, optimizer, *, tokenizer=None, batch_size, seq_length, xla, fuse=False, placement=None,
        grad_accumulation=1, require_xla=False, guarantee=None,
    ):  # fmt: skip
        self.model, self.task, self.optimizer, self.tokenizer = model, task, optimizer, tokenizer
        self.placement = placement or Placement("cpu")
        self.batch_size, self._micro_batches = batch_size, grad_accumulation
        self.rows = share(batch_size, self.placement.num_replicas, grad_accumulation)
        # Rows of a table can neither be summed over replicas inside what XLA compiles, nor over micro-batches.
        keep_rows = self.placement.strategy is None and getattr(optimizer, "takes_rows", False)
        self.guarantee, self._fuse = guarantee, fuse
        if guarantee is None:
            self._differentiation = Differentiation(model, task, grad_accumulation, keep_rows)
        else:  # it takes rows one by one, however many are to be held together
            self._differentiation = PrivateDifferentiation(model, task, guarantee, optimizer.iterations)
        self.carried = None
        if model.carries_state and task.reads == "text":  # examples do not go on from one another
            self.initial = self.placement.spread(lambda _: model.init_state(self.rows, seq_length))
            self.carried = Carried(self.placement, self.initial, batch_size)
        self.scaling = LossScaling() if keras.config.dtype_policy().name == "mixed_float16" else None
        self._require_xla = require_xla
        self._compile(xla)
        self._evaluate = tf.function(self._evaluate_step, reduce_retracing=True, autograph=False)
        self.placement.part_seeds(model.variables)

    def _compile(self, xla):
        """Makes the graphs: of the whole step on one replica, else of the gradients on each. Scaled losses stand between
        the two: whether a step counts is decided when all gradients are added up."""
        self.xla, self._taken = xla, False
        for_cpu = xla and all(device.device_type in ("CPU", "XLA_CPU") for device in tf.config.list_logical_devices())
        self._differentiation.fusion = compiled_whole if for_cpu else fuse_elementwise if self._fuse else contextlib.nullcontext
        if self.optimizer is not None:
            self.optimizer.compiled = xla and self.placement.strategy is None and self.scaling is None
        if self.placement.strategy is None and self.scaling is None:
            self._compiled = [tf.function(self._whole_step, jit_compile=xla, autograph=False)]
            self._step = self._compiled[0]
            return
        self._compiled = [
            tf.function(self._differentiation.of_sum, jit_compile=xla, autograph=False) for _ in range(self.placement.num_local)
        ]
        self._step = tf.function(lambda *arguments: self.placement.run(self._replica_step, *arguments), autograph=False)

    @property
    def num_compilations(self):
        """How many graphs the step has needed so far, one for each shape of a batch, on each replica."""
        return max(function.experimental_get_tracing_count() for function in self._compiled)

    def variables(self):
        """Everything a checkpoint must hold, as named groups. With several workers all must read what is carried."""
        groups = dict(model=self.model.variables, optimizer=self.optimizer.variables)
        if self.carried is not None:
            groups["carried"] = self.carried.variables()
        if self.scaling is not None:
            groups["loss_scaling"] = self.scaling.variables()
        return groups

    def follow_chief(self, progress):
        """To be called after the checkpoints were looked at: what the chief has restored, every replica has then.

        Args:
            progress: of the checkpoint that was restored, or None; the chief's counts.

        Returns:
            The chief's progress.
        """
        progress = self.placement.from_chief(lambda: progress)
        if progress is not None:
            if self.placement.num_workers > 1:
                for variable in (v for group in self.variables().values() for v in group):
                    value = variable.written() if isinstance(variable, CarriedRows) else np.asarray(variable)
                    data = self.placement.broadcast(value.tobytes())
                    variable.assign(np.frombuffer(data, value.dtype).reshape(value.shape))
            self.placement.part_seeds(self.model.variables)
        return progress

    def step(self, batch, starts_epoch=False, stop=False):
        """One update by a global batch.

        Args:
            batch: dict of numpy arrays (B, ...).
            starts_epoch: whether the carried state is forgotten first.
            stop: whether this process wants all workers to stop; see `Step`.

        Returns:
            A `Step`.
        """
        factor = 1.0 if self.scaling is None else float(self.scaling.scale) / np.size(batch["loss_weights"])
        if self.placement.num_replicas > 1 or self._micro_batches > 1:
            replicas = self.placement.num_replicas
            batch = self.placement.spread(lambda i: _tensors(rows_of(batch, i, replicas, self._micro_batches)))
        else:
            batch = _tensors(batch)
        state = None
        if self.carried is not None:
            state = self.initial if starts_epoch else self.carried.state
        result, state = self._compiled_step(batch, state, tf.constant(float(stop)), tf.constant(factor))
        result = Step(*map(self.placement.first, result))
        if self.scaling is not None:
            result = self._scaled(result)
        if self.carried is not None:
            self.carried.state = state
        return result

    def _scaled(self, result):
        """Lets the loss scale learn from a step; one that overflowed, and so changed nothing, tells a norm of 0."""
        finite = bool(np.isfinite(result.gradient_norm))
        may_fall = float(self.scaling.scale) > SMALLEST_SCALE
        self.scaling.learn(finite)
        return result if finite or not may_fall else result._replace(gradient_norm=tf.constant(0.0))

    def _compiled_step(self, *arguments):
        """Takes the step; when XLA turns out not to be able to, says so and takes it without, if that is allowed."""
        try:
            result, self._taken = self._step(*arguments), True
            return result
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            if not self.xla or self._taken:
                raise
            reason = error.message.partition("\n")[0]
            if self._require_xla:
                raise Refusal(f"--xla=require: XLA cannot compile this step: {reason}") from error
            print(f"XLA cannot compile this step, which goes on without: {reason}", flush=True)
            self._compile(False)
            return self._step(*arguments)

    def _whole_step(self, batch, state, stop, _):
        """The step of one replica."""
        gradients, loss_sum, count, state = self._differentiation.of_mean(batch, state)
        with self._differentiation.fusion():
            norm = _global_norm(gradients)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return Step(loss_sum / above_zero(count), count, norm, stop), state

    def _replica_step(self, batch, state, stop, factor):
        """The step of one among several replicas. Between its two halves all add up what they computed."""
        context = tf.distribute.get_replica_context()
        compiled = self._compiled[int(self.placement.local_index() or 0) % self.placement.num_local]
        with self.placement.view(self.model.variables):
            gradients, loss_sum, count, state = compiled(batch, state, factor)
        stop = tf.identity(stop)  # puts it on the replica's device, which an argument is not
        if self.placement.strategy:
            gradients, loss_sum, count, stop = context.all_reduce("SUM", (gradients, loss_sum, count, stop))
        with self.placement.view([*self.model.variables, *self.optimizer.variables]):
            gradients = self._differentiation.mean_of(gradients, count, factor)
            norm = _global_norm(gradients)
            if self.scaling is None:
                self.optimizer.apply(gradients, self.model.trainable_variables)
            else:  # an overflow of float16: no update, and the next loss is scaled by less
                tf.cond(tf.math.is_finite(norm), lambda: self._updated(gradients), lambda: False)
        return Step(loss_sum / above_zero(count), count, norm, stop), state

    def _updated(self, gradients):
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return True

    def _evaluate_step(self, batch, state):
        return self.task.score(self.model, batch, state=state)

    def evaluate(self, data, layout, with_intervals=False):
        """The task's scores of a split, or of a part of it: a dict of numbers; if asked with intervals."""
        self.tokens_evaluated = 0

        def count(number):
            self.tokens_evaluated += number

        totals, rows = summed(self.task, self.model, self._evaluate, data, self.tokenizer, layout, count)
        more = intervals(self.task.samples(rows, data)) if with_intervals else {}
        return {**self.task.metrics(totals, rows, data), **more}


def evaluate(task, model, score, data, tokenizer, layout, count=None):
    """Runs `score(batch, state)`, which is the task's in a tf.function, over a split; see `Trainer.evaluate`.

    `count` is called with how many real tokens each batch has.
    """
    return task.metrics(*summed(task, model, score, data, tokenizer, layout, count), data)


def summed(task, model, score, data, tokenizer, layout, count=None):
    """(totals, rows) of `score` over a split: what it sums, and what it keeps of each batch; arguments as `evaluate`."""
    if model.max_length is not None and layout.seq_length > model.max_length:
        raise Refusal(f"seq_length {layout.seq_length} is more than this model's max_length of {model.max_length}.")
    carried = model.carries_state and task.reads == "text"
    state = model.init_state(layout.batch_size, layout.seq_length) if carried else None
    totals, rows = {}, {}
    for batch in task.evaluation_batches(data, model, tokenizer, layout):
        if count is not None:
            count(num_tokens(batch))
        sums, kept, state = score({name: tf.constant(value) for name, value in batch.items()}, state)
        for name, value in sums.items():
            totals[name] = totals.get(name, 0.0) + np.asarray(value, np.float64)
        for name, value in kept.items():
            rows.setdefault(name, []).append(np.asarray(value))
    return totals, rows


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


def num_tokens(batch):
    """How many real tokens a batch of arrays holds: what speeds are counted in, in training and in evaluation."""
    weights = batch.get("loss_weights", np.ones(len(next(iter(batch.values())))))
    real = (weights.reshape(len(weights), -1) > 0).any(1)  # not those that fill a batch up
    if "source_mask" in batch:  # of a target its labels
        return int(batch["source_mask"][real].sum()) + int((batch["loss_weights"] > 0).sum())
    if "contexts_before" in batch or "token_ids" not in batch:  # of words in windows the centres; of questions their number
        return int((batch["loss_weights"] > 0).sum())
    return int(batch["padding_mask"][real].sum()) if "padding_mask" in batch else int(batch["token_ids"][real].size)


def _tensors(batch):
    return {name: tf.constant(value) for name, value in batch.items()}


def _global_norm(gradients):
    """Of rows of a table that are there several times, each counts for itself, as in `tf.linalg.global_norm`."""
    return tf.sqrt(2.0 * tf.add_n([_half_of_squares(gradient) for gradient in gradients]))


def _half_of_squares(gradient):
    if not isinstance(gradient, tf.IndexedSlices):
        return tf.nn.l2_loss(gradient)
    # XLA's own sum of so many squares would take as long as a product of the step.
    return 0.5 * tf.reshape(sum_of_rows(tf.reshape(gradient.values, (-1, 1)) ** 2), ())


def set_seed(seed):
    """Seeds Keras's initialisers and dropout, NumPy and TensorFlow."""
    keras.utils.set_random_seed(int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1))
