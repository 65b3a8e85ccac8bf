"""How a directory of sentence-transformers makes a vector of a text: its modules, settings and prompts, as fields of the task
`embedding`. What the task cannot do is refused."""

import json

import numpy as np

from zoo.bundle import unfilled
from zoo.config import Refusal
from zoo.convert import safetensors
from zoo.tokenizers.base import read_json

MODULES, PROMPTS = "modules.json", "config_sentence_transformers.json"
# The name depends on the kind of the model in older directories.
LIMITS = tuple(
    f"sentence_{name}_config.json" for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
POOLING = {
    "pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first", "mean": "mean", "cls": "first",
}  # fmt: skip
# Activations of a Dense, by their class in torch.
ACTIVATIONS = {"Tanh": "tanh", "Identity": "identity", "ReLU": "relu", "GELU": "gelu_exact", "SiLU": "silu"}
MADE_OF = {"Tanh": "torch.nn.modules.activation.Tanh", "Identity": "torch.nn.modules.linear.Identity"}
KINDS = ("Transformer", "Pooling", "Dense", "Normalize")
# What the newest sentence-transformers writes of a model of texts.
AS_WRITTEN = {
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
    "transformer_task": "feature-extraction",
    "unpad_inputs": False,
    "query_length": None,
    "document_length": None,
    "query_expansion": None,
}
# By these it is seen whether a tokenizer keeps the case.
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Of the length that means "no limit" in tokenizer_config.json.
HUGE = 1_000_000


def read(directory, checklist, tokenizer_settings, max_length, tokenizer):
    """Fields of the task `embedding`, and the names of the files that they come from.

    Args:
        directory: a Path.
        checklist: a `Checklist`, which notes each module and setting.
        tokenizer_settings: `tokenizer_config.json` as a dict.
        max_length: positions of the model.
        tokenizer: the `Tokenizer` of the directory.

    Returns:
        `(fields, names of files and folders)`; nothing for a directory that is not sentence-transformers'.

    Raises:
        Refusal: a module that is neither a Transformer, a Pooling by `mean` or `cls`, a Dense nor a Normalize, or a setting
            that the task does not have.
    """
    path = directory / MODULES
    if not path.is_file():
        left = [name for name in (PROMPTS, *LIMITS, "1_Pooling") if (directory / name).exists()]
        if left:
            raise Refusal(f"{directory} has {left[0]} and no {MODULES}; copy it again, whole.")
        return {}, []
    modules = _modules(path)
    kinds = [kind for kind, _ in modules]
    if kinds != [kind for kind in KINDS if kind in kinds] or kinds[:2] != ["Transformer", "Pooling"]:
        unknown = next((kind for kind in kinds if kind not in KINDS), None)
        wrong = f"module {unknown}, which is" if unknown else f"modules {', '.join(kinds)}, which in this order are"
        raise Refusal(
            f"{path} has the {wrong} not supported; a text's vector is made by Transformer, Pooling, "
            "perhaps Dense and perhaps Normalize, in this order."
        )
    places = dict(modules)
    for kind, place in modules:
        checklist.apply(MODULES, kind)
        if kind == "Normalize":
            _require_empty(directory / place)
    if places["Transformer"] not in ("", "."):
        raise Refusal(f"{path} keeps its Transformer in {places['Transformer']}; only one beside {MODULES} is read.")
    fields = {"pooling": _pooling(directory / places["Pooling"], checklist), "normalize": "Normalize" in places}
    if "Dense" in places:
        fields |= _dense(directory / places["Dense"], checklist)
    files = [MODULES, *(place for place in places.values() if place)]
    fields["max_tokens"], named = _limit(directory, checklist, tokenizer_settings, max_length, tokenizer)
    fields["prompt"] = _prompt(directory, checklist)
    return fields, [*files, *named, PROMPTS]


def with_dense(directory, model, task, fields):
    """(model, task) with the Dense of the directory as the head of a model that has none; `fields` are those of `read`."""
    task = type(task)(task.config.replace(**fields))
    folder = directory / dict(_modules(directory / MODULES))["Dense"]
    with unfilled():
        model = task.assemble(model).build_from_ids()
    tensors, head = safetensors.TensorFiles(folder), model.head.dense
    wanted = {"linear.weight": head.kernel, **({"linear.bias": head.bias} if task.config.dense_bias else {})}
    if sorted(wanted) != tensors.names():
        raise Refusal(f"{folder} holds the tensors {', '.join(tensors.names())}; it should hold {', '.join(sorted(wanted))}.")
    for name, variable in wanted.items():
        array = tensors.read(name).T
        if array.shape != tuple(variable.shape):
            raise Refusal(f"{folder}: {name} has shape {array.shape[::-1]}, which this encoder's vectors do not fit.")
        variable.assign(array)
    return model, task


def write(directory, bundle):
    """Writes how the task `embedding` makes a vector: the inverse of `read`. A pooling by the model's pooler is not written:
    sentence-transformers has no such module.

    Args:
        directory: a Path with the model.
        bundle: the model with its task.

    Returns:
        Whether it could be written.
    """
    config, max_length = bundle.task.config, bundle.model.config.max_length
    if config.pooling == "pooler":
        return False
    wanted = {"Dense": config.dense_dim > 0, "Normalize": config.normalize}
    kinds = [kind for kind in KINDS if wanted.get(kind, True)]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    for module in modules[1:]:
        (directory / module["path"]).mkdir()
    mode = {"mean": "pooling_mode_mean_tokens", "first": "pooling_mode_cls_token"}[config.pooling]
    every = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    settings = {f"pooling_mode_{name}": f"pooling_mode_{name}" == mode for name in every}
    width = read_json(directory / "config.json")["hidden_size"]
    limit = max_length if config.max_tokens is None else config.max_tokens
    files = {
        MODULES: modules,
        "1_Pooling/config.json": {"word_embedding_dimension": width, **settings},
        LIMITS[0]: {"max_seq_length": limit, "do_lower_case": False},
    }
    if config.dense_dim:
        torch = next(name for name, ours in ACTIVATIONS.items() if ours == config.dense_activation)
        files["2_Dense/config.json"] = {
            "in_features": width, "out_features": config.dense_dim, "bias": config.dense_bias,
            "activation_function": MADE_OF.get(torch, f"torch.nn.modules.activation.{torch}"),
        }  # fmt: skip
        dense = bundle.model.head.dense
        arrays = {"linear.weight": dense.kernel.numpy().T, **({"linear.bias": dense.bias.numpy()} if config.dense_bias else {})}
        safetensors.write(
            directory / "2_Dense" / safetensors.FILE,
            [(name, array.shape, lambda array=array: np.ascontiguousarray(array)) for name, array in arrays.items()],
        )
    if config.prompt:
        files[PROMPTS] = {"prompts": {"default": config.prompt}, "default_prompt_name": "default"}
    for name, value in files.items():
        (directory / name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf8")
    return True


def _modules(path):
    """(kind, folder) of each module, in order."""
    try:
        modules = json.loads(path.read_text(encoding="utf8"))
        found = [(module["type"], module.get("path", "")) for module in modules]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refusal(f"{path} is damaged ({error!r}); copy it again from where it was made.") from error
    for kind, _ in found:
        if not kind.startswith("sentence_transformers."):
            raise Refusal(f"{path} has the module {kind}, which is code of another's; it is not run here.")
    return [(kind.rpartition(".")[2], place) for kind, place in found]


def _dense(folder, checklist):
    """Fields of the task for a Dense."""
    settings = read_json(folder / "config.json")
    there = {path.name for path in folder.iterdir()} - {"config.json", safetensors.FILE, *safetensors.PICKLES}
    if there:
        raise Refusal(f"{folder} holds {', '.join(sorted(there))}, which a Dense does not have; it is not known here.")
    activation = str(settings.get("activation_function", "Tanh")).rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise Refusal(f"{folder} has the activation {activation}, which is not supported; only {', '.join(ACTIVATIONS)} are.")
    inert = {name: (None, "sentence_embedding") for name in ("module_input_name", "module_output_name")}
    checklist.fields(
        f"{folder.name}/config.json", settings, ["out_features", "bias", "activation_function"],
        {"follows from the model": "in_features"}, inert,
    )  # fmt: skip
    bias = bool(settings.get("bias", True))
    return {"dense_dim": settings["out_features"], "dense_activation": ACTIVATIONS[activation], "dense_bias": bias}


def _require_empty(folder):
    if folder.is_dir() and any(path.name != "config.json" for path in folder.iterdir()):
        raise Refusal(f"{folder} holds more than the settings of a Normalize; that is not supported.")


def _pooling(folder, checklist):
    settings = read_json(folder / "config.json")
    named = settings.get("pooling_mode")
    modes = {named} if isinstance(named, str) else set(named or ())
    # With one of the newer name, their class reads none of the older ones; with none at all it takes the mean.
    modes = modes or {name for name, on in settings.items() if name.startswith("pooling_mode_") and on} or {"mean"}
    if len(modes) != 1 or not modes <= POOLING.keys():
        raise Refusal(f"{folder} pools by {sorted(modes)}; only one of {sorted(POOLING)} is supported.")
    applied = [name for name in settings if name.startswith("pooling_mode")]
    inert = {"include_prompt": (None, True)}
    sizes = {"follows from the model": "word_embedding_dimension embedding_dimension"}
    checklist.fields(f"{folder.name}/config.json", settings, applied, sizes, inert)
    return POOLING[modes.pop()]


def _limit(directory, checklist, tokenizer_settings, max_length, tokenizer):
    """(the most tokens that are read of a text, or None; the names of the files that say so)."""
    named = [name for name in LIMITS if (directory / name).is_file()]
    settings = read_json(directory / named[0]) if named else {}
    longest = settings.get("max_seq_length")
    if named:
        lowers = bool(tokenizer_settings.get("do_lower_case", True))
        lowers = lowers and all(list(tokenizer.encode(a)) == list(tokenizer.encode(a.lower())) for a in LETTERS)
        inert = {"do_lower_case": (None, False, True) if lowers else (None, False)}
        known = {"tells where it comes from": "model_args tokenizer_args config_args backend"}
        inert |= {name: (None, value) for name, value in AS_WRITTEN.items()}
        empty = {name: (None, {}) for name in ("model_args", "tokenizer_args", "config_args", "processing_kwargs")}
        checklist.fields(named[0], settings, ["max_seq_length"], known, {**empty, **inert})
    if longest is None:
        longest = tokenizer_settings.get("model_max_length")
        longest = longest if isinstance(longest, int) and longest < HUGE else None
    if longest is not None and longest > max_length:
        checklist.ignore(f"max_seq_length {longest} above {max_length}", "the model has no more positions; texts are cut there")
    return (None if longest is None or longest >= max_length else longest), named


def _prompt(directory, checklist):
    """What is put before every text."""
    path = directory / PROMPTS
    if not path.is_file():
        return ""
    settings = read_json(path)
    prompts, chosen = settings.get("prompts") or {}, settings.get("default_prompt_name")
    known = {
        "tells where it comes from": "__version__ model_type",
        "compares vectors, which the caller does": "similarity_fn_name",
    }
    checklist.fields(PROMPTS, settings, ["prompts", "default_prompt_name"], known, {"truncate_dim": (None,)})
    if chosen is not None and chosen not in prompts:
        raise Refusal(f"{path} has no prompt {chosen!r}, its default_prompt_name.")
    for name, prompt in prompts.items():
        if name != chosen and prompt:
            checklist.ignore(f"the prompt {name}, {prompt!r}", "put before a text by who asks for it")
    return prompts[chosen] if chosen is not None else ""
