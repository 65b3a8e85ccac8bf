"""A run from config to bundle: prepare, fit, judge, save, export. The part of trainers.run that needs TensorFlow."""

import contextlib
import math
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

import tfds_configs
from trainers import loop, optimizers
from trainers.checkpoints import Checkpoints, named_variables
from trainers.flags import RESUME_STATUS, command_to_go_on, quiet
from trainers.interruption import Interruption
from trainers.metrics_log import MetricsLog
from trainers.prepare import prepare
from trainers.progress import Progress, duration
from zoo import metrics
from zoo.bundle import Bundle
from zoo.data import PackedBatches
from zoo.registry import MODELS, TASKS

VALIDATION_TOKENS_WHILE_TRAINING = 50_000


def train(run, config, model_config):
    """Carries out the run in directory `run`. Every value it depends on is in the two configs."""
    loop.set_seed(config.seed)
    if config.precision == "bfloat16":
        tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    source = tfds_configs.get(config.dataset, config.data_path)
    print(f"Data: {source.name}, tokenizer {config.tokenizer}", flush=True)
    with Progress("Preparing") as progress:
        tokenizer, streams = prepare(
            source, config.tokenizer, config.vocab_size, progress=lambda split, done: progress.update(done, split=split)
        )
    sizes = ", ".join(f"{split} {len(s):,} tokens ({s.num_bytes:,} bytes)" for split, s in streams.items())
    print(f"Tokens: {sizes}; vocabulary {tokenizer.vocab_size:,}", flush=True)

    fields = dict(vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id, unk_id=tokenizer.unk_id)
    model_config = model_config.replace(**{k: v for k, v in fields.items() if hasattr(model_config, k)})
    model = MODELS.get(config.model)(model_config)
    task = TASKS.get(config.task)(label_smoothing=config.label_smoothing, z_loss=config.z_loss)
    began = time.perf_counter()
    if hasattr(model, "adapt"):
        log = MetricsLog(run, config.steps)
        model.adapt(streams["train"][:])
        print(f"Model: {config.model}, {model.config.num_params():,} parameters, fitted in closed form", flush=True)
        trainer = loop.Trainer(
            model, task, None, batch_size=config.batch_size, seq_length=config.seq_length, xla=False
        )
    else:
        model.build_from_ids()
        trainer, log = _fit(run, config, model, task, streams)
    scores = _judge(config, trainer, log, streams, time.perf_counter() - began)
    _deliver(run, config, Bundle(model, tokenizer, config.task, {
        "dataset": source.name, "licence": source.licence, "steps": config.steps, "scores": scores,
    }))  # fmt: skip


def _fit(run, config, model, task, streams):
    """Gradient descent, from the newest checkpoint or from step 0. Returns the trainer and the log."""
    batches = PackedBatches(
        streams["train"], config.seq_length, config.batch_size, config.seed,
        separate_documents=config.separate_documents, contiguous=model.carries_state,
    )  # fmt: skip
    xla, why = loop.resolve_xla(config.xla, model, tf.config.list_logical_devices())
    optimizer = optimizers.create(config, model.trainable_variables)
    fuse = config.xla == "auto" and not xla
    trainer = loop.Trainer(
        model, task, optimizer, batch_size=config.batch_size, seq_length=config.seq_length, xla=xla, fuse=fuse
    )
    checkpoints = Checkpoints(run / "checkpoints", named_variables(**trainer.variables()))
    restored = checkpoints.restore() or {"step": 0}
    first = restored["step"]
    log = MetricsLog(run, config.steps, first)
    print(
        f"Model: {config.model} {config.preset}, {model.count_params():,} parameters; "
        f"XLA {'on' if xla else 'for elementwise chains' if fuse else 'off'} ({why}); {config.precision}", flush=True,
    )  # fmt: skip
    if first:
        print(f"Resuming after step {first:,}.", flush=True)
    prefetcher = loop.Prefetcher(batches.batch, first, config.steps)
    try:
        _steps(run, config, trainer, batches, prefetcher, checkpoints, log, streams, restored)
    finally:
        prefetcher.close()
    return trainer, log


