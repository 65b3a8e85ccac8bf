"""How good probabilities are, and the temperature that mends them.

Shape letters: N answers, C classes.
"""

import itertools
import json
import math

import numpy as np
import pytest
import tensorflow as tf

import zoo
from tests import exports, programs, tiny_models
from trainers import evaluate
from zoo import bundle as bundles
from zoo import calibration, metrics
from zoo.bundle import Bundle
from zoo.config import Refusal
from zoo.data.batch import Layout
from zoo.models.base import LanguageModel

RANDOM = np.random.default_rng(0)
LOGITS_NC = 3 * RANDOM.normal(size=(400, 5)).astype(np.float32)
PROBS_NC = np.exp(LOGITS_NC) / np.exp(LOGITS_NC).sum(1, keepdims=True)
# Labels are drawn from the distributions of the logits over 2.5: the temperature that is to be found.
TRUE_NC = np.exp(LOGITS_NC / 2.5) / np.exp(LOGITS_NC / 2.5).sum(1, keepdims=True)
LABELS_N = np.array([RANDOM.choice(5, p=p / p.sum()) for p in TRUE_NC], np.int32)
ONES_N = np.ones(400, np.float32)


def loss(temperature):
    scaled = LOGITS_NC.astype(np.float64) / temperature
    return float((np.log(np.exp(scaled).sum(1)) - scaled[np.arange(400), LABELS_N]).mean())


def sums(inverse):
    return {name: float(value) for name, value in calibration.slopes(LOGITS_NC, LABELS_N, ONES_N, inverse).items()}


def test_sums_in_graph_are_the_scores_of_all_answers_at_once():
    halves = [calibration.reliability(LOGITS_NC[a:b], LABELS_N[a:b], ONES_N[a:b]) for a, b in ((0, 150), (150, 400))]
    found = calibration.scores({name: halves[0][name] + halves[1][name] for name in halves[0]})
    assert found["calibration_error"] == pytest.approx(metrics.calibration_error(PROBS_NC, LABELS_N), abs=1e-6)
    assert found["brier"] == pytest.approx(metrics.brier_score(PROBS_NC, LABELS_N), abs=1e-6)
    np.testing.assert_allclose(found["calibration"], metrics.calibration(PROBS_NC, LABELS_N), atol=1e-6)
    ignored = calibration.reliability(LOGITS_NC, LABELS_N, np.append(ONES_N[:150], 0 * ONES_N[150:]))
    assert float(ignored["brier"]) == pytest.approx(float(halves[0]["brier"]), rel=1e-6)


def test_the_slopes_are_the_derivatives_of_the_loss():
    inverse = tf.constant(0.7)
    with tf.GradientTape() as outer:
        outer.watch(inverse)
        with tf.GradientTape() as inner:
            inner.watch(inverse)
            found = calibration.slopes(LOGITS_NC, LABELS_N, ONES_N, inverse)
        first = inner.gradient(found["nats"], inverse)
    assert float(found["slope"]) == pytest.approx(float(first), rel=1e-4)
    assert float(found["curvature"]) == pytest.approx(float(outer.gradient(first, inverse)), rel=1e-4)
    assert float(found["nats"]) == pytest.approx(400 * loss(1 / 0.7), rel=1e-5)


def test_the_temperature_is_that_of_the_least_loss():
    temperature, before, after = calibration.fit_temperature(sums)
    grid = np.linspace(1.5, 4, 2_501)
    assert temperature == pytest.approx(grid[np.argmin([loss(t) for t in grid])], abs=2e-3)
    assert 2 < temperature < 3.2  # the labels were drawn at 2.5
    assert (before, after) == (pytest.approx(loss(1), rel=1e-5), pytest.approx(loss(temperature), rel=1e-5))
    impossible = np.where(np.arange(5) == 4, -np.inf, LOGITS_NC)[LABELS_N != 4]  # ids that a tokenizer lacks
    found = calibration.slopes(impossible, LABELS_N[LABELS_N != 4], np.ones(len(impossible), np.float32), 0.5)
    assert all(math.isfinite(float(value)) for value in found.values())


def refused(logits, labels, weights):
    """The sentence with which a temperature is refused."""
    with pytest.raises(Refusal) as refusal:
        calibration.fit_temperature(lambda b: {k: float(v) for k, v in calibration.slopes(logits, labels, weights, b).items()})
    return str(refusal.value)


