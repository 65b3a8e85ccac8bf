"""Scores of a classifier for each group of its examples, and the largest gap between two of them.

Shape letters: N examples, C classes.
"""

import itertools
import math

import numpy as np

from zoo import metrics
from zoo.config import Refusal


def judge(probs, labels, groups, names):
    """The scores of each group, and of the gap, a list of dicts.

    Args:
        probs: float (N, C).
        labels: int (N,).
        groups: N strings.
        names: the C classes.

    Returns:
        A dict a group: `group`, `num_examples`, `accuracy` with its 95% `interval`, `recall` by class (of those that occur),
        `calibration_error`, `brier`. Then `largest_gap`: of accuracy between two groups, which two, and its 95% interval.

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
    return [*scores, {"largest_gap": _gap(scores)}]


def _gap(scores):
    """The two groups whose accuracies are farthest apart, the better first; the interval is that of two independent shares."""
    pairs = itertools.permutations(scores, 2)
    better, worse = max(pairs, key=lambda pair: pair[0]["accuracy"] - pair[1]["accuracy"])
    gap = better["accuracy"] - worse["accuracy"]
    variance = sum(one["accuracy"] * (1 - one["accuracy"]) / one["num_examples"] for one in (better, worse))
    half = 1.959964 * math.sqrt(variance)
    return {"accuracy": gap, "interval": [gap - half, gap + half], "groups": [better["group"], worse["group"]]}
