"""Hugging Face directories <-> bundles, without torch and without transformers.

bundle = read("all-MiniLM-L6-v2")      config.json, model.safetensors, the tokenizer's files
write(bundle, "mine")                  the same, for AutoModel.from_pretrained("mine")
"""

import json
import math
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from zoo.bundle import Bundle
from zoo.config import Refusal, nearest
from zoo.convert import checklist as checklists
from zoo.convert import old_tensorflow, safetensors, sentence_transformers
from zoo.convert.assembly import assemble
from zoo.convert.chatglm import model_type_of
from zoo.convert.rules import parts, to_theirs
from zoo.convert.tables import FAMILIES, family_of
from zoo.convert.weights import variables_by_path
from zoo.models.bert import UNGATED
from zoo.registry import MODELS
from zoo.tokenizers import base as tokenizers
from zoo.tokenizers import pretrained
from zoo.tokenizers.special import post_processor, sentinel_name


def read(directory):
    """The bundle of a Hugging Face directory.

    Its task is masked language modelling where the files have that head, embedding where an encoder has none, language
    modelling for a decoder, and for an encoder-decoder span corruption, or translation where the vocabulary has no sentinels.
    `provenance` names what was left out, and has the `Checklist` of the source.

    Raises:
        Refusal: an unknown `model_type`, a structure that the model cannot have, weights as a pickle, tensors that are
            missing or left over, a file or a field that is not known.
    """
    directory = Path(directory)
    theirs = _json(directory / "config.json")
    model_type = model_type_of(theirs)
    if model_type not in FAMILIES:
        raise Refusal(f"{directory} has a model of type {model_type!r}; {nearest(model_type, FAMILIES)}")
    kind, tensors = _weights(directory)
    tokenizer = tokenizers.create(directory)
    _check_template(tokenizer, FAMILIES[model_type], directory)
    if theirs.get("decoder_start_token_id") not in (None, tokenizer.pad_id):
        raise Refusal(f"{directory} has a decoder that starts with another id than that of padding, {tokenizer.pad_id}.")
    theirs = FAMILIES[model_type].in_own_names(theirs, directory)
    checklist, embedding = _checked(directory, theirs, FAMILIES[model_type], kind, tokenizer)
    theirs = {**FAMILIES[model_type].defaults, **theirs}
    bare = {name: value for name, value in embedding.items() if not name.startswith("dense_")}
    model, task, dropped = assemble(model_type, theirs, tensors, directory, tokenizer, {"embedding": bare})
    if embedding and task.registered_name != "embedding":
        raise Refusal(
            f"{directory} is one of sentence-transformers' and has the head of a {task.registered_name} besides; only one of "
            "both can be served. Save its encoder alone, or take modules.json out."
        )
    if embedding.get("dense_dim"):
        model, task = sentence_transformers.with_dense(directory, model, task, embedding)
    provenance = {
        "converted_from": kind, "model_type": model_type, "source": directory.name, "left_out": dropped,
        "checklist": checklist.report(),
    }  # fmt: skip
    return Bundle(model, tokenizer, task, provenance)


def _check_template(tokenizer, family, directory):
    """Raises Refusal for an encoder whose texts do not stand between its [CLS] and its [SEP]."""
    before, _, after = tokenizer.template
    if family.model == "bert":
        wanted = tuple(None if i is None else tokenizer.vocabulary[i] for i in (tokenizer.cls_id, tokenizer.sep_id))
        if (*before, *after) != wanted:
            raise Refusal(f"{directory} puts {before} before a text and {after} after it; an encoder reads {wanted} around it.")


def _checked(directory, theirs, family, kind, tokenizer):
    """(the `Checklist` of a source, fields of the task `embedding`). Raises Refusal for what is not known."""
    checklist, settings = checklists.Checklist(directory), pretrained.Beside(directory).settings
    inert = {name: values for name, values in checklists.INERT.items() if name not in family.known_fields()}
    applied = {*family.known_fields(), *checklists.TOKEN_IDS}
    irrelevant = {**checklists.CONFIG, "is read by nothing in this kind of model": family.irrelevant}
    checklist.fields("config.json", theirs, applied, irrelevant, inert)
    checklist.fields("tokenizer_config.json", settings, checklists.TOKENIZER_APPLIED, checklists.TOKENIZER_CONFIG)
    _check_generation(directory, checklist, family, tokenizer)
    _check_case(directory, settings)
    longest = math.inf  # where positions are distances
    if "max_length" in family.fields:
        longest = {**family.defaults, **theirs}[family.fields["max_length"]] - family.fixed.get("position_offset", 0)
    fields, files = sentence_transformers.read(directory, checklist, settings, longest, tokenizer)
    weights = [old_tensorflow.H5] if kind == "tf_model.h5" else safetensors.files(directory)
    checklist.files({*pretrained.BESIDE, pretrained.CHAT_TEMPLATE, *pretrained.vocabulary_files(directory), *weights, *files})
    return checklist, fields


