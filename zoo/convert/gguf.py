"""GGUF files, the format of llama.cpp, into bundles: weights dequantised to float32, the tokenizer included.

bundle = read("SmolLM2-135M-Instruct.Q4_1.gguf")
"""

import re
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np

from zoo.bundle import Bundle, unfilled
from zoo.config import Refusal, nearest
from zoo.convert.checklist import Checklist
from zoo.convert.gguf_models import ARCHITECTURES, TABLE
from zoo.convert.weights import assign
from zoo.layers.positions import rotary_frequencies
from zoo.registry import MODELS, TASKS, TOKENIZERS
from zoo.tokenizers.added import Added
from zoo.tokenizers.bpe import BYTE_SYMBOLS
from zoo.tokenizers.special import NOTHING, Special

# Their name of a way to cut words -> ours.
WORDS = {
    "gpt-2": "gpt2", "olmo": "gpt2", "smollm": "digits", "llama-bpe": "llama3", "smaug-bpe": "llama3", "dbrx": "llama3",
    "qwen2": "qwen2", "stablelm2": "qwen2", "chatglm-bpe": "llama3", "glm4": "llama3",
}  # fmt: skip
UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6  # the kinds of tokens, which have SentencePiece's numbers
# What llama.cpp takes for a SentencePiece model where the file says nothing.
PIECES_DEFAULTS = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, "add_bos_token": True, "add_space_prefix": True}
END_OF_TEXT = "<|endoftext|>"
# Metadata that is read: with the architecture's name before it, and without.
SAID = (
    "context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "attention.layer_norm_rms_epsilon",
    "attention.layer_norm_epsilon", "rope.dimension_count", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor",
    "rope.scale_linear", "rope.scaling.original_context_length", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
)  # fmt: skip
APPLIED = (
    "general.architecture", "general.name", "general.license", "tokenizer.ggml.model", "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges", "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id",
    "tokenizer.ggml.padding_token_id", "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token",
    "tokenizer.chat_template",
)  # fmt: skip
APPLIED_TO_PIECES = ("tokenizer.ggml.scores", "tokenizer.ggml.add_space_prefix", "tokenizer.ggml.unknown_token_id")
# Metadata that may be there with the value under which it changes nothing, in the same two ways.
INERT_SAID = {
    "expert_count": (None, 0), "expert_used_count": (None, 0), "logit_scale": (None, 0, 1), "residual_scale": (None, 0, 1),
    "embedding_scale": (None, 0, 1), "attention.scale": (None, 0), "attention.causal": (None, True),
    "attention.sliding_window": (None, 0), "attention.clamp_kqv": (None, 0), "attention.max_alibi_bias": (None, 0, 8),
    "use_parallel_residual": (None, False), "rope.scaling.attn_factor": (None, 1), "rope.scaling.yarn_attn_factor": (None, 1),
    "rope.scaling.yarn_ext_factor": (None, 1), "rope.scaling.yarn_log_multiplier": (None, 0),
}  # fmt: skip
INERT = {
    "general.type": (None, "model"), "split.count": (None, 0, 1), "split.no": (None, 0),
    "tokenizer.ggml.remove_extra_whitespaces": (None, False),
}  # fmt: skip
# Beginning of a name -> why it changes nothing here.
PREFIXES = {
    "GGUF.": "tells how the file is made", "quantize.": "tells how the file is made",
    "split.tensors.": "tells how the file is made", "tokenizer.chat_template.": "a template with another name",
    "tokenizer.ggml.scores": "of another kind of pieces",
    "tokenizer.ggml.unknown_token_id": "every text can be spelt",
    "tokenizer.ggml.add_space_prefix": "of another kind of pieces",
    "tokenizer.ggml.token_type_count": "of another kind of model",
    "general.": "text about the model",
}  # fmt: skip
PREFIXES_SAID = {"vocab_size": "follows from the tokens", "rope.scaling.finetuned": "tells where it comes from"}
ROPE_FREQS = "rope_freqs.weight"


