"""A version for servers that were started with XLA: the passes of the model are compiled, text and choices stay outside.

XLA compiles each shape anew, which takes seconds. Columns are therefore padded to multiples of `COLUMNS`, so that few shapes
occur; rows come in the batch sizes that the server is told to make. A stock server has XLA switched off and refuses such a
graph at the first request: it is written only when asked for, and never beside versions for a stock server.
"""

import contextlib

import tensorflow as tf

from zoo.config import Refusal
from zoo.layers.fusion import compiled_whole

COLUMNS = 64


@contextlib.contextmanager
def compiled(model):
    """While graphs are traced in this block, the passes of `model` become functions that must be compiled.

    Raises:
        Refusal: the model has no pass that XLA could compile.
    """
    base = model.without_head()
    if not base.passes:
        raise Refusal(
            f"{model.registered_name} looks its numbers up in tables, which XLA cannot compile; leave --export_xla out."
        )
    replaced = {name: WRAPPED[name](base) for name in base.passes}
    # Past Keras, which would take them for parts of the model.
    for name, function in replaced.items():
        object.__setattr__(base, name, function)
    try:
        yield
    finally:
        for name in replaced:
            object.__delattr__(base, name)


def _compiled(function):
    def traced(*args, **kwargs):
        with compiled_whole():
            return function(*args, **kwargs)

    return tf.function(traced, jit_compile=True, autograph=False)


def _missing(model, token_ids):
    """int32 scalar: columns that are added to (B, T) tokens, as far as the model takes them."""
    length = tf.shape(token_ids)[1]
    wanted = -(-length // COLUMNS) * COLUMNS
    if model.max_length is not None:
        wanted = tf.minimum(wanted, model.max_length)
    return tf.maximum(wanted - length, 0)


def _pad(values, left, right):
    return tf.pad(values, [[0, 0], [left, right], *[[0, 0]] * (len(values.shape) - 2)])


def _real(token_ids, padding_mask):
    return tf.ones_like(token_ids, tf.bool) if padding_mask is None else padding_mask


def _init_state(model):
    """Room for the columns that `_next_logits` adds, and itself one of few sizes."""

    init_state_ = model.init_state

    def init_state(batch_size, max_length, *memory):
        return init_state_(batch_size, (-(-max_length // COLUMNS) + 1) * COLUMNS, *memory)

    return init_state


def _padded_source(model, source_ids, source_mask):
    missing = _missing(model, source_ids)
    return _pad(source_ids, 0, missing), _pad(_real(source_ids, source_mask), 0, missing)


def _encode(model):
    encode_ = _compiled(model.encode)

    def encode(source_ids, source_mask=None, training=False):
        return encode_(*_padded_source(model, source_ids, source_mask))

    return encode


def _next_logits(model):
    step = _compiled(model.next_logits)

    def next_logits(token_ids, state, padding_mask=None):
        if token_ids.shape[1] == 1:
            return step(token_ids, state)
        missing = _missing(model, token_ids)
        padded, mask = _pad(token_ids, missing, 0), _pad(_real(token_ids, padding_mask), missing, 0)
        return step(padded, state, mask)

    return next_logits


def _token_log_probs(model):
    score = _compiled(model.token_log_probs)

    def token_log_probs(token_ids, labels, state=None, *, padding_mask=None, source_ids=None, source_mask=None):
        missing = _missing(model, token_ids)
        inputs = {"padding_mask": _pad(_real(token_ids, padding_mask), 0, missing)}
        if source_ids is not None:
            inputs["source_ids"], inputs["source_mask"] = _padded_source(model, source_ids, source_mask)
        log_probs, _ = score(_pad(token_ids, 0, missing), _pad(labels, 0, missing), **inputs)
        return log_probs[:, : tf.shape(token_ids)[1]], state

    return token_log_probs


def _hidden(model):
    hidden_ = _compiled(model.hidden)

    def hidden(batch, training=False):
        token_ids = batch["token_ids"]
        missing = _missing(model, token_ids)
        padded = {name: _pad(batch[name], 0, missing) for name in model.takes if batch.get(name) is not None}
        padded["padding_mask"] = _pad(_real(token_ids, batch.get("padding_mask")), 0, missing)
        return hidden_(padded)[:, : tf.shape(token_ids)[1]]

    return hidden


# What stands in place of each pass that a model names in `passes`.
WRAPPED = {
    "encode": _encode, "init_state": _init_state, "next_logits": _next_logits, "token_log_probs": _token_log_probs,
    "hidden": _hidden,
}  # fmt: skip