def test_a_temperature_is_refused_for_what_was_found():
    right, wrong = LOGITS_NC.argmax(1), LOGITS_NC.argmin(1)
    said = refused(LOGITS_NC, right, ONES_N)
    assert said.startswith("The labels are likelier the lower the temperature is (loss ")
    assert said.endswith("hardly learnt; give more examples, some of which it gets wrong, or train it further.")
    said = refused(LOGITS_NC, wrong, ONES_N)
    assert said.startswith("The labels score no higher than other answers (loss ")
    assert said.endswith("train the model further, or calibrate it on examples like those that it has learnt from.")
    # Odds of e to 1 for the wrong one of two: log(1 + e) nats as they are, log(1 + e ** (1 / 16)) at 16.
    assert "(loss 1.313 nats an answer; 0.7249 at the temperature 16)" in refused(
        np.array([[1.0, 0.0]] * 3, np.float32), np.array([1, 1, 1]), np.ones(3, np.float32)
    )
    assert "no answer of the split counts" in refused(LOGITS_NC, right, np.zeros_like(ONES_N))
    assert "is nan nats an answer" in refused(LOGITS_NC * np.float32(np.nan), right, ONES_N)


MOVES_SS = RANDOM.normal(size=(4, 4)).astype(np.float32)
MOVES_SS[1, 2] = -np.inf  # one move is forbidden
UNARY_BWC = 2 * RANDOM.normal(size=(3, 4, 3)).astype(np.float32)
TAGS_BW, COUNTS_B = RANDOM.integers(0, 3, (3, 4)), np.array([4, 2, 3])
MASK_BW = np.arange(4) < COUNTS_B[:, None]


def of_chains(inverse):
    """(nats of all rows, marginals) at 1 / T, by all sequences of tags."""
    moves = MOVES_SS.astype(np.float64)
    nats, marginals = 0.0, np.zeros(UNARY_BWC.shape)
    for b, count in enumerate(COUNTS_B):
        scores = {}
        for tags in itertools.product(range(3), repeat=int(count)):
            path = [3, *tags, 3]
            score = sum(float(UNARY_BWC[b, w, tag]) for w, tag in enumerate(tags))
            scores[tags] = inverse * (score + sum(moves[i, j] for i, j in itertools.pairwise(path)))
        total = np.log(sum(map(np.exp, scores.values())))
        nats += total - scores[tuple(TAGS_BW[b, :count].tolist())]
        for tags, score in scores.items():
            for w, tag in enumerate(tags):
                marginals[b, w, tag] += np.exp(score - total)
    return nats, marginals


def test_sums_of_a_crf_are_those_over_all_sequences():
    assert not any((TAGS_BW[b, w], TAGS_BW[b, w + 1]) == (1, 2) for b in range(3) for w in range(COUNTS_B[b] - 1))
    logits = UNARY_BWC, MOVES_SS
    weights = MASK_BW.astype(np.float32)
    _, marginals = of_chains(1.0)
    found = calibration.scores(calibration.reliability(logits, TAGS_BW, weights))
    assert found["brier"] == pytest.approx(metrics.brier_score(marginals[MASK_BW], TAGS_BW[MASK_BW]), abs=1e-5)
    assert found["calibration_error"] == pytest.approx(
        metrics.calibration_error(marginals[MASK_BW], TAGS_BW[MASK_BW]), abs=1e-5
    )
    for inverse in (0.3, 1.0, 1.7):
        found = {name: float(v) for name, v in calibration.slopes(logits, TAGS_BW, weights, inverse).items()}
        low, middle, high = (of_chains(inverse + step)[0] for step in (-1e-3, 0, 1e-3))
        assert (found["nats"], found["count"]) == (pytest.approx(middle, rel=1e-5), 9)
        assert found["slope"] == pytest.approx((high - low) / 2e-3, rel=1e-4, abs=1e-4)
        assert found["curvature"] == pytest.approx((high - 2 * middle + low) / 1e-6, rel=2e-2)


@pytest.mark.parametrize("logits", ["whole", "chunks"])
def test_a_language_model_scores_and_decodes_at_its_temperature(logits, monkeypatch):
    model = tiny_models.strengthen(tiny_models.create("gpt"))
    ids = tiny_models.token_ids(model, 3, 8)
    plain = np.asarray(model(ids[:, :-1]), np.float64) / 2
    if logits == "chunks":
        monkeypatch.setattr("zoo.models.base.resolve_logits", lambda *_: True)
    model.temperature = 2.0
    found, _ = LanguageModel.token_log_probs(model, ids[:, :-1], ids[:, 1:])
    expected = plain - np.log(np.exp(plain).sum(-1, keepdims=True))
    expected = np.take_along_axis(expected, ids[:, 1:, None], -1)[..., 0]
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-5)
    last, _ = model.next_logits(ids[:, :-1], model.init_state(3, 8))
    np.testing.assert_allclose(np.asarray(last), plain[:, -1], atol=1e-4)


