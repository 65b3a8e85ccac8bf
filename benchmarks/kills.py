"""Kills a run with SIGKILL at random moments, starts the same command again, and compares what comes out at the end.

    python -m benchmarks.kills --kills=50                      GPT with dropout
    python -m benchmarks.kills --kills=10 --model=lstm
    python -m benchmarks.kills --kills=10 --model=bert --task=tagging        or classification, question_answering, masked_lm
    python -m benchmarks.kills --kills=10 --model=bilstm       tags with a random field, and characters; --task=semantic_roles
    python -m benchmarks.kills --kills=10 --model=transformer                translation; --task=summarization goes, too
    python -m benchmarks.kills --kills=5 --strategy=mirrored   further flags go to trainers.run as they are

A third of the kills meets the process at any moment of its life, a third while it takes steps, a third while it writes a
checkpoint. When a run ends before there were enough kills, another one is begun. At the end of each, its `metrics.jsonl`
(all but what is measured: speeds), the arrays of its last checkpoint and the weights of its bundle must be those of a run
that was never killed, byte for byte. `--sigterm` instead sends SIGTERM and prints how long the run took to save and end.
`--hang` stops one of two workers (SIGSTOP: it is there and does not answer) and prints how long the other one, and then the
launcher, took to end. Linux alone, for the children of a process.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.sides import ROOT
from zoo.registry import MODELS

# Lives are short so that fifty of them take minutes: steps of milliseconds, and a checkpoint every few of them.
SHORT = (
    "--preset=tiny", "--tokenizer=byte", "--batch_size=4", "--seq_length=16", "--steps=600", "--eval_every=100",
    "--checkpoint_every=7", "--xla=off", "--noexport",
)  # fmt: skip
DROPOUT = {
    "gpt": ("--set=dropout=0.2",),
    "glm": ("--set=dropout=0.2",),
    "bert": ("--set=dropout=0.2",),
    "bilstm": ("--set=dropout=0.2", "--set=characters=cnn"),
    **dict.fromkeys(("transformer", "seq2seq", "t5"), ("--set=dropout=0.2",)),
    "lstm": ("--set=input_dropout=0.2", "--set=hidden_dropout=0.2", "--set=output_dropout=0.2", "--set=weight_dropout=0.3"),
}
# Of a task that reads examples: what a path is followed by in --data_path, and further settings.
EXAMPLES = {
    "classification": (",columns=label:text,format=tsv", ()),
    "tagging": (",format=tagged", ()),
    "semantic_roles": (",format=conll", ()),
    "question_answering": (",format=squad", ("--seq_length=64", "--set=max_question=20", "--set=stride=8")),
    "masked_lm": ("", ("--tokenizer=wordpiece", "--vocab_size=90")),
    **dict.fromkeys(("translation", "summarization"), (",columns=source:target,format=tsv", ("--set=judged=20",))),
}
VERBS = ("sees", "finds", "likes", "leaves")
MOMENTS = ("any moment", "between steps", "while writing")
LONGEST_LIFE = 600.0
LONGEST_DELAY = 40.0  # a machine that stood still during the run that was never killed must not set the pace


def main():
    args, further = _parser().parse_known_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        corpus = scratch / "corpus.txt"
        name = args.task or MODELS.config(args.model).default_task
        corpus.write_text(examples(name), encoding="utf8")
        settings = () if args.sigterm else (*SHORT, *DROPOUT.get(args.model, ()))
        if args.hang:
            further += ["--num_workers=2", "--steps=1000000", "--eval_every=1000000"]
        kind, wanted = EXAMPLES.get(name, ("", ()))
        task = (*((f"--task={args.task}",) if args.task else ()), *wanted)
        command = [
            sys.executable, "-m", "trainers.run", f"--model={args.model}", f"--data_path=train={corpus}{kind}", *settings,
            *task, *further,
        ]  # fmt: skip
        if args.sigterm:
            return terminated([*command, "--noexport", f"--model_dir={scratch / 'run'}"], scratch / "run")
        if args.hang:
            return [hung([*command, f"--model_dir={scratch / f'run{i}'}"], scratch / f"run{i}", i) for i in (1, 0)]
        return killed_and_compared(command, scratch, args.kills, random.Random(args.seed))


def _parser():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="how often a process is killed, in all")
    parser.add_argument("--model", default="gpt")
    parser.add_argument("--task", help="what to train for, where it is not the family's first task")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--sigterm", action="store_true", help="the family's default preset, ended by SIGTERM")
    parser.add_argument("--hang", action="store_true", help="a worker that is stopped and not killed")
    return parser


def _roles(words):
    """Rows of a sentence: a word, whether it is a predicate, and for each one a column: what stands before it, and behind."""
    verbs = [i for i, word in enumerate(words) if word.rstrip(".") in VERBS]

    def tag(i, verb):
        return "B-V" if i == verb else "B-A0" if i == verb - 1 else "B-A1" if i == verb + 1 else "O"

    return [[word, "01" if i in verbs else "-", *(tag(i, verb) for verb in verbs)] for i, word in enumerate(words)]


def sentences():
    """A small text."""
    chance = random.Random(5)
    words = ("the", "a", "cat", "dog", "house", "garden", *VERBS, "old", "small", "and")
    return "".join(" ".join(chance.choices(words, k=chance.randint(4, 11))) + ".\n" for _ in range(2_000))


def examples(task):
    """The same text as a task reads it: labelled, tagged, in pairs, or with questions."""
    lines = sentences().splitlines()
    if task in ("translation", "summarization"):
        return "".join(f"{line}\t{' '.join(reversed(line.split()))}\n" for line in lines)
    if task == "classification":
        return "".join(f"{'cat' if 'cat' in line else 'none'}\t{line}\n" for line in lines)
    if task == "semantic_roles":
        return "".join("\n".join("\t".join(row) for row in _roles(line.split())) + "\n\n" for line in lines)
    if task == "tagging":
        tagged = ([f"{word}\t{len(word.rstrip('.'))}" for word in line.split()] for line in lines)
        return "".join("\n".join(words) + "\n\n" for words in tagged)
    if task == "question_answering":
        asked = [
            {"id": str(i), "question": "Which word is first?", "answers": [{"text": line.split()[0], "answer_start": 0}]}
            for i, line in enumerate(lines)
        ]
        paragraphs = [{"context": line, "qas": [question]} for line, question in zip(lines, asked, strict=True)]
        return json.dumps({"data": [{"title": "", "paragraphs": paragraphs}]})
    return "".join(f"{line}\n" for line in lines)


def killed_and_compared(command, scratch, kills, chance):
    """Prints kills survived and differences. Raises SystemExit if there are any."""
    reference = scratch / "reference"
    began = time.perf_counter()
    finish(start([*command, f"--model_dir={reference}"]))
    whole = time.perf_counter() - began
    print(f"Never killed: {whole:.1f} s", flush=True)
    survived, done, differences = dict.fromkeys(MOMENTS, 0), 0, []
    while done < kills:
        run = scratch / "killed"
        shutil.rmtree(run, ignore_errors=True)
        lives, ended = 0, False
        while not ended:
            process, lives = start([*command, f"--model_dir={run}"]), lives + 1
            if done == kills:
                finish(process)
                break
            moment = chance.choice(MOMENTS)
            ended = not killed(process, moment, run / "checkpoints", whole, chance)
            if not ended:
                done += 1
                survived[moment] += 1
                print(f"  kill {done}: {moment}, at step {newest(run)}", flush=True)
        found = compare(reference, run)
        differences += found
        print(f"  ended after {lives} lives; differences: {len(found)}", *found, sep="\n    ", flush=True)
    told = ", ".join(f"{count} {moment}" for moment, count in survived.items())
    print(f"Kills survived: {done} ({told}); differences: {len(differences)}")
    if differences:
        raise SystemExit(1)


def start(command):
    """Starts a run as the leader of a process group of its own."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    environment["TF_ENABLE_ONEDNN_OPTS"] = "0"  # one set of kernels for all lives (benchmarks/LOG.md)
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process):
    """Waits for its end. Raises SystemExit if that was not a good one."""
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"The run ended with status {process.returncode}:\n{out}")


