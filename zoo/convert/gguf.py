"""GGUF files, the format of llama.cpp, into bundles: weights dequantised to float32, the tokenizer included.

bundle = read("SmolLM2-135M-Instruct.Q4_1.gguf")
"""

import re
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np

from zoo.bundle import Bundle, unfilled
from zoo.config import Refusal
from zoo.convert.checklist import Checklist
from zoo.convert.llama_like import LLAMA
from zoo.convert.weights import assign
from zoo.registry import MODELS, TASKS, TOKENIZERS
from zoo.tokenizers.added import Added
from zoo.tokenizers.bpe import BYTE_SYMBOLS
from zoo.tokenizers.special import NOTHING, Special

# Their names of tensors -> those of Hugging Face, which our table knows.
NAMES = {
    r"token_embd\.weight": "embed_tokens.weight",
    r"output_norm\.weight": "norm.weight",
    r"output\.weight": "lm_head.weight",
    r"blk\.(\d+)\.attn_norm\.weight": r"layers.\1.input_layernorm.weight",
    r"blk\.(\d+)\.ffn_norm\.weight": r"layers.\1.post_attention_layernorm.weight",
    r"blk\.(\d+)\.attn_([qkv])\.weight": r"layers.\1.self_attn.\2_proj.weight",
    r"blk\.(\d+)\.attn_output\.weight": r"layers.\1.self_attn.o_proj.weight",
    r"blk\.(\d+)\.ffn_(gate|up|down)\.weight": r"layers.\1.mlp.\2_proj.weight",
}
# Their name of a way to cut words -> ours.
WORDS = {"gpt-2": "gpt2", "smollm": "digits", "llama-bpe": "llama3"}
CONTROL, USER_DEFINED = 3, 4
END_OF_TEXT = "<|endoftext|>"
# Metadata that is read.
APPLIED = (
    "general.architecture", "general.name", "general.license", "llama.context_length", "llama.embedding_length",
    "llama.block_count", "llama.feed_forward_length", "llama.attention.head_count", "llama.attention.head_count_kv",
    "llama.attention.key_length", "llama.attention.value_length", "llama.attention.layer_norm_rms_epsilon",
    "llama.rope.dimension_count", "llama.rope.freq_base", "llama.rope.scaling.type", "llama.rope.scaling.factor",
    "llama.rope.scale_linear", "tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type", "tokenizer.ggml.merges", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token", "tokenizer.chat_template",
)  # fmt: skip
# Metadata that may be there with the value under which it changes nothing.
INERT = {
    "general.type": (None, "model"), "llama.expert_count": (None, 0), "llama.expert_used_count": (None, 0),
    "llama.logit_scale": (None, 0, 1), "llama.residual_scale": (None, 0, 1), "llama.embedding_scale": (None, 0, 1),
    "llama.attention.scale": (None, 0), "llama.attention.causal": (None, True), "llama.attention.sliding_window": (None, 0),
    "llama.attention.clamp_kqv": (None, 0), "llama.use_parallel_residual": (None, False),
    "llama.rope.scaling.attn_factor": (None, 1), "split.count": (None, 0, 1), "split.no": (None, 0),
}  # fmt: skip
# Beginning of a name -> why it changes nothing here.
PREFIXES = {
    "GGUF.": "tells how the file is made", "quantize.": "tells how the file is made",
    "split.tensors.": "tells how the file is made", "llama.vocab_size": "follows from the tokens",
    "llama.rope.scaling.original_context_length": "of another kind of scaling",
    "llama.rope.scaling.finetuned": "of another kind of scaling", "llama.rope.scaling.yarn_": "of another kind of scaling",
    "llama.attention.layer_norm_epsilon": "of another kind of norm",
    "tokenizer.chat_template.": "a template with another name", "tokenizer.ggml.scores": "of another kind of pieces",
    "tokenizer.ggml.padding_token_id": "rows are padded under a mask",
    "tokenizer.ggml.unknown_token_id": "every text can be spelt",
    "tokenizer.ggml.add_space_prefix": "of another kind of pieces",
    "tokenizer.ggml.token_type_count": "of another kind of model",
    "general.": "text about the model",
}  # fmt: skip


