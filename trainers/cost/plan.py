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

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
MOMENTS = {"adamw": 2.0, "sgd": 1.0, "muon": 1.0, "adafactor": 0.0}  # floats a parameter; Adafactor keeps rows and columns
LOADED = 0.5e9  # bytes of a process that has loaded TensorFlow
# Bytes that tracing and compiling the step add: where XLA compiles it, where it does not, where a loop over time is written out
# in the graph, and where there are no layers. XLA takes more to compile attention in parts, `PART` for each.
GRAPHS = {"compiled": 0.36e9, "plain": 0.20e9, "recurrent": 0.29e9, "flat": 0.04e9}
PART, MOST_PARTS = 25e6, 8
# Measured on two CPU cores (benchmarks/LOG.md): below, XLA's fusion wins; above, the matrix products rule and it loses.
XLA_CPU_MAX_PARAMS = 3_000_000
# Logits that the loss makes at a time; `auto` does when there are more than twice as many (zoo/layers/chunked_cross_entropy.py)
CHUNK = 2**25
ROWS_FROM, BLOCKS_FROM = 256, 2_048  # T, as in zoo/layers/blockwise_attention.py
MAX_ROWS, ROW, BLOCK = 8, 128, 512  # likewise
FORWARD_SHARE = 1 / 3  # of the time that training on a token takes
WHOLE = TuningConfig()  # everything is trained
SAFE = 0.95  # of the memory there is; the rest is other people's


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


@dataclasses.dataclass(frozen=True)
class Output:
    """What a task makes of the hidden states of a sequence.

    Attributes:
        positions: at how many positions of a sequence it looks.
        width: numbers that it makes at each: V, or classes.
        weights: that each of these positions is multiplied by.
        params: those of them that the model's config does not count: a head.
        chunks: whether the loss makes the numbers a chunk at a time: True, False, or None when their count decides.
    """

    positions: int
    width: int
    weights: int
    params: int = 0
    chunks: bool | None = False


def output_of(config, seq_length, task="language_modeling", task_config=None):
    """The `Output` of a task on a model with `config`. Classes that only the text will tell are taken for two."""
    width = _output_width(config)
    if task == "language_modeling":
        chunks = {"auto": None, "chunks": True, "whole": False}[getattr(task_config, "logits", "auto")]
        return Output(seq_length, config.vocab_size, config.vocab_size * width, chunks=chunks)
    if task == "masked_lm":
        positions = math.ceil(getattr(task_config, "mask_rate", 0.15) * seq_length)
        head = width * (width + 3) + config.vocab_size
        return Output(positions, config.vocab_size, config.vocab_size * width + head, head)
    if not hasattr(config, "num_layers"):
        return Output(1, config.num_classes, 0)
    classes = len(getattr(task_config, "labels", ())) or 2
    if task == "classification":
        head = (width + 1) * (width + classes)  # with the square matrix below the classes
        return Output(1, classes, head, head)
    return Output(seq_length, classes, (width + 1) * classes, (width + 1) * classes)


def _output_width(config):
    """D of the last hidden states; 0 where there are none."""
    dims = getattr(config, "layer_dims", None)
    return dims[-1] if dims else getattr(config, "hidden_dim", 0)


def body_params(config):
    """Parameters that every token is multiplied by, below what a task puts on top: no tables in which rows are looked up."""
    if not hasattr(config, "num_layers"):
        return getattr(config, "order", 1) * getattr(config, "num_classes", 1)  # a row of a table for each n-gram
    apart = config.vocab_size * getattr(config, "embedding_dim", config.hidden_dim)
    if not getattr(config, "tie_embeddings", True):
        apart += config.vocab_size * _output_width(config)
    if hasattr(config, "max_length") and getattr(config, "position", "learned") == "learned":
        apart += (config.max_length + getattr(config, "position_offset", 0)) * config.hidden_dim
    if getattr(config, "pooler", False):
        apart += config.hidden_dim * (config.hidden_dim + 1)  # of one position a row, if any
    return config.num_params() - apart


