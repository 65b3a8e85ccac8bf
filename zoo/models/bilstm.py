"""Bidirectional recurrent encoders, such as the LSTM taggers of Lample et al. and of Ma and Hovy.

What this model does, by field of its config:
  - token embeddings, and a vector for each part of a row (`num_segments`): what a task marks there
  - a stack of recurrent layers of one kind (`cell`), each read from the left and from the right; each direction has half of
    `hidden_dim`
  - locked dropout, one mask a sequence, on the embedded tokens, between layers and on the last outputs

Shape letters: B batch, T steps, V vocabulary, E embedding width, D hidden, S segments.
"""

from dataclasses import dataclass
from typing import ClassVar

import keras
from keras import ops

from zoo.config import Config, Cost
from zoo.layers.recurrent import Bidirectional, locked_dropout
from zoo.models.base import Encoder
from zoo.registry import MODELS

GATES = {"rnn": 1, "gru": 3, "lstm": 4}


@dataclass(frozen=True)
class BiLSTMConfig(Config):
    """Structure of a bidirectional recurrent encoder. `hidden_dim` is that of both directions together."""

    vocab_size: int = 8_192
    cell: str = "lstm"
    num_layers: int = 1
    embedding_dim: int = 128
    hidden_dim: int = 256
    num_segments: int = 2
    dropout: float = 0.3

    kind: ClassVar = "encoder"
    default_task: ClassVar = "tagging"
    recipe: ClassVar = dict(
        dataset="python_docs/tagging", tokenizer="wordpiece", vocab_size=8_192, seq_length=64, batch_size=32, steps=700,
        learning_rate=1e-2, optimizer="muon", schedule="linear", warmup_steps=50, weight_decay=0.01, clip_norm=1.0,
        set=("crf=true",),
    )  # fmt: skip
    presets: ClassVar = {
        "tiny": dict(vocab_size=61, embedding_dim=10, hidden_dim=14, dropout=0.0),
        "default": {},
        "lample": dict(embedding_dim=100, hidden_dim=200, dropout=0.5),  # Lample et al. 2016, section 5.1
        "ma_hovy": dict(embedding_dim=100, hidden_dim=400, dropout=0.5),  # Ma and Hovy 2016, table 1
    }
    preset_recipes: ClassVar = {"tiny": dict(seq_length=16)}

    def validate(self):
        self.require_positive("vocab_size", "num_layers", "embedding_dim", "hidden_dim", "num_segments")
        self.require_rate("dropout")
        self.require(self.cell in GATES, f"cell must be {' or '.join(GATES)}, got {self.cell!r}.")
        self.require(self.hidden_dim % 2 == 0, f"hidden_dim is of two directions and must be even, got {self.hidden_dim}.")

    def _layer_params(self):
        half, biases = self.hidden_dim // 2, 2 if self.cell == "gru" else 1
        inputs = (self.embedding_dim, *(self.hidden_dim,) * (self.num_layers - 1))
        return sum(2 * GATES[self.cell] * half * (x + half + biases) for x in inputs)

    def num_params(self):
        """Number of parameters of the encoder, without any task's head."""
        return (self.vocab_size + self.num_segments) * self.embedding_dim + self._layer_params()

    def cost(self, seq_length):
        return Cost(
            hidden_dim=self.hidden_dim,
            body_params=self._layer_params() + self.num_segments * self.embedding_dim,
            num_blocks=self.num_layers,
            kept=self.num_layers * self.hidden_dim * (3.0 * GATES[self.cell] + 6.0),
            graph="recurrent",
        )


@MODELS.register("bilstm", BiLSTMConfig)
class BiLSTM(Encoder):
    """Bidirectional LSTM (Graves and Schmidhuber 2005; Lample et al. 2016, arXiv:1603.01360; Ma and Hovy 2016,
    arXiv:1603.01354).

    h_0 = W_e[tokens] + W_s[segments];  h_l = [forward(h_{l-1}); backward(h_{l-1})]

        model = zoo.create("bilstm", "tiny")
        model({"token_ids": np.array([[3, 5]])}).shape    (1, 2, 14)

    Args:
        config: a `BiLSTMConfig`.

    Call: as `Encoder`, float (B, T, D).
    """

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        c = config
        uniform = keras.initializers.RandomUniform(-0.1, 0.1)
        self.embeddings = keras.layers.Embedding(
            c.vocab_size, c.embedding_dim, embeddings_initializer=uniform, name="embeddings"
        )
        self.segments = keras.layers.Embedding(c.num_segments, c.embedding_dim, embeddings_initializer=uniform, name="segments")
        self.layers_of_states = [Bidirectional(c.hidden_dim // 2, c.cell, name=f"layer_{i}") for i in range(c.num_layers)]
        self.dropouts = [locked_dropout(c.dropout, f"dropout_{i}") for i in range(c.num_layers + 1)]

    def build(self, input_shape=None):
        c = self.config
        self.embeddings.build()
        self.segments.build()
        for i, layer in enumerate(self.layers_of_states):
            layer.build((None, None, c.hidden_dim if i else c.embedding_dim))
        self.built = True

    def layers_by_depth(self):
        return [[self.embeddings, self.segments], *([layer] for layer in self.layers_of_states), []]

    def hidden(self, batch, training=False):
        inputs = self.taken(batch)
        x_BTD = self.embeddings(inputs["token_ids"]) + self._segments(inputs.get("segment_ids"))
        for dropout, layer in zip(self.dropouts, self.layers_of_states, strict=False):
            x_BTD, _ = layer(dropout(x_BTD, training=training), keep=inputs.get("padding_mask"))
        return self.dropouts[-1](x_BTD, training=training)

    def _segments(self, segment_ids):
        table_SE = ops.cast(self.segments.embeddings, self.compute_dtype)
        if segment_ids is None:
            return table_SE[0]
        return ops.matmul(ops.one_hot(segment_ids, self.config.num_segments, dtype=self.compute_dtype), table_SE)
