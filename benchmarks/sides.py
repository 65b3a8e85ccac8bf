"""Measures several programs that do the same work, taking turns, so that noise on the machine meets all of them alike.

A *side* is a process that does its work once for each line on its standard input and answers with the seconds it took.
"""

import collections
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def has_module(python, module):
    """Whether an interpreter can import a module."""
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0


def commands_of(module, sides, peer_python, needs="torch"):
    """The command line of each side of a benchmark, peers in their own interpreter. A peer without its module is left out.

    Args:
        module: the benchmark, such as "benchmarks.train_lstm". Its option `--worker=` names a side.
        sides: names; those that begin with `torch` are peers.
        peer_python: the peers' interpreter.
        needs: the module without which a peer does not run.

    Returns:
        Side -> list of arguments.
    """
    found = {}
    for side in sides:
        peer = side.startswith("torch")
        if peer and not has_module(peer_python, needs):
            print(f"{needs} is not installed in {peer_python}: no figure and no ratio for {side}.")
            continue
        found[side] = [peer_python if peer else sys.executable, "-m", module, *sys.argv[1:], f"--worker={side}"]
    return found


def serve(work):
    """What a side does: calls `work()` for each line on standard input and prints how long it took."""
    for _ in sys.stdin:
        start = time.perf_counter()
        work()
        print(time.perf_counter() - start, flush=True)


def measure(commands, rounds):
    """Starts every side, one after the other, then lets them take turns.

    Args:
        commands: side -> command line. Each first builds and compiles, unmeasured.
        rounds: how many times each is measured.

    Returns:
        Side -> list of seconds, one a round.
    """
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    workers = {}
    try:
        for side, command in commands.items():
            workers[side] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                env=environment,
            )  # fmt: skip
            _ask(workers[side])
        seconds = {side: [] for side in workers}
        for _ in range(rounds):
            for side, worker in workers.items():
                seconds[side].append(_ask(worker))
                time.sleep(0.2)  # threads of an idle side stop spinning
        return seconds
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()


def _ask(worker):
    worker.stdin.write("\n")
    worker.stdin.flush()
    answer = worker.stdout.readline()
    if not answer:
        raise SystemExit(f"A side stopped with status {worker.wait()}: {' '.join(worker.args)}")
    return float(answer)


def report(seconds, ours, peers, amount, unit):
    """Prints the median speed of each side, and the median over rounds of ours divided by each peer's.

    Args:
        seconds: from `measure`.
        ours, peers: names of sides.
        amount: units of work done in a round.
        unit: word for them, such as tokens.

    Returns:
        (side of ours, peer) -> ratio of speeds.
    """
    for side, times in seconds.items():
        print(f"  {side:<26} {amount / statistics.median(times):9,.1f} {unit}/s   (best {amount / min(times):,.1f})")
    ratios = {}
    for side in ours:
        for peer in (peer for peer in peers if peer in seconds and peer != side):
            pairs = [theirs / mine for theirs, mine in zip(seconds[peer], seconds[side], strict=True)]
            ratios[side, peer] = statistics.median(pairs)
            print(f"  {side} / {peer}: {ratios[side, peer]:.2f}   (median of {len(pairs)} rounds)")
    return ratios


def print_profile(directory, new_tokens):
    """Prints where the time of the newest profile below a directory went, kind of op by kind of op.

    Args:
        directory: a Path that `tf.profiler.experimental.Profile` wrote to.
        new_tokens: steps of the loop that was profiled.
    """
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    newest = max(directory.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    milliseconds, calls = collections.Counter(), collections.Counter()
    for plane in xplane_pb2.XSpace.FromString(newest.read_bytes()).planes:
        for event in (event for line in plane.lines for event in line.events):
            name, colon, kind = plane.event_metadata[event.metadata_id].name.rpartition(":")
            if colon and "/" in name:
                milliseconds[kind] += event.duration_ps / 1e9
                calls[kind] += 1
    for kind, spent in milliseconds.most_common(20):
        print(f"  {spent / new_tokens:8.3f} ms a token in {calls[kind] / new_tokens:6.1f} calls of {kind}")