class _Tensors:
    """The tensors of a file under Hugging Face's names, read and dequantised a few rows at a time.

    The library would map the whole file into memory, where what has once been read stays.
    """

    def __init__(self, path, tensors, config):
        self._path, self._tensors = path, {_renamed(tensor.name): tensor for tensor in tensors}
        self._heads = {"q": config.num_heads, "k": config.kv_heads}

    def names(self):
        return sorted(self._tensors)

    def shape(self, name):
        return tuple(int(size) for size in reversed(self._tensors[name].shape))

    def read(self, name, rows=slice(None)):
        tensor = self._tensors[name]
        projection = re.search(r"self_attn\.([qk])_proj", name)
        stored = self._stored(tensor, slice(None) if projection else rows)
        array = gguf.quants.dequantize(stored, tensor.tensor_type).astype(np.float32, copy=False)
        if projection is None:
            return array
        # llama.cpp turns neighbouring pairs (x_2i, x_2i+1), and stores the rows so; here a pair is (x_i, x_i+H/2).
        pairs = array.reshape(self._heads[projection[1]], -1, 2, array.shape[-1])
        return pairs.swapaxes(1, 2).reshape(array.shape)[rows]

    def _stored(self, tensor, rows):
        data = tensor.data
        first, end, _ = rows.indices(len(data))
        width = int(np.prod(data.shape[1:]))
        offset = int(tensor.data_offset) + first * width * data.itemsize
        return np.fromfile(self._path, data.dtype, (end - first) * width, offset=offset).reshape(-1, *data.shape[1:])


def _renamed(name):
    for pattern, replacement in NAMES.items():
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


def read(path):
    """The bundle of a GGUF file of the Llama type.

    Raises:
        Refusal: another architecture or tokenizer, metadata that is not known, tensors that are missing or left over, or no
            such file.
    """
    path = Path(path)
    if not path.is_file():
        raise Refusal(f"There is no file {path}.")
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError) as error:
        raise Refusal(f"{path} is not a GGUF file, or a damaged one ({error}).") from error
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.ggml.")}
    if fields.get("general.architecture") != "llama":
        raise Refusal(f"{path} has the architecture {fields.get('general.architecture')!r}; only 'llama' is read here.")
    checklist = _checked(reader, path)
    tokenizer = _tokenizer(reader, path)
    tensors = reader.tensors
    del reader  # it holds an array for each token and merge: 150 MB for 49,152 of them
    tied = not any(tensor.name == "output.weight" for tensor in tensors)
    config = _config(fields, tokenizer.vocab_size, tied, path)
    with unfilled():
        model = MODELS.get("gpt")(config).build_from_ids()
    assign(model, LLAMA, _Tensors(path, tensors, config), with_head=False, where=str(path))
    kinds = sorted({tensor.tensor_type.name for tensor in tensors})
    provenance = {
        "converted_from": "gguf", "source": path.name, "name": fields.get("general.name", ""),
        "licence": fields.get("general.license", ""), "stored_as": kinds, "checklist": checklist.report(),
    }  # fmt: skip
    return Bundle(model, tokenizer, TASKS.get("language_modeling")(), provenance)


def _checked(reader, path):
    """The `Checklist` of a file. Raises Refusal for metadata that is not known."""
    checklist, rest = Checklist(path), {}
    for name, field in reader.fields.items():
        reason = next((why for prefix, why in PREFIXES.items() if name.startswith(prefix)), None)
        if reason is None or name in APPLIED or name in INERT:
            is_array = field.types[0] == gguf.GGUFValueType.ARRAY  # which may be long
            rest[name] = "..." if is_array else field.contents()
        else:
            checklist.ignore(name, reason)
    checklist.fields("metadata", rest, APPLIED, {}, INERT)
    return checklist


def _scaling(fields, path):
    """Fields of a `GPTConfig`. llama.cpp takes a factor without a type for linear scaling, and has two names of it.

    Raises Refusal for other kinds of scaling.
    """
    kind = fields.get("llama.rope.scaling.type", "linear")
    factor = fields.get("llama.rope.scaling.factor", fields.get("llama.rope.scale_linear", 0))
    if kind == "none" or (kind == "linear" and factor in (0, 1)):
        return {}
    if kind != "linear":
        by = f"{kind!r}" + (f" with the factor {factor:g}" if factor else "")
        raise Refusal(f"{path} scales its rotary positions by {by}; only 'linear' and 'none' are read here.")
    return {"rotary_scaling": "linear", "rotary_numbers": (float(factor),)}


