"""Bag of words: hand-computed weights, TF-IDF as scikit-learn's formula has it, hashing."""

import math

import numpy as np
import pytest
from keras import ops

from zoo.models.bag_of_words import BagOfWords, BagOfWordsConfig, hashed


def made(**fields):
    sizes = dict(vocab_size=7, num_classes=2, order=1, num_buckets=11, dropout=0.0)
    model = BagOfWords(BagOfWordsConfig(**{**sizes, **fields})).build_from_ids()
    model.kernel.assign(np.arange(model.config.num_features * 2).reshape(-1, 2))
    model.bias.assign([0.5, -1.0])
    return model


@pytest.mark.parametrize(("counting", "twice"), [("count", 2.0), ("binary", 1.0), ("log", 1 + math.log(2))])
def test_counts(counting, twice):
    model = made(counting=counting, tfidf=False)
    # token 3 twice, token 5 once; row f of the kernel is (2f, 2f + 1)
    expected = [twice * 6 + 10 + 0.5, twice * 7 + 11 - 1.0]
    np.testing.assert_allclose(model(np.array([[3, 5, 3]], np.int32))[0], expected, rtol=1e-6)


def test_tfidf_with_length_one():
    model = made(tfidf=True, counting="count")
    model.fit_statistics([np.array([3, 5, 3], np.int32), np.array([3, 1], np.int32), np.array([1], np.int32)])
    rare, common = 1 + math.log(4 / 2), 1 + math.log(4 / 3)  # token 5 is in one of three texts, token 3 in two
    np.testing.assert_allclose(ops.take(model.rarity, np.array([5, 3, 0])), [rare, common, 1 + math.log(4)], rtol=1e-6)
    length = math.hypot(rare, 2 * common)
    expected = [(2 * common * 6 + rare * 10) / length + 0.5, (2 * common * 7 + rare * 11) / length - 1.0]
    np.testing.assert_allclose(model(np.array([[3, 5, 3]], np.int32))[0], expected, rtol=1e-6)


def test_ngrams_are_hashed_alike_in_numpy_and_in_the_graph():
    config = BagOfWordsConfig(vocab_size=30_000, order=5, num_buckets=1_009)
    random = np.random.default_rng(0)
    grams = list(random.integers(0, 30_000, (5, 400)).astype(np.int32))
    for n in range(1, 6):
        here = hashed(grams[:n], config, np)
        np.testing.assert_array_equal(hashed([ops.convert_to_tensor(gram) for gram in grams[:n]], config, ops), here)
        if n > 1:
            assert here.min() >= 30_000 and here.max() < config.num_features
            assert len(np.unique(here)) > 0.75 * 1_009 * (1 - math.exp(-400 / 1_009))  # spread as by chance
            assert (hashed(grams[:n][::-1], config, np) != here).mean() > 0.99  # the order of tokens counts


def test_an_ngram_counts_where_it_is():
    model = made(order=2, tfidf=False, counting="count")
    ids = np.array([[2, 4, 2, 4]], np.int32)
    pairs = [hashed([np.array([a], np.int32), np.array([b], np.int32)], model.config, np)[0] for a, b in ((2, 4), (4, 2))]
    expected = 2 * 2 * 2 + 2 * 2 * 4 + 2 * 2 * pairs[0] + 2 * pairs[1] + 0.5
    assert float(model(ids)[0, 0]) == pytest.approx(expected)
    assert float(model(ids[:, :1])[0, 0]) == pytest.approx(2 * 2 + 0.5)  # a text too short for a pair


def test_a_linear_layer_reads_the_sum_of_the_vectors():
    model = BagOfWords(BagOfWordsConfig(vocab_size=7, num_classes=2, order=1, tfidf=False, counting="count", embedding_dim=3))
    model.build_from_ids()
    table, kernel = np.arange(21.0).reshape(7, 3), np.array([[1.0, 2], [3, 4], [5, 6]])
    model.table().assign(table)
    model.kernel.assign(kernel)
    model.bias.assign([0.5, -1.0])
    expected = (2 * table[3] + table[5]) @ kernel + [0.5, -1.0]
    np.testing.assert_allclose(model(np.array([[3, 5, 3]], np.int32))[0], expected, rtol=1e-6)
    assert model.config.num_params() == 7 * 3 + 3 * 2 + 2 == sum(np.size(weight) for weight in model.trainable_weights)


@pytest.mark.parametrize(("fields", "sentence"), [
    (dict(embedding_dim=-1), "embedding_dim must not be negative"),
    (dict(order=6), "order must be 1 to 5"), (dict(counting="some"), "counting is count, binary or log"),
    (dict(num_buckets=0), "num_buckets must be positive"),
])  # fmt: skip
def test_a_config_that_cannot_be(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        BagOfWordsConfig(**fields)
