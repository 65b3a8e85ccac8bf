"""Counting, discounts and the three smoothings: by hand, and against a brute-force Kneser-Ney."""

import collections

import numpy as np
import pytest

from zoo.layers import ngram_estimation as estimation

EOS, A, B, C = 0, 1, 2, 3
# Two sentences, "a b" and "a a"; c is never seen.
CORPUS = np.array([EOS, A, B, EOS, A, A, EOS])


def probabilities(tables, vocab_size):
    """{(words): p} of a list of Tables."""
    names = [(i,) for i in range(vocab_size)]
    result = dict(zip(names, np.exp(tables[0].log_probs), strict=True))
    for table in tables[1:]:
        prefixes, words = np.divmod(table.keys, vocab_size + 1)
        names = [names[prefix] + (word,) for prefix, word in zip(prefixes, words, strict=True)]
        result.update(zip(names, np.exp(table.log_probs), strict=True))
    return result


def test_counts_by_hand():
    unigrams, bigrams, trigrams = estimation.corpus_count(CORPUS, 3, 4, EOS)
    assert unigrams.counts.tolist() == [2, 3, 1, 0]  # the first eos is only history
    assert [divmod(key, 5) for key in bigrams.keys] == [(EOS, A), (A, EOS), (A, A), (A, B), (B, EOS)]
    assert bigrams.counts.tolist() == [2, 1, 1, 1, 1]
    assert bigrams.suffixes.tolist() == [A, EOS, A, B, EOS]
    assert bigrams.opens.tolist() == [True, False, False, False, False]
    # Nodes of bigrams are their rows: "<s> a a", "<s> a b", "a a </s>", "a b </s>"; nothing reaches across a sentence.
    assert [divmod(key, 5) for key in trigrams.keys] == [(0, A), (0, B), (2, EOS), (3, EOS)]
    assert trigrams.opens.tolist() == [True, True, False, False]
    assert estimation.adjust_counts(unigrams, bigrams).tolist() == [2, 2, 1, 0]
    assert estimation.adjust_counts(bigrams, trigrams).tolist() == [2, 1, 1, 1, 1]  # "<s> a" keeps its count of two
    assert estimation.adjust_counts(trigrams, None).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("size", [1, 3, 7, 10_000])
def test_ranges_of_all_sizes_count_as_one(size, monkeypatch):
    random = np.random.default_rng(0)
    ids = np.append(random.integers(0, 5, 300), EOS).astype(np.int32)
    ids[0] = EOS
    whole = estimation.corpus_count(ids, 4, 5, EOS)
    windows = (tuple(ids[i : i + 4].tolist()) for i in range(len(ids) - 3))
    wanted = collections.Counter(window for window in windows if EOS not in window[1:3])
    assert whole[3].counts.sum() == sum(wanted.values()) and sorted(whole[3].counts) == sorted(wanted.values())
    monkeypatch.setattr(estimation, "RANGE", size)
    for table, expected in zip(estimation.corpus_count(ids, 4, 5, EOS), whole, strict=True):
        for column in ("keys", "suffixes", "counts", "opens"):
            np.testing.assert_array_equal(getattr(table, column), getattr(expected, column))


@pytest.mark.parametrize("largest", [9, 2**59])  # with the place in the low bits, and where these are not free
def test_keys_are_sorted_with_their_places(largest):
    keys = np.random.default_rng(0).integers(0, largest, 50)
    ordered, places = estimation._sorted_with_places(keys)
    np.testing.assert_array_equal(ordered, np.sort(keys))
    np.testing.assert_array_equal(keys[places], ordered)
    assert sorted(places) == list(range(50))


def test_discounts_by_hand():
    adjusted = np.repeat([0, 1, 2, 3, 4, 9], [7, 10, 4, 3, 2, 5])
    y = 10 / 18
    expected = [0, 1 - 2 * y * 4 / 10, 2 - 3 * y * 3 / 4, 3 - 4 * y * 2 / 3]
    np.testing.assert_allclose(estimation.discounts(adjusted), expected, rtol=1e-15)


@pytest.mark.parametrize(
    "adjusted, expected",
    [
        ([1, 1, 1, 2], 3 / 5),  # n3 and n4 are zero: D = n1 / (n1 + 2 n2)
        ([1, 1], 0.5),  # n2 is zero
        ([5, 6, 7], 0.5),  # every count is large
        ([], 0.5),
        ([1] * 5 + [2] * 1 + [3] * 9 + [4] * 1, 5 / 7),  # D2 = 2 - 3 (5 / 7) 9 is negative
    ],
)
def test_discounts_that_counts_do_not_define(adjusted, expected):
    np.testing.assert_allclose(estimation.discounts(np.array(adjusted, int)), [0, *[expected] * 3], rtol=1e-15)


