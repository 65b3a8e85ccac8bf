"""GLM: one stack that reads a text with blanks in both directions, and writes what stood in them from left to right.

A row has two parts. Part A, the text with a mask for each blank, sees all of itself. Part B, what stood in the blanks, sees
part A and what it has written so far. A token has two positions: that of its mask in part A, and its place within its blank.

    row        x1 x2 [MASK] x4   [sop] x3
    positions  0  1  2      3    2     2        where it belongs in part A
               0  0  0      0    1     2        within the blank, 0 in part A

What the generations differ in, by field of the config (`GENERATIONS` has them by name):
  - two learned positions, added (`position="learned"`, Du et al. 2022); both turned, each half of a head by one of them
    (`rotary_2d`, ChatGLM-6B); or one position that turns the first half of each head in neighbouring pairs, and every token
    sees only those before it (`rotary`, ChatGLM2 and later)
  - layer or RMS norms, gelu or SwiGLU, biases everywhere or of queries, keys and values alone
  - as the residual the normed input times sqrt(2 L) (`scaled_residual`, ChatGLM-6B)
  - a norm after each sublayer, too (`norm_outputs`, GLM-4-0414)

Shape letters: B batch, T queries, S keys, V vocabulary, D hidden, N query heads, K key/value heads, H head width, L layers.
"""

from dataclasses import dataclass
from typing import ClassVar

import keras
from keras import ops

from zoo.config import Config, Cost, Refusal
from zoo.layers.attention import Attention, shared_mask
from zoo.layers.cache import init_cache, place, room_left
from zoo.layers.dropout import Dropout
from zoo.layers.forms import FORMS, GATED_ACTIVATIONS, PLAIN_ACTIVATIONS, attention_memory, transformer_block_memory
from zoo.layers.norms import Norm
from zoo.layers.positions import LearnedPositions, rotary_angles, rotate_in_two_rows, rotate_pairs
from zoo.layers.transformer import MLP, TransformerBlock
from zoo.models.base import LanguageModel, TableOutput
from zoo.registry import MODELS

SIZE = ("vocab_size", "max_length", "num_layers", "num_heads", "hidden_dim")
# Du et al. 2022, table 8, and the published programs: tables of words are filled up to a multiple of 128.
SIZES = {
    "glm_base": (30_592, 512, 12, 12, 768),
    "glm_large": (30_592, 512, 24, 16, 1_024),
    "glm_10b": (50_304, 1_024, 48, 64, 4_096),
}
CHATGLM2 = dict(
    vocab_size=65_024, num_layers=28, num_heads=32, num_kv_heads=2, hidden_dim=4_096, mlp_dim=13_696, position="rotary",
    norm="rms", activation="swiglu", bias="qkv", tie_embeddings=False,
)  # fmt: skip
GLM4 = dict(CHATGLM2, vocab_size=151_552, num_layers=40)
# The later generations, as their configurations and programs have them.
GENERATIONS = {
    "chatglm_6b": dict(
        vocab_size=130_528, max_length=2_048, num_layers=28, num_heads=32, hidden_dim=4_096, position="rotary_2d",
        scaled_residual=True,
    ),
    "chatglm2_6b": dict(CHATGLM2, max_length=32_768),
    "chatglm3_6b": dict(CHATGLM2, max_length=8_192),
    "glm4_9b": dict(GLM4, max_length=8_192, epsilon=1.5625e-7),
    "glm4_0414": dict(GLM4, max_length=32_768, norm_outputs=True),
}  # fmt: skip


