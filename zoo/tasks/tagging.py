"""Tagging: a class for every word of a sentence.

A word may be several tokens; the first of them answers for the word, and the others neither count nor are asked.

Shape letters: B batch, T positions, W words, D hidden, C classes, S states: the classes and the
outside of a sentence.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tensorflow as tf
from keras import ops

from zoo import metrics
from zoo.config import Config, Output, Refusal, TaskConfig
from zoo.data.examples import ExampleBatches, in_order, padded
from zoo.data.words import characters_for, spelling_options, word_rows
from zoo.layers import crf
from zoo.layers.cross_entropy import cross_entropy
from zoo.layers.heads import CRFHead, TokenClassifier
from zoo.registry import TASKS
from zoo.signatures import embedding
from zoo.signatures.request import signature
from zoo.signatures.words import words_in_graph
from zoo.tasks.base import Task


@dataclass(frozen=True)
class TaggingConfig(TaskConfig):
    """What is told apart, and how.

    Attributes:
        labels: the tags; those of the training split, sorted, unless they are given.
        head_dropout: rate in the head.
        crf: whether the tags of a sentence are judged together, by a conditional random field (Lample et al. 2016). Where the
            tags follow a scheme such as BIO, moves that it forbids are never decoded.
        lowercase: whether a word tokenizer that is trained writes all words in lower case.
        zero_digits: whether it writes every digit as 0. What a model reads of characters stays as it is.
    """

    labels: tuple[str, ...] = ()
    head_dropout: float = 0.1
    crf: bool = False
    lowercase: bool = False
    zero_digits: bool = False

    kinds: ClassVar = ("encoder", "language_model")
    least_seq_length: ClassVar = 3
    recipe: ClassVar = dict(
        dataset="python_docs/tagging", seq_length=64, batch_size=32, steps=700, learning_rate=1e-2, optimizer="muon",
        warmup_steps=50,
    )  # fmt: skip

    def validate(self):
        self.require_rate("head_dropout")

    def output(self, model_config, seq_length, facts=None):
        classes, width = len(facts.labels if facts else self.labels) or 2, model_config.cost(seq_length).hidden_dim
        return Output(seq_length, classes, (width + 1) * classes, (width + 1) * classes)


@dataclass(frozen=True)
class TaggingFacts(Config):
    """What the training examples told.

    Attributes:
        labels: the tags, in the order of the logits.
        scheme: in which the tags mark spans, a key of `zoo.layers.crf.SCHEMES`; empty for other tags.
        max_tokens: most tokens of a row, special ones included: the run's --seq_length.
    """

    labels: tuple[str, ...] = ()
    scheme: str = ""
    max_tokens: int = 0


class TaggedSentences:
    """Sentences of a split as ids, long ones in several rows.

    Attributes:
        rows: list of (token ids int32 (T,), places of the words' first tokens int32 (W,), labels int32 (W,)).
        sentences: int (rows,), which sentence each row is of.
        words: for each row its words, W strings.
    """

    def __init__(self, rows, sentences, words):
        self.rows, self.sentences, self.words = rows, sentences, words

    def __len__(self):
        return len(self.rows)


@TASKS.register("tagging", TaggingConfig)
class Tagging(Task):
    """loss = -sum over words of log p(tag of the word | sentence), count = number of words.

    With `crf`, loss = -log p(all tags of the sentence | sentence), and the count is the same.
    """

    facts_class = TaggingFacts
    reads = "examples"
    fields = ("tokens", "tags")
    shown = ("loss", "accuracy", "entity_f1")
    has_words = True

    def tokenizer_options(self, tokenizer):
        return spelling_options(self.config)

    def texts(self, example):
        return [" ".join(example.get("tokens") or [])]

    def inspect(self, examples):
        sentences = [_sentence(example, number)[1] for number, example in enumerate(examples, 1)]
        found = {tag for tags in sentences for tag in tags}
        if not found:
            raise Refusal("There is nothing to train on: the train split holds no examples.")
        scheme = crf.scheme_of(sentences) if metrics.are_entity_tags(found) else None
        return self.learn(labels=self.config.labels or tuple(sorted(found)), scheme=scheme or "")

    def encode(self, examples, tokenizer, layout):
        known = {label: i for i, label in enumerate(self.facts.labels)}
        frame, rows, sentences, spelt = self.frame(self.kinds[0], tokenizer), [], [], []
        for number, example in enumerate(examples, 1):
            words, tags = _sentence(example, number)
            for tag in tags:
                if tag not in known:
                    raise Refusal(f"Example {number} has the tag {tag!r}, which no training example has.")
            for row in word_rows(words, tokenizer, frame, layout.seq_length):
                labels = [known[tag] for tag in tags[row.first : row.first + len(row.places)]]
                rows.append((row.ids, row.places, np.array(labels, np.int32)))
                sentences.append(number)
                spelt.append(row.words)
        return TaggedSentences(rows, sentences, spelt)

    def size(self, data):
        return f"{len(set(data.sentences)):,} sentences in {len(data):,} rows"

    def training_batches(self, data, model, tokenizer, layout):
        self.learn(max_tokens=layout.seq_length)
        sizes = _sizes(data.rows)
        return ExampleBatches(
            len(data), layout.batch_size, layout.seed,
            lambda chosen, step: _batch(data, chosen, *sizes, tokenizer.pad_id, model),
        )  # fmt: skip

    def evaluation_batches(self, data, model, tokenizer, layout, max_tokens=None):
        count = len(data) if max_tokens is None else min(len(data), max(max_tokens // layout.seq_length, 1))
        sizes = _sizes(data.rows[:count])
        return in_order(count, layout.batch_size, lambda chosen: _batch(data, chosen, *sizes, tokenizer.pad_id, model))

    def head(self, model):
        labels = self.facts.labels
        if not self.config.crf:
            return TokenClassifier(len(labels), self.config.head_dropout, name="tagger")
        if self.label_smoothing or self.z_loss:
            raise Refusal("label_smoothing and z_loss are for tags that are judged one by one; leave out --set=crf=true.")
        forbidden = crf.forbidden_moves(labels, self.facts.scheme) if self.facts.scheme else None
        return CRFHead(len(labels), self.config.head_dropout, forbidden, name="tagger")

    def best(self, outputs, mask_BW):
        """The best tags of words, int32 (B, W), and their log-probability, float32 (B,)."""
        if self.config.crf:
            unary_BWC, moves_SS = outputs
            tags_BW, _ = crf.viterbi(unary_BWC, moves_SS, mask_BW)
            return tags_BW, crf.log_likelihood(unary_BWC, tags_BW, moves_SS, mask_BW)
        best_BW = ops.max(ops.log_softmax(outputs), axis=-1)
        return ops.cast(ops.argmax(outputs, axis=-1), "int32"), ops.sum(ops.where(mask_BW, best_BW, 0.0), axis=1)

    def _nats(self, batch, outputs):
        """float32 scalar: -log p of the tags, unsmoothed."""
        weights = ops.cast(batch["loss_weights"], "float32")
        if self.config.crf:
            return -ops.sum(crf.log_likelihood(outputs[0], batch["labels"], outputs[1], weights > 0))
        return ops.sum(cross_entropy(batch["labels"], outputs) * weights)

    def loss(self, batch, outputs):
        weights = ops.cast(batch["loss_weights"], "float32")
        if self.config.crf:
            return self._nats(batch, outputs), ops.sum(weights)
        return ops.sum(self.smoothed_cross_entropy(batch["labels"], outputs) * weights), ops.sum(weights)

    def class_logits(self, model, batch, state=None):
        if self.config.crf:
            raise Refusal("Tags that are judged together, by --set=crf=true, have no probabilities one by one to calibrate.")
        outputs, _ = self.forward(model, batch)
        return self.tempered(outputs), batch["labels"], ops.cast(batch["loss_weights"], "float32"), None

    def score(self, model, batch, state=None):
        outputs, _ = self.forward(model, batch)
        outputs = outputs if self.config.crf else self.tempered(outputs)
        weights = ops.cast(batch["loss_weights"], "float32")
        nats = self._nats(batch, outputs)
        rows = {"predicted": self.best(outputs, weights > 0)[0], "labels": batch["labels"], "weights": weights}
        if not self.config.crf:
            rows["probs"] = ops.softmax(outputs)
        return {"nats": nats, "words": ops.sum(weights)}, rows, None

    def metrics(self, totals, rows, data):
        """`loss` in nats a word, `accuracy` of words, `entity_f1` where the tags are BIO or BIOES; where words are judged one
        by one also `calibration_error`, `brier` and `calibration` (see `zoo.metrics`)."""
        kept = [
            (predicted[real], labels[real])
            for batch in zip(rows["predicted"], rows["labels"], rows["weights"], strict=True)
            for predicted, labels, real in zip(batch[0], batch[1], batch[2] > 0, strict=True)
            if real.any()
        ]
        right = sum(int((predicted == labels).sum()) for predicted, labels in kept)
        words = sum(len(labels) for _, labels in kept)
        scores = {"loss": float(totals["nats"]) / float(totals["words"]), "accuracy": right / words, "num_words": words}
        if "probs" in rows:
            real = [weights > 0 for weights in rows["weights"]]
            probs, labels = (
                np.concatenate([values[chosen] for values, chosen in zip(rows[name], real, strict=True)])
                for name in ("probs", "labels")
            )
            scores["calibration_error"] = metrics.calibration_error(probs, labels)
            scores["brier"] = metrics.brier_score(probs, labels)
            scores["calibration"] = metrics.calibration(probs, labels)
        if metrics.are_entity_tags(self.facts.labels):
            joined = {}
            for sentence, (predicted, labels) in zip(data.sentences, kept, strict=False):
                before = joined.setdefault(sentence, ([], []))
                before[0].extend(self.facts.labels[i] for i in predicted)
                before[1].extend(self.facts.labels[i] for i in labels)
            scores["entity_f1"] = metrics.entity_f1([t for _, t in joined.values()], [p for p, _ in joined.values()])
        return scores

    def signatures(self, model, tokenizer):
        """`serving_default` = `tag`: `text` string (B,), words separated by white space as in the training data ->
        `tokens` and `tags` string (B, W), filled up with empty strings; `num_tokens` int32 (B,); `score` float32 (B,), the
        natural log-probability of these tags.

        A text that does not fit is an InvalidArgumentError that names both numbers of tokens. With an encoder also `embed`.
        """
        limit, frame = self.facts.max_tokens or model.max_length, self.frame(model.kind, tokenizer)
        labels = self.facts.labels

        @signature(tf.TensorSpec([None], tf.string))
        def tag(text):
            words, batch, real = words_in_graph(text, tokenizer, frame, limit, model.takes)
            outputs = model(batch)
            predicted, score = self.best(outputs if self.config.crf else self.tempered(outputs), real)
            tags = tf.where(real, tf.gather(tf.constant(labels), predicted), "")
            counts = tf.cast(words.row_lengths(), tf.int32)
            return {"tokens": words.to_tensor(""), "tags": tags, "num_tokens": counts, "score": score}

        return {"serving_default": tag, "tag": tag, **embedding.beside_a_head(model, tokenizer)}

    def requests(self, model, tokenizer):
        texts = ["", "return x", "def naïve ( 東京 ) :", "  a  b "]
        requests = [("serving_default", {"text": texts}), ("tag", {"text": texts[2:3]})]
        return requests + embedding.requests_beside_a_head(model)


def _sizes(rows):
    """The most tokens and the most words of a row."""
    return max(len(ids) for ids, _, _ in rows), max(len(places) for _, places, _ in rows)


def _batch(data, chosen, width, num_words, pad_id, model):
    """Rows of at most `num_words` words as a batch: the words are asked for, and nothing between them."""
    ids, places, labels = zip(*(data.rows[i] for i in chosen), strict=True)
    counts = np.array([len(one) for one in places])[:, None]
    return {
        "token_ids": padded(ids, width, pad_id),
        "padding_mask": np.arange(width) < np.array([len(one) for one in ids])[:, None],
        "label_positions": padded(places, num_words, 0),
        "labels": padded(labels, num_words, 0),
        "loss_weights": (np.arange(num_words) < counts).astype(np.float32),
        **characters_for(model, [data.words[i] for i in chosen], places, width),
    }


def _sentence(example, number):
    words, tags = example.get("tokens"), example.get("tags")
    if not words:
        raise Refusal(f"Example {number} has no words; each must have some, in the field `tokens`.")
    if not all(
        isinstance(some, list | tuple) and all(isinstance(one, str | None) for one in some) for some in (words, tags or [])
    ):
        raise Refusal(f"Example {number} must have lists of strings as `tokens` and `tags`, a word and a tag each.")
    if tags is None or len(words) != len(tags):
        raise Refusal(f"Example {number} has {len(words)} words and {len(tags or [])} tags; each word has one tag.")
    if None in tags or "" in tags:
        raise Refusal(f"Example {number} has a word without a tag.")
    return words, tags
