"""What characters tell of words: the CNN and the LSTM by their formulas, capital letters by hand, rows in graph."""

import numpy as np
import pytest
import tensorflow as tf

from tests import tiny_models
from zoo.data.batch import Layout
from zoo.data.words import MOST_CHARACTERS, characters_at, code_points
from zoo.layers.characters import CapitalLetters, CharacterCNN, CharacterLSTM, cases
from zoo.models.bilstm import BiLSTM, BiLSTMConfig
from zoo.registry import TASKS
from zoo.signatures.words import words_in_graph
from zoo.tasks.tagging import Tagging, TaggingConfig
from zoo.tokenizers.base import create, load

WORDS = ["cat", "", "naïve", "東京", "x" * 30]
CLOSE = dict(rtol=1e-5, atol=1e-6)


def spelt(words=WORDS):
    return np.stack([code_points(word) for word in words])


def built(layer):
    layer.build()
    random = np.random.default_rng(0)
    for weight in layer.weights:
        weight.assign(random.normal(0, 0.5, weight.shape))
    return layer


def vectors_of(layer, word):
    return np.asarray(layer.table.embeddings)[[1 + ord(c) % layer.num_characters for c in word[:MOST_CHARACTERS]]]


def test_the_cnn_is_its_formula():
    layer = built(CharacterCNN(29, 4, 5))
    kernel, bias = np.asarray(layer.kernel).reshape(3, 4, 5), np.asarray(layer.bias)
    answers = np.asarray(layer(spelt()))
    for answer, word in zip(answers, WORDS, strict=True):
        if not word:
            np.testing.assert_array_equal(answer, 0)
            continue
        x = np.pad(vectors_of(layer, word), ((1, 1), (0, 0)))
        sums = [sum(x[i + k] @ kernel[k] for k in range(3)) for i in range(len(x) - 2)]
        np.testing.assert_allclose(answer, np.tanh(np.max(sums, 0) + bias), **CLOSE)
    np.testing.assert_allclose(layer(spelt().reshape(1, 5, -1))[0], answers, **CLOSE)


def test_the_lstm_gives_the_last_state_of_each_direction():
    layer = built(CharacterLSTM(29, 4, 6))
    answers = np.asarray(layer(spelt()))
    for answer, word in zip(answers, WORDS, strict=True):
        x = vectors_of(layer, word)[None].astype("float32")
        left, right = layer.states.forward, layer.states.backward
        expected = [side(x_1TE)[1][0][0] for side, x_1TE in ((left, x), (right, x[:, ::-1]))] if word else [np.zeros(6)]
        np.testing.assert_allclose(answer, np.concatenate(expected), **CLOSE)


@pytest.mark.parametrize("layer", [CharacterCNN(29, 4, 6), CharacterLSTM(29, 4, 6), CapitalLetters(6)])
def test_a_batch_may_have_no_rows(layer):
    assert built(layer)(np.zeros((0, 7, 5), np.int32)).shape == (0, 7, 6)


def test_dropout_falls_on_characters_in_training_alone():
    layer = built(CharacterCNN(29, 4, 5, dropout=0.5))
    np.testing.assert_array_equal(layer(spelt()), layer(spelt()))
    assert not np.allclose(layer(spelt(), training=True), layer(spelt()))


def test_capital_letters_by_hand():
    layer = built(CapitalLetters(3))
    words = ["the", "USA", "Paris", "iPhone", "U.S.", "Été", "ЯБ", "東京", "1st", "X", "McX", ""]
    kinds = np.asarray(cases(spelt(words), layer.capital, layer.small))
    assert kinds.tolist() == [0, 1, 2, 3, 1, 2, 1, 0, 0, 1, 2, 0]
    expected = np.asarray(layer.table)[kinds]
    expected[-1] = 0  # where no word is
    np.testing.assert_allclose(layer(spelt(words)), expected, **CLOSE)


def test_characters_in_graph_are_the_native_ones():
    tokenizer = create("byte")
    frame = Tagging().frame("encoder", tokenizer)
    texts = ["naïve  東京 😀", "", " " + "x" * 30]
    words, batch, _ = words_in_graph(tf.constant(texts), tokenizer, frame, 64, ("characters",))
    places = [row[: len(text.split())] for row, text in zip(batch["label_positions"].numpy(), texts, strict=True)]
    expected = characters_at([text.split() for text in texts], places, batch["token_ids"].shape[1])
    np.testing.assert_array_equal(batch["characters"], expected)
    assert expected[0, 1, :6].tolist() == [*map(ord, "naïve"), 0]
    assert "characters" not in words_in_graph(tf.constant(texts), tokenizer, frame, 64)[1]


def test_a_tagger_answers_as_evaluation_sees_it():
    examples = [{"tokens": ["the", "Cat", "2sat"], "tags": ["D", "N", "V"]}, {"tokens": ["cats", "Sit"], "tags": ["N", "V"]}]
    task = Tagging(TaggingConfig(head_dropout=0.0))
    task.inspect(examples)
    tokenizer, layout = create("word", ["the cat"]), Layout(seq_length=9, batch_size=2)
    config = BiLSTMConfig.preset("tiny", characters="cnn", case_dim=2, vocab_size=tokenizer.vocab_size)
    model = tiny_models.strengthen(task.assemble(BiLSTM(config)).build_from_ids())
    data = task.encode(examples, tokenizer, layout)
    (batch,) = task.evaluation_batches(data, model, tokenizer, layout)
    tag = task.signatures(model, tokenizer)
    assert sorted(tag) == ["serving_default", "tag"]
    answer = tag["tag"](tf.constant([" ".join(example["tokens"]) for example in examples]))
    predicted = np.array(task.facts.labels)[task.score(model, batch)[1]["predicted"]]
    assert answer["tags"][0].numpy().astype(str).tolist() == predicted[0].tolist()
    assert answer["tags"][1, :2].numpy().astype(str).tolist() == predicted[1, :2].tolist()
    alone = tag["tag"](tf.constant(["cats Sit"]))
    np.testing.assert_allclose(alone["score"], answer["score"][1:], rtol=1e-4)
    # All are unknown words, which their characters tell apart.
    hidden = [np.asarray(model.backbone.hidden({**batch, "characters": c})) for c in (batch["characters"], None)]
    assert np.abs(hidden[0][0, 1] - hidden[1][0, 1]).max() > 1e-3


def test_other_tasks_refuse_a_model_that_reads_characters():
    model = BiLSTM(BiLSTMConfig.preset("tiny", characters="cnn"))
    with pytest.raises(ValueError, match="reads the characters of words, which classification does not cut its texts into"):
        TASKS.get("classification")().assemble(model)


def test_digits_are_zeros_for_the_word_tokenizer(tmp_path):
    word = create("word", ["in 1984 or 2001", "A1"], lowercase=True, zero_digits=True)
    assert word.vocabulary[2:] == ["0000", "in", "or", "a0"]
    texts = ["In 1999 ٣ 7", "a5 12345"]
    native = [ids.tolist() for ids in word.encode_batch(texts)]
    assert native == [[3, 2, 0, 0], [5, 0]] == word.tokenize(tf.constant(texts)).to_list()
    word.save(tmp_path)
    assert load(tmp_path).encode("1066") == [2]
    assert TaggingConfig().zero_digits is False and Tagging(TaggingConfig(zero_digits=True)).tokenizer_options("word") == {
        "zero_digits": True
    }
