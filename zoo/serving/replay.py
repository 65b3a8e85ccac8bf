"""Repeats the golden requests of an export in a clean process: python -I zoo/serving/replay.py export/1

Through TensorFlow's C API, with neither TensorFlow's Python nor our code (both are blocked), and prints how many requests gave
the same strings and numbers. With `-` after the export the requests come line by line from standard input, as they are made;
the export need not be there before the first line, which may be `null`.
"""

import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out
import c_api

GOLDEN = Path("assets.extra") / "golden.json"
TOLERANCE = 1e-5


def replay(model, requests):
    """Raises ValueError at the first answer of a loaded model that differs from the golden one.

    Args:
        requests: an iterable of what golden.json holds.

    Returns:
        (signature, seconds) of each request.
    """
    answers, asked = [], []
    for request in requests:
        name, inputs = request["signature"], _as_bytes(request["inputs"])
        if request.get("feed") is not None:
            wanted = model.signatures[name].inputs
            inputs = {**{key: value for key, value in answers[request["feed"]].items() if key in wanted}, **inputs}
        start = time.perf_counter()
        answers.append(model.run(name, inputs))
        asked.append((name, time.perf_counter() - start))
        for output, expected in request["outputs"].items():
            actual = answers[-1][output]
            if differs(actual, expected):
                raise ValueError(
                    f"signature {name}, output {output}: {actual.tolist()} instead of {expected} for {request['inputs']}."
                )
    return asked


def differs(actual, expected):
    """Whether an array is not what JSON holds: other strings, or numbers more than TOLERANCE apart (relative above 1)."""
    expected = np.array(_as_bytes(expected), dtype=actual.dtype if actual.dtype == object else None)
    if actual.size == 0 or expected.size == 0:
        return actual.size != expected.size
    if actual.shape != expected.shape:
        return True
    if actual.dtype.kind != "f":
        return bool(np.any(actual != expected))
    return not np.allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


def _as_bytes(value):
    """Lists and dicts with the strings in them as bytes; JSON holds the bytes that are not UTF-8 as surrogates."""
    if isinstance(value, dict):
        return {key: _as_bytes(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_as_bytes(inner) for inner in value]
    return value.encode("utf8", "surrogateescape") if isinstance(value, str) else value


def main(export, source=None):
    """Exits with a sentence if the export does not load, or at the first answer that differs."""
    try:
        c_api.library()  # which takes a second: the export may still be written meanwhile
        first = sys.stdin.readline() if source == "-" else None
        start = time.perf_counter()
        model = c_api.SavedModel(export)
        loaded = time.perf_counter() - start
        # Nothing that an installation could import may help.
        sys.modules.update(dict.fromkeys(("tensorflow", "tensorflow_text", "keras", "zoo", "trainers", "tfds_configs")))
        if first is None:
            requests = json.loads((Path(export) / GOLDEN).read_text(encoding="utf8"))
        else:
            requests = map(json.loads, filter(None, itertools.chain([first], sys.stdin)))
        asked = replay(model, filter(None, requests))
    except (ValueError, OSError) as error:
        sys.exit(c_api.plainly(str(error)))
    signatures = sorted({name for name, _ in asked})
    print(f"{len(asked)} requests over {', '.join(signatures)}: the same answers (loaded in {loaded:.1f} s)")


if __name__ == "__main__":
    main(*sys.argv[1:])
