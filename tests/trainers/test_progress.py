"""A bar at a terminal (a real pseudo-terminal, in a process of its own), plain lines elsewhere."""

import errno
import os
import pty
import re
import subprocess
import sys

import pytest

from trainers.progress import duration

WORK = """
import time
from trainers import progress
progress.LINE_EVERY_SECONDS = 0.0
with progress.ProgressBar("Training", total=40, start=10) as bar:
    for done in range(11, 41):
        time.sleep(0.01)
        bar.update(done, loss=1.23456, tokens=12345.6)
        if done == 25:
            bar.say("step 25: saved [best]")
print("end")
"""


def shown(at_terminal):
    """What a person sees of `WORK`: every byte that the terminal, or the pipe, was sent."""
    command = [sys.executable, "-c", WORK]
    if not at_terminal:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
    process = subprocess.Popen(command, stdout=theirs, stdin=theirs, stderr=subprocess.PIPE, env=environment)
    os.close(theirs)
    sent = b""
    try:
        while piece := os.read(ours, 65_536):
            sent += piece
    except OSError as error:
        if error.errno != errno.EIO:  # by which Linux says that the other side is closed
            raise
    os.close(ours)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return sent.decode()


def test_a_terminal_shows_a_bar_with_figures_and_time_left_which_goes_at_the_end():
    sent = shown(at_terminal=True)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent)
    assert re.search(r"Training ━+.* (1[1-9]|2\d|3\d)/40 loss 1\.235  tokens 12,346  left \d+s", text)
    assert text.count("step 25: saved [best]") == 1  # a line that stays, its brackets too
    assert "\x1b[2K" in sent  # the bar is drawn over itself, and away
    assert text.rstrip().endswith("end")


def test_a_pipe_gets_plain_lines():
    lines = shown(at_terminal=False).splitlines()
    assert re.fullmatch(r"Training 11 of 40  loss 1\.235  tokens 12,346  left \d+s", lines[0])
    assert lines[-1] == "end" and "step 25: saved [best]" in lines and len(lines) == 32
    assert not any("\x1b" in line for line in lines)


@pytest.mark.parametrize(("seconds", "text"), [(7.9, "7s"), (60, "1m00s"), (187, "3m07s"), (7_385, "2h03m")])
def test_durations(seconds, text):
    assert duration(seconds) == text
