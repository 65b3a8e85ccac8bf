"""Classification: which of several classes a text, or a pair of texts, belongs to.

Shape letters: B batch, T positions, D hidden, C classes.
"""

import collections
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow as tf
from keras import ops

from zoo import metrics
from zoo.config import Config, Output, Refusal, TaskConfig
from zoo.data.augmentation import Augmentation, read_synonyms, uniform
from zoo.data.examples import ExampleBatches, Frame, in_order, overlong, row, row_batch
from zoo.data.parallel import example_batches
from zoo.data.patterns import Pattern
from zoo.layers.cross_entropy import cross_entropy
from zoo.layers.heads import SequenceClassifier
from zoo.registry import TASKS
from zoo.signatures import embedding
from zoo.signatures.request import same_rows, signature
from zoo.signatures.rows import rows_in_graph
from zoo.tasks.base import Task
from zoo.tasks.cloze import Cloze, log_probs, verbalizers, way_of
from zoo.tasks.masked_lm import MaskedLM


@dataclass(frozen=True)
class ClassificationConfig(TaskConfig):
    """What is told apart, and how.

    Attributes:
        labels: the classes; those of the training split, sorted, unless they are given.
        pooling: how hidden states become one vector: first, last, mean, or auto: first for an encoder, mean for word vectors,
            else last.
        head_dropout: rate in the head.
        balance: whether every class counts the same in the training loss, however many examples it has.
        class_weights: what an example of each class counts in the training loss, in the order of labels; empty for 1.
        overlong: what becomes of texts that do not fit: `cut`, the longer of a pair first, or `refuse`.
        word_deletion, word_swap, synonym_rate, char_noise: how much of each training text is changed, anew at every step; see
            `augmentation.Augmentation`.
        synonym_table: file with a row a word, `word TAB synonym TAB ...`.
        batch_tokens: as for tagging; not with texts that are changed, whose lengths change too.
        pattern: how a text is written with a blank, `{text} It was {label}.`; then a class is as likely as its word in the
            blank (`zoo/tasks/cloze.py`), and the model needs no head. Empty for a head. `[MASK]` means the same as `{label}`.
        verbalizers: the words of the classes, `label=word` separated by commas, an item with a comma in it in quotes; by
            default the labels.
    """

    labels: tuple[str, ...] = ()
    pooling: str = "auto"
    head_dropout: float = 0.1
    balance: bool = False
    class_weights: tuple[float, ...] = ()
    overlong: str = "cut"
    word_deletion: float = 0.0
    word_swap: float = 0.0
    synonym_rate: float = 0.0
    synonym_table: str = ""
    char_noise: float = 0.0
    batch_tokens: int = 0
    pattern: str = ""
    verbalizers: str = ""

    kinds: ClassVar = ("language_model", "encoder", "classifier")
    least_seq_length: ClassVar = 3
    files: ClassVar = ("synonym_table",)
    recipe: ClassVar = dict(dataset="python_docs/classification")

    def validate(self):
        self.require_rate("head_dropout", "word_deletion", "word_swap", "synonym_rate", "char_noise")
        changes = self.word_deletion or self.word_swap or self.synonym_rate or self.char_noise
        self.require(self.batch_tokens >= 0, f"batch_tokens must not be negative, got {self.batch_tokens}.")
        same = not (self.batch_tokens and changes)
        self.require(same, "batch_tokens sorts texts by their lengths, which word_deletion and the like change; leave one out.")
        both = bool(self.synonym_rate) == bool(self.synonym_table)
        self.require(both, "synonym_rate and synonym_table go together: how often, and from which file.")
        self.require(self.pooling in ("auto", "first", "last", "mean"), f"pooling cannot be {self.pooling!r}.")
        self.require(self.overlong in ("cut", "refuse"), f"overlong is cut or refuse, got {self.overlong!r}.")
        self.require(all(weight >= 0 for weight in self.class_weights), "class_weights must not be negative.")
        some = not self.class_weights or any(self.class_weights)
        self.require(some, "class_weights are all 0, so nothing would be learnt; give one above 0.")
        enough = not self.labels or not self.class_weights or len(self.labels) == len(self.class_weights)
        self.require(enough, f"there are {len(self.labels)} labels and {len(self.class_weights)} class_weights.")
        once = not (self.balance and self.class_weights)
        self.require(once, "balance and class_weights both say what a class counts in the loss; give one of them.")
        if self.pattern:
            self._validate_pattern()
        else:
            self.require(
                not self.verbalizers, "verbalizers are the words of a pattern; give pattern besides, or leave them out."
            )

    def _validate_pattern(self):
        blanks = self.pattern.count("{label}") + self.pattern.count("[MASK]")
        texts = self.pattern.count("{text}"), self.pattern.count("{text_pair}")
        self.require(
            blanks == 1 and texts[0] == 1 and texts[1] <= 1,
            "a pattern has {text} once, {label} (or [MASK]) once, and of pairs {text_pair} once, such as "
            f"'{{text}} It was {{label}}.'; got {self.pattern!r}.",
        )
        self.require(
            not texts[1] or self.pattern.index("{text}") < self.pattern.index("{text_pair}"),
            f"in a pattern {{text}} stands before {{text_pair}}, got {self.pattern!r}.",
        )
        self.require(self.pooling == "auto", "pooling is of a head, and a pattern is filled without one; leave it out.")

    def output(self, model_config, seq_length, facts=None):
        if model_config.kind == "classifier":
            return Output(1, model_config.num_classes, 0)
        classes, width = len(facts.labels if facts else self.labels) or 2, model_config.cost(seq_length).hidden_dim
        if self.pattern:  # one place for each class, and one for all
            return Output(1 + classes, model_config.vocab_size, model_config.vocab_size * width)
        head = (width + 1) * (width + classes)  # with the square matrix below the classes
        return Output(1, classes, head, head)