def test_kneser_ney_by_hand():
    """n1 = 1, n2 = 2 for unigrams, so D = 1/5; n1 = 4, n2 = 1 for bigrams, so D = 2/3."""
    unigrams, bigrams = estimation.estimate(CORPUS, 2, 4, EOS)
    left = 3 * 0.2 / 5 / 4
    p = {EOS: 1.8 / 5 + left, A: 1.8 / 5 + left, B: 0.8 / 5 + left, C: left}
    np.testing.assert_allclose(np.exp(unigrams.log_probs), list(p.values()), rtol=1e-6)
    np.testing.assert_allclose(np.exp(unigrams.log_backoffs), [1 / 3, 2 / 3, 2 / 3, 1], rtol=1e-6)
    expected = [
        (2 - 2 / 3) / 2 + p[A] / 3,
        (1 / 3) / 3 + p[EOS] * 2 / 3,
        (1 / 3) / 3 + p[A] * 2 / 3,
        (1 / 3) / 3 + p[B] * 2 / 3,
        1 / 3 + p[EOS] * 2 / 3,
    ]
    np.testing.assert_allclose(np.exp(bigrams.log_probs), expected, rtol=1e-6)


def test_add_k_by_hand():
    unigrams, bigrams = estimation.estimate(CORPUS, 2, 4, EOS, smoothing="add_k", add_k=0.5)
    np.testing.assert_allclose(np.exp(bigrams.log_probs), [2.5 / 4, 1.5 / 5, 1.5 / 5, 1.5 / 5, 1.5 / 3], rtol=1e-6)
    # What was not seen after <s>: k / (c + k V) = 0.5 / 4, reached as back-off weight times 1 / V.
    unseen = np.exp(unigrams.log_backoffs + unigrams.log_probs)
    np.testing.assert_allclose(unseen[:3], [0.5 / 4, 0.5 / 5, 0.5 / 3], rtol=1e-6)
    (unigrams,) = estimation.estimate(CORPUS, 1, 4, EOS, smoothing="add_k", add_k=0.5)
    np.testing.assert_allclose(np.exp(unigrams.log_probs), [2.5 / 8, 3.5 / 8, 1.5 / 8, 0.5 / 8], rtol=1e-6)


def test_stupid_backoff_by_hand():
    unigrams, bigrams = estimation.estimate(CORPUS, 2, 4, EOS, smoothing="stupid_backoff")
    s = np.array([2 / 6, 3 / 6, 1 / 6, 0.1])
    np.testing.assert_allclose(np.exp(unigrams.log_probs), s / 1.1, rtol=1e-6)
    # After "b" only </s> was seen: S = 1 for it, 0.4 S(w) for the other three.
    z = 1 + 0.4 * (3 / 6 + 1 / 6 + 0.1)
    np.testing.assert_allclose(np.exp(bigrams.log_probs[4]), 1 / z, rtol=1e-6)
    np.testing.assert_allclose(np.exp(unigrams.log_backoffs[B] + unigrams.log_probs[A]), 0.4 * s[A] / z, rtol=1e-6)


def brute_force(ids, order, vocab_size, cutoffs):
    """Every n-gram's modified Kneser-Ney probability, from the definitions, in Python dictionaries."""
    counts = [collections.Counter() for _ in range(order + 1)]
    for i in range(1, len(ids)):
        for n in range(1, order + 1):
            gram = tuple(ids[max(i - n + 1, 0) : i + 1])
            if len(gram) == n and EOS not in gram[1:-1]:
                counts[n][gram] += 1
    adjusted = [None] * (order + 1)
    for n in range(1, order + 1):
        left = collections.Counter(gram[1:] for gram in counts[n + 1]) if n < order else None
        adjusted[n] = {
            gram: count if n == order or (n > 1 and gram[0] == EOS) else left[gram] for gram, count in counts[n].items()
        }
    discounts = [None] + [estimation.discounts(np.array(list(adjusted[n].values()))) for n in range(1, order + 1)]
    kept = [None] + [{g for g, c in counts[n].items() if n == 1 or c > cutoffs[n - 1]} for n in range(1, order + 1)]

    def p(history, word):
        if history is None:
            return 1 / vocab_size
        n, shorter = len(history) + 1, history[1:] if history else None
        followers = {g: a for g, a in adjusted[n].items() if g[:-1] == history}
        total = sum(followers.values())
        if not total:
            return p(shorter, word)
        own = {g: (a - discounts[n][min(a, 3)]) / total for g, a in followers.items() if g in kept[n]}
        return own.get(history + (word,), 0.0) + (1 - sum(own.values())) * p(shorter, word)

    return {gram: p(gram[:-1], gram[-1]) for n in range(1, order + 1) for gram in kept[n]}


@pytest.mark.parametrize("cutoffs", [(0, 0, 0, 0), (0, 1, 1, 2)])
def test_kneser_ney_is_what_brute_force_says(cutoffs):
    rng = np.random.default_rng(5)
    ids = [EOS, *rng.choice(11, 613, p=np.array([5, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]) / 50).tolist(), EOS]
    expected = brute_force(ids, 4, 11, cutoffs)
    found = probabilities(estimation.estimate(np.array(ids), 4, 11, EOS, cutoffs=cutoffs), 11)
    assert len(expected) > (80 if any(cutoffs) else 600)
    assert found.keys() - expected.keys() == {(10,)}  # the id that never occurs
    np.testing.assert_allclose([found[gram] for gram in expected], list(expected.values()), rtol=1e-6)


def test_cutoffs_drop_what_occurs_as_often():
    tables = estimation.estimate(CORPUS, 3, 4, EOS, cutoffs=(0, 1))
    assert [len(table.keys) for table in tables] == [4, 1, 0]
    assert divmod(int(tables[1].keys[0]), 5) == (EOS, A)
