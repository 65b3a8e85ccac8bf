"""Semantic role labelling: who did what to whom.

One model answers two questions. In a row without a mark it finds the words that are predicates. In a row where the segment ids
mark one predicate it gives every word its role in that predicate (Shi and Lin 2019). The first token of a word answers for it.

Shape letters: B batch, T positions, W words, C classes, S states: the classes and the outside of a sentence, N predicates of
all rows, R predicates of a row.
"""

import itertools
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow as tf
from keras import ops

from zoo import metrics
from zoo.config import Config, Output, Refusal, TaskConfig
from zoo.data import schemes
from zoo.data.examples import in_order, padded
from zoo.data.parallel import example_batches
from zoo.data.roles import FrequentRoles, taken_once
from zoo.data.words import WordRow, characters_for, spelling_options, word_rows
from zoo.layers.cross_entropy import cross_entropy
from zoo.layers.heads import RoleHead
from zoo.layers.viterbi_once import viterbi_once
from zoo.registry import TASKS
from zoo.signatures import embedding
from zoo.signatures.request import refusal_unless, signature
from zoo.signatures.words import words_in_graph, words_marked
from zoo.tasks.base import LOOKED_AT, Task, texts_to_type

SEGMENTS = 2  # what is marked, and what is not
ROWS_AT_ONCE = 64  # predicates that are labelled together
FIND = -1  # the predicate of a row that asks which words are predicates


@dataclass(frozen=True)
class SemanticRolesConfig(TaskConfig):
    """How roles are learnt.

    Attributes:
        head_dropout: rate in the head.
        head_width: width of a hidden layer that reads each word beside its predicate; 0 for none.
        lowercase: whether a word tokenizer that is trained writes all words in lower case.
        zero_digits: whether it writes every digit as 0. What a model reads of characters stays as it is.
        batch_tokens: as for tagging.
    """

    head_dropout: float = 0.1
    head_width: int = 0
    lowercase: bool = False
    zero_digits: bool = False
    batch_tokens: int = 0

    kinds: ClassVar = ("encoder",)
    needs_context: ClassVar = True
    least_seq_length: ClassVar = 3
    recipe: ClassVar = dict(
        dataset="python_docs/calls", vocab_size=2_048, seq_length=64, batch_size=32, steps=1_700, learning_rate=3e-3,
        optimizer="muon", schedule="cosine", warmup_steps=50, set=("head_dropout=0",),
    )  # fmt: skip

    def validate(self):
        self.require_rate("head_dropout")
        self.require(self.batch_tokens >= 0, f"batch_tokens must not be negative, got {self.batch_tokens}.")
        self.require(self.head_width >= 0, f"head_width must not be negative, got {self.head_width}.")

    def output(self, model_config, seq_length, facts=None):
        roles, width = len(facts.labels) if facts else 2, model_config.cost(seq_length).hidden_dim
        weights = ((self.head_width or width) + 1) * roles + (width + 1) * 2
        layer = (2 * width + 1) * self.head_width
        return Output(seq_length, roles + 2, weights + layer, weights + layer)


@dataclass(frozen=True)
class SemanticRolesFacts(Config):
    """What the training examples told.

    Attributes:
        labels: the tags of roles, in the order of the logits.
        scheme: in which the tags mark spans, a key of `zoo.data.schemes.SCHEMES`; empty for other tags.
        once: the roles that a predicate has at most once, of a scheme BIO.
        max_tokens: most tokens of a row, special ones included: the run's --seq_length.
        num_behind: how many ids stand behind the last word of a row.
    """

    labels: tuple[str, ...] = ()
    scheme: str = ""
    once: tuple[str, ...] = ()
    max_tokens: int = 0
    num_behind: int = 1


class RoleRow(NamedTuple):
    """One question about the words of a row.

    Attributes:
        row: the `WordRow`.
        labels: int32 (W,): the roles, or of a row that asks for predicates 1 for each of those.
        sentence: number of its sentence, from 0.
        predicate: number of the predicate's word in the row, or `FIND`.
        number: which of its sentence's predicates it is.
    """

    row: WordRow
    labels: np.ndarray
    sentence: int
    predicate: int = FIND
    number: int = 0

    def marked(self):
        """Segment ids, int32 (T,): 1 at the tokens of the predicate."""
        marks = np.zeros(len(self.row.ids), np.int32)
        if self.predicate != FIND:
            marks[slice(*[*self.row.places, self.row.end][self.predicate : self.predicate + 2])] = 1
        return marks


