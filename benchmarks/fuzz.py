"""Sends nonsense to an export through TensorFlow's C API: each request is answered or refused by a clean InvalidArgument.

    python -m benchmarks.fuzz --export_dir=runs/gpt/latest/export --requests=10000      so many a signature

Random Unicode, invalid UTF-8, empty and 1 MB strings, batches of 0, options that are negative, huge or NaN, wrong shapes, state
that no model ever had. Ends with status 1 at the first crash of the session, NaN, or error that does not blame the request; a
request of more than --seconds kills the process. Memory after may be 5% above memory once it is warm.
"""

import argparse
import collections
import contextlib
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from zoo.serving.c_api import STRING, RequestError, SavedModel
from zoo.serving.versions import numbered

INTEGERS = (0, 1, 2, 3, 7, -1, -5, 1_000_000, 2**31 - 1, -(2**31))
FLOATS = (0.0, 0.7, 1.0, 1e-45, 1e-6, 3e38, -1.0, float("nan"), float("inf"), -float("inf"))
UNICODE = (
    (0x20, 0x7E),
    (0xA0, 0x24F),
    (0x400, 0x4FF),
    (0x3040, 0x30FF),
    (0x4E00, 0x9FFF),
    (0x1F300, 0x1F6FF),
    (0xE000, 0xE0FF),
)
# Refusals that blame the request. OUT_OF_RANGE and RESOURCE_EXHAUSTED would be a server's own trouble.
CLEAN = {"INVALID_ARGUMENT"}
# What some vocabularies give a meaning of its own.
MARKS = (b"[MASK]", b"[MASK]", b"<mask>", b"[SEP]", b"</s>", b" ")
MEGABYTE = tuple(piece * (2**20 // len(piece)) for piece in (b"a", b"the ", "東".encode(), b"\xff"))


def random_string(chance, megabyte):
    kind = chance.random()
    if megabyte and kind < 0.002:
        return chance.choice(MEGABYTE)
    if kind < 0.1:
        return b""
    if kind < 0.2:
        return chance.choice(MARKS).join(random_string(chance, False) for _ in range(chance.randint(2, 3)))
    if kind < 0.35:
        return chance.randbytes(chance.randint(1, 40))
    low, high = chance.choice(UNICODE)
    return "".join(chr(chance.randint(low, high)) for _ in range(chance.randint(1, 30))).encode()


def random_array(chance, slot, batch, megabyte):
    """An array for an input: mostly of the right shape, with values of every kind."""
    shape = [batch if i == 0 else size if size >= 0 else chance.randint(0, 5) for i, size in enumerate(slot.shape)]
    if chance.random() < 0.05:  # a wrong number of rows, of axes, or of values on the last one
        shape = chance.choice([[*shape[:-1], chance.randint(0, 5)], [], [*shape, 2], [batch + 1, *shape[1:]]])
    count = int(np.prod(shape))
    if slot.dtype == STRING:
        flat = np.empty(count, object)
        flat[:] = [random_string(chance, megabyte) for _ in range(count)]
        return flat.reshape(shape)
    if slot.dtype == 1:
        return np.array([chance.choice(FLOATS) for _ in range(count)], np.float32).reshape(shape)
    wide = (2**63 - 1, -(2**63)) if slot.dtype == 9 else ()
    return np.array([chance.choice(INTEGERS + wide) for _ in range(count)], np.int64).reshape(shape)


def random_request(chance, model, signature, answers, megabyte):
    """Inputs for a signature: options are often left out; tensors of a state often come from an answer that the model gave."""
    slots = model.signatures[signature]
    batch = chance.choice((0, 1, 1, 1, 2, 3))
    inputs = {}
    if answers and chance.random() < 0.7:
        known = chance.choice(answers)
        inputs = {name: known[name] for name in slots.inputs if name in known}
        batch = len(next(iter(inputs.values()))) if inputs else batch
    for name, slot in slots.inputs.items():
        if name in inputs and chance.random() < 0.97 or name in slots.defaults and chance.random() < 0.7:
            continue
        inputs[name] = random_array(chance, slot, batch, megabyte)
    return inputs


def resident_bytes():
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4_096


def fuzz(model, signature, requests, seed=0, megabyte=True, limit=300):
    """Sends random requests to one signature.

    Returns:
        Counter of outcomes, the longest a request took, and resident bytes once warm and at the end.

    Raises:
        SystemExit: an answer with NaN, or an error that does not blame the request; it says which.
    """
    chance, outcomes, slowest, answers = random.Random(seed), collections.Counter(), 0.0, _states(model, signature)
    if megabyte:
        _send_giants(model, signature)
    warm = resident_bytes()
    for i in range(requests):
        inputs = random_request(chance, model, signature, answers, megabyte)
        signal.alarm(limit)
        start = time.perf_counter()
        try:
            outputs = model.run(signature, inputs)
        except RequestError as error:
            outcomes[error.code] += 1
            if error.code not in CLEAN:
                raise SystemExit(f"{signature}, request {i}: {str(error)[:500]} for {str(inputs)[:500]}") from error
        else:
            outcomes["answered"] += 1
            given = any(v.dtype.kind == "f" and not np.isfinite(v).all() for n, v in inputs.items() if n.startswith("state_"))
            bad = [name for name, value in outputs.items() if value.dtype.kind == "f" and np.isnan(value).any()]
            if bad and not given:
                raise SystemExit(f"{signature}, request {i}: NaN in {', '.join(bad)} for {str(inputs)[:500]}")
        slowest = max(slowest, time.perf_counter() - start)
        signal.alarm(0)
        if i == requests // 4:
            warm = resident_bytes()
    return outcomes, slowest, warm, resident_bytes()


def _send_giants(model, signature):
    """The largest strings first, three in a request: what memory they take is then known when it counts as warm."""
    slots = model.signatures[signature]
    for text in MEGABYTE:
        inputs = {name: [text] * 3 for name, slot in slots.inputs.items() if slot.dtype == STRING}
        with contextlib.suppress(RequestError):
            model.run(signature, inputs)


def _states(model, signature):
    """Answers of prefill to sensible prompts, where the signature goes on from one."""
    if not any(name.startswith("state_") for name in model.signatures[signature].inputs) or "prefill" not in model.signatures:
        return []
    slot = "prompt" if "prompt" in model.signatures["prefill"].inputs else "text"
    return [model.run("prefill", {slot: texts, "max_new_tokens": [6]}) for texts in (["a"], ["The", ""], ["x", "yy", "z"])]


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--export_dir", type=Path, required=True, help="one version, or the directory of the versions")
    parser.add_argument("--requests", type=int, default=10_000, help="a signature")
    parser.add_argument("--signatures", help="which, by commas; all if not given")
    parser.add_argument("--seconds", type=int, default=300, help="that one request may take")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    # oneDNN keeps a compiled product for each of the last 1,024 shapes, and nonsense has many: that would look like a leak.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    model = SavedModel(newest(args.export_dir))
    failed = False
    for signature in args.signatures.split(",") if args.signatures else sorted(model.signatures):
        outcomes, slowest, warm, after = fuzz(model, signature, args.requests, args.seed, limit=args.seconds)
        growth = after / warm - 1
        failed |= growth > 0.05
        counts = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common())
        print(
            f"{signature}: {counts}; slowest {slowest:.2f} s; memory {warm / 1e6:,.0f} -> {after / 1e6:,.0f} MB "
            f"({growth:+.1%})",
            flush=True,
        )
    sys.exit("Memory grew by more than 5%." if failed else 0)


def newest(directory):
    """The version in a directory, or the directory itself if it is one."""
    versions = numbered(directory)
    return versions[max(versions)] if versions else directory


if __name__ == "__main__":
    main()
