"""Decoding against hand-computed numbers, brute force, and its promise that a row does not notice its batch.

The toy model is a table: the next token depends on the last one and on how many the row has read. V = 7 unless said otherwise.
"""

import numpy as np
import pytest
import tensorflow as tf

from zoo import decoding
from zoo.decoding import Sampling, generate, stream, uniform
from zoo.signatures.request import with_one_row_apart

V, STOP = 7, 6
TABLE = np.random.default_rng(3).normal(size=(5, V, V)).astype(np.float32) * 2


def toy(table=TABLE):
    """A step function whose state counts each row's real tokens, and one number that rows share."""
    table = tf.constant(table)

    def step(token_ids, state, padding_mask=None):
        mask = tf.ones_like(token_ids, tf.bool) if padding_mask is None else padding_mask
        read = state["read"] + tf.reduce_sum(tf.cast(mask, tf.int32), 1)
        logits = tf.gather_nd(table, tf.stack([read % table.shape[0], token_ids[:, -1]], -1))
        return logits, {"read": read, "calls": state["calls"] + 1}

    return step


def start(batch):
    return {"read": tf.zeros((batch,), tf.int32), "calls": tf.constant(0)}


def log_softmax(logits):
    return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()


def continued(prompt, num_new, choose=np.argmax):
    """(tokens, log-probability) of one row, in plain Python; `choose` sees the logits."""
    ids, total = list(prompt), 0.0
    for _ in range(num_new):
        logits = TABLE[len(ids) % 5, ids[-1]]
        ids.append(int(choose(logits)))
        total += log_softmax(logits)[ids[-1]]
        if ids[-1] == STOP:
            break
    return ids[len(prompt) :], total


def rows(decoded):
    return [ids[:length].tolist() for ids, length in zip(decoded.token_ids.numpy(), decoded.lengths.numpy(), strict=True)]


def padded(prompts):
    longest = max(map(len, prompts))
    ids = np.array([[5] * (longest - len(p)) + p for p in prompts], np.int32)
    mask = np.array([[False] * (longest - len(p)) + [True] * len(p) for p in prompts])
    return tf.constant(ids), tf.constant(mask)


def decode(prompts, max_new_tokens, **sampling):
    ids, mask = padded(prompts)
    return COMPILED(ids, mask, max_new_tokens, sampling)


@tf.function(reduce_retracing=True)
def COMPILED(ids, mask, max_new_tokens, sampling):
    return generate(
        toy(), start(tf.shape(ids)[0]), ids, mask, max_new_tokens=max_new_tokens, sampling=Sampling(**sampling),
        stop_ids=(STOP,), pad_id=5,
    )  # fmt: skip


PROMPTS = [[1, 2, 3], [4], [0, 0], [2, 5, 1, 1, 3]]


# Greedy


def test_greedy_takes_the_most_probable_token_of_each_row():
    decoded = decode(PROMPTS, 11)
    for row, prompt in enumerate(PROMPTS):
        ids, total = continued(prompt, 11)
        assert rows(decoded)[row] == ids
        np.testing.assert_allclose(decoded.log_probs[row], total, rtol=1e-5)
    assert decoded.token_ids.shape == (4, 11) and decoded.token_ids.dtype == tf.int32


def test_rows_stop_at_their_stop_token_and_at_their_own_limit():
    table = np.zeros((1, V, V), np.float32)
    for token in range(V):
        table[0, token, min(token + 1, STOP)] = 3  # counts upwards to the stop token
    ids = tf.constant([[1], [4], [0], [3]])
    limits = tf.constant([9, 9, 2, 0])
    decoded = generate(toy(table), start(4), ids, max_new_tokens=limits, stop_ids=(STOP,), pad_id=5)
    assert rows(decoded) == [[2, 3, 4, 5, 6], [5, 6], [1, 2], []]
    assert decoded.token_ids[1].numpy().tolist() == [5, 6, 5, 5, 5, 5, 5, 5, 5]
    each = 3 - np.log(np.exp(3) + 6)
    np.testing.assert_allclose(decoded.log_probs, [5 * each, 2 * each, 2 * each, 0], rtol=1e-5)


def test_the_loop_ends_when_all_rows_have_stopped_and_steps_no_further():
    calls = []

    def step(token_ids, state, padding_mask=None):
        tf.py_function(lambda: calls.append(1), [], [])
        return toy()(token_ids, state, padding_mask)

    expected = max(len(continued(prompt, 50)[0]) for prompt in PROMPTS[:2])
    ids, mask = padded(PROMPTS[:2])
    tf.function(lambda: generate(step, start(2), ids, mask, max_new_tokens=50, stop_ids=(STOP,)))()
    assert len(calls) == expected  # the last token is written and never read


