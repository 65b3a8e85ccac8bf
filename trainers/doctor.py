"""Looks at the machine and the installation and says what is right, what is not, and what can be trained here.

    python -m trainers.doctor

A line begins with `ok`, `note` (something is missing that a CPU can do without) or `WRONG`. The exit status is 1 if
anything is wrong, else 0.
"""

import ctypes
import importlib.metadata
import os
import platform
import re
import shutil
import sys
from pathlib import Path

from absl import flags

from trainers import flags as trainer_flags
from trainers import program
from trainers.cost import machine

FLAGS = flags.FLAGS
PACKAGES = ("tensorflow", "keras", "keras-nlp", "numpy", "tensorflow-datasets", "tokenizers", "absl-py")
NEWEST_PYTHON, OLDEST_PYTHON = (3, 13), (3, 10)
NEEDED_DISK = 2**30
GIGA = 1e9
PRECISIONS = ("float32", "bfloat16", "float16")


class Report:
    """Prints findings as they come and remembers whether one was wrong."""

    def __init__(self):
        self.wrong = False

    def ok(self, line):
        print(f"ok     {line}", flush=True)

    def note(self, line):
        print(f"note   {line}", flush=True)

    def fail(self, line):
        self.wrong = True
        print(f"WRONG  {line}", flush=True)


def main():
    report = Report()
    check_versions(report)
    check_disk(report)
    with program.quiet():
        import tensorflow as tf
    check_devices(report, tf)
    check_xla(report, tf)
    check_precisions(report, tf)
    check_memory(report)
    if FLAGS.measure:
        gigabytes = machine.memory_bandwidth() / GIGA
        report.ok(f"memory bandwidth: {gigabytes:.1f} GB/s")
    trainable(report)
    if report.wrong:
        sys.exit(1)


