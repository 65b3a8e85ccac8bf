"""Scores: of language models from sums of negative log-likelihoods, of classifiers, taggers and readers from answers."""

import collections
import math
import re
import string
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from zoo.config import Refusal


def perplexity(nats_per_token):
    """exp of the mean negative log-likelihood a token; infinity where it overflows."""
    return math.exp(nats_per_token) if nats_per_token < 700 else math.inf


def bits_per_byte(nats, num_bytes, lost_bytes=0):
    """Bits a UTF-8 byte of the original text, so that models with different tokenizers compare.

    Args:
        nats: summed negative log-likelihood of every token of the text, ends of documents included.
        num_bytes: UTF-8 bytes of the text.
        lost_bytes: how many of them stand under the unknown token. A closed vocabulary does not tell them; they are
            charged 8 bits each, what it costs to spell them with no model at all.

    Raises:
        Refusal: if `num_bytes` is not positive.
    """
    if num_bytes <= 0:
        raise Refusal(f"bits_per_byte needs a text of at least one byte, got {num_bytes}.")
    return (nats / math.log(2) + 8 * lost_bytes) / num_bytes


def confusion_matrix(labels, predictions, num_classes):
    """int64 (C, C): how many examples of class i (rows) were taken for class j (columns).

    Args:
        labels, predictions: int (N,), each in [0, C).
        num_classes: C.
    """
    cells = np.asarray(labels, np.int64) * num_classes + np.asarray(predictions, np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def macro_f1(confusion):
    """Mean over classes of 2 TP / (2 TP + FP + FN), of those classes that occur or were predicted.

    Args:
        confusion: int (C, C), as `confusion_matrix` gives it.
    """
    either = confusion.sum(0) + confusion.sum(1)
    return float(np.mean((2 * np.diag(confusion))[either > 0] / either[either > 0]))


def of_probabilities(probs, labels):
    """`calibration_error`, `brier` and `calibration` of the same, as a dict."""
    return {
        "calibration_error": calibration_error(probs, labels), "brier": brier_score(probs, labels),
        "calibration": calibration(probs, labels),
    }  # fmt: skip


def calibration_error(probs, labels, num_bins=15):
    """Expected calibration error (Naeini et al. 2015; Guo et al. 2017, equation 3): how far confidence is from accuracy.

    Args:
        probs: float (N, C).
        labels: int (N,).
        num_bins: equally wide bins of confidence; a bin holds its upper end.
    """
    return float(
        sum(abs(right - confidence) * count for count, confidence, right in calibration(probs, labels, num_bins)) / len(labels)
    )


def calibration(probs, labels, num_bins=15):
    """A reliability diagram (Guo et al. 2017, section 2): `[count, mean confidence, share that is right]` of each bin.

        >>> np.round(calibration(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0]), 1), 6).tolist()
        [[2.0, 0.85, 0.5]]

    Args:
        probs: float (N, C).
        labels: int (N,).
        num_bins: equally wide bins of confidence; a bin holds its upper end. Empty ones are left out.
    """
    confidence, right = probs.max(1), probs.argmax(1) == labels
    bins = confidence_bins(confidence, num_bins)
    sums = [np.bincount(bins, weights, num_bins) for weights in (np.ones(len(bins)), confidence, right)]
    return [[int(n), float(c / n), float(r / n)] for n, c, r in zip(*sums, strict=True) if n]


def confidence_bins(confidence, num_bins=15):
    """int (N,): the bin of each confidence, float (N,), of equally wide bins that hold their upper ends."""
    return np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)


