"""Where a run computes: the devices of this host, or workers on several, behind one face that the training step sees.

    cpu, gpu       one replica; the step is one function, no strategy
    mirrored       one replica a GPU of this host; without GPUs two logical CPU devices, to try the path on any machine
    multi_worker   one process a worker, as TF_CONFIG tells (Kubernetes, or --num_workers on this host)
    tpu            one replica a TPU core

Every replica holds all weights and takes its rows of the global batch. What they compute apart, they add up: sums and
counts of the loss, and gradients of the sums.
"""

import contextlib
import functools
import json
import logging
import os
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from trainers.engine import workers
from zoo import private
from zoo.config import Refusal

LOGICAL_CPUS = 2
# Replica i draws its dropout masks from the run's seed plus i times this: 2^32 over the golden ratio, far apart for any i.
SEED_STRIDE = 2_654_435_769


@dataclass(frozen=True)
class Placement:
    """The devices of a run.

    Args:
        reason: what was chosen and why, for people.
        strategy: a `tf.distribute.Strategy`, or None for one replica.
        worker: which of the processes this is; 0 is the chief, who alone writes.
        num_workers: how many processes compute.
    """

    reason: str
    strategy: Any = None
    worker: int = 0
    num_workers: int = 1

    @property
    def num_replicas(self):
        """Replicas over all workers."""
        return self.strategy.num_replicas_in_sync if self.strategy else 1

    @property
    def num_local(self):
        """Replicas of this process."""
        return self.num_replicas // self.num_workers

    @property
    def is_chief(self):
        return self.worker == 0

    def scope(self):
        """Variables made in this block live on every replica."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def run(self, function, *arguments):
        """Runs `function` on every replica of this process, each with its own part of the arguments."""
        return self.strategy.run(function, args=arguments) if self.strategy else function(*arguments)

    def spread(self, of_replica):
        """A value for every replica of this process: `of_replica(i)`, i counted over all workers."""
        if not self.strategy:
            return of_replica(0)
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: of_replica(context.replica_id_in_sync_group)
        )

    def first(self, value):
        """A value that is equal on all replicas, as one tensor."""
        return self.strategy.experimental_local_results(value)[0] if self.strategy else value

    def gather(self, value):
        """The rows of all replicas, in order, as a numpy array. Every worker must call this."""
        if not self.strategy:
            return value.numpy()
        mine = np.concatenate([part.numpy() for part in self.strategy.experimental_local_results(value)])
        parts = [self.broadcast(mine.tobytes(), worker) for worker in range(self.num_workers)]
        return np.concatenate([np.frombuffer(part, mine.dtype).reshape(mine.shape) for part in parts])

    def broadcast(self, data, worker=0):
        """The bytes of one worker, at every worker; all must call this, with as many bytes."""
        if self.num_workers == 1:
            return data
        # As int32, whose sum with zeros keeps every bit.
        words = np.frombuffer(data + bytes(-len(data) % 4), np.int32)
        source = worker * self.num_local
        total = self._total(self.spread(lambda i: tf.constant(words if i == source else np.zeros_like(words))))
        return self.first(total).numpy().tobytes()[: len(data)]

    def from_chief(self, make):
        """What `make()` gives at the chief, which alone calls it: a JSON value, at every worker. All must call this."""
        if self.num_workers == 1:
            return make()
        text = json.dumps(make()).encode() if self.is_chief else b""
        size = int.from_bytes(self.broadcast(len(text).to_bytes(8, "little")), "little")
        return json.loads(self.broadcast(text if self.is_chief else bytes(size)))

    @contextlib.contextmanager
    def noticing(self):
        """Turns what TensorFlow says when another worker dies into a `workers.WorkerGone`."""
        try:
            yield
        except tf.errors.OpError as error:
            if self.num_workers == 1:
                raise
            raise workers.WorkerGone(re.sub(r"\{\{.*?\}\}\s*", "", error.message).partition("\n")[0]) from error

    def barrier(self):
        """Returns when all workers are here."""
        if self.num_workers > 1:
            self.first(self._total(self.spread(lambda _: tf.constant([0])))).numpy()

    def _total(self, value):
        """The sum over all replicas, at each."""
        return _summing(self.strategy)(value)

    @staticmethod
    def local_index():
        """Inside `run`: which replica of its strategy this is, or None where that is not known while tracing (TPU)."""
        return tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group)

    @contextlib.contextmanager
    def view(self, variables):
        """Inside `run`: Keras variables stand for this replica's own copies.

        A mirrored variable refuses to be assigned inside a replica unless it is told how to merge what replicas assign.
        Ours need no merging: seeds differ on purpose, and every replica makes the same update of the same gradients. So any
        layer and any optimizer works on plain variables. On a TPU the mirrored variable does this by itself.
        """
        index = self.local_index() if self.strategy else None
        if index is None:
            yield
            return
        with private.storing(variables, [private.stored(v).values[int(index) % self.num_local] for v in variables]):
            yield

    def part_seeds(self, variables):
        """Lets every replica draw dropout masks of its own. Call it when all replicas hold the chief's seeds."""
        if not self.strategy:
            return
        for variable in variables:
            if variable.name == "seed_generator_state":
                seed, counter = np.asarray(variable).tolist()
                for i, copy in enumerate(private.stored(variable).values):
                    replica = self.worker * self.num_local + i
                    copy.assign(np.array([(seed + replica * SEED_STRIDE) % 2**32, counter], np.uint32))


