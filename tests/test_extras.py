"""What is an extra: without it the main path works, and what needs it says what to install."""

import subprocess
import sys
from pathlib import Path

import pytest

from zoo.registry import EXTRAS

ROOT = Path(__file__).parents[1]

BLOCKED = f"""
import sys
for package in {sorted(EXTRAS)!r}:
    sys.modules[package] = None  # importing it raises ModuleNotFoundError, as where it is not installed
"""


def run(code, *arguments):
    command = [sys.executable, "-c", BLOCKED + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def program(name, *arguments):
    start = f"import runpy\nsys.argv = ['{name}', *sys.argv[1:]]\n"
    return run(f"{start}runpy.run_module('trainers.{name}', run_name='__main__')", *arguments)


def test_a_model_is_made_and_exported_without_any_extra(tmp_path):
    flags = ["--model=ngram", "--tokenizer=byte", f"--data_path={tmp_path / 'a.txt'}", f"--model_dir={tmp_path / 'run'}"]
    (tmp_path / "a.txt").write_text("the cat sat on the mat.\n" * 50)
    result = program("run", *flags)
    assert result.returncode == 0, result.stderr
    assert "replayed in a fresh process: equal" in result.stdout


@pytest.mark.parametrize(("arguments", "package", "extra"), [
    (("run", "--model=gpt", "--preset=tiny", "--tokenizer=unigram", "--steps=1"), "sentencepiece", "unigram"),
    (("convert", "--from=theirs", "--to=ours"), "safetensors", "convert"),
])  # fmt: skip
def test_what_needs_an_extra_says_so_in_one_sentence(arguments, package, extra, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "a.txt").write_text("the cat sat on the mat.\n" * 50)
    data = ["--data_path=a.txt"] if arguments[0] == "run" else []
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    result = program(*arguments, *data)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    needed = f"error: This needs the package {package}, which is not installed: pip install -e '.[{extra}]'."
    assert result.stderr.strip() == needed
