"""GLM by loops in NumPy, for each generation: who sees whom, two positions a token, rotations, residuals; and its sizes.

Shape letters: B batch, T positions, D hidden, H head width, R rotated width.
"""

import numpy as np
import pytest

from tests import tiny_models
from zoo.config import Refusal
from zoo.models.glm import GLM, GLMConfig

SMALL = dict(vocab_size=31, max_length=20, num_layers=3, num_heads=4, hidden_dim=20, head_dim=8, mlp_dim=14)
LATER = dict(position="rotary", norm="rms", activation="swiglu", bias="qkv", num_kv_heads=2, tie_embeddings=False)
GENERATIONS = {
    "glm": {},
    "chatglm": dict(position="rotary_2d", scaled_residual=True),
    "chatglm2": LATER,
    "glm4_0414": dict(LATER, norm_outputs=True),
}
SOP, CLOSE = 30, dict(rtol=1e-4, atol=1e-4)
# Two rows: part A of 4 tokens with masks at 1 and 3, then two pieces in the other order; part A of 2, then one piece.
ROW_IDS = np.array([[5, 9, 7, 9, SOP, 2, 3, SOP, 4], [6, 9, SOP, 8, 1, 1, 0, 0, 0]], np.int32)
ROW = {
    "token_ids": ROW_IDS,
    "padding_mask": np.array([[True] * 9, [True] * 6 + [False] * 3]),
    "prefix_lengths": np.array([4, 2], np.int32),
    "positions": np.array(
        [
            [(0, 0), (1, 0), (2, 0), (3, 0), (3, 1), (3, 2), (3, 3), (1, 1), (1, 2)],
            [(0, 0), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (0, 0), (0, 0), (0, 0)],
        ],
        np.int32,
    ),
}


def create(generation, **fields):
    model = GLM(GLMConfig(**{**SMALL, **GENERATIONS[generation], **fields})).build_from_ids()
    return tiny_models.strengthen(model)


def turned(x, position, theta, neighbours):
    """A vector (R,) with its pairs turned, one by one."""
    out, half = x.copy(), len(x) // 2
    for i in range(half):
        a, b = (2 * i, 2 * i + 1) if neighbours else (i, i + half)
        angle = position * theta ** (-2 * i / len(x))
        out[a] = x[a] * np.cos(angle) - x[b] * np.sin(angle)
        out[b] = x[b] * np.cos(angle) + x[a] * np.sin(angle)
    return out


