"""Are equal runs equal? Starts one command several times and compares every logged loss and the weights, byte for byte.

    python -m benchmarks.equal_runs --runs=20 -- --model=bert --task=question_answering --steps=60
    python -m benchmarks.equal_runs --runs=20 --at_once=4 -- --model=gpt --preset=tiny --steps=60   # under load

Each run is a process of its own. The outcomes are counted. A run of a rarer outcome is described: the first step whose loss
differs, both losses, and whether the process says that oneDNN computes. The status is 1 if there is more than one outcome.
"""

import argparse
import collections
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
ONEDNN = "oneDNN custom operations are on"


class Outcome(NamedTuple):
    losses: tuple  # (step, split, loss), as they stand in metrics.jsonl
    weights: str  # SHA-256 of model.weights.h5's tensors in order of their names


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.equal_runs", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--at_once", type=int, default=1, help="runs that work at the same time")
    parser.add_argument("flags", nargs="+", help="of trainers.run, behind --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        outcomes, texts = several_runs(args.flags, args.runs, args.at_once, Path(scratch))
    counts = collections.Counter(outcomes).most_common()
    usual = counts[0][0]
    for number, (outcome, text) in enumerate(zip(outcomes, texts, strict=True)):
        if outcome != usual:
            print(f"Run {number}: {difference(usual, outcome)}; oneDNN {'on' if ONEDNN in text else 'not named'}")
    print(f"{len(outcomes)} runs, {len(counts)} outcomes: {', '.join(str(count) for _, count in counts)}")
    raise SystemExit(int(len(counts) > 1))


def several_runs(flags, runs, at_once, scratch):
    """The outcome of each run and what it printed. Raises SystemExit if one ends badly."""
    outcomes, texts, working = [], [], []
    for number in range(runs):
        working.append((start(flags, scratch / str(number)), scratch / str(number), time.perf_counter()))
        if len(working) == at_once or number == runs - 1:
            for process, directory, began in working:
                text, _ = process.communicate()
                if process.returncode:
                    raise SystemExit(f"The run ended with status {process.returncode}:\n{text}")
                outcomes.append(outcome_of(directory))
                texts.append(text)
                digest = hashlib.sha256(repr(outcomes[-1]).encode()).hexdigest()[:8]  # the same in every process
                print(f"run {len(outcomes) - 1}: {time.perf_counter() - began:.0f} s, outcome {digest}", flush=True)
            working = []
    return outcomes, texts


def start(flags, directory):
    """A run with everything that TensorFlow says, oneDNN's line among it."""
    command = [sys.executable, "-m", "trainers.run", *flags, f"--model_dir={directory}", "--noexport"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def outcome_of(directory):
    """What a run computed: every loss that it logged, and its weights."""
    import h5py

    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    losses = tuple((row.get("step"), row.get("split", "train"), row["loss"]) for row in rows if "loss" in row)
    digest = hashlib.sha256()
    with h5py.File(next(directory.rglob("model.weights.h5"))) as file:
        names = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        for name in sorted(names):
            digest.update(name.encode() + file[name][()].tobytes())
    return Outcome(losses, digest.hexdigest())


def difference(usual, outcome):
    """The first loss that differs, in words."""
    for (step, split, expected), (_, _, got) in zip(usual.losses, outcome.losses, strict=False):
        if expected != got:
            return f"{split} loss at step {step} is {got!r}, usually {expected!r}"
    return "the losses are equal, the weights are not"


if __name__ == "__main__":
    main()
