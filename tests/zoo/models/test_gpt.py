"""GPT beside a second implementation in NumPy, and what its config refuses.

Shape letters: B batch, T positions, D hidden, N query heads, K key/value heads, H head width.
"""

import math

import numpy as np
import pytest

from tests import tiny_models
from trainers.engine import loop
from zoo.data.packing import PackedBatches
from zoo.models.gpt import GPT, GPTConfig
from zoo.tasks.language_modeling import LanguageModeling, LanguageModelingConfig

B, T = 2, 7
SLOPES = [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]  # of six heads (Press et al. 2022)
STRUCTURES = {
    "gpt2": dict(),
    "gpt": dict(norm_first=False),
    "modern": dict(position="rotary", norm="rms", activation="swiglu", use_bias=False, normalize_qk=True, num_kv_heads=2),
    "mixed": dict(position="rotary", norm="layer", activation="swiglu", head_dim=6, tie_embeddings=False, mlp_dim=9),
    "windows": dict(
        position="rotary", norm="rms", activation="swiglu", use_bias=False, num_layers=3, window=3, global_layers=(1,),
        window_theta=50.0, unrotated_layers=(2,), norm_at="both", scale_embeddings=True, attention_scale=0.6,
        attention_cap=1.5, logit_cap=2.0,
    ),
    "whole norms": dict(
        position="rotary", norm="rms", normalize_qk=True, whole_qk_norm=True, num_kv_heads=2, norm_at="output", rotary_dim=2,
    ),
    "parallel": dict(parallel="own", position_offset=2, use_bias=False, qkv_bias=True, window=4),
    "distances": dict(parallel="shared", position="alibi", normalize_embeddings=True, num_heads=6, hidden_dim=18),
}  # fmt: skip


def build(**fields):
    sizes = dict(vocab_size=23, max_length=11, num_layers=2, num_heads=4, hidden_dim=16)
    return tiny_models.strengthen(GPT(GPTConfig(**{**sizes, **fields})).build_from_ids())


def in_numpy(model, token_ids):
    """Logits by the equations of the papers, one row at a time, in float64."""
    return np.stack([SecondImplementation(model).row(ids) for ids in token_ids])


def rms(x, gamma, epsilon):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * gamma


def capped(x, cap):
    return cap * np.tanh(x / cap) if cap else x