def spearman(first, second):
    """Spearman's correlation of two lists of numbers: Pearson's of their ranks, where equal numbers share their mean rank.

    NaN for fewer than two numbers, or where all are equal.

    Args:
        first, second: float (N,).
    """
    ranks = [_mean_ranks(np.asarray(values, np.float64)) for values in (first, second)]
    ranks = [values - values.mean() for values in ranks] if len(first) > 1 else [np.zeros(1)] * 2
    scale = math.sqrt(float((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float((ranks[0] * ranks[1]).sum()) / scale if scale else math.nan


def _mean_ranks(values):
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


# What the letter of a tag says in BIO, BIOES, BIOUL and BMES: B begins a span, I goes on, E ends it, S is all of one.
PLACES = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S"}


def are_entity_tags(labels):
    """Whether tags mark spans: O, and a letter of `PLACES` with a type (`B-PER`); or without types B among such letters."""
    marked = [label for label in labels if label != "O"]
    typed = all(label[:1] in PLACES and label[1:2] == "-" and label[2:] for label in marked)
    return bool(marked) and (typed or ("B" in marked and len(marked) > 1 and set(marked) <= set(PLACES)))


def entities(tags):
    """(type, first word, last word) of each span of a sentence, as conlleval and seqeval's default mode read tags.

    A span also begins where its type changes or after one that has ended, whatever its letter.
    """
    found, start, kind, before = [], None, None, "O"
    for i, tag in enumerate([*tags, "O"]):
        letter, _, its_kind = tag.partition("-")
        place = PLACES.get(letter, letter)
        inside = place != "O"
        begins = inside and (place in "BS" or before in "OES" or its_kind != kind)
        if start is not None and (begins or not inside):
            found.append((kind, start, i - 1))
            start = None
        if begins:
            start = i
        before, kind = place, its_kind
    return found


def entity_f1(sentences, predicted):
    """2 TP / (2 TP + FP + FN) over the spans of all sentences: type and both ends must agree.

    Args:
        sentences, predicted: lists of lists of tags.
    """
    return span_scores(map(entities, sentences), map(entities, predicted))["f1"]


def span_scores(true, told):
    """Precision, recall and F1 of spans (type, first word, last word); type and both ends must agree.

        >>> span_scores([[("PER", 0, 1)]], [[("PER", 0, 1), ("LOC", 3, 3)]])["precision"]
        0.5

    Args:
        true, told: for each sentence its spans.

    Returns:
        dict of `precision`, `recall`, `f1`, `count`, the number of true spans, and `by_class`: type -> the same four.
    """
    counts = collections.defaultdict(lambda: np.zeros(3, int))  # right, told, true
    for here, there in zip(true, told, strict=True):
        here, there = set(here), set(there)
        for spans, column in ((here & there, 0), (there, 1), (here, 2)):
            for span in spans:
                counts[span[0]][column] += 1
    by_class = {kind: _rates(*counts[kind].tolist()) for kind in sorted(counts)}
    return {**_rates(*np.sum([[0, 0, 0], *counts.values()], 0).tolist()), "by_class": by_class}


def overlap(true, told):
    """How many of two sets are in both, in `told` and in `true`: what `f1` takes."""
    true, told = set(true), set(told)
    return len(true & told), len(told), len(true)


def class_scores(confusion, labels):
    """As `by_class` of `span_scores`: class -> precision, recall, F1 and count, of a `confusion_matrix`."""
    sums = np.diag(confusion), confusion.sum(0), confusion.sum(1)
    return {
        label: _rates(*numbers) for label, *numbers in zip(labels, *map(np.ndarray.tolist, sums), strict=True) if any(numbers)
    }


def _rates(right, told, true):
    return {
        "precision": right / told if told else 0.0, "recall": right / true if true else 0.0, "f1": f1(right, told, true),
        "count": true,
    }  # fmt: skip


def f1(right, told, true):
    """2 TP / (2 TP + FP + FN), 0 where nothing is told and nothing is true.

    Args:
        right: how many were told rightly.
        told: how many were told.
        true: how many there are.
    """
    return 2 * right / (told + true) if told + true else 0.0


def role_arguments(tags):
    """The arguments of one predicate, as the scorer of CoNLL-2005 counts them (Carreras and Marquez 2005).

    `C-A1` goes on with the last argument A1 before it, and both are one argument, right only as a whole; without an A1 before
    it is an A1. `R-A1` is a role of its own. The predicate itself, V, is not an argument.

        >>> sorted(role_arguments(["B-A1", "B-V", "B-C-A1", "I-C-A1", "B-A2"]))
        [(('A1', 0, 0), ('C-A1', 2, 3)), (('A2', 4, 4),)]

    Args:
        tags: list of BIO tags, one for each word.

    Returns:
        A set of arguments, each a tuple of its parts (role, first word, last word).
    """
    arguments, last = [], {}
    for role, first, end in entities(tags):
        head = role[2:] if role.startswith("C-") else None
        if head in last:
            arguments[last[head]].append((role, first, end))
            continue
        last[head or role] = len(arguments)
        arguments.append([(head or role, first, end)])
    return {tuple(parts) for parts in arguments if parts[0][0] != "V"}


# First and last code points of writing that puts no blanks between words: Thai, Lao, Burmese, Khmer, kana, Chinese characters.
# Answers are cut and compared by its characters.
UNSPACED = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3040, 0x30FF), (0x31F0, 0x31FF),
    (0x3400, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x20000, 0x3FFFF),
)  # fmt: skip
_UNSPACED_RANGES = "".join(f"{chr(first)}-{chr(last)}" for first, last in UNSPACED)
UNSPACED_CHARACTER = re.compile(f"[{_UNSPACED_RANGES}]")
# What the evaluation program of CMRC 2018 (Cui et al. 2019) takes for punctuation.
CMRC_PUNCTUATION = frozenset("-:_*^/\\~`+=，。：？！“”；’《》…·、「」（）－～『』")


def answer_words(text):
    """The words of an answer as SQuAD compares them (Rajpurkar et al. 2016, section 6.1): lower case, no articles, no ASCII
    punctuation."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def answer_characters(text):
    """The units of an answer as CMRC 2018 compares them: characters of `UNSPACED`, words and marks of other writing."""
    text = "".join(c for c in text.lower() if c not in CMRC_PUNCTUATION)
    return re.findall(rf"[{_UNSPACED_RANGES}]|[^\W{_UNSPACED_RANGES}]+|[^\w\s]", text)


def exact_match(answer, wanted):
    """1.0 if two answers are the same as SQuAD counts it, in writing without blanks as CMRC 2018 does; else 0.0."""
    units = answer_characters if UNSPACED_CHARACTER.search(answer + wanted) else answer_words
    return float(units(answer) == units(wanted))


def overlap_f1(answer, wanted):
    """F1 of what two answers share: of their words (SQuAD), or in writing without blanks of the longest run of units that both
    have (CMRC 2018); of two without a word, whether both are."""
    if UNSPACED_CHARACTER.search(answer + wanted):
        here, there = answer_characters(answer), answer_characters(wanted)
        shared = _longest_common_run(here, there)
    else:
        here, there = answer_words(answer), answer_words(wanted)
        shared = sum((collections.Counter(here) & collections.Counter(there)).values())
    if not here or not there:
        return float(here == there)
    return 2 * shared / (len(here) + len(there))


def _longest_common_run(one, other):
    """The length of the longest list that is a piece of both lists."""
    longest, before = 0, [0] * (len(other) + 1)
    for item in one:
        now = [0] * (len(other) + 1)
        for j, theirs in enumerate(other):
            if item == theirs:
                now[j + 1] = before[j] + 1
        longest, before = max(longest, *now), now
    return longest


class Sample(NamedTuple):
    """A score of a set of examples, in parts that add up over the examples.

    Attributes:
        rows: float (N, k), the parts of each example.
        of_sums: float (k,), their sums over some examples -> the score of those.
    """

    rows: np.ndarray
    of_sums: Callable

    @classmethod
    def mean(cls, values, weights=None):
        """A score that is the mean over examples, or sum of values / sum of weights."""
        values = np.asarray(values, np.float64)
        weights = np.ones_like(values) if weights is None else np.asarray(weights, np.float64)
        return cls(np.stack([values, weights], 1), lambda sums: float(sums[0] / sums[1]))

    @classmethod
    def f1(cls, counts):
        """F1 of what is right, told and true, int (N, 3), of each example."""
        return cls(np.asarray(counts, np.float64).reshape(-1, 3), lambda sums: float(2 * sums[0] / max(sums[1] + sums[2], 1)))

    def score(self):
        """The score of all examples."""
        return self.of_sums(self.rows.sum(0))


def brier_score(probs, labels):
    """Brier's score (Brier 1950): the mean over examples of the sum over classes of (probability - 1 if it is the class)^2.

    Args:
        probs: float (N, C).
        labels: int (N,).
    """
    return float(((probs - np.eye(probs.shape[1])[labels]) ** 2).sum(1).mean())


# Student's t at 0.975 for 1, 2, ... degrees of freedom.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120)


def mean_interval(values):
    """The interval that holds the mean of normal values with a confidence of 95%, by Student's t: (low, high).

    From 17 degrees of freedom on t is taken as at 16, which is a little wide. One value has no interval: (NaN, NaN).
    """
    count = len(values)
    if count < 2:
        return math.nan, math.nan
    half = T_975[min(count - 1, len(T_975)) - 1] * float(np.std(values, ddof=1)) / math.sqrt(count)
    mean = float(np.mean(values))
    return mean - half, mean + half


def share_interval(share, count):
    """Wilson's interval (Wilson 1927) of a share among `count` independent trials, with a confidence of 95%: (low, high)."""
    z = 1.959964
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return middle - half, middle + half


MOST_SIGNS = 2 * 10**8  # in all draws


def sign_flip_test(differences, draws=None):
    """The permutation test of paired differences (Fisher 1935), two-sided: how often their mean would be as far from 0 if the
    two of each pair changed places at random.

        >>> sign_flip_test([1.0, 2.0, 3.0])  # two of eight ways to set signs are as far
        0.25

    All ways are tried up to 13 differences; beyond, `draws` of them are drawn from a fixed seed, and the observed one counts.

    Args:
        differences: float (N,).
        draws: how many; 10,000 unless N is above 20,000.
    """
    differences = np.asarray(differences, np.float64)
    count, observed = len(differences), abs(float(np.sum(differences)))
    nearly = observed - 1e-9 * float(np.abs(differences).sum())  # sums in another order differ in their last digits
    if count <= 13:
        signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
        return float((np.abs(signs @ differences) >= nearly).mean())
    random, hits, draws = np.random.Philox(key=0), 1, draws or int(np.clip(MOST_SIGNS // count, 1_000, 10_000))
    for _ in range(draws):
        raw = random.random_raw(-(-count // 64))
        bits = np.unpackbits(raw.view(np.uint8))[:count].astype(np.float64)
        hits += abs(float((1 - 2 * bits) @ differences)) >= nearly
    return hits / (draws + 1)


def roc_area(positive, negative):
    """The area under the ROC curve, which is how often a positive scores higher than a negative, with DeLong's 95% interval.

        >>> float(roc_area([3.0, 2.0], [1.0, 2.0])[0])  # three and a half of four pairs
        0.875

    Args:
        positive, negative: float (N,) and (M,), scores; a tie counts half.

    Returns:
        (area, low, high), the interval by DeLong et al. 1988, cut to [0, 1].
    """
    positive, negative = (np.sort(np.asarray(values, np.float64)) for values in (positive, negative))

    def above(values, others):
        """Of each value the share of the others that is below it."""
        return (np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")) / (2 * len(others))

    wins, losses = above(positive, negative), 1 - above(negative, positive)
    area = float(wins.mean())
    spread = sum(float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else math.inf for values in (wins, losses))
    half = 1.959964 * math.sqrt(spread)
    return area, max(area - half, 0.0), min(area + half, 1.0)
