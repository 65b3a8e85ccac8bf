"""Bag of words: how often each n-gram of tokens stands in a text, and a linear layer. The baseline of every classifier.

What this model does, by field of its config:
  - n-grams of tokens up to `order`: words, pieces of words or characters, whatever the tokenizer gives
  - single tokens are counted each for itself; longer n-grams share `num_buckets` rows by a hash
  - an n-gram counts as often as it is there (`counting` count), once (binary), or 1 + log of it (log)
  - with `tfidf` rare n-grams count more, by the documents they were in, and every text has length 1
  - with `embedding_dim` every feature has a vector, and the linear layer reads the sum of a text's vectors; word vectors can be
    the first of them

Shape letters: B batch, T positions, P places (n-grams of every order, one a position), F features, D numbers of a vector, C
classes.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from keras import ops

from zoo.config import Config, Cost, Refusal
from zoo.layers.dropout import Dropout
from zoo.layers.word_vectors import evenly_drawn
from zoo.models.base import Classifier
from zoo.registry import MODELS

# Multipliers of the hash, odd and below 2^31; products wrap around in 32 bits, alike in numpy and in the graph.
MULTIPLIERS = (0x01000193, 0x2C1B3C6D, 0x297A2D39, 0x5BD1E995, 0x1B873593)


@dataclass(frozen=True)
class BagOfWordsConfig(Config):
    """Structure of a bag of words."""

    vocab_size: int = 30_000
    num_classes: int = 2
    order: int = 2
    num_buckets: int = 2**18
    counting: str = "log"
    tfidf: bool = True
    dropout: float = 0.0
    embedding_dim: int = 0

    kind: ClassVar = "classifier"
    default_task: ClassVar = "classification"
    recipe: ClassVar = dict(
        dataset="python_docs/classification", tokenizer="wordpiece", vocab_size=16_000, seq_length=256, batch_size=64,
        steps=400, learning_rate=2e-2, optimizer="adamw", schedule="linear",
        xla="off",  # compiling takes longer than training
    )  # fmt: skip
    presets: ClassVar = {
        "tiny": dict(vocab_size=61, num_classes=3, num_buckets=128),
        "default": {},
        "counts": dict(order=1, counting="count", tfidf=False),
        "characters": dict(order=3, num_buckets=2**20),
    }
    preset_recipes: ClassVar = {"characters": dict(tokenizer="char", vocab_size=None, seq_length=256, steps=700)}

    def validate(self):
        self.require_positive("vocab_size", "num_classes", "num_buckets")
        self.require_rate("dropout")
        self.require(1 <= self.order <= len(MULTIPLIERS), f"order must be 1 to {len(MULTIPLIERS)}, got {self.order}.")
        self.require(self.embedding_dim >= 0, f"embedding_dim must not be negative, got {self.embedding_dim}.")
        self.require(self.counting in ("count", "binary", "log"), f"counting is count, binary or log, got {self.counting!r}.")

    @property
    def num_features(self):
        """F: a row for each token, and for longer n-grams the buckets."""
        return self.vocab_size + (self.num_buckets if self.order > 1 else 0)

    def num_params(self):
        """Number of trainable parameters."""
        if self.embedding_dim:
            return self.num_features * self.embedding_dim + (self.embedding_dim + 1) * self.num_classes
        return (self.num_features + 1) * self.num_classes

    def cost(self, seq_length):
        # Kept: which positions hold the same n-gram, (T, T) for each order, in several forms.
        width = self.embedding_dim or self.num_classes
        kept = 3.5 * self.order * (seq_length + 2.0 * width)
        compared = 200.0 * self.order * seq_length  # each with all others: which positions hold the same n-gram
        body = self.order * width
        return Cost(hidden_dim=0, body_params=body, kept_float32=kept, graph="flat", unmultiplied=compared)


@MODELS.register("bag_of_words", BagOfWordsConfig)
class BagOfWords(Classifier):
    """Linear classifier of n-gram counts (Salton and Buckley 1988; hashing: Weinberger et al. 2009, arXiv:0902.2206).

    logits = b + sum_f x_f W_f,   x = v / |v|,   v_f = g(count of f) log((1 + n) / (1 + n_f)) + g(count of f)

    with g(c) = c, 1 or 1 + ln c by `counting`, n documents, n_f of them with f. Without `tfidf` x_f = g(count of f). With
    `embedding_dim` D (Joulin et al. 2017, arXiv:1607.01759):

    logits = b + (sum_f x_f E_f) W,   E (F, D), W (D, C)

    Args:
        config: a `BagOfWordsConfig`.

    Call: as `Classifier`, float32 logits (B, C).

    Example:
        >>> import numpy as np
        >>> import zoo
        >>> model = zoo.create("bag_of_words", "tiny")
        >>> tuple(model(np.array([[3, 5, 7]])).shape)
        (1, 3)
    """

    def build(self, input_shape=None):
        c = self.config
        if c.embedding_dim:
            draw = evenly_drawn(0.5 / c.embedding_dim, ())  # as word vectors begin
            self.embeddings = self.add_weight(shape=(c.num_features, c.embedding_dim), initializer=draw, name="embeddings")
        width = c.embedding_dim or c.num_features
        self.kernel = self.add_weight(shape=(width, c.num_classes), initializer="zeros", name="kernel")
        self.bias = self.add_weight(shape=(c.num_classes,), initializer="zeros", name="bias")
        self.rarity = self.add_weight(shape=(c.num_features,), initializer="ones", trainable=False, name="rarity")
        self.dropped = Dropout(c.dropout, name="dropout")

    def logits(self, token_ids, padding_mask=None, training=False):
        features_BP, counts_BP = self._places(token_ids, padding_mask)
        weights_BP = self._weights(counts_BP)
        if self.config.tfidf:
            weights_BP = weights_BP * ops.cast(ops.take(self.rarity, features_BP), "float32")
            # Each feature has as many places as it counts, and its weight in the text is the sum over them.
            squared_B1 = ops.sum(weights_BP**2 * counts_BP, axis=1, keepdims=True)
            weights_BP = weights_BP / ops.sqrt(ops.maximum(squared_B1, 1e-12))
        weights_BP = ops.cast(self.dropped(weights_BP, training=training), "float32")
        table = self.embeddings if self.config.embedding_dim else self.kernel
        sums = ops.einsum("bp,bpc->bc", weights_BP, ops.cast(ops.take(table, features_BP, axis=0), "float32"))
        if self.config.embedding_dim:
            sums = ops.matmul(sums, ops.cast(self.kernel, "float32"))
        return sums + ops.cast(self.bias, "float32")

    def table(self):
        """The vectors of features, (F, D), of which those of single tokens come first."""
        if not self.config.embedding_dim:
            raise Refusal("This bag_of_words has no table of embeddings; give it one with --set=embedding_dim=.")
        return self.embeddings

    def token_vectors(self):
        return self.dropped, "call"

    def scaled_tokens(self, values, factors_BT):
        """The weights (B, P) of all places: an n-gram is multiplied by the mean of the factors of its tokens."""
        length, order = ops.shape(factors_BT)[1], self.config.order
        factors_BT = ops.pad(ops.cast(factors_BT, values.dtype), ((0, 0), (0, order - 1)))
        sums = [sum(factors_BT[:, start : start + length] for start in range(n)) / n for n in range(1, order + 1)]
        return values * ops.concatenate(sums, axis=1)

    def _weights(self, counts_BP):
        """What each place adds to its feature, so that a feature with c places has g(c); 0 at padding."""
        if self.config.counting == "count":
            return ops.minimum(counts_BP, 1.0)
        g_BP = 1.0 if self.config.counting == "binary" else 1.0 + ops.log(ops.maximum(counts_BP, 1.0))
        return ops.where(counts_BP > 0, g_BP / ops.maximum(counts_BP, 1.0), 0.0)

    def _places(self, token_ids, padding_mask):
        """Features int32 (B, P) of all n-grams, and how often each is in its row, float32 (B, P), 0 at padding."""
        mask_BT = ops.ones_like(token_ids, "bool") if padding_mask is None else padding_mask
        length = ops.shape(token_ids)[1]
        margin = ((0, 0), (0, self.config.order - 1))  # so that every position begins an n-gram of every order
        token_ids, mask_BT = ops.pad(token_ids, margin), ops.pad(mask_BT, margin, constant_values=False)
        all_features, all_counts = [], []
        for n in range(1, self.config.order + 1):
            grams = [token_ids[:, start : start + length] for start in range(n)]
            real_BT = mask_BT[:, n - 1 : n - 1 + length]
            features_BT = hashed(grams, self.config, ops)
            same_BTT = ops.equal(features_BT[:, :, None], features_BT[:, None, :])
            same_BTT = ops.logical_and(same_BTT, real_BT[:, None, :])
            counts_BT = ops.sum(ops.cast(same_BTT, "float32"), axis=2)
            all_features.append(features_BT)
            all_counts.append(ops.where(real_BT, counts_BT, 0.0))
        return ops.concatenate(all_features, axis=1), ops.concatenate(all_counts, axis=1)

    def fit_statistics(self, rows):
        """Sets how rare each feature is, from the training texts: 1 + ln((1 + n) / (1 + n_f)).

        Args:
            rows: list of int32 arrays, the ids of one text each.
        """
        if not self.config.tfidf:
            return
        documents = np.zeros(self.config.num_features, np.int64)
        for ids in rows:
            for n in range(1, min(self.config.order, len(ids)) + 1):
                grams = [ids[start : len(ids) - n + 1 + start] for start in range(n)]
                documents[np.unique(hashed(grams, self.config, np))] += 1
        self.rarity.assign(1 + np.log((1 + len(rows)) / (1 + documents)).astype(np.float32))


def hashed(grams, config, xp):
    """Features of n-grams: the token itself, or a bucket after all tokens.

    Args:
        grams: the first tokens of the n-grams, the second ones, and so on: n int32 arrays of one shape.
        config: a `BagOfWordsConfig`.
        xp: numpy or keras.ops; both wrap around at 32 bits.

    Returns:
        int32, of that shape, each in [0, num_features).
    """
    if len(grams) == 1:
        return grams[0]
    mixed = xp.zeros_like(grams[0]) + len(grams)
    for gram, multiplier in zip(grams, MULTIPLIERS, strict=False):
        mixed = (mixed + gram + 1) * multiplier
        mixed = xp.bitwise_xor(mixed, xp.right_shift(mixed, 15))
    return config.vocab_size + xp.bitwise_and(mixed, 2**31 - 1) % config.num_buckets
