"""trainers.report: what a page says of hand-written runs, intervals against the exact binomial, and models that answer."""

import html.parser
import importlib.util
import json
import math
import re

import numpy as np
import pytest

from tests import exports, programs
from trainers import flags as trainer_flags
from trainers import memorisation
from trainers.reporting import answers, charts, intervals, page, records
from zoo import bundle as bundles
from zoo import metrics
from zoo.bundle import Bundle

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

CONFIG = {
    **trainer_flags.DEFAULTS, "model": "gpt", "task": "language_modeling", "set": [], "data_path": None, "vocab_size": 260,
    "steps": 200, "batch_size": 4, "seq_length": 8, "eval_every": 100, "checkpoint_every": 100, "export": False,
    "data": {"text": "a", "tokenizer": "b", "labels": []},
}  # fmt: skip
LM_LINES = [
    {"step": 100, "split": "train", "loss": 4.8125, "bits_per_byte": 3.1, "gradient_norm": 0.75, "learning_rate": 0.00123,
     "seconds": 2.0, "tokens_per_second": 1600.0, "flop_utilisation": 0.25, "data_wait": 0.0, "memory_bytes": 600_000_000},
    {"step": 100, "split": "validation", "loss": 4.7512, "bits_per_byte": 3.0625, "perplexity": 115.7, "num_tokens": 800},
    {"step": 200, "split": "train", "loss": 3.9375, "bits_per_byte": 2.7, "gradient_norm": 0.5, "learning_rate": 0.00012,
     "seconds": 3.5, "tokens_per_second": 914.3, "flop_utilisation": 0.15, "data_wait": 0.1, "memory_bytes": 650_000_000},
    {"step": 200, "split": "validation", "loss": 3.8811, "bits_per_byte": 2.5781, "perplexity": 48.48, "num_tokens": 1600},
    {"step": 200, "split": "test", "loss": 3.9219, "bits_per_byte": 2.6094, "perplexity": 50.5, "num_tokens": 1700},
]  # fmt: skip
CONFUSION = [[40, 2, 0], [5, 31, 4], [0, 3, 15]]


class Parser(html.parser.HTMLParser):
    """Checks that elements are closed in order, and collects texts and attributes."""

    VOID = ("meta", "br", "link", "img", "input")

    def __init__(self):
        super().__init__()
        self.open, self.texts, self.ids, self.attributes = [], [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.attributes += attrs

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def parsed(text):
    """The `Parser` after a whole page, which must need no network and describe every chart."""
    parser = Parser()
    parser.feed(text)
    parser.close()
    assert not parser.open
    assert not re.search(r"https?:|//|@import|<script|<link|<img", re.sub(r"/\*.*?\*/", "", text))
    assert text.count("<svg") == text.count('role="img"') == text.count("<title>") - 1 == text.count("<figcaption>")
    ids = {value for name, value in parser.attributes if name == "id"}
    references = [value for name, value in parser.attributes if name == "href" and value.startswith("#")]
    assert {reference[1:] for reference in references} <= ids
    return parser


def written(directory, config=CONFIG, lines=LM_LINES):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config), encoding="utf8")
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf8")
    return directory


def report(capfd, *runs, flags=("--nosamples",)):
    answer = programs.call(capfd, "report", *(f"--model_dir={run}" for run in runs), *flags)
    assert answer.status == 0, answer.err
    assert answer.out.startswith(f"Report: {runs[0] / 'report.html'}, ")
    return (runs[0] / "report.html").read_text(encoding="utf8")


def test_a_run_without_a_bundle_shows_its_numbers(tmp_path, capfd):
    text = report(capfd, written(tmp_path / "r"))
    words = " ".join(parsed(text).texts)
    for number in ("4.8125", "3.9375", "4.7512", "3.8811", "3.9219", "2.6094", "0.00123", "0.00012"):
        assert charts.figure(float(number)) in words, number
    assert "200 of 200 steps" in words and "The run has not ended." in words and "python_docs" in words
    assert "6,400" in words and "5.5s" in words  # 200 steps of 4 x 8 places; 2.0 s and 3.5 s
    assert "No intervals for bits_per_byte, loss, perplexity" in words
    assert "judged on 1,600 tokens, those before it on 800" in words
    assert "650 MB" in words and "20.0% of the peak" in words
    assert "The model was not asked" in words
    assert "prefers-color-scheme: dark" in text and "currentColor" in text
    assert not re.search(r"#[0-9a-f]{6}", re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL))


def test_what_a_user_wrote_is_text_and_not_html(tmp_path, capfd):
    config = {**CONFIG, "data_path": "<b>&\"'.txt", "dataset": "local_text"}
    assert "<b>" not in report(capfd, written(tmp_path / "<i>r", config))