@dataclass(frozen=True)
class GLMConfig(Config):
    """Structure of a GLM. `None` means the usual: K = N, H = D / N, mlp_dim = 4 D; no token that begins part B."""

    vocab_size: int = 4_160
    max_length: int = 128
    num_layers: int = 4
    num_heads: int = 4
    hidden_dim: int = 128
    num_kv_heads: int | None = None
    head_dim: int | None = None
    mlp_dim: int | None = None
    position: str = "learned"
    norm: str = "layer"
    norm_outputs: bool = False
    scaled_residual: bool = False
    activation: str = "gelu"
    bias: str = "all"
    tie_embeddings: bool = True
    dropout: float = 0.0
    epsilon: float = 1e-5
    rotary_theta: float = 10_000.0
    attention: str = "auto"
    sop_id: int | None = None

    kind: ClassVar = "language_model"
    default_task: ClassVar = "blank_infilling"
    reads_blanks: ClassVar = True
    recipe: ClassVar = dict(
        dataset="python_docs", tokenizer="bpe", vocab_size=4_096, seq_length=128, batch_size=16, steps=1_200,
        learning_rate=1e-2, optimizer="muon", schedule="cosine", warmup_steps=60, weight_decay=0.1, clip_norm=1.0,
    )  # fmt: skip
    presets: ClassVar = {
        "tiny": dict(vocab_size=128, max_length=24, num_layers=2, num_heads=2, hidden_dim=12),
        # Turned positions learn from a small text sooner than tables of them (benchmarks/LOG.md).
        "default": dict(position="rotary_2d", rotary_theta=100.0, num_layers=2),
        **{name: dict(zip(SIZE, sizes, strict=True), dropout=0.1) for name, sizes in SIZES.items()},
        **GENERATIONS,
    }
    preset_recipes: ClassVar = {
        "tiny": dict(seq_length=24),
        # Mostly single words, many of them in a window: a small text teaches to fill such blanks (benchmarks/LOG.md).
        "default": dict(
            steps=2_000, set=("weights=0,0,0.3,0.7", "rate=0.45", "mean_length=0.5", "suffix_rate=0.5"),
        ),
    }  # fmt: skip

    def validate(self):
        self.require_positive("vocab_size", "max_length", "num_layers", "num_heads", "hidden_dim", "epsilon")
        self.require_positive("kv_heads", "head_width", "mlp_width", "rotary_theta")
        self.require_rate("dropout")
        self.require(
            self.head_dim is not None or self.hidden_dim % self.num_heads == 0,
            f"hidden_dim {self.hidden_dim} is not a multiple of num_heads {self.num_heads}; give head_dim.",
        )
        self.require(
            self.num_heads % self.kv_heads == 0,
            f"num_heads {self.num_heads} must be a multiple of num_kv_heads {self.kv_heads}.",
        )
        for field, choices in (
            ("position", ("learned", "rotary_2d", "rotary")), ("norm", ("layer", "rms")), ("bias", ("all", "qkv", "none")),
            ("attention", FORMS), ("activation", (*PLAIN_ACTIVATIONS, *GATED_ACTIVATIONS)),
        ):  # fmt: skip
            value = getattr(self, field)
            self.require(value in choices, f"{field} must be {' or '.join(choices)}, got {value!r}.")
        self.require(
            self.position == "learned" or self.head_width % 4 == 0,
            f"rotary positions turn pairs of half a head, so head_dim must be a multiple of 4, got {self.head_width}.",
        )
        self.require(
            self.sop_id is None or 0 <= self.sop_id < self.vocab_size,
            f"sop_id must be below vocab_size {self.vocab_size}, got {self.sop_id}.",
        )

    @property
    def kv_heads(self):
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def head_width(self):
        return self.hidden_dim // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def mlp_width(self):
        return 4 * self.hidden_dim if self.mlp_dim is None else self.mlp_dim

    @property
    def two_positions(self):
        """Whether a token has a position in part A and one in its blank, and part A is seen in both directions."""
        return self.position != "rotary"

    def _tables(self):
        """Parameters of the tables in which rows are looked up, or that make logits."""
        positions = 2 * (self.max_length + 1) if self.position == "learned" else 0
        return (self.vocab_size * (1 if self.tie_embeddings else 2) + positions) * self.hidden_dim

    def num_params(self):
        """Number of parameters of the model."""
        d, f, attended = self.hidden_dim, self.mlp_width, self.num_heads * self.head_width
        qkv = attended + 2 * self.kv_heads * self.head_width
        expand = 2 * f if self.activation in GATED_ACTIVATIONS else f
        norm = 2 * d if self.norm == "layer" else d
        biases = {"all": qkv + d + expand + d, "qkv": qkv, "none": 0}[self.bias]
        block = d * (qkv + expand) + (attended + f) * d + biases + norm * (4 if self.norm_outputs else 2)
        return self._tables() + self.num_layers * block + norm

    def cost(self, seq_length):
        d, f, attended, layers = self.hidden_dim, self.mlp_width, self.num_heads * self.head_width, self.num_layers
        gated, qkv = self.activation in GATED_ACTIVATIONS, attended + 2 * self.kv_heads * self.head_width
        block = transformer_block_memory(d, attended, f, gated=gated)
        scores, uncompiled, parts = attention_memory(self.attention, seq_length, self.num_heads, not self.two_positions)
        return Cost(
            hidden_dim=d,
            body_params=self.num_params() - self._tables(),
            num_blocks=layers,
            attended=layers * seq_length * attended,
            adapted=layers * ((d + qkv) + (attended + d) + (d + (2 if gated else 1) * f) + (f + d)),
            kept=layers * block,
            kept_float32=layers * scores,
            kept_uncompiled=layers * uncompiled,
            parts=parts,
            faster_compiled=True,
        )


