"""Classification: from examples to batches, loss, scores and answers; and what is refused."""

import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import tiny_models
from zoo import metrics
from zoo.config import Refusal
from zoo.data import examples
from zoo.data.batch import Layout
from zoo.data.examples import Frame, framed_texts
from zoo.models.bag_of_words import BagOfWords, BagOfWordsConfig
from zoo.registry import MODELS, tasks_of
from zoo.signatures.rows import rows_in_graph
from zoo.tasks.classification import Classification, ClassificationConfig, ClassificationFacts
from zoo.tokenizers.base import create

EXAMPLES = [{"text": text, "label": label} for text, label in (
    ("good", "yes"), ("bad thing", "no"), ("so so", "perhaps"), ("fine", "yes"), ("very good", "yes"),
)]  # fmt: skip
LAYOUT = Layout(seq_length=8, batch_size=3)
BYTES = create("byte")
ENCODER = SimpleNamespace(kind="encoder", takes=("token_ids", "padding_mask", "segment_ids"))
NAMES = [name for name in MODELS.names() if "classification" in tasks_of(MODELS.config(name))]


def adapted(examples=EXAMPLES, **fields):
    task = Classification(ClassificationConfig(**fields))
    task.inspect(examples)
    return task


def test_classes_are_those_of_the_training_split():
    assert adapted().facts.labels == ("no", "perhaps", "yes")
    assert adapted(labels=("yes", "perhaps", "no")).facts.labels == ("yes", "perhaps", "no")
    weights = adapted(balance=True).facts.class_weights
    assert weights == pytest.approx((5 / 3, 5 / 3, 5 / 9))
    paired = adapted([{"text": "a", "text_pair": "b", "label": i} for i in range(2)])
    assert paired.facts == ClassificationFacts(labels=("0", "1"), pair=True)
    assert paired.config == ClassificationConfig()  # what was asked stays as it was


def test_what_the_data_tells_cannot_be_asked_for():
    for option in ("pair=true", "max_tokens=7"):
        with pytest.raises(Refusal, match="ClassificationConfig has no field"):
            ClassificationConfig().override([option])


def test_rows_of_one_and_two_texts():
    begin = end = BYTES.eos_id
    frame = framed_texts("encoder", BYTES)
    ids, segments = examples.row([[1, 2, 3]], frame, 8)
    assert (ids.tolist(), segments.tolist()) == ([begin, 1, 2, 3, end], [0] * 5)
    ids, segments = examples.row([[1, 2, 3, 4, 5], [6, 7]], frame, 8)
    assert ids.tolist() == [begin, 1, 2, 3, end, 6, 7, end]  # the longer one gives way
    assert segments.tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    assert examples.row([[1] * 9, [2] * 9], frame, 10)[0].tolist() == [begin, 1, 1, 1, end, 2, 2, 2, 2, end]
    assert examples.overlong([[1, 2], [3]], frame, 5) and not examples.overlong([[1, 2], [3]], frame, 6)


FRAMES = {
    "encoder": Frame((7,), (8,), (9,), segments=True),
    "language_model": Frame((7,), (), ()),
    "no front": Frame((), (8, 6), (9,)),
}  # fmt: skip


@pytest.mark.parametrize("frame", list(FRAMES))
@pytest.mark.parametrize("limit", [5, 8, 11, None])
def test_rows_in_graph_are_the_native_rows(limit, frame):
    frame = FRAMES[frame]
    texts = [["abcdefgh", "", "a", "xyz"], ["12", "3456789", "", "4567"]]
    for some in (texts, texts[:1]):
        batch = rows_in_graph([BYTES.tokenize(tf.constant(column)) for column in some], frame, BYTES.pad_id, limit)
        for number, row in enumerate(zip(*some, strict=True)):
            ids, segments = examples.row([BYTES.encode(text) for text in row], frame, limit or 99)
            length = int(tf.reduce_sum(tf.cast(batch["padding_mask"][number], tf.int32)))
            assert batch["token_ids"][number, :length].numpy().tolist() == ids.tolist()
            if frame.segments:
                assert batch["segment_ids"][number, :length].numpy().tolist() == segments.tolist()
            else:
                assert "segment_ids" not in batch
    empty = BYTES.tokenize(tf.constant([], tf.string))
    assert rows_in_graph([empty], frame, BYTES.pad_id, limit)["token_ids"].shape[0] == 0


