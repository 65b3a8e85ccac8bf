"""Batches of pairs: what is in them, of what shape, and in which order."""

import collections
import itertools

import numpy as np
import pytest

from zoo.config import Refusal
from zoo.data.examples import Frame
from zoo.data.parallel import Pair, PairRows, TokenBudgetBatches, widths_of_least_padding

FRAME = Frame(after=(1,), target_start=(0,))


def rows_of(lengths, kind="encoder_decoder", seq_length=64):
    """Rows of pairs whose sources and targets have so many tokens with their ends; the pair's number is its first token."""
    pairs = [
        Pair(np.full(source - 1, number + 2, np.int32), np.full(target - 1, number + 2, np.int32))
        for number, (source, target) in enumerate(lengths)
    ]
    return PairRows(pairs, FRAME, kind, 1, 0, seq_length)


def random_lengths(count, longest, seed=0):
    random = np.random.default_rng(seed)
    return [(int(s), int(t)) for s, t in random.integers(2, longest + 1, (count, 2))]


def epoch(batches, number):
    first = number * batches.steps_per_epoch
    return [batches.batch(step) for step in range(first, first + batches.steps_per_epoch)]


def pairs_of(batch):
    return (batch["token_ids"][:, 1] - 2).tolist()


def test_a_budget_of_tokens_by_hand():
    # Widths are 8, 16, 24, 32, and batches of 64 tokens have 8, 4, 2, 2 rows.
    lengths = [(2, 8)] * 10 + [(16, 3)] * 3 + [(20, 24)] + [(32, 2)] * 2
    batches = TokenBudgetBatches(rows_of(lengths), 64, seed=3)
    # 10 of width 8: one batch, 2 go on; 5 of width 16: one batch, 1 goes on; 2 of width 24: one batch; 2 of width 32: one.
    assert batches.steps_per_epoch == 4
    assert sorted(batch["token_ids"].shape for batch in epoch(batches, 0)) == [(2, 24), (2, 32), (4, 16), (8, 8)]
    seen = collections.Counter(number for batch in epoch(batches, 0) for number in pairs_of(batch))
    assert seen == collections.Counter(range(16))


@pytest.mark.parametrize("kind", ["encoder_decoder", "language_model"])
def test_every_epoch_has_every_pair_in_batches_of_a_shape_for_each_width(kind):
    lengths, budget = random_lengths(501, 32), 200
    batches = TokenBudgetBatches(rows_of(lengths, kind), budget, seed=7)
    widest = max(batch["token_ids"].shape[1] for batch in epoch(batches, 0))
    for number in range(3):
        some = epoch(batches, number)
        assert all(0 <= budget - np.prod(batch["labels"].shape) < batch["labels"].shape[1] for batch in some)
        assert len({batch["token_ids"].shape for batch in some}) <= 6
        # A target is known by its tokens, which are all of them its pair's number.
        counts = collections.Counter(
            int(labels[weights > 0][0]) - 2 if (weights > 0).sum() > 1 else None
            for batch in some
            for labels, weights in zip(batch["labels"], batch["loss_weights"], strict=True)
        )
        assert set(range(501)) <= set(counts)
        assert sum(counts.values()) - 501 < budget // widest


def test_the_order_is_a_pure_function_of_seed_and_step():
    lengths = random_lengths(90, 40)
    one, other = (TokenBudgetBatches(rows_of(lengths), 120, seed=5) for _ in range(2))
    steps = range(3 * one.steps_per_epoch)
    forwards = [one.batch(step) for step in steps]
    backwards = [other.batch(step) for step in reversed(steps)][::-1]
    for a, b in zip(forwards, backwards, strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in a)
    orders = [[pairs_of(batch) for batch in epoch(one, number)] for number in range(2)]
    assert orders[0] != orders[1]
    assert orders[0] != [pairs_of(batch) for batch in epoch(TokenBudgetBatches(rows_of(lengths), 120, seed=6), 0)]


def test_a_budget_below_one_pair_is_refused():
    with pytest.raises(Refusal, match=r"batch_tokens=31 does not hold one row of 32 tokens"):
        TokenBudgetBatches(rows_of([(30, 32)]), 31, 0)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_widths_of_least_padding_by_brute_force(count, seed):
    random = np.random.default_rng(seed)
    lengths = 4 * random.integers(1, 10, 30)
    ends = sorted(set(lengths.tolist()))

    def places(widths):
        return sum(next(width for width in widths if width >= length) for length in lengths)

    least = min(places([*some, ends[-1]]) for some in itertools.combinations(ends[:-1], min(count, len(ends)) - 1))
    assert places(widths_of_least_padding(lengths, count)) == least


def test_widths_are_round_but_the_last():
    assert widths_of_least_padding([3, 4, 4, 12, 20], 2) == [4, 20]
    assert widths_of_least_padding([5, 50], 6) == [8, 50]
    assert widths_of_least_padding(np.arange(1, 1001), 1) == [1000]


def test_no_row_is_wider_than_the_sequences():
    assert rows_of([(50, 9), (3, 4)], seq_length=50).widths == [16, 32, 40, 50]
