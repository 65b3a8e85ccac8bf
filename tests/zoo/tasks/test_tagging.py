"""Tagging: words to tokens and back, entity F1, answers; and what is refused."""

import itertools
import re
import types

import numpy as np
import pytest
import tensorflow as tf

from tests import exports, tiny_models
from zoo import metrics
from zoo.data import schemes
from zoo.data.batch import Layout
from zoo.data.words import characters_of
from zoo.registry import MODELS, tasks_of
from zoo.signatures.words import characters_in_graph
from zoo.tasks.tagging import SCHEMES, TaggedSentences, Tagging, TaggingConfig
from zoo.tokenizers.base import create

EXAMPLES = [
    {"tokens": ["the", "cat", "sat"], "tags": ["D", "N", "V"]},
    {"tokens": ["cats", "sit"], "tags": ["N", "V"]},
    {"tokens": ["the", "\u200b", "mat", "sat", "the", "cat"], "tags": ["D", "X", "N", "V", "D", "N"]},
]
LAYOUT = Layout(seq_length=9, batch_size=2)
BYTES = create("byte")
NO_CHARACTERS = types.SimpleNamespace(takes=())  # a model that takes none
NAMES = [name for name in MODELS.names() if "tagging" in tasks_of(MODELS.config(name))]


def adapted(**fields):
    task = Tagging(TaggingConfig(**fields))
    task.inspect(EXAMPLES)
    return task


def test_the_first_token_answers_for_a_word_and_long_sentences_are_several_rows():
    task = adapted()
    assert task.facts.labels == ("D", "N", "V", "X")
    data = task.encode(EXAMPLES[:2], BYTES, LAYOUT)
    end = BYTES.eos_id
    # seven bytes a row: "the" (3) and " cat" (4); " sat" is a row of its own; "cats" (4), " sit" (4) are two rows
    assert [ids.tolist() for ids, _, _ in data.rows] == [
        [end, *b"the cat", end], [end, *b" sat", end], [end, *b"cats", end], [end, *b" sit", end],
    ]  # fmt: skip
    assert [places.tolist() for _, places, _ in data.rows] == [[1, 4], [1], [1], [1]]
    assert [labels.tolist() for _, _, labels in data.rows] == [[0, 1], [2], [1], [2]]
    assert data.sentences == [1, 1, 2, 2]
    batch = next(iter(task.evaluation_batches(data, NO_CHARACTERS, BYTES, LAYOUT)))
    assert batch["label_positions"].tolist() == [[1, 4], [1, 0]]
    assert batch["loss_weights"].tolist() == [[1, 1], [1, 0]] and batch["labels"][0].tolist() == [0, 1]


def test_scores_by_hand():
    task = Tagging(TaggingConfig(labels=("B-x", "I-x", "O")))
    examples = [{"tokens": list("abcdef"), "tags": ["B-x", "I-x", "O", "O", "B-x", "O"]}, {"tokens": ["g"], "tags": ["O"]}]
    data = task.encode(examples, BYTES, Layout(seq_length=7, batch_size=2))  # "a b c", " d e", " f" and " g"
    rows = {"labels": [], "weights": [], "predicted": []}
    guesses = iter([[0, 1, 2], [2, 2], [2], [2]])
    for batch in task.evaluation_batches(data, NO_CHARACTERS, BYTES, Layout(seq_length=7, batch_size=2)):
        rows["labels"].append(batch["labels"])
        rows["weights"].append(batch["loss_weights"])
        predicted = np.full_like(batch["labels"], 1)
        for row, real in zip(predicted, batch["loss_weights"] > 0, strict=True):
            if real.any():
                row[real] = next(guesses)
        rows["predicted"].append(predicted)
    scores = task.metrics({"nats": 14.0, "words": 7.0}, rows, data)
    by_class = {"x": {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "count": 2}}
    assert scores == {
        "loss": 2.0, "accuracy": 6 / 7, "num_words": 7, "confusion_matrix": [[1, 0, 1], [0, 1, 0], [0, 0, 4]],
        "entity_f1": pytest.approx(2 / 3), "entity_precision": 1.0, "entity_recall": 0.5, "by_class": by_class,
    }  # fmt: skip
    samples = task.samples(rows, data)
    assert {name: sample.score() for name, sample in samples.items()} == {"accuracy": 6 / 7, "entity_f1": pytest.approx(2 / 3)}
    assert samples["entity_f1"].rows.tolist() == [[1, 1, 2], [0, 0, 0]]  # a row a sentence
    task.learn(scheme="BIO")
    strict = task.metrics({"nats": 14.0, "words": 7.0}, rows, data)
    assert strict["entity_f1_strict"] == pytest.approx(2 / 3) == strict["by_class"]["x"]["f1_strict"]
    lines = list(task.predictions(rows, data))
    assert lines[:2] == ["a\tB-x\tB-x", "b\tI-x\tI-x"] and lines[4] == "e\tB-x\tO" and lines[6:] == ["", "g\tO\tO", ""]


