"""What a run begins with when it goes on from a trained model: --init_from=BUNDLE.

From a bundle of the same family the structure and the vocabulary are the bundle's, and so are the weights of the model itself.
The head is that of the new task; it takes over weights only where the bundle's task has the very same one.

A task that marks parts of a row, such as semantic roles, needs more rows in the table of segments than RoBERTa has. There the
rows that both have are taken over, and the others begin as the first one: the model answers as the bundle's did.

From word vectors of another family a model takes only rows: its table of embeddings gets the vectors of the words that both
vocabularies have. Structure and vocabulary are its own.
"""

import numpy as np

from zoo.bundle import find, read_config
from zoo.config import Refusal
from zoo.registry import MODELS

SEGMENTS = "/segments/embeddings"  # how the path of a table of segments ends, in every family that has one


def described(directory, model):
    """(the config of the model in a bundle, the path of its tokenizer). Reads no weights and loads no TensorFlow.

    Raises:
        Refusal: there is no bundle, it is damaged or too new, or it holds a model of another family than `model`.
    """
    bundle = find(directory)
    config = read_config(bundle)
    name, fields = config["model"], config["model_config"]
    if name != model:
        raise Refusal(f"--init_from={directory} holds a {name}, which cannot begin a {model}; say --model={name}.")
    return MODELS.config(name).from_dict(fields), str(bundle / "tokenizer")


def width_of_rows(directory, model):
    """How many numbers the word vectors in `directory` have, from which a model of the family `model` takes rows; None where it
    takes over everything. Reads no weights and loads no TensorFlow.

    Raises:
        Refusal: there is no bundle, or it is damaged or too new.
    """
    config = read_config(find(directory))
    config_class = MODELS.config(config["model"])
    if config["model"] == model or config_class.contextual:
        return None
    return config_class.from_dict(config["model_config"]).cost(1).hidden_dim


def assign(model, tokenizer, directory):
    """Gives a built model the weights of the bundle in `directory`, and its head those of an equal head there; or, of word
    vectors of another family, the rows of its table.

    Args:
        model: a model, perhaps with a head.
        tokenizer: its `Tokenizer`.
        directory: a bundle or a run.

    Returns:
        A sentence that says what was taken over.

    Raises:
        Refusal: the models differ in structure, or the model has no table of embeddings as wide as the word vectors.
    """
    from zoo import bundle as bundles

    bundle = bundles.load(find(directory))
    source = bundle.model
    if source.registered_name != model.registered_name:
        return _assign_rows(model.without_head(), tokenizer, bundle, directory)
    theirs, ours = _values(getattr(source, "backbone", source)), _weights(getattr(model, "backbone", model))
    segments = _fit_segments(theirs, ours)
    differing = sorted(ours.keys() ^ theirs.keys()) or [path for path in ours if tuple(ours[path].shape) != theirs[path].shape]
    if differing:
        raise Refusal(
            f"--init_from={directory} has another structure than this model: they differ in {', '.join(differing[:5])}. "
            "Leave out what --set changes of it."
        )
    _copy(theirs, ours)
    their_head, our_head = _values(getattr(source, "head", None)), _weights(getattr(model, "head", None))
    same = {path: tuple(v.shape) for path, v in our_head.items()} == {path: v.shape for path, v in their_head.items()}
    if our_head and same:
        _copy(their_head, our_head)
    note = "" if not our_head else ", its head too" if same else ", with a new head"
    return f"Weights: {len(ours)} variables from {directory}{segments}{note}"


def _fit_segments(theirs, ours):
    """Gives the table of segments in `theirs`, path -> array, as many rows as in `ours`. Returns what is to be said of it."""
    path = next((path for path in ours if path.endswith(SEGMENTS)), None)
    if path is None:
        return ""
    num_rows, width = ours[path].shape
    table = theirs.get(path, np.zeros((1, width), np.float32))  # without a table nothing was added
    if path in theirs and len(table) == num_rows:
        return ""
    theirs[path] = table[[row if row < len(table) else 0 for row in range(num_rows)]]
    return f", the table of segments with {num_rows} rows instead of {len(table)}"


def _assign_rows(model, tokenizer, bundle, directory):
    table = model.table()
    sides = [np.asarray(side) for side in bundle.model.without_head().sides()]
    width = sides[0].shape[1]
    if table.shape[1] != width:
        raise Refusal(
            f"--init_from={directory} has vectors of {width} numbers, and the embeddings of this {model.registered_name} have "
            f"{table.shape[1]}; make them equally wide with --set."
        )
    theirs = _ids_there(tokenizer.vocabulary, bundle.tokenizer)
    vectors = sum(side[np.maximum(theirs, 0)].astype(np.float32) for side in sides)
    found = np.flatnonzero((theirs >= 0) & vectors.any(axis=1))
    for variable in (table,) if model.config.contextual else model.sides():  # which are added up
        values = np.asarray(variable).copy()
        values[found] = vectors[found] if variable is table else 0
        variable.assign(values)
    special = tokenizer.special_ids
    count, words = len(np.setdiff1d(found, special)), len(theirs) - len(special)
    return f"Embeddings: {count:,} of {words:,} words found in {directory}, the others begin at random"


def _ids_there(words, tokenizer):
    """int (V,): the id that a tokenizer has for each word: of the token that is written so, else of the one token that it reads
    the word as; -1 for none."""
    known = {word: i for i, word in enumerate(tokenizer.vocabulary)}
    ids = np.array([known.get(word, -1) for word in words])
    missing = np.flatnonzero(ids < 0)
    for i, read in zip(missing, tokenizer.encode_batch([words[i] for i in missing]), strict=True):
        if len(read) == 1 and read[0] != tokenizer.unk_id:
            ids[i] = read[0]
    return ids


def _weights(layer):
    """Path -> variable of a layer's weights; a dropout's random state is not one."""
    variables = [] if layer is None else layer.variables
    return {variable.path: variable for variable in variables if "seed_generator" not in variable.path}


def _values(layer):
    """Path -> array of a layer's weights."""
    return {path: variable.numpy() for path, variable in _weights(layer).items()}


def _copy(theirs, ours):
    for path, variable in ours.items():
        variable.assign(theirs[path])
