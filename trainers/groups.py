"""Scores of a classifier for each group of its examples, and the largest gap between two of them.

Shape letters: N examples, C classes.
"""

import math

import numpy as np

from zoo import metrics
from zoo.bootstrap import MOST_DRAWN
from zoo.config import Refusal

DRAWS = (100, 2_000)  # of groups that are dealt out anew: the fewest, of many examples, and the most


def judge(probs, labels, groups, names):
    """The scores of each group, and of the gaps, a list of dicts.

    Args:
        probs: float (N, C).
        labels: int (N,).
        groups: N strings.
        names: the C classes.

    Returns:
        A dict a group: `group`, `num_examples`, `accuracy` with its 95% `interval`, `recall` by class (of those that occur),
        `calibration_error`, `brier`. Then `largest_gap`: of accuracy between two groups, which two, its 95% interval, and the
        `p_value` of a permutation test: how often groups that are dealt out anew differ as much, whichever two. In it `recall`
        has the same of each class that two groups or more have, and `calibration_error` the distance of the two farthest and
        the `p_value` of such a test of it. That has no interval: a calibration error is too high in few examples.

    Raises:
        Refusal: there is one group only.
    """
    groups, right = np.asarray(groups), probs.argmax(1) == labels
    found = sorted(set(groups.tolist()))
    if len(found) < 2:
        raise Refusal(f"Every example has the group {found[0]!r}; --by_group compares two or more.")
    scores = []
    for group in found:
        chosen = groups == group
        accuracy, count = float(right[chosen].mean()), int(chosen.sum())
        recall = {name: right[chosen & (labels == i)] for i, name in enumerate(names)}
        scores.append({
            "group": group, "num_examples": count, "accuracy": accuracy,
            "interval": list(metrics.share_interval(accuracy, count)),
            "recall": {name: float(values.mean()) for name, values in recall.items() if len(values)},
            "calibration_error": metrics.calibration_error(probs[chosen], labels[chosen]),
            "brier": metrics.brier_score(probs[chosen], labels[chosen]),
        })  # fmt: skip
    gap = {"accuracy": (whole := _gap(right, groups)).pop("gap"), **whole}
    of_classes = {name: _gap(right[labels == i], groups[labels == i]) for i, name in enumerate(names)}
    gap["recall"] = {name: each for name, each in of_classes.items() if each}
    gap["calibration_error"] = _gap_of_calibration(probs, labels, groups)
    return [*scores, {"largest_gap": gap}]


def of(examples):
    """The groups of examples, a list of strings. Raises Refusal for an example without one."""
    groups = [example.get("group") for example in examples]
    for number, group in enumerate(groups, 1):
        if not isinstance(group, str | int | float) or not str(group).strip():
            raise Refusal(f"Example {number} has no group; each must have one, in the field or column `group`.")
    return list(map(str, groups))


def _gap(right, groups):
    """The two groups whose shares are farthest apart, the better first; the interval is that of two independent shares. None
    for fewer than two groups.

    Args:
        right: bool (n,).
        groups: strings (n,).
    """
    names, numbers = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return None
    sizes = np.bincount(numbers)
    shares = np.bincount(numbers, weights=right) / sizes
    better, worse = int(shares.argmax()), int(shares.argmin())
    gap = float(shares[better] - shares[worse])
    half = 1.959964 * math.sqrt(sum(shares[i] * (1 - shares[i]) / sizes[i] for i in (better, worse)))
    random, hits = np.random.Philox(key=0), 1
    draws = _draws(len(right))
    for _ in range(draws):
        dealt = right[np.argsort(random.random_raw(len(right)))]
        hits += np.ptp(np.bincount(numbers, weights=dealt) / sizes) >= gap - 1e-9
    pair = [str(names[better]), str(names[worse])]
    return {"gap": gap, "interval": [gap - half, gap + half], "groups": pair, "p_value": int(hits) / (draws + 1)}


def _draws(count):
    """How often the groups of so many examples are dealt out anew."""
    return int(np.clip(MOST_DRAWN // count, *DRAWS))


def _gap_of_calibration(probs, labels, groups):
    """The two groups whose calibration errors are farthest apart, the better first, and the p-value.

    Of a group of n examples the error is the sum over bins of |sum of (right - confidence)| / n, so that groups are dealt out
    anew without counting again what they hold.

    Args:
        probs: float (N, C).
        labels: int (N,).
        groups: strings (N,), two or more of them unlike.
    """
    names, numbers = np.unique(groups, return_inverse=True)
    sizes, confidence = np.bincount(numbers), probs.max(1)
    off = (probs.argmax(1) == labels) - confidence.astype(np.float64)
    bins = metrics.confidence_bins(confidence)

    def errors(numbers):
        places = numbers * (bins.max() + 1) + bins
        sums = np.bincount(places, off, len(names) * (bins.max() + 1))
        return np.abs(sums.reshape(len(names), -1)).sum(1) / sizes

    found = errors(numbers)
    better, worse = int(found.argmin()), int(found.argmax())
    gap, random, hits = float(found[worse] - found[better]), np.random.Philox(key=0), 1
    draws = _draws(len(numbers))
    for _ in range(draws):
        hits += np.ptp(errors(numbers[np.argsort(random.random_raw(len(numbers)))])) >= gap - 1e-9
    pair = [str(names[better]), str(names[worse])]
    return {"gap": gap, "groups": pair, "p_value": int(hits) / (draws + 1)}
