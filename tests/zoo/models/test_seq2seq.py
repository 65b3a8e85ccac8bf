"""The recurrent encoder-decoder: its arithmetic in NumPy, its sizes, its dropout, and what stands in its state.

Shape letters: B batch, T target positions, S source positions, V vocabulary, E embedding width, D hidden.
"""

import numpy as np
import pytest

from tests import exports
from zoo.config import Refusal
from zoo.models.seq2seq import Seq2Seq, Seq2SeqConfig
from zoo.tokenizers.base import create as create_tokenizer

B, T, S = 2, 4, 5
SIZES = dict(vocab_size=13, num_layers=2, embedding_dim=3, hidden_dim=6, dropout=0.0)
LENGTHS = (S, 2)
CLOSE = dict(rtol=1e-5, atol=1e-5)


def model_of(**fields):
    """A model with weights that no initialiser would choose."""
    model = Seq2Seq(Seq2SeqConfig(**{**SIZES, **fields})).build_from_ids()
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(random.normal(0, 0.6, variable.shape))
    return model


def batch():
    random = np.random.default_rng(1)
    return {
        "source_ids": random.integers(0, 13, (B, S)).astype("int32"),
        "source_mask": np.arange(S) < np.array(LENGTHS)[:, None],
        "token_ids": random.integers(0, 13, (B, T)).astype("int32"),
    }


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def steps(w, name, cell, inputs, state):
    """(h of every step, the last state) of one recurrent layer on one row, (T, X)."""
    kernel, recurrent, bias = (w[f"{name}/{part}"] for part in ("kernel", "recurrent_kernel", "bias"))
    outputs = []
    for x in inputs:
        h = state[0]
        if cell == "gru":
            (x_z, x_r, x_n), (p_z, p_r, p_n) = np.split(x @ kernel + bias[0], 3), np.split(h @ recurrent + bias[1], 3)
            z = sigmoid(x_z + p_z)
            state = (z * h + (1 - z) * np.tanh(x_n + sigmoid(x_r + p_r) * p_n),)
        else:
            i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4)
            c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
            state = (sigmoid(o) * np.tanh(c), c)
        outputs.append(state[0])
    return np.array(outputs), state


def in_numpy(model, source, target):
    """(logits (T, V), weights (T, S) or None) of one row by the formulas."""
    w = {v.path.removeprefix("seq2seq/"): np.asarray(v, "float64") for v in model.trainable_variables}
    c, table = model.config, w["embeddings/embeddings"]
    x, states = table[source], []
    for i in range(c.num_layers):
        begin = tuple(np.zeros(c.hidden_dim // 2) for _ in range(1 if c.cell == "gru" else 2))
        left, last_left = steps(w, f"encoder_{i}/forward", c.cell, x, begin)
        right, last_right = steps(w, f"encoder_{i}/backward", c.cell, x[::-1], begin)
        x = np.concatenate([left, right[::-1]], axis=1)
        states.append(tuple(np.concatenate(pair) for pair in zip(last_left, last_right, strict=True)))
    memory, h, weights = x, table[target], None
    for i in range(c.num_layers):
        h, _ = steps(w, f"decoder_{i}", c.cell, h, states[i])
    combined = h
    if c.attention != "none":
        scores = {
            "dot": lambda: h @ memory.T,
            "general": lambda: h @ (memory @ w["attention/memory/kernel"]).T,
            "additive": lambda: (
                np.tanh((h @ w["attention/query/kernel"])[:, None] + (memory @ w["attention/memory/kernel"])[None])
                @ w["attention/vector"]
            )[..., 0],
        }[c.attention]()
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        combined = np.concatenate([weights @ memory, h], axis=1)
    head = table.T if c.tie_embeddings else w["embeddings/reverse_embeddings"]
    return np.tanh(combined @ w["combine/kernel"]) @ head, weights


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("attention", ["none", "dot", "general", "additive"])
def test_logits_and_alignment_are_the_formulas(attention, cell, tied):
    model, inputs = model_of(attention=attention, cell=cell, tie_embeddings=tied), batch()
    logits = model(inputs)
    weights = model.alignment(inputs) if model.aligns else None
    assert model.config.num_params() == model.count_params()
    for row, length in enumerate(LENGTHS):
        expected, looked = in_numpy(model, inputs["source_ids"][row, :length], inputs["token_ids"][row])
        np.testing.assert_allclose(logits[row], expected, **CLOSE)
        if weights is not None:
            np.testing.assert_allclose(weights[row, :, :length], looked, **CLOSE)


def test_without_attention_the_state_is_the_encoders_last_and_nothing_else():
    inputs = batch()
    for attention, more in (("none", set()), ("dot", {"memory/keys", "memory/values", "source_mask"})):
        model = model_of(attention=attention)
        state = model.init_state(B, 9, model.encode(inputs["source_ids"], inputs["source_mask"]))
        assert state.keys() == {"layer_0/h", "layer_0/c", "layer_1/h", "layer_1/c"} | more
        assert model.room_left(state) is None


def test_an_alignment_without_attention_is_refused_and_not_served():
    model = model_of(attention="none")
    with pytest.raises(Refusal, match=r"without attention has no alignment; train one with --set=attention=general\.$"):
        model.alignment(batch())
    _, _, task = exports.make("seq2seq", "translation", attention="none")
    tokenizer = create_tokenizer("byte")
    without, with_ = (
        task.signatures(model_of(attention=attention, vocab_size=tokenizer.vocab_size), tokenizer)
        for attention in ("none", "dot")
    )
    assert with_.keys() - without.keys() == {"align"}
    assert "align" not in {name for name, *_ in task.requests(model, tokenizer)}


def test_padding_at_the_left_of_the_target_changes_nothing():
    model, inputs = model_of(), batch()
    memory = model.encode(inputs["source_ids"], inputs["source_mask"])
    expected, _ = model.next_logits(inputs["token_ids"][:, 1:], model.init_state(B, T, memory))
    mask = np.array([[False] + [True] * (T - 1)] * B)
    padded, _ = model.next_logits(inputs["token_ids"], model.init_state(B, T, memory), mask)
    np.testing.assert_allclose(padded, expected, **CLOSE)


def test_dropout_acts_in_training_alone():
    model, inputs = model_of(dropout=0.5), batch()
    np.testing.assert_array_equal(model(inputs), model(inputs))
    one, two = (np.asarray(model(inputs, training=True)) for _ in range(2))
    assert np.abs(one - two).max() > 0.1


def test_a_decoder_without_a_source_is_refused():
    with pytest.raises(Refusal, match="begins with a source: init_state"):
        model_of().init_state(B, T)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (dict(attention="concat"), "attention must be one of dot, general, additive, none, got 'concat'"),
        (dict(cell="mgu"), "cell must be rnn or gru or lstm, got 'mgu'"),
        (dict(hidden_dim=7), "two directions share hidden_dim, so it must be even, got 7"),
        (dict(dropout=1.0), "dropout"),
        (dict(num_layers=0), "num_layers must be positive, got 0"),
    ],
)
def test_structures_that_cannot_be_are_refused(fields, sentence):
    with pytest.raises(Refusal, match=sentence):
        Seq2SeqConfig(**fields)


def test_the_presets_differ_in_their_attention():
    assert {name: Seq2SeqConfig.preset(name).attention for name in ("default", "luong", "bahdanau", "no_attention")} == {
        "default": "dot", "luong": "general", "bahdanau": "additive", "no_attention": "none",
    }  # fmt: skip
