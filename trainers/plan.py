"""What a run will cost, before it is begun: parameters, FLOPs a token, memory, and what would fit where it does not.

FLOPs a token of training: 6 for each parameter that is multiplied (2 forward, 4 backward), and for attention 12 T N H a
layer (Chowdhery et al. 2022, appendix B); the causal half that need not be computed is counted all the same.

Memory is what training adds to a process that has loaded TensorFlow: weights, the optimizer's moments, gradients, the
copy that a checkpoint is written from, and activations. The activations' constants were fitted to peaks measured on a
CPU (`python -m benchmarks.plan` compares). Imports no TensorFlow.

Shape letters: B batch, T positions, V vocabulary, D hidden, N query heads, K key/value heads, H head width, F mlp width.
"""

import dataclasses
import math

from trainers import machine

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
MOMENTS = {"adamw": 2.0, "sgd": 1.0, "muon": 1.0, "adafactor": 0.0}  # floats a parameter; Adafactor keeps rows and columns
LOADED = 0.5e9  # bytes of a process that has loaded TensorFlow
# Bytes that tracing and compiling the step add: where XLA compiles it, where it does not, and where a loop over time is
# written out in the graph.
GRAPHS = {"compiled": 0.36e9, "plain": 0.20e9, "recurrent": 0.29e9}
# Measured on two CPU cores (benchmarks/LOG.md): below, XLA's fusion wins; above, the matrix products rule and it loses.
XLA_CPU_MAX_PARAMS = 3_000_000
CHUNK = (
    2**25
)  # logits that the loss makes at a time when there are more than twice as many (zoo/layers/chunked_cross_entropy.py)
BLOCKS_FROM = 2_048  # T from which no attention scores are kept (zoo/layers/blockwise_attention.py)
FORWARD_SHARE = 1 / 3  # of the time that training on a token takes
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

    def to_dict(self):
        return {name: round(value) for name, value in {**dataclasses.asdict(self), "total": self.total}.items()}


def multiplied_params(config):
    """Parameters that a token is multiplied by: all but tables in which rows are looked up."""
    if not hasattr(config, "num_layers"):
        return getattr(config, "order", 1) * getattr(config, "num_classes", 1)  # a row of a table for each n-gram
    looked_up = 0
    if getattr(config, "position", None) == "learned":
        looked_up += config.max_length * config.hidden_dim
    if not getattr(config, "tie_embeddings", True):
        looked_up += config.vocab_size * getattr(config, "embedding_dim", config.hidden_dim)
    return config.num_params() - looked_up


def flops_per_token(config, seq_length):
    """FLOPs of training on one token, of a model's config."""
    attended = 0
    if hasattr(config, "num_heads"):
        attended = 12 * config.num_layers * seq_length * _attention_width(config)
    return 6 * multiplied_params(config) + attended


def _attention_width(config):
    """N H."""
    return config.num_heads * (getattr(config, "head_dim", None) or config.hidden_dim // config.num_heads)


def training_memory(config, batch_size, seq_length, *, optimizer="adamw", precision="float32", grad_accumulation=1, xla="auto"):
    """The `Memory` of training a model with `config`.

    Args:
        config: a model's config.
        batch_size: B, on one device.
        seq_length: T.
        optimizer, precision, grad_accumulation, xla: as the flags.
    """
    params = 4 * config.num_params()
    rows = math.ceil(batch_size / grad_accumulation)
    tokens = rows * seq_length
    activations = tokens * _layers(config, seq_length, BYTES[precision]) + _output(config, tokens)
    moments = MOMENTS[optimizer] * params
    gradients = params * (2 if grad_accumulation > 1 else 1)
    return Memory(params, moments, gradients, params + moments, activations, _graphs(config, xla))


def _graphs(config, xla):
    if not hasattr(config, "num_heads"):
        return GRAPHS["recurrent"]
    compiled = xla in ("on", "require") or (xla == "auto" and config.num_params() <= XLA_CPU_MAX_PARAMS)
    return GRAPHS["compiled" if compiled else "plain"]


def _layers(config, seq_length, width):
    """Bytes a token that the layers keep for the gradient."""
    if not hasattr(config, "num_layers"):
        return 4.0 * getattr(config, "order", 1) * (seq_length + 2.0 * getattr(config, "num_classes", 1))
    if not hasattr(config, "num_heads"):
        gates = {"rnn": 1, "gru": 3, "lstm": 4}[getattr(config, "cell", "lstm")]
        return width * config.num_layers * config.hidden_dim * (3.0 * gates + 6.0)
    heads = _attention_width(config)
    mlp = getattr(config, "mlp_dim", None) or 4 * config.hidden_dim
    scores = 1.5 * config.num_heads * seq_length * 4 if seq_length < BLOCKS_FROM else 0.0
    block = width * (5.0 * config.hidden_dim + 2.0 * heads + 3.0 * mlp) + scores
    if getattr(config, "remat", "none") != "none":
        return config.num_layers * width * config.hidden_dim + block
    return config.num_layers * block


def _output(config, tokens):
    """Bytes of the logits and of what the loss makes of them, in float32."""
    logits = tokens * getattr(config, "num_classes", config.vocab_size)
    return 4 * 1.7 * (logits if logits <= 2 * CHUNK else CHUNK)


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


def make(config, model_config, limit=None):
    """The `Plan` of a `TrainConfig`.

    Args:
        config: the run.
        model_config: its model's, with the vocabulary that is known by now.
        limit: bytes of memory; by default what this machine has.
    """
    limit = machine.memory_limit() if limit is None else limit
    memory = _memory_of(config, model_config)
    proposals = () if fits(memory, limit) else tuple(_proposals(config, model_config, limit))
    return Plan(
        model_config.num_params(), flops_per_token(model_config, config.seq_length),
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


def _memory_of(config, model_config, **changes):
    settings = dict(batch_size=config.batch_size, grad_accumulation=getattr(config, "grad_accumulation", 1)) | changes
    return training_memory(
        model_config, seq_length=config.seq_length, optimizer=config.optimizer, precision=config.precision, xla=config.xla,
        **settings,
    )  # fmt: skip


def _proposals(config, model_config, limit):
    """Flags under which the run fits: the same batch in parts, blocks computed again, or a smaller batch."""
    if "remat" in {field.name for field in dataclasses.fields(model_config)} and model_config.remat == "none":
        again = model_config.replace(remat="block")
        if fits(_memory_of(config, again), limit):
            yield "--set=remat=block"
    divisors = [k for k in range(2, config.batch_size + 1) if config.batch_size % k == 0]
    for k in divisors:
        if fits(_memory_of(config, model_config, grad_accumulation=k), limit):
            yield f"--grad_accumulation={k}"
            break
    for k in divisors:
        if fits(_memory_of(config, model_config, batch_size=config.batch_size // k, grad_accumulation=1), limit):
            yield f"--batch_size={config.batch_size // k}"
            break