def test_every_epoch_takes_each_example_once_and_only_seed_and_step_count():
    batches = examples.ExampleBatches(7, 3, 5, lambda chosen, step: chosen)
    seen = [i for step in range(14) for i in batches.batch(step)]
    assert [sorted(seen[start : start + 7]) for start in range(0, 42, 7)] == [list(range(7))] * 6
    assert len({tuple(seen[start : start + 7]) for start in range(0, 42, 7)}) == 6
    assert examples.ExampleBatches(7, 3, 5, lambda chosen, step: chosen).batch(9) == batches.batch(9)
    assert examples.ExampleBatches(7, 3, 6, lambda chosen, step: chosen).batch(9) != batches.batch(9)
    with pytest.raises(ValueError, match="nothing to train on"):
        examples.ExampleBatches(0, 3, 5, None)


def test_loss_with_weights_of_classes():
    task = adapted(class_weights=(2.0, 0.5, 1.0))
    data = task.encode(EXAMPLES, BYTES, LAYOUT)
    batch = task.training_batches(data, ENCODER, BYTES, LAYOUT).batch(0)
    assert batch["token_ids"].shape == (3, 8) and task.facts.max_tokens == 8 and data.num_cut == 2
    np.testing.assert_array_equal(batch["loss_weights"], np.array([2.0, 0.5, 1.0], np.float32)[batch["labels"]])
    logits = np.log(np.array([[0.2, 0.3, 0.5]] * 3, np.float32))
    total, count = task.loss({"labels": np.array([0, 1, 2]), "loss_weights": np.array([2.0, 0.5, 1.0])}, logits)
    assert float(total) == pytest.approx(-2 * math.log(0.2) - 0.5 * math.log(0.3) - math.log(0.5), rel=1e-5)
    assert float(count) == 3.5


def test_label_smoothing_spreads_mass_over_the_classes():
    logits = np.log(np.array([[0.2, 0.3, 0.5]], np.float32))
    batch = {"labels": np.array([2]), "loss_weights": np.array([2.0])}
    total, count = Classification(ClassificationConfig(labels=("a", "b", "c")), label_smoothing=0.3).loss(batch, logits)
    assert float(total) == pytest.approx(-2 * np.log([0.2, 0.3, 0.5]) @ [0.1, 0.1, 0.8], rel=1e-5) and float(count) == 2


def test_augmented_texts_are_trained_on_and_never_judged_by():
    task, plain = adapted(word_swap=0.5, char_noise=0.2), adapted()
    data, layout = task.encode(EXAMPLES, BYTES, LAYOUT), LAYOUT
    batches = task.training_batches(data, ENCODER, BYTES, layout)
    without = plain.training_batches(plain.encode(EXAMPLES, BYTES, layout), ENCODER, BYTES, layout)
    differing = 0
    for step in range(10):
        batch, again = batches.batch(step), task.training_batches(data, ENCODER, BYTES, layout).batch(step)
        for name, value in batch.items():
            np.testing.assert_array_equal(value, again[name])
        np.testing.assert_array_equal(batch["labels"], without.batch(step)["labels"])
        assert batch["token_ids"].shape == without.batch(step)["token_ids"].shape
        differing += (batch["token_ids"] != without.batch(step)["token_ids"]).any(1).sum()
    assert differing > 10  # of 30 rows
    judged = zip(*(t.evaluation_batches(data, ENCODER, BYTES, layout) for t in (task, plain)), strict=True)
    for batch, expected in judged:
        np.testing.assert_array_equal(batch["token_ids"], expected["token_ids"])


def test_scores_count_each_example_once():
    task = adapted()
    model = BagOfWords(BagOfWordsConfig(vocab_size=BYTES.vocab_size, num_classes=3)).build_from_ids()
    data = task.encode(EXAMPLES, BYTES, LAYOUT)
    totals, rows = {}, {}
    for batch in task.evaluation_batches(data, model, BYTES, LAYOUT):
        sums, kept, _ = task.score(model, batch)
        for name, value in sums.items():
            totals[name] = totals.get(name, 0) + np.asarray(value)
        for name, value in kept.items():
            rows.setdefault(name, []).append(np.asarray(value))
    scores = task.metrics(totals, rows, data)
    assert scores["loss"] == pytest.approx(math.log(3)) and scores["num_examples"] == 5
    assert scores["confusion_matrix"] == [[1, 0, 0], [1, 0, 0], [3, 0, 0]]  # equal logits: the first class
    assert scores["accuracy"] == pytest.approx(0.2)


def test_metrics_by_hand():
    confusion = metrics.confusion_matrix([0, 0, 1, 1, 1, 2], [0, 1, 1, 1, 2, 1], 4)
    assert confusion.tolist() == [[1, 1, 0, 0], [0, 2, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert metrics.macro_f1(confusion) == pytest.approx((2 / 3 + 4 / 7 + 0) / 3)  # the last class is nowhere
    probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.35, 0.65], [0.45, 0.55]])
    # four bins: (0.75, 1] holds two, one right, of mean confidence 0.85; (0.5, 0.75] two, both right, of 0.6
    assert metrics.calibration_error(probs, np.array([0, 1, 1, 1]), 4) == pytest.approx(0.5 * 0.35 + 0.5 * 0.4)