@dataclass(frozen=True)
class ClassificationFacts(Config):
    """What the training examples told.

    Attributes:
        labels: the classes, in the order of the logits.
        pair: whether an example has two texts.
        class_weights: what an example of each class counts in the training loss; empty for 1.
        max_tokens: most tokens of a row, special ones included: the run's --seq_length.
        label_ids: with a pattern, the ids that are scored for each class; see `Cloze`.
        mask_id: with a pattern, the id that stands in its blank, or None.
    """

    labels: tuple[str, ...] = ()
    pair: bool = False
    class_weights: tuple[float, ...] = ()
    max_tokens: int = 0
    label_ids: tuple[tuple[int, ...], ...] = ()
    mask_id: int | None = None


class Reading(NamedTuple):
    """How texts become rows.

    Attributes:
        frame: the `Frame` around them.
        limit: the most tokens of a row, or None.
        leads: what is put before each of one or two texts, strings.
    """

    frame: Frame
    limit: int | None
    leads: tuple[str, ...] = ("", "")


class LabelledTexts:
    """Examples of a split as ids.

    Attributes:
        parts: for each example a list of one or two int32 arrays.
        labels: int32 (N,).
        num_cut: how many do not fit into a row.
        texts: for each example a list of one or two strings.
    """

    def __init__(self, parts, labels, num_cut, texts):
        self.parts, self.labels, self.num_cut, self.texts = parts, labels, num_cut, texts

    def __len__(self):
        return len(self.parts)

    @property
    def units(self):
        """What each example belongs to, int (N,): itself."""
        return np.arange(len(self))

    def take(self, chosen):
        """Those examples alone, int (rows,)."""
        parts, texts = ([some[i] for i in chosen] for some in (self.parts, self.texts))
        return LabelledTexts(parts, self.labels[chosen], self.num_cut, texts)


