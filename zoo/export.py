"""A trained model as an artefact that a stock TF Serving takes as it is, proved in a process that has none of our code.

    export/<version>/                  the SavedModel; versions are integers that grow
    export/<version>/assets.extra/     golden.json, tf_serving_warmup_requests, model_card.md
    export/deployment/                 what starts a server: a polling server looks at names that are integers, at no others

A version is written aside and renamed, so that nobody sees half of one; what a killed export left goes with the next one. The
same model gives the same bytes.
"""

import copy
import os
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import EncodeError

from zoo import bundle as bundles
from zoo.config import Refusal
from zoo.files import remove_stale, staged
from zoo.serving import deployment, golden
from zoo.serving.canonical import canonicalise
from zoo.serving.compiled import compiled
from zoo.serving.model_card import model_card
from zoo.serving.once import TokenizerOnce, passes_once
from zoo.serving.ops import check_ops
from zoo.serving.proof import proving
from zoo.serving.simplify import simplify
from zoo.serving.versions import numbered
from zoo.serving.weights import at_precision, handle_of, stored_weights
from zoo.signatures import given
from zoo.signatures.drafting import Draft, parsed_draft


def export_saved_model(
    directory, model, tokenizer, task, version=None, provenance=None, precision="float32", xla=False, draft="none"
):
    """Writes the next version of a SavedModel, and proves it in a clean process before it appears under its name.

    Args:
        directory: the parent of all versions; TF Serving's `--model_base_path`.
        model: a built model.
        tokenizer: a `Tokenizer`; the SavedModel holds its tables.
        task: gives the signatures, `task.signatures(model, tokenizer)`, whose Python defaults become defaults of the
            signature, and the requests that prove and warm them up, `task.requests(model, tokenizer)`: a list of
            (signature, inputs as lists) and perhaps the number of an earlier request whose answer is fed in besides.
        version: an integer above every version there, or None for the next one.
        provenance: what the bundle says of the model's origin, for its card.
        precision: of the weights: one of `zoo.serving.weights.PRECISIONS`.
        xla: whether it is for a server that was started with XLA (`zoo/serving/compiled.py`); a stock server refuses it.
        draft: how tokens are guessed ahead in `generate`, as `loaded_draft` takes it; "none" for not at all.

    Returns:
        The path of the new `<directory>/<version>`.

    Raises:
        Refusal: the version is not higher, the model cannot take the precision or decode with a draft, the graph holds an op
            that a stock server cannot run or is too large, or the clean process answers otherwise than this one. Nothing is
            left behind.
        OSError: the directory cannot be written.
    """
    directory = Path(directory)
    version, task = _next_version(directory, version), _with_draft(task, loaded_draft(draft, tokenizer), xla)
    with staged(directory, version) as path:
        remove_stale(directory, r"\d+")
        served = task.limit_ids(at_precision(model, precision, task), tokenizer)
        with proving(path) as tell:
            functions = task.signatures(served, TokenizerOnce(tokenizer))
            left_out = {name: golden.defaults(function) for name, function in functions.items()}
            with stored_weights(served, precision) as weights, compiled(served) if xla else passes_once(served):
                # Traced here, once: saving and calling a tf.function would each trace it.
                concrete = {name: function.get_concrete_function() for name, function in functions.items()}
            _save(path, weights, tokenizer, concrete)
            simplify(path)
            canonicalise(path, left_out)
            check_ops(path, xla)
            tell(None)
            asked = task.requests(model, tokenizer)
            requests = golden.write(path, concrete, left_out, asked, model.registered_name, tell)
        (path / golden.EXTRA / "model_card.md").write_text(model_card(model, tokenizer, task, provenance), encoding="utf8")
        try:
            os.rename(path, directory / str(version))
        except OSError as error:
            raise Refusal(f"Version {version} appeared in {directory} while this one was made; export again.") from error
    instances = deployment.example_instances(requests, left_out["serving_default"])
    deployment.write(directory, model.registered_name, list(functions), instances, xla, goes_on=task.generates)
    return directory / str(version)


def _save(path, weights, tokenizer, functions):
    module = tf.Module()
    captured = {id(tensor) for function in functions.values() for tensor in function.captured_inputs}
    read = [weight for weight in weights if id(handle_of(weight)) in captured]  # not what only training needs
    known = {id(weight) for weight in read}
    tables = {id(table): table for function in functions.values() for table in function.variables if id(table) not in known}
    module.weights = [*read, *tables.values()]  # a signature may have laid a weight out in its own way
    module.tokenizer = tokenizer
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)  # a server never differentiates
    try:
        tf.saved_model.save(module, str(path), signatures=functions, options=options)
    except (EncodeError, tf.errors.InvalidArgumentError) as error:
        if isinstance(error, tf.errors.OpError) and "larger than the limit" not in error.message:
            raise
        raise Refusal(
            "The graph is larger than the 2 GB that a protocol buffer can hold; a smaller vocabulary makes smaller tables."
        ) from error


def loaded_draft(draft, tokenizer):
    """How tokens are guessed ahead (`zoo/signatures/drafting.py`), with the tables of an n-gram model where one is named.

    Args:
        draft: a string such as "ngram:4" or "ngram:runs/ngram/latest", "none" or None; or a `Draft`, which is returned.
        tokenizer: of the model that is to be decoded.

    Returns:
        A `Draft`, or None.

    Raises:
        Refusal: the string says something else, or its directory holds another model or one of another vocabulary.
    """
    if isinstance(draft, Draft):
        return draft
    draft = parsed_draft(draft)
    if draft is None or not draft.directory:
        return draft
    path = bundles.find(draft.directory)
    fitted = bundles.load(path)
    if fitted.tokenizer.digest() != tokenizer.digest():
        raise Refusal(
            f"{draft.directory} was fitted with another vocabulary than this model's; fit it on text with "
            "--tokenizer=TOKENIZER, the directory tokenizer/ in this model's bundle."
        )
    return draft.with_model(fitted.model)


def _with_draft(task, draft, xla):
    """The task that serves with a draft."""
    if draft is None:
        return task
    if not task.generates:
        raise Refusal(f"A draft is for models that go on with a prompt, and {task.registered_name} does not; leave it out.")
    if xla:
        raise Refusal(
            "A draft is for stock servers: XLA computes other shapes with other rounding; leave the one or the other out."
        )
    task = copy.copy(task)
    task.draft = draft
    return task


def latest_version(directory):
    """The highest version under `directory`, or 0 if it has none."""
    return max(numbered(directory), default=0)


def _next_version(directory, version):
    latest = latest_version(directory)
    if version is None:
        return latest + 1
    if given.number("version", version, tf.int64) <= latest:
        raise Refusal(f"Version {version} must be above {latest}, the latest in {directory}.")
    return version
