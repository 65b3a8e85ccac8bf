"""Bidirectional recurrent encoders, such as the LSTM taggers of Lample et al. and of Ma and Hovy.

What this model does, by field of its config:
  - token embeddings, and a vector for each part of a row (`num_segments`): what a task marks there
  - beside them what the characters of a word tell (`characters`: by a CNN or by an LSTM) and where it has capital letters
    (`case_dim`); both stand at the first token of a word
  - a stack of recurrent layers of one kind (`cell`), each read from the left and from the right; each direction has half of
    `hidden_dim`
  - locked dropout, one mask a sequence, on the embedded tokens, between layers and on the last outputs

Shape letters: B batch, T steps, V vocabulary, E embedding width, D hidden, S segments, L characters of a word.
"""

from dataclasses import dataclass
from typing import ClassVar

import keras
from keras import ops

from zoo.config import Config, Cost
from zoo.layers.characters import CapitalLetters, CharacterCNN, CharacterLSTM
from zoo.layers.dropout import locked_dropout
from zoo.layers.forms import LETTER_CASES
from zoo.layers.recurrent import Bidirectional
from zoo.models.base import Encoder
from zoo.registry import MODELS

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
SPELLINGS = ("none", "cnn", "lstm")
CNN_WIDTH = 3  # characters that a filter sees


