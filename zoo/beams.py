"""Beam search over ids, in graph: see `zoo/decoding.py` for what it sees of a model.

In each step the candidates are all tokens after all beams. One that stops, or reaches its row's limit, has ended if it is among
the K most probable candidates, and is dropped if it is not. The K most probable that do not stop are the new beams.

A continuation Y of n tokens, the one that stops it included, is judged by log p(Y) / lp(n) + beta c(Y), where c(Y) <= 0 says
how much of a source was looked at. The rule says what lp(n) is, and when a row is done; nothing is added to it from then on.

- `wu`: lp(n) = ((5 + n) / 6)^alpha (Wu et al. 2016, eq. 14). A row is done once its best beam could not even at the row's limit
  score above its K-th best ended one; exact, as log p never rises.
- `transformers`: lp(n) = n^alpha. A row is done once its best beam would not score above that if it ended now, which is
  `early_stopping=False` of that library, its default.
- `ctranslate2`: lp(n) = n^alpha. A row is done once K have ended (`early_stopping=True` of transformers); with alpha and beta
  0, also the most probable candidate of some step.

Shape letters: B batch, P prompt length, N new tokens, L = P + N, V vocabulary, C candidates, K beams.
"""

from typing import NamedTuple

import tensorflow as tf

from zoo.config import Refusal
from zoo.decoding import begin, is_one_of, like, seen_columns
from zoo.token_rules import Forbidden

# How continuations are compared, and when a row is done.
RULES = ("wu", "transformers", "ctranslate2")


class NBest(NamedTuple):
    """The best continuations of each row, best first: as `Decoded`, with an axis n after B, and `scores` float32 (B, n)."""

    token_ids: tf.Tensor
    lengths: tf.Tensor
    log_probs: tf.Tensor
    scores: tf.Tensor


class _Beams(NamedTuple):
    """A beam search under way.

    Attributes:
        ids: int32 (B, K, L), those that have not ended, with `log_probs` float32 (B, K).
        ended: the `NBest` that have.
        num_ended: int32 (B,), how many have, whether or not they are among the best.
        led: bool (B,), whether the most probable candidate of a step has ended.
        open: bool (B,), whether a row goes on.
    """

    ids: tf.Tensor
    log_probs: tf.Tensor
    ended: NBest
    num_ended: tf.Tensor
    led: tf.Tensor
    open: tf.Tensor


