"""Hugging Face's Marian: two SentencePiece models under one list of ids, both ways, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests import foreign_models
from tests.zoo.convert.test_t5_files import changed
from zoo.bundle import load
from zoo.config import Refusal
from zoo.convert import certificate, huggingface
from zoo.convert.weights import variables_by_path


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    bundle = foreign_models.marian()
    return bundle, huggingface.write(bundle, tmp_path_factory.mktemp("marian") / "there")


@pytest.fixture
def directory(written, tmp_path):
    """A copy, to be changed."""
    return shutil.copytree(written[1], tmp_path / "there")


def test_there_and_back_is_the_same_bundle(written, tmp_path):
    bundle, directory = written
    back = huggingface.read(directory)
    assert back.model.config == bundle.model.config and back.task.registered_name == "translation"
    for path, variable in variables_by_path(bundle.model).items():
        np.testing.assert_array_equal(variable.numpy(), variables_by_path(back.model)[path].numpy(), err_msg=path)
    assert back.tokenizer.digest() == bundle.tokenizer.digest()
    back.save(tmp_path / "bundle")
    batch = {"source_ids": np.array([[5, 7, 0]]), "token_ids": np.array([[34, 9]])}
    np.testing.assert_array_equal(load(tmp_path / "bundle").model(batch), bundle.model(batch))


def test_the_files_are_those_that_marian_reads(written):
    bundle, directory = written
    tensors, config = load_file(directory / "model.safetensors"), json.loads((directory / "config.json").read_text())
    size = bundle.tokenizer.vocab_size
    assert tensors["final_logits_bias"].shape == (1, size) and tensors["model.shared.weight"].shape == (size, 12)
    assert tensors["model.decoder.layers.0.encoder_attn.v_proj.bias"].shape == (12,)
    assert (config["architectures"], config["activation_function"]) == (["MarianMTModel"], "silu")
    assert config["decoder_start_token_id"] == config["pad_token_id"] == size - 1
    assert config["bad_words_ids"] == [[size - 1]]
    ids = json.loads((directory / "vocab.json").read_text(encoding="utf8"))
    assert sorted(ids, key=ids.get) == list(bundle.tokenizer.vocabulary)
    assert (directory / "source.spm").read_bytes() == bundle.tokenizer.source.model
    assert (directory / "target.spm").read_bytes() == bundle.tokenizer.target.model
    assert json.loads((directory / "tokenizer_config.json").read_text())["tokenizer_class"] == "MarianTokenizer"


def test_the_padding_is_never_written(written):
    """It is the last id, and its row of the table is among those that give logits."""
    model = written[0].model
    logits, _ = model.next_logits(np.array([[34]]), model.init_state(1, 2, model.encode(np.array([[5, 0]]))))
    assert np.isneginf(logits[0, 34]) and np.isfinite(logits[0, :34]).all()


def test_the_certificate_compares_ids_logits_and_greedy_texts(written):
    bundle, directory = written
    result = certificate.certify(bundle, directory)
    if not result["outputs"]["compared"]:
        pytest.skip(result["outputs"]["reason"])
    assert result["tokenizer"] == ["texts", "default calls", "pairs", "targets", "padding"]
    assert result["outputs"]["largest_difference"] < 1e-5 and result["served"]["generate"] == {"texts": 3, "tokens": 24}
    beams = result["served"]["beam_search"]
    assert (beams["texts"], beams["same"]) == (12, 12) and beams["largest_difference"] < 1e-4


def copied(tensors):
    """What older files hold besides: the table under each of its names, and the positions."""
    for name in ("lm_head", "model.encoder.embed_tokens", "model.decoder.embed_tokens"):
        tensors[f"{name}.weight"] = tensors["model.shared.weight"].copy()
    for stack in ("encoder", "decoder"):
        tensors[f"model.{stack}.embed_positions.weight"] = np.ones((128, 12), np.float32)


def test_what_the_files_of_opus_mt_hold_besides(directory):
    fields = dict(
        _num_labels=3, activation_dropout=0.0, add_bias_logits=False, add_final_layer_norm=False, classif_dropout=0.0,
        decoder_vocab_size=35, encoder_layerdrop=0.0, decoder_layerdrop=0.0, extra_pos_embeddings=35, forced_eos_token_id=0,
        init_std=0.02, max_length=512, normalize_before=False, normalize_embedding=False, num_beams=6, num_hidden_layers=2,
        share_encoder_decoder_embeddings=True, static_position_embeddings=True, activation_function="swish",
    )  # fmt: skip
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    settings |= {"source_lang": "eng", "target_lang": "fra", "separate_vocabs": False, "sp_model_kwargs": {}}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    expected = variables_by_path(huggingface.read(directory).model)
    got = huggingface.read(changed(directory, fields, tensors=copied))
    for path, variable in variables_by_path(got.model).items():
        np.testing.assert_array_equal(variable.numpy(), expected[path].numpy(), err_msg=path)


@pytest.mark.parametrize(("fields", "message"), [
    ({"activation_function": "tanh"}, "asks for activation_function='tanh', which is not supported"),
    ({"normalize_before": True}, "asks for normalize_before=True"),
    ({"share_encoder_decoder_embeddings": False}, "asks for share_encoder_decoder_embeddings=False"),
    ({"decoder_attention_heads": 1}, "The encoder has attention_heads=3 and the decoder 1"),
    ({"decoder_vocab_size": 36}, "The decoder has 36 ids and the encoder 35"),
    ({"bad_words_ids": [[3]]}, "only the padding is never written here"),
    ({"decoder_start_token_id": 0}, "a decoder that starts with another id than that of padding, 34"),
])  # fmt: skip
def test_what_a_marian_cannot_be_here_is_refused(directory, fields, message):
    with pytest.raises(Refusal, match=message):
        huggingface.read(changed(directory, fields))


def test_a_head_of_its_own_and_a_list_with_gaps_are_refused(directory):
    tensors = load_file(directory / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["model.shared.weight"] + 1}, directory / "model.safetensors")
    with pytest.raises(Refusal, match="lm_head.weight differs from shared.weight"):
        huggingface.read(directory)
    ids = json.loads((directory / "vocab.json").read_text(encoding="utf8"))
    (directory / "vocab.json").write_text(json.dumps({**ids, "</s>": 99}))
    with pytest.raises(Refusal, match="must give its 35 tokens the ids 0 to 34, each once"):
        huggingface.read(directory)


def test_two_models_of_pieces_go_with_no_other_kind(tmp_path):
    bundle = foreign_models.marian(position="sinusoidal")
    with pytest.raises(Refusal, match="A transformer of this structure has no counterpart"):
        huggingface.write(bundle, tmp_path / "there")
