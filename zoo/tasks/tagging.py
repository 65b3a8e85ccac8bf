"""Tagging: a class for every word of a sentence.

A word may be several tokens; the first of them answers for the word, and the others neither count nor are asked.

Shape letters: B batch, T positions, W words, D hidden, C classes.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tensorflow as tf
from keras import ops

from zoo import metrics
from zoo.config import Config, Refusal
from zoo.data.examples import ExampleBatches, in_order, marks, padded
from zoo.layers.cross_entropy import cross_entropy
from zoo.layers.heads import TokenClassifier
from zoo.registry import TASKS
from zoo.signatures import embedding
from zoo.signatures.request import refusal_unless, signature
from zoo.tasks.base import Task
from zoo.tokenizers.base import row_ids


@dataclass(frozen=True)
class TaggingConfig(Config):
    """What is told apart, and how.

    Attributes:
        labels: the tags; those of the training split, sorted, unless they are given.
        max_tokens: most tokens of a row, marks included; the run's --seq_length.
        head_dropout: rate in the head.
    """

    labels: tuple[str, ...] = ()
    max_tokens: int = 0
    head_dropout: float = 0.1

    recipe: ClassVar = dict(
        dataset="python_docs/tagging",
        seq_length=64,
        batch_size=32,
        steps=700,
        learning_rate=1e-2,
        optimizer="muon",
        warmup_steps=50,
    )

    def validate(self):
        self.require_rate("head_dropout")


class TaggedSentences:
    """Sentences of a split as ids, long ones in several rows.

    Attributes:
        rows: list of (token ids int32 (T,), places of the words' first tokens int32 (W,), labels int32 (W,)).
        sentences: int (rows,), which sentence each row is of.
    """

    def __init__(self, rows, sentences):
        self.rows, self.sentences = rows, sentences

    def __len__(self):
        return len(self.rows)


@TASKS.register("tagging", TaggingConfig)
class Tagging(Task):
    """loss = -sum over words of log p(tag of the word | sentence), count = number of words."""

    reads = "examples"
    shown = ("loss", "accuracy", "entity_f1")

    def texts(self, example):
        return [" ".join(example.get("tokens") or [])]

    def inspect(self, examples):
        found = {tag for number, example in enumerate(examples, 1) for tag in _sentence(example, number)[1]}
        self.config = dataclasses.replace(self.config, labels=self.config.labels or tuple(sorted(found)))

    def encode(self, examples, tokenizer, layout):
        known = {label: i for i, label in enumerate(self.config.labels)}
        rows, sentences = [], []
        for number, example in enumerate(examples, 1):
            words, tags = _sentence(example, number)
            for tag in tags:
                if tag not in known:
                    raise Refusal(f"Example {number} has the tag {tag!r}, which no training example has.")
            pieces = tokenizer.encode_batch([word if i == 0 else f" {word}" for i, word in enumerate(words)])
            pieces = [list(some[: layout.seq_length - 2]) or [_blank(tokenizer)] for some in pieces]
            for start, end in _spans(list(map(len, pieces)), layout.seq_length - 2):
                begin, finish = marks(tokenizer)
                ids = [begin, *(i for some in pieces[start:end] for i in some), finish]
                places = np.cumsum([1, *map(len, pieces[start : end - 1])])
                labels = [known[tag] for tag in tags[start:end]]
                rows.append((np.array(ids, np.int32), places.astype(np.int32), np.array(labels, np.int32)))
                sentences.append(number)
        return TaggedSentences(rows, sentences)

    def size(self, data):
        return f"{len(set(data.sentences)):,} sentences in {len(data):,} rows"

    def training_batches(self, data, model, tokenizer, layout):
        self.config = dataclasses.replace(self.config, max_tokens=layout.seq_length)
        width = max(len(ids) for ids, _, _ in data.rows)
        return ExampleBatches(
            len(data), layout.batch_size, layout.seed,
            lambda chosen, step: _batch([data.rows[i] for i in chosen], width, tokenizer.pad_id),
        )  # fmt: skip

    def evaluation_batches(self, data, model, tokenizer, layout, max_tokens=None):
        count = len(data) if max_tokens is None else min(len(data), max(max_tokens // layout.seq_length, 1))
        width = max(len(ids) for ids, _, _ in data.rows[:count])
        return in_order(
            count, layout.batch_size, lambda chosen: _batch([data.rows[i] for i in chosen], width, tokenizer.pad_id)
        )

    def head(self, model):
        return TokenClassifier(len(self.config.labels), self.config.head_dropout, name="tagger")

    def forward(self, model, batch, state=None, training=False):
        """Logits (B, T, C), and None."""
        hidden_BTD = model.backbone.encode(batch["token_ids"], batch["padding_mask"], training=training)
        return model.head(hidden_BTD, training=training), None

    def loss(self, batch, outputs):
        weights = ops.cast(batch["loss_weights"], "float32")
        losses = self.smoothed_cross_entropy(batch["labels"], outputs)
        return ops.sum(losses * weights), ops.sum(weights)

    def score(self, model, batch, state=None):
        logits, _ = self.forward(model, batch)
        weights = ops.cast(batch["loss_weights"], "float32")
        nats = ops.sum(cross_entropy(batch["labels"], logits) * weights)
        predicted = ops.cast(ops.argmax(logits, axis=-1), "int32")
        rows = {"predicted": predicted, "labels": batch["labels"], "weights": weights}
        return {"nats": nats, "words": ops.sum(weights)}, rows, None

    def metrics(self, totals, rows, data):
        """`loss` in nats a word, `accuracy` of words, and `entity_f1` where the tags are BIO or BIOES."""
        kept = [
            (predicted[real], labels[real])
            for batch in zip(rows["predicted"], rows["labels"], rows["weights"], strict=True)
            for predicted, labels, real in zip(batch[0], batch[1], batch[2] > 0, strict=True)
            if real.any()
        ]
        right = sum(int((predicted == labels).sum()) for predicted, labels in kept)
        words = sum(len(labels) for _, labels in kept)
        scores = {"loss": float(totals["nats"]) / float(totals["words"]), "accuracy": right / words, "num_words": words}
        if metrics.are_entity_tags(self.config.labels):
            joined = {}
            for sentence, (predicted, labels) in zip(data.sentences, kept, strict=False):
                before = joined.setdefault(sentence, ([], []))
                before[0].extend(self.config.labels[i] for i in predicted)
                before[1].extend(self.config.labels[i] for i in labels)
            scores["entity_f1"] = metrics.entity_f1([t for _, t in joined.values()], [p for p, _ in joined.values()])
        return scores

    def signatures(self, model, tokenizer):
        """`serving_default` = `tag`: `text` string (B,), words separated by white space as in the training data ->
        `tokens` and `tags` string (B, W), filled up with empty strings, and `num_tokens` int32 (B,).

        A text that does not fit is an InvalidArgumentError that names both numbers of tokens. With an encoder also `embed`.
        """
        limit = self.config.max_tokens or model.max_length
        labels = self.config.labels

        @signature(tf.TensorSpec([None], tf.string))
        def tag(text):
            words, batch, places = _rows_in_graph(text, tokenizer, limit)
            logits = self.forward(model, batch)[0]
            predicted = tf.gather(tf.argmax(logits, -1, tf.int32), places.to_tensor(), batch_dims=1)
            real = tf.sequence_mask(places.row_lengths(), tf.shape(predicted)[1])
            tags = tf.where(real, tf.gather(tf.constant(labels), predicted), "")
            counts = tf.cast(words.row_lengths(), tf.int32)
            return {"tokens": words.to_tensor(""), "tags": tags, "num_tokens": counts}

        return {"serving_default": tag, "tag": tag, **embedding.beside_a_head(model, tokenizer)}

    def requests(self, model, tokenizer):
        texts = ["", "return x", "def naïve ( 東京 ) :", "  a  b "]
        requests = [("serving_default", {"text": texts}), ("tag", {"text": texts[2:3]})]
        return requests + embedding.requests_beside_a_head(model)


def _rows_in_graph(texts, tokenizer, limit):
    """string (B,) -> words, ragged (B, W); a batch of their tokens; the places of their first tokens, ragged (B, W)."""
    words = tf.strings.split(texts)
    flat = words.flat_values
    row = row_ids(words)
    is_first = tf.range(tf.size(flat), dtype=tf.int64) == tf.gather(words.row_splits, row)
    pieces = tokenizer.tokenize(tf.where(is_first, flat, tf.strings.join([" ", flat])))
    blank = tf.cast(pieces.row_lengths() == 0, tf.int64)
    blanks = tf.RaggedTensor.from_row_lengths(tf.fill([tf.reduce_sum(blank)], _blank(tokenizer)), blank, validate=False)
    pieces = tf.concat([pieces, blanks], 1)
    splits = tf.gather(pieces.row_splits, words.row_splits)
    ids = tf.RaggedTensor.from_row_splits(pieces.flat_values, splits, validate=False)
    places = tf.cast(pieces.row_splits[:-1] - tf.gather(splits, row) + 1, tf.int32)
    begin, end = marks(tokenizer)
    column = tf.zeros([tf.shape(texts)[0], 1], tf.int32)
    ids = tf.concat([column + begin, ids, column + end], 1)
    longest = tf.reduce_max(tf.concat([ids.row_lengths(), [2]], 0))
    if limit is not None:
        sentence = f"The longest text has {{}} tokens, with the marks around it; this model takes at most {limit}."
        with tf.control_dependencies([refusal_unless(longest <= limit, sentence, longest)]):
            longest = tf.identity(longest)
    shape = tf.stack([ids.nrows(), longest])
    batch = {
        "token_ids": ids.to_tensor(tokenizer.pad_id, shape=shape),
        "padding_mask": tf.sequence_mask(ids.row_lengths(), longest),
    }
    return words, batch, words.with_flat_values(places)


def _blank(tokenizer):
    """What stands for a word that leaves no token, such as one of control characters."""
    return tokenizer.eos_id if tokenizer.unk_id is None else tokenizer.unk_id


def _spans(lengths, room):
    """(first word, end) of rows of at most `room` tokens."""
    start = used = 0
    for i, length in enumerate(lengths):
        if used + length > room:
            yield start, i
            start, used = i, 0
        used += length
    yield start, len(lengths)


def _batch(rows, width, pad_id):
    batch = {
        "token_ids": padded([ids for ids, _, _ in rows], width, pad_id),
        "padding_mask": np.arange(width) < np.array([len(ids) for ids, _, _ in rows])[:, None],
        "labels": np.zeros((len(rows), width), np.int32),
        "loss_weights": np.zeros((len(rows), width), np.float32),
    }
    for i, (_, places, labels) in enumerate(rows):
        batch["labels"][i, places] = labels
        batch["loss_weights"][i, places] = 1
    return batch


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
