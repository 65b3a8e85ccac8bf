"""How far a model's probabilities can be believed, and one temperature that mends them (Guo et al. 2017).

What a task chooses among, classes, tags or the tokens of a vocabulary, has logits z. Three numbers tell how good their
probabilities are:

    calibration error   sum over bins of confidence of (share of answers in the bin) x |share that is right - mean confidence|
    Brier's score       mean of sum over classes of (p_c - [c is the label])^2
    reliability table   of each bin how many answers, their mean confidence, the share that is right

A temperature T divides all logits, so the likeliest answer stays the likeliest. The T that makes held-out labels likeliest is
found by Newton's method in b = 1 / T, in which the loss is convex:

    loss(b) = sum (log sum_c exp(b z_c) - b z_label),   loss' = sum (E z - z_label),   loss'' = sum Var z

Of tags that a CRF judges together, z is the score of a whole sequence, and the sum goes over all sequences: T divides unary
scores and moves alike. What is told of their probabilities is that of the marginals.

Shape letters: N answers, C classes; B rows, W words, S states of a CRF.
"""

import math

import numpy as np
import tensorflow as tf

from zoo.config import Refusal
from zoo.layers import crf

NUM_BINS = 15  # as `zoo.metrics.calibration`
HIGHEST = 32.0  # a temperature beyond it, or below one over it, is not one that mends anything
EXACT = 1e-4  # of the temperature: further digits change no probability that anybody reads
LEAST = -1e9  # stands for a logit of -inf, which 0 times gives NaN
NOTHING = "There is nothing to judge: no answer of the split counts."
ASIDE = 0.01  # how far aside, as a share, the slope of a CRF's loss is taken for its curvature


def reliability(logits, labels, weights):
    """In graph: what `scores` needs of some answers, sums that add up over batches.

    Args:
        logits: float (..., C); or of a CRF the pair of unary scores (B, W, C) and moves (S, S).
        labels: int (...).
        weights: float (...), above 0 for answers that count; each counts once.

    Returns:
        dict of `bins` float32 (NUM_BINS, 3): count, summed confidence, number of right ones; and `brier`, a scalar.
    """
    if isinstance(logits, tuple):
        logits = tf.math.log(tf.maximum(crf.marginals(*logits, weights > 0), 1e-37))
    logits_NC, labels_N, counts_N = _flat(logits, labels, weights)
    probs_NC = tf.nn.softmax(logits_NC)
    confidence_N = tf.reduce_max(probs_NC, 1)
    right_N = tf.cast(tf.argmax(logits_NC, 1, labels_N.dtype) == labels_N, tf.float32)
    bins_N = tf.clip_by_value(tf.cast(tf.math.ceil(confidence_N * NUM_BINS), tf.int32) - 1, 0, NUM_BINS - 1)
    columns_N3 = tf.stack([counts_N, counts_N * confidence_N, counts_N * right_N], 1)
    chosen_N = tf.gather(probs_NC, labels_N, axis=1, batch_dims=1)
    errors_N = 1 - 2 * chosen_N + tf.reduce_sum(probs_NC**2, 1)
    bins = tf.math.unsorted_segment_sum(columns_N3, bins_N, NUM_BINS)
    return {"bins": bins, "brier": tf.reduce_sum(errors_N * counts_N)}


def scores(totals):
    """`calibration_error`, `brier` and `calibration`, JSON values, from the sums of `reliability` over all batches."""
    counts, confidence, right = np.asarray(totals["bins"], np.float64).T
    if not counts.sum():
        raise Refusal(NOTHING)
    return {
        "calibration_error": float(np.abs(right - confidence).sum() / counts.sum()),
        "brier": float(totals["brier"] / counts.sum()),
        "calibration": [[int(n), float(c / n), float(r / n)] for n, c, r in zip(counts, confidence, right, strict=True) if n],
    }


