"""Marian's Transformer, as Hugging Face keeps it: the shape of the OPUS-MT models (Junczys-Dowmunt et al. 2018; Tiedemann and
Thottingal 2020)."""

from zoo.config import Refusal
from zoo.convert.rules import Family, Rule, linear, norm

MARIAN_ACTIVATIONS = {"relu": "relu", "swish": "silu", "silu": "silu", "gelu": "gelu_exact", "gelu_new": "gelu"}


def _marian_fields(theirs):
    for name, other in (("attention_heads", "num_heads"), ("ffn_dim", "mlp_dim")):
        encoder, decoder = theirs[f"encoder_{name}"], theirs[f"decoder_{name}"]
        if encoder != decoder:
            raise Refusal(f"The encoder has {name}={encoder} and the decoder {decoder}; this model has one {other} for both.")
    size, pad_id = theirs["vocab_size"], theirs.get("pad_token_id")
    if theirs.get("decoder_vocab_size") not in (None, size):
        raise Refusal(
            f"The decoder has {theirs['decoder_vocab_size']} ids and the encoder {size}; only a common table is read."
        )
    never = theirs.get("bad_words_ids")
    if never is not None and (never != [[pad_id]] or pad_id != size - 1):
        raise Refusal(
            f"bad_words_ids={never}: only the padding is never written here, and only where it is the last id, {size - 1}."
        )
    return {"activation": MARIAN_ACTIVATIONS[theirs["activation_function"]]}


def _marian_attention(ours, theirs, fused):
    projections = [tuple(f"{theirs}.{name}_proj" for name in names) for names in (("qkv",) if fused else ("q", "kv"))]
    names = ("qkv",) if fused else ("query", "key_value")
    rules = [rule for name, some in zip(names, projections, strict=True) for rule in linear(f"{ours}/{name}", *some)]
    return [*rules, *linear(f"{ours}/output_projection", f"{theirs}.out_proj"), *norm(f"{ours}_norm", f"{theirs}_layer_norm")]


def _marian_block(stack):
    ours, theirs = f"{stack}_{{i}}", f"{stack}.layers.{{i}}"
    cross = _marian_attention(f"{ours}/cross", f"{theirs}.encoder_attn", False) if stack == "decoder" else []
    return [
        *_marian_attention(f"{ours}/attention", f"{theirs}.self_attn", True),
        *cross,
        *linear(f"{ours}/mlp/expand", f"{theirs}.fc1"),
        *linear(f"{ours}/mlp/contract", f"{theirs}.fc2"),
        *norm(f"{ours}/mlp_norm", f"{theirs}.final_layer_norm"),
    ]


MARIAN = Family(
    model="transformer",
    prefix="model.",
    fields=dict(
        vocab_size="vocab_size", max_length="max_position_embeddings", num_layers="encoder_layers",
        num_decoder_layers="decoder_layers", num_heads="encoder_attention_heads", hidden_dim="d_model",
        mlp_dim="encoder_ffn_dim", dropout="dropout", scale_embeddings="scale_embedding",
    ),
    fixed=dict(
        position="sinusoidal_halves", norm="layer", norm_first=False, use_bias=True, tie_embeddings=True, output_bias=True,
        epsilon=1e-5,
    ),
    required=dict(
        activation_function=tuple(MARIAN_ACTIVATIONS), is_encoder_decoder=(True,), tie_word_embeddings=(None, True),
        share_encoder_decoder_embeddings=(None, True), normalize_before=(None, False), normalize_embedding=(None, False),
        add_final_layer_norm=(None, False), add_bias_logits=(None, False), static_position_embeddings=(None, True),
    ),
    embeddings=[Rule("embeddings/embeddings", ("shared.weight",))],
    block=_marian_block("encoder"),
    decoder_block=_marian_block("decoder"),
    final=[Rule("output_bias", ("final_logits_bias",), row=True)],
    # They follow from the position, and transformers computes them anew.
    ignored=(r"(encoder|decoder)\.embed_positions\.weight",),
    copies=dict.fromkeys(("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"), "shared.weight"),
    architectures=dict.fromkeys(("translation", "summarization"), "MarianMTModel"),
    adjust=_marian_fields,
    adjusted=(
        "decoder_attention_heads", "decoder_ffn_dim", "decoder_vocab_size", "bad_words_ids", "decoder_start_token_id",
    ),
    irrelevant=(
        "num_hidden_layers encoder_layerdrop decoder_layerdrop activation_dropout classif_dropout init_std "
        "extra_pos_embeddings forced_eos_token_id"
    ),
    defaults=dict(
        vocab_size=58_101, max_position_embeddings=1_024, encoder_layers=12, encoder_ffn_dim=4_096, encoder_attention_heads=16,
        decoder_layers=12, decoder_ffn_dim=4_096, decoder_attention_heads=16, activation_function="gelu", d_model=1_024,
        dropout=0.1, scale_embedding=False, pad_token_id=58_100, is_encoder_decoder=True,
    ),
    theirs=lambda config: {
        "decoder_layers": config.decoder_layers, "encoder_ffn_dim": config.mlp_width, "decoder_ffn_dim": config.mlp_width,
        "decoder_attention_heads": config.num_heads, "is_encoder_decoder": True,
        "activation_function": {ours: theirs for theirs, ours in MARIAN_ACTIVATIONS.items()}[config.activation],
    },
)  # fmt: skip


def fits(config):
    """Whether a Transformer's config is one that a Marian can have."""
    return config.activation in MARIAN_ACTIVATIONS.values() and all(getattr(config, k) == v for k, v in MARIAN.fixed.items())
