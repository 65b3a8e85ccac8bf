"""Bundles to Hugging Face directories and back: every bit of every weight, and what is refused."""

import json
import math

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests import foreign_models
from zoo import bundle as bundles
from zoo.convert import certificate, huggingface, safetensors
from zoo.convert.tables import FAMILIES, family_of
from zoo.convert.weights import variables_by_path
from zoo.models.gpt import GPTConfig

TEXT = "the naive cat, 1984"


@pytest.fixture(scope="module", params=foreign_models.CASES)
def written(request, tmp_path_factory):
    """(bundle, the directory that it was written to)."""
    bundle = foreign_models.bundle(request.param)
    return bundle, huggingface.write(bundle, tmp_path_factory.mktemp(request.param) / "there")


@pytest.fixture
def directory(tmp_path):
    """The directory of a BERT, to be damaged."""
    return huggingface.write(foreign_models.bundle("bert"), tmp_path / "there")


def test_there_and_back_is_the_same_bundle(written):
    bundle, directory = written
    back = huggingface.read(directory)
    assert back.model.config == bundle.model.config.replace(**_spelt_out(bundle.model.config))
    assert back.task.registered_name == bundle.task.registered_name
    mine, theirs = variables_by_path(bundle.model), variables_by_path(back.model)
    assert mine.keys() == theirs.keys()
    for path, variable in mine.items():
        np.testing.assert_array_equal(variable.numpy(), theirs[path].numpy(), err_msg=path)
    assert back.tokenizer.encode(TEXT) == bundle.tokenizer.encode(TEXT)
    ids = [1, 5, 2, 7]
    ((_, _, there),), ((_, _, here),) = (certificate.outputs(one, [ids]) for one in (back, bundle))
    np.testing.assert_array_equal(there, here)


def _spelt_out(config):
    """What the files spell out and a config may leave at None."""
    named = {"mlp_dim": config.mlp_width}
    if config.__class__.__name__ == "GPTConfig" and config.position == "rotary":
        named |= {"num_kv_heads": config.kv_heads, "head_dim": config.head_width}
    elif config.__class__.__name__ == "GPTConfig":
        named = {}
    elif config.__class__.__name__ in ("T5Config", "TransformerConfig"):
        named = {"num_decoder_layers": config.decoder_layers}
    return named


def test_the_library_reads_what_is_written(written):
    bundle, directory = written
    tensors = load_file(directory / "model.safetensors")
    total = sum(value.size for value in tensors.values())
    assert total == sum(int(np.prod(v.shape)) for v in variables_by_path(bundle.model).values())
    config = json.loads((directory / "config.json").read_text())
    assert config["model_type"] == family_of(bundle)
    names = {"gpt2": "GPT2", "llama": "Llama", "bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta"}
    names |= {
        "openai-gpt": "OpenAIGPTLMHead",
        "modernbert": "ModernBert",
        "marian": "Marian",
        "glm": "GlmFor",
        "glm4": "Glm4For",
        "t5": "T5For",
        "umt5": "UMT5For",
    }
    names |= {"qwen2": "Qwen2For", "qwen3": "Qwen3For", "mistral": "MistralFor", "phi3": "Phi3For", "olmo2": "Olmo2For"}
    names |= {"smollm3": "SmolLM3For", "stablelm": "StableLmFor", "gemma": "GemmaFor", "gemma2": "Gemma2For"}
    names |= {"gemma3_text": "Gemma3For", "gpt_neox": "GPTNeoXFor", "opt": "OPTFor", "bloom": "BloomFor", "falcon": "FalconFor"}
    assert config["architectures"][0].startswith(names[config["model_type"]])


def test_the_certificate_says_what_was_compared(written):
    bundle, directory = written
    result = certificate.certify(bundle, directory)
    assert result["ids"] | {"versions": 0} == {
        "compared": True,
        "identical": True,
        "peer": result["ids"]["peer"],
        "versions": 0,
    }
    if result["outputs"]["compared"]:  # where torch and transformers are installed
        assert result["outputs"]["largest_difference"] < 1e-4 * max(1, result["outputs"]["largest_output"])
    else:
        assert result["outputs"]["reason"].startswith("torch and transformers are not installed")


def test_several_files_with_an_index(directory):
    tensors = load_file(directory / "model.safetensors")
    names = sorted(tensors)
    expected = huggingface.read(directory)
    (directory / "model.safetensors").unlink()
    for number, part in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in part}, directory / f"part-{number}.safetensors")
    index = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(names)}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    got = huggingface.read(directory)
    for path, variable in variables_by_path(expected.model).items():
        np.testing.assert_array_equal(variable.numpy(), variables_by_path(got.model)[path].numpy())
    (directory / "part-1.safetensors").unlink()
    with pytest.raises(ValueError, match="part-1.safetensors is damaged or missing"):
        huggingface.read(directory)
    (directory / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="model.safetensors.index.json is damaged"):
        huggingface.read(directory)


