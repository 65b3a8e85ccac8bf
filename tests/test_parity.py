"""Our GPT beside the `transformers` library's, on the same random tiny weights: logits within 1e-4.

Shape letters: B batch, T positions, D hidden, N query heads, K key/value heads, H head width.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity needs the extra [bench]: torch is not installed")
transformers = pytest.importorskip("transformers", reason="parity needs the extra [bench]: transformers is not installed")

from zoo.models.gpt import GPT, GPTConfig  # noqa: E402 - after the skips, so that they cost nothing

B, T = 3, 11


def token_ids(vocab_size):
    return np.random.default_rng(0).integers(0, vocab_size, (B, T)).astype(np.int32)


def randomised(peer):
    """A peer with weights that no initialiser would choose, so that every bias and gain counts."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4 + 0.1)
    return peer.eval()


def weights(peer):
    return {name: value.detach().numpy() for name, value in peer.state_dict().items()}


def assign(model, values):
    """Every variable of ours from a dict by path; none may be left out or over."""
    variables = {variable.path.removeprefix("gpt/"): variable for variable in model.variables}
    assert variables.keys() == values.keys()
    for path, variable in variables.items():
        variable.assign(values[path])


def gpt2_weights(w, num_layers):
    values = {
        "embeddings/embeddings": w["transformer.wte.weight"],
        "positions/embeddings": w["transformer.wpe.weight"],
        "final_norm/gamma": w["transformer.ln_f.weight"],
        "final_norm/beta": w["transformer.ln_f.bias"],
    }
    # Conv1D of transformers holds (inputs, outputs), as we do.
    linear = {"attn.c_attn": "attention/qkv", "attn.c_proj": "attention/output_projection"}
    linear |= {"mlp.c_fc": "mlp/expand", "mlp.c_proj": "mlp/contract"}
    for i in range(num_layers):
        theirs, ours = f"transformer.h.{i}", f"block_{i}"
        for a, b in linear.items():
            values[f"{ours}/{b}/kernel"], values[f"{ours}/{b}/bias"] = (
                w[f"{theirs}.{a}.weight"],
                w[f"{theirs}.{a}.bias"],
            )
        for a, b in {"ln_1": "attention_norm", "ln_2": "mlp_norm"}.items():
            values[f"{ours}/{b}/gamma"], values[f"{ours}/{b}/beta"] = w[f"{theirs}.{a}.weight"], w[f"{theirs}.{a}.bias"]
    return values


def llama_weights(w, num_layers):
    def joined(*names):
        return np.concatenate([w[f"{name}.weight"] for name in names]).T

    values = {
        "embeddings/embeddings": w["model.embed_tokens.weight"],
        "embeddings/reverse_embeddings": w["lm_head.weight"].T,
        "final_norm/gamma": w["model.norm.weight"],
    }
    for i in range(num_layers):
        theirs, ours = f"model.layers.{i}", f"block_{i}"
        heads = (f"{theirs}.self_attn.{name}_proj" for name in "qkv")
        values[f"{ours}/attention/qkv/kernel"] = joined(*heads)
        values[f"{ours}/attention/output_projection/kernel"] = joined(f"{theirs}.self_attn.o_proj")
        values[f"{ours}/mlp/expand/kernel"] = joined(f"{theirs}.mlp.gate_proj", f"{theirs}.mlp.up_proj")
        values[f"{ours}/mlp/contract/kernel"] = joined(f"{theirs}.mlp.down_proj")
        values[f"{ours}/attention_norm/gamma"] = w[f"{theirs}.input_layernorm.weight"]
        values[f"{ours}/mlp_norm/gamma"] = w[f"{theirs}.post_attention_layernorm.weight"]
    return values


def gpt2():
    peer = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=97, n_positions=16, n_embd=20, n_layer=3, n_head=5, attn_implementation="eager")
    )
    config = GPTConfig(vocab_size=97, max_length=16, num_layers=3, num_heads=5, hidden_dim=20)
    return randomised(peer), config, gpt2_weights


def llama():
    peer = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=97, max_position_embeddings=16, hidden_size=18, intermediate_size=26, num_hidden_layers=3,
            num_attention_heads=6, num_key_value_heads=2, head_dim=4, rms_norm_eps=1e-5, rope_theta=500.0,
            tie_word_embeddings=False, attn_implementation="eager",
        )
    )  # fmt: skip
    config = GPTConfig(
        vocab_size=97, max_length=16, num_layers=3, num_heads=6, num_kv_heads=2, head_dim=4, hidden_dim=18, mlp_dim=26,
        position="rotary", norm="rms", activation="swiglu", use_bias=False, tie_embeddings=False, rotary_theta=500.0,
    )  # fmt: skip
    return randomised(peer), config, llama_weights


@pytest.fixture(scope="module", params=[gpt2, llama], ids=["gpt2", "llama"])
def models(request):
    """(their model, ours with the same weights)."""
    peer, config, translate = request.param()
    model = GPT(config).build_from_ids()
    assign(model, translate(weights(peer), config.num_layers))
    return peer, model


def test_logits(models):
    peer, model = models
    ids = token_ids(97)
    with torch.no_grad():
        expected = peer(torch.from_numpy(ids).long()).logits.numpy()
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(model(ids), expected, rtol=1e-4, atol=1e-4)


def test_logits_of_rows_padded_at_the_left(models):
    peer, model = models
    ids, mask = token_ids(97), np.arange(T) >= np.array([[0], [4], [10]])
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    with torch.no_grad():
        expected = peer(
            torch.from_numpy(ids).long(),
            attention_mask=torch.from_numpy(mask).long(),
            position_ids=torch.from_numpy(positions),
        ).logits.numpy()
    np.testing.assert_allclose(np.asarray(model(ids, padding_mask=mask))[mask], expected[mask], rtol=1e-4, atol=1e-4)


def test_loss_and_gradients(models):
    import tensorflow as tf

    peer, model = models
    ids = token_ids(97)
    peer.zero_grad()
    their_loss = peer(torch.from_numpy(ids).long(), labels=torch.from_numpy(ids).long()).loss
    their_loss.backward()
    with tf.GradientTape() as tape:
        log_probs, _ = model.token_log_probs(ids[:, :-1], ids[:, 1:])
        loss = -tf.reduce_mean(log_probs)
    assert float(loss) == pytest.approx(their_loss.item(), rel=1e-4)
    paths = [variable.path.removeprefix("gpt/") for variable in model.trainable_variables]
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    theirs = {name: parameter.grad.numpy() for name, parameter in peer.named_parameters()}
    theirs.setdefault("lm_head.weight", None)
    translate = gpt2_weights if "transformer.wte.weight" in theirs else llama_weights
    expected = translate(theirs, model.config.num_layers)
    for path, gradient in zip(paths, gradients, strict=True):
        np.testing.assert_allclose(tf.convert_to_tensor(gradient), expected[path], rtol=1e-3, atol=1e-4, err_msg=path)


def test_greedy_continuation(models):
    from zoo import decoding

    peer, model = models
    ids = token_ids(97)[:, :6]
    with torch.no_grad():
        expected = peer.generate(
            torch.from_numpy(ids).long(), attention_mask=torch.ones((B, 6), dtype=torch.long), max_new_tokens=8,
            do_sample=False, pad_token_id=0, eos_token_id=None,
        ).numpy()  # fmt: skip
    decoded = decoding.generate(model.next_logits, model.init_state(B, 14), ids, max_new_tokens=8)
    np.testing.assert_array_equal(decoded.token_ids, expected[:, 6:])
