"""Classification by filling a pattern: log-probabilities by hand and beside few-shot's, rows, refusals, and a run."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests import exports, programs, tiny_models, tiny_tasks
from trainers.engine import initial
from zoo import likelihood
from zoo.api import Loaded, load
from zoo.bundle import Bundle
from zoo.config import Refusal
from zoo.data import examples, patterns
from zoo.data.batch import Layout
from zoo.signatures.rows import rows_in_graph
from zoo.tasks.classification import Classification, ClassificationConfig, ClassificationFacts
from zoo.tasks.cloze import Cloze, verbalizers, way_of
from zoo.tokenizers.base import create

TASKS = {"glm": "blank_infilling", "gpt": "language_modeling", "lstm": "language_modeling", "bert": "masked_lm"}
LABELS, BYTES = ("no", "perhaps", "yes"), create("byte")
WORDS = {"glm": ("bad", "so so", "good"), "gpt": ("bad", "so so", "good"), "lstm": ("good", "goods", "a"),
         "bert": ("cat", "dog", "the")}  # fmt: skip
PATTERN = "It is {text}: all was {label}, wasn't it?"
TEXTS = ["the cat sat", "a", "the naive dog ran on"]


def filled(name, pattern=PATTERN, pair=False, **fields):
    """(model, tokenizer, task): classification by a pattern with a model of `exports`, as it was made."""
    made = exports.made(name, TASKS[name])
    words = ",".join(f"{label}={word}" for label, word in zip(LABELS, WORDS[name], strict=True))
    config = ClassificationConfig(labels=LABELS, pattern=pattern, verbalizers=words, **fields)
    task = Classification(config, ClassificationFacts(labels=LABELS, pair=pair, max_tokens=64))
    return task.limit_ids(made.model, made.tokenizer), made.tokenizer, task


def batch_of(model, tokenizer, task, rows, limit=64):
    """One batch of examples, as evaluation makes it."""
    data = task.encode([{"text": text, "label": "yes"} for text in rows], tokenizer, Layout(limit, len(rows)))
    (batch,) = task.evaluation_batches(data, model, tokenizer, Layout(limit, len(rows)))
    return {name: tf.constant(value) for name, value in batch.items()}


@pytest.mark.parametrize("name", list(TASKS))
def test_a_class_is_as_likely_as_its_word_is_to_few_shot(name):
    model, tokenizer, task = filled(name)
    found = task.forward(model, batch_of(model, tokenizer, task, TEXTS))[0]
    parts = [patterns.Pattern(PATTERN).parts({"text": text}) for text in TEXTS]
    requests = [(before, word, behind) for before, behind in parts for word in WORDS[name]]
    expected = likelihood.log_probs(model, tokenizer, exports.made(name, TASKS[name]).task, requests)
    assert found.shape == (3, 3) and found.dtype == tf.float32
    np.testing.assert_allclose(found, expected.reshape(3, 3), rtol=1e-5, atol=2e-4)


def test_a_blank_between_two_texts_by_hand():
    model, tokenizer, task = filled("glm", "{text}? {label}, {text_pair}!", pair=True)
    ids = exports.made("glm", "blank_infilling").task.spelling(tokenizer).ids
    frame, _, leads = task.reading(model, tokenizer, 64)
    assert leads == ("", " ")
    texts = "a cat", " it sat"
    batch = examples.row_batch([examples.row([BYTES.encode(text) for text in texts], frame, 60)], 30, frame, BYTES.pad_id)
    found = np.asarray(task.forward(model, batch)[0])[0]
    part_a = [*BYTES.encode("a cat?"), ids.mask, *BYTES.encode(", it sat!")]
    for word, log_prob in zip(WORDS["glm"], found, strict=True):
        labels = [*BYTES.encode(" " + word), ids.eop]
        positions = [*[(i, 0) for i in range(len(part_a))], *[(6, i + 1) for i in range(len(labels))]]
        whole = {
            "token_ids": np.array([[*part_a, ids.sop, *labels[:-1]]], np.int32),
            "positions": np.array([positions], np.int32), "prefix_lengths": np.array([len(part_a)], np.int32),
        }  # fmt: skip
        every = tf.nn.log_softmax(model.limited(model(whole)))[0, len(part_a) :]
        assert log_prob == pytest.approx(sum(float(every[i, label]) for i, label in enumerate(labels)), abs=2e-4)


@pytest.mark.parametrize("name", ["glm", "gpt"])
def test_gradients_are_those_of_a_pass_for_each_word(name):
    model, tokenizer, task = filled(name)
    batch, pre = batch_of(model, tokenizer, task, TEXTS), exports.made(name, TASKS[name]).task
    parts = [patterns.Pattern(PATTERN).parts({"text": text}) for text in TEXTS]

    def whole():
        make = likelihood._next_scores if name == "gpt" else likelihood._blank_scores
        rows = []
        for (before, behind), word in ((part, word) for part in parts for word in WORDS[name]):
            context, word = patterns.parted(before, word)
            frame = pre.frame(model.kind, tokenizer)
            if name == "glm":
                rows += likelihood._blank_rows(pre.spelling(tokenizer).ids, model, tokenizer, frame, context, word, behind)
            else:
                begun, ids = patterns.encoded(tokenizer, context, word)
                rows.append(likelihood._scored([*frame.before, *begun], ids))
        return tf.reshape(make(model, likelihood._batch(rows, tokenizer)), (3, 3))

    gradients = []
    for logits in (lambda: task.forward(model, batch, training=True)[0], whole):
        with tf.GradientTape() as tape:
            value, _ = task.loss(batch, logits())
        gradients.append(tape.gradient(value, model.trainable_variables))
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is None:
            continue
        ours, theirs = (np.asarray(tf.convert_to_tensor(each)) for each in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-4 * max(1.0, float(np.abs(theirs).max())))


def test_it_learns_in_a_step_that_xla_compiles():
    task, model, batches, _ = tiny_tasks.create("glm:classification:pattern")
    batch = {name: tf.constant(value) for name, value in batches.batch(0).items()}
    total, count = task.loss(batch, task.forward(model, batch)[0])
    trainer = tiny_models.trainer(model, steps=30, task=task, xla=True, learning_rate=0.02)
    losses = [float(trainer.step(batches.batch(step)).loss) for step in range(30)]
    assert trainer.xla and losses[0] == pytest.approx(float(total / count), rel=1e-4)
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


@pytest.mark.parametrize("name", list(TASKS))
def test_a_long_text_is_cut_and_the_pattern_is_not(name):
    model, tokenizer, task = filled(name)
    text = "the cat sat on the mat . " * 9
    frame, limit, leads = task.reading(model, tokenizer, 64)
    batch = batch_of(model, tokenizer, task, [text])
    row = np.asarray(batch["token_ids"])[0].tolist()
    longest = max(map(len, task.facts.label_ids))
    assert len(row) == limit == 65 - longest  # with a word's tokens but the last it has as many as there is room for
    ids = list(tokenizer.encode(leads[0] + text))[: limit - frame.num_special()]
    assert row == [*frame.before, *ids, *frame.after] and "segment_ids" not in batch
    served = rows_in_graph([tokenizer.tokenize(tf.constant([leads[0] + text]))], frame, tokenizer.pad_id, limit)
    assert served["token_ids"][0].numpy().tolist() == row


def test_answers_have_the_temperature_once_and_are_explained():
    model, tokenizer, task = filled("glm")
    task.temperature = 2.0
    zoo = Loaded(Bundle(model, tokenizer, task, {}))
    try:
        answer = zoo.predict("classify", text=TEXTS)
        logits = task.forward(model, batch_of(model, tokenizer, task, TEXTS))[0]
        assert sorted(zoo.signatures) == ["classify", "serving_default"] and answer["labels"].shape == (3, 3)
        np.testing.assert_allclose(answer["scores"], -np.sort(-tf.nn.softmax(logits / 2)), rtol=1e-4, atol=1e-6)
        explained = zoo.explain(TEXTS[0], "gradient_x_input", target="yes")
        assert "".join(explained.tokens).strip() == TEXTS[0]
        assert explained.value == pytest.approx(float(tf.nn.log_softmax(logits / 2)[0, 2]), abs=1e-4)
        with pytest.raises(Refusal, match="for classifiers of one text with a head"):
            zoo.lens(TEXTS[0])
    finally:
        task.temperature = 1.0
        task.limit_ids(model, tokenizer)


def test_labels_with_spaces_and_commas_have_words():
    assert verbalizers(("a", "b c"), "") == {"a": "a", "b c": "b c"}
    text = 'b c=so, "a=x, y","Sci/Tech, etc.=tech",d=e=f'
    assert verbalizers(("a", "b c", "d", "d=e", "Sci/Tech, etc."), text + ",d=g") == {
        "a": "x, y", "b c": "so", "d": "g", "d=e": "f", "Sci/Tech, etc.": "tech",
    }  # fmt: skip
    config = ClassificationConfig().override(["pattern={text}\\n[MASK]", f"verbalizers={text}"])
    assert config.verbalizers == text and patterns.Pattern(config.pattern).slots[1] == ("\n", "", "label")


@pytest.mark.parametrize(("fields", "sentence"), [
    (dict(pattern="It was {label}."), "a pattern has {text} once"),
    (dict(pattern="{text} It was."), "a pattern has {text} once, {label} \\(or \\[MASK\\]\\) once"),
    (dict(pattern="{text} [MASK] [MASK]"), "a pattern has {text} once"),
    (dict(pattern="{text} {label} [MASK]"), "a pattern has {text} once"),
    (dict(pattern="{text_pair} {text} {label}"), "{text} stands before {text_pair}"),
    (dict(verbalizers="a=b"), "verbalizers are the words of a pattern"),
    (dict(pattern="{text} {label}", pooling="mean"), "pooling is of a head"),
])  # fmt: skip
def test_wrong_patterns_are_refused(fields, sentence):
    with pytest.raises(Refusal, match=sentence):
        ClassificationConfig(**fields)


ROWS = [{"text": "a", "label": "yes"}, {"text": "b", "label": "no"}]
PAIRS = [{**example, "text_pair": "c"} for example in ROWS]


@pytest.mark.parametrize(("rows", "fields", "sentence"), [
    (ROWS, dict(pattern="{text} {label}", verbalizers="yes=good"), "verbalizers have no word for the label 'no'"),
    (ROWS, dict(pattern="{text} {label}", verbalizers="yes=good,no=good"), "Two labels have one word in verbalizers, 'good'"),
    (ROWS, dict(pattern="{text} {label}", verbalizers="yes=good,yes=bad"), "two words for the label 'yes'"),
    (ROWS, dict(pattern="{text} {label}", verbalizers="yes=good,maybe=bad"), "verbalizers has 'maybe=bad'; each is label=word"),
    (ROWS, dict(pattern="{text} {label}", verbalizers='"yes=good'), "verbalizers cannot be read"),
    (ROWS, dict(pattern="{text} {label} {title}"), "pattern names the field 'title'"),
    (ROWS, dict(pattern="{text} {label} {text_pair}"), "The pattern has {text_pair}, and the examples have none"),
    (PAIRS, dict(pattern="{text} {label}"), "The examples have a text_pair, and the pattern does not name it"),
])  # fmt: skip
def test_patterns_and_words_that_are_not_those_of_the_examples_are_refused(rows, fields, sentence):
    with pytest.raises(Refusal, match=sentence):
        Classification(ClassificationConfig(**fields)).inspect(rows)


def test_words_and_models_that_cannot_fill_a_pattern_are_refused():
    pieces = exports.made("bert", "masked_lm").tokenizer

    def cloze(words, way="mask", pattern="{text} {label}", tokenizer=pieces):
        return Cloze(pattern, dict(zip(LABELS, words, strict=False)), tokenizer, way)

    for words, sentence in (
        (("cat", "\u4e1c"), "The vocabulary has no token for '\u4e1c', the word of the label 'perhaps'"),
        (("cat", "the cat"), "is 2 tokens, and a masked language model fills a blank with one"),
        (("cat", "Cat"), "'Cat' is written with the same tokens as another label's word"),
        (("cat", "\x01"), "has no token; give each label a word"),
    ):
        with pytest.raises(Refusal, match=sentence):
            cloze(words)
    with pytest.raises(Refusal, match="A byte tokenizer has no mask token"):
        cloze(("a", "b"), tokenizer=BYTES)
    with pytest.raises(Refusal, match="reads nothing behind the label's word"):
        cloze(("a", "b"), "continuation", "{text} {label} {text_pair}", BYTES)
    with pytest.raises(Refusal, match="The pattern has 9 tokens with its longest word, and a row at most 9: there is no room"):
        cloze(("a", "bc"), "blank", "{text} is {label}!", BYTES).reading(9)
    task = Classification(ClassificationConfig(pattern="{text} {label}"), ClassificationFacts(labels=LABELS))
    for name in ("bag_of_words", "word2vec"):
        with pytest.raises(Refusal, match=f"{name} gives words no probabilities in a context"):
            task.assemble(tiny_models.create(name))
    with pytest.raises(Refusal, match="The model has 257 rows for tokens, and a blank needs 262: begin with a model that was"):
        task.limit_ids(tiny_models.create("glm", vocab_size=257), BYTES)
    assert way_of(tiny_models.create("glm", position="rotary", head_dim=4)) == "continuation"  # ChatGLM2 and later


def test_a_masked_language_model_keeps_its_head(tmp_path):
    made = exports.made("bert", "masked_lm")
    Bundle(made.model, made.tokenizer, made.task, {}).save(tmp_path / "before")
    _, tokenizer, task = filled("bert")
    model = task.assemble(type(made.model.backbone)(made.model.config)).build_from_ids()
    assert initial.assign(model, tokenizer, tmp_path / "before").endswith(", its head too")
    batch = batch_of(model, tokenizer, task, TEXTS)
    np.testing.assert_allclose(task.forward(model, batch)[0], task.forward(made.model, batch)[0], rtol=1e-5, atol=1e-5)


def test_a_trained_model_is_fine_tuned_and_judged(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    made = exports.made("glm", "blank_infilling")
    Bundle(made.model, made.tokenizer, made.task, {}).save("before")
    rows = "".join(f"{label}\tthe {word} sat\n" for label, word in (("no", "cat"), ("yes", "dog")) for _ in range(3))
    (tmp_path / "rows.tsv").write_text(rows + "yes\tthe cat sat\n", encoding="utf8")
    asked = ["--model=glm", "--init_from=before", "--task=classification", "--set=pattern={text} It was [MASK].", "--xla=off",
             "--data_path=train=rows.tsv,validation=rows.tsv,columns=label:text", "--batch_size=4"]  # fmt: skip
    answer = programs.call(
        capfd, "run", *asked, "--set=verbalizers=no=bad,yes=good", "--steps=2", "--noexport", "--model_dir=after"
    )
    assert answer.status == 0, answer.err
    assert "variables from before\n" in answer.out  # and no head
    judged = programs.call(capfd, "evaluate", "--model_dir=after", "--split=validation")
    assert judged.status == 0, judged.err
    assert json.loads(judged.out.splitlines()[-1])["num_examples"] == 7
    after = load("after")
    assert after.task.facts.label_ids[1][:-1] == tuple(BYTES.encode(" good"))
    assert after.predict(text=["the dog sat"])["labels"].shape == (1, 2)
    refused = programs.refusal(capfd, "run", *asked, "--set=verbalizers=no=bad", "--model_dir=other")
    assert refused == "verbalizers have no word for the label 'yes'; give each label one, as label=word."
    refused = programs.refusal(capfd, "run", *asked[:3], "--set=pattern={text} is good", *asked[4:], "--model_dir=other")
    assert "a pattern has {text} once, {label} (or [MASK]) once" in refused