def killed(process, moment, checkpoints, whole, chance):
    """Kills the process and its children at the given kind of moment; False if it ended by itself before."""
    began, before = time.perf_counter(), newest(checkpoints.parent)
    if moment == "any moment":
        delay = chance.uniform(0, min(whole, LONGEST_DELAY))
        while process.poll() is None and time.perf_counter() - began < delay:
            time.sleep(0.005)
    else:
        while process.poll() is None and newest(checkpoints.parent) == before and _waiting(began):
            time.sleep(0.002)  # it still imports, prepares, compiles
        time.sleep(chance.uniform(0, 0.5))
        while moment == "while writing" and process.poll() is None and _waiting(began):
            if any(checkpoints.glob(".step_*")):
                time.sleep(chance.uniform(0, 0.004))
                break
    if process.poll() is not None:
        finish(process)
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return True


def _waiting(began):
    return time.perf_counter() - began < LONGEST_LIFE


def newest(run):
    """The step of the newest checkpoint, or None."""
    return max((int(path.name.removeprefix("step_")) for path in (run / "checkpoints").glob("step_*")), default=None)


def compare(reference, run):
    """What differs between two runs that have ended, as a list of sentences."""
    from trainers.engine.metrics_log import MEASURED

    def lines(directory):
        text = (directory / "metrics.jsonl").read_text(encoding="utf8")
        return [{k: v for k, v in json.loads(line).items() if k not in MEASURED} for line in text.splitlines()]

    def arrays(directory):
        last = directory / "checkpoints" / f"step_{newest(directory):08d}" / "arrays.npz"
        with np.load(last, allow_pickle=False) as file:
            return {name: (file[name].dtype, file[name].shape, file[name].tobytes()) for name in file.files}

    differences = []
    if lines(reference) != lines(run):
        differences.append("metrics.jsonl differs")
    expected, found = arrays(reference), arrays(run)
    differences += [f"{name} differs" for name in sorted(expected.keys() | found) if expected.get(name) != found.get(name)]
    weights = [(directory / "bundle" / "model.weights.h5").read_bytes() for directory in (reference, run)]
    if weights[0] != weights[1]:
        differences.append("the weights of the bundle differ")
    return differences


