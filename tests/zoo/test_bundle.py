"""Bundles: written in one step, read with a sentence for everything that can be wrong."""

import json

import h5py
import numpy as np
import pytest

import zoo
from tests import tiny_models
from zoo import bundle as bundles
from zoo.tokenizers.base import create as create_tokenizer


def tiny(**fields):
    return zoo.create("gpt", "tiny", vocab_size=257, **fields)


@pytest.fixture(scope="module")
def tokenizer():
    return create_tokenizer("byte")


@pytest.fixture
def saved(tmp_path, tokenizer):
    return bundles.Bundle(tiny(), tokenizer, "language_modeling", {}).save(tmp_path / "bundle")


def changed(directory, **fields):
    path = directory / "config.json"
    config = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def refused(directory):
    with pytest.raises(ValueError) as error:
        bundles.load(directory)
    return str(error.value)


def test_the_config_says_what_is_inside(saved):
    config = json.loads((saved / "config.json").read_text())
    assert config["format_version"] == 2 and config["zoo_version"] == zoo.__version__
    assert config["model"] == "gpt" and config["model_config"]["vocab_size"] == 257


def test_saving_again_replaces_the_old_one_and_sweeps_what_a_killed_process_left(saved, tokenizer):
    for leaving in (".bundle-aaaaaaaa.partial", ".bundle-aaaaaaaa.before"):
        (saved.parent / leaving).mkdir()
    other = tiny(num_layers=1)
    bundles.Bundle(other, tokenizer, "language_modeling", {}).save(saved)
    assert bundles.load(saved).model.config.num_layers == 1
    assert [path.name for path in saved.parent.iterdir()] == ["bundle"]


def test_a_failed_save_leaves_the_old_one_and_nothing_else(saved, tokenizer, monkeypatch):
    before = np.asarray(bundles.load(saved).model.trainable_variables[0])
    broken = tiny()
    monkeypatch.setattr(broken, "save_weights", lambda path: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        bundles.Bundle(broken, tokenizer, "language_modeling", {}).save(saved)
    assert [path.name for path in saved.parent.iterdir()] == ["bundle"]
    np.testing.assert_array_equal(np.asarray(bundles.load(saved).model.trainable_variables[0]), before)


def stored(path):
    """Place -> (attributes, dtype and values) of everything in an HDF5 file."""
    found = {}

    def note(name, item):
        values = (item.dtype, item[()].tolist()) if isinstance(item, h5py.Dataset) else None
        found[name] = dict(item.attrs), values

    with h5py.File(path) as file:
        file.visititems(note)
    return found


@pytest.mark.parametrize("model", ["gpt", "lstm", "ngram"])
def test_weights_are_written_a_few_rows_at_a_time_and_the_file_is_keras_own(model, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(bundles, "PIECE_BYTES", 200)
    model = tiny_models.create(model, vocab_size=257, **tiny_models.DROPOUT.get(model, {}))
    saved = bundles.Bundle(model, tokenizer, "language_modeling", {}).save(tmp_path / "bundle")
    model.save_weights(tmp_path / "keras.weights.h5")
    assert stored(saved / "model.weights.h5") == stored(tmp_path / "keras.weights.h5")


def test_a_model_that_reads_its_weights_draws_none():
    with bundles.unfilled():
        empty = tiny(dropout=0.1)
    drawn = tiny(dropout=0.1)
    assert [(v.path, v.shape) for v in empty.weights] == [(v.path, v.shape) for v in drawn.weights]
    assert not any(np.asarray(v).any() for v in empty.trainable_variables)
    seeds = [v for v in empty.variables if "seed" in v.path]
    assert seeds and all(np.asarray(v).any() for v in seeds)  # what is not a weight is as ever


def test_no_bundle_at_all(tmp_path):
    assert refused(tmp_path) == f"{tmp_path} is not a bundle: it holds no config.json."


@pytest.mark.parametrize("text", ["{", "[]", "3", "\xff", '{"format_version": 1}'])
def test_a_damaged_config(saved, text):
    (saved / "config.json").write_bytes(text.encode("latin1"))
    assert "config.json is damaged" in refused(saved)


def test_fields_of_the_config(saved):
    changed(saved, format_version=3)
    assert "format version 3, this zoo reads up to 2; update it" in refused(saved)
    changed(saved, format_version=2, model="gtp")
    assert refused(saved) == "No model is called 'gtp'; did you mean 'gpt'?"
    changed(saved, model="gpt", task="language_modelling")
    assert refused(saved) == "No task is called 'language_modelling'; did you mean 'language_modeling'?"
    changed(saved, task="language_modeling", model_config={"depth": 3})
    assert "GPTConfig has no field 'depth'" in refused(saved)
    changed(saved, model_config=...)
    assert "config.json is damaged" in refused(saved)


def test_damaged_weights(saved):
    path = saved / "model.weights.h5"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert "model.weights.h5 is damaged or of another model" in refused(saved)
    path.write_bytes(b"")
    assert "model.weights.h5 is damaged or of another model" in refused(saved)
    path.unlink()
    assert "model.weights.h5 is missing" in refused(saved)


def test_weights_that_may_not_be_read(saved, monkeypatch):
    def denied(self, path):
        raise PermissionError(13, "Unable to synchronously open file (unable to open file: errno = 13)")

    monkeypatch.setattr("keras.Model.load_weights", denied)
    with pytest.raises(PermissionError, match="Permission denied: '.*model.weights.h5'"):
        bundles.load(saved)


def test_weights_of_another_shape(saved):
    config = json.loads((saved / "config.json").read_text())["model_config"]
    changed(saved, model_config={**config, "hidden_dim": 16})
    sentence = refused(saved)
    assert "model.weights.h5 is damaged or of another model (" in sentence and "Example" not in sentence
    assert sentence.endswith("; copy the bundle again from where it was made.")


def test_a_damaged_tokenizer(saved):
    (saved / "tokenizer" / "zoo_tokenizer.json").write_text("{}")
    assert "tokenizer" in refused(saved) and "damaged" in refused(saved)


def test_find(saved, tmp_path):
    assert bundles.find(saved) == saved
    assert bundles.find(tmp_path) == saved
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds a run that has not ended; start its command again"):
        bundles.find(tmp_path / "run")
    with pytest.raises(ValueError, match="nowhere holds no bundle; give the directory of a run"):
        bundles.find(tmp_path / "nowhere")