@TASKS.register("classification", ClassificationConfig)
class Classification(Task):
    """loss = -sum_b w_{y_b} log p(y_b | text_b), count = sum_b w_{y_b}, with a weight w for each class, 1 by default.

    p is the softmax of what a head makes of the text; or, with a pattern, of the log-probabilities of the classes' words in its
    blank (Du et al. 2022, section 2.3).

    Example:
        >>> Classification().inspect([{"text": "good", "label": "yes"}, {"text": "bad", "label": "no"}]).labels
        ('no', 'yes')
    """

    facts_class = ClassificationFacts
    reads = "examples"
    fields = ("text", "label")
    shown = ("loss", "accuracy", "macro_f1")

    def texts(self, example):
        return [example[name] for name in ("text", "text_pair") if name in example]

    def inspect(self, examples):
        counts, pairs = collections.Counter(), []
        for number, example in enumerate(examples, 1):
            counts[_label(example, number)] += 1
            pairs.append("text_pair" in example)
        if not counts:
            raise Refusal("There is nothing to train on: the train split holds no examples.")
        if any(pairs) and not all(pairs):
            alone = pairs.index(False) + 1
            raise Refusal(f"Example {alone} has no text_pair and others have one; give each example one, or none of them.")
        labels = self.config.labels or tuple(sorted(counts))
        if len(labels) < 2:
            raise Refusal(f"Every training example has the label {labels[0]!r}; there must be at least two classes.")
        weights = self.config.class_weights
        if weights and len(weights) != len(labels):
            raise Refusal(f"There are {len(labels)} labels and {len(weights)} class_weights; give one weight for each label.")
        if self.config.balance:
            total = sum(counts.values())
            weights = tuple(total / (len(labels) * counts[label]) if counts[label] else 0.0 for label in labels)
        self._check_pattern(labels, all(pairs))
        return self.learn(labels=labels, pair=all(pairs), class_weights=weights)

    def _check_pattern(self, labels, pair):
        """Raises Refusal where the words or the fields of a pattern are not those of the examples."""
        pattern = self.config.pattern
        if not pattern:
            return
        verbalizers(labels, self.config.verbalizers)
        fields = Pattern(pattern, "pattern").fields
        strange = [field for field in fields if field not in ("text", "text_pair")]
        if strange:
            raise Refusal(f"pattern names the field {strange[0]!r}; classification reads text, and of pairs text_pair.")
        if pair and "text_pair" not in fields:
            raise Refusal("The examples have a text_pair, and the pattern does not name it; write {text_pair} where it stands.")
        if not pair and "text_pair" in fields:
            raise Refusal("The pattern has {text_pair}, and the examples have none; leave it out.")

    def encode(self, examples, tokenizer, layout):
        known = {label: i for i, label in enumerate(self.facts.labels)}
        texts, labels = [], []
        for number, example in enumerate(examples, 1):
            label = _label(example, number)
            if label not in known:
                seen = ", ".join(map(repr, self.facts.labels))
                raise Refusal(f"Example {number} has the label {label!r}, which no training example has: {seen}.")
            texts.append(_texts(example, self.facts.pair, number))
            labels.append(known[label])
        # Before there is a model: around a blank stands most.
        frame, limit, leads = Reading(self.frame(self.kinds[0], tokenizer), layout.seq_length)
        if self.config.pattern:
            frame, limit, leads = self._cloze(tokenizer, "blank").reading(layout.seq_length)
        parts = _encoded(texts, tokenizer, leads)
        over = [i for i, some in enumerate(parts, 1) if overlong(some, frame, limit)]
        if over and self.config.overlong == "refuse":
            raise Refusal(
                f"Example {over[0]} does not fit into --seq_length={layout.seq_length} (nor do {len(over) - 1:,} others); "
                "raise it, or have long texts cut with --set=overlong=cut."
            )
        return LabelledTexts(parts, np.array(labels, np.int32), len(over), texts)

    def size(self, data):
        cut = f", {data.num_cut:,} of them cut" if data.num_cut else ""
        return f"{len(data):,} examples{cut}"

    def _cloze(self, tokenizer, way):
        return Cloze(self.config.pattern, verbalizers(self.facts.labels, self.config.verbalizers), tokenizer, way)

    def frame_for(self, model, tokenizer):
        """As `Task.frame_for`; with a pattern, the pattern stands around the texts."""
        return self._cloze(tokenizer, way_of(model)).frame if self.config.pattern else super().frame_for(model, tokenizer)

    def reading(self, model, tokenizer, limit):
        """The `Reading` of a model, where a row and what is read behind it have at most `limit` tokens, or any number if None.

        Raises:
            Refusal: there is no room for a text, or the model has no row for an id.
        """
        if not self.config.pattern:
            return Reading(self.frame_for(model, tokenizer), limit)
        return self._settled(model, tokenizer).reading(limit)

    def _settled(self, model, tokenizer):
        """The `Cloze` of a model, its ids learnt."""
        cloze = self._cloze(tokenizer, way_of(model))
        frame = cloze.frame
        needed = 1 + max(i for ids in (*cloze.label_ids, frame.before, frame.between, frame.after) for i in ids)
        if needed > model.config.vocab_size:
            raise Refusal(
                f"The model has {model.config.vocab_size} rows for tokens, and a blank needs {needed}: begin with a model that "
                "was trained on blanks, by --init_from."
            )
        self.learn(label_ids=cloze.label_ids, mask_id=cloze.mask_id)
        return cloze

    def limit_ids(self, model, tokenizer):
        model = super().limit_ids(model, tokenizer)
        if self.config.pattern:
            self._settled(model, tokenizer)
            model.temperature = 1.0  # the task's is that of its classes
            if model.num_ids is not None:  # the ids of blanks stand behind those of the vocabulary
                num_ids = max(model.num_ids, max(map(max, self.facts.label_ids)) + 1)
                model.num_ids = num_ids if num_ids < model.config.vocab_size else None
        return model

    def training_batches(self, data, model, tokenizer, layout):
        self.learn(max_tokens=layout.seq_length)
        frame, limit, leads = self.reading(model, tokenizer, layout.seq_length)
        rows = [row(parts, frame, limit) for parts in data.parts]
        if model.kind == "classifier":
            model.fit_statistics([ids for ids, _ in rows])
        width = max(len(ids) for ids, _ in rows)
        weights = np.array(self.facts.class_weights or [1.0] * len(self.facts.labels), np.float32)

        augmentation = self._augmentation()

        def make(chosen, width, some=None):
            some = [rows[i] for i in chosen] if some is None else some
            batch = _batch(some, data.labels[chosen], width, frame, tokenizer.pad_id)
            return {**batch, "loss_weights": weights[batch["labels"]]}

        def make_changed(chosen, step):
            random = uniform(layout.seed, step)
            texts = [[augmentation(text, random) for text in data.texts[i]] for i in chosen]
            return make(chosen, width, [row(parts, frame, width) for parts in _encoded(texts, tokenizer, leads)])

        if augmentation is not None:
            return ExampleBatches(len(data), layout.batch_size, layout.seed, make_changed)
        return example_batches([len(ids) for ids, _ in rows], self.config.batch_tokens, layout, make)

    def _augmentation(self):
        """What changes training texts, or None."""
        c = self.config
        if not (c.word_deletion or c.word_swap or c.synonym_rate or c.char_noise):
            return None
        synonyms = read_synonyms(c.synonym_table) if c.synonym_table else None
        return Augmentation(c.word_deletion, c.word_swap, c.synonym_rate, c.char_noise, synonyms)

    def evaluation_batches(self, data, model, tokenizer, layout):
        frame, limit, _ = self.reading(model, tokenizer, layout.seq_length)
        rows = [row(parts, frame, limit) for parts in data.parts]
        width = max(len(ids) for ids, _ in rows)
        return in_order(
            len(data), layout.batch_size,
            lambda chosen: _batch([rows[i] for i in chosen], data.labels[chosen], width, frame, tokenizer.pad_id),
        )  # fmt: skip

    def model_fields(self, tokenizer):
        return {**super().model_fields(tokenizer), "num_classes": len(self.facts.labels)}

    def head(self, model):
        if self.config.pattern:  # the layer that the model was trained with
            return MaskedLM().head(model) if way_of(model) == "mask" else None
        if model.kind == "classifier":
            return None
        pooling = self.config.pooling
        if pooling == "auto":
            pooling = "last" if model.kind != "encoder" else "first" if model.config.contextual else "mean"
        return SequenceClassifier(len(self.facts.labels), pooling, self.config.head_dropout, name="classifier")

    def forward(self, model, batch, state=None, training=False):
        """Logits of the classes, float32 (B, C), and None."""
        if not self.config.pattern:
            return super().forward(model, batch, state, training)
        return log_probs(model, batch, self.facts.label_ids, self.facts.mask_id, training), None

    def class_logits(self, model, batch, state=None):
        logits, _ = self.forward(model, batch)
        return self.tempered(logits), batch["labels"], ops.cast(batch["loss_weights"], "float32"), None

    def score(self, model, batch, state=None):
        logits, _, weights, _ = self.class_logits(model, batch)
        nats = ops.sum(cross_entropy(batch["labels"], logits) * weights)
        rows = {"probs": ops.softmax(logits), "labels": batch["labels"], "weights": weights}
        return {"nats": nats, "examples": ops.sum(weights)}, rows, None

    def metrics(self, totals, rows, data):
        """`loss` in nats an example, `accuracy`, `macro_f1`, `calibration_error`, `brier`, `calibration` (see `zoo.metrics`),
        and the `confusion_matrix`."""
        real = np.concatenate(rows["weights"]) > 0
        probs, labels = np.concatenate(rows["probs"])[real], np.concatenate(rows["labels"])[real]
        confusion = metrics.confusion_matrix(labels, probs.argmax(1), probs.shape[1])
        return {
            "loss": float(totals["nats"]) / float(totals["examples"]),
            "accuracy": float(np.trace(confusion) / confusion.sum()),
            "macro_f1": metrics.macro_f1(confusion),
            **metrics.of_probabilities(probs, labels),
            "num_examples": int(real.sum()),
            "confusion_matrix": confusion.tolist(),
        }

    def samples(self, rows, data):
        """`accuracy`, and `loss` in nats an example."""
        real = np.concatenate(rows["weights"]) > 0
        probs, labels = np.concatenate(rows["probs"])[real], np.concatenate(rows["labels"])[real]
        nats = -np.log(np.maximum(probs[np.arange(len(labels)), labels].astype(np.float64), 1e-300))
        return {"accuracy": metrics.Sample.mean(probs.argmax(1) == labels), "loss": metrics.Sample.mean(nats)}

    def signatures(self, model, tokenizer):
        """`serving_default` = `classify`: `text` (and `text_pair`) string (B,) -> `labels` string (B, C), `scores` (B, C).

        Labels are the best first, scores their probabilities. A text that does not fit is cut as it was in training, or
        with overlong=refuse an InvalidArgumentError. With an encoder also `embed` (`zoo/tasks/embedding.py`).
        """
        frame, limit, leads = self.reading(model, tokenizer, self.facts.max_tokens or model.max_length)
        string = tf.TensorSpec([None], tf.string)

        def classes(texts):
            texts = [tf.strings.join([lead, text]) if lead else text for lead, text in zip(leads, texts, strict=False)]
            parts = [tokenizer.tokenize(text) for text in texts]
            batch = rows_in_graph(parts, frame, tokenizer.pad_id, limit, self.config.overlong)
            scores, order = tf.nn.top_k(tf.nn.softmax(self.tempered(self.forward(model, batch)[0])), len(self.facts.labels))
            return {"labels": tf.gather(tf.constant(self.facts.labels), order), "scores": scores}

        if self.facts.pair:

            @signature(string, string)
            def classify(text, text_pair):
                return classes(same_rows(text=text, text_pair=text_pair))
        else:

            @signature(string)
            def classify(text):
                return classes([text])

        return {"serving_default": classify, "classify": classify, **embedding.beside_a_head(model, tokenizer)}

    def requests(self, model, tokenizer):
        texts = ["", "Oil prices fall.", "Returns the number of items; raises ValueError if there are none.", "東京 naïve"]
        inputs = {"text": texts, **({"text_pair": texts[::-1]} if self.facts.pair else {})}
        requests = [("serving_default", inputs), ("classify", {name: texts[1:2] for name, texts in inputs.items()})]
        return requests + embedding.requests_beside_a_head(model)


