"""Two models on the same test: baselines, scores by example, and the paired bootstrap."""

import json

import numpy as np
import pytest

from tests import exports, programs
from zoo import bootstrap, metrics, text_metrics
from zoo.bundle import Bundle
from zoo.config import Refusal
from zoo.data.batch import Layout
from zoo.registry import TASKS
from zoo.tokenizers.base import create as create_tokenizer

TEXTS = ["the cat sat on the mat .", "a dog ran", "the naive cat is not a dog , and ran"]
REFERENCES = [["the cat sat on a mat .", "a cat sat"], ["the dog ran"], ["the naive dog is not a cat , and sat on the mat"]]


def test_the_parts_of_bleu_and_rouge_add_up_to_their_scores():
    sample = text_metrics.bleu_sample(TEXTS, REFERENCES, "none")
    whole = text_metrics.translation_scores(TEXTS, REFERENCES, "none")["bleu"]
    assert sample.of_sums(sample.rows.sum(0)) == pytest.approx(whole, rel=1e-12)
    characters = text_metrics.chrf_sample(TEXTS, REFERENCES)
    assert characters.score() == text_metrics.translation_scores(TEXTS, REFERENCES)["chrf"] > 0
    edits = text_metrics.ter_sample(TEXTS, REFERENCES)
    assert edits.of_sums(edits.rows.sum(0)) == pytest.approx(text_metrics.edit_scores(TEXTS, REFERENCES)["ter"], rel=1e-12)
    # One of the first text's seven words is another than in its first reference; 7 and 3 words are in its two.
    assert edits.rows[0].tolist() == [1.0, 5.0]
    twice = text_metrics.translation_scores(TEXTS[:1] * 2 + TEXTS[1:2], REFERENCES[:1] * 2 + REFERENCES[1:2], "none")["bleu"]
    assert sample.of_sums(np.array([2.0, 1.0, 0.0]) @ sample.rows) == pytest.approx(twice, rel=1e-12)
    values, scores = (score(TEXTS, REFERENCES) for score in (text_metrics.rouge_values, text_metrics.summary_scores))
    assert {name: pytest.approx(np.mean(some)) for name, some in values.items()} == scores


def test_the_bootstrap_of_a_mean_has_the_interval_of_its_standard_error():
    random = np.random.default_rng(0)
    first, second = random.normal(1.0, 1.0, 400), random.normal(0.9, 1.0, 400)
    told = bootstrap.paired_bootstrap(*map(metrics.Sample.mean, (first, second)), draws=4_000)
    difference = first - second
    error = difference.std() / 20
    assert told["difference"] == pytest.approx(difference.mean())
    assert told["low"] == pytest.approx(difference.mean() - 1.96 * error, abs=0.1 * error)
    assert told["high"] == pytest.approx(difference.mean() + 1.96 * error, abs=0.1 * error)
    far = np.mean(np.abs(random.normal(0, error, 10**6)) >= abs(difference.mean()))
    assert told["p_value"] == pytest.approx(far, abs=0.03)
    assert told == bootstrap.paired_bootstrap(*map(metrics.Sample.mean, (first, second)), draws=4_000)
    assert told != bootstrap.paired_bootstrap(*map(metrics.Sample.mean, (first, second)), draws=4_000, seed=1)


def test_the_interval_of_a_mean_and_of_an_f1():
    right = np.random.default_rng(0).random(500) < 0.8
    low, high = bootstrap.interval(metrics.Sample.mean(right), draws=4_000)
    error = right.std() / np.sqrt(500)
    assert [low, high] == pytest.approx([right.mean() - 1.96 * error, right.mean() + 1.96 * error], abs=0.15 * error)
    counts = [[1, 2, 1], [0, 0, 0], [3, 3, 5]]
    sample = metrics.Sample.f1(counts)
    assert sample.score() == metrics.f1(4, 5, 6) and metrics.Sample.f1([[0, 0, 0]]).score() == 0
    found = bootstrap.intervals({"f1": sample, "none": metrics.Sample.f1([])})["intervals"]
    assert list(found) == ["f1"] and found["f1"][0] < sample.score() < found["f1"][1] and bootstrap.intervals({}) == {}
    # the worst draw of three is the empty sentence thrice, the best the first or the third alone
    assert found["f1"][0] >= 0 and found["f1"][1] <= max(metrics.f1(1, 2, 1), metrics.f1(3, 3, 5))


