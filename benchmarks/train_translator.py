"""Training speed of encoder-decoders beside PyTorch, eager and compiled, in one run.

    python -m benchmarks.train_translator                                 a Transformer, 3 + 3 layers x 256
    python -m benchmarks.train_translator --model=seq2seq                 LSTM, 2 layers x 512, with Luong's attention
    python -m benchmarks.train_translator --precision=bfloat16
    python -m benchmarks.train_translator --dropout=0.1                   on embeddings and sublayers, as in training
    python -m benchmarks.train_translator --peer_python=PATH              PyTorch lives in another interpreter
    python -m benchmarks.train_translator --size=tiny --rounds=1          whether it runs at all

Every side trains the same architecture on random ids: 64 rows of 16 + 16 tokens of 8,000, one table for source, target and
output, AdamW, labels smoothed by 0.1, the gradient clipped at 1. A figure is target tokens over seconds. Ours is
the trainer as it ships, with --xla=auto. The Transformer has 4 heads, a network of 1,024 and norms behind the residuals; in
seq2seq the encoder is bidirectional and scores are `general`. With dropout PyTorch's Transformer also drops attention's weights
and inside the network, where ours does not.
"""

import argparse
import sys
from types import SimpleNamespace

SIDES = ("ours", "torch eager", "torch compiled")
# (layers of each stack, heads, width, width of the network, ids)
SIZES = {
    ("transformer", "full"): (3, 4, 256, 1_024, 8_000), ("transformer", "tiny"): (1, 2, 16, 32, 100),
    ("seq2seq", "full"): (2, 1, 512, 0, 8_000), ("seq2seq", "tiny"): (1, 1, 16, 0, 100),
}  # fmt: skip
SETTINGS = SimpleNamespace(
    schedule="constant", learning_rate=3e-4, warmup_steps=0, steps=1, weight_decay=0.01, clip_norm=1.0, optimizer="adamw"
)
SMOOTHING = 0.1


def main():
    args = _parser().parse_args()
    if args.worker:
        return WORKERS[args.worker](args)
    from benchmarks.sides import commands_of, measure, report
    from benchmarks.translate import host, versions

    commands = commands_of("benchmarks.train_translator", args.sides.split(","), args.peer_python)
    print(f"Host: {host()}; {versions([command[0] for command in commands.values()])}")
    print(
        f"Training {args.model} {SIZES[args.model, args.size]}, {args.batch_size} x ({args.length} + {args.length}) tokens, "
        f"{args.precision}, dropout {args.dropout}: {args.rounds} interleaved rounds of {args.steps} steps", flush=True,
    )  # fmt: skip
    return report(measure(commands, args.rounds), ["ours"], SIDES[1:], args.steps * args.batch_size * args.length, "tokens")


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_translator", description=__doc__.splitlines()[0])
    parser.add_argument("--peer_python", default=sys.executable, help="the interpreter that has torch")
    parser.add_argument("--sides", default=",".join(SIDES), help="which to measure, by commas")
    parser.add_argument("--model", choices=("transformer", "seq2seq"), default="transformer")
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--xla", choices=("auto", "on", "off"), default="auto", help="of our side")
    for name, value in (("batch_size", 64), ("length", 16), ("steps", 3), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    return parser


def _ids(args, random):
    """Sources, what the decoder reads, and what it is to say, int32 (B, length)."""
    vocab_size = SIZES[args.model, args.size][-1]
    source, target = random.integers(2, vocab_size, (2, args.batch_size, args.length), dtype="int32")
    read = target.copy()
    read[:, 1:], read[:, 0] = target[:, :-1], 0
    return source, read, target


def _ours(args):
    import keras
    import numpy as np

    from benchmarks.sides import serve
    from trainers.cost import plan
    from trainers.engine import loop, optimizers
    from zoo.registry import MODELS, TASKS

    if args.precision == "bfloat16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    layers, heads, width, inner, vocab_size = SIZES[args.model, args.size]
    fields = dict(vocab_size=vocab_size, num_layers=layers, hidden_dim=width, dropout=args.dropout)
    if args.model == "transformer":
        fields |= dict(num_heads=heads, mlp_dim=inner)
    else:
        fields |= dict(embedding_dim=width, attention="general")
    model = MODELS.get(args.model)(MODELS.config(args.model).preset("default", **fields)).build_from_ids()
    optimizer = optimizers.create(SETTINGS, model.trainable_variables)
    xla, _ = plan.resolve_xla(args.xla, model.config.cost(1), model.count_params(), loop.has_accelerator(), args.precision)
    trainer = loop.Trainer(
        model, TASKS.get("translation")(label_smoothing=SMOOTHING), optimizer, batch_size=args.batch_size,
        seq_length=args.length, xla=xla, fuse=args.xla == "auto" and not xla,
    )  # fmt: skip
    random = np.random.default_rng(0)

    def work():
        for _ in range(args.steps):
            source, read, target = _ids(args, random)
            loss, *_ = trainer.step(
                dict(
                    source_ids=source, source_mask=np.ones(source.shape, bool), token_ids=read, labels=target,
                    loss_weights=np.ones(target.shape, np.float32),
                )
            )  # fmt: skip
            float(loss)

    serve(work)


def _torch_transformer(args):
    import torch
    from torch import nn

    layers, heads, width, inner, vocab_size = SIZES[args.model, args.size]

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(vocab_size, width)
            self.dropped = nn.Dropout(args.dropout)
            nn.init.normal_(self.tokens.weight, std=width**-0.5)
            rates = 10_000 ** (-torch.arange(0, width, 2) / width)
            angles = torch.arange(args.length)[:, None] * rates
            self.register_buffer("positions", torch.stack([angles.sin(), angles.cos()], -1).flatten(1))
            self.body = nn.Transformer(width, heads, layers, layers, inner, dropout=args.dropout, batch_first=True)
            # Behind the last residual there is a norm already.
            self.body.encoder.norm = self.body.decoder.norm = None
            self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(args.length))

        def embed(self, ids):
            return self.dropped(self.tokens(ids) * width**0.5 + self.positions)

        def forward(self, source, read):
            hidden = self.body(self.embed(source), self.embed(read), tgt_mask=self.mask, tgt_is_causal=True)
            return hidden @ self.tokens.weight.T

    return Model()


