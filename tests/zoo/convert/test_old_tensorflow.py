"""TensorFlow's old files, written here in the layouts that transformers 4 and Google's BERT wrote, beside the same weights as
safetensors."""

import json
import re
import shutil

import h5py
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file

from tests import foreign_models
from zoo.convert import certificate, huggingface, old_tensorflow
from zoo.convert.weights import variables_by_path

MODELS = {
    "bert": "tf_bert_model", "bert-masked_lm": "tf_bert_for_masked_lm", "roberta": "tf_roberta_for_masked_lm",
    "xlm-roberta": "tfxlm_roberta_for_masked_lm",
}  # fmt: skip


def keras_2_names(tensors, name):
    """Hugging Face's tensors -> {path in tf_model.h5: array}, as transformers 4.49 writes them."""
    model = MODELS.get(name, "tfgpt2lm_head_model")
    stored = {}
    for own, array in tensors.items():
        if own.startswith(("encoder.", "embeddings.", "pooler.")):
            own = f"bert.{own}"
        *parts, last = own.split(".")
        if parts[-1] in ("LayerNorm", "layer_norm", "ln_1", "ln_2", "ln_f"):
            last = {"weight": "gamma", "bias": "beta"}[last]
        elif parts[-1] in ("position_embeddings", "token_type_embeddings", "wte", "wpe"):
            last = "embeddings"
        elif name == "gpt2" and last == "bias":
            array = array[None]
        elif name != "gpt2" and last == "weight" and parts[-1] != "word_embeddings":
            last, array = "kernel", array.T
        parts = ["mlm___cls" if part == "cls" else part for part in parts]
        path = "/".join([parts[0], model, *parts, f"{last}:0"])
        stored[re.sub(r"/(layer|h)/(\d+)/", r"/\1_._\2/", path)] = array
    for path in [path for path in stored if "/embeddings/" in path]:
        head = {"bert-masked_lm": "mlm___cls", "roberta": "lm_head", "xlm-roberta": "lm_head"}.get(name)
        if head:  # what the head shares with the encoder stands there again
            stored[f"{head}/{path.split('/', 1)[1]}"] = stored[path]
    return stored


@pytest.fixture(scope="module", params=["bert", "bert-masked_lm", "roberta", "xlm-roberta", "gpt2"])
def directories(request, tmp_path_factory):
    """(a directory with safetensors, the same with a tf_model.h5 in their place)."""
    new = huggingface.write(foreign_models.bundle(request.param), tmp_path_factory.mktemp(request.param) / "new")
    old = shutil.copytree(new, new.parent / "old")
    (old / "model.safetensors").unlink()
    with h5py.File(old / "tf_model.h5", "w") as file:
        for path, array in keras_2_names(load_file(new / "model.safetensors"), request.param).items():
            file[path] = array
    return new, old


def assert_equal(one, other):
    mine, theirs = variables_by_path(one.model), variables_by_path(other.model)
    assert mine.keys() == theirs.keys()
    for path, variable in mine.items():
        np.testing.assert_array_equal(variable.numpy(), theirs[path].numpy(), err_msg=path)


def test_tf_model_h5_is_the_same_model(directories):
    new, old = directories
    expected, got = huggingface.read(new), huggingface.read(old)
    assert got.task.registered_name == expected.task.registered_name
    assert got.model.config == expected.model.config
    assert got.provenance["converted_from"] == "tf_model.h5"
    assert_equal(got, expected)


def test_a_model_that_was_built_and_never_called_has_no_name_in_its_file(tmp_path):
    directory = huggingface.write(foreign_models.bundle("xlm-roberta"), tmp_path / "new")
    expected = huggingface.read(directory)
    with h5py.File(directory / "tf_model.h5", "w") as file:
        for path, array in keras_2_names(load_file(directory / "model.safetensors"), "xlm-roberta").items():
            file[path.replace(f"/{MODELS['xlm-roberta']}/", "/")] = array
    (directory / "model.safetensors").unlink()
    assert_equal(huggingface.read(directory), expected)


def test_a_head_that_no_task_has_is_named(directories, tmp_path):
    directory = shutil.copytree(directories[1], tmp_path / "more")
    with h5py.File(directory / "tf_model.h5", "a") as file:
        file["classifier/tf_bert_for_sequence_classification/classifier/kernel:0"] = np.ones((12, 2))
    with pytest.raises(ValueError, match="1 tensors that this model has no place for: classifier.weight"):
        huggingface.read(directory)


def test_a_damaged_h5_is_refused(tmp_path):
    directory = huggingface.write(foreign_models.bundle("gpt2"), tmp_path / "there")
    (directory / "model.safetensors").rename(directory / "tf_model.h5")
    with pytest.raises(ValueError, match="tf_model.h5 is damaged"):
        huggingface.read(directory)


