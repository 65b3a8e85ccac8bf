"""A run from config to bundle: prepare, fit, judge, save, export. The part of trainers.run that needs TensorFlow."""

import contextlib
import math
import time
from pathlib import Path

import tensorflow as tf

import tfds_configs
from trainers import loop, optimizers
from trainers.checkpoints import Checkpoints, named_variables
from trainers.flags import quiet
from trainers.metrics_log import MEASURED, MetricsLog
from trainers.prepare import prepare
from trainers.progress import Progress, duration
from trainers.steps import Place, Steps, shown, split_scores
from zoo.bundle import Bundle
from zoo.data import PackedBatches
from zoo.registry import MODELS, TASKS


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
        log = MetricsLog(run)
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
    restored = checkpoints.restore()
    place = Place.of(restored) if restored else Place()
    log = MetricsLog(run, restored["metrics"] if restored else "")
    print(
        f"Model: {config.model} {config.preset}, {model.count_params():,} parameters; "
        f"XLA {'on' if xla else 'for elementwise chains' if fuse else 'off'} ({why}); {config.precision}", flush=True,
    )  # fmt: skip
    if place.step:
        print(f"Resuming after step {place.step:,}.", flush=True)
    Steps(run, config, trainer, batches, checkpoints, log, streams, place).run()
    print(checkpoints.summary(), flush=True)
    return trainer, log


def _judge(config, trainer, log, streams, seconds):
    """Scores on the whole validation and test splits."""
    scores = {}
    for split in ("validation", "test"):
        measured = split_scores(config, trainer, streams, split)
        log.write(config.steps, split, measured)
        scores[split] = {name: value for name, value in measured.items() if name not in MEASURED}
        print(f"{split}: {shown(scores[split])}", flush=True)
    print(f"Trained and judged in {duration(seconds)}.", flush=True)
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
