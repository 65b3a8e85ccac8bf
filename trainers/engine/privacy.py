"""Training with differential privacy: what a run may say of any one unit of its training data (Abadi et al. 2016).

    sample    each of the N units is in a step with probability q = B / N, whatever else is
    gradient  g = (sum over the units of a step of g_i min(1, C / |g_i|) + sigma C z) / B,   z standard normal
    update    as of any gradient

    --set=dp_noise=1.0          sigma; or dp_epsilon=8, for the least sigma that keeps the planned steps below it
    --set=dp_clip=1.0           C
    --set=dp_delta=1e-5         N^-1.1 by default
    --set=dp_unit=document      of running text: `document`, or `row`, a window of seq_length tokens

Two data sets are neighbours when one has a unit more. dp-accounting counts epsilon: the privacy-loss distribution of
Poisson-sampled Gaussian noise, composed over the steps, rounded up. Imports no TensorFlow: `flags.py` reads the config.
"""

from dataclasses import dataclass
from typing import ClassVar

from zoo.config import Config, Refusal

GRID = 1e-3  # of the distribution of the privacy loss: a coarser one is quicker, and tells an epsilon that is a little higher
UNITS = ("document", "row")
MOST_PLANTED = 1_000_000  # documents


@dataclass(frozen=True)
class PrivacyConfig(Config):
    """What a run promises of its training data; without dp_noise and dp_epsilon nothing.

    Attributes:
        dp_noise: sigma, the standard deviation of the noise in units of dp_clip.
        dp_epsilon: what the run may spend; sigma follows from it and from the planned steps.
        dp_clip: C, the most that a unit's gradient may measure.
        dp_delta: the probability that the promise does not cover; 0 for N^-1.1.
        dp_unit: of running text what is protected, `document` or `row`.
        canaries: so many secrets are planted into the training text (`trainers/canaries.py`).
        canary_repeats: how often each of them.
    """

    dp_noise: float = 0.0
    dp_epsilon: float = 0.0
    dp_clip: float = 1.0
    dp_delta: float = 0.0
    dp_unit: str = ""
    canaries: int = 0
    canary_repeats: int = 1

    FIELDS: ClassVar = ("dp_clip", "dp_delta", "dp_unit")

    @property
    def private(self):
        """Whether the run is trained with differential privacy."""
        return self.dp_noise > 0 or self.dp_epsilon > 0

    def validate(self):
        for name in ("dp_noise", "dp_epsilon", "canaries"):
            self.require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}.")
        self.require_positive("dp_clip", "canary_repeats")
        self.require_rate("dp_delta")
        planted = self.canaries * self.canary_repeats
        self.require(
            planted <= MOST_PLANTED,
            f"at most {MOST_PLANTED:,} documents are planted; canaries times canary_repeats is {planted:,}.",
        )
        self.require(not (self.dp_noise and self.dp_epsilon), "dp_noise follows from dp_epsilon; give one of them.")
        self.require(self.dp_unit in ("", *UNITS), f"dp_unit is document or row, got {self.dp_unit!r}.")
        alone = [name for name in self.FIELDS if getattr(self, name) != type(self).__dataclass_fields__[name].default]
        self.require(self.private or not alone, f"{', '.join(alone)} takes dp_noise or dp_epsilon besides.")


def epsilon(noise, rate, steps, delta):
    """What `steps` steps have spent at a sampling rate, as dp-accounting counts it: a float."""
    if not steps:
        return 0.0
    accountant = _accountant()
    accountant.compose(_event(noise, rate, steps))
    return float(accountant.get_epsilon(delta))


def noise_for(target, rate, steps, delta):
    """The least sigma, to a thousandth, with which `steps` steps spend at most `target`. Raises Refusal where none does."""
    import dp_accounting

    try:
        return float(
            dp_accounting.calibrate_dp_mechanism(
                _accountant, lambda noise: _event(noise, rate, steps), target, delta, tol=1e-3
            )
        )  # fmt: skip
    except (ValueError, dp_accounting.mechanism_calibration.NoBracketIntervalFoundError) as error:
        raise Refusal(f"No noise keeps {steps:,} steps below dp_epsilon={target:g} at dp_delta={delta:g}.") from error


def _accountant():
    from dp_accounting import pld

    return pld.PLDAccountant(value_discretization_interval=GRID)


def _event(noise, rate, steps):
    import dp_accounting

    sampled = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    return dp_accounting.SelfComposedDpEvent(sampled, steps)


