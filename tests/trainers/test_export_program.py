"""trainers.export on what it cannot do: a sentence, and nothing written."""

import json

import pytest

from tests import exports
from tests.programs import refusal
from zoo.bundle import Bundle


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Name of a family -> directory of a run with its bundle."""
    directory = tmp_path_factory.mktemp("runs")
    for name in ("gpt", "ngram"):
        made = exports.made(name, "language_modeling")
        Bundle(made.model, made.tokenizer, made.task, {}).save(directory / name / "bundle")
    return {name: directory / name for name in ("gpt", "ngram")}


@pytest.mark.parametrize(
    ("model", "flags", "sentence"),
    [
        ("gpt", ["--version=0"], "flag --version=0: 0 is not a positive integer"),
        (
            "gpt",
            ["--export_format=onnx", "--version=2"],
            "--version is for --export_format=saved_model, and not for onnx; leave it out.",
        ),
        ("gpt", ["--export_format=litert", "--export_precision=int8"], "--export_precision is for --export_format=saved_model"),
        ("gpt", ["--export_format=litert", "--export_xla"], "--export_xla is for --export_format=saved_model"),
        ("gpt", ["--export_precision=float8"], "value should be one of <float32|bfloat16|int8>"),
        (
            "ngram",
            ["--export_precision=int8"],
            "ngram has tables and no matrices, which int8 could store; export it in float32.",
        ),
        ("ngram", ["--export_xla"], "ngram looks its numbers up in tables, which XLA cannot compile; leave --export_xla out."),
        ("gpt", ["--set=dropout=0"], "--set of an export takes draft=none, draft=ngram:N or draft=ngram:DIR, got 'dropout=0'."),
        ("gpt", ["--set=draft=ngram:x"], "draft is none, or ngram:N for the last N tokens, 2 at least, that are looked up, or"),
        ("gpt", ["--export_format=litert", "--set=draft=ngram:4"], "--set is for --export_format=saved_model"),
        ("ngram", ["--set=draft=ngram:4"], "ngram cannot take a token back, as a draft needs it; leave draft out."),
        ("ngram", ["--export_format=litert"], "ngram uses operations that litert has not; export it as a saved_model."),
    ],
)
def test_what_it_refuses_leaves_nothing(bundles, model, flags, sentence, tmp_path, capfd):
    told = refusal(capfd, "export", f"--model_dir={bundles[model]}", f"--export_dir={tmp_path / 'export'}", *flags)
    assert sentence in told
    assert list(tmp_path.iterdir()) == []


def test_a_version_that_is_not_higher_and_a_bundle_of_a_newer_format(bundles, tmp_path, capfd):
    directory = tmp_path / "export"
    (directory / "7").mkdir(parents=True)
    told = refusal(capfd, "export", f"--model_dir={bundles['gpt']}", f"--export_dir={directory}", "--version=7")
    assert told == f"Version 7 must be above 7, the latest in {directory}."
    path = bundles["ngram"] / "bundle" / "config.json"
    config = json.loads(path.read_text(encoding="utf8"))
    path.write_text(json.dumps({**config, "format_version": 3}), encoding="utf8")
    told = refusal(capfd, "export", f"--model_dir={bundles['ngram']}", f"--export_dir={directory}")
    assert told == f"{path.parent} has format version 3, this zoo reads up to 2; update it."
    assert [entry.name for entry in directory.rglob("*")] == ["7"]
