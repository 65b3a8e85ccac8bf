"""Every part of a Hugging Face directory is applied, irrelevant for a reason, or refused."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import save_file

from tests import foreign_models
from zoo import bundle as bundles
from zoo.convert import certificate, huggingface
from zoo.convert.checklist import CONFIG, INERT, TOKEN_IDS
from zoo.convert.tables import FAMILIES


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Case -> the directory of a model, not to be changed."""
    base = tmp_path_factory.mktemp("written")
    cases = ("bert", "bert-masked_lm", "gpt2", "llama")
    return {name: huggingface.write(foreign_models.bundle(name), base / name) for name in cases}


@pytest.fixture
def directory(written, tmp_path):
    """The directory of a BERT as transformers has it, to be changed."""
    return plain(shutil.copytree(written["bert"], tmp_path / "there"))


def plain(directory):
    """Takes out what belongs to sentence-transformers."""
    for path in [*directory.glob("?_*"), directory / "modules.json", directory / "sentence_bert_config.json"]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return directory


def edit(path, **fields):
    """Sets fields of a JSON file; None takes a field out."""
    value = json.loads(path.read_text(encoding="utf8")) if path.is_file() else {}
    path.write_text(json.dumps({k: v for k, v in {**value, **fields}.items() if v is not None}), encoding="utf8")


def sentence_transformer(directory, *kinds, pooling=None, **settings):
    """Makes a directory one of sentence-transformers', with these modules."""
    plain(directory)
    modules = []
    for number, kind in enumerate(kinds):
        place = "" if number == 0 else f"{number}_{kind}"
        modules.append({"idx": number, "name": str(number), "path": place, "type": f"sentence_transformers.models.{kind}"})
        (directory / place).mkdir(exist_ok=True)
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling or {"pooling_mode_cls_token": True}))
    if settings:
        (directory / "sentence_bert_config.json").write_text(json.dumps(settings))
    return directory


def test_the_list_names_what_was_read_and_what_was_not(directory):
    (directory / "README.md").write_text("# A model")
    (directory / "pytorch_model.bin").write_bytes(b"")
    (directory / "onnx").mkdir()
    edit(directory / "config.json", id2label={"0": "A"}, transformers_version="4.1")
    report = huggingface.read(directory).provenance["checklist"]
    assert "vocab_size" in report["applied"]["config.json"].split(", ")
    assert report["applied"]["model.safetensors"] == report["applied"]["tokenizer.json"] == "whole"
    assert set(report["irrelevant"]["another form of the weights"].split(", ")) == {"onnx", "pytorch_model.bin"}
    assert "config.json: id2label" in report["irrelevant"]["of heads that no task here has"]


@pytest.mark.parametrize(("change", "message"), [
    (lambda d: (d / "adapter_model.safetensors").write_bytes(b""), "has the file adapter_model.safetensors, which"),
    (lambda d: (d / "2_Dense").mkdir(), "has the folder 2_Dense, which is not known"),
    (lambda d: edit(d / "config.json", embedding_size=7), "has the field embedding_size=7, which is not known"),
    (lambda d: edit(d / "config.json", quantization_config={"bits": 4}), "has quantization_config={'bits': 4}"),
    (lambda d: edit(d / "config.json", auto_map={"AutoModel": "x.Y"}), "has auto_map="),
    (lambda d: edit(d / "tokenizer_config.json", replace_accents=True), "has the field replace_accents=True"),
    (lambda d: edit(d / "tokenizer_config.json", never_split=["x"]), r"has never_split=\['x'\]"),
    (lambda d: edit(d / "tokenizer_config.json", do_lower_case=False, tokenizer_class="X"), "lowercase=True, .*=False"),
    (lambda d: edit(d / "added_tokens.json", **{"covid-19": 61}), "lacks the token 'covid-19', which a file beside"),
    (lambda d: edit(d / "sentence_bert_config.json", max_seq_length=9), "has sentence_bert_config.json and no modules.json"),
])  # fmt: skip
def test_what_is_not_known_is_refused(change, message, directory):
    change(directory)
    with pytest.raises(ValueError, match=message):
        huggingface.read(directory)


def dense_module(directory, activation="Tanh", dim=5):
    """Puts a Dense with random weights behind the pooling; its kernel (D, E) and bias."""
    sentence_transformer(directory, "Transformer", "Pooling", "Dense", "Normalize")
    width, chance = json.loads((directory / "config.json").read_text())["hidden_size"], np.random.default_rng(0)
    kernel, bias = chance.normal(size=(width, dim)).astype(np.float32), chance.normal(size=dim).astype(np.float32)
    folder = directory / "2_Dense"
    package = "linear" if activation == "Identity" else "activation"
    settings = {"in_features": width, "out_features": dim, "bias": True}
    edit(folder / "config.json", **settings, activation_function=f"torch.nn.modules.{package}.{activation}")
    save_file({"linear.weight": np.ascontiguousarray(kernel.T), "linear.bias": bias}, folder / "model.safetensors")
    return kernel, bias


