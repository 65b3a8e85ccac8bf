"""The Transformer: an encoder reads a source, a decoder writes a target and looks at what the encoder made of it.

What this model does, by field of its config:
  - one table of tokens for source, target and output (`tie_embeddings`), multiplied by sqrt(D) where tokens are looked up
    (`scale_embeddings`); or a table of its own for a source with a vocabulary of its own (`source_vocab_size`)
  - sinusoidal positions, sines and cosines side by side, in two halves, or as OpenNMT has them (`position`), or rotary ones
  - layer or RMS normalisation (`norm`), after the sublayers as in 2017 or before them (`norm_first`)
  - a two-layer network with relu, or another activation (`activation`)
  - a bias for each token on the logits (`output_bias`), as Marian has it

Shape letters: B batch, T target positions, S source positions, V vocabulary, D hidden, N heads, H head width, F mlp width.
"""

from dataclasses import dataclass
from typing import ClassVar

import keras
from keras import ops

from zoo.config import Config, Cost, Refusal
from zoo.layers.attention import Attention
from zoo.layers.cache import init_cache, place, room_left
from zoo.layers.coverage import looked_at
from zoo.layers.dropout import Dropout
from zoo.layers.forms import GATED_ACTIVATIONS, PLAIN_ACTIVATIONS, attention_memory, transformer_block_memory
from zoo.layers.masks import MaskRule
from zoo.layers.norms import Norm
from zoo.layers.positions import SinusoidalPositions, rotary_angles
from zoo.layers.transformer import MLP, TransformerBlock
from zoo.models.base import EncoderDecoder, Memory, TableOutput
from zoo.registry import MODELS

POSITIONS = ("sinusoidal", "sinusoidal_halves", "sinusoidal_opennmt", "rotary")


