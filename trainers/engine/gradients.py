"""Gradients of one replica's rows: of all at once, or of some at a time, so that fewer activations are held together.

Shape letters: B rows of the replica, k micro-batches.
"""

import contextlib

import numpy as np
import tensorflow as tf

TINY = 1e-30  # far below every weight that an example may have


def above_zero(count):
    """A count to divide by: that of a batch in which nothing counts is 0, and so are its loss and its gradients."""
    return tf.maximum(count, TINY)


class Differentiation:
    """d loss / d weights for the rows of one replica.

    Args:
        model: a built model.
        task: an instance of a registered task.
        num_micro_batches: k, a divisor of B; the rows are taken B / k at a time, and what they give is summed.
        keep_rows: whether the gradient of a table of which the batch reads few rows stays a `tf.IndexedSlices`.

    `fusion` is the context in which the step is traced, see `zoo.layers.fusion`.
    """

    def __init__(self, model, task, num_micro_batches=1, keep_rows=False):
        self.model, self.task, self.num_micro_batches, self.fusion = model, task, num_micro_batches, contextlib.nullcontext
        self.keep_rows = keep_rows and num_micro_batches == 1

    def of_mean(self, batch, state):
        """(gradients of the mean loss, summed loss, count, new state), where no other replica's count is needed."""
        if self.num_micro_batches == 1:
            return self._of(batch, state, lambda loss_sum, count: loss_sum / above_zero(count))
        gradients, loss_sum, count, state = self.of_sum(batch, state, 1.0)
        return [gradient / above_zero(count) for gradient in gradients], loss_sum, count, state

    def mean_of(self, gradients, count, factor):
        """The gradients of the mean, of what `of_sum` gives in sum over all replicas."""
        return [gradient / (above_zero(count) * factor) for gradient in gradients]

    def of_sum(self, batch, state, factor):
        """(gradients of `factor` times the summed loss, summed loss, count, new state): they add up over replicas."""
        if self.num_micro_batches == 1:
            return self._of(batch, state, lambda loss_sum, _: loss_sum * factor)
        pieces, states = ({name: self._cut(value) for name, value in (rows or {}).items()} for rows in (batch, state))

        def body(i, gradients, loss_sum, count, states):
            piece, before = ({name: value[i] for name, value in rows.items()} for rows in (pieces, states))
            more, more_loss, more_count, after = self._of(piece, before or None, lambda loss_sum, _: loss_sum * factor)
            states = {name: tf.tensor_scatter_nd_update(value, [[i]], after[name][None]) for name, value in states.items()}
            gradients = [a + b for a, b in zip(gradients, more, strict=True)]
            return i + 1, gradients, loss_sum + more_loss, count + more_count, states

        zeros = [tf.zeros(variable.shape) for variable in self.model.trainable_variables]
        _, gradients, loss_sum, count, states = tf.while_loop(
            lambda i, *_: i < self.num_micro_batches, body,
            (tf.constant(0), zeros, tf.constant(0.0), tf.constant(0.0), states), parallel_iterations=1,
        )  # fmt: skip
        states = {name: tf.reshape(value, (-1, *value.shape[2:])) for name, value in states.items()}
        return gradients, loss_sum, count, states or None

    def _cut(self, rows):
        """(B, ...) to (k, B / k, ...)."""
        return tf.reshape(rows, (self.num_micro_batches, -1, *rows.shape[1:]))

    def _of(self, batch, state, target):
        variables = self.model.trainable_variables
        with self.fusion():
            with tf.GradientTape() as tape:
                outputs, state = self.task.forward(self.model, batch, state=state, training=True)
                loss_sum, count = self.task.loss(batch, outputs)
                value = target(loss_sum, count)
            # Dense, as slices of a table cannot be summed over replicas inside what XLA compiles. A weight that the task does
            # not touch, such as the output bias of a language model that classifies, has no gradient.
            gradients = [
                tf.zeros(variable.shape) if gradient is None else self._summed(gradient, variable)
                for gradient, variable in zip(tape.gradient(value, variables), variables, strict=True)
            ]
        return gradients, loss_sum, count, state

    def _summed(self, gradient, variable):
        """A gradient as a tensor of the variable's shape, unless rows of it are kept and there are fewer than in the table."""
        if self.keep_rows and isinstance(gradient, tf.IndexedSlices):
            read = gradient.values.shape[0]
            if read is not None and read < variable.shape[0]:
                return gradient
        return tf.convert_to_tensor(gradient)


