"""Masks, written out."""

import numpy as np
import pytest
import tensorflow as tf

from zoo.layers.masks import MaskRule, causal_mask, conjunction, padding_keys, prefix_keys, same_segment

T, F = True, False


def test_a_query_sees_its_own_column_and_those_before():
    mask = causal_mask(np.array([2, 3]), np.arange(5))
    np.testing.assert_array_equal(mask, [[[T, T, T, F, F], [T, T, T, T, F]]])


def test_the_keys_of_a_prefix_are_seen_by_every_query():
    mask = prefix_keys(np.arange(4), np.array([0, 3, 1]))
    np.testing.assert_array_equal(mask, [[[F, F, F, F]], [[T, T, T, F]], [[T, F, F, F]]])


def test_padding_is_hidden_from_every_query():
    mask = padding_keys(np.array([[T, T, F], [F, T, T]]))
    assert mask.shape == (2, 1, 3)
    np.testing.assert_array_equal(mask[:, 0], [[T, T, F], [F, T, T]])


def test_documents_see_only_themselves():
    ids = np.array([[1, 1, 2], [0, 5, 5]])
    mask = same_segment(ids, ids)
    np.testing.assert_array_equal(mask, [[[T, T, F], [T, T, F], [F, F, T]], [[T, F, F], [F, T, T], [F, T, T]]])


def test_conjunction_broadcasts_and_leaves_out_what_is_none():
    causal = causal_mask(np.arange(3), np.arange(3))
    padding = padding_keys(np.array([[F, T, T], [T, T, T]]))
    both = conjunction(None, causal, padding, None)
    np.testing.assert_array_equal(both, [[[F, F, F], [F, T, F], [F, T, T]], [[T, F, F], [T, T, F], [T, T, T]]])
    assert conjunction(None, None) is None
    assert conjunction(causal) is causal


PADDING = np.array([[T, T, F, F, F], [F, T, T, T, T]])
SEGMENTS = np.array([[1, 1, 2, 2, 2], [0, 5, 5, 5, 7]])


def by_pairs(rule, num_queries, num_keys):
    """The rule of `MaskRule`, one query and one key at a time."""
    batch = 2
    mask = np.ones((batch, num_queries, num_keys), bool)
    for b, t, s in np.ndindex(mask.shape):
        column = t + int(rule.query_offset)
        if rule.causal:
            mask[b, t, s] = s <= column or rule.prefix_lengths is not None and s < rule.prefix_lengths[b]
        if rule.window is not None:
            mask[b, t, s] &= abs(s - column) < rule.window
        if rule.padding_mask is not None:
            mask[b, t, s] &= rule.padding_mask[b, s]
        if rule.segments is not None:
            mask[b, t, s] &= rule.segments[0][b, t] == rule.segments[1][b, s]
    return mask


@pytest.mark.parametrize(("rule", "num_queries"), [
    (MaskRule(causal=True), 5),
    (MaskRule(padding_mask=PADDING), 4),
    (MaskRule(causal=True, segments=(SEGMENTS, SEGMENTS)), 5),
    (MaskRule(segments=(np.array([[2, 1, 7, 2], [5, 7, 0, 5]]), SEGMENTS)), 4),
    (MaskRule(causal=True, prefix_lengths=np.array([3, 0])), 5),
    (MaskRule(causal=True, prefix_lengths=np.array([4, 1]), padding_mask=PADDING, query_offset=1), 4),
    (MaskRule(causal=True, query_offset=tf.constant(1)), 4),
    (MaskRule(causal=True, window=2), 5),
    (MaskRule(causal=True, window=3, padding_mask=PADDING, query_offset=tf.constant(1)), 4),
    (MaskRule(window=2, segments=(SEGMENTS, SEGMENTS)), 5),
    (MaskRule(prefix_lengths=np.array([4, 1]), padding_mask=PADDING), 4),  # a prefix says nothing where all see all
])  # fmt: skip
def test_a_rule_is_that_of_its_pairs_and_its_blocks_are_cut_from_the_whole(rule, num_queries):
    expected = by_pairs(rule, num_queries, 5)
    assert expected.any() and not expected.all()
    np.testing.assert_array_equal(np.broadcast_to(rule.whole(num_queries, 5), expected.shape), expected)
    for first in (1, tf.constant(1)):
        block = rule.block(first, 3, 2 * first, 2)
        np.testing.assert_array_equal(np.broadcast_to(block, (2, 3, 2)), expected[:, 1:4, 2:4])


def test_a_rule_that_hides_nothing_makes_no_mask():
    assert MaskRule().whole(3, 4) is None
    assert MaskRule().block(1, 2, 0, 2) is None


def test_how_many_keys_some_queries_may_see():
    assert MaskRule(causal=True).keys_within(3, 5) == 3
    assert MaskRule(causal=True, query_offset=1).keys_within(3, 5) == 4
    for rule in (
        MaskRule(),
        MaskRule(causal=True, query_offset=tf.constant(1)),
        MaskRule(causal=True, prefix_lengths=np.array([2])),
    ):
        assert rule.keys_within(3, 5) == 5 and not rule.is_triangle
