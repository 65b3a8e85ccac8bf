"""What a run will cost, before it is begun: parameters, FLOPs a token, memory, and what would fit where it does not.

FLOPs a token of training: 6 for each parameter that is multiplied (2 forward, 4 backward), and for attention 12 T N H a
layer (Chowdhery et al. 2022, appendix B); the causal half that need not be computed is counted all the same. What a task
puts on top counts at the positions that it looks at.

Memory is what training adds to a process that has loaded TensorFlow: weights, the optimizer's moments, gradients, the
copy that a checkpoint is written from, and activations. The activations' constants were fitted to peaks measured on a
CPU (`python -m benchmarks.plan` compares). Imports no TensorFlow.

Shape letters: B batch, T positions, V vocabulary, D hidden, N query heads, K key/value heads, H head width, F mlp width.
"""

import dataclasses
import functools
import math

from trainers.cost import machine
from trainers.engine.tuning import TuningConfig
from zoo.config import Refusal
from zoo.layers.forms import CHUNK
from zoo.registry import TASKS

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Floats a parameter. Adafactor keeps rows and columns.
MOMENTS = {"adamw": 2.0, "sgd": 1.0, "muon": 1.0, "adafactor": 0.0, "plain_sgd": 0.0, "adagrad": 1.0}
LOADED = 0.5e9  # bytes of a process that has loaded TensorFlow
# Bytes that tracing and compiling the step add: where XLA compiles it, where it does not, where a loop over time is written out
# in the graph, and where there are no layers. XLA takes more to compile attention in parts, `PART` for each.
GRAPHS = {"compiled": 0.36e9, "blocks": 0.20e9, "recurrent": 0.29e9, "flat": 0.04e9}
PART = 25e6
# Measured on two CPU cores (benchmarks/LOG.md): below, XLA's fusion wins; above, the matrix products rule and it loses.
XLA_CPU_MAX_PARAMS = 3_000_000
FORWARD_SHARE = 1 / 3  # of the time that training on a token takes
WHOLE = TuningConfig()  # everything is trained
HOPELESS = 100  # times the memory there is: no estimate is so wrong
SAFE = 0.95  # of the memory there is; the rest is for other programs


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes that training adds to a process, by what holds them."""

    weights: float
    optimizer: float
    gradients: float
    checkpoint: float
    activations: float
    graphs: float

    @property
    def total(self):
        return sum(dataclasses.astuple(self))

    @property
    def on_accelerator(self):
        """What an accelerator would have to hold by the same rules; this was measured on none."""
        return self.weights + self.optimizer + self.gradients + self.activations

    def to_dict(self):
        return {name: round(value) for name, value in {**dataclasses.asdict(self), "total": self.total}.items()}


def resolve_xla(requested, cost, num_params, accelerator=False, precision="float32"):
    """(whether XLA compiles the step, why), for `--xla`: what the loop does and what the plan counts with.

    Args:
        requested: `auto`, `on`, `off` or `require`.
        cost: the `Cost` of the model.
        num_params: parameters of the model with its head.
        accelerator: whether a GPU or a TPU computes.
        precision: as the flag.
    """
    if requested in ("on", "require"):
        return True, f"--xla={requested}"
    if requested == "off":
        return False, "--xla=off"
    if accelerator:
        return True, "auto: an accelerator is present"
    if not cost.faster_compiled:
        what = {"recurrent": "a recurrent loop", "flat": "a model of counts"}.get(cost.graph, "an encoder")
        return False, f"auto: on a CPU {what} is faster without"  # measured: benchmarks/LOG.md
    if precision == "bfloat16":  # XLA's products on a CPU are of float32; measured: benchmarks/LOG.md
        return False, "auto: on a CPU bfloat16 is faster without"
    small = num_params <= XLA_CPU_MAX_PARAMS
    return small, f"auto: {num_params:,} parameters are {'few' if small else 'many'} for a CPU"


def output_of(config, seq_length, task=None, task_config=None, facts=None):
    """The `Output` of a task (a name; by default the family's own) on a model with `config`."""
    task_config = TASKS.config(task or config.default_task)() if task_config is None else task_config
    return task_config.output(config, seq_length, facts)


def flops_per_token(config, seq_length, output=None, tuning=WHOLE):
    """FLOPs of training on one token, of a model's config, under an `Output`; by default that of a language model.

    What is frozen with all below it has no backward pass: a third is left. A matrix beside which an adapter is trained
    has no gradient of its own, but passes one on: two thirds are left.
    """
    output = output_of(config, seq_length) if output is None else output
    cost = config.cost(seq_length)
    body, attended = cost.body_params, 12 * cost.attended
    if tuning.lora_rank:
        blocks = 4 * body + 6 * tuning.lora_rank * cost.adapted + attended
    else:
        blocks = (6 * body + attended) * (1 - _frozen_share(cost, tuning) * 2 / 3)
    return blocks + 6 * output.weights * output.positions / seq_length


def _frozen_share(cost, tuning):
    """Which part of the blocks has no backward pass. Blocks are taken for alike."""
    if tuning.freeze.isdecimal():
        return min(int(tuning.freeze) / cost.num_blocks, 1.0)
    return 1.0 if tuning.freeze == "backbone" else 0.0


def trained_params(config, output, tuning=WHOLE):
    """Parameters that a run moves: all, or what `tuning` leaves of them."""
    cost = config.cost(1)
    if tuning.lora_rank:
        return tuning.lora_rank * cost.adapted + output.params
    every = config.num_params() + output.params
    if tuning.freeze == "none":
        return every
    body = cost.body_params
    return every - (config.num_params() - body) - round(_frozen_share(cost, tuning) * body)


def training_memory(
    config,
    batch_size,
    seq_length,
    *,
    output=None,
    optimizer="adamw",
    precision="float32",
    grad_accumulation=1,
    xla="auto",
    clip_norm=0.0,
    tuning=WHOLE,
):
    """The `Memory` of training a model with `config`.

    Args:
        config: a model's config.
        batch_size: B, on one device.
        seq_length: T.
        output: an `Output`, by default that of a language model.
        optimizer, precision, grad_accumulation, xla, clip_norm: as the flags.
        tuning: a `TuningConfig`. What is not trained has no moments and no gradient, and frozen blocks keep nothing for one.
    """
    output = output_of(config, seq_length) if output is None else output
    trained = 4 * trained_params(config, output, tuning)
    params = 4 * (config.num_params() + output.params) + (trained if tuning.lora_rank else 0)
    rows = math.ceil(batch_size / grad_accumulation)
    cost = config.cost(seq_length)
    compiled, _ = resolve_xla(xla, cost, config.num_params() + output.params, precision=precision)
    kept = BYTES[precision] * cost.kept + 4 * (cost.kept_float32 + (0.0 if compiled else cost.kept_uncompiled))
    layers = kept * (1 - _frozen_share(cost, tuning))
    activations = rows * seq_length * layers + _output_memory(output, rows)
    moments = MOMENTS[optimizer] * trained
    gradients = trained * (1 + (grad_accumulation > 1) + (clip_norm > 0))  # their sum and the clipped ones are others
    return Memory(params, moments, gradients, params + moments, activations, _graphs(cost, compiled))


def _graphs(cost, compiled):
    if cost.graph == "blocks" and compiled:
        return GRAPHS["compiled"] + PART * cost.parts
    return GRAPHS[cost.graph]


def _output_memory(output, rows):
    """Bytes of the logits and of what the loss makes of them, in float32; of a chunk, gradients are made there and then."""
    logits = rows * output.positions * output.width
    if logits > 2 * CHUNK if output.chunks is None else output.chunks:
        return 4 * 2.75 * min(logits, CHUNK)
    return 4 * 1.7 * logits


def fits(memory, limit):
    """Whether a process that trains stays below `limit` bytes."""
    return memory.total + LOADED <= SAFE * limit


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run will cost.

    Attributes:
        num_params: parameters of the model.
        flops_per_token: of a training step.
        tokens: that the run trains on; None where its epochs are not yet counted in steps.
        memory: a `Memory`.
        limit: bytes that there are.
        proposals: flags with which the run would fit, if it does not.
    """

    num_params: int
    flops_per_token: float
    tokens: int | None
    memory: Memory
    limit: int
    proposals: tuple

    @property
    def fits(self):
        return fits(self.memory, self.limit)

    @property
    def hopeless(self):
        """Whether it is sure not to fit."""
        return self.memory.total > HOPELESS * self.limit

    def to_dict(self):
        flops = None if self.tokens is None else self.flops_per_token * self.tokens
        return {
            "num_params": self.num_params, "flops_per_token": self.flops_per_token, "tokens": self.tokens,
            "flops": flops, "memory": self.memory.to_dict(), "memory_limit": self.limit,
            "on_accelerator_not_measured": round(self.memory.on_accelerator),
            "fits": self.fits, "proposals": list(self.proposals),
        }  # fmt: skip

    def sentence(self):
        """The plan in one line, for the user."""
        parts = ", ".join(f"{name} {value / 1e6:,.0f}" for name, value in self.memory.to_dict().items() if name != "total")
        return (
            f"Plan: {self.num_params:,} parameters, {self.flops_per_token / 1e6:,.4g} MFLOP a token; "
            f"training adds {self.memory.total / 1e6:,.0f} MB ({parts}) of {self.limit / 1e9:.1f} GB"
        )

    def warning(self):
        """What to say when it does not fit."""
        need = f"This run needs about {(self.memory.total + LOADED) / 1e9:.1f} GB and there are {self.limit / 1e9:.1f} GB"
        if self.hopeless:
            return f"{need}; choose a smaller --batch_size, --seq_length or model."
        if self.proposals:
            return f"{need}; it would fit with {' or '.join(self.proposals)}."
        return f"{need}; no batch is small enough: choose a smaller --preset, or a machine with more memory."


def make(config, model_config, task_config=None, limit=None, tuning=WHOLE, facts=None):
    """The `Plan` of a `TrainConfig`.

    Args:
        config: the run.
        model_config: its model's, with the vocabulary that is known by now.
        task_config: its task's.
        limit: bytes of memory; by default what this machine has.
        tuning: a `TuningConfig`: what is trained.
        facts: what the task has learnt from its data by now.
    """
    limit = machine.memory_limit() if limit is None else limit
    output = output_of(model_config, config.seq_length, config.task, task_config, facts)
    settled = functools.partial(_memory_of, config, output=output, tuning=tuning)
    memory = settled(model_config)
    tight = not fits(memory, limit) and memory.total <= HOPELESS * limit
    proposals = tuple(_proposals(config, model_config, limit, settled)) if tight else ()
    return Plan(
        model_config.num_params() + output.params, flops_per_token(model_config, config.seq_length, output, tuning),
        None if config.steps is None else config.steps * config.batch_size * config.seq_length, memory, limit, proposals,
    )  # fmt: skip


def require_memory(model_config, limit=None):
    """Refuses a model whose weights alone are larger than memory: to make it would take long, and then fail.

    Args:
        model_config: the model's.
        limit: bytes of memory; by default what this machine has.

    Raises:
        Refusal: its weights do not fit.
    """
    limit = machine.memory_limit() if limit is None else limit
    num_params = 0 if model_config.fitted else model_config.num_params()
    if 4 * num_params > limit:
        raise Refusal(
            f"A model of {num_params:,} parameters needs {4 * num_params / 1e9:,.1f} GB for its weights alone, "
            f"and this machine has {limit / 1e9:,.1f} GB of memory; choose a smaller --preset or smaller numbers in --set."
        )


def seconds_left(config, step, tokens_per_second, judged, judged_at_end):
    """What a run takes from `step` to the end of its last evaluation.

    Args:
        config: a `TrainConfig`.
        step: steps done.
        tokens_per_second: of training.
        judged: tokens of an evaluation during training.
        judged_at_end: tokens of those after the last step.
    """
    evaluations = (config.steps - 1) // config.eval_every - step // config.eval_every
    evaluated = max(evaluations, 0) * judged + judged_at_end
    trained = (config.steps - step) * config.batch_size * config.seq_length
    return (trained + FORWARD_SHARE * evaluated) / tokens_per_second


def _memory_of(config, model_config, output, tuning, **changes):
    settings = dict(batch_size=config.batch_size, grad_accumulation=getattr(config, "grad_accumulation", 1)) | changes
    return training_memory(
        model_config, seq_length=config.seq_length, output=output, optimizer=config.optimizer, precision=config.precision,
        xla=config.xla, clip_norm=config.clip_norm, tuning=tuning, **settings,
    )  # fmt: skip


def _proposals(config, model_config, limit, memory_of):
    """Flags under which the run fits: the same batch in parts, blocks computed again, or a smaller batch."""
    if "remat" in {field.name for field in dataclasses.fields(model_config)} and model_config.remat == "none":
        again = model_config.replace(remat="block")
        if fits(memory_of(again), limit):
            yield "--set=remat=block"
    divisors = [k for k in range(2, config.batch_size + 1) if config.batch_size % k == 0]
    for k in divisors:
        if fits(memory_of(model_config, grad_accumulation=k), limit):
            yield f"--grad_accumulation={k}"
            break
    for k in divisors:
        if fits(memory_of(model_config, batch_size=config.batch_size // k, grad_accumulation=1), limit):
            yield f"--batch_size={config.batch_size // k}"
            break
