"""What llama.cpp's architectures are: which decoder of Hugging Face each is, and where its tensors and its numbers stand.

A GGUF file says less than a config.json: what it does not say is what llama.cpp's program has for the architecture. Queries,
keys and values in one tensor stand side by side, gains of norms are whole, and all matrices are (outputs, inputs), whatever
Hugging Face's files of the same kind have.

    architecture = ARCHITECTURES["gemma2"]
    theirs = architecture.config(fields, names, path)      Hugging Face's config.json
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from zoo.config import Refusal
from zoo.convert.decoder_pieces import block
from zoo.convert.rules import Family, Rule, linear, norm
from zoo.convert.tables import FAMILIES

NAMES = {
    "attention_norm": "attn_norm",
    "attention/qkv": "attn_q attn_k attn_v",
    "attention/query_norm": "attn_q_norm",
    "attention/key_norm": "attn_k_norm",
    "attention/output_projection": "attn_output",
    "attention_output_norm": "post_attention_norm",
    "mlp_norm": "ffn_norm",
    "mlp/expand": "ffn_gate ffn_up",
    "mlp/contract": "ffn_down",
    "mlp_output_norm": "post_ffw_norm",
}
# Queries, keys and values in one tensor, and a plain network.
FUSED = {**NAMES, "attention/qkv": "attn_qkv", "mlp/expand": "ffn_up"}
GLM = {**NAMES, "mlp/expand": "ffn_up"}
# What a text of a GLM begins with: of GLM-4, and of ChatGLM3.
GLM_BEGINS = (("[gMASK]", "<sop>"), ("[gMASK]", "sop"))
OUTPUT, TABLE = "output.weight", "token_embd.weight"
THETA = 10_000.0  # where a file says none


@dataclass(frozen=True)
class Architecture:
    """An architecture of llama.cpp's.

    Attributes:
        model_type: Hugging Face's, whose table says which fields of the zoo's it has.
        names: the zoo's module -> theirs in a layer, one or several side by side.
        turns_neighbours: whether pairs (x_2i, x_2i+1) are turned there, and here (x_i, x_i+H/2): queries and keys are then
            stored in another order.
        turns_a_part: whether `rope.dimension_count` may be less than a head.
        may_join: whether a file may have queries, keys and values in one tensor or in three.
        begins: what texts may begin with where the vocabulary has these tokens, the first of several.
        applied: further metadata that is read, without the architecture's name before it.
        further: (what the file says, names of its tensors) -> further fields of config.json.
    """

    model_type: str
    names: dict = field(default_factory=lambda: NAMES)
    turns_neighbours: bool = False
    turns_a_part: bool = False
    may_join: bool = False
    begins: tuple = ()
    applied: tuple = ()
    further: Callable = lambda said, names: {}

    @property
    def family(self):
        """The table of its tensors."""
        theirs = FAMILIES[self.model_type]
        bias = theirs.fixed["norm"] == "layer"
        embeddings = [Rule("embeddings/embeddings", (TABLE,))]
        if theirs.fixed["position"] == "learned":
            embeddings += [Rule("positions/embeddings", ("position_embd.weight",))]
        if theirs.fixed.get("normalize_embeddings"):
            embeddings += norm("embedding_norm", "token_embd_norm")
        return Family(
            model=theirs.model, prefix="", fields={}, architectures={}, embeddings=embeddings, block=self._block,
            final=norm("final_norm", "output_norm", bias=bias),
            untied=[Rule("embeddings/reverse_embeddings", (OUTPUT,), transposed=True)], copies={OUTPUT: TABLE},
        )  # fmt: skip

    def of_file(self, names):
        """The architecture as a file with these tensors has it."""
        joined = self.may_join and "blk.0.attn_qkv.weight" in names
        return replace(self, names={**self.names, "attention/qkv": "attn_qkv"}) if joined else self

    def _block(self, config):
        names = dict(self.names)
        if FAMILIES[self.model_type].model == "glm":
            return _glm_block(names, config)
        if self.model_type == "falcon" and config.parallel == "own":  # Falcon 40B's two norms of one input
            names |= {"attention_norm": "attn_norm_2", "mlp_norm": "attn_norm"}
        return block(names, "blk.{i}")(config)

    def config(self, said, names, vocab_size, path):
        """Our config.

        Args:
            said: dict, metadata without the architecture's name before it.
            names: of the tensors.
            vocab_size: rows of the table.
            path: of the file, for a message.

        Raises:
            Refusal: it lacks a number, or asks for what the model does not do.
        """
        family = FAMILIES[self.model_type]
        try:
            heads, width = said["attention.head_count"], said["embedding_length"]
            head_dim = said.get("attention.key_length", width // heads)
            if said.get("attention.value_length", head_dim) != head_dim:
                raise Refusal(f"{path} has values of another width than keys; only equal ones are supported.")
            rotated = said.get("rope.dimension_count", head_dim)
            if rotated != head_dim and not self.turns_a_part:
                raise Refusal(f"{path} turns a part of each head only; this kind of model turns all of it.")
            epsilon = "layer_norm_epsilon" if family.fixed["norm"] == "layer" else "layer_norm_rms_epsilon"
            numbers = {
                "vocab_size": vocab_size, "max_length": said["context_length"], "num_layers": said["block_count"],
                "num_heads": heads, "hidden_dim": width, "mlp_dim": said.get("feed_forward_length", 4 * width),
                "epsilon": float(f"{said[f'attention.{epsilon}']:.6g}"),
            }  # fmt: skip
        except KeyError as error:
            raise Refusal(f"{path} does not say {error}, without which there is no model.") from error
        theirs = {family.fields[ours]: value for ours, value in numbers.items() if ours in family.fields}
        theirs |= {
            "num_key_value_heads": said.get("attention.head_count_kv", heads), "head_dim": head_dim,
            "rope_theta": float(said.get("rope.freq_base", THETA)), "tie_word_embeddings": OUTPUT not in names,
            **_scaling(said, path), **({"partial_rotary_factor": rotated / head_dim} if self.turns_a_part else {}),
        }  # fmt: skip
        defaults = {name: value for name, value in family.defaults.items() if name != "sliding_window"}
        return family.config({**defaults, **theirs, **self.further(said, names)}, names, path)


def _scaling(said, path):
    """Fields of their config.json. llama.cpp takes a factor without a type for linear scaling, and has two names of it.

    Raises Refusal for other kinds of scaling.
    """
    kind = said.get("rope.scaling.type", "linear")
    factor = said.get("rope.scaling.factor", said.get("rope.scale_linear", 0))
    if kind == "none" or (kind in ("linear", "yarn") and factor == 1) or (kind == "linear" and factor == 0):
        return {}
    if kind not in ("linear", "yarn"):
        by = f"{kind!r}" + (f" with the factor {factor:g}" if factor else "")
        raise Refusal(f"{path} scales its rotary positions by {by}; only 'linear', 'yarn' and 'none' are read here.")
    rope = {"rope_type": kind, "factor": float(factor)}
    if kind == "yarn":
        for name in ("factor", "original_context_length"):
            if not said.get(f"rope.scaling.{name}"):
                raise Refusal(f"{path} scales its rotary positions by 'yarn', and does not say rope.scaling.{name}.")
        rope["original_max_position_embeddings"] = said["rope.scaling.original_context_length"]
        rope |= {f"beta_{end}": said[f"rope.scaling.yarn_beta_{end}"] for end in ("fast", "slow")
                 if f"rope.scaling.yarn_beta_{end}" in said}  # fmt: skip
    return {"rope_scaling": rope}


def _glm_block(names, config):
    """The rules in a layer of a GLM, whose queries, keys and values alone may have a bias."""
    rules = []
    for module, theirs in names.items():
        ours, stems = f"block_{{i}}/{module}", [f"blk.{{i}}.{name}" for name in theirs.split()]
        if not module.endswith("norm"):
            rules += linear(ours, *stems, bias=module == "attention/qkv")
        elif module in ("attention_norm", "mlp_norm") or (config.norm_outputs and module.endswith("output_norm")):
            rules += norm(ours, stems[0], bias=False)
    return rules


def _glm(said, names):
    return {"attention_bias": not names.isdisjoint({"blk.0.attn_q.bias", "blk.0.attn_qkv.bias"})}


def _window(said):
    return {"sliding_window": said.get("attention.sliding_window") or None}


def _gemma2(said, names, large=46):
    # Scores are divided by the root of a head, but in the largest model by that of D / N.
    heads, width = said["attention.head_count"], said["embedding_length"]
    usual = said.get("attention.key_length", width // heads)
    window = said.get("attention.sliding_window", 4_096)
    return {
        "query_pre_attn_scalar": width // heads if said["block_count"] == large else usual, "sliding_window": window,
        "attn_logit_softcapping": said.get("attn_logit_softcapping"),
        "final_logit_softcapping": said.get("final_logit_softcapping"),
    }  # fmt: skip


def _gemma3(said, names):
    return {**_gemma2(said, names, large=62), "rope_local_base_freq": float(said.get("rope.freq_base_swa", THETA))}


def _stablelm(said, names):
    return {"use_qkv_bias": "blk.0.attn_q.bias" in names, "use_parallel_residual": "blk.0.ffn_norm.weight" not in names}


def _falcon(said, names):
    two, heads, kv_heads = (
        "blk.0.attn_norm_2.weight" in names,
        said["attention.head_count"],
        said.get("attention.head_count_kv", 1),
    )
    return {
        "new_decoder_architecture": two or kv_heads not in (1, heads), "multi_query": kv_heads == 1, "num_kv_heads": kv_heads,
        "num_ln_in_parallel_attn": 2 if two else 1, "parallel_attn": True,
        "ffn_hidden_size": said.get("feed_forward_length", 4 * said["embedding_length"]),
    }  # fmt: skip


def _bloom(said, names):
    return {"hidden_size": said["embedding_length"], "seq_length": said["context_length"]}


WINDOW = ("attention.sliding_window",)
PHI3 = Architecture(
    "phi3", {**NAMES, "attention/qkv": "attn_qkv", "mlp/expand": "ffn_up"}, turns_a_part=True, applied=WINDOW,
    further=lambda said, names: _window(said),
)  # fmt: skip
GEMMA2 = Architecture("gemma2", applied=(*WINDOW, "attn_logit_softcapping", "final_logit_softcapping"), further=_gemma2)
# Neighbours are turned, here as there.
CHATGLM = Architecture("glm", GLM, turns_a_part=True, may_join=True, begins=GLM_BEGINS, further=_glm)
ARCHITECTURES = {
    "llama": Architecture("llama", turns_neighbours=True),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "phi3": PHI3,
    "gemma": Architecture("gemma"),
    "gemma2": GEMMA2,
    "gemma3": replace(GEMMA2, model_type="gemma3_text", applied=(*GEMMA2.applied, "rope.freq_base_swa"), further=_gemma3),
    "olmo2": Architecture("olmo2"),
    "smollm3": Architecture("smollm3", turns_neighbours=True),
    "stablelm": Architecture("stablelm", turns_a_part=True, applied=("use_parallel_residual",), further=_stablelm),
    "gpt2": Architecture("gpt2", FUSED),
    "gptneox": Architecture(
        "gpt_neox", FUSED, turns_a_part=True, applied=("use_parallel_residual",),
        further=lambda said, names: {"use_parallel_residual": said.get("use_parallel_residual", True)},
    ),
    "bloom": Architecture("bloom", FUSED, further=_bloom),
    "falcon": Architecture("falcon", FUSED, applied=("tensor_data_layout",), further=_falcon),
    "chatglm": CHATGLM,
    "glm4": replace(CHATGLM, model_type="glm4"),
}  # fmt: skip
