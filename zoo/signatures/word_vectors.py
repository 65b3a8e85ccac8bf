"""Words in, words out: the nearest words, and analogies, in one graph.

All cosines of a request are products with one table of vectors of length 1. It is stored a word a column and in parts, for the
product of a row with such a matrix reads it at the speed of memory, and the parts are read by several threads. A product with
the table as it is trained, a word a row, takes three to four times as long (benchmarks/LOG.md).

Shape letters: B batch, V vocabulary, D hidden, K answers, P words of a part.
"""

import numpy as np
import tensorflow as tf

from zoo.signatures.embedding import embed_signature
from zoo.signatures.request import each_alone, refusal_unless, same_rows, signature
from zoo.tokenizers.base import row_ids

DEFAULT_ANSWERS, MOST_ANSWERS = 10, 1_000
EXAMPLE_RANK = 100  # a word that is neither rare nor one of grammar's
PART = 2**24  # numbers of a part of the table
STRINGS, INTEGERS = tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.int32)


def word_vectors_signatures(model, tokenizer):
    """The functions that exported word vectors answer requests with.

    Args:
        model: an encoder of word vectors with its head, a `VectorsHead`.
        tokenizer: a `Tokenizer`.

    Returns:
        Name -> `tf.function`: - `serving_default`, `nearest`: `word` string (B,), `k` int32 (B,) or one for all, 10 if it is
        left out -> `words` string
          (B, K), the nearest first, and `similarity` float32 (B, K), the cosine. The word itself is not among them. Several
          words are taken for their mean. Behind a row's own `k`, and for unknown words, stand empty strings and zeros.
        - `analogy`: `a`, `b`, `c` string (B,), `k` -> likewise the words that are to `c` as `b` is to `a`, by 3CosAdd: nearest
        to
          b - a + c of vectors of length 1 (Mikolov et al. 2013, section 4.1), without the three.
        - `embed`: `text` string (B,) -> `embedding` float32 (B, D), the mean of its words, of length 1.
    """
    encoder, scales = model.without_head(), model.head.scales
    measure(model)
    parts = unit_columns(model)
    k_default = np.array([DEFAULT_ANSWERS], np.int32)

    def known(texts):
        """RaggedTensor of the ids of texts that have a vector."""
        ids = tokenizer.tokenize(texts)
        return tf.ragged.boolean_mask(ids, ids.with_flat_values(tf.gather(scales, ids.flat_values) > 0))

    def vectors(ids):
        """float32 (B, D): the mean of each row's words, zero for none."""
        rows_ND = sum(tf.gather(side, ids.flat_values) for side in encoder.sides())
        total_BD = tf.math.unsorted_segment_sum(tf.cast(rows_ND, tf.float32), row_ids(ids), ids.nrows())
        return total_BD / tf.maximum(tf.cast(ids.row_lengths(), tf.float32), 1.0)[:, None]

    def answers(query_BD, left_out, k):
        """The words nearest to (B, D), but those of the ragged ids `left_out`; none where the query is zero."""
        cosines_BV = tf.concat([tf.matmul(query_BD, part_DP) for part_DP in parts], 1)
        cosines_BV = tf.where(tf.convert_to_tensor(scales) > 0, cosines_BV, -float("inf"))
        places = tf.stack([row_ids(left_out), tf.cast(left_out.flat_values, tf.int32)], 1)
        never = tf.fill([tf.shape(places)[0]], -float("inf"))
        cosines_BV = tf.tensor_scatter_nd_update(cosines_BV, places, never)
        width = tf.minimum(tf.reduce_max(tf.concat([k, [1]], 0)), tf.shape(cosines_BV)[1])
        best_BK, ids_BK = tf.math.top_k(cosines_BV, width)
        there = (tf.range(width)[None] < k[:, None]) & tf.math.is_finite(best_BK)
        there &= tf.reduce_any(query_BD != 0, axis=1, keepdims=True)
        return {"words": tf.where(there, each_alone(tokenizer, ids_BK), ""), "similarity": tf.where(there, best_BK, 0.0)}

    @signature(STRINGS, INTEGERS)
    def nearest(word, k=k_default):
        k, ids = _one_each(k, word), known(word)
        return answers(_of_length_1(vectors(ids)), ids, k)

    @signature(STRINGS, STRINGS, STRINGS, INTEGERS)
    def analogy(a, b, c, k=k_default):
        a, b, c = same_rows(a=a, b=b, c=c)
        k, ids = _one_each(k, a), [known(words) for words in (a, b, c)]
        a_BD, b_BD, c_BD = (_of_length_1(vectors(each)) for each in ids)
        complete = tf.reduce_all(tf.stack([tf.reduce_any(x != 0, axis=1) for x in (a_BD, b_BD, c_BD)]), axis=0)
        query_BD = tf.where(complete[:, None], _of_length_1(b_BD - a_BD + c_BD), 0.0)
        return answers(query_BD, tf.concat(ids, 1), k)

    return {"serving_default": nearest, "nearest": nearest, "analogy": analogy, "embed": embed_signature(encoder, tokenizer)}


