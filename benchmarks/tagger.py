"""A BiLSTM with a conditional random field: its training beside PyTorch's, and how fast an exported one tags.

    python -m benchmarks.tagger --peer_python=PATH     `bilstm` as it ships: 1 x 256, T 64, batch 32, 17 tags
    python -m benchmarks.tagger --export_dir=RUN/export --source=sentences.txt      a line a sentence, 32 a request

Training: both sides train the same model (embedding, LSTM in both directions, linear layer, conditional random field with start
and end) in float32 on the same random sentences of 10 to 64 words, without dropout, clip the gradient at 1 and update with
AdamW. Ours is the trainer as it ships. The peer is `torch.nn.LSTM` over packed sequences with pytorch-crf's batched CRF.

Tagging: the SavedModel, loaded by plain TensorFlow, text in and tags out; and beside it what the search for the best tags and
their marginals takes alone, on as many words. They are called from Python; what a call without a search takes is left out.
"""

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

SIDES = ("ours", "torch", "torch fused AdamW")
SIZES = dict(
    num_layers=1, embedding_dim=128, hidden_dim=256, vocab_size=8_192, seq_length=64, batch_size=32, num_tags=17, steps=10,
    rounds=9,
)  # fmt: skip
SHORTEST = 10  # words
WEIGHT_DECAY, LEARNING_RATE, CLIP_NORM = 0.01, 1e-3, 1.0


def main():
    args = _parser().parse_args()
    if args.worker:
        return _torch(args) if args.worker.startswith("torch") else _ours(args)
    if args.export_dir:
        return _tagging(args)
    from benchmarks.sides import commands_of, measure, report

    commands = commands_of("benchmarks.tagger", args.sides.split(","), args.peer_python, "torchcrf")
    print(
        f"Training BiLSTM-CRF {args.num_layers} x {args.hidden_dim}, V {args.vocab_size:,}, T {args.seq_length}, batch "
        f"{args.batch_size}, {args.num_tags} tags, float32: {args.rounds} interleaved rounds of {args.steps} steps",
        flush=True,
    )
    amount = args.steps * args.batch_size
    return report(measure(commands, args.rounds), ["ours"], SIDES[1:], amount, "sentences")


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tagger", description=__doc__.splitlines()[0])
    parser.add_argument("--peer_python", default=sys.executable, help="the interpreter that has torch and pytorch-crf")
    parser.add_argument("--sides", default=",".join(SIDES), help="which to measure, by commas")
    parser.add_argument("--export_dir", type=Path, help="an exported tagger, to be timed in place of training")
    parser.add_argument("--source", type=Path, help="a text file with a sentence a line, for the exported tagger")
    for name, value in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    return parser


def _batch(args, random):
    """Ids and tags int32 (B, T), and lengths int32 (B,), the longest first."""
    import numpy as np

    ids = random.integers(0, args.vocab_size, (args.batch_size, args.seq_length), dtype=np.int32)
    tags = random.integers(0, args.num_tags, (args.batch_size, args.seq_length), dtype=np.int32)
    lengths = np.sort(random.integers(SHORTEST, args.seq_length + 1, args.batch_size))[::-1].astype(np.int32)
    return ids, tags, lengths


def _ours(args):
    import numpy as np

    from benchmarks.sides import serve
    from trainers.cost import plan
    from trainers.engine import loop, optimizers
    from zoo.registry import MODELS, TASKS

    task_class = TASKS.get("tagging")
    facts = task_class.facts_class(labels=tuple(f"T{i:02}" for i in range(args.num_tags)), max_tokens=args.seq_length)
    task = task_class(task_class.config_class(crf=True, head_dropout=0.0), facts)
    model_class = MODELS.get("bilstm")
    names = ("vocab_size", "num_layers", "embedding_dim", "hidden_dim")
    sizes = {name: getattr(args, name) for name in names}
    model = task.assemble(model_class(model_class.config_class.preset("default", dropout=0.0, **sizes))).build_from_ids()
    settings = SimpleNamespace(
        optimizer="adamw", schedule="constant", learning_rate=LEARNING_RATE, warmup_steps=0, steps=1,
        weight_decay=WEIGHT_DECAY, clip_norm=CLIP_NORM,
    )  # fmt: skip
    xla, _ = plan.resolve_xla("auto", model.config.cost(1), model.count_params(), loop.has_accelerator())
    trainer = loop.Trainer(
        model, task, optimizers.create(settings, model.trainable_variables), batch_size=args.batch_size,
        seq_length=args.seq_length, xla=xla, fuse=not xla,
    )  # fmt: skip
    random = np.random.default_rng(0)
    places = np.arange(args.seq_length, dtype=np.int32)

    def work():
        for _ in range(args.steps):
            ids, tags, lengths = _batch(args, random)
            real = places < lengths[:, None]
            loss, *_ = trainer.step(dict(
                token_ids=ids, padding_mask=real, label_positions=np.broadcast_to(places, ids.shape), labels=tags,
                loss_weights=real.astype(np.float32),
            ))  # fmt: skip
            float(loss)

    serve(work)


