"""CTranslate2's directories: model.bin in every precision, two vocabularies, a start from zeros, what is refused; and out."""

import importlib.util
import json
import struct

import keras
import numpy as np
import pytest

from tests import foreign_models, tiny_models
from zoo.bundle import Bundle, load
from zoo.config import Refusal
from zoo.convert import ctranslate2, opennmt
from zoo.convert.rules import parts, to_theirs
from zoo.convert.weights import variables_by_path
from zoo.data.batch import Layout
from zoo.registry import MODELS, TASKS
from zoo.tokenizers.base import create

TYPES = ("float32", "int8", "int16", "int32", "float16", "bfloat16")
ATTRIBUTES = {
    "encoder/num_heads": np.int16(3), "encoder/pre_norm": np.int8(0), "encoder/activation": np.int8(2),
    "encoder/scale_embeddings": np.float32(12**0.5), "encoder/embeddings_merge": np.int8(0),
    "decoder/num_heads": np.int16(3), "decoder/pre_norm": np.int8(0), "decoder/activation": np.int8(2),
    "decoder/scale_embeddings": np.float32(12**0.5), "decoder/start_from_zero_embedding": np.int8(0),
    "decoder/alignment_layer": np.int16(-1), "decoder/alignment_heads": np.int16(1), "decoder/alibi": np.int8(0),
}  # fmt: skip
SETTINGS = {"eos_token": "</s>", "unk_token": "<unk>", "decoder_start_token": "<pad>", "add_source_eos": True}
# Structures whose weights go out and come back: a tokenizer, and fields of the config.
CASES = {
    "gated": ("bpe", dict(norm_first=True, activation="geglu_exact", tie_embeddings=False, scale_embeddings=False)),
    "two tables": (
        "word",
        dict(position="sinusoidal_opennmt", use_bias=False, epsilon=1e-3, source_vocab_size=40, vocab_size=40),
    ),
    "modern": (
        "unigram",
        dict(position="rotary", norm="rms", norm_first=True, activation="swiglu", use_bias=False, hidden_dim=16),
    ),
}


def translator(tokenizer, **fields):
    """A bundle of a small Transformer."""
    keras.utils.set_random_seed(5)
    sizes = dict(bpe=270, unigram=48, word=30)
    tokenizer = create(tokenizer, foreign_models.TEXTS, sizes[tokenizer]) if isinstance(tokenizer, str) else tokenizer
    task, model_class = TASKS.get("translation")(), MODELS.get("transformer")
    wanted = {**task.model_fields(tokenizer), "max_length": 64, **fields}
    known = {name: value for name, value in wanted.items() if name in model_class.config_class.field_names()}
    model = task.assemble(model_class(model_class.config_class.preset("tiny", **known))).build_from_ids()
    return Bundle(tiny_models.strengthen(model), tokenizer, task, {})


def stored(bundle):
    """Name of CTranslate2's -> array, of a bundle with one table."""
    config, ours, found = bundle.model.config, variables_by_path(bundle.model), {}
    for rule in opennmt.family(config).rules(config):
        found |= dict(zip(rule.theirs, to_theirs(rule, ours[rule.ours].numpy(), parts(config, rule)), strict=True))
    return found


def write_bin(path, variables, aliases=(), version=6):
    """A model.bin, byte by byte: name -> array, or (array, name of its type)."""

    def string(text):
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    out = [struct.pack("<I", version), string("TransformerSpec"), struct.pack("<I", 7), struct.pack("<I", len(variables))]
    for name, value in sorted(variables.items()):
        array, dtype = value if isinstance(value, tuple) else (value, value.dtype.name)
        out += [string(name), struct.pack("<B", array.ndim), *(struct.pack("<I", size) for size in array.shape)]
        out += [struct.pack("<BI", TYPES.index(dtype), array.nbytes), array.tobytes()]
    out += [struct.pack("<I", len(aliases)), *(string(text) for pair in aliases for text in pair)]
    path.write_bytes(b"".join(out))


@pytest.fixture
def marian():
    return foreign_models.marian()


@pytest.fixture
def directory(marian, tmp_path):
    """A directory of the Marian's weights with its SentencePiece models, to be changed."""
    return written(tmp_path / "there", marian, stored(marian))


def written(directory, bundle, tensors, attributes=ATTRIBUTES, settings=SETTINGS):
    directory.mkdir(exist_ok=True)
    table = np.asarray(opennmt.sinusoids(64, 12))
    tables = {f"{stack}/position_encodings/encodings": table for stack in ("encoder", "decoder")}
    aliases = [("decoder/projection/weight", "decoder/embeddings/weight")]
    if "encoder/embeddings_0/weight" not in tensors:
        aliases.append(("encoder/embeddings_0/weight", "decoder/embeddings/weight"))
    aliases = [(alias, name) for alias, name in aliases if alias not in tensors]
    if "decoder/embeddings/weight_scale" in tensors:
        aliases += [(f"{alias}_scale", f"{name}_scale") for alias, name in aliases]
    write_bin(directory / "model.bin", {**attributes, **tables, **tensors}, aliases)
    (directory / "config.json").write_text(json.dumps(settings))
    for name, side in (("source", bundle.tokenizer.source), ("target", bundle.tokenizer.target)):
        (directory / f"{name}.spm").write_bytes(side.model)
        (directory / f"{name}_vocabulary.json").write_text(json.dumps(side.vocabulary))
    return directory


