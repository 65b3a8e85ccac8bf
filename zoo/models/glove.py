"""GloVe: one vector a word, from how often words stand near each other in all of a text.

As `word2vec` it is a table, and an encoder that looks words up in it.

Shape letters: B batch, T positions, V vocabulary, D hidden.
"""

from dataclasses import dataclass
from typing import ClassVar

from keras import ops

from zoo.config import Config, Cost
from zoo.layers.word_vectors import evenly_drawn
from zoo.models.base import Encoder
from zoo.registry import MODELS


@dataclass(frozen=True)
class GloVeConfig(Config):
    """Structure of GloVe.

    Args:
        vocab_size: V.
        hidden_dim: D.
        eos_id: the id between sentences, whose vector stays zero.
        unk_id: the id of words outside the vocabulary, whose vector stays zero too; None for a vocabulary that spells all.
    """

    vocab_size: int = 30_000
    hidden_dim: int = 100
    eos_id: int = 0
    unk_id: int | None = None

    kind: ClassVar = "encoder"
    contextual: ClassVar = False
    default_task: ClassVar = "word_vectors"
    objectives: ClassVar = ("glove",)
    presets: ClassVar = {
        "tiny": dict(vocab_size=61, hidden_dim=12),
        "default": {},
        "large": dict(hidden_dim=300),
    }
    recipe: ClassVar = dict(
        dataset="python_docs", tokenizer="word", vocab_size=None, seq_length=64, batch_size=64, steps=3_000,
        learning_rate=0.05, optimizer="adagrad", schedule="constant", warmup_steps=0, weight_decay=0.0, clip_norm=0.0, xla="on",
        set=("lowercase=true", "punctuation=false", "min_count=5", "window=15", "x_max=10"),
    )  # fmt: skip

    task_recipes: ClassVar = {
        "classification": dict(
            tokenizer="wordpiece", vocab_size=16_000, seq_length=128, batch_size=64, steps=900, learning_rate=3e-3,
            optimizer="adamw", schedule="linear", warmup_steps=0, weight_decay=0.01, clip_norm=1.0,
            set=("head_dropout=0.3", "word_deletion=0.6"),
        )
    }  # fmt: skip

    def validate(self):
        self.require_positive("vocab_size", "hidden_dim")

    def num_params(self):
        """Number of parameters of the two tables."""
        return 2 * self.vocab_size * self.hidden_dim

    def cost(self, seq_length):
        return Cost(
            hidden_dim=self.hidden_dim, body_params=0, kept=2 * self.hidden_dim, graph="flat", faster_compiled=True,
            unmultiplied=1e5,
        )  # fmt: skip


@MODELS.register("glove", GloVeConfig)
class GloVe(Encoder):
    """h_t = W[word_t] + C[word_t] (Pennington et al. 2014, section 4.2): the sum of a word's vector and its context vector.

    Vectors begin evenly drawn between -1 / 2D and 1 / 2D, as in the original program.

    Args:
        config: a `GloVeConfig`.

    Call: as `Encoder`, float (B, T, D). Neither padding nor the part of a row changes a word's vector.

    Ours -> paper: embeddings -> w, contexts -> the vectors w with a tilde; the biases are the head's.

    Example:
        >>> import numpy as np
        >>> import zoo
        >>> model = zoo.create("glove", "tiny")
        >>> tuple(model(np.array([[3, 5, 7]])).shape)
        (1, 3, 12)
    """

    def build(self, input_shape=None):
        c, tables = self.config, {}
        for name in ("embeddings", "contexts"):
            initializer = evenly_drawn(0.5 / c.hidden_dim, {c.eos_id, c.unk_id} - {None})
            tables[name] = self.add_weight(shape=(c.vocab_size, c.hidden_dim), initializer=initializer, name=name)
        self.embeddings, self.contexts = tables.values()
        self.built = True

    def token_vectors(self):
        return self, "hidden"

    def hidden(self, batch, training=False):
        token_ids = self.taken(batch)["token_ids"]
        words_BTD, contexts_BTD = (ops.take(table, token_ids, axis=0) for table in self.sides())
        return ops.cast(words_BTD + contexts_BTD, self.compute_dtype)

    def table(self):
        return self.embeddings

    def sides(self):
        """The tables whose sum is the table of word vectors, (V, D) each: of words, and of contexts."""
        return self.embeddings, self.contexts

    def pool(self, hidden_BTD):
        """The vector of a whole row, (B, D): the mean of its words."""
        return ops.mean(hidden_BTD, axis=1)