class SecondImplementation:
    """A GPT for one row; x is float64 (T, D)."""

    def __init__(self, model):
        self.c = model.config
        self.w = {v.path.removeprefix("gpt/"): np.asarray(v).astype(float) for v in model.variables}

    def row(self, ids):
        c, w = self.c, self.w
        x = w["embeddings/embeddings"][ids] * (math.sqrt(c.hidden_dim) if c.scale_embeddings else 1)
        if c.position == "learned":
            x = x + w["positions/embeddings"][c.position_offset :][: len(ids)]
        x = self.norm(x, "embedding_norm") if c.normalize_embeddings else x
        for i in range(c.num_layers):
            x = self.block(x, i)
        x = self.norm(x, "final_norm") if c.norm_first else x
        head = w["embeddings/embeddings"].T if c.tie_embeddings else w["embeddings/reverse_embeddings"]
        return capped(x @ head, c.logit_cap)

    def block(self, x, i):
        c, b = self.c, f"block_{i}"
        if c.parallel != "no":
            network = "attention_norm" if c.parallel == "shared" else "mlp_norm"
            attended = self.attention(self.norm(x, f"{b}/attention_norm"), i)
            return x + attended + self.mlp(self.norm(x, f"{b}/{network}"), i)
        if c.norm_at != "input":
            before = c.norm_at == "both"
            y = self.attention(self.norm(x, f"{b}/attention_norm") if before else x, i)
            x = x + self.norm(y, f"{b}/attention_output_norm")
            y = self.mlp(self.norm(x, f"{b}/mlp_norm") if before else x, i)
            return x + self.norm(y, f"{b}/mlp_output_norm")
        if c.norm_first:
            x = x + self.attention(self.norm(x, f"{b}/attention_norm"), i)
            return x + self.mlp(self.norm(x, f"{b}/mlp_norm"), i)
        x = self.norm(x + self.attention(x, i), f"{b}/attention_norm")
        return self.norm(x + self.mlp(x, i), f"{b}/mlp_norm")

    def linear(self, x, name):
        return x @ self.w[f"{name}/kernel"] + self.w.get(f"{name}/bias", 0)

    def norm(self, x, name):
        if self.c.norm == "rms":
            return rms(x, self.w[f"{name}/gamma"], self.c.epsilon)
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self.c.epsilon)
        return scaled * self.w[f"{name}/gamma"] + self.w[f"{name}/beta"]

    def attention(self, x, i):
        c, name, places = self.c, f"block_{i}/attention", range(len(x))
        window = c.window_of(i)
        hidden = [[s > t or (window is not None and s <= t - window) for s in places] for t in places]
        q, k, v = self.heads(x, i)
        out = []
        for n, a in enumerate(q):
            shared = n * c.kv_heads // c.num_heads
            scores = capped(a @ k[shared].T * (c.attention_scale or 1 / math.sqrt(c.head_width)), c.attention_cap)
            if c.position == "alibi":
                scores = scores + np.array([[SLOPES[n] * (s - t) for s in places] for t in places])
            scores = np.exp(np.where(hidden, -np.inf, scores))
            out.append(scores / scores.sum(-1, keepdims=True) @ v[shared])
        return self.linear(np.concatenate(out, -1), f"{name}/output_projection")

    def heads(self, x, i):
        """Queries, keys and values of a layer, normalised and turned: lists of (T, H)."""
        c, w, name = self.c, self.w, f"block_{i}/attention"
        heads = np.split(self.linear(x, f"{name}/qkv"), c.num_heads + 2 * c.kv_heads, axis=-1)
        q, k, v = heads[: c.num_heads], heads[c.num_heads : -c.kv_heads], heads[-c.kv_heads :]
        if c.whole_qk_norm:
            q, k = (
                np.split(rms(np.concatenate(a, -1), w[f"{name}/{of}_norm/gamma"], 1e-6), len(a), axis=-1)
                for a, of in ((q, "query"), (k, "key"))
            )
        elif c.normalize_qk:
            q = [rms(a, w[f"{name}/query_norm/gamma"], 1e-6) for a in q]
            k = [rms(a, w[f"{name}/key_norm/gamma"], 1e-6) for a in k]
        if c.position == "rotary" and i not in c.unrotated_layers:
            theta = c.rotary_theta if c.window_of(i) is None or c.window_theta is None else c.window_theta
            q, k = [self.rotated(a, theta) for a in q], [self.rotated(a, theta) for a in k]
        return q, k, v

    def rotated(self, x, theta):
        out, half = x.copy(), self.c.rotary_width // 2
        for t in range(len(x)):
            for i in range(half):
                a = t * theta ** (-2 * i / self.c.rotary_width)
                low, high = x[t, i], x[t, i + half]
                out[t, i] = low * math.cos(a) - high * math.sin(a)
                out[t, i + half] = high * math.cos(a) + low * math.sin(a)
        return out

    def mlp(self, x, i):
        name = f"block_{i}/mlp"
        hidden = self.linear(x, f"{name}/expand")
        if self.c.activation == "swiglu":
            gate, value = np.split(hidden, 2, axis=-1)
            return self.linear(gate / (1 + np.exp(-gate)) * value, f"{name}/contract")
        gelu = 0.5 * hidden * (1 + np.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
        return self.linear(gelu, f"{name}/contract")


@pytest.mark.parametrize("structure", sorted(STRUCTURES))
def test_logits_equal_a_second_implementation(structure):
    model = build(**STRUCTURES[structure])
    ids = tiny_models.token_ids(model, B, T)
    np.testing.assert_allclose(model(ids), in_numpy(model, ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("structure", ["windows", "whole norms", "parallel", "distances"])
def test_rows_padded_at_the_left_go_on_from_a_cache(structure):
    """In two pieces and a step, the second row with two tokens less, in columns that its tokens do not start in."""
    model = build(**STRUCTURES[structure])
    assert model.config.num_params() == model.count_params()
    ids = tiny_models.token_ids(model, B, T)
    whole = in_numpy(model, ids)
    late = in_numpy(model, ids[:, 2:])
    padding = np.array([[True] * 4, [False, False, True, True]])
    first, state = model(ids[:, :4], state=model.init_state(B, T), padding_mask=padding)
    second, state = model(ids[:, 4:6], state=state)
    last, _ = model(ids[:, 6:], state=state)
    logits = np.concatenate([first, second, last], 1)
    np.testing.assert_allclose(logits[0], whole[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits[1, 2:], late[1], rtol=1e-4, atol=1e-4)


def test_residual_projections_start_smaller():
    model = GPT(GPTConfig(num_layers=8, num_heads=2, hidden_dim=64)).build_from_ids()
    for block in model.blocks:
        for layer, spread in (
            (block.attention.qkv, 0.02), (block.attention.output_projection, 0.005),
            (block.mlp.expand, 0.02), (block.mlp.contract, 0.005),
        ):  # fmt: skip
            assert np.asarray(layer.kernel).std() == pytest.approx(spread, rel=0.06)


def test_an_untrained_model_knows_nothing():
    model = tiny_models.create("gpt")
    ids = tiny_models.token_ids(model, 5, 13)
    log_probs, _ = model.token_log_probs(ids[:, :-1], ids[:, 1:])
    assert -float(np.mean(log_probs)) == pytest.approx(math.log(61), abs=0.05)


def test_dropout_is_for_training_only():
    model = build(dropout=0.5)
    ids = tiny_models.token_ids(model, B, T)
    np.testing.assert_array_equal(model(ids), model(ids))
    assert not np.allclose(model(ids, training=True), model(ids))
    np.testing.assert_allclose(model(ids), in_numpy(model, ids), rtol=1e-4, atol=1e-4)


def test_a_sequence_may_be_as_long_as_max_length_and_no_longer():
    model = build()
    assert model(np.zeros((1, 11), np.int32)).shape == (1, 11, 23)
    with pytest.raises(ValueError, match="12 tokens are more than this model's max_length of 11"):
        model.features(np.zeros((1, 12), np.int32))


def test_positions_are_what_the_caller_says():
    model = build()
    ids = tiny_models.token_ids(model, B, T)
    shifted = np.asarray(model(ids, positions=np.arange(4, 4 + T)[None]))
    table = np.asarray(model.positions.embeddings)
    model.positions.embeddings.assign(np.roll(table, -4, axis=0))
    np.testing.assert_allclose(model(ids), shifted, rtol=1e-4, atol=1e-4)


def test_rotary_logits_do_not_know_where_a_text_stands():
    model = build(**STRUCTURES["modern"])
    ids = tiny_models.token_ids(model, B, T)
    np.testing.assert_allclose(model(ids, positions=np.arange(90, 90 + T)[None]), model(ids), rtol=1e-4, atol=1e-4)


def test_a_row_that_ended_may_be_carried_past_the_last_position():
    model = build()
    state = model.init_state(1, 14)
    for _ in range(14):
        logits, state = model.next_logits(np.ones((1, 1), np.int32), state)
        assert np.isfinite(logits).all()


def test_a_cache_is_of_one_document_a_row():
    model = build()
    ids = tiny_models.token_ids(model, B, T)
    with pytest.raises(ValueError, match="segment_ids go with whole rows; a state holds one document a row"):
        model.features(ids, model.init_state(B, T), segment_ids=np.ones((B, T), np.int32))


@pytest.mark.parametrize("xla", [False, True])
def test_what_saves_memory_trains_the_same(xla):
    def losses(logits, **fields):
        model = tiny_models.create("gpt-modern", dropout=0.3, num_layers=1, **fields)
        task = LanguageModeling(LanguageModelingConfig(logits=logits), label_smoothing=0.1, z_loss=0.01)
        optimizer = tiny_models.trainer(model).optimizer
        trainer = loop.Trainer(model, task, optimizer, batch_size=5, seq_length=13, xla=xla)
        batches = PackedBatches(tiny_models.stream(61), 13, 5, separate_documents=True, eos_id=tiny_models.EOS_ID)
        return [float(trainer.step(batches.batch(step))[0]) for step in range(3)]

    plain = losses("whole", attention="plain")
    np.testing.assert_allclose(losses("chunks", attention="blockwise", remat="block"), plain, rtol=1e-5)


@pytest.mark.parametrize("attention", ["rows", "blockwise"])
def test_a_cache_serves_every_form_of_attention(attention):
    model, plain = build(attention=attention), build(attention="plain")
    model.set_weights(plain.get_weights())
    ids = tiny_models.token_ids(model, B, T)
    expected = np.asarray(plain(ids))
    np.testing.assert_allclose(model(ids), expected, rtol=1e-5, atol=1e-5)
    first, state = model(ids[:, :3], state=model.init_state(B, T))
    rest, _ = model(ids[:, 3:], state=state)
    np.testing.assert_allclose(np.concatenate([first, rest], 1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("fields", "message"), [
    (dict(hidden_dim=10, num_heads=4), "hidden_dim 10 is not a multiple of num_heads 4; give head_dim."),
    (dict(num_heads=4, num_kv_heads=3), "num_heads 4 must be a multiple of num_kv_heads 3."),
    (dict(num_heads=4, num_kv_heads=0), "num_heads 4 must be a multiple of num_kv_heads 0."),
    (dict(head_dim=-3), "head_dim must be positive, got -3."),
    (dict(mlp_dim=0), "mlp_dim must be positive, got 0."),
    (dict(num_layers=0), "num_layers must be positive, got 0."),
    (dict(vocab_size=-1), "vocab_size must be positive, got -1."),
    (dict(rotary_theta=-1), "rotary_theta must be positive, got -1.0."),
    (dict(dropout=1.0), "dropout must be at least 0 and below 1, got 1.0."),
    (dict(position="sinus"), "position must be learned or rotary or alibi, got 'sinus'."),
    (dict(norm="batch"), "norm must be layer or rms, got 'batch'."),
    (
        dict(activation="tanh"),
        "activation must be gelu or gelu_exact or relu or silu or swiglu or geglu or geglu_exact or reglu, got 'tanh'.",
    ),
    (dict(attention="flash"), "attention must be auto or plain or rows or blockwise, got 'flash'."),
    (dict(remat="all"), "remat must be none or block, got 'all'."),
    (
        dict(position="rotary", head_dim=5),
        "rotary positions turn pairs, so rotary_dim must be even and at most head_dim 5, got 5.",
    ),
    (
        dict(position="rotary", rotary_dim=34),
        "rotary positions turn pairs, so rotary_dim must be even and at most head_dim 32, got 34.",
    ),
    (dict(rotary_dim=2), "rotary_dim is for rotary positions, got 2."),
    (dict(position="alibi", position_offset=2), "position_offset is for learned positions, got 2."),
    (dict(position="rotary", unrotated_layers=(4,)), "unrotated_layers must be below num_layers 4, got (4,)."),
    (dict(window=0), "window must be positive, got 0."),
    (dict(global_layers=(1,)), "global_layers and window_theta are for layers with a window."),
    (dict(norm_first=False, norm_at="both"), "norms after the residuals (norm_first=false) stand alone."),
    (dict(parallel="own", norm_at="output"), "parallel sublayers have their norms at the input."),
    (dict(whole_qk_norm=True), "whole_qk_norm goes with normalize_qk."),
    (dict(rotary_scaling="ntk"), "rotary_scaling must be none or linear or llama3 or yarn, got 'ntk'."),
    (dict(rotary_scaling="linear", rotary_numbers=(2,)), "rotary_scaling is for rotary positions, not for learned ones."),
    (dict(rotary_scaling="linear", position="rotary"), "rotary_scaling linear has rotary_numbers (factor), got ()."),
    (dict(rotary_numbers=(2,)), "rotary_scaling none has rotary_numbers (), got (2.0,)."),
    (
        dict(rotary_scaling="llama3", position="rotary", rotary_numbers=(8, 4, 1, 64)),
        "low_freq_factor must be below high_freq_factor, got rotary_numbers (8.0, 4.0, 1.0, 64.0).",
    ),
])  # fmt: skip
def test_a_config_that_contradicts_itself_is_refused(fields, message):
    with pytest.raises(ValueError) as error:
        GPTConfig(**fields)
    assert str(error.value) == f"GPTConfig: {message}"
