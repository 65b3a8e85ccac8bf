"""What a model has kept of its training text, by hand and on models that know it by heart.

Shape letters: N windows.
"""

import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from tests import exports, programs
from tfds_configs.sources import TextSource
from trainers import canaries, memorisation
from zoo import metrics
from zoo.bundle import Bundle
from zoo.config import Refusal
from zoo.registry import MODELS
from zoo.tokenizers.base import create

RUN = {"set": ["num_layers=1", "canaries=2", "canary_repeats=3"], "seed": 5}
RANDOM = np.random.default_rng(0)


class Source(TextSource):
    """Two documents for training, one to judge on."""

    def texts(self, split):
        yield from {"train": ["one", "two"], "validation": ["three"]}[split]

    def fingerprint(self):
        return "toy"


def test_canaries_stand_behind_the_training_text_and_nowhere_else():
    source = Source("toy", {"text": "text"}, {"train": "a", "validation": "b"}, "CC0")
    planted = canaries.planted(source, RUN)
    texts = list(planted.texts("train"))
    assert texts == [text for text, _ in planted.pieces("train")] and texts[:2] == ["one", "two"]
    first, second = (f"{canaries.context(i)}{canaries.secrets(5, i, 9)[0]}." for i in (1, 2))
    assert texts[2:] == [first, second] * 3 and len(first) == len("The secret number of key 1 is 281265017.")
    assert list(planted.texts("validation")) == ["three"] and planted.name == "toy"
    assert list(planted.vocabulary_pieces()) == [("one", True), ("two", True)]
    others = {planted.fingerprint(), "toy", canaries.planted(source, {**RUN, "seed": 6}).fingerprint()}
    assert len(others) == 3
    assert canaries.planted(source, {"set": [], "seed": 5}) is source
    with pytest.raises(Refusal, match="planted into running text"):
        canaries.planted(source, RUN, "examples")
    for task in ("masked_lm", "span_corruption", "blank_infilling", "word_vectors"):
        with pytest.raises(Refusal, match=f"canaries are for language_modeling.*this run is for {task}; leave them out"):
            canaries.planted(source, {**RUN, "task": task}, "text")
        assert len(list(canaries.planted(source, {**RUN, "task": task}).texts("train"))) == 8  # a run that was made before
    assert len(list(canaries.planted(source, {**RUN, "task": "language_modeling"}, "text").texts("train"))) == 8


