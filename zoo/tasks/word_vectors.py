"""Word vectors: skip-gram, CBOW and GloVe, judged by analogies and by how similar people find two words.

Shape letters: B batch, T centres or pairs of a row, V vocabulary, D hidden, R candidates.
"""

import math
import shutil
import tempfile
import weakref
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from keras import ops

from zoo import metrics
from zoo.config import Output, Refusal, TaskConfig
from zoo.data import cooccurrence, pairs, subwords, word_questions
from zoo.data.examples import in_order
from zoo.data.excerpts import Excerpt
from zoo.layers.word_vectors import CooccurrenceHead, WindowHead
from zoo.registry import TASKS
from zoo.signatures.word_vectors import word_vectors_requests, word_vectors_signatures
from zoo.tasks.base import Task

OBJECTIVES = ("skip_gram", "cbow", "cbow_sum", "glove")
# Options that only one kind of objective reads: whether it is GloVe -> their names.
READ_BY = {
    True: ("x_max", "alpha"),
    False: ("method", "shrink_windows", "sample", "negatives", "shared_negatives", "exponent", "most_pairs"),
}


@dataclass(frozen=True)
class WordVectorsConfig(TaskConfig):
    """What vectors are trained on, and what judges them.

    Attributes:
        objective: `skip_gram`; `cbow`, with the gradient of the mean; `cbow_sum`, as the original program; or `glove`. `auto`
            is the model's own.
        method: how skip-gram and CBOW tell a word from all others: `negative_sampling` or `hierarchical_softmax`.
        window: the most words between two that are a pair, from one to the other.
        shrink_windows: whether each centre draws its window from 1 to `window`. GloVe weighs pairs by distance instead.
        sample: share of the text from which on a word is thinned out; 0 keeps all. Not for GloVe.
        negatives: for how many negatives a pair counts.
        shared_negatives: how many are drawn for a row.
        exponent: negatives are drawn in proportion to count^exponent.
        most_pairs: with how many pairs of one step a word moves at full rate; see `zoo.data.pairs.limited`.
        buckets: into how many rows the parts of words are hashed, whose vectors words of like spelling share (fastText); 0 for
            words that share nothing. See `zoo/data/subwords.py`.
        minn, maxn: the fewest and the most characters of a part.
        x_max, alpha: how little rare pairs count, for GloVe.
        min_count: the fewest occurrences of a word that gets a vector.
        lowercase: whether the word tokenizer writes all words in lower case.
        punctuation: whether the word tokenizer keeps it; otherwise every character that is not a letter, mark, digit or `_`
            separates words.
        analogies: file of analogy questions, such as Google's questions-words.txt; a few questions about Python otherwise.
        similarity: files of judged pairs, by commas, such as WordSim-353 and SimLex-999; a few about Python otherwise.
        candidates: an analogy's answer is sought among so many of the most frequent words.
    """

    objective: str = "auto"
    method: str = "negative_sampling"
    window: int = 5
    shrink_windows: bool = True
    sample: float = 1e-3
    negatives: int = 5
    shared_negatives: int = 16
    exponent: float = 0.75
    most_pairs: float = 80.0
    buckets: int = 0
    minn: int = 3
    maxn: int = 6
    x_max: float = 100.0
    alpha: float = 0.75
    min_count: int = 5
    lowercase: bool = False
    punctuation: bool = True
    analogies: str = ""
    similarity: tuple[str, ...] = ()
    candidates: int = 30_000

    kinds: ClassVar = ("encoder",)
    files: ClassVar = ("analogies", "similarity")

    @classmethod
    def serves(cls, config):
        return super().serves(config) and bool(config.objectives)

    def validate(self):
        known = ("auto", *OBJECTIVES)
        self.require(self.objective in known, f"objective must be {', '.join(known)}, got {self.objective!r}.")
        methods = ("negative_sampling", "hierarchical_softmax")
        self.require(self.method in methods, f"method must be {' or '.join(methods)}, got {self.method!r}.")
        self.require_positive("window", "negatives", "shared_negatives", "most_pairs", "x_max", "min_count", "candidates")
        self.require(0 <= self.sample < 1, f"sample must be at least 0 and below 1, got {self.sample}.")
        self.require(self.buckets >= 0, f"buckets must not be negative, got {self.buckets}.")
        self.require(1 <= self.minn <= self.maxn, f"minn must be from 1 to maxn, got minn {self.minn} and maxn {self.maxn}.")
        self.require(
            self.buckets or (self.minn, self.maxn) == (type(self).minn, type(self).maxn),
            f"minn={self.minn} and maxn={self.maxn} cut words into parts, and buckets=0 leaves parts out; give buckets "
            "besides, such as buckets=200000.",
        )
        self.require(self.alpha >= 0, f"alpha must not be negative, got {self.alpha}.")

    def output(self, model_config, seq_length, facts=None):
        width = model_config.cost(seq_length).hidden_dim
        if model_config.objectives == ("glove",):
            return Output(seq_length, 1, width, 2 * model_config.vocab_size)
        scores = seq_length + 2 * self.window + self.shared_negatives
        return Output(seq_length, scores, scores * width, (model_config.vocab_size + self.num_parts(model_config)) * width)

    def num_parts(self, model_config):
        """Rows of the table of parts: those of the words themselves and the buckets; 0 without parts."""
        return model_config.vocab_size + self.buckets if self.buckets else 0

    @property
    def uses_paths(self):
        """Whether words are told apart by paths of a tree."""
        return self.method == "hierarchical_softmax"


