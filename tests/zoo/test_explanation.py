"""Explanations: completeness, agreement with finite differences, and planted words that are found."""

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import explanations
from tests import exports
from zoo import explanation
from zoo.api import Loaded
from zoo.bundle import Bundle
from zoo.config import Refusal
from zoo.signatures import text_to_text
from zoo.signatures.words import words_in_graph
from zoo.tokenizers.base import create as create_tokenizer

TEXT = "the cat sat on the mat ."
CLASSIFIERS = ("bag_of_words", "bert", "bilstm", "glove", "gpt", "lstm", "word2vec")
LANGUAGE_MODELS = ("gpt", "lstm", "glm")


def loaded(name, task):
    made = exports.made(name, task)
    return Loaded(Bundle(made.model, made.tokenizer, made.task, {}))


CASES = [*((name, "classification") for name in CLASSIFIERS), *((name, "language_modeling") for name in LANGUAGE_MODELS)]
WRITERS = [(name, "translation") for name in ("transformer", "seq2seq", "t5", "gpt", "lstm")]
TARGETS = {
    "classification": dict(target="yes", contrast="no"), "language_modeling": dict(target=" on", contrast="!"),
    "translation": dict(target="le chat", contrast="un"), "tagging": dict(target="yes", contrast="no", word=1),
    "tagging:crf": dict(target="B-A", contrast="O", word=1),
    "semantic_roles": dict(target="B-A0", contrast="O", word=4, predicate=2),
}  # fmt: skip
TAGGERS = [
    *((name, f"tagging{crf}") for name in ("bilstm", "bert", "gpt", "word2vec") for crf in ("", ":crf")),
    ("bert", "semantic_roles"), ("bilstm", "semantic_roles"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "task"), [*CASES, *WRITERS, ("bert", "masked_lm"), *TAGGERS])
def test_integrated_gradients_are_complete_and_gradients_are_those_of_differences(name, task):
    zoo, text = loaded(name, task), TEXT
    options = TARGETS.get(task, {})
    if task == "masked_lm":
        text, (target, contrast) = with_a_hole(zoo), zoo.tokenizer.vocabulary[-2:]
        options = dict(target=target, contrast=contrast)
    whole = zoo.explain(text, **options)
    difference = whole.value - whole.baseline
    assert sum(whole.scores) == pytest.approx(difference, abs=1e-3 * max(1, abs(difference)))
    assert "".join(whole.tokens).split() == text.split()
    plain = zoo.explain(text, "gradient_x_input", **options)
    assert plain.value == pytest.approx(whole.value, abs=1e-4)
    question = explanation._question(zoo.model, zoo.tokenizer, zoo.task, text, **{"contrast": None, **options})
    count, step = len(question.ids), 2e-3
    for place in (0, count - 1):
        factors = np.ones((2, count), np.float32)
        factors[:, place] += (step, -step)
        up, down = np.asarray(question.values(np.tile(question.ids, (2, 1)), tf.constant(factors)))
        assert plain.scores[place] == pytest.approx((up - down) / (2 * step), abs=5e-3, rel=2e-2)


@pytest.mark.parametrize(
    ("name", "task"), [("bert", "classification"), ("gpt", "language_modeling"), ("ngram", "language_modeling")]
)
def test_occlusion_is_what_the_number_loses_without_a_token(name, task):
    zoo = loaded(name, task)
    target = "yes" if task == "classification" else "m"
    answer = zoo.explain("the cat", "occlusion", target=target)

    def value(ids):
        frame = zoo.task.frame(zoo.model.kind, zoo.tokenizer)
        if task == "classification":
            logits = zoo.model({"token_ids": np.array([[*frame.before, *ids, *frame.after]])})
            return float(tf.nn.log_softmax(logits)[0, zoo.task.facts.labels.index("yes")])
        (label,) = zoo.tokenizer.encode("m")
        return float(tf.nn.log_softmax(zoo.model(np.array([[*frame.before, *ids]])))[0, -1, label])

    ids = list(zoo.tokenizer.encode("the cat"))
    assert answer.value == pytest.approx(value(ids), abs=1e-5)
    expected = [value(ids) - value(ids[:i] + ids[i + 1 :]) for i in range(len(ids))]
    np.testing.assert_allclose(answer.scores, expected, atol=1e-5)


def with_a_hole(zoo):
    return TEXT.replace("cat", zoo.tokenizer.mask_token)


