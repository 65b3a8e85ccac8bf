"""Viterbi with tags that stand at most once, beside a search over all sequences.

Sizes: 200 rows of up to 5 words, 5 tags: B-A0, B-A1, I-A0, I-A1, O, of which the first two stand at most once.
"""

import numpy as np
import pytest
import tensorflow as tf

from zoo.data import schemes
from zoo.layers import crf
from zoo.layers.viterbi_once import viterbi_once

TAGS = ("B-A0", "B-A1", "I-A0", "I-A1", "O")
ONCE = np.array([True, True, False, False, False])
MOVES = np.where(schemes.forbidden_moves(TAGS, "BIO"), -np.inf, 0.0).astype(np.float32)
OUTSIDE = len(TAGS)


@pytest.fixture(scope="module")
def rows():
    """Scores, a mask, and what `viterbi` and `viterbi_once` make of them."""
    draw = np.random.default_rng(7)
    unary = draw.normal(0, 2, (200, 5, len(TAGS))).astype(np.float32)
    mask = np.arange(5) < draw.integers(0, 6, 200)[:, None]
    free = crf.viterbi(unary, MOVES, mask)[0].numpy()
    return unary, mask, free, viterbi_once(unary, MOVES, mask, ONCE).numpy()


def has_twice(tags):
    return any(np.count_nonzero(tags == tag) > 1 for tag in np.flatnonzero(ONCE))


def score(unary, tags):
    steps = zip([OUTSIDE, *tags], [*tags, OUTSIDE], strict=True) if len(tags) else ()
    return sum(unary[range(len(tags)), tags]) + sum(MOVES[move] for move in steps)


def test_no_tag_stands_twice_and_other_rows_stay_as_they_are(rows):
    unary, mask, free, once = rows
    bad = np.array([has_twice(tags[real]) for tags, real in zip(free, mask, strict=True)])
    assert 20 < bad.sum() < 180
    assert (once[~bad] == free[~bad]).all() and (once[~mask] == 0).all()
    for scores, real, tags in zip(unary, mask, once, strict=True):
        assert not has_twice(tags[real]) and score(scores[real], tags[real]) > -np.inf


def test_of_noise_it_finds_the_best_of_all_such_sequences_nearly_half_the_time(rows):
    unary, mask, free, once = rows
    found = []
    for scores, real, before, tags in zip(unary, mask, free, once, strict=True):
        scores, before, tags = scores[real], before[real], tags[real]
        if has_twice(before):
            paths = [np.array(path) for path in np.ndindex(*[len(TAGS)] * len(tags))]
            best = max(score(scores, path) for path in paths if not has_twice(path))
            assert score(scores, tags) <= best + 1e-4
            found.append(score(scores, tags) > best - 1e-4)
    assert len(found) > 50 and np.mean(found) > 0.45


def test_a_row_alone_is_the_row_in_the_batch_and_a_graph_the_same(rows):
    unary, mask, _, once = rows
    for i in range(0, 200, 20):
        assert (viterbi_once(unary[i : i + 1], MOVES, mask[i : i + 1], ONCE).numpy() == once[i : i + 1]).all()
    compiled = tf.function(lambda unary: viterbi_once(unary, MOVES, mask, ONCE), jit_compile=True)
    assert (compiled(unary).numpy() == once).all()


def test_without_such_tags_it_is_viterbi(rows):
    unary, mask, free, _ = rows
    assert (viterbi_once(unary, MOVES, mask, np.zeros(5, bool)).numpy() == free).all()
