"""Hugging Face's T5: one table or two by the tensors, sentinels of its own, SentencePiece alone, and what is refused."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from safetensors.numpy import load_file, save_file

from tests import foreign_models
from zoo.config import Refusal
from zoo.convert import huggingface
from zoo.convert.weights import variables_by_path
from zoo.signatures.fill_spans import WithSentinels
from zoo.tokenizers.base import create
from zoo.tokenizers.special import sentinels_among


@pytest.fixture
def directory(tmp_path):
    """The directory of a tied T5, to be changed."""
    return huggingface.write(foreign_models.bundle("t5"), tmp_path / "there")


def changed(directory, fields=None, without=(), tensors=None):
    """Rewrites fields of config.json and tensors."""
    config = json.loads((directory / "config.json").read_text()) | (fields or {})
    for name in without:
        del config[name]
    (directory / "config.json").write_text(json.dumps(config))
    if tensors is not None:
        found = load_file(directory / "model.safetensors")
        tensors(found)
        save_file(found, directory / "model.safetensors")
    return directory


def copied(tensors):
    """What torch's pickles hold besides: the one table under each of its names."""
    for name in ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        tensors[name] = tensors["shared.weight"].copy()
    tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = np.ones((8, 3), np.float32)


def untied(tensors):
    tensors["lm_head.weight"] = tensors["shared.weight"][::-1].copy()


@pytest.mark.parametrize("flag", [True, False])
def test_the_tensors_tell_how_many_tables_there_are_and_the_flag_only_the_scale(directory, flag):
    expected = variables_by_path(huggingface.read(directory).model)
    got = huggingface.read(changed(directory, {"tie_word_embeddings": flag}, tensors=copied)).model
    assert (got.config.tie_embeddings, got.config.scale_outputs) == (True, flag)
    for path, variable in variables_by_path(got).items():
        np.testing.assert_array_equal(variable.numpy(), expected[path].numpy(), err_msg=path)
    got = huggingface.read(changed(directory, tensors=untied)).model
    assert (got.config.tie_embeddings, got.config.scale_outputs) == (False, flag)
    table = load_file(directory / "model.safetensors")["lm_head.weight"]
    np.testing.assert_array_equal(got.embeddings.reverse_embeddings.numpy(), table.T)


def test_what_transformers_5_writes_says_the_scale_apart(directory):
    fields = {"tie_word_embeddings": True, "scale_decoder_outputs": False, "dense_act_fn": "relu", "is_gated_act": False}
    assert huggingface.read(changed(directory, {**fields, "n_positions": 512})).model.config.scale_outputs is False
    assert huggingface.read(
        changed(directory, without=["scale_decoder_outputs", "tie_word_embeddings"])
    ).model.config.scale_outputs
    assert huggingface.read(changed(directory, {"model_type": "mt5"})).model.config.scale_outputs is False


def test_scaled_outputs_are_divided_by_the_root_of_their_width(directory):
    batch = {"source_ids": np.array([[5, 7, 1]]), "token_ids": np.array([[0, 9]])}
    once = huggingface.read(directory).model(batch)
    plain = huggingface.read(changed(directory, {"tie_word_embeddings": False})).model(batch)
    np.testing.assert_allclose(once, plain / np.sqrt(12), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("fields", "message"), [
    ({"feed_forward_proj": "gated-tanh"}, "asks for feed_forward_proj='gated-tanh', which is not supported"),
    ({"dense_act_fn": "silu"}, "feed_forward_proj='relu' and dense_act_fn='silu' are two networks"),
    ({"decoder_start_token_id": 3}, "a decoder that starts with another id than that of padding, 0"),
    ({"is_encoder_decoder": False}, "is_encoder_decoder=False"),
    ({"logit_scale": 2.0}, "the field logit_scale=2.0, which is not known here"),
])  # fmt: skip
def test_what_this_family_cannot_be_is_refused(directory, fields, message):
    with pytest.raises(Refusal, match=message):
        huggingface.read(changed(directory, fields))


