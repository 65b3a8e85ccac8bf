"""Runs what the pages tell, at tiny settings: `python -m tests.docs`.

Everything runs in one directory, in the state of somebody who reads that page:

- the files that the pages speak of are as `docs.make_files` writes them, whatever an earlier page has made of them;
- `runs/FAMILY/latest` is the last run of the family that this page shows; before one, the family's default run;
- what a page takes for granted (`LINKS`, `MADE`, an export) is made when a command names it and it is not there.

A command that was run before in the same state is not run again.
"""

import contextlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

from tests import docs
from zoo.registry import MODELS

RUN, CONVERT, EXPORT, PLAYGROUND = "trainers.run", "trainers.convert", "trainers.export", "trainers.playground"
TOKENS_OF_A_QUESTION = 128
LONGER = 32
PATIENCE = 300  # seconds in which a playground must answer
STAMP = re.compile(r"(runs/\w+)/\d{8}-\d{6}")
# Flags of a run that the tiny settings replace.
REPLACED = (
    "steps",
    "epochs",
    "batch_size",
    "seq_length",
    "preset",
    "warmup_steps",
    "export",
    "noexport",
    "eval_tokens",
    "profile",
)
# Settings of other programs that the tiny ones replace, or add.
LESS = {"trainers.generate": ["--max_new_tokens=8"], "trainers.doctor": ["--nomeasure"], CONVERT: ["--static=8"]}
MEASURES = {"benchmarks.word_picture": ("matplotlib",), "benchmarks.family_picture": ()}  # those that take seconds
EXTRAS = {"trainers.report": ("matplotlib",), PLAYGROUND: ("starlette", "uvicorn"), "trainers.harness": ("lm_eval",)}
# Flags whose value is what a program makes.
MAKES = {
    RUN: ("model_dir",), CONVERT: ("to",), EXPORT: ("export_dir",), "trainers.phrases": ("to",), "trainers.forget": ("to",),
    "trainers.evaluate": ("predictions",), "benchmarks.word_picture": ("to",), "benchmarks.family_picture": ("to",),
}  # fmt: skip

# Why a command is not run.
ELSEWHERE = "another machine"
DATA = "a download, or data and programs of others"
HOURS = "minutes to hours: a measurement or a long proof"
BLANK = "a name to fill in"
OTHER = "another program: pip, docker, curl, tensorboard, pytest, an export's client"

# What pages take for granted: links to bundles and runs (a family stands for its default run), and what commands make.
LINKS = {
    "mine": ("begun", "bundle"),
    "minilm": ("begun", "bundle"),
    "smollm2": ("gpt", "bundle"),
    "runs/a": ("ngram", ""),
    "runs/b": ("gpt", ""),
}
MADE = {
    "begun": [
        RUN, "--model=bert", "--preset=tiny", "--steps=2", "--seq_length=256", "--batch_size=2", "--eval_tokens=200",
        "--noexport", "--model_dir=begun",
    ],
    "DIRECTORY": [CONVERT, "--from=begun", "--to=DIRECTORY"],
    "vectors": [CONVERT, "--from=glove.6B.100d.txt", "--to=vectors"],
    "runs/spans": [RUN, "--model=t5", "--model_dir=runs/spans"],
    "runs/words": [RUN, "--model=word2vec", "--model_dir=runs/words"],
    "runs/drafts": [RUN, "--model=ngram", "--data_path=notes.txt", "--tokenizer=smollm2/tokenizer", "--model_dir=runs/drafts"],
    "runs/one": [RUN, "--model=transformer", "--model_dir=runs/one"],
    "runs/other": [RUN, "--model=transformer", "--seed=2", "--model_dir=runs/other"],
}  # fmt: skip


class LeftOut(Exception):
    """Why a command is not run."""


def given(arguments):
    """The flags of a call: name -> value."""
    return {argument.lstrip("-").partition("=")[0]: argument.partition("=")[2] for argument in arguments}


