"""What the machine has: memory and how much of it is used, the processor, the speed of its products and of its memory."""

import errno
import functools
import os
import shutil
import time
from pathlib import Path

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16")


def memory_limit():
    """Bytes of memory that a process may have: the machine's, or the container's where that is less."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in map(Path, CGROUP_LIMITS):
        text = path.read_text().strip() if path.is_file() else ""
        if text.isdigit():
            limits.append(int(text))
    return min(limits)


def require_room(directory, num_bytes):
    """Raises OSError when the disk has less than `num_bytes` free for what is to be written into `directory`.

    Asked before the libraries that write: HDF5 and TensorFlow tell late and at length of a disk that is full.
    """
    there = next(path for path in (Path(directory).absolute(), *Path(directory).absolute().parents) if path.exists())
    if shutil.disk_usage(there).free < num_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


def resident_bytes():
    """Bytes of memory that this process holds now."""
    return _of_status("VmRSS")


def peak_resident_bytes():
    """The most that this process has held, or has held since `forget_peak`."""
    return _of_status("VmHWM")


def forget_peak():
    """Counts the peak from here on."""
    Path("/proc/self/clear_refs").write_text("5")


def _of_status(name):
    """A field of /proc/self/status in bytes; 0 where there is no such file."""
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.is_file() else ()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def processor():
    """(name, cores that this process may use, which of `CPU_FLAGS` it has)."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    fields = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    flags = fields.get("flags", "").split()
    return fields.get("model name", "unknown processor"), cores, [flag for flag in CPU_FLAGS if flag in flags]


@functools.cache
def matmul_peak(dtype="float32", seconds=0.5):
    """FLOP/s of the best large matrix product on the default device. Measured once in a process."""
    import tensorflow as tf

    size = 8_192 if tf.config.list_physical_devices("GPU") else 1_536
    a = tf.cast(tf.random.stateless_uniform((size, size), (1, 2)), dtype)
    product = tf.function(lambda a: tf.matmul(a, a), autograph=False)
    return 2 * size**3 / _best_time(lambda: product(a)[0, 0].numpy(), seconds)


@functools.cache
def processor_peak(seconds=0.2):
    """FLOP/s of the best large product of float32 matrices that NumPy makes: measured without loading TensorFlow."""
    import numpy as np

    size = 1_024
    a = np.ones((size, size), np.float32)
    return 2 * size**3 / _best_time(lambda: a @ a, seconds)


@functools.cache
def memory_bandwidth(seconds=0.5):
    """Bytes a second that go through the default device's memory in y = x + 1, read and write counted."""
    import tensorflow as tf

    x = tf.zeros((2**25,))  # 128 MB: far more than any cache
    add = tf.function(lambda x: x + 1.0, autograph=False)
    return 2 * 4 * 2**25 / _best_time(lambda: add(x)[0].numpy(), seconds)


def _best_time(work, seconds):
    """The shortest time that `work` took, repeated for about `seconds` after a first call."""
    work()
    times, began = [], time.perf_counter()
    while not times or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