def test_the_comparison_of_several_runs(tmp_path, capfd):
    first, lstm = written(tmp_path / "r1"), written(tmp_path / "r2", {**CONFIG, "model": "lstm"}, LM_LINES[:4])
    counted = [
        {"step": 0, "split": "fit", "tokens": 5000, "seconds": 0.25},
        {"step": 0, "split": "validation", "loss": 5.5, "bits_per_byte": 4.125, "perplexity": 244.7, "num_tokens": 1600},
        {"step": 0, "split": "test", "loss": 5.6, "bits_per_byte": 4.25, "perplexity": 270.4, "num_tokens": 1700},
    ]
    other = {"text": "another", "tokenizer": "c", "labels": []}
    ngram = written(tmp_path / "r3", {**CONFIG, "model": "ngram", "data": other}, counted)
    text = report(capfd, first, lstm, ngram)
    words = " ".join(parsed(text).texts)
    assert "Score: bits_per_byte on the validation split; lower is better" in words
    for number in ("2.609", "2.578", "4.25", "0.2s", "5,000"):
        assert number in words, number
    assert "judged on different text" in words and "tokenizers differ" in words
    assert "may be judged on a part of the split alone" in words
    assert "Not in the chart of parameters, as the run does not tell: gpt, lstm, ngram" in words
    assert 'href="#run-2"' in text
    assert "point a run. gpt: seconds of training 5.5, bits_per_byte 2.609; lstm" in text
    assert "counted in closed form" in words
    names = records.names([records.read(run) for run in (first, ngram, first)])
    assert names == [f"gpt ({first})", "ngram", f"gpt ({first})"]


def test_the_time_of_an_answer_is_compared_where_there_is_an_export(tmp_path):
    runs = [records.read(written(tmp_path / name)) for name in ("r1", "r2")]
    (tmp_path / "r1" / "export").symlink_to(exports.directory("bag_of_words", "classification"))
    times = [answers._latency(run.directory / "export") for run in runs]
    assert times[0] > 0 and times[1] is None
    text = page.page(runs, [answers.Answers(milliseconds=12.5), answers.Answers()])
    words = " ".join(parsed(text).texts)
    assert "ms an answer" in words and "12.5" in words and "bits_per_byte against milliseconds an answer" in words
    assert f"Not in the chart of milliseconds an answer, as the run does not tell: gpt ({tmp_path / 'r2'})" in words
    assert "ms an answer" not in page.page(runs, [answers.Answers(), None])


def test_a_classifier_has_its_matrix_its_intervals_and_its_calibration(tmp_path, capfd):
    bins = [[30, 0.55, 0.6], [70, 0.9, 0.9428]]
    judged = {
        "loss": 0.5, "accuracy": 0.86, "macro_f1": metrics.macro_f1(np.array(CONFUSION)), "calibration_error": 0.0450,
        "calibration": bins, "num_examples": 100, "confusion_matrix": CONFUSION,
    }  # fmt: skip
    lines = [{"step": 200, "split": split, **judged} for split in ("validation", "test")]
    labels = ["<good>", "bad", "neither"]
    config = {**CONFIG, "model": "bert", "task": "classification", "data": {"labels": labels}}
    text = report(capfd, written(tmp_path / "r", config, lines))
    words = " ".join(parsed(text).texts)
    assert "<good>" not in text and "<good>" in words
    low, high = intervals.of_confusion(np.array(CONFUSION), intervals.accuracy)
    assert f"{charts.figure(low)} to {charts.figure(high)}" in words and "100 of validation and 100 of test" in words
    assert "No intervals for calibration_error, loss" in words
    assert "0.9428" in words and "calibration error 0.0450" in words
    confused = re.search(r"What is confused most.*?</table>", text, re.DOTALL)[0]
    assert re.findall(r">([^<]+)</t[hd]>", confused)[4:8] == ["bad", "&lt;good&gt;", "5", "40"]


def test_intervals_that_the_log_tells_are_shown(tmp_path, capfd):
    judged = {"loss": 1.5, "bleu": 41.25, "chrf": 60.0, "num_judged": 1_000, "intervals": {"bleu": [40.5, 42.125]}}
    config = {**CONFIG, "model": "transformer", "task": "translation"}
    text = report(capfd, written(tmp_path / "r", config, [{"step": 200, "split": "test", **judged}]))
    words = " ".join(parsed(text).texts)
    assert "40.5 to 42.1" in words and "Intervals of bleu: bootstrap over the examples (1,000 of test)" in words
    assert "No intervals for chrf, loss" in words


def exact_interval(right, count):
    """The middle 95% of a binomial distribution divided by its count."""
    share, total, bounds = right / count, 0.0, []
    for k in range(count + 1):
        total += math.comb(count, k) * share**k * (1 - share) ** (count - k)
        if len(bounds) == 0 and total >= 0.025:
            bounds.append(k / count)
        if len(bounds) == 1 and total >= 0.975:
            bounds.append(k / count)
    return bounds


