"""Training speed of the LSTM language model beside Keras's own layer and PyTorch's, in one run.

    python -m benchmarks.train_lstm                          2 x 650, 10,000 words, T 35, batch 20 (Zaremba et al. 2014)
    python -m benchmarks.train_lstm --optimizer=sgd
    python -m benchmarks.train_lstm --peer_python=PATH       PyTorch lives in another interpreter

Every side trains the same model (embedding, LSTM layers, output layer with bias, no dropout) in float32 on random ids,
goes on from the state that its last batch left, clips the gradient at 1 and updates with the same rule: AdamW, or SGD
with momentum 0.9. Ours is the trainer as it ships, and with XLA for the whole step; the Keras sides are that same
trainer around `keras.layers.LSTM`. PyTorch runs with its default AdamW and with its fused one.
"""

import argparse
import sys
from types import SimpleNamespace

SIDES = ("ours", "ours xla", "keras LSTM", "keras LSTM xla", "torch", "torch fused AdamW")
SIZES = dict(num_layers=2, hidden_dim=650, vocab_size=10_000, seq_length=35, batch_size=20, steps=4, rounds=9)
WEIGHT_DECAY, LEARNING_RATE, CLIP_NORM = 0.01, 1e-3, 1.0


def main():
    args = _parser().parse_args()
    if args.worker:
        return _torch(args) if args.worker.startswith("torch") else _tensorflow(args)
    from benchmarks.sides import commands_of, measure, report

    commands = commands_of("benchmarks.train_lstm", args.sides.split(","), args.peer_python)
    print(
        f"Training LSTM {args.num_layers} x {args.hidden_dim}, V {args.vocab_size:,}, T {args.seq_length}, batch "
        f"{args.batch_size}, {args.optimizer}, float32: {args.rounds} interleaved rounds of {args.steps} steps",
        flush=True,
    )
    ours = [side for side in commands if side.startswith("ours")]
    amount = args.steps * args.batch_size * args.seq_length
    return report(measure(commands, args.rounds), ours, SIDES[2:], amount, "tokens")


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_lstm", description=__doc__.splitlines()[0])
    parser.add_argument("--peer_python", default=sys.executable, help="the interpreter that has torch")
    parser.add_argument("--sides", default=",".join(SIDES), help="which to measure, by commas")
    parser.add_argument("--optimizer", choices=("adamw", "sgd"), default="adamw")
    for name, value in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    return parser


def _ids(args, random):
    ids = random.integers(0, args.vocab_size, (args.batch_size, args.seq_length + 1))
    return ids[:, :-1], ids[:, 1:]


def _tensorflow(args):
    import numpy as np

    from benchmarks.sides import serve
    from trainers.engine import loop, optimizers
    from zoo.registry import MODELS, TASKS

    model_class = MODELS.get("lstm")
    config = model_class.config_class(
        vocab_size=args.vocab_size, num_layers=args.num_layers, embedding_dim=args.hidden_dim,
        hidden_dim=args.hidden_dim, tie_embeddings=False,
    )  # fmt: skip
    model = model_class(config)
    if args.worker.startswith("keras"):
        model.recurrent = [_keras_layer(i, args.hidden_dim) for i in range(args.num_layers)]
    model.build_from_ids()
    settings = SimpleNamespace(
        optimizer=args.optimizer, schedule="constant", learning_rate=LEARNING_RATE, warmup_steps=0, steps=1,
        weight_decay=WEIGHT_DECAY, clip_norm=CLIP_NORM,
    )  # fmt: skip
    xla = args.worker.endswith("xla")
    trainer = loop.Trainer(
        model, TASKS.get("language_modeling")(), optimizers.create(settings, model.trainable_variables),
        batch_size=args.batch_size, seq_length=args.seq_length, xla=xla, fuse=not xla,
    )  # fmt: skip
    random = np.random.default_rng(0)

    def work():
        for _ in range(args.steps):
            token_ids, labels = _ids(args, random)
            weights = np.ones(labels.shape, np.float32)
            loss, *_ = trainer.step(dict(token_ids=np.int32(token_ids), labels=np.int32(labels), loss_weights=weights))
            float(loss)

    serve(work)


def _keras_layer(i, hidden_dim):
    """`keras.layers.LSTM` that is called as our layer is."""
    import keras

    class KerasLSTM(keras.layers.LSTM):
        state_names, hidden_dim = ("h", "c"), property(lambda self: self.units)

        def __call__(self, inputs, state, keep=None, starts=None, training=False):
            outputs, *state = super().__call__(inputs, initial_state=state, training=training)
            return outputs, state

    return KerasLSTM(hidden_dim, return_sequences=True, return_state=True, name=f"layer_{i}")


def _torch(args):
    import time

    import numpy as np
    import torch
    from torch import nn

    torch.manual_seed(0)
    embedding = nn.Embedding(args.vocab_size, args.hidden_dim)
    stack = nn.LSTM(args.hidden_dim, args.hidden_dim, args.num_layers, batch_first=True)
    head = nn.Linear(args.hidden_dim, args.vocab_size)
    weights = [p for module in (embedding, stack, head) for p in module.parameters()]
    if args.optimizer == "adamw":
        fused = args.worker == "torch fused AdamW"
        optimizer = torch.optim.AdamW(weights, LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=fused)
    else:
        optimizer = torch.optim.SGD(weights, LEARNING_RATE, momentum=0.9, weight_decay=WEIGHT_DECAY)
    state = tuple(torch.zeros(args.num_layers, args.batch_size, args.hidden_dim) for _ in range(2))
    random = np.random.default_rng(0)

    def work():
        nonlocal state
        for _ in range(args.steps):
            ids, labels = (torch.from_numpy(array) for array in _ids(args, random))
            outputs, state = stack(embedding(ids), tuple(s.detach() for s in state))
            loss = nn.functional.cross_entropy(head(outputs).flatten(0, 1), labels.flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(weights, CLIP_NORM)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()

    for _ in sys.stdin:  # the torch interpreter need not have what benchmarks.sides imports
        start = time.perf_counter()
        work()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
