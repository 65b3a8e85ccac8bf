"""The directories of ChatGLM-6B, ChatGLM2-6B, ChatGLM3-6B and GLM-4-9B as their makers wrote them, for code of their own that
is not run here. All have `model_type` chatglm; GLM-4 in the form of transformers (`glm`, `glm4`) is in `zoo/convert/tables.py`.
"""

from zoo.config import Refusal
from zoo.convert.rules import Family, Rule, linear, norm

FIRST = Family(
    model="glm",
    prefix="transformer.",
    fields=dict(
        vocab_size="vocab_size", max_length="max_sequence_length", num_layers="num_layers", num_heads="num_attention_heads",
        hidden_dim="hidden_size", mlp_dim="inner_hidden_size", epsilon="layernorm_epsilon", sop_id="bos_token_id",
    ),
    fixed=dict(position="rotary_2d", scaled_residual=True, norm="layer", activation="gelu", bias="all"),
    required=dict(position_encoding_2d=(True,), quantization_bit=(None, 0), pre_seq_len=(None,)),
    embeddings=[Rule("embeddings/embeddings", ("word_embeddings.weight",))],
    block=[
        *norm("block_{i}/attention_norm", "layers.{i}.input_layernorm"),
        *linear("block_{i}/attention/qkv", "layers.{i}.attention.query_key_value", grouped=True),
        *linear("block_{i}/attention/output_projection", "layers.{i}.attention.dense"),
        *norm("block_{i}/mlp_norm", "layers.{i}.post_attention_layernorm"),
        *linear("block_{i}/mlp/expand", "layers.{i}.mlp.dense_h_to_4h"),
        *linear("block_{i}/mlp/contract", "layers.{i}.mlp.dense_4h_to_h"),
    ],
    final=norm("final_norm", "final_layernorm"),
    untied=[Rule("embeddings/reverse_embeddings", ("lm_head.weight",), transposed=True)],
    tied=("lm_head.weight", "word_embeddings.weight"),
    copies={"lm_head.weight": "word_embeddings.weight"},
    ignored=(r"layers\.\d+\.attention\.rotary_emb\.inv_freq",),
    architectures={},
    adjusted=("auto_map", "tie_word_embeddings"),
    irrelevant="prefix_projection gmask_token_id",
    defaults=dict(
        vocab_size=130_528, hidden_size=4_096, num_layers=28, num_attention_heads=32, layernorm_epsilon=1e-5,
        max_sequence_length=2_048, inner_hidden_size=16_384, position_encoding_2d=True, bos_token_id=130_004,
    ),
)  # fmt: skip


def _later_fields(theirs):
    heads, ratio = theirs["num_attention_heads"], theirs.get("rope_ratio") or 1
    if ratio != 1 and theirs["padded_vocab_size"] < 151_552:
        raise Refusal(
            f"rope_ratio is {ratio}; the programs of ChatGLM2 and of ChatGLM3 mean different things by it, and neither is read."
        )
    return {
        "num_kv_heads": theirs["multi_query_group_num"] if theirs.get("multi_query_attention") else heads,
        "bias": "qkv" if theirs.get("add_qkv_bias") else "none", "rotary_theta": 10_000.0 * ratio,
    }  # fmt: skip


LATER = Family(
    model="glm",
    prefix="transformer.",
    fields=dict(
        vocab_size="padded_vocab_size", max_length="seq_length", num_layers="num_layers", num_heads="num_attention_heads",
        hidden_dim="hidden_size", mlp_dim="ffn_hidden_size", head_dim="kv_channels", epsilon="layernorm_epsilon",
        dropout="hidden_dropout",
    ),
    fixed=dict(position="rotary", norm="rms", activation="swiglu", scaled_residual=False, norm_outputs=False),
    required=dict(
        rmsnorm=(None, True), post_layer_norm=(None, True), add_bias_linear=(None, False), original_rope=(None, True),
        apply_residual_connection_post_layernorm=(None, False), interleaved_qkv=(None, False), quantization_bit=(None, 0),
        pre_seq_len=(None,),
    ),
    embeddings=[Rule("embeddings/embeddings", ("embedding.word_embeddings.weight",))],
    block=[
        *norm("block_{i}/attention_norm", "encoder.layers.{i}.input_layernorm", bias=False),
        *linear("block_{i}/attention/qkv", "encoder.layers.{i}.self_attention.query_key_value"),
        *linear("block_{i}/attention/output_projection", "encoder.layers.{i}.self_attention.dense", bias=False),
        *norm("block_{i}/mlp_norm", "encoder.layers.{i}.post_attention_layernorm", bias=False),
        *linear("block_{i}/mlp/expand", "encoder.layers.{i}.mlp.dense_h_to_4h", bias=False),
        *linear("block_{i}/mlp/contract", "encoder.layers.{i}.mlp.dense_4h_to_h", bias=False),
    ],
    final=norm("final_norm", "encoder.final_layernorm", bias=False),
    untied=[Rule("embeddings/reverse_embeddings", ("output_layer.weight",), transposed=True)],
    tied=("output_layer.weight", "embedding.word_embeddings.weight"),
    copies={"output_layer.weight": "embedding.word_embeddings.weight"},
    ignored=(r"rotary_pos_emb\.inv_freq",),
    architectures={},
    adjust=_later_fields,
    adjusted=(
        "auto_map", "tie_word_embeddings", "rope_ratio", "multi_query_attention", "multi_query_group_num", "add_qkv_bias",
    ),
    irrelevant=(
        "prefix_projection apply_query_key_layer_scaling attention_softmax_in_fp32 bias_dropout_fusion "
        "fp32_residual_connection attention_dropout"
    ),
    defaults=dict(
        padded_vocab_size=65_024, hidden_size=4_096, ffn_hidden_size=13_696, kv_channels=128, num_layers=28,
        num_attention_heads=32, seq_length=2_048, layernorm_epsilon=1e-5, hidden_dropout=0.0, multi_query_group_num=1,
    ),
)  # fmt: skip


def model_type_of(theirs):
    """The key in the table of families: `model_type`, and of ChatGLM which of the two layouts it is."""
    model_type = theirs.get("model_type")
    if model_type == "chatglm":
        return "chatglm-6b" if "position_encoding_2d" in theirs or "inner_hidden_size" in theirs else "chatglm"
    return model_type
