"""From a language model's next-token logits to text: greedily or by sampling, over ids, in graph.

Everything here sees a model as one function, `step(token_ids (B, T), state, padding_mask (B, T) or None)`, which returns
`(logits (B, V) float32 of the token after the last one, new state)`, and an initial `state`: a dict of tensors that are
batch-first or scalars shared by all rows. Prompts of unequal length are padded at the left under `padding_mask`.

A row's text is the same alone, in any batch, and padded: options are per row, and random numbers are a function of the row's
seed and the index of the token, never of the batch. Only TensorFlow's core ops are used, none of XLA's.

Shape letters: B batch, P prompt length, N new tokens, L = P + N, V vocabulary, C candidates.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from zoo.token_rules import Forbidden, penalise_repetition

NUCLEUS_CANDIDATES = 128  # sorted first when a nucleus is asked for; a wider one costs a second, full sort


class Sampling(NamedTuple):
    """How the next token is chosen. Each field is a number, or a tensor (B,) with a value a row.

    A field left at its Python default costs nothing in the graph. The filters act in the order of the fields, each on the
    distribution that the one before it left.

    Attributes:
        repetition_penalty: theta > 0; logits of tokens in the row so far, prompt included, are divided by it when positive and
            multiplied when negative (Keskar et al. 2019, section 4.1). 1 is off.
        temperature: logits are divided by it; 0 takes the most probable token (greedy), the lowest id on ties.
        top_k: only the k most probable tokens stay (Fan et al. 2018, section 5.4), and those tied with the last. 0 is off.
        top_p: only the smallest set of most probable tokens with together at least this probability stays (nucleus, Holtzman et
            al. 2020, eq. 2), and those tied with the last. 1 is off.
        min_p: tokens with at least this fraction of the largest probability stay (Nguyen et al. 2024, section 3). 0 is off.
        seed: integer; the same seed gives the same text.
        no_repeat_ngram: n; no n-gram of a row, prompt included, comes twice (Paulus et al. 2017, 2.5). 0 is off.
        min_new_tokens: a row does not stop before it has so many new tokens, the stop token not counted.
    """

    repetition_penalty: Any = 1.0
    temperature: Any = 0.0
    top_k: Any = 0
    top_p: Any = 1.0
    min_p: Any = 0.0
    seed: Any = 0
    no_repeat_ngram: Any = 0
    min_new_tokens: Any = 0


class Decoded(NamedTuple):
    """What a decoder wrote.

    Attributes:
        token_ids: int32 (B, N), the continuation without the prompt; `pad_id` after a row's end.
        lengths: int32 (B,), tokens of each continuation, a stop token included.
        log_probs: float32 (B,), sum of the natural log-probabilities of those tokens under the model's own distribution, before
            temperature, penalties and filters.
    """

    token_ids: tf.Tensor
    lengths: tf.Tensor
    log_probs: tf.Tensor


class _Progress(NamedTuple):
    """A batch while it grows: `ids` (B, L) prompt and continuation, and (B,) `lengths`, `log_probs`, `alive`."""

    ids: tf.Tensor
    lengths: tf.Tensor
    log_probs: tf.Tensor
    alive: tf.Tensor


def generate(
    step, state, token_ids, padding_mask=None, *, max_new_tokens, sampling=Sampling(), stop_ids=(), pad_id=0, enter=None
):  # fmt: skip
    """Continues each row token by token, greedily or by sampling, until all rows have stopped.

    Args:
        step: see the top of this file.
        state: the state before the prompt, with room for P + max(max_new_tokens) positions.
        token_ids: int32 (B, P) with P at least 1, padded at the left.
        padding_mask: bool (B, P), True for real tokens, at least one a row; or None.
        max_new_tokens: int, or int32 (B,): a row stops after so many.
        sampling: a `Sampling`.
        stop_ids: ids that end a row once written.
        pad_id: fills the columns after a row's end.
        enter: calls the loop, a function of nested tensors, with those that it gets; by default as it is.

    Returns:
        A `Decoded`.
    """
    limit, progress = begin(token_ids, max_new_tokens, pad_id)
    prompt_length, seen = tf.shape(token_ids)[1], seen_columns(token_ids, padding_mask, progress.ids)
    write = _writer(prompt_length, limit, seen, sampling, stop_ids)
    logits, state = step(token_ids, state, padding_mask)
    progress = write(logits, progress, tf.constant(0))

    def go_on(limit, seen, sampling, last_ids, progress, state):
        write = _writer(prompt_length, limit, seen, sampling, stop_ids)

        def body(index, last_ids, progress, state):
            before = last_ids, progress, state
            logits, state = step(last_ids[:, None], state, None)
            progress = write(logits, progress, index)
            last_ids = _column(progress.ids, index + prompt_length)
            return index + 1, *like((last_ids, progress, state), before)

        return tf.while_loop(
            lambda index, last_ids, progress, state: tf.reduce_any(progress.alive),
            body,
            (tf.constant(1), last_ids, progress, state),
        )[2]

    last_ids = _column(progress.ids, tf.minimum(prompt_length, tf.shape(progress.ids)[1] - 1))
    begun = limit, seen, sampling, last_ids, progress, state
    progress = go_on(*begun) if enter is None else enter(go_on, *begun)
    return Decoded(progress.ids[:, prompt_length:], progress.lengths, progress.log_probs)


def stream(
    step, state, token_ids, padding_mask=None, *, max_new_tokens, sampling=Sampling(), stop_ids=(), pad_id=0
):  # fmt: skip
    """As `generate`, but a Python generator that yields each token once it is known; pass `step` as a `tf.function`.

    Yields:
        `(ids, alive)`: int32 (B,) and bool (B,); a row's id counts only where `alive`, and is `pad_id` elsewhere.
    """
    limit, progress = begin(token_ids, max_new_tokens, pad_id)
    prompt_length = tf.shape(token_ids)[1]
    seen = seen_columns(token_ids, padding_mask, progress.ids)
    write = _writer(prompt_length, limit, seen, sampling, stop_ids)
    index, inputs = 0, token_ids
    while progress.alive.numpy().any():
        logits, state = step(inputs, state, padding_mask)
        alive, progress = progress.alive, write(logits, progress, tf.constant(index))
        last_ids = progress.ids[:, prompt_length + index]
        yield last_ids.numpy(), alive.numpy()
        index, inputs, padding_mask = index + 1, last_ids[:, None], None


def choose(logits, index, sampling):
    """One token more for each row, as `generate` would choose it.

    Args:
        logits: float32 (B, V).
        index: int32 (B,), how many tokens each row has written.
        sampling: a `Sampling` whose tensors are (B,), without penalties, which would have to know the row.

    Returns:
        int32 (B,), and float32 (B,): its natural log-probability under the model's own distribution.
    """
    chosen = _choose(logits, None, None, None, index, sampling)
    return chosen, _log_prob(logits, chosen)


def uniform(seed, index):
    """float32 (B,) in [0, 1): random numbers that depend on nothing but each row's seed and the index.

    SplitMix64 (Steele et al. 2014, figure 17): the stream of a row starts at the mixed seed; number `index` is the mix of its
    start plus `index` times the golden gamma. The upper 24 bits make the float, which is then exact.

    Args:
        seed: int64 (B,).
        index: int, or an integer tensor: one for all rows, or (B,).
    """
    gamma = tf.constant(0x9E3779B97F4A7C15, tf.uint64)
    start = _mix(tf.bitcast(tf.cast(seed, tf.int64), tf.uint64) + gamma)
    bits = _mix(start + tf.bitcast(tf.cast(index, tf.int64) + 1, tf.uint64) * gamma)
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(40, tf.uint64)), tf.float32) * 2.0**-24


def _mix(z):
    """The finaliser of SplitMix64, on uint64."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, tf.constant(shift, tf.uint64)))
        z = z * tf.constant(factor, tf.uint64)
    return tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, tf.constant(31, tf.uint64)))