@dataclass(frozen=True)
class TransformerConfig(Config):
    """Structure of a Transformer. `None` for a number means: the source has the vocabulary and the table of the target, as many
    decoder layers as encoder layers, F = 4 D."""

    vocab_size: int = 8_192
    source_vocab_size: int | None = None
    max_length: int = 128
    num_layers: int = 3
    num_decoder_layers: int | None = None
    num_heads: int = 4
    hidden_dim: int = 128
    mlp_dim: int | None = None
    position: str = "sinusoidal"
    norm: str = "layer"
    norm_first: bool = False
    activation: str = "relu"
    use_bias: bool = True
    tie_embeddings: bool = True
    scale_embeddings: bool = True
    output_bias: bool = False
    dropout: float = 0.1
    epsilon: float = 1e-6

    kind: ClassVar = "encoder_decoder"
    default_task: ClassVar = "translation"
    recipe: ClassVar = dict(
        dataset="cldr/en-fr", tokenizer="bpe", vocab_size=4_096, seq_length=48, batch_size=64, steps=800,
        learning_rate=1e-2, optimizer="muon", schedule="cosine", warmup_steps=50, weight_decay=0.0, clip_norm=1.0,
        label_smoothing=0.1,
    )  # fmt: skip
    presets: ClassVar = {
        "tiny": dict(vocab_size=61, max_length=16, num_layers=2, num_heads=2, hidden_dim=12, dropout=0.0),
        "default": dict(norm_first=True),
        # Small data: 4 + 4 layers of width 128 (Wu et al. 2021, "Good for misconceived reasons", section 4). Their dropout is
        # 0.3 for 80 epochs; the recipe below takes 14.
        "multi30k": dict(num_layers=4, num_heads=4, hidden_dim=128, mlp_dim=256, dropout=0.2, norm_first=True),
        # fairseq's recipe for IWSLT'14.
        "iwslt": dict(
            vocab_size=10_000, max_length=1_024, num_layers=6, num_heads=4, hidden_dim=512, mlp_dim=1_024, dropout=0.3
        ),
        # Vaswani et al. 2017, table 3.
        "transformer_base": dict(vocab_size=37_000, max_length=1_024, num_layers=6, num_heads=8, hidden_dim=512),
        "transformer_big": dict(
            vocab_size=37_000, max_length=1_024, num_layers=6, num_heads=16, hidden_dim=1_024, dropout=0.3
        ),
        # Junczys-Dowmunt et al. 2018, as the OPUS-MT models have it.
        "marian_base": dict(
            vocab_size=58_101, max_length=512, num_layers=6, num_heads=8, hidden_dim=512, position="sinusoidal_halves",
            activation="silu", output_bias=True, epsilon=1e-5,
        ),
        "modern": dict(position="rotary", norm="rms", norm_first=True, activation="swiglu", use_bias=False, mlp_dim=352),
    }  # fmt: skip
    preset_recipes: ClassVar = {
        "tiny": dict(seq_length=16),
        "default": dict(learning_rate=5e-3),
        # Its texts are tokens already, with spaces between them.
        "multi30k": dict(
            vocab_size=10_000, seq_length=64, steps=1_500, eval_every=750,
            set=("bleu_tokenize=none", "batch_tokens=4096", "judged_beams=5"),
        ),
        **dict.fromkeys(("iwslt", "transformer_base", "transformer_big", "marian_base"), dict(
            optimizer="adamw", learning_rate=5e-4, schedule="inverse_sqrt", warmup_steps=4_000, steps=100_000,
        )),
    }  # fmt: skip

    def validate(self):
        self.require_positive("vocab_size", "max_length", "num_layers", "decoder_layers", "num_heads", "hidden_dim", "epsilon")
        self.require_rate("dropout")
        own = self.source_vocab_size
        self.require(own is None or own > 0, f"source_vocab_size must be positive, got {own}.")
        self.require(
            self.hidden_dim % self.num_heads == 0,
            f"hidden_dim {self.hidden_dim} is not a multiple of num_heads {self.num_heads}.",
        )
        self.require(self.mlp_width > 0, f"mlp_dim must be positive, got {self.mlp_dim}.")
        self.require(self.position in POSITIONS, f"position must be one of {', '.join(POSITIONS)}, got {self.position!r}.")
        known = (*PLAIN_ACTIVATIONS, *GATED_ACTIVATIONS)
        self.require(self.activation in known, f"activation must be one of {', '.join(known)}, got {self.activation!r}.")
        self.require(self.norm in ("layer", "rms"), f"norm must be layer or rms, got {self.norm!r}.")
        even = self.position != "rotary" or self.head_width % 2 == 0
        self.require(even, f"rotary positions turn pairs, so the head width must be even, got {self.head_width}.")

    @property
    def decoder_layers(self):
        return self.num_layers if self.num_decoder_layers is None else self.num_decoder_layers

    @property
    def mlp_width(self):
        return 4 * self.hidden_dim if self.mlp_dim is None else self.mlp_dim

    @property
    def head_width(self):
        return self.hidden_dim // self.num_heads

    @property
    def table_params(self):
        """Parameters of the tables of tokens."""
        return ((1 if self.tie_embeddings else 2) * self.vocab_size + (self.source_vocab_size or 0)) * self.hidden_dim

    def _block_params(self):
        """(parameters of an encoder block, those that a decoder block has besides)."""
        d, f, bias = self.hidden_dim, self.mlp_width, int(self.use_bias)
        expanded = 2 * f if self.activation in GATED_ACTIVATIONS else f
        norm = 2 * d if self.norm == "layer" else d
        attention = 4 * d * d + 4 * d * bias
        return attention + d * expanded + f * d + bias * (expanded + d) + 2 * norm, attention + norm

    def num_params(self):
        """Number of parameters of the model."""
        block, cross = self._block_params()
        norm = (2 if self.norm == "layer" else 1) * self.hidden_dim
        blocks = self.num_layers * block + self.decoder_layers * (block + cross)
        return self.table_params + blocks + (2 * norm if self.norm_first else 0) + (self.vocab_size if self.output_bias else 0)

    def cost(self, seq_length):
        d, layers = self.hidden_dim, self.num_layers + 2 * self.decoder_layers
        scores, _, _ = attention_memory("plain", seq_length, self.num_heads)
        block = transformer_block_memory(d, d, self.mlp_width, gated=self.activation in GATED_ACTIVATIONS)
        tables = self.table_params + (self.vocab_size if self.output_bias else 0)
        return Cost(
            hidden_dim=d,
            body_params=self.num_params() - tables,
            num_blocks=self.num_layers + self.decoder_layers,
            attended=layers * seq_length * d,
            kept=(self.num_layers + 1.5 * self.decoder_layers) * block,
            kept_float32=layers * scores,
            faster_compiled=True,
        )


