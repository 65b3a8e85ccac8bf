"""T5 beside the `transformers` library's on the same random weights, its relative bias by hand, and its sizes.

Shape letters: B batch, T target positions, S source positions, V vocabulary.
"""

import numpy as np
import pytest

from zoo.config import Refusal
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


def test_the_bias_of_a_stack_is_the_table_at_the_bucket_of_the_distance():
    """Four buckets each way for an encoder, 0 to 3 before and 4 to 7 behind; eight one way for a decoder, where all that is
    behind has bucket 0. Distances of 10 and more share the last one."""
    model = T5(T5Config(**SMALL)).build_from_ids()
    (encoder,), (decoder,) = model.encoder_bias, model.decoder_bias
    numbers = np.arange(8 * 3, dtype=np.float32).reshape(8, 3)  # row b holds 3 b, 3 b + 1, 3 b + 2
    encoder.embeddings.assign(numbers), decoder.embeddings.assign(numbers)
    keys = np.array([[0, 1, 2, 3, 4, 9, 19, 20]])  # seen from position 3
    buckets = np.asarray(encoder(np.array([[3]]), keys))[0, 0, 0] / 3
    # Distances -3 -2 -1 0 1 6 16 17; exact below 2, then 2 + floor(2 log(r / 2) / log 5).
    assert buckets.tolist() == [2, 2, 1, 0, 5, 7, 7, 7]
    back = np.asarray(decoder(np.array([[20]]), keys))[0, :, 0]
    # Distances 20 19 18 17 16 11 1 0; exact below 4, then 4 + floor(4 log(r / 4) / log 2.5).
    assert (back[0] / 3).tolist() == [7, 7, 7, 7, 7, 7, 1, 0]
    assert (back[2] - back[0] == 2).all()  # each head has a column
    assert (np.asarray(decoder(np.array([[3]]), keys))[0, 0, 0] / 3).tolist() == [3, 2, 1, 0, 0, 0, 0, 0]


def test_scores_are_not_divided_and_have_no_bias():
    model = T5(T5Config(**SMALL)).build_from_ids()
    assert all(block.attention.scale == 1.0 for block in (*model.encoder, *model.decoder))
    assert all(block.cross.scale == 1.0 for block in model.decoder)
    assert not [variable.path for variable in model.variables if variable.path.endswith(("/bias", "/beta"))]


def test_weights_are_drawn_as_t5x_draws_them():
    config = T5Config(vocab_size=4_000, num_layers=1, num_heads=6, head_dim=16, hidden_dim=64, mlp_dim=150)
    model = T5(config).build_from_ids()
    queries, keys, values = np.split(np.asarray(model.encoder[0].attention.qkv.kernel), 3, axis=1)
    expected = {
        "embeddings": (model.embeddings.embeddings, 1),
        "output": (model.embeddings.reverse_embeddings, 1 / 8),
        "queries": (queries, 1 / 32),  # 1 / sqrt(64 * 16)
        "keys": (keys, 1 / 8),
        "values": (values, 1 / 8),
        "cross queries": (model.decoder[0].cross.query.kernel, 1 / 32),
        "cross keys and values": (model.decoder[0].cross.key_value.kernel, 1 / 8),
        "output projection": (model.encoder[0].attention.output_projection.kernel, 96**-0.5),
        "expand": (model.encoder[0].mlp.expand.kernel, 1 / 8),
        "contract": (model.encoder[0].mlp.contract.kernel, 150**-0.5),
    }
    for name, (weights, stddev) in expected.items():
        assert np.std(np.asarray(weights)) == pytest.approx(stddev, rel=0.05), name


@pytest.mark.parametrize(
    ("preset", "millions"),
    [("t5_small", 60.5), ("t5_base", 222.9), ("t5_large", 737.7), ("t5_v1_1_small", 77.0), ("flan_t5_base", 247.6)]
    + [("mt5_small", 300.2), ("t5_v1_1_xxl", 11_135.3)],
)
def test_parameter_counts_are_the_published_ones(preset, millions):
    assert T5Config.preset(preset).num_params() / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (dict(hidden_dim=10, num_heads=4, head_dim=None), "not a multiple of num_heads 4, and head_dim is not given"),
        (dict(num_buckets=7), "num_buckets must be even"),
        (dict(activation="tanh"), "activation must be one of"),
        (dict(mlp_dim=0), "mlp_dim must be positive"),
    ],
)
def test_a_structure_that_cannot_be_is_refused(fields, sentence):
    with pytest.raises(Refusal, match=sentence):
        T5Config(**{**SMALL, **fields})
