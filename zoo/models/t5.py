"""T5, the text-to-text transfer Transformer: an encoder-decoder whose attention knows distances and not positions.

What this model does, and by which field of its config T5 v1.0, v1.1 (flan, mT5) and umT5 differ:
  - attention adds a number for the distance of key and query, from a table of buckets, to the scores of self-attention; all
    layers of a stack share a table, or each has its own as in umT5 (`bias_per_layer`)
  - scores are not divided by sqrt(H): the initialisation of the queries does that once
  - RMS norms before the sublayers and behind each stack, and no bias anywhere
  - a two-layer network with relu as in v1.0, or with a gated gelu as in v1.1 (`activation`)
  - one table for source, target and output, where the last hidden states are divided by sqrt(D), as in v1.0, or a table of the
    output's own (`tie_embeddings`; files of others may have it otherwise, `scale_outputs`)
  - heads whose width does not follow from D (`head_dim`)

Dropout is on the embeddings, on what each sublayer adds, and on the output of each stack. The published program has it also on
the weights of attention and within the network.

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
from zoo.layers.positions import RelativeBias
from zoo.layers.transformer import MLP, TransformerBlock
from zoo.models.base import EncoderDecoder, Memory, TableOutput
from zoo.registry import MODELS

# Sizes as the published configurations have them: Raffel et al. 2020, section 3.7, and v1.1 (Shazeer 2020).
SIZE = ("num_layers", "num_heads", "hidden_dim", "mlp_dim", "head_dim")
VERSION_1_0 = {
    "small": (6, 8, 512, 2_048, 64), "base": (12, 12, 768, 3_072, 64), "large": (24, 16, 1_024, 4_096, 64),
    "3b": (24, 32, 1_024, 16_384, 128), "11b": (24, 128, 1_024, 65_536, 128),
}  # fmt: skip
VERSION_1_1 = {
    "small": (8, 6, 512, 1_024, 64), "base": (12, 12, 768, 2_048, 64), "large": (24, 16, 1_024, 2_816, 64),
    "xl": (24, 32, 2_048, 5_120, 64), "xxl": (24, 64, 4_096, 10_240, 64),
}  # fmt: skip


@dataclass(frozen=True)
class T5Config(Config):
    """Structure of a T5.

    `None` means: as many decoder layers as encoder layers, H = D / N, and that the last hidden states are divided by sqrt(D)
    where the tables are tied (`scale_outputs`). The defaults are those of version 1.1.
    """

    vocab_size: int = 8_192
    num_layers: int = 3
    num_decoder_layers: int | None = None
    num_heads: int = 4
    head_dim: int | None = None
    hidden_dim: int = 128
    mlp_dim: int = 352
    activation: str = "geglu"
    tie_embeddings: bool = False
    scale_outputs: bool | None = None
    num_buckets: int = 32
    max_distance: int = 128
    bias_per_layer: bool = False
    dropout: float = 0.0
    epsilon: float = 1e-6

    kind: ClassVar = "encoder_decoder"
    default_task: ClassVar = "span_corruption"
    recipe: ClassVar = dict(
        dataset="python_docs", tokenizer="bpe", vocab_size=4_096, seq_length=64, batch_size=32, steps=600,
        learning_rate=2e-2, optimizer="adafactor", schedule="inverse_sqrt", warmup_steps=100, weight_decay=0.0, clip_norm=1.0,
    )  # fmt: skip
    presets: ClassVar = {
        "tiny": dict(
            vocab_size=192, num_layers=2, num_heads=3, head_dim=5, hidden_dim=12, mlp_dim=22, num_buckets=8, max_distance=20
        ),
        "default": {},
        **{
            f"t5_{size}": dict(
                zip(SIZE, numbers, strict=True), vocab_size=32_128, activation="relu", tie_embeddings=True, dropout=0.1
            )
            for size, numbers in VERSION_1_0.items()
        },
        **{
            f"t5_v1_1_{size}": dict(zip(SIZE, numbers, strict=True), vocab_size=32_128) for size, numbers in VERSION_1_1.items()
        },
        **{
            f"flan_t5_{size}": dict(zip(SIZE, numbers, strict=True), vocab_size=32_128, dropout=0.1)
            for size, numbers in VERSION_1_1.items()
        },
        **{f"mt5_{size}": dict(zip(SIZE, numbers, strict=True), vocab_size=250_112) for size, numbers in VERSION_1_1.items()},
        **{
            f"umt5_{size}": dict(zip(SIZE, numbers, strict=True), vocab_size=256_384, bias_per_layer=True)
            for size, numbers in VERSION_1_1.items()
            if size != "large"
        },
    }
    preset_recipes: ClassVar = {"tiny": dict(seq_length=24, learning_rate=1e-2)}

    def validate(self):
        self.require_positive("vocab_size", "num_layers", "decoder_layers", "num_heads", "hidden_dim", "mlp_dim", "epsilon")
        self.require_rate("dropout")
        self.require(
            self.head_dim is not None or self.hidden_dim % self.num_heads == 0,
            f"hidden_dim {self.hidden_dim} is not a multiple of num_heads {self.num_heads}, and head_dim is not given.",
        )
        self.require(self.head_width > 0, f"head_dim must be positive, got {self.head_dim}.")
        known = (*PLAIN_ACTIVATIONS, *GATED_ACTIVATIONS)
        self.require(self.activation in known, f"activation must be one of {', '.join(known)}, got {self.activation!r}.")
        self.require(
            self.num_buckets >= 4 and self.num_buckets % 2 == 0 and self.max_distance > self.num_buckets // 2,
            f"num_buckets must be even and at least 4, and max_distance above its half, got {self.num_buckets} and "
            f"{self.max_distance}.",
        )

    @property
    def decoder_layers(self):
        return self.num_layers if self.num_decoder_layers is None else self.num_decoder_layers

    @property
    def head_width(self):
        return self.hidden_dim // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def mlp_width(self):
        return self.mlp_dim

    @property
    def outputs_scaled(self):
        return self.tie_embeddings if self.scale_outputs is None else self.scale_outputs

    def _tables(self):
        """Parameters of the tables of tokens."""
        return self.vocab_size * self.hidden_dim * (1 if self.tie_embeddings else 2)

    def num_params(self):
        """Number of parameters of the model."""
        d, f, layers = self.hidden_dim, self.mlp_dim, (self.num_layers, self.decoder_layers)
        attention = 4 * d * self.num_heads * self.head_width
        mlp = d * f * (3 if self.activation in GATED_ACTIVATIONS else 2)
        blocks = layers[0] * (attention + mlp + 2 * d) + layers[1] * (2 * attention + mlp + 3 * d)
        biases = self.num_buckets * self.num_heads * (sum(layers) if self.bias_per_layer else 2)
        return self._tables() + blocks + biases + 2 * d

    def cost(self, seq_length):
        layers, inner = self.num_layers + 2 * self.decoder_layers, self.num_heads * self.head_width
        scores, _, _ = attention_memory("plain", seq_length, self.num_heads)
        block = transformer_block_memory(self.hidden_dim, inner, self.mlp_dim, gated=self.activation in GATED_ACTIVATIONS)
        return Cost(
            hidden_dim=self.hidden_dim,
            body_params=self.num_params() - self._tables(),
            num_blocks=self.num_layers + self.decoder_layers,
            attended=layers * seq_length * inner,
            kept=(self.num_layers + 1.5 * self.decoder_layers) * block,
            kept_float32=layers * scores,
            faster_compiled=True,
        )


@MODELS.register("t5", T5Config)
class T5(TableOutput, EncoderDecoder):
    """Exploring the limits of transfer learning with a unified text-to-text Transformer (Raffel et al. 2020).

    e_0 = W[source];  e_l = block(e_{l-1}, bias(s - t));  d_0 = W[target];  d_l = block(d_{l-1}, norm(e_L), bias(s - t));
    p(next) = softmax(norm(d_L) W' / sqrt(D)), or softmax(norm(d_L) U) with a table of the output's own

    Args:
        config: a `T5Config`.

    Call: as `EncoderDecoder`. Features are the decoder's last hidden states (B, T, D), divided by sqrt(D) where the tables are
    tied.

    Ours -> paper: encoder_bias, decoder_bias -> section 2.1, "relative position embeddings". Weights are drawn as t5x draws
    them: with 1 / sqrt(inputs) for each matrix, queries with another 1 / sqrt(H), embeddings with 1.

    Example:
        >>> import numpy as np
        >>> import zoo
        >>> model = zoo.create("t5", "tiny")
        >>> tuple(model({"source_ids": np.array([[5, 7, 2]]), "token_ids": np.array([[0, 9]])}).shape)
        (1, 2, 192)
    """

    one_row_apart = True

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        c = config
        self.embeddings = keras.layers.ReversibleEmbedding(
            c.vocab_size, c.hidden_dim, tie_weights=c.tie_embeddings, embeddings_initializer=_drawn(c), name="embeddings"
        )
        self.dropout = Dropout(c.dropout, name="dropout") if c.dropout else None
        self.encoder_bias = self._biases("encoder_bias", c.num_layers, bidirectional=True)
        self.decoder_bias = self._biases("decoder_bias", c.decoder_layers, bidirectional=False)
        self.encoder = [self._block(f"encoder_{i}") for i in range(c.num_layers)]
        self.decoder = [self._block(f"decoder_{i}", cross=True) for i in range(c.decoder_layers)]
        self.encoder_norm = Norm("rms", c.epsilon, name="encoder_norm")
        self.decoder_norm = Norm("rms", c.epsilon, name="decoder_norm")

    def _biases(self, name, num_layers, bidirectional):
        c = self.config
        names = [f"{name}_{i}" for i in range(num_layers)] if c.bias_per_layer else [name]
        options = dict(bidirectional=bidirectional, stddev=c.hidden_dim**-0.5)
        return [RelativeBias(c.num_heads, c.num_buckets, c.max_distance, name=each, **options) for each in names]

    def _block(self, name, cross=False):
        c, d = self.config, self.config.hidden_dim

        def attention(name, **options):
            return Attention(
                c.num_heads, c.num_heads, c.head_width, use_bias=False, dropout=c.dropout, form="plain", scale=1.0,
                input_stddevs=((d * c.head_width) ** -0.5, d**-0.5), output_stddev=(c.num_heads * c.head_width) ** -0.5,
                name=name, **options,
            )  # fmt: skip

        mlp = MLP(
            c.mlp_dim, c.activation, use_bias=False, dropout=c.dropout, input_stddev=d**-0.5, output_stddev=c.mlp_dim**-0.5,
            name="mlp",
        )  # fmt: skip
        return TransformerBlock(
            attention("attention"), mlp, cross=attention("cross", cross=True) if cross else None,
            norm="rms", epsilon=c.epsilon, name=name,
        )  # fmt: skip

    def build(self, input_shape=None):
        shape = (None, None, self.config.hidden_dim)
        self.embeddings.build()
        for layer in (*self.encoder_bias, *self.decoder_bias):
            layer.build()
        for block in self.encoder:
            block.build(shape)
        for block in self.decoder:
            block.build(shape, shape)
        for norm in (self.encoder_norm, self.decoder_norm):
            norm.build(shape)
        self.built = True

    def layers_by_depth(self):
        blocks = [[block] for block in (*self.encoder, *self.decoder)]
        return [[self.embeddings, *self.encoder_bias, *self.decoder_bias], *blocks, [self.encoder_norm, self.decoder_norm]]

    def _dropped(self, x, training):
        return x if self.dropout is None else self.dropout(x, training=training)

    def _of_distance(self, layers, stack, query_positions, key_positions):
        """What each block of a stack adds to its scores."""
        biases = [layer(query_positions, key_positions) for layer in layers]
        return biases if self.config.bias_per_layer else biases * len(stack)

    def encode(self, source_ids, source_mask=None, training=False):
        positions = ops.arange(ops.shape(source_ids)[1])[None]
        x_BSD, rule = self._dropped(self.embeddings(source_ids), training), MaskRule(padding_mask=source_mask)
        biases = self._of_distance(self.encoder_bias, self.encoder, positions, positions)
        for block, bias in zip(self.encoder, biases, strict=True):
            x_BSD, _ = block(x_BSD, attention_mask=rule, bias=bias, training=training)
        return Memory(self._dropped(self.encoder_norm(x_BSD), training), source_mask)

    def init_state(self, batch_size, max_length, memory=None):
        """An empty cache (`init_cache`), and of the memory `cross_i/keys` and `cross_i/values` (B, N, S, H) and `source_mask`
        bool (B, S)."""
        c = self.config
        if memory is None:
            raise Refusal(
                "An encoder-decoder begins with a source: init_state(batch_size, max_length, model.encode(source_ids))."
            )
        state = init_cache(c.decoder_layers, batch_size, max_length, c.num_heads, c.head_width, self.compute_dtype)
        for i, block in enumerate(self.decoder):
            keys, values = block.cross.memory_keys_values(memory.values)
            state |= {f"cross_{i}/keys": keys, f"cross_{i}/values": values}
        mask = ops.ones(ops.shape(memory.values)[:2], "bool") if memory.mask is None else ops.convert_to_tensor(memory.mask)
        return {**state, "source_mask": mask}

    def room_left(self, state):
        return room_left(state)

    def _decoded(self, token_ids, piece, memories, source_mask, training, with_weights=False):
        """The decoder's last hidden states, and what each block returns beside its own.

        Args:
            token_ids: int32 (B, T).
            piece: where they stand, from `place`.
            memories: what each block looks at.
            source_mask: bool (B, S) or None.
            training: whether dropout is on.
            with_weights: whether blocks return how they looked at the source.
        """
        x_BTD, rest, seen = self._dropped(self.embeddings(token_ids), training), [], MaskRule(padding_mask=source_mask)
        biases = self._of_distance(self.decoder_bias, self.decoder, piece.positions, piece.key_positions())
        for i, (block, bias, memory) in enumerate(zip(self.decoder, biases, memories, strict=True)):
            x_BTD, *others = block(
                x_BTD, memory=memory, attention_mask=piece.rule, bias=bias, cache=piece.cache(i), cross_mask=seen,
                with_weights=with_weights, training=training,
            )  # fmt: skip
            rest.append(others)
        x_BTD = self._dropped(self.decoder_norm(x_BTD), training)
        return x_BTD * self.config.hidden_dim**-0.5 if self.config.outputs_scaled else x_BTD, rest

    def features(
        self, token_ids, state=None, *, memory=None, source_ids=None, source_mask=None, padding_mask=None, training=False
    ):  # fmt: skip
        piece = place(token_ids, state, padding_mask)
        if state is None:
            memory = self.encode(source_ids, source_mask, training=training) if memory is None else memory
            return self._decoded(token_ids, piece, [memory.values] * len(self.decoder), memory.mask, training)[0], None
        kept = {name: state[name] for name in state if name.startswith("cross_") or name == "source_mask"}
        memories = [(state[f"cross_{i}/keys"], state[f"cross_{i}/values"]) for i in range(len(self.decoder))]
        counted = "coverage" in state
        x_BTD, rest = self._decoded(token_ids, piece, memories, state["source_mask"], training, with_weights=counted)
        caches = {f"layer_{i}/{name}": others[0][name] for i, others in enumerate(rest) for name in ("keys", "values")}
        coverage = looked_at(state, _mean_over_heads(rest[-1][1]), padding_mask) if counted else {}
        return x_BTD, {**piece.state, **caches, **kept, **coverage}

    def alignment(self, batch):
        """Who looked at whom: float32 (B, T, S), the mean over the heads of the last decoder layer's weights on the source."""
        inputs = self.taken(batch)
        memory = self.encode(inputs["source_ids"], inputs.get("source_mask"))
        piece, memories = place(inputs["token_ids"], None, inputs.get("padding_mask")), [memory.values] * len(self.decoder)
        _, rest = self._decoded(inputs["token_ids"], piece, memories, memory.mask, False, with_weights=True)
        return _mean_over_heads(rest[-1][1])


def _mean_over_heads(weights_BNTS):
    return ops.mean(ops.cast(weights_BNTS, "float32"), axis=1)


def _drawn(config):
    """An initialiser: 1 for the table of embeddings (V, D), 1 / sqrt(D) for that of the output (D, V)."""
    rows, columns = (keras.initializers.RandomNormal(stddev=stddev) for stddev in (1.0, config.hidden_dim**-0.5))
    return lambda shape, dtype=None: (rows if shape[0] == config.vocab_size else columns)(shape, dtype=dtype)