class LabelledSentences:
    """Sentences of a split.

    Attributes:
        rows: list of `RoleRow`, for each row of words first the one that asks for predicates.
        tags: for each sentence the tags of its predicates, lists of lists of str.
        guesses: as `tags`, what `FrequentRoles` says; None where the training examples were not seen.
        respelt: how many predicates had roles that begin with `I-`, as in IOB1; they are read as `B-`.
    """

    def __init__(self, rows, tags, guesses=None, respelt=0):
        self.rows, self.tags, self.guesses, self.respelt = rows, tags, guesses, respelt

    def __len__(self):
        return len(self.rows)

    @property
    def units(self):
        """What each row belongs to, int (rows,): its sentence."""
        return np.array([row.sentence for row in self.rows])

    def take(self, chosen):
        """Those rows alone, int (rows,)."""
        return LabelledSentences([self.rows[i] for i in chosen], self.tags, self.guesses, self.respelt)


@TASKS.register("semantic_roles", SemanticRolesConfig)
class SemanticRoles(Task):
    """loss = -sum over words of log p(role | sentence, predicate), or log p(whether the word is a predicate | sentence) in rows
    without a mark; count = number of words.

    Roles are decoded by Viterbi over their log-probabilities: moves that the tags' scheme forbids are left out, and a role that
    no predicate of the training examples has twice is given once.

    Example:
        >>> SemanticRoles().inspect([{"tokens": ["cats", "sit"], "predicates": [1], "tags": [["B-A0", "B-V"]]}]).labels
        ('B-A0', 'B-V', 'I-A0', 'I-V', 'O')
    """

    facts_class = SemanticRolesFacts
    reads = "examples"
    fields = ("tokens", "predicates", "tags")
    shown = ("loss", "role_f1", "predicate_f1", "end_to_end_f1")
    has_words = True
    baseline = None  # `FrequentRoles`, once the training examples have been seen

    def tokenizer_options(self, tokenizer):
        return spelling_options(self.config)

    def texts(self, example):
        tokens = example.get("tokens")
        return [" ".join(filter(lambda word: isinstance(word, str), tokens))] if isinstance(tokens, list | tuple) else []

    def inspect(self, examples):
        checked = [_checked(example, number) for number, example in enumerate(examples, 1)]
        checked = [(words, places, list(map(_in_bio, columns))) for words, places, columns in checked]
        columns = [column for _, _, columns in checked for column in columns]
        if not columns:
            raise Refusal("There is nothing to train on: the train split holds no predicates.")
        self.baseline = FrequentRoles((words, *one) for words, *both in checked for one in zip(*both, strict=True))
        tags = {tag for column in columns for tag in column}
        if not all(tag == "O" or tag[:2] in ("B-", "I-") for tag in tags):
            scheme = schemes.scheme_of(columns) if metrics.are_entity_tags(tags) else None
            return self.learn(labels=tuple(sorted(tags)), scheme=scheme or "")
        # A role of one word in training may have more of them elsewhere.
        roles = {tag[2:] for tag in tags} - {""}
        labels = tuple(sorted({"O", *(f"{place}-{role}" for role in roles for place in "BI")}))
        return self.learn(labels=labels, scheme="BIO", once=taken_once(columns))

    def encode(self, examples, tokenizer, layout):
        known = {label: i for i, label in enumerate(self.facts.labels)}
        other = known.get("O", 0)  # what a role that training has not seen is in the loss; in the scores it is missed
        frame, rows, sentences, guesses, respelt = self.frame(self.kinds[0], tokenizer), [], [], [], 0
        self.learn(num_behind=len(frame.after))
        for number, example in enumerate(examples, 1):
            words, predicates, given = _checked(example, number)
            columns = list(map(_in_bio, given))
            respelt += sum(column != tags for column, tags in zip(columns, given, strict=True))
            for row in word_rows(words, tokenizer, frame, layout.seq_length):
                here = range(row.first, row.first + len(row.places))
                rows.append(RoleRow(row, np.array([i in predicates for i in here], np.int32), len(sentences)))
                rows += [
                    RoleRow(
                        row,
                        np.array([known.get(column[i], other) for i in here], np.int32),
                        len(sentences),
                        place - row.first,
                        k,
                    )
                    for k, (place, column) in enumerate(zip(predicates, columns, strict=True))
                    if place in here
                ]
            sentences.append(columns)
            if self.baseline is not None:
                guesses.append([self.baseline.tags(words, place) for place in predicates])
        return LabelledSentences(rows, sentences, None if self.baseline is None else guesses, respelt)

    def size(self, data):
        respelt = f" ({data.respelt:,} of them in IOB1, read as BIO)" if data.respelt else ""
        return f"{len(data.tags):,} sentences with {sum(map(len, data.tags)):,} predicates{respelt}"

    def training_batches(self, data, model, tokenizer, layout):
        self.learn(max_tokens=layout.seq_length)
        _, num_words = _sizes(data.rows)

        def make(chosen, width):
            return _batch([data.rows[i] for i in chosen], width, min(width, num_words), tokenizer.pad_id, model)

        return example_batches([len(one.row.ids) for one in data.rows], self.config.batch_tokens, layout, make)

    def evaluation_batches(self, data, model, tokenizer, layout):
        sizes = _sizes(data.rows)
        return in_order(
            len(data), layout.batch_size, lambda chosen: _batch([data.rows[i] for i in chosen], *sizes, tokenizer.pad_id, model)
        )

    def model_fields(self, tokenizer):
        return {**super().model_fields(tokenizer), "num_segments": SEGMENTS}

    def head(self, model):
        if "segment_ids" not in model.takes:
            raise Refusal(
                f"semantic_roles marks the predicate by segment_ids, and {model.registered_name} takes "
                f"{', '.join(model.takes)}; use a model that takes them, such as bert."
            )
        return RoleHead(len(self.facts.labels), self.config.head_dropout, self.config.head_width, name="roles")

    def best(self, roles_NWC, mask_NW):
        """The best tags of words, int32 (N, W)."""
        num_tags, scheme = len(self.facts.labels), self.facts.scheme
        forbidden = (
            schemes.forbidden_moves(self.facts.labels, scheme) if scheme else np.zeros((num_tags + 1, num_tags + 1), bool)
        )
        moves_SS = tf.constant(np.where(forbidden, -np.inf, 0.0), tf.float32)
        once_C = np.isin(self.facts.labels, [f"B-{role}" for role in self.facts.once])
        return viterbi_once(ops.log_softmax(roles_NWC), moves_SS, mask_NW, once_C)

    def _losses(self, batch, outputs, cross_entropy):
        """float32 (B, W): what each word costs."""
        roles_BWC, predicates_BW2 = outputs
        labels_BW, asks_roles_B1 = batch["labels"], _asks_roles(batch)[:, None]
        of_roles = cross_entropy(labels_BW, roles_BWC)
        of_predicates = cross_entropy(ops.where(asks_roles_B1, 0, labels_BW), predicates_BW2)
        return ops.where(asks_roles_B1, of_roles, of_predicates)

    def loss(self, batch, outputs):
        weights = ops.cast(batch["loss_weights"], "float32")
        return ops.sum(self._losses(batch, outputs, self.smoothed_cross_entropy) * weights), ops.sum(weights)

    def score(self, model, batch, state=None):
        outputs, _ = self.forward(model, batch)
        weights = ops.cast(batch["loss_weights"], "float32")
        totals = {"nats": ops.sum(self._losses(batch, outputs, cross_entropy) * weights), "words": ops.sum(weights)}
        real_BW, asks_roles_B1 = weights > 0, _asks_roles(batch)[:, None]
        found_BW = _are_predicates(outputs[1]) & real_BW & ~asks_roles_B1
        predicted_BW = tf.where(asks_roles_B1, self.best(outputs[0], real_BW), tf.cast(found_BW, tf.int32))
        # Words that are wrongly taken for predicates have no row of their own; what is said of them is wrong, and counted.
        false_rows, _, false_tags = self._labelled(
            model, batch, real_BW, found_BW & (batch["labels"] == 0), self.facts.num_behind
        )
        false_tags = tf.RaggedTensor.from_value_rowids(false_tags, false_rows, tf.shape(real_BW, tf.int64)[0], validate=False)
        return totals, {"predicted": predicted_BW, "false": false_tags.to_tensor(-1)}, None

    def _labelled(self, model, batch, real_BW, chosen_BW, num_behind):
        """The roles of the words beside each chosen word.

        Returns:
            `(rows, words, tags)`: int64 (N,), int64 (N,), int32 (N, W), in the order of rows and words.
        """
        rows_N, words_N = tf.unstack(tf.where(chosen_BW), axis=1)

        def label(number, answers):
            rows, words = (some[number * ROWS_AT_ONCE : (number + 1) * ROWS_AT_ONCE] for some in (rows_N, words_N))
            names = [name for name in ("token_ids", "padding_mask", "label_positions", "characters") if name in batch]
            asked = {name: tf.gather(batch[name], rows) for name in names}
            asked["segment_ids"] = words_marked(batch, real_BW, rows, words, num_behind)
            tags = self.best(self.forward(model, asked)[0][0], tf.gather(real_BW, rows))
            return number + 1, answers.write(number, tags)

        # A text of many predicates needs no more memory at once than a batch.
        count = tf.maximum((tf.size(rows_N) + ROWS_AT_ONCE - 1) // ROWS_AT_ONCE, 1)
        answers = tf.TensorArray(tf.int32, count, infer_shape=False, element_shape=[None, None])
        _, answers = tf.while_loop(lambda number, _: number < count, label, (0, answers), parallel_iterations=1)
        return rows_N, words_N, answers.concat()

    def metrics(self, totals, rows, data):
        """The scores of a split.

        `loss` in nats a word; `role_f1` of arguments by the rules of CoNLL-2005, of the predicates as they are in the data;
        `predicate_f1` of the words that are taken for predicates; `end_to_end_f1` of the arguments of those predicates;
        `by_class` precision, recall, F1 and count of each role, of the predicates in the data. Where the training examples were
        seen, `baseline_role_f1` is what `FrequentRoles` reaches.
        """
        told = [row for batch in rows["predicted"] for row in batch]
        wrong = [row for batch in rows["false"] for row in batch]
        predicates, both = np.zeros(3, int), np.zeros(3, int)  # right, told, true
        found, here, there, guessed = {}, [], [], []
        for asked, answer, false in zip(data.rows, told, wrong, strict=False):
            answer = answer[: len(asked.labels)]
            if asked.predicate == FIND:
                found = set(np.flatnonzero(answer).tolist())
                predicates += int((answer * asked.labels).sum()), len(found), int(asked.labels.sum())
                both[1] += sum(len(self._arguments(tags[: len(answer)], asked)) for tags in false if (tags >= 0).any())
                continue
            told_here = self._arguments(answer, asked)
            true_here = metrics.role_arguments(data.tags[asked.sentence][asked.number])
            counts = metrics.overlap(true_here, told_here)
            both += counts if asked.predicate in found else (0, 0, counts[2])
            here.append(_by_role(true_here))
            there.append(_by_role(told_here))
            if data.guesses is not None:
                guessed.append(_by_role(metrics.role_arguments(data.guesses[asked.sentence][asked.number])))
        roles = metrics.span_scores(here, there)
        baseline = {"baseline_role_f1": metrics.span_scores(here, guessed)["f1"]} if guessed else {}
        return {
            "loss": float(totals["nats"]) / float(totals["words"]), "role_f1": roles["f1"],
            "predicate_f1": metrics.f1(*predicates.tolist()), "end_to_end_f1": metrics.f1(*both.tolist()), **baseline,
            "num_predicates": int(predicates[2]), "num_arguments": roles["count"], "by_class": roles["by_class"],
        }  # fmt: skip

    def samples(self, rows, data):
        """`role_f1`; the examples are sentences."""
        told, counts = (answer for batch in rows["predicted"] for answer in batch), {}
        for asked, answer in zip(data.rows, told, strict=False):
            if asked.predicate != FIND:
                said = self._arguments(answer[: len(asked.labels)], asked)
                true = metrics.role_arguments(data.tags[asked.sentence][asked.number])
                counts.setdefault(asked.sentence, np.zeros(3, int))[:] += metrics.overlap(true, said)
        return {"role_f1": metrics.Sample.f1(list(counts.values()))}

    def predictions(self, rows, data):
        """Lines of columns between tabs: a word, whether it is a predicate (`V` or `-`), whether it is found to be one, and for
        each predicate of the data its tags and what the model says; a blank line ends a sentence."""
        told = (answer for batch in rows["predicted"] for answer in batch)
        for sentence, asked in itertools.groupby(zip(data.rows, told, strict=False), lambda pair: pair[0].sentence):
            words, is_predicate, found, answers = [], [], [], {}
            for row, answer in asked:
                answer = answer[: len(row.labels)].tolist()
                if row.predicate == FIND:
                    words += row.row.words
                    is_predicate += row.labels.tolist()
                    found += answer
                else:
                    answers[row.number] = ["O"] * row.row.first + [self.facts.labels[i] for i in answer]
            columns = [words, *(["V" if one else "-" for one in some] for some in (is_predicate, found))]
            for number, tags in enumerate(data.tags[sentence]):
                answer = answers.get(number, [])
                columns += [tags[: len(words)], answer + ["O"] * (len(words) - len(answer))]
            yield from map("\t".join, zip(*columns, strict=True))
            yield ""

    def _arguments(self, answer, asked):
        """The arguments that tags of a row say, with the numbers that words have in the sentence."""
        return metrics.role_arguments(["O"] * asked.row.first + [self.facts.labels[i] for i in answer])

    def signatures(self, model, tokenizer):
        """`serving_default` = `label_roles`: `text` string (B,), words separated by white space as in the training data, and
        `predicate` int32 (B,), the number of the word whose roles are asked for, or -1, as if left out, for all predicates that
        are found -> `tokens` string (B, W); `predicates` int32 (B, R), the numbers of their words; `tags` string (B, R, W), the
        role of each word. They are filled up with empty strings and -1.

        A text that does not fit, and a predicate beyond its words, are InvalidArgumentErrors. Also `embed`.
        """
        limit, frame = self.facts.max_tokens or model.max_length, self.frame(model.kind, tokenizer)
        labels = self.facts.labels
        string, integers = tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.int32)
        find_all = np.array([FIND], np.int32)

        @signature(string, integers)
        def label_roles(text, predicate=find_all):
            words, batch, real = words_in_graph(text, tokenizer, frame, limit, model.takes)
            shape = tf.shape(real)
            chosen = self._chosen(model, batch, real, _for_each_row(predicate, words.row_lengths()))
            rows, places, tags = self._labelled(model, batch, real, chosen, len(frame.after))
            tags = tf.where(tf.gather(real, rows), tf.gather(tf.constant(labels), tags), "")

            def by_row(values):
                return tf.RaggedTensor.from_value_rowids(values, rows, tf.cast(shape[0], tf.int64), validate=False)

            predicates = by_row(tf.cast(places, tf.int32)).to_tensor(FIND)
            tags = by_row(tags).to_tensor("", shape=tf.stack([shape[0], tf.shape(predicates)[1], shape[1]]))
            return {"tokens": words.to_tensor(""), "predicates": predicates, "tags": tags}

        return {"serving_default": label_roles, "label_roles": label_roles, **embedding.beside_a_head(model, tokenizer)}

    def _chosen(self, model, batch, real_BW, predicate_B):
        """bool (B, W): the words that are asked for: the one that is given, else all that are found to be predicates."""
        unmarked = {**batch, "segment_ids": tf.zeros_like(batch["token_ids"])}
        found_BW = _are_predicates(self.forward(model, unmarked)[0][1]) & real_BW
        given_BW = tf.range(tf.shape(real_BW)[1]) == predicate_B[:, None]
        return tf.where(predicate_B[:, None] == FIND, found_BW, given_BW)

    def requests(self, model, tokenizer):
        texts = ["", "logger . warning ( message )", "def naïve ( 東京 ) :", "  a  b "]
        return [
            ("serving_default", {"text": texts}),
            ("label_roles", {"text": texts[1:], "predicate": [2, 0, 1]}),
            ("label_roles", {"text": texts[1:2], "predicate": [2]}),
            *embedding.requests_beside_a_head(model),
        ]

    def asked_with(self, data):
        asking = [one for one in data.rows if one.predicate != FIND] or data.rows
        return next((text for _, text in texts_to_type([" ".join(one.row.words) for one in asking[:LOOKED_AT]])), None)


