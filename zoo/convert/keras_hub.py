"""KerasHub's preset directories into bundles: BERT, RoBERTa, GPT-2 and T5, read with h5py and without KerasHub's classes.

bundle = read("my_preset")                 config.json, model.weights.h5, tokenizer.json, assets/tokenizer/...
bundle = read(fetch("bert_tiny_en_uncased"))     a published preset by its name, from Kaggle

Keras stores a layer's variables by number under the layer's path; `MODULES` says which path is which module of the family's
table.
"""

import re
from pathlib import Path

import h5py
import numpy as np

from zoo.bundle import Bundle
from zoo.config import Refusal, nearest
from zoo.convert.assembly import assemble
from zoo.convert.checklist import Checklist
from zoo.convert.old_tensorflow import datasets
from zoo.convert.tables import FAMILIES
from zoo.convert.weights import Joined, Reshaped, Tensors, Transposed
from zoo.registry import TOKENIZERS
from zoo.tokenizers.base import read_json
from zoo.tokenizers.bpe import read_merges
from zoo.tokenizers.pretrained import NUM_SENTINELS, ROBERTA, T5_TEMPLATE
from zoo.tokenizers.special import NOTHING, Special, sentinel_name

WEIGHTS, HEAD_WEIGHTS, SHARDED = "model.weights.h5", "task.weights.h5", "model.weights.json"
ASSETS = Path("assets") / "tokenizer"
FIELDS = dict(
    vocab_size="vocabulary_size", num_hidden_layers="num_layers", num_attention_heads="num_heads", hidden_size="hidden_dim",
    intermediate_size="intermediate_dim", hidden_dropout_prob="dropout", max_position_embeddings="max_sequence_length",
    type_vocab_size="num_segments",
)  # fmt: skip
GPT2_FIELDS = dict(
    vocab_size="vocabulary_size", n_layer="num_layers", n_head="num_heads", n_embd="hidden_dim", n_inner="intermediate_dim",
    resid_pdrop="dropout", n_positions="max_sequence_length",
)  # fmt: skip
ENCODER = {
    "embeddings.LayerNorm": "layer_normalization",
    "encoder.layer.{i}.attention.self.query": "transformer_encoder{_i}/_self_attention_layer/query_dense",
    "encoder.layer.{i}.attention.self.key": "transformer_encoder{_i}/_self_attention_layer/key_dense",
    "encoder.layer.{i}.attention.self.value": "transformer_encoder{_i}/_self_attention_layer/value_dense",
    "encoder.layer.{i}.attention.output.dense": "transformer_encoder{_i}/_self_attention_layer/output_dense",
    "encoder.layer.{i}.attention.output.LayerNorm": "transformer_encoder{_i}/_self_attention_layer_norm",
    "encoder.layer.{i}.intermediate.dense": "transformer_encoder{_i}/_feedforward_intermediate_dense",
    "encoder.layer.{i}.output.dense": "transformer_encoder{_i}/_feedforward_output_dense",
    "encoder.layer.{i}.output.LayerNorm": "transformer_encoder{_i}/_feedforward_layer_norm",
}
T5_FIELDS = dict(
    vocab_size="vocabulary_size", num_layers="num_layers", num_heads="num_heads", d_model="hidden_dim", d_ff="intermediate_dim",
    d_kv="key_value_dim", dropout_rate="dropout", layer_norm_epsilon="layer_norm_epsilon",
    tie_word_embeddings="tie_embedding_weights",
)  # fmt: skip
# KerasHub's (activation, whether there is a gate) -> Hugging Face's name of the network.
T5_NETWORKS = {
    ("relu", False): "relu", ("gelu", False): "gelu", ("gelu_approximate", False): "gelu_new", ("silu", False): "silu",
    ("relu", True): "gated-relu", ("gelu_approximate", True): "gated-gelu", ("silu", True): "gated-silu",
}  # fmt: skip


