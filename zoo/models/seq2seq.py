"""Sequence to sequence: a recurrent encoder reads the source in both directions, a recurrent decoder writes the target.

What this model does, by field of its config:
  - one table of tokens for source, target and output (`tie_embeddings`)
  - bidirectional layers of one kind (`cell`) in the encoder; each layer of the decoder begins with the last states of the
    encoder's layer beside it
  - attention of the decoder's states to the encoder's, scored in one of three ways (`attention`), or none: the decoder then
    knows the source by those last states alone
  - dropout on the embedded tokens, between layers and on the last outputs

Attention stands behind the recurrence, as in Luong et al. 2015, and the scores of Bahdanau et al. 2015 are used there, too:
the context of a step is not fed into the next. So all steps of the target are one pass of the layer.

Shape letters: B batch, T target positions, S source positions, V vocabulary, E embedding width, D hidden, G gates.
"""

from dataclasses import dataclass
from typing import ClassVar

import keras
from keras import ops

from zoo.config import Config, Cost, Refusal
from zoo.layers.coverage import looked_at
from zoo.layers.dropout import Dropout
from zoo.layers.forms import ATTENTION_SCORES
from zoo.layers.linear import Linear
from zoo.layers.recurrent import Bidirectional, Recurrent
from zoo.layers.recurrent_attention import RecurrentAttention
from zoo.models.base import EncoderDecoder, Memory, TableOutput
from zoo.registry import MODELS

GATES = {"rnn": 1, "gru": 3, "lstm": 4}


