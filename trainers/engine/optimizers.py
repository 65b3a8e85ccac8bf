"""Update rules and learning-rate schedules, by the names of the flags."""

import math

import keras
import tensorflow as tf
from keras import ops

from zoo import private


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to the peak, then one of four shapes. The rate is a pure function of the step.

    Args:
        kind: `cosine` or `linear` fall to a tenth of the peak at the last step; `inverse_sqrt` falls as
            sqrt(warmup_steps / step) (Vaswani et al. 2017, section 5.3); `constant` stays.
        peak: the highest rate.
        warmup_steps: steps before the peak.
        steps: all steps of the run.
    """

    final_fraction = 0.1

    def __init__(self, kind, peak, warmup_steps, steps):
        super().__init__()
        self.kind, self.peak, self.warmup_steps, self.steps = kind, peak, warmup_steps, steps

    @classmethod
    def of(cls, config):
        """The schedule of a `TrainConfig`."""
        return cls(config.schedule, config.learning_rate, config.warmup_steps, config.steps)

    def __call__(self, step):
        step = ops.cast(step, "float32")
        warmup = ops.minimum((step + 1) / max(self.warmup_steps, 1), 1.0)
        done = ops.clip((step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1), 0.0, 1.0)
        if self.kind == "cosine":
            shape = self.final_fraction + (1 - self.final_fraction) * 0.5 * (1 + ops.cos(math.pi * done))
        elif self.kind == "linear":
            shape = 1 - (1 - self.final_fraction) * done
        elif self.kind == "inverse_sqrt":
            shape = ops.sqrt(max(self.warmup_steps, 1) / ops.maximum(step + 1, max(self.warmup_steps, 1)))
        else:
            shape = ops.ones_like(done)
        return self.peak * warmup * shape

    def get_config(self):
        return dict(kind=self.kind, peak=self.peak, warmup_steps=self.warmup_steps, steps=self.steps)


class OnOneReplica:
    """Mixed into a Keras optimizer: it updates the variables that it is given, from gradients that are already summed.

    Keras would sum them over replicas a second time, and has replicas merge their updates, for which variables must know
    how. The training loop shows each replica its own variables instead (`strategies.Placement.view`).

    Attributes:
        rates: what the learning rate of each variable is multiplied by, in the order of the variables; empty where all learn
            alike.
        l1: of each matrix rate * l1 is taken away in size a step, and no more than there is (soft thresholding, Duchi and
            Singer 2009): decoupled from the gradient as weight decay is, and with zeros that are zeros.
        takes_rows: whether a gradient may be a `tf.IndexedSlices`: then only those rows of a table are written.
        compiled: whether XLA compiles the update, where the number of distinct rows must not depend on the batch.
    """

    rates, l1 = (), 0.0
    takes_rows = compiled = False

    def _backend_update_step(self, gradients, variables, learning_rate):
        for gradient, variable, rate in zip(gradients, variables, self._rates(variables, learning_rate), strict=True):
            self.update_step(gradient, getattr(variable, "value", variable), rate)

    def _rates(self, variables, learning_rate):
        return [learning_rate * rate for rate in self.rates] if self.rates else [learning_rate] * len(variables)

    def _decay_of(self, variable):
        return self.weight_decay

    def _apply_weight_decay(self, variables):
        for variable, rate in zip(variables, self._rates(variables, self.learning_rate), strict=True):
            if not self._use_weight_decay(variable):
                continue
            if self._decay_of(variable) is not None:
                variable.assign(variable * (1.0 - tf.cast(rate * self._decay_of(variable), "float32")))
            if self.l1:
                variable.assign(tf.sign(variable) * tf.maximum(tf.abs(variable) - tf.cast(rate * self.l1, "float32"), 0.0))


class PlainSGD(OnOneReplica, keras.optimizers.SGD):
    """w - rate g, without momentum, so that rows without a gradient stay as they are."""

    takes_rows = True

    def update_step(self, gradient, variable, learning_rate):
        rate = tf.cast(learning_rate, variable.dtype)
        if not isinstance(gradient, tf.IndexedSlices):
            variable.assign_sub(rate * gradient)
            return
        # XLA adds rows that are there several times one after the other; TensorFlow's kernel would in any order.
        rows = gradient if self.compiled else distinct_rows(gradient, False)
        variable.scatter_sub(tf.IndexedSlices(rate * rows.values, rows.indices))


class Adagrad(OnOneReplica, keras.optimizers.Adagrad):
    """a + g^2;  w - rate g / sqrt(a) (Duchi et al. 2011). Sums begin at 1, as in GloVe's program."""

    takes_rows = True

    def update_step(self, gradient, variable, learning_rate):
        sums = private.stored(self._accumulators[self._get_variable_index(variable)])
        rate = tf.cast(learning_rate, variable.dtype)
        if not isinstance(gradient, tf.IndexedSlices):
            sums.assign_add(gradient**2)
            variable.assign_sub(rate * gradient * tf.math.rsqrt(sums))
            return
        rows = distinct_rows(gradient, self.compiled)
        new = tf.gather(sums, rows.indices) + rows.values**2
        sums.scatter_update(tf.IndexedSlices(new, rows.indices))
        variable.scatter_sub(tf.IndexedSlices(rate * rows.values * tf.math.rsqrt(new), rows.indices))


