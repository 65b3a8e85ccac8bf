"""Several processes that train one model: who is who, read from TF_CONFIG, and a launcher for this host.

Imports no TensorFlow.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

from zoo.config import Refusal

GRACE_SECONDS = 30  # for the others to end by themselves when one has died
PR_SET_PDEATHSIG = 1  # of Linux's prctl


class WorkerGone(Exception):
    """Another worker does not answer any more; the message tells what TensorFlow saw."""


@dataclass(frozen=True)
class Cluster:
    """Which worker this process is, and of how many; worker 0 is the chief."""

    index: int
    size: int


def from_environment():
    """The `Cluster` that TF_CONFIG describes, or None when it is not set or names one process alone.

    Raises:
        Refusal: TF_CONFIG that cannot be understood, or a task that does not train.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        return None
    try:
        config = json.loads(text)
        cluster = config.get("cluster", {})
        hosts = {kind: len(cluster.get(kind, [])) for kind in ("chief", "worker")}
        kind, index = config["task"]["type"], int(config["task"]["index"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Refusal(
            "TF_CONFIG must be JSON such as "
            '{"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}; it is not: '
            f"{type(error).__name__} {error}."
        ) from error
    if set(cluster) - set(hosts) or kind not in hosts or not 0 <= index < hosts[kind]:
        raise Refusal(
            f"TF_CONFIG makes this process {kind} {index} of {json.dumps(cluster)}; only chief and worker tasks train, each "
            "with an index below the number of its hosts."
        )
    size = sum(hosts.values())
    return Cluster(index + (hosts["chief"] if kind == "worker" else 0), size) if size > 1 else None


def launch(num_workers, module, arguments):
    """Runs `python -m module *arguments` as `num_workers` processes on this host that train together.

    The chief writes to this process's terminal; what the others say is shown when they fail otherwise than the chief. A
    signal is passed on to all. When one dies, the others are given time to notice and end, and are then killed.

    Returns:
        (statuses, dead): the exit status of each, and the numbers of those that a signal ended which was not ours.
    """
    with contextlib.ExitStack() as stack:
        said = [stack.enter_context(tempfile.TemporaryFile()) if i else None for i in range(num_workers)]
        hosts = _addresses(num_workers)
        temporary = stack.enter_context(tempfile.TemporaryDirectory())  # of the workers, removed however they end
        processes = [_start(module, arguments, hosts, i, said[i], temporary) for i in range(num_workers)]
        stack.callback(_kill, processes)
        stack.enter_context(_passing_on(processes))
        killed = _watch(processes)
        statuses = [process.returncode for process in processes]
        for i, status in enumerate(statuses):
            if i and status > 0 and status != statuses[0]:
                said[i].seek(0)
                for line in said[i].read().decode(errors="replace").splitlines()[-20:]:
                    print(f"[worker {i}] {line}", file=sys.stderr)
        return statuses, [i for i, status in enumerate(statuses) if status < 0 and i not in killed]


def _addresses(count):
    """Free ports of the loopback device."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]


def _start(module, arguments, hosts, index, output, temporary):
    config = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, "TF_CONFIG": json.dumps(config), "TMPDIR": temporary}, stdout=output,
        stderr=output and subprocess.STDOUT,
        # A session of its own, so that Ctrl-C comes once, from us; and nobody goes on to write when we are killed.
        start_new_session=True, preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )  # fmt: skip


def _die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def _passing_on(processes):
    """While this block runs, Ctrl-C and SIGTERM go to the workers, who know what to do."""

    def forward(number, _):
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(processes):
    """Waits for all. Returns the numbers of those that had to be killed, having outlived another's failure."""
    deadline, killed = None, []
    while any(process.poll() is None for process in processes):
        time.sleep(0.1)
        if deadline is None and any(process.poll() for process in processes):
            deadline = time.monotonic() + GRACE_SECONDS
        elif deadline is not None and time.monotonic() > deadline:
            killed = _kill(processes)
    return killed


def _kill(processes):
    """Ends those that still run. Returns their numbers."""
    running = [i for i, process in enumerate(processes) if process.poll() is None]
    for i in running:
        processes[i].kill()
        processes[i].wait()
    return running