def begin(token_ids, max_new_tokens, pad_id):
    """Per-row limits (B,) and the `_Progress` that holds only the prompt."""
    batch = tf.shape(token_ids)[0]
    limit = tf.maximum(tf.broadcast_to(tf.cast(max_new_tokens, tf.int32), (batch,)), 0)
    longest = tf.reduce_max(tf.concat([limit, [0]], 0))
    ids = tf.pad(tf.cast(token_ids, tf.int32), [[0, 0], [0, longest]], constant_values=pad_id)
    zeros = tf.zeros_like(limit)
    return limit, _Progress(ids, zeros, tf.zeros_like(zeros, tf.float32), limit > 0)


def seen_columns(token_ids, padding_mask, ids):
    """bool (B, L): the columns of `ids` that are not padding at the left."""
    if padding_mask is None:
        padding_mask = tf.ones_like(token_ids, tf.bool)
    return tf.pad(padding_mask, [[0, 0], [0, tf.shape(ids)[1] - tf.shape(token_ids)[1]]], constant_values=True)


def _writer(prompt_length, limit, real, sampling, stop_ids):
    """The function that turns logits into the next column of a `_Progress`."""
    batch = tf.shape(limit)[0]
    # A Python number stays one where it decides what the graph contains.
    per_row = {
        name: value if isinstance(value, (int, float)) else tf.broadcast_to(value, (batch,))
        for name, value in sampling._asdict().items()
    }
    sampling = Sampling(**per_row)
    forbidden = Forbidden(sampling.min_new_tokens, sampling.no_repeat_ngram, stop_ids)

    def write(logits, progress, index):
        column = prompt_length + index
        chosen = _choose(logits, progress.ids, real, column, index, sampling, forbidden)
        log_probs = progress.log_probs + tf.where(progress.alive, _log_prob(logits, chosen), 0.0)
        lengths = progress.lengths + tf.cast(progress.alive, tf.int32)
        here = (tf.range(tf.shape(progress.ids)[1]) == column)[None] & progress.alive[:, None]
        alive = progress.alive & (lengths < limit) & ~is_one_of(chosen, stop_ids)
        return _Progress(tf.where(here, chosen[:, None], progress.ids), lengths, log_probs, alive)

    return write


