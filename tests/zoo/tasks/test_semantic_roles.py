"""Semantic roles: what CoNLL-2005 counts, rows and their marks, moves that are never decoded, answers; and what is refused."""

import json
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tests import programs, tiny_models
from tests.tiny_tasks import EXAMPLES
from zoo import api, metrics
from zoo.data.batch import Layout
from zoo.data.roles import FrequentRoles
from zoo.layers.heads import RoleHead
from zoo.registry import MODELS, tasks_of
from zoo.signatures.words import words_in_graph, words_marked
from zoo.tasks.semantic_roles import FIND, SemanticRoles, SemanticRolesConfig, SemanticRolesFacts
from zoo.tokenizers.base import create

EXAMPLES = EXAMPLES["semantic_roles"]
LAYOUT = Layout(seq_length=12, batch_size=4)
BYTES = create("byte")
NO_CHARACTERS = types.SimpleNamespace(takes=())  # a model that takes none
NAMES = [name for name in MODELS.names() if "semantic_roles" in tasks_of(MODELS.config(name))]


def inspected(head_width=0):
    task = SemanticRoles(SemanticRolesConfig(head_width=head_width))
    task.inspect(EXAMPLES)
    return task


def wordpieces():
    return create("wordpiece", [" ".join(example["tokens"]) for example in EXAMPLES] * 2, vocab_size=61)


def tiny(name, task, tokenizer):
    keras.utils.set_random_seed(3)
    fields = {**task.model_fields(tokenizer), "dropout": 0.0}
    config = MODELS.config(name).preset("tiny")
    config = config.replace(**{k: v for k, v in fields.items() if k in config.field_names()})
    return task.assemble(MODELS.get(name)(config)).build_from_ids()


# Scores


@pytest.mark.parametrize(("tags", "arguments"), [
    ("B-A0 I-A0 B-V B-A1", [[("A0", 0, 1)], [("A1", 3, 3)]]),
    ("B-A1 B-V B-C-A1 I-C-A1 B-C-A1", [[("A1", 0, 0), ("C-A1", 2, 3), ("C-A1", 4, 4)]]),
    ("B-C-A1 B-V B-A1 B-C-A1", [[("A1", 0, 0)], [("A1", 2, 2), ("C-A1", 3, 3)]]),  # nothing to go on with, then the last A1
    ("B-A0 B-C-A1 B-C-A1", [[("A0", 0, 0)], [("A1", 1, 1), ("C-A1", 2, 2)]]),
    ("B-A0 B-R-A0 B-V O", [[("A0", 0, 0)], [("R-A0", 1, 1)]]),
    ("B-V O B-C-V B-A1", [[("A1", 3, 3)]]),  # a particle of the verb is part of V
    ("O B-C-V O", []),
    ("O O", []),
])  # fmt: skip
def test_arguments_are_counted_as_the_scorer_of_conll_2005_counts_them(tags, arguments):
    assert metrics.role_arguments(tags.split()) == {tuple(parts) for parts in arguments}


