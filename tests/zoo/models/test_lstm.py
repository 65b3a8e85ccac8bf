"""The recurrent language model: its arithmetic in NumPy, its size, its dropouts, and what its state sees.

Sizes: B 2 rows, T 7 steps, V 13 words, E 3 embedding, D 5 hidden.
"""

import numpy as np
import pytest

from zoo.models.lstm import LSTM, LSTMConfig

B, T = 2, 7
SIZES = dict(vocab_size=13, embedding_dim=3, hidden_dim=5)
CLOSE = dict(rtol=1e-5, atol=1e-5)


def model_of(**fields):
    """A model with weights that no initialiser would choose."""
    model = LSTM(LSTMConfig(**{**SIZES, **fields})).build_from_ids()
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(random.normal(0, 0.6, variable.shape))
    return model


def ids(seed=1):
    return np.random.default_rng(seed).integers(0, 13, (B, T)).astype("int32")


def in_numpy(model, token_ids):
    """Logits by the formulas, one step at a time."""
    w = {v.path.removeprefix("lstm/"): np.asarray(v, "float64") for v in model.trainable_variables}

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def step(i, x, state):
        kernel, recurrent, bias = (w[f"layer_{i}/{name}"] for name in ("kernel", "recurrent_kernel", "bias"))
        h = state[0]
        if model.config.cell == "rnn":
            return (np.tanh(x @ kernel + h @ recurrent + bias),)
        if model.config.cell == "gru":
            (x_z, x_r, x_n) = np.split(x @ kernel + bias[0], 3, axis=-1)
            (p_z, p_r, p_n) = np.split(h @ recurrent + bias[1], 3, axis=-1)
            z, r = sigmoid(x_z + p_z), sigmoid(x_r + p_r)
            return (z * h + (1 - z) * np.tanh(x_n + r * p_n),)
        a_i, a_f, a_g, a_o = np.split(x @ kernel + h @ recurrent + bias, 4, axis=-1)
        c = sigmoid(a_f) * state[1] + sigmoid(a_i) * np.tanh(a_g)
        return sigmoid(a_o) * np.tanh(c), c

    dims = model.config.layer_dims
    states = [(np.zeros((B, d)), np.zeros((B, d))) for d in dims]
    logits = []
    for t in range(T):
        x = w["embeddings/embeddings"][token_ids[:, t]]
        for i in range(len(dims)):
            states[i] = step(i, x, states[i])
            x = states[i][0]
        head = w["embeddings/embeddings"].T if model.config.tie_embeddings else w["head/kernel"]
        logits.append(x @ head + w["head/bias"])
    return np.stack(logits, axis=1)


@pytest.mark.parametrize("tie_embeddings", [True, False])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_logits_are_those_of_the_formulas(cell, tie_embeddings):
    model = model_of(cell=cell, tie_embeddings=tie_embeddings)
    np.testing.assert_allclose(model(ids()), in_numpy(model, ids()), **CLOSE)


@pytest.mark.parametrize("fields", [
    dict(), dict(cell="gru"), dict(cell="rnn", num_layers=1), dict(tie_embeddings=False, num_layers=3),
    dict(cell="gru", tie_embeddings=False),
])  # fmt: skip
def test_num_params_counts_the_weights(fields):
    model = model_of(**fields)
    assert model.config.num_params() == model.count_params()


# The first: 13 x 3 embeddings, 13 output biases, 4 x 5 x (3 + 5 + 1), 4 x 3 x (5 + 3 + 1). Zaremba et al. (2014) have
# about 20 and 66 million, Merity et al. (2017) 24 million.
@pytest.mark.parametrize(("config", "millions"), [
    (LSTMConfig(**SIZES), 0.000340),
    (LSTMConfig.preset("medium"), 19.7752),
    (LSTMConfig.preset("large"), 66.022),
    (LSTMConfig.preset("awd_lstm"), 24.2108),
])  # fmt: skip
def test_sizes_of_the_presets(config, millions):
    assert config.num_params() == round(millions * 1e6)


def test_variables_have_lasting_names():
    paths = [v.path for v in model_of(tie_embeddings=False, num_layers=1).variables]
    layer = [f"lstm/layer_0/{name}" for name in ("kernel", "recurrent_kernel", "bias")]
    assert paths == ["lstm/embeddings/embeddings", *layer, "lstm/head/kernel", "lstm/head/bias"]