def beam_search(
    step, state, token_ids, padding_mask=None, *, max_new_tokens, num_beams, length_penalty=0.6, rule="wu", num_best=1,
    no_repeat_ngram=0, min_new_tokens=0, coverage_penalty=0.0, covered=None, stop_ids=(), pad_id=0,
):  # fmt: skip
    """The most probable continuations of each row that a beam of K finds, best first.

    The top of this file says how it goes. Two beams, log-probabilities in brackets, `.` stops:

        step 1    candidates  a [-0.4]  b [-1.3]  . [-3.0]         beams a, b
        step 2    candidates  a . [-0.6]  a c [-2.2]  b d [-2.3]   a . has ended; beams a c, b d

    Args:
        step, state, token_ids, padding_mask, stop_ids, pad_id: as in `zoo.decoding.generate`. `state` is that of B rows.
        max_new_tokens: int, or int32 (B,), at least 1.
        num_beams: K, an int, or int32 (B,): a row's beams are then those of its own number, whatever the others have.
        length_penalty: alpha, at least 0, a number or float32 (B,); 0 compares plain log-probabilities.
        rule: one of `RULES`, or string (B,).
        num_best: how many continuations of a row to return, at most K; None for all.
        no_repeat_ngram, min_new_tokens: as in `zoo.decoding.Sampling`.
        coverage_penalty: beta, at least 0, a number or float32 (B,).
        covered: state -> float32 (rows,), c of what each row has written; without it there is no such term.

    Returns:
        A `zoo.decoding.Decoded` with an axis of `num_best` after B, and `scores` float32 (B, num_best), best first; a row with
        fewer possible continuations has score -inf for the missing ones.

    Raises:
        Refusal: an argument is out of range.
    """
    _require_in_range(num_beams, length_penalty, rule, num_best)
    known = isinstance(num_beams, int)
    prompt_length = tf.shape(token_ids)[1]
    limit, progress = begin(token_ids, max_new_tokens, pad_id)
    # Rows with fewer beams than the most leave the last ones impossible.
    beams_of_row = tf.broadcast_to(num_beams, tf.shape(limit))
    num_beams = num_beams if known else tf.reduce_max(tf.concat([num_beams, [1]], 0))
    ranking = _Ranking(rule, length_penalty, 0.0 if covered is None else coverage_penalty, limit, beams_of_row)
    real = tf.repeat(seen_columns(token_ids, padding_mask, progress.ids), num_beams, axis=0)
    least, ngram = (n if isinstance(n, int) else tf.repeat(n, num_beams) for n in (min_new_tokens, no_repeat_ngram))
    forbidden = Forbidden(least, ngram, stop_ids)

    def advance(logits, state, before, beams, index):
        """Writes one token, and makes each beam's state that of the beam it goes on from."""
        log_probs = forbidden(tf.nn.log_softmax(logits), _merge(beams.ids), real, prompt_length + index, index)
        extra = tf.zeros_like(beams.log_probs)
        if covered is not None:
            extra = tf.reshape(coverage_penalty, (-1, 1)) * tf.reshape(covered(state), (-1, num_beams))
        beams, source = _extended(beams, log_probs, extra, ranking, prompt_length, index, num_beams, stop_ids)
        rows = tf.reshape(tf.range(tf.shape(limit)[0])[:, None] * num_beams + source, [-1])

        def of_source(leaf, old):
            # What no step changes, such as what attention needs of a source, all beams of a row have alike.
            return leaf if leaf is old or not leaf.shape.rank else tf.gather(leaf, rows)

        return beams, tf.nest.map_structure(of_source, state, before)

    def body(index, beams, state):
        last_ids = tf.gather(_merge(beams.ids), prompt_length + index - 1, axis=1)
        logits, new_state = step(last_ids[:, None], state, None)
        new_beams, new_state = advance(logits, new_state, state, beams, index)
        return index + 1, like(new_beams, beams), like(new_state, state)

    logits, state = step(token_ids, state, padding_mask)
    beams = _begun(progress, limit, num_beams)
    state = tf.nest.map_structure(lambda leaf: tf.repeat(leaf, num_beams, axis=0) if leaf.shape.rank else leaf, state)
    beams, state = advance(tf.repeat(logits, num_beams, axis=0), state, state, beams, tf.constant(0))
    _, beams, _ = tf.while_loop(
        lambda index, beams, state: tf.reduce_any(beams.open), body, (tf.constant(1), like(beams, beams), state)
    )
    best = NBest(*(part[:, : num_beams if num_best is None else num_best] for part in beams.ended))
    return best._replace(token_ids=best.token_ids[:, :, prompt_length:])


def _require_in_range(num_beams, length_penalty, rule, num_best):
    if isinstance(num_beams, int) and (num_beams < 1 or num_best is not None and not 1 <= num_best <= num_beams):
        raise Refusal(f"num_best must be between 1 and num_beams, got {num_best} of {num_beams}.")
    if isinstance(length_penalty, (int, float)) and length_penalty < 0:
        raise Refusal(f"length_penalty must not be negative, got {length_penalty}.")
    if isinstance(rule, str) and rule not in RULES:
        raise Refusal(f"rule must be {', '.join(RULES[:-1])} or {RULES[-1]}, got {rule!r}.")


class _Ranking:
    """How the continuations of each row are compared, and whether it goes on, by the rules at the top of this file.

    Args:
        rule, length_penalty, coverage_penalty: as in `beam_search`.
        limit: int32 (B,), tokens that a row may have.
        beams_of_row: int32 (B,).
    """

    def __init__(self, rule, length_penalty, coverage_penalty, limit, beams_of_row):
        self.limit, self.beams_of_row, self._known = limit, beams_of_row, rule if isinstance(rule, str) else None
        self._alpha = tf.broadcast_to(tf.cast(length_penalty, tf.float32), tf.shape(limit))[:, None]
        rule = tf.broadcast_to(rule, tf.shape(limit))
        self._wu, self._transformers = rule == "wu", rule == "transformers"
        self._plain = tf.broadcast_to((self._alpha[:, 0] == 0) & (tf.cast(coverage_penalty, tf.float32) == 0), tf.shape(limit))

    def _of(self, rows, wu, other):
        """What `wu()` gives for rows under that rule, and `other()` for those under another."""
        if self._known is not None:
            return wu() if self._known == "wu" else other()
        return tf.where(rows, wu(), other())

    def scores(self, log_probs, length):
        """float32 (B, C): what continuations of so many tokens are judged by, before what is added for coverage."""
        length = tf.cast(length, tf.float32)
        base = self._of(self._wu[:, None], lambda: (5.0 + length) / 6.0, lambda: length)
        return log_probs / base**self._alpha

    def still_open(self, beams, written):
        """bool (B,): whether rows go on whose beams have `written` tokens, an int32 scalar."""
        best = tf.reduce_max(beams.log_probs, 1)

        def by_score(length):
            score = self.scores(best[:, None], length)[:, 0]
            return score > tf.gather(beams.ended.scores, self.beams_of_row - 1, batch_dims=1)

        def by_number():
            return (best > -float("inf")) & ((beams.num_ended < self.beams_of_row) | (self._plain & ~beams.led))

        def other():
            if self._known is not None:
                return by_score(written) if self._known == "transformers" else by_number()
            return tf.where(self._transformers, by_score(written), by_number())

        return beams.open & self._of(self._wu, lambda: by_score(self.limit[:, None]), other)