def test_scores_by_class_of_tags_that_mark_no_spans():
    confusion = metrics.confusion_matrix([0, 0, 1, 1, 1], [0, 1, 1, 1, 3], 4)
    assert metrics.class_scores(confusion, ("D", "N", "P", "V")) == {
        "D": {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "count": 2},
        "N": {"precision": pytest.approx(2 / 3), "recall": pytest.approx(2 / 3), "f1": pytest.approx(2 / 3), "count": 3},
        "V": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "count": 0},
    }


def test_label_smoothing_spreads_mass_over_the_tags():
    logits = np.log(np.array([[[0.2, 0.8], [0.5, 0.5]]], np.float32))
    batch = {"labels": np.array([[1, 0]]), "loss_weights": np.array([[1.0, 0.0]])}
    total, count = Tagging(TaggingConfig(labels=("a", "b")), label_smoothing=0.2).loss(batch, logits)
    assert float(total) == pytest.approx(-np.log([0.2, 0.8]) @ [0.1, 0.9], rel=1e-5) and float(count) == 1


def conlleval(tags):
    """The spans of a sentence by the rules of the program that seqeval translates (Tjong Kim Sang and Buchholz 2000)."""
    spans, before, kind_before, start = [], "O", "", 0
    for i, tag in enumerate([*tags, "O"]):
        now, _, kind = tag.partition("-")
        ends = before in "ES" or (before, now) in (("B", "B"), ("B", "S"), ("B", "O"), ("I", "B"), ("I", "S"), ("I", "O"))
        ends |= before != "O" and kind_before != kind
        begins = now in "BS" or (before in "ESO" and now in "IE") or (now != "O" and kind_before != kind)
        if ends:
            spans.append((kind_before, start, i - 1))
        if begins:
            start = i
        before, kind_before = now, kind
    return [span for span in spans if span[0]]


@pytest.mark.parametrize("prefixes", ["BI", "BIES", "IE"])
def test_entities_are_conllevals(prefixes):
    random = np.random.default_rng(2)
    tags = ["O", *(f"{prefix}-{kind}" for prefix in prefixes for kind in ("x", "y", "z-1"))]
    for _ in range(2_000):
        sentence = random.choice(tags, random.integers(1, 12)).tolist()
        assert metrics.entities(sentence) == conlleval(sentence), sentence


def test_entities_by_hand():
    assert metrics.entities(["B-x", "I-x", "O", "I-y", "I-z", "B-z"]) == [("x", 0, 1), ("y", 3, 3), ("z", 4, 4), ("z", 5, 5)]
    assert metrics.entities(["S-x", "B-x", "I-x", "E-x", "I-x", "E-x"]) == [("x", 0, 0), ("x", 1, 3), ("x", 4, 5)]
    assert metrics.entity_f1([["B-x", "O"]], [["B-y", "O"]]) == 0.0 and metrics.entity_f1([["O"]], [["O"]]) == 0.0
    assert metrics.are_entity_tags(["O", "B-x"]) and not metrics.are_entity_tags(["O", "N"])


