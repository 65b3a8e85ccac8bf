"""Which steps are bad, and what is left out then: by hand."""

import math

import pytest

from trainers.engine import recovery

STEADY = [3.0, 3.1, 2.9, 3.05, 2.95] * 20  # median 3, median absolute deviation 0.05: sigma 0.07413


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_bad_from_the_first_step_on(loss):
    assert recovery.badness(loss, None, []) == f"the loss is {loss}"


def test_so_is_a_gradient():
    assert recovery.badness(3.0, math.inf, STEADY) == "the norm of the gradient is inf"
    assert recovery.badness(3.0, 1e9, STEADY) is None  # however long: clipping is for that


@pytest.mark.parametrize(("loss", "bad"), [(3.99, False), (4.01, True), (1.0, False), (40.0, True)])
def test_a_spike_is_a_nat_above_a_steady_median(loss, bad):
    assert bool(recovery.badness(loss, 1.0, STEADY)) == bad


def test_where_losses_vary_a_spike_is_ten_standard_deviations():
    varied = [2.0, 2.5, 3.0, 3.5, 4.0] * 20  # median 3, median absolute deviation 0.5: 10 sigma are 7.413
    assert recovery.badness(10.4, None, varied) is None
    assert recovery.badness(10.42, None, varied) == "the loss is 10.42 where the median of the last 100 is 3"


@pytest.mark.parametrize(("validation_loss", "lowest_loss", "good"), [
    (3.9, None, True), (4.1, None, False), (4.1, 3.7, True), (4.3, 3.7, False), (3.9, 1.0, True), (math.nan, 3.7, False),
])  # fmt: skip
def test_weights_are_good_where_the_validation_text_says_so(validation_loss, lowest_loss, good):
    """The median is 3, so that the limit is 4."""
    assert recovery.are_good(validation_loss, lowest_loss, STEADY) == good


def test_before_the_window_is_full_nothing_is_a_spike():
    assert recovery.badness(1e6, None, STEADY[:-1]) is None
    recent = []
    for loss in range(250):
        recent = recovery.remember(recent, float(loss))
    assert recent == [float(loss) for loss in range(150, 250)]


def test_the_stretch_that_is_left_out_grows_on_both_sides():
    assert recovery.widened([], 7) == [7]
    assert recovery.widened([7], 8) == [6, 7, 8]
    assert recovery.widened([6, 7, 8], 9) == [5, 6, 7, 8, 9]
    assert recovery.widened([7], 9) == [7, 9]  # a good step stands between them
    assert recovery.widened([2, 7], 8) == [2, 6, 7, 8]
    assert recovery.widened([0], 1) == [0, 1]  # there is nothing before the first
    assert recovery.widened([0, 1], 2) == [0, 1, 2]


def test_it_ends_when_too_many_of_the_last_thousand_were_left_out():
    eight = list(range(100, 116, 2))
    assert not recovery.hopeless(eight, 116)
    assert recovery.hopeless([*eight, 116], 116)
    assert not recovery.hopeless([*eight, 1_100], 1_100)  # the first of them is long ago
