"""Attention in rows and in blocks is plain attention: outputs and gradients, every mask, odd sizes, shared heads, both graphs.

Shape letters: B batch, T positions, N query heads, K key/value heads, H head width.
"""

import numpy as np
import pytest
import tensorflow as tf

from zoo.layers import blockwise_attention
from zoo.layers.attention import Attention, attend, attend_by_rule
from zoo.layers.blockwise_attention import attend_in_blocks, attend_in_rows
from zoo.layers.forms import resolve_form
from zoo.layers.fusion import fuse_elementwise
from zoo.layers.masks import MaskRule

B, N, H = 2, 6, 5
PADDING = np.arange(23) < np.array([[23], [17]])
LEFT_PADDING = np.arange(23) >= np.array([[0], [9]])
SEGMENTS = np.array([[0] * 11 + [1] * 5 + [2] * 7, [3] * 2 + [4] * 21], np.int32)
RULES = {
    "causal": MaskRule(causal=True),
    "open": MaskRule(),
    "padding": MaskRule(padding_mask=PADDING),
    "causal, padding at the left": MaskRule(causal=True, padding_mask=LEFT_PADDING),
    "causal, documents": MaskRule(causal=True, segment_ids=SEGMENTS),
    "documents, padding": MaskRule(padding_mask=PADDING, segment_ids=SEGMENTS),
}
FORMS = {
    "rows": lambda q, k, v, rule: attend_in_rows(q, k, v, rule),
    "one block": lambda q, k, v, rule: attend_in_blocks(q, k, v, rule),
    "blocks of 8": lambda q, k, v, rule: attend_in_blocks(q, k, v, rule, block=8),
}
CASES = [(form, rule) for form in FORMS for rule in RULES if form != "rows" or RULES[rule].causal]


@pytest.fixture(autouse=True)
def short_rows(monkeypatch):
    monkeypatch.setattr(blockwise_attention, "ROW", 5)


def plain(q, k, v, rule):
    return attend(q, k, v, rule.whole(q.shape[2]))


def inputs(num_kv_heads=N, length=23, dtype="float32"):
    random = np.random.default_rng(num_kv_heads)
    shapes = [(B, N, length, H), (B, num_kv_heads, length, H), (B, num_kv_heads, length, H), (B, N, length, H)]
    return [tf.constant(random.normal(size=shape), dtype) for shape in shapes]


def value_and_gradients(form, rule, *tensors):
    return tf.function(lambda *x: _value_and_gradients(form, rule, *x), autograph=False)(*tensors)


def _value_and_gradients(form, rule, q, k, v, dy):
    """The output, zero where a padded query makes it meaningless, and the gradients of its product with dy."""
    if rule.padding_mask is not None:
        dy = tf.where(rule.padding_mask[:, None, :, None], dy, 0)
    with tf.GradientTape() as tape:
        tape.watch((q, k, v))
        out = form(q, k, v, rule)
    return [tf.where(dy == 0, tf.zeros_like(out), out), *tape.gradient(out, (q, k, v), dy)]


def assert_alike(ours, theirs, tolerance):
    for name, mine, other in zip(("out", "dq", "dk", "dv"), ours, theirs, strict=True):
        assert mine.dtype == other.dtype and mine.shape == other.shape
        np.testing.assert_allclose(np.float32(mine), np.float32(other), err_msg=name, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("form", "rule"), CASES)
def test_equals_the_plain_form(form, rule):
    tensors = inputs()
    ours = value_and_gradients(FORMS[form], RULES[rule], *tensors)
    assert_alike(ours, value_and_gradients(plain, RULES[rule], *tensors), 1e-5)


@pytest.mark.parametrize("num_kv_heads", [1, 2, 3])
@pytest.mark.parametrize("form", ["rows", "blocks of 8"])
def test_shared_key_heads(form, num_kv_heads):
    rule, tensors = RULES["causal, documents"], inputs(num_kv_heads)
    assert_alike(value_and_gradients(FORMS[form], rule, *tensors), value_and_gradients(plain, rule, *tensors), 1e-5)


@pytest.mark.parametrize("form", ["rows", "blocks of 8"])
def test_bfloat16(form):
    rule, tensors = RULES["causal"], inputs(2, dtype="bfloat16")
    exact = value_and_gradients(plain, rule, *(tf.cast(x, tf.float32) for x in tensors))
    ours = value_and_gradients(FORMS[form], rule, *tensors)
    assert all(x.dtype == tf.bfloat16 for x in ours)
    theirs = value_and_gradients(plain, rule, *tensors)
    for mine, other, true in zip(ours, theirs, exact, strict=True):
        errors = [np.abs(np.float32(x) - true).max() for x in (mine, other)]
        assert errors[0] < max(1.5 * errors[1], 0.02 * np.abs(true).max())


@pytest.mark.parametrize("form", ["rows", "blocks of 8"])
@pytest.mark.parametrize("graph", ["fuse_elementwise", "xla"])
def test_in_a_graph(form, graph):
    rule, tensors = RULES["causal"], inputs(3)

    @tf.function(jit_compile=graph == "xla", autograph=False)
    def compute(*tensors):
        if graph != "fuse_elementwise":
            return _value_and_gradients(FORMS[form], rule, *tensors)
        with fuse_elementwise():
            return _value_and_gradients(FORMS[form], rule, *tensors)

    assert_alike(compute(*tensors), value_and_gradients(plain, rule, *tensors), 1e-5)


def test_blocks_do_not_need_to_know_the_length():
    signature = [tf.TensorSpec((None, heads, None, H)) for heads in (N, 2, 2, N)]
    form = tf.function(lambda *x: _value_and_gradients(FORMS["blocks of 8"], MaskRule(causal=True), *x), signature)
    for length in (1, 8, 19):
        tensors = inputs(2, length)
        assert_alike(form(*tensors), value_and_gradients(plain, MaskRule(causal=True), *tensors), 1e-5)


def test_auto_goes_by_length():
    assert [resolve_form("auto", length, causal=True) for length in (None, 255, 256, 2047, 2048)] == [
        "plain", "plain", "rows", "rows", "blockwise"
    ]  # fmt: skip
    assert [resolve_form("auto", length, causal=False) for length in (None, 2047, 2048)] == ["plain", "plain", "blockwise"]
    assert resolve_form("rows", 3, causal=True) == "rows"


@pytest.mark.parametrize("form", ["auto", "plain", "rows", "blockwise"])
def test_by_rule_every_form_is_the_same(form):
    q, k, v, _ = inputs(2)
    for rule in (RULES["causal"], RULES["open"]):
        ours = tf.function(lambda *x, rule=rule: attend_by_rule(*x, rule, form), autograph=False)(q, k, v)
        np.testing.assert_allclose(ours, plain(q, k, v, rule), rtol=1e-5, atol=1e-5)


def test_no_other_form():
    with pytest.raises(ValueError, match="form must be auto or plain or rows or blockwise, got 'flash'."):
        Attention(1, 1, 1, form="flash")