@pytest.mark.parametrize(("name", "task"), WRITERS)
def test_what_is_written_of_a_source_has_the_probability_that_is_served(name, task):
    zoo = loaded(name, task)
    answer = zoo.explain(TEXT, "occlusion", target="le chat")
    assert len(answer.tokens) == len(zoo.tokenizer.encode(TEXT))
    frame = zoo.task.frame(zoo.model.kind, zoo.tokenizer)
    served = text_to_text._pairs(zoo.model, zoo.tokenizer, frame, 64, [TEXT], ["le chat"])
    inputs = zoo.model.taken(served)
    log_probs = zoo.model.token_log_probs(inputs.pop("token_ids"), served["labels"], **inputs)[0].numpy()
    real = np.flatnonzero(served["loss_weights"].numpy()[0])
    assert answer.value == pytest.approx(log_probs[0, real[:-1]].sum(), rel=1e-4)  # the last is the end
    if zoo.model.max_length is None:  # these models write bytes at random, to the end
        assert zoo.explain(TEXT, "gradient_x_input").target == zoo.generate(TEXT)


def test_a_hole_is_explained_by_the_words_around_it():
    zoo = loaded("bert", "masked_lm")
    text = with_a_hole(zoo)
    answer = zoo.explain(text, "occlusion")
    filled = zoo.predict("fill_mask", text=[text])
    assert answer.target == filled["tokens"][0][0][0] and np.exp(answer.value) == pytest.approx(
        filled["probs"][0, 0, 0], rel=1e-4
    )
    (place,) = [i for i, token in enumerate(answer.tokens) if token.strip() == zoo.tokenizer.mask_token]
    assert answer.scores[place] == 0 and sum(score != 0 for score in answer.scores) == len(answer.scores) - 1


def loaded_speller(task):
    """A BiLSTM that reads characters and capital letters."""
    made = exports.make("bilstm", task, characters="cnn", character_dim=6, character_hidden_dim=8, case_dim=3)
    return Loaded(Bundle(made.model, made.tokenizer, made.task, {}))


@pytest.mark.parametrize("task", ["tagging", "tagging:crf"])
@pytest.mark.parametrize("name", ["bert", "bilstm", "speller"])
def test_a_tag_has_the_probability_that_is_served(name, task):
    zoo = loaded_speller(task) if name == "speller" else loaded(name, task)
    served, words = zoo.predict("tag", text=[TEXT]), TEXT.split()
    for word in range(len(words)):
        answer = zoo.explain(TEXT, "occlusion", word=word)
        assert answer.target == served["tags"][0][word] and answer.of == f"the word {words[word]!r}"
        assert np.exp(answer.value) == pytest.approx(served["probs"][0, word], rel=1e-4)


def test_the_probabilities_of_the_tags_of_a_word_sum_to_1():
    zoo = loaded("bert", "tagging:crf")
    values = [zoo.explain(TEXT, "gradient_x_input", target=tag, word=2).value for tag in zoo.task.facts.labels]
    assert np.exp(values).sum() == pytest.approx(1, rel=1e-5)


def test_a_word_that_is_occluded_is_unknown_and_has_no_characters():
    zoo = loaded_speller("tagging")
    answer = zoo.explain("aa bb", "occlusion", target="yes", word=1)
    outputs = []
    for gone in (None, 0):
        words, batch, _ = words_in_graph(
            tf.constant(["aa bb"]), zoo.tokenizer, zoo.task.frame("encoder", zoo.tokenizer), 64, zoo.model.takes
        )
        batch = {key: np.array(value) for key, value in batch.items()}
        if gone is not None:
            place = batch["label_positions"][0, gone]
            batch["token_ids"][0, place], batch["characters"][0, place] = zoo.tokenizer.unk_id, 0
        outputs.append(float(tf.nn.log_softmax(zoo.model(batch))[0, 1, zoo.task.facts.labels.index("yes")]))
    place -= 1  # of the frame
    assert answer.scores[place] == pytest.approx(outputs[0] - outputs[1], abs=1e-5) and abs(answer.scores[place]) > 1e-3


def test_integrated_gradients_take_the_characters_of_a_word_with_it():
    zoo = loaded_speller("tagging:crf")
    answer = zoo.explain(TEXT, target="B-A", contrast="O", word=1)
    batch = words_in_graph(tf.constant([TEXT]), zoo.tokenizer, zoo.task.frame("encoder", zoo.tokenizer), 64, zoo.model.takes)[1]
    assert np.any(batch["characters"].numpy())
    assert sum(answer.scores) == pytest.approx(answer.value - answer.baseline, abs=1e-3)
    assert answer.baseline == pytest.approx(zoo.explain(TEXT.upper(), target="B-A", contrast="O", word=1).baseline, abs=1e-5)