def _by_role(arguments):
    """Arguments as `metrics.span_scores` takes them: the role first."""
    return [(parts[0][0], *parts) for parts in arguments]


def _asks_roles(batch):
    """bool (B,): whether a row marks a predicate."""
    return ops.any(batch["segment_ids"] > 0, axis=1)


def _are_predicates(logits_BW2):
    return logits_BW2[..., 1] > logits_BW2[..., 0]


def _for_each_row(predicate, counts_B):
    """The predicate that is asked for, int32 (B,), once it is known that each row has such a word."""
    counts_B = tf.cast(counts_B, tf.int32)
    rows, given = tf.size(counts_B), tf.size(predicate)
    sentence = "predicate has one number, or one for each text; got {} numbers for {} texts."
    with tf.control_dependencies([refusal_unless((given == 1) | (given == rows), sentence, given, rows)]):
        predicate_B = tf.broadcast_to(predicate, [rows])
    fits = tf.reduce_all((predicate_B >= FIND) & (predicate_B < tf.maximum(counts_B, 0)))
    sentence = "A predicate is the number of a word, from 0, or -1 to find all; got {} for texts of {} words."
    with tf.control_dependencies([refusal_unless(fits, sentence, predicate_B, counts_B)]):
        return tf.identity(predicate_B)


