"""Counterfactual swaps: words by hand, scores by hand, and the program end to end."""

import json

import numpy as np
import pytest

import zoo
from tests import exports, programs
from tests.programs import refusal
from trainers import swaps
from zoo import metrics
from zoo.bundle import Bundle
from zoo.config import Refusal
from zoo.data.words import characters_of

FILES = {"classification": "tsv", "tagging": "conll"}
TABLE = [("he", "she"), ("his", "her"), ("him", "her"), ("grand father", "grand mother")]


def test_words_are_exchanged_whole_in_any_case_and_both_ways():
    swap = swaps.Swap(TABLE)
    assert swap("He said THE hero heard him.") == ("She said THE hero heard her.", True, False)
    assert swap("SHE saw her Grand Mother; he did") == ("HE saw his Grand father; she did", True, True)
    assert swap("the hero's") == ("the hero's", False, False)
    assert swap("He's here") == ("She's here", True, False)
    assert swaps.Swap([("他", "她"), ("爸爸", "妈妈")])("昨天他和爸爸说") == ("昨天她和妈妈说", True, False)
    assert swaps.pairs_of(["the", "he", "she", "he she"], TABLE) == [
        ("he", "she", 1), ("she", "he", -1), ("he she", "she he", 0),
    ]  # fmt: skip


def test_scores_of_classes_by_hand():
    probs = {"he a": [0.8, 0.2], "she a": [0.4, 0.6], "she b": [0.1, 0.9], "he b": [0.3, 0.7], "he she": [0.9, 0.1]}
    probs |= {"she he": [0.7, 0.3]}
    found = swaps.judge_classes(lambda texts: [probs[text] for text in texts], ["he a", "c", "she b", "he she"],
                                {"all": TABLE, "other": [("x", "y")]}, ("no", "yes"))  # fmt: skip
    everything, other = found
    assert other == {"trait": "other", "num_texts": 0, "num_left_out": 0}
    assert (everything["num_texts"], everything["num_directed"]) == (3, 2)
    assert everything["decision_changed"] == pytest.approx(1 / 3)
    assert everything["interval"] == list(metrics.share_interval(1 / 3, 3))
    assert everything["mean_change"] == pytest.approx((0.4 + 0.2 + 0.2) / 3)
    # With "he" the class "no" is likelier by 0.4 in the first text and by 0.2 in the second.
    no, yes = everything["by_class"]["no"], everything["by_class"]["yes"]
    assert no["difference"] == pytest.approx(0.3) and yes["difference"] == pytest.approx(-0.3)
    assert no["p_value"] == metrics.sign_flip_test(np.array([0.4, 0.2])) == 0.5


def test_scores_of_tags_by_hand():
    answers = {"he runs fast": (["P", "V", "A"], -1.0), "she runs fast": (["P", "N", "A"], -1.5)}
    answers |= {"she is": (["P", "V"], -0.5), "he is": (["N", "V"], -0.25)}
    (found,) = swaps.judge_tags(
        lambda texts: [answers[t] for t in texts], ["he runs fast", "she is", "so"], {"all": [("he", "she")]}
    )
    assert (found["num_texts"], found["num_directed"], found["decision_changed"]) == (2, 2, 1.0)
    assert (found["words_changed"], found["others_changed"]) == (pytest.approx(2 / 5), pytest.approx(1 / 3))
    assert found["difference"] == pytest.approx((0.5 + 0.25) / 2)
    with pytest.raises(Refusal, match="a tagger reads word by word"):
        swaps.judge_tags(None, [], {"all": TABLE})


def test_a_tagger_of_characters_is_asked_about_characters():
    answers = {"他 来了": (["P", "V", "A"], -1.0), "她 来了": (["P", "N", "A"], -1.5)}
    arguments = (lambda texts: [answers[text] for text in texts], ["他 来了"])
    (found,) = swaps.judge_tags(*arguments, {"all": [("他", "她")]}, cut=characters_of)
    assert (found["words_changed"], found["others_changed"]) == (pytest.approx(1 / 3), pytest.approx(1 / 2))
    with pytest.raises(Refusal, match="'他' and '她们', and this tagger reads characters"):
        swaps.judge_tags(*arguments, {"all": [("他", "她们")]}, cut=characters_of)