def google_names(tensors):
    """Hugging Face's tensors of a masked language model -> Google's variables, with what pre-training leaves beside them."""
    two = np.ones((2, 12), np.float32)
    stored = {"cls/seq_relationship/output_weights": two, "cls/seq_relationship/output_bias": two[:, 0]}
    for own, array in tensors.items():
        *parts, last = re.sub(r"layer\.(\d+)\.", r"layer_\1.", own).split(".")
        if parts[-1] == "LayerNorm":
            parts.append({"weight": "gamma", "bias": "beta"}[last])
        elif last == "weight" and not parts[-1].endswith("_embeddings"):
            parts, array = [*parts, "kernel"], array.T
        elif last == "bias":
            parts.append("output_bias" if parts[-1] == "predictions" else "bias")
        stored["/".join(parts)] = array
    moments = {f"{name}/adam_{which}": array for name, array in stored.items() for which in "mv"}
    return {**stored, **moments, "global_step": np.array(7)}


def write_checkpoint(prefix, arrays):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = [tf.compat.v1.Variable(array, name=name, use_resource=False) for name, array in arrays.items()]
        session.run([variable.initializer for variable in variables])
        tf.compat.v1.train.Saver(variables).save(session, str(prefix), write_meta_graph=False)


@pytest.fixture(scope="module")
def google(tmp_path_factory):
    """(the bundle, its weights as Google's directory, the same as Hugging Face's)."""
    bundle = foreign_models.bundle("bert-masked_lm")
    new = huggingface.write(bundle, tmp_path_factory.mktemp("google") / "new")
    directory = new.parent / "uncased_L-2_H-12_A-2"
    directory.mkdir()
    write_checkpoint(directory / "bert_model.ckpt", google_names(load_file(new / "model.safetensors")))
    config = json.loads((new / "config.json").read_text())
    kept = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size", "type_vocab_size")
    kept += ("max_position_embeddings", "hidden_act", "hidden_dropout_prob")
    (directory / "bert_config.json").write_text(json.dumps({name: config[name] for name in kept}))
    (directory / "vocab.txt").write_text("\n".join(bundle.tokenizer.vocabulary) + "\n", encoding="utf8")
    return bundle, directory, new


def test_googles_checkpoint_is_the_same_model(google):
    bundle, directory, new = google
    got = old_tensorflow.read(directory)
    assert_equal(got, huggingface.read(new))
    assert got.model.config == bundle.model.config.replace(mlp_dim=48)
    assert got.provenance["left_out"] == ["cls.seq_relationship.bias", "cls.seq_relationship.weight"]
    assert got.provenance["lower_cased"] is True
    assert got.tokenizer.encode("The naïve CAT, 1984") == bundle.tokenizer.encode("The naïve CAT, 1984")
    result = certificate.certify(got, directory)  # a peer of today reads these files no more, and says so
    assert result["outputs"]["compared"] is False


def test_a_vocabulary_with_capitals_keeps_case(google, tmp_path):
    directory = shutil.copytree(google[1], tmp_path / "cased")
    tokens = (directory / "vocab.txt").read_text(encoding="utf8").splitlines()
    tokens[-1] = "The"
    (directory / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf8")
    got = old_tensorflow.read(directory)
    assert got.provenance["lower_cased"] is False
    assert got.tokenizer.encode("The") == [len(tokens) - 1]


@pytest.mark.parametrize(("damage", "message"), [
    (lambda d: (d / "bert_model.ckpt.index").unlink(), "must hold one checkpoint, .*; it has none"),
    (lambda d: (d / "bert_model.ckpt.data-00000-of-00001").unlink(), "bert_model.ckpt is damaged or incomplete"),
    (lambda d: (d / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\na\na\n"), "has the token 'a' twice, on line 4 and on line 5"),
    (lambda d: (d / "vocab.txt").unlink(), "There is no file .*vocab.txt"),
    (lambda d: (d / "bert_config.json").write_text("{}"), "The config in .* has no 'hidden_act'"),
])  # fmt: skip
def test_what_is_damaged_is_refused(damage, message, google, tmp_path):
    directory = shutil.copytree(google[1], tmp_path / "damaged")
    damage(directory)
    with pytest.raises(ValueError, match=message):
        old_tensorflow.read(directory)


@pytest.mark.parametrize(("name", "expected"), [
    ("bert/encoder/layer_11/attention/self/query/kernel", "bert.encoder.layer.11.attention.self.query.weight"),
    ("bert/encoder/layer_._11/output/LayerNorm/gamma", "bert.encoder.layer.11.output.LayerNorm.weight"),
    ("bert/embeddings/word_embeddings", "bert.embeddings.word_embeddings.weight"),
    ("bert/embeddings/word_embeddings/weight", "bert.embeddings.word_embeddings.weight"),
    ("cls/predictions/output_bias", "cls.predictions.bias"),
    ("nsp___cls/seq_relationship/kernel", "cls.seq_relationship.weight"),
    ("transformer/h_._0/ln_1/beta", "transformer.h.0.ln_1.bias"),
    ("lm_head/layer_norm/beta", "lm_head.layer_norm.bias"),
])  # fmt: skip
def test_names(name, expected):
    assert old_tensorflow.table_name(name) == expected