def test_metrics_are_scikit_learns():
    sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    random = np.random.default_rng(0)
    labels, predictions = random.integers(0, 5, (2, 200))
    confusion = metrics.confusion_matrix(labels, predictions, 5)
    np.testing.assert_array_equal(confusion, sklearn_metrics.confusion_matrix(labels, predictions))
    expected = sklearn_metrics.f1_score(labels, predictions, average="macro")
    assert metrics.macro_f1(confusion) == pytest.approx(expected)


@pytest.mark.parametrize(("examples", "fields", "sentence"), [
    ([{"text": "a", "label": "x"}, {"text": "b"}], {}, "Example 2 has no label"),
    ([{"text": "a", "label": "x"}, {"text": "b", "label": ""}], {}, "Example 2 has no label"),
    ([{"text": "a", "label": "x"}], {}, "Every training example has the label 'x'"),
    (EXAMPLES, dict(synonym_rate=0.1), "synonym_rate and synonym_table go together"),
    (EXAMPLES, dict(class_weights=(1.0,)), "There are 3 labels and 1 class_weights"),
    (EXAMPLES, dict(class_weights=(0.0, 0.0, 0.0)), "class_weights are all 0, so nothing would be learnt"),
])  # fmt: skip
def test_training_examples_that_are_refused(examples, fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        adapted(examples, **fields)


@pytest.mark.parametrize(("example", "fields", "sentence"), [
    ({"text": "a", "label": "other"}, {}, "Example 1 has the label 'other', which no training example has: 'no', 'per"),
    ({"text": "", "label": "yes"}, {}, "Example 1 has an empty text"),
    ({"text": "a long text", "label": "yes"}, dict(overlong="refuse"), "Example 1 does not fit into --seq_length=8"),
])  # fmt: skip
def test_examples_that_are_refused(example, fields, sentence):
    task = Classification(ClassificationConfig(labels=("no", "perhaps", "yes"), **fields))
    with pytest.raises(ValueError, match=sentence):
        task.encode([example], BYTES, LAYOUT)


def test_pairs_are_all_or_none():
    pair, alone = {"text": "a", "text_pair": "b", "label": "x"}, {"text": "c", "label": "y"}
    with pytest.raises(Refusal, match="Example 2 has no text_pair and others have one"):
        adapted([pair, alone])
    task = adapted([pair, {**pair, "label": "y"}])
    with pytest.raises(Refusal, match="Example 1 has an empty text_pair"):
        task.encode([{"text": "a", "label": "y"}], BYTES, LAYOUT)


def test_no_examples_are_refused():
    with pytest.raises(Refusal, match="There is nothing to train on"):
        adapted([])


@pytest.mark.parametrize("name", NAMES)
def test_a_model_with_the_head_learns_and_answers_alike_alone_and_in_company(name):
    keras.utils.set_random_seed(7)
    task = adapted(head_dropout=0.0)
    tokenizer = create("wordpiece", [example["text"] for example in EXAMPLES] * 2, vocab_size=61)
    fields = task.model_fields(tokenizer)
    config = MODELS.config(name).preset("tiny")
    fields["dropout"] = 0.0
    config = config.replace(**{k: v for k, v in fields.items() if k in config.field_names()})
    model = task.assemble(MODELS.get(name)(config)).build_from_ids()
    data = task.encode(EXAMPLES, tokenizer, LAYOUT)
    batches = task.training_batches(data, model, tokenizer, LAYOUT)
    trainer = tiny_models.trainer(model, steps=60, task=task, learning_rate=0.01 if name in ("bert", "glm", "gpt") else 0.1)
    losses = [float(trainer.step(batches.batch(step))[0]) for step in range(60)]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    classify = task.signatures(model, tokenizer)["classify"]
    texts = ["very good", "", "bad thing or so", "so so"]
    together = classify(tf.constant(texts))
    assert together["labels"].shape == (4, 3)
    np.testing.assert_allclose(tf.reduce_sum(together["scores"], 1), 1, rtol=1e-5)
    for row, text in enumerate(texts):
        alone = classify(tf.constant([text]))
        np.testing.assert_allclose(alone["scores"][0], together["scores"][row], rtol=1e-5, atol=1e-6)
        assert (np.diff(alone["scores"][0]) <= 0).all()
    assert together["labels"][0, 0] == b"yes"
    refusing = Classification(task.config.replace(overlong="refuse"), task.facts)
    with pytest.raises(tf.errors.InvalidArgumentError, match="The longest text has .* takes at most 8"):
        refusing.signatures(model, tokenizer)["classify"](tf.constant(["good " * 9]))