@MODELS.register("glm", GLMConfig)
class GLM(TableOutput, LanguageModel):
    """General language model (Du et al. 2022, arXiv:2103.10360, section 2), and its later generations.

    h_0 = W_e[tokens] + W_p[position] + W_b[place in the blank];  h_l = block(h_{l-1});  p(next) = softmax(norm(h_L) W_e')

    Args:
        config: a `GLMConfig`.

    Call: as `LanguageModel`, with two inputs more where the config has `two_positions`. Features are the last hidden states
    (B, T, D).

        prefix_lengths: int32 (B,), tokens of part A of each row, from its first one on. Or None: all tokens before the first
            `sop_id`, if the config names one and the row has it; otherwise there is no part A, and a row is plain text.
        positions: int32 (B, T, 2), in part A and in the blank; or (B, T), the first alone. Or None: the last token of part A is
            the mask of the only blank.

    A state keeps how long part A is, so `decode_step` goes on in part B. Part A must be in one piece with its `sop_id`.

    Raises:
        Refusal: if T is known and above `max_length`; if both a state and `segment_ids` are given; if there are two positions a
        token, and the model has one.

    Ours -> paper: positions, block_positions -> section 2.2, "2D positional encoding".

    Example:
        >>> import numpy as np
        >>> import zoo
        >>> model = zoo.create("glm", "tiny")
        >>> batch = {"token_ids": np.array([[5, 6, 9, 7]], np.int32), "prefix_lengths": np.array([3], np.int32)}
        >>> tuple(model(batch).shape)
        (1, 4, 128)
    """

    one_row_apart = rewinds = True

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        c = config
        self.max_length = c.max_length
        if c.two_positions:
            self.takes = (*LanguageModel.takes, "prefix_lengths")
        normal = keras.initializers.RandomNormal(stddev=0.02)
        self.embeddings = keras.layers.ReversibleEmbedding(
            c.vocab_size, c.hidden_dim, tie_weights=c.tie_embeddings, embeddings_initializer=normal, name="embeddings"
        )
        self.tables = []
        if c.position == "learned":
            names = "positions", "block_positions"
            self.tables = [LearnedPositions(c.max_length + 1, c.hidden_dim, name=name) for name in names]
        self.dropout = Dropout(c.dropout, name="dropout") if c.dropout else None
        self.blocks = [self._block(i) for i in range(c.num_layers)]
        self.final_norm = Norm(c.norm, c.epsilon, name="final_norm")

    def _block(self, i):
        c = self.config
        residual_stddev = 0.02 / (2 * c.num_layers) ** 0.5
        attention = Attention(
            c.num_heads, c.kv_heads, c.head_width, use_bias=(c.bias != "none", c.bias == "all"), dropout=c.dropout,
            output_stddev=residual_stddev, form=c.attention, name="attention",
            rotation=rotate_in_two_rows if c.two_positions else rotate_pairs,
        )  # fmt: skip
        mlp = MLP(
            c.mlp_width, c.activation, use_bias=c.bias == "all", dropout=c.dropout, output_stddev=residual_stddev, name="mlp"
        )
        return TransformerBlock(
            attention, mlp, norm=c.norm, norm_outputs=c.norm_outputs, epsilon=c.epsilon,
            residual_scale=(2 * c.num_layers) ** 0.5 if c.scaled_residual else None, name=f"block_{i}",
        )  # fmt: skip

    def build(self, input_shape=None):
        shape = (None, None, self.config.hidden_dim)
        self.embeddings.build()
        for table in self.tables:
            table.build()
        for block in self.blocks:
            block.build(shape)
        self.final_norm.build(shape)
        self.built = True

    def layers_by_depth(self):
        return [[self.embeddings, *self.tables], *([block] for block in self.blocks), [self.final_norm]]

    def init_state(self, batch_size, max_length):
        """An empty cache (`init_cache`); and, with two positions, `part_a` int32 (B,): the tokens of part A, 0 where none has
        been read."""
        c = self.config
        state = init_cache(c.num_layers, batch_size, max_length, c.kv_heads, c.head_width, self.compute_dtype)
        return {**state, "part_a": ops.zeros((batch_size,), "int32")} if c.two_positions else state

    def room_left(self, state):
        return room_left(state)

    def logits_after_each(self, token_ids, state):
        # As token by token: a `sop_id` among them begins nothing.
        known = {"prefix_lengths": state["part_a"]} if self.config.two_positions else {}
        features, state = self.features(token_ids, state, **known)
        return self.limited(self.project(features)), state

    def features(
        self, token_ids, state=None, *, padding_mask=None, segment_ids=None, positions=None, prefix_lengths=None, training=False
    ):  # fmt: skip
        length = token_ids.shape[1]
        if length is not None and length > self.max_length:
            raise Refusal(f"{length} tokens are more than this model's max_length of {self.max_length}.")
        if self.config.two_positions and prefix_lengths is None and segment_ids is None:
            prefix_lengths = self._part_a(token_ids, state, padding_mask)
        piece = place(token_ids, state, padding_mask, segment_ids, prefix_lengths)
        positions = self._positions(piece.positions, positions, prefix_lengths)
        if state is not None:
            # A row that has ended while others of its batch go on may run past the last position; nobody reads it.
            positions = [ops.minimum(each, self.max_length) for each in positions]
        x_BTD = self.embeddings(token_ids)
        for table, each in zip(self.tables, positions, strict=False):
            x_BTD = x_BTD + table(each)
        if self.dropout is not None:
            x_BTD = self.dropout(x_BTD, training=training)
        keys = token_ids if state is None else state["padding"]
        mask, angles = shared_mask(piece.rule, self.config.attention, token_ids, keys), self._angles(positions)
        new_state = piece.state
        if state is not None and self.config.two_positions:
            new_state |= {"part_a": prefix_lengths}
        for i, block in enumerate(self.blocks):
            x_BTD, cache = block(x_BTD, attention_mask=mask, angles=angles, cache=piece.cache(i), training=training)
            if state is not None:
                new_state |= {f"layer_{i}/keys": cache["keys"], f"layer_{i}/values": cache["values"]}
        return self.final_norm(x_BTD), new_state

    def _part_a(self, token_ids, state, padding_mask):
        """How many tokens each row has before its first `sop_id`, int32 (B,), 0 for a row that has none; or None, for all."""
        known = None if state is None else state["part_a"]
        if self.config.sop_id is None or token_ids.shape[1] == 1:  # which is not in one piece with a part A
            return known
        real = ops.ones_like(token_ids) if padding_mask is None else ops.cast(padding_mask, "int32")
        begins = ops.cast(ops.equal(token_ids, self.config.sop_id), "int32") * real
        before = ops.cumsum(begins, axis=1) == 0
        found = ops.sum(real * ops.cast(before, "int32"), axis=1)
        if known is not None:
            found = found + state["index"] - state["start"]
        found = ops.where(ops.any(ops.logical_not(before), axis=1), found, 0)
        return found if known is None else ops.where(known > 0, known, found)

    def _positions(self, places, given, prefix_lengths):
        """Those that the model has for each token, a list of one or two int32 (B or 1, T)."""
        if given is not None and len(given.shape) == 3:
            if not self.config.two_positions:
                raise Refusal("This model has one position a token, got two; ChatGLM2 and later count them from 0.")
            return [given[:, :, 0], given[:, :, 1]]
        if not self.config.two_positions:
            return [places if given is None else given]
        if given is not None or prefix_lengths is None:
            first = places if given is None else given
            return [first, ops.zeros_like(first)]
        part_B1 = prefix_lengths[:, None]
        in_b = ops.logical_and(part_B1 > 0, places >= part_B1)
        return [ops.where(in_b, part_B1 - 1, places), ops.where(in_b, places - part_B1 + 1, 0)]

    def _angles(self, positions):
        c = self.config
        if c.position == "learned":
            return None
        angles = [rotary_angles(each, c.head_width // 2, c.rotary_theta) for each in positions]
        return angles if c.two_positions else angles[0]
