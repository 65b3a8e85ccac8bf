"""The task contract: what a model is trained and judged on, from the examples of a data set to the answers of a server.

A task meets every model that can serve it, so there are N + M files and not N x M. It says what it reads, cuts that into
batches, adds a head where the model needs one, and owns the loss, the scores and the signatures. The loop, the checkpoints and
the export are the same for all.

    task = TASKS.get("masked_lm")(config)        config: what the user asks with --set
    task.inspect(examples)                       only if it reads examples: facts, such as the classes, before there is a model
    model = task.assemble(GPT(...))              the model, or the model `WithHead`
    batches = task.training_batches(data, model, tokenizer, layout);  batches.batch(step)
    outputs, state = task.forward(model, batch);  total, count = task.loss(batch, outputs)
    totals, rows, state = task.score(model, batch);  task.metrics(totals, rows, data) -> {"loss": ...}
"""

import textwrap
from dataclasses import dataclass, replace

from keras import ops

from zoo.config import Config, Refusal, TaskConfig
from zoo.data.examples import framed_texts
from zoo.data.excerpts import drawn, excerpt
from zoo.layers.cross_entropy import cross_entropy
from zoo.models.base import WithHead

SHORT = 60  # characters of a text that a command asks with
LOOKED_AT = 100  # texts of a split, for a short one


@dataclass(frozen=True)
class NoFacts(Config):
    """Of a task that learns nothing from its examples."""


class _OfConfig:
    """A class variable of a task that its config declares, where the command line reads it without loading Keras."""

    def __set_name__(self, owner, name):
        self._name = name

    def __get__(self, task, task_class):
        return getattr(task_class.config_class, self._name)