@MODELS.register("transformer", TransformerConfig)
class Transformer(TableOutput, EncoderDecoder):
    """Attention is all you need (Vaswani et al. 2017).

    e_0 = sqrt(D) W[source] + p;  e_l = block(e_{l-1});  d_0 = sqrt(D) W[target] + p;  d_l = block(d_{l-1}, e_L);
    p(next) = softmax(d_L W')

    Args:
        config: a `TransformerConfig`.

    Call: as `EncoderDecoder`. Features are the decoder's last hidden states (B, T, D).

    Raises:
        Refusal: S or T is known and above `max_length`.

    Ours -> paper: embeddings -> the shared matrix of section 3.4; encoder_i, decoder_i -> the layers of figure 1.

    Example:
        >>> import numpy as np
        >>> import zoo
        >>> model = zoo.create("transformer", "tiny")
        >>> tuple(model({"source_ids": np.array([[5, 7, 2]]), "token_ids": np.array([[0, 9]])}).shape)
        (1, 2, 61)
    """

    one_row_apart = True

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        c, self.max_length = config, config.max_length
        normal = keras.initializers.RandomNormal(stddev=c.hidden_dim**-0.5)
        self.embeddings = keras.layers.ReversibleEmbedding(
            c.vocab_size, c.hidden_dim, tie_weights=c.tie_embeddings, embeddings_initializer=normal, name="embeddings"
        )
        self.source_embeddings = self.embeddings
        if c.source_vocab_size is not None:
            self.source_embeddings = keras.layers.Embedding(
                c.source_vocab_size, c.hidden_dim, embeddings_initializer=normal.clone(), name="source_embeddings"
            )
        self.positions = None
        if c.position != "rotary":
            self.positions = SinusoidalPositions(
                c.hidden_dim, c.position == "sinusoidal", c.position == "sinusoidal_opennmt", name="positions"
            )
        self.dropout = Dropout(c.dropout, name="dropout") if c.dropout else None
        self.encoder = [self._block(f"encoder_{i}") for i in range(c.num_layers)]
        self.decoder = [self._block(f"decoder_{i}", cross=True) for i in range(c.decoder_layers)]
        self.encoder_norm = Norm(c.norm, c.epsilon, name="encoder_norm") if c.norm_first else None
        self.decoder_norm = Norm(c.norm, c.epsilon, name="decoder_norm") if c.norm_first else None

    def _block(self, name, cross=False):
        c = self.config

        def attention(name, **options):
            return Attention(
                c.num_heads,
                c.num_heads,
                c.head_width,
                use_bias=c.use_bias,
                dropout=c.dropout,
                form="plain",
                name=name,
                **options,
            )

        mlp = MLP(c.mlp_width, c.activation, use_bias=c.use_bias, dropout=c.dropout, name="mlp")
        return TransformerBlock(
            attention("attention"), mlp, cross=attention("cross", cross=True) if cross else None,
            norm=c.norm, norm_first=c.norm_first, epsilon=c.epsilon, name=name,
        )  # fmt: skip

    def build(self, input_shape=None):
        shape = (None, None, self.config.hidden_dim)
        self.embeddings.build()
        if self.source_embeddings is not self.embeddings:
            self.source_embeddings.build()
        for block in self.encoder:
            block.build(shape)
        for block in self.decoder:
            block.build(shape, shape)
        for norm in (self.encoder_norm, self.decoder_norm):
            if norm is not None:
                norm.build(shape)
        if self.config.output_bias:
            self.output_bias = self.add_weight(shape=(self.config.vocab_size,), initializer="zeros", name="output_bias")
        self.built = True

    def layers_by_depth(self):
        blocks = [[block] for block in (*self.encoder, *self.decoder)]
        tables = [self.embeddings] if self.config.source_vocab_size is None else [self.embeddings, self.source_embeddings]
        return [tables, *blocks, [norm for norm in (self.encoder_norm, self.decoder_norm) if norm is not None]]

    def _embed(self, token_ids, positions, training, table=None):
        length = token_ids.shape[1]
        if length is not None and length > self.max_length:
            raise Refusal(f"{length} tokens are more than this model's max_length of {self.max_length}.")
        x = (self.embeddings if table is None else table)(token_ids)
        if self.config.scale_embeddings:
            x = x * self.config.hidden_dim**0.5
        if self.positions is not None:
            x = x + self.positions(positions)
        return x if self.dropout is None else self.dropout(x, training=training)

    def _angles(self, positions):
        return rotary_angles(positions, self.config.head_width, 10_000.0) if self.positions is None else None

    def token_vectors(self):
        return self.source_embeddings, "call"

    def encode(self, source_ids, source_mask=None, training=False):
        positions = ops.arange(ops.shape(source_ids)[1])[None]
        x_BSD = self._embed(source_ids, positions, training, self.source_embeddings)
        angles = self._angles(positions)
        rule = MaskRule(padding_mask=source_mask)
        for block in self.encoder:
            x_BSD, _ = block(x_BSD, attention_mask=rule, angles=angles, training=training)
        return Memory(x_BSD if self.encoder_norm is None else self.encoder_norm(x_BSD), source_mask)

    def init_state(self, batch_size, max_length, memory=None):
        """An empty cache (`init_cache`), and of the memory `cross_i/keys` and `cross_i/values` (B, N, S, H) and `source_mask`
        bool (B, S)."""
        c = self.config
        state = init_cache(c.decoder_layers, batch_size, max_length, c.num_heads, c.head_width, self.compute_dtype)
        if memory is None:
            raise Refusal(
                "An encoder-decoder begins with a source: init_state(batch_size, max_length, model.encode(source_ids))."
            )
        for i, block in enumerate(self.decoder):
            keys, values = block.cross.memory_keys_values(memory.values)
            state |= {f"cross_{i}/keys": keys, f"cross_{i}/values": values}
        mask = ops.ones(ops.shape(memory.values)[:2], "bool") if memory.mask is None else ops.convert_to_tensor(memory.mask)
        return {**state, "source_mask": mask}

    def room_left(self, state):
        return room_left(state)

    def features(
        self, token_ids, state=None, *, memory=None, source_ids=None, source_mask=None, padding_mask=None, training=False
    ):  # fmt: skip
        if state is None and memory is None:
            memory = self.encode(source_ids, source_mask, training=training)
        piece = place(token_ids, state, padding_mask)
        positions = piece.positions if state is None else ops.minimum(piece.positions, self.max_length - 1)
        x_BTD, angles = self._embed(token_ids, positions, training), self._angles(positions)
        seen = MaskRule(padding_mask=memory.mask if state is None else state["source_mask"])
        new_state = piece.state
        for i, block in enumerate(self.decoder):
            source = memory.values if state is None else (state[f"cross_{i}/keys"], state[f"cross_{i}/values"])
            counted = state is not None and "coverage" in state and block is self.decoder[-1]
            x_BTD, cache, *weights = block(
                x_BTD, memory=source, attention_mask=piece.rule, angles=angles, cache=piece.cache(i), cross_mask=seen,
                with_weights=counted, training=training,
            )  # fmt: skip
            if counted:
                new_state |= looked_at(state, _mean_over_heads(weights[0]), padding_mask)
            if state is not None:
                new_state |= {f"layer_{i}/keys": cache["keys"], f"layer_{i}/values": cache["values"]}
                new_state |= {name: state[name] for name in (f"cross_{i}/keys", f"cross_{i}/values")}
        if state is not None:
            new_state["source_mask"] = state["source_mask"]
        return (x_BTD if self.decoder_norm is None else self.decoder_norm(x_BTD)), new_state

    def alignment(self, batch):
        """Who looked at whom: float32 (B, T, S), the mean over the heads of the last decoder layer's weights on the source."""
        inputs = self.taken(batch)
        memory = self.encode(inputs["source_ids"], inputs.get("source_mask"))
        piece = place(inputs["token_ids"], None, inputs.get("padding_mask"))
        x_BTD, angles = self._embed(inputs["token_ids"], piece.positions, False), self._angles(piece.positions)
        seen = MaskRule(padding_mask=memory.mask)
        for block in self.decoder:
            x_BTD, _, weights_BNTS = block(
                x_BTD, memory=memory.values, attention_mask=piece.rule, angles=angles, cross_mask=seen, with_weights=True
            )
        return _mean_over_heads(weights_BNTS)


def _mean_over_heads(weights_BNTS):
    return ops.mean(ops.cast(weights_BNTS, "float32"), axis=1)
