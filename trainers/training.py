"""A run from config to bundle: prepare, fit, judge, save, export. The part of trainers.run that needs TensorFlow."""

import importlib.util
import math
import re
import shlex
import time

import numpy as np
import tensorflow as tf

import tfds_configs
from trainers import canaries
from trainers.cost import machine, plan
from trainers.cost.meter import Meter, devices_peak, slower_precision
from trainers.engine import averaging, identity, initial, judging, length, loop, optimizers, privacy, strategies, tuning
from trainers.engine.checkpoints import Checkpoints, named_variables
from trainers.engine.judging import layout_of
from trainers.engine.metrics_log import MEASURED, MetricsLog
from trainers.engine.steps import Progress, Run
from trainers.flags import privacy_config, profiled_steps, task_config, tuning_config
from trainers.prepare import prepare_for
from trainers.program import quiet
from trainers.progress import ProgressBar, duration, preparing
from zoo.bundle import Bundle, load
from zoo.config import Refusal
from zoo.data.sampling import PoissonBatches
from zoo.registry import MODELS, TASKS, TOKENIZERS

RULE = "\u2500" * 100
OVERHEAD = 8 * 10**6  # bytes of a bundle or an export that are not weights: tokenizer and graph


def train(run, config, model_config):
    """Carries out the run in directory `run`. Every value it depends on is in the two configs."""
    placement = strategies.place(config.strategy)
    print(f"Devices: {placement.reason}", flush=True)
    with placement.noticing():
        _train(run, config, model_config, placement)


def _train(run, config, model_config, placement):
    if not loop.has_accelerator():
        plan.require_memory(model_config)
    if config.precision != "float32":
        tf.keras.mixed_precision.set_global_policy(f"mixed_{config.precision}")
    task = TASKS.get(config.task)(task_config(config), label_smoothing=config.label_smoothing, z_loss=config.z_loss)
    source = tfds_configs.get(config.dataset, config.data_path)
    source = source.for_fitting() if model_config.fitted else source
    source = canaries.planted(source, config.to_dict(), task.reads)
    print(f"Data: {source.name}, tokenizer {config.tokenizer}", flush=True)
    source.check_fields(task.fields)
    with ProgressBar("Preparing") as progress:
        tokenizer, data = prepare_for(
            task, layout_of(config), source, config.tokenizer, config.vocab_size,
            progress=preparing(progress, source.num_bytes),
        )  # fmt: skip
    canaries.require_spelt(config.to_dict(), tokenizer)
    for remark in source.remarks():
        print(remark, flush=True)
    if placement.is_chief:
        identity.check(run, identity.of(source, tokenizer, task))
    sizes = ", ".join(f"{split} {task.size(part)}" for split, part in data.items())
    of_targets = f" and {tokenizer.target.vocab_size:,} of targets" if tokenizer.target is not tokenizer else ""
    print(f"Tokens: {sizes}; vocabulary {tokenizer.vocab_size:,}{of_targets}", flush=True)

    fields = task.model_fields(tokenizer)
    if config.init_from and initial.width_of_rows(config.init_from, config.model) is None:
        # Its tables may have a few rows more than there are ids, for a round number.
        fields = {k: v for k, v in fields.items() if k not in ("vocab_size", "source_vocab_size")}
    model_config = model_config.replace(**{k: v for k, v in fields.items() if k in model_config.field_names()})
    model_class = MODELS.get(config.model)
    if model_config.fitted:
        if placement.num_workers > 1:
            raise Refusal(f"{config.model} is fitted in one pass on one device; leave out --num_workers and TF_CONFIG.")
        placement = strategies.Placement(placement.reason)
    # Only here: to make data draws numbers, to find it in the cache does not, and both must begin with the same weights.
    loop.set_seed(config.seed)
    with placement.scope():
        model = task.limit_ids(task.assemble(model_class(model_config)), tokenizer)
    began = time.perf_counter()
    # Where one part of the data is both splits it is read once.
    judged = ("validation",) if source.splits.get("validation") == source.splits.get("test") else ("validation", "test")
    if model.fitted:
        tuning.begin(model, tuning_config(config))
        if privacy_config(config).private:
            raise Refusal(f"{config.model} keeps counts of its training text, and no noise covers them; take another model.")
        log = MetricsLog(run)
        model.fit_closed_form(data["train"])
        log.write(0, "fit", {"tokens": len(data["train"]), "seconds": time.perf_counter() - began})
        print(f"Model: {config.model}, {model.config.num_params():,} parameters, fitted in closed form", flush=True)
        trainer = loop.Trainer(
            model, task, None, tokenizer=tokenizer, batch_size=config.batch_size, seq_length=config.seq_length, xla=False
        )
    else:
        with placement.scope():
            model.build_from_ids()
        if config.init_from:
            print(initial.assign(model, tokenizer, config.init_from), flush=True)
        with placement.scope():
            tuning.begin(model, tuning_config(config))
        config, trainer, log = _fit(run, config, model, task, tokenizer, data, placement, judged)
    if not placement.is_chief:
        placement.barrier()  # a worker that left would be taken for dead while the chief finishes
        return
    scores = _judge(run, config, trainer, log, data, time.perf_counter() - began, judged)
    provenance = {"dataset": source.name, "licence": source.licence, "steps": config.steps, "scores": scores}
    if trainer.guarantee is not None:
        provenance["privacy"] = trainer.guarantee.spent(config.steps)
    size = sum(int(np.prod(variable.shape)) * 4 for variable in model.variables) + OVERHEAD
    machine.require_room(run / "bundle", size * (2 if config.export else 1))
    saved = Bundle(model, tokenizer, task, provenance).save(run / "bundle")
    # Read again, the variables are plain ones: a SavedModel is not made of copies on several replicas.
    bundle = load(saved) if placement.strategy else Bundle(model, tokenizer, task, provenance)
    _deliver(run, config, bundle, task.asked_with(data[judged[-1]]))
    placement.barrier()


