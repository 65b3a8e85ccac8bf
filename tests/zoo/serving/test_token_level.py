"""One pass on token ids in the files of other runtimes."""

import pytest

from tests import exports
from zoo.serving import token_level


def assert_goes_out(made, directory, kind, name, refused):
    """Checks that a model is written in another format, and that one which that format cannot hold leaves it untouched."""
    file, difference = token_level.export_forward(directory, made.model, made.tokenizer, kind)
    assert file == directory / kind / name and file.is_file() and difference < 1e-4
    assert (directory / kind / "tokenizer").is_dir()
    sentence = f"{refused.model.registered_name} uses operations that {kind} has not; export it as a saved_model"
    with pytest.raises(ValueError, match=sentence):
        token_level.export_forward(directory, refused.model, refused.tokenizer, kind)
    assert [path.name for path in directory.iterdir()] == [kind] and file.is_file()


def test_one_pass_on_ids_goes_out_as_litert(tmp_path):
    made = exports.made("lstm", "language_modeling")
    assert_goes_out(made, tmp_path, "litert", "model.tflite", refused=exports.made("bag_of_words", "classification"))


def test_one_pass_on_ids_goes_out_as_onnx_where_the_packages_are(tmp_path, monkeypatch):
    made = exports.made("gpt", "tagging")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"onnx needs tf2onnx and onnxruntime: pip install -e '.\[onnx\]'"):
        token_level.export_forward(tmp_path, made.model, made.tokenizer, "onnx")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    pytest.importorskip("tf2onnx", reason="the extra [onnx] is not installed")
    assert_goes_out(made, tmp_path, "onnx", "model.onnx", refused=exports.made("ngram", "language_modeling"))