def tiny(step):
    """A step at settings that take seconds. Raises LeftOut.

    Args:
        step: a call, the words behind `python -m`; or Python as a string.
    """
    if isinstance(step, str):
        if ".chat(" in step:  # smollm2 is a stand-in, without a chat template
            raise LeftOut(DATA)
        return step
    module, *arguments = step
    flags = given(arguments)
    if not module.startswith("trainers."):
        return _tiny_measure(module, arguments)
    if (not arguments and module != "trainers.doctor") or re.search(r"\b(RUN|NAME)\b", " ".join(arguments)):
        raise LeftOut(BLANK)
    if flags.get("strategy") == "tpu" or flags.get("model_dir", "").startswith("/"):
        raise LeftOut(ELSEWHERE)
    if "$SITE" in " ".join(arguments) or "flan" in flags.values() or "chat" in flags:
        raise LeftOut(DATA)
    _require(
        *EXTRAS.get(module, ()),
        *(["dp_accounting"] if any(argument.startswith("--set=dp_") for argument in arguments) else []),
        *(["apache_beam"] if "runner" in flags else []),
        *(["grpc"] if "grpc_port" in flags else []),
        *(["safetensors"] if module == CONVERT and "DIRECTORY" in flags.values() else []),
    )
    if module == RUN:
        return step if flags.keys() & {"list", "dry_run", "completion"} else [module, *_tiny_run(arguments, flags)]
    if module == PLAYGROUND:
        ports = ["--port=0", *(["--grpc_port=0"] if "grpc_port" in flags else [])]
        return [module, *(a for a in arguments if "port=" not in a), *ports]
    less = LESS.get(module, []) if module != CONVERT or "static" in flags else []
    return [*step, *less]


def _tiny_measure(module, arguments):
    if module in MEASURES:
        _require(*MEASURES[module])
        return [module, *arguments]
    if module == "tests.screenshots":
        raise LeftOut("an extra that is missing: a browser")
    words = " ".join(arguments)
    if re.search(r"\bNAME\b|\bRUN\b|\bEXPORT\b|GPT_RUN", words):
        raise LeftOut(BLANK)
    raise LeftOut(DATA if re.search(r"\b[A-Z_]{3,}\b|brown\.txt|glm_golden", f"{module} {words}") else HOURS)


def _require(*packages):
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise LeftOut(f"an extra that is missing: {', '.join(missing)}")


def _tiny_run(arguments, flags):
    kept = [argument for argument in arguments if argument.lstrip("-").partition("=")[0] not in REPLACED]
    kept = [
        argument for argument in kept if not argument.startswith(("--set=max_length", "--set=batch_tokens", "--set=average"))
    ]
    by_tokens = any(argument.startswith("--set=batch_tokens") for argument in arguments)
    length = max(int(flags.get("seq_length", 0)), TOKENS_OF_A_QUESTION) if "question" in flags.get("task", "") else 16
    preset = [] if "init_from" in flags else [f"--preset={_small(flags)}"]
    export = [] if (flags["model"], len(flags)) == ("gpt", 1) else ["--noexport"]
    task = flags.get("task", MODELS.config(flags["model"]).default_task)
    judged = ["--set=judged=4"] if task in ("translation", "summarization") else []
    if flags["model"] == "transformer":  # whose tiny preset is too short for a date that is written out
        length, judged = LONGER, [*judged, f"--set=max_length={LONGER}"]
    profile = ["--profile=1:2"] if "profile" in flags else []
    size = "--set=batch_tokens=64" if by_tokens else "--batch_size=4"
    less = [*judged, "--steps=2", size, f"--seq_length={length}", "--eval_tokens=200"]
    return [*kept, *preset, *less, *profile, *export]


def _small(flags):
    closed = flags["model"] in ("ngram", "bag_of_words")  # small as they are
    return flags.get("preset", "default") if closed else "tiny"


def reads(step):
    """What a step may read: the words of a call without what it makes, or the strings of Python, in one line."""
    if isinstance(step, str):
        return " ".join(re.findall(r"""["']([^"'\n]*)["']""", step))
    module, *arguments = step
    made = () if "--verify" in arguments else MAKES.get(module, ())
    words = [argument for argument in arguments if argument.lstrip("-").partition("=")[0] not in made]
    if any(argument.startswith("--server=") for argument in arguments):
        words.append("runs/gpt/latest/export")  # of the server that `play` starts
    return " ".join(words)


