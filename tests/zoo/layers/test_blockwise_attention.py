"""Attention in rows and in blocks is plain attention: outputs and gradients, every mask, odd sizes, shared heads, both graphs.

Shape letters: B batch, T positions, N query heads, K key/value heads, H head width.
"""

import numpy as np
import pytest
import tensorflow as tf

from zoo.layers import forms
from zoo.layers.attention import Attention, attend, attend_by_rule
from zoo.layers.blockwise_attention import attend_in_blocks, attend_in_rows
from zoo.layers.forms import resolve_form
from zoo.layers.fusion import fuse_elementwise
from zoo.layers.masks import MaskRule

B, N, H = 2, 6, 5
PADDING = np.arange(23) < np.array([[23], [17]])
LEFT_PADDING = np.arange(23) >= np.array([[0], [9]])
SEGMENTS = np.array([[0] * 11 + [1] * 5 + [2] * 7, [3] * 2 + [4] * 21], np.int32)
PREFIXES = np.array([13, 4], np.int32)
RULES = {
    "causal": MaskRule(causal=True),
    "open": MaskRule(),
    "padding": MaskRule(padding_mask=PADDING),
    "causal, padding at the left": MaskRule(causal=True, padding_mask=LEFT_PADDING),
    "causal, documents": MaskRule(causal=True, segments=(SEGMENTS, SEGMENTS)),
    "documents, padding": MaskRule(padding_mask=PADDING, segments=(SEGMENTS, SEGMENTS)),
    "window": MaskRule(causal=True, window=6),
    "window, padding, documents": MaskRule(causal=True, window=9, padding_mask=PADDING, segments=(SEGMENTS, SEGMENTS)),
    "prefix": MaskRule(causal=True, prefix_lengths=PREFIXES),
    "prefix, padding, documents": MaskRule(
        causal=True, prefix_lengths=PREFIXES, padding_mask=PADDING, segments=(SEGMENTS, SEGMENTS)
    ),
}
FORMS = {
    "rows": attend_in_rows,
    "one block": attend_in_blocks,
    "blocks of 8": lambda *tensors: attend_in_blocks(*tensors, block=8),
}
CASES = [("rows", rule) for rule in RULES if RULES[rule].causal] + [("blocks of 8", rule) for rule in RULES]
CASES += [("one block", rule) for rule in ("causal", "open", "documents, padding")]
# Of 11 queries and 23 keys: as with a cache, or of two sequences.
UNEQUAL = {
    "offset": MaskRule(causal=True, query_offset=9),
    "offset in the graph": MaskRule(causal=True, query_offset=tf.constant(12)),
    "window": MaskRule(causal=True, query_offset=9, window=5),
    "offset, prefix, padding": MaskRule(causal=True, query_offset=5, prefix_lengths=PREFIXES, padding_mask=LEFT_PADDING),
    "open": MaskRule(),
    "padding": MaskRule(padding_mask=PADDING),
    "documents": MaskRule(segments=(SEGMENTS[:, 7:18], SEGMENTS)),
}
UNEQUAL_CASES = [("rows", rule) for rule in UNEQUAL if UNEQUAL[rule].causal] + [("blocks of 8", rule) for rule in UNEQUAL]


@pytest.fixture(autouse=True)
def short_rows(monkeypatch):
    monkeypatch.setattr(forms, "ROW", 5)


def plain(q, k, v, rule, *bias_and_scale):
    return attend(q, k, v, rule.whole(q.shape[2], k.shape[2]), *bias_and_scale)


def inputs(num_kv_heads=N, length=23, dtype="float32", num_keys=None):
    random = np.random.default_rng(num_kv_heads)
    num_keys = num_keys or length
    shapes = [(B, N, length, H), (B, num_kv_heads, num_keys, H), (B, num_kv_heads, num_keys, H), (B, N, length, H)]
    return [tf.constant(random.normal(size=shape), dtype) for shape in shapes]


def biases(batch, num_queries, num_keys):
    return tf.constant(np.random.default_rng(3).normal(size=(batch, N, num_queries, num_keys)), "float32")


def value_and_gradients(form, rule, *tensors, scale=None):
    return tf.function(lambda *x: _value_and_gradients(form, rule, *x, scale=scale), autograph=False)(*tensors)


def _value_and_gradients(form, rule, q, k, v, dy, *bias, scale=None):
    """The output, zero where a query sees nothing and it means nothing, and the gradients of its product with dy."""
    if rule.padding_mask is not None:
        dy = tf.where(tf.reduce_any(rule.whole(q.shape[2], k.shape[2]), 2)[:, None, :, None], dy, 0)
    with tf.GradientTape() as tape:
        tape.watch((q, k, v, *bias))
        out = form(q, k, v, rule, *(bias or [None]), scale)
    gradients = tape.gradient(out, (q, k, v, *bias), dy)
    return [tf.where(dy == 0, tf.zeros_like(out), out), *gradients]


def expected(rule, *tensors, scale=None):
    return _value_and_gradients(plain, rule, *tensors, scale=scale)


def assert_alike(ours, theirs, tolerance):
    names = ("out", "dq", "dk", "dv", "dbias")[: len(theirs)]
    for name, mine, other in zip(names, ours, theirs, strict=True):
        assert mine.dtype == other.dtype and mine.shape == other.shape
        np.testing.assert_allclose(np.float32(mine), np.float32(other), err_msg=name, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("form", "rule"), CASES)
def test_equals_the_plain_form(form, rule):
    tensors = inputs()
    ours = value_and_gradients(FORMS[form], RULES[rule], *tensors)
    assert_alike(ours, expected(RULES[rule], *tensors), 1e-5)


