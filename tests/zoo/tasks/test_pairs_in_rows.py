"""Pairs of texts: what fits into a row, and what is counted or refused."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from zoo.config import Refusal
from zoo.data.batch import Layout
from zoo.registry import TASKS
from zoo.tokenizers.base import create as create_tokenizer

BYTES = create_tokenizer("byte")
GPT = SimpleNamespace(kind="language_model")
# Tokens of the source and of the target, and what remains of them in a row of 16 with two special tokens and an end.
PAIRS = [((3, 4), (3, 4)), ((11, 2), (11, 2)), ((12, 2), (11, 2)), ((2, 30), (2, 11)), ((30, 30), (6, 7)), ((9, 4), (9, 4))]


def encoded(layout, **fields):
    task = TASKS.get("translation")()
    task = type(task)(task.config_class(**fields))
    examples = [{"source": "s" * source, "target": "t" * target} for (source, target), _ in PAIRS]
    return task, task.encode(examples, BYTES, layout)


def test_in_a_row_that_both_share_the_longer_text_gives_way_and_that_is_counted():
    layout = Layout(seq_length=16, batch_size=2, pairs_share_rows=True)
    task, data = encoded(layout)
    assert [(len(pair.source), len(pair.target)) for pair in data.pairs] == [kept for _, kept in PAIRS]
    assert task.size(data) == "6 pairs, 3 of them cut"
    rows = task.training_batches(data, GPT, BYTES, layout).rows
    assert rows.lengths.max() == 16
    batch = rows.batch([1, 4])
    assert batch["token_ids"].shape[1] <= 16
    assert batch["loss_weights"].sum(1).tolist() == [3.0, 8.0]  # the target and its end
    with pytest.raises(Refusal, match=r"Pair 3 does not fit into --seq_length=16 \(nor do 2 others\)"):
        encoded(layout, overlong="refuse")


def test_bits_per_byte_are_of_what_is_left_of_a_target():
    task, data = encoded(Layout(seq_length=16, batch_size=2, pairs_share_rows=True))
    kept = [target for _, (_, target) in PAIRS]
    assert data.target_bytes == kept
    rows = {"real": [np.array([True, True]), np.array([True, True]), np.array([True, True])]}
    scores = task.metrics({"nats": 30 * math.log(2), "tokens": 36}, rows, data)
    assert scores["bits_per_byte"] == pytest.approx(30 / sum(kept)) == pytest.approx(1.0)
    told = task.training_metrics(math.log(2), data)  # a bit a token, and each target has its end besides
    assert told == {"perplexity": pytest.approx(2.0), "bits_per_byte": pytest.approx((sum(kept) + 6) / sum(kept))}


def test_beside_an_encoder_each_text_has_a_row():
    task, data = encoded(Layout(seq_length=16, batch_size=2))
    assert [(len(pair.source), len(pair.target)) for pair in data.pairs] == [
        (min(source, 14), min(target, 14)) for (source, target), _ in PAIRS
    ]
    assert task.size(data) == "6 pairs, 2 of them cut"
    # Whoever has not said that texts share rows gets rows that fit all the same.
    rows = task.training_batches(data, GPT, BYTES, Layout(seq_length=16, batch_size=2)).rows
    assert rows.lengths.max() == 16
