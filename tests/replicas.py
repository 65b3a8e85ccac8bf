"""One replica against two, two workers and micro-batches: how far a step's loss, and the weights after it, are apart.

Every step begins with the weights that one replica had before it. So the numbers are of one step's rounding, on every host:
training amplifies rounding, and after fifty steps a difference would be a matter of luck.

    python -m tests.replicas                       every model at preset tiny with every task, 12 steps
    python -m tests.replicas --models=gpt,lstm:tagging --optimizer=adamw
    python -m tests.replicas --sides=workers       two processes on the loopback device

Five rows a step, so that two replicas get three and two, and in every row another number of tokens that count. Two logical CPU
devices stand for two accelerators; the workers are real processes.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests import tiny_models, tiny_tasks
from trainers.engine import strategies, workers
from trainers.engine.checkpoints import named_variables
from zoo.registry import MODELS, TASKS

SIDES = ("replicas", "micro-batches", "both", "workers")


def main():
    args = _parser().parse_args()
    if args.worker_of:
        _work(args)
        return 0
    mirrored = strategies.place("mirrored")
    names = args.models.split(",") if args.models else _covering(_cases()) if args.covering else _cases()
    one = strategies.Placement("one replica")
    placements = {"replicas": (mirrored, 1), "micro-batches": (one, 2), "both": (mirrored, 2)}
    ours = {name: _steps(name, one, 1, args) for name in names}
    worst = 0.0
    for side in args.sides.split(","):
        theirs = _workers(ours, args) if side == "workers" else {
            name: _steps(name, *placements[side], args, ours[name]) for name in names
        }  # fmt: skip
        for name in names:
            loss, weights = _difference(ours[name], theirs[name])
            worst = max(worst, loss, weights)
            print(f"{name:26} {side:14} losses {loss:.1e}  weights {weights:.1e}", flush=True)
    print(json.dumps({"worst": worst, "steps": args.steps, "optimizer": args.optimizer}))
    return 0


def _cases():
    """Every model with its first task, if that reads text, and every other task that it has."""
    trained = [name for name in MODELS.names() if not MODELS.config(name).fitted]
    return [*(name for name in trained if TASKS.get(MODELS.config(name).default_task).reads == "text"), *tiny_tasks.cases()]


def _covering(cases):
    """Those cases of which a model, a task or a variant stands in none before: models + tasks, and not models x tasks."""
    seen, chosen = set(), []
    for case in cases:
        if not set(case.split(":")) <= seen:
            chosen.append(case)
            seen.update(case.split(":"))
    return chosen


def _parser():
    parser = argparse.ArgumentParser(prog="python -m tests.replicas", description=__doc__.splitlines()[0])
    parser.add_argument("--models", help="model, or model:task, by commas; by default all that are trained by gradients")
    parser.add_argument("--covering", action="store_true", help="each model, task and variant once, and not every pair")
    parser.add_argument("--sides", default=",".join(SIDES), help="what to set against one replica, by commas")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--optimizer", choices=("sgd", "adamw", "adafactor", "muon"), default="sgd")
    parser.add_argument("--learning_rate", type=float, default=0.05)
    parser.add_argument("--xla", choices=("on", "off"), default="off")
    parser.add_argument("--worker_of", help=argparse.SUPPRESS)
    return parser


def _steps(name, placement, grad_accumulation, args, followed=None):
    """`losses` (steps,), and for every variable its values before the first step and after each, (steps + 1, ...).

    With `followed`, what this returned for one replica, every step begins with the weights that it had before that step.
    """
    task = tuned = batches = None
    with placement.scope():
        if ":" in name:
            task, model, batches, tuned = tiny_tasks.create(name)
        else:
            model = tiny_models.assembled(name)
    trainer = tiny_models.trainer(
        model, args.steps, placement=placement, grad_accumulation=grad_accumulation, xla=args.xla == "on",
        optimizer=args.optimizer, learning_rate=args.learning_rate, task=task, tuned=tuned,
    )  # fmt: skip
    batches = batches or tiny_models.uneven_batches(trainer)
    variables = {
        key: v for key, v in named_variables(**trainer.variables()).items() if "seed_generator" not in key  # nothing is dropped
    }  # fmt: skip
    losses, values = [], [_read(variables)]
    for step in range(args.steps):
        if followed is not None:
            for key, variable in variables.items():
                variable.assign(followed[key][step])
        losses.append(float(trainer.step(batches.batch(step), batches.starts_epoch(step)).loss))
        values.append(_read(variables))
    return {"losses": np.array(losses), **{key: np.stack([value[key] for value in values]) for key in variables}}


def _read(variables):
    """Key -> array; of a carried state all rows, which every worker must read."""
    return {key: np.asarray(v).copy() for key, v in variables.items()}


def _difference(one, other):
    """The largest difference of a loss, and of a weight; of numbers above 1 in parts of them, as they are rounded."""
    if one.keys() != other.keys():
        raise ValueError(f"Variables differ: {sorted(one.keys() ^ other.keys())}.")
    apart = {}
    for name, value in one.items():
        value, theirs = np.float64(value), np.float64(other[name])
        apart[name] = float(np.max(np.abs(value - theirs) / np.maximum(np.abs(value), 1.0)))
    return apart.pop("losses"), max(apart.values())


def _workers(ours, args):
    """What two processes that train together give."""
    names = list(ours)
    with tempfile.TemporaryDirectory() as directory:
        for name, followed in ours.items():
            np.savez(_file(directory, name, "followed"), **followed)
        arguments = [f"--models={','.join(names)}", f"--worker_of={directory}", f"--steps={args.steps}", f"--xla={args.xla}"]
        arguments += [f"--optimizer={args.optimizer}", f"--learning_rate={args.learning_rate}"]
        statuses, _ = workers.launch(2, "tests.replicas", arguments)
        if any(statuses):
            raise RuntimeError(f"The workers ended with {statuses}.")
        return {name: dict(np.load(_file(directory, name, "done"))) for name in names}


def _work(args):
    """What each of the two processes does; the chief writes."""
    placement = strategies.place("multi_worker")
    for name in args.models.split(","):
        followed = dict(np.load(_file(args.worker_of, name, "followed")))
        done = _steps(name, placement, 1, args, followed)
        if placement.is_chief:
            np.savez(_file(args.worker_of, name, "done"), **done)
    placement.barrier()


def _file(directory, name, what):
    return Path(directory) / f"{name.replace(':', '-')}-{what}.npz"


if __name__ == "__main__":
    sys.exit(main())
