"""Several processes that train one model: who is who, read from TF_CONFIG. Imports no TensorFlow."""

import json
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Cluster:
    """Which worker this process is, and of how many; worker 0 is the chief."""

    index: int
    size: int


def from_environment():
    """The `Cluster` that TF_CONFIG describes, or None when it is not set or names one process alone.

    Raises:
        ValueError: TF_CONFIG that cannot be understood, or a task that does not train.
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
        raise ValueError(
            "TF_CONFIG must be JSON such as "
            '{"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}; it is not: '
            f"{type(error).__name__} {error}."
        ) from error
    if set(cluster) - set(hosts) or kind not in hosts or not 0 <= index < hosts[kind]:
        raise ValueError(
            f"TF_CONFIG makes this process {kind} {index} of {json.dumps(cluster)}; only chief and worker tasks train, each "
            "with an index below the number of its hosts."
        )
    size = sum(hosts.values())
    return Cluster(index + (hosts["chief"] if kind == "worker" else 0), size) if size > 1 else None
