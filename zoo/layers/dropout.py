"""Dropout with masks that are cheap where XLA compiles for a CPU.

TensorFlow's own random numbers under XLA take up to 430 times as long there (benchmarks/LOG.md). A mask here is a hash of each
number's place and of the layer's seed. The gradient computes the mask again, so it takes no memory.
Everywhere else Keras draws the masks.
"""

import functools

import keras
from keras import ops

from zoo.layers import fusion

UINT32 = 2**32
GOLDEN = 0x9E3779B9  # 2^32 over the golden ratio


class Dropout(keras.layers.Dropout):
    """y = x m / (1 - rate), each number of m is 0 with probability `rate`, else 1  (Srivastava et al. 2014).

        >>> import numpy as np
        >>> dropped = Dropout(0.5, seed=1)(np.ones((2, 3), "float32"), training=True)
        >>> sorted(set(np.ravel(dropped).tolist()) - {0.0, 2.0})
        []

    Args, call, returns: as `keras.layers.Dropout`. A 1 in `noise_shape` is an axis along which m is the same.
    """

    def call(self, inputs, training=False):
        return dropped(inputs, self.rate, self.seed_generator, self.noise_shape) if training and self.rate else inputs


def locked_dropout(rate, name):
    """One mask for all steps of a sequence, (B, 1, D) (Gal and Ghahramani 2016)."""
    return Dropout(rate, noise_shape=(None, 1, None), name=name)


def dropped(x, rate, seed_generator, noise_shape=None):
    """`x` with a share of `rate` of its numbers at 0, and the others divided by 1 - rate.

    Args:
        x: float, of any shape.
        rate: from 0 to 1.
        seed_generator: a `keras.random.SeedGenerator`, which goes on by one.
        noise_shape: as of `keras.layers.Dropout`; its numbers are 1 or None.
    """
    if not fusion.for_cpu() or rate == 1:
        return keras.random.dropout(x, rate, noise_shape, seed=seed_generator)
    shared = tuple(axis for axis, size in enumerate(noise_shape or ()) if size == 1)
    return _dropping(float(rate), shared)(ops.convert_to_tensor(x), ops.cast(seed_generator.next(), "uint32"))


@functools.cache
def _dropping(rate, shared):
    """Function of (x, seed). Dropout is its own gradient: with the same mask."""

    @fusion.fused
    def masked(x, seed):
        places = ops.bitwise_xor(_places(x, shared), _mixed(seed[0]))
        kept = _mixed(_mixed(places) + _mixed(seed[1] + GOLDEN)) >= round(rate * UINT32)
        return ops.where(kept, x * (1 / (1 - rate)), ops.zeros_like(x))

    @ops.custom_gradient
    def drop(x, seed):
        return masked(x, seed), lambda *upstream: (masked(upstream[-1], seed), ops.zeros_like(seed))

    return drop


def _places(x, shared):
    """uint32: a number for each place of `x`, with an axis of 1 for each in `shared`."""
    places, stride, rank = 0, 1, len(x.shape)
    for axis in reversed(range(rank)):
        if axis in shared:
            continue
        size = ops.shape(x)[axis]
        along = ops.cast(ops.arange(size) * stride, "uint32")
        places = places + ops.reshape(along, [-1 if other == axis else 1 for other in range(rank)])
        stride = stride * size
    return places


def _mixed(x):
    """A hash of uint32 to uint32, one to one, in which each bit of `x` moves about half of the bits.

    The shifts and factors are those of lowbias32 (C. Wellons, "Prospecting for hash functions", 2018).
    """
    x = ops.bitwise_xor(x, ops.right_shift(x, 16)) * 0x7FEB352D
    x = ops.bitwise_xor(x, ops.right_shift(x, 15)) * 0x846CA68B
    return ops.bitwise_xor(x, ops.right_shift(x, 16))
