"""Greedy continuations of an n-gram model beside what a dictionary of its n-grams says."""

import numpy as np
import pytest

from zoo.layers.ngram_continuations import Continuations
from zoo.models.ngram import NGram, NGramConfig

V, EOS, K = 9, 8, 4
CASES = {
    "kneser_ney": dict(order=4),
    "bigram": dict(order=2, smoothing="add_k"),
    "pruned": dict(order=5, cutoffs=(0, 0, 1)),
    "stupid_backoff": dict(order=3, smoothing="stupid_backoff"),
    "packed": dict(order=4, bits=8),
}


def model_of(ids, **fields):
    model = NGram(NGramConfig(vocab_size=V, eos_id=EOS, **fields))
    model.fit_closed_form(ids)
    return model


def text(seed, count=400):
    """Tokens of which each depends on the one before, more or less."""
    random = np.random.default_rng(seed)
    steps = random.choice([1, 1, 1, 2, 5], count)
    ids = np.cumsum(steps) % (V - 1)
    return np.append(np.where(random.random(count) < 0.05, EOS, ids), EOS)


def likeliest(tables):
    """History -> (word, probability) of the likeliest n-gram that begins with it, from the n-grams written out."""
    ngrams, found = {1: [(word,) for word in range(V)]}, {}
    for n in range(2, tables.order + 1):
        keys, logs = tables.arrays(n)
        ngrams[n] = [(*ngrams[n - 1][key // (V + 1)], int(key % (V + 1))) for key in keys]
        for (*history, word), log_prob in zip(ngrams[n], logs[:, 0], strict=True):
            found.setdefault(tuple(history), []).append((-log_prob, word))
    return {history: (min(words)[1], np.exp(-min(words)[0])) for history, words in found.items()}


def written(history, known, longest):
    """(words, how many of them are expected to be right, length of the first history) by going from word to word."""
    words, expected, sure, first = [], 0.0, 1.0, None
    for _ in range(K):
        length = next((n for n in range(longest, 0, -1) if tuple(history[len(history) - n :]) in known), 0)
        first = length if first is None else first
        word, prob = known[tuple(history[len(history) - length :])] if length else (0, 0.0)
        sure *= prob
        words.append(word)
        history, expected = [*history, word if length else -1], expected + sure
    return words, expected, first


@pytest.mark.parametrize("case", CASES)
def test_they_are_those_of_a_dictionary(case):
    model = model_of(text(1), **CASES[case])
    longest, known = model.config.order - 1, likeliest(model.tables)
    least = 1.0
    drafts, random = Continuations(model.tables, K, least), np.random.default_rng(2)
    ids = text(5)
    rows = [ids[i : i + longest].tolist() for i in range(150)] + random.integers(-1, V + 3, (150, longest)).tolist()
    words, lengths = drafts(np.array(rows, np.int32))
    made = 0
    for row, words_K, length in zip(rows, words.numpy().tolist(), lengths.numpy().tolist(), strict=True):
        expected_words, expected, first = written(row, known, longest)
        assert words_K == expected_words, row
        if abs(expected - least) > 1e-4:
            assert length == (first if expected > least else 0), row
        made += length > 0
    assert 30 < made < 300


def test_a_draft_must_be_worth_its_pass():
    """Of a b follows c three times in four, and c is followed by a, a by b, always."""
    a, b, c, d = range(4)
    model = model_of(np.array([a, b, c] * 3 + [a, b, d, EOS]), order=2, smoothing="add_k", add_k=1e-9)
    # Behind b: 3/4 (1 + 3/3 x ...); behind c: a, b, c, ... : 1, 1, 3/4.
    for least, lengths in ((1.4, [1, 1]), (2.3, [0, 1]), (3.6, [0, 0])):
        words, got = Continuations(model.tables, 3, least)(np.array([[b], [c]]))
        assert got.numpy().tolist() == lengths
    assert words.numpy().tolist() == [[c, a, b], [a, b, c]]


def test_the_tables_that_it_reads_are_those_of_histories():
    model = model_of(text(1), order=3)
    drafts = Continuations(model.tables, 4, 1.0)
    states = V + 1 + model.tables.num_ngrams[1] + 1
    assert drafts.num_bytes == states * 9 + (model.tables.num_ngrams[1] + 1) * 8