def _check_generation(directory, checklist, family, tokenizer):
    """Raises Refusal for a rule of generation_config.json that nothing here follows."""
    path, inert = directory / "generation_config.json", dict(checklists.GENERATION_INERT)
    if family.model == "transformer":  # a Marian never writes its padding, and ends at the limit of a request
        inert |= {"bad_words_ids": (None, [[tokenizer.target.pad_id]]), "forced_eos_token_id": (None, tokenizer.target.eos_id)}
    if path.is_file():
        checklist.fields(path.name, _json(path), checklists.GENERATION_APPLIED, checklists.GENERATION, inert)
    ends = tokenizer.stop_ids
    if MODELS.config(family.model).kind == "encoder_decoder" and ends != (tokenizer.target.eos_id,):
        raise Refusal(f"{directory} ends a text at the ids {list(ends)}; one end, {tokenizer.target.eos_id}, is known here.")


def _check_case(directory, settings):
    """Raises Refusal where two files disagree about the letters of a text: libraries differ in which one they follow."""
    path = directory / "tokenizer.json"
    general = pretrained.Beside(directory).is_general  # these follow the one file
    normalizer = (_json(path).get("normalizer") or {}) if path.is_file() else {}
    if normalizer.get("type") != "BertNormalizer" or general:
        return
    for name, theirs in (
        ("do_lower_case", "lowercase"), ("strip_accents", "strip_accents"), ("tokenize_chinese_chars", "handle_chinese_chars"),
    ):  # fmt: skip
        asked, has = settings.get(name), normalizer.get(theirs)
        if name == "strip_accents" and has is None:
            has = normalizer.get("lowercase")
        if asked is not None and bool(asked) != bool(has):
            raise Refusal(f"{path} has {theirs}={has}, tokenizer_config.json beside it {name}={asked}; make them equal.")


def _weights(directory):
    """(what the files are, their tensors)."""
    if not safetensors.found(directory) and (directory / old_tensorflow.H5).is_file():
        return "tf_model.h5", old_tensorflow.open_h5(directory)
    return "huggingface", safetensors.TensorFiles(directory)


def _json(path):
    try:
        return dict(json.loads(path.read_text(encoding="utf8")))
    except FileNotFoundError as error:
        if list(path.parent.rglob("mp_rank_*.pt")):
            raise Refusal(
                f"{path.parent} has GLM's files of 2022, pickles of torch, which can run code when they are read, and are not. "
                "ChatGLM and GLM-4 are read, from safetensors."
            ) from error
        raise Refusal(f"{path.parent} is not a directory of Hugging Face's: it holds no {path.name}.") from error
    except (ValueError, TypeError) as error:
        raise Refusal(f"{path} is damaged ({error}); copy it again from where it was made.") from error


