"""Scores from sums of negative log-likelihoods."""

import math

import pytest

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
