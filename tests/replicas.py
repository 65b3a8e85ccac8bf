"""One replica against two, two workers and micro-batches: how far losses and final weights are apart.

    python -m tests.replicas                       every model at preset tiny with every task, 50 steps
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
from zoo.registry import MODELS, TASKS

SIDES = ("replicas", "micro-batches", "both", "workers")


def main():
    args = _parser().parse_args()
    if args.worker_of:
        _work(args)
        return 0
    mirrored = strategies.place("mirrored")
    names = args.models.split(",") if args.models else _cases()
    one = strategies.Placement("one replica")
    placements = {"replicas": (mirrored, 1), "micro-batches": (one, 2), "both": (mirrored, 2)}
    ours = {name: _curve(name, one, 1, args) for name in names}
    worst = 0.0
    for side in args.sides.split(","):
        theirs = _workers(names, args) if side == "workers" else {
            name: _curve(name, *placements[side], args) for name in names
        }  # fmt: skip
        for name in names:
            loss, weights = _difference(ours[name], theirs[name])
            worst = max(worst, loss, weights)
            print(f"{name:26} {side:14} losses {loss:.1e}  final weights {weights:.1e}", flush=True)
    print(json.dumps({"worst": worst, "steps": args.steps, "optimizer": args.optimizer}))
    return 0


def _cases():
    """Every model with its first task, if that reads text, and every other task that it has."""
    trained = [name for name in MODELS.names() if not MODELS.config(name).fitted]
    return [*(name for name in trained if TASKS.get(MODELS.config(name).default_task).reads == "text"), *tiny_tasks.cases()]


def _parser():
    parser = argparse.ArgumentParser(prog="python -m tests.replicas", description=__doc__.splitlines()[0])
    parser.add_argument("--models", help="model, or model:task, by commas; by default all that are trained by gradients")
    parser.add_argument("--sides", default=",".join(SIDES), help="what to set against one replica, by commas")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--optimizer", choices=("sgd", "adamw", "adafactor", "muon"), default="sgd")
    parser.add_argument("--learning_rate", type=float, default=0.05)
    parser.add_argument("--xla", choices=("on", "off"), default="off")
    parser.add_argument("--worker_of", help=argparse.SUPPRESS)
    return parser


def _curve(name, placement, grad_accumulation, args):
    """name -> array: the losses of all steps, and every variable after the last."""
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
    losses = [float(trainer.step(batches.batch(i), batches.starts_epoch(i)).loss) for i in range(args.steps)]
    carried = trainer.variables().get("carried", [])
    return {
        "losses": np.array(losses), **{v.path: np.asarray(v) for v in model.variables},
        **{f"carried/{v.name}": np.asarray(v) for v in carried},
    }  # fmt: skip


def _difference(one, other):
    """The largest difference of a loss, and of a weight."""
    if one.keys() != other.keys():
        raise ValueError(f"Variables differ: {sorted(one.keys() ^ other.keys())}.")
    apart = {name: float(np.max(np.abs(np.float64(value) - np.float64(other[name])))) for name, value in one.items()}
    return apart.pop("losses"), max(apart.values())


def _workers(names, args):
    """The curves of two processes that train together."""

    with tempfile.TemporaryDirectory() as directory:
        arguments = [f"--models={','.join(names)}", f"--worker_of={directory}", f"--steps={args.steps}", f"--xla={args.xla}"]
        arguments += [f"--optimizer={args.optimizer}", f"--learning_rate={args.learning_rate}"]
        statuses, _ = workers.launch(2, "tests.replicas", arguments)
        if any(statuses):
            raise RuntimeError(f"The workers ended with {statuses}.")
        return {name: dict(np.load(Path(directory) / f"{name.replace(':', '-')}.npz")) for name in names}


def _work(args):
    """What each of the two processes does; the chief writes."""
    placement = strategies.place("multi_worker")
    for name in args.models.split(","):
        curve = _curve(name, placement, 1, args)
        if placement.is_chief:
            np.savez(Path(args.worker_of) / f"{name.replace(':', '-')}.npz", **curve)
    placement.barrier()


if __name__ == "__main__":
    sys.exit(main())