def embedded(directory):
    bundle = huggingface.read(directory)
    answer = bundle.task.signatures(bundle.model, bundle.tokenizer)["embed"](text=tf.constant(["a b", "a b c"]))
    return bundle, answer["embedding"].numpy()


@pytest.mark.parametrize(("activation", "function"), [("Tanh", np.tanh), ("Identity", lambda x: x)])
def test_a_dense_module_is_applied_and_goes_out_again(activation, function, directory, tmp_path):
    sentence_transformer(directory, "Transformer", "Pooling")
    _, pooled = embedded(directory)
    kernel, bias = dense_module(directory, activation)
    expected = function(pooled @ kernel + bias)
    bundle, vectors = embedded(directory)
    np.testing.assert_allclose(vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-5, atol=1e-6)
    bundle.save(tmp_path / "bundle")
    again = huggingface.write(bundles.load(tmp_path / "bundle"), tmp_path / "again")
    np.testing.assert_array_equal(embedded(again)[1], vectors)
    assert json.loads((again / "modules.json").read_text())[2]["type"].endswith("Dense")
    for name in ("config.json", "model.safetensors"):
        assert (again / "2_Dense" / name).is_file()


@pytest.mark.parametrize(("change", "message"), [
    (lambda d: edit(d / "config.json", activation_function="torch.nn.modules.activation.PReLU"), "has the activation PReLU"),
    (lambda d: edit(d / "config.json", residual=True), "has the field residual=True"),
    (lambda d: (d / "model.safetensors").unlink(), "holds no weights"),
    (lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"), "is a pickle"),
    (lambda d: (d / "more.json").write_text("{}"), "holds more.json, which a Dense does not have"),
    (lambda d: save_file({"linear.weight": np.zeros((5, 3), "f4"), "linear.bias": np.zeros(5, "f4")}, d / "model.safetensors"),
     r"linear.weight has shape \(5, 3\), which this encoder's vectors do not fit"),
    (lambda d: save_file({"linear.weight": np.zeros((5, 3), "f4")}, d / "model.safetensors"), "it should hold linear.bias"),
])  # fmt: skip
def test_a_dense_module_that_is_not_whole_is_refused(change, message, directory):
    dense_module(directory)
    change(directory / "2_Dense")
    with pytest.raises(ValueError, match=message):
        huggingface.read(directory)


@pytest.mark.parametrize("kind", ["LayerNorm", "WeightedLayerPooling", "CNN"])
def test_modules_that_no_task_has_are_refused(kind, directory):
    sentence_transformer(directory, "Transformer", "Pooling", kind, "Normalize")
    with pytest.raises(ValueError, match=f"has the module {kind}, which is not supported"):
        huggingface.read(directory)


def test_modules_out_of_order_are_refused(directory):
    sentence_transformer(directory, "Transformer", "Pooling", "Normalize")
    modules = json.loads((directory / "modules.json").read_text())
    (directory / "modules.json").write_text(json.dumps([modules[i] for i in (0, 2, 1)]))
    with pytest.raises(ValueError, match="in this order"):
        huggingface.read(directory)


def test_modules_and_settings_are_applied(directory):
    sentence_transformer(directory, "Transformer", "Pooling", max_seq_length=9, do_lower_case=True)
    edit(
        directory / "config_sentence_transformers.json",
        prompts={"query": "the ", "document": "a "}, default_prompt_name="query", similarity_fn_name="cosine",
    )  # fmt: skip
    bundle = huggingface.read(directory)
    c = bundle.task.config
    assert (c.pooling, c.normalize, c.max_tokens, c.prompt) == ("first", False, 9, "the ")
    assert "'a '" in bundle.provenance["checklist"]["irrelevant"]["put before a text by who asks for it"]
    embed = bundle.task.signatures(bundle.model, bundle.tokenizer)["embed"]
    ids = [bundle.tokenizer.cls_id, *bundle.tokenizer.encode("the cat"), bundle.tokenizer.sep_id]
    expected = next(certificate.outputs(bundle, [ids]))[2][0]
    np.testing.assert_allclose(embed(text=tf.constant(["cat"]))["embedding"][0], expected, atol=1e-5)


@pytest.mark.parametrize("fields", [
    dict(pooling="first", normalize=False, max_tokens=9, prompt="the "), dict(pooling="mean", normalize=True),
])  # fmt: skip
def test_how_a_vector_is_made_goes_out_and_comes_in_again(fields, tmp_path):
    bundle = foreign_models.bundle("bert")
    bundle.task = type(bundle.task)(bundle.task.config.replace(**fields))
    out = huggingface.write(bundle, tmp_path / "out")
    assert huggingface.read(out).task.config == bundle.task.config
    kinds = [module["type"].rpartition(".")[2] for module in json.loads((out / "modules.json").read_text())]
    assert kinds == ["Transformer", "Pooling", "Normalize"][: 3 if bundle.task.config.normalize else 2]


def test_a_text_longer_than_the_models_positions_is_cut_there(directory):
    sentence_transformer(directory, "Transformer", "Pooling", max_seq_length=512)
    bundle = huggingface.read(directory)
    assert bundle.task.config.max_tokens is None and bundle.model.max_length == 16
    long = tf.constant(["the cat " * 40])
    assert bundle.task.signatures(bundle.model, bundle.tokenizer)["embed"](text=long)["embedding"].shape == (1, 12)


def test_more_tokens_than_positions_are_refused_where_a_user_asks_for_them():
    bundle = foreign_models.bundle("bert")
    task = type(bundle.task)(bundle.task.config.replace(max_tokens=17))
    with pytest.raises(ValueError, match="max_tokens is 17, and the model has 16 positions"):
        task.signatures(bundle.model, bundle.tokenizer)


def test_lower_case_that_the_tokenizer_does_not_do_is_refused(directory):
    sentence_transformer(directory, "Transformer", "Pooling", do_lower_case=True)
    edit(directory / "tokenizer_config.json", do_lower_case=False)
    with pytest.raises(ValueError, match="sentence_bert_config.json has do_lower_case=True"):
        huggingface.read(directory)


def test_an_encoder_that_reads_other_tokens_around_a_text_is_refused(directory):
    config = json.loads((directory / "tokenizer.json").read_text())
    config["post_processor"]["single"].pop(0)
    config["post_processor"]["pair"].pop(0)
    (directory / "tokenizer.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"puts \(\) before a text and .* after it; an encoder reads"):
        huggingface.read(directory)


def test_a_head_beside_the_modules_is_refused(written, tmp_path):
    directory = shutil.copytree(written["bert-masked_lm"], tmp_path / "there")
    sentence_transformer(directory, "Transformer", "Pooling")
    with pytest.raises(ValueError, match="and has the head of a masked_lm besides"):
        huggingface.read(directory)


def test_absent_fields_take_the_defaults_of_transformers(written, tmp_path):
    directory = shutil.copytree(written["llama"], tmp_path / "there")
    edit(directory / "config.json", max_position_embeddings=None, rms_norm_eps=None, rope_theta=None)
    config = huggingface.read(directory).model.config
    assert (config.max_length, config.epsilon, config.rotary_theta) == (2_048, 1e-6, 10_000.0)
    directory = shutil.copytree(written["bert"], tmp_path / "bert")
    edit(directory / "config.json", hidden_act=None, layer_norm_eps=None, hidden_dropout_prob=None)
    config = huggingface.read(directory).model.config
    assert (config.activation, config.epsilon, config.dropout) == ("gelu_exact", 1e-12, 0.1)
    directory = shutil.copytree(written["gpt2"], tmp_path / "gpt2")
    edit(directory / "config.json", layer_norm_epsilon=None, activation_function=None)
    assert huggingface.read(directory).model.config.epsilon == 1e-5


def test_a_window_that_no_text_fills_changes_nothing(written, tmp_path):
    directory = shutil.copytree(written["llama"], tmp_path / "there")
    edit(directory / "config.json", model_type="mistral", sliding_window=4_096)
    config = huggingface.read(directory).model.config
    assert config.max_length < 4_096 and config.window is None
    edit(directory / "config.json", sliding_window=7)
    assert huggingface.read(directory).model.config.window == 7
    edit(directory / "config.json", model_type="llama")
    with pytest.raises(ValueError, match="Attention sees 7 tokens back of 16"):
        huggingface.read(directory)


def test_the_whole_file_is_read_where_an_index_lies_beside_it(directory):
    expected = huggingface.read(directory).model.get_weights()
    stale = {"embeddings.word_embeddings.weight": np.zeros((2, 2), np.float32)}
    save_file(stale, directory / "model-00001-of-00001.safetensors")
    index = {name: "model-00001-of-00001.safetensors" for name in stale}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    for one, other in zip(expected, huggingface.read(directory).model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_fields_are_in_one_list_only():
    ignored = {name for names in CONFIG.values() for name in names.split()}
    for family in FAMILIES.values():
        assert not ignored & (family.known_fields() | set(TOKEN_IDS) | INERT.keys())
        assert set(family.defaults) <= family.known_fields() | set(TOKEN_IDS)


@pytest.mark.skipif(not certificate._has("transformers"), reason="needs torch and transformers")
@pytest.mark.parametrize("model_type", [name for name in FAMILIES if not name.startswith("chatglm")])  # which it does not have
def test_defaults_are_those_of_transformers_and_its_fields_are_known(model_type):
    import transformers

    family = FAMILIES[model_type]
    # Without windows transformers leaves out how wide they would be.
    options = {"use_sliding_window": True} if "use_sliding_window" in family.known_fields() else {}
    theirs = transformers.AutoConfig.for_model(model_type, **options).to_dict()
    theirs |= dict.fromkeys(options, False)
    for name, value in family.defaults.items():
        assert theirs[name] == value, name
    ignored = {name for names in CONFIG.values() for name in names.split()}
    known = ignored | family.known_fields() | set(TOKEN_IDS) | INERT.keys() | set(family.irrelevant.split())
    assert {k for k, v in theirs.items() if v is not None} <= known
