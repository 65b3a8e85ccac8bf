"""Presets that KerasHub itself writes, converted and compared with KerasHub's own numbers and ids."""

import contextlib
import json
import shutil

import h5py
import keras
import keras_nlp
import numpy as np
import pytest

from tests import foreign_models
from zoo.convert import certificate, huggingface, keras_hub, reference
from zoo.convert.old_tensorflow import datasets
from zoo.convert.weights import variables_by_path

SIZES = dict(num_layers=3, num_heads=3, hidden_dim=12, intermediate_dim=20, max_sequence_length=32)

TASKS = {
    "bert": "masked_lm", "roberta": "masked_lm", "gpt2": "language_modeling", "t5": "span_corruption",
    "t5-gated": "span_corruption",
}  # fmt: skip
T5_SIZES = {
    "t5": dict(activation="relu", use_gated_activation=False, key_value_dim=5),
    "t5-gated": dict(activation=keras.saving.get_registered_object("keras_hub>gelu_approximate"), tie_embedding_weights=False),
}


def strengthened(model, spread=0.3):
    """Weights that no initialiser would choose, so that every bias and gain counts."""
    generator = np.random.default_rng(3)
    for weight in model.weights:
        is_gain = "gamma" in weight.path or weight.path.endswith("layer_norm/weight")
        weight.assign(generator.normal(1.0 if is_gain else 0.05, spread, weight.shape))
    return model


def made(name, directory):
    """Saves a tiny preset as KerasHub does."""
    models = keras_nlp.models
    tokenizer = foreign_models.bundle(name.partition("-")[0]).tokenizer
    sizes = dict(SIZES, vocabulary_size=tokenizer.vocab_size)
    if name.startswith("t5"):
        sizes = {key: size for key, size in sizes.items() if key != "max_sequence_length"} | T5_SIZES[name]
        tokenizer.save(directory)
        proto = (directory / "sentencepiece.model").read_bytes()
        shutil.rmtree(directory)
        preprocessor = models.T5Seq2SeqLMPreprocessor(models.T5Tokenizer(proto=proto), 16, 16)
        model = models.T5Seq2SeqLM(models.T5Backbone(**sizes), preprocessor)
    elif name == "bert":
        theirs = models.BertTokenizer(vocabulary=list(tokenizer.vocabulary), lowercase=True, strip_accents=True)
        backbone = models.BertBackbone(**sizes)
        model = models.BertMaskedLM(backbone, models.BertMaskedLMPreprocessor(theirs, sequence_length=16))
    else:
        tokenizer.save(directory)
        merges = json.loads((directory / "tokenizer.json").read_text())["model"]["merges"]
        spelt = dict(vocabulary={t: i for i, t in enumerate(tokenizer.vocabulary)}, merges=[" ".join(pair) for pair in merges])
        shutil.rmtree(directory)
        if name == "gpt2":
            preprocessor = models.GPT2CausalLMPreprocessor(models.GPT2Tokenizer(**spelt), sequence_length=16)
            model = models.GPT2CausalLM(models.GPT2Backbone(**sizes), preprocessor)
        else:
            preprocessor = models.RobertaMaskedLMPreprocessor(models.RobertaTokenizer(**spelt), sequence_length=16)
            model = models.RobertaMaskedLM(models.RobertaBackbone(**sizes), preprocessor)
    # A tied T5 divides its outputs.
    strengthened(model, 0.6 if name == "t5" else 0.3).save_to_preset(str(directory))
    return directory


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    return {name: made(name, tmp_path_factory.mktemp(name)) for name in TASKS}


@pytest.fixture
def here(monkeypatch):
    """The peer answers in this process: it is a dependency, and to load it again would take long."""
    answered = lambda peer, request: contextlib.nullcontext(reference.answer(json.loads(json.dumps(request))))  # noqa: E731
    monkeypatch.setattr(certificate, "ask", answered)


@pytest.mark.parametrize("name", TASKS)
def test_ids_and_outputs_are_those_of_keras_hub(name, presets, here):
    bundle = keras_hub.read(presets[name])
    assert bundle.task.registered_name == TASKS[name]
    assert bundle.provenance["left_out"] == []
    result = certificate.certify(bundle, presets[name], library="keras_hub")
    assert result["ids"]["identical"] and result["ids"]["peer"] == "keras_hub"
    assert result["outputs"]["largest_output"] > 1
    assert result["outputs"]["largest_difference"] < 1e-4


@pytest.mark.parametrize(("rows", "sentinels"), [(400, range(99, -1, -1)), (120, ())])
def test_sentinels_stand_behind_the_pieces_where_a_t5_has_rows_for_them(rows, sentinels, presets, tmp_path):
    directory = shutil.copytree(presets["t5"], tmp_path / "published")
    pieces = foreign_models.t5_vocabulary(tmp_path) / "spiece.model"
    shutil.copy(pieces, directory / "assets" / "tokenizer" / "vocabulary.spm")
    tokenizer = keras_hub._t5_tokenizer(directory / "assets" / "tokenizer" / "vocabulary.spm", rows)
    size = tokenizer.vocab_size - len(sentinels)
    assert tokenizer.sentinel_ids == tuple(size + number for number in sentinels)
    assert list(tokenizer.vocabulary[:3]) == ["<pad>", "</s>", "<unk>"]


def test_a_network_that_t5_has_not_is_refused(presets, tmp_path):
    directory = shutil.copytree(presets["t5-gated"], tmp_path / "other")
    config = json.loads((directory / "config.json").read_text())
    config["config"]["activation"] = "gelu"
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="has activation='gelu' with a gate; only gelu_approximate, relu, silu is read there"):
        keras_hub.read(directory)


