"""GPT: a stack of causal Transformer blocks. One file from GPT (2018) over GPT-2 and GPT-3 to the modern line.

What this model does, by field of its config:
  - token embeddings, tied with the output projection (`tie_embeddings`)
  - learned positions, rotary ones inside attention, or distances that scores lose by (`position`); rotary ones perhaps scaled
    to longer texts (`rotary_scaling`), of a part of each head (`rotary_dim`), or left out in some layers (`unrotated_layers`)
  - layer or RMS normalisation (`norm`) of what goes into the sublayers, of what comes out, or of both (`norm_at`); in 2018
    after the residuals (`norm_first`)
  - attention and network one after the other, or side by side (`parallel`)
  - multi-head attention, grouped-query when `num_kv_heads` < `num_heads`, queries and keys normalised (`normalize_qk`)
  - attention to all tokens before, or to a window of them (`window`), except in some layers (`global_layers`)
  - a network plain or gated (`activation`)
  - attention plain, in rows or in blocks of a softmax computed as they come (`attention`: the same numbers, other memory)
  - blocks computed again for the gradient instead of kept (`remat`)
  - residual projections initialised smaller by 1 / sqrt(2 num_layers) (Radford et al. 2019, section 2.3)

Shape letters: B batch, T queries, S keys, V vocabulary, D hidden, K key/value heads, H head width.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import keras
from keras import ops

from zoo.config import Config, Cost, Refusal
from zoo.layers.attention import Attention, shared_mask
from zoo.layers.cache import init_cache, place, room_left
from zoo.layers.dropout import Dropout
from zoo.layers.forms import FORMS, GATED_ACTIVATIONS, PLAIN_ACTIVATIONS, attention_memory, transformer_block_memory
from zoo.layers.norms import Norm
from zoo.layers.positions import LearnedPositions, alibi, rotary_angles
from zoo.layers.transformer import MLP, TransformerBlock
from zoo.models.base import LanguageModel, TableOutput
from zoo.registry import MODELS

MODERN = dict(position="rotary", norm="rms", activation="swiglu", use_bias=False, normalize_qk=True)
GPT2 = dict(vocab_size=50_257, max_length=1_024)
GPT3 = dict(vocab_size=50_257, max_length=2_048)
# What `rotary_numbers` are for each `rotary_scaling`: see `zoo/layers/positions.py`.
ROTARY_NUMBERS = {
    "none": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_length"),
    "yarn": ("factor", "original_length", "attention_factor", "beta_fast", "beta_slow", "rounded"),
}


@dataclass(frozen=True)
class GPTConfig(Config):
    """Structure of a GPT. `None` for a width means the usual multiple: head_dim = D / N, mlp_dim = 4 D, K = N.

    Fields beyond the usual:
        qkv_bias: whether queries, keys and values have biases; None: as `use_bias` says of all projections (Qwen2).
        normalize_qk, whole_qk_norm: queries and keys are normalised a head, or all heads together (OLMo 2).
        norm_at: what the norms stand at: `input` or `output` of a sublayer, or `both` (OLMo 2, Gemma 2).
        parallel: `no`, or whether attention and network read the same, each by a norm of its `own` (GPT-NeoX) or by one that is
            `shared` (Falcon).
        scale_embeddings: embeddings are multiplied by sqrt(D) (Gemma).
        normalize_embeddings: a norm follows the embeddings (BLOOM).
        position_offset: rows of the table before that of the first position (OPT).
        rotary_dim: how much of each head is turned; None: all of it (GPT-NeoX).
        unrotated_layers: indices of the layers that turn nothing (SmolLM3).
        window: how many tokens, itself the last, a token sees; None: all before it (Mistral).
        global_layers: indices of the layers without the window (Gemma 2).
        window_theta: `rotary_theta` of the layers with a window, which scale nothing; None: they are as the others (Gemma 3).
        attention_scale: what scores are multiplied by in place of 1 / sqrt(H) (Gemma 2).
        attention_cap, logit_cap: c of c tanh(x / c), which bounds scores and logits; None for neither (Gemma 2).
    """

    vocab_size: int = 256
    max_length: int = 128
    num_layers: int = 4
    num_heads: int = 4
    hidden_dim: int = 128
    num_kv_heads: int | None = None
    head_dim: int | None = None
    mlp_dim: int | None = None
    position: str = "learned"
    norm: str = "layer"
    norm_first: bool = True
    activation: str = "gelu"
    use_bias: bool = True
    normalize_qk: bool = False
    tie_embeddings: bool = True
    dropout: float = 0.0
    epsilon: float = 1e-5
    rotary_theta: float = 10_000.0
    rotary_scaling: str = "none"
    rotary_numbers: tuple[float, ...] = ()
    attention: str = "auto"
    remat: str = "none"
    qkv_bias: bool | None = None
    whole_qk_norm: bool = False
    norm_at: str = "input"
    parallel: str = "no"
    scale_embeddings: bool = False
    normalize_embeddings: bool = False
    position_offset: int = 0
    rotary_dim: int | None = None
    unrotated_layers: tuple[int, ...] = ()
    window: int | None = None
    global_layers: tuple[int, ...] = ()
    window_theta: float | None = None
    attention_scale: float | None = None
    attention_cap: float | None = None
    logit_cap: float | None = None

    kind: ClassVar = "language_model"
    default_task: ClassVar = "language_modeling"
    recipe: ClassVar = dict(
        dataset="python_docs", tokenizer="bpe", vocab_size=4_096, seq_length=128, batch_size=16, steps=1_200,
        learning_rate=3e-3, optimizer="adamw", schedule="cosine", warmup_steps=60, weight_decay=0.1, clip_norm=1.0,
    )  # fmt: skip
    presets: ClassVar = {
        "tiny": dict(vocab_size=61, max_length=16, num_layers=2, num_heads=2, hidden_dim=12),
        "default": {},
        "modern": dict(**MODERN, num_heads=4, num_kv_heads=2, mlp_dim=352),
        # Radford et al. 2018: layer norms after the residuals, 40,478 merges and symbols.
        "gpt": dict(
            vocab_size=40_478, max_length=512, num_layers=12, num_heads=12, hidden_dim=768, norm_first=False, dropout=0.1
        ),
        # Radford et al. 2019, table 2.
        "gpt2_small": dict(**GPT2, num_layers=12, num_heads=12, hidden_dim=768),
        "gpt2_medium": dict(**GPT2, num_layers=24, num_heads=16, hidden_dim=1_024),
        "gpt2_large": dict(**GPT2, num_layers=36, num_heads=20, hidden_dim=1_280),
        "gpt2_xl": dict(**GPT2, num_layers=48, num_heads=25, hidden_dim=1_600),
        # Brown et al. 2020, table 2.1; attention is dense in every layer here, alternately sparse in the paper.
        "gpt3_small": dict(**GPT3, num_layers=12, num_heads=12, hidden_dim=768),
        "gpt3_medium": dict(**GPT3, num_layers=24, num_heads=16, hidden_dim=1_024),
        "gpt3_large": dict(**GPT3, num_layers=24, num_heads=16, hidden_dim=1_536),
        # The table prints 24 heads of 128 here, which would make 1.5 billion parameters; 16 make the 1.3 that it names.
        "gpt3_xl": dict(**GPT3, num_layers=24, num_heads=16, hidden_dim=2_048),
        "gpt3_2.7b": dict(**GPT3, num_layers=32, num_heads=32, hidden_dim=2_560),
        "gpt3_6.7b": dict(**GPT3, num_layers=32, num_heads=32, hidden_dim=4_096),
        "gpt3_13b": dict(**GPT3, num_layers=40, num_heads=40, head_dim=128, hidden_dim=5_140),
        "gpt3_175b": dict(**GPT3, num_layers=96, num_heads=96, hidden_dim=12_288),
        # The modern line at familiar sizes.
        "modern_100m": dict(
            **MODERN,
            vocab_size=32_768,
            max_length=2_048,
            num_layers=12,
            num_heads=12,
            num_kv_heads=4,
            hidden_dim=768,
            mlp_dim=2_048,
            epsilon=1e-6,
        ),  # fmt: skip
        "modern_1b": dict(
            **MODERN,
            vocab_size=32_768,
            max_length=4_096,
            num_layers=16,
            num_heads=32,
            num_kv_heads=8,
            hidden_dim=2_048,
            mlp_dim=8_192,
            rotary_theta=500_000.0,
            epsilon=1e-6,
        ),  # fmt: skip
    }
    # Muon's best rate is several times Adam's; benchmarks/LOG.md compares the two.
    preset_recipes: ClassVar = {
        "tiny": dict(seq_length=16),
        "default": dict(optimizer="muon", learning_rate=1e-2),
        "modern": dict(optimizer="muon", learning_rate=1e-2),
    }

    def validate(self):
        self.require_positive("vocab_size", "max_length", "num_layers", "num_heads", "hidden_dim", "epsilon", "rotary_theta")
        self.require_rate("dropout")
        self.require(
            self.head_dim is not None or self.hidden_dim % self.num_heads == 0,
            f"hidden_dim {self.hidden_dim} is not a multiple of num_heads {self.num_heads}; give head_dim.",
        )
        kv_heads = self.kv_heads
        self.require(
            kv_heads > 0 and self.num_heads % kv_heads == 0,
            f"num_heads {self.num_heads} must be a multiple of num_kv_heads {kv_heads}.",
        )
        self.require(self.head_width > 0, f"head_dim must be positive, got {self.head_dim}.")
        self.require(self.mlp_width > 0, f"mlp_dim must be positive, got {self.mlp_dim}.")
        for field, choices in (
            ("position", ("learned", "rotary", "alibi")), ("norm", ("layer", "rms")),
            ("activation", (*PLAIN_ACTIVATIONS, *GATED_ACTIVATIONS)), ("attention", FORMS), ("remat", ("none", "block")),
            ("rotary_scaling", tuple(ROTARY_NUMBERS)), ("norm_at", ("input", "output", "both")),
            ("parallel", ("no", "own", "shared")),
        ):  # fmt: skip
            value = getattr(self, field)
            self.require(value in choices, f"{field} must be {' or '.join(choices)}, got {value!r}.")
        self._validate_places()
        self._validate_scaling()

    def _validate_places(self):
        """Norms, positions and windows."""
        usual = self.norm_at == "input" and self.norm_first
        self.require(self.norm_first or self.norm_at == "input", "norms after the residuals (norm_first=false) stand alone.")
        self.require(self.parallel == "no" or usual, "parallel sublayers have their norms at the input.")
        self.require(self.normalize_qk or not self.whole_qk_norm, "whole_qk_norm goes with normalize_qk.")
        rotary, rotated = self.position == "rotary", self.rotary_width
        self.require(
            not rotary or (rotated % 2 == 0 and 0 < rotated <= self.head_width),
            f"rotary positions turn pairs, so rotary_dim must be even and at most head_dim {self.head_width}, got {rotated}.",
        )
        for name, value, wanted in (
            ("rotary_dim", self.rotary_dim, "rotary"), ("unrotated_layers", self.unrotated_layers, "rotary"),
            ("window_theta", self.window_theta, "rotary"), ("position_offset", self.position_offset, "learned"),
        ):  # fmt: skip
            self.require(not value or self.position == wanted, f"{name} is for {wanted} positions, got {value}.")
        self.require(self.position_offset >= 0, f"position_offset must not be negative, got {self.position_offset}.")
        for name in ("unrotated_layers", "global_layers"):
            layers = getattr(self, name)
            inside = all(0 <= i < self.num_layers for i in layers)
            self.require(inside, f"{name} must be below num_layers {self.num_layers}, got {layers}.")
        for name in ("window", "window_theta", "attention_scale", "attention_cap", "logit_cap"):
            if getattr(self, name) is not None:
                self.require_positive(name)
        windowed = self.window is not None or not (self.global_layers or self.window_theta)
        self.require(windowed, "global_layers and window_theta are for layers with a window.")

    def _validate_scaling(self):
        scaling, numbers = self.rotary_scaling, self.rotary_numbers
        named = dict(zip(ROTARY_NUMBERS[scaling], numbers, strict=False))
        self.require(
            len(named) == len(numbers) == len(ROTARY_NUMBERS[scaling]),
            f"rotary_scaling {scaling} has rotary_numbers ({', '.join(ROTARY_NUMBERS[scaling])}), got {numbers}.",
        )
        if scaling == "none":
            return
        self.require(self.position == "rotary", f"rotary_scaling is for rotary positions, not for {self.position} ones.")
        positive = all(value > 0 for name, value in named.items() if name != "rounded")
        self.require(positive, f"rotary_numbers must be positive, got {numbers}.")
        for lower, upper in (("low_freq_factor", "high_freq_factor"), ("beta_slow", "beta_fast")):
            fits = lower not in named or named[lower] < named[upper]
            self.require(fits, f"{lower} must be below {upper}, got rotary_numbers {numbers}.")

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
    def rotary_width(self):
        return self.head_width if self.rotary_dim is None else self.rotary_dim

    @property
    def has_qkv_bias(self):
        return self.use_bias if self.qkv_bias is None else self.qkv_bias

    def window_of(self, i):
        """The window of layer i, or None."""
        return None if i in self.global_layers else self.window

    def _tables(self):
        """Parameters of the tables in which rows are looked up, or that make logits."""
        positions = self.max_length + self.position_offset if self.position == "learned" else 0
        return (self.vocab_size * (1 if self.tie_embeddings else 2) + positions) * self.hidden_dim

    def num_params(self):
        """Number of parameters of the model."""
        d, f, h, bias = self.hidden_dim, self.mlp_width, self.head_width, int(self.use_bias)
        qkv, attended = (self.num_heads + 2 * self.kv_heads) * h, self.num_heads * h
        expand = 2 * f if self.activation in GATED_ACTIVATIONS else f
        norm = 2 * d if self.norm == "layer" else d
        norms = 4 if self.norm_at == "both" else 1 if self.parallel == "shared" else 2
        block = d * (qkv + expand) + (attended + f) * d + self.has_qkv_bias * qkv + bias * (expand + 2 * d) + norms * norm
        if self.normalize_qk:
            block += (self.num_heads + self.kv_heads) * h if self.whole_qk_norm else 2 * h
        outside = int(self.norm_first) + int(self.normalize_embeddings)
        return self._tables() + self.num_layers * block + outside * norm

    def cost(self, seq_length):
        d, f, attended, layers = self.hidden_dim, self.mlp_width, self.num_heads * self.head_width, self.num_layers
        gated = self.activation in GATED_ACTIVATIONS
        queries = attended * (1 + 2 * self.kv_heads / self.num_heads)
        seen = sum(min(seq_length, self.window_of(i) or seq_length) for i in range(layers))
        normalized = (self.num_heads + self.kv_heads) * self.head_width if self.normalize_qk else 0
        block = transformer_block_memory(d, attended, f, gated=gated, normalized=normalized)
        scores, uncompiled, parts = attention_memory(self.attention, seq_length, self.num_heads)
        again = self.remat == "block"  # then the inputs of all blocks are kept, and all of one
        return Cost(
            hidden_dim=d,
            body_params=self.num_params() - self._tables(),
            num_blocks=layers,
            attended=seen * attended,
            adapted=layers * round((d + queries) + (attended + d) + (d + (2 if gated else 1) * f) + (f + d)),
            kept=layers * d + block if again else layers * block,
            kept_float32=scores if again else layers * scores,
            kept_uncompiled=0.0 if again else layers * uncompiled,
            parts=parts,
            faster_compiled=True,
        )


@MODELS.register("gpt", GPTConfig)
class GPT(TableOutput, LanguageModel):
    """Generative pre-trained Transformer (Radford et al. 2018, 2019; Brown et al. 2020).

    h_0 = W_e[tokens] + W_p;  h_l = block(h_{l-1});  p(next) = softmax(norm(h_L) W_e')

    Args:
        config: a `GPTConfig`.

    Call: as `LanguageModel`. Features are the last hidden states (B, T, D).

    Raises:
        Refusal: if T is known and above `max_length`; if both a state and `segment_ids` are given.

    Ours -> paper: embeddings -> W_e, positions -> W_p (Radford et al. 2018, eq. 2).

    Example:
        >>> import numpy as np
        >>> import zoo
        >>> model = zoo.create("gpt", "tiny")
        >>> tuple(model(np.array([[3, 5, 7]])).shape)
        (1, 3, 61)
    """

    one_row_apart = rewinds = True

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        self.max_length = config.max_length
        normal = keras.initializers.RandomNormal(stddev=0.02)
        self.embeddings = keras.layers.ReversibleEmbedding(
            config.vocab_size,
            config.hidden_dim,
            tie_weights=config.tie_embeddings,
            embeddings_initializer=normal,
            name="embeddings",
        )
        self.positions = None
        if config.position == "learned":
            self.positions = LearnedPositions(config.max_length + config.position_offset, config.hidden_dim, name="positions")
        normed = config.normalize_embeddings
        self.embedding_norm = Norm(config.norm, config.epsilon, name="embedding_norm") if normed else None
        self.dropout = Dropout(config.dropout, name="dropout") if config.dropout else None
        self.blocks = [self._block(i) for i in range(config.num_layers)]
        self.final_norm = Norm(config.norm, config.epsilon, name="final_norm") if config.norm_first else None

    def _block(self, i):
        c = self.config
        residual_stddev = 0.02 / (2 * c.num_layers) ** 0.5
        attention = Attention(
            c.num_heads, c.kv_heads, c.head_width, use_bias=(c.has_qkv_bias, c.use_bias), dropout=c.dropout,
            normalize_qk="whole" if c.whole_qk_norm else c.normalize_qk, output_stddev=residual_stddev, form=c.attention,
            scale=(c.attention_scale, c.attention_cap), name="attention",
        )  # fmt: skip
        mlp = MLP(c.mlp_width, c.activation, use_bias=c.use_bias, dropout=c.dropout, output_stddev=residual_stddev, name="mlp")
        return TransformerBlock(
            attention, mlp, norm=c.norm, norm_first=c.norm_first, norm_inputs=c.norm_at != "output",
            norm_outputs=c.norm_at != "input", parallel=c.parallel, epsilon=c.epsilon, remat=c.remat == "block",
            name=f"block_{i}",
        )  # fmt: skip

    def build(self, input_shape=None):
        shape = (None, None, self.config.hidden_dim)
        self.embeddings.build()
        if self.positions is not None:
            self.positions.build()
        if self.embedding_norm is not None:
            self.embedding_norm.build(shape)
        for block in self.blocks:
            block.build(shape)
        if self.final_norm is not None:
            self.final_norm.build(shape)
        self.built = True

    def layers_by_depth(self):
        first = [layer for layer in (self.embeddings, self.positions, self.embedding_norm) if layer is not None]
        return [first, *([block] for block in self.blocks), [] if self.final_norm is None else [self.final_norm]]

    def init_state(self, batch_size, max_length):
        """An empty cache of `max_length` columns: see `init_cache`."""
        c = self.config
        return init_cache(c.num_layers, batch_size, max_length, c.kv_heads, c.head_width, self.compute_dtype)

    def room_left(self, state):
        return room_left(state)

    def features(self, token_ids, state=None, *, padding_mask=None, segment_ids=None, positions=None, training=False):
        length = token_ids.shape[1]
        if length is not None and length > self.max_length:
            raise Refusal(f"{length} tokens are more than this model's max_length of {self.max_length}.")
        piece = place(token_ids, state, padding_mask, segment_ids)
        if positions is None:
            positions = piece.positions
            if state is not None:
                # A row that has ended while others of its batch go on may run past the last position; nobody reads it.
                positions = ops.minimum(positions, self.max_length - 1)

        x_BTD = self._embedded(token_ids, positions, training)
        angles, masks, bias = self._angles(positions), self._masks(piece.rule, token_ids, state), None
        if self.config.position == "alibi":
            bias = alibi(positions, positions if state is None else piece.key_positions(), self.config.num_heads)
        new_state = piece.state
        for i, block in enumerate(self.blocks):
            window = self.config.window_of(i)
            x_BTD, cache = block(
                x_BTD, attention_mask=masks[window], bias=bias, angles=None if i in self.config.unrotated_layers else
                angles[window], cache=piece.cache(i), training=training
            )  # fmt: skip
            if state is not None:
                new_state |= {f"layer_{i}/keys": cache["keys"], f"layer_{i}/values": cache["values"]}
        return (x_BTD if self.final_norm is None else self.final_norm(x_BTD)), new_state

    def _embedded(self, token_ids, positions, training):
        """What goes into the first block, (B, T, D)."""
        c, x_BTD = self.config, self.embeddings(token_ids)
        if c.scale_embeddings:
            x_BTD = x_BTD * c.hidden_dim**0.5
        if self.positions is not None:
            x_BTD = x_BTD + self.positions(positions + c.position_offset if c.position_offset else positions)
        if self.embedding_norm is not None:
            x_BTD = self.embedding_norm(x_BTD)
        return x_BTD if self.dropout is None else self.dropout(x_BTD, training=training)

    def _angles(self, positions):
        """Window, or None -> the angles of the layers that have it."""
        c = self.config
        if c.position != "rotary":
            return dict.fromkeys((None, c.window))
        angles = rotary_angles(positions, c.rotary_width, c.rotary_theta, c.rotary_scaling, c.rotary_numbers)
        if c.window_theta is None:
            return dict.fromkeys((None, c.window), angles)
        return {None: angles, c.window: rotary_angles(positions, c.rotary_width, c.window_theta)}

    def _masks(self, rule, token_ids, state):
        """Window, or None -> what the layers that have it take as their mask."""
        keys, windows = (
            token_ids if state is None else state["padding"],
            {self.config.window_of(i) for i in range(len(self.blocks))},
        )
        rules = {window: rule if window is None else replace(rule, window=window) for window in windows}
        return {window: shared_mask(each, self.config.attention, token_ids, keys) for window, each in rules.items()}

    def project(self, features):
        logits, cap = super().project(features), self.config.logit_cap
        return logits if cap is None else cap * ops.tanh(logits / cap)

    def projection(self):
        return super().projection() if self.config.logit_cap is None else None