def _sizes(rows):
    """The most tokens and the most words of a row."""
    return max(len(one.row.ids) for one in rows), max(len(one.labels) for one in rows)


def _batch(rows, width, num_words, pad_id, model):
    """Rows as a batch of `width` tokens and `num_words` words."""
    ids = [one.row.ids for one in rows]
    counts = np.array([len(one.labels) for one in rows])[:, None]
    places = [one.row.places for one in rows]
    return {
        "token_ids": padded(ids, width, pad_id),
        "padding_mask": np.arange(width) < np.array([len(one) for one in ids])[:, None],
        "segment_ids": padded([one.marked() for one in rows], width, 0),
        "label_positions": padded(places, num_words, 0),
        "labels": padded([one.labels for one in rows], num_words, 0),
        "loss_weights": (np.arange(num_words) < counts).astype(np.float32),
        **characters_for(model, [one.row.words for one in rows], places, width),
    }


def _in_bio(column):
    """The tags of a predicate with each span begun by `B-`; tags of other schemes as they are."""
    if all(tag == "O" or (tag[:2] in ("B-", "I-") and tag[2:]) for tag in column):
        return schemes.written(metrics.entities(column), len(column), "BIO")
    return column


def _checked(example, number):
    """(words, places of the predicates, for each a list of tags) of an example. Raises Refusal for what cannot be."""
    words, predicates, columns = (example.get(name) for name in SemanticRoles.fields)
    if not words or not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise Refusal(f"Example {number} has no words; each must have a list of strings in the field `tokens`.")
    lists = isinstance(predicates or [], list | tuple) and isinstance(columns or [], list | tuple)
    if not lists or not all(isinstance(column, list | tuple) for column in columns or []):
        raise Refusal(f"Example {number} must have a list of places as `predicates`, and a list of tags for each as `tags`.")
    predicates, columns = list(predicates or []), [list(column) for column in columns or []]
    if len(predicates) != len(columns):
        raise Refusal(f"Example {number} has {len(predicates)} predicates and {len(columns)} lists of tags; each has one.")
    for place, column in zip(predicates, columns, strict=True):
        if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < len(words):
            raise Refusal(f"Example {number} has a predicate at word {place!r:.20}, counted from 0, of {len(words)}.")
        if len(column) != len(words) or not all(isinstance(tag, str) and tag for tag in column):
            given = sum(isinstance(tag, str) and bool(tag) for tag in column)
            raise Refusal(f"Example {number} has {len(words)} words and a predicate with {given} tags; each word has one.")
    return words, predicates, columns
