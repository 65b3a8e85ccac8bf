"""Decoders that descend from Llama: RMS norms, rotary positions, gated networks, and almost the same names of tensors."""

from dataclasses import replace

from zoo.config import Refusal
from zoo.convert import rotary
from zoo.convert.decoder_pieces import (
    ROPE,
    SHAPE,
    SILU,
    WHOLE,
    WINDOWED,
    block,
    check_epsilon,
    layer_types,
    reachable,
    rotary_fields,
    shape_fields,
    their_share,
    window_fields,
)
from zoo.convert.rules import Family, Rule, norm

LLAMA_NAMES = {
    "attention_norm": "input_layernorm",
    "attention/qkv": "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
    "attention/query_norm": "self_attn.q_norm",
    "attention/key_norm": "self_attn.k_norm",
    "attention/output_projection": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "mlp/expand": "mlp.gate_proj mlp.up_proj",
    "mlp/contract": "mlp.down_proj",
}
LLAMA_DEFAULTS = dict(
    vocab_size=32_000, hidden_size=4_096, intermediate_size=11_008, num_hidden_layers=32, num_attention_heads=32,
    hidden_act="silu", max_position_embeddings=2_048, rms_norm_eps=1e-6,
)  # fmt: skip
QWEN_DEFAULTS = dict(
    LLAMA_DEFAULTS, vocab_size=151_936, intermediate_size=22_016, max_position_embeddings=32_768, num_key_value_heads=32,
    max_window_layers=28, sliding_window=4_096,
)  # fmt: skip
MODERN = dict(position="rotary", norm="rms", activation="swiglu", use_bias=False)


def _their_llama(config):
    return {
        "hidden_act": "silu", "num_key_value_heads": config.kv_heads, "head_dim": config.head_width,
        **rotary.written(config), "tie_word_embeddings": config.tie_embeddings, "intermediate_size": config.mlp_width,
    }  # fmt: skip


def llama_fields(theirs):
    """Further fields of the zoo's for a Llama, given their config.json; `config` is not read.

    Raises:
        Refusal: it asks for what this model does not do.
    """
    window, longest = theirs.get("sliding_window"), theirs["max_position_embeddings"]
    if window is not None and window < longest:
        raise Refusal(
            f"Attention sees {window} tokens back of {longest} (sliding_window); only whole texts are supported. Up to {window}"
            f" tokens nothing differs: for such texts set max_position_embeddings to {window} in config.json."
        )
    fields = {**rotary_fields({**theirs, "partial_rotary_factor": 1.0}), **shape_fields(theirs)}
    del fields["rotary_dim"]
    return fields