class Guarantee:
    """What a run promises, and what it has spent of it.

    Args:
        config: a `PrivacyConfig` that is private.
        num_units: N.
        batch_size: B, the expected number of units in a step.
        steps: those planned.
        seed: the run's; noise and samples are pure functions of it and of the step. Whoever knows it can take the noise away.
        unit: what is protected, in words.

    Attributes:
        noise, clip, delta, rate: sigma, C, delta, q.

    Raises:
        Refusal: more is to be sampled than there is, or no noise suffices.
    """

    def __init__(self, config, num_units, batch_size, steps, seed, unit):
        if batch_size >= num_units:
            raise Refusal(
                f"There are {num_units:,} units to protect ({unit}), and --batch_size={batch_size} asks for as many in each "
                "step; give a smaller one, or more data."
            )
        self.clip, self.seed, self.unit, self.num_units, self.batch_size = config.dp_clip, seed, unit, num_units, batch_size
        self.rate, self.delta = batch_size / num_units, config.dp_delta or num_units**-1.1
        self.noise = config.dp_noise or noise_for(config.dp_epsilon, self.rate, steps, self.delta)

    def epsilon(self, steps):
        """What so many steps have spent."""
        return epsilon(self.noise, self.rate, steps, self.delta)

    def spent(self, steps):
        """The promise after so many steps, JSON values: for the bundle and the model card."""
        return {
            "epsilon": self.epsilon(steps), "delta": self.delta, "unit": self.unit, "noise": self.noise, "clip": self.clip,
            "sampling_rate": self.rate, "steps": steps,
        }  # fmt: skip

    def sentence(self, steps):
        """What the run will have spent at its end."""
        return (
            f"Privacy: epsilon {self.epsilon(steps):.4g} at delta {self.delta:.3g} after {steps:,} steps, for {self.unit} "
            f"more or less; noise {self.noise:.4g}, clip {self.clip:g}, each of {self.num_units:,} sampled with probability "
            f"{self.rate:.3g}"
        )


def units_of(config, batches, model, data, layout):
    """(units, what one of them is in words) of a task's training batches: what `zoo.data.sampling.PoissonBatches` samples.

    Args:
        config: a `PrivacyConfig` that is private.
        batches: what `Task.training_batches` made.
        model: the model.
        data: the training data.
        layout: the run's `Layout`.

    Raises:
        Refusal: nothing can be promised of such batches; the sentence says why.
    """
    from zoo.data.packing import DocumentWindows, PackedBatches

    if not isinstance(batches, PackedBatches):
        if config.dp_unit == "document":
            raise Refusal("dp_unit=document is for language_modeling; of other data a row is protected, which is one example.")
        if getattr(batches, "of", None) is None:
            raise Refusal("dp_noise and dp_epsilon are for language models and for tasks that read examples, one a row.")
        return batches, "one row"
    if model.carries_state:
        raise Refusal(
            f"dp_noise and dp_epsilon do not go with {model.registered_name}, whose state carries each row on into the next "
            "step: no unit could be taken out. Take a model without a carried state, such as gpt."
        )
    if not config.dp_unit:
        raise Refusal(
            "Rows of running text hold several documents, or a part of one; say what is to be protected: "
            "--set=dp_unit=document, or --set=dp_unit=row."
        )
    if config.dp_unit == "row":
        return batches, f"one row of {layout.seq_length} tokens"
    return DocumentWindows(data, layout.seq_length, layout.seed), "one document"


def check(task, model, precision):
    """Raises Refusal for what breaks the promise of a private run, in a sentence that says what would keep it."""
    if getattr(task.config, "balance", False) or getattr(task.config, "class_weights", ()):
        raise Refusal("balance and class_weights are not for a private run: each example counts alike. Leave them out.")
    if getattr(task.config, "batch_tokens", 0):
        raise Refusal(
            "batch_tokens puts pairs together by their lengths, and a private run draws each by itself; leave it out."
        )
    if model.kind == "classifier":
        raise Refusal(
            f"{model.registered_name} takes counts of its training texts into its weights, which no noise covers; take another "
            "model, such as bert."
        )
    if getattr(task.config, "pairs", "none") == "next_sentence":
        raise Refusal("pairs=next_sentence puts two rows into one, so none could be taken out; leave it out.")
    if precision == "float16":
        raise Refusal("--precision=float16 leaves out steps that overflow, which tells of the data; take bfloat16 or float32.")
