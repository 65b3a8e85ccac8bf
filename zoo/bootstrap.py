"""How sure a score is: scores of examples drawn anew, with replacement (Efron and Tibshirani 1993, chapter 13)."""

import numpy as np

from zoo.config import Refusal

CONFIDENCE = (2.5, 97.5)  # percentiles: the middle 95% of the draws
MOST_DRAWN = 10**8  # examples, in all draws


def interval(sample, draws=None, seed=0):
    """(low, high) of a score: the middle 95% of the scores of N examples drawn anew.

        >>> from zoo.metrics import Sample
        >>> interval(Sample.mean([0.0, 1.0] * 50))
        (0.4, 0.59)

    Args:
        sample: a `zoo.metrics.Sample` of N examples, at least one.
        draws: how many sets of N examples are drawn: 1,000 unless N is above 100,000.
        seed: of the draws, which are the same under every version of numpy.
    """
    draws = draws or int(np.clip(MOST_DRAWN // len(sample.rows), 100, 1_000))
    return tuple(
        np.percentile(
            [sample.of_sums(times @ sample.rows) for times in _drawn(len(sample.rows), draws, seed)], CONFIDENCE
        ).tolist()
    )


def intervals(samples):
    """Name -> [low, high] of some samples, by `interval`, as a score of a split; nothing where there are none."""
    found = {name: list(interval(sample)) for name, sample in samples.items() if len(sample.rows)}
    return {"intervals": found} if found else {}


def paired_bootstrap(first, second, draws=1_000, seed=0):
    """Whether two models differ on the same examples (Koehn 2004), by scores of examples drawn with replacement.

    Args:
        first, second: a `Sample` each of the same N examples, in the same order.
        draws: how many sets of N examples are drawn.
        seed: of the draws, which are the same under every version of numpy.

    Returns:
        dict of `difference`, first - second on all examples; `low` and `high`, its interval with a confidence of 95%;
        `p_value`, two-sided: how often a difference of draws is as far from the mean of all draws as the observed one is from
        0, as sacrebleu counts it (Riezler and Maxwell 2005).

    Raises:
        Refusal: they are not of equally many examples.
    """
    count = len(first.rows)
    if count != len(second.rows) or not count:
        raise Refusal(
            f"Scores of the same examples are compared, and there are {count} of one and {len(second.rows)} of the other."
        )
    observed = first.score() - second.score()
    differences = np.array(
        [first.of_sums(times @ first.rows) - second.of_sums(times @ second.rows) for times in _drawn(count, draws, seed)]
    )
    low, high = np.percentile(differences, CONFIDENCE)
    far = int((np.abs(differences - differences.mean()) >= abs(observed) - 1e-12).sum())
    return {"difference": observed, "low": float(low), "high": float(high), "p_value": (far + 1) / (draws + 1)}


def _drawn(count, draws, seed):
    """Yields float (N,), how often each of `count` examples was drawn."""
    random = np.random.Philox(key=seed)
    for _ in range(draws):
        chosen = (random.random_raw(count) % np.uint64(count)).astype(np.int64)
        yield np.bincount(chosen, minlength=count).astype(np.float64)