def test_without_stop_ids_nothing_stops():
    ids, mask = padded(PROMPTS)
    decoded = generate(toy(), start(4), ids, mask, max_new_tokens=13)
    assert decoded.lengths.numpy().tolist() == [13] * 4


def test_an_empty_batch_and_no_new_tokens():
    ids, mask = padded(PROMPTS)
    none = COMPILED(ids[:0], mask[:0], tf.zeros([0], tf.int32), dict(temperature=tf.zeros([0]), top_p=tf.zeros([0])))
    assert none.token_ids.shape == (0, 0) and none.log_probs.shape == (0,)
    assert decode(PROMPTS, 0).token_ids.shape == (4, 0)


def test_one_row_has_a_loop_of_its_own_that_knows_of_it():
    batches = []

    def step(token_ids, state, padding_mask=None):
        batches.append(token_ids.shape[0])
        return toy()(token_ids, state, padding_mask)

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None, None], tf.bool)])
    def apart(ids, mask):
        return generate(
            step, start(tf.shape(ids)[0]), ids, mask, max_new_tokens=9, stop_ids=(STOP,), pad_id=5, enter=with_one_row_apart
        )

    for prompts in (PROMPTS, PROMPTS[:1], PROMPTS[3:]):
        ids, mask = padded(prompts)
        for actual, expected in zip(apart(ids, mask), decode(prompts, 9), strict=True):
            np.testing.assert_array_equal(actual, expected)
    assert batches == [None, 1, None]  # the prompt, then the two loops


# Sampling


def options(**kinds):
    """Options that differ from row to row of PROMPTS."""
    every = dict(
        temperature=tf.constant([1.0, 0.0, 1.7, 0.6]), top_k=tf.constant([3, 2, 0, 5]), top_p=tf.constant([1.0, 0.5, 0.8, 0.9]),
        min_p=tf.constant([0.0, 0.3, 0.05, 0.01]), repetition_penalty=tf.constant([1.0, 1.3, 1.1, 2.0]),
        seed=tf.constant([11, 12, 13, 14], tf.int64),
    )  # fmt: skip
    return {**{name: every[name] for name in kinds.get("only", every)}, "no_repeat_ngram": kinds.get("ngram", 0)}


def test_a_row_alone_is_the_row_in_a_batch_and_beside_a_longer_one():
    sampling = options(ngram=3)
    together = decode(PROMPTS, tf.constant([11, 7, 9, 5]), **sampling)
    for row, limit in enumerate([11, 7, 9, 5]):
        alone = {name: value[row : row + 1] if tf.is_tensor(value) else value for name, value in sampling.items()}
        single = decode([PROMPTS[row]], tf.constant([limit]), **alone)
        assert rows(single) == [rows(together)[row]]
        np.testing.assert_allclose(single.log_probs, together.log_probs[row : row + 1], rtol=1e-5)


def test_a_seed_gives_the_same_text_and_another_seed_another():
    sampling = Sampling(temperature=2.0, seed=tf.constant([5, 5, 6], tf.int64))
    decoded = generate(toy(), start(3), tf.constant([[1, 2]] * 3), max_new_tokens=11, sampling=sampling)
    first, second, third = rows(decoded)
    assert first == second != third


def test_uniform_is_splitmix64():
    # The reference program's outputs after 0x9e3779b97f4a7c15 has been added once and twice to the state.
    def mix(z):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        return z ^ (z >> 31)

    gamma = 0x9E3779B97F4A7C15
    assert mix(gamma) == 0xE220A8397B1DCDAF  # the published first output for state 0
    seeds = [0, 1, -1, 2**63 - 1]
    for index in (0, 1, 57):
        expected = [(mix((mix((s + gamma) % 2**64) + (index + 1) * gamma) % 2**64) >> 40) / 2**24 for s in seeds]
        np.testing.assert_array_equal(uniform(tf.constant(seeds, tf.int64), index), np.float32(expected))


def test_uniform_is_uniform_over_seeds_and_over_indices():
    for numbers in (uniform(tf.range(10_000, dtype=tf.int64), 3), uniform(tf.constant([9], tf.int64), tf.range(10_000))):
        counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
        assert ((counts - 500) ** 2 / 500).sum() < 43.8  # chi-square, 19 degrees of freedom, 0.1%


