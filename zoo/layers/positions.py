"""Where a token stands: learned, sinusoidal, rotary and relative position encodings.

Shape letters: B batch, T positions or queries, S keys, N heads, H head width, R rotated width, D hidden.
"""

import math

import keras
import numpy as np
from keras import ops

from zoo.config import Refusal

STDDEV = 0.02


class LearnedPositions(keras.layers.Layer):
    """One trained vector a position (Radford et al. 2018, W_p).

    Args:
        max_length: number of positions.
        hidden_dim: D.
        from_sinusoids: whether they begin as `sinusoids`, and not at random.

    Call: int32 positions (B or 1, T) -> (B or 1, T, D).

    Example:
        >>> positions = LearnedPositions(max_length=8, hidden_dim=4)
        >>> positions.build()
        >>> positions(np.arange(3)[None]).shape
        TensorShape([1, 3, 4])
    """

    def __init__(self, max_length, hidden_dim, from_sinusoids=False, **kwargs):
        super().__init__(**kwargs)
        self.max_length, self.hidden_dim, self.from_sinusoids = max_length, hidden_dim, from_sinusoids

    def build(self, input_shape=None):
        begin = _as_sinusoids if self.from_sinusoids else keras.initializers.RandomNormal(stddev=STDDEV)
        self.embeddings = self.add_weight(shape=(self.max_length, self.hidden_dim), initializer=begin, name="embeddings")

    def call(self, positions):
        return ops.take(ops.cast(self.embeddings, self.compute_dtype), positions, axis=0)


class SinusoidalPositions(keras.layers.Layer):
    """Fixed vectors a position, as `sinusoids`, for positions without an end (Vaswani et al. 2017, section 3.5).

    Args:
        hidden_dim: D.
        interleaved: whether sines and cosines take turns, as in the paper; otherwise all sines stand first, as in Marian.
        opennmt: whether they are OpenNMT's: all sines first, the first position is 1, and the exponents go from 0 to 1, both
            included.

    Call: int32 positions (B or 1, T) -> (B or 1, T, D).

    Example:
        >>> SinusoidalPositions(4, interleaved=True)(np.array([[0]])).numpy().tolist()
        [[[0.0, 1.0, 0.0, 1.0]]]
    """

    def __init__(self, hidden_dim, interleaved=False, opennmt=False, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim, self.interleaved, self.opennmt = hidden_dim, interleaved, opennmt

    def call(self, positions):
        return ops.cast(_sinusoids(positions, self.hidden_dim, self.interleaved, self.opennmt), self.compute_dtype)


def sinusoids(length, width, interleaved=False, opennmt=False):
    """sin and cos of m * 10000^(-2i/D) for position m (Vaswani et al. 2017, section 3.5): (length, width).

    All sines stand first, or, `interleaved`, sine and cosine of each i stand side by side. The product of two rows depends on
    their distance alone, and is largest at 0. With `opennmt`, sin and cos of (m + 1) * 10000^(-i/(D/2 - 1)), sines first.
    """
    return _sinusoids(ops.arange(length), width, interleaved, opennmt)


def _sinusoids(positions, width, interleaved, opennmt=False):
    pair = ops.arange(0, width, 2, dtype="float32")
    if opennmt:
        positions, width_of_exponents = positions + 1, max(width - 2, 1)
    else:
        width_of_exponents = width
    angles = ops.cast(positions, "float32")[..., None] * 10_000.0 ** (-pair / width_of_exponents)
    sin, cos = ops.sin(angles), ops.cos(angles)
    if not interleaved:
        return ops.concatenate([sin, cos], axis=-1)[..., :width]
    return ops.reshape(ops.stack([sin, cos], axis=-1), (*ops.shape(positions), 2 * pair.shape[0]))[..., :width]


def _as_sinusoids(shape, dtype=None):
    """An initialiser: as large as the random vectors are, so that the tokens weigh as much as ever."""
    return ops.cast(sinusoids(*shape) * (STDDEV * 2**0.5), dtype or "float32")


def rotary_angles(positions, width, theta, scaling="none", numbers=()):
    """cos and sin of m * theta^(-2i/R) for position m and pair i (Su et al. 2021, eq. 15).

    Args:
        positions: int32 (B or 1, T).
        width: R, even: H, or less where only the first R numbers of a head are turned.
        theta: base of the wavelengths.
        scaling, numbers: as in `rotary_frequencies`.

    Returns:
        Two float32 tensors (B or 1, 1, T, R/2), ready to broadcast over heads.
    """
    positions = ops.cast(positions, "float32")[:, None, :, None]
    if scaling == "none":
        angles = positions * theta ** (-ops.arange(0, width, 2, dtype="float32") / width)
        return ops.cos(angles), ops.sin(angles)
    frequencies, factor = rotary_frequencies(width, theta, scaling, numbers)
    angles = positions * frequencies.astype("float32")
    return ops.cos(angles) * factor, ops.sin(angles) * factor


def rotary_frequencies(width, theta, scaling, numbers):
    """Rotary frequencies for texts that are longer than those of the training before, as transformers computes them.

    With f_i = theta^(-2i/R), a factor s and the length L of the training before:

    - `linear`, numbers (s,): f_i / s (Chen et al. 2023, arXiv:2306.15595).
    - `llama3`, numbers (s, low, high, L): f_i where a wavelength 2 pi / f_i is below L / high, f_i / s where it is above
      L / low, in between both in the shares that fall linearly with L f_i / 2 pi (Llama 3.1).
    - `yarn`, numbers (s, L, attention, fast, slow, rounded): f_i up to the pair that turns `fast` times in L positions, f_i / s
      from the one that turns `slow` times, in between both in shares linear in i (Peng et al. 2023, arXiv:2309.00071, eq. 23).
      cos and sin are multiplied by `attention`. Both pairs are rounded outwards unless `rounded` is 0.

    Returns:
        float64 (R/2,), and what cos and sin are multiplied by.

    Example:
        >>> rotary_frequencies(4, 100.0, "linear", (4.0,))[0].tolist()
        [0.25, 0.025]
    """
    pairs = np.arange(width // 2)
    plain, factor = theta ** (-2.0 * pairs / width), numbers[0]
    if scaling == "linear":
        return plain / factor, 1.0
    if scaling == "llama3":
        low, high, length = numbers[1:]
        plain_share = np.clip((length * plain / (2 * np.pi) - low) / (high - low), 0, 1)
        return plain_share * plain + (1 - plain_share) * plain / factor, 1.0
    length, attention, fast, slow, rounded = numbers[1:]
    first, last = (width * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta)) for turns in (fast, slow))
    if rounded:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    scaled_share = np.clip((pairs - first) / ((last - first) or 0.001), 0, 1)
    return (1 - scaled_share) * plain + scaled_share * plain / factor, attention


