"""Masked language modelling: name the tokens that were hidden (Devlin et al. 2019, section 3.1, task 1).

Shape letters: B batch, T positions, P predictions a row, D hidden, V vocabulary, N = B P.
"""

from dataclasses import dataclass

from keras import ops

from zoo import metrics
from zoo.config import Config
from zoo.layers.cross_entropy import cross_entropy
from zoo.layers.heads import MaskedLMHead
from zoo.registry import TASKS
from zoo.tasks.base import Task
from zoo.tasks.fill_mask import masked_lm_requests, masked_lm_signatures
from zoo.tasks.masking import MaskedBatches, Masking, evaluation_batches, require_mask


@dataclass(frozen=True)
class MaskedLMConfig(Config):
    """What is hidden, and what the head is where it differs from its encoder.

    Attributes:
        mask_rate: share of the tokens of a row.
        masking: `token`, `whole_word` or `span`.
        head_activation: `gelu` or `gelu_exact`; None for the encoder's.
        head_epsilon: of the head's norm; None for the encoder's.
    """

    mask_rate: float = 0.15
    masking: str = "token"
    head_activation: str | None = None
    head_epsilon: float | None = None

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


@TASKS.register("masked_lm", MaskedLMConfig)
class MaskedLM(Task):
    """loss = -sum over hidden tokens of log p(token | the row), count = their number.

    The head is computed at the hidden positions alone: for a vocabulary of 30,522 it would else cost more than the encoder.
    """

    shown = ("loss", "perplexity", "accuracy")

    def _masking(self, tokenizer):
        require_mask(tokenizer)
        special = {tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id}
        special_ids = tuple(sorted(special - {None}))
        return Masking(self.config.mask_rate, self.config.masking, tokenizer.mask_id, special_ids, tokenizer.begins_word())

    def training_batches(self, data, model, tokenizer, layout):
        return MaskedBatches(data, layout, self._masking(tokenizer), tokenizer)

    def evaluation_batches(self, data, model, tokenizer, layout, max_tokens=None):
        return evaluation_batches(data, layout, self._masking(tokenizer), tokenizer, max_tokens)

    def head(self, model):
        config = model.config
        if getattr(model, "pooler", None) is not None:
            model.pooler.trainable = False  # no loss of this task reaches it
        activation, epsilon = self.config.head_activation or config.activation, self.config.head_epsilon or config.epsilon
        return MaskedLMHead(config.vocab_size, activation, epsilon, name="head")

    def forward(self, model, batch, state=None, training=False):
        """float32 (B, P, V) logits of the hidden tokens, and no state."""
        hidden_BTD = model.backbone.encode(batch["token_ids"], batch.get("padding_mask"), training=training)
        return self.logits(model, hidden_BTD, batch["label_positions"]), None

    @staticmethod
    def logits(model, hidden_BTD, positions_BP):
        """float32 (B, P, V): the head's logits at some positions of each row."""
        length, width = ops.shape(hidden_BTD)[1], hidden_BTD.shape[-1]
        rows_B1 = ops.arange(ops.shape(positions_BP)[0], dtype="int32")[:, None]
        places_N = ops.reshape(rows_B1 * length + positions_BP, (-1,))
        picked_ND = ops.take(ops.reshape(hidden_BTD, (-1, width)), places_N, axis=0)
        logits_NV = model.head(picked_ND, model.backbone.embeddings.embeddings)
        return ops.reshape(logits_NV, (*ops.shape(positions_BP), logits_NV.shape[-1]))

    def loss(self, batch, outputs):
        labels, weights = batch["labels"], batch["loss_weights"]
        losses = cross_entropy(labels, outputs)
        if self.label_smoothing or self.z_loss:
            log_z = ops.logsumexp(outputs, axis=-1)
            even = log_z - ops.mean(outputs, axis=-1)
            losses = (1 - self.label_smoothing) * losses + self.label_smoothing * even + self.z_loss * log_z**2
        return ops.sum(losses * weights), ops.sum(weights)

    def score(self, model, batch, state=None):
        logits, _ = self.forward(model, batch)
        weights = batch["loss_weights"]
        best = ops.cast(ops.argmax(logits, axis=-1), "int32")
        right = ops.cast(best == ops.cast(batch["labels"], "int32"), "float32")
        totals = {
            "nats": ops.sum(cross_entropy(batch["labels"], logits) * weights),
            "tokens": ops.sum(weights),
            "right": ops.sum(right * weights),
        }
        return totals, {}, None

    def metrics(self, totals, rows, data):
        """`loss` in nats a hidden token, its `perplexity`, `accuracy`, and `num_tokens`, how many were hidden."""
        nats, count, right = (float(totals[name]) for name in ("nats", "tokens", "right"))
        if not count:
            raise ValueError("There is nothing to score: no token of the split could be hidden.")
        loss = nats / count
        return {"loss": loss, "perplexity": metrics.perplexity(loss), "accuracy": right / count, "num_tokens": int(count)}

    def training_metrics(self, loss, data):
        return {"perplexity": metrics.perplexity(loss)}

    def signatures(self, model, tokenizer):
        """Name -> tf.function: `serving_default` and `fill_mask`, `score`, `embed`."""
        require_mask(tokenizer)
        return masked_lm_signatures(self, model, tokenizer)

    def requests(self, model, tokenizer):
        return masked_lm_requests(model, tokenizer)