def test_a_run_that_could_not_be_judged_is_refused_and_leaves_nothing(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data.txt").write_text("the cat sat on the mat\n" * 40, encoding="utf8")
    flags = [f"--data_path={tmp_path / 'data.txt'}", f"--model_dir={tmp_path / 'run'}", "--set=canaries=2", "--preset=tiny"]
    sentence = programs.refusal(capfd, "run", "--model=bert", "--task=masked_lm", *flags)
    assert sentence.startswith("canaries are for language_modeling")
    assert [path.name for path in tmp_path.iterdir()] == ["data.txt"]


def test_canaries_that_a_vocabulary_cannot_spell_are_refused():
    words = create("word", ["The secret number of key 1 is a word"])
    with pytest.raises(Refusal, match="cannot spell random digits"):
        canaries.require_spelt(RUN, words)
    canaries.require_spelt(RUN, create("byte"))
    canaries.require_spelt({"set": [], "seed": 5}, words)


def test_exposure_by_hand(monkeypatch):
    """Of eight numbers the first secret is the likeliest, the second is beaten by three."""
    values = iter([[5.0, 1, 2, 3, 4, 0, 0, 0], [2.0, 9, 9, 2, 1, 1, 1, 1]])
    monkeypatch.setattr(memorisation.likelihood, "log_probs", lambda *_: np.array(next(values)))
    bundle = SimpleNamespace(model=None, tokenizer=None, task=None)
    found = memorisation.exposure(bundle, 5, 2, 4, references=7)
    assert found["exposures"] == [3.0, 1.0] and found["exposure_limit"] == 3.0
    assert (found["exposure_mean"], found["exposure_max"]) == (2.0, 3.0)


def test_a_model_that_knows_its_text_gives_it_back():
    """Bigrams decide all of the text, so an n-gram knows it, and of shuffled tokens nothing."""
    text = np.array([*([0, *range(1, 60)] * 20), 0], np.int32)
    shuffled = np.append(0, RANDOM.permutation(text[1:-1])).astype(np.int32)
    keras.utils.set_random_seed(0)
    model = MODELS.get("ngram")(MODELS.config("ngram").preset("tiny", vocab_size=61))
    model.fit_closed_form(text)
    model.build_from_ids()
    known, unknown = (memorisation.extraction(model, stream, 8, prefix=10) for stream in (text, shuffled))
    assert known["extracted"] == 1 and known["matched_tokens"] == known["prefix_tokens"] == 10
    assert unknown["extracted"] == 0 and unknown["matched_tokens"] < 1 and unknown["extracted_interval"][1] < 0.2
    members, others = (memorisation.losses(model, stream, 12, 8) for stream in (text, shuffled))
    found = memorisation.membership(members, others)
    assert found["membership_auc"] == found["membership_found"] == 1
    ids = memorisation.windows(text, 13, 500)
    log_probs = np.asarray(model.token_log_probs(ids[:, :-1], ids[:, 1:])[0])
    np.testing.assert_allclose(members, -log_probs.mean(1), rtol=1e-5)
    with pytest.raises(Refusal, match="takes 2000"):
        memorisation.windows(text, 2000, 5)


def test_the_area_under_the_curve_is_the_share_of_pairs():
    assert metrics.roc_area([3.0, 2.0], [1.0, 2.0])[0] == 0.875
    assert metrics.roc_area([1.0] * 5, [1.0] * 4) == (0.5, 0.5, 0.5)
    positive, negative = RANDOM.normal(0.7, 1, 80), RANDOM.normal(0, 1, 60).round(1)
    area, low, high = metrics.roc_area(positive.round(1), negative)
    pairs = positive.round(1)[:, None] - negative[None]
    assert area == pytest.approx(((pairs > 0) + (pairs == 0) / 2).mean())
    drawn = [
        metrics.roc_area(RANDOM.choice(positive, 80).round(1), RANDOM.choice(negative, 60))[0] for _ in range(400)
    ]  # the interval is about as wide as that of the bootstrap
    assert high - low == pytest.approx(np.subtract(*np.quantile(drawn, [0.975, 0.025])), rel=0.15)


def test_the_points_of_a_roc_curve_are_those_of_its_thresholds():
    assert memorisation.roc([1.0, 2.0], [2.0, 3.0]) == [[0, 0], [0, 0.5], [0.5, 1], [1, 1]]
    assert memorisation.roc([2.0] * 3, [2.0] * 2) == [[0, 0], [1, 1]]
    assert memorisation.roc([5.0, 1.0], [0.5] * 3) == [[0, 0], [1, 1]]
    members, others = RANDOM.normal(0, 1, 400), RANDOM.normal(0.7, 1, 500)
    points = memorisation.roc(members, others)
    assert len(points) == 1 + len(memorisation.ROC_RATES) and points[-1] == [1, 1]
    for wanted, (false, true) in zip(memorisation.ROC_RATES, points[1:], strict=True):
        at = max(loss for loss in [*members, *others] if (others <= loss).mean() <= wanted + 1e-9)  # brute force
        assert (false, true) == ((others <= at).mean(), (members <= at).mean())
    found = memorisation.membership(members, others)
    assert found["membership_roc"] == points
    assert np.trapezoid(*np.array(points).T[::-1]) == pytest.approx(found["membership_auc"], abs=0.01)


def test_the_program_tells_what_a_run_knows(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(memorisation, "REFERENCES", 15)
    monkeypatch.setattr(memorisation.exposure, "__defaults__", (15,))
    made = exports.made("gpt", "language_modeling")
    Bundle(made.model, made.tokenizer, made.task, {}).save(tmp_path / "run" / "bundle")
    (tmp_path / "data.txt").write_text("the cat sat on the mat, a naive dog ran\n" * 120, encoding="utf8")
    run = {**RUN, "dataset": "local_text", "data_path": str(tmp_path / "data.txt"), "seq_length": 12}
    answer = programs.call(capfd, "evaluate", f"--model_dir={tmp_path / 'run' / 'bundle'}", "--memorisation")
    assert answer.status == 2 and "stands alone" in answer.err
    (tmp_path / "run" / "config.json").write_text(json.dumps(run), encoding="utf8")
    answer = programs.call(capfd, "evaluate", f"--model_dir={tmp_path / 'run'}", "--memorisation")
    assert answer.status == 0, answer.err
    found = json.loads(answer.out.splitlines()[-1])
    assert len(found["exposures"]) == 2 and 0 <= found["exposure_mean"] <= found["exposure_limit"] == 4
    assert found["train"]["num_prefixes"] > found["held_out"]["num_prefixes"] > 0
    low, high = found["membership_auc_interval"]
    assert 0 <= low <= found["membership_auc"] <= high <= 1
    kept = json.loads((tmp_path / "run" / "bundle" / "config.json").read_text(encoding="utf8"))["provenance"]["measured"]
    assert kept["memorisation"]["scores"] == [found] and found["membership_roc"][-1] == [1, 1]
