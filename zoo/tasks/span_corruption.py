"""Span corruption: write the spans that were taken out of a text (Raffel et al. 2020, section 3.1.4).

Shape letters: B batch, S source positions, T target positions, V vocabulary.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf
from keras import ops

from zoo import metrics
from zoo.config import Config, Output, Refusal, TaskConfig
from zoo.data.spans import SpanBatches, SpanCorruption, evaluation_batches
from zoo.registry import TASKS
from zoo.signatures.fill_spans import span_requests, span_signatures
from zoo.tasks.base import Task
from zoo.tokenizers.special import sentinel_name

MULTIPLE = 64  # of rows that a table of tokens has: of T5's 32,100 ids it makes 32,128


@dataclass(frozen=True)
class SpanCorruptionConfig(TaskConfig):
    """What is taken out of a window of text.

    Attributes:
        density: share of the tokens that go.
        mean_length: tokens of a span in the mean.
        num_sentinels: how many ids stand for spans, where the vocabulary has none of its own.
    """

    density: float = 0.15
    mean_length: float = 3.0
    num_sentinels: int = 100

    kinds: ClassVar = ("encoder_decoder",)
    least_seq_length: ClassVar = 4
    recipe: ClassVar = dict(dataset="python_docs")

    def validate(self):
        self.require(0 < self.density < 1, f"density must be between 0 and 1, got {self.density}.")
        self.require(self.mean_length >= 1, f"mean_length must be at least 1, got {self.mean_length}.")
        self.require_positive("num_sentinels")

    def output(self, model_config, seq_length, facts=None):
        sentinels = self.density / self.mean_length
        window = seq_length / (1 - self.density + sentinels)
        return Output.of_tokens(model_config, seq_length, math.ceil(window * (self.density + sentinels)) + 1)


@dataclass(frozen=True)
class SpanCorruptionFacts(Config):
    """What the run told.

    Attributes:
        max_tokens: most tokens of a source, special ones included: the run's --seq_length.
        sentinel_ids: the ids that stand for spans.
    """

    max_tokens: int = 0
    sentinel_ids: tuple[int, ...] = ()


def sentinels(tokenizer, count):
    """The ids of the sentinels, that of `<extra_id_0>` first: those of the vocabulary, or ids behind it, the last one first.

    sentinel i = vocab_size + count - 1 - i, as in T5's vocabulary of 32,000 pieces and 100 sentinels

    Args:
        tokenizer: a `Tokenizer`.
        count: how many there are to be behind a vocabulary that has none.
    """
    own = getattr(tokenizer, "sentinel_ids", None)
    return tuple(own) if own else tuple(range(tokenizer.vocab_size + count - 1, tokenizer.vocab_size - 1, -1))


@TASKS.register("span_corruption", SpanCorruptionConfig)
class SpanCorruptionTask(Task):
    """loss = -sum over the target's tokens of log p(token | source, target so far), count = their number.

    The table of a new model has rows for the sentinels behind those of the vocabulary, and is filled up to a multiple of 64.

    Example:
        >>> import numpy as np
        >>> batch = {"labels": np.array([[3, 0]]), "loss_weights": np.ones((1, 2), "float32")}
        >>> total, count = SpanCorruptionTask().loss(batch, ops.zeros((1, 2, 4)))  # 2 log 4, of two tokens
        >>> round(float(total), 4), float(count)
        (2.7726, 2.0)
    """

    facts_class = SpanCorruptionFacts
    shown = ("loss", "perplexity", "bits_per_byte")

    def num_ids(self, tokenizer):
        return max(*sentinels(tokenizer, self.config.num_sentinels), tokenizer.vocab_size - 1) + 1

    def model_fields(self, tokenizer):
        return {**super().model_fields(tokenizer), "vocab_size": -(-self.num_ids(tokenizer) // MULTIPLE) * MULTIPLE}

    def _spans(self, model, tokenizer, layout):
        ids = sentinels(tokenizer, self.config.num_sentinels)
        if max(ids) >= model.config.vocab_size:
            raise Refusal(
                f"The model has {model.config.vocab_size} rows for tokens, and sentinels need {max(ids) + 1}: begin with a "
                "model that was trained on span corruption, or with none."
            )
        self.learn(max_tokens=layout.seq_length, sentinel_ids=ids)
        start = self.frame(model.kind, tokenizer).target_start[0]
        return SpanCorruption(self.config.density, self.config.mean_length, ids, tokenizer.eos_id, start, tokenizer.pad_id)

    def training_batches(self, data, model, tokenizer, layout):
        return SpanBatches(data, layout, self._spans(model, tokenizer, layout))

    def evaluation_batches(self, data, model, tokenizer, layout):
        return evaluation_batches(data, layout, self._spans(model, tokenizer, layout))

    def score(self, model, batch, state=None):
        inputs, weights = model.taken(batch), ops.cast(batch["loss_weights"], "float32")
        log_probs, _ = model.token_log_probs(inputs.pop("token_ids"), batch["labels"], **inputs)
        is_sentinel = tf.reduce_any(tf.cast(batch["labels"], tf.int32)[..., None] == tf.constant(self.facts.sentinel_ids), -1)
        # Of each target all but the sentinels and the end is text.
        text = tf.reduce_sum(tf.where(is_sentinel, 0.0, weights)) - tf.reduce_sum(tf.reduce_max(weights, 1))
        return (
            {"nats": ops.sum(ops.where(weights > 0, -log_probs * weights, 0.0)), "tokens": ops.sum(weights), "text": text},
            {},
            None,
        )

    def metrics(self, totals, rows, data):
        """`loss` in nats a token of the target, `perplexity`, `num_tokens`, and `bits_per_byte` of the text that was taken out:
        all nats, those of the sentinels too, over its bytes, which are counted in proportion to its tokens. It compares with
        that of a language model only so far: both sides of a span are known."""
        nats, count, text = (float(totals[name]) for name in ("nats", "tokens", "text"))
        if not count:
            raise Refusal("There is nothing to score: the split has fewer than two tokens.")
        scores = {"loss": nats / count, "perplexity": metrics.perplexity(nats / count), "num_tokens": int(count)}
        num_bytes = getattr(data, "num_bytes", 0) * text / max(len(data) - 1, 1)
        if num_bytes:
            scores["bits_per_byte"] = metrics.bits_per_byte(nats, num_bytes)
        return scores

    def training_metrics(self, loss, data):
        return {"perplexity": metrics.perplexity(loss)}

    def sentinel_ids(self, tokenizer):
        """The ids that stand for spans, in the order of their numbers."""
        return self.facts.sentinel_ids or sentinels(tokenizer, self.config.num_sentinels)

    def signatures(self, model, tokenizer):
        """Name -> tf.function: see `span_signatures`."""
        frame = self.frame(model.kind, tokenizer)
        return span_signatures(model, tokenizer, self.sentinel_ids(tokenizer), frame, self.facts.max_tokens or None)

    def requests(self, model, tokenizer):
        return span_requests(model, tokenizer, self.facts.max_tokens or None)

    def sample(self, loaded, seed):
        tokenizer, parts = loaded.tokenizer, ("Return a ", " of the list.")
        length = sum(len(tokenizer.encode(part)) for part in parts) + 1 + self.frame("encoder_decoder", tokenizer).num_special()
        fits = length <= (self.facts.max_tokens or math.inf) and tokenizer.spells("list".join(parts))
        text = sentinel_name(0).join(parts) if fits else sentinel_name(0)
        written = self.signatures(loaded.model, loaded.tokenizer)["fill"](tf.constant([text]), tf.constant([16]))
        return f"{text!r} -> {written['text'].numpy()[0].decode('utf8', 'replace')!r}"
