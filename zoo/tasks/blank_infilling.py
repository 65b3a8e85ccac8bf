"""Blank infilling: write what stood in the blanks of a text (Du et al. 2022, arXiv:2103.10360, section 2.1).

Shape letters: B batch, T positions, V vocabulary.
"""

from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf
from keras import ops

from zoo.config import Config, Output, Refusal, TaskConfig
from zoo.data.examples import Frame
from zoo.data.spans import BlankInfilling
from zoo.layers.chunked_cross_entropy import Unprojected, weighted_cross_entropy
from zoo.registry import TASKS
from zoo.signatures.fill_blanks import BLANKS, REST, BlankIds, WithBlanks, begin_ids, blank_requests, blank_signatures
from zoo.tasks.span_corruption import SpanCorruptionTask


@dataclass(frozen=True)
class BlankInfillingConfig(TaskConfig):
    """What is left out of a window of text.

    Attributes:
        weights: of short spans, of whole sentences, of the rest of the window, and perhaps of single words: each window draws
            one of these kinds.
        rate: share of the tokens in short spans, in sentences, and in words.
        mean_length: of the Poisson distribution that lengths of short spans are drawn from.
        suffix_rate: the least share of the tokens in the rest of a window.
    """

    weights: tuple[float, ...] = (0.5, 0.2, 0.3)
    rate: float = 0.15
    mean_length: float = 3.0
    suffix_rate: float = 0.25

    kinds: ClassVar = ("language_model",)
    least_seq_length: ClassVar = 6
    recipe: ClassVar = dict(dataset="python_docs")

    @classmethod
    def serves(cls, config):
        return super().serves(config) and config.reads_blanks

    def validate(self):
        self.require(
            len(self.weights) in (3, 4) and min(self.weights) >= 0 and sum(self.weights) > 0,
            "weights are three or four numbers of at least 0, for spans, sentences, suffixes and single words, got "
            f"{self.weights}.",
        )
        for name in ("rate", "suffix_rate"):
            self.require(0 < getattr(self, name) < 1, f"{name} must be between 0 and 1, got {getattr(self, name)}.")
        self.require_positive("mean_length")

    @property
    def leaves_out_words(self):
        return len(self.weights) == 4 and self.weights[3] > 0

    def output(self, model_config, seq_length, facts=None):
        return Output.of_tokens(model_config, seq_length, seq_length)


@dataclass(frozen=True)
class BlankInfillingFacts(Config):
    """What the run told.

    Attributes:
        max_tokens: most tokens of a row, special ones included: the run's --seq_length.
        blank_ids: the ids of a `BlankIds`.
    """

    max_tokens: int = 0
    blank_ids: tuple[int, ...] = ()


def blank_ids(tokenizer):
    """The `BlankIds` of a vocabulary: its own; or its mask, if it has one, and ids behind it."""
    own = getattr(tokenizer, "blank_ids", None)
    if own:
        return BlankIds(*own)
    masks = [] if tokenizer.mask_id is None else [tokenizer.mask_id]
    size = tokenizer.vocab_size
    return BlankIds(*masks, *range(size, size + 5 - len(masks)))


