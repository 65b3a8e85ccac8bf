"""WEAT: whether two sets of words lie nearer to one of two other sets than chance would have it (Caliskan et al. 2017).

s(w)    mean cosine of w with the words of A, less that with those of B
effect  (mean of s over X - mean of s over Y) / sample standard deviation of s over X and Y
p       how often X and Y, mixed and parted anew into equal halves, differ as much
"""

import itertools
import json
import math

import numpy as np

from zoo import text_files
from zoo.config import Refusal

SETS = ("X", "Y", "A", "B")
DRAWS = 10_000  # of partitions, where there are more
REMARK = (
    "WEAT tells how words lie in one space. It does not tell what a model that uses them will do to anybody, and another "
    "choice of words gives another number (Goldfarb-Tarrant et al. 2021)."
)


def read(path):
    """The tests of a file, a list of dicts: a JSON object a line with `name` and lists of words `X`, `Y`, `A`, `B`.

    Raises:
        Refusal: a line that is not so, or a set of fewer than two words; a file without any.
    """
    found = []
    for number, line in text_files.lines(path):
        if not line.strip():
            continue
        try:
            test = json.loads(line)
            sets = [test[name] for name in SETS]
            right = all(isinstance(words, list) and all(isinstance(word, str) for word in words) for words in sets)
        except (ValueError, TypeError, KeyError):
            right = False
        if not right or not all(len(words) > 1 for words in sets):
            raise Refusal(f"Line {number} of {path} must be a JSON object with lists of two words or more, X, Y, A and B.")
        found.append({"name": str(test.get("name", number)), **dict(zip(SETS, sets, strict=True))})
    if not found:
        raise Refusal(f"{path} holds no tests; each line is a JSON object with lists of words, X, Y, A and B.")
    return found


def weat(x, y, a, b):
    """(effect size, one-sided p-value) of four sets of vectors.

        >>> effect, p_value = weat([[1, 0], [1, 0]], [[0, 1], [0, 1]], [[1, 0]], [[0, 1]])
        >>> round(float(effect), 2), round(float(p_value), 2)  # as far as four vectors can be
        (1.73, 0.17)

    All ways to part X and Y are tried, or 10,000 drawn from a fixed seed where there are more.

    Args:
        x, y, a, b: float (N, D) each, of any lengths but 0. x and y have two rows or more.
    """
    x, y, a, b = (_units(vectors) for vectors in (x, y, a, b))
    both = np.concatenate([x, y])
    s = (both @ a.T).mean(1) - (both @ b.T).mean(1)
    observed, spread = s[: len(x)].mean() - s[len(x) :].mean(), s.std(ddof=1)
    total, count, size = s.sum(), len(s), len(x)

    def difference(chosen):
        inside = s[chosen].sum(-1)
        return inside / size - (total - inside) / (count - size)

    if math.comb(count, size) <= DRAWS:
        found = difference(np.array(list(itertools.combinations(range(count), size))))
        p_value = float((found >= observed - 1e-9).mean())
    else:
        random = np.random.Philox(key=0)
        orders = np.argsort(random.random_raw(DRAWS * count).reshape(DRAWS, count), axis=1)[:, :size]
        p_value = (1 + int((difference(orders) >= observed - 1e-9).sum())) / (DRAWS + 1)
    return (float(observed / spread) if spread else 0.0), p_value


def judge(embed, tests, knows=None):
    """The scores of some tests, a list of dicts: `name`, `effect`, `p_value`, and `words`, how many of each set are used.

    Args:
        embed: list of strings -> float (N, D).
        tests: as `read` gives them.
        knows: string -> whether it has a vector of its own; None for all. Others are left out and told as `unknown`.

    Raises:
        Refusal: fewer than two words of a set are known.
    """
    scores = []
    for test in tests:
        unknown = [word for name in SETS for word in test[name] if knows is not None and not knows(word)]
        sets = [[word for word in test[name] if word not in unknown] for name in SETS]
        short = next((name for name, words in zip(SETS, sets, strict=True) if len(words) < 2), None)
        if short:
            raise Refusal(f"The model knows fewer than two of the words {short} of {test['name']}: {', '.join(test[short])}.")
        effect, p_value = weat(*(embed(words) for words in sets))
        entry = {"name": test["name"], "effect": effect, "p_value": p_value, "words": [len(words) for words in sets]}
        scores.append({**entry, "unknown": unknown})
    return scores


def _units(vectors):
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