def test_hidden_states_without_the_head(presets, here, tmp_path):
    directory = shutil.copytree(presets["bert"], tmp_path / "bare")
    for name in ("task.json", "task.weights.h5"):
        (directory / name).unlink()
    bundle = keras_hub.read(directory)
    assert bundle.task.registered_name == "embedding"
    assert certificate.certify(bundle, directory, library="keras_hub")["outputs"]["largest_difference"] < 1e-4


def test_roberta_goes_on_to_hugging_face(presets, tmp_path):
    bundle = keras_hub.read(presets["roberta"])
    back = huggingface.read(huggingface.write(bundle, tmp_path / "there"))
    assert back.model.config == bundle.model.config
    ((_, _, there),), ((_, _, here),) = (certificate.outputs(one, [[0, 7, 9, 2]]) for one in (back, bundle))
    np.testing.assert_array_equal(there, here)


def test_a_head_unlike_its_encoder_does_not(presets, tmp_path):
    with pytest.raises(ValueError, match="another activation or epsilon than its encoder"):
        huggingface.write(keras_hub.read(presets["bert"]), tmp_path / "there")


def renamed(path, change):
    """Rewrites an h5 file with other names of its datasets; None leaves one out."""
    with h5py.File(path, "r") as file:
        values = {name: dataset[...] for name, dataset in datasets(file).items()}
    with h5py.File(path, "w") as file:
        for name, value in values.items():
            if change(name) is not None:
                file[change(name)] = value


def test_older_names_are_read(presets, tmp_path):
    directory = shutil.copytree(presets["gpt2"], tmp_path / "old")

    def older(name):
        name = name.replace("layers/", "_layer_checkpoint_dependencies/", 1)
        return name.replace("layer/query", "layer/_query").replace("layer/output", "layer/_output")

    renamed(directory / "model.weights.h5", older)
    mine, theirs = keras_hub.read(presets["gpt2"]), keras_hub.read(directory)
    for path, variable in variables_by_path(mine.model).items():
        np.testing.assert_array_equal(variable.numpy(), variables_by_path(theirs.model)[path].numpy())


def test_missing_and_leftover_variables_are_listed(presets, tmp_path):
    directory = shutil.copytree(presets["gpt2"], tmp_path / "damaged")
    gone = "layers/transformer_decoder_1/_feedforward_layer_norm/vars/1"
    renamed(directory / "model.weights.h5", lambda name: None if name == gone else name)
    with pytest.raises(ValueError, match="lacks 1 tensors that this model has: h.1.ln_2.bias"):
        keras_hub.read(directory)
    renamed(directory / "model.weights.h5", lambda name: name.replace("layers/layer_normalization/", "layers/adapter/"))
    with pytest.raises(ValueError, match="lacks 3 tensors"):
        keras_hub.read(directory)
    more = shutil.copytree(presets["gpt2"], tmp_path / "more")
    with h5py.File(more / "model.weights.h5", "a") as file:
        file["layers/adapter/vars/0"] = np.ones((2, 2))
    with pytest.raises(ValueError, match="1 tensors that this model has no place for: model.weights.h5/adapter"):
        keras_hub.read(more)


def test_the_head_of_another_task_is_left_out_and_told(presets, tmp_path):
    directory = shutil.copytree(presets["bert"], tmp_path / "classifier")
    (directory / "task.weights.h5").unlink()
    with h5py.File(directory / "task.weights.h5", "w") as file:
        file["layers/dense/vars/0"] = np.ones((12, 2))
    bundle = keras_hub.read(directory)
    assert bundle.task.registered_name == "embedding" and bundle.provenance["left_out"] == ["dense"]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "config.json",
            "GPT2Backbone",
            "BloomBackbone",
            "has a BloomBackbone; only BertBackbone, RobertaBackbone, GPT2Backbone, T5Backbone",
        ),
        (
            "tokenizer.json",
            "GPT2Tokenizer",
            "BertTokenizer",
            "has a BertTokenizer; a GPT2Backbone is read with a GPT2Tokenizer only",
        ),
        ("config.json", '"vocabulary_size": 270', '"vocabulary_size": 260', "has 270 ids, the model only 260"),
        ("config.json", '"max_sequence_length": 32', '"max_sequence_length": 31', r"make shape \(32, 12\), .* has \(31, 12\)"),
    ],
)
def test_what_cannot_be_read_is_refused(file, old, new, message, presets, tmp_path):
    directory = shutil.copytree(presets["gpt2"], tmp_path / "other")
    text = (directory / file).read_text()
    assert old in text
    (directory / file).write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        keras_hub.read(directory)


def test_weights_in_several_files_are_refused(presets, tmp_path):
    directory = shutil.copytree(presets["gpt2"], tmp_path / "sharded")
    (directory / "model.weights.h5").rename(directory / "model.weights.json")
    with pytest.raises(ValueError, match="holds its weights in several files"):
        keras_hub.read(directory)


def test_a_published_preset_comes_by_its_name(presets, monkeypatch):
    import kagglehub

    asked = []
    monkeypatch.setattr(kagglehub, "model_download", lambda handle: asked.append(handle) or str(presets["bert"]))
    assert keras_hub.fetch("bert_tiny_en_uncased") == presets["bert"]
    assert asked[0].startswith("keras/bert/keras/bert_tiny_en_uncased")
    with pytest.raises(ValueError, match="no preset 'bert_tiny' that is read here; did you mean 'bert_tiny_en_uncased'"):
        keras_hub.fetch("bert_tiny")


def test_without_a_network_there_is_a_sentence(monkeypatch):
    import kagglehub

    def unreachable(handle):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(kagglehub, "model_download", unreachable)
    with pytest.raises(
        ValueError, match=r"could not be had from Kaggle \(Name or service not known\). Without a network, copy"
    ):
        keras_hub.fetch("bert_tiny_en_uncased")
