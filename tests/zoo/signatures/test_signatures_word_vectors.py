"""Nearest words and analogies beside plain search.

Shape letters: V vocabulary, D hidden.
"""

import numpy as np
import pytest
import tensorflow as tf

import zoo
from zoo.registry import TASKS
from zoo.signatures import word_vectors
from zoo.tokenizers.word import WordTokenizer

V, D, UNTRAINED = 203, 12, 7


def model_of(family, seed):
    """A trained model of random vectors with many near ties: three of four words are a copy of another, moved by 1e-5."""
    random = np.random.default_rng(seed)
    table_VD = random.normal(size=(V, D)).astype(np.float32)
    table_VD[V // 4 :] = table_VD[random.integers(2, V // 4, V - V // 4)] + random.normal(size=(V - V // 4, D)) * 1e-5
    table_VD[:2] = 0
    tokenizer = WordTokenizer([f"w{i}" for i in range(2, V)])
    task = TASKS.get("word_vectors")()
    config = dict(vocab_size=V, hidden_dim=D, eos_id=tokenizer.eos_id, unk_id=tokenizer.unk_id)
    model = task.assemble(zoo.create(family, "tiny", **config)).build_from_ids()
    sides = model.without_head().sides()
    for side in sides:
        side.assign(table_VD / len(sides) * random.choice([0.5, 2.0], (V, 1)))
    counts = np.arange(V, 0, -1)
    counts[[0, 1, UNTRAINED]] = 0
    model.head.counts.assign(counts.astype(np.float32))
    return model, tokenizer, task, sum(side.numpy() for side in sides).astype(np.float64)


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def plainly(table_VD, query_D, left_out, k):
    """(cosines of the k nearest, all cosines)."""
    cosines = unit(table_VD) @ unit(query_D)
    cosines[[0, 1, UNTRAINED, *left_out]] = -np.inf
    return np.sort(cosines)[::-1][:k], cosines


@pytest.mark.parametrize("family", ["word2vec", "glove"])
@pytest.mark.parametrize("part", [40 * D, 2**24])
def test_answers_are_those_of_plain_search_whatever_the_parts(family, part, monkeypatch):
    monkeypatch.setattr(word_vectors, "PART", part)
    model, tokenizer, task, table_VD = model_of(family, seed=part)
    found = task.signatures(model, tokenizer)
    number = {word: i for i, word in enumerate(tokenizer.vocabulary)}
    asked = [[30, 64, 3], [90, 5, 201]]
    words = tf.constant([[f"w{i}" for i in ids] for ids in asked])
    answers = [
        (found["nearest"](word=words[:, 0], k=tf.constant([25, 9])), [(table_VD[i], [i]) for i, _, _ in asked]),
        (
            found["analogy"](a=words[:, 0], b=words[:, 1], c=words[:, 2], k=tf.constant([25, 9])),
            [(unit(table_VD[b]) - unit(table_VD[a]) + unit(table_VD[c]), [a, b, c]) for a, b, c in asked],
        ),
    ]
    for answer, queries in answers:
        for row, (k, (query_D, left_out)) in enumerate(zip((25, 9), queries, strict=True)):
            best, cosines = plainly(table_VD, query_D, left_out, k)
            ids = [number[word.decode()] for word in answer["words"][row].numpy() if word]
            np.testing.assert_allclose(answer["similarity"][row, :k], best, atol=3e-7)
            np.testing.assert_allclose(cosines[ids], best, atol=3e-7)
            assert len(set(ids)) == k


def test_columns_are_vectors_of_length_1_in_parts():
    model, *_, table_VD = model_of("glove", seed=1)
    word_vectors.measure(model)
    parts = word_vectors.unit_columns(model, part=50 * D)
    assert [tuple(part.shape) for part in parts] == [(D, 50)] * 4 + [(D, 3)]
    expected = unit(table_VD)
    expected[UNTRAINED] = 0
    np.testing.assert_allclose(np.concatenate(parts, axis=1).T, expected, atol=1e-6)


@pytest.mark.parametrize(("words", "expected"), [
    (["of", "list", "the"], "list"), (["我", "``", "花"], "花"), (["``", "''"], "list"),
    ([f"w{i}" for i in range(300)], "w100"),
])  # fmt: skip
def test_the_word_of_an_example_is_one_that_the_vectors_know(words, expected):
    """The lines that a run and an export print ask for it."""
    tokenizer, task = WordTokenizer(words), TASKS.get("word_vectors")()
    model = task.assemble(zoo.create("word2vec", "tiny", vocab_size=len(words) + 2, eos_id=1, unk_id=0)).build_from_ids()
    assert word_vectors.word_vectors_requests(model, tokenizer)[0][1] == {"word": ["list", ""]}
    model.head.counts.assign(np.array([0, 0, *range(len(words), 0, -1)], np.float32))
    assert word_vectors.word_vectors_requests(model, tokenizer)[0][1] == {"word": [expected, ""]}