def _steps(run, config, trainer, batches, prefetcher, checkpoints, log, streams, restored):
    tokens_per_byte = (len(streams["train"]) - 1) / max(streams["train"].num_bytes, 1)
    first = since = restored["step"]
    losses, tick = restored.get("losses", []), time.perf_counter()  # the losses that no line has told yet
    log_every = max(1, min(50, config.steps // 20))
    with Progress("step", config.steps, first) as progress, Interruption() as interruption:
        for step, batch, _ in prefetcher:
            with quiet() if step == first else contextlib.nullcontext():  # the first call compiles, and chatters
                value, _ = trainer.step(batch, batches.starts_epoch(step))
            losses.append(float(value))
            done = step + 1
            if done % log_every == 0 or done == config.steps:
                loss, now = float(np.mean(losses)), time.perf_counter()
                speed = (done - since) * config.batch_size * config.seq_length / (now - tick)
                scores = dict(loss=loss, bits_per_byte=loss / math.log(2) * tokens_per_byte, tokens_per_second=speed)
                log.write(done, "train", {**scores, "perplexity": metrics.perplexity(loss)})
                progress.update(done, **scores)
                losses, since, tick = [], done, now
            if done % config.eval_every == 0 and done < config.steps:
                before = time.perf_counter()
                scores = _scores(config, trainer, log, streams, done, "validation", VALIDATION_TOKENS_WHILE_TRAINING)
                progress.say(f"step {done:,}  validation {_shown(scores)}")
                tick += time.perf_counter() - before
            if done % config.checkpoint_every == 0 or done == config.steps or interruption.requested:
                checkpoints.save(done, {"losses": losses})
            if interruption.requested:
                progress.say(f"Interrupted after step {done:,}, and saved. Go on with: {command_to_go_on(run)}")
                raise SystemExit(RESUME_STATUS)


def _judge(config, trainer, log, streams, seconds):
    """Scores on the whole validation and test splits."""
    scores = {}
    for split in ("validation", "test"):
        scores[split] = _scores(config, trainer, log, streams, config.steps, split)
        print(f"{split}: {_shown(scores[split])}", flush=True)
    print(f"Trained and judged in {duration(seconds)}.", flush=True)
    return scores


def _scores(config, trainer, log, streams, step, split, max_tokens=None):
    """Scores on a split, or on the front of it; written to the log with the speed."""
    began = time.perf_counter()
    scores = trainer.evaluate(
        streams[split], seq_length=config.seq_length, batch_size=config.batch_size, max_tokens=max_tokens,
        separate_documents=config.separate_documents,
    )  # fmt: skip
    log.write(step, split, {**scores, "tokens_per_second": scores["num_tokens"] / (time.perf_counter() - began)})
    return scores


def _deliver(run, config, bundle):
    """Writes the bundle, shows a sample, exports, and says what can be done next."""
    bundle.save(run / "bundle")
    if bundle.task == "language_modeling":
        from zoo.api import Loaded

        options = dict(max_new_tokens=60, temperature=0.8, top_k=40, seed=config.seed)
        print(f"Sample: {Loaded(bundle).generate('The ', **options)!r}")
    print(f"Bundle: {run / 'bundle'}", flush=True)
    if config.export:
        from zoo.export import export_saved_model

        with quiet():
            path = export_saved_model(
                run / "export", bundle.model, bundle.tokenizer, TASKS.get(bundle.task)()
            )
        print(f"Export: {path}, replayed in a fresh process: equal", flush=True)
    print(_next_commands(run, config))


def _shown(scores):
    names = ("loss", "perplexity", "bits_per_byte")
    return "  ".join(f"{name} {scores[name]:.4f}" for name in names if name in scores)


def _next_commands(run, config):
    served = Path(run).absolute() / "export"
    lines = [
        "Next:",
        f"  python -m trainers.generate --model_dir={run} --prompt='The '",
        f"  python -m trainers.evaluate --model_dir={run}",
        f"  tensorboard --logdir {run / 'tensorboard'}",
    ]
    if config.export:
        server = f"tensorflow_model_server --rest_api_port=8501 --model_name={config.model}"
        lines.append(f"  {server} --model_base_path={served}")
    return "\n".join(lines)
