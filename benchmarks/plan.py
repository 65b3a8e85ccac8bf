"""Compares what a plan predicts with what happens: memory of training, and FLOPs as TensorFlow counts them.

    python -m benchmarks.plan                    every case, each in a process of its own
    python -m benchmarks.plan --cases=gpt,lstm

Memory is the highest resident memory of the process while it takes three steps and writes a checkpoint, above what it
held before the model was made; FLOPs are those that TensorFlow's profiler counts in the graph of the gradients.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

# Name -> flags of trainers.run.
CASES = {
    "gpt": ["--model=gpt"],
    "gpt_batch64": ["--model=gpt", "--batch_size=64"],
    "gpt_long": ["--model=gpt", "--seq_length=512", "--batch_size=4"],
    "gpt_remat": ["--model=gpt", "--batch_size=64", "--set=remat=block"],
    "modern": ["--model=gpt", "--preset=modern", "--batch_size=32"],
    "6x384": ["--model=gpt", "--set=num_layers=6", "--set=num_heads=6", "--set=hidden_dim=384", "--seq_length=256", "--batch_size=8"],
    "gpt2_small": ["--model=gpt", "--preset=gpt2_small", "--batch_size=2", "--seq_length=128"],
    "lstm": ["--model=lstm"],
    "lstm_medium": ["--model=lstm", "--preset=medium", "--batch_size=20", "--seq_length=35"],
}  # fmt: skip


def main():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=",".join(CASES), help="which, by commas")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return _worker(args.worker)
    from benchmarks.sides import ROOT

    print(f"{'case':<14}{'memory: plan':>14}{'seen':>9}{'ratio':>7}   {'FLOPs a token: plan':>20}{'seen':>12}{'ratio':>7}")
    for name in args.cases.split(","):
        command = [sys.executable, "-m", "benchmarks.plan", f"--worker={name}"]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if result.returncode:
            print(f"{name:<14} failed: {result.stderr.strip().splitlines()[-1]}")
            continue
        found = json.loads(result.stdout.splitlines()[-1])
        print(
            f"{name:<14}{found['memory_plan'] / 1e6:11,.0f} MB{found['memory'] / 1e6:6,.0f} MB"
            f"{found['memory_plan'] / found['memory']:7.2f}   {found['flops_plan']:20,.0f}{found['flops']:12,.0f}"
            f"{found['flops_plan'] / max(found['flops'], 1):7.2f}", flush=True,
        )  # fmt: skip


def _worker(name):
    from pathlib import Path

    from absl import flags

    from trainers import flags as trainer_flags
    from trainers import machine, plan

    trainer_flags.define_training()
    flags.FLAGS(["plan", *CASES[name]])
    config, model_config = trainer_flags.train_config()
    if config.vocab_size:
        model_config = model_config.replace(vocab_size=config.vocab_size)
    import numpy as np
    import tensorflow as tf

    from trainers import loop, optimizers
    from trainers.checkpoints import Checkpoints, named_variables
    from zoo.registry import MODELS, TASKS

    tf.matmul(tf.ones((512, 512)), tf.ones((512, 512)))  # threads and their buffers
    before = machine.resident_bytes()
    task = TASKS.get(config.task)()
    model = task.assemble(MODELS.get(config.model)(model_config)).build_from_ids()
    xla, _ = loop.resolve_xla(config.xla, model, tf.config.list_logical_devices())
    trainer = loop.Trainer(
        model, task, optimizers.create(config, model.trainable_variables), tokenizer=None,
        batch_size=config.batch_size, seq_length=config.seq_length, xla=xla, fuse=not xla,
    )  # fmt: skip
    ids = np.random.default_rng(0).integers(1, model_config.vocab_size, (config.batch_size, config.seq_length + 1), np.int32)
    batch = {"token_ids": ids[:, :-1], "labels": ids[:, 1:], "loss_weights": np.ones(ids[:, 1:].shape, np.float32)}
    with tempfile.TemporaryDirectory() as scratch:
        checkpoints = Checkpoints(Path(scratch), named_variables(**trainer.variables()))
        float(trainer.step(batch, True)[0])  # traces and compiles
        machine.forget_peak()
        for _ in range(3):
            float(trainer.step(batch)[0])
        checkpoints.save(3, {})
        float(trainer.step(batch)[0])
        checkpoints.wait()
        peak = machine.peak_resident_bytes()
    planned = plan.make(config, model_config)
    print(json.dumps({
        "memory_plan": planned.memory.total, "memory": peak - before, "memory_parts": planned.memory.to_dict(),
        "flops_plan": planned.flops_per_token, "flops": _counted_flops(trainer, batch) / ids[:, 1:].size,
    }))  # fmt: skip


def _counted_flops(trainer, batch):
    """FLOPs of all operations of forward and backward pass that TensorFlow's profiler knows: the products, mostly."""
    import tensorflow as tf

    model, task = trainer.model, trainer.task
    state = model.init_state(*batch["labels"].shape) if model.carries_state else None

    @tf.function(autograph=False)
    def gradients(batch):
        with tf.GradientTape() as tape:
            outputs, _ = task.forward(model, batch, state=state, training=True)
            loss, _ = task.loss(batch, outputs)
        return tape.gradient(loss, [variable.value for variable in model.trainable_variables])

    graph = gradients.get_concrete_function({name: tf.constant(value) for name, value in batch.items()}).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    return tf.compat.v1.profiler.profile(graph, options=options).total_float_ops


if __name__ == "__main__":
    main()
