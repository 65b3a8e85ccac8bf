"""The loss of language modelling, by hand.

Shape letters: B batch, T positions, V vocabulary.
"""

import math

import numpy as np
import pytest

from tests import tiny_models
from zoo.tasks.language_modeling import LanguageModeling, LanguageModelingConfig

# p = (1/2, 1/4, 1/4) and (1/8, 3/8, 1/2)
LOGITS = np.log(np.array([[[2, 1, 1], [1, 3, 4]]], "float32"))
BATCH = {"labels": np.array([[0, 1]]), "loss_weights": np.array([[1, 1]], "float32")}


def test_sum_and_count():
    loss, count = LanguageModeling().loss(BATCH, LOGITS)
    assert float(loss) == pytest.approx(math.log(2) + math.log(8 / 3), rel=1e-6)
    assert float(count) == 2


def test_weights():
    batch = {**BATCH, "loss_weights": np.array([[0, 3]], "float32")}
    loss, count = LanguageModeling().loss(batch, LOGITS)
    assert float(loss) == pytest.approx(3 * math.log(8 / 3), rel=1e-6)
    assert float(count) == 3


def test_label_smoothing_spreads_mass_evenly():
    loss, _ = LanguageModeling(label_smoothing=0.3).loss(BATCH, LOGITS)
    targets = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    expected = -(targets * np.log([[1 / 2, 1 / 4, 1 / 4], [1 / 8, 3 / 8, 1 / 2]])).sum()
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_z_loss_is_the_squared_log_normaliser():
    loss, _ = LanguageModeling(z_loss=0.1).loss(BATCH, LOGITS)
    plain, _ = LanguageModeling().loss(BATCH, LOGITS)
    assert float(loss - plain) == pytest.approx(0.1 * (math.log(4) ** 2 + math.log(8) ** 2), rel=1e-5)


def test_the_score_is_never_smoothed_and_counts_what_the_loss_counts():
    model = tiny_models.create("gpt")
    ids = tiny_models.token_ids(model, 3, 7)
    batch = {
        "token_ids": ids[:, :-1],
        "labels": ids[:, 1:],
        "loss_weights": (np.arange(6) < np.array([[6], [3], [1]])).astype("float32"),
        "padding_mask": np.arange(6) < np.array([[6], [3], [1]]),
    }
    task = LanguageModeling(label_smoothing=0.4, z_loss=0.2)
    totals, rows, state = task.score(model, batch)
    outputs, _ = task.forward(model, batch)
    expected, expected_count = LanguageModeling().loss(batch, outputs)
    assert float(totals["nats"]) == pytest.approx(float(expected), rel=1e-5)
    assert float(totals["tokens"]) == float(expected_count) == 10
    assert rows == {} and state is None


def test_a_position_without_weight_may_be_impossible():
    class Impossible:
        def taken(self, batch):
            return {"token_ids": batch["token_ids"]}

        def token_log_probs(self, token_ids, labels, state=None):
            return np.array([[-1.5, -np.inf]], "float32"), state

    batch = {"token_ids": None, "labels": None, "loss_weights": np.array([[2, 0]], "float32")}
    totals, _, _ = LanguageModeling().score(Impossible(), batch)
    assert (float(totals["nats"]), float(totals["tokens"])) == (3.0, 2.0)


@pytest.mark.parametrize(("options", "message"), [
    (dict(label_smoothing=1.0), "label_smoothing must be at least 0 and below 1, got 1.0."),
    (dict(label_smoothing=-0.1), "label_smoothing must be at least 0 and below 1, got -0.1."),
    (dict(z_loss=-1), "z_loss must not be negative, got -1."),
])  # fmt: skip
def test_senseless_options_are_refused(options, message):
    with pytest.raises(ValueError) as error:
        LanguageModeling(**options)
    assert str(error.value) == message


def test_logits_are_made_in_one_of_three_ways():
    with pytest.raises(ValueError) as error:
        LanguageModelingConfig(logits="half")
    assert str(error.value) == "LanguageModelingConfig: logits must be auto or whole or chunks, got 'half'."
