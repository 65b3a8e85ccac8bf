"""How each `model_type` of Hugging Face becomes one of our models: one `Family` each, read in both directions."""

from dataclasses import replace

from zoo.config import Refusal
from zoo.convert import chatglm, marian
from zoo.convert.decoder_pieces import GELUS, WHOLE, WINDOWED
from zoo.convert.decoders import DECODERS, is_written_as
from zoo.convert.llama_like import LLAMA, llama_fields
from zoo.convert.rules import Family, Rule, linear, norm

ENCODER_BLOCK = [
    *linear("block_{i}/attention/qkv", *(f"encoder.layer.{{i}}.attention.self.{name}" for name in ("query", "key", "value"))),
    *linear("block_{i}/attention/output_projection", "encoder.layer.{i}.attention.output.dense"),
    *norm("block_{i}/attention_norm", "encoder.layer.{i}.attention.output.LayerNorm"),
    *linear("block_{i}/mlp/expand", "encoder.layer.{i}.intermediate.dense"),
    *linear("block_{i}/mlp/contract", "encoder.layer.{i}.output.dense"),
    *norm("block_{i}/mlp_norm", "encoder.layer.{i}.output.LayerNorm"),
]
ENCODER_EMBEDDINGS = [
    Rule("embeddings/embeddings", ("embeddings.word_embeddings.weight",)),
    Rule("positions/embeddings", ("embeddings.position_embeddings.weight",)),
    Rule("segments/embeddings", ("embeddings.token_type_embeddings.weight",)),
    *norm("embedding_norm", "embeddings.LayerNorm"),
]
ENCODER_FIELDS = dict(
    vocab_size="vocab_size", max_length="max_position_embeddings", num_layers="num_hidden_layers",
    num_heads="num_attention_heads", hidden_dim="hidden_size", mlp_dim="intermediate_size", num_segments="type_vocab_size",
    dropout="hidden_dropout_prob", epsilon="layer_norm_eps",
)  # fmt: skip
# What transformers' BertConfig, and those that follow it, have where a config.json is silent.
ENCODER_DEFAULTS = dict(
    vocab_size=30_522, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3_072,
    hidden_act="gelu", hidden_dropout_prob=0.1, max_position_embeddings=512, type_vocab_size=2,
    layer_norm_eps=1e-12,
)  # fmt: skip
ENCODER_REQUIRED = dict(
    hidden_act=tuple(GELUS), position_embedding_type=(None, "absolute"), is_decoder=(None, False),
    add_cross_attention=(None, False),
)  # fmt: skip


def _their_mlp(config):
    gelu = "gelu" if config.activation == "gelu_exact" else "gelu_new"
    return {"hidden_act": gelu, "intermediate_size": config.mlp_width}