@pytest.mark.parametrize(("right", "count"), [(86, 100), (7, 9), (250, 400), (5, 5)])
def test_intervals_of_shares_are_those_of_the_binomial(right, count):
    """The bootstrap of a mean of zeros and ones is a binomial draw; quantiles of 2,000 draws may be one count off."""
    found = intervals.of_share(right / count, count)
    assert found == pytest.approx(exact_interval(right, count), abs=1 / count + 1e-9)


def test_intervals_of_a_matrix_are_those_of_drawn_examples():
    confusion = np.array(CONFUSION)
    labels, told = np.nonzero(confusion)
    counts = confusion[labels, told]
    labels, told = np.repeat(labels, counts), np.repeat(told, counts)
    random, scores = np.random.default_rng(1), []
    for _ in range(2000):
        chosen = random.integers(0, len(labels), len(labels))
        scores.append(metrics.macro_f1(metrics.confusion_matrix(labels[chosen], told[chosen], 3)))
    found = intervals.of_confusion(confusion, metrics.macro_f1)
    assert found == pytest.approx(np.quantile(scores, [0.025, 0.975]), abs=0.01)
    line = {"exact_match": 0.5, "num_questions": 40, "f1": 0.6}
    assert intervals.of_line(line) == {"exact_match": intervals.of_share(0.5, 40)}
    words = {"accuracy": 0.9, "confusion_matrix": CONFUSION, "num_words": 7}  # those of a sentence depend on each other
    assert intervals.of_line(words) == {}