def _encoded(texts, tokenizer, leads):
    """Lists of strings -> lists of their ids, each with what is put before it."""
    texts = [[lead + text for lead, text in zip(leads, some, strict=False)] for some in texts]
    flat = iter(tokenizer.encode_batch([text for some in texts for text in some]))
    return [[next(flat) for _ in some] for some in texts]


def _batch(rows, labels, width, frame, pad_id):
    return {
        **row_batch(rows, width, frame, pad_id),
        "labels": labels.astype(np.int32),
        "loss_weights": np.ones(len(rows), np.float32),
    }


def _label(example, number):
    label = example.get("label")
    if label is None or not str(label).strip():
        raise Refusal(f"Example {number} has no label; each must have one, in the field or column `label`.")
    if isinstance(label, list | dict):
        raise Refusal(f"Example {number} has the label {label!r:.60}; it must be one string or number.")
    return str(label)


def _texts(example, pair, number):
    texts = [example.get("text"), *([example.get("text_pair")] if pair else [])]
    for name, text in zip(("text", "text_pair"), texts, strict=False):
        if not text:
            raise Refusal(f"Example {number} has an empty {name}; there is nothing to classify.")
        if not isinstance(text, str):
            raise Refusal(f"Example {number} has {text!r:.60} as its {name}, which must be a string.")
    return texts
