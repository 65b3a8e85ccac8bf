"""From what third-party files say, in Hugging Face's words, to a model with its task: the way that every source of weights
shares.

A source brings a config with Hugging Face's fields and tensors under the names of the family's table; no source has a table of
its own.
"""

from zoo.bundle import unfilled
from zoo.config import Refusal
from zoo.convert.tables import FAMILIES
from zoo.convert.weights import assign, equal
from zoo.registry import MODELS, TASKS


def assemble(model_type, theirs, tensors, where, tokenizer, task_fields=None):
    """A model with the weights of a file.

    Args:
        model_type: a key of `FAMILIES`.
        theirs: config as a dict, with Hugging Face's fields.
        tensors: as in `zoo.convert.weights.assign`.
        where: what the files are called in a message.
        tokenizer: the `Tokenizer` that came with them.
        task_fields: fields of the task's config, by the name of the task.

    Returns:
        `(model, task, left out)`. The task is masked language modelling where the files have that head, embedding where an
        encoder has none, and language modelling for a decoder, or blank filling where its vocabulary has masks. Of an
        encoder-decoder it is span corruption where the vocabulary has sentinels, and translation where it has none; both write
        a text for a text. The last is a list of the tensors of heads that no task here has.

    Raises:
        Refusal: our model cannot have the structure, tensors are missing or left over, or the vocabulary is
            another one's.
    """
    family = FAMILIES[model_type]
    names = {}
    for name in tensors.names():
        if names.setdefault(family.our_name(name), name) != name:
            raise Refusal(f"{where} has the tensors {names[family.our_name(name)]} and {name}, two names of one; take one out.")
    config = family.config(theirs, names.keys(), where)
    if family.tied:  # their programs do not follow the flag either
        config = config.replace(tie_embeddings=family.tied[0] not in names or equal(tensors, *map(names.get, family.tied)))
    _check_vocabulary(tokenizer, config, where)
    name = _task_name(family, names, tokenizer)
    task_class = TASKS.get(name)
    task = task_class(task_class.config_class(**(task_fields or {}).get(name, {})))
    with unfilled():
        model = task.assemble(MODELS.get(family.model)(config)).build_from_ids()
    if name == "blank_infilling":
        task.learn(max_tokens=config.max_length, blank_ids=tokenizer.blank_ids)
    return model, task, assign(model, family, tensors, with_head=name == "masked_lm", where=str(where))


def _check_vocabulary(tokenizer, config, where):
    """Raises Refusal for a vocabulary that cannot be this model's. A model may have a few rows more, for a round number."""
    if tokenizer.vocab_size > config.vocab_size:
        raise Refusal(f"The tokenizer in {where} has {tokenizer.vocab_size} ids, the model only {config.vocab_size}.")


def _task_name(family, names, tokenizer):
    kind = MODELS.config(family.model).kind
    if kind == "language_model":
        reads_blanks = getattr(tokenizer, "blank_ids", None) and family.fixed.get("position") in ("learned", "rotary_2d")
        return "blank_infilling" if reads_blanks else "language_modeling"
    if kind == "encoder_decoder":
        return "span_corruption" if tokenizer.sentinel_ids else "translation"
    return "masked_lm" if set(family.head[0].theirs) <= names.keys() else "embedding"
