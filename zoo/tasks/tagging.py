"""Tagging: a class for every word of a sentence.

A word may be several tokens; the first of them answers for the word, and the others neither count nor are asked.

Shape letters: B batch, T positions, W words, D hidden, C classes, S states: the classes and the
outside of a sentence.
"""

import collections
import itertools
import operator
import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tensorflow as tf
from keras import ops

from zoo import metrics
from zoo.config import Config, Output, Refusal, TaskConfig
from zoo.data import schemes
from zoo.data.examples import in_order, padded
from zoo.data.parallel import example_batches
from zoo.data.words import characters_for, characters_of, spelling_options, word_rows
from zoo.layers import crf
from zoo.layers.cross_entropy import cross_entropy
from zoo.layers.heads import CRFHead, TokenClassifier
from zoo.registry import TASKS
from zoo.signatures import embedding
from zoo.signatures.request import signature
from zoo.signatures.tagging import n_best_signature
from zoo.signatures.words import characters_in_graph, words_in_graph
from zoo.tasks import tag_scores
from zoo.tasks.base import LOOKED_AT, Task, texts_to_type

SCHEMES = ("BIO", "IOB1", "BIOES", "BIOUL", "BMES")  # of zoo/data/schemes.py
WORDS = ("spaces", "characters")
FEW = 3  # words of a sentence that does not show much
CONSTRAINTS = ("auto", "none", "decoding", "training")
ALIKE = re.compile(r"[bielmsuo]|[bielmsu][-_:/.].+", re.IGNORECASE)  # what a tag of a span may be written like
STRAY = 10  # less than one word of so many may have a tag that marks no span, for this to be a mistake
MISTAKES = 100  # one of so many sentences may break the scheme that the others follow


@dataclass(frozen=True)
class TaggingConfig(TaskConfig):
    """What is told apart, and how.

    Attributes:
        labels: the tags; those of the training split, sorted, unless they are given.
        head_dropout: rate in the head.
        crf: whether the tags of a sentence are judged together, by a conditional random field (Lample et al. 2016).
        scheme: in which tags of spans are learnt and answered, a key of `zoo.data.schemes.SCHEMES`; tags that the data has in
            another one are written in it. By default they stay as they are.
        words: what stands between white space in a text that is asked about, or with `characters` each character of it but the
            white space, for writing without spaces. Words of the data are then cut likewise, and spans go on over their
            characters; they are written in BIO unless there is a `scheme`.
        constraints: where moves between tags that their scheme forbids have no probability: `none`; in `decoding`; in
            `training` too, of a CRF. `auto` is `decoding` with a CRF and `none` without.
        partial: whether a label may name several tags, `B-PER|B-ORG`, or none, `*`: a CRF then learns that the word has one
            of these, or any (Tsuboi et al. 2008). A `scheme` then says what the tags are written in, and nothing is rewritten.
        lowercase: whether a word tokenizer that is trained writes all words in lower case.
        zero_digits: whether it writes every digit as 0. What a model reads of characters stays as it is.
        batch_tokens: rows times width of a training batch, padding included; 0 for batches of `--batch_size` rows. Short
            sentences then stand together in many rows, long ones in few.
    """

    labels: tuple[str, ...] = ()
    head_dropout: float = 0.1
    crf: bool = False
    scheme: str = ""
    words: str = "spaces"
    constraints: str = "auto"
    partial: bool = False
    lowercase: bool = False
    zero_digits: bool = False
    batch_tokens: int = 0

    kinds: ClassVar = ("encoder", "language_model")
    least_seq_length: ClassVar = 3
    recipe: ClassVar = dict(
        dataset="python_docs/tagging", seq_length=64, batch_size=32, steps=700, learning_rate=1e-2, optimizer="muon",
        warmup_steps=50,
    )  # fmt: skip

    def validate(self):
        self.require_rate("head_dropout")
        self.require(self.batch_tokens >= 0, f"batch_tokens must not be negative, got {self.batch_tokens}.")
        named = not self.scheme or self.scheme in SCHEMES
        self.require(named, f"scheme must be {', '.join(SCHEMES)}, got {self.scheme!r}.")
        self.require(self.words in WORDS, f"words must be {' or '.join(WORDS)}, got {self.words!r}.")
        known = self.constraints in CONSTRAINTS
        self.require(known, f"constraints must be {', '.join(CONSTRAINTS)}, got {self.constraints!r}.")
        of_crf = self.crf or self.constraints != "training"
        self.require(of_crf, "constraints=training is for a CRF; set crf=true besides, or take constraints=decoding.")
        self.require(self.crf or not self.partial, "partial=true is for a CRF; set crf=true besides.")
        cut = self.partial and self.words == "characters"
        self.require(not cut, "Partial labels are read as they are; leave out partial=true or words=characters.")

    @property
    def written_in(self):
        """The scheme that all splits are written in, a key of `zoo.data.schemes.SCHEMES`; empty where tags stay as they are."""
        return self.scheme or ("BIO" if self.words == "characters" else "")

    def output(self, model_config, seq_length, facts=None):
        classes, width = len(facts.labels if facts else self.labels) or 2, model_config.cost(seq_length).hidden_dim
        return Output(seq_length, classes, (width + 1) * classes, (width + 1) * classes)