@pytest.mark.parametrize("prefixes", ["BI", "BIES"])
def test_entity_f1_is_seqevals(prefixes):
    seqeval = pytest.importorskip("seqeval.metrics", reason="seqeval is not installed")
    random = np.random.default_rng(1)
    tags = ["O", *(f"{prefix}-{kind}" for prefix in prefixes for kind in "xy")]
    for _ in range(20):
        true, guess = ([random.choice(tags, 11).tolist() for _ in range(5)] for _ in range(2))
        expected = seqeval.f1_score(true, guess, zero_division=0)
        assert metrics.entity_f1(true, guess) == pytest.approx(expected)


@pytest.mark.parametrize(("example", "sentence"), [
    ({"tokens": ["a", "b"], "tags": ["D"]}, "Example 1 has 2 words and 1 tags"),
    ({"tokens": ["a"]}, "Example 1 has 1 words and 0 tags"),
    ({"tokens": [], "tags": []}, "Example 1 has no words"),
    ({"tokens": ["a"], "tags": [""]}, "Example 1 has a word without a tag"),
    ({"tokens": ["a"], "tags": ["Q"]}, "Example 1 has the tag 'Q', which no training example has"),
])  # fmt: skip
def test_examples_that_are_refused(example, sentence):
    with pytest.raises(ValueError, match=sentence):
        adapted().encode([example], BYTES, LAYOUT)


@pytest.mark.parametrize(("name", "crf"), [*((name, False) for name in NAMES), ("bert", True), ("lstm", True)])
def test_a_model_learns_and_answers_alike_alone_and_in_company(name, crf):
    task = adapted(crf=crf)
    tokenizer = create("wordpiece", [" ".join(example["tokens"]) for example in EXAMPLES] * 2, vocab_size=61)
    fields = {**task.model_fields(tokenizer), "dropout": 0.0}
    config = MODELS.config(name).preset("tiny")
    config = config.replace(**{k: v for k, v in fields.items() if k in config.field_names()})
    model = task.assemble(MODELS.get(name)(config)).build_from_ids()
    data = task.encode(EXAMPLES, tokenizer, LAYOUT)
    batches = task.training_batches(data, model, tokenizer, LAYOUT)
    trainer = tiny_models.trainer(model, steps=30, task=task, learning_rate=0.01 if name in ("bert", "gpt") else 0.1)
    losses = [float(trainer.step(batches.batch(step))[0]) for step in range(30)]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    tag = task.signatures(model, tokenizer)["tag"]
    texts = ["the cat", "", "  sat \u200b ", "cats sit the"]
    together = {key: value.numpy() for key, value in tag(tf.constant(texts)).items()}
    assert together["num_tokens"].tolist() == [2, 0, 2, 3]
    assert together["tokens"][0].tolist() == [b"the", b"cat", b""]
    real = np.arange(3) < together["num_tokens"][:, None]
    assert (together["probs"][~real] == 0).all() and (together["probs"][real] > 0.25).all() and together["score"][1] == 0
    for row, text in enumerate(texts):
        words = together["num_tokens"][row]
        alone = tag(tf.constant([text]))["tags"][0, :words].numpy().tolist()
        assert together["tags"][row].tolist() == alone + [b""] * (3 - words)
        if words:  # and as evaluation sees it
            example = {"tokens": text.split(), "tags": ["D"] * int(words)}
            batch = next(iter(task.evaluation_batches(task.encode([example], tokenizer, LAYOUT), model, tokenizer, LAYOUT)))
            _, rows, _ = task.score(model, batch)
            predicted = rows["predicted"].numpy()[0][batch["loss_weights"][0] > 0]
            assert [task.facts.labels[i].encode() for i in predicted] == alone
            probs = rows["probs"].numpy()[0, :words]  # with a CRF marginals
            np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-5)
            np.testing.assert_allclose(probs[np.arange(words), predicted], together["probs"][row, :words], rtol=1e-4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="The longest text has .* takes at most 9"):
        tag(tf.constant(["the " * 9]))


