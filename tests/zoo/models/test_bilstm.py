"""The bidirectional LSTM: its formulas in NumPy, sizes by hand, dropout that is one mask a sequence; and what is refused."""

import numpy as np
import pytest

from tests import tiny_models
from zoo.models.bilstm import BiLSTM, BiLSTMConfig

SIZES = dict(vocab_size=13, embedding_dim=3, hidden_dim=10, dropout=0.0)
CLOSE = dict(rtol=1e-5, atol=1e-6)


def model_of(**fields):
    return tiny_models.strengthen(BiLSTM(BiLSTMConfig(**{**SIZES, **fields})).build_from_ids())


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_in_numpy(layer, x_TX):
    """One direction of one row, step by step (Hochreiter and Schmidhuber 1997)."""
    kernel, recurrent, bias = (np.asarray(v) for v in (layer.kernel, layer.recurrent_kernel, layer.bias))
    h = c = np.zeros(recurrent.shape[0])
    outputs = []
    for x in x_TX:
        i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.array(outputs)


def test_hidden_states_are_those_of_the_formulas():
    model = model_of(num_layers=2)
    ids = np.array([[3, 5, 1, 8], [2, 2, 7, 0]], np.int32)
    marks = np.array([[0, 1, 1, 0], [0, 0, 0, 0]], np.int32)
    mask = np.arange(4) < np.array([[4], [3]])
    hidden = np.asarray(model({"token_ids": ids, "segment_ids": marks, "padding_mask": mask}))
    words, parts = np.asarray(model.embeddings.embeddings), np.asarray(model.segments.embeddings)
    for row, length in enumerate(mask.sum(1)):
        x = words[ids[row, :length]] + parts[marks[row, :length]]
        for layer in model.layers_of_states:
            x = np.concatenate([lstm_in_numpy(layer.forward, x), lstm_in_numpy(layer.backward, x[::-1])[::-1]], axis=1)
        np.testing.assert_allclose(hidden[row, :length], x, **CLOSE)


# 13 words and 2 parts of 3 numbers; each direction of a layer has 4 x 5 x (inputs + 5 + 1) numbers.
@pytest.mark.parametrize(("fields", "params"), [
    (dict(), 45 + 2 * 20 * 9), (dict(num_layers=2), 45 + 2 * 20 * 9 + 2 * 20 * 16), (dict(cell="gru"), 45 + 2 * 15 * 10),
])  # fmt: skip
def test_sizes_by_hand(fields, params):
    assert BiLSTMConfig(**{**SIZES, **fields}).num_params() == params == model_of(**fields).count_params()


def test_dropout_is_one_mask_a_sequence():
    model = model_of(dropout=0.5)
    ones = np.ones((4, 9, 10), np.float32)
    dropped = np.asarray(model.dropouts[-1](ones, training=True))
    assert (dropped == dropped[:, :1]).all() and 0 < (dropped == 0).mean() < 1
    ids = np.ones((2, 5), np.int32)
    np.testing.assert_array_equal(model(ids), model(ids))
    assert not np.allclose(model(ids, training=True), model(ids))


def test_what_is_refused():
    with pytest.raises(ValueError, match="hidden_dim is of two directions and must be even, got 7"):
        BiLSTMConfig(hidden_dim=7)
    with pytest.raises(ValueError, match="cell must be rnn or gru or lstm, got 'cnn'"):
        BiLSTMConfig(cell="cnn")