def names(path, text):
    """Whether a text names a path or what lies in it.

    >>> names("runs/a", "--x=runs/a/export"), names("runs/a", "runs/ab"), names("vectors", "vectors.txt")
    (True, False, False)
    """
    return bool(re.search(rf"(?<![\w./-]){re.escape(path)}(?![\w.-])", text))


class Reader:
    """Somebody who reads pages in one directory and runs what they tell.

    Args:
        directory: an empty directory.
        start: runs a step there, `start(step, directory)` -> exit status.

    Attributes:
        counts: how many steps `ran`, `failed`, and were the same as one that ran, `again`.
        left: reason -> how many steps were left out.
    """

    def __init__(self, directory, start=None):
        self.directory, self._start = Path(directory), start or run_one
        self.counts, self.left = Counter(), Counter()
        self._runs, self._done, self._shown = {}, set(), set()

    def read(self, steps):
        """Runs the steps of one page."""
        self._shown = set()
        docs.make_files(self.directory, bundles=False)
        (self.directory / "docs" / "images").mkdir(parents=True, exist_ok=True)
        for step in steps:
            try:
                self._take(step)
            except LeftOut as why:
                self.left[str(why)] += 1

    def _take(self, step):
        short = tiny(step if isinstance(step, str) else [STAMP.sub(r"\1/latest", word) for word in step])
        text = reads(short)
        self._provide(text)
        if _is_of_a_family(short):
            family = given(short[1:])["model"]
            self._be_latest(family, short, counted=True)
            self._shown.add(family)
            return
        state = [os.readlink(link) for link in sorted(self.directory.glob("runs/*/latest")) if names(_name(link), text)]
        key = (repr(short), *state)
        self._count(self._done, key, lambda: self._begin(short))

    def _count(self, done, key, begin):
        """Runs what was not done yet, and counts it. Returns whether it is done."""
        if key in done:
            self.counts["again"] += 1
            return True
        self.counts["ran"] += 1
        if begin():
            self.counts["failed"] += 1
            return False
        if isinstance(done, set):
            done.add(key)
        return True

    def _be_latest(self, family, short, counted=False):
        """Makes the run of a call its family's latest one: it is run, or was before."""
        link = self.directory / "runs" / family / "latest"
        if counted:
            well = self._count(self._runs, tuple(short), lambda: self._begin(short))
        else:
            well = tuple(short) in self._runs or not self._begin(short)
        if not well:
            return
        if tuple(short) not in self._runs:
            self._runs[tuple(short)] = os.readlink(link)
        elif os.readlink(link) != self._runs[tuple(short)]:
            link.unlink()
            link.symlink_to(self._runs[tuple(short)])

    def _provide(self, text):
        """Makes what a text names and is not there."""
        for family in MODELS.names():
            if family not in self._shown and names(f"runs/{family}/latest", text):
                self._be_latest(family, tiny([RUN, f"--model={family}"]))
        for name in [*LINKS, *MADE]:
            if names(name, text) and not os.path.lexists(self.directory / name):
                self._make(name)
        for run in re.findall(r"([\w./-]+)/export(?![\w.-])", text):
            if not (self.directory / run / "export").is_dir():
                self._begin([EXPORT, f"--model_dir={run}"])

    def _make(self, name):
        if name in LINKS:
            source, part = LINKS[name]
            if source in MODELS.names():
                call = tiny([RUN, f"--model={source}"])
                self._be_latest(source, call)
                source = f"runs/{source}/{self._runs.get(tuple(call), 'latest')}"
            else:
                self._provide(source)
            (self.directory / name).parent.mkdir(exist_ok=True)
            (self.directory / name).symlink_to(self.directory / source / part)
            return
        call = MADE[name]
        if call[0] == RUN and "--steps=2" not in call:
            call = tiny(call)
        self._provide(reads(call))
        self._begin(call)

    def _begin(self, short):
        """Runs a step; what it makes is not there before. Returns the exit status."""
        flag = None if isinstance(short, str) else {RUN: "model_dir", CONVERT: "to", "trainers.forget": "to"}.get(short[0])
        if flag and flag in given(short[1:]):
            made = self.directory / given(short[1:])[flag]
            if made.is_dir() and not made.is_symlink():
                shutil.rmtree(made)
            else:
                made.unlink(missing_ok=True)
        return self._start(short, self.directory)


