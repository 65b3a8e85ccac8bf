"""Scores by group, by hand and by the program."""

import itertools
import json

import numpy as np
import pytest

from tests import exports, programs
from trainers import groups
from zoo import metrics
from zoo.bundle import Bundle
from zoo.config import Refusal

PROBS = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2]])
LABELS = np.array([0, 1, 1, 1, 0])


def test_scores_by_hand():
    a, b, last = groups.judge(PROBS, LABELS, ["a", "a", "b", "b", "b"], ("no", "yes"))
    assert (a["group"], a["num_examples"], a["accuracy"], a["recall"]) == ("a", 2, 1.0, {"no": 1.0, "yes": 1.0})
    assert (b["accuracy"], b["recall"]) == (pytest.approx(2 / 3), {"no": 1.0, "yes": 0.5})
    assert b["interval"] == list(metrics.share_interval(2 / 3, 3))
    assert b["brier"] == pytest.approx(np.mean([2 * 0.6**2, 2 * 0.3**2, 2 * 0.2**2]))
    gap = last["largest_gap"]
    half = 1.959964 * np.sqrt(2 / 9 / 3)
    assert gap["groups"] == ["a", "b"] and gap["accuracy"] == pytest.approx(1 / 3)
    assert gap["interval"] == pytest.approx([1 / 3 - half, 1 / 3 + half])
    assert gap["p_value"] == pytest.approx(1, abs=0.01)  # dealt anew, the wrong one is with a, whose gap is 1/2, or with b
    half = 1.959964 * 0.5 / 2**0.5
    interval = pytest.approx([0.5 - half, 0.5 + half])
    assert gap["recall"]["no"]["gap"] == 0
    assert gap["recall"]["yes"] == {"gap": 0.5, "groups": ["a", "b"], "interval": interval, "p_value": 1.0}
    errors = {each["group"]: each["calibration_error"] for each in (a, b)}
    assert gap["calibration_error"]["gap"] == pytest.approx(abs(errors["a"] - errors["b"]))
    assert gap["calibration_error"]["groups"] == ["a", "b"] and 0 < gap["calibration_error"]["p_value"] <= 1
    with pytest.raises(Refusal, match="compares two or more"):
        groups.judge(PROBS, LABELS, ["a"] * 5, ("no", "yes"))


def test_the_p_value_is_the_share_of_ways_to_deal_the_groups():
    right = np.array([True, True, False, False])
    assert groups._gap(right, np.array([*"aabb"]))["p_value"] == pytest.approx(1 / 3, abs=0.04)  # 2 of 6 ways
    assert groups._gap(right, np.array([*"abcc"]))["p_value"] == pytest.approx(
        1, abs=0.01
    )  # some group of one is right, or not
    assert groups._gap(right, np.array([*"aaaa"])) is None


def test_many_examples_are_dealt_out_less_often(monkeypatch):
    assert [groups._draws(count) for count in (50_000, 10**5, 10**6, 10**9)] == [2_000, 1_000, 100, 100]
    monkeypatch.setattr(groups, "MOST_DRAWN", 10**4)
    right = np.arange(100) % 2 == 0
    assert groups._gap(right, np.where(right, "a", "b"))["p_value"] == 1 / 101


def test_the_p_value_of_calibration_is_the_share_of_ways_to_deal_the_groups():
    """Six examples, two groups of three: all 20 ways, with the errors that `zoo.metrics` counts."""
    probs = np.array([[0.95, 0.05], [0.9, 0.1], [0.62, 0.38], [0.97, 0.03], [0.3, 0.7], [0.55, 0.45]])
    labels, groups_6 = np.array([0, 0, 1, 1, 1, 0]), np.array([*"aabbab"])
    found = groups._gap_of_calibration(probs, labels, groups_6)

    def gap(first):
        sides = [np.array(sorted(first)), np.array(sorted(set(range(6)) - set(first)))]
        return abs(np.subtract(*(metrics.calibration_error(probs[side], labels[side]) for side in sides)))

    observed = gap((0, 1, 4))
    ways = [gap(first) for first in itertools.combinations(range(6), 3)]
    assert found["gap"] == pytest.approx(observed) and set(found["groups"]) == {"a", "b"}
    share = np.mean([way >= observed - 1e-9 for way in ways])
    assert 0.05 < share < 0.95 and found["p_value"] == pytest.approx(share, abs=0.04)


def test_a_group_that_is_told_lies_has_a_small_p_value_and_one_that_is_honest_has_not():
    random = np.random.default_rng(0)
    sure = random.uniform(0.5, 1, 400)
    probs, side = np.stack([sure, 1 - sure], 1), np.where(np.arange(400) < 200, "a", "b")
    honest = (random.uniform(size=400) > sure).astype(int)  # as often right as the model is sure
    assert groups._gap_of_calibration(probs, honest, side)["p_value"] > 0.05
    lies = np.where(side == "b", (random.uniform(size=400) > 0.5).astype(int), honest)
    found = groups._gap_of_calibration(probs, lies, side)
    assert found["p_value"] < 0.01 and found["groups"] == ["a", "b"]


def test_the_program_tells_scores_by_group(tmp_path, capfd):
    made = exports.made("bert", "classification")
    Bundle(made.model, made.tokenizer, made.task, {}).save(tmp_path / "bundle")
    rows = [f"{label}\tthe {word} sat\t{group}" for label in ("no", "yes") for word in ("cat", "dog") for group in "xyx"]
    (tmp_path / "data.tsv").write_text("\n".join(rows) + "\n", encoding="utf8")
    data = f"train={tmp_path / 'data.tsv'},validation={tmp_path / 'data.tsv'},columns=label:text:group"
    flags = [f"--model_dir={tmp_path / 'bundle'}", f"--data_path={data}", "--split=validation", "--seq_length=24", "--by_group"]
    answer = programs.call(capfd, "evaluate", *flags, "--batch_size=5")
    assert answer.status == 0, answer.err
    everything, x, y, last = (json.loads(line) for line in answer.out.splitlines())
    assert (x["group"], x["num_examples"], y["group"], y["num_examples"]) == ("x", 8, "y", 4)
    assert everything["accuracy"] == pytest.approx((8 * x["accuracy"] + 4 * y["accuracy"]) / 12)
    kept = json.loads((tmp_path / "bundle" / "config.json").read_text(encoding="utf8"))["provenance"]["measured"]["by_group"]
    assert kept["scores"] == [{key: value for key, value in each.items() if key != "split"} for each in (x, y, last)]
    assert last["largest_gap"]["accuracy"] == pytest.approx(abs(x["accuracy"] - y["accuracy"]))
    answer = programs.call(capfd, "evaluate", flags[0], f"--data_path={data.replace(':group', ':other')}", "--by_group")
    assert answer.status == 2 and "no field 'group'" in answer.err


def test_an_example_without_a_group_is_refused():
    assert groups.of([{"group": "a"}, {"group": 1}]) == ["a", "1"]
    for example in ({}, {"group": None}, {"group": " "}):
        with pytest.raises(Refusal, match="Example 2 has no group"):
            groups.of([{"group": "a"}, example])
