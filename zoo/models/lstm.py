"""Recurrent language models: LSTM, and with `cell` gru or rnn their simpler kin.

What this model does, by field of its config:
  - token embeddings, tied with the output projection or not (`tie_embeddings`)
  - a stack of recurrent layers of one kind (`cell`); the forget gate's bias starts at 1
  - locked dropout, one mask a sequence, on the embedded tokens, between layers and on the last outputs
  - embedding dropout, whole words at once; weight drop on the recurrent kernels (Merity et al. 2017)
  - training goes on from the state that the last batch left (truncated backpropagation through time)

Shape letters: B batch, T steps, V vocabulary, E embedding width, D hidden, G gates.
"""

from dataclasses import dataclass
from typing import ClassVar

import keras
from keras import ops

from zoo.config import Config, Cost
from zoo.layers.chunked_cross_entropy import Projection
from zoo.layers.dropout import Dropout, locked_dropout
from zoo.layers.linear import Linear, times_rows
from zoo.layers.recurrent import Recurrent
from zoo.models.base import LanguageModel
from zoo.registry import MODELS

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
PENN_TREEBANK = dict(vocab_size=10_000)


@dataclass(frozen=True)
class LSTMConfig(Config):
    """Structure of a recurrent language model. With tied embeddings the last layer is `embedding_dim` wide."""

    vocab_size: int = 256
    cell: str = "lstm"
    num_layers: int = 2
    embedding_dim: int = 256
    hidden_dim: int = 256
    tie_embeddings: bool = True
    embedding_dropout: float = 0.0
    input_dropout: float = 0.0
    hidden_dropout: float = 0.0
    output_dropout: float = 0.0
    weight_dropout: float = 0.0

    kind: ClassVar = "language_model"
    default_task: ClassVar = "language_modeling"
    recipe: ClassVar = dict(
        dataset="python_docs", tokenizer="bpe", vocab_size=4_096, seq_length=64, batch_size=32, steps=700,
        learning_rate=1e-2, optimizer="muon", schedule="cosine", warmup_steps=50, weight_decay=0.01, clip_norm=1.0,
    )  # fmt: skip
    presets: ClassVar = {
        "tiny": dict(vocab_size=61, embedding_dim=10, hidden_dim=14),
        "default": {},
        "rnn": dict(cell="rnn"),
        "gru": dict(cell="gru"),
        # Zaremba et al. 2014, section 4.1. Their masks change every step, ours are locked.
        "medium": dict(
            **PENN_TREEBANK,
            embedding_dim=650,
            hidden_dim=650,
            tie_embeddings=False,
            input_dropout=0.5,
            hidden_dropout=0.5,
            output_dropout=0.5,
        ),  # fmt: skip
        "large": dict(
            **PENN_TREEBANK,
            embedding_dim=1_500,
            hidden_dim=1_500,
            tie_embeddings=False,
            input_dropout=0.65,
            hidden_dropout=0.65,
            output_dropout=0.65,
        ),  # fmt: skip
        # Merity et al. 2017, section 5, Penn Treebank.
        "awd_lstm": dict(
            **PENN_TREEBANK,
            num_layers=3,
            embedding_dim=400,
            hidden_dim=1_150,
            embedding_dropout=0.1,
            input_dropout=0.4,
            hidden_dropout=0.3,
            output_dropout=0.4,
            weight_dropout=0.5,
        ),  # fmt: skip
    }
    preset_recipes: ClassVar = {"tiny": dict(seq_length=16)}

    def validate(self):
        self.require_positive("vocab_size", "num_layers", "embedding_dim", "hidden_dim")
        self.require_rate("embedding_dropout", "input_dropout", "hidden_dropout", "output_dropout", "weight_dropout")
        self.require(self.cell in GATES, f"cell must be {' or '.join(GATES)}, got {self.cell!r}.")

    @property
    def layer_dims(self):
        """Width of each layer's state."""
        last = self.embedding_dim if self.tie_embeddings else self.hidden_dim
        return (self.hidden_dim,) * (self.num_layers - 1) + (last,)

    def num_params(self):
        """Number of parameters of the model."""
        gates, biases = GATES[self.cell], 2 if self.cell == "gru" else 1
        inputs = (self.embedding_dim, *self.layer_dims[:-1])
        layers = sum(gates * d * (x + d + biases) for x, d in zip(inputs, self.layer_dims, strict=True))
        head = 0 if self.tie_embeddings else self.layer_dims[-1] * self.vocab_size
        return self.vocab_size * (self.embedding_dim + 1) + layers + head

    def cost(self, seq_length):
        last = self.layer_dims[-1]
        tables = self.vocab_size * (self.embedding_dim + (0 if self.tie_embeddings else last))
        return Cost(
            hidden_dim=last,
            body_params=self.num_params() - tables,
            num_blocks=self.num_layers,
            kept=self.num_layers * self.hidden_dim * (3.0 * GATES[self.cell] + 6.0),
            graph="recurrent",
        )