@dataclass(frozen=True)
class TaggingFacts(Config):
    """What the training examples told.

    Attributes:
        labels: the tags, in the order of the logits.
        scheme: in which the tags mark spans, a key of `zoo.data.schemes.SCHEMES`; empty for other tags.
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
        allowed: of partial labels, for each row bool (W, C): the tags a word may have, its label first. Else empty.
    """

    def __init__(self, rows, sentences, words, allowed=()):
        self.rows, self.sentences, self.words, self.allowed = rows, sentences, words, allowed

    def __len__(self):
        return len(self.rows)

    @property
    def units(self):
        """What each row belongs to: its sentence."""
        return self.sentences

    def take(self, chosen):
        """Those rows alone, int (rows,)."""
        columns = self.rows, self.sentences, self.words, self.allowed
        return TaggedSentences(*([column[i] for i in chosen] if column else column for column in columns))


@TASKS.register("tagging", TaggingConfig)
class Tagging(Task):
    """loss = -sum over words of log p(tag of the word | sentence), count = number of words.

    With `crf`, loss = -log p(all tags of the sentence | sentence), and the count is the same.

    Example:
        >>> Tagging().inspect([{"tokens": ["the", "cat"], "tags": ["D", "N"]}]).labels
        ('D', 'N')
    """

    facts_class = TaggingFacts
    reads = "examples"
    fields = ("tokens", "tags")
    shown = ("loss", "accuracy", "entity_f1")
    has_words = True
    broken, closest = 0, None  # training sentences that break the scheme, and which one is closest

    @property
    def texts_are(self):
        return "characters" if self.config.words == "characters" else ""

    def tokenizer_options(self, tokenizer):
        return spelling_options(self.config)

    def texts(self, example):
        tokens = example.get("tokens")
        if not isinstance(tokens, list | tuple):
            return []
        words = [word for word in tokens if isinstance(word, str)]
        return [" ".join(itertools.chain(*map(characters_of, words)) if self.config.words == "characters" else words)]

    def inspect(self, examples):
        sentences = [_sentence(example, number)[1] for number, example in enumerate(examples, 1)]
        found = {tag for tags in sentences for tag in tags}
        if self.config.partial:  # whole sentences tell the scheme
            sentences = [tags for tags in sentences if all((tag,) == schemes.choices(tag) for tag in tags)]
            if found and not (found := set(itertools.chain(*map(schemes.choices, found)))):
                raise Refusal("There is nothing to learn: each word of the train split has the label *, which tells nothing.")
        if not found:
            raise Refusal("There is nothing to train on: the train split holds no examples.")
        spans = metrics.are_entity_tags(found)
        asked = self.config.written_in
        if asked and not spans:
            option = "scheme" if self.config.scheme else "words=characters"
            raise Refusal(
                f"The tags mark no spans, such as {min(found)!r}, so they cannot be written in {asked}; leave {option} out."
            )
        labels = tuple(sorted(found))
        if not spans:
            _refuse_stray(sentences)
        if asked:
            types = {kind for tag in found for kind, _, _ in metrics.entities([tag])}
            labels = schemes.tags_of(types, asked)
        scheme, self.broken = asked, 0
        if spans and not asked:
            closest, self.broken = schemes.closest_scheme(sentences) if sentences else (None, 0)
            scheme = closest if closest and MISTAKES * self.broken <= len(sentences) else ""
            self.closest = closest
        if not scheme and self.config.constraints in ("decoding", "training"):
            raise Refusal(
                "The tags follow no scheme of spans, so no move is forbidden; leave constraints out, or have spans written in "
                "one with scheme=BIO."
            )
        return self.learn(labels=self.config.labels or labels, scheme=scheme)

    def encode(self, examples, tokenizer, layout):
        known = {label: i for i, label in enumerate(self.facts.labels)}
        frame, rows, sentences, spelt, allowed = self.frame(self.kinds[0], tokenizer), [], [], [], []
        for number, example in enumerate(examples, 1):
            words, tags = _sentence(example, number)
            words, tags = self._asked(words, tags)
            if not words:
                raise Refusal(f"Example {number} has words of white space alone, which have no characters.")
            chosen = [schemes.choices(tag) or tuple(known) if self.config.partial else (tag,) for tag in tags]
            for tag in itertools.chain(*chosen):
                if tag not in known:
                    raise Refusal(f"Example {number} has the tag {tag!r}, which no training example has{self._remedy(tag)}.")
            for row in word_rows(words, tokenizer, frame, layout.seq_length):
                several = [[known[tag] for tag in some] for some in chosen[row.first : row.first + len(row.places)]]
                rows.append((row.ids, row.places, np.array([some[0] for some in several], np.int32)))
                sentences.append(number)
                spelt.append(row.words)
                if self.config.partial:
                    allowed.append(np.array([[i in some for i in range(len(known))] for some in several]))
        return TaggedSentences(rows, sentences, spelt, allowed)

    def _asked(self, words, tags):
        """Words and tags of a sentence as they are asked for: cut into characters, written in a scheme."""
        if not self.config.written_in or self.config.partial:
            return words, tags
        spans = metrics.entities(tags)
        if self.config.words == "characters":
            cut = list(map(characters_of, words))
            ends = list(itertools.accumulate(map(len, cut), initial=0))
            spans = [(kind, ends[first], ends[last + 1] - 1) for kind, first, last in spans if ends[first] < ends[last + 1]]
            words = list(itertools.chain(*cut))
        return words, schemes.written(spans, len(words), self.config.written_in)

    def _remedy(self, tag):
        """What is said besides of a tag that training lacks: whether it is of the same spans."""
        scheme = self.facts.scheme
        types = {kind for label in self.facts.labels for kind, _, _ in metrics.entities([label])}
        if not scheme or self.config.labels or tag not in schemes.tags_of(types, scheme):
            return ""
        return f"; train with --set=scheme={scheme}, which learns all tags of each type of span"

    def size(self, data):
        scheme = f", spans in {self.facts.scheme}" if self.facts.scheme else ""
        longest, spans = max(self.facts.labels, key=len), metrics.are_entity_tags(self.facts.labels)
        if not spans and len(longest) > 1 and all(map(ALIKE.fullmatch, self.facts.labels)):
            scheme = f", no spans (tags like {longest!r} would mark some if they were written B-PER)"
        if self.broken:
            it = "it" if scheme else f"{self.closest}, the closest" if self.closest else "each"
            scheme = scheme or ", spans in no scheme"
            scheme += f" ({self.broken:,} of the training sentences break {it})"
        return f"{len(set(data.sentences)):,} sentences in {len(data):,} rows{scheme}"

    def training_batches(self, data, model, tokenizer, layout):
        self.learn(max_tokens=layout.seq_length)
        _, num_words = _sizes(data.rows)

        def make(chosen, width):
            return _batch(data, chosen, width, min(width, num_words), tokenizer.pad_id, model)

        return example_batches([len(ids) for ids, _, _ in data.rows], self.config.batch_tokens, layout, make)

    def evaluation_batches(self, data, model, tokenizer, layout):
        sizes = _sizes(data.rows)
        return in_order(len(data), layout.batch_size, lambda chosen: _batch(data, chosen, *sizes, tokenizer.pad_id, model))

    def head(self, model):
        labels = self.facts.labels
        if not self.config.crf:
            return TokenClassifier(len(labels), self.config.head_dropout, name="tagger")
        if self.label_smoothing or self.z_loss:
            raise Refusal("label_smoothing and z_loss are for tags that are judged one by one; leave out --set=crf=true.")
        in_training = self.config.constraints == "training"
        return CRFHead(len(labels), self.config.head_dropout, self._forbidden(), in_training, name="tagger")

    def _forbidden(self):
        """bool (S, S), the moves that are never decoded, or None."""
        never = ("none",) if self.config.crf else ("none", "auto")
        if not self.facts.scheme or self.config.constraints in never:
            return None
        return schemes.forbidden_moves(self.facts.labels, self.facts.scheme)

    def best(self, outputs, mask_BW):
        """The best tags of words, int32 (B, W); their log-probability together, float32 (B,); and the probability of each,
        float32 (B, W), with a CRF its marginal."""
        if self.config.crf:
            return crf.decode(*outputs, mask_BW)
        log_probs_BWC, forbidden = ops.log_softmax(outputs), self._forbidden()
        if forbidden is None:
            tags_BW = ops.cast(ops.argmax(outputs, axis=-1), "int32")
        else:
            tags_BW, _ = crf.viterbi(
                log_probs_BWC, ops.convert_to_tensor(np.where(forbidden, -np.inf, 0.0), "float32"), mask_BW
            )
        best_BW = ops.where(mask_BW, ops.take_along_axis(log_probs_BWC, tags_BW[..., None], axis=-1)[..., 0], 0.0)
        return tags_BW, ops.sum(best_BW, axis=1), ops.where(mask_BW, ops.exp(best_BW), 0.0)

    def _nats(self, batch, outputs):
        """float32 scalar: -log p of the tags, unsmoothed."""
        weights = ops.cast(batch["loss_weights"], "float32")
        if self.config.partial:
            return -ops.sum(crf.multitag_log_likelihood(outputs[0], batch["allowed"], outputs[1], weights > 0))
        if self.config.crf:
            return -ops.sum(crf.log_likelihood(outputs[0], batch["labels"], outputs[1], weights > 0))
        return ops.sum(cross_entropy(batch["labels"], outputs) * weights)

    def loss(self, batch, outputs):
        if not self.config.crf:
            return super().loss(batch, outputs)
        return self._nats(batch, outputs), ops.sum(ops.cast(batch["loss_weights"], "float32"))

    def tempered(self, outputs):
        """As `Task.tempered`; with a CRF unary scores and moves alike."""
        return tuple(map(super().tempered, outputs)) if self.config.crf else super().tempered(outputs)

    def class_logits(self, model, batch, state=None):
        outputs, _ = self.forward(model, batch)
        weights = ops.cast(batch["loss_weights"], "float32")
        if self.config.partial:  # a word of several tags does not tell how sure to be
            weights *= ops.cast(ops.sum(ops.cast(batch["allowed"], "int32"), axis=-1) == 1, "float32")
        return self.tempered(outputs), batch["labels"], weights, None

    def score(self, model, batch, state=None):
        outputs, _ = self.forward(model, batch)
        outputs = self.tempered(outputs)
        weights = ops.cast(batch["loss_weights"], "float32")
        nats = self._nats(batch, outputs)
        predicted, labels = self.best(outputs, weights > 0)[0], batch["labels"]
        if self.config.partial:  # any tag that a word may have is right
            fits = ops.take_along_axis(ops.cast(batch["allowed"], "int32"), predicted[..., None], axis=-1)[..., 0] > 0
            labels = ops.where(fits, predicted, labels)
        rows = {"predicted": predicted, "labels": labels, "weights": weights}
        rows["probs"] = crf.marginals(*outputs, weights > 0) if self.config.crf else ops.softmax(outputs)
        return {"nats": nats, "words": ops.sum(weights)}, rows, None

    def metrics(self, totals, rows, data):
        """The scores of a split.

        `loss` in nats a word, `accuracy` of words, `confusion_matrix` of tags, and `by_class`: precision, recall, F1 and count
        of each tag. Of tags that mark spans `entity_f1`, `entity_precision` and `entity_recall` as conlleval counts, which is
        seqeval's default, and `by_class` of the types of spans. Where the tags have a scheme `entity_f1_strict`, in all and by
        type, takes only spans that are well formed in it, as seqeval's `mode="strict"` does. `calibration_error`,
        `brier` and `calibration` (see `zoo.metrics`) are of the probability of each tag, with a CRF of its marginal.
        """
        sentences = self._answered(rows, data)
        number = {label: i for i, label in enumerate(self.facts.labels)}
        true, answered = ([number[tag] for one in sentences for tag in one[place]] for place in (1, 2))
        confusion = metrics.confusion_matrix(true, answered, len(number))
        scores = {
            "loss": float(totals["nats"]) / float(totals["words"]), "accuracy": float(np.trace(confusion) / len(true)),
            "num_words": len(true), "confusion_matrix": confusion.tolist(), **tag_scores.calibration(rows),
        }  # fmt: skip
        if not metrics.are_entity_tags(self.facts.labels):
            return {**scores, "by_class": metrics.class_scores(confusion, self.facts.labels)}
        return {**scores, **tag_scores.of_spans([one[1:] for one in sentences], self.facts.scheme)}

    def samples(self, rows, data):
        """`accuracy`, and of tags that mark spans `entity_f1`; the examples are sentences."""
        sentences = self._answered(rows, data)
        right = [sum(map(operator.eq, *one[1:])) for one in sentences]
        found = {"accuracy": metrics.Sample.mean(right, [len(one[0]) for one in sentences])}
        if metrics.are_entity_tags(self.facts.labels):
            found["entity_f1"] = metrics.Sample.f1([metrics.overlap(*map(metrics.entities, one[1:])) for one in sentences])
        return found

    def _answered(self, rows, data):
        """For each sentence its words, its tags and what the model says they are: a list of triples of lists."""
        kept = (
            (predicted[real], labels[real])
            for batch in zip(rows["predicted"], rows["labels"], rows["weights"], strict=True)
            for predicted, labels, real in zip(batch[0], batch[1], batch[2] > 0, strict=True)
            if real.any()
        )
        found = {}
        for sentence, words, (predicted, labels) in zip(data.sentences, data.words, kept, strict=False):
            columns = words, [self.facts.labels[i] for i in labels], [self.facts.labels[i] for i in predicted]
            for column, more in zip(found.setdefault(sentence, ([], [], [])), columns, strict=True):
                column.extend(more)
        return list(found.values())

    def predictions(self, rows, data):
        """Lines as conlleval reads them: a word, its tag and the predicted one, between tabs; a blank line ends a sentence."""
        for words, tags, predicted in self._answered(rows, data):
            yield from map("\t".join, zip(words, tags, predicted, strict=True))
            yield ""

    def signatures(self, model, tokenizer):
        """`serving_default` = `tag`: `text` string (B,), words separated by white space as in the training data, or with
        `words=characters` any text -> `tokens` and `tags` string (B, W), filled up with empty strings; `num_tokens` int32 (B,);
        `score` float32 (B,), the natural log-probability of these tags; `probs` float32 (B, W), the probability of each,
        filled up with 0; with a CRF it is the marginal. With a CRF also `tag_n_best`, see `n_best_signature`.

        A text that does not fit is an InvalidArgumentError that names both numbers of tokens. With an encoder also `embed`.
        """
        limit, frame = self.facts.max_tokens or model.max_length, self.frame(model.kind, tokenizer)
        labels, cut = self.facts.labels, characters_in_graph if self.config.words == "characters" else tf.strings.split

        def read(text):
            words, batch, real = words_in_graph(text, tokenizer, frame, limit, model.takes, cut)
            return words, real, self.tempered(model(batch))

        @signature(tf.TensorSpec([None], tf.string))
        def tag(text):
            words, real, outputs = read(text)
            predicted, score, probs = self.best(outputs, real)
            tags = tf.where(real, tf.gather(tf.constant(labels), predicted), "")
            counts = tf.cast(words.row_lengths(), tf.int32)
            return {"tokens": words.to_tensor(""), "tags": tags, "num_tokens": counts, "score": score, "probs": probs}

        more = {"tag_n_best": n_best_signature(read, labels)} if self.config.crf else {}
        return {"serving_default": tag, "tag": tag, **more, **embedding.beside_a_head(model, tokenizer)}

    def requests(self, model, tokenizer):
        texts = ["", "return x", "def naïve ( 東京 ) :", "  a  b "]
        requests = [("serving_default", {"text": texts}), ("tag", {"text": texts[2:3]})]
        if self.config.crf:
            requests.append(("tag_n_best", {"text": texts, "num_best": [3, 2, 5, 1]}))
        return requests + embedding.requests_beside_a_head(model)

    def asked_with(self, data):
        blank = "" if self.config.words == "characters" else " "
        sentences = sorted(data.words[:LOOKED_AT], key=lambda words: len(words) < FEW)
        return next((text for _, text in texts_to_type([blank.join(words) for words in sentences])), None)