def test_the_best_sequences_of_tags_are_those_that_no_other_beats():
    case = "bilstm", "tagging:crf"
    model, tokenizer, task = exports.made(*case)
    signatures = task.signatures(model, tokenizer)
    texts = ["the cat sat", "a", "", "the naive dog ran ."]
    tag = signatures["tag"](tf.constant(texts))
    answer = signatures["tag_n_best"](tf.constant(texts), tf.constant([4, 64, 3, 1]))
    tags, scores = answer["tags"].numpy().astype(str), answer["scores"].numpy()
    assert tags.shape == (4, 64, 5) and scores.shape == (4, 64)
    assert np.isfinite(scores).sum(1).tolist() == [4, 3, 1, 1]  # one word is O, B-A or B-M
    np.testing.assert_array_equal(answer["tokens"], tag["tokens"])
    np.testing.assert_array_equal(tags[:, 0], tag["tags"].numpy().astype(str))
    np.testing.assert_allclose(scores[:, 0], tag["score"], rtol=1e-5, atol=1e-6)
    assert (np.diff(scores[0, :4]) <= 0).all() and len(np.unique(tags[0, :4], axis=0)) == 4
    assert sorted(tags[1, :3, 0]) == ["B-A", "B-M", "O"] and np.exp(scores[1, :3]).sum() == pytest.approx(1, abs=1e-5)
    assert (tags[~np.isfinite(scores)] == "").all() and (tags[0, :4, 3:] == "").all()
    assert signatures["tag_n_best"](tf.constant(texts))["scores"].shape == (4, 5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="num_best is 1 to 64; got"):
        signatures["tag_n_best"](tf.constant(texts), tf.constant([65]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="one value for all texts or one each: 2 values for 4 texts"):
        signatures["tag_n_best"](tf.constant(texts), tf.constant([1, 2]))
    assert "tag_n_best" not in exports.made("bilstm", "tagging").task.signatures(model, tokenizer)


def test_moves_that_the_scheme_forbids_are_never_decoded():
    task = Tagging(TaggingConfig(crf=True))
    task.inspect([{"tokens": list("abc"), "tags": ["B-x", "I-x", "O"]}, {"tokens": ["d"], "tags": ["B-y"]}])
    assert task.facts.scheme == "BIO" and task.facts.labels == ("B-x", "B-y", "I-x", "O")
    head = task.head(None)
    head.build((None, None, 4))
    unary = np.zeros((1, 2, 4), np.float32)
    unary[0, 0, 1], unary[0, 1, 2], unary[0, 1, 3] = 9.0, 5.0, 1.0  # B-y, then I-x is the best alone
    tags, _, _ = task.best((unary, head.crf.moves()), np.ones((1, 2), bool))
    assert tags.numpy().tolist() == [[1, 3]]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_tags_are_learnt_in_the_scheme_that_is_asked_for(scheme):
    assert tuple(schemes.SCHEMES) == SCHEMES
    task = Tagging(TaggingConfig(scheme=scheme))
    examples = [{"tokens": list("abcd"), "tags": ["I-x", "B-x", "I-x", "O"]}, {"tokens": ["e"], "tags": ["I-y"]}]  # IOB1
    task.inspect(examples)
    assert task.facts.scheme == scheme and task.facts.labels == schemes.tags_of(["x", "y"], scheme)
    data = task.encode(examples, BYTES, Layout(seq_length=20, batch_size=2))
    tags = [[task.facts.labels[i] for i in labels] for _, _, labels in data.rows]
    expected = {
        "BIO": "B-x B-x I-x O, B-y", "IOB1": "I-x B-x I-x O, I-y", "BIOES": "S-x B-x E-x O, S-y",
        "BIOUL": "U-x B-x L-x O, U-y", "BMES": "S-x B-x E-x O, S-y",
    }  # fmt: skip
    assert ", ".join(map(" ".join, tags)) == expected[scheme]
    assert task.size(data) == f"2 sentences in 2 rows, spans in {scheme}"
    assert [metrics.entities(row) for row in tags] == [metrics.entities(example["tags"]) for example in examples]


def test_a_tag_of_spans_that_training_lacks_is_learnt_with_its_scheme():
    train, longer = [{"tokens": ["a", "b"], "tags": ["B-x", "O"]}], {"tokens": ["a", "b"], "tags": ["B-x", "I-x"]}
    task = Tagging()
    task.inspect(train)
    sentence = "has the tag 'I-x', which no training example has; train with --set=scheme=BIO, which learns all tags"
    with pytest.raises(ValueError, match=sentence):
        task.encode([longer], BYTES, LAYOUT)
    with pytest.raises(ValueError, match=r"has the tag 'I-y', which no training example has\.$"):
        task.encode([{"tokens": ["a", "b"], "tags": ["B-x", "I-y"]}], BYTES, LAYOUT)
    learnt = Tagging(TaggingConfig(scheme="BIO"))
    learnt.inspect(train)
    (_, _, labels), *_ = learnt.encode([longer], BYTES, LAYOUT).rows
    assert [learnt.facts.labels[i] for i in labels] == ["B-x", "I-x"]


CHINESE = [
    {"tokens": ["然而", "，", "人文", "大樓"], "tags": ["O", "O", "B-LOC", "I-LOC"]},
    {"tokens": ["2004", "年", "王", "李"], "tags": ["O", "O", "B-PER", "B-PER"]},
]
BY_CHARACTER = [
    {"tokens": list("然而，人文大樓"), "tags": ["O", "O", "O", "B-LOC", "I-LOC", "I-LOC", "I-LOC"]},
    {"tokens": list("2004年王李"), "tags": ["O", "O", "O", "O", "O", "B-PER", "B-PER"]},
]


@pytest.mark.parametrize("scheme", ["", "BMES"])
def test_words_cut_into_characters_are_the_characters_with_their_tags(scheme):
    (words, of_words), (characters, of_characters) = (
        (Tagging(TaggingConfig(scheme=scheme or "BIO")), BY_CHARACTER),
        (Tagging(TaggingConfig(scheme=scheme, words="characters")), CHINESE),
    )
    layout = Layout(seq_length=40, batch_size=2)
    for task, examples in ((words, of_words), (characters, of_characters)):
        task.inspect(examples)
    assert characters.facts == words.facts and characters.facts.scheme == (scheme or "BIO")
    assert [characters.texts(one) for one in CHINESE] == [words.texts(one) for one in BY_CHARACTER]
    assert words.texts_are == "" != characters.texts_are  # or the cache would give one the tokenizer of the other
    expected, data = words.encode(BY_CHARACTER, BYTES, layout), characters.encode(CHINESE, BYTES, layout)
    assert data.words == expected.words == [tuple(one["tokens"]) for one in BY_CHARACTER]
    for row, other in zip(data.rows, expected.rows, strict=True):
        for ours, theirs in zip(row, other, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_text_without_spaces_is_tagged_character_by_character():
    task = Tagging(TaggingConfig(words="characters", crf=True))
    task.inspect(CHINESE)
    tokenizer = create("char", [text for one in CHINESE for text in task.texts(one)])
    layout = Layout(seq_length=40, batch_size=2)
    config = MODELS.config("bilstm").preset("tiny")
    fields = task.model_fields(tokenizer)
    config = config.replace(**{k: v for k, v in fields.items() if k in config.field_names()})
    model = tiny_models.strengthen(task.assemble(MODELS.get("bilstm")(config)).build_from_ids())
    data = task.encode(CHINESE, tokenizer, layout)
    task.training_batches(data, model, tokenizer, layout)
    tag = task.signatures(model, tokenizer)["tag"]
    answer = tag(tf.constant(["然而，人文大樓", "2004年王李", " 然而，\u3000人文\xa0大 樓\n", " "]))
    assert answer["num_tokens"].numpy().tolist() == [7, 7, 7, 0]
    assert [word.decode() for word in answer["tokens"][0].numpy()] == list("然而，人文大樓")
    np.testing.assert_array_equal(answer["tags"][2], answer["tags"][0])
    _, rows, _ = task.score(model, next(iter(task.evaluation_batches(data, model, tokenizer, layout))))
    for row in range(2):
        predicted = [task.facts.labels[i].encode() for i in np.asarray(rows["predicted"])[row][:7]]
        assert answer["tags"][row].numpy().tolist() == predicted


def test_what_cannot_be_cut_into_characters_is_refused():
    with pytest.raises(ValueError, match="words must be spaces or characters, got 'letters'"):
        TaggingConfig(words="letters")
    with pytest.raises(ValueError, match="The tags mark no spans, such as 'D', .* leave words=characters out"):
        adapted(words="characters")
    task = Tagging(TaggingConfig(words="characters"))
    task.inspect(CHINESE)
    with pytest.raises(ValueError, match="Example 1 has words of white space alone"):
        task.encode([{"tokens": ["\u3000"], "tags": ["O"]}], BYTES, LAYOUT)


def test_characters_in_graph_are_those_of_the_words():
    texts = ["", " ", "a\tb\x0bc\r\nd", "x\u3000y\xa0z\u2028", "\u200b\x1c\x85é\U0001f600", "naïve 東京"]
    graph = characters_in_graph(tf.constant(texts)).to_list()
    assert [[one.decode() for one in row] for row in graph] == [characters_of(text) for text in texts]
    assert characters_of(texts[3]) == list("xyz") and characters_of(texts[4]) == list("\u200b\x1c\x85é\U0001f600")
    assert characters_in_graph(tf.constant([b"a\xff b"])).to_list() == [[b"a", b"\xef\xbf\xbd", b"b"]]


def test_a_few_sentences_may_break_the_scheme():
    right, wrong = {"tokens": ["a", "b"], "tags": ["B-x", "I-x"]}, {"tokens": ["a", "b"], "tags": ["O", "I-x"]}
    task = Tagging()
    task.inspect([right] * 99 + [wrong])
    assert task.facts.scheme == "BIO"
    told = task.size(task.encode([right], BYTES, LAYOUT))
    assert told == "1 sentences in 1 rows, spans in BIO (1 of the training sentences break it)"
    task.inspect([right] * 98 + [wrong])
    assert task.facts.scheme == ""


def test_words_of_chinese_are_spans_without_types():
    task = Tagging()
    task.inspect([{"tokens": list("abcd"), "tags": ["B", "M", "E", "S"]}])
    assert task.facts.scheme == "BMES" and metrics.entities(["B", "M", "E", "S"]) == [("", 0, 2), ("", 3, 3)]


def test_constraints_are_an_option():
    examples = [{"tokens": list("abc"), "tags": ["B-x", "I-x", "O"]}, {"tokens": ["d"], "tags": ["B-y"]}]
    mask, unary = np.ones((1, 2), bool), np.zeros((1, 2, 4), np.float32)
    unary[0, 0, 1], unary[0, 1, 2], unary[0, 1, 3] = 9.0, 5.0, 1.0  # B-y, then I-x is the best alone

    def decoded(**fields):
        task = Tagging(TaggingConfig(**fields))
        task.inspect(examples)
        head = task.head(None)
        head.build((None, None, 4))
        outputs = (unary, head.crf.moves()) if task.config.crf else unary
        tags, score, probs = task.best(outputs, mask)
        return tags.numpy()[0].tolist(), float(score[0]), head, np.asarray(probs)[0]

    assert decoded()[0] == [1, 2] == decoded(crf=True, constraints="none")[0]
    tags, score, _, probs = decoded(constraints="decoding")
    log_probs = unary[0] - np.log(np.exp(unary[0]).sum(-1, keepdims=True))
    assert tags == [1, 3] and score == pytest.approx(log_probs[0, 1] + log_probs[1, 3], rel=1e-5)
    np.testing.assert_allclose(probs, np.exp([log_probs[0, 1], log_probs[1, 3]]), rtol=1e-5)
    for constraints, in_training in (("auto", False), ("decoding", False), ("training", True)):
        tags, _, head, _ = decoded(crf=True, constraints=constraints)
        assert tags == [1, 3]
        hidden = np.zeros((1, 2, 4), np.float32)
        learnt, served = (np.isinf(head(hidden, {}, training=training)[1][:-1]).any() for training in (True, False))
        assert learnt == in_training and served


PARTIAL = [
    {"tokens": ["Ann", "Lee", "of", "York"], "tags": ["B-PER", "I-PER", "O", "B-LOC"]},
    {"tokens": ["Lee", "met", "York"], "tags": ["B-PER", "O", "B-PER|B-LOC"]},
    {"tokens": ["of", "Ann", "Lee"], "tags": ["O", "*", "I-PER|B-PER"]},
]


def test_a_word_of_several_tags_is_learnt_as_any_of_them():
    """The loss is -log of the sum of p over all sequences that fit, and any tag that a word may have counts as right."""
    task = Tagging(TaggingConfig(crf=True, partial=True, head_dropout=0.0))
    task.inspect(PARTIAL)
    labels = task.facts.labels
    assert labels == ("B-LOC", "B-PER", "I-PER", "O") and task.facts.scheme == "BIO"
    data = task.encode(PARTIAL, BYTES, Layout(seq_length=24, batch_size=3))
    assert [[[labels[i] for i in np.flatnonzero(word)] for word in row] for row in data.allowed[1:]] == [
        [["B-PER"], ["O"], ["B-LOC", "B-PER"]], [["O"], list(labels), ["B-PER", "I-PER"]],
    ]  # fmt: skip
    batch = next(iter(task.evaluation_batches(data, NO_CHARACTERS, BYTES, Layout(seq_length=24, batch_size=3))))
    rng = np.random.default_rng(0)
    unary = rng.normal(size=(3, 4, 4)).astype(np.float32)
    moves = rng.normal(size=(5, 5)).astype(np.float32)
    moves[-1, -1] = 0
    nats = 0.0
    for row, allowed in enumerate(data.allowed):

        def summed(paths, row=row):
            sides = [(len(labels), *path, len(labels)) for path in paths]
            steps = [
                sum(moves[move] for move in itertools.pairwise(side))
                + sum(unary[row, w, tag] for w, tag in enumerate(side[1:-1]))
                for side in sides
            ]
            return np.log(np.sum(np.exp(steps)))

        fit = itertools.product(*map(np.flatnonzero, allowed))
        nats -= summed(fit) - summed(itertools.product(range(4), repeat=len(allowed)))
    loss, count = task.loss(batch, (unary, moves))
    assert float(loss) == pytest.approx(nats, rel=1e-5) and float(count) == 10

    task.forward = lambda model, batch: ((unary, moves), None)
    _, rows, _ = task.score(None, batch)
    predicted, judged = np.asarray(rows["predicted"]), np.asarray(rows["labels"])
    real = batch["loss_weights"] > 0
    fits = np.take_along_axis(batch["allowed"], predicted[..., None], axis=-1)[..., 0]
    assert (judged == np.where(fits, predicted, batch["labels"]))[real].all() and fits[2, 1] and not fits[real].all()
    _, _, weights, _ = task.class_logits(None, batch)
    assert np.asarray(weights).tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]


def test_partial_labels_name_their_scheme_where_no_sentence_is_whole():
    fields = dict(crf=True, partial=True)
    examples = [{"tokens": ["a", "b"], "tags": ["B-X|O", "*"]}]
    task = Tagging(TaggingConfig(**fields))
    task.inspect(examples)
    assert task.facts.scheme == "" and task.facts.labels == ("B-X", "O")
    task = Tagging(TaggingConfig(**fields, scheme="BIOES"))
    task.inspect(examples)
    assert task.facts.scheme == "BIOES" and task.facts.labels == ("B-X", "E-X", "I-X", "O", "S-X")
    for label, sentence in (
        ("B-X|", "The label 'B-X|' has an empty tag"),
        ("*", "each word of the train split has the label *"),
    ):
        with pytest.raises(ValueError, match=re.escape(sentence)):
            Tagging(TaggingConfig(**fields)).inspect([{"tokens": ["a"], "tags": [label]}])
    with pytest.raises(ValueError, match="Example 1 has the tag 'B-Y', which no training example has"):
        task.encode([{"tokens": ["a"], "tags": ["O|B-Y"]}], BYTES, LAYOUT)


@pytest.mark.parametrize(("fields", "tags", "sentence"), [
    (dict(scheme="BIO"), ["N", "V"], "The tags mark no spans, such as 'N', so they cannot be written in BIO"),
    (dict(constraints="decoding"), ["B-x", "I-y"], "The tags follow no scheme of spans, so no move is forbidden"),
])  # fmt: skip
def test_schemes_that_do_not_fit_are_refused(fields, tags, sentence):
    with pytest.raises(ValueError, match=sentence):
        Tagging(TaggingConfig(**fields)).inspect([{"tokens": ["a", "b"], "tags": tags}])


def test_options_that_are_refused():
    with pytest.raises(ValueError, match="scheme must be BIO, IOB1, BIOES, BIOUL, BMES, got 'BILOU'"):
        TaggingConfig(scheme="BILOU")
    with pytest.raises(ValueError, match="constraints=training is for a CRF"):
        TaggingConfig(constraints="training")
    with pytest.raises(ValueError, match="partial=true is for a CRF; set crf=true besides"):
        TaggingConfig(partial=True)
    with pytest.raises(ValueError, match="leave out partial=true or words=characters"):
        TaggingConfig(partial=True, crf=True, words="characters")


def test_the_least_row_has_room_for_a_word():
    with pytest.raises(ValueError, match="leaves no room for a word"):
        adapted().encode(EXAMPLES, BYTES, Layout(seq_length=2, batch_size=2))


def test_a_tag_that_marks_no_span_among_many_that_do_is_refused():
    task = Tagging(TaggingConfig())
    spans = [{"tokens": ["a"] * 4, "tags": ["O", "B-X", "I-X", "O"]}] * 5
    with pytest.raises(ValueError, match="Example 6 has the tag 'o', which marks no span as others do"):
        task.inspect([*spans, {"tokens": ["a"], "tags": ["o"]}])
    data = TaggedSentences([], [], [])
    task.inspect([{"tokens": ["a"] * 3, "tags": ["o", "b-X", "i-X"]}])
    assert "no spans (tags like 'b-X' would mark some if they were written B-PER)" in task.size(data)
    task.inspect(
        [*spans, *[{"tokens": ["a", "b"], "tags": ["I-X", "O"]}, {"tokens": ["a"] * 3, "tags": ["B-X", "O", "B-X"]}] * 2]
    )
    assert "spans in no scheme (2 of the training sentences break BIO, the closest)" in task.size(data)
    task.inspect([{"tokens": ["a", "b"], "tags": ["NN", "O"]}])
    assert "span" not in task.size(data)