BERT = Family(
    model="bert",
    prefix="bert.",
    fields=ENCODER_FIELDS,
    required=ENCODER_REQUIRED,
    embeddings=ENCODER_EMBEDDINGS,
    block=ENCODER_BLOCK,
    pooler=linear("pooler", "pooler.dense"),
    head=[
        *linear("head/transform", "cls.predictions.transform.dense"),
        *norm("head/norm", "cls.predictions.transform.LayerNorm"),
        Rule("head/bias", ("cls.predictions.bias",)),
    ],
    ignored=(r"embeddings\.position_ids",),
    copies={
        "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    dropped=(r"cls\.seq_relationship\.(weight|bias)",),
    defaults=ENCODER_DEFAULTS,
    architectures={"embedding": "BertModel", "masked_lm": "BertForMaskedLM"},
    adjust=lambda theirs: {"activation": GELUS[theirs["hidden_act"]]},
    theirs=_their_mlp,
)


def _roberta(model_type):
    return Family(
        model="bert",
        prefix="roberta.",
        fields=ENCODER_FIELDS,
        fixed=dict(position_offset=2),
        required={**ENCODER_REQUIRED, "pad_token_id": (None, 1)},
        embeddings=ENCODER_EMBEDDINGS,
        block=ENCODER_BLOCK,
        pooler=linear("pooler", "pooler.dense"),
        head=[
            *linear("head/transform", "lm_head.dense"),
            *norm("head/norm", "lm_head.layer_norm"),
            Rule("head/bias", ("lm_head.bias",)),
        ],
        ignored=(r"embeddings\.position_ids",),
        defaults={**ENCODER_DEFAULTS, "vocab_size": 50_265 if model_type == "Roberta" else 30_522},
        copies={"lm_head.decoder.weight": "embeddings.word_embeddings.weight", "lm_head.decoder.bias": "lm_head.bias"},
        architectures={"embedding": f"{model_type}Model", "masked_lm": f"{model_type}ForMaskedLM"},
        # Their number of positions counts the two that stand for padding.
        adjust=lambda theirs: {
            "activation": GELUS[theirs["hidden_act"]],
            "max_length": theirs["max_position_embeddings"] - 2,
        },
        theirs=lambda config: {
            **_their_mlp(config),
            "max_position_embeddings": config.max_length + 2,
            "pad_token_id": 1,
        },
    )


GATED_GELUS = {"gelu": "geglu", "gelu_exact": "geglu_exact"}


def _modernbert_fields(theirs):
    layers, every = theirs["num_hidden_layers"], theirs.get("global_attn_every_n_layers") or 3
    kinds = theirs.get("layer_types")
    if kinds:  # which layers see all is told in words of two kinds
        whole = [i for i, kind in enumerate(kinds) if kind == WHOLE]
        every = whole[1] if len(whole) > 1 else max(layers, 1)
        expected = [WINDOWED if i % every else WHOLE for i in range(layers)]
        if kinds != expected:
            raise Refusal(f"layer_types must be {WHOLE} in every so many-th layer from the first on, got {str(kinds)[:60]}.")
    rope, thetas = theirs.get("rope_parameters") or {}, {}
    for kind, field, default in ((WHOLE, "global", 160_000.0), (WINDOWED, "local", 10_000.0)):
        named = rope.get(kind) or {}
        if named.get("rope_type", "default") != "default" or theirs.get("rope_scaling"):
            raise Refusal("The rotary positions of a ModernBERT are not scaled here; its config.json scales them.")
        thetas[kind] = float(named.get("rope_theta") or theirs.get(f"{field}_rope_theta") or default)
    return {
        "window": theirs["local_attention"] // 2, "global_every": every, "rotary_theta": thetas[WHOLE],
        "window_theta": thetas[WINDOWED], "activation": GATED_GELUS[GELUS[theirs["hidden_activation"]]],
    }  # fmt: skip


def _their_modernbert(config):
    gelu = "gelu" if config.activation == "geglu_exact" else "gelu_new"
    return {
        "hidden_activation": gelu, "classifier_activation": gelu, "intermediate_size": config.mlp_width,
        "layer_types": [WHOLE if config.window_of(i) is None else WINDOWED for i in range(config.num_layers)],
        "local_attention": 2 * (config.window or config.max_length), "global_attn_every_n_layers": config.global_every,
        "global_rope_theta": config.rotary_theta, "local_rope_theta": config.window_theta,
        "rope_parameters": {
            WHOLE: {"rope_type": "default", "rope_theta": config.rotary_theta},
            WINDOWED: {"rope_type": "default", "rope_theta": config.window_theta},
        },
        "norm_bias": False, "attention_bias": False, "mlp_bias": False, "classifier_bias": False, "decoder_bias": True,
    }  # fmt: skip


MODERNBERT = Family(
    model="bert",
    prefix="model.",
    fields=dict(
        vocab_size="vocab_size", max_length="max_position_embeddings", num_layers="num_hidden_layers",
        num_heads="num_attention_heads", hidden_dim="hidden_size", mlp_dim="intermediate_size", dropout="mlp_dropout",
        epsilon="norm_eps",
    ),
    fixed=dict(modern=True, num_segments=1),
    required=dict(
        hidden_activation=tuple(GELUS), classifier_activation=(None, *GELUS), decoder_bias=(None, True),
        **dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), (None, False)),
    ),
    embeddings=[
        Rule("embeddings/embeddings", ("embeddings.tok_embeddings.weight",)),
        *norm("embedding_norm", "embeddings.norm", bias=False),
    ],
    block=[
        *(replace(rule, first=1) for rule in norm("block_{i}/attention_norm", "layers.{i}.attn_norm", bias=False)),
        *linear("block_{i}/attention/qkv", "layers.{i}.attn.Wqkv", bias=False),
        *linear("block_{i}/attention/output_projection", "layers.{i}.attn.Wo", bias=False),
        *norm("block_{i}/mlp_norm", "layers.{i}.mlp_norm", bias=False),
        *linear("block_{i}/mlp/expand", "layers.{i}.mlp.Wi", bias=False),
        *linear("block_{i}/mlp/contract", "layers.{i}.mlp.Wo", bias=False),
    ],
    final=norm("final_norm", "final_norm", bias=False),
    head=[
        *linear("head/transform", "head.dense", bias=False),
        *norm("head/norm", "head.norm", bias=False),
        Rule("head/bias", ("decoder.bias",)),
    ],
    copies={"decoder.weight": "embeddings.tok_embeddings.weight"},
    architectures={"embedding": "ModernBertModel", "masked_lm": "ModernBertForMaskedLM"},
    adjust=_modernbert_fields,
    adjusted=(
        "layer_types", "global_attn_every_n_layers", "rope_parameters", "rope_scaling", "global_rope_theta", "local_rope_theta",
        "local_attention",
    ),
    irrelevant=(
        "embedding_dropout classifier_pooling deterministic_flash_attn sparse_prediction sparse_pred_ignore_index "
        "initializer_cutoff_factor reference_compile repad_logits_with_grad position_embedding_type"
    ),
    defaults=dict(
        vocab_size=50_368, hidden_size=768, intermediate_size=1_152, num_hidden_layers=22, num_attention_heads=12,
        hidden_activation="gelu", max_position_embeddings=8_192, norm_eps=1e-5, local_attention=128, mlp_dropout=0.0,
    ),
    theirs=_their_modernbert,
)  # fmt: skip