def _refuse_stray(sentences):
    """Raises Refusal for a few tags that mark no spans beside many that do: spans could not be scored."""
    counts = collections.Counter(tag for tags in sentences for tag in tags)
    stray = [tag for tag in counts if tag != "O" and not metrics.are_entity_tags([tag])]
    if "O" in counts and 0 < len(stray) < len(counts) - 1 and STRAY * sum(map(counts.get, stray)) < counts.total():
        number = next(i for i, tags in enumerate(sentences, 1) if stray[0] in tags)
        spans = sorted(set(counts) - set(stray))[:3]
        raise Refusal(
            f"Example {number} has the tag {stray[0]!r}, which marks no span as others do ({', '.join(spans)}); write it as "
            "they are, or spans cannot be scored."
        )


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
        **({"allowed": _stacked(data.allowed, chosen, num_words)} if data.allowed else {}),
        **characters_for(model, [data.words[i] for i in chosen], places, width),
    }


def _stacked(allowed, chosen, num_words):
    """bool (B, W, C), the tags that each word may have; at the padding all."""
    stacked = np.ones((len(chosen), num_words, allowed[0].shape[1]), bool)
    for row, i in zip(stacked, chosen, strict=True):
        row[: len(allowed[i])] = allowed[i]
    return stacked


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
