"""Training speed of GPT beside PyTorch, eager and compiled, and KerasHub's GPT-2 under `fit`, in one run.

    python -m benchmarks.train_gpt                           6 x 384, T 256, batch 8, float32
    python -m benchmarks.train_gpt --precision=bfloat16
    python -m benchmarks.train_gpt --small                   the default, 4 x 128, T 64, batch 12
    python -m benchmarks.train_gpt --peer_python=PATH        PyTorch lives in another interpreter

Every side trains the same architecture (learned positions, tied head, gelu, no dropout, 65 characters) on random ids with AdamW
and the gradient clipped at 1. Ours is the trainer as it ships, with --xla=auto.
"""

import argparse
import sys
from types import SimpleNamespace

SIDES = ("ours", "torch eager", "torch compiled", "keras-hub fit")
VOCAB_SIZE = 65
SETTINGS = SimpleNamespace(
    schedule="constant", learning_rate=3e-4, warmup_steps=0, steps=1, weight_decay=0.1, clip_norm=1.0, optimizer="adamw"
)


def main():
    args = _parser().parse_args()
    if args.small:
        args.num_layers, args.num_heads, args.hidden_dim, args.seq_length, args.batch_size, args.steps = 4, 4, 128, 64, 12, 20
    if args.worker:
        return WORKERS[args.worker](args)
    from benchmarks.sides import has_module, measure, report

    commands = {}
    for side in args.sides.split(","):
        python = args.peer_python if side.startswith("torch") else sys.executable
        module = {"torch": "torch", "keras-hub": "keras_hub"}.get(side.split()[0])
        if module and not has_module(python, module):
            print(f"{module} is not installed in {python}: no figure and no ratio for {side}.")
            continue
        commands[side] = [python, "-m", "benchmarks.train_gpt", *sys.argv[1:], f"--worker={side}"]
    print(
        f"Training GPT {args.num_layers} x {args.hidden_dim}, T {args.seq_length}, batch {args.batch_size}, {args.precision}: "
        f"{args.rounds} interleaved rounds of {args.steps} steps", flush=True,
    )  # fmt: skip
    amount = args.steps * args.batch_size * args.seq_length
    return report(measure(commands, args.rounds), ["ours"], SIDES[1:], amount, "tokens")


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_gpt", description=__doc__.splitlines()[0])
    parser.add_argument("--peer_python", default=sys.executable, help="the interpreter that has torch")
    parser.add_argument("--sides", default=",".join(SIDES), help="which to measure, by commas")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--small", action="store_true", help="the default GPT, 4 x 128")
    parser.add_argument("--attention", choices=("auto", "plain", "rows", "blockwise"), default="auto", help="of our side")
    parser.add_argument("--xla", choices=("auto", "on", "off"), default="auto", help="of our side")
    for name, value in (
        ("num_layers", 6), ("num_heads", 6), ("hidden_dim", 384), ("seq_length", 256), ("batch_size", 8), ("steps", 2),
        ("rounds", 7),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    return parser


def _ids(args, random):
    ids = random.integers(0, VOCAB_SIZE, (args.batch_size, args.seq_length + 1))
    return ids[:, :-1], ids[:, 1:]


def _ours(args):
    import keras
    import numpy as np

    from benchmarks.sides import serve
    from trainers.cost import plan
    from trainers.engine import loop, optimizers
    from zoo.registry import MODELS, TASKS

    if args.precision == "bfloat16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model_class = MODELS.get("gpt")
    model = model_class(
        model_class.config_class.preset(
            "default",
            vocab_size=VOCAB_SIZE,
            max_length=args.seq_length,
            num_layers=args.num_layers,
            num_heads=args.num_heads,
            hidden_dim=args.hidden_dim,
            attention=args.attention,
        )  # fmt: skip
    ).build_from_ids()
    optimizer = optimizers.create(SETTINGS, model.trainable_variables)
    xla, _ = plan.resolve_xla(args.xla, model.config.cost(1), model.count_params(), loop.has_accelerator(), args.precision)
    trainer = loop.Trainer(
        model, TASKS.get("language_modeling")(), optimizer, batch_size=args.batch_size, seq_length=args.seq_length,
        xla=xla, fuse=args.xla == "auto" and not xla,
    )  # fmt: skip
    random = np.random.default_rng(0)

    def work():
        for _ in range(args.steps):
            token_ids, labels = _ids(args, random)
            weights = np.ones(labels.shape, np.float32)
            loss, *_ = trainer.step(dict(token_ids=np.int32(token_ids), labels=np.int32(labels), loss_weights=weights))
            float(loss)

    serve(work)


def _keras_hub(args):
    import keras
    import numpy as np
    from keras_hub.models import GPT2Backbone

    from benchmarks.sides import serve

    if args.precision == "bfloat16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    backbone = GPT2Backbone(
        vocabulary_size=VOCAB_SIZE, num_layers=args.num_layers, num_heads=args.num_heads, hidden_dim=args.hidden_dim,
        intermediate_dim=4 * args.hidden_dim, dropout=0.0, max_sequence_length=args.seq_length,
    )  # fmt: skip
    inputs = {name: keras.Input((args.seq_length,), dtype="int32", name=name) for name in ("token_ids", "padding_mask")}
    logits = backbone.token_embedding(backbone(inputs), reverse=True)
    model = keras.Model(inputs, logits)
    model.compile(
        keras.optimizers.AdamW(3e-4, weight_decay=0.1, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    random = np.random.default_rng(0)
    pairs = [_ids(args, random) for _ in range(args.steps)]
    token_ids, labels = (np.concatenate(column) for column in zip(*pairs, strict=True))
    features = {"token_ids": token_ids, "padding_mask": np.ones_like(token_ids)}
    serve(lambda: model.fit(features, labels, batch_size=args.batch_size, shuffle=False, verbose=0))


def _torch(args, compiled):
    import time

    import numpy as np
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            d = args.hidden_dim
            self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
            self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
            self.expand, self.contract = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

        def forward(self, x):
            batch, length, width = x.shape
            q, k, v = (
                part.view(batch, length, args.num_heads, -1).transpose(1, 2) for part in self.qkv(self.norm1(x)).split(width, 2)
            )
            attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
            return x + self.contract(functional.gelu(self.expand(self.norm2(x)), approximate="tanh"))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(VOCAB_SIZE, args.hidden_dim)
            self.positions = nn.Embedding(args.seq_length, args.hidden_dim)
            self.blocks = nn.ModuleList(Block() for _ in range(args.num_layers))
            self.norm = nn.LayerNorm(args.hidden_dim)

        def forward(self, ids):
            x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
            for block in self.blocks:
                x = block(x)
            return self.norm(x) @ self.tokens.weight.T

    torch.manual_seed(0)
    model = Model()
    run = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4, weight_decay=0.1)
    random = np.random.default_rng(0)

    def work():
        for _ in range(args.steps):
            ids, labels = (torch.from_numpy(array) for array in _ids(args, random))
            with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bfloat16"):
                logits = run(ids)
                loss = functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()

    for _ in sys.stdin:  # the torch interpreter need not have what benchmarks.sides imports
        start = time.perf_counter()
        work()
        print(time.perf_counter() - start, flush=True)


WORKERS = {
    "ours": _ours,
    "torch eager": lambda args: _torch(args, compiled=False),
    "torch compiled": lambda args: _torch(args, compiled=True),
    "keras-hub fit": _keras_hub,
}

if __name__ == "__main__":
    main()