class _Tensors:
    """The tensors of a file, read and dequantised a few rows at a time.

    The library would map the whole file into memory, where what has once been read stays.
    """

    def __init__(self, path, tensors, config, turns_neighbours):
        self._path, self._tensors, self._turns_neighbours = path, {tensor.name: tensor for tensor in tensors}, turns_neighbours
        self._heads = {"q": config.num_heads, "k": config.kv_heads}

    def names(self):
        return sorted(self._tensors)

    def shape(self, name):
        return tuple(int(size) for size in reversed(self._tensors[name].shape))

    def read(self, name, rows=slice(None)):
        tensor = self._tensors[name]
        projection = re.search(r"attn_([qk])\.", name) if self._turns_neighbours else None
        stored = self._stored(tensor, slice(None) if projection else rows)
        array = gguf.quants.dequantize(stored, tensor.tensor_type).astype(np.float32, copy=False)
        if projection is None:
            return array
        # llama.cpp turns neighbouring pairs (x_2i, x_2i+1), and stores the rows so; here a pair is (x_i, x_i+H/2).
        pairs = array.reshape(self._heads[projection[1]], -1, 2, *array.shape[1:])
        return pairs.swapaxes(1, 2).reshape(array.shape)[rows]

    def _stored(self, tensor, rows):
        data = tensor.data
        first, end, _ = rows.indices(len(data))
        width = int(np.prod(data.shape[1:]))
        offset = int(tensor.data_offset) + first * width * data.itemsize
        return np.fromfile(self._path, data.dtype, (end - first) * width, offset=offset).reshape(-1, *data.shape[1:])


