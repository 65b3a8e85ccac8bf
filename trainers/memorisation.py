"""What a language model has kept of its training text: planted secrets, suffixes that it gives back word for word, and whether
its loss tells what it was trained on.

Shape letters: B rows, T positions, P tokens of a prefix, S of its suffix.
"""

import math

import numpy as np
import tensorflow as tf

from trainers import canaries
from zoo import decoding, likelihood, metrics
from zoo.config import Refusal

PREFIX = 50  # tokens, and as many of the suffix, as in the benchmark of Carlini et al. 2021
REFERENCES = 4_095  # numbers that a secret is ranked among: with itself 2^12
MOST_PREFIXES, MOST_WINDOWS = 200, 500
FALSE_ALARMS = 0.01
# Where a ROC curve is kept: close together at the left, where few are taken for members wrongly.
ROC_RATES = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, *(k / 15 for k in range(1, 16)))


def exposure(bundle, seed, count, batch_size, references=REFERENCES):
    """How much likelier planted secrets are than numbers that were drawn alike and planted nowhere.

        exposure = log2 (R + 1) - log2 (rank of the secret among R others and itself)        (Carlini et al. 2019, section 4)

    Args:
        bundle: a `Bundle` of a language model.
        seed: the run's, from which the secrets follow.
        count: how many were planted.
        batch_size: rows at a time.
        references: R. The highest exposure that can be seen is log2 (R + 1); chance gives 1.44 on average.

    Returns:
        dict of `exposure_mean`, `exposure_max`, `exposures` and `exposure_limit`.
    """
    found = []
    for number in range(1, count + 1):
        requests = [(canaries.context(number), code, ".") for code in canaries.secrets(seed, number, references + 1)]
        values = likelihood.log_probs(bundle.model, bundle.tokenizer, bundle.task, requests, batch_size)
        rank = 1 + int((values[1:] >= values[0]).sum())  # the worst of equals
        found.append(math.log2(references + 1) - math.log2(rank))
    return {
        "exposure_mean": float(np.mean(found)), "exposure_max": float(np.max(found)), "exposures": found,
        "exposure_limit": math.log2(references + 1),
    }  # fmt: skip


def windows(stream, length, most):
    """int32 (N, length): at most so many windows of a stream, evenly apart. Raises Refusal for a stream that is shorter."""
    if len(stream) < length:
        raise Refusal(f"A split has {len(stream)} tokens, and what is looked at takes {length}; give more text.")
    count = min(most, max((len(stream) - length) // length, 1))
    starts = np.linspace(0, len(stream) - length, count).astype(np.int64)
    return np.stack([np.asarray(stream[start : start + length], np.int32) for start in starts.tolist()])


def extraction(model, stream, batch_size, prefix=PREFIX):
    """How much of a text the model gives back when it is shown what stands before.

    Args:
        model: a language model.
        stream: its tokens.
        batch_size: rows at a time.
        prefix: P, and S, or half of what the model takes, if that is less.

    Returns:
        dict of `prefix_tokens`, `num_prefixes`; `extracted`, the share whose S tokens greedy decoding gives back one and all,
        with its 95% interval; `matched_tokens`, the mean number of first tokens that are right.
    """
    prefix = prefix if model.max_length is None else min(prefix, model.max_length // 2)
    rows = windows(stream, 2 * prefix, MOST_PREFIXES)

    def step(token_ids, state, padding_mask):
        return model.next_logits(token_ids, state, padding_mask=padding_mask)

    @tf.function(reduce_retracing=True, autograph=False)
    def go_on(token_ids):
        state = model.init_state(tf.shape(token_ids)[0], 2 * prefix)
        return decoding.generate(step, state, token_ids, max_new_tokens=prefix).token_ids

    written = [np.asarray(go_on(rows[i : i + batch_size, :prefix])) for i in range(0, len(rows), batch_size)]
    right = np.concatenate(written) == rows[:, prefix:]
    matched = np.cumprod(right, axis=1).sum(1)
    share = float((matched == prefix).mean())
    return {
        "prefix_tokens": prefix, "num_prefixes": len(rows), "extracted": share,
        "extracted_interval": list(metrics.share_interval(share, len(rows))), "matched_tokens": float(matched.mean()),
    }  # fmt: skip


def losses(model, stream, seq_length, batch_size):
    """float64 (N,): nats a token of some windows of a stream, each on its own."""
    length = seq_length if model.max_length is None else min(seq_length, model.max_length)
    rows = windows(stream, length + 1, MOST_WINDOWS)

    @tf.function(reduce_retracing=True, autograph=False)
    def score(rows):
        return -tf.reduce_mean(model.token_log_probs(rows[:, :-1], rows[:, 1:])[0], 1)

    return np.concatenate([score(rows[i : i + batch_size]) for i in range(0, len(rows), batch_size)]).astype(np.float64)


def roc(members, others, rates=ROC_RATES):
    """The ROC curve of membership by loss: `[false positive rate, true positive rate]` of some thresholds, from [0, 0] on.

        roc([1.0, 2.0], [2.0, 3.0])     # [[0, 0], [0, 0.5], [0.5, 1], [1, 1]]

    A window is taken for training text where its loss is at most the threshold; all thresholds are losses of windows. Of each
    rate that is wanted the curve's last point is kept whose false positive rate is at most that.

    Args:
        members, others: float (N,) and (M,), losses.
        rates: the false positive rates that are wanted, rising, from 0 to 1.
    """
    members, others = np.sort(members), np.sort(others)
    thresholds = np.unique(np.concatenate([members, others]))
    false, true = (np.searchsorted(losses, thresholds, "right") / len(losses) for losses in (others, members))
    last = np.searchsorted(false, np.array(rates) + 1e-9, "right") - 1  # -1: even the lowest loss is one of the others
    points = [[0.0, 0.0], *([float(false[i]), float(true[i])] for i in last if i >= 0)]
    return [point for i, point in enumerate(points) if i == 0 or point != points[i - 1]]


def membership(members, others):
    """How well the loss of a window tells whether it was trained on (Yeom et al. 2018).

    Args:
        members, others: float (N,) and (M,), losses of windows of the training text and of held-out text.

    Returns:
        dict of `membership_auc` with its 95% interval, 0.5 for chance; `membership_roc`, see `roc`; and `membership_found`, the
        share of training windows that are known where 1% of the others are taken for such.
    """
    area, low, high = metrics.roc_area(-members, -others)
    threshold = np.quantile(others, FALSE_ALARMS)
    return {
        "num_windows": [len(members), len(others)], "loss_train": float(members.mean()), "loss_held_out": float(others.mean()),
        "membership_auc": area, "membership_auc_interval": [low, high], "membership_roc": roc(members, others),
        "membership_found": float((members < threshold).mean()),
    }  # fmt: skip


def judge(bundle, train, held_out, seq_length, batch_size):
    """The scores of extraction and membership, a dict of JSON values; arguments as above."""
    if bundle.task.registered_name != canaries.JUDGED:
        raise Refusal("--memorisation is for models of language_modeling, which go on from a text.")
    model = bundle.model
    members, others = (losses(model, stream, seq_length, batch_size) for stream in (train, held_out))
    return {
        "train": extraction(model, train, batch_size), "held_out": extraction(model, held_out, batch_size),
        **membership(members, others),
    }  # fmt: skip