LLAMA = Family(
    model="gpt",
    prefix="model.",
    fields=dict(
        vocab_size="vocab_size", max_length="max_position_embeddings", num_layers="num_hidden_layers",
        num_heads="num_attention_heads", hidden_dim="hidden_size", mlp_dim="intermediate_size", epsilon="rms_norm_eps",
    ),
    fixed=MODERN,
    required=dict(SILU, attention_bias=(None, False), mlp_bias=(None, False)),
    embeddings=[Rule("embeddings/embeddings", ("embed_tokens.weight",))],
    block=block(LLAMA_NAMES),
    final=norm("final_norm", "norm", bias=False),
    untied=[Rule("embeddings/reverse_embeddings", ("lm_head.weight",), transposed=True)],
    ignored=(r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
    copies={"lm_head.weight": "embed_tokens.weight"},
    architectures={"language_modeling": "LlamaForCausalLM"},
    adjust=llama_fields,
    adjusted=(*ROPE, *SHAPE, "sliding_window"),
    defaults=LLAMA_DEFAULTS,
    theirs=_their_llama,
)  # fmt: skip


def _like_llama(architecture, **changes):
    """A family that is a Llama but for some attributes."""
    return replace(LLAMA, architectures={"language_modeling": f"{architecture}ForCausalLM"}, **changes)


def _mistral_fields(theirs):
    longest = theirs["max_position_embeddings"]
    return {**rotary_fields(theirs), **shape_fields(theirs), **reachable(window_fields(theirs), longest)}


MISTRAL = _like_llama(
    "Mistral",
    adjust=_mistral_fields,
    defaults={
        **LLAMA_DEFAULTS, "intermediate_size": 14_336, "num_key_value_heads": 8, "max_position_embeddings": 131_072,
        "sliding_window": 4_096,
    },
    theirs=lambda config: {**_their_llama(config), "sliding_window": config.window},
)  # fmt: skip


def _qwen_fields(theirs):
    layers, first = theirs["num_hidden_layers"], theirs["max_window_layers"]
    kinds = [WHOLE if i < first else WINDOWED for i in range(layers)]
    windows = window_fields(theirs, kinds) if theirs.get("use_sliding_window") else {}
    return {**rotary_fields(theirs), **shape_fields(theirs), **reachable(windows, theirs["max_position_embeddings"])}


def _qwen3_fields(theirs):
    check_epsilon(theirs)
    return _qwen_fields(theirs)


def _their_qwen(config):
    return {
        **_their_llama(config), "use_sliding_window": config.window is not None, "sliding_window": config.window,
        "layer_types": layer_types(config), "max_window_layers": config.num_layers,
    }  # fmt: skip


QWEN2 = _like_llama(
    "Qwen2",
    fixed=dict(MODERN, qkv_bias=True),
    required=SILU,
    adjust=_qwen_fields,
    adjusted=(*LLAMA.adjusted, "use_sliding_window", "max_window_layers", "layer_types"),
    defaults=QWEN_DEFAULTS,
    theirs=_their_qwen,
)
QWEN3 = replace(
    QWEN2,
    architectures={"language_modeling": "Qwen3ForCausalLM"},
    fixed=dict(MODERN, normalize_qk=True),
    required=dict(SILU, attention_bias=(None, False)),
    adjust=_qwen3_fields,
    defaults=dict(QWEN_DEFAULTS, head_dim=128),
)


PHI3 = _like_llama(
    "Phi3",
    required=SILU,
    block=block({**LLAMA_NAMES, "attention/qkv": "self_attn.qkv_proj", "mlp/expand": "mlp.gate_up_proj"}),
    adjust=_mistral_fields,
    adjusted=(*LLAMA.adjusted, "partial_rotary_factor"),
    irrelevant="embd_pdrop resid_pdrop",
    defaults=dict(
        LLAMA_DEFAULTS, vocab_size=32_064, hidden_size=3_072, intermediate_size=8_192, max_position_embeddings=4_096,
        rms_norm_eps=1e-5, original_max_position_embeddings=4_096,
    ),
    theirs=lambda config: {
        **{key: value for key, value in _their_llama(config).items() if key != "head_dim"}, **their_share(config),
        "sliding_window": config.window, "original_max_position_embeddings": config.max_length,
    },
)  # fmt: skip


def _olmo2_fields(theirs):
    check_epsilon(theirs)
    return llama_fields(theirs)


OLMO2 = _like_llama(
    "Olmo2",
    fixed=dict(MODERN, normalize_qk=True, whole_qk_norm=True, norm_at="output"),
    required=dict(SILU, attention_bias=(None, False)),
    block=block(
        {
            **LLAMA_NAMES,
            "attention_output_norm": "post_attention_layernorm",
            "mlp_output_norm": "post_feedforward_layernorm",
        }
    ),
    adjust=_olmo2_fields,
    defaults=dict(LLAMA_DEFAULTS, vocab_size=50_304, rms_norm_eps=1e-5),
)


def _smollm3_fields(theirs):
    layers, every = theirs["num_hidden_layers"], theirs["no_rope_layer_interval"]
    rotated = theirs.get("no_rope_layers") or [int((i + 1) % every != 0) for i in range(layers)]
    kinds = [WHOLE if rotated[i] else WINDOWED for i in range(layers)]
    windows = window_fields(theirs, kinds) if theirs.get("use_sliding_window") else {}
    return {
        **rotary_fields(theirs, 2_000_000.0), **shape_fields({"tie_word_embeddings": True, **theirs}),
        **reachable(windows, theirs["max_position_embeddings"]),
        "unrotated_layers": tuple(i for i in range(layers) if not rotated[i]),
    }  # fmt: skip


SMOLLM3 = _like_llama(
    "SmolLM3",
    adjust=_smollm3_fields,
    adjusted=(*LLAMA.adjusted, "use_sliding_window", "layer_types", "no_rope_layers", "no_rope_layer_interval"),
    irrelevant="max_window_layers",
    defaults=dict(
        LLAMA_DEFAULTS, vocab_size=128_256, hidden_size=2_048, num_hidden_layers=36, num_attention_heads=16,
        num_key_value_heads=4, max_position_embeddings=32_768, no_rope_layer_interval=4,
    ),
    theirs=lambda config: {
        **_their_llama(config), "use_sliding_window": config.window is not None, "sliding_window": config.window,
        "layer_types": layer_types(config), "no_rope_layer_interval": 4,
        "no_rope_layers": [int(i not in config.unrotated_layers) for i in range(config.num_layers)],
    },
)  # fmt: skip


def _stablelm_fields(theirs):
    return {
        **rotary_fields(theirs, share=0.25), **shape_fields(theirs),
        "qkv_bias": bool(theirs.get("use_qkv_bias")), "parallel": "shared" if theirs.get("use_parallel_residual") else "no",
    }  # fmt: skip


STABLELM = _like_llama(
    "StableLm",
    fields=dict(LLAMA.fields, epsilon="layer_norm_eps", dropout="hidden_dropout"),
    fixed=dict(MODERN, norm="layer"),
    required=dict(SILU, qk_layernorm=(None, False)),
    final=norm("final_norm", "norm"),
    adjust=_stablelm_fields,
    adjusted=(*ROPE, *SHAPE, "partial_rotary_factor", "use_qkv_bias", "use_parallel_residual"),
    defaults=dict(
        vocab_size=50_304, hidden_size=2_560, intermediate_size=6_912, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, hidden_act="silu", max_position_embeddings=4_096, layer_norm_eps=1e-5, hidden_dropout=0.0,
    ),
    theirs=lambda config: {
        **_their_llama(config), **their_share(config), "use_qkv_bias": config.has_qkv_bias,
        "use_parallel_residual": config.parallel == "shared",
    },
)  # fmt: skip


def _their_gemma(config):
    return {**_their_llama(config), "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"}


GEMMA_ACTIVATIONS = ("gelu", "gelu_pytorch_tanh")  # both the tanh form, as in their programs
GEMMA = _like_llama(
    "Gemma",
    fixed=dict(position="rotary", norm="rms", activation="geglu", use_bias=False, scale_embeddings=True),
    required=dict(
        hidden_act=GEMMA_ACTIVATIONS, hidden_activation=(None, *GEMMA_ACTIVATIONS), attention_bias=(None, False),
        use_bidirectional_attention=(None, False),
    ),
    block=block(LLAMA_NAMES, plus=1.0),
    final=norm("final_norm", "norm", bias=False, plus=1.0),
    adjust=lambda theirs: llama_fields({"tie_word_embeddings": True, **theirs}),
    defaults=dict(
        LLAMA_DEFAULTS, vocab_size=256_000, hidden_size=3_072, intermediate_size=24_576, num_hidden_layers=28,
        num_attention_heads=16, num_key_value_heads=16, head_dim=256, hidden_act="gelu_pytorch_tanh",
        max_position_embeddings=8_192,
    ),
    theirs=_their_gemma,
)  # fmt: skip


def _gemma2_fields(theirs):
    kinds = [WHOLE if i % 2 else WINDOWED for i in range(theirs["num_hidden_layers"])]
    return {
        **rotary_fields(theirs), **shape_fields({"tie_word_embeddings": True, **theirs}),
        **reachable(window_fields(theirs, kinds), theirs["max_position_embeddings"]),
        "attention_scale": theirs["query_pre_attn_scalar"] ** -0.5,
        "attention_cap": theirs.get("attn_logit_softcapping"), "logit_cap": theirs.get("final_logit_softcapping"),
    }  # fmt: skip


def _their_gemma2(config):
    return {
        **_their_gemma(config), "sliding_window": config.window or config.max_length,
        "layer_types": layer_types(config), "query_pre_attn_scalar": _scalar(config),
        "attn_logit_softcapping": config.attention_cap, "final_logit_softcapping": config.logit_cap,
    }  # fmt: skip


def _scalar(config):
    """What the scores are divided by the root of; a whole number where it is one."""
    scalar = config.head_width if config.attention_scale is None else config.attention_scale**-2
    return round(scalar) if abs(scalar - round(scalar)) < 1e-6 * scalar else scalar


GEMMA2 = replace(
    GEMMA,
    architectures={"language_modeling": "Gemma2ForCausalLM"},
    fixed=dict(GEMMA.fixed, norm_at="both"),
    required=dict(GEMMA.required, hidden_act=(None, *GEMMA_ACTIVATIONS)),
    block=block(
        {
            **LLAMA_NAMES,
            "attention_output_norm": "post_attention_layernorm",
            "mlp_norm": "pre_feedforward_layernorm",
            "mlp_output_norm": "post_feedforward_layernorm",
        },
        plus=1.0,
    ),
    adjust=_gemma2_fields,
    adjusted=(
        *LLAMA.adjusted, "layer_types", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping",
    ),
    irrelevant="cache_implementation",
    defaults=dict(
        vocab_size=256_000, rms_norm_eps=1e-6, hidden_size=2_304, intermediate_size=9_216, num_hidden_layers=26,
        num_attention_heads=8, num_key_value_heads=4, head_dim=256, hidden_activation="gelu_pytorch_tanh",
        max_position_embeddings=8_192, query_pre_attn_scalar=256, sliding_window=4_096, final_logit_softcapping=30.0,
        attn_logit_softcapping=50.0,
    ),
    theirs=_their_gemma2,
)  # fmt: skip


def _gemma3_fields(theirs):
    check_epsilon(theirs)
    every, layers = theirs.get("sliding_window_pattern") or 6, theirs["num_hidden_layers"]
    kinds = [WINDOWED if (i + 1) % every else WHOLE for i in range(layers)]
    rope = theirs.get("rope_parameters") or {}
    near, far = rope.get("sliding_attention") or {}, rope.get("full_attention") or theirs.get("rope_scaling") or rope
    if near.get("rope_type", "default") != "default":
        raise Refusal(f"The rotary positions of layers with a window are scaled by {near['rope_type']!r}; only whole ones are.")
    fields = {
        **_gemma2_fields({**theirs, "rope_parameters": far, "rope_scaling": None}),
        **window_fields(theirs, kinds),
    }
    if "rope_theta" not in far and "rope_theta" not in theirs:
        fields["rotary_theta"] = 1_000_000.0
    theta = float(near.get("rope_theta", theirs.get("rope_local_base_freq", 10_000.0)))
    return {**fields, "window_theta": theta if "window" in fields else None}


def _their_gemma3(config):
    rope = rotary.written(config)
    return {
        **_their_gemma2(config), "rope_theta": rope["rope_theta"], "rope_scaling": rope.get("rope_scaling"),
        "rope_local_base_freq": config.rotary_theta if config.window_theta is None else config.window_theta,
    }  # fmt: skip


GEMMA3 = replace(
    GEMMA2,
    architectures={"language_modeling": "Gemma3ForCausalLM"},
    fixed=dict(GEMMA2.fixed, normalize_qk=True),
    adjust=_gemma3_fields,
    adjusted=(*GEMMA2.adjusted, "rope_local_base_freq", "sliding_window_pattern"),
    irrelevant="cache_implementation _sliding_window_pattern",
    defaults={
        **{k: v for k, v in GEMMA2.defaults.items() if "softcapping" not in k}, "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
    },
    theirs=_their_gemma3,
)  # fmt: skip