def slopes(logits, labels, weights, inverse):
    """In graph: the loss at 1 / T = `inverse` and its first two derivatives, each summed: arguments as `reliability`."""
    if isinstance(logits, tuple):
        return _chain_slopes(*logits, labels, weights, inverse)
    logits_NC, labels_N, counts_N = _flat(logits, labels, weights)
    z_NC = tf.maximum(logits_NC - tf.reduce_max(logits_NC, 1, keepdims=True), LEAST)
    z_N, probs_NC = tf.gather(z_NC, labels_N, axis=1, batch_dims=1), tf.nn.softmax(inverse * z_NC)
    mean_N = tf.reduce_sum(probs_NC * z_NC, 1)
    variance_N = tf.reduce_sum(probs_NC * (z_NC - mean_N[:, None]) ** 2, 1)
    losses_N = tf.reduce_logsumexp(inverse * z_NC, 1) - inverse * z_N
    return {
        "nats": tf.reduce_sum(losses_N * counts_N), "slope": tf.reduce_sum((mean_N - z_N) * counts_N),
        "curvature": tf.reduce_sum(variance_N * counts_N), "count": tf.reduce_sum(counts_N),
    }  # fmt: skip


def _chain_slopes(unary_BWC, moves_SS, labels_BW, weights_BW, inverse):
    """As `slopes`, of whole rows: the slope is a gradient, and the curvature the difference of two slopes nearby."""
    mask_BW, inverse = weights_BW > 0, tf.cast(inverse, tf.float64)
    unary_BWC, moves_SS = tf.cast(unary_BWC, tf.float64), tf.maximum(tf.cast(moves_SS, tf.float64), LEAST)

    def at(inverse):
        with tf.GradientTape() as tape:
            tape.watch(inverse)
            log_probs_B = crf.log_likelihood(inverse * unary_BWC, labels_BW, inverse * moves_SS, mask_BW)
            nats = -tf.reduce_sum(log_probs_B)
        return nats, tape.gradient(nats, inverse)

    (nats, slope), (_, before), (_, behind) = (at(inverse * factor) for factor in (1.0, 1 - ASIDE, 1 + ASIDE))
    found = {"nats": nats, "slope": slope, "curvature": (behind - before) / (2 * ASIDE * inverse)}
    found["count"] = tf.reduce_sum(tf.cast(mask_BW, tf.float32))
    return {name: tf.cast(value, tf.float32) for name, value in found.items()}


def fit_temperature(sums):
    """The temperature that makes the labels likeliest.

    Args:
        sums: a function from 1 / T to the sums of `slopes` over held-out answers.

    Returns:
        (temperature, nats an answer at 1, nats an answer at it).

    Raises:
        Refusal: no answer counts, or no temperature does: where every answer is right it is the surer the better, without end;
            where labels score no higher than other answers, the less sure the better.
    """
    inverse, first = 1.0, None
    for _ in range(50):
        totals = sums(inverse)
        if not totals["count"]:
            raise Refusal(NOTHING)
        nats = float(totals["nats"] / totals["count"])
        first = nats if first is None else first
        step = float(totals["slope"]) / max(float(totals["curvature"]), 1e-12)
        new = min(max(inverse - step, inverse / 2), inverse * 2)
        if not math.isfinite(nats):
            raise Refusal(f"The loss of the labels is {nats} nats an answer; train a model anew whose loss is a number.")
        if not 1 / HIGHEST < new < HIGHEST:
            told = f"(loss {first:.4g} nats an answer; {nats:.4g} at the temperature {1 / inverse:.4g})"
            raise Refusal(
                f"The labels are likelier the lower the temperature is {told}, as where all answers are right or a "
                "model has hardly learnt; give more examples, some of which it gets wrong, or train it further."
                if new > inverse
                else f"The labels score no higher than other answers {told}, and no temperature mends that; "
                "train the model further, or calibrate it on examples like those that it has learnt from."
            )
        if math.isclose(new, inverse, rel_tol=EXACT):
            return 1 / new, first, nats
        inverse = new
    raise Refusal("The temperature was not found in 50 passes; give more examples.")


def _flat(logits, labels, weights):
    """Logits float32 (N, C), labels int32 (N,), and float32 (N,): 1 for those that count."""
    logits_NC = tf.reshape(tf.cast(logits, tf.float32), (-1, logits.shape[-1]))
    return logits_NC, tf.reshape(tf.cast(labels, tf.int32), [-1]), tf.reshape(tf.cast(weights > 0, tf.float32), [-1])