def test_the_names_and_shapes_are_theirs(marian):
    found = stored(marian)
    assert found["decoder/layer_0/attention/linear_1/weight"].shape == (24, 12)  # keys and values
    assert found["encoder/layer_1/self_attention/linear_0/bias"].shape == (36,)
    kernel = variables_by_path(marian.model)["encoder_0/mlp/expand/kernel"].numpy()
    np.testing.assert_array_equal(found["encoder/layer_0/ffn/linear_0/weight"], kernel.T)
    assert found["decoder/projection/bias"].shape == (35,) and "decoder/projection/weight" not in found


def test_a_directory_becomes_the_model_it_was_made_of(marian, directory, tmp_path):
    back = ctranslate2.read(directory)
    wanted = marian.model.config.replace(max_length=64, dropout=0.1)
    assert back.model.config == wanted and back.task.registered_name == "translation"
    for path, variable in variables_by_path(marian.model).items():
        np.testing.assert_array_equal(variable.numpy(), variables_by_path(back.model)[path].numpy(), err_msg=path)
    assert back.tokenizer.digest() == marian.tokenizer.digest()
    assert "decoder/alibi" not in str(back.provenance) and "source.spm" in back.provenance["checklist"]["applied"]
    back.save(tmp_path / "bundle")
    assert load(tmp_path / "bundle").model.num_ids == 34


def quantised(value, name, kind):
    """As the library stores a matrix: int8 by rows, int16 as a whole, halves."""
    if kind == "bfloat16":
        return {name: ((value.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16), "bfloat16")}
    if kind == "float16" or value.ndim < 2:
        return {name: value.astype(np.float16) if kind == "float16" else value}
    scale = (127 / np.abs(value).max(1) if kind == "int8" else 2**10 / np.abs(value).max()).astype(np.float32)
    return {name: np.rint(value * (scale[:, None] if kind == "int8" else scale)).astype(kind), f"{name}_scale": scale}


@pytest.mark.parametrize(("kind", "steps"), [("int8", 254), ("int16", 2048), ("float16", 2048), ("bfloat16", 128)])
def test_other_precisions_are_made_float32(marian, tmp_path, kind, steps):
    tensors = {}
    for name, value in stored(marian).items():
        tensors |= quantised(value, name, kind)
    back = variables_by_path(ctranslate2.read(written(tmp_path / "there", marian, tensors)).model)
    for path, variable in variables_by_path(marian.model).items():
        value = variable.numpy()
        np.testing.assert_allclose(back[path].numpy(), value, atol=np.abs(value).max() / steps * 1.001, err_msg=path)


def test_a_decoder_that_begins_with_zeros_gets_a_padding_of_zeros(marian, tmp_path):
    tensors = {name: value[:-1] if value.shape[0] == 35 else value for name, value in stored(marian).items()}
    attributes = {**ATTRIBUTES, "decoder/start_from_zero_embedding": np.int8(1)}
    there = written(tmp_path / "there", marian, tensors, attributes, {**SETTINGS, "decoder_start_token": "</s>"})
    for name in ("source", "target"):
        (there / f"{name}_vocabulary.json").write_text(json.dumps(marian.tokenizer.vocabulary[:-1]))
    back = ctranslate2.read(there)
    assert back.tokenizer.vocabulary == marian.tokenizer.vocabulary
    assert (back.tokenizer.target.pad_id, back.model.num_ids, back.model.config.vocab_size) == (34, 34, 35)
    table = marian.model.embeddings.embeddings.numpy()
    table[-1] = 0
    np.testing.assert_array_equal(back.model.embeddings.embeddings.numpy(), table)
    assert back.model.output_bias.numpy()[-1] == 0


def test_two_vocabularies_have_two_tables(marian, tmp_path):
    tensors, source = stored(marian), np.random.default_rng(3).normal(size=(33, 12)).astype(np.float32)
    there = written(tmp_path / "there", marian, {**tensors, "encoder/embeddings_0/weight": source})
    tokens = [token for token in marian.tokenizer.vocabulary if token not in (">>fra<<", "<pad>")]
    (there / "source_vocabulary.json").write_text(json.dumps(tokens[::-1]))
    bundle = ctranslate2.read(there)
    config = bundle.model.config
    assert (config.source_vocab_size, config.vocab_size, config.num_params()) == (33, 35, bundle.model.count_params())
    np.testing.assert_array_equal(variables_by_path(bundle.model)["source_embeddings/embeddings"].numpy(), source)
    assert bundle.tokenizer.eos_id == 32 and bundle.tokenizer.target.eos_id == 0
    bundle.save(tmp_path / "bundle")
    batch = {"source_ids": np.array([[5, 31, 32]]), "token_ids": np.array([[34, 9]])}
    np.testing.assert_array_equal(load(tmp_path / "bundle").model(batch), bundle.model(batch))
    pairs = bundle.task.encode([{"source": "the cat", "target": "le chat"}] * 2, bundle.tokenizer, Layout(2, 16))
    rows = bundle.task.training_batches(pairs, bundle.model, bundle.tokenizer, Layout(2, 16)).batch(0)
    assert rows["source_ids"].max() < 33 and rows["source_ids"][0, rows["source_mask"][0].sum() - 1] == 32
    frame = bundle.task.frame("encoder_decoder", bundle.tokenizer)
    assert (frame.after, frame.target_start) == ((32,), (34,))
    with pytest.raises(Refusal, match="Sources and targets have ids of their own"):
        Bundle(marian.model, bundle.tokenizer, "translation", {})