class Task:
    """Base class of every task.

    A task that reads text gets one `TokenShards` a split, or an `Excerpt` of it to judge; one that reads examples gets whatever
    its `encode` made of them, which has `units`, what each row belongs to, and `take(rows)`.

    Args:
        config: what the user asks, an instance of `config_class`, or None for its defaults.
        facts: what the task has learnt from its data, an instance of `facts_class`, or None before `inspect`. Config and facts
            are both saved in the bundle. A name that is in both may be asked for, and is then not learnt.
        label_smoothing: mass that is spread evenly over the classes (Szegedy et al. 2016, section 7).
        z_loss: weight of log^2 Z, which keeps the softmax's normaliser near 1 (de Brebisson and Vincent 2016).

    Attributes:
        kinds: the kinds of model that it serves.
        reads: `text` or `examples`.
        fields: names of the fields of an example that it reads.
        trains: whether it can be trained; the task that only serves vectors cannot.
        shown: names of the scores that a line of progress shows.
        generates: whether its models go on with a prompt.
        has_words: whether its rows are words: batches have their `characters` for models that take them, and `predictions` are
            written in columns.
        temperature: what logits are divided by in scores and signatures; a calibration sets it (`zoo/calibration.py`), and the
            bundle keeps it.
        texts_are: how the texts that a tokenizer is trained on are cut, if that is an option; the cache tells tokenizers apart
            by it.
        separate_vocabularies: whether each field of an example has a tokenizer of its own, where one is trained.
        draft: how tokens are guessed ahead in `generate` of a task that generates, a `Draft` (`zoo/signatures/drafting.py`); or
            None. It is of serving alone, and no bundle has it.
    """

    config_class, facts_class = TaskConfig, NoFacts
    kinds = _OfConfig()
    reads = "text"
    fields = ("text",)
    trains = _OfConfig()
    shown = ("loss",)
    generates = has_words = False
    temperature = 1.0
    texts_are = ""
    separate_vocabularies = False
    draft = None

    def __init__(self, config=None, facts=None, *, label_smoothing=0.0, z_loss=0.0):
        if not 0 <= label_smoothing < 1:
            raise Refusal(f"label_smoothing must be at least 0 and below 1, got {label_smoothing}.")
        if z_loss < 0:
            raise Refusal(f"z_loss must not be negative, got {z_loss}.")
        self.config = self.config_class() if config is None else config
        self.facts = self._asked_for() if facts is None else facts
        self.label_smoothing, self.z_loss = label_smoothing, z_loss

    def _asked_for(self):
        """Facts before any data was seen: what the user has said of them, such as the labels."""
        names = set(self.facts_class.field_names()) & set(self.config.field_names())
        return self.facts_class(**{name: getattr(self.config, name) for name in names})

    def learn(self, **facts):
        """Adds to what the task has learnt from its data."""
        self.facts = self.facts.replace(**facts)
        return self.facts

    def frame(self, kind, tokenizer):
        """The `Frame`: what stands around the texts of a row, for a kind of model and a tokenizer."""
        return framed_texts(kind, tokenizer)

    def spelling(self, tokenizer):
        """What texts are read and written with: the tokenizer, or one that knows further ids than those of its vocabulary."""
        return tokenizer

    def limit(self, model):
        """The most tokens of a text that is asked about, special ones included, or None."""
        return model.max_length

    def frame_for(self, model, tokenizer):
        """The `Frame` as one model reads it: without segment ids where the model takes none."""
        frame = self.frame(model.kind, tokenizer)
        return frame if "segment_ids" in model.takes else replace(frame, segments=False)

    # From a data set to batches

    def texts(self, example):
        """The strings of an example (a dict of the data set's features) that a tokenizer is trained on."""
        return [example["text"]]

    def tokenizer_options(self, tokenizer):
        """What else a tokenizer of that name is trained with, besides texts and a size: a dict."""
        return {}

    def inspect(self, examples):
        """Learns from the training examples what must be known before a model is made, such as the classes. Returns the
        facts."""
        return self.facts

    def encode(self, examples, tokenizer, layout):
        """Examples of a split to the data, with a length, that batches are made of. Only for a task that reads examples."""
        raise TypeError(f"{type(self).__name__} reads {self.reads}, and has no encode().")

    def size(self, data):
        """How much data there is, in words."""
        return f"{len(data):,} tokens ({data.num_bytes:,} bytes)" if self.reads == "text" else f"{len(data):,} examples"

    def training_batches(self, data, model, tokenizer, layout):
        """Batches of a split to train on.

        Returns:
            An object with `batch(step)`, a dict of numpy arrays that is a pure function of (layout.seed, step) and of one shape
            at every step; `starts_epoch(step)`, whether a carried state must be reset; `steps_per_epoch`.
        """
        raise TypeError(f"{type(self).__name__} does not implement training_batches().")

    def part(self, data, num_tokens, layout):
        """A part of a split as data of its own, drawn from all of it and the same at every call: an `Excerpt` of text, or rows
        of examples, those of one `unit` together, each of which counts as `layout.seq_length` tokens."""
        if self.reads == "text":
            return excerpt(data, num_tokens)
        return data.take(drawn(data.units, max(num_tokens // layout.seq_length, 1)))

    def evaluation_batches(self, data, model, tokenizer, layout):
        """Yields batches that hold everything of a split once, in order."""
        raise TypeError(f"{type(self).__name__} does not implement evaluation_batches().")

    # From a batch to a loss

    def model_fields(self, tokenizer):
        """Fields of the model's config that follow from the tokenizer and the task; those it does not have are left out."""
        target = tokenizer.target
        fields = dict(vocab_size=target.vocab_size, eos_id=target.eos_id, unk_id=target.unk_id, pad_id=target.pad_id)
        return fields if tokenizer.shares_ids else {**fields, "source_vocab_size": tokenizer.vocab_size}

    def num_ids(self, tokenizer):
        """How many ids a text of this task may have: those of the tokenizer, and what the task adds."""
        return tokenizer.target.vocab_size

    def limit_ids(self, model, tokenizer):
        """Tells the model its temperature, and which rows of its table are not ids: they get no probability. Returns the
        model.

        Raises:
            Refusal: sources and targets have ids of their own, and the model has one table for both.
        """
        if not tokenizer.shares_ids and getattr(model.config, "source_vocab_size", None) is None:
            raise Refusal(
                f"Sources and targets have ids of their own in this tokenizer, and {model.registered_name} has one table for "
                "both; --model=transformer takes such a tokenizer."
            )
        model.temperature = self.temperature
        num_ids = self.num_ids(tokenizer)
        model.num_ids = num_ids if num_ids < model.config.vocab_size else None
        return model

    def head(self, model):
        """The layer between the model's hidden states and the outputs of `forward`, or None: the model's own logits serve."""
        return None

    def assemble(self, model):
        """The model with this task's head, if it has one.

        Raises:
            Refusal: the model reads the characters of words, and the batches of this task have none.
        """
        if "characters" in model.takes and not self.has_words:
            raise Refusal(
                f"This {model.registered_name} reads the characters of words, which {self.registered_name} does not cut its "
                "texts into; take --set=characters=none and --set=case_dim=0, or a task of words, such as tagging."
            )
        head = self.head(model)
        return model if head is None else WithHead(model, head)

    def forward(self, model, batch, state=None, training=False):
        """The outputs for a batch, and the state it leaves (None if none was given). The batch goes in whole."""
        return model(batch, training=training), None

    def smoothed_cross_entropy(self, labels, logits):
        """-log p(label), with what label_smoothing and z_loss add: float32 of the shape of `labels`."""
        losses = cross_entropy(labels, logits)
        if self.label_smoothing or self.z_loss:
            log_z = ops.logsumexp(logits, axis=-1)
            even = log_z - ops.mean(logits, axis=-1)
            losses = (1 - self.label_smoothing) * losses + self.label_smoothing * even + self.z_loss * log_z**2
        return losses

    def loss(self, batch, outputs):
        """(sum, count), float32 scalars: the loop divides the sum over all replicas by the count over all replicas.

        Here the cross-entropy of the batch's `labels` under logits, weighted with its `loss_weights`.
        """
        weights = ops.cast(batch["loss_weights"], "float32")
        losses = self.smoothed_cross_entropy(batch["labels"], outputs)
        return ops.sum(losses * weights), ops.sum(weights)

    # From a batch to scores

    def tempered(self, logits):
        """The logits of a head at the task's temperature."""
        return logits if self.temperature == 1 else logits / self.temperature

    def class_logits(self, model, batch, state=None):
        """What a calibration is about: the logits that probabilities are made of, at the task's temperature.

        Returns:
            `(logits, labels, weights, state)`: float (..., C), int (...) and float (...), and the state left. Where the
            answers of a row are judged together, logits are the pair of a CRF: unary scores (B, W, C) and moves (S, S).

        Raises:
            Refusal: the task's answers are not a choice among classes.
        """
        raise Refusal(
            f"A model for {self.registered_name} cannot be calibrated; that is for classification, tagging and "
            "language_modeling."
        )

    def score(self, model, batch, state=None):
        """What evaluation needs of a batch, in graph.

        Returns:
            `(totals, rows, state)`: totals, a dict of tensors that are summed over batches and replicas; rows, a dict of
            tensors (B, ...) that are kept, one a row in the order of the data; the state left (None if none was given).
        """
        raise TypeError(f"{type(self).__name__} does not implement score().")

    def metrics(self, totals, rows, data):
        """The scores of a split as a dict of numbers, `loss` among them.

        Args:
            totals: name -> summed numpy array.
            rows: name -> list of numpy arrays, one a batch.
            data: the split.
        """
        raise TypeError(f"{type(self).__name__} does not implement metrics().")

    def further_metrics(self, rows, data):
        """Scores that take too long to be told while a model is trained; `trainers.evaluate` tells them. As `metrics`."""
        return {}

    def predictions(self, rows, data):
        """Yields lines of columns: what is predicted for a split beside what is right; arguments as of `metrics`. Only for
        a task of words."""
        raise TypeError(f"{type(self).__name__} does not implement predictions().")

    def samples(self, rows, data):
        """Name -> `zoo.metrics.Sample` of those scores of a split that have intervals and that two models are compared by;
        none where a task keeps no scores of single examples. The arguments are those of `metrics`."""
        return {}

    def further_samples(self, rows, data):
        """As `samples`, of `further_metrics`."""
        return {}

    def baselines(self, data, scores):
        """What is scored without a model on as many examples of a split as its `scores` are of: a dict of numbers."""
        return {}

    def training_metrics(self, loss, data):
        """What a line of progress tells beside the training loss."""
        return {}

    # Served

    def signatures(self, model, tokenizer):
        """Name -> tf.function with a fixed input signature and a dict of named tensors as its result."""
        raise TypeError(f"{type(self).__name__} does not implement signatures().")

    def requests(self, model, tokenizer):
        """(signature, inputs as lists) that exercise every signature at every length: an export is proved and warmed up with
        them.

        A third element is the number of an earlier request whose answer is fed in besides.
        """
        raise TypeError(f"{type(self).__name__} does not implement requests().")

    def asked_with(self, data):
        """A text to ask the trained model with, of a split as `encode` made it; None where any text will do."""
        return None

    def sample(self, loaded, seed):
        """One line that shows what the trained model (a `zoo.api.Loaded`) does, or None."""
        return None


def texts_to_type(texts):
    """Yields the number of a text and what a command can ask with of it: its beginning on one line, whole short ones first."""
    for number in sorted(range(min(len(texts), LOOKED_AT)), key=lambda i: len(texts[i]) > SHORT):
        text = next(iter(textwrap.wrap(" ".join(texts[number].split()), SHORT, break_on_hyphens=False)), "")
        if text and text.isprintable():
            yield number, text