def test_an_encoder_alone_is_refused(directory):
    changed(directory, tensors=lambda t: [t.pop(name) for name in list(t) if name.startswith("decoder.")])
    with pytest.raises(Refusal, match="lacks 28 tensors that this model has: decoder.block.0.layer.0"):
        huggingface.read(directory)


def test_fill_and_generate_of_a_converted_model_use_its_own_sentinels(directory):
    bundle = huggingface.read(directory)
    assert bundle.task.registered_name == "span_corruption"
    size = bundle.tokenizer.vocab_size
    assert bundle.tokenizer.sentinel_ids == (size - 1, size - 2, size - 3, size - 4)
    assert bundle.task.sentinel_ids(bundle.tokenizer) == bundle.tokenizer.sentinel_ids
    native = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    text = "the <extra_id_0> sat on <extra_id_3> mat"
    spelling = WithSentinels(bundle.tokenizer, bundle.tokenizer.sentinel_ids, bundle.model.config.vocab_size)
    ids = spelling.tokenize(tf.constant([text])).to_list()[0]
    assert native.encode(text).ids == [*ids, bundle.tokenizer.eos_id]
    assert [i for i in ids if i in bundle.tokenizer.sentinel_ids] == [size - 1, size - 4]
    signatures = bundle.task.signatures(bundle.model, bundle.tokenizer)
    assert len(signatures["fill"](text=tf.constant([text]))["spans"][0]) == 2
    assert signatures["generate"](text=tf.constant(["the cat"]))["text"].shape == (1,)
    with pytest.raises(tf.errors.InvalidArgumentError, match="this model has the sentinels 0 to 3"):
        signatures["fill"](text=tf.constant(["<extra_id_4>"]))


def test_sentinels_behind_a_vocabulary_go_out_with_it_and_come_back(tmp_path):
    bundle = foreign_models.bundle("flan-t5")
    back = huggingface.read(huggingface.write(bundle, tmp_path / "there"))
    assert back.tokenizer.sentinel_ids == bundle.task.sentinel_ids(bundle.tokenizer) == tuple(range(369, 269, -1))
    assert back.tokenizer.vocab_size == 370 and bundle.tokenizer.vocab_size == 270


def test_a_sentencepiece_model_alone_gets_the_sentinels_that_the_files_beside_it_say(tmp_path):
    hundred = create(foreign_models.t5_vocabulary(tmp_path))
    size = hundred.vocab_size
    assert hundred.sentinel_ids == tuple(range(size - 1, size - 101, -1))
    assert (hundred.pad_id, hundred.eos_id, hundred.unk_id) == (0, 1, 2)
    assert hundred.template == ((), ("</s>",), ("</s>",))
    assert not set(hundred.encode("a <extra_id_0> </s>")) & {*hundred.sentinel_ids, 0, 1}
    five = create(foreign_models.t5_vocabulary(tmp_path, num_sentinels=5))
    assert five.vocabulary == (*hundred.vocabulary[: size - 100], *(f"<extra_id_{i}>" for i in (4, 3, 2, 1, 0)))
    assert five.encode("the cat") == hundred.encode("the cat")
    decoder = {str(size - 100 + i): {"content": f"<extra_id_{i}>", "special": True} for i in range(2)}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    assert create(tmp_path).sentinel_ids == (size - 100, size - 99)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {str(size): decoder[str(size - 100)]}}))
    with pytest.raises(Refusal, match="do not have the ids that follow"):
        create(tmp_path)


def test_sentinels_among_a_vocabulary():
    assert sentinels_among({"<extra_id_0>": 4, "<extra_id_2>": 2, "<extra_id_1>": 3, "a": 0}) == (4, 3, 2)
    assert sentinels_among({"\u2581<extra_id_0>": 4, "\u2581<extra_id_1>": 3}) == (4, 3)  # as mT5 has them
    assert sentinels_among({"<extra_id_1>": 3, "a": 0}) == ()