def test_scores_by_hand():
    """Three predicates: one found with both arguments, one found with a split argument half right, one missed; one is false."""
    examples = [
        {"tokens": list("abcd"), "predicates": [1, 3], "tags": [["B-A0", "B-V", "B-A1", "I-A1"], ["O", "O", "B-A0", "B-V"]]},
        {"tokens": list("efgh"), "predicates": [1], "tags": [["B-A1", "B-V", "O", "B-C-A1"]]},
        {"tokens": ["i"], "predicates": [], "tags": []},
    ]
    task = SemanticRoles()
    task.inspect(examples)
    labels = task.facts.labels
    assert labels == (*(f"{place}-{role}" for place in "BI" for role in ("A0", "A1", "C-A1", "V")), "O")
    assert task.facts.scheme == "BIO"
    layout = Layout(seq_length=20, batch_size=6)
    data = task.encode(examples, BYTES, layout)
    assert [(row.sentence, row.predicate) for row in data.rows] == [(0, FIND), (0, 1), (0, 3), (1, FIND), (1, 1), (2, FIND)]
    tags = lambda text: [labels.index(tag) for tag in text.split()]  # noqa: E731
    predicted = np.array([
        [0, 1, 1, 0],  # b is found, c is none, d is missed
        tags("B-A0 B-V B-A1 I-A1"), tags("O O B-A0 B-V"),
        [0, 1, 0, 0], tags("B-A1 B-V O O"), [0, 0, 0, 0],
    ])  # fmt: skip
    false = np.full((6, 1, 4), -1)
    false[0, 0] = tags("B-A0 O B-V B-A1")
    rows = {"predicted": [predicted], "false": [false]}
    scores = task.metrics({"nats": 12.0, "words": 6.0}, rows, data)
    assert scores.pop("loss") == 2.0 and scores.pop("num_predicates") == 3 and scores.pop("num_arguments") == 4
    # Arguments: true A0, A1 of b; A0 of d; A1 + C-A1 of f. Told of these predicates: A0, A1; A0; A1 alone, which is wrong.
    assert scores.pop("role_f1") == pytest.approx(2 * 3 / (4 + 4))
    assert scores.pop("predicate_f1") == pytest.approx(2 * 2 / (3 + 3))
    # End to end: of b both right, of d nothing, of f one that is wrong, of c two that are wrong.
    assert scores.pop("end_to_end_f1") == pytest.approx(2 * 2 / (5 + 4))
    by_class = scores.pop("by_class")
    assert {role: list(rates.values()) for role, rates in by_class.items()} == {
        "A0": [1, 1, 1, 2], "A1": [0.5, 0.5, 0.5, 2]
    }  # fmt: skip
    # The most frequent tags from one word before on, ties by name: B-A0 B-V B-A1 B-C-A1. So A0 of b and of d are right.
    assert scores.pop("baseline_role_f1") == pytest.approx(2 * 2 / (5 + 4))
    assert not scores
    assert list(task.predictions(rows, data))[:5] == [
        "a\t-\t-\tB-A0\tB-A0\tO\tO", "b\tV\tV\tB-V\tB-V\tO\tO", "c\t-\tV\tB-A1\tB-A1\tB-A0\tB-A0",
        "d\tV\t-\tI-A1\tI-A1\tB-V\tB-V", "",
    ]  # fmt: skip


def test_the_baseline_by_hand():
    columns = [(["Cats", "sit", "here"], 1, ["B-A0", "B-V", "B-LOC"]), (["Dogs", "sit", "up"], 1, ["B-A0", "B-V", "O"])]
    columns += [(["I", "SIT", "up"], 1, ["B-A1", "B-V", "O"]), (["we", "bark", "now"], 1, ["B-A1", "B-V", "B-TMP"])] * 2
    guess = FrequentRoles(columns)
    assert guess.tags(["You", "sit", "there", "."], 1) == ["B-A0", "B-V", "O", "O"]  # A0 and A1 are equally frequent
    assert guess.tags(["you", "bark", "."], 1) == ["B-A1", "B-V", "B-TMP"]
    assert guess.tags(["you", "go", "."], 1) == ["B-A1", "B-V", "O"]  # of any predicate


# Rows


def test_a_row_asks_for_predicates_or_marks_one_and_long_sentences_are_several_rows():
    task = inspected()
    assert task.facts.labels == ("B-A0", "B-A1", "B-V", "I-A0", "I-A1", "I-V", "O")
    data = task.encode(EXAMPLES, BYTES, Layout(seq_length=9, batch_size=2))
    end = BYTES.eos_id
    rows = [(row.row.ids.tolist(), row.labels.tolist(), row.marked().tolist()) for row in data.rows[:3]]
    assert rows == [
        ([end, *b"the cat", end], [0, 0], [0] * 9),
        ([end, *b" sat", end], [1], [0] * 6),
        ([end, *b" sat", end], [2], [0, 1, 1, 1, 1, 0]),
    ]
    layout = Layout(seq_length=9, batch_size=2)
    batch = next(iter(task.evaluation_batches(data.take([0]), NO_CHARACTERS, BYTES, layout)))
    assert batch["labels"].tolist() == [[0, 0], [0, 0]] and batch["loss_weights"].tolist() == [[1, 1], [0, 0]]
    part = task.part(data, 9, layout)  # a row is asked for, and all rows of its sentence are read
    (sentence,) = {row.sentence for row in part.rows}
    assert part.rows == [row for row in data.rows if row.sentence == sentence] and len(part) < len(data)