@pytest.mark.parametrize(("change", "message"), [
    ({"decoder/activation": np.int8(5), "encoder/activation": np.int8(5)}, "has activation number 5"),
    ({"decoder/pre_norm": np.int8(1)}, "has pre_norm=0 and, in decoder, 1|has pre_norm=1 and"),
    ({"decoder/alibi": np.int8(1)}, "has decoder/alibi=1, which a transformer cannot have"),
    ({"encoder/sliding_window": np.int32(4)}, "has sliding_window, which are not known here"),
    ({"encoder/scale_embeddings": np.float32(2), "decoder/scale_embeddings": np.float32(2)}, "multiplies embeddings by 2.0"),
    ({"encoder/layernorm_embedding/gamma": np.ones(12, np.float32)}, "1 tensors that this model has no place for"),
    ({"encoder/position_encodings/encodings": np.ones((64, 12), np.float32)}, "has positions that were learnt"),
])  # fmt: skip
def test_what_a_transformer_cannot_be_is_refused(marian, tmp_path, change, message):
    there = written(tmp_path / "there", marian, {**stored(marian), **change})
    with pytest.raises(Refusal, match=message):
        ctranslate2.read(there)


def test_damaged_and_unknown_files_are_refused(directory):
    whole = (directory / "model.bin").read_bytes()
    (directory / "model.bin").write_bytes(whole[:-100])
    with pytest.raises(Refusal, match="model.bin is damaged"):
        ctranslate2.read(directory)
    (directory / "model.bin").write_bytes(struct.pack("<I", 7) + whole[4:])
    with pytest.raises(Refusal, match="of version 7; a TransformerSpec of version 4 to 6 is read"):
        ctranslate2.read(directory)
    (directory / "model.bin").write_bytes(whole)
    (directory / "config.json").write_text(json.dumps({**SETTINGS, "speed": 2}))
    with pytest.raises(Refusal, match="the field speed=2, which is not known here"):
        ctranslate2.read(directory)
    (directory / "config.json").write_text(json.dumps(SETTINGS))
    (directory / "target.spm").unlink()
    (directory / "source.spm").unlink()
    with pytest.raises(Refusal, match="has 0 SentencePiece models; put source.spm and target.spm there"):
        ctranslate2.read(directory)
    (directory / "target_vocabulary.json").write_text('["a"]')
    with pytest.raises(Refusal, match="has a list of 1 tokens and a table of 35"):
        ctranslate2.read(directory)


@pytest.mark.parametrize("name", [*CASES, "marian"])
def test_out_and_back_and_the_same_translations(name, tmp_path):
    if importlib.util.find_spec("ctranslate2") is None:
        pytest.skip("ctranslate2 is not installed")
    bundle = foreign_models.marian() if name == "marian" else translator(CASES[name][0], **CASES[name][1])
    if name == "marian":  # as published ones are: the padding is a row of zeros, which does not go out
        table = bundle.model.embeddings.embeddings
        table.assign(table.numpy() * (np.arange(35) < 34)[:, None])
        bundle.model.output_bias.assign(bundle.model.output_bias.numpy() * (np.arange(35) < 34))
    there = ctranslate2.write(bundle, tmp_path / "there")
    proof = ctranslate2.certify(bundle, there)
    assert proof["outputs"]["largest_difference"] < 1e-5
    assert proof["served"]["generate"]["same"] == proof["texts"]
    back = ctranslate2.read(there)
    for path, variable in variables_by_path(bundle.model).items():
        np.testing.assert_array_equal(variable.numpy(), variables_by_path(back.model)[path].numpy(), err_msg=path)
    assert back.tokenizer.digest() == bundle.tokenizer.digest()
    beams = proof["served"]["beam_search"]
    assert beams["same"] == beams["texts"] and beams["largest_difference"] < 1e-4


def test_only_a_transformer_goes_out(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    with pytest.raises(Refusal, match="Only a transformer is written for ctranslate2, and this is a t5"):
        ctranslate2.write(foreign_models.bundle("t5"), tmp_path / "there")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Refusal, match="needs ctranslate2: pip install"):
        ctranslate2.write(foreign_models.bundle("t5"), tmp_path / "there")