@dataclass(frozen=True)
class Seq2SeqConfig(Config):
    """Structure of a recurrent encoder-decoder. Each direction of the encoder is D / 2 wide."""

    vocab_size: int = 4_096
    cell: str = "lstm"
    num_layers: int = 1
    embedding_dim: int = 256
    hidden_dim: int = 256
    attention: str = "dot"
    tie_embeddings: bool = True
    dropout: float = 0.1

    kind: ClassVar = "encoder_decoder"
    default_task: ClassVar = "translation"
    recipe: ClassVar = dict(
        dataset="cldr/en-fr", tokenizer="bpe", vocab_size=4_096, seq_length=48, batch_size=64, steps=800,
        learning_rate=1e-2, optimizer="muon", schedule="cosine", warmup_steps=50, weight_decay=0.0, clip_norm=1.0,
        label_smoothing=0.1,
    )  # fmt: skip
    presets: ClassVar = {
        "tiny": dict(vocab_size=61, num_layers=2, embedding_dim=10, hidden_dim=12, attention="general", dropout=0.0),
        "default": {},
        "bahdanau": dict(cell="gru", attention="additive"),
        "luong": dict(attention="general"),
        "no_attention": dict(attention="none"),
        "multi30k": dict(vocab_size=10_000, attention="general", dropout=0.2),
    }
    preset_recipes: ClassVar = {
        "tiny": dict(seq_length=16),
        # Its texts are tokens already, with spaces between them.
        "multi30k": dict(
            vocab_size=10_000, seq_length=64, steps=1_200, eval_every=600,
            set=("bleu_tokenize=none", "batch_tokens=4096", "judged_beams=5"),
        ),
    }  # fmt: skip

    def validate(self):
        self.require_positive("vocab_size", "num_layers", "embedding_dim", "hidden_dim")
        self.require_rate("dropout")
        self.require(self.cell in GATES, f"cell must be {' or '.join(GATES)}, got {self.cell!r}.")
        known = (*ATTENTION_SCORES, "none")
        self.require(self.attention in known, f"attention must be one of {', '.join(known)}, got {self.attention!r}.")
        self.require(self.hidden_dim % 2 == 0, f"two directions share hidden_dim, so it must be even, got {self.hidden_dim}.")

    def _attention_params(self):
        d = self.hidden_dim
        return {"none": 0, "dot": 0, "general": d * d, "additive": 2 * d * d + d}[self.attention]

    def num_params(self):
        """Number of parameters of the model."""
        d, gates, biases = self.hidden_dim, GATES[self.cell], 2 if self.cell == "gru" else 1
        inputs = (self.embedding_dim, *(d,) * (self.num_layers - 1))
        encoder = sum(gates * d * (x + d // 2 + biases) for x in inputs)
        decoder = sum(gates * d * (x + d + biases) for x in inputs)
        combined = (d if self.attention == "none" else 2 * d) * self.embedding_dim
        return self._tables() + encoder + decoder + self._attention_params() + combined

    def _tables(self):
        return self.vocab_size * self.embedding_dim * (1 if self.tie_embeddings else 2)

    def cost(self, seq_length):
        d, layers, attends = self.hidden_dim, 2 * self.num_layers, self.attention != "none"
        scores = d if self.attention == "additive" else 3 if attends else 0  # numbers kept for each pair of tokens
        return Cost(
            hidden_dim=self.embedding_dim,
            body_params=self.num_params() - self._tables(),
            num_blocks=layers,
            attended=float(seq_length * d) if attends else 0.0,
            kept=layers * d * (3.0 * GATES[self.cell] + 6.0) + 6.0 * d,
            kept_float32=float(scores * seq_length),
            graph="recurrent",
        )


@MODELS.register("seq2seq", Seq2SeqConfig)
class Seq2Seq(TableOutput, EncoderDecoder):
    """Recurrent encoder-decoder (Sutskever et al. 2014), with attention (Bahdanau et al. 2015; Luong et al. 2015).

    m = bidirectional(W_e[source])                          the memory; Bahdanau et al. 2015, section 3.2
    h = recurrent(W_e[target]), begun with m's last states  Sutskever et al. 2014, eq. 1
    a_ts = softmax_s score(h_t, m_s);  c_t = sum_s a_ts m_s  Luong et al. 2015, eq. 7; `RecurrentAttention` has the scores
    g_t = tanh(W_c [c_t ; h_t]), tanh(W_c h_t) without attention  Luong et al. 2015, eq. 5
    p(next) = softmax(g_t W_o), W_o = W_e' when tied        Luong et al. 2015, eq. 6

    Args:
        config: a `Seq2SeqConfig`.

    Call: as `EncoderDecoder`. Features are g (B, T, E).

    Raises:
        Refusal: an alignment is asked for, but there is no attention.

    Example:
        >>> import numpy as np
        >>> import zoo
        >>> model = zoo.create("seq2seq", "tiny")
        >>> tuple(model({"source_ids": np.array([[5, 7, 2]]), "token_ids": np.array([[0, 9]])}).shape)
        (1, 2, 61)
    """

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        c, self.aligns = config, config.attention != "none"
        normal = keras.initializers.RandomNormal(stddev=c.embedding_dim**-0.5)
        self.embeddings = keras.layers.ReversibleEmbedding(
            c.vocab_size, c.embedding_dim, tie_weights=c.tie_embeddings, embeddings_initializer=normal, name="embeddings"
        )
        self.dropout = Dropout(c.dropout, name="dropout")
        layers = range(c.num_layers)
        self.encoder = [Bidirectional(c.hidden_dim // 2, c.cell, name=f"encoder_{i}") for i in layers]
        self.decoder = [Recurrent(c.hidden_dim, c.cell, name=f"decoder_{i}") for i in layers]
        self.attention = RecurrentAttention(c.attention, name="attention") if self.aligns else None
        width = c.hidden_dim * (2 if self.aligns else 1)
        self.combine = Linear(c.embedding_dim, use_bias=False, stddev=width**-0.5, name="combine")

    def build(self, input_shape=None):
        c = self.config
        self.embeddings.build()
        for stack in (self.encoder, self.decoder):
            for i, layer in enumerate(stack):
                layer.build((None, None, c.hidden_dim if i else c.embedding_dim))
        states = (None, None, c.hidden_dim)
        if self.attention is not None:
            self.attention.build(states, states)
        self.combine.build((None, None, c.hidden_dim * (2 if self.aligns else 1)))
        self.built = True

    def layers_by_depth(self):
        last = [layer for layer in (self.attention, self.combine) if layer is not None]
        return [[self.embeddings], *([layer] for layer in (*self.encoder, *self.decoder)), last]

    def encode(self, source_ids, source_mask=None, training=False):
        x_BSD, states = self.embeddings(source_ids), {}
        for i, layer in enumerate(self.encoder):
            x_BSD, last = layer(self.dropout(x_BSD, training=training), keep=source_mask)
            states |= {f"layer_{i}/{name}": value for name, value in zip(layer.state_names, last, strict=True)}
        return Memory(x_BSD, source_mask, states)

    def init_state(self, batch_size, max_length, memory=None):
        """The encoder's last states (B, D): `layer_i/h`, and `layer_i/c` for the LSTM. With attention also `memory/values` and
        `memory/keys` (B, S, D) and `source_mask` bool (B, S). `max_length` makes no difference."""
        if memory is None:
            raise Refusal(
                "An encoder-decoder begins with a source: init_state(batch_size, max_length, model.encode(source_ids))."
            )
        if self.attention is None:
            return dict(memory.states)
        mask = ops.ones(ops.shape(memory.values)[:2], "bool") if memory.mask is None else ops.convert_to_tensor(memory.mask)
        keys = self.attention.memory_keys(memory.values)
        return {**memory.states, "memory/values": memory.values, "memory/keys": keys, "source_mask": mask}

    def features(
        self, token_ids, state=None, *, memory=None, source_ids=None, source_mask=None, padding_mask=None, training=False
    ):  # fmt: skip
        before = state
        if state is None:
            memory = self.encode(source_ids, source_mask, training=training) if memory is None else memory
            before = self.init_state(*ops.shape(token_ids), memory)
        features, after, _ = self._decode(token_ids, before, padding_mask, training)
        return features, None if state is None else after

    def _decode(self, token_ids, state, padding_mask, training=False):
        """(features (B, T, E), the new state, weights on the source (B, T, S) or None)."""
        x_BTD, after, weights = self.embeddings(token_ids), dict(state), None
        for i, layer in enumerate(self.decoder):
            x_BTD = self.dropout(x_BTD, training=training)
            names = [f"layer_{i}/{name}" for name in layer.state_names]
            x_BTD, last = layer(x_BTD, tuple(state[name] for name in names), keep=padding_mask)
            after |= dict(zip(names, last, strict=True))
        if self.attention is not None:
            context, weights = self.attention(x_BTD, state["memory/keys"], state["memory/values"], state["source_mask"])
            after |= looked_at(state, ops.cast(weights, "float32"), padding_mask)
            x_BTD = ops.concatenate([context, x_BTD], axis=-1)
        return self.dropout(ops.tanh(self.combine(x_BTD)), training=training), after, weights

    def alignment(self, batch):
        """Who looked at whom: float32 (B, T, S), the weights of the attention."""
        if self.attention is None:
            raise Refusal("A seq2seq without attention has no alignment; train one with --set=attention=general.")
        inputs = self.taken(batch)
        memory = self.encode(inputs["source_ids"], inputs.get("source_mask"))
        state = self.init_state(*ops.shape(inputs["token_ids"]), memory)
        return self._decode(inputs["token_ids"], state, inputs.get("padding_mask"))[2]
