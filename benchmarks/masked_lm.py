"""Masked language modelling from scratch beside KerasHub's BERT under `fit`: speed of a step, and the loss after as many.

    python -m benchmarks.masked_lm                      the default BERT, 4 x 128, T 128, batch 16, on the embedded text
    python -m benchmarks.masked_lm --data_path=TEXT --rounds=20

Both sides have the same structure (learned positions, segments, norms after, tanh's gelu, no dropout, tied head at the hidden
positions) and take the same batches, masks included, in the same order; AdamW, rate 1e-3 falling to a tenth, 20 steps of
warm-up, weight decay 0.01, the gradient clipped at 1. Ours is the trainer as it ships, whose default preset begins positions as
sinusoids. KerasHub's is `BertMaskedLM` as it ships, with jit_compile="auto". The loss is that of the validation split, in nats
a hidden token, computed by the same function for both.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

SIDES = ("ours", "keras-hub fit")


def main():
    args = _parser().parse_args()
    if args.worker:
        return WORKERS[args.worker](args)
    from benchmarks.sides import has_module, measure, report

    if not has_module(sys.executable, "keras_hub"):
        raise SystemExit("keras_hub is not installed here: there is nothing to compare with.")
    _data(args)  # the tokens are made once
    with tempfile.TemporaryDirectory() as losses:
        commands = {
            side: [sys.executable, "-m", "benchmarks.masked_lm", *sys.argv[1:], f"--worker={side}", f"--losses={losses}"]
            for side in SIDES
        }
        steps = (args.rounds + 1) * args.steps
        print(
            f"BERT {args.num_layers} x {args.hidden_dim}, T {args.seq_length}, batch {args.batch_size}, V {args.vocab_size:,}: "
            f"{args.rounds} interleaved rounds of {args.steps} steps, after as many to warm up", flush=True,
        )  # fmt: skip
        report(measure(commands, args.rounds), SIDES[:1], SIDES[1:], args.steps, "steps")
        for side in SIDES:
            print(f"  {side:<14} validation loss after {steps} steps: {float(Path(losses, side).read_text()):.4f}")


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.masked_lm", description=__doc__.splitlines()[0])
    parser.add_argument("--data_path", help="text, by default the documentation of this Python")
    parser.add_argument(
        "--xla", choices=("auto", "on", "off", "chains"), default="auto", help="of our side; chains: elementwise ones alone"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and of the order of the data")
    for name, value in (
        ("num_layers", 4),
        ("num_heads", 4),
        ("hidden_dim", 128),
        ("vocab_size", 8_192),
        ("seq_length", 128),
        ("batch_size", 16),
        ("steps", 20),
        ("rounds", 9),
        ("judged_tokens", 100_000),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--losses", help=argparse.SUPPRESS)
    return parser


def _data(args):
    """(tokenizer, split -> tokens)"""
    import tfds_configs
    from trainers.prepare import prepare

    source = tfds_configs.get("local_text" if args.data_path else "python_docs", args.data_path)
    return prepare(source, "wordpiece", args.vocab_size, splits=["train", "validation"])


def _settings(args):
    return SimpleNamespace(
        schedule="linear", learning_rate=1e-3, warmup_steps=20, steps=(args.rounds + 1) * args.steps, weight_decay=0.01,
        clip_norm=1.0, optimizer="adamw",
    )  # fmt: skip


def _serve(args, side, batches, train, logits_of):
    """Trains on the next steps for each line of standard input, timed; after the last round writes down the loss."""
    for index, _ in enumerate(sys.stdin):
        chosen = [batches.training.batch(step) for step in range(index * args.steps, (index + 1) * args.steps)]
        began = time.perf_counter()
        train(chosen)
        seconds = time.perf_counter() - began
        if index == args.rounds:
            Path(args.losses, side).write_text(json.dumps(_loss(batches.judged, logits_of)))
        print(seconds, flush=True)


def _loss(judged, logits_of):
    import numpy as np

    nats = count = 0.0
    for batch in judged:
        logits, weights = np.asarray(logits_of(batch), np.float64), batch["loss_weights"]
        top = logits.max(-1)
        log_z = top + np.log(np.exp(logits - top[..., None]).sum(-1))
        picked = np.take_along_axis(logits, batch["labels"][..., None], -1)[..., 0]
        nats, count = nats + ((log_z - picked) * weights).sum(), count + weights.sum()
    return nats / count


def _batches(args, task, model):
    from zoo.data.batch import Layout

    tokenizer, data = _data(args)
    layout = Layout(args.seq_length, args.batch_size, args.seed)
    judged = list(task.evaluation_batches(data["validation"], model, tokenizer, layout, args.judged_tokens))
    return SimpleNamespace(training=task.training_batches(data["train"], model, tokenizer, layout), judged=judged)


def _ours(args):
    import keras

    from trainers.cost import plan
    from trainers.engine import loop, optimizers
    from zoo.registry import MODELS, TASKS

    keras.utils.set_random_seed(args.seed)
    model_class, task = MODELS.get("bert"), TASKS.get("masked_lm")()
    tokenizer, _ = _data(args)
    config = model_class.config_class.preset(
        "default", vocab_size=tokenizer.vocab_size, max_length=args.seq_length, num_layers=args.num_layers,
        num_heads=args.num_heads, hidden_dim=args.hidden_dim, activation="gelu",
    )  # fmt: skip
    model = task.assemble(model_class(config)).build_from_ids()
    optimizer = optimizers.create(_settings(args), model.trainable_variables)
    chains = args.xla == "chains"
    xla, _ = plan.resolve_xla("off" if chains else args.xla, model.config.cost(1), model.count_params(), loop.has_accelerator())
    trainer = loop.Trainer(
        model, task, optimizer, batch_size=args.batch_size, seq_length=args.seq_length, xla=xla,
        fuse=chains or (args.xla == "auto" and not xla),
    )  # fmt: skip

    def train(chosen):
        for batch in chosen:
            loss, *_ = trainer.step(batch)
        float(loss)

    _serve(args, "ours", _batches(args, task, model), train, lambda batch: task.forward(model, batch)[0])


def _keras_hub(args):
    import keras
    import numpy as np
    from keras_hub.models import BertBackbone, BertMaskedLM

    from trainers.engine.optimizers import Schedule
    from zoo.registry import TASKS

    keras.utils.set_random_seed(args.seed)
    tokenizer, _ = _data(args)
    backbone = BertBackbone(
        vocabulary_size=tokenizer.vocab_size, num_layers=args.num_layers, num_heads=args.num_heads, hidden_dim=args.hidden_dim,
        intermediate_dim=4 * args.hidden_dim, dropout=0.0, max_sequence_length=args.seq_length,
    )  # fmt: skip
    model = BertMaskedLM(backbone)
    settings = _settings(args)
    optimizer = keras.optimizers.AdamW(
        Schedule.of(settings), weight_decay=settings.weight_decay, global_clipnorm=settings.clip_norm, beta_2=0.95, epsilon=1e-8
    )
    optimizer.exclude_from_weight_decay(var_list=[v for v in model.trainable_variables if len(v.shape) < 2])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    model.compile(optimizer, loss, weighted_metrics=[], jit_compile="auto")

    def features(batch):
        ids = batch["token_ids"]
        mask = np.int32(batch.get("padding_mask", np.ones_like(ids)))
        return dict(
            token_ids=ids, segment_ids=np.zeros_like(ids), padding_mask=mask, mask_positions=batch["label_positions"]
        )  # fmt: skip

    def train(chosen):
        whole = {name: np.concatenate([batch[name] for batch in chosen]) for name in chosen[0]}
        model.fit(
            features(whole), whole["labels"], sample_weight=whole["loss_weights"], batch_size=args.batch_size, shuffle=False,
            verbose=0,
        )  # fmt: skip

    batches = _batches(args, TASKS.get("masked_lm")(), None)
    _serve(args, "keras-hub fit", batches, train, lambda batch: model(features(batch)))


WORKERS = {"ours": _ours, "keras-hub fit": _keras_hub}

if __name__ == "__main__":
    main()