def _choose(logits, ids, real, column, index, sampling, forbidden=None):
    """int32 (B,): the next token of each row. `ids` (B, L) is written up to `column`; `real` (B, L) leaves out padding."""
    if not _is(sampling.repetition_penalty, 1):
        logits = penalise_repetition(logits, ids, real, column, sampling.repetition_penalty)
    if forbidden is not None:
        logits = forbidden(logits, ids, real, column, index)
    most_probable = tf.argmax(logits, -1, output_type=tf.int32)
    if _is(sampling.temperature, 0):
        return most_probable
    temperature = tf.broadcast_to(tf.cast(sampling.temperature, tf.float32), tf.shape(most_probable))

    def sample():
        # From 0 downwards: whatever is divided by the smallest temperature, the largest stays finite.
        below = logits - tf.reduce_max(logits, -1, keepdims=True)
        scaled = below / tf.where(temperature > 0, temperature, 1.0)[:, None]
        lowest = _lowest_kept(scaled, sampling.top_k, sampling.top_p, sampling.min_p)
        kept = scaled if lowest is None else tf.where(scaled >= lowest, scaled, -float("inf"))
        seed = tf.broadcast_to(tf.cast(sampling.seed, tf.int64), tf.shape(temperature))
        drawn = _draw(tf.nn.softmax(kept), uniform(seed, index))
        return tf.where(temperature > 0, drawn, most_probable)

    return tf.cond(tf.reduce_any(temperature > 0), sample, lambda: most_probable)


def _lowest_kept(logits, top_k, top_p, min_p):
    """float32 (B, 1): the lowest logit that each row keeps; None when every filter is statically off."""
    largest = tf.reduce_max(logits, -1, keepdims=True)
    lowest = None
    if not _is(top_k, 0) or not _is(top_p, 1):
        top_k = tf.broadcast_to(tf.cast(top_k, tf.int32), tf.shape(logits)[:1])[:, None]
        top_p = tf.broadcast_to(tf.cast(top_p, tf.float32), tf.shape(logits)[:1])[:, None]
        asked = (top_k > 0) | (top_p < 1)
        lowest = tf.cond(
            tf.reduce_any(asked),
            lambda: tf.where(asked, _lowest_of_best(logits, largest, top_k, top_p), -float("inf")),
            lambda: tf.fill(tf.shape(largest), -float("inf")),
        )
    if not _is(min_p, 0):
        bound = largest + tf.math.log(tf.reshape(tf.cast(min_p, tf.float32), (-1, 1)))
        lowest = bound if lowest is None else tf.maximum(lowest, bound)
    return lowest


