"""ModernBERT, a structure of `bert`, beside its formula in NumPy."""

import numpy as np
import pytest

from tests import tiny_models
from zoo.convert.weights import variables_by_path
from zoo.models.bert import BERT, BERTConfig

T, N, WINDOW, EVERY = 7, 2, 2, 2
THETAS = {True: 500.0, False: 50.0}  # of layers that see all, and of others


@pytest.fixture(scope="module")
def model():
    fields = dict(modern=True, num_segments=1, num_layers=3, num_heads=N, mlp_dim=10, epsilon=1e-5, activation="geglu")
    thetas = dict(rotary_theta=THETAS[True], window_theta=THETAS[False])
    config = BERTConfig.preset("tiny", window=WINDOW, global_every=EVERY, **fields, **thetas)
    return tiny_models.strengthen(BERT(config).build_from_ids())


def norm(x, gain):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * gain


def turned(x, theta):
    """Each pair (x_i, x_i+H/2) of heads (N, T, H) by its angle."""
    half = x.shape[-1] // 2
    angles = np.arange(T)[:, None] * theta ** (-np.arange(half) / half)
    cos, sin, one, other = np.cos(angles), np.sin(angles), x[..., :half], x[..., half:]
    return np.concatenate([one * cos - other * sin, other * cos + one * sin], -1)


def hidden(w, ids, real):
    distance = np.abs(np.arange(T)[:, None] - np.arange(T))
    x = norm(w["embeddings/embeddings"][ids], w["embedding_norm/gamma"])
    for i in range(3):
        block, sees_all = f"block_{i}", i % EVERY == 0
        normed = x if i == 0 else norm(x, w[f"{block}/attention_norm/gamma"])
        q, k, v = (normed @ w[f"{block}/attention/qkv/kernel"]).reshape(T, 3, N, -1).transpose(1, 2, 0, 3)
        q, k = turned(q, THETAS[sees_all]), turned(k, THETAS[sees_all])
        scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
        scores = np.where(real & (sees_all | (distance <= WINDOW)), scores, -1e9)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (shares / shares.sum(-1, keepdims=True)) @ v
        x = x + mixed.transpose(1, 0, 2).reshape(T, -1) @ w[f"{block}/attention/output_projection/kernel"]
        gate, value = np.split(norm(x, w[f"{block}/mlp_norm/gamma"]) @ w[f"{block}/mlp/expand/kernel"], 2, -1)
        gelu = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
        x = x + (gelu * value) @ w[f"{block}/mlp/contract/kernel"]
    return norm(x, w["final_norm/gamma"])


def test_hidden_states_are_those_of_the_formula(model):
    w = {path: variable.numpy() for path, variable in variables_by_path(model).items()}
    assert model.config.num_params() == sum(array.size for array in w.values())
    ids, real = np.array([3, 5, 7, 9, 11, 13, 2]), np.arange(T) < 6
    got = model.hidden({"token_ids": ids[None], "padding_mask": real[None]})
    np.testing.assert_allclose(np.asarray(got)[0, :6], hidden(w, ids, real)[:6], atol=1e-5)


@pytest.mark.parametrize(("fields", "message"), [
    (dict(activation="gelu"), "activation must be geglu or geglu_exact, got 'gelu'"),
    (dict(modern=False, window=3, activation="gelu"), "a window is for modern=true, got window 3"),
    (dict(window=0), "window must be positive, got 0"),
    (dict(num_heads=4), "a head's width must be even, got 3"),
    (dict(from_sinusoids=True), "from_sinusoids is for a table of positions"),
    (dict(global_every=0), "global_every must be positive"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        BERTConfig.preset("tiny", **{"modern": True, "activation": "geglu", **fields})