@pytest.mark.parametrize("tokenizer", [BYTES, wordpieces()], ids=["byte", "wordpiece"])
def test_marks_in_graph_are_the_native_ones(tokenizer):
    task, layout = inspected(), Layout(seq_length=40, batch_size=2)
    data = task.encode(EXAMPLES, tokenizer, layout)
    frame = task.frame("encoder", tokenizer)
    _, batch, real = words_in_graph(tf.constant([" ".join(e["tokens"]) for e in EXAMPLES]), tokenizer, frame, 40)
    asked = [row for row in data.rows if row.predicate != FIND]
    marks = words_marked(batch, real, [row.sentence for row in asked], [row.predicate for row in asked], len(frame.after))
    assert len(asked) == 3
    for row, mark in zip(asked, marks.numpy(), strict=True):
        length = len(row.row.ids)
        assert batch["token_ids"][row.sentence][:length].numpy().tolist() == row.row.ids.tolist()
        assert mark[:length].tolist() == row.marked().tolist() and not mark[length:].any() and mark.any()


def test_moves_that_the_scheme_forbids_are_never_decoded():
    """The best tags are those of a search over all sequences of tags that are allowed."""
    task = SemanticRoles(facts=SemanticRolesFacts(labels=("B-A0", "B-A1", "I-A0", "I-A1", "O"), scheme="BIO"))
    allowed = lambda before, now: now < 2 or now == 4 or before in (now, now - 2)  # noqa: E731
    paths = [path for path in np.ndindex(5, 5, 5, 5) if all(allowed(*move) for move in zip((4, *path), path, strict=False))]
    logits = np.random.default_rng(4).normal(0, 2, (6, 4, 5)).astype(np.float32)
    log_probs = np.asarray(ops.log_softmax(logits))
    tags = np.asarray(task.best(logits, np.ones((6, 4), bool)))
    for row, best in zip(log_probs, tags, strict=True):
        totals = [row[range(4), path].sum() for path in paths]
        assert best.tolist() == list(paths[int(np.argmax(totals))])
    assert (tags != logits.argmax(-1)).any()


def test_a_role_that_training_never_has_twice_is_given_once():
    tokens, place = ["she", "gives", "him", "books", "today", "now"], [1]
    roles = ["B-A0", "B-V", "B-A2", "B-A1", "B-AM", "B-AM"]
    task = SemanticRoles()
    task.inspect([dict(tokens=tokens, predicates=place, tags=[roles])] * 20)
    assert task.facts.once == ("A0", "A1", "A2", "V")
    names = task.facts.labels
    logits = np.zeros((1, 6, len(names)), np.float32)
    for word, tag, logit in [(0, "A1", 5), (0, "A0", 4), (1, "V", 9), (2, "A1", 6), (3, "A1", 7), (4, "AM", 3), (5, "AM", 3)]:
        logits[0, word, names.index(f"B-{tag}")] = logit
    decoded = np.asarray(task.best(logits, np.ones((1, 6), bool)))[0]
    told = [names[i] for i in decoded]
    assert told == ["B-A0", "B-V", *told[2:3], "B-A1", "B-AM", "B-AM"] and told[2] != "B-A1"
    few = SemanticRoles()
    few.inspect([dict(tokens=tokens, predicates=place, tags=[roles])] * 19)
    assert few.facts.once == ()


# Answers


