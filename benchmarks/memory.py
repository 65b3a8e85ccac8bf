"""Peak memory of a training step against its length: the plain form beside attention in blocks, logits in chunks and blocks
computed again.

    python -m benchmarks.memory                                            T = 512 ... 8,192, batch 1, GPT 4 x 128
    python -m benchmarks.memory --lengths=1024,2048 --vocab_size=50257
    python -m benchmarks.memory --ways=plain,blockwise,chunks,remat,all    what each part brings

Every figure is a process of its own: the most memory that it ever held (VmHWM), less what it held with the model and the
optimizer built and nothing run. Its last column is the growth for twice the length: 2 is linear, 4 quadratic.
"""

import argparse
import subprocess
import sys
import time

WAYS = {
    "plain": dict(attention="plain", logits="whole", remat="none"),
    "blockwise": dict(attention="blockwise", logits="whole", remat="none"),
    "chunks": dict(attention="plain", logits="chunks", remat="none"),
    "remat": dict(attention="plain", logits="whole", remat="block"),
    "all": dict(attention="blockwise", logits="chunks", remat="block"),
}


def main():
    args = _parser().parse_args()
    if args.worker:
        return _step(args)
    lengths = [int(length) for length in args.lengths.split(",")]
    size = f"{args.num_layers} x {args.hidden_dim}, {args.num_heads} heads, V {args.vocab_size:,}"
    print(f"One training step of GPT {size}, batch {args.batch_size}, XLA {'on' if args.xla else 'off'}; MB above the start")
    print(f"  {'way':<10}" + "".join(f"{length:>9,}" for length in lengths) + "   growth at the end")
    peaks = {}
    for way in args.ways.split(","):
        if way not in WAYS:
            raise SystemExit(f"--ways: no way is called {way!r}; known: {', '.join(WAYS)}.")
        print(f"  {way:<10}", end="", flush=True)
        for length in lengths:
            peaks[way, length] = _peak(args, way, length)
            shown = "none" if peaks[way, length] is None else f"{peaks[way, length]:,.0f}"
            print(f"{shown:>9}", end="", flush=True)
        last, before = (peaks[way, length] for length in (lengths[-1], lengths[max(0, len(lengths) - 2)]))
        print(f"   x {last / before:.2f}" if last and before else "")
    return peaks


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", default="512,1024,2048,4096,8192", help="T, by commas")
    parser.add_argument("--ways", default="plain,all", help=f"which of {', '.join(WAYS)}, by commas")
    parser.add_argument("--xla", action="store_true", help="compile the step")
    for name, value in (
        ("num_layers", 4), ("num_heads", 4), ("hidden_dim", 128), ("vocab_size", 4_096), ("batch_size", 1), ("steps", 2),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    return parser


def _peak(args, way, length):
    """MB, or None when the process was killed, as for want of memory."""
    options = [f"--{name}={getattr(args, name)}" for name in (
        "num_layers", "num_heads", "hidden_dim", "vocab_size", "batch_size", "steps",
    )]  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.memory", *options, f"--lengths={length}", f"--worker={way}"]
    answer = subprocess.run(
        command + (["--xla"] if args.xla else []), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
    )
    return float(answer.stdout.split()[-2]) if answer.returncode == 0 else None


def _status(field):
    """MB of this process: VmRSS is what it holds now, VmHWM the most that it ever held."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) / 1_000 for line in file if line.startswith(f"{field}:"))


def _step(args):
    import numpy as np

    from benchmarks.train_gpt import SETTINGS
    from trainers.engine import loop, optimizers
    from zoo.registry import MODELS, TASKS

    way, length = WAYS[args.worker], int(args.lengths)
    model_class = MODELS.get("gpt")
    model = model_class(
        model_class.config_class.preset(
            "default",
            vocab_size=args.vocab_size,
            max_length=length,
            num_layers=args.num_layers,
            num_heads=args.num_heads,
            hidden_dim=args.hidden_dim,
            attention=way["attention"],
            remat=way["remat"],
        )  # fmt: skip
    ).build_from_ids()
    optimizer = optimizers.create(SETTINGS, model.trainable_variables)
    task_class = TASKS.get("language_modeling")
    task = task_class(task_class.config_class(logits=way["logits"]))
    trainer = loop.Trainer(
        model, task, optimizer, batch_size=args.batch_size, seq_length=length, xla=args.xla, fuse=not args.xla
    )
    ids = np.random.default_rng(0).integers(0, args.vocab_size, (args.batch_size, length + 1)).astype("int32")
    batch = dict(token_ids=ids[:, :-1], labels=ids[:, 1:], loss_weights=np.ones((args.batch_size, length), "float32"))
    start = _status("VmRSS")
    for _ in range(args.steps):
        began = time.perf_counter()
        float(trainer.step(batch)[0])
    print(_status("VmHWM") - start, time.perf_counter() - began)


if __name__ == "__main__":
    main()