def _torch(args):
    import time

    import numpy as np
    import torch
    from torch import nn
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
    from torchcrf import CRF

    torch.manual_seed(0)
    embedding = nn.Embedding(args.vocab_size, args.embedding_dim)
    stack = nn.LSTM(args.embedding_dim, args.hidden_dim // 2, args.num_layers, batch_first=True, bidirectional=True)
    head, crf = nn.Linear(args.hidden_dim, args.num_tags), CRF(args.num_tags, batch_first=True)
    weights = [p for module in (embedding, stack, head, crf) for p in module.parameters()]
    fused = args.worker.endswith("fused AdamW")
    optimizer = torch.optim.AdamW(weights, LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=fused)
    random = np.random.default_rng(0)
    places = torch.arange(args.seq_length)

    def work():
        for _ in range(args.steps):
            ids, tags, lengths = (torch.from_numpy(array.copy()).long() for array in _batch(args, random))
            packed = pack_padded_sequence(embedding(ids), lengths, batch_first=True)
            outputs, _ = pad_packed_sequence(stack(packed)[0], batch_first=True)
            width = outputs.shape[1]
            real = places[:width] < lengths[:, None]
            loss = -crf(head(outputs), tags[:, :width], real, reduction="sum") / lengths.sum()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, CLIP_NORM)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()

    for _ in sys.stdin:  # the torch interpreter need not have what benchmarks.sides imports
        start = time.perf_counter()
        work()
        print(time.perf_counter() - start, flush=True)


def _tagging(args):
    import functools
    import statistics
    import time

    import numpy as np
    import tensorflow as tf

    from benchmarks.fuzz import newest
    from zoo.layers import crf

    lines = args.source.read_text(encoding="utf8").splitlines()
    lines = [line for line in lines if line.strip()]
    tag = tf.saved_model.load(str(newest(args.export_dir))).signatures["tag"]
    batches = [tf.constant(lines[i : i + args.batch_size]) for i in range(0, len(lines), args.batch_size)]
    words = [[len(line.split()) for line in lines[i : i + args.batch_size]] for i in range(0, len(lines), args.batch_size)]
    shapes = [(len(counts), max(counts)) for counts in words]
    random = np.random.default_rng(0)
    moves = tf.constant(random.normal(size=(args.num_tags + 1,) * 2).astype(np.float32))
    unary = [tf.constant(random.normal(size=(*shape, args.num_tags)).astype(np.float32)) for shape in shapes]
    real = [tf.ones(shape, tf.bool) for shape in shapes]
    searches = {
        "best tags": tf.function(crf.viterbi, reduce_retracing=True),
        "best tags and marginals": tf.function(crf.decode, reduce_retracing=True),
        "a call": tf.function(lambda unary_BWC, moves_SS, mask_BW: (mask_BW,), reduce_retracing=True),
    }

    def whole():
        for batch in batches:
            tag(text=batch)["tags"].numpy()

    def search(name):
        for scores, mask in zip(unary, real, strict=True):
            searches[name](scores, moves, mask)[0].numpy()

    works = {"tagging": whole} | {name: functools.partial(search, name) for name in searches}
    seconds = {name: [] for name in works}
    for turn in range(args.rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name] += [time.perf_counter() - start] if turn else []
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    print(f"{len(lines):,} sentences, {args.batch_size} a request, {args.rounds} rounds")
    best = len(lines) / min(seconds["tagging"])
    print(f"  tagging                    {len(lines) / medians['tagging']:9,.1f} sentences/s   (best {best:,.1f})")
    call, whole_time = medians.pop("a call"), medians.pop("tagging")
    for name, alone in medians.items():
        print(
            f"  {name} alone take {(alone - call) / whole_time:.1%} of that time; the call takes {call / whole_time:.1%} more"
        )


if __name__ == "__main__":
    main()