def test_tables_are_filled_a_few_rows_at_a_time(directory, monkeypatch):
    expected = huggingface.read(directory)
    monkeypatch.setattr(bundles, "PIECE_BYTES", 200)  # four rows of 12
    got = huggingface.read(directory)
    for path, variable in variables_by_path(expected.model).items():
        np.testing.assert_array_equal(variable.numpy(), variables_by_path(got.model)[path].numpy(), err_msg=path)


def changed(directory, change):
    """Rewrites the tensors after `change(tensors)`."""
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def test_other_precisions_prefixes_old_names_and_copies_are_read(directory):
    expected = huggingface.read(directory)

    def change(tensors):
        for name in list(tensors):
            value = tensors.pop(name).astype(np.float16)
            tensors[
                "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            ] = value
        tensors["bert.embeddings.position_ids"] = np.arange(16)[None]
        tensors["cls.seq_relationship.weight"] = np.zeros((2, 12), np.float32)

    changed(directory, change)
    got = huggingface.read(directory)
    assert got.provenance["left_out"] == ["cls.seq_relationship.weight"]
    for path, variable in variables_by_path(expected.model).items():
        np.testing.assert_array_equal(variable.numpy().astype(np.float16), variables_by_path(got.model)[path].numpy())


def test_missing_and_leftover_tensors_are_listed(directory):
    changed(directory, lambda t: [t.pop("pooler.dense.bias"), t.pop("encoder.layer.1.output.dense.weight")])
    with pytest.raises(ValueError, match="lacks 2 tensors .*: encoder.layer.1.output.dense.weight, pooler.dense.bias"):
        huggingface.read(directory)


def test_leftover_tensors_are_listed(directory):
    changed(directory, lambda t: t.update({"classifier.weight": np.ones((2, 2)), "encoder.layer.7.x": np.ones(3)}))
    with pytest.raises(ValueError, match="2 tensors that this model has no place for: classifier.weight, encoder.layer.7.x"):
        huggingface.read(directory)


def test_another_shape_is_refused(directory):
    changed(directory, lambda t: t.update({"embeddings.position_embeddings.weight": np.ones((9, 12), np.float32)}))
    with pytest.raises(ValueError, match=r"position_embeddings.weight make shape \(9, 12\), .* has \(16, 12\)"):
        huggingface.read(directory)


def test_a_tied_copy_that_differs_is_refused(tmp_path):
    directory = huggingface.write(foreign_models.bundle("gpt2"), tmp_path / "there")
    changed(directory, lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"] + 1}))
    with pytest.raises(ValueError, match="lm_head.weight differs from wte.weight, which this model has only once"):
        huggingface.read(directory)


def test_another_vocabulary_is_refused(directory):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    fewer = config["vocab_size"] - 1
    path.write_text(json.dumps({**config, "vocab_size": fewer}))
    with pytest.raises(ValueError, match=f"has {fewer + 1} ids, the model only {fewer}"):
        huggingface.read(directory)
    (directory / "tokenizer.json").unlink()
    (directory / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\na\na\n")
    with pytest.raises(ValueError, match="has the token 'a' twice, on line 4 and on line 5"):
        huggingface.read(directory)


def test_a_pickle_is_refused_with_the_way_out(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin is a pickle, .*save_pretrained\(NEW\) writes safetensors"):
        huggingface.read(directory)
    (directory / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match="holds no weights: there is no model.safetensors"):
        huggingface.read(directory)


def test_damaged_weights_are_refused(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="is damaged or missing"):
        huggingface.read(directory)


@pytest.mark.parametrize(("field", "value", "message"), [
    ("model_type", "bart", "a model of type 'bart'; did you mean 'bert'?"),
    ("hidden_act", "relu", "asks for hidden_act='relu', which is not supported; only 'gelu'"),
    ("position_embedding_type", "relative_key", "position_embedding_type='relative_key'"),
])  # fmt: skip
def test_what_our_model_cannot_be_is_refused(directory, field, value, message):
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(ValueError, match=message):
        huggingface.read(directory)


@pytest.mark.parametrize(
    "fields", [{"partial_rotary_factor": 1.0}, {"rope_parameters": {"rope_theta": 500.0, "partial_rotary_factor": 1.0}}]
)
def test_a_glm_that_turns_whole_heads_is_refused(tmp_path, fields):
    there = huggingface.write(foreign_models.bundle("glm"), tmp_path / "there")
    config = json.loads((there / "config.json").read_text())
    (there / "config.json").write_text(json.dumps({**config, **fields}))
    with pytest.raises(ValueError, match="turn a share of 1.0 of each head; a GLM turns half"):
        huggingface.read(there)


SCALINGS = {
    "linear": ((4.0,), {"factor": 4.0}),
    "llama3": (
        (8.0, 1.0, 4.0, 12.0),
        {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 12},
    ),
    "yarn": (
        (4.0, 8.0, 0.1 * math.log(4) + 1, 32.0, 1.0, 1.0),
        {"factor": 4.0, "original_max_position_embeddings": 8},
    ),
}


@pytest.mark.parametrize("kind", SCALINGS)
def test_scaled_positions_go_out_and_come_in(kind, tmp_path):
    numbers, named = SCALINGS[kind]
    bundle = foreign_models.bundle("llama", rotary_scaling=kind, rotary_numbers=numbers)
    there = huggingface.write(bundle, tmp_path / "there")
    config = json.loads((there / "config.json").read_text())
    assert named.items() <= config["rope_scaling"].items() and config["rope_scaling"]["rope_type"] == kind
    assert huggingface.read(there).model.config == bundle.model.config
    result = certificate.certify(bundle, there)["outputs"]  # compared where torch and transformers are installed
    assert not result["compared"] or result["largest_difference"] < 1e-4 * max(1, result["largest_output"])
    for field, rope in (("rope_scaling", {"type": kind, **named}), ("rope_parameters", {"rope_type": kind, **named})):
        older = {name: value for name, value in config.items() if name != "rope_scaling"}
        (there / "config.json").write_text(json.dumps({**older, field: rope}))
        assert huggingface.read(there).model.config == bundle.model.config
    ids = np.arange(1, 13)[None]
    plain = foreign_models.bundle("llama").model(ids)
    assert np.abs(np.asarray(bundle.model(ids)) - np.asarray(plain)).max() > 1e-3


@pytest.mark.parametrize(
    ("rope", "sentence"),
    [
        ({"rope_type": "longrope", "short_factor": [1.0]}, "scaled by 'longrope'; only default, dynamic, linear, llama3, yarn"),
        ({"rope_type": "llama3", "factor": 8.0}, "scaled by 'llama3', but config.json does not say 'low_freq_factor'"),
        ({"rope_type": "linear", "factor": 8.0, "novelty": 1}, "scaled by 'linear' with 'novelty', which is not known"),
        ({"rope_type": "linear", "factor": 0.0}, "rotary_numbers must be positive"),
    ],
)
def test_a_scaling_that_is_not_known_is_refused(directory_of_llama, rope, sentence):
    config = json.loads((directory_of_llama / "config.json").read_text())
    (directory_of_llama / "config.json").write_text(json.dumps({**config, "rope_scaling": rope}))
    with pytest.raises(ValueError, match=sentence):
        huggingface.read(directory_of_llama)


def test_what_no_text_can_reach_is_not_refused(directory_of_llama):
    """A window as long as the positions, and a scaling that begins behind the last one."""
    config = json.loads((directory_of_llama / "config.json").read_text())
    longest = config["max_position_embeddings"]
    inert = {"sliding_window": longest, "rope_scaling": {"type": "dynamic", "factor": 4.0}}
    (directory_of_llama / "config.json").write_text(json.dumps({**config, **inert}))
    assert huggingface.read(directory_of_llama).model.config.rotary_scaling == "none"
    (directory_of_llama / "config.json").write_text(json.dumps({**config, "sliding_window": longest - 1}))
    with pytest.raises(ValueError, match=f"for such texts set max_position_embeddings to {longest - 1} in config.json"):
        huggingface.read(directory_of_llama)


@pytest.fixture
def directory_of_llama(tmp_path):
    return huggingface.write(foreign_models.bundle("llama"), tmp_path / "there")


def test_a_model_without_a_counterpart_is_refused(tmp_path):
    bundle = foreign_models.bundle("llama")
    object.__setattr__(bundle.model.config, "normalize_qk", True)
    with pytest.raises(ValueError, match="has no counterpart among bert, "):
        huggingface.write(bundle, tmp_path / "there")


def test_a_directory_that_is_not_empty_is_refused(directory):
    with pytest.raises(ValueError, match="is there already and not empty"):
        huggingface.write(foreign_models.bundle("bert"), directory)


def test_every_family_names_each_tensor_once():
    for name, family in FAMILIES.items():
        block = family.block(GPTConfig(**{"normalize_qk": True, **family.fixed})) if callable(family.block) else family.block
        rules = [*family.embeddings, *block, *family.final, *family.pooler, *family.untied, *family.head]
        theirs = [tensor for rule in rules for tensor in rule.theirs]
        assert len(set(theirs)) == len(theirs), name
        assert len({rule.ours for rule in rules}) == len(rules), name


def test_the_writer_refuses_an_array_of_another_shape(tmp_path):
    with pytest.raises(ValueError, match=r"a has shape \(3,\) where \(2,\) was announced"):
        safetensors.write(tmp_path / "x.safetensors", [("a", (2,), lambda: np.zeros(3))])