@functools.cache
def _summing(strategy):
    def sum_up(value):
        # The identity puts it on the replica's device, which an argument is not.
        return tf.distribute.get_replica_context().all_reduce("SUM", tf.identity(value))

    return tf.function(lambda value: strategy.run(sum_up, args=(value,)), autograph=False, reduce_retracing=True)


def rows_of(batch, replica, num_replicas, multiple=1):
    """The rows of a global batch that a replica takes: equally many for each, and a multiple of `multiple`.

    What the batch lacks for that is filled with copies of its last row that weigh 0 in the loss: shapes are then static,
    all replicas run the same program, and one with no rows of its own adds zeros.

    Args:
        batch: dict of arrays (B, ...), `loss_weights` among them.
        replica: which one, from 0.
        num_replicas: of all workers.
        multiple: how many micro-batches the rows will be cut into.
    """
    size = len(batch["loss_weights"])
    rows = np.arange(replica, replica + 1)[:, None] * share(size, num_replicas, multiple)
    rows = (rows + np.arange(share(size, num_replicas, multiple)))[0]
    taken = {name: value[np.minimum(rows, size - 1)] for name, value in batch.items()}
    real = (rows < size).reshape(-1, *(1,) * (taken["loss_weights"].ndim - 1))
    return {**taken, "loss_weights": taken["loss_weights"] * real.astype(taken["loss_weights"].dtype)}


def share(batch_size, num_replicas, multiple=1):
    """Rows a replica: the smallest multiple of `multiple` with which all replicas hold the batch."""
    return -(-batch_size // (num_replicas * multiple)) * multiple


def place(requested):
    """The placement for `--strategy`. Call it before TensorFlow computes anything: workers connect here.

    Raises:
        Refusal: for a device that is not there, or a strategy that is not supported, in a sentence.
    """
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # tf.distribute tells of every device and all-reduce
    gpus = tf.config.list_physical_devices("GPU")
    if requested == "auto":
        return _automatic(gpus)
    if requested == "cpu":
        if gpus:
            tf.config.set_visible_devices([], "GPU")
        return Placement("cpu: --strategy=cpu")
    if requested == "parameter_server":
        raise Refusal(
            "--strategy=parameter_server is not supported: its workers update without waiting for each other, so that no "
            "run could be repeated; use multi_worker, which scales to as many hosts."
        )
    return {"gpu": _one_gpu, "mirrored": _mirrored, "multi_worker": _multi_worker, "tpu": _tpu}[requested](gpus)


def _automatic(gpus):
    if _tpu_address() is not None:
        return _tpu(gpus, "auto: a TPU is present")
    if workers.from_environment():
        return _multi_worker(gpus, "auto: TF_CONFIG names workers")
    if len(gpus) > 1:
        return _mirrored(gpus, f"auto: {len(gpus)} GPUs are present")
    if gpus:
        return Placement("gpu: auto: one GPU is present")
    return Placement("cpu: auto: neither a TPU, nor TF_CONFIG, nor a GPU is present")


def _one_gpu(gpus):
    if not gpus:
        raise Refusal("--strategy=gpu: TensorFlow sees no GPU here; use --strategy=cpu, or mend the driver.")
    tf.config.set_visible_devices(gpus[:1], "GPU")
    return Placement("gpu: --strategy=gpu")


def _mirrored(gpus, reason="--strategy=mirrored"):
    if gpus:
        strategy = tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(len(gpus))])
        return Placement(f"mirrored: {reason}; replicas, one a GPU: {len(gpus)}", strategy)
    cpus = tf.config.list_physical_devices("CPU")[:1]
    if not tf.config.get_logical_device_configuration(cpus[0]):
        tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * LOGICAL_CPUS)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(LOGICAL_CPUS)])
    return Placement(
        f"mirrored: {reason}; no GPU is present, so {LOGICAL_CPUS} replicas share the CPU, which shows that "
        "the strategy works and gains no speed", strategy,
    )  # fmt: skip


def _multi_worker(gpus, reason="--strategy=multi_worker"):
    cluster = workers.from_environment()
    if cluster is None:
        raise Refusal("--strategy=multi_worker: TF_CONFIG names no workers; set it on every host, or give --num_workers.")
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    return Placement(
        f"multi_worker: {reason}; {cluster.size} workers, {strategy.num_replicas_in_sync} replicas in all", strategy,
        cluster.index, cluster.size,
    )  # fmt: skip


def _tpu_address():
    """What the TPU resolver is to be given, or None where there is no TPU."""
    if os.environ.get("TPU_NAME"):
        return os.environ["TPU_NAME"]
    return "local" if tf.config.list_physical_devices("TPU") else None


def _tpu(gpus, reason="--strategy=tpu"):
    del gpus
    address = _tpu_address()
    if address is None:
        raise Refusal("--strategy=tpu: no TPU here; run on a TPU VM, or set TPU_NAME.")
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address)
    if address != "local":
        tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    strategy = tf.distribute.TPUStrategy(resolver)
    return Placement(f"tpu: {reason}; {strategy.num_replicas_in_sync} replicas", strategy)