def _fit(run, config, model, task, tokenizer, data, placement, judged):
    """Gradient descent, from the newest checkpoint or from step 0. Returns the config with its steps, the trainer, the log."""
    batches = task.training_batches(data["train"], model, tokenizer, layout_of(config))
    settings = tuning_config(config)
    config = length.settled(config, settings.average, batches.steps_per_epoch)
    if config.epochs is not None and placement.is_chief:
        identity.write(run, config)
    batches, guarantee = _guaranteed(config, model, task, data["train"], batches)
    xla, why = plan.resolve_xla(
        config.xla, model.config.cost(config.seq_length), model.count_params(), loop.has_accelerator(), config.precision
    )
    with placement.scope():
        optimizer = optimizers.create(config, model.trainable_variables, tuning.rates(model, settings), settings.l1)
    fuse = config.xla == "auto" and not xla
    trainer = loop.Trainer(
        model, task, optimizer, tokenizer=tokenizer, batch_size=config.batch_size, seq_length=config.seq_length,
        xla=xla, fuse=fuse, placement=placement, grad_accumulation=config.grad_accumulation,
        require_xla=config.xla == "require", guarantee=guarantee,
    )  # fmt: skip
    averaged = averaging.steps_of(config, settings.average)
    checkpoints = Checkpoints(run / "checkpoints", named_variables(**trainer.variables()), placement.is_chief, averaged)
    restored = trainer.follow_chief(checkpoints.restore())
    progress = Progress.of(restored) if restored else Progress()
    log = MetricsLog(run, restored["metrics"] if restored else "")
    trained, held = sum(int(np.prod(v.shape)) for v in model.trainable_variables), model.count_params()
    print(
        f"Model: {config.model} {config.preset}, {held:,} parameters{f', {trained:,} of them trained' * (trained < held)}; "
        f"XLA {'on' if xla else 'for elementwise chains' if fuse else 'off'} ({why}); {config.precision}", flush=True,
    )  # fmt: skip
    epoch = batches.steps_per_epoch
    print(
        f"Epochs: {config.steps:,} steps read the training data {config.steps / epoch:.3g} times, {epoch:,} steps each",
        flush=True,
    )
    if progress.step:
        print(f"Resuming after step {progress.step:,}.", flush=True)
    meter = _meter(config, model, task, placement)
    Run(run, config, trainer, batches, checkpoints, log, data, progress, meter, profiled_steps(), judged).run()
    print(checkpoints.summary(), flush=True)
    print(
        f"Graphs of the step: {trainer.num_compilations}, {'compiled by XLA' if trainer.xla else 'not compiled by XLA'}.",
        flush=True,
    )
    if len(averaged) > 1 and placement.is_chief:
        read = checkpoints.average(averaged, "model/")
        print(f"Weights: the mean of the checkpoints of steps {', '.join(f'{step:,}' for step in read)}.", flush=True)
    tuning.finish(model)
    return config, trainer, log


