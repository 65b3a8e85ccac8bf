"""Texts as vectors: the vector of a row, and the signature that serves it.

Shape letters: B batch, T positions, D hidden.
"""

import tensorflow as tf
from keras import ops

from zoo.config import Refusal
from zoo.data.examples import framed_texts
from zoo.signatures.request import signature
from zoo.signatures.rows import rows_in_graph


def row_vectors(model, hidden_BTD, padding_mask_BT, pooling):
    """float32 (B, D): the vector of each row.

    Args:
        model: the encoder, for its `pool`.
        hidden_BTD: its hidden states.
        padding_mask_BT: bool, True for real tokens.
        pooling: `mean` of the hidden states of real tokens, `first`, that of the first one, or `pooler`, what `model.pool`
            makes of it.
    """
    if pooling == "pooler":
        return ops.cast(model.pool(hidden_BTD), "float32")
    hidden_BTD = ops.cast(hidden_BTD, "float32")
    if pooling == "first":
        return hidden_BTD[:, 0]
    weights_BT1 = ops.cast(padding_mask_BT, "float32")[..., None]
    # Padding may hold anything, even NaN; it must not reach the sum.
    hidden_BTD = ops.where(weights_BT1 > 0, hidden_BTD, 0.0)
    return ops.sum(hidden_BTD, axis=1) / ops.maximum(ops.sum(weights_BT1, axis=1), 1.0)


def embed_signature(model, tokenizer, pooling="mean", normalize=True, max_length=None, prompt="", project=None):
    """The function behind `embed`: `text` string (B,) -> `embedding` float32 (B, D). A longer text loses its end.

    Args:
        model: an encoder, without the head of a task.
        tokenizer: a `Tokenizer`.
        pooling: as in `row_vectors`.
        normalize: whether each vector is divided by its length, so that a product of two is their cosine.
        max_length: the most tokens that are read of a text, special ones included; None for the model's own.
        prompt: stands before every text.
        project: a function from pooled vectors (B, D) to those that are served, or None.

    Raises:
        Refusal: `max_length` is more than the model has positions for.
    """
    longest = model.max_length if max_length is None else max_length
    if model.max_length is not None and longest > model.max_length:
        raise Refusal(f"max_tokens is {longest}, and the model has {model.max_length} positions; give as many at most.")
    frame = framed_texts(model.kind, tokenizer)

    @signature(tf.TensorSpec([None], tf.string))
    def embed(text):
        text = tf.strings.join([prompt, text]) if prompt else text
        batch = rows_in_graph([tokenizer.tokenize(text)], frame, tokenizer.pad_id, longest)
        batch.pop("segment_ids", None)  # one part; without them a model need not look any up
        vectors_BD = row_vectors(model, model.hidden(batch), batch["padding_mask"], pooling)
        if project is not None:
            vectors_BD = project(vectors_BD)
        if normalize:
            vectors_BD = vectors_BD / tf.maximum(tf.norm(vectors_BD, axis=-1, keepdims=True), 1e-12)
        return {"embedding": vectors_BD}

    return embed


def beside_a_head(model, tokenizer):
    """`{"embed": function}` for a model with a task's head on an encoder, whose vectors are then served too; {} for others, and
    where the model takes characters: a text that is not cut into words has none."""
    return {"embed": embed_signature(model.without_head(), tokenizer)} if _embeds(model) else {}


def requests_beside_a_head(model):
    """Requests that exercise what `beside_a_head` gives."""
    return [("embed", {"text": ["", "The list"]})] if _embeds(model) else []


def _embeds(model):
    return model.kind == "encoder" and "characters" not in model.takes