def tagger_with_a_crf():
    """A tagger with a CRF whose moves are not even, as `exports.make` makes one without."""
    plain = exports.made("bilstm", "tagging")
    config = plain.task.config.replace(crf=True)
    task = type(plain.task)(config, plain.task.facts)
    model = task.assemble(type(plain.model.backbone)(plain.model.backbone.config)).build_from_ids()
    model = tiny_models.strengthen(model)
    model.head.crf.transitions.assign(RANDOM.normal(size=model.head.crf.transitions.shape))
    return plain._replace(model=model, task=task)


@pytest.mark.parametrize(("name", "task"), [
    ("gpt", "language_modeling"), ("bert", "classification"), ("bert", "tagging"), ("bilstm", "tagging"),
])  # fmt: skip
def test_the_program_keeps_a_temperature_in_the_bundle(name, task, tmp_path, capfd):
    made = tagger_with_a_crf() if name == "bilstm" else exports.made(name, task)
    Bundle(made.model, made.tokenizer, made.task, {}).save(tmp_path / "bundle")
    assert "temperature" not in bundles.read_config(tmp_path / "bundle")
    texts = ["the cat sat on the mat", "a dog is not a cat", "the mat", "a naive dog ran", "dog cat", "cat a the mat sat"]
    loaded = plain = zoo.load(tmp_path / "bundle")
    if task == "tagging":  # most words have the tag that the model gives them
        rows = []
        for number, text in enumerate(texts):
            tags = loaded.predict("tag", text=[text])["tags"][0].tolist()
            if name != "bilstm" or number % 3 == 0:  # a tag that is wrong makes moves wrong too
                tags[0] = "no" if tags[0] != "no" else "yes"
            rows.append("\n".join(f"{word} {tag}" for word, tag in zip(text.split(), tags, strict=True)))
        (tmp_path / "data.conll").write_text("\n\n".join(rows) + "\n", encoding="utf8")
        path = tmp_path / "data.conll"
    elif task == "classification":
        ranked = loaded.predict("classify", text=texts)["labels"].tolist()
        rows = [f"{labels[i]}\t{text}" for text, labels in zip(texts, ranked, strict=True) for i in (0, 0, 1)]
        (tmp_path / "data.tsv").write_text("\n".join(rows) + "\n", encoding="utf8")
        path = f"train={tmp_path / 'data.tsv'},validation={tmp_path / 'data.tsv'},columns=label:text"
    else:
        (tmp_path / "data.txt").write_text("\n".join(texts * 4) + "\n", encoding="utf8")
        path = tmp_path / "data.txt"
    flags = [f"--model_dir={tmp_path / 'bundle'}", f"--data_path={path}", "--seq_length=24", "--split=validation"]
    answer = programs.call(capfd, "evaluate", *flags, "--calibration")
    assert answer.status == 0, answer.err
    before = json.loads(answer.out.splitlines()[-1])
    answer = programs.call(capfd, "evaluate", *flags, "--calibrate", "--calibration")
    assert answer.status == 0, answer.err
    fitted, after = (json.loads(line) for line in answer.out.splitlines())
    assert fitted["loss_before"] == pytest.approx(before["loss"], rel=1e-4)
    assert fitted["loss_after"] == pytest.approx(after["loss"], rel=1e-4) and after["loss"] < before["loss"]
    assert 0 <= after["calibration_error"] <= 1 and sum(n for n, *_ in after["calibration"]) > 0
    assert bundles.read_config(tmp_path / "bundle")["temperature"] == fitted["temperature"] != 1
    loaded = bundles.load(tmp_path / "bundle")
    assert loaded.model.temperature == loaded.task.temperature == fitted["temperature"]
    loaded.save(tmp_path / "again")
    if task == "tagging":  # what is served keeps its tags, and above 1 each is less likely than before
        before, after = (each.predict("tag", text=texts) for each in (plain, zoo.load(tmp_path / "again")))
        assert (before["tags"] == after["tags"]).all()
        assert ((after["score"] < before["score"]) == (fitted["temperature"] > 1)).all()
    assert bundles.read_config(tmp_path / "again") == bundles.read_config(tmp_path / "bundle")


def test_what_has_no_logits_is_refused(tmp_path, capfd):
    made = exports.made("ngram", "language_modeling")
    Bundle(made.model, made.tokenizer, made.task, {}).save(tmp_path / "bundle")
    (tmp_path / "data.txt").write_text("the cat sat on the mat\n" * 9, encoding="utf8")
    flags = [f"--model_dir={tmp_path / 'bundle'}", f"--data_path={tmp_path / 'data.txt'}", "--seq_length=24"]
    answer = programs.call(capfd, "evaluate", *flags, "--calibrate")
    assert answer.status == 2 and "has counted its probabilities" in answer.err
    made = exports.made("bert", "masked_lm")
    bundle = Bundle(made.model, made.tokenizer, made.task, {})
    with pytest.raises(Refusal, match="cannot be calibrated"):
        evaluate.calibration_scores(bundle, np.arange(1, 40) % 9, Layout(8, 2))
