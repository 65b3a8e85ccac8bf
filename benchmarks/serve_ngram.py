"""The n-gram as it is served: time to load, tokens a second of the `score` signature, resident memory; KenLM beside it.

    python -m benchmarks.serve_ngram --brown=brown.txt [--peer_python=PATH]

Every tenth line is held out and scored, a sentence a text, `--batch_size` of them a request, text in and log-probabilities out,
through the exported SavedModel as plain TensorFlow loads it (`ours`) and through the C API, TF Serving's loader (`server`).
KenLM is its Python module on the ARPA file that we write, which it turns into its default binary form (probing) as it loads.
Resident memory is what the process grew by, from before the load until after the first round; TensorFlow's own share is in it,
which a process pays once. So the same model is then loaded a second time, beside the first, and what that adds is the model
alone.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import sides


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve_ngram", description=__doc__.splitlines()[0])
    parser.add_argument("--brown", required=True, help="the text, a sentence a line")
    parser.add_argument("--order", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=1_024, help="sentences of one request")
    parser.add_argument("--rounds", type=int, default=7, help="how often the held-out text is scored")
    parser.add_argument("--peer_python", default=sys.executable, help="the interpreter that has kenlm")
    parser.add_argument("--worker", choices=sorted(WORKERS), help=argparse.SUPPRESS)
    parser.add_argument("--directory", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return WORKERS[args.worker](args)
    with tempfile.TemporaryDirectory() as args.directory:
        tokens = _run(args, "export", sys.executable)["tokens"]
        found = {side: _run(args, side, sys.executable) for side in ("ours", "server")}
        if sides.has_module(args.peer_python, "kenlm"):
            found["kenlm"] = _run(args, "kenlm", args.peer_python)
        else:
            print(f"kenlm is not installed in {args.peer_python}: no figure and no ratio for it.")
        for side, seen in found.items():
            print(
                f"{side:<6} loads in {seen['load']:.2f} s, scores {tokens / seen['score']:,.0f} tokens/s, "
                f"{seen['grown_mb']:.0f} MB more resident ({seen['resident_mb']:.0f} MB in all), "
                f"{seen['second_mb']:.0f} MB for a second one beside it"
            )
        if "kenlm" in found:
            print(
                f"ours / kenlm: speed {found['kenlm']['score'] / found['ours']['score']:.2f}, "
                f"memory {found['ours']['grown_mb'] / found['kenlm']['grown_mb']:.2f}, "
                f"of a second one in the server's loader {found['server']['second_mb'] / found['kenlm']['second_mb']:.2f}"
            )
            print(f"sum of log10 p: ours {found['ours']['total']:.2f}, KenLM's {found['kenlm']['total']:.2f}")
    return None


def _run(args, worker, python):
    options = {name: getattr(args, name) for name in ("brown", "order", "batch_size", "rounds", "directory")}
    command = [python, "-m", "benchmarks.serve_ngram", f"--worker={worker}", *(f"--{k}={v}" for k, v in options.items())]
    done = subprocess.run(command, cwd=sides.ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"The stage {worker!r} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _lines(args):
    lines = Path(args.brown).read_text(encoding="utf8").splitlines()
    return [line for i, line in enumerate(lines, 1) if i % 10], lines[9::10]


def _export(args):
    import numpy as np

    from zoo.convert import arpa
    from zoo.export import export_saved_model
    from zoo.models.ngram import NGram, NGramConfig
    from zoo.registry import TASKS
    from zoo.tokenizers.word import WordTokenizer

    train, held_out = _lines(args)
    tokenizer = WordTokenizer.train(["\n".join(train)])
    model = NGram(NGramConfig(args.order, vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id, unk_id=tokenizer.unk_id))
    model.fit_closed_form(np.array([tokenizer.eos_id, *tokenizer.encode("\n".join(train)), tokenizer.eos_id], np.int32))
    export_saved_model(Path(args.directory) / "export", model, tokenizer, TASKS.get("language_modeling")())
    words = [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)]
    arpa.write(Path(args.directory) / "model.arpa", model, words)
    print(json.dumps({"tokens": sum(len(tokenizer.encode(line)) for line in held_out)}))


def _measure(args, load):
    """Loads, scores round after round, loads a second time, and prints what that took; what `load()` returns scores the
    text."""
    before = _resident_mb()
    start = time.perf_counter()
    score = load()
    seconds, times = time.perf_counter() - start, []
    total, resident = score(), _resident_mb()
    for _ in range(args.rounds):
        start = time.perf_counter()
        score()
        times.append(time.perf_counter() - start)
    median, first = sorted(times)[len(times) // 2], _resident_mb()
    second = load()
    second()
    print(json.dumps({
        "load": seconds, "score": median, "total": total, "grown_mb": resident - before, "resident_mb": resident,
        "second_mb": _resident_mb() - first,
    }))  # fmt: skip


def _resident_mb():
    status = Path("/proc/self/status").read_text(encoding="utf8")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def _ours(args):
    import math

    import tensorflow as tf

    held_out = _lines(args)[1]
    requests = [tf.constant(held_out[i : i + args.batch_size]) for i in range(0, len(held_out), args.batch_size)]

    def load():
        score = tf.saved_model.load(str(Path(args.directory) / "export" / "1")).signatures["score"]
        return lambda: sum(score(text=request)["log_prob"].numpy().sum(dtype=float) for request in requests) / math.log(10)

    _measure(args, load)


def _server(args):
    import math

    from zoo.serving import c_api

    held_out = _lines(args)[1]
    requests = [held_out[i : i + args.batch_size] for i in range(0, len(held_out), args.batch_size)]
    c_api.library()

    def load():
        model = c_api.SavedModel(Path(args.directory) / "export" / "1")
        return lambda: sum(model.run("score", {"text": text})["log_prob"].sum(dtype=float) for text in requests) / math.log(10)

    _measure(args, load)


def _kenlm(args):
    import kenlm

    held_out = _lines(args)[1]

    def load():
        model = kenlm.Model(str(Path(args.directory) / "model.arpa"))
        return lambda: sum(model.score(line, eos=False) for line in held_out)

    _measure(args, load)


WORKERS = {"export": _export, "ours": _ours, "server": _server, "kenlm": _kenlm}

if __name__ == "__main__":
    main()