@pytest.mark.parametrize("name", ["bert", "bilstm"])
def test_a_role_that_is_explained_is_the_one_that_is_served(name):
    zoo = loaded(name, "semantic_roles")
    for predicate in (0, 3):
        served = zoo.predict("label_roles", text=[TEXT], predicate=[predicate])["tags"][0, 0]
        answers = [zoo.explain(TEXT, "gradient_x_input", word=word, predicate=predicate) for word in range(7)]
        assert [answer.target for answer in answers] == list(served)
    one, other = (zoo.explain(TEXT, "occlusion", target="B-A0", word=1, predicate=i).value for i in (0, 3))
    assert one != pytest.approx(other, abs=1e-4)


def test_several_tokens_are_explained_as_a_chain():
    zoo = loaded("gpt", "language_modeling")
    one, two = zoo.explain("the ", target="c"), zoo.explain("the ", target="ca")
    after = zoo.score("the ca")["log_prob"] - zoo.score("the ")["log_prob"]
    assert two.value == pytest.approx(after, abs=1e-4) and one.value > two.value
    against = zoo.explain("the ", target="ca", contrast="c")
    assert against.value == pytest.approx(two.value - one.value, abs=1e-4)
    likeliest = zoo.explain("the ")
    assert likeliest.value >= max(zoo.explain("the ", "gradient_x_input", target=letter).value for letter in "ace mst.")


def test_the_planted_word_of_a_toy_classifier_is_found_100_times_of_100():
    loaded = explanations.toy()
    assert explanations.found(loaded, "integrated_gradients") == 100
    for method in ("gradient_x_input", "occlusion"):
        assert explanations.found(loaded, method, 10) == 10, method


def test_what_cannot_be_explained_is_refused():
    classifier, model = loaded("bert", "classification"), loaded("gpt", "language_modeling")
    for zoo, options, sentence in (
        (classifier, dict(text="the", target="yess"), "did you mean 'yes'"),
        (classifier, dict(text="the", method="occlude"), "There is no method"),
        (classifier, dict(text=""), "The text is empty"),
        (model, dict(text="the", target=""), "is empty"),
        (model, dict(text="a" * 80), "takes at most 64"),
        (loaded("bert", "masked_lm"), dict(text="the"), "Each text needs a hole"),
        (loaded("bert", "masked_lm"), dict(text="[MASK] the [MASK]"), "The text has 2 holes"),
        (loaded("bert", "masked_lm"), dict(text="[MASK]", target="cat dog"), "A hole takes one token, and 'cat dog' has"),
        (loaded("transformer", "translation"), dict(text="the", target=""), "is empty"),
        (loaded("bert", "tagging"), dict(text="the cat"), "word must be the number of one of the text's 2 words"),
        (loaded("bert", "tagging"), dict(text="the cat", word=2), "from 0; got 2"),
        (loaded("bert", "tagging"), dict(text="the cat", word=0, target="yess"), "did you mean 'yes'"),
        (loaded("bert", "tagging"), dict(text="the cat", word=0, predicate=1), "predicate is for semantic_roles, and"),
        (loaded("bert", "tagging"), dict(text="a " * 80, word=0), "64"),
        (loaded("gpt", "tagging"), dict(text="  ", word=0), "has no words"),
        (loaded("bert", "semantic_roles"), dict(text="the cat", word=0), "predicate must be the number"),
        (classifier, dict(text="the", word=0), "word is for tagging and semantic_roles"),
        (loaded("bert", "question_answering"), dict(text="the"), "was made for question_answering"),
        (loaded("ngram", "language_modeling"), dict(text="the"), "explain it by occlusion"),
    ):
        with pytest.raises(Refusal, match=sentence):
            zoo.explain(**options)


def test_html_escapes_the_text_and_pieces_hold_characters_whole():
    answer = explanation.Explanation("occlusion", ("<b>", " x"), (1.0, -2.0), "yes", None, -0.5)
    assert "&lt;b&gt;" in answer.html() and "<b>" not in answer.html() and 'title="-2.0000"' in answer.html()
    tokenizer = create_tokenizer("byte")
    assert explanation.pieces(tokenizer, np.array(tokenizer.encode("aé"))) == ["a", "", "é"]
    assert answer.to_dict()["scores"] == [1.0, -2.0] and answer.shades() == [0.5, -1.0]
