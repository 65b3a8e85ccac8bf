"""Texts as vectors: the task of serving an encoder as it is."""

from dataclasses import dataclass
from typing import ClassVar

from zoo.config import Output, TaskConfig
from zoo.layers.heads import PooledDense
from zoo.registry import TASKS
from zoo.signatures.embedding import embed_signature
from zoo.tasks.base import Task


@dataclass(frozen=True)
class EmbeddingConfig(TaskConfig):
    """How a row of hidden states becomes one vector.

    Attributes:
        pooling: `mean` over the tokens, the `first` token, or the model's `pooler` on it.
        normalize: whether vectors have length 1.
        max_tokens: the most tokens that are read of a text, special ones included; None for the model's own.
        prompt: stands before every text, as some models were trained.
        dense_dim: width of a `PooledDense` between the pooling and the vector; 0 for none.
        dense_activation, dense_bias: its activation (`identity`, `tanh`, `relu`, `gelu_exact`), and whether it adds a bias.
    """

    pooling: str = "mean"
    normalize: bool = True
    max_tokens: int | None = None
    prompt: str = ""
    dense_dim: int = 0
    dense_activation: str = "tanh"
    dense_bias: bool = True

    kinds: ClassVar = ("encoder",)
    trains: ClassVar = False

    def output(self, model_config, seq_length, facts=None):
        return Output(1, model_config.cost(seq_length).hidden_dim, 0)

    def validate(self):
        known = ("mean", "first", "pooler")
        self.require(self.pooling in known, f"pooling must be {', '.join(known)}, got {self.pooling!r}.")
        self.require(self.dense_dim >= 0, f"dense_dim must not be negative, got {self.dense_dim}.")
        self.require(
            not (self.dense_dim and self.pooling == "pooler"), "dense_dim is for pooling by mean or first, not by the pooler."
        )
        self.require(self.max_tokens is None or self.max_tokens > 2, f"max_tokens must be above 2, got {self.max_tokens}.")


@TASKS.register("embedding", EmbeddingConfig)
class Embedding(Task):
    """v = mean over the row of h (Reimers and Gurevych 2019, section 3), served and not trained.

    Example:
        >>> Embedding.kinds, Embedding.trains
        (('encoder',), False)
    """

    def head(self, model):
        c = self.config
        return PooledDense(c.dense_dim, c.pooling, c.dense_activation, c.dense_bias, name="projection") if c.dense_dim else None

    def signatures(self, model, tokenizer):
        """Name -> tf.function: `serving_default` and `embed`, `text` string (B,) -> `embedding` float32 (B, D)."""
        c = self.config
        project = model.head.projected if c.dense_dim else None
        embed = embed_signature(model.without_head(), tokenizer, c.pooling, c.normalize, c.max_tokens, c.prompt, project)
        return {"serving_default": embed, "embed": embed}

    def requests(self, model, tokenizer):
        texts = ["", "The cat sat.", "The list is empty, naïvely: 東京"]
        return [(name, {"text": texts}) for name in ("serving_default", "embed")]
