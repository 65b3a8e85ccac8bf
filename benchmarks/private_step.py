"""What differential privacy costs a step: GPT, plain and private, one after the other in one process.

    python -m benchmarks.private_step                        the default GPT with a vocabulary of 257, 16 x 128
    python -m benchmarks.private_step --large                6 x 384, T 256, batch 8
    python -m benchmarks.private_step --only=private         one side, and the largest memory of the process

The private step takes a full batch of as many rows as the plain one. Medians of wall clock and of processor time.
"""

import argparse
import json
import resource
import statistics
import time
from types import SimpleNamespace

SETTINGS = SimpleNamespace(
    schedule="constant", learning_rate=3e-4, warmup_steps=0, steps=1, weight_decay=0.1, clip_norm=0.0, optimizer="adamw"
)


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.private_step", description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="6 x 384, T 256, batch 8")
    parser.add_argument("--only", choices=("plain", "private"), help="one side")
    for name, value in (("vocab_size", 257), ("seq_length", 128), ("batch_size", 16), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    fields = {}
    if args.large:
        args.seq_length, args.batch_size = 256, 8
        fields = dict(num_layers=6, num_heads=6, hidden_dim=384, max_length=256)
    sides = {name: made(args, fields, name == "private") for name in ((args.only,) if args.only else ("plain", "private"))}
    seconds = {name: ([], []) for name in sides}
    for number in range(args.rounds + 1):  # the first step compiles
        for name, step in sides.items():
            wall, processor = time.perf_counter(), time.process_time()
            step()
            if number:
                seconds[name][0].append(time.perf_counter() - wall)
                seconds[name][1].append(time.process_time() - processor)
    told = {name: [round(statistics.median(each), 4) for each in both] for name, both in seconds.items()}
    found = {"seconds a step (wall clock, processor)": told}
    if not args.only:
        found["ratio"] = [round(told["private"][i] / told["plain"][i], 3) for i in (0, 1)]
    found["largest memory in MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1_000
    print(json.dumps(found))


def made(args, fields, private):
    """A function that takes one step, and waits for it."""
    import numpy as np

    import zoo
    from trainers.engine import loop, optimizers, privacy
    from zoo.tasks.language_modeling import LanguageModeling

    model = zoo.create("gpt", vocab_size=args.vocab_size, **fields)
    guarantee = None
    if private:
        config = privacy.PrivacyConfig(dp_noise=1.0)
        guarantee = privacy.Guarantee(config, 100_000, args.batch_size, 100, 1, "one row")
    optimizer = optimizers.create(SETTINGS, model.trainable_variables)
    trainer = loop.Trainer(
        model, LanguageModeling(), optimizer, batch_size=args.batch_size, seq_length=args.seq_length, xla=False, fuse=True,
        guarantee=guarantee,
    )  # fmt: skip
    ids = np.random.default_rng(0).integers(0, args.vocab_size, (args.batch_size, args.seq_length + 1)).astype(np.int32)
    weights = np.ones((args.batch_size, args.seq_length), np.float32)
    batch = {"token_ids": ids[:, :-1], "labels": ids[:, 1:], "loss_weights": weights}
    return lambda: float(trainer.step(batch).loss)


if __name__ == "__main__":
    main()
