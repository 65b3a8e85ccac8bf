"""What Python gives where a signature takes tensors."""

import decimal

import numpy as np
import pytest
import tensorflow as tf

from zoo.config import Refusal
from zoo.signatures import given

STRINGS, INTEGERS, FLOATS = (tf.TensorSpec([None], dtype) for dtype in (tf.string, tf.int32, tf.float32))


@pytest.mark.parametrize(("value", "rows", "one"), [
    ("a", ["a"], True), (b"a", [b"a"], True), (np.str_("a"), ["a"], True), (tf.constant("a"), [b"a"], True), ("", [""], True),
    (np.array("a"), ["a"], True), (["a", ""], ["a", ""], False), (("a", b"b"), ["a", b"b"], False), ([], [], False),
    (np.array(["a", "b"]), ["a", "b"], False), (np.array(["a", "b"], object), ["a", "b"], False),
    (tf.constant(["a", "b"]), [b"a", b"b"], False), ((each for each in "ab"), ["a", "b"], False),
])  # fmt: skip
def test_strings_of_any_kind(value, rows, one):
    assert given.texts("prompt", value) == (rows, one)


@pytest.mark.parametrize(("value", "got"), [
    (None, "; got None."), (3, "; got 3."), (1.5, "; got 1.5."), (True, "; got True."), ({"a": 1}, "; got {'a': 1}."),
    ({"a"}, "; got {'a'}."), ([1], "; number 1 of the list is 1."), (["a", None], "; number 2 of the list is None."),
    ([["a"]], "; number 1 of the list is ['a']."), (np.array([["a"]]), "; number 1 of the list is array(['a'], dtype='<U1')."),
    (tf.constant(1), "; got <tf.Tensor: shape=(), dtype=int32, numpy=1>."),
    ([["a" * 99]], f"; number 1 of the list is ['{'a' * 55}...."),
])  # fmt: skip
def test_what_is_not_a_string_or_a_list_of_them(value, got):
    with pytest.raises(Refusal) as error:
        given.texts("prompt", value)
    assert str(error.value) == f"prompt takes a string, or a list of strings{got}"


@pytest.mark.parametrize("value", [2, 2.0, np.int64(2), np.float32(2), np.array(2), tf.constant(2), tf.constant(2.0)])
def test_numbers_of_any_kind(value):
    for dtype, kind in ((tf.int32, int), (tf.float32, float)):
        number = given.number("top_k", value, dtype)
        assert number == 2 and type(number) is kind
    for spec in (INTEGERS, FLOATS):
        for shape in (value, [value], np.asarray([value])):
            tensor = given.tensor("top_k", shape, spec)
            assert tensor.dtype == spec.dtype and tensor.numpy().tolist() == [2]


@pytest.mark.parametrize(("value", "dtype", "sentence"), [
    ("3", tf.int32, "k takes one integer; got '3'."), (None, tf.float32, "k takes one number; got None."),
    (True, tf.int32, "k takes one integer; got True."), ([2], tf.int32, "k takes one integer; got [2]."),
    (2.5, tf.int32, "k takes an integer; got 2.5."), (float("inf"), tf.int32, "k takes an integer; got inf."),
    (float("nan"), tf.int64, "k takes an integer; got nan."), (2**31, tf.int32, "k is an integer of 32 bits; got 2147483648."),
    (-(2**63) - 1, tf.int64, "k is an integer of 64 bits; got -9223372036854775809."),
    (10**400, tf.int32, f"k is an integer of 32 bits; got 1{'0' * 56}...."),
    (1e39, tf.float32, "k is a number of 32 bits; got 1e+39."),
    (decimal.Decimal(1), tf.float32, "k takes one number; got Decimal('1')."),
])  # fmt: skip
def test_what_is_not_the_number_that_is_asked_for(value, dtype, sentence):
    with pytest.raises(Refusal) as error:
        given.number("k", value, dtype)
    assert str(error.value) == sentence


@pytest.mark.parametrize(("value", "spec", "sentence"), [
    ([2.5], INTEGERS, "x takes integers; got [2.5]."), (["2"], INTEGERS, "x takes integers; got ['2']."),
    ([True], INTEGERS, "x takes integers; got [True]."), ([None], FLOATS, "x takes numbers; got [None]."),
    (None, FLOATS, "x takes numbers; got None."), ([[1]], INTEGERS, "x has the shape (any); got (1, 1)."),
    ([1, [2]], INTEGERS, "x has rows of unequal length; got [1, [2]]."),
    ([10**20], INTEGERS, "x is an integer of 32 bits; got 100000000000000000000."),
    (np.array([2**40]), INTEGERS, "x is an integer of 32 bits; got 1099511627776."),
    ([1], STRINGS, "x takes a string, or a list of strings; number 1 of the list is 1."),
    ([1], tf.TensorSpec([None], tf.bool), "x takes True or False; got [1]."),
    ([[1, 2]], tf.TensorSpec([None, 3], tf.int32), "x has the shape (any, 3); got (1, 2)."),
    (["a\udc80"], STRINGS, "The text has a lone surrogate at character 1, which no UTF-8 can spell."),
])  # fmt: skip
def test_what_a_signature_cannot_take(value, spec, sentence):
    with pytest.raises(Refusal) as error:
        given.tensor("x", value, spec)
    assert str(error.value) == sentence


def test_what_a_signature_takes():
    assert given.tensor("x", "a", STRINGS).numpy().tolist() == [b"a"]
    assert given.tensor("x", [], INTEGERS).shape == (0,)
    assert given.tensor("x", np.array([1.0, 2.0]), INTEGERS).numpy().tolist() == [1, 2]
    assert given.tensor("x", tf.constant([1.0], tf.float64), FLOATS).dtype == tf.float32
    assert given.tensor("x", [[True]], tf.TensorSpec([None, None], tf.bool)).numpy().tolist() == [[True]]