def _guaranteed(config, model, task, data, batches):
    """(batches, `Guarantee`) of a private run, which says what it promises; else the batches as they are, and None."""
    settings = privacy_config(config)
    if not settings.private:
        return batches, None
    privacy.check(task, model, config.precision)
    units, unit = privacy.units_of(settings, batches, model, data, layout_of(config))
    guarantee = privacy.Guarantee(settings, units.num_units, config.batch_size, config.steps, config.seed, unit)
    print(guarantee.sentence(config.steps), flush=True)
    learnt = ["the tokenizer"] * (
        config.tokenizer in TOKENIZERS.names() and config.tokenizer != "byte" and not config.init_from
    )
    learnt += ["the names of the labels"] * bool(getattr(task.facts, "labels", ()))
    if learnt:
        print(f"Not covered by it, as they are taken from the training data as they are: {' and '.join(learnt)}.", flush=True)
    return PoissonBatches(units, config.batch_size, config.seed), guarantee


def _meter(config, model, task, placement):
    """Says what the run will cost, and gives the `Meter` that tells what it does cost."""
    planned = plan.make(config, model.config, task.config, tuning=tuning_config(config), facts=task.facts)
    print(planned.sentence(), flush=True)
    if tf.config.list_logical_devices("GPU"):
        megabytes = planned.memory.on_accelerator / 1e6
        print(f"Of these about {megabytes:,.0f} MB are the accelerator's, by rules that were measured on none.", flush=True)
    if planned.hopeless and not loop.has_accelerator():
        raise Refusal(planned.warning())
    if not planned.fits:
        print(f"Warning: {planned.warning()}", flush=True)
    peak = devices_peak(config.precision, placement.num_replicas)
    print(f"Peak of these devices: {peak / 1e9:,.0f} GFLOP/s in {config.precision} products", flush=True)
    if slower := slower_precision(config.precision):
        print(slower, flush=True)
    return Meter(planned.flops_per_token, peak)


def _judge(run, config, trainer, log, data, seconds, judged):
    """Scores on the validation and test splits. `judged`: which are read; a test split that is not is the validation split."""
    scores = {}
    for split in ("validation", "test"):
        if split in judged:
            reading = judging.at_end(config, trainer.task, data, split, trainer.model.fitted)
            part = reading.of(trainer.task, data[split], layout_of(config))
            measured = judging.split_scores(config, trainer, part, reading, with_intervals=True)
            if math.isnan(measured["loss"]):
                raise Refusal(
                    f"The loss on {split} is nan, so training has diverged; begin a new run with a lower --learning_rate."
                )
        baselines = trainer.task.baselines(part, measured) if split == "test" else {}
        measured |= baselines
        log.write(config.steps, split, measured)
        scores[split] = {name: value for name, value in measured.items() if name not in MEASURED}
        print(f"{split}: {judging.shown(trainer.task, scores[split])}{reading.sentence()}", flush=True)
        if baselines:
            print(f"  without a model: {'  '.join(f'{name} {value:.4f}' for name, value in baselines.items())}", flush=True)
    identity.keep_signatures(run, scores["test"])
    print(f"Trained and judged in {duration(seconds)}.", flush=True)
    return scores


