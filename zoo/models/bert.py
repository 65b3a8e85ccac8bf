"""BERT: a stack of Transformer blocks whose positions all see each other. One file from BERT and RoBERTa to ModernBERT.

What sets the families apart is data:
  - RoBERTa and XLM-R have no second part of a pair (`num_segments` 1) and count positions from 2 (`position_offset`: their
    tables keep the rows 0 and 1 for padding)
  - the norms' `epsilon`; whether a `pooler` stands on the first token
  - vocabularies and sizes
  - ModernBERT (`modern`): rotary positions and no tables of positions or parts, norms before the sublayers and one at the end,
    the first of them behind the embeddings, no biases, a gated network. In most layers a token sees its neighbours alone
    (`window`), in every `global_every`-th, from the first on, all of the text.

Shape letters: B batch, T positions, D hidden, N heads, F mlp width, S segments.
"""

from dataclasses import dataclass
from typing import ClassVar

import keras
from keras import ops

from zoo.config import Config, Cost, Refusal
from zoo.layers.attention import Attention
from zoo.layers.dropout import Dropout
from zoo.layers.forms import attention_memory, transformer_block_memory
from zoo.layers.linear import Linear
from zoo.layers.masks import MaskRule, padding_keys
from zoo.layers.norms import Norm
from zoo.layers.positions import LearnedPositions, rotary_angles
from zoo.layers.transformer import MLP, TransformerBlock
from zoo.models.base import Encoder
from zoo.registry import MODELS

PUBLISHED = dict(max_length=512, pooler=True)
UNCASED = dict(**PUBLISHED, vocab_size=30_522)
ROBERTA = dict(**PUBLISHED, vocab_size=50_265, num_segments=1, position_offset=2, epsilon=1e-5)
XLM_ROBERTA = {**ROBERTA, "vocab_size": 250_002}
BASE = dict(num_layers=12, num_heads=12, hidden_dim=768)
LARGE = dict(num_layers=24, num_heads=16, hidden_dim=1_024)
MINILM = dict(**UNCASED, num_heads=12, hidden_dim=384)
MODERN = dict(
    modern=True, num_segments=1, activation="geglu_exact", epsilon=1e-5, window=64, global_every=3, rotary_theta=160_000.0,
    window_theta=10_000.0, dropout=0.0,
)  # fmt: skip
MODERNBERT = dict(**MODERN, vocab_size=50_368, max_length=8_192)
# What a head's activation is called in a gated network.
UNGATED = {"geglu": "gelu", "geglu_exact": "gelu_exact"}


