"""Batches of a budget of tokens, for the tasks whose rows are single texts: `--set=batch_tokens=`."""

import collections

import pytest

from tests import tiny_tasks
from zoo.config import Refusal
from zoo.registry import TASKS

BUDGET = 24


def rows_of(batches, count):
    """How often each row, without its padding, is in the batches of `count` steps."""
    found = collections.Counter()
    for step in range(count):
        batch = batches.batch(step)
        for i, mask in enumerate(batch["padding_mask"]):
            rest = [batch[name][i][mask].tolist() for name in ("token_ids", "segment_ids") if name in batch]
            labels, weights = batch["labels"][i], batch["loss_weights"][i]
            found[str((rest, labels[weights > 0].tolist()))] += 1
    return found


@pytest.mark.parametrize("case", ["bert:classification", "bert:tagging", "bilstm:tagging", "bert:semantic_roles"])
def test_a_batch_keeps_to_its_budget_and_every_row_comes_once_an_epoch(case, monkeypatch):
    task_name = case.partition(":")[2]
    monkeypatch.setitem(tiny_tasks.EXAMPLES, task_name, tiny_tasks.EXAMPLES[task_name] * 6)
    *_, fixed, _ = tiny_tasks.create(case)
    num_rows = fixed.num_units
    monkeypatch.setitem(tiny_tasks.FIELDS, task_name, {**tiny_tasks.FIELDS[task_name], "batch_tokens": BUDGET})
    task, model, batches, _ = tiny_tasks.create(case)
    assert batches.num_units == num_rows
    shapes = {batches.batch(step)["token_ids"].shape for step in range(batches.steps_per_epoch)}
    assert len({width for _, width in shapes}) > 1 and all(rows * width <= BUDGET for rows, width in shapes)
    # So many steps of the fixed batches hold every row equally often.
    expected = rows_of(fixed, num_rows)
    once = {row: count // tiny_tasks.LAYOUT.batch_size for row, count in expected.items()}
    found = rows_of(batches, batches.steps_per_epoch)
    assert found.keys() == once.keys() and not collections.Counter(once) - found
    assert sum(found.values()) - num_rows < max(rows for rows, _ in shapes)  # those that fill up the last batch
    total, count = task.loss(batches.batch(0), model(batches.batch(0)))
    assert float(total) > 0 and float(count) > 0


@pytest.mark.parametrize("task_name", ["classification", "tagging", "semantic_roles"])
def test_what_a_budget_cannot_be_is_refused(task_name):
    with pytest.raises(Refusal, match=r"batch_tokens must not be negative, got -1"):
        TASKS.config(task_name)(batch_tokens=-1)


def test_texts_that_are_changed_have_no_lengths_to_sort_by():
    with pytest.raises(Refusal, match=r"batch_tokens sorts texts by their lengths, which word_deletion and the like change"):
        TASKS.config("classification")(batch_tokens=BUDGET, word_deletion=0.1)
