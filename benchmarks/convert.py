"""Memory that a conversion takes, beside the size of the weights in float32: python -m benchmarks.convert [--source=PATH ...]

Without `--source` it makes a Hugging Face directory of GPT-2's shape (124 million random weights) and converts that; with it,
it converts a directory or a GGUF file that is there. Each conversion runs in a process of its own, which loads TensorFlow,
notes its memory, and then reads, computes the outputs that the certificate compares, and writes the bundle; told is the peak
above that note.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MARK = 1.3


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convert", description=__doc__.splitlines()[0])
    parser.add_argument("--source", action="append", help="a Hugging Face directory or a GGUF file; may be repeated")
    parser.add_argument("--worker", nargs=2, metavar=("SOURCE", "BUNDLE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return print(json.dumps(_converted(*args.worker)))
    with tempfile.TemporaryDirectory() as directory:
        for i, source in enumerate(args.source or [_gpt2(Path(directory) / "gpt2")]):
            command = [sys.executable, "-m", "benchmarks.convert", "--worker", str(source), f"{directory}/bundle-{i}"]
            printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            print(json.dumps({"source": Path(source).name, **json.loads(printed.splitlines()[-1]), "mark": MARK}), flush=True)


def _gpt2(directory):
    """A Hugging Face directory with random weights of GPT-2's smallest shape."""
    import numpy as np

    from zoo.convert import safetensors
    from zoo.convert.gpt_like import GPT2
    from zoo.models.gpt import GPT, GPTConfig
    from zoo.tokenizers.base import create

    config = GPTConfig.preset("gpt2_small")
    shapes = {v.path.removeprefix("gpt/"): tuple(v.shape) for v in GPT(config).build_from_ids().variables}
    generator = np.random.default_rng(0)
    tensors = []
    for rule in GPT2.rules(config):
        shape = shapes[rule.ours]
        tensors.append((rule.theirs[0], shape, lambda shape=shape: generator.standard_normal(shape, "float32") * 0.02))
    directory.mkdir()
    safetensors.write(directory / safetensors.FILE, tensors)
    fields = {"model_type": "gpt2", "n_inner": None, "activation_function": "gelu_new"}
    fields |= {theirs: getattr(config, ours) for ours, theirs in GPT2.fields.items()}
    (directory / "config.json").write_text(json.dumps(fields), encoding="utf8")
    create("bpe", ["the cat sat on the mat"] * 2, 260).save(directory)
    (directory / "zoo_tokenizer.json").unlink()
    return directory


def _converted(source, target):
    """What one conversion took, in this process."""
    import tensorflow as tf

    from zoo.convert import certificate, gguf, huggingface

    tf.matmul(tf.ones((64, 64)), tf.ones((64, 64)))
    before, began = _megabytes("VmRSS"), time.perf_counter()
    peaks = {}

    def noted(stage, action):
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        result = action()
        peaks[stage] = round(_megabytes("VmHWM") - before)
        return result

    source = Path(source)
    bundle = noted("read", lambda: (gguf if source.is_file() else huggingface).read(source))
    noted("outputs", lambda: [piece.max() for *_, piece in certificate.outputs(bundle, certificate.rows(bundle))])
    noted("save", lambda: bundle.save(target))
    weights = bundle.model.count_params() * 4 / 1e6
    return {
        "weights_mb": round(weights), "peak_mb": peaks, "ratio": round(max(peaks.values()) / weights, 3),
        "before_mb": round(before), "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip


def _megabytes(field):
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024 / 1e6


if __name__ == "__main__":
    main()