def _begun(progress, limit, num_beams):
    """Every row starts as one beam, the prompt; the other K - 1 are impossible."""
    ids = tf.repeat(progress.ids[:, None], num_beams, axis=1)
    first = (tf.range(num_beams) == 0)[None]
    log_probs = tf.where(first & (limit > 0)[:, None], 0.0, -float("inf"))
    # A row that may write nothing has ended with nothing.
    ended_scores = tf.where(first & (limit <= 0)[:, None], 0.0, -float("inf"))
    ended = NBest(ids, tf.zeros_like(log_probs, tf.int32), ended_scores, ended_scores)
    return _Beams(ids, log_probs, ended, tf.cast(limit <= 0, tf.int32), limit <= 0, limit > 0)


def _extended(beams, log_probs, extra, ranking, prompt_length, index, num_beams, stop_ids):
    """Adds one token to each row's beams, given log-probabilities (B * K, V) and what is added to the scores of those that end,
    (B, K). Returns also each new beam's old one, (B, K)."""
    vocab_size, beams_of_row = tf.shape(log_probs)[1], ranking.beams_of_row

    def best(values, count, of_row):
        """The `count` best of each row, those after the first `of_row` (B,) made impossible, and where they were."""
        values, places = tf.math.top_k(values, count)
        return tf.where(tf.range(count)[None] < of_row[:, None], values, -float("inf")), places

    totals = beams.log_probs[:, :, None] + tf.reshape(log_probs, (-1, num_beams, vocab_size))
    # Each beam has at most one continuation a stop token, so among so many candidates K have not ended.
    num_candidates = tf.minimum(num_beams * (1 + len(stop_ids)), num_beams * vocab_size)
    totals, flat = best(tf.reshape(totals, (-1, num_beams * vocab_size)), num_candidates, beams_of_row * (1 + len(stop_ids)))
    source, tokens = flat // vocab_size, flat % vocab_size
    here = tf.range(tf.shape(beams.ids)[2]) == prompt_length + index
    ids = tf.where(here, tokens[:, :, None], tf.gather(beams.ids, source, batch_dims=1))

    ends = is_one_of(tokens, stop_ids) | (index + 1 >= ranking.limit)[:, None]
    counts = ends & (tf.range(num_candidates)[None] < beams_of_row[:, None]) & (totals > -float("inf")) & beams.open[:, None]
    scores = ranking.scores(totals, index + 1) + tf.gather(extra, source, batch_dims=1)
    scores = tf.where(counts, scores, -float("inf"))
    candidates = NBest(ids, tf.fill(tf.shape(tokens), index + 1), totals, scores)
    ended = NBest(*(tf.concat(pair, 1) for pair in zip(beams.ended, candidates, strict=True)))
    scores, chosen = best(ended.scores, num_beams, beams_of_row)
    ended = NBest(*(tf.gather(part, chosen, batch_dims=1) for part in ended))._replace(scores=scores)

    alive, chosen = best(tf.where(ends, -float("inf"), totals), num_beams, beams_of_row)
    source = tf.gather(source, chosen, batch_dims=1)
    num_ended = beams.num_ended + tf.reduce_sum(tf.cast(counts, tf.int32), 1)
    beams = _Beams(tf.gather(ids, chosen, batch_dims=1), alive, ended, num_ended, beams.led | counts[:, 0], beams.open)
    return beams._replace(open=ranking.still_open(beams, index + 1)), source


def _merge(ids):
    """(B, K, L) -> (B * K, L)."""
    return tf.reshape(ids, (-1, tf.shape(ids)[2]))