def _glm_fields(theirs):
    rope = theirs.get("rope_parameters") or {}
    rotated = rope.get("partial_rotary_factor", theirs.get("partial_rotary_factor", 0.5))
    if rotated != 0.5:
        raise Refusal(f"Positions turn a share of {rotated} of each head; a GLM turns half.")
    fields = llama_fields(theirs)
    if fields.pop("rotary_scaling") != "none":
        raise Refusal(f"The rotary positions of a GLM are not scaled here; its config.json scales them by {rope}.")
    del fields["rotary_numbers"]
    return {**fields, "bias": "qkv" if theirs.get("attention_bias", True) else "none"}


def _glm(model_type, norm_outputs):
    names = {"attention_output_norm": "post_self_attn_layernorm", "mlp_output_norm": "post_mlp_layernorm"}
    outputs = [norm(f"block_{{i}}/{ours}", f"layers.{{i}}.{theirs}", bias=False)[0] for ours, theirs in names.items()]
    return replace(
        LLAMA,
        model="glm",
        fixed=dict(position="rotary", norm="rms", activation="swiglu", scaled_residual=False, norm_outputs=norm_outputs),
        required=dict(hidden_act=("silu", "swish")),
        block=[
            *norm("block_{i}/attention_norm", "layers.{i}.input_layernorm", bias=False),
            *linear("block_{i}/attention/qkv", *(f"layers.{{i}}.self_attn.{name}_proj" for name in "qkv")),
            *linear("block_{i}/attention/output_projection", "layers.{i}.self_attn.o_proj", bias=False),
            *norm("block_{i}/mlp_norm", "layers.{i}.post_attention_layernorm", bias=False),
            *linear("block_{i}/mlp/expand", "layers.{i}.mlp.gate_up_proj", bias=False),
            *linear("block_{i}/mlp/contract", "layers.{i}.mlp.down_proj", bias=False),
            *(outputs if norm_outputs else []),
        ],
        architectures={"language_modeling": f"{model_type}ForCausalLM"},
        adjust=_glm_fields,
        adjusted=(*LLAMA.adjusted, "partial_rotary_factor", "attention_bias"),
        defaults=dict(
            vocab_size=151_552, hidden_size=4_096, intermediate_size=13_696, num_hidden_layers=40, num_attention_heads=32,
            num_key_value_heads=2, head_dim=128, hidden_act="silu", max_position_embeddings=131_072, rms_norm_eps=1.5625e-7,
        ),
        theirs=lambda config: {
            **LLAMA.theirs(config), "partial_rotary_factor": 0.5, "attention_bias": config.bias == "qkv",
        },
    )  # fmt: skip