@pytest.mark.parametrize(("cell", "names"), [("lstm", "hc"), ("gru", "h"), ("rnn", "h")])
def test_the_state_holds_each_layer(cell, names):
    state = model_of(cell=cell).init_state(4, max_length=99)
    shapes = {f"layer_{i}/{name}": (4, d) for i, d in enumerate((5, 3)) for name in names}
    assert {name: tuple(value.shape) for name, value in state.items()} == shapes
    assert all(np.all(np.asarray(value) == 0) for value in state.values())


def test_a_document_goes_on_from_the_row_before_and_others_start_anew():
    model, before, token_ids = model_of(), ids(seed=2), ids()
    _, carried = model(before, state=model.init_state(B, T))
    segment_ids = np.array([[0, 0, 0, 1, 1, 2, 2], [1, 1, 1, 1, 2, 2, 2]], "int32")
    logits, state = model(token_ids, state=carried, segment_ids=segment_ids)

    whole = np.asarray(model(np.concatenate([before, token_ids], axis=1)))
    np.testing.assert_allclose(logits[0, :3], whole[0, T : T + 3], **CLOSE)
    for row, start, stop in ((0, 3, 5), (0, 5, 7), (1, 0, 4), (1, 4, 7)):
        alone = model(token_ids[row : row + 1, start:stop])
        np.testing.assert_allclose(logits[row, start:stop], alone[0], **CLOSE)
    _, last = model(token_ids[:, 5:], state=model.init_state(B, T))
    for name, value in state.items():
        np.testing.assert_allclose(value[0], last[name][0], **CLOSE)


def test_padding_starts_no_document():
    model, token_ids = model_of(), ids()
    _, carried = model(ids(seed=2), state=model.init_state(B, T))
    mask = np.array([[False] * 7, [False] * 2 + [True] * 5])
    segment_ids = np.array([[4, 5, 6, 7, 8, 9, 9], [3, 0, 0, 0, 0, 0, 0]], "int32")
    logits, state = model(token_ids, state=carried, padding_mask=mask, segment_ids=segment_ids)
    expected, _ = model(token_ids[:, 2:], state=carried)
    np.testing.assert_allclose(logits[1, 2:], expected[1], **CLOSE)
    for name, value in state.items():
        np.testing.assert_allclose(value[0], carried[name][0], **CLOSE)


def test_output_dropout_is_locked_over_the_steps_of_a_row():
    model = model_of(output_dropout=0.4, hidden_dim=40, embedding_dim=40)
    clean, _ = model.features(ids())
    dropped, _ = model.features(ids(), training=True)
    ratio = np.asarray(dropped) / np.asarray(clean)
    kept = ratio[:, 0] > 0
    assert 0 < kept.sum() < kept.size and (kept[0] != kept[1]).any()
    np.testing.assert_allclose(ratio, np.broadcast_to(kept[:, None] / 0.6, ratio.shape), rtol=1e-4)


def test_embedding_dropout_drops_whole_words():
    model = model_of(embedding_dropout=0.5)
    token_ids = np.tile(np.arange(13, dtype="int32"), (B, 2))
    clean, dropped = (np.asarray(model._embed(token_ids, training)) for training in (False, True))
    ratio = dropped / clean
    assert set(np.unique(ratio.round(4))) == {0.0, 2.0}
    word = ratio[0, :13, :1]
    np.testing.assert_allclose(ratio, np.broadcast_to(np.tile(word, (2, 1)), ratio.shape), rtol=1e-5)


@pytest.mark.parametrize("field", ["input_dropout", "hidden_dropout", "weight_dropout", "embedding_dropout"])
def test_every_dropout_acts_in_training_only(field):
    model = model_of(**{field: 0.5})
    clean = np.asarray(model(ids()))
    np.testing.assert_array_equal(model(ids()), clean)
    assert not np.allclose(model(ids(), training=True), clean, atol=1e-3)


@pytest.mark.parametrize(("fields", "message"), [
    (dict(cell="elman"), "cell must be rnn or gru or lstm, got 'elman'"),
    (dict(hidden_dim=0), "hidden_dim must be positive, got 0"),
    (dict(weight_dropout=1.0), "weight_dropout must be at least 0 and below 1, got 1.0"),
])  # fmt: skip
def test_a_mistake_in_the_config_is_a_sentence(fields, message):
    with pytest.raises(ValueError, match=message):
        LSTMConfig(**fields)