@TASKS.register("word_vectors", WordVectorsConfig)
class WordVectors(Task):
    """The loss is a sum over pairs of two words that stand near each other, and the count is the number of pairs.

    skip-gram, CBOW   -log s(o_c . h) - sum over negatives of log s(-o_n . h)      `zoo.layers.word_vectors.WindowHead`
    GloVe             f(X) / 2 (w . c + b + d - log X)^2                          `zoo.layers.word_vectors.CooccurrenceHead`

    The learning rate is that of one pair, as in the original programs: every gradient is multiplied by the number of pairs, by
    which the loop divides it.

    Example:
        >>> total, count = WordVectors().loss({}, (ops.array([0.5, 1.5]), ops.array([1.0, 2.0])))  # of two rows
        >>> float(total), float(count)
        (2.0, 3.0)
    """

    shown = ("loss", "similarity", "analogy")
    _parts = None  # (counts, the `Subwords` of them)

    def tokenizer_options(self, tokenizer):
        c = self.config
        asked = {**({"lowercase": True} if c.lowercase else {}), **({} if c.punctuation else {"punctuation": False})}
        return {**asked, "min_count": c.min_count} if tokenizer == "word" else asked

    def objective(self, model):
        """What a model is trained for.

        Raises:
            Refusal: it cannot be trained for what the config asks.
        """
        known, asked = model.config.objectives, self.config.objective
        if asked != "auto" and asked not in known:
            raise Refusal(f"{model.registered_name} is not trained for {asked}; its objectives are {', '.join(known)}.")
        return known[0] if asked == "auto" else asked

    def head(self, model):
        c, size, objective = self.config, model.config.vocab_size, self.objective(model)
        if objective == "glove":
            if c.buckets:
                raise Refusal("GloVe has no parts of words: leave out buckets, or take --model=word2vec.")
            return CooccurrenceHead(size, model.sides, c.x_max, c.alpha, name="head")
        return WindowHead(size, objective, 0 if c.uses_paths else c.negatives, c.num_parts(model.config), name="head")

    # From a text to batches

    def training_batches(self, data, model, tokenizer, layout):
        self._read_questions()  # so that a file that cannot be read is told before the training and not behind it
        self._refuse_unread(self.objective(model.without_head()))
        counts = pairs.count_words(
            data, model.config.vocab_size, min_count=self.config.min_count, special_ids=tokenizer.special_ids
        )
        model.head.counts.assign(counts.astype(np.float32))
        counts = self._counts(model)
        if self.objective(model.without_head()) == "glove":
            return cooccurrence.CooccurrenceBatches(_counted(data, counts, tokenizer.eos_id, self.config.window), layout)
        batches = pairs.WindowBatches(
            data, layout, counts, tokenizer.eos_id, self._window_options(model), paths=self._paths(counts)
        )  # fmt: skip
        if not self.config.buckets:
            return batches
        model.without_head().embeddings.trainable = False  # it is made of the parts
        return subwords.SubwordBatches(batches, self._subwords(tokenizer, counts), counts)

    def _refuse_unread(self, objective):
        unread = [
            name for name in READ_BY[objective != "glove"] if getattr(self.config, name) != getattr(type(self.config), name)
        ]
        if unread:
            raise Refusal(f"{objective} does not read {', '.join(unread)}; leave out --set={unread[0]}=.")

    def _subwords(self, tokenizer, counts):
        """Made once a text: cutting all words into parts takes as long as many steps."""
        if self._parts is None or not np.array_equal(self._parts[0], counts):
            c = self.config
            self._parts = counts, subwords.Subwords(tokenizer.vocabulary, counts, c.buckets, c.minn, c.maxn)
        return self._parts[1]

    def compose(self, model, tokenizer, counts):
        """Makes the vectors of words of their parts: what is judged, served and saved."""
        table = model.without_head().embeddings.numpy().copy()
        for start, vectors in self._subwords(tokenizer, counts).means(model.head.parts.numpy()):
            table[start : start + len(vectors)] = vectors
        table[counts == 0] = 0
        model.without_head().embeddings.assign(table)

    def _paths(self, counts):
        return pairs.huffman_paths(counts) if self.config.uses_paths else None

    def _window_options(self, model):
        c = self.config
        return pairs.Windows(
            window=c.window, shrink=c.shrink_windows, sample=c.sample, negatives=0 if c.uses_paths else c.negatives,
            shared_negatives=c.shared_negatives, exponent=c.exponent, objective=self.objective(model.without_head()),
            most_pairs=c.most_pairs,
        )  # fmt: skip

    @staticmethod
    def _counts(model):
        """int64 (V,): how often each word stands in the text that the model was trained on."""
        return np.asarray(model.head.counts).astype(np.int64)

    def evaluation_batches(self, data, model, tokenizer, layout):
        """Yields batches of all pairs, and after those of a whole split the questions that vectors are judged by."""
        counts = self._counts(model)
        if not counts.any():
            raise Refusal("These word vectors were not trained yet: their head knows no words.")
        if self.config.buckets:
            self.compose(model, tokenizer, counts)
        if self.objective(model.without_head()) == "glove":
            with tempfile.TemporaryDirectory() as directory:
                counted = cooccurrence.count_cooccurrences(
                    data, counts, tokenizer.eos_id, Path(directory) / "counts", window=self.config.window
                )
                yield from cooccurrence.evaluation_batches(counted, layout)
        else:
            yield from pairs.evaluation_batches(
                data, layout, counts, tokenizer.eos_id, self._window_options(model), self._paths(counts)
            )
        if not isinstance(data, Excerpt):
            yield from self._questions(word_questions.Lookup(tokenizer, counts), counts, layout)

    def _read_questions(self):
        """(the judged pairs of each file, the analogies)."""
        path = self.config.analogies
        files = [word_questions.read_similarity(path) for path in self.config.similarity]
        return files or [word_questions.SIMILAR_WORDS], word_questions.read_analogies(
            path
        ) if path else word_questions.ANALOGIES

    def _questions(self, lookup, counts, layout):
        """Batches of pairs to be compared, then of analogies. Every row has its group: the file, or the kind of question."""
        files, questions = self._read_questions()
        rows = [(lookup(a), lookup(b), score, group) for group, file in enumerate(files) for a, b, score in file]
        ids, scores = np.array([row[:2] for row in rows], np.int32), np.array([row[2] for row in rows], np.float32)
        groups = np.array([row[3] for row in rows], np.int32)
        yield from in_order(len(rows), layout.batch_size, lambda i: {
            "word_ids": ids[i], "judgements": scores[i], "groups": groups[i], "loss_weights": np.ones(len(i), np.float32),
        })  # fmt: skip
        asked = np.array([[lookup(word) for word in words] for _, *words in questions], np.int32)
        least = word_questions.least_count(counts, self.config.candidates)
        asked = np.where((asked >= 0) & (counts[np.maximum(asked, 0)] >= least), asked, -1).astype(np.int32)
        kinds = np.array([word_questions.is_semantic(section) for section, *_ in questions], np.int32)
        yield from in_order(len(questions), layout.batch_size, lambda i: {
            "word_ids": asked[i], "groups": kinds[i], "least_counts": np.full(len(i), least, np.float32),
            "loss_weights": np.ones(len(i), np.float32),
        })  # fmt: skip

    # From a batch to scores

    def loss(self, batch, outputs):
        losses_B, pairs_B = outputs
        return ops.sum(losses_B), ops.maximum(ops.sum(pairs_B), 1e-9)

    def score(self, model, batch, state=None):
        if "judgements" in batch:
            return {}, {**_compared(model, batch), "judgements": batch["judgements"]}, None
        if "least_counts" in batch:
            return {}, _answered(model, batch), None
        losses_B, pairs_B = self.forward(model, batch)[0]
        return {"loss": ops.sum(losses_B), "pairs": ops.sum(pairs_B)}, {}, None

    def metrics(self, totals, rows, data):
        """`loss` a pair, and `num_pairs`. After a whole split `similarity`, Spearman's correlation with the judgements of the
        first file, `similarity_<n>` with those of the n-th, and `similarity_unknown`, the pairs with an unknown word, which do
        not count; `analogy`, the share of right answers, `analogy_semantic` and `analogy_syntactic`, and `analogy_unknown`."""
        count = float(totals["pairs"])
        if not count:
            raise Refusal("There is nothing to score: the split has no two known words near each other.")
        scores = {"loss": float(totals["loss"]) / count, "num_pairs": int(count)}
        if "cosines" in rows:
            scores |= _similarity_scores(*_joined(rows, "cosines", "judgements", "files"))
        if "answers" in rows:
            scores |= _analogy_scores(*_joined(rows, "answers", "kinds"))
        return scores

    # Served

    def signatures(self, model, tokenizer):
        """Name -> tf.function: `serving_default` and `nearest`, `analogy`, `embed`."""
        return word_vectors_signatures(model, tokenizer)

    def requests(self, model, tokenizer):
        return word_vectors_requests(model, tokenizer)

    def sample(self, loaded, seed):
        """The words nearest to a frequent one."""
        counts = self._counts(loaded.model)
        order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
        word = loaded.tokenizer.decode([int(order[min(100, len(order) - 1)])])
        found = loaded.predict("nearest", word=[word], k=[8])["words"][0]
        return f"{word}: {', '.join(other for other in found if other)}"


