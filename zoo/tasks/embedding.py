"""Texts as vectors: the task of serving an encoder as it is."""

from dataclasses import dataclass
from typing import ClassVar

from zoo.config import Output, TaskConfig
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
    """

    pooling: str = "mean"
    normalize: bool = True
    max_tokens: int | None = None
    prompt: str = ""

    kinds: ClassVar = ("encoder",)
    trains: ClassVar = False

    def output(self, model_config, seq_length, facts=None):
        return Output(1, model_config.cost(seq_length).hidden_dim, 0)

    def validate(self):
        known = ("mean", "first", "pooler")
        self.require(self.pooling in known, f"pooling must be {', '.join(known)}, got {self.pooling!r}.")
        self.require(self.max_tokens is None or self.max_tokens > 2, f"max_tokens must be above 2, got {self.max_tokens}.")


@TASKS.register("embedding", EmbeddingConfig)
class Embedding(Task):
    """v = mean over the row of h (Reimers and Gurevych 2019, section 3), served and not trained."""

    def signatures(self, model, tokenizer):
        """Name -> tf.function: `serving_default` and `embed`, `text` string (B,) -> `embedding` float32 (B, D)."""
        c = self.config
        embed = embed_signature(model, tokenizer, c.pooling, c.normalize, c.max_tokens, c.prompt)
        return {"serving_default": embed, "embed": embed}

    def requests(self, model, tokenizer):
        texts = ["", "The cat sat.", "The list is empty, naïvely: 東京"]
        return [(name, {"text": texts}) for name in ("serving_default", "embed")]