def test_what_never_differs_and_what_always_differs_alike():
    ones, zeros = metrics.Sample.mean(np.ones(9)), metrics.Sample.mean(np.zeros(9))
    assert bootstrap.paired_bootstrap(ones, ones) == {"difference": 0.0, "low": 0.0, "high": 0.0, "p_value": 1.0}
    assert bootstrap.paired_bootstrap(ones, zeros) == {"difference": 1.0, "low": 1.0, "high": 1.0, "p_value": 1 / 1_001}
    with pytest.raises(Refusal, match="there are 9 of one and 8 of the other"):
        bootstrap.paired_bootstrap(ones, metrics.Sample.mean(np.ones(8)))


def test_a_summary_is_compared_with_the_first_sentence_and_with_the_whole_source():
    task = TASKS.get("summarization")()
    data = task.encode([{"source": "the cat sat. a dog ran", "target": "the cat sat"}], create_tokenizer("byte"), Layout(64, 1))
    told = task.baselines(data, {"num_judged": 1})
    assert told.keys() == {
        f"{name}_{rouge}" for name in ("lead1", "copy") for rouge in ("rouge1", "rouge2", "rougeL", "rougeLsum")
    }
    assert told["lead1_rouge1"] == 1.0 and told["copy_rouge1"] == pytest.approx(2 * 3 / (3 + 6))


@pytest.mark.parametrize(("text", "first"), [
    ("A tool. It draws.", "A tool."), ("No end", "No end"), ("  Version 1.2 is out!\nNew", "Version 1.2 is out!"),
    ("一个工具。它画画。", "一个工具。"), ("a line\nanother. one", "a line"),
])  # fmt: skip
def test_the_first_sentence(text, first):
    assert text_metrics.first_sentence(text) == first


def test_the_program_compares_two_models_and_tells_what_a_copy_is_worth(tmp_path, capfd):
    for name, strong in (("one", True), ("other", False)):
        made = exports.make("transformer", "translation", strong)
        Bundle(made.model, made.tokenizer, made.task, {}).save(tmp_path / name)
    lines = [f"{text}\t{some[0]}" for text, some in zip(TEXTS, REFERENCES, strict=True)]
    (tmp_path / "test.tsv").write_text("\n".join(lines) + "\n", encoding="utf8")
    data = f"--data_path=test={tmp_path}/test.tsv,columns=source:target"
    asked = (f"--model_dir={tmp_path}/one", data, "--split=test", "--seq_length=64", "--batch_size=2")
    answer = programs.call(capfd, "evaluate", *asked, f"--against={tmp_path}/other")
    assert answer.status == 0, answer.err
    scores, *compared = map(json.loads, answer.out.splitlines())
    copied = text_metrics.translation_scores(TEXTS, [some[:1] for some in REFERENCES])
    assert scores["copy_bleu"] == pytest.approx(copied["bleu"]) and scores["copy_chrf"] == pytest.approx(copied["chrf"])
    assert scores["ter"] > 0 and scores["ter_signature"].startswith("nrefs:1|case:lc|tok:tercom")
    told = {each["metric"]: each for each in compared}
    assert told.keys() == {"loss", "bleu", "chrf", "ter", "exact_match"}
    assert all(told[name]["value"] == pytest.approx(scores[name]) for name in ("ter", "chrf"))
    assert told["loss"]["value"] == pytest.approx(scores["loss"]) and told["bleu"]["value"] == pytest.approx(scores["bleu"])
    alone = programs.call(capfd, "evaluate", f"--model_dir={tmp_path}/other", *asked[1:])
    assert told["loss"]["other"] == pytest.approx(json.loads(alone.out)["loss"])
    for each in compared:
        assert each["difference"] == pytest.approx(each["value"] - each["other"])
        assert each["low"] <= each["high"] and 0 < each["p_value"] <= 1