def _counted(data, counts, eos_id, window):
    """The `Cooccurrences` of a split: beside its shards, where the next run finds them, or for this process alone."""
    if getattr(data, "directory", None) is not None:
        key = zlib.crc32(np.ascontiguousarray(counts))
        path = data.directory.with_name(f"{data.directory.name}-pairs-{window}-{key:08x}")
        return cooccurrence.count_cooccurrences(data, counts, eos_id, path, window=window, reuse=True)
    directory = Path(tempfile.mkdtemp(prefix="pairs-"))
    counted = cooccurrence.count_cooccurrences(data, counts, eos_id, directory / "counts", window=window)
    weakref.finalize(counted, shutil.rmtree, directory, ignore_errors=True)
    return counted


def _unit_rows(model, ids):
    """float32 (..., D): the vectors of ids, of length 1; zero vectors stay."""
    rows = sum(ops.cast(ops.take(side, ops.maximum(ids, 0), axis=0), "float32") for side in model.without_head().sides())
    return rows / ops.maximum(ops.sqrt(ops.sum(rows**2, axis=-1, keepdims=True)), 1e-30)


def _groups(batch):
    """int32 (B,): the group of each row, -1 for rows that fill up the batch."""
    return ops.where(batch["loss_weights"] > 0, batch["groups"], -1)