# Their name of a network -> ours. In a gate, and only there, they read `gelu` as its tanh form.
T5_ACTIVATIONS = {
    "relu": "relu", "gelu": "gelu_exact", "gelu_new": "gelu", "silu": "silu", "gated-gelu": "geglu", "gated-relu": "reglu",
    "gated-silu": "swiglu",
}  # fmt: skip


def _t5_fields(model_type):
    def adjust(theirs):
        named = theirs["feed_forward_proj"]
        gate = "gelu_new" if named == "gated-gelu" else named.removeprefix("gated-")
        if theirs.get("dense_act_fn", gate) != gate or theirs.get("is_gated_act", named != gate) != named.startswith("gated-"):
            raise Refusal(f"feed_forward_proj={named!r} and dense_act_fn={theirs['dense_act_fn']!r} are two networks.")
        # Whether the last hidden states are divided, not whether there is one table: that only the tensors tell.
        scaled = theirs.get("scale_decoder_outputs", theirs.get("tie_word_embeddings") is not False)
        return {"activation": T5_ACTIVATIONS[named], "scale_outputs": model_type != "MT5" and bool(scaled)}

    return adjust


def _t5_block(ours, theirs, cross):
    """The rules of a layer of one of the two stacks."""
    places = [("attention", "SelfAttention"), *([("cross", "EncDecAttention")] if cross else []), ("mlp", "DenseReluDense")]
    rules = [
        rule
        for i, (name, _) in enumerate(places)
        for rule in norm(f"{ours}/{name}_norm", f"{theirs}.layer.{i}.layer_norm", bias=False)
    ]
    where = f"{theirs}.layer.0.SelfAttention"
    rules += linear(f"{ours}/attention/qkv", *(f"{where}.{name}" for name in "qkv"), bias=False)
    rules += linear(f"{ours}/attention/output_projection", f"{where}.o", bias=False)
    if cross:
        where = f"{theirs}.layer.1.EncDecAttention"
        rules += linear(f"{ours}/cross/query", f"{where}.q", bias=False)
        rules += linear(f"{ours}/cross/key_value", f"{where}.k", f"{where}.v", bias=False)
        rules += linear(f"{ours}/cross/output_projection", f"{where}.o", bias=False)
    where = f"{theirs}.layer.{len(places) - 1}.DenseReluDense"
    return [
        *rules,
        *linear(f"{ours}/mlp/expand", f"{where}.wi", bias=False),
        *linear(f"{ours}/mlp/contract", f"{where}.wo", bias=False),
    ]


