"""Texts as vectors: rows that an encoder reads, in graph, and the vector of a row.

A row is `cls_id`, the text, `sep_id`, padded at the right. A vocabulary without those two, that of a language model, gives
`eos_id` and the text.

Shape letters: B batch, T positions, D hidden.
"""

import tensorflow as tf
from keras import ops

from zoo.models.base import Encoder
from zoo.signatures.request import refusal_unless, signature


def frame(tokenizer):
    """(ids before a text, ids after it), two lists."""
    first = tokenizer.eos_id if tokenizer.cls_id is None else tokenizer.cls_id
    return [first], [] if tokenizer.sep_id is None else [tokenizer.sep_id]


def rows(tokenizer, ids, max_length=None, truncate=False):
    """Token ids of texts as an encoder reads them.

    Args:
        tokenizer: a `Tokenizer`.
        ids: int32 RaggedTensor (B, None), without special ids around them.
        max_length: the most tokens of a row, special ones included; None for any number.
        truncate: whether a longer text loses its end. Otherwise it is an InvalidArgumentError that names both numbers.

    Returns:
        `(token_ids, padding_mask)`: int32 (B, T) and bool (B, T). T is at least 2.
    """
    before, after = frame(tokenizer)
    special = len(before) + len(after)
    if max_length is not None and truncate:
        ids = ids[:, : max_length - special]
    count = ids.nrows(out_type=tf.int32)
    ends = [tf.tile(tf.constant([end], tf.int32, shape=(1, len(end))), [count, 1]) for end in (before, after)]
    ids = tf.concat([ends[0], tf.cast(ids, tf.int32), ends[1]], axis=1)
    lengths = tf.cast(ids.row_lengths(), tf.int32)
    longest = tf.reduce_max(tf.concat([lengths, [2]], 0))
    if max_length is not None and not truncate:
        sentence = f"The longest text has {{}} tokens, with the special ones around it; this model takes at most {max_length}."
        with tf.control_dependencies([refusal_unless(longest <= max_length, sentence, longest)]):
            longest = tf.identity(longest)
    token_ids = ids.to_tensor(shape=tf.stack([count, longest]), default_value=tokenizer.pad_id)
    return token_ids, tf.range(longest)[None] < lengths[:, None]


def pooled(model, hidden_BTD, padding_mask_BT, pooling):
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


def embed_signature(model, tokenizer, pooling="mean", normalize=True, max_length=None):
    """The function behind `embed`: `text` string (B,) -> `embedding` float32 (B, D). A longer text loses its end.

    Args:
        model: an encoder, without the head of a task.
        tokenizer: a `Tokenizer`.
        pooling: as in `pooled`.
        normalize: whether each vector is divided by its length, so that a product of two is their cosine.
        max_length: the most tokens that are read of a text, special ones included; None for the model's own.
    """
    longest = model.max_length if max_length is None else max_length

    @signature(tf.TensorSpec([None], tf.string))
    def embed(text):
        token_ids, padding_mask = rows(tokenizer, tokenizer.tokenize(text), longest, truncate=True)
        vectors_BD = pooled(model, model.encode(token_ids, padding_mask), padding_mask, pooling)
        if normalize:
            vectors_BD = vectors_BD / tf.maximum(tf.norm(vectors_BD, axis=-1, keepdims=True), 1e-12)
        return {"embedding": vectors_BD}

    return embed


def beside_a_head(model, tokenizer):
    """`{"embed": function}` for a model with a task's head on an `Encoder`, whose vectors are then served too; {} for any
    other."""
    backbone = getattr(model, "backbone", None)
    return {"embed": embed_signature(backbone, tokenizer)} if isinstance(backbone, Encoder) else {}


def requests_beside_a_head(model):
    """Requests that exercise what `beside_a_head` gives."""
    return [("embed", {"text": ["", "The list"]})] if isinstance(getattr(model, "backbone", None), Encoder) else []