def _compared(model, batch):
    """Rows of pairs: `cosines` (B,), NaN where a word is unknown, and `files`, which file each is of."""
    known_B = ops.min(batch["word_ids"], axis=1) >= 0
    rows_B2D = _unit_rows(model, batch["word_ids"])
    cosines_B = ops.sum(rows_B2D[:, 0] * rows_B2D[:, 1], axis=-1)
    return {"cosines": ops.where(known_B, cosines_B, float("nan")), "files": _groups(batch)}


def _answered(model, batch):
    """Rows of analogies, a : b as c : d: `answers` int32 (B,), 1 where d is the nearest to b - a + c of all candidates but the
    three (Mikolov et al. 2013), 0 where it is not, -1 where a word is unknown; and `kinds`, 1 for questions about meaning."""
    ids_B4 = batch["word_ids"]
    known_B = ops.min(ids_B4, axis=1) >= 0
    a_BD, b_BD, c_BD, _ = (_unit_rows(model, ids_B4[:, i]) for i in range(4))
    table_VD = _unit_rows(model, ops.arange(model.config.vocab_size, dtype="int32"))
    scores_BV = ops.matmul(b_BD - a_BD + c_BD, ops.transpose(table_VD))
    candidates_BV = ops.convert_to_tensor(model.head.counts)[None] >= batch["least_counts"][:, None]
    given_BV = sum(ops.one_hot(ops.maximum(ids_B4[:, i], 0), model.config.vocab_size) for i in range(3)) > 0
    scores_BV = ops.where(ops.logical_and(candidates_BV, ops.logical_not(given_BV)), scores_BV, -1e9)
    right_B = ops.cast(ops.cast(ops.argmax(scores_BV, axis=1), "int32") == ids_B4[:, 3], "int32")
    return {"answers": ops.where(known_B, right_B, -1), "kinds": _groups(batch)}


def _joined(rows, *names):
    """The kept rows of some names, joined over batches; of a name that no batch had, nothing."""
    return (np.concatenate(rows[name]) for name in names)


def _similarity_scores(cosines, judgements, files):
    """Spearman's correlations, the first file's under the plain name; none where fewer than two pairs are known."""
    scores = {}
    for file in range(int(files.max()) + 1):
        known = (files == file) & ~np.isnan(cosines)
        end = f"_{file + 1}" if file else ""
        correlation = metrics.spearman(judgements[known], cosines[known])
        scores |= {} if math.isnan(correlation) else {f"similarity{end}": correlation}
        scores[f"similarity_unknown{end}"] = int(((files == file) & np.isnan(cosines)).sum())
    return scores


def _analogy_scores(answers, kinds):
    """Shares of right answers of those questions whose words are all known; none where there is no such question."""
    known = (kinds >= 0) & (answers >= 0)
    asked = {"analogy": known, "analogy_semantic": known & (kinds == 1), "analogy_syntactic": known & (kinds == 0)}
    scores = {name: float(answers[which].mean()) for name, which in asked.items() if which.any()}
    return {**scores, "analogy_unknown": int(((kinds >= 0) & (answers < 0)).sum())}