def logits_by_loops(model, ids, positions, prefix):
    """float64 (T, V) of one row without padding; `positions` a list of pairs, of which ChatGLM2 and later have the first."""
    c, h = model.config, model.config.head_width
    weights = {v.path.removeprefix("glm/"): np.asarray(v).astype(np.float64) for v in model.variables}

    def norm(x, name):
        if c.norm == "rms":
            return x / np.sqrt((x**2).mean(-1, keepdims=True) + c.epsilon) * weights[f"{name}/gamma"]
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + c.epsilon) * weights[f"{name}/gamma"] + weights[f"{name}/beta"]

    def linear(x, name):
        return x @ weights[f"{name}/kernel"] + weights.get(f"{name}/bias", 0)

    def rotated(x, t):
        first, second = positions[t]
        if c.position == "rotary_2d":
            parts = (turned(part, p, c.rotary_theta, False) for part, p in ((x[: h // 2], first), (x[h // 2 :], second)))
            return np.concatenate(list(parts))
        return np.concatenate([turned(x[: h // 2], first, c.rotary_theta, True), x[h // 2 :]]) if c.position == "rotary" else x

    def attention(x, name):
        qkv = linear(x, f"{name}/qkv").reshape(len(x), -1, h)
        out = np.zeros((len(x), c.num_heads, h))
        for n in range(c.num_heads):
            k = c.num_heads + n // (c.num_heads // c.kv_heads)
            for t in range(len(x)):
                seen = [s for s in range(len(x)) if s <= t or c.two_positions and s < prefix]
                q = rotated(qkv[t, n], t)
                scores = np.array([q @ rotated(qkv[s, k], s) for s in seen]) / np.sqrt(h)
                powers = np.exp(scores - scores.max())
                out[t, n] = powers / powers.sum() @ qkv[seen, k + c.kv_heads]
        return linear(out.reshape(len(x), -1), f"{name}/output_projection")

    def network(x, name):
        hidden = linear(x, f"{name}/expand")
        if c.activation == "swiglu":
            gate, value = np.split(hidden, 2, -1)
            return linear(gate / (1 + np.exp(-gate)) * value, f"{name}/contract")
        tanh = np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3))
        return linear(0.5 * hidden * (1 + tanh), f"{name}/contract")

    x = weights["embeddings/embeddings"][ids]
    if c.position == "learned":
        first, second = np.array(positions).T
        x = x + weights["positions/embeddings"][first] + weights["block_positions/embeddings"][second]
    for i in range(c.num_layers):
        for sublayer, name in ((attention, "attention"), (network, "mlp")):
            normed = norm(x, f"block_{i}/{name}_norm")
            y = sublayer(normed, f"block_{i}/{name}")
            y = norm(y, f"block_{i}/{name}_output_norm") if c.norm_outputs else y
            x = (normed * np.sqrt(2 * c.num_layers) if c.scaled_residual else x) + y
    x = norm(x, "final_norm")
    return x @ (weights["embeddings/embeddings"].T if c.tie_embeddings else weights["embeddings/reverse_embeddings"])


@pytest.mark.parametrize("generation", GENERATIONS)
def test_logits_are_those_of_loops(generation):
    model = create(generation)
    if model.config.two_positions:
        logits, rows = np.asarray(model(ROW)), [(9, 4), (6, 2)]
        pairs = [[tuple(pair) for pair in row.tolist()] for row in ROW["positions"]]
    else:
        logits, rows = np.asarray(model({name: ROW[name] for name in ("token_ids", "padding_mask")})), [(9, 0), (6, 0)]
        pairs = [[(i, 0) for i in range(9)]] * 2
    for row, (length, prefix) in enumerate(rows):
        expected = logits_by_loops(model, ROW_IDS[row, :length], pairs[row][:length], prefix)
        assert np.abs(expected).max() > 1
        np.testing.assert_allclose(logits[row, :length], expected, **CLOSE)


@pytest.mark.parametrize("generation", ["glm", "chatglm"])
def test_part_a_ends_before_the_first_begin_of_a_piece(generation):
    """The last token of part A is the mask: positions 0 1 2 | 2 2 2 and 0 0 0 | 1 2 3."""
    model = create(generation, sop_id=SOP)
    ids = np.array([[5, 6, 9, SOP, 2, 3]], np.int32)
    pairs = [(0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (2, 3)]
    np.testing.assert_allclose(model(ids)[0], logits_by_loops(model, ids[0], pairs, 3), **CLOSE)
    plain = ids[:, [0, 1, 2, 4, 5]]
    np.testing.assert_allclose(model(plain)[0], logits_by_loops(model, plain[0], [(i, 0) for i in range(5)], 0), **CLOSE)


@pytest.mark.parametrize("generation", ["glm", "chatglm"])
def test_a_state_goes_on_in_part_b(generation):
    """Rows padded at the left, one without part A; the state knows where each row's blank is."""
    model = create(generation, sop_id=SOP)
    texts = [[5, 6, 7, 9, SOP], [9, SOP], [4, 5, 6]]
    width = 5
    ids = np.array([[0] * (width - len(text)) + text for text in texts], np.int32)
    mask = np.arange(width) >= width - np.array([[len(text)] for text in texts])
    logits, state = model(ids, state=model.init_state(3, 9), padding_mask=mask)
    assert state["part_a"].numpy().tolist() == [4, 1, 0]
    further = np.array([[2, 3, 8], [1, 2, 3], [7, 8, 9]], np.int32)
    pieces = [logits]
    for column in range(3):
        piece, state = model(further[:, column : column + 1], state=state)
        pieces.append(piece)
    together = np.concatenate(pieces, axis=1)
    for row, text in enumerate(texts):
        alone = np.asarray(model(np.array([[*text, *further[row]]], np.int32)))[0]
        np.testing.assert_allclose(together[row, width - len(text) :], alone, **CLOSE)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_step_by_step_is_the_full_pass(generation):
    model = create(generation)
    ids = np.array([[5, 9, 7, 3, 2]], np.int32)
    state, steps = model.init_state(1, 5), []
    for t in range(5):
        logits, state = model(ids[:, t : t + 1], state=state)
        steps.append(logits)
    np.testing.assert_allclose(np.concatenate(steps, axis=1), model(ids), rtol=2e-5, atol=2e-5)
    assert model.config.num_params() == model.count_params()


def test_what_part_b_writes_does_not_change_part_a():
    model = create("glm")
    other = {**ROW, "token_ids": np.where(np.arange(9) < 4, ROW_IDS, 11).astype(np.int32)}
    np.testing.assert_allclose(model(other)[0, :4], model(ROW)[0, :4], rtol=1e-5, atol=1e-5)
    longer = {**ROW, "prefix_lengths": np.array([5, 2], np.int32)}
    assert np.abs(np.asarray(model(longer) - model(ROW))[0, 0]).max() > 1e-3  # a longer part A is seen by its first token


# Du et al. 2022, which rounds; and what others count for the published checkpoints.
PUBLISHED = {
    "glm_base": (110e6, 0.01),
    "glm_large": (335e6, 0.01),
    "glm_10b": (10e9, 0.015),
    "chatglm_6b": (6_173_286_400, 0),
    "chatglm2_6b": (6_243_584_000, 0),
    "chatglm3_6b": (6_243_584_000, 0),
    "glm4_9b": (9_399_951_360, 0),
    "glm4_0414": (9_400_279_040, 0),
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_parameter_counts_are_the_published_ones(preset):
    published, tolerance = PUBLISHED[preset]
    assert GLMConfig.preset(preset).num_params() == pytest.approx(published, rel=tolerance, abs=0)


def test_a_model_with_one_position_refuses_two():
    model = create("chatglm2")
    with pytest.raises(Refusal, match="has one position a token, got two"):
        model({"token_ids": ROW_IDS, "positions": ROW["positions"]})
    with pytest.raises(Refusal, match="does not take prefix_lengths"):
        model({"token_ids": ROW_IDS, "prefix_lengths": ROW["prefix_lengths"]})
    with pytest.raises(Refusal, match="21 tokens are more than this model's max_length of 20"):
        model(np.ones((1, 21), np.int32))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (dict(position="rotary", head_dim=6), "head_dim must be a multiple of 4"),
        (dict(num_kv_heads=3), "must be a multiple of num_kv_heads 3"),
        (dict(bias="some"), "bias must be all or qkv or none"),
        (dict(sop_id=31), "sop_id must be below vocab_size 31"),
        (dict(head_dim=None, hidden_dim=22), "not a multiple of num_heads 4; give head_dim"),
    ],
)
def test_a_structure_that_cannot_be_is_refused(fields, sentence):
    with pytest.raises(Refusal, match=sentence):
        GLMConfig(**{**SMALL, **fields})
