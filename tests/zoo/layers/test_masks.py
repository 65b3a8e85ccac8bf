"""Masks, written out."""

import numpy as np
import pytest
import tensorflow as tf

from zoo.layers.masks import MaskRule, causal_mask, conjunction, from_column, padding_keys, same_segment

T, F = True, False


def test_a_query_sees_its_own_column_and_those_before():
    mask = causal_mask(np.array([2, 3]), np.arange(5))
    np.testing.assert_array_equal(mask, [[[T, T, T, F, F], [T, T, T, T, F]]])


def test_columns_before_a_rows_start_are_hidden():
    mask = from_column(np.arange(4), np.array([0, 3, 1]))
    np.testing.assert_array_equal(mask, [[[T, T, T, T]], [[F, F, F, T]], [[F, T, T, T]]])


def test_padding_is_hidden_from_every_query():
    mask = padding_keys(np.array([[T, T, F], [F, T, T]]))
    assert mask.shape == (2, 1, 3)
    np.testing.assert_array_equal(mask[:, 0], [[T, T, F], [F, T, T]])


def test_documents_see_only_themselves():
    mask = same_segment(np.array([[1, 1, 2], [0, 5, 5]]))
    np.testing.assert_array_equal(mask, [[[T, T, F], [T, T, F], [F, F, T]], [[T, F, F], [F, T, T], [F, T, T]]])


def test_conjunction_broadcasts_and_leaves_out_what_is_none():
    causal = causal_mask(np.arange(3), np.arange(3))
    padding = padding_keys(np.array([[F, T, T], [T, T, T]]))
    both = conjunction(None, causal, padding, None)
    np.testing.assert_array_equal(both, [[[F, F, F], [F, T, F], [F, T, T]], [[T, F, F], [T, T, F], [T, T, T]]])
    assert conjunction(None, None) is None
    assert conjunction(causal) is causal


@pytest.mark.parametrize("rule", [
    MaskRule(causal=True),
    MaskRule(padding_mask=np.array([[T, T, F, F, F], [F, T, T, T, T]])),
    MaskRule(causal=True, segment_ids=np.array([[1, 1, 2, 2, 2], [0, 5, 5, 5, 7]])),
])  # fmt: skip
def test_a_rules_block_is_cut_from_its_whole(rule):
    whole = np.asarray(rule.whole(5))
    whole = np.broadcast_to(whole, (len(whole), 5, 5))
    assert whole[0, -1, -1] == (rule.padding_mask is None)
    for first in (1, tf.constant(1)):
        block = rule.block(first, 3, 2 * first, 2)
        np.testing.assert_array_equal(np.broadcast_to(block, (len(whole), 3, 2)), whole[:, 1:4, 2:4])


def test_a_rule_that_hides_nothing_makes_no_mask():
    assert MaskRule().whole(3) is None
    assert MaskRule().block(1, 2, 0, 2) is None
