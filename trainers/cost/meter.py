"""What a run does with its machine between two lines of the log: speed, utilisation, waiting for data, memory."""

import time

import tensorflow as tf

from trainers.cost import machine


class Meter:
    """Counts real tokens and seconds from `begin` on.

    Args:
        flops_per_token: of training.
        peak: FLOP/s of the devices together, measured with a large matrix product.
    """

    def __init__(self, flops_per_token, peak):
        self.flops_per_token, self.peak = flops_per_token, peak
        self.begin()

    def begin(self):
        """Counts anew."""
        self._began, self._waited, self._tokens = time.perf_counter(), 0.0, 0

    def trained(self, num_tokens):
        """Notes the real tokens of a step."""
        self._tokens += num_tokens

    def waited(self, seconds):
        """Notes that a step had to wait for its batch."""
        self._waited += seconds

    def leave_out(self, seconds):
        """Notes time that was not spent on steps."""
        self._began += seconds

    def read(self):
        """What `metrics_log.MEASURED` names, from `begin` on.

        Returns:
            dict: `seconds` of steps; `tokens_per_second`; `flop_utilisation`, the share of the peak that they make;
            `data_wait`, the share of the time that went by waiting for batches; `memory_bytes` in use, on the first GPU if
            there is one and else by this process.
        """
        seconds = time.perf_counter() - self._began
        speed = max(self._tokens, 1) / seconds  # a line may come before the first step, and it divides by the speed
        return {
            "seconds": seconds,
            "tokens_per_second": speed,
            "flop_utilisation": speed * self.flops_per_token / self.peak,
            "data_wait": self._waited / seconds,
            "memory_bytes": _memory_in_use(),
        }


def devices_peak(precision, num_replicas):
    """FLOP/s of all devices that train, measured on one. Replicas on a CPU share its cores."""
    peak = machine.matmul_peak(precision)
    return peak * num_replicas if tf.config.list_logical_devices("GPU") else peak


def slower_precision(precision):
    """A sentence where a CPU computes slower in this precision than in float32, else None. Both are measured here."""
    if precision == "float32" or tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"):
        return None
    share = machine.matmul_peak(precision) / machine.matmul_peak("float32")
    if share >= 1:
        return None
    return (
        f"Warning: this CPU makes products in {precision} at {share:.2f} x the speed of float32; leave out "
        f"--precision={precision} unless memory needs it."
    )


def _memory_in_use():
    if tf.config.list_logical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["current"]
    return machine.resident_bytes()
