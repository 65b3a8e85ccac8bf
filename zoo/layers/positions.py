"""Where a token stands: learned and rotary position encodings.

Shape letters: B batch, T positions, N heads, H head width, D hidden.
"""

import keras
from keras import ops

STDDEV = 0.02


class LearnedPositions(keras.layers.Layer):
    """One trained vector a position (Radford et al. 2018, W_p).

    Args:
        max_length: number of positions.
        hidden_dim: D.
        from_sinusoids: whether they begin as `sinusoids`, and not at random.

    Call: int32 positions (B or 1, T) -> (B or 1, T, D).
    """

    def __init__(self, max_length, hidden_dim, from_sinusoids=False, **kwargs):
        super().__init__(**kwargs)
        self.max_length, self.hidden_dim, self.from_sinusoids = max_length, hidden_dim, from_sinusoids

    def build(self, input_shape=None):
        begin = _as_sinusoids if self.from_sinusoids else keras.initializers.RandomNormal(stddev=STDDEV)
        self.embeddings = self.add_weight(shape=(self.max_length, self.hidden_dim), initializer=begin, name="embeddings")

    def call(self, positions):
        return ops.take(ops.cast(self.embeddings, self.compute_dtype), positions, axis=0)


def sinusoids(length, width):
    """sin and cos of m * 10000^(-2i/D) for position m (Vaswani et al. 2017, section 3.5; all sines stand first): (length,
    width).

    The product of two rows depends on their distance alone, and is largest at 0.
    """
    pair = ops.arange(0, width, 2, dtype="float32")
    angles = ops.arange(length, dtype="float32")[:, None] * 10_000.0 ** (-pair / width)
    return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)[:, :width]


def _as_sinusoids(shape, dtype=None):
    """An initialiser: as large as the random vectors are, so that the tokens weigh as much as ever."""
    return ops.cast(sinusoids(*shape) * (STDDEV * 2**0.5), dtype or "float32")


def rotary_angles(positions, head_dim, theta):
    """cos and sin of m * theta^(-2i/H) for position m and pair i (Su et al. 2021, eq. 15).

    Args:
        positions: int32 (B or 1, T).
        head_dim: H, even.
        theta: base of the wavelengths.

    Returns:
        Two float32 tensors (B or 1, 1, T, H/2), ready to broadcast over heads.
    """
    pair = ops.arange(0, head_dim, 2, dtype="float32")
    angles = ops.cast(positions, "float32")[:, None, :, None] * theta ** (-pair / head_dim)
    return ops.cos(angles), ops.sin(angles)


def rotate(x_BNTH, angles):
    """Rotates each pair (x_i, x_{i + H/2}) by its angle (Su et al. 2021, eq. 34, in the half-split order of Llama)."""
    cos, sin = angles
    low, high = ops.split(ops.cast(x_BNTH, "float32"), 2, axis=-1)
    rotated = ops.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)
    return ops.cast(rotated, x_BNTH.dtype)
