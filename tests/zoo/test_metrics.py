"""Scores from sums of negative log-likelihoods."""

import itertools
import math

import numpy as np
import pytest

from zoo import metrics
from zoo.metrics import bits_per_byte, perplexity


def test_perplexity_is_the_number_of_equally_likely_choices():
    assert perplexity(math.log(61)) == pytest.approx(61)
    assert perplexity(0.0) == 1
    assert perplexity(1e4) == math.inf


def test_bits_per_byte():
    # four tokens of probability 1/8 spell six bytes: 12 bits over 6
    assert bits_per_byte(4 * math.log(8), 6) == pytest.approx(2)


def test_bytes_that_the_ids_do_not_tell_cost_eight_bits_each():
    assert bits_per_byte(4 * math.log(8), 6, lost_bytes=3) == pytest.approx((12 + 24) / 6)


def test_a_text_without_bytes_is_refused():
    with pytest.raises(ValueError, match="at least one byte, got 0"):
        bits_per_byte(1.0, 0)


def test_intervals_and_tests_of_a_few_numbers():
    assert metrics.brier_score(np.array([[0.7, 0.3], [0.2, 0.8]]), np.array([0, 0])) == pytest.approx((0.18 + 1.28) / 2)
    low, high = metrics.mean_interval([1.0, 2.0, 3.0])  # 2 +- 4.303 / sqrt(3)
    assert (low, high) == (pytest.approx(-0.48434, abs=1e-4), pytest.approx(4.48434, abs=1e-4))
    assert all(np.isnan(metrics.mean_interval([1.0])))
    # Newcombe (1998), table I: Wilson's interval of 15 of 148.
    assert metrics.share_interval(15 / 148, 148) == (pytest.approx(0.0624, abs=1e-4), pytest.approx(0.1605, abs=1e-4))
    assert metrics.share_interval(0.0, 20)[0] == pytest.approx(0, abs=1e-12)
    assert metrics.sign_flip_test([1.0, 2.0, 3.0]) == 0.25
    assert metrics.sign_flip_test([1.0, -1.0]) == 1.0 == metrics.sign_flip_test([0.0] * 20)
    exact = [0.1, 0.4, -0.2, 0.3, 0.6, 0.2, -0.1, 0.5, 0.3, 0.2, 0.1, -0.3, 0.4]
    by_hand = np.mean([abs(np.dot(signs, exact)) > 2.5 - 1e-9 for signs in itertools.product((1, -1), repeat=13)])
    assert metrics.sign_flip_test(exact) == by_hand
    # Drawn: a difference of 0 more changes nothing.
    assert metrics.sign_flip_test([*exact, 0.0]) == pytest.approx(by_hand, abs=0.01)


def test_of_many_differences_fewer_signs_are_drawn(monkeypatch):
    assert metrics.sign_flip_test(np.ones(40)) == 1 / 10_001
    monkeypatch.setattr(metrics, "MOST_SIGNS", 40 * 2_000)
    assert metrics.sign_flip_test(np.ones(40)) == 1 / 2_001