def check_versions(report):
    """Python and the packages that everything stands on, with the ranges that this project asks for."""
    version = sys.version_info[:2]
    said = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    if OLDEST_PYTHON <= version <= NEWEST_PYTHON:
        report.ok(said)
    else:
        report.fail(f"{said}; this zoo is for Python 3.10 to 3.13")
    for name in PACKAGES:
        try:
            report.ok(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            report.fail(f"{name} is not installed; run pip install -e . in the zoo's directory")
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        report.fail(f"KERAS_BACKEND is {backend}; the trainers need tensorflow: unset it")


def check_disk(report):
    """Room and permission where runs and tokens are written."""
    from trainers.prepare import cache_directory

    for what, path in (("runs", Path("runs")), ("tokens", cache_directory())):
        there = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
        free = shutil.disk_usage(there).free
        said = f"{what} go to {path.absolute()}: {free / GIGA:.1f} GB free"
        if not os.access(there, os.W_OK):
            report.fail(f"{said}, but {there} may not be written")
        elif free < NEEDED_DISK:
            report.fail(f"{said}; make room")
        else:
            report.ok(said)


def check_devices(report, tf):
    """Processor and accelerators; why a GPU is not seen."""
    name, cores, cpu_flags = machine.processor()
    report.ok(f"CPU: {name}, {cores} cores, {', '.join(cpu_flags) or 'no vector extensions that are known here'}")
    gpus, tpus = (tf.config.list_physical_devices(kind) for kind in ("GPU", "TPU"))
    for device in (*gpus, *tpus):
        details = tf.config.experimental.get_device_details(device)
        report.ok(f"{device.device_type}: {details.get('device_name', device.name)}")
    if gpus or tpus:
        return
    present, why = why_no_gpu(tf.test.is_built_with_cuda(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    (report.fail if present else report.note)(f"no GPU: {why}")


def why_no_gpu(built_with_cuda, visible, driver=Path("/proc/driver/nvidia/version"), library="libcuda.so.1"):
    """(whether there is a GPU that should have been seen, why TensorFlow sees none)."""
    if not driver.exists():
        return False, "the machine shows no NVIDIA driver; if it has a GPU, install the driver"
    if visible is not None and not re.search(r"^\d|^GPU-", visible):
        return False, f"CUDA_VISIBLE_DEVICES={visible} hides it; unset it"
    if not built_with_cuda:
        return True, "this TensorFlow was built without CUDA; pip install 'tensorflow[and-cuda]'"
    try:
        ctypes.CDLL(library)
    except OSError as error:
        return True, f"the driver's library cannot be loaded ({error}); in a container, start it with the GPU"
    return True, "TensorFlow finds no CUDA libraries of its version; pip install 'tensorflow[and-cuda]'"


def check_xla(report, tf):
    """Whether XLA compiles, and computes what TensorFlow computes."""

    def work(x):
        return tf.reduce_sum(tf.nn.softmax(tf.matmul(x, x, transpose_b=True)) * x[:, :7])

    x = tf.random.stateless_uniform((7, 11), (1, 2))
    try:
        with program.quiet():
            compiled = float(tf.function(work, jit_compile=True, autograph=False)(x))
    except tf.errors.OpError as error:
        report.fail(f"XLA does not compile: {str(error).splitlines()[0]}")
        return
    plain = float(work(x))
    if abs(compiled - plain) <= 1e-4 * abs(plain):
        report.ok("XLA compiles, and agrees with TensorFlow")
    else:
        report.fail(f"XLA computes {compiled}, TensorFlow {plain}")


def check_precisions(report, tf):
    """Which precisions compute, how fast, and whether --precision pays."""
    speeds = {}
    for dtype in PRECISIONS:
        try:
            with program.quiet():
                finite = bool(tf.reduce_all(tf.math.is_finite(tf.matmul(tf.ones((8, 8), dtype), tf.ones((8, 8), dtype)))))
        except tf.errors.OpError as error:
            report.note(f"{dtype}: does not compute here ({str(error).splitlines()[0]})")
            continue
        if not finite:
            report.fail(f"{dtype}: a product of ones is not finite")
        elif FLAGS.measure:
            speeds[dtype] = machine.matmul_peak(dtype) / GIGA
            faster = f", {speeds[dtype] / speeds['float32']:.1f} x float32" if dtype != "float32" else ""
            report.ok(f"{dtype}: products at {speeds[dtype]:,.0f} GFLOP/s{faster}")
        else:
            report.ok(f"{dtype}: computes")


def check_memory(report):
    """Memory of the machine or the container."""
    limit = machine.memory_limit()
    (report.ok if limit >= 2 * GIGA else report.fail)(f"memory: {limit / GIGA:.1f} GB")


def trainable(report):
    """The largest preset of each family whose training fits into memory, one sequence at a time."""
    from trainers.cost.plan import fits, output_of, training_memory
    from zoo.registry import MODELS

    limit = machine.memory_limit()
    for name in MODELS.names():
        config_class = MODELS.config(name)
        if config_class.fitted:
            report.ok(f"{name}: fitted in closed form; the text decides how much memory it takes")
            continue
        sizes = {}
        for preset in config_class.presets:
            recipe, structure = config_class.recipe_for(preset), config_class.preset(preset)
            length = min(recipe["seq_length"], getattr(structure, "max_length", recipe["seq_length"]))
            output = output_of(structure, length)
            settings = dict(optimizer=recipe["optimizer"], clip_norm=recipe.get("clip_norm", 0.0))
            memory = training_memory(structure, 1, length, output=output, **settings)
            if fits(memory, limit):
                sizes[preset] = structure.num_params()
        if sizes:
            largest = max(sizes, key=sizes.get)
            report.ok(f"{name}: trains up to --preset={largest} here ({sizes[largest]:,} parameters, one sequence at a time)")
        else:
            report.note(f"{name}: no preset fits into {limit / GIGA:.1f} GB")


def start():
    """The program, with its flags."""
    trainer_flags.define_doctor()
    program.start(main)


if __name__ == "__main__":
    start()
