"""Parts of words beside loops over them.

Shape letters: V vocabulary, B batch, S words of a row, F rows of the table for a row of words, D hidden.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import zoo
from zoo.config import Refusal
from zoo.data.batch import Layout
from zoo.data.pairs import WindowBatches, Windows, count_words, pair_counts
from zoo.data.subwords import SubwordBatches, Subwords, hashed
from zoo.layers.word_vectors import WindowHead
from zoo.tasks.word_vectors import WordVectors, WordVectorsConfig
from zoo.tokenizers.word import WordTokenizer

WORDS = ["</s>", "<unk>", "a", "list", "lists", "listing", "über", "unheard"]
BUCKETS, D = 11, 4
COUNTS = np.array([0, 0, 9, 8, 7, 6, 5, 0])
# By hand: all runs of 2 and 3 characters.
PARTS = {
    2: ["<a", "<a>", "a>"],
    3: ["<l", "<li", "li", "lis", "is", "ist", "st", "st>", "t>"],
    6: ["<ü", "<üb", "üb", "übe", "be", "ber", "er", "er>", "r>"],
}


def subwords():
    return Subwords(WORDS, COUNTS, BUCKETS, 2, 3)


def batches_of(objective="skip_gram", most_pairs=9.0):
    stream = np.random.default_rng(1).choice([0, 2, 3, 4, 5, 6], 400, p=[0.1, 0.3, 0.2, 0.2, 0.1, 0.1]).astype(np.int32)
    counts = count_words(stream, len(WORDS), special_ids=(0,))
    windows = Windows(window=2, sample=0.0, negatives=3, shared_negatives=4, objective=objective, most_pairs=most_pairs)
    return WindowBatches(stream, Layout(6, 5, seed=3), counts, 0, windows), counts


def test_a_word_has_its_own_row_and_those_of_the_hashes_of_its_parts():
    found = subwords()
    assert found.num_rows == len(WORDS) + BUCKETS and found.lengths[[0, 1, 7]].tolist() == [1, 1, 1]
    for word, parts in PARTS.items():
        expected = [word, *(len(WORDS) + hashed([part.encode() for part in parts]) % BUCKETS)]
        assert found.ids[found.starts[word] : found.starts[word + 1]].tolist() == expected
    table = np.random.default_rng(0).normal(size=(found.num_rows, D)).astype(np.float32)
    vectors = np.concatenate([part for _, part in found.means(table)])
    for word in range(len(WORDS)):
        mean = table[found.ids[found.starts[word] : found.starts[word + 1]]].mean(0)
        np.testing.assert_allclose(vectors[word], mean, atol=1e-6)


@pytest.mark.parametrize("objective", ["skip_gram", "cbow", "cbow_sum"])
@pytest.mark.parametrize("room", [None, 33])
def test_batches_hold_the_rows_of_every_word_and_rates_by_a_loop(objective, room):
    (batches, counts), parts = batches_of(objective), subwords()
    ours = SubwordBatches(batches, parts, counts)
    ours._room = room or ours._room
    batch, plain = ours.batch(1), batches.batch(1)
    assert batch.keys() == plain.keys() - {"input_rates"} | {"part_ids", "part_places", "part_rates"}
    contexts, inputs = pair_counts(plain, 2, objective)
    size, width = plain["token_ids"].shape
    expected, each = [], np.zeros(parts.num_rows)
    for row in range(size):
        words = [parts.ids[parts.starts[i] : parts.starts[i + 1]] for i in plain["token_ids"][row]]
        flat = [(place, ids[0]) for place, ids in enumerate(words)]
        flat += [(place, i) for place, ids in enumerate(words) for i in ids[1:]]
        expected.append(flat[: batch["part_ids"].shape[1]])
        for place, i in expected[-1]:
            each[i] += inputs[row, place]
    pairs = contexts.sum() if objective == "skip_gram" else np.minimum(contexts, 1).sum()
    for row, flat in enumerate(expected):
        assert list(zip(batch["part_places"][row], batch["part_ids"][row], strict=True))[: len(flat)] == flat
        assert (batch["part_places"][row, len(flat) :] == width).all()
        rows_of = np.bincount([place for place, _ in flat], minlength=width)
        for column, (place, i) in enumerate(flat):
            rate = pairs * min(1.0, 9.0 / max(each[i], 9.0)) * rows_of[place]
            assert batch["part_rates"][row, column] == pytest.approx(rate, rel=1e-5)


def test_words_are_means_of_their_rows_and_each_row_gets_the_gradient_of_the_mean_whole():
    (batches, counts), parts = batches_of(most_pairs=1e9), subwords()
    batch, random = SubwordBatches(batches, parts, counts).batch(0), np.random.default_rng(2)
    head = WindowHead(len(WORDS), negatives=3, num_parts=parts.num_rows)
    head.build((None, None, D))
    head.outputs.assign(random.normal(size=(len(WORDS), D)))
    table = head.parts.numpy()
    words = np.concatenate([part for _, part in parts.means(table)])[batch["token_ids"]]
    plain = {name: value for name, value in batch.items() if not name.startswith("part_")}
    np.testing.assert_allclose(head(np.zeros_like(words), batch)[0], head(words, plain)[0], rtol=1e-5)

    with tf.GradientTape(persistent=True) as tape:
        hidden = tf.constant(words)
        tape.watch(hidden)
        losses = keras.ops.sum(head(hidden, plain)[0])
        composed = keras.ops.sum(head(np.zeros_like(words), batch)[0])
    of_words = tape.gradient(losses, hidden).numpy()
    pairs = float(keras.ops.sum(head(words, plain)[1]))
    expected = np.zeros_like(table)
    for row, place in np.ndindex(*batch["token_ids"].shape):
        word = batch["token_ids"][row, place]
        for i in parts.ids[parts.starts[word] : parts.starts[word + 1]]:
            expected[i] += pairs * of_words[row, place]
    found = tf.convert_to_tensor(tape.gradient(composed, head.parts.value)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_words_are_composed_before_they_are_judged_and_the_model_serves_without_the_parts():
    tokenizer = WordTokenizer(WORDS[2:7])
    stream = tokenizer.encode_batch(["a list lists\n" * 30 + "über listing a\n" * 30])[0]
    task = WordVectors(WordVectorsConfig(buckets=50, min_count=1, sample=0.0))
    fields = dict(vocab_size=tokenizer.vocab_size, hidden_dim=D, eos_id=tokenizer.eos_id, unk_id=tokenizer.unk_id)
    model = task.assemble(zoo.create("word2vec", "tiny", **fields)).build_from_ids()
    layout = Layout(8, 4)
    batches = task.training_batches(stream, model, tokenizer, layout)
    assert [v.path for v in model.trainable_variables] == ["head/outputs", "head/parts"]
    assert batches.batch(0)["part_ids"].shape == batches.batch(3)["part_ids"].shape
    next(iter(task.evaluation_batches(stream, model, tokenizer, layout)))
    parts = Subwords(tokenizer.vocabulary, np.asarray(model.head.counts), 50, 3, 6)
    vectors = np.concatenate([part for _, part in parts.means(model.head.parts.numpy())])
    vectors[sorted(tokenizer.special_ids)] = 0
    np.testing.assert_allclose(model.without_head().table(), vectors, atol=1e-6)


def test_what_is_refused():
    for options in (dict(buckets=0, minn=2, maxn=3), dict(buckets=5, minn=4, maxn=3), dict(buckets=5, minn=0, maxn=3)):
        with pytest.raises(Refusal, match="Parts of words need"):
            Subwords(WORDS, COUNTS, **options)
    with pytest.raises(Refusal, match="maxn=4 cut words into parts, and buckets=0 leaves parts out; give buckets besides"):
        WordVectorsConfig(maxn=4)
    task = WordVectors(WordVectorsConfig(buckets=5))
    with pytest.raises(Refusal, match="GloVe has no parts of words"):
        task.assemble(zoo.create("glove", "tiny"))