@dataclass(frozen=True)
class BERTConfig(Config):
    """Structure of an encoder. `mlp_dim` None means 4 D; `from_sinusoids`: learned positions begin as those, near ones alike.

    Fields of ModernBERT:
        modern: its block and positions, see above. A table of parts is there only where `num_segments` is above 1.
        window: how many tokens to each side a token sees; None: all.
        global_every: every so many-th layer, the first among them, has no window.
        rotary_theta, window_theta: base of the wavelengths in layers without and with a window.
    """

    vocab_size: int = 8_192
    max_length: int = 128
    num_layers: int = 4
    num_heads: int = 4
    hidden_dim: int = 128
    mlp_dim: int | None = None
    num_segments: int = 2
    position_offset: int = 0
    activation: str = "gelu_exact"
    pooler: bool = False
    from_sinusoids: bool = False
    dropout: float = 0.1
    epsilon: float = 1e-12
    modern: bool = False
    window: int | None = None
    global_every: int = 1
    rotary_theta: float = 10_000.0
    window_theta: float = 10_000.0

    kind: ClassVar = "encoder"
    default_task: ClassVar = "masked_lm"
    recipe: ClassVar = dict(
        dataset="python_docs", tokenizer="wordpiece", vocab_size=8_192, seq_length=128, batch_size=16, steps=1_500,
        learning_rate=1e-3, optimizer="adamw", schedule="linear", warmup_steps=100, weight_decay=0.01, clip_norm=1.0,
    )  # fmt: skip
    task_recipes: ClassVar = {"tagging": dict(learning_rate=3e-3)}
    presets: ClassVar = {
        "tiny": dict(vocab_size=61, max_length=16, num_layers=2, num_heads=2, hidden_dim=12, dropout=0.0),
        "default": dict(dropout=0.0, from_sinusoids=True),  # two megabytes of text are seen a few times only
        # Devlin et al. 2019, section 3; the sizes below base: Turc et al. 2019, table 1.
        "bert_tiny_uncased": dict(**UNCASED, num_layers=2, num_heads=2, hidden_dim=128),
        "bert_mini_uncased": dict(**UNCASED, num_layers=4, num_heads=4, hidden_dim=256),
        "bert_small_uncased": dict(**UNCASED, num_layers=4, num_heads=8, hidden_dim=512),
        "bert_medium_uncased": dict(**UNCASED, num_layers=8, num_heads=8, hidden_dim=512),
        "bert_base_uncased": dict(**UNCASED, **BASE),
        "bert_large_uncased": dict(**UNCASED, **LARGE),
        "bert_base_cased": dict(**PUBLISHED, **BASE, vocab_size=28_996),
        "bert_large_cased": dict(**PUBLISHED, **LARGE, vocab_size=28_996),
        "bert_base_multilingual_cased": dict(**PUBLISHED, **BASE, vocab_size=119_547),
        "bert_base_chinese": dict(**PUBLISHED, **BASE, vocab_size=21_128),
        # Liu et al. 2019; Conneau et al. 2020; Wang et al. 2020.
        "roberta_base": dict(**ROBERTA, **BASE),
        "roberta_large": dict(**ROBERTA, **LARGE),
        "xlm_roberta_base": dict(**XLM_ROBERTA, **BASE),
        "xlm_roberta_large": dict(**XLM_ROBERTA, **LARGE),
        "minilm_l6": dict(**MINILM, num_layers=6),
        "minilm_l12": dict(**MINILM, num_layers=12),
        # Warner et al. 2024, table 4.
        "modernbert_base": dict(**MODERNBERT, num_layers=22, num_heads=12, hidden_dim=768, mlp_dim=1_152),
        "modernbert_large": dict(**MODERNBERT, num_layers=28, num_heads=16, hidden_dim=1_024, mlp_dim=2_624),
    }
    preset_recipes: ClassVar = {"tiny": dict(seq_length=16)}

    def validate(self):
        self.require_positive("vocab_size", "max_length", "num_layers", "num_heads", "hidden_dim", "num_segments", "epsilon")
        self.require_rate("dropout")
        self.require(
            self.hidden_dim % self.num_heads == 0,
            f"hidden_dim {self.hidden_dim} is not a multiple of num_heads {self.num_heads}.",
        )
        self.require(self.mlp_width > 0, f"mlp_dim must be positive, got {self.mlp_dim}.")
        self.require(self.position_offset >= 0, f"position_offset must not be negative, got {self.position_offset}.")
        known = tuple(UNGATED) if self.modern else tuple(UNGATED.values())
        self.require(self.activation in known, f"activation must be {' or '.join(known)}, got {self.activation!r}.")
        self.require_positive("global_every", "rotary_theta", "window_theta")
        if not self.modern:
            self.require(self.window is None, f"a window is for modern=true, got window {self.window}.")
            return
        self.require(self.window is None or self.window > 0, f"window must be positive, got {self.window}.")
        head_dim = self.hidden_dim // self.num_heads
        self.require(head_dim % 2 == 0, f"rotary positions turn pairs, so a head's width must be even, got {head_dim}.")
        for name, value, usual in (
            ("position_offset", self.position_offset, 0),
            ("from_sinusoids", self.from_sinusoids, False),
        ):
            self.require(value == usual, f"{name} is for a table of positions, which modern=true has not.")

    @property
    def mlp_width(self):
        return 4 * self.hidden_dim if self.mlp_dim is None else self.mlp_dim

    def num_params(self):
        """Number of parameters of the encoder, without any task's head."""
        d, f = self.hidden_dim, self.mlp_width
        pooler = d * d + d if self.pooler else 0
        if self.modern:
            norms = 2 * self.num_layers + 1  # of the embeddings, at the end, before all but the first of the sublayers
            return self._tables() + self._segments() + self.num_layers * (4 * d * d + 3 * d * f) + norms * d + pooler
        embeddings = (self.vocab_size + self.max_length + self.position_offset + self.num_segments) * d + 2 * d
        block = d * (3 * d) + 3 * d + d * d + d + 2 * d * f + f + d + 4 * d
        return embeddings + self.num_layers * block + pooler

    def window_of(self, i):
        """The window of layer i, or None."""
        return None if i % self.global_every == 0 else self.window

    def _tables(self):
        """Parameters of the tables of tokens and positions."""
        positions = 0 if self.modern else self.max_length + self.position_offset
        return (self.vocab_size + positions) * self.hidden_dim

    def _segments(self):
        """Parameters of the table of parts."""
        return 0 if self.modern and self.num_segments == 1 else self.num_segments * self.hidden_dim

    def cost(self, seq_length):
        d, f, layers = self.hidden_dim, self.mlp_width, self.num_layers
        tables, gated = self._tables(), self.modern
        seen = sum(min(seq_length, 2 * (self.window_of(i) or seq_length) + 1) for i in range(layers))
        scores, uncompiled, parts = attention_memory("plain", seq_length, self.num_heads, causal=False)
        return Cost(
            hidden_dim=d,
            body_params=self.num_params() - tables - (d * (d + 1) if self.pooler else 0),  # of one position a row, if any
            num_blocks=layers,
            attended=seen * d,
            adapted=layers * ((d + 3 * d) + (d + d) + (d + (2 if gated else 1) * f) + (d + f)),
            kept=layers * transformer_block_memory(d, d, f, gated=gated),
            kept_float32=layers * scores,
            kept_uncompiled=layers * uncompiled,
            parts=parts,
        )