def test_refusals(tmp_path, capfd, monkeypatch):
    assert "--model_dir is missing" in programs.refusal(capfd, "report")
    assert "holds no run with scores" in programs.refusal(capfd, "report", f"--model_dir={tmp_path}")
    run = written(tmp_path / "r")
    (run / "metrics.jsonl").write_text('{"step": 1}\n', encoding="utf8")
    assert "a line has no step or no split" in programs.refusal(capfd, "report", f"--model_dir={run}")
    (run / "metrics.jsonl").write_text('{"step": 1', encoding="utf8")
    assert "metrics.jsonl is damaged" in programs.refusal(capfd, "report", f"--model_dir={run}")
    written(run, {"model": "gpt"})
    assert "has no 'task'" in programs.refusal(capfd, "report", f"--model_dir={run}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install -e '.[report]'" in programs.refusal(capfd, "report", f"--model_dir={run}")
    assert not (run / "report.html").exists()


def with_bundle(directory, model, task, made=None, **config):
    made = made or exports.made(model, task)
    written(directory, {**CONFIG, "model": model, "task": task, **config})
    Bundle(made.model, made.tokenizer, made.task, {"licence": "CC0"}).save(directory / "bundle")
    return directory


def test_a_language_model_shows_its_plan_and_its_samples(tmp_path, capfd):
    run = with_bundle(tmp_path / "r", "gpt", "language_modeling")
    found = parsed(report(capfd, run, flags=()))
    words = " ".join(found.texts)
    record = records.read(run)
    assert record.num_params == exports.made("gpt", "language_modeling").model.count_params()
    assert f"{record.num_params:,}" in words and "CC0" in words
    assert "What it knows by heart: not measured (trainers.evaluate --memorisation)" in found.texts
    assert "Privacy: the run made no promise; the weights may hold any part of the training text" in found.texts
    assert charts.figure(record.plan.flops_per_token) in words
    assert len([t for t in found.texts if t.startswith(("'The", '"The'))]) == answers.NUM_SAMPLES


def test_what_evaluate_has_measured_is_drawn(tmp_path, capfd):
    run = with_bundle(tmp_path / "r", "gpt", "language_modeling")
    assert "Reliability diagram" not in report(capfd, run)
    config = bundles.read_config(run / "bundle")
    config["provenance"]["privacy"] = {"epsilon": 3.5, "delta": 1e-5, "unit": "one document"}
    (run / "bundle" / "config.json").write_text(json.dumps(config), encoding="utf8")
    told = {"calibration_error": 0.0321, "brier": 0.5, "calibration": [[300, 0.25, 0.21875], [80, 0.75, 0.8125]]}
    bundles.write_measured(run / "bundle", "calibration", "toy, test", [told])
    part = {"extracted": 0.25, "extracted_interval": [0.1, 0.4], "num_prefixes": 200}
    found = {"train": part, "held_out": part, **memorisation.membership(np.array([1.0, 2.0]), np.array([2.0, 3.0]))}
    bundles.write_measured(run / "bundle", "memorisation", "toy", [found])
    text = report(capfd, run)
    words = " ".join(parsed(text).texts)
    assert "Privacy: epsilon 3.5 at delta 1e-05, for one document" in words and "no promise" not in words
    assert "Membership by loss: ROC" in words and "AUC 0.8750" in words
    assert "training windows found over share of held-out windows taken for training text. this model: 0 at" in text
    assert "Next token, toy, test: how often the likeliest is right, calibration error 0.0321" in words
    assert "Reliability diagram. 300 answers at 0.25: 0.22 right; 80 answers at 0.75: 0.81 right." in text
    assert "0.2188" in words and "0.8125" in words  # the table


def test_an_encoder_decoder_shows_what_it_writes_and_how_that_is_aligned(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "MOST_NEW_TOKENS", 8)
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("the cat\tle chat\nthe dog\tle chien\n" * 20, encoding="utf8")
    settings = dict(dataset="local_text", data_path=f"{pairs},columns=source:target")
    run = with_bundle(tmp_path / "r", "transformer", "translation", **settings)
    asked = answers.ask(records.read(run))
    columns, rows = asked.examples
    assert columns == ("source", "reference", "written") and rows[0][:2] in (["the cat", "le chat"], ["the dog", "le chien"])
    assert asked.alignments
    for source, target, weights in asked.alignments:
        assert "".join(source) in ("thecat", "thedog")
        assert np.array(weights).shape == (len(target), len(source))
    words = " ".join(parsed(page.page([records.read(run)], [asked])).texts)
    assert "le chien" in words and "how much each written token" in words
    pairs.unlink()
    asked = answers.ask(records.read(run))
    assert asked.examples is None and "Examples of the data are left out" in asked.remarks[0]


def test_a_classifier_answers_the_first_examples(tmp_path):
    table = tmp_path / "texts.tsv"
    table.write_text("no\tthe cat sat\nyes\tthe dog\n" * 20, encoding="utf8")
    settings = dict(dataset="local_text", data_path=f"{table},columns=label:text")
    run = with_bundle(tmp_path / "r", "bert", "classification", **settings)
    asked = answers.ask(records.read(run))
    columns, rows = asked.examples
    assert ["".join(each.tokens) for each in asked.explanations] == [row[0] for row in rows[: answers.NUM_EXPLAINED]]
    assert all(each.html() in page.answered(asked) for each in asked.explanations)
    assert columns == ("text", "right", "answer") and rows[0][0] in ("the cat sat", "the dog")
    assert re.fullmatch(r"\w+ [01]\.\d\d, \w+ [01]\.\d\d, \w+ [01]\.\d\d", rows[0][2])


def test_a_masked_language_model_answers_the_requests_of_its_export(tmp_path):
    asked = answers.ask(records.read(with_bundle(tmp_path / "r", "bert", "masked_lm")))
    assert re.match(r"'The \[MASK\] is' -> \S+ \S+", asked.samples[0]) and asked.examples is None


def test_word_vectors_show_neighbours(tmp_path):
    made = exports.make("word2vec", "word_vectors")
    made.model.head.counts.assign(np.arange(made.model.head.counts.shape[0]))
    run = with_bundle(tmp_path / "r", "word2vec", "word_vectors", made)
    asked = answers.ask(records.read(run))
    words = " ".join(parsed(page.page([records.read(run)], [asked])).texts)
    assert len(asked.neighbours) > 1
    for word, near in asked.neighbours:
        assert word in words and 0 < len(near) <= answers.NUM_NEIGHBOURS
        assert all(-1.001 <= similarity <= 1.001 for _, similarity in near)


def test_calibration_bins_by_hand():
    probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.35, 0.65], [0.45, 0.55]])
    found = metrics.calibration(probs, np.array([0, 1, 1, 1]), 4)
    assert found == [[2, pytest.approx(0.6), 1.0], [2, pytest.approx(0.85), 0.5]]


def test_of_a_tagged_sentence_the_first_tag_that_says_something_is_explained(tmp_path):
    table = tmp_path / "tagged.conll"
    table.write_text("the O\nold O\nDog B-PER\nDo I-PER\n\nit O\nis O\n\n" * 10, encoding="utf8")
    run = with_bundle(tmp_path / "r", "bert", "tagging", dataset="local_text", data_path=f"{table},format=conll,column=2")
    asked = answers.ask(records.read(run))
    assert asked.remarks == []
    assert {each.of for each in asked.explanations} == {"the word 'Dog'", "the word 'it'"}


def test_of_the_first_predicate_the_first_role_is_explained(tmp_path):
    table = tmp_path / "roles.conll"
    table.write_text("the - O O\ncat - O B-A0\nsits sit B-V O\nand - O O\nlooks look O B-V\n\n" * 10, encoding="utf8")
    run = with_bundle(tmp_path / "r", "bert", "semantic_roles", dataset="local_text", data_path=f"{table},format=conll")
    explained = answers.ask(records.read(run)).explanations
    assert explained and all("'cat'" in each.of and "'looks'" in each.of for each in explained)