@pytest.mark.parametrize(("form", "rule"), UNEQUAL_CASES)
def test_queries_and_keys_of_other_columns(form, rule):
    tensors = inputs(3, length=11, num_keys=23)
    if rule == "documents":
        assert np.asarray(UNEQUAL[rule].whole(11, 23)).any(axis=2).all()
    ours = value_and_gradients(FORMS[form], UNEQUAL[rule], *tensors)
    assert_alike(ours, expected(UNEQUAL[rule], *tensors), 1e-5)


@pytest.mark.parametrize(("form", "rule", "batch"), [
    ("rows", "causal", 1), ("rows", "prefix", B), ("rows", "offset", B), ("rows", "offset in the graph", 1),
    ("one block", "documents, padding", B), ("blocks of 8", "causal", B), ("blocks of 8", "prefix", 1),
    ("blocks of 8", "offset in the graph", 1), ("blocks of 8", "documents, padding", 1),
])  # fmt: skip
def test_a_bias_is_added_and_gets_its_gradient(form, rule, batch):
    length = 11 if rule in UNEQUAL else 23
    rule = {**RULES, **UNEQUAL}[rule]
    tensors = [*inputs(2, length, num_keys=23), biases(batch, length, 23)]
    theirs = expected(rule, *tensors, scale=1.0)
    assert_alike(value_and_gradients(FORMS[form], rule, *tensors, scale=1.0), theirs, 2e-5)
    assert np.abs(theirs[-1]).max() > 0.1
    without = expected(rule, *tensors[:-1], scale=1.0)
    assert np.abs(theirs[0] - without[0]).max() > 0.1  # the bias counts


@pytest.mark.parametrize("num_kv_heads", [1, 2, 3])
@pytest.mark.parametrize("form", ["rows", "blocks of 8"])
def test_shared_key_heads(form, num_kv_heads):
    rule, tensors = RULES["causal, documents"], inputs(num_kv_heads)
    assert_alike(value_and_gradients(FORMS[form], rule, *tensors), expected(rule, *tensors), 1e-5)


@pytest.mark.parametrize("form", ["rows", "blocks of 8"])
def test_bfloat16(form):
    rule, tensors = RULES["causal"], inputs(2, dtype="bfloat16")
    exact = expected(rule, *(tf.cast(x, tf.float32) for x in tensors))
    ours = value_and_gradients(FORMS[form], rule, *tensors)
    assert all(x.dtype == tf.bfloat16 for x in ours)
    theirs = expected(rule, *tensors)
    for mine, other, true in zip(ours, theirs, exact, strict=True):
        errors = [np.abs(np.float32(x) - true).max() for x in (mine, other)]
        assert errors[0] < max(1.5 * errors[1], 0.02 * np.abs(true).max())


@pytest.mark.parametrize("form", ["rows", "blocks of 8"])
@pytest.mark.parametrize("graph", ["fuse_elementwise", "xla"])
@pytest.mark.parametrize("rule", ["causal", "prefix"])
def test_in_a_graph(form, graph, rule):
    rule, tensors = RULES[rule], inputs(3)
    if rule.prefix_lengths is not None:
        tensors.append(biases(1, 23, 23))

    @tf.function(jit_compile=graph == "xla", autograph=False)
    def compute(*tensors):
        if graph != "fuse_elementwise":
            return _value_and_gradients(FORMS[form], rule, *tensors)
        with fuse_elementwise():
            return _value_and_gradients(FORMS[form], rule, *tensors)

    assert_alike(compute(*tensors), expected(rule, *tensors), 1e-5)


def test_blocks_do_not_need_to_know_the_length():
    signature = [tf.TensorSpec((None, heads, None, H)) for heads in (N, 2, 2, N)] + [tf.TensorSpec((1, N, None, None))]
    form = tf.function(lambda *x: _value_and_gradients(FORMS["blocks of 8"], MaskRule(causal=True), *x), signature)
    for length, num_keys in ((1, 1), (8, 8), (19, 19), (7, 18)):
        tensors = [*inputs(2, length, num_keys=num_keys), biases(1, length, num_keys)]
        assert_alike(form(*tensors), expected(MaskRule(causal=True), *tensors), 1e-5)


def test_auto_goes_by_length():
    assert [resolve_form("auto", length, causal=True) for length in (None, 255, 256, 2047, 2048)] == [
        "plain", "plain", "rows", "rows", "blockwise"
    ]  # fmt: skip
    assert [resolve_form("auto", length, causal=False) for length in (None, 2047, 2048)] == ["plain", "plain", "blockwise"]
    assert resolve_form("rows", 3, causal=True) == "rows"


@pytest.mark.parametrize("form", ["auto", "plain", "rows", "blockwise"])
def test_by_rule_every_form_is_the_same(form):
    q, k, v, _ = inputs(2)
    bias = biases(1, 23, 23)
    for rule in (RULES["causal"], RULES["open"], RULES["prefix"]):
        ours = tf.function(lambda *x, rule=rule: attend_by_rule(*x, rule, form), autograph=False)(q, k, v)
        np.testing.assert_allclose(ours, plain(q, k, v, rule), rtol=1e-5, atol=1e-5)
        ours, weights = attend_by_rule(q, k, v, rule, form, bias, 0.5, with_weights=True)
        np.testing.assert_allclose(ours, plain(q, k, v, rule, bias, 0.5), rtol=1e-5, atol=1e-5)
        assert weights.shape == (B, N, 23, 23)


def test_no_other_form():
    with pytest.raises(ValueError, match="form must be auto or plain or rows or blockwise, got 'flash'."):
        Attention(1, 1, 1, form="flash")