@TASKS.register("blank_infilling", BlankInfillingConfig)
class BlankInfillingTask(SpanCorruptionTask):
    """loss = -sum over part B of log p(token | part A, part B so far), count = its tokens, the ends of blanks included.

    The table of a new model has rows for masks and ends behind those of the vocabulary, and is filled up to a multiple of 64.

    Example:
        >>> from zoo.tokenizers.base import create
        >>> BlankInfillingTask().frame("language_model", create("byte")).after  # [gMASK] and the begin of a piece
        (259, 260)
    """

    facts_class = BlankInfillingFacts
    generates = True

    def num_ids(self, tokenizer):
        return max(*self._ids(tokenizer), tokenizer.vocab_size - 1) + 1

    def model_fields(self, tokenizer):
        return {**super().model_fields(tokenizer), "sop_id": blank_ids(tokenizer).sop}

    def _ids(self, tokenizer):
        return BlankIds(*self.facts.blank_ids) if self.facts.blank_ids else blank_ids(tokenizer)

    def frame(self, kind, tokenizer):
        """A prompt is a text whose rest is a blank."""
        ids = self._ids(tokenizer)
        return Frame(before=begin_ids(tokenizer), after=(ids.suffix_mask, ids.sop))

    @property
    def blanks(self):
        """Those of `BLANKS` that the model learns to fill: whose kinds have a weight."""
        spans, *others = self.config.weights[:3]
        weights = (spans or self.config.leaves_out_words, *others)
        return tuple(name for name, weight in zip(BLANKS, weights, strict=True) if weight)

    def spelling(self, tokenizer):
        return WithBlanks(tokenizer, self._ids(tokenizer), self.blanks)

    def _spans(self, model, tokenizer, layout):
        ids = blank_ids(tokenizer)
        if "prefix_lengths" not in model.takes:
            raise Refusal(
                "This model reads in one direction, with one position a token: train it with --task=language_modeling, or take "
                "--set=position=learned or rotary_2d."
            )
        if max(ids) >= model.config.vocab_size:
            raise Refusal(
                f"The model has {model.config.vocab_size} rows for tokens, and blanks need {max(ids) + 1}: begin with a model "
                "that was trained on blank infilling, or with none."
            )
        self.learn(max_tokens=layout.seq_length, blank_ids=tuple(ids))
        special = (tokenizer.eos_id, tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id)
        c = self.config
        return BlankInfilling(
            *ids, tokenizer.pad_id, tuple(token_id for token_id in dict.fromkeys(special) if token_id is not None),
            begin_ids=begin_ids(tokenizer), weights=c.weights, rate=c.rate, mean_length=c.mean_length,
            suffix_rate=c.suffix_rate, ends_sentence=tokenizer.ends_sentence() if c.weights[1] else None,
            letters=tokenizer.letters() if c.leaves_out_words else None,
            begins_word=tokenizer.begins_word() if c.leaves_out_words else None,
        )  # fmt: skip

    def forward(self, model, batch, state=None, training=False):
        """`Unprojected` features, or (B, T, V) logits of a model whose logits are not a product."""
        projection = model.projection()
        if projection is None:
            return super().forward(model, batch, state, training)
        inputs = model.taken(batch)
        return Unprojected(model.features(inputs.pop("token_ids"), training=training, **inputs)[0], projection), None

    def loss(self, batch, outputs):
        if not isinstance(outputs, Unprojected):
            return super().loss(batch, outputs)
        weights = ops.cast(batch["loss_weights"], "float32")
        smoothing = dict(label_smoothing=self.label_smoothing, z_loss=self.z_loss)
        return weighted_cross_entropy(outputs, batch["labels"], weights, **smoothing), ops.sum(weights)

    def score(self, model, batch, state=None):
        inputs, weights = model.taken(batch), ops.cast(batch["loss_weights"], "float32")
        log_probs, _ = model.token_log_probs(inputs.pop("token_ids"), batch["labels"], **inputs)
        is_text = tf.cast(batch["labels"], tf.int32) != self.facts.blank_ids[-1]
        nats = ops.sum(ops.where(weights > 0, -log_probs * weights, 0.0))
        text = ops.sum(ops.where(is_text, weights, 0.0))
        return {"nats": nats, "tokens": ops.sum(weights), "text": text}, {}, None

    def signatures(self, model, tokenizer):
        """Name -> tf.function: see `blank_signatures`."""
        return blank_signatures(model, self.spelling(tokenizer), self.frame(model.kind, tokenizer), self.draft)

    def requests(self, model, tokenizer):
        return blank_requests(model, self.spelling(tokenizer))

    def sample(self, loaded, seed):
        blank = self.blanks[0]
        before, behind = ("Return a ", " of the list.") if loaded.tokenizer.spells("Return a list of the list.") else ("", "")
        text = before + blank + (behind if blank != REST else "")
        written = loaded.predict("fill", text=[text], max_new_tokens=[16])
        return f"{text!r} -> {written['text'][0]!r}"
