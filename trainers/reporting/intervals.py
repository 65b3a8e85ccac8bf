"""Intervals of scores by the bootstrap (Efron and Tibshirani 1993, chapter 13): what other examples would give.

Examples are drawn anew, with replacement, from those of the split; an interval holds the middle 95% of the scores of the draws.
A run writes the intervals of its last scores into its log. Where it did not, a confusion matrix says of each example what it
was taken for, and a share of examples says how many were right: of these two the bootstrap is exact.
"""

import numpy as np

from zoo import metrics

DRAWS, MASS = 2_000, 0.95


def of_confusion(confusion, score, seed=0):
    """(low, high) of a score of a confusion matrix.

        of_confusion(np.array([[40, 10], [5, 45]]), accuracy)     # about (0.78, 0.91)

    Args:
        confusion: int (C, C), true classes by rows.
        score: a function of such a matrix.
    """
    cells = np.flatnonzero(confusion)
    counts = confusion.ravel()[cells]
    total = int(counts.sum())
    drawn = np.zeros(confusion.shape, np.int64)
    scores = []
    for draw in np.random.default_rng(seed).multinomial(total, counts / total, DRAWS):
        drawn.ravel()[cells] = draw
        scores.append(score(drawn))
    return tuple(float(bound) for bound in np.quantile(scores, [(1 - MASS) / 2, (1 + MASS) / 2]))


def accuracy(confusion):
    """The share of examples on the diagonal."""
    return float(np.trace(confusion) / confusion.sum())


def of_share(share, count, seed=0):
    """(low, high) of a share of `count` examples, each of which is right or wrong."""
    right = round(share * count)
    return of_confusion(np.array([[right, count - right], [0, 0]]), accuracy, seed)


def of_line(line):
    """Score -> (low, high), for those scores of a line of the log that have one or allow it: words are not examples."""
    found = {name: tuple(bounds) for name, bounds in line.get("intervals", {}).items()}
    if "confusion_matrix" in line and "num_words" not in line:
        confusion = np.array(line["confusion_matrix"], np.int64)
        for name, score in (("accuracy", accuracy), ("macro_f1", metrics.macro_f1)):
            if name in line and name not in found:
                found[name] = of_confusion(confusion, score)
    if "exact_match" in line and "exact_match" not in found and line.get("num_questions"):
        found["exact_match"] = of_share(line["exact_match"], line["num_questions"])
    return found