class PrivateDifferentiation(Differentiation):
    """As `Differentiation`, with the gradient of each row clipped before they are summed, and noise added to the sum.

    One row is taken at a time, so that dropout, shared tables and every layer are as they are without privacy. A row that
    weighs nothing behind the last that weighs something is not computed.

    Args:
        model: a built model.
        task: an instance of a registered task. The gradient of a row is that of its mean loss.
        guarantee: a `privacy.Guarantee`.
        updates: a variable that counts the updates made: noise is a pure function of the run's seed and of it.
    """

    def __init__(self, model, task, guarantee, updates):
        super().__init__(model, task)
        self.guarantee, self.updates = guarantee, updates

    def of_mean(self, batch, state):
        gradients, loss_sum, count, state = self.of_sum(batch, state, 1.0)
        return self.mean_of(gradients, count, 1.0), loss_sum, count, state

    def of_sum(self, batch, state, factor):
        """(summed clipped gradients, summed loss, count, None); nothing is scaled by `factor`, which is 1 here."""
        weights = batch["loss_weights"]
        counts = tf.reduce_any(tf.reshape(weights, (weights.shape[0], -1)) > 0, 1)
        last = tf.reduce_max(tf.where(counts, tf.range(1, weights.shape[0] + 1), 0))

        def body(i, sums, loss_sum, count):
            row = {name: value[i][None] for name, value in batch.items()}
            gradients, loss, number, _ = self._of(row, None, lambda total, number: total / above_zero(number))
            sums = [a + b for a, b in zip(sums, clipped(gradients, self.guarantee.clip), strict=True)]
            return i + 1, sums, loss_sum + loss, count + number

        zeros = [tf.zeros(variable.shape) for variable in self.model.trainable_variables]
        _, sums, loss_sum, count = tf.while_loop(
            lambda i, *_: i < last, body, (tf.constant(0), zeros, tf.constant(0.0), tf.constant(0.0)), parallel_iterations=1
        )
        return sums, loss_sum, count, None

    def mean_of(self, gradients, count, factor):
        """The noisy gradients of the expected batch: its size is public, that of a step is not."""
        guarantee, noisy = self.guarantee, []
        step = tf.cast(tf.convert_to_tensor(self.updates), tf.int64)
        for number, gradient in enumerate(gradients):
            key = int(np.random.SeedSequence([guarantee.seed, 0xD9, number]).generate_state(1, np.uint64)[0] >> 1)
            noise = standard_normal(gradient.shape, tf.stack([tf.constant(key, tf.int64), step]))
            noisy.append((gradient + guarantee.noise * guarantee.clip * noise) / guarantee.batch_size)
        return noisy


def standard_normal(shape, seed):
    """float32 of a shape, standard normal: a function of two int64 that is the same whether XLA compiles it or not, which
    TensorFlow's own is not.

        sqrt(-2 log u) cos(2 pi v)    with u and v uniform (Box and Muller 1958)
    """
    bits = tf.random.stateless_uniform((2, *shape), seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox")
    u, v = tf.unstack((tf.cast(bits, tf.float32) + 0.5) * 2.0**-32)
    return tf.sqrt(-2.0 * tf.math.log(u)) * tf.cos(2.0 * np.pi * v)


def clipped(gradients, clip):
    """Gradients as they are, or scaled down to a global norm of `clip`; 0 where they are not finite."""
    norm = tf.linalg.global_norm(gradients)
    scale = tf.where(tf.math.is_finite(norm), tf.minimum(1.0, clip / tf.maximum(norm, TINY)), 0.0)
    return [tf.math.multiply_no_nan(gradient, scale) for gradient in gradients]
