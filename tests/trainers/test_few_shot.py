"""Classification by likelihood, and pairs of sentences: the numbers by hand, and the program end to end."""

import json
import math

import numpy as np
import pytest

from tests import exports, programs
from tests.programs import refusal
from trainers import few_shot, pairs
from zoo.bundle import Bundle
from zoo.config import Refusal
from zoo.data.patterns import Pattern

TRAIN = [{"text": f"t{i}", "label": label} for i in range(4) for label in ("bad", "good")]
PATTERN = Pattern("{text} is {label}!")


def test_shots_are_balanced_and_a_function_of_the_seed():
    for count in range(9):
        chosen = few_shot.shots(TRAIN, count, seed=1)
        assert chosen == few_shot.shots(TRAIN, count, seed=1)
        assert len({each["text"] + each["label"] for each in chosen}) == count
        assert sum(each["label"] == "bad" for each in chosen) in (count // 2, (count + 1) // 2)
    assert len({str(few_shot.shots(TRAIN, 4, seed)) for seed in range(5)}) > 1
    with pytest.raises(Refusal, match="is more than the 8 examples"):
        few_shot.shots(TRAIN, 9, 0)


def test_scores_by_hand():
    words = few_shot.label_words(["bad", "good"], ["good=excellent"])
    table = {"a": (-1.0, -3.1), "b": (-2.0, -3.0), "c": (-4.0, -1.0)}
    asked = []

    def log_probs(requests):
        asked.append(requests)
        return [table[before.rpartition("\n")[2][0]][word == "excellent"] for before, word, _ in requests]

    test = [{"text": text, "label": label} for text, label in zip("abc", ("bad", "good", "good"), strict=True)]
    scores = few_shot.judge(log_probs, TRAIN, test, PATTERN, words, 2, 3)
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["accuracy_normalized"] == 1  # a byte of "excellent" costs b less than one of "bad"
    share = [1 / (1 + math.exp(second - first)) for first, second in table.values()]  # of the first label
    expected = np.mean([2 * (1 - share[0]) ** 2, 2 * share[1] ** 2, 2 * share[2] ** 2])
    assert scores["brier"] == pytest.approx(expected)
    assert (scores["seeds"], scores["majority"]) == (3, pytest.approx(2 / 3))
    assert scores["accuracy_interval"] == pytest.approx([2 / 3] * 2)
    before, word, behind = asked[0][1]
    assert (before.rpartition("\n")[2], word, behind) == ("a is ", "excellent", "!")
    assert before.count("\n\n") == 2 and " is excellent!\n\n" in before and " is bad!\n\n" in before
    alone = few_shot.judge(log_probs, TRAIN, test, PATTERN, words, 0, 3)
    assert alone["seeds"] == 1 and asked[-1][0][0] == "a is " and "accuracy_interval" not in alone


def test_wrong_patterns_and_words_are_refused():
    for pattern in ("{text}", "{label} {label}"):
        with pytest.raises(Refusal, match="must have {label} once"):
            Pattern(pattern)
    with pytest.raises(Refusal, match="names the field 'txt'"):
        Pattern("{txt}{label}").parts(TRAIN[0])
    for given, sentence in ((["bad"], "each is label=word"), (["no=x"], "each is label=word"), (["bad=good"], "one word")):
        with pytest.raises(Refusal, match=sentence):
            few_shot.label_words(["bad", "good"], given)


def test_pairs_by_hand():
    values = {"a": -1.0, "b": -2.0, "c": -5.0, "d": -2.0, "e": -2.0}
    found = pairs.judge(lambda texts: [values[text] for text in texts], [("a", "b", "x"), ("b", "c", "y"), ("d", "e", "y")])
    everything, x, y = found
    assert (everything["num_pairs"], everything["mean_difference"]) == (3, 4 / 3)
    assert everything["preferred"] == pytest.approx(2.5 / 3)  # a tie is half
    assert everything["p_value"] == 0.5  # differences 1, 3, 0: four of eight signs are as far
    assert (x["trait"], x["preferred"], y["preferred"], y["num_pairs"]) == ("x", 1.0, 0.75, 2)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Flags that name bundles of three kinds of model."""
    found = {}
    for name, task in (("gpt", "language_modeling"), ("transformer", "translation"), ("bert", "masked_lm")):
        made = exports.made(name, task)
        directory = tmp_path_factory.mktemp(name) / "bundle"
        Bundle(made.model, made.tokenizer, made.task, {}).save(directory)
        found[name] = f"--model_dir={directory}"
    return found


@pytest.mark.parametrize("name", ["gpt", "transformer", "bert"])
def test_the_program_classifies_with_every_kind_of_model(bundles, name, tmp_path, capfd):
    rows = "".join(f"{label}\tthe {animal} sat\n" for label in ("no", "yes") for animal in ("cat", "dog", "mat"))
    for split in ("train", "test"):
        (tmp_path / f"{split}.tsv").write_text(rows, encoding="utf8")
    data = f"train={tmp_path / 'train.tsv'},validation={tmp_path / 'test.tsv'},columns=label:text"
    options = ["--shots=1", "--shot_seeds=2", "--pattern={text}, {label}", "--label_words=no=dog,yes=cat"]
    answer = programs.call(capfd, "evaluate", bundles[name], *options, f"--data_path={data}")
    assert answer.status == 0, answer.err
    first, second = (json.loads(line) for line in answer.out.splitlines())
    assert (first["split"], second["split"]) == ("validation", "test") and first["brier"] == second["brier"]
    assert first["num_examples"] == 6 and len(first["per_seed"]) == 2
    low, high = first["accuracy_interval"]
    assert low <= first["accuracy"] <= high and 0 <= first["calibration_error"] <= 1


def test_the_program_judges_pairs(bundles, tmp_path, capfd):
    path = tmp_path / "pairs.tsv"
    path.write_text("the cat sat\tthe dog sat\tanimal\na mat\ta dog\n", encoding="utf8")
    for name in ("gpt", "bert"):
        answer = programs.call(capfd, "evaluate", bundles[name], f"--pairs={path}")
        assert answer.status == 0, answer.err
        everything, animal = (json.loads(line) for line in answer.out.splitlines())
        assert (everything["num_pairs"], animal["num_pairs"], animal["trait"]) == (2, 1, "animal")
        assert answer.err.endswith(pairs.REMARK + "\n")
    assert "--pairs is for language_modeling" in refusal(capfd, "evaluate", bundles["transformer"], f"--pairs={path}")
    for text, sentence in (("", "holds no pairs"), ("one\n", "must be more TAB less")):
        path.write_text(text, encoding="utf8")
        assert sentence in refusal(capfd, "evaluate", bundles["gpt"], f"--pairs={path}")
    both = refusal(capfd, "evaluate", bundles["gpt"], f"--pairs={path}", "--calibrate")
    assert "--pairs is asked alone; ask --calibrate in another call" in both
    assert "ask --shots in another call" in refusal(capfd, "evaluate", bundles["gpt"], "--memorisation", "--shots=0")
    assert "--shots needs examples" in refusal(capfd, "evaluate", bundles["gpt"], "--shots=1")


def test_public_sets_of_pairs_are_read_as_they_come(tmp_path):
    path = tmp_path / "crows.csv"
    path.write_text(',sent_more,sent_less,stereo_antistereo,bias_type\n0,"A, b.",C.,stereo,age\n1,D.,E.,antistereo,race\n')
    assert pairs.read(str(path)) == [("A, b.", "C.", "age"), ("D.", "E.", "race")]
    path.write_text("sentid\tsentence\n" + "".join(
        f"cook.guest.{number}.{who}.txt\tThat {who} {number}.\n" for number in (0, 1) for who in ("male", "female", "neutral")
    ))  # fmt: skip
    assert pairs.read(str(path)) == [("That male 0.", "That female 0.", "cook"), ("That male 1.", "That female 1.", "cook")]
    for text in ("sentid\tsentence\ncook.guest.1.male.txt\tThat male.\n", ",sent_more,sent_less,bias_type\n"):
        path.write_text(text)
        with pytest.raises(Refusal, match="holds no pairs"):
            pairs.read(str(path))
    path.write_text(",sent_more,sent_less,bias_type\n0,A.,B.,age\n1,C.\n")
    with pytest.raises(Refusal, match="Line 3 of .* must have sent_more and sent_less"):
        pairs.read(str(path))
    path.write_text("sentid\tsentence\ncook.male.txt\tThat.\n")
    with pytest.raises(Refusal, match="Line 2 of .* must be occupation.other.number.gender.txt"):
        pairs.read(str(path))


def test_an_example_without_a_label_is_refused():
    assert few_shot.labelled([{"label": 1}]) == [{"label": "1"}]
    for example in ({}, {"label": None}, {"label": " "}):
        with pytest.raises(Refusal, match="Example 2 has no label"):
            few_shot.labelled([{"label": "a"}, example])
