"""Runs the programs of trainers/ inside the test's process: flags, messages and exit statuses without the seconds."""

import contextlib
import importlib
import sys
from dataclasses import dataclass

import pytest
from absl import app, flags

app.define_help_flags()  # once a process: those of a program are forgotten, these must stay

DEFINITIONS = {
    "run": "define_training",
    "evaluate": "define_evaluation",
    "generate": "define_generation",
    "export": "define_export",
    "harness": "define_harness",
    "doctor": "define_doctor",
    "convert": "define_conversion",
    "prepare": "define_preparation",
    "report": "define_report",
    "phrases": "define_phrases",
    "trace": "define_trace",
    "forget": "define_forgetting",
    "explain": "define_explanation",
    "playground": "define_playground",
}


@dataclass
class Answer:
    """What a program left behind: its exit status (0 if it just ended), standard output and standard error."""

    status: int
    out: str
    err: str


@contextlib.contextmanager
def parsed(program, *arguments):
    """The flags of one program, parsed; they are forgotten afterwards, so that another program can declare its own."""
    from trainers import flags as trainer_flags

    before = set(flags.FLAGS)
    getattr(trainer_flags, DEFINITIONS[program])()
    try:
        flags.FLAGS([program, *arguments])
        yield
    finally:
        _forget(before)


def call(capfd, program, *arguments):
    """Runs `python -m trainers.<program> <arguments>` in this process."""
    from trainers import flags as trainer_flags
    from trainers import program as surroundings

    module = importlib.import_module(f"trainers.{program}")
    before = set(flags.FLAGS)
    getattr(trainer_flags, DEFINITIONS[program])()
    capfd.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"trainers/{program}.py", *map(str, arguments)])
        try:
            surroundings.start(module.main)
            status = 0
        except SystemExit as end:
            status = end.code or 0
        finally:
            _forget(before)
    out, err = capfd.readouterr()
    return Answer(status, out, err)


def refusal(capfd, program, *arguments):
    """The sentence with which a program refuses; the rest of a refusal is checked here."""
    answer = call(capfd, program, *arguments)
    assert answer.status == 2, answer.err
    assert answer.err.startswith("error: ") and len(answer.err.splitlines()) == 1
    assert "Traceback" not in answer.out + answer.err
    return answer.err.removeprefix("error: ").rstrip("\n")


def _forget(before):
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()