@pytest.mark.parametrize(("name", "width"), [*((name, 0) for name in NAMES), ("bert", 12)])
def test_a_model_learns_and_answers_alike_alone_and_in_company(name, width):
    task, tokenizer = inspected(width), wordpieces()
    model = tiny(name, task, tokenizer)
    counted = task.config.output(model.config, LAYOUT.seq_length, task.facts).params
    assert sum(int(np.prod(v.shape)) for v in model.head.trainable_variables) == counted
    data = task.encode(EXAMPLES, tokenizer, LAYOUT)
    batches = task.training_batches(data, model, tokenizer, LAYOUT)
    trainer = tiny_models.trainer(model, steps=120, task=task, learning_rate=0.03)
    losses = [float(trainer.step(batches.batch(step))[0]) for step in range(120)]
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])
    scores = trainer.evaluate(data, LAYOUT)
    assert scores["role_f1"] == scores["predicate_f1"] == scores["end_to_end_f1"] == 1.0
    label = task.signatures(model, tokenizer)["label_roles"]
    texts = ["the cat saw cats sit", "", "  cats ", "the cat sat", "sat saw"]
    together = {key: value.numpy() for key, value in label(tf.constant(texts), tf.constant([FIND])).items()}
    assert together["tokens"][2].tolist() == [b"cats", b"", b"", b"", b""]
    assert together["predicates"][0].tolist()[:2] == [2, 4] and together["predicates"][3].tolist()[:1] == [2]
    assert together["predicates"][2].tolist() == [FIND] * together["predicates"].shape[1]
    assert together["tags"][0, 1].tolist() == [b"O", b"O", b"O", b"B-A0", b"B-V"]
    assert together["tags"][3, 0].tolist() == [b"B-A0", b"I-A0", b"B-V", b"", b""]
    for row, text in enumerate(texts):
        alone = {key: value.numpy() for key, value in label(tf.constant([text]), tf.constant([FIND])).items()}
        count, words = alone["tags"].shape[1:]
        np.testing.assert_array_equal(together["predicates"][row, :count], alone["predicates"][0])
        np.testing.assert_array_equal(together["tags"][row, :count, :words], alone["tags"][0])
        assert (together["predicates"][row, count:] == FIND).all() and (together["tags"][row, count:] == b"").all()
    many = label(tf.constant(texts[:1] * 40), tf.constant([FIND]))  # more predicates than are labelled at once
    assert (many["predicates"].numpy() == [2, 4]).all() and (many["tags"].numpy() == together["tags"][0, :2]).all()
    given = label(tf.constant(texts[:1]), tf.constant([4]))
    assert given["predicates"].numpy().tolist() == [[4]]
    np.testing.assert_array_equal(given["tags"][0, 0], together["tags"][0, 1])


def test_a_word_is_read_beside_the_first_token_of_its_predicate():
    head = RoleHead(3, dropout=0.0, width=4)
    hidden = np.random.default_rng(1).normal(0, 1, (2, 5, 6)).astype(np.float32)
    places, marks = [[1, 2, 4], [1, 3, 0]], [[0, 0, 1, 1, 0], [0, 1, 0, 0, 0]]
    batch = {"label_positions": np.array(places, np.int32), "segment_ids": np.array(marks, np.int32)}
    head.build(hidden.shape)
    roles, predicates = head(hidden, batch)
    weights = {v.path.split("/", 1)[-1]: v.numpy() for v in head.trainable_variables}
    for row, (places, marked) in enumerate(zip(batch["label_positions"], (2, 1), strict=True)):
        words, predicate = hidden[row, places], hidden[row, marked]
        layer = words @ weights["word/kernel"] + predicate @ weights["predicate/kernel"] + weights["word/bias"]
        layer = np.asarray(ops.gelu(layer, approximate=True))
        expected = layer @ weights["projection/kernel"] + weights["projection/bias"]
        np.testing.assert_allclose(roles[row], expected, rtol=1e-5, atol=1e-6)
        expected = words @ weights["predicates/kernel"] + weights["predicates/bias"]
        np.testing.assert_allclose(predicates[row], expected, rtol=1e-5, atol=1e-6)


# The whole path

CONLL = """the\t-\tB-ARG0\tO
cat\t-\tI-ARG0\tO
saw\tsee.01\tB-V\tO
cats\t-\tB-ARG1\tB-ARG0
sit\tsit.01\tI-ARG1\tB-V

cats\t-\tB-ARG0
sat\tsit.01\tB-V

the\t-
cat\t-
"""