def _config(fields, vocab_size, tied, path):
    scaling = _scaling(fields, path)
    try:
        num_heads, hidden_dim = fields["llama.attention.head_count"], fields["llama.embedding_length"]
        head_dim = fields.get("llama.attention.key_length", hidden_dim // num_heads)
        if fields.get("llama.attention.value_length", head_dim) != head_dim:
            raise Refusal(f"{path} has values of another width than keys; only equal ones are supported.")
        if fields.get("llama.rope.dimension_count", head_dim) != head_dim:
            raise Refusal(f"{path} turns a part of each head only; rotary positions turn all of it here.")
        return MODELS.config("gpt")(
            vocab_size=vocab_size,
            max_length=fields["llama.context_length"],
            num_layers=fields["llama.block_count"],
            num_heads=num_heads,
            num_kv_heads=fields.get("llama.attention.head_count_kv", num_heads),
            head_dim=head_dim,
            hidden_dim=hidden_dim,
            mlp_dim=fields["llama.feed_forward_length"],
            epsilon=round(fields["llama.attention.layer_norm_rms_epsilon"], 12),
            rotary_theta=fields.get("llama.rope.freq_base", 10_000.0),
            tie_embeddings=tied,
            **scaling,
            **LLAMA.fixed,
        )
    except KeyError as error:
        raise Refusal(f"{path} does not say {error}, without which there is no model.") from error


def _tokenizer(reader, path):
    """The byte-level BPE tokenizer in a file."""

    def field(name, default=None):
        entry = reader.fields.get(f"tokenizer.ggml.{name}")
        return default if entry is None else entry.contents()

    words = field("pre")
    if field("model") == "gpt2" and words is None:
        raise Refusal(f"{path} does not say how words are cut (tokenizer.ggml.pre); make the file anew, so that it does.")
    if field("model") != "gpt2" or words not in WORDS:
        raise Refusal(
            f"{path} has a {field('model')} tokenizer with words cut as {words!r}; only byte-level BPE (gpt2) with "
            "words cut as "
            f"{' or '.join(WORDS)} is read here."
        )
    tokens, kinds = field("tokens"), field("token_type", [])
    plain, special = (
        {i: token for i, (token, kind) in enumerate(zip(tokens, kinds, strict=False)) if kind == one}
        for one in (USER_DEFINED, CONTROL)
    )
    special = list(special.values())
    end = END_OF_TEXT if END_OF_TEXT in special else tokens[field("eos_token_id", 0)]
    merges = [tuple(merge.split(" ")) for merge in field("merges", [])]
    made = {*BYTE_SYMBOLS, *("".join(merge) for merge in merges)}
    vocabulary = {token: i for i, token in enumerate(tokens) if i not in plain or token in made}
    added = [Added(token, i, normalized=False) for i, token in plain.items()]
    around = _around(field, tokens, special, end, path)
    chat = reader.fields.get("tokenizer.chat_template")
    if chat is not None:
        around = replace(around, chat_template=chat.contents())
    # As llama.cpp has it for Llama 3 alone: a word that is a token becomes that token.
    return TOKENIZERS.get("bpe")(vocabulary, merges, special, end, WORDS[words], around, words == "llama-bpe", added=added)


def _around(field, tokens, special, end, path):
    """What the file puts around a text, as a `Special`."""
    if not (field("add_bos_token") or field("add_eos_token")):
        return NOTHING
    named = {role: tokens[field(f"{role}_token_id", tokens.index(end))] for role in ("bos", "eos")}
    for role, token in named.items():
        if token not in special:
            raise Refusal(f"{path} has {token!r} as its {role}_token_id, which is not a special token.")
    before = (named["bos"],) if field("add_bos_token") else ()
    after = (named["eos"],) if field("add_eos_token") else ()
    return Special({"bos": named["bos"], "eos": end}, (before, (*after, *before), after))