def _lowest_of_best(logits, largest, top_k, top_p):
    """Top-k, then the nucleus of what is left, from sorted candidates: few of them, or all where few are not enough."""
    vocab_size = tf.shape(logits)[1]
    last_rank = tf.where(top_k > 0, tf.minimum(top_k, vocab_size), vocab_size)
    mass = tf.reduce_sum(tf.exp(logits - largest), -1, keepdims=True)

    def among(num_candidates):
        best = tf.math.top_k(logits, num_candidates).values
        weights = tf.exp(best - largest)
        before = tf.cumsum(weights, -1, exclusive=True)
        # The weight of the k best is read off the running sum, so that it does not depend on the number of candidates.
        last = tf.minimum(last_rank, num_candidates) - 1
        total = tf.where(top_k > 0, tf.gather(before + weights, last, batch_dims=1), mass)
        rank = tf.range(num_candidates)[None]
        keep = (rank == 0) | ((rank < last_rank) & (before < top_p * total))
        enough = (last_rank <= num_candidates) | ~keep[:, -1:] | (top_p >= 1)
        return tf.reduce_min(tf.where(keep, best, largest), -1, keepdims=True), tf.reduce_all(enough)

    nucleus_only = tf.reduce_any((top_k <= 0) & (top_p < 1))
    few = tf.maximum(tf.reduce_max(top_k), tf.where(nucleus_only, NUCLEUS_CANDIDATES, 1))
    lowest, enough = among(tf.minimum(few, vocab_size))
    return tf.cond(enough, lambda: lowest, lambda: among(vocab_size)[0])


def _draw(probs, u, width=256):
    """int32 (B,): the token at which each row's cumulative probability passes u.

    Two levels, blocks of `width` tokens and then the tokens of one block: a running sum over V is slow, and rounds more.
    """
    batch, vocab_size = tf.shape(probs)[0], tf.shape(probs)[1]
    num_blocks = -(-vocab_size // width)
    padded = tf.pad(probs, [[0, 0], [0, num_blocks * width - vocab_size]])
    blocks = tf.reshape(padded, (batch, num_blocks, width))
    ends = tf.cumsum(tf.reduce_sum(blocks, -1), -1)
    target = u[:, None] * ends[:, -1:]
    block = _first_above(ends, target)
    inner_ends = tf.cumsum(tf.gather(blocks, block, batch_dims=1)[:, 0], -1)
    start = tf.gather(tf.pad(ends, [[0, 0], [1, 0]]), block, batch_dims=1)
    # Rounding may put the target outside the block; 1 - 2^-24 is the largest float that leaves a product below its factor.
    inner = tf.clip_by_value(target - start, 0.0, inner_ends[:, -1:] * (1 - 2.0**-24))
    return (block * width + _first_above(inner_ends, inner))[:, 0]


def _first_above(sorted_rows, values):
    """int32 (B, 1): index of the first entry of each row that is above its value."""
    return tf.searchsorted(sorted_rows, values, side="right")


def _log_prob(logits, chosen):
    """float32 (B,): natural log softmax(logits) at the chosen ids."""
    # One kernel, where the formula spelt out is four passes over V, at every token.
    return tf.gather(tf.nn.log_softmax(logits), chosen, batch_dims=1)


def _is(value, neutral):
    """Whether an option is known, while the graph is built, to have its neutral value."""
    return isinstance(value, (int, float)) and value == neutral


def is_one_of(ids, stop_ids):
    """bool, of the shape of `ids`."""
    return tf.reduce_any(ids[..., None] == tf.reshape(tf.cast(stop_ids, tf.int32), [-1]), -1)


def _column(ids, index):
    """int32 (B,): column `index` of ids (B, L)."""
    return tf.gather(ids, index, axis=1)


def like(after, before):
    """`after` with the static shapes that it had before the step, which a while loop insists on."""
    for new, old in zip(tf.nest.flatten(after), tf.nest.flatten(before), strict=True):
        new.set_shape(old.shape)
    return after