def test_a_table_is_read_by_trait_and_refused_by_line(tmp_path):
    path = tmp_path / "swaps.tsv"
    path.write_text("he\tshe\tgender\n\nold\tyoung\tage\nHis\ther\tgender\n", encoding="utf8")
    assert swaps.read(str(path)) == {"gender": [("he", "she"), ("His", "her")], "age": [("old", "young")]}
    for text, sentence in (("", "holds no swaps"), ("he\n", "Line 1 of .* must be one TAB other"), ("he\tHe\n", "two unlike")):
        path.write_text(text, encoding="utf8")
        with pytest.raises(Refusal, match=sentence):
            swaps.read(str(path))


def test_texts_that_do_not_fit_are_left_out_in_both_wordings():
    def probs_of(texts):
        assert all(len(text) < 7 for text in texts)
        return [[0.8, 0.2] for _ in texts]

    texts = ["he a", "he and", "she went", "c"]  # "she and" does not fit, and "he went" would
    (found,) = swaps.judge_classes(probs_of, texts, {"all": TABLE}, ("no", "yes"), lambda text: len(text) < 7)
    assert (found["num_texts"], found["num_left_out"]) == (1, 2)


@pytest.mark.parametrize("task", ["classification", "classification:refuse", "tagging"])
def test_the_program_judges_swaps(task, tmp_path, capfd):
    task, _, refuses = task.partition(":")
    made = exports.made("bert", task)
    if refuses:
        config = made.task.config.replace(overlong="refuse")
        made = made._replace(task=type(made.task)(config, made.task.facts))
    Bundle(made.model, made.tokenizer, made.task, {}).save(tmp_path / "bundle")
    (tmp_path / "swaps.tsv").write_text("cat\tdog\n", encoding="utf8")
    texts, file = ["the cat sat", "the dog sat", "the mat", "a cat ran"], tmp_path / f"data.{FILES[task]}"
    left_out = int(task == "tagging" or bool(refuses))
    texts.append("the cat " * (80 if left_out else 1))  # the model takes 64 tokens
    if task == "classification":
        rows, columns = [f"no\t{text}" for text in texts], ",columns=label:text"
    else:
        rows, columns = ["".join(f"{word}\tX\n" for word in text.split()) for text in texts], ""
    file.write_text("\n".join(rows) + "\n", encoding="utf8")
    data = f"--data_path=train={file},validation={file}{columns}"
    flags = [f"--model_dir={tmp_path / 'bundle'}", data, "--split=validation", f"--swaps={tmp_path / 'swaps.tsv'}"]
    answer = programs.call(capfd, "evaluate", *flags)
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)
    assert (found["num_texts"], found["num_left_out"], found["trait"]) == (4 - left_out, left_out, "all")
    assert found["num_directed"] == found["num_texts"]
    fits = swaps.fits_whole(made.task, made.model, made.tokenizer)
    if left_out:  # what is left out is just what the signature refuses
        loaded = zoo.load(tmp_path / "bundle")
        for count in (61, 62, 63, 64):
            text = " ".join(["the"] * count)
            if fits(text):
                loaded.predict(text=[text])
            else:
                with pytest.raises(Refusal, match="64"):
                    loaded.predict(text=[text])
        assert fits("the " * 62) and not fits("the " * 63)  # beside [CLS] and [SEP]
    assert answer.err.endswith(swaps.REMARK + "\n")


def test_other_tasks_are_refused(tmp_path, capfd):
    made = exports.made("gpt", "language_modeling")
    Bundle(made.model, made.tokenizer, made.task, {}).save(tmp_path / "bundle")
    (tmp_path / "swaps.tsv").write_text("cat\tdog\n", encoding="utf8")
    flags = [f"--model_dir={tmp_path / 'bundle'}", f"--swaps={tmp_path / 'swaps.tsv'}", "--dataset=python_docs"]
    assert "--swaps is for classification" in refusal(capfd, "evaluate", *flags)
