"""Decoders that descend from GPT-2: layer norms, biases, plain networks, and positions in several ways."""

from dataclasses import replace

from zoo.config import Refusal
from zoo.convert.decoder_pieces import NETWORKS, ROPE, block, rotary_fields, shape_fields, their_network, their_share
from zoo.convert.llama_like import LLAMA, LLAMA_NAMES
from zoo.convert.rules import Family, Rule, linear, norm

# Other names of fields in files of GPT-2's time, as transformers takes them.
SIZES = {
    "hidden_size": "n_embd", "max_position_embeddings": "n_positions", "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}  # fmt: skip
GPT2 = Family(
    model="gpt",
    prefix="transformer.",
    fields=dict(
        vocab_size="vocab_size", max_length="n_positions", num_layers="n_layer", num_heads="n_head", hidden_dim="n_embd",
        epsilon="layer_norm_epsilon", dropout="resid_pdrop",
    ),
    fixed=dict(position="learned", norm="layer", activation="gelu", use_bias=True, tie_embeddings=True),
    required=dict(
        activation_function=(None, "gelu_new", "gelu_pytorch_tanh"), scale_attn_weights=(None, True),
        scale_attn_by_inverse_layer_idx=(None, False), tie_word_embeddings=(None, True), add_cross_attention=(None, False),
    ),
    embeddings=[Rule("embeddings/embeddings", ("wte.weight",)), Rule("positions/embeddings", ("wpe.weight",))],
    block=[
        *norm("block_{i}/attention_norm", "h.{i}.ln_1"),
        *linear("block_{i}/attention/qkv", "h.{i}.attn.c_attn", transposed=False),
        *linear("block_{i}/attention/output_projection", "h.{i}.attn.c_proj", transposed=False),
        *norm("block_{i}/mlp_norm", "h.{i}.ln_2"),
        *linear("block_{i}/mlp/expand", "h.{i}.mlp.c_fc", transposed=False),
        *linear("block_{i}/mlp/contract", "h.{i}.mlp.c_proj", transposed=False),
    ],
    final=norm("final_norm", "ln_f"),
    ignored=(r"h\.\d+\.attn\.(masked_)?bias",),
    copies={"lm_head.weight": "wte.weight"},
    architectures={"language_modeling": "GPT2LMHeadModel"},
    adjust=lambda theirs: {"mlp_dim": theirs.get("n_inner")},
    adjusted=("n_inner",),
    defaults=dict(
        vocab_size=50_257, n_positions=1_024, n_embd=768, n_layer=12, n_head=12, resid_pdrop=0.1, layer_norm_epsilon=1e-5,
    ),
    theirs=lambda config: {
        "n_inner": config.mlp_dim, "activation_function": "gelu_new", "attn_pdrop": 0.0, "embd_pdrop": config.dropout,
    },
    aliases=SIZES,
)  # fmt: skip

OPENAI_GPT = replace(
    GPT2,
    fixed=dict(GPT2.fixed, norm_first=False),
    required=dict(afn=("gelu",), tie_word_embeddings=(None, True)),
    embeddings=[
        Rule("embeddings/embeddings", ("tokens_embed.weight",)), Rule("positions/embeddings", ("positions_embed.weight",)),
    ],
    final=[],
    ignored=(*GPT2.ignored, r"position_ids"),
    copies={"lm_head.weight": "tokens_embed.weight"},
    architectures={"language_modeling": "OpenAIGPTLMHeadModel"},
    adjust=lambda theirs: {},
    adjusted=(),
    defaults=dict(
        vocab_size=40_478, n_positions=512, n_embd=768, n_layer=12, n_head=12, resid_pdrop=0.1, layer_norm_epsilon=1e-5,
        afn="gelu",
    ),
    theirs=lambda config: {"afn": "gelu" if config.mlp_dim is None else None, "attn_pdrop": 0.0, "embd_pdrop": config.dropout},
)  # fmt: skip


def _neox_fields(theirs):
    theta = theirs.get("rotary_emb_base", 10_000.0)
    return {
        **rotary_fields(theirs, theta, theirs.get("rotary_pct", 0.25)), **shape_fields(theirs),
        "activation": NETWORKS[theirs["hidden_act"]], "parallel": "own" if theirs["use_parallel_residual"] else "no",
    }  # fmt: skip


GPT_NEOX = replace(
    LLAMA,
    prefix="gpt_neox.",
    fields=dict(LLAMA.fields, epsilon="layer_norm_eps", dropout="hidden_dropout"),
    fixed=dict(position="rotary", norm="layer", use_bias=True),
    required=dict(hidden_act=tuple(NETWORKS), attention_bias=(None, True)),
    embeddings=[Rule("embeddings/embeddings", ("embed_in.weight",))],
    block=block(
        {
            "attention_norm": "input_layernorm",
            "attention/qkv": "attention.query_key_value",
            "attention/output_projection": "attention.dense",
            "mlp_norm": "post_attention_layernorm",
            "mlp/expand": "mlp.dense_h_to_4h",
            "mlp/contract": "mlp.dense_4h_to_h",
        },
        grouped=True,
    ),
    final=norm("final_norm", "final_layer_norm"),
    untied=[Rule("embeddings/reverse_embeddings", ("embed_out.weight",), transposed=True)],
    ignored=(r"layers\.\d+\.attention\.(masked_bias|bias|rotary_emb\.inv_freq)",),
    copies={"embed_out.weight": "embed_in.weight"},
    architectures={"language_modeling": "GPTNeoXForCausalLM"},
    adjust=_neox_fields,
    adjusted=(*ROPE, "tie_word_embeddings", "partial_rotary_factor", "rotary_pct", "rotary_emb_base", "use_parallel_residual"),
    defaults=dict(
        vocab_size=50_432, hidden_size=6_144, num_hidden_layers=44, num_attention_heads=64, intermediate_size=24_576,
        hidden_act="gelu", hidden_dropout=0.0, max_position_embeddings=2_048, layer_norm_eps=1e-5, use_parallel_residual=True,
    ),
    theirs=lambda config: {
        **{f"rotary_{their}": value for their, value in (
            ("emb_base", config.rotary_theta), ("pct", config.rotary_width / config.head_width),
        )},
        **their_share(config), "hidden_act": their_network(config.activation), "intermediate_size": config.mlp_width,
        "tie_word_embeddings": config.tie_embeddings, "use_parallel_residual": config.parallel == "own",
    },
)  # fmt: skip


def _opt_fields(theirs):
    width = theirs.get("word_embed_proj_dim") or theirs["hidden_size"]
    if width != theirs["hidden_size"]:
        raise Refusal(f"Embeddings are {width} wide, hidden states {theirs['hidden_size']}; here both have one width.")
    return {"activation": NETWORKS[theirs["activation_function"]]}


OPT = Family(
    model="gpt",
    prefix="model.decoder.",
    fields=dict(
        vocab_size="vocab_size", max_length="max_position_embeddings", num_layers="num_hidden_layers",
        num_heads="num_attention_heads", hidden_dim="hidden_size", mlp_dim="ffn_dim", dropout="dropout",
    ),
    fixed=dict(position="learned", position_offset=2, norm="layer", use_bias=True, epsilon=1e-5, tie_embeddings=True),
    required=dict(
        activation_function=tuple(NETWORKS), do_layer_norm_before=(True,), _remove_final_layer_norm=(None, False),
        enable_bias=(None, True), layer_norm_elementwise_affine=(None, True), tie_word_embeddings=(None, True),
    ),
    embeddings=[
        Rule("embeddings/embeddings", ("embed_tokens.weight",)), Rule("positions/embeddings", ("embed_positions.weight",)),
    ],
    block=block(
        {
            "attention_norm": "self_attn_layer_norm",
            "attention/qkv": LLAMA_NAMES["attention/qkv"],
            "attention/output_projection": "self_attn.out_proj",
            "mlp_norm": "final_layer_norm",
            "mlp/expand": "fc1",
            "mlp/contract": "fc2",
        }
    ),
    final=norm("final_norm", "final_layer_norm"),
    copies={"lm_head.weight": "embed_tokens.weight"},
    architectures={"language_modeling": "OPTForCausalLM"},
    adjust=_opt_fields,
    adjusted=("word_embed_proj_dim",),
    irrelevant="init_std layerdrop",
    defaults=dict(
        vocab_size=50_272, hidden_size=768, num_hidden_layers=12, ffn_dim=3_072, max_position_embeddings=2_048, dropout=0.1,
        num_attention_heads=12, activation_function="relu", do_layer_norm_before=True,
    ),
    theirs=lambda config: {
        "ffn_dim": config.mlp_width, "activation_function": their_network(config.activation), "do_layer_norm_before": True,
        "word_embed_proj_dim": config.hidden_dim,
    },
)  # fmt: skip


def _bloom_fields(theirs):
    # Distances have no end; the longest text of the training is what their files say, if they say any.
    width = theirs.get("n_embed") or theirs.get("n_embd") or theirs["hidden_size"]
    return {"hidden_dim": width, "max_length": theirs.get("seq_length") or 2_048}


QUERY_KEY_VALUE = {
    "attention_norm": "input_layernorm",
    "attention/qkv": "self_attention.query_key_value",
    "attention/output_projection": "self_attention.dense",
    "mlp_norm": "post_attention_layernorm",
    "mlp/expand": "mlp.dense_h_to_4h",
    "mlp/contract": "mlp.dense_4h_to_h",
}
BLOOM = Family(
    model="gpt",
    prefix="transformer.",
    fields=dict(
        vocab_size="vocab_size", num_layers="n_layer", num_heads="n_head", epsilon="layer_norm_epsilon",
        dropout="hidden_dropout",
    ),
    fixed=dict(
        position="alibi", norm="layer", activation="gelu", use_bias=True, tie_embeddings=True, normalize_embeddings=True,
    ),
    required=dict(
        apply_residual_connection_post_layernorm=(None, False), tie_word_embeddings=(None, True),
        slow_but_exact=(None, False),
    ),
    embeddings=[
        Rule("embeddings/embeddings", ("word_embeddings.weight",)), *norm("embedding_norm", "word_embeddings_layernorm"),
    ],
    block=block(QUERY_KEY_VALUE, "h.{i}", grouped=True),
    final=norm("final_norm", "ln_f"),
    copies={"lm_head.weight": "word_embeddings.weight"},
    architectures={"language_modeling": "BloomForCausalLM"},
    adjust=_bloom_fields,
    adjusted=("hidden_size", "n_embed", "n_embd", "seq_length"),
    irrelevant="offset_alibi attention_softmax_in_fp32 bias_dropout_fusion masked_softmax_fusion unk_token_id",
    defaults=dict(vocab_size=250_880, hidden_size=64, n_layer=2, n_head=8, layer_norm_epsilon=1e-5, hidden_dropout=0.0),
    theirs=lambda config: {"hidden_size": config.hidden_dim, "seq_length": config.max_length},
    aliases={name: own for name, own in SIZES.items() if name.startswith("num_")},
)  # fmt: skip


def _falcon_fields(theirs):
    new, heads = theirs["new_decoder_architecture"], theirs["num_attention_heads"]
    kv_heads = (theirs.get("num_kv_heads") or heads) if new else 1 if theirs["multi_query"] else heads
    norms = theirs.get("num_ln_in_parallel_attn") or (2 if new else 1)
    side_by_side = new or theirs["parallel_attn"]
    if norms == 2 and not new:
        raise Refusal("num_ln_in_parallel_attn=2 goes with new_decoder_architecture=true alone.")
    return {
        **rotary_fields(theirs), **shape_fields({"tie_word_embeddings": True, **theirs}), "num_kv_heads": kv_heads,
        "mlp_dim": theirs.get("ffn_hidden_size") or 4 * theirs["hidden_size"],
        "parallel": "no" if not side_by_side else "own" if norms == 2 else "shared",
        "activation": NETWORKS[theirs["activation"]],
    }  # fmt: skip


def _falcon_block(config):
    names = dict(QUERY_KEY_VALUE)
    if config.parallel == "own":
        names |= {"attention_norm": "ln_attn", "mlp_norm": "ln_mlp"}
    return block(names, "h.{i}", grouped=True)(config)


def _their_falcon(config):
    new = config.parallel == "own" or config.kv_heads not in (1, config.num_heads)
    return {
        **their_share(config), "new_decoder_architecture": new, "multi_query": config.kv_heads == 1 and not new,
        "num_kv_heads": config.kv_heads, "num_ln_in_parallel_attn": 2 if config.parallel == "own" else 1,
        "parallel_attn": config.parallel != "no", "bias": False, "alibi": False, "ffn_hidden_size": config.mlp_width,
        "activation": their_network(config.activation), "tie_word_embeddings": config.tie_embeddings,
    }  # fmt: skip


FALCON = Family(
    model="gpt",
    prefix="transformer.",
    fields=dict(
        vocab_size="vocab_size", max_length="max_position_embeddings", num_layers="num_hidden_layers",
        num_heads="num_attention_heads", hidden_dim="hidden_size", epsilon="layer_norm_epsilon", dropout="hidden_dropout",
    ),
    fixed=dict(position="rotary", norm="layer", use_bias=False),
    required=dict(alibi=(None, False), bias=(None, False), activation=tuple(NETWORKS)),
    embeddings=[Rule("embeddings/embeddings", ("word_embeddings.weight",))],
    block=_falcon_block,
    final=norm("final_norm", "ln_f"),
    untied=[Rule("embeddings/reverse_embeddings", ("lm_head.weight",), transposed=True)],
    copies={"lm_head.weight": "word_embeddings.weight"},
    architectures={"language_modeling": "FalconForCausalLM"},
    adjust=_falcon_fields,
    adjusted=(
        *ROPE, "new_decoder_architecture", "multi_query", "num_kv_heads", "num_ln_in_parallel_attn", "parallel_attn",
        "ffn_hidden_size", "tie_word_embeddings",
    ),
    defaults=dict(
        vocab_size=65_024, hidden_size=4_544, num_hidden_layers=32, num_attention_heads=71, layer_norm_epsilon=1e-5,
        hidden_dropout=0.0, new_decoder_architecture=False, multi_query=True, parallel_attn=True, activation="gelu",
        max_position_embeddings=2_048,
    ),
    theirs=_their_falcon,
)  # fmt: skip