def distinct_rows(gradient, compiled):
    """The rows of a `tf.IndexedSlices`, each once, in sum.

    Args:
        gradient: of a table.
        compiled: whether XLA compiles this. Then there are as many rows as before, and those too many have an index beyond the
            table, which XLA leaves out.
    """
    if not compiled:
        indices, place = tf.unique(gradient.indices)
        return tf.IndexedSlices(tf.math.unsorted_segment_sum(gradient.values, place, tf.size(indices)), indices)
    order = tf.argsort(gradient.indices, stable=True)
    indices = tf.gather(gradient.indices, order)
    begins = tf.concat([[True], indices[1:] != indices[:-1]], 0)
    place = tf.cumsum(tf.cast(begins, tf.int32)) - 1
    size = tf.size(indices)
    values = tf.math.unsorted_segment_sum(tf.gather(gradient.values, order), place, size)
    # Every row of a run has the same index, so the largest is that of the run; a place without a run gets the least number.
    distinct = tf.math.unsorted_segment_max(indices, place, size)
    beyond = tf.cast(gradient.dense_shape[0], indices.dtype)
    return tf.IndexedSlices(values, tf.where(distinct >= 0, distinct, beyond))


class SGD(OnOneReplica, keras.optimizers.SGD):
    """w - rate (momentum m + g)."""


class Adafactor(OnOneReplica, keras.optimizers.Adafactor):
    """Shazeer and Stern 2018: second moments of a matrix as those of its rows and columns."""


class Muon(OnOneReplica, keras.optimizers.Muon):
    """Jordan et al. 2024: momentum of matrices made orthogonal; Adam for embeddings and vectors."""

    def _decay_of(self, variable):
        return self.adam_weight_decay if self._should_use_adamw(variable) else self.weight_decay


class FusedAdam(OnOneReplica, keras.optimizers.Adam):
    """Keras's Adam with the update of each variable as TensorFlow's one kernel: one pass over memory instead of ten."""

    def update_step(self, gradient, variable, learning_rate):
        # Keras hands over the tf.Variable of a parameter, but keeps its own variables for the moments.
        index = self._get_variable_index(variable)
        step = ops.cast(self.iterations + 1, "float32")
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=private.stored(self._momentums[index]).handle,
            v=private.stored(self._velocities[index]).handle,
            beta1_power=ops.power(self.beta_1, step),
            beta2_power=ops.power(self.beta_2, step),
            lr=ops.cast(learning_rate, "float32"),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )

    def _clip_gradients(self, gradients):
        # Keras squares into new memory and always multiplies; most steps of a run that goes well need no clipping.
        if not self.global_clipnorm:
            return gradients
        norm = tf.sqrt(2.0 * tf.add_n([tf.nn.l2_loss(g) for g in gradients]))
        return tf.cond(
            norm <= self.global_clipnorm,
            lambda: [tf.identity(g) for g in gradients],
            lambda: [g * (self.global_clipnorm / norm) for g in gradients],
        )


def create(config, variables, rates=None, l1=0.0):
    """The Keras optimizer of a `TrainConfig`, built for a model's trainable variables.

    Weight decay is decoupled (Loshchilov and Hutter 2019) and leaves vectors alone, as l1 does: biases and the gains of norms.

    Args:
        config: the run.
        variables: what is trained.
        rates: for each of them what its learning rate is multiplied by; None for 1.
        l1: see `OnOneReplica`.
    """
    shared = dict(
        learning_rate=Schedule.of(config), weight_decay=config.weight_decay or None, global_clipnorm=config.clip_norm or None,
        name=config.optimizer,  # checkpoints know its variables by it; Keras would number it
    )  # fmt: skip
    if config.optimizer == "adamw":
        optimizer = FusedAdam(beta_1=0.9, beta_2=0.95, epsilon=1e-8, **shared)
    elif config.optimizer == "sgd":
        optimizer = SGD(momentum=0.9, **shared)
    elif config.optimizer == "plain_sgd":
        optimizer = PlainSGD(**shared)
    elif config.optimizer == "adagrad":
        optimizer = Adagrad(initial_accumulator_value=1.0, **shared)
    elif config.optimizer == "adafactor":
        optimizer = Adafactor(**shared)
    else:
        optimizer = Muon(adam_beta_1=0.9, adam_beta_2=0.95, exclude_layers=["embeddings", "positions"], **shared)
    if config.weight_decay or l1:
        optimizer.exclude_from_weight_decay(var_list=[v for v in variables if len(v.shape) < 2])
    optimizer.rates, optimizer.l1 = tuple(rates or ()), l1
    optimizer.build(variables)
    return optimizer