def drawn(logits, num_rows=20_000, **sampling):
    """How often each token is drawn first, by as many rows, each with a seed of its own."""
    ids = tf.zeros((num_rows, 1), tf.int32)
    step = lambda token_ids, state, mask: (tf.tile(tf.constant([logits], tf.float32), [num_rows, 1]), state)  # noqa: E731
    sampling = Sampling(seed=tf.range(num_rows, dtype=tf.int64), **sampling)
    decoded = generate(step, {}, ids, max_new_tokens=1, sampling=sampling)
    return np.bincount(decoded.token_ids[:, 0], minlength=len(logits))


LOGITS = np.log([0.30, 0.05, 0.24, 0.01, 0.20, 0.14, 0.06])


@pytest.mark.parametrize(("sampling", "weights"), [
    (dict(temperature=1.0), [0.30, 0.05, 0.24, 0.01, 0.20, 0.14, 0.06]),
    (dict(temperature=0.5), [0.09, 0.0025, 0.0576, 0.0001, 0.04, 0.0196, 0.0036]),
    (dict(temperature=1.0, top_k=3), [0.30, 0, 0.24, 0, 0.20, 0, 0]),
    (dict(temperature=1.0, top_p=0.53), [0.30, 0, 0.24, 0, 0, 0, 0]),
    (dict(temperature=1.0, top_p=0.55), [0.30, 0, 0.24, 0, 0.20, 0, 0]),
    (dict(temperature=1.0, top_p=0.0), [1, 0, 0, 0, 0, 0, 0]),
    # the nucleus of the three best, which have 0.74 together: 0.30 / 0.74 = 0.405, 0.54 / 0.74 = 0.730
    (dict(temperature=1.0, top_k=3, top_p=0.72), [0.30, 0, 0.24, 0, 0, 0, 0]),
    (dict(temperature=1.0, top_k=3, top_p=0.74), [0.30, 0, 0.24, 0, 0.20, 0, 0]),
    (dict(temperature=1.0, min_p=0.45), [0.30, 0, 0.24, 0, 0.20, 0.14, 0]),
    (dict(temperature=1.0, top_k=100, top_p=1.0), [0.30, 0.05, 0.24, 0.01, 0.20, 0.14, 0.06]),
    # token 0 is the prompt: its logit, log 0.30 < 0, doubles
    (dict(temperature=1.0, repetition_penalty=2.0), [0.09, 0.05, 0.24, 0.01, 0.20, 0.14, 0.06]),
])  # fmt: skip
def test_tokens_are_drawn_from_the_filtered_distribution(sampling, weights):
    counts, expected = drawn(LOGITS, **sampling), np.array(weights) / np.sum(weights) * 20_000
    assert counts[expected == 0].sum() == 0
    kept = expected > 0
    assert ((counts - expected)[kept] ** 2 / expected[kept]).sum() < 22.5  # chi-square, 6 degrees of freedom, 0.1%


def test_a_vocabulary_of_several_blocks_is_drawn_evenly():
    counts = drawn(np.zeros(1_031), num_rows=103_100, temperature=1.0)
    assert ((counts - 100) ** 2 / 100).sum() < 1_175  # chi-square, 1,030 degrees of freedom, 0.1%


def test_a_token_without_probability_is_never_drawn_at_the_ends_of_the_unit_interval():
    probs = np.zeros((2, 1_031), np.float32)
    probs[:, [300, 700]] = 0.5
    ends = tf.constant([0.0, 1 - 2.0**-24])
    assert decoding._draw(tf.constant(probs), ends).numpy().tolist() == [300, 700]


@pytest.mark.parametrize("top_p", [0.1, 0.9])
def test_a_nucleus_wider_than_the_first_candidates_is_found(top_p):
    logits = np.random.default_rng(5).normal(size=(3, 1_031)).astype(np.float32) * 0.3
    ones = np.ones((3, 1), np.float32)
    kept = logits >= decoding._lowest_kept(tf.constant(logits), 0, tf.constant(top_p * ones[:, 0]), 0).numpy()
    for row in range(3):
        probs = np.sort(np.exp(log_softmax(logits[row].astype(np.float64))))[::-1]
        expected = int(np.searchsorted(np.cumsum(probs), top_p)) + 1
        assert abs(kept[row].sum() - expected) <= 1  # float32 sums may disagree about the last one
        assert (expected > decoding.NUCLEUS_CANDIDATES) == (top_p == 0.9)


