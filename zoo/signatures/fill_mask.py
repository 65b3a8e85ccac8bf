"""Text with holes in, what fills them out: the signatures of a served masked language model.

Shape letters: B batch, T positions, D hidden, M holes of a row, K answers a hole, V vocabulary.
"""

import re

import tensorflow as tf

from zoo.signatures.embedding import embed_signature
from zoo.signatures.request import each_alone, refusal_unless, score_of, signature
from zoo.signatures.rows import rows_in_graph

NUM_ANSWERS = 5
# White space as Unicode has it, any number of it.
BLANKS = r"[\t-\r \x{85}\p{Z}]*"


def masked_lm_signatures(model, tokenizer, frame):
    """The functions that an exported masked language model answers requests with.

    Args:
        model: an encoder with the head of a masked language model.
        tokenizer: a `Tokenizer` with a mask token.
        frame: what stands around a text, the task's `Frame`.

    Returns:
        Name -> `tf.function`.

        - `serving_default` and `fill_mask`: `text` string (B,), each with the mask token in it once or more -> `tokens` string
          (B, M, K), the likeliest first, and `probs` float32 (B, M, K); a row with fewer than M holes ends in empty strings of
          probability 0. A text without a hole, or too long for the model, is an InvalidArgumentError.
        - `score`: `text` string (B,) -> `log_prob` float32 (B,), natural: the sum over the tokens of log p(token | all others),
          each hidden in turn (Salazar et al. 2020, eq. 1); `num_tokens` int32 (B,); `bits_per_byte` float32 (B,).
        - `embed`: `text` -> `embedding` float32 (B, D), the mean of the hidden states, of length 1.
    """
    strings = tf.TensorSpec([None], tf.string)

    @signature(strings)
    def fill_mask(text):
        batch, is_hole_BM = holes(model, tokenizer, frame, text)
        probs, answers = tf.math.top_k(tf.nn.softmax(token_logits(model, batch)), NUM_ANSWERS)
        spelt = each_alone(tokenizer, answers)
        there = is_hole_BM[..., None]
        return {"tokens": tf.where(there, spelt, ""), "probs": tf.where(there, probs, 0.0)}

    @signature(strings)
    def score(text):
        return score_of(text, *_pseudo_log_probs(model, tokenizer, frame, text))

    embed = embed_signature(model.without_head(), tokenizer)
    return {"serving_default": fill_mask, "fill_mask": fill_mask, "score": score, "embed": embed}


def masked_lm_requests(model, tokenizer):
    """Requests that exercise every signature."""
    mask = tokenizer.mask_token
    holes = [f"The {mask} is", mask, f"{mask} {mask}."]
    texts = ["", "The list"]
    filled = [(name, {"text": holes}) for name in ("serving_default", "fill_mask")]
    return [*filled, ("score", {"text": texts}), ("embed", {"text": texts})]


def token_logits(model, batch, training=False):
    """float32 (B, P, V): the logits of tokens at the batch's `label_positions`."""
    outputs = model(batch, training=training)
    return model.limited(outputs[0] if isinstance(outputs, tuple) else outputs)  # the second are those of a pair's parts


def holes(model, tokenizer, frame, texts):
    """A batch of rows (B, T), of which the mask tokens are asked for: `label_positions` (B, M), padded with column 0; and which
    of those are real, bool (B, M)."""
    mask = tokenizer.mask_token
    if tokenizer.special.mask_lstrip:
        texts = tf.strings.regex_replace(texts, BLANKS + re.escape(mask), mask)
    pieces = tf.strings.split(texts, mask)  # one more than there are masks; an empty text has none
    some = tf.reduce_all(pieces.row_lengths() > 1)
    with tf.control_dependencies([refusal_unless(some, f"Each text needs a hole to be filled, written {mask}.")]):
        ids = tokenizer.tokenize(tf.identity(pieces.flat_values))
    # After each piece a mask, which is taken away again where the text ends.
    ids = tf.concat([tf.cast(ids, tf.int32), tf.fill([ids.nrows(), 1], tf.constant(tokenizer.mask_id, tf.int32))], 1)
    ends = tf.gather(tf.cast(ids.row_splits, tf.int32), tf.cast(pieces.row_splits, tf.int32))
    whole = tf.RaggedTensor.from_row_splits(ids.flat_values, ends, validate=False)[:, :-1]
    batch = _rows(model, tokenizer, frame, whole)
    token_ids = batch["token_ids"]
    is_mask = token_ids == tokenizer.mask_id
    columns = tf.ragged.boolean_mask(tf.broadcast_to(tf.range(tf.shape(token_ids)[1]), tf.shape(token_ids)), is_mask)
    places = columns.to_tensor(default_value=-1)
    return {**batch, "label_positions": tf.maximum(places, 0)}, places >= 0


def _rows(model, tokenizer, frame, ids):
    batch = rows_in_graph([ids], frame, tokenizer.pad_id, model.max_length, "refuse")
    return {name: batch[name] for name in ("token_ids", "padding_mask")}  # of one part


def _pseudo_log_probs(model, tokenizer, frame, texts):
    """float32 (B,) and the number of tokens, int32 (B,): one pass of the model for each column of the batch."""
    rows = _rows(model, tokenizer, frame, tokenizer.tokenize(texts))
    token_ids, padding_mask = rows["token_ids"], rows["padding_mask"]
    num_tokens = tf.reduce_sum(tf.cast(padding_mask, tf.int32), 1) - frame.num_special()
    batch, first = tf.shape(token_ids)[0], len(frame.before)
    columns = tf.range(tf.shape(token_ids)[1])[None]

    def hide(column, total):
        masked = {**rows, "token_ids": tf.where(columns == column, tokenizer.mask_id, token_ids)}
        masked["label_positions"] = tf.fill([batch, 1], column)
        log_probs_BV = tf.nn.log_softmax(token_logits(model, masked)[:, 0])
        there = tf.gather(log_probs_BV, token_ids[:, column], axis=1, batch_dims=1)
        return column + 1, total + tf.where(column < first + num_tokens, there, 0.0)

    longest = tf.reduce_max(tf.concat([num_tokens, [0]], 0))
    _, total = tf.while_loop(
        lambda column, _: column < first + longest, hide, (tf.constant(first), tf.zeros([batch])), parallel_iterations=1
    )
    return total, num_tokens
