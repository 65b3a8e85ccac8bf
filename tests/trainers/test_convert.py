"""python -m trainers.convert, as a user calls it who has third-party weights."""

import json

import numpy as np
import pytest

from tests import foreign_models, programs
from zoo.convert import huggingface

TEXTS = ["the cat sat on the mat .", "a dog , 1984"]


@pytest.fixture
def directory(tmp_path):
    """A Hugging Face directory of an encoder."""
    return huggingface.write(foreign_models.bundle("bert"), tmp_path / "theirs")


def test_a_hugging_face_directory_becomes_a_saved_model_in_two_commands(directory, tmp_path, capfd):
    from zoo.serving.c_api import SavedModel

    answer = programs.call(capfd, "convert", f"--from={directory}", f"--to={tmp_path / 'ours'}")
    assert answer.status == 0, answer.err
    assert '"identical": true' in answer.out and f"python -m trainers.export --model_dir={tmp_path / 'ours'}" in answer.out
    answer = programs.call(capfd, "export", f"--model_dir={tmp_path / 'ours'}", f"--export_dir={tmp_path / 'export'}")
    assert answer.status == 0, answer.err
    served = SavedModel(tmp_path / "export" / "1").run("embed", {"text": TEXTS})["embedding"]
    bundle = foreign_models.bundle("bert")
    expected = bundle.task.signatures(bundle.model, bundle.tokenizer)["embed"](text=np.array(TEXTS))["embedding"]
    np.testing.assert_allclose(served, expected, atol=1e-5)


def test_the_certificate_lists_what_became_of_each_file(directory, tmp_path, capfd):
    (directory / "README.md").write_text("# A model")
    answer = programs.call(capfd, "convert", f"--from={directory}", f"--to={tmp_path / 'ours'}")
    assert answer.status == 0, answer.err
    certificate = json.loads((tmp_path / "ours" / "config.json").read_text())["provenance"]["certificate"]
    assert certificate["checklist"]["irrelevant"]["text about the model"] == "README.md"
    assert "Pooling" in certificate["checklist"]["applied"]["modules.json"]
    assert "README.md" in answer.out


def test_out_again_with_a_certificate(directory, tmp_path, capfd):
    programs.call(capfd, "convert", f"--from={directory}", f"--to={tmp_path / 'ours'}")
    answer = programs.call(capfd, "convert", f"--from={tmp_path / 'ours'}", f"--to={tmp_path / 'back'}")
    assert answer.status == 0, answer.err
    assert json.loads((tmp_path / "back" / "certificate.json").read_text())["ids"]["identical"] is True
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (directory / "model.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "ours", "theirs"]  # nothing is left aside


@pytest.mark.parametrize(("source", "target", "sentence"), [
    ("nowhere", "ours", "there is no such file or directory"),
    ("theirs", "theirs", "is there already and not empty"),
    ("empty", "ours", "it holds no config.json"),
    ("pickle", "ours", "is a pickle, which can run code"),
    ("layer_norm", "ours", "has the module LayerNorm, which is not supported"),
    ("keras_hub:bert_tinny_en_uncased", "ours", "did you mean 'bert_tiny_en_uncased'"),
])  # fmt: skip
def test_a_mistake_is_one_sentence_and_leaves_nothing(source, target, sentence, directory, tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    more = huggingface.write(foreign_models.bundle("bert"), tmp_path / "layer_norm")
    modules = json.loads((more / "modules.json").read_text())
    further = {"path": "3_LayerNorm", "type": "sentence_transformers.models.LayerNorm"}
    (more / "modules.json").write_text(json.dumps([*modules, further]))
    pickle = huggingface.write(foreign_models.bundle("bert"), tmp_path / "pickle")
    (pickle / "model.safetensors").rename(pickle / "pytorch_model.bin")
    named = source if ":" in source else tmp_path / source
    answer = programs.call(capfd, "convert", f"--from={named}", f"--to={tmp_path / target}")
    assert answer.status == 2
    assert sentence in answer.err and "Traceback" not in answer.err
    assert not (tmp_path / "ours").exists()
