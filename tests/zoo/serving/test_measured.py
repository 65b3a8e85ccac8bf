"""What was measured of a model, kept in its bundle and told in sentences."""

import json

import pytest

from tests import exports
from zoo import bundle as bundles
from zoo.registry import TASKS
from zoo.serving import measured
from zoo.serving.model_card import model_card

PART = {"extracted": 0.25, "extracted_interval": [0.1, 0.4], "num_prefixes": 200}
SCORES = {
    "memorisation": (
        [{"exposure_mean": 11.5, "exposure_limit": 12.0, "train": PART, "held_out": {**PART, "extracted": 0.0},
          "membership_auc": 0.61, "membership_auc_interval": [0.5, 0.7]}],
        ("exposure 11.50 on average of at most 12", "0.2500 [0.1000, 0.4000] of 200 passages of the training text",
         "0.0000 [0.1000, 0.4000] of 200 passages of held-out text", "AUC 0.6100 [0.5000, 0.7000]"),
    ),
    "pairs": (
        [{"trait": "all", "preferred": 0.55, "interval": [0.5, 0.6], "num_pairs": 90}],
        ("all: the first sentence is likelier in 0.5500 [0.5000, 0.6000] of 90 pairs",),
    ),
    "association": ([{"name": "toy", "effect": 1.25, "p_value": 0.02}], ("toy: effect 1.250 (p 0.0200)",)),
    "by_group": (
        [{"group": "a", "accuracy": 0.9, "interval": [0.8, 1.0]},
         {"largest_gap": {"accuracy": 0.2, "interval": [0.1, 0.3], "groups": ["a", "b"], "p_value": 0.04,
                          "recall": {f"class {i}": {"gap": i / 10, "interval": [0.0, 1.0], "groups": ["b", "a"], "p_value": 0.5}
                                     for i in range(7)},
                          "calibration_error": {"gap": 0.15, "groups": ["b", "c"], "p_value": 0.25}}}],
        ("a: accuracy 0.9000 [0.8000, 1.0000]", "largest gap 0.2000 [0.1000, 0.3000], a and b (p 0.0400)",
         "of recall of class 6 0.6000 [0.0000, 1.0000], b and a (p 0.5000); of recall of class 5 0.5000",
         "of recall of 2 more classes at most 0.1000; of calibration error 0.1500, b and c (p 0.2500)"),
    ),
    "swaps": (
        [{"trait": "x", "num_texts": 3, "decision_changed": 0.5, "interval": [0.1, 0.9]}, {"trait": "y", "num_texts": 0}],
        ("x: the answer changes in 0.5000 [0.1000, 0.9000] of 3 texts", "y: no text has such words"),
    ),
    "few_shot": (
        [{"shots": 4, "accuracy": 0.5, "accuracy_interval": [0.4, 0.6], "num_examples": 8, "majority": 0.25}],
        ("4 shots: accuracy 0.5000 [0.4000, 0.6000] on 8 examples, majority 0.2500",),
    ),
    "calibration": ([{"calibration_error": 0.0123, "brier": 0.5}], ("calibration error 0.0123, Brier 0.5000",)),
}  # fmt: skip


@pytest.mark.parametrize("name", measured.QUESTIONS)
def test_what_was_measured_is_told_and_what_was_not_is_said(name):
    scores, told = SCORES[name]
    question = measured.QUESTIONS[name]
    assert set(question.tasks) <= set(TASKS.names())
    for task in question.tasks:
        before = measured.sentences(task, {})
        assert f"{question.title}: not measured (trainers.evaluate {question.flag})" in before
        line = next(line for line in measured.sentences(task, {"measured": {name: {"on": "this", "scores": scores}}})
                    if line.startswith(question.title))  # fmt: skip
        assert line.startswith(f"{question.title} on this: ") and all(each in line for each in told)
    for task in set(TASKS.names()) - set(question.tasks):
        assert not [line for line in measured.sentences(task, None) if line.startswith(question.title)]


@pytest.mark.parametrize("task", TASKS.names())
def test_every_area_is_told_of_every_task(task):
    """Measured, not measured, or not to be asked; and what is said to be askable is what the programs take."""
    lines = measured.sentences(task, {})
    told = {measured.QUESTIONS[name].area for name in measured.QUESTIONS if task in measured.QUESTIONS[name].tasks}
    told |= {"explanations"} & {line.split(":")[0].lower() for line in lines}
    told |= {"calibration"} & {line.split()[0].lower().replace("probabilities", "calibration") for line in lines}
    unasked = [line for line in lines if line.startswith("Not asked, as no command asks it of a model for ")]
    left = unasked[0].split(": ")[1].split(", ") if unasked else []
    assert not told & set(left) and told | set(left) == set(measured.AREAS)


def test_classifiers_tell_the_calibration_of_their_scores():
    scores = {"test": {"calibration_error": 0.0123, "brier": 0.25}, "validation": {"calibration_error": 0.5}}
    for task in ("classification", "tagging"):
        lines = measured.sentences(task, {"scores": scores})
        assert "Probabilities of its answers on test: calibration error 0.0123, Brier 0.2500" in lines
        assert "Probabilities of its answers: not measured (trainers.evaluate)" in measured.sentences(task, {})
        kept = {"calibration": {"on": "this", "scores": SCORES["calibration"][0]}}
        line = "Probabilities of its answers on this: calibration error 0.0123, Brier 0.5000"
        assert line in measured.sentences(task, {"scores": {}, "measured": kept})
    assert measured.sentences("", {}) == []


def test_a_bundle_keeps_what_was_measured_and_its_card_tells_it(tmp_path):
    made = exports.made("gpt", "language_modeling")
    bundles.Bundle(made.model, made.tokenizer, made.task, {"dataset": "toy"}).save(tmp_path / "bundle")
    before = json.loads((tmp_path / "bundle" / "config.json").read_text())
    for name in ("pairs", "calibration"):
        bundles.write_measured(tmp_path / "bundle", name, "this", SCORES[name][0])
    after = json.loads((tmp_path / "bundle" / "config.json").read_text())
    kept = {name: {"on": "this", "scores": SCORES[name][0]} for name in ("pairs", "calibration")}
    assert after == {**before, "provenance": {"dataset": "toy", "measured": kept}}
    card = model_card(made.model, made.tokenizer, made.task, after["provenance"])
    assert "in 0.5500 [0.5000, 0.6000] of 90 pairs" in card and "What it knows by heart: not measured" in card
