"""Beam search against brute force: exhaustive search where a beam holds all, and each rule written out in plain Python."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.zoo.test_decoding import PROMPTS, STOP, TABLE, V, log_softmax, padded, start, toy
from zoo.beams import RULES, beam_search
from zoo.decoding import generate


def every_continuation(prompt, limit, alpha, vocab_size=3, stop=2):
    """All (score, log-probability, ids) of a row, best first, by brute force."""
    found = []
    for length in range(1, limit + 1):
        for ids in itertools.product(range(vocab_size), repeat=length):
            if stop in ids[:-1] or (ids[-1] != stop and length < limit):
                continue
            whole = [*prompt, *ids]
            log_prob = sum(log_softmax(SMALL[i % 5, whole[i - 1]])[whole[i]] for i in range(len(prompt), len(whole)))
            found.append((log_prob / ((5 + length) / 6) ** alpha, log_prob, list(ids)))
    return sorted(found, reverse=True)


SMALL = TABLE[:, :3, :3]


@tf.function(reduce_retracing=True)
def small_beam(ids, mask, limits, alpha, num_beams, num_best):
    return beam_search(
        toy(SMALL), start(tf.shape(ids)[0]), ids, mask, max_new_tokens=limits, num_beams=num_beams, num_best=num_best,
        length_penalty=alpha, stop_ids=(2,), pad_id=0,
    )  # fmt: skip


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_a_beam_of_full_width_is_exhaustive_search(alpha):
    prompts, limits = [[0, 1], [1], [0, 0, 1]], [4, 3, 2]
    ids, mask = padded(prompts)
    ids = tf.where(mask, ids, 0)
    best = small_beam(ids, mask, tf.constant(limits), alpha, 31, 7)
    for row, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
        expected = every_continuation(prompt, limit, alpha)[:7]
        for rank, (score, log_prob, tokens) in enumerate(expected):
            assert best.token_ids[row, rank, : best.lengths[row, rank]].numpy().tolist() == tokens
            np.testing.assert_allclose(best.scores[row, rank], score, rtol=1e-5)
            np.testing.assert_allclose(best.log_probs[row, rank], log_prob, rtol=1e-5)
        missing = best.scores[row, len(expected) :].numpy()
        assert np.isneginf(missing).all()


def test_a_beam_beats_greedy_search_by_hand():
    # From 0: 1 (0.6) or 0 (0.4); after 1 both go on evenly; after 0 the stop token is nearly sure.
    probs = np.array(
        [[[0.39, 0.6, 0.01], [1 / 3, 1 / 3, 1 / 3], [1, 1, 1]], [[0.02, 0.03, 0.95], [0.45, 0.45, 0.1], [1, 1, 1]]]
    )
    step = toy(np.log(probs).astype(np.float32))
    ids = tf.constant([[0, 0]])  # two tokens read: table 0 is next
    greedy = generate(step, start(1), ids, max_new_tokens=2, stop_ids=(2,))
    np.testing.assert_allclose(np.exp(greedy.log_probs), [0.6 * 0.45], rtol=1e-5)
    best = beam_search(step, start(1), ids, max_new_tokens=2, num_beams=2, num_best=2, length_penalty=1.0, stop_ids=(2,))
    assert best.token_ids[0, 0].numpy().tolist() == [0, 2]
    np.testing.assert_allclose(np.exp(best.log_probs), [[0.39 * 0.95, 0.6 * 0.45]], rtol=1e-5)
    np.testing.assert_allclose(best.scores, best.log_probs / (7 / 6), rtol=1e-5)


def test_a_beam_of_one_is_greedy_search_when_nothing_stops():
    ids, mask = padded(PROMPTS)
    best = beam_search(toy(), start(4), ids, mask, max_new_tokens=11, num_beams=1)
    greedy = generate(toy(), start(4), ids, mask, max_new_tokens=11)
    np.testing.assert_array_equal(best.token_ids[:, 0], greedy.token_ids)
    np.testing.assert_allclose(best.log_probs[:, 0], greedy.log_probs, rtol=1e-5)


def test_a_row_of_a_beam_search_does_not_notice_its_batch():
    kwargs = dict(num_beams=3, num_best=3, no_repeat_ngram=2, stop_ids=(STOP, 4), pad_id=5)
    ids, mask = padded(PROMPTS)
    limits = [11, 2, 7, 5]
    together = beam_search(toy(), start(4), ids, mask, max_new_tokens=tf.constant(limits), **kwargs)
    for row, prompt in enumerate(PROMPTS):
        alone = beam_search(toy(), start(1), tf.constant([prompt]), max_new_tokens=limits[row], **kwargs)
        np.testing.assert_allclose(alone.scores[0], together.scores[row], rtol=1e-5)
        np.testing.assert_array_equal(alone.token_ids[0], together.token_ids[row, :, : limits[row]])
        for rank in range(3):
            whole = prompt + alone.token_ids[0, rank, : alone.lengths[0, rank]].numpy().tolist()
            new = [tuple(whole[i - 1 : i + 1]) for i in range(len(prompt), len(whole))]
            assert len(set(new)) == len(new)


def test_rows_may_have_beams_of_their_own_number_and_penalty():
    kwargs = dict(num_best=None, stop_ids=(STOP, 4), pad_id=5)
    ids, mask = padded(PROMPTS)
    widths, alphas = [1, 3, 7, 2], [0.0, 0.6, 2.0, 1.0]
    together = beam_search(
        toy(),
        start(4),
        ids,
        mask,
        max_new_tokens=6,
        num_beams=tf.constant(widths),
        length_penalty=tf.constant(alphas),
        **kwargs,
    )
    assert together.scores.shape == (4, 7)
    for row, (prompt, width, alpha) in enumerate(zip(PROMPTS, widths, alphas, strict=True)):
        alone = beam_search(
            toy(), start(1), tf.constant([prompt]), max_new_tokens=6, num_beams=width, length_penalty=alpha, **kwargs
        )
        np.testing.assert_allclose(together.scores[row, :width], alone.scores[0], rtol=1e-5)
        np.testing.assert_array_equal(together.token_ids[row, :width], alone.token_ids[0])
        assert np.isneginf(together.scores[row, width:].numpy()).all()


@pytest.mark.parametrize(("arguments", "sentence"), [
    (dict(num_beams=0), "num_best must be between 1 and num_beams, got 1 of 0"),
    (dict(num_beams=2, num_best=3), "got 3 of 2"),
    (dict(num_beams=2, length_penalty=-0.1), "length_penalty must not be negative, got -0.1"),
    (dict(num_beams=2, rule="best"), "rule must be wu, transformers or ctranslate2, got 'best'"),
])  # fmt: skip
def test_beam_arguments_out_of_range_are_sentences(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        beam_search(toy(), start(1), tf.constant([[1]]), max_new_tokens=2, **arguments)


@tf.function(reduce_retracing=True)
def small_search(ids, mask, limits, least, beta, ngram):
    """With what `covered` says of a row: minus a tenth of how many tokens it has read."""
    return beam_search(
        toy(SMALL), start(tf.shape(ids)[0]), ids, mask, max_new_tokens=limits, num_beams=31, num_best=None, stop_ids=(2,),
        min_new_tokens=least, no_repeat_ngram=ngram, coverage_penalty=beta,
        covered=lambda state: tf.cast(state["read"] ** 2, tf.float32) * -0.1, pad_id=0,
    )  # fmt: skip


def without_repeats(prompt, written, n):
    """Whether no n-gram that ends in what was written comes twice."""
    whole = [*prompt, *written]
    grams = [tuple(whole[i : i + n]) for i in range(len(whole) - n + 1)]
    return n == 0 or all(gram not in grams[:i] for i, gram in enumerate(grams) if i + n > len(prompt))


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_a_full_beam_with_least_lengths_coverage_and_ngrams_is_exhaustive_search(beta):
    prompts, limits, least, ngrams = [[0, 1], [1], [0, 0, 1]], [4, 3, 4], [2, 0, 3], [0, 2, 3]
    ids, mask = padded(prompts)
    best = small_search(tf.where(mask, ids, 0), mask, *(tf.constant(x) for x in (limits, least, [beta] * 3, ngrams)))
    for row, prompt in enumerate(prompts):
        expected = sorted((
            (score - 0.1 * beta * (len(prompt) + len(tokens) - 1) ** 2, log_prob, tokens)
            for score, log_prob, tokens in every_continuation(prompt, limits[row], 0.6)
            if not (tokens[-1] == 2 and len(tokens) <= least[row]) and without_repeats(prompt, tokens, ngrams[row])
        ), reverse=True)  # fmt: skip
        assert 3 < len(expected) <= 31
        for rank, (score, log_prob, tokens) in enumerate(expected):
            assert best.token_ids[row, rank, : best.lengths[row, rank]].numpy().tolist() == tokens
            np.testing.assert_allclose(best.scores[row, rank], score, rtol=1e-5)
            np.testing.assert_allclose(best.log_probs[row, rank], log_prob, rtol=1e-5)
        assert np.isneginf(best.scores[row, len(expected) :].numpy()).all()


# The rules


def searched(prompt, limit, num_beams, alpha, rule, stops):
    """(score, log-probability, ids) of the best continuations that a beam search finds, written out token by token."""
    beams, ended, led = [(0.0, [])], [], False

    def score(log_prob, length):
        return log_prob / (((5 + length) / 6) ** alpha if rule == "wu" else length**alpha)

    for length in range(1, limit + 1):
        candidates = []
        for log_prob, ids in beams:
            whole = [*prompt, *ids]
            steps = log_softmax(TABLE[len(whole) % 5, whole[-1]])
            candidates += [(log_prob + step, [*ids, token]) for token, step in enumerate(steps.tolist())]
        candidates = sorted(candidates, reverse=True)[: num_beams * (1 + len(stops))]
        done = [ids[-1] in stops or length == limit for _, ids in candidates]
        for (log_prob, ids), ends in list(zip(candidates, done, strict=True))[:num_beams]:
            if ends:
                ended.append((score(log_prob, length), log_prob, ids))
        led |= done[0]
        beams = [candidate for candidate, ends in zip(candidates, done, strict=True) if not ends][:num_beams]
        ended.sort(reverse=True)
        worst = ended[num_beams - 1][0] if len(ended) >= num_beams else -np.inf
        if not beams:
            break
        if rule == "ctranslate2":
            over = len(ended) >= num_beams and (led or alpha > 0)
        else:
            over = score(beams[0][0], limit if rule == "wu" else length) <= worst
        if over:
            break
    return ended[:num_beams]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("stops", [(STOP,), (STOP, 4)])
def test_each_rule_is_its_search_written_out(rule, stops):
    prompts = [[a, b] for a in range(V) for b in range(V)]
    rows = [(p, limit, k, alpha) for p in prompts for limit, k, alpha in ((9, 4, 1.0), (7, 3, 0.6), (9, 2, 0.0), (2, 5, 2.0))]
    limits, widths, alphas = (tf.constant(column) for column in list(zip(*rows, strict=True))[1:])

    @tf.function
    def search(rule):
        return beam_search(
            toy(), start(len(rows)), tf.constant([p for p, *_ in rows]), max_new_tokens=limits, num_beams=widths,
            length_penalty=alphas, rule=rule, num_best=None, stop_ids=stops, pad_id=5,
        )  # fmt: skip

    best = search(rule)
    for row, (prompt, limit, num_beams, alpha) in enumerate(rows):
        expected = searched(prompt, limit, num_beams, alpha, rule, stops)
        got = [ids[:n].tolist() for ids, n in zip(best.token_ids[row].numpy(), best.lengths[row].numpy(), strict=True)]
        assert got[: len(expected)] == [ids for _, _, ids in expected]
        np.testing.assert_allclose(best.scores[row, : len(expected)], [score for score, _, _ in expected], rtol=1e-5)
        np.testing.assert_allclose(best.log_probs[row, : len(expected)], [total for _, total, _ in expected], rtol=1e-5)
    asked = search(tf.fill([len(rows)], rule))  # as a request asks, row by row
    np.testing.assert_array_equal(asked.token_ids, best.token_ids)
    np.testing.assert_array_equal(asked.scores, best.scores)


def test_the_rules_differ_where_they_should():
    """Else the test above would show little."""
    found = {rule: [searched([a, b], 9, 4, 1.0, rule, (STOP,)) for a in range(V) for b in range(V)] for rule in RULES}
    ids = {rule: [[ids for _, _, ids in row] for row in rows] for rule, rows in found.items()}
    assert ids["transformers"] != ids["ctranslate2"] != ids["wu"] != ids["transformers"]
    assert any(len(text) < 9 for row in ids["ctranslate2"] for text in row)


def test_a_stop_below_the_first_beams_is_dropped_by_hand():
    # After 0 the tokens 0 and 1 are more probable than the stop, so with two beams it is not a candidate; with three it is.
    probs = np.array([[[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [1, 1, 1]]])
    step, ids = toy(np.log(probs).astype(np.float32)), tf.constant([[0, 0]])
    for num_beams, lengths in ((2, [2, 2]), (3, [2, 1, 2])):
        best = beam_search(
            step, start(1), ids, max_new_tokens=2, num_beams=num_beams, num_best=None, length_penalty=0.0, stop_ids=(2,)
        )
        assert best.lengths[0].numpy().tolist() == lengths


def step_with(kept, changed):
    """A step whose state has a `memory` that it hands back as it was, or changed; or neither."""

    def step(token_ids, state, padding_mask=None):
        logits, new = toy()(token_ids, {name: state[name] for name in ("read", "calls")}, padding_mask)
        if kept or changed:
            logits, new["memory"] = logits + state["memory"][:, 0], state["memory"] * 1.5 if changed else state["memory"]
        return logits, new

    return step


def test_what_no_step_changes_is_not_copied_in_each():
    """Keys and values of a source are the same for all beams of a row."""
    prompts, memory = [[0, 1], [2, 3]], tf.random.stateless_normal([2, 3, V], [1, 2])

    def found(rows, **memories):
        state = {**start(len(rows)), **({"memory": tf.gather(memory, rows)} if any(memories.values()) else {})}
        return beam_search(
            step_with(**memories), state, tf.constant([prompts[row] for row in rows]), max_new_tokens=6, num_beams=3,
            num_best=3, stop_ids=(STOP,),
        )  # fmt: skip

    def gathers(**memories):
        graph = tf.function(lambda: found([0, 1], **memories)).get_concrete_function().graph.as_graph_def()
        (body,) = [function for function in graph.library.function if "while_body" in function.signature.name]
        return sum(node.op == "GatherV2" for node in body.node_def)

    plain = gathers(kept=False, changed=False)
    assert gathers(kept=True, changed=False) == plain and gathers(kept=False, changed=True) == plain + 1
    for memories in (dict(kept=True, changed=False), dict(kept=False, changed=True)):
        together = found([0, 1], **memories)
        for row in range(2):
            np.testing.assert_allclose(found([row], **memories).scores[0], together.scores[row], rtol=1e-5)
