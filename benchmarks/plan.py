"""Compares what a plan predicts with what happens: memory of training, FLOPs as TensorFlow counts them, time to the end.

    python -m benchmarks.plan                    memory and FLOPs of every case, each in a process of its own
    python -m benchmarks.plan --cases=gpt,lstm
    python -m benchmarks.plan --time             whole runs, shortened, against the time that they tell after a few steps

Memory is the highest resident memory of the process while it takes three steps and writes a checkpoint, above what it
held before the model was made; FLOPs are those that TensorFlow's profiler counts in the graph of the gradients: what a loop
repeats (blocks of attention, chunks of logits) it counts once. Time is from the line that tells it to the last score:
training, evaluations and checkpoints; neither what comes before the first steps nor bundle, sample and export.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time

LONG = ("--model=gpt", "--set=num_layers=4")
# Name -> flags of trainers.run.
CASES = {
    "gpt": ["--model=gpt"],
    "gpt_batch64": ["--model=gpt", "--batch_size=64"],
    "gpt_long": ["--model=gpt", "--seq_length=512", "--batch_size=4"],
    "gpt_remat": ["--model=gpt", "--batch_size=64", "--set=remat=block"],
    "modern": ["--model=gpt", "--preset=modern", "--batch_size=32"],
    "6x384": [
        *("--model=gpt", "--set=num_layers=6", "--set=num_heads=6", "--set=hidden_dim=384"),
        *("--seq_length=256", "--batch_size=8"),
    ],
    "gpt2_small": ["--model=gpt", "--preset=gpt2_small", "--batch_size=2", "--seq_length=128"],
    "gpt_1024_plain": [*LONG, "--seq_length=1024", "--batch_size=2", "--set=attention=plain"],
    "gpt_1024_rows": [*LONG, "--seq_length=1024", "--batch_size=2", "--set=attention=rows"],
    "gpt_1024_blocks": [*LONG, "--seq_length=1024", "--batch_size=2", "--set=attention=blockwise"],
    "gpt_2048": [*LONG, "--seq_length=2048", "--batch_size=2"],
    "gpt_2048_all": [*LONG, "--seq_length=2048", "--batch_size=2", "--set=remat=block", "--set=logits=chunks"],
    "gpt_2048_off": [*LONG, "--seq_length=2048", "--batch_size=2", "--xla=off"],
    "gpt_1024_off": [*LONG, "--seq_length=1024", "--batch_size=4", "--xla=off"],
    "gpt_4096_all": [*LONG, "--seq_length=4096", "--batch_size=1", "--set=remat=block", "--set=logits=chunks"],
    "gpt_chunks": ["--model=gpt", "--batch_size=128", "--set=logits=chunks"],
    "lstm": ["--model=lstm"],
    "lstm_medium": ["--model=lstm", "--preset=medium", "--batch_size=20", "--seq_length=35"],
    "bert": ["--model=bert"],
    "bert_batch64": ["--model=bert", "--batch_size=64"],
    "bert_small": ["--model=bert", "--preset=bert_small_uncased", "--batch_size=8"],
    "bert_classes": ["--model=bert", "--task=classification"],
    "bert_adapters": ["--model=bert", "--preset=bert_small_uncased", "--task=classification", "--set=lora_rank=8"],
    "bert_frozen": ["--model=bert", "--preset=bert_small_uncased", "--task=classification", "--set=freeze=2"],
    "gpt_tags": ["--model=gpt", "--task=tagging"],
    "bag_of_words": ["--model=bag_of_words"],
}  # fmt: skip
# Shortened runs, so that each takes about a minute.
RUNS = {
    "gpt": [*CASES["gpt"], "--steps=240"],
    "modern": ["--model=gpt", "--preset=modern", "--steps=240"],
    "6x384": [*CASES["6x384"], "--steps=40"],
    "lstm": [*CASES["lstm"], "--steps=100"],
    "bert": [*CASES["bert"], "--steps=240"],
    "bag_of_words": CASES["bag_of_words"],
}
TOLD = re.compile(r"^step ([\d,]+): .* about (?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)? to the end")


def main():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", help="which, by commas")
    parser.add_argument("--time", action="store_true", help="whole runs, shortened, against the time that they tell")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return _worker(args.worker)
    if args.time:
        return _times(args.cases.split(",") if args.cases else RUNS)
    from benchmarks.sides import ROOT

    print(f"{'case':<14}{'memory: plan':>14}{'seen':>9}{'ratio':>7}   {'FLOPs a token: plan':>20}{'seen':>12}{'ratio':>7}")
    for name in args.cases.split(",") if args.cases else CASES:
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


def _times(names):
    """Runs each and compares what its line told with what it took."""
    from benchmarks.sides import ROOT

    print(f"{'run':<14}{'told at step':>14}{'told':>9}{'took':>9}{'error':>8}")
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, "-m", "trainers.run", *RUNS[name], "--noexport", f"--model_dir={scratch}/run"]
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            for line in process.stdout:
                if told := TOLD.match(line):
                    began, step = time.perf_counter(), told[1]
                    expected = sum(int(n or 0) * unit for n, unit in zip(told.groups()[1:], (3600, 60, 1), strict=True))
                elif line.startswith("Trained and judged in"):
                    took = time.perf_counter() - began
            if process.wait():
                raise SystemExit(f"{name} ended with status {process.returncode}.")
        print(f"{name:<14}{step:>14}{expected:7.0f} s{took:7.1f} s{expected / took - 1:+8.0%}", flush=True)


def _worker(name):
    from pathlib import Path

    from absl import flags

    from trainers import flags as trainer_flags
    from trainers.cost import machine, plan

    trainer_flags.define_training()
    flags.FLAGS(["plan", *CASES[name]])
    config, model_config = trainer_flags.train_config()
    import tensorflow as tf

    import tfds_configs
    from trainers.engine import loop, optimizers, tuning
    from trainers.engine.checkpoints import Checkpoints, named_variables
    from trainers.engine.judging import layout_of
    from trainers.prepare import prepare_for
    from zoo.registry import MODELS, TASKS

    task = TASKS.get(config.task)(trainer_flags.task_config(config))
    source = tfds_configs.get(config.dataset, config.data_path)
    tokenizer, data = prepare_for(task, layout_of(config), source, config.tokenizer, config.vocab_size, splits=["train"])
    fields = {**task.model_fields(tokenizer), "vocab_size": max(tokenizer.vocab_size, model_config.vocab_size)}
    model_config = model_config.replace(**{k: v for k, v in fields.items() if k in model_config.field_names()})
    tf.matmul(tf.ones((512, 512)), tf.ones((512, 512)))  # threads and their buffers
    before = machine.resident_bytes()
    model = task.assemble(MODELS.get(config.model)(model_config)).build_from_ids()
    settings = trainer_flags.tuning_config(config)
    tuning.begin(model, settings)
    xla, _ = plan.resolve_xla(config.xla, model.config.cost(1), model.count_params(), loop.has_accelerator(), config.precision)
    trainer = loop.Trainer(
        model, task, optimizers.create(config, model.trainable_variables), tokenizer=tokenizer,
        batch_size=config.batch_size, seq_length=config.seq_length, xla=xla, fuse=config.xla == "auto" and not xla,
    )  # fmt: skip
    batches = task.training_batches(data["train"], model, tokenizer, layout_of(config))
    with tempfile.TemporaryDirectory() as scratch:
        checkpoints = Checkpoints(Path(scratch), named_variables(**trainer.variables()))
        float(trainer.step(batches.batch(0), True)[0])  # traces and compiles
        machine.forget_peak()
        for step in range(1, 4):
            float(trainer.step(batches.batch(step))[0])
        checkpoints.save(4, {})
        for step in range(4, 7):  # the first leaves the old values to the checkpoint, the others are taken beside them
            float(trainer.step(batches.batch(step))[0])
        checkpoints.wait()
        peak = machine.peak_resident_bytes()
    planned = plan.make(config, model_config, task.config, tuning=settings, facts=task.facts)
    tokens = config.batch_size * config.seq_length
    print(json.dumps({
        "memory_plan": planned.memory.total, "memory": peak - before, "memory_parts": planned.memory.to_dict(),
        "flops_plan": planned.flops_per_token, "flops": _counted_flops(trainer, batches.batch(0)) / tokens,
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
