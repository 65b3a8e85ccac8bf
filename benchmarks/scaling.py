"""How training grows with processes: tokens/s of workers that have one core each, and the time of an all-reduce by its bytes.

    python -m benchmarks.scaling                                  1 and 2 workers on this host, and a sum of 1 to 64 MB
    python -m benchmarks.scaling --workers=1,2,4 --steps=60       as far as cores reach
    python -m benchmarks.scaling --machines=8,64 --bandwidth=1.25e9 --latency=5e-5    what a network of that kind would give

Every worker is a process of its own that stays on one core, as under `taskset -c`, and talks to the others over the loopback
device. It trains the default GPT on bytes with a batch of its own, so n workers read n times the tokens. The last lines say
what the numbers would make of more machines of the same kind, and from which assumptions.
"""

import argparse
import contextlib
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from trainers.engine import workers

FLOAT_BYTES = 4
VOCABULARY = 257  # bytes, and the end of a text


def main(argv=None):
    args = _parser().parse_args(argv)
    if args.worker:
        return _work(args)
    speeds, one = {}, None
    for count in args.workers:
        speeds[count], own = _speed(count, args)
        share = speeds[count] / (count * speeds[args.workers[0]] / args.workers[0])
        clock = f"{speeds[count]:,.0f} tokens/s, {share:.2f} of as many times one"
        print(f"{count} workers, one core each: {clock}; the first reads {own:,.0f} tokens a core second", flush=True)
        one = one or own
    seconds = _sums(args)
    for megabytes, found in seconds.items():
        print(
            f"all-reduce of {megabytes} MB between 2 workers: {1e3 * found:.1f} ms, {megabytes / found:,.0f} MB/s", flush=True
        )
    _project(args, one)
    return 0


def _parser():
    def numbers(text):
        return [int(number) for number in text.split(",")]

    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=numbers, default=[1, 2])
    parser.add_argument("--megabytes", type=numbers, default=[1, 4, 16, 64], help="of the sums")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch_size", type=int, default=16, help="rows of each worker")
    parser.add_argument("--seq_length", type=int, default=128)
    parser.add_argument("--preset", default="default", help="of gpt")
    parser.add_argument("--machines", type=numbers, default=[8, 64])
    parser.add_argument("--bandwidth", type=float, default=1.25e9, help="bytes/s of a machine's network, 10 Gbit/s")
    parser.add_argument("--latency", type=float, default=5e-5, help="seconds until a message arrives")
    parser.add_argument("--worker", choices=("train", "sum"), help=argparse.SUPPRESS)
    parser.add_argument("--directory", help=argparse.SUPPRESS)
    return parser


def _launch(count, args, what, directory):
    """Runs `count` of this file's workers and waits for them."""
    options = {name: getattr(args, name) for name in ("steps", "batch_size", "seq_length", "preset")}
    given = [f"--{name}={value}" for name, value in options.items()]
    given += [f"--worker={what}", f"--directory={directory}", f"--workers={count}"]
    given += [f"--megabytes={','.join(map(str, args.megabytes))}"]
    if count == 1:
        subprocess.run([sys.executable, "-m", "benchmarks.scaling", *given], stdout=subprocess.DEVNULL, check=True)
        return
    statuses, _ = workers.launch(count, "benchmarks.scaling", given)
    if any(statuses):
        raise SystemExit(f"The workers ended with {statuses}.")


