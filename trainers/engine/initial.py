"""What a run begins with when it goes on from a trained model: --init_from=BUNDLE.

The structure and the vocabulary are those of the bundle, and so are the weights of the model itself. The head is that of the
new task; it takes over weights only where the bundle's task has the very same one.
"""

from zoo.bundle import find, read_config
from zoo.config import Refusal
from zoo.registry import MODELS


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


def assign(model, directory):
    """Gives a built model the weights of the bundle in `directory`, and its head those of an equal head there.

    Returns:
        A sentence that says what was taken over.

    Raises:
        Refusal: the models differ in structure.
    """
    from zoo import bundle as bundles

    source = bundles.load(find(directory)).model
    theirs, ours = (_weights(getattr(m, "backbone", m)) for m in (source, model))
    differing = sorted(ours.keys() ^ theirs.keys()) or [path for path in ours if ours[path].shape != theirs[path].shape]
    if differing:
        raise Refusal(
            f"--init_from={directory} has another structure than this model: they differ in {', '.join(differing[:5])}. "
            "Leave out what --set changes of it."
        )
    _copy(theirs, ours)
    their_head, our_head = (_weights(getattr(m, "head", None)) for m in (source, model))
    same = {path: v.shape for path, v in our_head.items()} == {path: v.shape for path, v in their_head.items()}
    if our_head and same:
        _copy(their_head, our_head)
    told = "" if not our_head else ", its head too" if same else ", with a new head"
    return f"Weights: {len(ours)} variables from {directory}{told}"


def _weights(layer):
    """Path -> variable of a layer's weights; a dropout's random state is none."""
    variables = [] if layer is None else layer.variables
    return {variable.path: variable for variable in variables if "seed_generator" not in variable.path}


def _copy(theirs, ours):
    for path, variable in ours.items():
        variable.assign(theirs[path].numpy())