def _t5(model_type):
    bias_per_layer, first = model_type == "UMT5", model_type == "T5"
    tables = [
        Rule(
            f"{stack}_bias{'_{i}' if bias_per_layer else ''}/embeddings",
            (f"{stack}.block.{'{i}' if bias_per_layer else 0}.layer.0.SelfAttention.relative_attention_bias.weight",),
        )
        for stack in ("encoder", "decoder")
    ]
    blocks = [_t5_block(f"{stack}_{{i}}", f"{stack}.block.{{i}}", stack == "decoder") for stack in ("encoder", "decoder")]
    if bias_per_layer:
        blocks = [[*block, table] for block, table in zip(blocks, tables, strict=True)]
    return Family(
        model="t5",
        prefix="",
        fields=dict(
            vocab_size="vocab_size", num_layers="num_layers", num_decoder_layers="num_decoder_layers", num_heads="num_heads",
            head_dim="d_kv", hidden_dim="d_model", mlp_dim="d_ff", num_buckets="relative_attention_num_buckets",
            max_distance="relative_attention_max_distance", dropout="dropout_rate", epsilon="layer_norm_epsilon",
        ),
        fixed=dict(bias_per_layer=bias_per_layer),
        required=dict(feed_forward_proj=tuple(T5_ACTIVATIONS), is_encoder_decoder=(True,)),
        embeddings=[Rule("embeddings/embeddings", ("shared.weight",)), *([] if bias_per_layer else tables)],
        block=blocks[0],
        decoder_block=blocks[1],
        gated={"wi.weight": ("wi_0.weight", "wi_1.weight")},
        final=[
            rule
            for stack in ("encoder", "decoder")
            for rule in norm(f"{stack}_norm", f"{stack}.final_layer_norm", bias=False)
        ],
        untied=[Rule("embeddings/reverse_embeddings", ("lm_head.weight",), transposed=True)],
        tied=("lm_head.weight", "shared.weight"),
        # Files of 2019 have a table that nothing reads.
        ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
        copies=dict.fromkeys(("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"), "shared.weight"),
        architectures=dict.fromkeys(
            ("span_corruption", "translation", "summarization"), f"{model_type}ForConditionalGeneration"
        ),
        adjust=_t5_fields(model_type),
        adjusted=("tie_word_embeddings", "scale_decoder_outputs", "dense_act_fn", "is_gated_act", "decoder_start_token_id"),
        irrelevant="n_positions scalable_attention initializer_factor",
        defaults=dict(
            vocab_size=32_128 if first else 250_112, d_model=512, d_kv=64, d_ff=2_048 if first else 1_024,
            num_layers=6 if first else 8, num_heads=8 if first else 6, relative_attention_num_buckets=32,
            relative_attention_max_distance=128, dropout_rate=0.1, layer_norm_epsilon=1e-6,
            feed_forward_proj="relu" if first else "gated-gelu", is_encoder_decoder=True,
        ),
        theirs=lambda config: {
            "d_kv": config.head_width, "num_decoder_layers": config.decoder_layers, "is_encoder_decoder": True,
            "feed_forward_proj": {ours: theirs for theirs, ours in T5_ACTIVATIONS.items()}[config.activation],
            "tie_word_embeddings": config.outputs_scaled,
        },
        aliases={
            "hidden_size": "d_model", "num_attention_heads": "num_heads", "num_hidden_layers": "num_layers", "head_dim": "d_kv",
        },
    )  # fmt: skip


FAMILIES = {
    "bert": BERT,
    "roberta": _roberta("Roberta"),
    "xlm-roberta": _roberta("XLMRoberta"),
    "modernbert": MODERNBERT,
    **DECODERS,
    "glm": _glm("Glm", norm_outputs=False),
    "glm4": _glm("Glm4", norm_outputs=True),
    "chatglm": chatglm.LATER,
    "chatglm-6b": chatglm.FIRST,
    "t5": _t5("T5"),
    "mt5": _t5("MT5"),
    "umt5": _t5("UMT5"),
    "marian": marian.MARIAN,
}


def family_of(bundle):
    """The `model_type` that a bundle is written as. Raises Refusal when there is none."""
    config, name = bundle.model.config, bundle.model.registered_name
    if name == "bert":
        if config.modern:
            return "modernbert"
        # One structure; what sets the two apart is the kind of their vocabularies.
        roberta = "xlm-roberta" if bundle.tokenizer.registered_name == "unigram" else "roberta"
        return "bert" if config.position_offset == 0 else roberta
    if name == "t5" and config.activation in T5_ACTIVATIONS.values():
        return "umt5" if config.bias_per_layer else "t5"
    if name == "transformer" and marian.fits(config):
        return "marian"
    if name == "gpt":
        # What it came from, where it can still be that; then the first that it can be.
        known = bundle.provenance.get("model_type")
        for model_type in sorted(DECODERS, key=lambda each: each != known):
            if is_written_as(DECODERS[model_type], config):
                return model_type
    for model_type in ("glm", "glm4"):
        family = FAMILIES[model_type]
        if name == family.model and all(getattr(config, k) == v for k, v in family.fixed.items()) and config.bias != "all":
            return model_type
    raise Refusal(
        f"A {name} of this structure has no counterpart among {', '.join(FAMILIES)}; it cannot be written for Hugging Face."
    )
