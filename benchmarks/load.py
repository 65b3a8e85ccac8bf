"""Load on one export: many callers in one process, through TensorFlow's C API.

    python -m benchmarks.load --export_dir=runs/gpt/latest/export --minutes=5           1, 2, 4, ... 32 callers in turn
    python -m benchmarks.load --export_dir=... --signature=score --callers=8
    python -m benchmarks.load --export_dir=... --first                                   the first request beside the later ones

Every caller sends its next request when the last is answered. Prints p50, p95, p99, requests and tokens a second, resident
memory. With --first the warm-up records are replayed after loading, as the server does, and then the first request is timed.
"""

import argparse
import json
import statistics
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks.fuzz import newest, resident_bytes
from zoo.serving import replay
from zoo.serving.c_api import SavedModel


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__.splitlines()[0])
    parser.add_argument("--export_dir", type=Path, required=True, help="one version, or the directory of the versions")
    parser.add_argument("--signature", default="generate")
    parser.add_argument("--text", default="The list is", help="the prompt, or the text to be scored")
    parser.add_argument("--rows", type=int, default=1, help="of that text in a request")
    parser.add_argument("--max_new_tokens", type=int, default=32)
    parser.add_argument("--callers", default="1,2,4,8,16,32", help="by commas")
    parser.add_argument("--minutes", type=float, default=5.0, help="in all")
    parser.add_argument("--first", action="store_true", help="only compares the first request with the later ones")
    args = parser.parse_args()
    start = time.perf_counter()
    export = newest(args.export_dir)
    model = SavedModel(export)
    print(f"Loaded in {time.perf_counter() - start:.2f} s, {resident_bytes() / 1e6:,.0f} MB", flush=True)
    inputs = request(model, args)
    if args.first:
        return first(model, export, args.signature, inputs)
    model.run(args.signature, inputs)
    levels = [int(number) for number in args.callers.split(",")]
    print(f"{'callers':>7} {'p50 ms':>9} {'p95 ms':>9} {'p99 ms':>9} {'requests/s':>11} {'tokens/s':>10} {'MB':>7}")
    for callers in levels:
        times, tokens, seconds = load(model, args.signature, inputs, callers, 60 * args.minutes / len(levels))
        p50, p95, p99 = np.percentile(times, (50, 95, 99)) * 1e3
        print(
            f"{callers:>7} {p50:>9.1f} {p95:>9.1f} {p99:>9.1f} {len(times) / seconds:>11.1f} {tokens / seconds:>10,.0f} "
            f"{resident_bytes() / 1e6:>7,.0f}", flush=True,
        )  # fmt: skip
    return None


def request(model, args):
    """The request that is sent over and over: the text in every input of strings that has no default."""
    slots = model.signatures[args.signature]
    inputs = {name: [args.text] * args.rows for name in slots.inputs if name not in slots.defaults}
    if "max_new_tokens" in slots.defaults:
        inputs["max_new_tokens"] = [args.max_new_tokens]
    return inputs


def load(model, signature, inputs, callers, seconds):
    """Seconds of each request, tokens in all (written, or scored), and the seconds that it all took."""
    times, tokens, end = [[] for _ in range(callers)], [0] * callers, time.perf_counter() + seconds

    def call(caller):
        while time.perf_counter() < end:
            start = time.perf_counter()
            answer = model.run(signature, inputs)
            times[caller].append(time.perf_counter() - start)
            rows = len(next(iter(answer.values())))
            per_row = inputs["max_new_tokens"][0] * rows if "max_new_tokens" in inputs else 0
            tokens[caller] += int(answer["num_tokens"].sum()) if "num_tokens" in answer else per_row

    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(callers)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(times, []), sum(tokens), time.perf_counter() - start


def first(model, export, signature, inputs, later=20):
    """Replays the warm-up, then times one request and the ones after it."""
    start = time.perf_counter()
    replay.replay(model, json.loads((export / replay.GOLDEN).read_text(encoding="utf8")))
    print(f"Warm-up replayed in {time.perf_counter() - start:.2f} s")
    times = []
    for _ in range(1 + later):
        start = time.perf_counter()
        model.run(signature, inputs)
        times.append(time.perf_counter() - start)
    median = statistics.median(times[1:])
    print(f"First request {times[0] * 1e3:.1f} ms, median of the later ones {median * 1e3:.1f} ms: {times[0] / median:.2f} x")


if __name__ == "__main__":
    main()