def _torch_seq2seq(args):
    import torch
    from torch import nn

    layers, _, width, _, vocab_size = SIZES[args.model, args.size]

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.dropped = nn.Embedding(vocab_size, width), nn.Dropout(args.dropout)
            options = dict(num_layers=layers, batch_first=True, dropout=args.dropout)
            self.encoder = nn.LSTM(width, width // 2, bidirectional=True, **options)
            self.decoder = nn.LSTM(width, width, **options)
            self.scores = nn.Linear(width, width, bias=False)
            self.combined = nn.Linear(2 * width, width, bias=False)

        def forward(self, source, read):
            memory, states = self.encoder(self.dropped(self.tokens(source)))
            # Each layer begins with the last states of both directions side by side.
            begun = tuple(s.view(layers, 2, -1, width // 2).transpose(1, 2).reshape(layers, -1, width) for s in states)
            hidden, _ = self.decoder(self.dropped(self.tokens(read)), tuple(s.contiguous() for s in begun))
            weights = torch.softmax(hidden @ self.scores(memory).transpose(1, 2), -1)
            looked = self.dropped(torch.tanh(self.combined(torch.cat([hidden, weights @ memory], -1))))
            return looked @ self.tokens.weight.T

    return Model()


def _torch(args, compiled):
    import numpy as np
    import torch
    from torch.nn import functional
    from torch.nn.utils import clip_grad_norm_

    from benchmarks.sides import serve

    torch.manual_seed(0)
    model = _torch_transformer(args) if args.model == "transformer" else _torch_seq2seq(args)
    run = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), SETTINGS.learning_rate, weight_decay=SETTINGS.weight_decay)
    random = np.random.default_rng(0)

    def work():
        for _ in range(args.steps):
            source, read, target = (torch.from_numpy(array).long() for array in _ids(args, random))
            with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bfloat16"):
                logits = run(source, read)
                loss = functional.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), label_smoothing=SMOOTHING)
            loss.backward()
            clip_grad_norm_(model.parameters(), SETTINGS.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()

    serve(work)


WORKERS = {
    "ours": _ours,
    "torch eager": lambda args: _torch(args, compiled=False),
    "torch compiled": lambda args: _torch(args, compiled=True),
}

if __name__ == "__main__":
    main()