def terminated(command, run):
    """Prints how long a run takes from SIGTERM to its end."""
    process = start(command)
    while process.poll() is None and not (run / "metrics.jsonl").exists():
        time.sleep(0.05)
    time.sleep(5)
    began = time.perf_counter()
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate()
    print(out.splitlines()[-1])
    print(f"Ended {time.perf_counter() - began:.2f} s after SIGTERM with status {process.returncode}")
    if process.returncode != 75:
        raise SystemExit(1)


def hung(command, run, victim):
    """Stops worker `victim` of two for good; prints how long the other took to end, and the launcher."""
    process = start(command)
    while process.poll() is None and newest(run) in (None, 0):
        time.sleep(0.05)
    workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    os.kill(workers[victim], signal.SIGSTOP)
    began = time.perf_counter()
    while Path(f"/proc/{workers[1 - victim]}/stat").exists() and "Z" not in _state(workers[1 - victim]):
        time.sleep(0.05)
    noticed = time.perf_counter() - began
    out, _ = process.communicate()
    print(*(line for line in out.splitlines() if "has gone" in line), sep="\n")
    print(
        f"Worker {victim} hung: the other ended after {noticed:.1f} s, the launcher after {time.perf_counter() - began:.1f} s "
        f"with status {process.returncode}", flush=True,
    )  # fmt: skip
    if process.returncode != 75 or "has gone" not in out:
        raise SystemExit(1)


def _state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


if __name__ == "__main__":
    main()