def flops_per_token(config, seq_length, output=None, tuning=WHOLE):
    """FLOPs of training on one token, of a model's config, under an `Output`; by default that of a language model.

    What is frozen with all below it has no backward pass: a third is left. A matrix beside which an adapter is trained
    has no gradient of its own, but passes one on: two thirds are left.
    """
    output = output_of(config, seq_length) if output is None else output
    body, attended = body_params(config), 0
    if hasattr(config, "num_heads"):
        attended = 12 * config.num_layers * seq_length * _attention_width(config)
    if tuning.lora_rank:
        blocks = 4 * body + 6 * _adapters(config, tuning.lora_rank) + attended
    else:
        blocks = (6 * body + attended) * (1 - _frozen_share(config, tuning) * 2 / 3)
    return blocks + 6 * output.weights * output.positions / seq_length


def _frozen_share(config, tuning):
    """Which part of the blocks has no backward pass. Blocks are taken for alike."""
    if tuning.freeze.isdecimal():
        return min(int(tuning.freeze) / getattr(config, "num_layers", 1), 1.0)
    return 1.0 if tuning.freeze == "backbone" else 0.0


def _adapters(config, rank):
    """Parameters of adapters beside every matrix of the blocks: `rank` for each row and each column."""
    if not hasattr(config, "num_heads"):
        return 0  # nothing there can have one, which the run will say
    d, attended = config.hidden_dim, _attention_width(config)
    queries = attended * (1 + 2 * getattr(config, "kv_heads", config.num_heads) / config.num_heads)
    expanded = (2 if getattr(config, "activation", "") == "swiglu" else 1) * config.mlp_width
    return config.num_layers * rank * round((d + queries) + (attended + d) + (d + expanded) + (config.mlp_width + d))


def trained_params(config, output, tuning=WHOLE):
    """Parameters that a run moves: all, or what `tuning` leaves of them."""
    if tuning.lora_rank:
        return _adapters(config, tuning.lora_rank) + output.params
    every = config.num_params() + output.params
    if tuning.freeze == "none":
        return every
    body = body_params(config)
    return every - (config.num_params() - body) - round(_frozen_share(config, tuning) * body)


