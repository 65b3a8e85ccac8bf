"""A part of a split of examples is a split of its own: the same rows in the same order, and scores of these alone."""

import numpy as np
import pytest
import tensorflow as tf

from tests import tiny_tasks
from trainers.engine import loop
from zoo.data.batch import Layout
from zoo.data.excerpts import drawn

ROWS = Layout(seq_length=24, batch_size=1)
CASES = ("bert:classification", "bert:tagging", "bert:semantic_roles", "bert:question_answering", "transformer:translation")


@pytest.mark.parametrize("case", CASES)
def test_a_part_is_some_units_of_the_whole(case):
    task, model, _, _ = tiny_tasks.create(case)
    _, tokenizer, data = tiny_tasks.encoded(case)
    if case == "transformer:translation":
        task.config = task.config.replace(judged=0)  # to write texts takes longer than all the rest
    part = task.part(data, 2 * ROWS.seq_length, ROWS)
    taken = np.isin(np.arange(len(data)), drawn(data.units, 2))
    assert 2 <= len(part) == taken.sum() < len(data)

    def judged(some):
        def score(batch, state):
            return task.score(model, batch)

        compiled = tf.function(score, reduce_retracing=True, autograph=False)
        totals, rows = loop.summed(task, model, compiled, some, tokenizer, ROWS)
        return task.metrics(totals, rows, some)["loss"], [batch["loss_weights"].sum() for batch in rows_of(some)]

    def rows_of(some):
        return [batch for batch in task.evaluation_batches(some, model, tokenizer, ROWS) if batch["loss_weights"].sum()]

    whole = rows_of(data)
    for ours, theirs in zip(rows_of(part), [row for row, there in zip(whole, taken, strict=True) if there], strict=True):
        width = ours["loss_weights"].shape[-1]  # the whole split may be wider
        np.testing.assert_array_equal(ours["loss_weights"], theirs["loss_weights"][..., :width])
        np.testing.assert_array_equal(ours["labels"], theirs["labels"][..., : ours["labels"].shape[-1]])
    rest = data.take(np.flatnonzero(~taken))
    sums = [(loss, sum(weights)) for loss, weights in map(judged, (data, part, rest))]
    total = sum(loss * weight for loss, weight in sums[1:])
    assert sums[0][0] * sums[0][1] == pytest.approx(total, rel=1e-5)
