"""The losses of word vectors beside loops over their pairs.

Shape letters: B batch, S words of a row, T centres of a row, W window, N negatives of a row, D hidden, V vocabulary.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.data.batch import Layout
from zoo.data.pairs import WindowBatches, Windows, count_words
from zoo.layers.word_vectors import CooccurrenceHead, WindowHead, window_scores, window_sums

V, D, EOS = 23, 4, 0


def softplus(x):
    return np.log1p(np.exp(x))


def batch_of(objective, window=3, negatives=5, seed=1):
    stream = np.random.default_rng(seed).integers(0, V, 300).astype(np.int32)
    counts = count_words(stream, V, special_ids=(EOS,))
    windows = Windows(window=window, sample=0.0, negatives=negatives, shared_negatives=7, objective=objective, most_pairs=None)
    return WindowBatches(stream, Layout(6, 5, seed=3), counts, EOS, windows).batch(0)


def head_and_tables(objective, negatives=5, seed=2):
    random = np.random.default_rng(seed)
    inputs, outputs = (random.normal(size=(V, D)).astype(np.float32) for _ in range(2))
    head = WindowHead(V, objective, negatives, name="head")
    head.build((None, None, D))
    head.outputs.assign(outputs)
    return head, inputs, outputs


def pairs_of(batch, window):
    """(row, centre's column, its contexts' columns) of every centre that counts."""
    for row, centre in np.argwhere(batch["loss_weights"] > 0):
        at, before, after = centre + window, batch["contexts_before"][row, centre], batch["contexts_after"][row, centre]
        yield row, at, [*range(at - before, at), *range(at + 1, at + after + 1)]


@pytest.mark.parametrize("objective", ["skip_gram", "cbow", "cbow_sum"])
def test_losses_and_pairs_are_those_of_a_loop(objective):
    batch, (head, inputs, outputs) = batch_of(objective), head_and_tables(objective)
    expected, pairs = np.zeros(5), np.zeros(5)
    for row, at, contexts in pairs_of(batch, 3):
        centre, words = batch["token_ids"][row, at], inputs[batch["token_ids"][row, contexts]]
        hidden = words if objective == "skip_gram" else words.mean(0, keepdims=True)[: len(words)]
        for h in hidden:
            pairs[row] += 1
            expected[row] += softplus(-outputs[centre] @ h)
            expected[row] += 5 / 7 * sum(softplus(outputs[n] @ h) for n in batch["negative_ids"][row] if n != centre)
    losses, counted = head(inputs[batch["token_ids"]], batch)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_array_equal(counted, pairs)


@pytest.mark.parametrize("objective", ["cbow", "cbow_sum"])
def test_each_context_gets_its_share_of_the_means_gradient_or_all_of_it(objective):
    """With one centre of n contexts, `cbow` gives each of them 1 / n of what `cbow_sum` does."""
    batch, (head, inputs, _) = batch_of(objective), head_and_tables(objective)
    row, at, contexts = next(pair for pair in pairs_of(batch, 3) if len(pair[2]) > 2)
    batch["loss_weights"] = np.zeros_like(batch["loss_weights"])
    batch["loss_weights"][row, at - 3] = 1
    hidden = tf.constant(inputs[batch["token_ids"]])
    # The mean's gradient, by differences.
    mean, step = hidden.numpy()[row, contexts].mean(0), 1e-2
    outputs = head.outputs.numpy().astype(np.float64)
    centre = batch["token_ids"][row, at]

    def loss(h):
        others = [n for n in batch["negative_ids"][row] if n != centre]
        return softplus(-outputs[centre] @ h) + 5 / 7 * sum(softplus(outputs[n] @ h) for n in others)

    slope = np.array([(loss(mean + step * e) - loss(mean - step * e)) / (2 * step) for e in np.eye(D)])
    with tf.GradientTape() as tape:
        tape.watch(hidden)
        total = tf.reduce_sum(head(hidden, batch)[0])
    gradient = tape.gradient(total, hidden).numpy()
    share = 1.0 if objective == "cbow_sum" else 1 / len(contexts)
    expected = np.zeros_like(gradient)
    expected[row, contexts] = slope * share
    np.testing.assert_allclose(gradient, expected, atol=1e-4)


WINDOWS = pytest.mark.parametrize(("window", "length"), [(1, 1), (2, 5), (4, 3)])


def table_of(shares):
    """(B, T, S): the matrix that sums of windows are products with."""
    size, length, width = shares.shape
    table = np.zeros((size, length, length + width - 1))
    for t in range(length):
        table[:, t, t : t + width] = shares[:, t]
    return table


@WINDOWS
def test_sums_of_windows_are_products_with_a_matrix(window, length):
    random = np.random.default_rng(0)
    hidden, upstream = random.normal(size=(2, length + 2 * window, D)), random.normal(size=(2, length, D))
    shares, back = random.normal(size=(2, 2, length, 2 * window + 1))
    hidden = tf.constant(hidden)
    with tf.GradientTape() as tape:
        tape.watch(hidden)
        total = window_sums(hidden, shares, back)
    np.testing.assert_allclose(total, table_of(shares) @ hidden.numpy(), atol=1e-12)
    np.testing.assert_allclose(tape.gradient(total, hidden, upstream), table_of(back).transpose(0, 2, 1) @ upstream, atol=1e-12)


@WINDOWS
def test_scores_of_windows_are_a_band_of_a_product(window, length):
    random = np.random.default_rng(0)
    outputs, hidden = random.normal(size=(2, length, D)), random.normal(size=(2, length + 2 * window, D))
    upstream = random.normal(size=(2, length, 2 * window + 1))
    tensors = tf.constant(outputs), tf.constant(hidden)
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        scores = window_scores(*tensors)
    product = outputs @ hidden.transpose(0, 2, 1)
    band = [[row[t : t + 2 * window + 1] for t, row in enumerate(table)] for table in product]
    np.testing.assert_allclose(scores, band, atol=1e-12)
    expected = table_of(upstream) @ hidden, table_of(upstream).transpose(0, 2, 1) @ outputs
    for gradient, value in zip(tape.gradient(scores, tensors, upstream), expected, strict=True):
        np.testing.assert_allclose(gradient, value, atol=1e-12)


def test_glove_by_hand():
    """One pair below x_max and one above: 1/2 (X / x_max)^alpha (w . c + b + d - log X)^2."""
    words, contexts = (np.random.default_rng(i).normal(size=(V, D)).astype(np.float32) for i in (0, 1))
    tables = keras.Variable(words), keras.Variable(contexts)
    head = CooccurrenceHead(V, lambda: tables, x_max=10.0, alpha=0.75)
    head.build(None)
    head.bias.assign(np.arange(V) / 10)
    head.context_bias.assign(np.arange(V) / 5)
    batch = {
        "token_ids": np.array([[3, 4, 0]]), "labels": np.array([[5, 6, 0]]), "counts": np.array([[2.5, 40.0, 1.0]], np.float32),
        "loss_weights": np.array([[1, 1, 0]], np.float32),
    }  # fmt: skip
    apart = [words[a] @ contexts[b] + a / 10 + b / 5 - np.log(x) for a, b, x in ((3, 5, 2.5), (4, 6, 40.0))]
    losses, pairs = head(None, batch)
    np.testing.assert_allclose(losses, [0.5 * 0.25**0.75 * apart[0] ** 2 + 0.5 * apart[1] ** 2], rtol=1e-5)
    np.testing.assert_array_equal(pairs, [2])