def _attention_width(config):
    """N H."""
    return config.num_heads * (getattr(config, "head_dim", None) or config.hidden_dim // config.num_heads)


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
    compiled = _compiled(config, xla)
    layers = _layers(config, seq_length, BYTES[precision], compiled) * (1 - _frozen_share(config, tuning))
    activations = rows * seq_length * layers + _output_memory(output, rows)
    moments = MOMENTS[optimizer] * trained
    gradients = trained * (1 + (grad_accumulation > 1) + (clip_norm > 0))  # their sum and the clipped ones are others
    return Memory(params, moments, gradients, params + moments, activations, _graphs(config, seq_length, compiled))


def _compiled(config, xla):
    """Whether XLA compiles the step on a CPU, as `loop.resolve_xla` decides."""
    decoder = hasattr(config, "num_heads") and not hasattr(config, "num_segments")
    few = decoder and config.num_params() <= XLA_CPU_MAX_PARAMS
    return xla in ("on", "require") or (xla == "auto" and few)


def _graphs(config, seq_length, compiled):
    if not hasattr(config, "num_layers"):
        return GRAPHS["flat"]
    if not hasattr(config, "num_heads"):
        return GRAPHS["recurrent"]
    if not compiled:
        return GRAPHS["plain"]
    form = _form(config, seq_length)
    parts = {"plain": 0, "rows": _num_rows(seq_length), "blockwise": MOST_PARTS}[form]
    return GRAPHS["compiled"] + PART * parts


def _layers(config, seq_length, width, compiled):
    """Bytes a token that the layers keep for the gradient."""
    if not hasattr(config, "num_layers"):
        # which positions hold the same n-gram, (T, T) for each order, in several forms
        return 14.0 * getattr(config, "order", 1) * (seq_length + 2.0 * getattr(config, "num_classes", 1))
    if not hasattr(config, "num_heads"):
        gates = {"rnn": 1, "gru": 3, "lstm": 4}[getattr(config, "cell", "lstm")]
        return width * config.num_layers * config.hidden_dim * (3.0 * gates + 6.0)
    heads = _attention_width(config)
    mlp = getattr(config, "mlp_dim", None) or 4 * config.hidden_dim
    kept = 5.0 * config.hidden_dim + 2.0 * heads + (5.0 if getattr(config, "activation", "") == "swiglu" else 3.0) * mlp
    if getattr(config, "normalize_qk", False):  # and turned: queries and keys are kept before and after
        kept += 3.0 * (config.num_heads + config.kv_heads) * heads / config.num_heads
    block = width * kept + 1.5 * 4 * config.num_heads * _scores(config, seq_length)
    if getattr(config, "remat", "none") != "none":
        return config.num_layers * width * config.hidden_dim + block
    if _form(config, seq_length) == "blockwise" and not compiled:
        block += 3.0 * 4 * config.num_heads * min(seq_length, BLOCK)  # as seen where XLA does not compile it
    return config.num_layers * block


def _form(config, seq_length):
    """How attention is computed: plain, rows or blockwise."""
    form = getattr(config, "attention", "plain")
    if form == "auto":
        return "plain" if seq_length < ROWS_FROM else "rows" if seq_length < BLOCKS_FROM else "blockwise"
    return form


def _num_rows(seq_length):
    return max(1, min(MAX_ROWS, seq_length // ROW))


def _scores(config, seq_length):
    """Scores of a head that a query keeps, on average."""
    form = _form(config, seq_length)
    if form == "rows":
        return seq_length * (1 + 1 / _num_rows(seq_length)) / 2
    return 0 if form == "blockwise" else seq_length


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
        tokens: that the run trains on.
        memory: a `Memory`.
        limit: bytes that there are.
        proposals: flags with which the run would fit, if it does not.
    """

    num_params: int
    flops_per_token: float
    tokens: int
    memory: Memory
    limit: int
    proposals: tuple

    @property
    def fits(self):
        return fits(self.memory, self.limit)

    def to_dict(self):
        return {
            "num_params": self.num_params, "flops_per_token": self.flops_per_token, "tokens": self.tokens,
            "flops": self.flops_per_token * self.tokens, "memory": self.memory.to_dict(), "memory_limit": self.limit,
            "on_accelerator_not_measured": round(self.memory.on_accelerator),
            "fits": self.fits, "proposals": list(self.proposals),
        }  # fmt: skip

    def sentence(self):
        """The plan in one line, for a person."""
        parts = ", ".join(f"{name} {value / 1e6:,.0f}" for name, value in self.memory.to_dict().items() if name != "total")
        return (
            f"Plan: {self.num_params:,} parameters, {self.flops_per_token / 1e6:,.4g} MFLOP a token; "
            f"training adds {self.memory.total / 1e6:,.0f} MB ({parts}) of {self.limit / 1e9:.1f} GB"
        )

    def warning(self):
        """What to say when it does not fit."""
        need = f"This run needs about {(self.memory.total + LOADED) / 1e9:.1f} GB and there are {self.limit / 1e9:.1f} GB"
        if self.proposals:
            return f"{need}; it would fit with {' or '.join(self.proposals)}."
        return f"{need}; no batch is small enough: choose a smaller --preset, or a machine with more memory."


def make(config, model_config, task_config=None, limit=None, tuning=WHOLE):
    """The `Plan` of a `TrainConfig`.

    Args:
        config: the run.
        model_config: its model's, with the vocabulary that is known by now.
        task_config: its task's, with the classes that are known by now.
        limit: bytes of memory; by default what this machine has.
        tuning: a `TuningConfig`: what is trained.
    """
    limit = machine.memory_limit() if limit is None else limit
    output = output_of(model_config, config.seq_length, config.task, task_config)
    settled = functools.partial(_memory_of, config, output=output, tuning=tuning)
    memory = settled(model_config)
    proposals = () if fits(memory, limit) else tuple(_proposals(config, model_config, limit, settled))
    return Plan(
        model_config.num_params() + output.params, flops_per_token(model_config, config.seq_length, output, tuning),
        config.steps * config.batch_size * config.seq_length, memory, limit, proposals,
    )  # fmt: skip


def seconds_left(config, step, tokens_per_second, judged, data_tokens):
    """What a run takes from `step` to the end of its last evaluation.

    Args:
        config: a `TrainConfig`.
        step: steps done.
        tokens_per_second: of training.
        judged: most tokens of an evaluation during training.
        data_tokens: split -> tokens.
    """
    evaluations = (config.steps - 1) // config.eval_every - step // config.eval_every
    evaluated = max(evaluations, 0) * min(judged, data_tokens["validation"]) + data_tokens["validation"] + data_tokens["test"]
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
