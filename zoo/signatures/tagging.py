"""The best sequences of tags of a text, in graph.

Shape letters: B batch, K sequences, W words.
"""

import numpy as np
import tensorflow as tf

from zoo.layers import crf
from zoo.signatures.request import refusal_unless, signature

MOST_BEST = 64
DEFAULT = np.array([5], np.int32)


def n_best_signature(read, labels):
    """`tag_n_best`: `text` string (B,), `num_best` int32 (B,) or one for all, 5 if it is left out -> `tokens` string (B, W);
    `tags` string (B, K, W), the most probable sequence first; `scores` float32 (B, K), the natural log-probability of each.
    Behind a row's own `num_best`, and where a text has fewer sequences, stand empty strings and -inf.

    Args:
        read: a function of texts, string (B,) -> words, ragged string (B, W); bool (B, W), True for real words; what a
            `CRFHead` gives for them.
        labels: the tags.
    """

    @signature(tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.int32))
    def tag_n_best(text, num_best=DEFAULT):
        num_best_B = _one_each(num_best, text)
        words, real_BW, outputs = read(text)
        num_paths = tf.reduce_max(tf.concat([num_best_B, [1]], 0))
        tags_BKW, log_probs_BK = crf.decode_n_best(*outputs, real_BW, num_paths)
        there_BK = (tf.range(num_paths) < num_best_B[:, None]) & (log_probs_BK > -float("inf"))
        tags = tf.where(there_BK[..., None] & real_BW[:, None], tf.gather(tf.constant(labels), tags_BKW), "")
        return {"tokens": words.to_tensor(""), "tags": tags, "scores": tf.where(there_BK, log_probs_BK, -float("inf"))}

    return tag_n_best


def _one_each(num_best, texts):
    """int32 (B,): how many sequences each row wants, once that is known to be allowed."""
    given, rows = tf.size(num_best), tf.size(texts)
    sentence = "num_best takes one value for all texts or one each: {} values for {} texts."
    allowed = tf.reduce_all((num_best >= 1) & (num_best <= MOST_BEST))
    checks = [
        refusal_unless((given == 1) | (given == rows), sentence, given, rows),
        refusal_unless(allowed, f"num_best is 1 to {MOST_BEST}; got {{}}.", num_best),
    ]
    with tf.control_dependencies(checks):
        return tf.broadcast_to(num_best, [rows])