def _t5_stack(stack, layer):
    """Module of the table -> path of the layer, of the encoder or the decoder."""
    attentions = {0: ("SelfAttention", "self_attention"), 1: ("EncDecAttention", "cross_attention")}
    attentions = attentions if stack == "decoder" else {0: attentions[0]}
    paths = {f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias": f"{layer}/self_attention"}
    for number, (theirs, hub) in attentions.items():
        where = f"{stack}.block.{{i}}.layer.{number}"
        paths[f"{where}.layer_norm"] = f"{layer}/{hub}_layer_norm"
        for name, projector in zip("qkvo", ("query", "key", "value", "output"), strict=True):
            paths[f"{where}.{theirs}.{name}"] = f"{layer}/{hub}/{projector}_projector"
    where = f"{stack}.block.{{i}}.layer.{len(attentions)}"
    return paths | {
        f"{where}.layer_norm": f"{layer}/layer_norm",
        f"{where}.DenseReluDense.wi_0": f"{layer}/input_projector",
        f"{where}.DenseReluDense.wi_1": f"{layer}/gate_projector",
        f"{where}.DenseReluDense.wo": f"{layer}/output_projector",
    }


# Backbone's class -> module of the table -> path of the layer; several are joined. {_i} is nothing for the first layer, and
# {_d} is the number of a decoder's layer, which follows those of the encoder's.
MODULES = {
    "BertBackbone": {
        **ENCODER,
        "embeddings.word_embeddings": "reversible_embedding",
        "embeddings.position_embeddings": "position_embedding",
        "embeddings.token_type_embeddings": "embedding",
        "pooler.dense": "dense",
        "cls.predictions.transform.dense": "head/masked_lm_head/_intermediate_dense",
        "cls.predictions.transform.LayerNorm": "head/masked_lm_head/_intermediate_layer_norm",
        "cls.predictions": "head/masked_lm_head",
    },
    "RobertaBackbone": {
        **ENCODER,
        "embeddings.word_embeddings": "token_and_position_embedding/token_embedding",
        "embeddings.position_embeddings": "token_and_position_embedding/position_embedding",
        "lm_head.dense": "head/masked_lm_head/_intermediate_dense",
        "lm_head.layer_norm": "head/masked_lm_head/_intermediate_layer_norm",
        "lm_head": "head/masked_lm_head",
    },
    "GPT2Backbone": {
        "wte": "reversible_embedding",
        "wpe": "position_embedding",
        "h.{i}.ln_1": "transformer_decoder{_i}/_self_attention_layer_norm",
        "h.{i}.attn.c_attn": tuple(
            f"transformer_decoder{{_i}}/_self_attention_layer/{name}_dense" for name in ("query", "key", "value")
        ),
        "h.{i}.attn.c_proj": "transformer_decoder{_i}/_self_attention_layer/output_dense",
        "h.{i}.ln_2": "transformer_decoder{_i}/_feedforward_layer_norm",
        "h.{i}.mlp.c_fc": "transformer_decoder{_i}/_feedforward_intermediate_dense",
        "h.{i}.mlp.c_proj": "transformer_decoder{_i}/_feedforward_output_dense",
        "ln_f": "layer_normalization",
    },
    "T5Backbone": {
        "shared": "reversible_embedding",
        **_t5_stack("encoder", "t5_transformer_layer{_i}"),
        **_t5_stack("decoder", "t5_transformer_layer{_d}"),
        "encoder.final_layer_norm": "t5_layer_norm",
        "decoder.final_layer_norm": "t5_layer_norm_1",
    },
}
# Backbone's class -> (model_type, field of Hugging Face's -> KerasHub's, what KerasHub has in its code).
STRUCTURES = {
    "BertBackbone": ("bert", FIELDS, dict(hidden_act="gelu_new", layer_norm_eps=1e-12)),
    "RobertaBackbone": ("roberta", FIELDS, dict(hidden_act="gelu", layer_norm_eps=1e-5, type_vocab_size=1)),
    "GPT2Backbone": ("gpt2", GPT2_FIELDS, dict(activation_function="gelu_new", layer_norm_epsilon=1e-5)),
    "T5Backbone": (
        "t5", T5_FIELDS,
        dict(is_encoder_decoder=True, relative_attention_num_buckets=32, relative_attention_max_distance=128),
    ),
}  # fmt: skip
TOKENIZER_OF = {
    "BertBackbone": "BertTokenizer", "RobertaBackbone": "RobertaTokenizer", "GPT2Backbone": "GPT2Tokenizer",
    "T5Backbone": "T5Tokenizer",
}  # fmt: skip
T5_ROLES = {"eos": "</s>", "pad": "<pad>", "unk": "<unk>"}
# Modules whose only variable is not a `weight`.
BIASES = ("cls.predictions", "lm_head")
# KerasHub's head has these, whatever its encoder has.
HEAD = dict(head_activation="gelu_exact", head_epsilon=1e-5)
# RoBERTa's positions are counted from 2 in the world, and from 0 in KerasHub, whose table lacks the rows of padding.
PADDING_ROWS = 2


def is_preset(directory):
    """Whether a directory is one of KerasHub's presets."""
    path = Path(directory) / "config.json"
    return path.is_file() and str(read_json(path).get("class_name", "")).endswith("Backbone")


def fetch(name):
    """The directory of a published preset, loaded down from Kaggle or taken from its cache.

    Raises:
        Refusal: there is no preset of this name among those that are read here, or Kaggle cannot be reached.
    """
    import kagglehub
    import keras_nlp

    published = {}
    for backbone in MODULES:
        published.update(getattr(keras_nlp.models, backbone).presets)
    if name not in published:
        raise Refusal(f"KerasHub has no preset {name!r} that is read here; {nearest(name, published)}")
    handle = published[name]["kaggle_handle"].removeprefix("kaggle://")
    try:
        return Path(kagglehub.model_download(handle))
    except Exception as error:  # whatever its way to the network raises
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise Refusal(
            f"The preset {name} could not be had from Kaggle ({reason}). Without a network, copy its directory here "
            "and give that."
        ) from error


def read(directory):
    """The bundle of a preset directory.

    Raises:
        Refusal: another architecture or tokenizer, or tensors that are missing or left over.
    """
    directory = Path(directory)
    config = read_json(directory / "config.json")
    backbone = config.get("class_name")
    if backbone not in MODULES:
        raise Refusal(f"{directory} has a {backbone}; only {', '.join(MODULES)} are read here.")
    model_type, fields, fixed = STRUCTURES[backbone]
    try:
        theirs = {ours: config["config"][key] for ours, key in fields.items() if key in config["config"]} | fixed
    except (KeyError, TypeError) as error:
        raise Refusal(f"{directory / 'config.json'} is damaged ({error!r}); copy it again from where it was made.") from error
    checklist = Checklist(directory)
    known = {"tells where it comes from": "name trainable dtype"}
    applied = [*fields.values(), *(("activation", "use_gated_activation") if model_type == "t5" else ())]
    checklist.fields("config.json", config["config"], applied, known)
    if model_type == "roberta" and "max_position_embeddings" in theirs:
        theirs["max_position_embeddings"] += PADDING_ROWS
    if model_type == "t5":
        theirs |= _t5_network(config["config"], directory)
    tokenizer = _tokenizer(directory, backbone, theirs)
    with _opened(directory / WEIGHTS) as weights, _head(directory) as head:
        tensors, left_out = _tensors(backbone, weights, head)
        fields = {"masked_lm": HEAD} if model_type == "bert" else {}
        model, task, dropped = assemble(model_type, theirs, tensors, directory, tokenizer, fields)
    provenance = {
        "converted_from": "keras_hub", "model_type": model_type, "source": directory.name, "left_out": [*dropped, *left_out],
        "checklist": checklist.report(),
    }  # fmt: skip
    return Bundle(model, tokenizer, task, provenance)


def _t5_network(config, directory):
    """The fields of Hugging Face's T5 that KerasHub's config says in other words."""
    activation = config.get("activation", "relu")
    name = str(activation.get("config") if isinstance(activation, dict) else activation).rpartition(">")[2]
    network = name, bool(config.get("use_gated_activation", True))
    if network not in T5_NETWORKS:
        known = ", ".join(sorted({each for each, gated in T5_NETWORKS if gated == network[1]}))
        gate = "with" if network[1] else "without"
        raise Refusal(f"{directory / 'config.json'} has activation={name!r} {gate} a gate; only {known} is read there.")
    width = config.get("key_value_dim") or config["hidden_dim"] // config["num_heads"]
    return {"feed_forward_proj": T5_NETWORKS[network], "d_kv": width}


def _opened(path):
    if not path.is_file() and (path.parent / SHARDED).is_file():
        raise Refusal(f"{path.parent} holds its weights in several files ({SHARDED}); only one {WEIGHTS} is read here.")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise Refusal(f"{path} is damaged or missing ({error}); copy it again from where it was made.") from error


def _head(directory):
    """The file of the task's weights; an empty one in memory where the preset has none."""
    if (directory / HEAD_WEIGHTS).is_file():
        return _opened(directory / HEAD_WEIGHTS)
    return h5py.File("nothing", "w", driver="core", backing_store=False)


def _tensors(backbone, weights, head):
    """(the tensors under the table's names, names of the variables of heads that no task here has)."""
    stored = _variables(weights)
    in_head = {f"head/{path}": variables for path, variables in _variables(head).items()}
    places = _spelt_out(MODULES[backbone], stored)
    transposed = FAMILIES[STRUCTURES[backbone][0]].transposed()
    arrays = {}
    for module, paths in places.items():
        found = [(stored if path in stored else in_head).pop(path, None) for path in paths]
        if any(variables is None for variables in found):
            continue  # `assign` says what is missing
        for number, kind in enumerate(("bias",) if module in BIASES else ("weight", "bias")):
            pieces = [
                _flat(variables[number], path, number)
                for path, variables in zip(paths, found, strict=True)
                if number in variables
            ]
            if pieces:
                name = f"{module}.{kind}"
                array = Joined(pieces) if len(pieces) > 1 else pieces[0]
                arrays[name] = Transposed(array) if re.sub(r"\.\d+\.", ".{i}.", name, count=1) in transposed else array
    for path in stored:
        arrays[f"{WEIGHTS}/{path}"] = stored[path][0]  # for `assign` to say that nobody knows it
    if STRUCTURES[backbone][0] == "roberta":
        _add_what_roberta_lacks(arrays)
    if STRUCTURES[backbone][0] == "t5":
        arrays = _with_t5_names(arrays)
    return Tensors(arrays), [path.removeprefix("head/") for path in in_head]


def _variables(file):
    """Path of a layer -> {number: dataset} of its variables, without the container of all layers in front."""
    found = {}
    for name, dataset in datasets(file).items():
        match = re.fullmatch(r"(?:layers|_layer_checkpoint_dependencies)/(.+)/vars/(\d+)", name)
        if match:
            # Older versions of Keras walked over the private names of an attention's layers.
            path = re.sub(r"/_(query|key|value|output)_dense$", r"/\1_dense", match[1])
            found.setdefault(path, {})[int(match[2])] = dataset
    return found


def _spelt_out(modules, stored):
    """Module of the table -> tuple of paths, for every layer that the file has."""
    layer = re.compile(r"(?:t5_)?transformer_(?:encoder|decoder|layer)(?:_(\d+))?/")
    modules = {module: (paths,) if isinstance(paths, str) else paths for module, paths in modules.items()}
    numbers = sorted({int(match[1] or 0) for path in stored if (match := layer.match(path))})
    num_stacks = 2 if any("{_d}" in path for paths in modules.values() for path in paths) else 1
    num_layers = len(numbers) // num_stacks
    numbered = lambda number: f"_{number}" if number else ""  # noqa: E731
    places = {}
    for module, paths in modules.items():
        for i in numbers[:num_layers] if "{i}" in module else [0]:
            places[module.format(i=i)] = tuple(path.format(_i=numbered(i), _d=numbered(num_layers + i)) for path in paths)
    return places


def _flat(dataset, path, number):
    """A variable without the axis of heads: kernels are (D, N, H) and, of the output, (N, H, D); biases are (N, H)."""
    if number == 1 and len(dataset.shape) == 2 and not path.endswith("embedding"):
        return Reshaped(dataset, (-1,))
    if len(dataset.shape) == 3:
        return Reshaped(dataset, (-1, dataset.shape[-1]) if path.endswith("output_dense") else (dataset.shape[0], -1))
    return dataset


def _add_what_roberta_lacks(arrays):
    """The rows of positions that stand for padding, and the one segment that RoBERTa adds everywhere: nothing, in KerasHub."""
    name = "embeddings.position_embeddings.weight"
    if name in arrays:
        arrays[name] = np.pad(arrays[name][:], ((PADDING_ROWS, 0), (0, 0)))
        arrays["embeddings.token_type_embeddings.weight"] = np.zeros((1, arrays[name].shape[-1]), np.float32)


def _with_t5_names(arrays):
    """Without a gate the network's first product has another name; a table of the output's own is the second variable of the
    one that reads."""
    gated = any(".wi_1." in name for name in arrays)
    named = {name if gated else name.replace(".wi_0.", ".wi."): array for name, array in arrays.items()}
    if "shared.bias" in named:
        named["lm_head.weight"] = Transposed(named.pop("shared.bias"))
    return named


def _t5_tokenizer(path, num_rows):
    """A SentencePiece model; behind its pieces T5's sentinels, which KerasHub leaves out, where the model has rows for them."""
    unigram = TOKENIZERS.get("unigram")
    made = unigram.from_sentencepiece(path)
    roles = {role: token for role, token in T5_ROLES.items() if token in made.vocabulary}
    special, size = Special(roles, T5_TEMPLATE), made.vocab_size
    behind = [] if made.sentinel_ids or size + NUM_SENTINELS > num_rows else map(sentinel_name, reversed(range(NUM_SENTINELS)))
    return unigram.from_sentencepiece(path, behind=list(behind), special=special)


def _tokenizer(directory, backbone, theirs):
    """The tokenizer of a preset, with the ids of KerasHub's; `theirs` is the model's config.

    Two things differ on rare text: KerasHub folds case where BERT makes it lower (the German sharp s), and separates words at
    control characters, which BERT leaves out.
    """
    config = read_json(directory / "tokenizer.json")
    if config.get("class_name") != TOKENIZER_OF[backbone]:
        raise Refusal(
            f"{directory} has a {config.get('class_name')}; a {backbone} is read with a {TOKENIZER_OF[backbone]} only."
        )
    settings, assets = config.get("config", {}), directory / ASSETS
    if backbone == "BertBackbone":
        normalization = {name: bool(settings.get(name, False)) for name in ("lowercase", "strip_accents")}
        return TOKENIZERS.get("wordpiece").from_vocabulary(assets / "vocabulary.txt", normalization)
    if backbone == "T5Backbone":
        return _t5_tokenizer(assets / "vocabulary.spm", theirs["vocab_size"])
    if settings.get("add_prefix_space"):
        raise Refusal(f"{directory} puts a space before each text (add_prefix_space); that is not supported.")
    vocabulary, end = read_json(assets / "vocabulary.json"), "<|endoftext|>" if backbone == "GPT2Backbone" else "</s>"
    known = ("<|endoftext|>",) if backbone == "GPT2Backbone" else ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    special = [token for token in known if token in vocabulary]
    whole = set(ROBERTA.roles.values()) <= set(special)
    return TOKENIZERS.get("bpe")(
        vocabulary, read_merges(assets / "merges.txt"), special, end, special=ROBERTA if whole else NOTHING
    )