def rotate(x_BNTH, angles):
    """Turns each pair (x_i, x_{i + R/2}) by its angle (Su et al. 2021, eq. 34, in the half-split order of Llama).

    Args:
        x_BNTH: queries or keys; what stands behind the first R numbers of a head stays.
        angles: from `rotary_angles`.

    Example:
        >>> angles = rotary_angles(np.array([[0, 1]]), width=2, theta=10_000.0)  # the other half of the head stays
        >>> rotate(np.ones((1, 1, 2, 4), "float32"), angles)[0, 0, 0].numpy().tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    return _rotate_first(x_BNTH, angles, lambda x: ops.split(x, 2, axis=-1), lambda *halves: ops.concatenate(halves, axis=-1))


def rotate_pairs(x_BNTH, angles):
    """As `rotate`, but the pairs are neighbours, (x_{2i}, x_{2i + 1}), as in the paper and in GLM."""

    def apart(x):
        return ops.unstack(ops.reshape(x, (*ops.shape(x)[:-1], x.shape[-1] // 2, 2)), 2, axis=-1)

    def together(even, odd):
        return ops.reshape(ops.stack([even, odd], axis=-1), (*ops.shape(even)[:-1], 2 * even.shape[-1]))

    return _rotate_first(x_BNTH, angles, apart, together)


def rotate_in_two_rows(x_BNTH, angles):
    """`rotate` of each half of a head by positions of its own: the two-dimensional positions of ChatGLM (Du et al. 2022, 2.2).

    Args:
        x_BNTH: queries or keys.
        angles: a pair, each from `rotary_angles` with a width of H/2 at most.
    """
    halves = ops.split(x_BNTH, 2, axis=-1)
    return ops.concatenate([rotate(half, row) for half, row in zip(halves, angles, strict=True)], axis=-1)


def _rotate_first(x_BNTH, angles, apart, together):
    """Turns the first R numbers of each head, which `apart` makes two of and `together` one again."""
    cos, sin = angles
    width = 2 * cos.shape[-1]
    rest = []
    if width < x_BNTH.shape[-1]:
        x_BNTH, *rest = ops.split(x_BNTH, (width,), axis=-1)
    low, high = apart(ops.cast(x_BNTH, "float32"))
    rotated = ops.cast(together(low * cos - high * sin, high * cos + low * sin), x_BNTH.dtype)
    return ops.concatenate([rotated, *rest], axis=-1) if rest else rotated


def alibi_slopes(num_heads):
    """The slopes of `alibi`, float32 (N,): 2^(-8/n), 2^(-16/n), ... of n heads, where n is a power of 2.

    Of another number, the first ones are those of the power below it, n, and the others every second one of 2 n, beginning with
    the first (Press et al. 2022, as in their program).

    Example:
        >>> alibi_slopes(4).tolist()
        [0.25, 0.0625, 0.015625, 0.00390625]
    """
    power = 2 ** math.floor(math.log2(num_heads))
    first, between = (2.0 ** (-8 * np.arange(1, n + 1) / n) for n in (power, 2 * power))
    return np.concatenate([first, between[::2]])[:num_heads].astype("float32")


def alibi(query_positions, key_positions, num_heads):
    """What attention adds to a score for the distance of key and query, without a weight: slope_n (s - t) for a key at position
    s and a query at position t (Press et al. 2022, arXiv:2108.12409, section 3).

    Args:
        query_positions, key_positions: int32 (B or 1, T) and (B or 1, S).
        num_heads: N.

    Returns:
        float32 (B or 1, N, T, S). Keys behind the query would gain by it; a causal mask hides them.
    """
    distances = ops.cast(key_positions, "float32")[:, None, None, :] - ops.cast(query_positions, "float32")[:, None, :, None]
    return alibi_slopes(num_heads)[None, :, None, None] * distances


class RelativeBias(keras.layers.Layer):
    """What attention adds to a score for the distance of key and query: bias_n(t, s) = W[bucket(s - t), n].

    Buckets are exact for short distances and logarithmic for long ones (Raffel et al. 2020, section 2.1); see
    `relative_buckets`. One such layer serves all layers of a stack.

    Args:
        num_heads: N.
        num_buckets: rows of the table.
        max_distance: distances from here on share the last bucket.
        bidirectional: whether a query sees keys on both sides, which then have half of the buckets each.
        stddev: of the table's initialisation.

    Call: int32 positions of the queries (B or 1, T) and of the keys (B or 1, S) -> float32 (B or 1, N, T, S).

    Example:
        >>> bias = RelativeBias(num_heads=2, bidirectional=False)
        >>> bias.build()
        >>> bias(np.arange(3)[None], np.arange(5)[None]).shape
        TensorShape([1, 2, 3, 5])

    Raises:
        Refusal: as `relative_buckets`.
    """

    def __init__(self, num_heads, num_buckets=32, max_distance=128, bidirectional=True, stddev=0.02, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.num_heads, self.num_buckets, self.max_distance, self.stddev = num_heads, num_buckets, max_distance, stddev
        self.buckets = relative_buckets(num_buckets, max_distance, bidirectional)

    def build(self, input_shape=None):
        normal = keras.initializers.RandomNormal(stddev=self.stddev)
        self.embeddings = self.add_weight(
            shape=(self.num_buckets, self.num_heads), initializer=normal, name="embeddings", autocast=False
        )

    def call(self, query_positions, key_positions):
        distances = ops.cast(key_positions, "int32")[:, None, :] - ops.cast(query_positions, "int32")[:, :, None]
        columns = ops.clip(distances, -self.max_distance, self.max_distance) + self.max_distance
        # One row a distance first: the gradient of the large table is a sum over few rows.
        by_distance = ops.take(self.embeddings, self.buckets, axis=0)
        return ops.transpose(ops.take(by_distance, columns, axis=0), (0, 3, 1, 2))


def relative_buckets(num_buckets, max_distance, bidirectional):
    """The buckets of the distances s - t of a key from a query, -max_distance to max_distance: int32 (2 max_distance + 1,).

    Of n buckets for keys on one side (num_buckets, or half of them if `bidirectional`) the first n / 2 hold one distance each;
    from e = n / 2 on a distance r is in bucket e + floor((n - e) log(r / e) / log(max_distance / e)), at most n - 1 (Raffel et
    al. 2020, section 2.1, as in their program). Keys behind a query (s > t) have the upper half, or, if not `bidirectional`,
    bucket 0.

    Raises:
        Refusal: there are too few buckets, or more of them than distances.
    """
    size = num_buckets // 2 if bidirectional else num_buckets
    exact = size // 2
    if exact < 1 or max_distance <= exact:
        raise Refusal(f"{num_buckets} buckets do not fit distances up to {max_distance}: there are 2 to 2 * max_distance.")

    def bucket(distance):
        if distance < exact:
            return distance
        steps = size - exact
        # The largest k with (r / e)^steps >= (max / e)^k, in integers: no rounding decides.
        reached = (k for k in range(steps) if distance**steps * exact**k >= max_distance**k * exact**steps)
        return exact + max(reached)

    before = [bucket(distance) for distance in range(max_distance, -1, -1)]
    after = [size + bucket(distance) if bidirectional else 0 for distance in range(1, max_distance + 1)]
    return np.array(before + after, np.int32)
