"""What a run prints at its end: the score, where things are, and commands that work as printed."""

import contextlib
import importlib.util
import io
import json
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import exports, programs
from trainers.training import RULE, summary
from zoo.bundle import Bundle

SCORES = {"loss": 1.25, "perplexity": 3.4903, "accuracy": 0.75, "similarity": 0.5, "bleu": 31.5, "f1": 0.25}


def ended(directory, model, task, **fields):
    """The lines of a summary, and the run that it is of."""
    made = exports.made(model, task)
    bundle = Bundle(made.model, made.tokenizer, made.task, {"scores": {"test": SCORES}})
    bundle.save(directory / "bundle")
    config = SimpleNamespace(model=model, preset="tiny", task=task, dataset="toy")
    return summary(directory, config, bundle, **fields).splitlines()


@pytest.mark.parametrize(("model", "task"), [
    ("gpt", "language_modeling"), ("transformer", "translation"), ("bert", "classification"), ("bert", "question_answering"),
    ("word2vec", "word_vectors"), ("glm", "blank_infilling"), ("t5", "span_corruption"),
])  # fmt: skip
def test_the_next_commands_work_as_printed(model, task, tmp_path, capfd):
    run = tmp_path / "a run"
    lines = ended(run, model, task)
    assert lines[0] == lines[-1] == RULE and f"Bundle: {run}/bundle" in lines
    assert lines[1] == f"{model} tiny, {task} on toy" and lines[2].startswith("Test: loss 1.2500")
    asks, evaluates, reports = (shlex.split(line) for line in lines[lines.index("Next:") + 1 : -1])
    for command, program in ((evaluates, "evaluate"), (reports, "report")):
        assert command == ["python", "-m", f"trainers.{program}", f"--model_dir={run}"]
        with programs.parsed(program, *command[3:]):
            pass
    if asks[1] == "-m":
        assert asks[2:] == ["trainers.generate", f"--model_dir={run}", "--prompt=The"]
        assert programs.call(capfd, "generate", *asks[3:], "--max_new_tokens=2").status == 0
    else:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(asks[2], {})
        assert printed.getvalue().startswith("{'")
    assert ("predict('fill', text=" in asks[2]) == (task in ("blank_infilling", "span_corruption"))


@pytest.mark.parametrize("text", ["le chat", "it's", 'a "$HOME" `ls` run!', "-x=1", "back\\", "Montag, 3. März: 猫"])
def test_a_translator_is_asked_with_a_text_as_it_is(text, tmp_path, capfd):
    lines = ended(tmp_path / "a run", "transformer", "translation", text=text)
    line = lines[lines.index("Next:") + 1]
    shell = ["bash", "-c", 'python() { printf "%s\\n" "$@"; }; ' + line]
    words = subprocess.run(shell, capture_output=True, text=True, check=True).stdout.splitlines()
    assert words == ["-m", "trainers.generate", f"--model_dir={tmp_path}/a run", f"--prompt={text}"]
    if text == "-x=1":
        assert programs.call(capfd, "generate", *words[2:], "--max_new_tokens=2").status == 0


@pytest.mark.parametrize(
    ("task", "text"), [("tagging", "Das Haus , 3 m"), ("semantic_roles", 'say "a $HOME"'), ("tagging", None)]
)
def test_a_tagger_is_asked_with_a_sentence_of_its_data(task, text, tmp_path):
    lines = ended(tmp_path / "a run", "bert", task, text=text)
    asks = shlex.split(lines[lines.index("Next:") + 1])
    assert repr(text or "def naïve ( 東京 ) :") in asks[2]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(asks[2], {})
    assert printed.getvalue().startswith("{'")


def test_an_export_is_named_with_the_command_of_its_server(tmp_path):
    lines = ended(tmp_path, "gpt", "language_modeling", export=tmp_path / "export" / "1")
    assert f"Export: {tmp_path}/export/1, replayed in a fresh process: equal" in lines
    server = next(shlex.split(line.removeprefix("Server: ")) for line in lines if line.startswith("Server: "))
    assert server[0] == "tensorflow_model_server" and server[-1] == f"--model_base_path={tmp_path}/export"
    assert Path(server[-1].partition("=")[2]).is_absolute()
    assert json.dumps(SCORES["perplexity"]) in " ".join(lines)


@pytest.mark.parametrize("missing", ["matplotlib", "starlette", "uvicorn", None])
def test_a_command_whose_packages_are_missing_says_how_to_get_them(missing, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == missing else find(name, *rest))
    lines = ended(tmp_path, "gpt", "language_modeling", export=tmp_path / "export" / "1")
    for extra, packages, command in (
        ("report", ("matplotlib",), f"  python -m trainers.report --model_dir={tmp_path}"),
        ("playground", ("starlette", "uvicorn"), f"Page: python -m trainers.playground --export_dir={tmp_path}/export"),
    ):
        assert command + f"  # first: pip install -e '.[{extra}]'" * (missing in packages) in lines


@pytest.mark.parametrize("name", ["runs", "a run", "it's", 'a "$HOME" run!', "`ls`", "back\\slash"])
def test_the_question_reaches_python_through_a_shell_as_it_is_meant(name, tmp_path):
    run = tmp_path / name
    line = next(line.strip() for line in ended(run, "bag_of_words", "classification") if "python -c" in line)
    asked = subprocess.run(["bash", "-c", 'python() { printf %s "$2"; }; ' + line], capture_output=True, text=True, check=True)
    text = "Returns the number of items; raises ValueError if there are none."
    assert asked.stdout == f"import zoo; print(zoo.load({str(run)!r}).predict(text=[{text!r}]))"
    if name in ("runs", "a run"):
        assert line == f'python -c "{asked.stdout}"'