def test_own_files_in_conll_columns_are_trained_on_judged_and_answered(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        (tmp_path / f"{split}.conll").write_text(CONLL, encoding="utf8")
    answer = programs.call(
        capfd, "run", "--model=bert", "--preset=tiny", "--task=semantic_roles", "--tokenizer=byte", "--seq_length=24",
        "--data_path=train=train.conll,validation=test.conll,test=test.conll,format=conll", "--set=max_length=24",
        "--steps=3", "--batch_size=4", "--xla=off", "--model_dir=run", "--noexport",
    )  # fmt: skip
    assert answer.status == 0, answer.err
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf8").splitlines()[-1])
    assert last["split"] == "test" and (last["num_predicates"], last["num_arguments"]) == (3, 4)
    assert all(0 <= last[name] <= 1 for name in ("role_f1", "predicate_f1", "end_to_end_f1"))
    answer = programs.call(capfd, "evaluate", "--model_dir=run", "--split=test", "--predictions=told.conll")
    assert answer.status == 0 and json.loads(answer.out)["role_f1"] == last["role_f1"], answer.err
    told = [line.split("\t") for line in (tmp_path / "told.conll").read_text(encoding="utf8").splitlines()]
    given = [line.split() for line in CONLL.splitlines()]
    assert [row[0] for row in told if row != [""]] == [row[0] for row in given if row]
    assert [row[3::2] for row in told if row != [""]] == [row[2:] for row in given if row]
    answer = programs.call(capfd, "evaluate", "--model_dir=run", "--predictions=told.conll")
    assert answer.status == 2 and "--predictions writes those of one split" in answer.err
    answer = programs.call(capfd, "evaluate", "--model_dir=run", "--split=test", "--predictions=./test.conll")
    assert answer.status == 2 and "is a file of the data" in answer.err
    assert (tmp_path / "test.conll").read_text(encoding="utf8") == CONLL
    answered = api.load("run").predict("label_roles", text=["cats sat"], predicate=[1])
    assert answered["predicates"].tolist() == [[1]] and answered["tags"].shape == (1, 1, 2)


# What is refused


@pytest.mark.parametrize(("texts", "predicate", "sentence"), [
    (["the " * 9], [FIND], "The longest text has .* takes at most 9"),
    (["the cat", "cats"], [1, 1], "A predicate is the number of a word"),
    (["the cat"], [-2], "or -1 to find all"),
    (["the cat", "cats", "sit"], [0, 0], "one for each text; got 2 numbers for 3 texts"),
])  # fmt: skip
def test_requests_that_are_refused(texts, predicate, sentence):
    task, tokenizer = inspected(), wordpieces()
    task.learn(max_tokens=9)
    label = task.signatures(tiny("bert", task, tokenizer), tokenizer)["label_roles"]
    with pytest.raises(tf.errors.InvalidArgumentError, match=sentence):
        label(tf.constant(texts), tf.constant(predicate))


@pytest.mark.parametrize(("example", "sentence"), [
    ({"tokens": []}, "Example 1 has no words"),
    ({"tokens": ["a"], "predicates": [0]}, "Example 1 has 1 predicates and 0 lists of tags"),
    ({"tokens": ["a"], "predicates": [1], "tags": [["O"]]}, "Example 1 has a predicate at word 1, counted from 0, of 1"),
    ({"tokens": ["a"], "predicates": [0], "tags": [["O", "O"]]}, "has 1 words and a predicate with 2 tags; each word has one"),
])  # fmt: skip
def test_examples_that_are_refused(example, sentence):
    with pytest.raises(ValueError, match=sentence):
        inspected().encode([example], BYTES, LAYOUT)


def test_a_role_that_training_has_not_seen_is_missed():
    task = inspected()
    data = task.encode([{"tokens": ["a", "b"], "predicates": [0], "tags": [["B-V", "B-NEW"]]}], BYTES, LAYOUT)
    assert data.rows[1].labels.tolist() == [task.facts.labels.index("B-V"), task.facts.labels.index("O")]
    rows = {"predicted": [np.array([[1, 0], data.rows[1].labels])], "false": [np.zeros((2, 0, 2), int)]}
    scores = task.metrics({"nats": 1.0, "words": 4.0}, rows, data)
    assert (scores["role_f1"], scores["num_arguments"], scores["predicate_f1"]) == (0.0, 1, 1.0)


def test_a_split_without_predicates_is_refused():
    with pytest.raises(ValueError, match="the train split holds no predicates"):
        SemanticRoles().inspect([{"tokens": ["a"], "predicates": [], "tags": []}])


def test_a_model_that_takes_no_marks_is_refused():
    model = tiny_models.create("bert")
    model.takes = ("token_ids", "padding_mask")
    with pytest.raises(ValueError, match="marks the predicate by segment_ids, and bert takes token_ids, padding_mask"):
        inspected().head(model)


def test_roles_in_iob1_are_read_as_bio_and_told():
    task = SemanticRoles()
    given = {"tokens": ["a", "b", "c", "d"], "predicates": [2], "tags": [["I-A0", "I-A0", "I-V", "B-A1"]]}
    task.inspect([given])
    data = task.encode([given], BYTES, LAYOUT)
    assert data.tags == [[["B-A0", "I-A0", "B-V", "B-A1"]]]
    assert task.size(data) == "1 sentences with 1 predicates (1 of them in IOB1, read as BIO)"
    assert task.size(inspected().encode(EXAMPLES, BYTES, LAYOUT)).endswith("predicates")
    with pytest.raises(ValueError, match="must have a list of places as `predicates`"):
        task.encode([{**given, "predicates": 2}], BYTES, LAYOUT)