def write(bundle, directory):
    """Writes a bundle as Hugging Face's libraries read it: `config.json`, `model.safetensors`, the tokenizer's files; for the
    task `embedding` also those of sentence-transformers.

    Raises:
        Refusal: the model has no counterpart there, or `directory` is not empty.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise Refusal(f"{directory} is there already and not empty; give the name of a new directory.")
    model, task = bundle.model, bundle.task.registered_name
    model_type = family_of(bundle)
    family = FAMILIES[model_type]
    if task not in family.architectures:
        raise Refusal(f"A {model_type} for {task} cannot be written; {nearest(task, family.architectures)}")
    if bundle.tokenizer.huggingface_class == "MarianTokenizer" and model_type != "marian":
        raise Refusal(f"Hugging Face has two SentencePiece models beside a Marian alone, and not beside a {model_type}.")
    offset = model.config.position_offset if family.model == "bert" else 0
    if offset and bundle.tokenizer.pad_id != offset - 1:
        raise Refusal(
            f"A {model_type} counts positions from the id of padding, so that must be {offset - 1}; in this tokenizer it is "
            f"{bundle.tokenizer.pad_id}."
        )
    if task == "masked_lm" and not _plain_head(bundle.task, model.config):
        raise Refusal("Its head has another activation or epsilon than its encoder, which Hugging Face's BERT cannot have.")
    directory.mkdir(parents=True, exist_ok=True)
    bundle.tokenizer.save_huggingface(directory)
    if model.kind == "encoder_decoder" and (directory / "tokenizer.json").is_file():
        _finish_tokenizer(bundle, directory / "tokenizer.json")
    ends = (bundle.tokenizer.eos_id,) if model.kind == "encoder_decoder" else bundle.tokenizer.stop_ids
    config = {
        "model_type": model_type,
        "architectures": [family.architectures[task]],
        **family.written(model.config),
        "bos_token_id": _bos_id(bundle.tokenizer, family),
        "eos_token_id": ends[0] if len(ends) == 1 else list(ends),
        "pad_token_id": bundle.tokenizer.pad_id,
        **(_of_the_decoder(bundle, family) if model.kind == "encoder_decoder" else {}),
        "torch_dtype": "float32",
    }
    (directory / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf8")
    settings = _tokenizer_settings(bundle.tokenizer, model.config)
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
    if task == "embedding":
        sentence_transformers.write(directory, bundle)
    safetensors.write(directory / safetensors.FILE, list(_tensors(model, family, task == "masked_lm")))
    return directory


def template(bundle):
    """The tokens before a text, between two and after the last that a bundle's model reads by default: three tuples."""
    if bundle.model.kind != "encoder_decoder":
        return bundle.tokenizer.template
    frame, written = bundle.task.frame(bundle.model.kind, bundle.tokenizer), bundle.tokenizer.vocabulary
    return tuple(tuple(written[i] for i in ids) for ids in (frame.before, frame.between, frame.after))


def _finish_tokenizer(bundle, path):
    """What an encoder-decoder needs besides the vocabulary: the end of a source, and sentinels that stood behind it."""
    native, tokenizer = Tokenizer.from_file(str(path)), bundle.tokenizer
    native.post_processor = post_processor(template(bundle), native.token_to_id)
    if bundle.task.registered_name == "span_corruption" and not tokenizer.sentinel_ids:
        names = {i: sentinel_name(number) for number, i in enumerate(bundle.task.sentinel_ids(tokenizer))}
        # A space before a sentinel belongs to it.
        native.add_special_tokens([AddedToken(names[i], special=True, lstrip=True) for i in sorted(names)])
        wrong = next((name for i, name in names.items() if native.token_to_id(name) != i), None)
        if wrong is not None:
            raise Refusal(
                f"{wrong} has an id that does not follow those of the vocabulary; Hugging Face has no such sentinels."
            )
    native.save(str(path))


def _of_the_decoder(bundle, family):
    """What a decoder starts with, and what it never writes."""
    pad_id = bundle.tokenizer.target.pad_id
    never = {"bad_words_ids": [[pad_id]]} if "bad_words_ids" in family.adjusted and bundle.model.num_ids == pad_id else {}
    return {"decoder_start_token_id": pad_id, **never}


def _bos_id(tokenizer, family):
    if MODELS.config(family.model).kind == "language_model":
        return tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    return tokenizer.cls_id


def _tokenizer_settings(tokenizer, config):
    """What `tokenizer_config.json` holds."""
    longest = getattr(config, "max_length", None)
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    if getattr(config, "num_segments", 1) == 1:
        inputs.remove("token_type_ids")
    return {
        "tokenizer_class": tokenizer.huggingface_class,
        **({} if longest is None else {"model_max_length": longest}),
        "model_input_names": inputs,
        "clean_up_tokenization_spaces": False,
        **{f"{role}_token": token for role, token in tokenizer.roles.items()},
        **({} if tokenizer.special.chat_template is None else {"chat_template": tokenizer.special.chat_template}),
    }


def _plain_head(task, config):
    """Whether the head of a masked language model has the activation and the epsilon of its encoder."""
    activation = UNGATED.get(config.activation, config.activation)
    return task.config.head_activation in (None, activation) and task.config.head_epsilon in (None, config.epsilon)


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
            own = bare or rule.ours.startswith("head/") or name.startswith(("lm_head", "final_logits", "embed_out"))
            yield (
                name if own else family.prefix + name,
                piece[::-1] if rule.transposed else (1, *piece) if rule.row else piece,
                lambda rule=rule, variable=variable, widths=widths, place=place: to_theirs(
                    rule, rule.carried_out(variable.numpy(), model.config), widths
                )[place],
            )