def _deliver(run, config, bundle, text):
    """Shows a sample of what the bundle does, exports it, and ends with a summary, whose command asks with `text`."""
    from zoo.api import Loaded

    if not bundle.model.without_head().config.contextual:
        from trainers.reporting import projector

        count = projector.write(run / "tensorboard", bundle.model, bundle.tokenizer)
        print(f"Projector: {count:,} vectors in {run / 'tensorboard'}, for tensorboard --logdir", flush=True)
    sample = bundle.task.sample(Loaded(bundle), config.seed)
    if sample is not None:
        print(f"Sample: {sample}", flush=True)
    export = None
    if config.export:
        from zoo.export import export_saved_model

        with quiet():
            export = export_saved_model(
                run / "export", bundle.model, bundle.tokenizer, bundle.task, provenance=bundle.provenance
            )
    print(summary(run, config, bundle, export, text), flush=True)


def summary(run, config, bundle, export=None, text=None):
    """What stands at the end of a run: the score, where things are, and three commands to go on with.

    Args:
        run: directory of the run.
        config: its `TrainConfig`.
        bundle: its `Bundle`, with the scores in its provenance.
        export: the directory of the export, or None.
        text: what the model is asked with, or None where any text will do.
    """
    place = shlex.quote(str(run))
    lines = [
        RULE,
        f"{config.model} {config.preset}, {config.task} on {config.dataset}",
        f"Test: {judging.shown(bundle.task, bundle.provenance['scores']['test'])}",
        f"Bundle: {run / 'bundle'}",
    ]
    if export:
        server = f"tensorflow_model_server --rest_api_port=8501 --model_name={config.model}"
        lines.append(f"Export: {export}, replayed in a fresh process: equal")
        lines.append(f"Server: {server} --model_base_path={shlex.quote(str((run / 'export').absolute()))}")
        page = f"Page: python -m trainers.playground --export_dir={shlex.quote(str(run / 'export'))}"
        lines.append(page + _needed("playground", "starlette", "uvicorn"))
    return "\n".join([
        *lines,
        "Next:",
        f"  {_question(run, bundle, text)}",
        f"  python -m trainers.evaluate --model_dir={place}",
        f"  python -m trainers.report --model_dir={place}{_needed('report', 'matplotlib')}",
        RULE,
    ])  # fmt: skip


def _needed(extra, *packages):
    """What stands behind a command whose packages may be lacking: it is right all the same, and says how to get them."""
    there = all(importlib.util.find_spec(package) for package in packages)
    return "" if there else f"  # first: pip install -e '.[{extra}]'"


def _quoted(text):
    """A text between single quotes, for a shell: a word, too, which `shlex.quote` leaves as it is."""
    return "'" + text.replace("'", "'\"'\"'") + "'"


def _question(run, bundle, text):
    """A command that asks the model: to fill holes, to write, or else with `text`, or with the longest of the requests that its
    export is proved with first."""
    requests = {}
    for signature, inputs, *_ in bundle.task.requests(bundle.model, bundle.tokenizer):
        requests.setdefault(signature, inputs)
    if "generate" in requests and "fill" not in requests:
        return f"python -m trainers.generate --model_dir={shlex.quote(str(run))} --prompt={_quoted(text or 'The')}"
    default = next(iter(requests))
    signature = "fill" if "fill" in requests else default
    inputs = requests[signature]
    if text and "text" in inputs:
        inputs = {**{name: values[:1] for name, values in inputs.items()}, "text": [text]}
    row = max(range(len(next(iter(inputs.values())))), key=lambda i: sum(len(str(values[i])) for values in inputs.values()))
    named = [] if signature == default else [repr(signature)]
    given = ", ".join([*named, *(f"{name}={[values[row]]!r}" for name, values in inputs.items())])
    code = f"import zoo; print(zoo.load({str(run)!r}).predict({given}))"
    # Python's quotes are single ones: between double ones a shell leaves them as they are, if it finds nothing to replace.
    return f"python -c {shlex.quote(code)}" if re.search(r'["$`!]|\\\\', code) else f'python -c "{code}"'
