"""A bar at a terminal (a real pseudo-terminal, in a process of its own), plain lines elsewhere."""

import errno
import os
import pty
import re
import subprocess
import sys

import pytest

from trainers.progress import BAR, duration, row

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


def shown(at_terminal, columns=120, work=WORK):
    """What the user sees of `work`: every byte that the terminal, or the pipe, was sent."""
    command = [sys.executable, "-c", work]
    if not at_terminal:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns), "LINES": "30"}
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
    assert re.search(r"Training (1[1-9]|2\d|3\d)/40 ━+  loss 1\.235  tokens 12,346  left \d+s", text)
    assert text.count("step 25: saved [best]") == 1  # a line that stays, its brackets too
    assert "\x1b[2K" in sent  # the bar is drawn over itself, and away
    assert text.rstrip().endswith("end")


def test_preparation_tells_bytes_of_how_many_their_speed_and_the_time_left():
    work = """
import time
from trainers import progress
progress.LINE_EVERY_SECONDS = 0.0
with progress.ProgressBar("Preparing") as bar:
    report = progress.preparing(bar, {"train": 4_000_000, "validation": 10}.get)
    time.sleep(0.1)
    report("tokenizer", 1_000_000)
    time.sleep(0.1)
    report("train", 1_000_000)
    report("validation", 12)
    report("test", 5)
"""
    lines = shown(at_terminal=False, work=work).splitlines()
    for line, what in zip(lines, ("tokenizer", "train"), strict=False):
        start = rf"Preparing 1,000,000 of 4,000,000  split {what}  MB/s "
        assert 1 < float(re.match(start + r"([\d.]+)  left 0s$", line)[1]) <= 10
    assert lines[2].startswith("Preparing 12 of 12  split validation") and lines[3].startswith("Preparing 5  split test  MB/s ")
    assert "left" not in lines[3]


@pytest.mark.parametrize("columns", [80, 60, 30])
def test_title_count_and_time_left_never_go(columns):
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown(at_terminal=True, columns=columns))
    rows = [line for line in re.split(r"[\r\n]+", text) if line.startswith("Training ") and "left" in line]
    assert rows and all(re.match(r"Training \d+/40.*  left \d+s", line) for line in rows)
    assert all(len(line.rstrip()) < columns for line in rows)


def test_figures_and_the_bar_take_what_room_there_is():
    figures = {"loss": 4.257, "bits_per_byte": 1.7, "tokens/s": 12_345.0, "of peak": "33%", "left": "1m02s"}
    line, filled, bar = row("step", 600, 1_200, figures, 120)
    told = "loss 4.257  bits_per_byte 1.7  tokens/s 12,345  of peak 33%  left 1m02s"
    assert line == f"step 600/1,200 {bar * BAR}  {told}" and len(line) == 119 and filled == bar // 2
    line, _, bar = row("step", 600, 1_200, figures, 80)  # the usual terminal
    assert line == f"step 600/1,200 {bar * BAR}  loss 4.257  bits_per_byte 1.7  left 1m02s" and len(line) == 79 and bar > 15
    line, _, bar = row("step", 600, 1_200, figures, 60)
    assert line == f"step 600/1,200 {bar * BAR}  loss 4.257  left 1m02s" and bar > 10
    assert row("step", 600, 1_200, figures, 20)[0] == "step 600/1,200  left 1m02s"  # no less, however narrow
    assert row("step", 0, 150, {"making the graph": ""}, 60)[0].endswith("  making the graph")
    assert row("Preparing", 5_000, None, {"split": "train"}, 60) == ("Preparing 5,000  split train", 0, 0)


RESIZED = """
import sys, time
from trainers import progress
progress.DRAW_EVERY_SECONDS = 0.0
with progress.ProgressBar("Training", total=40) as bar:
    bar.update(10, loss=1.23456, tokens=12345.6)
    bar._live.console.width = 30
    bar.update(11, loss=1.23456, tokens=12345.6)
"""


def test_a_terminal_that_is_made_narrower_keeps_no_old_row():
    sent = shown(at_terminal=True, columns=100, work=RESIZED)
    # the row of up to 99 columns has become up to four of 30: those above the last are taken away
    assert sent.count("\r\x1b[2K\x1b[1A") >= 2


def test_a_pipe_gets_plain_lines():
    lines = shown(at_terminal=False).splitlines()
    assert re.fullmatch(r"Training 11 of 40  loss 1\.235  tokens 12,346  left \d+s", lines[0])
    assert lines[-1] == "end" and "step 25: saved [best]" in lines and len(lines) == 32
    assert not any("\x1b" in line for line in lines)


@pytest.mark.parametrize(("seconds", "text"), [(7.9, "7s"), (60, "1m00s"), (187, "3m07s"), (7_385, "2h03m")])
def test_durations(seconds, text):
    assert duration(seconds) == text
