"""Masked language modelling: name the tokens that were hidden (Devlin et al. 2019, section 3.1, task 1).

Shape letters: B batch, T positions, P predictions a row, D hidden, V vocabulary, N = B P.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from keras import ops

from zoo import metrics
from zoo.config import Output, Refusal, TaskConfig
from zoo.data.masking import MaskedBatches, Masking, evaluation_batches, require_mask
from zoo.layers.cross_entropy import cross_entropy
from zoo.layers.heads import MaskedLMHead, PretrainingHead
from zoo.registry import TASKS
from zoo.signatures.fill_mask import masked_lm_requests, masked_lm_signatures
from zoo.tasks.base import Task

PAIRS = ("none", "next_sentence", "sentence_order")


@dataclass(frozen=True)
class MaskedLMConfig(TaskConfig):
    """What is hidden, and what the head is where it differs from its encoder.

    Attributes:
        mask_rate: share of the tokens of a row.
        masking: `token`, `whole_word` or `span`.
        head_activation: `gelu` or `gelu_exact`; None for the encoder's.
        head_epsilon: of the head's norm; None for the encoder's.
        pairs: what else is asked of a row: nothing (`none`), whether its second part followed the first in the text or came
            from another place (`next_sentence`, Devlin et al. 2019), or whether its parts changed places (`sentence_order`, Lan
            et al. 2020).
    """

    mask_rate: float = 0.15
    masking: str = "token"
    head_activation: str | None = None
    head_epsilon: float | None = None
    pairs: str = "none"

    kinds: ClassVar = ("encoder",)
    needs_context: ClassVar = True
    least_seq_length: ClassVar = 6

    def validate(self):
        self.require(0 < self.mask_rate < 1, f"mask_rate must be between 0 and 1, got {self.mask_rate}.")
        kinds = "token, whole_word or span"
        self.require(self.masking in ("token", "whole_word", "span"), f"masking must be {kinds}, got {self.masking!r}.")
        known = (None, "gelu", "gelu_exact")
        self.require(
            self.head_activation in known, f"head_activation must be gelu or gelu_exact, got {self.head_activation!r}."
        )
        self.require(
            self.head_epsilon is None or self.head_epsilon > 0, f"head_epsilon must be positive, got {self.head_epsilon}."
        )
        self.require(self.pairs in PAIRS, f"pairs must be {', '.join(PAIRS[:-1])} or {PAIRS[-1]}, got {self.pairs!r}.")

    def output(self, model_config, seq_length, facts=None):
        positions, width = math.ceil(self.mask_rate * seq_length), model_config.cost(seq_length).hidden_dim
        head = width * (width + 3) + model_config.vocab_size
        return Output(positions, model_config.vocab_size, model_config.vocab_size * width + head, head)


@TASKS.register("masked_lm", MaskedLMConfig)
class MaskedLM(Task):
    """loss = -sum over hidden tokens of log p(token | the row), count = their number.

    With pairs, each row adds -log p(its parts stand as in the text), with a weight of as many tokens as are hidden in it: the
    loss is then the mean of the one and the mean of the other, whatever replica a row is on.

    Example:
        >>> import numpy as np
        >>> batch = {"labels": np.array([[3, 0]]), "loss_weights": np.ones((1, 2), "float32")}
        >>> total, count = MaskedLM().loss(batch, ops.zeros((1, 2, 4)))  # 2 log 4, of two tokens
        >>> round(float(total), 4), float(count)
        (2.7726, 2.0)
    """

    shown = ("loss", "perplexity", "accuracy", "pair_accuracy")

    def _masking(self, tokenizer):
        require_mask(tokenizer)
        special_ids = tuple(tokenizer.special_ids)
        return Masking(self.config.mask_rate, self.config.masking, tokenizer.mask_id, special_ids, tokenizer.begins_word())

    def training_batches(self, data, model, tokenizer, layout):
        return MaskedBatches(data, layout, self._masking(tokenizer), tokenizer, self.config.pairs)

    def evaluation_batches(self, data, model, tokenizer, layout):
        return evaluation_batches(data, layout, self._masking(tokenizer), tokenizer, self.config.pairs)

    def frame(self, kind, tokenizer):
        require_mask(tokenizer)
        return super().frame(kind, tokenizer)

    def head(self, model):
        activation = self.config.head_activation or model.head_activation
        epsilon = self.config.head_epsilon or model.head_epsilon
        if self._has_pairs:
            return PretrainingHead(model.table, activation, epsilon, model.head_bias, pool=model.pool, name="head")
        if model.pooler is not None:
            model.pooler.trainable = False  # no loss of this task reaches it
        return MaskedLMHead(model.table, activation, epsilon, model.head_bias, name="head")

    @property
    def _has_pairs(self):
        return self.config.pairs != "none"

    def loss(self, batch, outputs):
        logits, pair_logits = outputs if self._has_pairs else (outputs, None)
        total, count = super().loss(batch, logits)
        if self._has_pairs:
            weights_B = ops.sum(batch["loss_weights"], axis=1)
            total = total + ops.sum(cross_entropy(batch["pair_labels"], pair_logits) * weights_B)
        return total, count

    def score(self, model, batch, state=None):
        outputs, _ = self.forward(model, batch)
        logits, pair_logits = outputs if self._has_pairs else (outputs, None)
        logits, weights = model.limited(logits), batch["loss_weights"]
        best = ops.cast(ops.argmax(logits, axis=-1), "int32")
        right = ops.cast(best == ops.cast(batch["labels"], "int32"), "float32")
        totals = {
            "nats": ops.sum(cross_entropy(batch["labels"], logits) * weights),
            "tokens": ops.sum(weights),
            "right": ops.sum(right * weights),
        }
        if self._has_pairs:
            chosen = ops.cast(ops.argmax(pair_logits, axis=-1), "int32")
            agree = ops.cast(chosen == ops.cast(batch["pair_labels"], "int32"), "float32")
            totals |= {"pairs": ops.sum(batch["pair_weights"]), "pairs_right": ops.sum(agree * batch["pair_weights"])}
        return totals, {}, None

    def metrics(self, totals, rows, data):
        """`loss` in nats a hidden token, its `perplexity`, `accuracy`, and `num_tokens`, how many were hidden; with pairs
        `pair_accuracy`, of rows."""
        nats, count, right = (float(totals[name]) for name in ("nats", "tokens", "right"))
        if not count:
            raise Refusal("There is nothing to score: no token of the split could be hidden.")
        loss = nats / count
        scores = {"loss": loss, "perplexity": metrics.perplexity(loss), "accuracy": right / count, "num_tokens": int(count)}
        if totals.get("pairs"):
            scores["pair_accuracy"] = float(totals["pairs_right"]) / float(totals["pairs"])
        return scores

    def training_metrics(self, loss, data):
        return {"perplexity": metrics.perplexity(loss)}

    def signatures(self, model, tokenizer):
        """Name -> tf.function: `serving_default` and `fill_mask`, `score`, `embed`."""
        return masked_lm_signatures(model, tokenizer, self.frame(model.kind, tokenizer))

    def requests(self, model, tokenizer):
        return masked_lm_requests(model, tokenizer)