@MODELS.register("bert", BERTConfig)
class BERT(Encoder):
    """Bidirectional encoder representations from Transformers (Devlin et al. 2019; as RoBERTa, Liu et al. 2019).

    h_0 = norm(W_e[tokens] + W_p + W_s[segments]);  h_l = block(h_{l-1})

    Args:
        config: a `BERTConfig`.

    Call: as `Encoder`, float (B, T, D).

    Raises:
        Refusal: if T is known and above `max_length`.

    Ours -> paper: embeddings, positions, segments -> the three embeddings of figure 2; `pool` -> C.

    Example:
        >>> import numpy as np
        >>> import zoo
        >>> model = zoo.create("bert", "tiny")
        >>> tuple(model(np.array([[3, 5, 7]])).shape)
        (1, 3, 12)
    """

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        self.max_length = config.max_length
        normal = keras.initializers.TruncatedNormal(stddev=0.02)
        self.embeddings = keras.layers.Embedding(
            config.vocab_size, config.hidden_dim, embeddings_initializer=normal, name="embeddings"
        )
        num_positions = config.max_length + config.position_offset
        self.positions = self.segments = self.final_norm = None
        if not config.modern:
            self.positions = LearnedPositions(num_positions, config.hidden_dim, config.from_sinusoids, name="positions")
        if not config.modern or config.num_segments > 1:
            self.segments = LearnedPositions(config.num_segments, config.hidden_dim, name="segments")
        self.embedding_norm = Norm(self._norm, config.epsilon, name="embedding_norm")
        self.dropout = Dropout(config.dropout, name="dropout") if config.dropout else None
        self.blocks = [self._block(i) for i in range(config.num_layers)]
        if config.modern:
            self.final_norm = Norm(self._norm, config.epsilon, name="final_norm")
        self.pooler = Linear(config.hidden_dim, name="pooler") if config.pooler else None

    @property
    def _norm(self):
        return "layer_gain" if self.config.modern else "layer"

    def _block(self, i):
        c = self.config
        attention = Attention(
            c.num_heads, c.num_heads, c.hidden_dim // c.num_heads, use_bias=not c.modern, dropout=c.dropout, name="attention"
        )
        mlp = MLP(c.mlp_width, c.activation, use_bias=not c.modern, dropout=c.dropout, name="mlp")
        return TransformerBlock(
            attention, mlp, norm=self._norm, norm_first=c.modern, norm_inputs="mlp" if c.modern and i == 0 else True,
            epsilon=c.epsilon, name=f"block_{i}",
        )  # fmt: skip

    def build(self, input_shape=None):
        shape = (None, None, self.config.hidden_dim)
        for layer in (self.embeddings, self.positions, self.segments):
            if layer is not None:
                layer.build()
        for layer in (self.embedding_norm, *self.blocks):
            layer.build(shape)
        if self.final_norm is not None:
            self.final_norm.build(shape)
        if self.pooler is not None:
            self.pooler.build((None, self.config.hidden_dim))
        self.built = True

    def layers_by_depth(self):
        first = [self.embeddings, self.positions, self.segments, self.embedding_norm]
        last = [self.final_norm, self.pooler]
        first, last = ([layer for layer in layers if layer is not None] for layers in (first, last))
        return [first, *([block] for block in self.blocks), last]

    @property
    def head_activation(self):
        return UNGATED.get(self.config.activation, self.config.activation)

    @property
    def head_bias(self):
        return not self.config.modern

    @property
    def head_epsilon(self):
        return self.config.epsilon

    def hidden(self, batch, training=False):
        inputs = self.taken(batch)
        token_ids, padding_mask = inputs["token_ids"], inputs.get("padding_mask")
        length = token_ids.shape[1]
        if length is not None and length > self.max_length:
            raise Refusal(f"{length} tokens are more than this model's max_length of {self.max_length}.")
        positions_1T = ops.arange(ops.shape(token_ids)[1])[None] + self.config.position_offset
        x_BTD = self.embeddings(token_ids)
        if self.positions is not None:
            x_BTD = x_BTD + self.positions(positions_1T)
        if self.segments is not None:
            x_BTD = x_BTD + self._segments(inputs.get("segment_ids"))
        x_BTD = self.embedding_norm(x_BTD)
        if self.dropout is not None:
            x_BTD = self.dropout(x_BTD, training=training)
        masks, angles = self._masks(token_ids, padding_mask), self._angles(positions_1T)
        for i, block in enumerate(self.blocks):
            window = self.config.window_of(i)
            x_BTD, _ = block(x_BTD, attention_mask=masks[window], angles=angles[window], training=training)
        return x_BTD if self.final_norm is None else self.final_norm(x_BTD)

    def _masks(self, token_ids, padding_mask):
        """Window, or None -> the mask of the layers that have it: bool (B or 1, T or 1, T), or None."""
        masks = {None: None if padding_mask is None else padding_keys(padding_mask)}
        if self.config.window is not None:
            length = ops.shape(token_ids)[1]
            masks[self.config.window] = MaskRule(padding_mask=padding_mask, window=self.config.window + 1).whole(length, length)
        return masks

    def _angles(self, positions_1T):
        """Window, or None -> the angles of the layers that have it, or None."""
        c = self.config
        if not c.modern:
            return {None: None}
        width = c.hidden_dim // c.num_heads
        local = rotary_angles(positions_1T, width, c.window_theta)
        return {c.window: local, None: rotary_angles(positions_1T, width, c.rotary_theta)}

    def _segments(self, segment_ids):
        """The vectors of the parts, by a product with one-hot rows: a gradient into so few rows is a sum over all positions."""
        table_SD = ops.cast(self.segments.embeddings, self.compute_dtype)
        if segment_ids is None or self.config.num_segments == 1:  # RoBERTa has one row for both parts of a pair
            return table_SD[0]
        return ops.matmul(ops.one_hot(segment_ids, self.config.num_segments, dtype=self.compute_dtype), table_SD)

    def pool(self, hidden_BTD):
        """The vector of a whole row, (B, D): tanh(W h_0 + b) of its first token; without a pooler, h_0."""
        first_BD = hidden_BTD[:, 0]
        return first_BD if self.pooler is None else ops.tanh(self.pooler(first_BD))
