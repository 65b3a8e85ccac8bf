"""The decoders of Hugging Face that become a `gpt`, by their `model_type`, and whether a config can be written as one.

They are one stack of blocks. What sets a family apart is the names of its tensors, and fields of `GPTConfig` that it always or
never has, or that its config.json says in words of its own.
"""

from zoo.config import Refusal
from zoo.convert import gpt_like, llama_like

DECODERS = {
    "gpt2": gpt_like.GPT2,
    "openai-gpt": gpt_like.OPENAI_GPT,
    "llama": llama_like.LLAMA,
    "mistral": llama_like.MISTRAL,
    "qwen2": llama_like.QWEN2,
    "qwen3": llama_like.QWEN3,
    "phi3": llama_like.PHI3,
    "olmo2": llama_like.OLMO2,
    "smollm3": llama_like.SMOLLM3,
    "stablelm": llama_like.STABLELM,
    "gemma": llama_like.GEMMA,
    "gemma2": llama_like.GEMMA2,
    "gemma3_text": llama_like.GEMMA3,
    "gpt_neox": gpt_like.GPT_NEOX,
    "opt": gpt_like.OPT,
    "bloom": gpt_like.BLOOM,
    "falcon": gpt_like.FALCON,
}


def is_written_as(family, config):
    """Whether a `GPTConfig` is another one of the same structure once it is written as one of a family, and read again."""
    try:
        back = family.config({**family.defaults, **family.written(config)}, set(), "config.json")
    except Refusal:
        return False
    return _structure(back) == _structure(config)


def _structure(config):
    """What of a config decides the numbers that its model computes: a dict."""
    fields = config.to_dict()
    for name in ("attention", "remat", "dropout", "num_kv_heads", "head_dim", "mlp_dim", "qkv_bias", "rotary_dim"):
        del fields[name]
    if config.position != "rotary":
        del fields["rotary_theta"]
    reached = config.window if config.window_theta or (config.window or 0) < config.max_length else None
    scale = config.head_width**-0.5 if config.attention_scale is None else config.attention_scale
    return fields | {
        "widths": (config.kv_heads, config.head_width, config.mlp_width, config.rotary_width), "bias": config.has_qkv_bias,
        "window": [reached and config.window_of(i) for i in range(config.num_layers)],
        "global_layers": None, "attention_scale": round(scale, 9),
    }  # fmt: skip
