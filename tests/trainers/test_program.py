"""The standard streams of a program: closed, read by nobody, or of another encoding."""

import os
import subprocess
import sys

import pytest

# A program that imports no TensorFlow.
ECHO = """
import sys
from trainers import program
def main():
    for _ in range({times}):
        print({what})
program.start(main)
"""


def run(what, redirection="", times=1, **environment):
    """(status of the program, what it printed, its last words) of a shell that runs it."""
    source = ECHO.format(what=what, times=times)
    shell = ["bash", "-c", f'"$0" -c "$1" {redirection}; exit ${{PIPESTATUS[0]}}', sys.executable, source]
    done = subprocess.run(shell, capture_output=True, env={**_environment(), **environment}, check=False)
    return done.returncode, done.stdout.decode("utf8"), done.stderr.decode("utf8")


def _environment():
    return {name: value for name, value in os.environ.items() if name not in ("LC_ALL", "PYTHONIOENCODING", "PYTHONUTF8")}


def unread(*command):
    """(status, last words) of a command whose output nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run([sys.executable, *command], stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)
    return done.returncode, done.stderr.decode("utf8")


@pytest.mark.parametrize("times", [1, 2_000])  # what is written at the end, and what meets the closed pipe on the way
def test_a_reader_that_goes_ends_a_program_without_a_word(times):
    assert unread("-c", ECHO.format(what="'a' * 99", times=times)) == (141, "")
    assert run("'a' * 99", "| head -1", 20_000) == (141, "a" * 99 + "\n", "")


def test_help_may_be_cut_off():
    assert unread("-m", "trainers.run", "--help") == (141, "")


def test_another_pipe_that_breaks_is_a_bug():
    status, _, said = run("[].append(exec('raise BrokenPipeError(32, \"of another\")'))")
    assert status == 1 and "BrokenPipeError: [Errno 32] of another" in said


def test_streams_that_are_closed_are_empty():
    assert run("repr(sys.stdin.readline())", "<&-") == (0, "''\n", "")
    assert run("'a'", ">&-") == (0, "", "")
    assert run("'a', file=sys.stderr", "<&- >&- 2>&-") == (0, "", "")


def test_streams_take_every_text():
    assert run("'é\\udc80'", PYTHONIOENCODING="utf8") == (0, "é\\udc80\n", "")
    assert run("'é東'", PYTHONIOENCODING="ascii") == (0, "\\xe9\\u6771\n", "")
    assert run("ascii(sys.stdin.readline())", "< <(printf 'caf\\xe9')", PYTHONIOENCODING="utf8") == (0, "'caf\\udce9'\n", "")
