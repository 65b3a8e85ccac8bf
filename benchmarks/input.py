"""How long a step waits for its batch when it takes 20,000 tokens a second, and how fast batches can be made.

    python -m benchmarks.input                        a stream of 20M tokens, GPT's and LSTM's layouts
    python -m benchmarks.input --tokens_per_second=100000

The step is a stand-in that computes on all cores for as long as a real one would: the thread that makes batches has to
share them, as in training. The mark is 2% of the time.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

LAYOUTS = {
    "gpt, 16 x 128": dict(batch_size=16, seq_length=128),
    "gpt, 16 x 128, separate documents": dict(batch_size=16, seq_length=128, separate_documents=True),
    "gpt, 4 x 1,024": dict(batch_size=4, seq_length=1_024),
    "lstm, 32 x 64": dict(batch_size=32, seq_length=64, contiguous=True),
}
MARK = 0.02


def main():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.input", description=__doc__.splitlines()[0])
    parser.add_argument("--tokens_per_second", type=float, default=20_000, help="what the step takes")
    parser.add_argument("--tokens", type=int, default=20_000_000, help="of the stream")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each layout")
    args = parser.parse_args()
    from trainers.engine.loop import Prefetcher
    from zoo.data.packing import PackedBatches
    from zoo.data.shards import TokenShards, write_shards

    work = _work()
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        random = np.random.default_rng(0)
        documents = (random.integers(1, 4_096, 1_000) for _ in range(args.tokens // 1_001))
        write_shards(Path(scratch) / "stream", documents, vocab_size=4_096, eos_id=0)
        stream = TokenShards.open(Path(scratch) / "stream")
        for name, layout in LAYOUTS.items():
            batches = PackedBatches(stream, seed=0, **layout)
            tokens = layout["batch_size"] * layout["seq_length"]
            began, made = time.perf_counter(), 0
            while time.perf_counter() - began < 1:
                batches.batch(made)
                made += 1
            alone = made * tokens / (time.perf_counter() - began)
            steps = max(int(args.seconds * args.tokens_per_second / tokens), 10)
            waited, seconds = _waited(Prefetcher(batches.batch, 0, steps), work, tokens / args.tokens_per_second)
            share = waited / seconds
            failed |= share > MARK
            print(
                f"{name:<36} makes {alone:12,.0f} tokens/s; at {steps * tokens / seconds:8,.0f} tokens/s "
                f"the step waits {100 * share:.2f}% of the time", flush=True,
            )  # fmt: skip
    if failed:
        raise SystemExit(1)


def _work():
    """A function that computes on all cores for about a millisecond."""
    import tensorflow as tf

    x = tf.ones((384, 384))
    return lambda: tf.matmul(x, x)[0, 0].numpy()


def _waited(prefetcher, work, seconds_a_step):
    """(seconds waited for batches, seconds in all), the first step left out: the thread has just begun."""
    waited = 0.0
    for step, _, wait in prefetcher:
        if step == 0:
            began = time.perf_counter()
        else:
            waited += wait
        end = time.perf_counter() + seconds_a_step
        while time.perf_counter() < end:
            work()
    seconds = time.perf_counter() - began
    prefetcher.close()
    return waited, seconds


if __name__ == "__main__":
    main()
