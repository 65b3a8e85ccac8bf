"""T5 beside the `transformers` library's on the same random weights, its relative bias by hand, and its sizes.

Shape letters: B batch, T target positions, S source positions, V vocabulary.
"""

import numpy as np
import pytest

from zoo.models.t5 import T5, T5Config

B, T, S = 3, 7, 11
SMALL = dict(
    vocab_size=53, num_layers=3, num_decoder_layers=2, num_heads=3, head_dim=5, hidden_dim=12, mlp_dim=22, num_buckets=8,
    max_distance=10,
)  # fmt: skip
# Version 1.0, versions 1.1 and flan, and umT5.
VERSIONS = {
    "t5": dict(activation="relu", tie_embeddings=True),
    "t5_v1_1": dict(activation="geglu", tie_embeddings=False),
    "umt5": dict(activation="geglu", tie_embeddings=False, bias_per_layer=True),
}


def batch():
    random = np.random.default_rng(0)
    return {
        "source_ids": random.integers(1, 53, (B, S)).astype(np.int32),
        "source_mask": np.arange(S) < np.array([[S], [4], [1]]),
        "token_ids": random.integers(1, 53, (B, T)).astype(np.int32),
    }


def peer(version):
    """The library's model with weights that no initialiser would choose."""
    torch = pytest.importorskip("torch", reason="parity needs the extra [bench]: torch is not installed")
    transformers = pytest.importorskip("transformers", reason="parity needs the extra [bench]: transformers is not installed")
    fields, umt5 = VERSIONS[version], version == "umt5"
    config = (transformers.UMT5Config if umt5 else transformers.T5Config)(
        vocab_size=53, d_model=12, d_kv=5, d_ff=22, num_layers=3, num_decoder_layers=2, num_heads=3,
        relative_attention_num_buckets=8, relative_attention_max_distance=10, dropout_rate=0.0,
        feed_forward_proj="relu" if fields["activation"] == "relu" else "gated-gelu",
        tie_word_embeddings=fields["tie_embeddings"], attn_implementation="eager", pad_token_id=0,
    )  # fmt: skip
    model = (transformers.UMT5ForConditionalGeneration if umt5 else transformers.T5ForConditionalGeneration)(config)
    torch.manual_seed(0)
    with torch.no_grad():
        if not fields["tie_embeddings"]:  # version 5 of the library ties them whatever the file says
            model.lm_head.weight = torch.nn.Parameter(torch.zeros(53, 12))
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.9 + 0.1)
    return model.eval()


def translated(weights, config):
    """Path of ours -> array, from the library's tensors."""

    def joined(*names):
        return np.concatenate([weights[f"{name}.weight"] for name in names]).T

    values = {"embeddings/embeddings": weights["shared.weight"]}
    if not config.tie_embeddings:
        values["embeddings/reverse_embeddings"] = weights["lm_head.weight"].T
    for stack, layers in (("encoder", config.num_layers), ("decoder", config.decoder_layers)):
        values[f"{stack}_norm/gamma"] = weights[f"{stack}.final_layer_norm.weight"]
        for i in range(layers):
            theirs, ours, last = f"{stack}.block.{i}.layer", f"{stack}_{i}", 2 if stack == "decoder" else 1
            if config.bias_per_layer or i == 0:
                name = f"{stack}_bias_{i}" if config.bias_per_layer else f"{stack}_bias"
                table = weights[f"{theirs}.0.SelfAttention.relative_attention_bias.weight"]
                values[f"{name}/embeddings"] = table
            values[f"{ours}/attention_norm/gamma"] = weights[f"{theirs}.0.layer_norm.weight"]
            heads = (f"{theirs}.0.SelfAttention.{name}" for name in "qkv")
            values[f"{ours}/attention/qkv/kernel"] = joined(*heads)
            values[f"{ours}/attention/output_projection/kernel"] = joined(f"{theirs}.0.SelfAttention.o")
            if stack == "decoder":
                cross = f"{theirs}.1.EncDecAttention"
                values[f"{ours}/cross_norm/gamma"] = weights[f"{theirs}.1.layer_norm.weight"]
                values[f"{ours}/cross/query/kernel"] = joined(f"{cross}.q")
                values[f"{ours}/cross/key_value/kernel"] = joined(f"{cross}.k", f"{cross}.v")
                values[f"{ours}/cross/output_projection/kernel"] = joined(f"{cross}.o")
            network = f"{theirs}.{last}.DenseReluDense"
            values[f"{ours}/mlp_norm/gamma"] = weights[f"{theirs}.{last}.layer_norm.weight"]
            first = ("wi",) if config.activation == "relu" else ("wi_0", "wi_1")
            values[f"{ours}/mlp/expand/kernel"] = joined(*(f"{network}.{name}" for name in first))
            values[f"{ours}/mlp/contract/kernel"] = joined(f"{network}.wo")
    return values


@pytest.fixture(params=VERSIONS)
def both(request):
    """(their model, ours with the same weights)."""
    theirs = peer(request.param)
    model = T5(T5Config(**SMALL, **VERSIONS[request.param])).build_from_ids()
    values = translated({name: value.detach().numpy() for name, value in theirs.state_dict().items()}, model.config)
    variables = {variable.path.removeprefix("t5/"): variable for variable in model.variables}
    assert variables.keys() == values.keys()
    for path, variable in variables.items():
        variable.assign(values[path])
    return theirs, model


def test_logits_are_those_of_the_library(both):
    import torch

    theirs, model = both
    inputs = {name: torch.from_numpy(value).long() for name, value in batch().items()}
    with torch.no_grad():
        expected = theirs(
            input_ids=inputs["source_ids"], attention_mask=inputs["source_mask"], decoder_input_ids=inputs["token_ids"]
        ).logits.numpy()
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(model(batch()), expected, rtol=1e-4, atol=1e-4)


def test_greedy_texts_are_those_of_the_library(both):
    import torch

    from zoo import decoding

    theirs, model = both
    inputs, start = batch(), np.zeros((B, 1), np.int32)
    with torch.no_grad():
        expected = theirs.generate(
            torch.from_numpy(inputs["source_ids"]).long(), attention_mask=torch.from_numpy(inputs["source_mask"]).long(),
            max_new_tokens=9, do_sample=False, decoder_start_token_id=0, eos_token_id=None, pad_token_id=0,
        ).numpy()  # fmt: skip
    memory = model.encode(inputs["source_ids"], inputs["source_mask"])
    decoded = decoding.generate(model.next_logits, model.init_state(B, 10, memory), start, max_new_tokens=9)
    np.testing.assert_array_equal(decoded.token_ids, expected[:, 1:])