@dataclass(frozen=True)
class BiLSTMConfig(Config):
    """Structure of a bidirectional recurrent encoder.

    Attributes:
        hidden_dim: of both directions together.
        characters: what reads the characters of words: `none`, `cnn` or `lstm`.
        num_characters: how many rows the table of characters has; code points share them in turn.
        character_dim: width of a character.
        character_hidden_dim: width of what the characters of a word become: the number of filters, or both directions together.
        case_dim: width of the vector for where a word has capital letters; 0 for none.
        dropout: rate of one mask a sequence, on what the layers take and give; and on the vectors of characters.
    """

    vocab_size: int = 8_192
    cell: str = "lstm"
    num_layers: int = 1
    embedding_dim: int = 128
    hidden_dim: int = 256
    num_segments: int = 2
    characters: str = "none"
    num_characters: int = 512
    character_dim: int = 30
    character_hidden_dim: int = 30
    case_dim: int = 0
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
        # Lample et al. 2016, section 5.1
        "lample": dict(
            embedding_dim=100, hidden_dim=200, dropout=0.5, characters="lstm", character_dim=25, character_hidden_dim=50,
        ),
        "ma_hovy": dict(embedding_dim=100, hidden_dim=400, dropout=0.5, characters="cnn"),  # Ma and Hovy 2016, table 1
    }  # fmt: skip
    preset_recipes: ClassVar = {
        "tiny": dict(seq_length=16),
        "lample": dict(tokenizer="word", set=("crf=true", "zero_digits=true")),
        "ma_hovy": dict(tokenizer="word", set=("crf=true", "lowercase=true", "zero_digits=true")),
    }

    def validate(self):
        self.require_positive("vocab_size", "num_layers", "embedding_dim", "hidden_dim", "num_segments")
        self.require_rate("dropout")
        self.require(self.cell in GATES, f"cell must be {' or '.join(GATES)}, got {self.cell!r}.")
        self.require(self.hidden_dim % 2 == 0, f"hidden_dim is of two directions and must be even, got {self.hidden_dim}.")
        known = " or ".join(SPELLINGS)
        self.require(self.characters in SPELLINGS, f"characters must be {known}, got {self.characters!r}.")
        self.require_positive("num_characters", "character_dim", "character_hidden_dim")
        self.require(self.case_dim >= 0, f"case_dim must not be negative, got {self.case_dim}.")
        even = self.characters != "lstm" or self.character_hidden_dim % 2 == 0
        self.require(even, f"character_hidden_dim is of two directions and must be even, got {self.character_hidden_dim}.")

    @property
    def input_dim(self):
        """Width of what the first layer takes."""
        return self.embedding_dim + self.case_dim + (self.character_hidden_dim if self.characters != "none" else 0)

    def _layer_params(self):
        half, biases = self.hidden_dim // 2, 2 if self.cell == "gru" else 1
        inputs = (self.input_dim, *(self.hidden_dim,) * (self.num_layers - 1))
        return sum(2 * GATES[self.cell] * half * (x + half + biases) for x in inputs)

    def _spelling_params(self):
        table, width = (self.num_characters + 1) * self.character_dim, self.character_hidden_dim
        of_words = {
            "none": 0,
            "cnn": table + (CNN_WIDTH * self.character_dim + 1) * width,
            "lstm": table + 4 * width * (self.character_dim + width // 2 + 1),
        }
        return of_words[self.characters] + LETTER_CASES * self.case_dim

    def num_params(self):
        """Number of parameters of the encoder, without any task's head."""
        return (self.vocab_size + self.num_segments) * self.embedding_dim + self._layer_params() + self._spelling_params()

    def cost(self, seq_length):
        return Cost(
            hidden_dim=self.hidden_dim,
            body_params=self._layer_params() + self._spelling_params() + self.num_segments * self.embedding_dim,
            num_blocks=self.num_layers,
            kept=self.num_layers * self.hidden_dim * (3.0 * GATES[self.cell] + 6.0),
            graph="recurrent",
        )


@MODELS.register("bilstm", BiLSTMConfig)
class BiLSTM(Encoder):
    """Bidirectional LSTM (Graves and Schmidhuber 2005; Lample et al. 2016, arXiv:1603.01360; Ma and Hovy 2016,
    arXiv:1603.01354).

    h_0 = [W_e[tokens] + W_s[segments]; characters; case];  h_l = [forward(h_{l-1}); backward(h_{l-1})]

    Args:
        config: a `BiLSTMConfig`.

    Call: as `Encoder`, float (B, T, D). With the fields `characters` or `case_dim` the batch may have `characters`, int32
    (B, T, L); without them no word has any.

    Example:
        >>> import numpy as np
        >>> import zoo
        >>> model = zoo.create("bilstm", "tiny")
        >>> tuple(model({"token_ids": np.array([[3, 5, 7]])}).shape)
        (1, 3, 14)
    """

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        c = config
        uniform = keras.initializers.RandomUniform(-0.1, 0.1)
        self.embeddings = keras.layers.Embedding(
            c.vocab_size, c.embedding_dim, embeddings_initializer=uniform, name="embeddings"
        )
        self.segments = keras.layers.Embedding(c.num_segments, c.embedding_dim, embeddings_initializer=uniform, name="segments")
        if c.characters != "none" or c.case_dim:
            self.takes = (*Encoder.takes, "characters")
        sizes = (c.num_characters, c.character_dim, c.character_hidden_dim, c.dropout)
        self.characters = None
        if c.characters == "cnn":
            self.characters = CharacterCNN(*sizes, CNN_WIDTH, name="characters")
        elif c.characters == "lstm":
            self.characters = CharacterLSTM(*sizes, name="characters")
        self.case = CapitalLetters(c.case_dim, name="case") if c.case_dim else None
        self.layers_of_states = [Bidirectional(c.hidden_dim // 2, c.cell, name=f"layer_{i}") for i in range(c.num_layers)]
        self.dropouts = [locked_dropout(c.dropout, f"dropout_{i}") for i in range(c.num_layers + 1)]

    def build(self, input_shape=None):
        c = self.config
        self.embeddings.build()
        self.segments.build()
        for layer in self._of_words():
            layer.build()
        for i, layer in enumerate(self.layers_of_states):
            layer.build((None, None, c.hidden_dim if i else c.input_dim))
        self.built = True

    def layers_by_depth(self):
        return [[self.embeddings, self.segments, *self._of_words()], *([layer] for layer in self.layers_of_states), []]

    def hidden(self, batch, training=False):
        inputs = self.taken(batch)
        x_BTD = self._words(inputs, training) + self._segments(inputs.get("segment_ids"))
        for dropout, layer in zip(self.dropouts, self.layers_of_states, strict=False):
            x_BTD, _ = layer(dropout(x_BTD, training=training), keep=inputs.get("padding_mask"))
        return self.dropouts[-1](x_BTD, training=training)

    def token_vectors(self):
        return self, "_words"

    def _words(self, inputs, training):
        """What stands for the tokens, float (B, T, D): embeddings, and beside them what the characters of words tell."""
        x_BTE = self.embeddings(inputs["token_ids"])
        if "characters" not in self.takes:
            return x_BTE
        return ops.concatenate([x_BTE, *self._spelled(inputs, training)], axis=-1)

    def _of_words(self):
        """The layers that read the characters of words."""
        return [layer for layer in (self.characters, self.case) if layer is not None]

    def _spelled(self, inputs, training):
        """What the characters of the words tell, a list of float (B, T, any width)."""
        characters = inputs.get("characters")
        if characters is None:
            characters = ops.zeros_like(inputs["token_ids"])[..., None]
        options = {"training": training}
        return [layer(characters, **(options if layer is self.characters else {})) for layer in self._of_words()]

    def _segments(self, segment_ids):
        spelt = self.config.input_dim - self.config.embedding_dim  # the parts have no characters
        table_SE = ops.pad(ops.cast(self.segments.embeddings, self.compute_dtype), ((0, 0), (0, spelt)))
        if segment_ids is None:
            return table_SE[0]
        return ops.matmul(ops.one_hot(segment_ids, self.config.num_segments, dtype=self.compute_dtype), table_SE)