def read(path):
    """The bundle of a GGUF file of one of `ARCHITECTURES`.

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
    name = fields.get("general.architecture")
    if name not in ARCHITECTURES:
        raise Refusal(f"{path} has the architecture {name!r}; {nearest(str(name), ARCHITECTURES)}")
    architecture = ARCHITECTURES[name]
    checklist = _checked(reader, path, name)
    tokenizer = _tokenizer(reader, path, architecture.begins)
    tensors = reader.tensors
    del reader  # it holds an array for each token and merge: 150 MB for 49,152 of them
    said = {key.removeprefix(f"{name}."): value for key, value in fields.items() if key.startswith(f"{name}.")}
    rows = next((int(tensor.shape[-1]) for tensor in tensors if tensor.name == TABLE), tokenizer.vocab_size)
    names = {tensor.name for tensor in tensors}
    architecture = architecture.of_file(names)
    config = architecture.config(said, names, rows, path)
    if tokenizer.vocab_size > rows:
        raise Refusal(f"The tokenizer in {path} has {tokenizer.vocab_size} ids, the model only {rows}.")
    stored = _Tensors(path, tensors, config, architecture.turns_neighbours)
    family = architecture.family
    if ROPE_FREQS in stored.names():
        config, family = _of_llama_3(stored.read(ROPE_FREQS), config, path), replace(family, ignored=(re.escape(ROPE_FREQS),))
    with unfilled():
        model = MODELS.get(family.model)(config).build_from_ids()
    assign(model, family, stored, with_head=False, where=str(path))
    kinds = sorted({tensor.tensor_type.name for tensor in tensors})
    provenance = {
        "converted_from": "gguf", "model_type": architecture.model_type, "source": path.name,
        "name": fields.get("general.name", ""),
        "licence": fields.get("general.license", ""), "stored_as": kinds, "checklist": checklist.report(),
    }  # fmt: skip
    return Bundle(model, tokenizer, TASKS.get("language_modeling")(), provenance)


def _checked(reader, path, name):
    """The `Checklist` of a file. Raises Refusal for metadata that is not known."""
    checklist, rest, own = Checklist(path), {}, ARCHITECTURES[name].applied
    applied = {*APPLIED, *(f"{name}.{field}" for field in (*SAID, *own))}
    model = reader.fields.get("tokenizer.ggml.model")
    if model is not None and model.contents() == "llama":
        applied |= {*APPLIED_TO_PIECES}
    inert = {**INERT, **{f"{name}.{field}": values for field, values in INERT_SAID.items() if field not in own}}
    prefixes = {**PREFIXES, **{f"{name}.{field}": why for field, why in PREFIXES_SAID.items()}}
    for key, field in reader.fields.items():
        reason = next((why for prefix, why in prefixes.items() if key.startswith(prefix)), None)
        if reason is None or key in applied or key in inert:
            is_array = field.types[0] == gguf.GGUFValueType.ARRAY  # which may be long
            rest[key] = "..." if is_array else field.contents()
        else:
            checklist.ignore(key, reason)
    checklist.fields("metadata", rest, applied, {}, inert)
    return checklist


def _of_llama_3(factors, config, path):
    """The config with Llama 3.1's scaling of rotary positions, which a file tells by what each frequency is divided by.

    Raises Refusal for other factors: `low_freq_factor`, `high_freq_factor` and the length of the training before are 1, 4 and
    8,192 in all of Llama's.
    """
    numbers = (float(np.max(factors)), 1.0, 4.0, 8_192.0)
    width, theta = config.rotary_width, config.rotary_theta
    scaled, _ = rotary_frequencies(width, theta, "llama3", numbers)
    plain, _ = rotary_frequencies(width, theta, "linear", (1.0,))
    if config.rotary_scaling != "none" or factors.shape != plain.shape or not np.allclose(plain / factors, scaled, rtol=1e-3):
        raise Refusal(f"{path} has {ROPE_FREQS} with other factors than those of Llama 3.1; only these are read here.")
    return config.replace(rotary_scaling="llama3", rotary_numbers=numbers)


def _tokenizer(reader, path, begins):
    """The tokenizer in a file: byte-level BPE, or SentencePiece's BPE, which llama.cpp calls `llama`.

    Args:
        reader: the library's reader of the file.
        path: of the file, for messages.
        begins: what texts may begin with, as an `Architecture` has it.
    """
    chat = reader.fields.get("tokenizer.chat_template")
    chat = None if chat is None else chat.contents()

    def field(name, default=None):
        entry = reader.fields.get(f"tokenizer.ggml.{name}")
        return default if entry is None else entry.contents()

    if field("model") == "llama":
        return _pieces(lambda name, default=None: field(name, PIECES_DEFAULTS.get(name, default)), chat, path, begins)
    words = field("pre")
    if field("model") == "gpt2" and words is None:
        raise Refusal(f"{path} does not say how words are cut (tokenizer.ggml.pre); make the file anew, so that it does.")
    if field("model") != "gpt2" or words not in WORDS:
        raise Refusal(
            f"{path} has a {field('model')} tokenizer with words cut as {words!r}; only pieces of SentencePiece (llama), and "
            f"byte-level BPE (gpt2) with words cut as {' or '.join(WORDS)}, are read here."
        )
    tokens, kinds = field("tokens"), field("token_type", [])
    plain, special = (
        {i: token for i, (token, kind) in enumerate(zip(tokens, kinds, strict=False)) if kind == one}
        for one in (USER_DEFINED, CONTROL)
    )
    special = [*special.values()]
    if END_OF_TEXT not in special and field("eos_token_id") is None:
        raise Refusal(f"{path} does not say which token ends a text (tokenizer.ggml.eos_token_id).")
    end = END_OF_TEXT if END_OF_TEXT in special else tokens[field("eos_token_id")]
    merges = [tuple(merge.split(" ")) for merge in field("merges", [])]
    made = {*BYTE_SYMBOLS, *("".join(merge) for merge in merges)}
    vocabulary = {token: i for i, token in enumerate(tokens) if i not in plain or token in made}
    added = [Added(token, i, normalized=False) for i, token in plain.items()]
    # llama.cpp begins every text of Llama 3's words so, unless the file says otherwise.
    adds_bos = field("add_bos_token", words == "llama-bpe" and field("bos_token_id") is not None)
    around = _around(field, tokens, special, end, path, adds_bos, begins)
    if chat is not None or _ends(field, tokens.index(end)):
        around = replace(around, chat_template=chat, ends=_ends(field, tokens.index(end)))
    pad = field("padding_token_id")
    if pad is not None and tokens[pad] in special:
        around = replace(around, roles={**around.roles, "pad": tokens[pad]})
    # As llama.cpp has it for Llama 3 alone: a word that is a token becomes that token.
    return TOKENIZERS.get("bpe")(vocabulary, merges, special, end, WORDS[words], around, words == "llama-bpe", added=added)


def _pieces(field, chat, path, begins):
    """The SentencePiece model in a file, as llama.cpp uses it: bytes for what has no piece, blanks as they are, one in front of
    every text that stands between tokens which are found as they are written.

    Args:
        field: (name, default) -> metadata of the tokenizer.
        chat: template of conversations, or None.
        path: of the file, for messages.
        begins: as in `_tokenizer`.
    """
    unigram = TOKENIZERS.get("unigram")  # says what to install where the library sentencepiece is missing
    from sentencepiece import sentencepiece_model_pb2

    from zoo.tokenizers.sentencepiece_bpe import Blanks

    tokens, scores, kinds = (field(name, []) for name in ("tokens", "scores", "token_type"))
    if not len(tokens) == len(scores) == len(kinds):
        raise Refusal(
            f"{path} has {len(tokens)} tokens, {len(scores)} scores and {len(kinds)} kinds of them; each token has one of both."
        )
    unknown, prepends = field("unknown_token_id"), field("add_space_prefix")
    plain = [i for i, kind in enumerate(kinds) if kind == USER_DEFINED]
    proto = sentencepiece_model_pb2.ModelProto()
    for i, (token, score, kind) in enumerate(zip(tokens, scores, kinds, strict=True)):
        kind = UNKNOWN if i == unknown else CONTROL if i in plain else kind
        proto.pieces.add(piece=token, score=float(score), type=int(kind))
    proto.trainer_spec.model_type = sentencepiece_model_pb2.TrainerSpec.BPE
    proto.trainer_spec.byte_fallback = BYTE in kinds
    proto.trainer_spec.unk_piece = tokens[unknown]
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = bool(prepends)
    proto.normalizer_spec.remove_extra_whitespaces = False
    special = {token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL}
    around = _around(field, tokens, special, tokens[field("eos_token_id")], path, field("add_bos_token"), begins)
    roles = {"unk": tokens[unknown], "eos": tokens[field("eos_token_id")], "bos": tokens[field("bos_token_id")]}
    if field("padding_token_id") is not None:
        roles["pad"] = tokens[field("padding_token_id")]
    around = replace(around, roles={**roles, **around.roles}, chat_template=chat, ends=_ends(field, field("eos_token_id")))
    added = [Added(tokens[i], i, normalized=False) for i in plain]
    blanks = Blanks(prepend="text" if prepends else "never", escape=True) if added else None
    return unigram(proto.SerializeToString(), around, added, blanks)


def _ends(field, eos_id):
    """The ids at which llama.cpp ends what a model writes, if there are more than the tokenizer's `eos_id`; or ()."""
    ids = dict.fromkeys([eos_id, *(field(f"{name}_token_id") for name in ("eos", "eot", "eom"))])
    ids.pop(None, None)
    return tuple(ids) if len(ids) > 1 else ()


def _around(field, tokens, special, end, path, adds_bos, begins):
    """What the file, or its kind of model, puts around a text, as a `Special`."""
    if not (adds_bos or field("add_eos_token")):
        begin = next((begin for begin in begins if {*begin} <= {*special}), None)
        return NOTHING if begin is None else Special({"eos": end}, (begin, (), ()))
    named = {role: tokens[field(f"{role}_token_id", tokens.index(end))] for role in ("bos", "eos")}
    for role, token in named.items():
        if token not in special:
            raise Refusal(f"{path} has {token!r} as its {role}_token_id, which is not a special token.")
    before = (named["bos"],) if adds_bos else ()
    after = (named["eos"],) if field("add_eos_token") else ()
    return Special({"bos": named["bos"], "eos": end}, (before, (*after, *before), after))
