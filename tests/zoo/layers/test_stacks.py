"""A stack's blocks are read and written where a loop says while it runs."""

import numpy as np
import pytest
import tensorflow as tf

from zoo.layers.stacks import read_block, write_block

STACK = np.arange(5 * 2 * 3, dtype="float32").reshape(5, 2, 3)


def test_reading_and_writing():
    before = tf.constant(STACK)
    np.testing.assert_array_equal(read_block(before, tf.constant(3)), STACK[3])
    written = write_block(before, tf.fill((2, 3), -1.0), tf.constant(3))
    expected = STACK.copy()
    expected[3] = -1
    np.testing.assert_array_equal(written, expected)
    np.testing.assert_array_equal(before, STACK)  # whoever holds the old one keeps it


@pytest.mark.parametrize("jit_compile", [False, True])
def test_in_a_loop(jit_compile):
    @tf.function(jit_compile=jit_compile, autograph=False)
    def double_first(stack, number):
        return tf.while_loop(
            lambda i, stack: i < number, lambda i, stack: (i + 1, write_block(stack, 2 * read_block(stack, i), i)), (0, stack)
        )[1]

    np.testing.assert_array_equal(double_first(STACK, tf.constant(4)), STACK * np.array([2, 2, 2, 2, 1])[:, None, None])