def _name(link):
    return f"runs/{link.parent.name}/latest"


def _is_of_a_family(short):
    """Whether a step is a run whose directory the program chooses."""
    return short[0] == RUN and not {"model_dir", "list", "dry_run", "completion"} & given(short[1:]).keys()


def run_one(step, directory):
    """Runs a step. Returns the exit status."""
    start = time.perf_counter()
    arguments = ["-c", step] if isinstance(step, str) else ["-m", *step]
    if step[0] == PLAYGROUND:
        status, told = _played(step, directory)
    else:
        done = subprocess.run([sys.executable, *arguments], cwd=directory, env=_environment(), capture_output=True, text=True)
        status, told = done.returncode, f"{done.stdout[-2_000:]} {done.stderr[-2_000:]}"
    print(f"{status:4}  {time.perf_counter() - start:5.1f} s  {shlex.join(arguments[1:])}", flush=True)
    if status:
        print(told, flush=True)
    return status


def _environment():
    return {**os.environ, "PYTHONPATH": str(docs.ROOT)}


def _played(call, directory):
    """Starts a playground, asks each of its models once, and ends it. Returns the exit status and what went wrong."""
    try:
        with contextlib.ExitStack() as stack:
            flags = given(call[1:])
            if "server" in flags:
                served = [PLAYGROUND, "--export_dir=runs/gpt/latest/export", f"--name={flags['name']}", "--port=0"]
                url = stack.enter_context(_playground(served, directory))
                call = [f"--server={url}" if word.startswith("--server=") else word for word in call]
            url = stack.enter_context(_playground(call, directory))
            assert b"<html" in _asked(f"{url}/"), "the page is not HTML"
            models = [model["name"] for model in json.loads(_asked(f"{url}/playground/models"))["models"]]
            for name in models:
                answer = json.loads(_asked(f"{url}/v1/models/{name}:predict", {"instances": ["The list"]}))
                assert answer["predictions"], answer
            assert models, "it serves nothing"
    except (OSError, AssertionError, LookupError, ValueError) as error:
        return 1, f"{type(error).__name__}: {error}"
    return 0, ""


@contextlib.contextmanager
def _playground(call, directory):
    """The URL of a playground, which ends with the block. Raises OSError if it does not start."""
    command = [sys.executable, "-m", *call]
    with (
        open(Path(directory) / "playground.log", "w+", encoding="utf8") as log,
        subprocess.Popen(command, cwd=directory, env=_environment(), stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        try:
            yield _address(process, log.name)
        finally:
            process.terminate()


def _address(process, log):
    """The URL that a playground prints when it is ready."""
    begun = time.perf_counter()
    while time.perf_counter() - begun < PATIENCE:
        said = Path(log).read_text(encoding="utf8")
        found = re.search(r"Open (http://\S+)/ in a browser", said)
        if found:
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.2)
    raise OSError(f"It did not start: {said[-2_000:]}")


def _asked(url, body=None):
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return answer.read()


def run(told, num_others):
    """Runs what pages tell: name of the page -> its steps. Returns the number of steps that failed."""
    with docs.workplace(bundles=False) as directory:
        reader = Reader(directory)
        for page, steps in told.items():
            print(f"# {page}", flush=True)
            reader.read(steps)
    print(summary(reader, sum(map(len, told.values())), num_others))
    return reader.counts["failed"]


def summary(reader, num_steps, num_others):
    """One line: what ran, what failed, and what was left out."""
    left = Counter(reader.left)
    left[OTHER] += num_others
    kinds = "; ".join(f"{count} {why}" for why, count in left.most_common() if count)
    return (
        f"{num_steps + num_others} commands: {reader.counts['ran']} ran, {reader.counts['failed']} of them failed; "
        f"{reader.counts['again']} are the same as one that ran; {left.total()} left out ({kinds})"
    )