@MODELS.register("lstm", LSTMConfig)
class LSTM(LanguageModel):
    """Recurrent language model (Mikolov et al. 2010; Zaremba et al. 2014; Merity et al. 2017).

    h_0 = W_e[tokens];  h_l = recurrent(h_{l-1});  p(next) = softmax(h_L W_o + b), W_o = W_e' when tied

    Args:
        config: an `LSTMConfig`.

    Call: as `LanguageModel`. Features are the last layer's outputs (B, T, D).

    Ours -> Merity et al. 2017: embedding_dropout, input_dropout, hidden_dropout, output_dropout, weight_dropout ->
    dropoute, dropouti, dropouth, dropout, wdrop of their program.

    Example:
        >>> import numpy as np
        >>> import zoo
        >>> model = zoo.create("lstm", "tiny")
        >>> tuple(model(np.array([[3, 5, 7]])).shape)
        (1, 3, 61)
    """

    carries_state = True

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        c = config
        uniform = keras.initializers.RandomUniform(-0.1, 0.1)  # Merity et al. 2017, section 5
        self.embeddings = keras.layers.Embedding(
            c.vocab_size, c.embedding_dim, embeddings_initializer=uniform, name="embeddings"
        )
        self.word_dropout = None
        if c.embedding_dropout:
            self.word_dropout = Dropout(c.embedding_dropout, name="word_dropout")
        self.recurrent = [
            Recurrent(d, c.cell, weight_dropout=c.weight_dropout, name=f"layer_{i}") for i, d in enumerate(c.layer_dims)
        ]
        rates = (c.input_dropout, *(c.hidden_dropout,) * (c.num_layers - 1), c.output_dropout)
        self.dropouts = [locked_dropout(rate, f"dropout_{i}") for i, rate in enumerate(rates)]
        self.head = TiedLinear(self.embeddings, name="head") if c.tie_embeddings else Linear(c.vocab_size, name="head")

    def build(self, input_shape=None):
        c = self.config
        self.embeddings.build()
        for x, layer in zip((c.embedding_dim, *c.layer_dims), self.recurrent, strict=False):
            layer.build((None, None, x))
        self.head.build((None, None, c.layer_dims[-1]))
        self.built = True

    def table(self):
        return self.embeddings.embeddings

    def layers_by_depth(self):
        return [[self.embeddings], *([layer] for layer in self.recurrent), [self.head]]

    def init_state(self, batch_size, max_length):
        """Zeros (B, D): `layer_i/h`, and `layer_i/c` for the LSTM. `max_length` makes no difference."""
        return {
            f"layer_{i}/{name}": ops.zeros((batch_size, layer.hidden_dim), self.compute_dtype)
            for i, layer in enumerate(self.recurrent)
            for name in layer.state_names
        }

    def features(self, token_ids, state=None, *, padding_mask=None, segment_ids=None, positions=None, training=False):
        starts = None if segment_ids is None else _document_starts(segment_ids, padding_mask)
        x_BTE = self._embed(token_ids, training)
        new_state = {}
        for i, layer in enumerate(self.recurrent):
            x_BTE = self.dropouts[i](x_BTE, training=training)
            before = None if state is None else tuple(state[f"layer_{i}/{name}"] for name in layer.state_names)
            x_BTE, after = layer(x_BTE, before, keep=padding_mask, starts=starts, training=training)
            new_state |= {f"layer_{i}/{name}": value for name, value in zip(layer.state_names, after, strict=True)}
        return self.dropouts[-1](x_BTE, training=training), (None if state is None else new_state)

    def _embed(self, token_ids, training):
        x_BTE = self.embeddings(token_ids)
        if self.word_dropout is not None and training:
            kept_V = self.word_dropout(ops.ones((self.config.vocab_size,), x_BTE.dtype), training=True)
            x_BTE = x_BTE * ops.take(kept_V, token_ids, axis=0)[..., None]
        return x_BTE

    def project(self, features):
        return ops.cast(self.head(features), "float32")

    def projection(self):
        if self.config.tie_embeddings:
            return Projection(self.embeddings.embeddings, self.head.bias, transposed=True)
        return Projection(self.head.kernel, self.head.bias)


class TiedLinear(keras.layers.Layer):
    """y = x W_e' + b, where W_e (V, E) belongs to an embedding layer (Press and Wolf 2017; Inan et al. 2017).

    Call: float (B, T, E) -> (B, T, V).
    """

    def __init__(self, embedding, **kwargs):
        super().__init__(**kwargs)
        self.embedding = embedding

    def build(self, input_shape):
        self.bias = self.add_weight(shape=(self.embedding.input_dim,), initializer="zeros", name="bias")

    def call(self, x_BTE):
        return times_rows(x_BTE, ops.convert_to_tensor(self.embedding.embeddings)) + self.bias


def _document_starts(segment_ids_BT, padding_mask_BT):
    """bool (B, T), where a document begins. Segment 0 began before the row: it goes on from the state it is given."""
    before_BT = ops.pad(segment_ids_BT[:, :-1], ((0, 0), (1, 0)))
    starts_BT = ops.not_equal(segment_ids_BT, before_BT)
    return starts_BT if padding_mask_BT is None else ops.logical_and(starts_BT, padding_mask_BT)