def _work(args):
    cluster = workers.from_environment()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[(cluster.index if cluster else 0) % len(cores)]})
    if args.worker == "sum":
        return _sum(args)
    from trainers.engine.metrics_log import MetricsLog

    count = cluster.size if cluster else 1
    sys.argv = [
        "trainers/run.py", "--model=gpt", f"--preset={args.preset}", "--tokenizer=byte", "--noexport", "--eval_every=1000000",
        f"--data_path={args.directory}/text.txt", f"--model_dir={args.directory}/{count}", f"--steps={args.steps}",
        f"--batch_size={count * args.batch_size}", f"--seq_length={args.seq_length}", "--eval_tokens=2048",
    ]  # fmt: skip
    used, write = [], MetricsLog.write

    def noting(log, step, split, *rest, **more):
        if split == "train":
            used.append((step, time.process_time()))
        return write(log, step, split, *rest, **more)

    MetricsLog.write = noting
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            runpy.run_module("trainers.run", run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise
    if not cluster or cluster.index == 0:
        (Path(args.directory) / "used.json").write_text(json.dumps(used))
    return 0


def _speed(count, args):
    """Tokens/s of all workers together by the clock, and what the chief reads in a second of its core's time.

    Both are of the later half of the steps. On a busy machine only the second tells anything; time spent waiting for the other
    workers is not in it.
    """
    with tempfile.TemporaryDirectory() as directory:
        files = [file for file in sorted(Path(__file__).parent.parent.rglob("*.py")) if file.is_file()]
        (Path(directory) / "text.txt").write_text("".join(file.read_text(encoding="utf8") for file in files), encoding="utf8")
        _launch(count, args, "train", directory)
        lines = map(json.loads, (Path(directory) / str(count) / "metrics.jsonl").read_text().splitlines())
        speeds = [line["tokens_per_second"] for line in lines if line["split"] == "train" and "tokens_per_second" in line]
        used = json.loads((Path(directory) / "used.json").read_text())
    half = len(used) // 2
    (first, before), (last, after) = used[half], used[-1]
    own = (last - first) * args.batch_size * args.seq_length
    return statistics.median(speeds[half:]), own / (after - before)


def _sums(args):
    """{megabytes: seconds} of sums between two workers."""
    with tempfile.TemporaryDirectory() as directory:
        _launch(2, args, "sum", directory)
        found = json.loads((Path(directory) / "sums.json").read_text())
    return {int(megabytes): seconds for megabytes, seconds in found.items()}


def _sum(args):
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    found = {}
    for megabytes in args.megabytes:
        size = [megabytes * 10**6 // FLOAT_BYTES]

        @tf.function
        def summed(size=size):
            def sum_of_all():
                return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.ones(size))

            return strategy.run(sum_of_all)

        summed()
        seconds = []
        for _ in range(11):
            began = time.perf_counter()
            strategy.experimental_local_results(summed())[0][:1].numpy()
            seconds.append(time.perf_counter() - began)
        found[megabytes] = statistics.median(seconds)
    if workers.from_environment().index == 0:
        (Path(args.directory) / "sums.json").write_text(json.dumps(found))
    return 0


def _project(args, speed):
    """Prints what as many machines as `args.machines` would give, each as fast as one worker here."""
    from zoo.registry import MODELS

    config = MODELS.config("gpt").preset(args.preset, vocab_size=VOCABULARY)
    num_bytes, tokens = FLOAT_BYTES * config.num_params(), args.batch_size * args.seq_length
    print(
        f"assumed: a ring of {args.bandwidth:.3g} bytes/s and {args.latency:.1g} s a message, {num_bytes / 1e6:.1f} MB of "
        f"gradients, {tokens:,} tokens a step and worker, nothing computed meanwhile"
    )
    for count in args.machines:
        step, reduce = tokens / speed, sum_seconds(count, num_bytes, args.bandwidth, args.latency)
        whole, share = step + reduce, step / (step + reduce)
        print(
            f"{count} machines: step {1e3 * step:.0f} ms, sum {1e3 * reduce:.0f} ms, {count * tokens / whole:,.0f} tokens/s, "
            f"{share:.2f} of as many times one"
        )


def sum_seconds(count, num_bytes, bandwidth, latency):
    """Seconds of a ring's all-reduce between `count` machines: 2 (n - 1) messages of 1 / n of the bytes."""
    return 2 * (count - 1) * (latency + num_bytes / count / bandwidth)


if __name__ == "__main__":
    sys.exit(main())
