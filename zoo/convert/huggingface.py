"""Hugging Face directories <-> bundles, without torch and without transformers.

bundle = read("all-MiniLM-L6-v2")      config.json, model.safetensors, the tokenizer's files
write(bundle, "mine")                  the same, for AutoModel.from_pretrained("mine")
"""

import json
from pathlib import Path

from zoo.bundle import Bundle
from zoo.config import nearest
from zoo.convert import safetensors
from zoo.convert.tables import FAMILIES, family_of, parts, to_theirs
from zoo.convert.weights import assign, variables_by_path
from zoo.registry import MODELS, TASKS
from zoo.tokenizers import base as tokenizers


def read(directory):
    """The bundle of a Hugging Face directory.

    Its task is masked language modelling where the files have that head, embedding where an encoder has none, and language
    modelling for a decoder. `provenance` names what was left out.

    Raises:
        ValueError: an unknown `model_type`, a structure that the model cannot have, weights as a pickle, tensors that are missing or
            left over.
    """
    directory = Path(directory)
    theirs = _json(directory / "config.json")
    model_type = theirs.get("model_type")
    if model_type not in FAMILIES:
        raise ValueError(f"{directory} has a model of type {model_type!r}; {nearest(model_type, FAMILIES)}")
    family = FAMILIES[model_type]
    tensors = safetensors.TensorFiles(directory)
    names = {family.our_name(name) for name in tensors.names()}
    config = _our_config(family, theirs, names, directory)
    task = _task(family, names, directory)
    with_head = task.registered_name == "masked_lm"
    model = task.assemble(MODELS.get(family.model)(config)).build_from_ids()
    dropped = assign(model, family, tensors, with_head=with_head, where=str(directory))
    tokenizer = tokenizers.create(directory)
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(f"The tokenizer in {directory} has {tokenizer.vocab_size} ids, the model only {config.vocab_size}.")
    provenance = {"converted_from": "huggingface", "model_type": model_type, "source": directory.name, "left_out": dropped}
    return Bundle(model, tokenizer, task, provenance)


def _json(path):
    try:
        return dict(json.loads(path.read_text(encoding="utf8")))
    except FileNotFoundError as error:
        raise ValueError(f"{path.parent} is no directory of Hugging Face's: it holds no {path.name}.") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); copy it again from where it was made.") from error


def _our_config(family, theirs, names, directory):
    """Our config of their model. Raises ValueError for what our model cannot be."""
    for key, allowed in family.required.items():
        if theirs.get(key) not in allowed:
            wanted = " or ".join(repr(value) for value in allowed if value is not None) or "none"
            raise ValueError(f"{directory} asks for {key}={theirs[key]!r}, which is not supported; only {wanted} is.")
    try:
        fields = {ours: theirs[key] for ours, key in family.fields.items() if key in theirs or ours == "vocab_size"}
        config_class = MODELS.config(family.model)
        if family.pooler:
            fields["pooler"] = set(family.pooler[0].theirs) <= names
        return config_class.from_dict({**fields, **family.fixed, **family.adjust(None, theirs)})
    except KeyError as error:
        raise ValueError(f"{directory / 'config.json'} has no {error}, which this type of model needs.") from error


def _task(family, names, directory):
    if family.model == "gpt":
        return TASKS.get("language_modeling")()
    if set(family.head[0].theirs) <= names:
        return TASKS.get("masked_lm")()
    task_class = TASKS.get("embed")
    return task_class(task_class.config_class(**_pooling(directory)))


def _pooling(directory):
    """How sentence-transformers made a vector of a row, if this directory is one of theirs; else our defaults."""
    if not (directory / "1_Pooling" / "config.json").is_file():
        return {}
    pooling = _json(directory / "1_Pooling" / "config.json")
    modes = {name for name, on in pooling.items() if name.startswith("pooling_mode") and on is True}
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}
    if len(modes) != 1 or not modes <= known.keys():
        raise ValueError(f"{directory} pools by {sorted(modes)}; only one of {sorted(known)} is supported.")
    modules = json.loads((directory / "modules.json").read_text(encoding="utf8"))
    normalize = any(module["type"].endswith("Normalize") for module in modules)
    limits = directory / "sentence_bert_config.json"
    longest = _json(limits).get("max_seq_length") if limits.is_file() else None
    return dict(pooling=known[modes.pop()], normalize=normalize, max_tokens=longest)


def write(bundle, directory):
    """Writes a bundle as Hugging Face's libraries read it: `config.json`, `model.safetensors`, the tokenizer's files.

    Raises:
        ValueError: the model has no counterpart there, or `directory` is not empty.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory} is there already and not empty; give the name of a new directory.")
    model, task = bundle.model, bundle.task.registered_name
    model_type = family_of(model)
    family = FAMILIES[model_type]
    if task not in family.architectures:
        raise ValueError(f"A {model_type} for {task} cannot be written; {nearest(task, family.architectures)}")
    offset = getattr(model.config, "position_offset", 0)
    if offset and bundle.tokenizer.pad_id != offset - 1:
        raise ValueError(
            f"A {model_type} counts positions from the id of padding, so that must be {offset - 1}; in this tokenizer it is "
            f"{bundle.tokenizer.pad_id}."
        )
    directory.mkdir(parents=True, exist_ok=True)
    bundle.tokenizer.save(directory)
    (directory / "zoo_tokenizer.json").unlink()
    config = {
        "model_type": model_type,
        "architectures": [family.architectures[task]],
        **{key: getattr(model.config, ours) for ours, key in family.fields.items()},
        **family.theirs(model.config),
        "bos_token_id": bundle.tokenizer.eos_id if family.model == "gpt" else bundle.tokenizer.cls_id,
        "eos_token_id": bundle.tokenizer.eos_id,
        "pad_token_id": bundle.tokenizer.pad_id,
        "torch_dtype": "float32",
    }
    (directory / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf8")
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": model.config.max_length}) + "\n",
        encoding="utf8",
    )
    safetensors.write(directory / safetensors.FILE, list(_tensors(model, family, task == "masked_lm")))
    return directory


def _tensors(model, family, with_head):
    """(name, shape, function that gives the array) of every tensor, for `safetensors.write`."""
    variables = variables_by_path(model)
    bare = model.registered_name == "bert" and not with_head
    for rule in family.rules(model.config, with_head=with_head):
        variable, widths = variables[rule.ours], parts(model.config, rule)
        shape = tuple(variable.shape)
        for place, name in enumerate(rule.theirs):
            piece = (*shape[:-1], widths[place]) if widths else shape
            # A bare encoder's tensors have no prefix, and a head's never have.
            own = bare or rule.ours.startswith("head/") or name.startswith("lm_head")
            yield (
                name if own else family.prefix + name,
                piece[::-1] if rule.turned else piece,
                lambda rule=rule, variable=variable, widths=widths, place=place: to_theirs(rule, variable.numpy(), widths)[
                    place
                ],
            )
