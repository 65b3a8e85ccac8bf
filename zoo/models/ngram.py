"""The back-off n-gram language model: interpolated modified Kneser-Ney, add-k or Stupid Backoff, in closed form.

    model = NGram(NGramConfig.preset("trigram", vocab_size=4096, eos_id=0))
    model.fit_closed_form(token_ids)                       counts, discounts, back-off weights: no gradient steps
    log_probs = model(token_ids)                 (B, T, V), or score given labels with model.token_log_probs

`eos_id` opens and closes every sentence, as <s> when it is history and as </s> when it is predicted; no history reaches
back past it. Shape letters: B batch, T positions, S positions of a stream that begins with the state, V vocabulary.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from keras import ops

from zoo.config import Config, Cost, Refusal
from zoo.layers import ngram_estimation, ngram_external
from zoo.layers.ngram import BackoffTables
from zoo.layers.ngram_packed import PackedTables
from zoo.models.base import LanguageModel
from zoo.registry import MODELS

SMOOTHINGS = ("kneser_ney", "add_k", "stupid_backoff")
MAX_ORDER = 7
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
LEAST_MEMORY = 2**24
CHECKED_TOKENS = 2**20  # at once


@dataclass(frozen=True)
class NGramConfig(Config):
    """Structure of an n-gram model.

    Args:
        order: n, the longest n-gram: 1 to 7.
        smoothing: "kneser_ney" (interpolated, modified), "add_k" or "stupid_backoff".
        add_k: pseudo-count of each word after each history, for add_k.
        cutoffs: drop n-grams of order k that occur at most cutoffs[k - 1] times; the last entry holds for all longer
            orders, the first must be 0 (KenLM's --prune). () keeps all.
        vocab_size: V.
        eos_id: the id that stands before the first sentence and after each.
        unk_id: the id of words outside the vocabulary, or None; only ARPA files need to know it.
        ngram_counts: n-grams of each order in the tables; () until the model is fitted.
        bits: 0 keeps every log-probability and back-off weight in float32; 8 keeps the number of one of 256 bins (KenLM's
            trie with -q 8 -b 8), in about half the room.
        memory: most bytes that the counting may take, such as "1G", at least "16M"; the rest is then on disk, where `TMPDIR`
            says. "" takes what it needs. The tables do not depend on it, and a fitted model does not keep it.
    """

    order: int = 5
    smoothing: str = "kneser_ney"
    add_k: float = 0.1
    cutoffs: tuple[int, ...] = ()
    vocab_size: int = 4096
    eos_id: int = 0
    unk_id: int | None = None
    ngram_counts: tuple[int, ...] = ()
    bits: int = 0
    memory: str = ""

    presets: ClassVar = {
        "default": {},
        "tiny": {"order": 3, "vocab_size": 11},
        "unigram": {"order": 1},
        "bigram": {"order": 2},
        "trigram": {"order": 3},
        "trigram_add_k": {"order": 3, "smoothing": "add_k"},
        "stupid_backoff": {"smoothing": "stupid_backoff"},
        "pruned": {"cutoffs": (0, 0, 1)},
    }
    kind: ClassVar = "language_model"
    default_task: ClassVar = "language_modeling"
    fitted: ClassVar = True
    recipe: ClassVar = {
        "dataset": "python_docs",
        "tokenizer": "bpe",
        "vocab_size": 4096,
        "seq_length": 128,
        "batch_size": 16,
        "steps": 0,
    }

    def validate(self):
        self.require(1 <= self.order <= MAX_ORDER, f"order must be 1 to {MAX_ORDER}, got {self.order}.")
        self.require(self.smoothing in SMOOTHINGS, f"smoothing must be one of {', '.join(SMOOTHINGS)}, got {self.smoothing!r}.")
        self.require_positive("vocab_size", "add_k")
        for name in ("eos_id", "unk_id"):
            value = getattr(self, name)
            self.require(
                value is None or 0 <= value < self.vocab_size,
                f"{name} must be an id below vocab_size {self.vocab_size}, got {value}.",
            )
        cutoffs = self.cutoffs
        self.require(
            len(cutoffs) <= self.order and list(cutoffs) == sorted(cutoffs) and cutoffs[:1] in ((), (0,)),
            f"cutoffs must be at most {self.order} counts that begin with 0 and never fall, got {cutoffs}.",
        )
        sizes = self.ngram_counts
        self.require(
            not sizes or (len(sizes) == self.order and sizes[0] == self.vocab_size and min(sizes) >= 0),
            f"ngram_counts must hold {self.order} sizes, vocab_size {self.vocab_size} first, got {sizes}.",
        )

        self.require(self.bits in (0, 8), f"bits must be 0, for float32, or 8, got {self.bits}.")
        self.require(
            not self.memory or self.memory_bytes() >= LEAST_MEMORY,
            f"memory must be a size such as 512M or 2G, at least 16M, got {self.memory!r}.",
        )

    def memory_bytes(self):
        """`memory` as a number; 0 where it says none."""
        size = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", self.memory.upper())
        return int(float(size[1]) * UNITS.get(size[2], 1)) if size else 0

    def num_params(self):
        """Number of n-grams in the tables; before the fit, of unigrams."""
        return sum(self.ngram_counts) or self.vocab_size

    def cost(self, seq_length):
        return Cost(hidden_dim=0, body_params=self.order, graph="flat")


@MODELS.register("ngram", NGramConfig)
class NGram(LanguageModel):
    """p(w | h) from counts of up to n words, backing off to shorter histories h' where h w was not seen.

    Features are histories, int32 (B, T, n - 1): the last n - 1 ids up to and including each position, oldest first, -1
    where the sentence, the document or the row had not begun. Logits are natural log-probabilities: they already sum
    to one, for every history and over all V ids.

    Ours -> paper (Chen and Goodman 1998): history w_{i-n+1}^{i-1}; `zoo/layers/ngram_estimation.py` has the equations.

    Args:
        config: an NGramConfig; with `ngram_counts` filled, tables of those sizes await their weights.

    Example:
        >>> import numpy as np
        >>> import zoo
        >>> model = zoo.create("ngram", "bigram", vocab_size=3, eos_id=2)
        >>> model.fit_closed_form(np.array([0, 1, 0, 1, 2], np.uint16))
        >>> p = np.exp(model(np.array([[0]])))[0, 0]  # what follows id 0
        >>> int(p.argmax()), round(float(p.sum()), 6)
        (1, 1.0)
    """

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        tables = PackedTables if config.bits else BackoffTables
        self.tables = tables(config.order, config.vocab_size, config.ngram_counts, name="tables")
        self.built = True  # the tables have their weights

    passes = ()
    forgets_at_eos = True

    @property
    def context_tokens(self):
        return self.config.order - 1

    def fit_closed_form(self, token_ids):
        """Fits the model to a stream of ids in closed form and enlarges the tables to what was counted.

        Functions traced before keep the old tables: fit first, then compile or export.

        Args:
            token_ids: int (N,), `eos_id` before the first sentence and after each; with `memory` also `TokenShards`, which then
                stay on disk. Raises Refusal when there is nothing to predict or an id is out of range.
        """
        config = self.config
        settings = dict(smoothing=config.smoothing, add_k=config.add_k, cutoffs=config.cutoffs)
        on_disk = config.memory and not isinstance(token_ids, np.ndarray)
        ids = self._checked(token_ids if on_disk else np.asarray(token_ids[:]))
        if config.memory:
            settings["memory"] = config.memory_bytes()
        estimate = ngram_external.estimate if config.memory else ngram_estimation.estimate
        self.tables.assign(estimate(ids, config.order, config.vocab_size, config.eos_id, **settings))
        self.config = config.replace(ngram_counts=self.tables.num_ngrams, memory="")

    def fit_counts(self, ngrams):
        """Fits the model to counted n-grams, a list of `ngram_estimation.NGrams` that is emptied: as `fit_closed_form` of the
        stream that they were counted in."""
        config = self.config
        settings = dict(smoothing=config.smoothing, add_k=config.add_k, cutoffs=config.cutoffs)
        self.tables.assign(ngram_estimation.tables_of(ngrams, config.vocab_size, **settings))
        self.config = config.replace(ngram_counts=self.tables.num_ngrams)

    def _checked(self, ids):
        """The stream, with `eos_id` at its front."""
        eos_id, vocab_size = self.config.eos_id, self.config.vocab_size
        if isinstance(ids, np.ndarray) and (ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer)):
            raise Refusal(f"fit_closed_form takes one stream of integer ids, got {ids.dtype} of shape {ids.shape}.")
        parts = [slice(start, start + CHECKED_TOKENS) for start in range(0, len(ids), CHECKED_TOKENS)]
        if all((ids[part] == eos_id).all() for part in parts):
            raise Refusal("The corpus is empty: an n-gram model needs at least one token to count.")
        low, high = min(ids[part].min() for part in parts), max(ids[part].max() for part in parts)
        if low < 0 or high >= vocab_size:
            raise Refusal(f"Token ids must be in [0, {vocab_size}), got {low} to {high}; set vocab_size to the tokenizer's.")
        if not isinstance(ids, np.ndarray):
            return ids
        ids = ids if ids[0] == eos_id else np.concatenate([[eos_id], ids])
        return ids.astype(np.int32, copy=False)

    def init_state(self, batch_size, max_length):
        """{"history": int32 (B, n - 1)}, all -1: nothing has been read. Feed `eos_id` first to begin a sentence."""
        return {"history": ops.full((batch_size, self.config.order - 1), -1, dtype="int32")}

    def token_vectors(self):
        raise Refusal("An n-gram model looks its numbers up in tables and has no gradients; explain it by occlusion.")

    def features(self, token_ids, state=None, *, padding_mask=None, segment_ids=None, positions=None, training=False):
        """Histories, int32 (B, T, n - 1), and the new state. Counts know no `positions`."""
        stream, linked = self._stream(token_ids, state, padding_mask, segment_ids)
        length, steps = self.config.order - 1, ops.shape(token_ids)[1] + 1
        # One more than T histories: the first is the old state, so that the last is the new one even if T is 0.
        words, seen = [], True
        for age in range(length):
            start = length - 1 - age
            word = ops.where(seen, stream[:, start : start + steps], -1)
            seen = linked[:, start : start + steps] & (word != self.config.eos_id) & (word >= 0)
            words.insert(0, word)
        empty = ops.zeros((ops.shape(token_ids)[0], steps, 0), "int32")
        histories = ops.stack(words, axis=-1) if words else empty
        return histories[:, 1:], None if state is None else {"history": histories[:, -1]}

    def _stream(self, token_ids, state, padding_mask, segment_ids):
        """The state with the tokens after it, int32 (B, S = n - 1 + T), and whether each sees the one before, bool."""
        batch, num_tokens = ops.shape(token_ids)
        length = self.config.order - 1
        history = (self.init_state(batch, None) if state is None else state)["history"]
        token_ids = ops.cast(token_ids, "int32")
        linked = ops.ones((batch, length + num_tokens), "bool")
        if segment_ids is not None:
            before = ops.concatenate([segment_ids[:, :1], segment_ids[:, :-1]], axis=1)
            linked = ops.concatenate([linked[:, :length], segment_ids == before], axis=1)
        if padding_mask is None:
            return ops.concatenate([history, token_ids], axis=1), linked
        stream = ops.concatenate([history, ops.where(padding_mask, token_ids, -1)], axis=1)
        if state is None or not length:
            return stream, linked
        # The state stands before the first real token: move each row's left padding in front of it.
        padding = ops.sum(ops.cumprod(1 - ops.cast(padding_mask, "int32"), axis=1), axis=1, keepdims=True)
        place = ops.arange(length + num_tokens, dtype="int32")[None]
        source = ops.where(place < padding, place + length, ops.where(place < padding + length, place - padding, place))
        return ops.take_along_axis(stream, source, axis=1), linked | (place <= padding + length)

    def project(self, features):
        """Histories to natural log-probabilities of all ids, float32 (B, T, V)."""
        batch, num_tokens = ops.shape(features)[:2]
        length = self.config.order - 1
        nodes = self.tables.walk(ops.reshape(features, (-1, length)), None, length) if length else []
        log_probs = self.tables.distribution([node[:, -1] for node in nodes], batch * num_tokens)
        return ops.reshape(log_probs, (batch, num_tokens, self.config.vocab_size))

    def token_log_probs(self, token_ids, labels, state=None, **masks):
        """As in the base class, by looking up one n-gram of each order instead of writing out (B, T, V).

        A trigram model with the history (a, b) before the tokens (c, d), and the labels (d, e), looks up

            c d:  log p(d | b, c), or of shorter histories        d e:  log p(e | c, d), or of shorter histories
        """
        masks = {name: masks.get(name) for name in ("padding_mask", "segment_ids")}
        stream, linked = self._stream(token_ids, state, **masks)
        tables, length = self.tables, self.config.order - 1
        labels = ops.cast(labels, "int32")

        def running_text():
            # Each label is the next token, so one walk finds histories and labels: half of the searches.
            text = ops.concatenate([stream, labels[:, -1:]], axis=1)
            rows = tables.rows(tables.walk(text, None, length + 1, searches=4))
            contexts = [row[:, length : length + ops.shape(labels)[1]] for row in rows[:-1]]
            return tables.score(contexts, [row[:, length + 1 :] for row in rows])

        def any_labels():
            contexts = [node[:, length:] for node in tables.walk(stream, linked, length)] if length else []
            return tables.score(tables.rows(contexts), tables.rows(tables.follow(contexts, labels)))

        # Where eos_id opens a document, no n-gram reaches back past it anyway.
        is_text = ops.all(linked | (stream == self.config.eos_id)) & ops.all(labels[:, :-1] == stream[:, length + 1 :])
        log_probs = ops.cond(is_text, running_text, any_labels)
        return log_probs, None if state is None else self.features(token_ids, state, **masks)[1]