# Penalties


def choose_with_penalty(penalty):
    def row(prompt, num_new):
        ids = list(prompt)
        for _ in range(num_new):
            logits = TABLE[len(ids) % 5, ids[-1]].copy()
            for token in set(ids):
                logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
            ids.append(int(logits.argmax()))
            if ids[-1] == STOP:
                break
        return ids[len(prompt) :]

    return row


def test_repetition_penalty_counts_each_token_of_the_row_once():
    expected = [choose_with_penalty(1.5)(prompt, 11) for prompt in PROMPTS]
    decoded = decode(PROMPTS, 11, repetition_penalty=1.5)
    assert rows(decoded) == expected
    assert rows(decoded) != rows(decode(PROMPTS, 11))
    for prompt, ids, log_prob in zip(PROMPTS, expected, decoded.log_probs.numpy(), strict=True):
        whole = prompt + ids
        total = sum(
            log_softmax(TABLE[i % 5, whole[i - 1]])[whole[i]] for i in range(len(prompt), len(whole))
        )  # the model's own, unpenalised
        np.testing.assert_allclose(log_prob, total, rtol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_ngram_comes_twice_unless_the_row_has_no_other_choice(n):
    limit = 5 if n == 1 else 23
    ids, mask = padded(PROMPTS)
    decoded = generate(toy(), start(4), ids, mask, max_new_tokens=limit, sampling=Sampling(no_repeat_ngram=n))
    for prompt, written in zip(PROMPTS, rows(decoded), strict=True):
        assert len(written) == limit
        whole = prompt + written
        for i in range(len(prompt), len(whole)):
            before = {tuple(whole[j : j + n]) for j in range(i - n + 1)}
            history = whole[:i]
            allowed = [t for t in range(V) if tuple([*history[len(history) - n + 1 :], t][-n:]) not in before]
            scores = TABLE[i % 5, whole[i - 1]]
            assert whole[i] == max(allowed or range(V), key=lambda t: scores[t])


# Streaming


def test_stream_yields_what_generate_returns():
    sampling = Sampling(**options())
    ids, mask = padded(PROMPTS)
    limits = tf.constant([11, 7, 9, 5])
    whole = generate(toy(), start(4), ids, mask, max_new_tokens=limits, sampling=sampling, stop_ids=(STOP,), pad_id=5)
    streamed = [[] for _ in PROMPTS]
    for tokens, alive in stream(
        toy(), start(4), ids, mask, max_new_tokens=limits, sampling=sampling, stop_ids=(STOP,), pad_id=5
    ):
        for row in np.flatnonzero(alive):
            streamed[row].append(int(tokens[row]))
    assert streamed == rows(whole)


# What forbids tokens


def test_rows_of_unequal_least_lengths_and_ngrams_are_those_of_a_row_alone():
    ids, mask = padded(PROMPTS)
    least, ngrams = [3, 0, 9, 6], [0, 1, 2, 3]
    together = decode(PROMPTS, 12, min_new_tokens=tf.constant(least), no_repeat_ngram=tf.constant(ngrams))
    for row, prompt in enumerate(PROMPTS):
        alone = generate(
            toy(), start(1), tf.constant([prompt]), max_new_tokens=12, stop_ids=(STOP,), pad_id=5,
            sampling=Sampling(min_new_tokens=least[row], no_repeat_ngram=ngrams[row]),
        )  # fmt: skip
        assert rows(alone)[0] == rows(together)[row]
        expected, _ = continued(prompt, 12, _allowed(prompt, least[row], ngrams[row]))
        assert rows(together)[row] == expected


def test_an_ngram_longer_than_any_row_forbids_nothing_and_takes_no_time():
    longest = tf.fill([4], tf.int32.max)
    written = decode(PROMPTS, 12, min_new_tokens=tf.zeros([4], tf.int32), no_repeat_ngram=longest)
    assert rows(written) == rows(decode(PROMPTS, 12))


def _allowed(prompt, least, n):
    """What chooses the best token that may come next, by brute force."""
    written = []

    def choose(logits):
        order = [t for t in np.argsort(-logits, kind="stable").tolist() if t != STOP or len(written) >= least]
        # The first place is the whole row's: grams that were there before do not count against a token.
        free = [t for t in order if not n or tuple([*prompt, *written, t][-n:]) not in _grams([*prompt, *written], n)]
        written.append((free or order)[0])
        return written[-1]

    return choose


def _grams(ids, n):
    return {tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)}