def word_vectors_requests(model, tokenizer):
    """Requests that exercise every signature."""
    words = [example_word(model, tokenizer), "", "the", "no-such-word"]
    return [
        ("serving_default", {"word": words[:2]}),
        ("nearest", {"word": words, "k": [3, 10, 1, 2]}),
        ("analogy", {"a": words, "b": words[1:] + words[:1], "c": words[2:] + words[:2], "k": [1, 2, 3, 4]}),
        ("embed", {"text": ["", "The list of all words"]}),
    ]


def example_word(model, tokenizer):
    """`list`, or where the vectors do not know it a frequent word of theirs, without marks that a shell would read."""
    counts, ids = np.asarray(model.head.counts), tokenizer.encode("list")
    if not counts.any() or (len(ids) == 1 and counts[ids[0]] > 0):
        return "list"
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    words = (tokenizer.decode([int(i)]) for i in [*order[EXAMPLE_RANK:], *order[:EXAMPLE_RANK][::-1]])
    return next((word for word in words if word.isalnum()), "list")


def measure(model):
    """Sets the head's `scales`: for each word 1 / |vector|, and 0 for what was never trained."""
    counts, length = model.head.counts.numpy(), np.zeros(len(model.head.counts.numpy()), np.float32)
    sides = model.without_head().sides()
    for start in range(0, len(counts), 65_536):
        rows = sum(tf.cast(side[start : start + 65_536], tf.float32).numpy() for side in sides)
        length[start : start + len(rows)] = np.sqrt((rows * rows).sum(1))
    there = (counts > 0) & (length > 0)
    model.head.scales.assign(np.where(there, 1 / np.maximum(length, 1e-30), 0.0).astype(np.float32))


def unit_columns(model, part=None):
    """The vectors of all words, of length 1 and each a column, as variables (D, P) that a SavedModel stores; call `measure`
    first.

    Args:
        model: as in `word_vectors_signatures`.
        part: about how many numbers a variable has, by default `PART`.
    """
    sides, scales_V = model.without_head().sides(), model.head.scales.numpy()
    width, parts = max(1, (part or PART) // sides[0].shape[1]), []
    for start in range(0, len(scales_V), width):
        rows_PD = sum(tf.cast(side[start : start + width], tf.float32) for side in sides)
        columns_DP = tf.transpose(rows_PD * scales_V[start : start + width, None])
        parts.append(tf.Variable(columns_DP, trainable=False, name=f"unit_columns_{len(parts)}"))
    return parts


def _of_length_1(x_BD):
    return x_BD / tf.maximum(tf.norm(x_BD, axis=1, keepdims=True), 1e-12)


def _one_each(k, words):
    """int32 (B,): how many answers each row wants, once that is known to be allowed."""
    rows = tf.size(words)
    checks = [
        refusal_unless((tf.size(k) == 1) | (tf.size(k) == rows), "k takes one value for all words or one each: {} for {}.",
                       tf.size(k), rows),
        refusal_unless(tf.reduce_all((k >= 1) & (k <= MOST_ANSWERS)), f"k is 1 to {MOST_ANSWERS:,}; got {{}}.", k),
    ]  # fmt: skip
    with tf.control_dependencies(checks):
        return tf.broadcast_to(k, [rows])
