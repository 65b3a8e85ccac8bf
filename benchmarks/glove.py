"""The cost of GloVe after each epoch, beside two plain NumPy programs that take the same pairs in the same order.

    python -m benchmarks.glove --text=brown.txt

| column | update |
|---|---|
| ours | the trainer as it ships, with the family's recipe: XLA, float32, only the rows of a batch are written |
| numpy | the same update in float64, written down straight: the gradients of a batch are summed by word, then AdaGrad |
| original | AdaGrad after every single pair, one after the other, as the original program of GloVe with one thread |

The cost is that of the original program: f(X) / 2 (w . c + b + d - log X)^2 a pair, the mean over an epoch, each pair before
the update that it is part of. Exit status 1 if `ours` and `numpy` differ by 1e-4 or more.
"""

import argparse
import sys
import tempfile
from types import SimpleNamespace

import numpy as np


def main():
    args = _parser().parse_args()
    with tempfile.TemporaryDirectory() as directory:
        trainer, batches, model = trained_side(_ids(args), args, directory)
        tables = tables_of(model)
        plain, single = Plain(tables, args), Plain(tables, args)
        print(
            f"GloVe: {args.lines:,} lines, {batches.pairs.num_records:,} pairs, D {args.hidden_dim}, window {args.window}, "
            f"batches of {args.batch_pairs:,}, x_max {args.x_max:g}; numpy {np.__version__}",
            flush=True,
        )
        worst = 0.0
        for epoch in range(args.epochs):
            ours, numpy, original = [], [], []
            for step in range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch):
                batch = batches.batch(step)
                ours.append(float(trainer.step(batch).loss))
                numpy.append(plain.step(batch))
                if args.original:
                    original.append(single.one_by_one(batch))
            costs = [float(np.mean(costs)) for costs in (ours, numpy)]
            worst = max(worst, abs(costs[0] - costs[1]))
            told = f"  original {np.mean(original):.6f}" if original else ""
            print(f"  epoch {epoch + 1:2}  ours {costs[0]:.6f}  numpy {costs[1]:.6f}{told}", flush=True)
    print(f"Largest difference of ours and numpy: {worst:.2e}")
    sys.exit(0 if worst < 1e-4 else 1)


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.glove", description=__doc__.splitlines()[0])
    parser.add_argument("--text", required=True, help="a text file, a sentence a line")
    parser.add_argument("--lines", type=int, default=2_000, help="how many of its lines are read")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--hidden_dim", type=int, default=50)
    parser.add_argument("--window", type=int, default=15)
    parser.add_argument("--x_max", type=float, default=10.0)
    parser.add_argument("--batch_pairs", type=int, default=4_096)
    parser.add_argument("--original", action=argparse.BooleanOptionalAction, default=True, help="one pair at a time, too")
    parser.set_defaults(alpha=0.75, rate=0.05, vocab_size=None)
    return parser


def _ids(args):
    """The ids of the text's lines; `args` learns the size of the vocabulary."""
    from zoo.text_files import lines
    from zoo.tokenizers.word import WordTokenizer

    read = []
    for number, line in lines(args.text):
        if number > args.lines:
            break
        read.append(line)
    text = "\n".join(read)
    tokenizer = WordTokenizer.train([text], lowercase=True, punctuation=False, min_count=5)
    args.vocab_size, args.special_ids = tokenizer.vocab_size, tokenizer.special_ids
    return tokenizer.encode_batch([text])[0]


def trained_side(ids, args, directory):
    """(trainer, batches, model) of the family as it ships.

    Args:
        ids: the text, int32 (N,), laid out like a stream.
        args: what `_parser` gives, with `vocab_size` and `special_ids`, of which the second is what ends a sentence.
        directory: where the pairs are counted.
    """
    from pathlib import Path

    from trainers.engine import loop, optimizers
    from zoo.data.batch import Layout
    from zoo.data.cooccurrence import CooccurrenceBatches, count_cooccurrences
    from zoo.data.pairs import count_words
    from zoo.models.glove import GloVe, GloVeConfig
    from zoo.tasks.word_vectors import WordVectors, WordVectorsConfig

    loop.set_seed(1)
    unk_id, eos_id = args.special_ids
    task = WordVectors(WordVectorsConfig(window=args.window, x_max=args.x_max, alpha=args.alpha))
    model = task.assemble(GloVe(GloVeConfig(args.vocab_size, args.hidden_dim, eos_id=eos_id, unk_id=unk_id))).build_from_ids()
    counts = count_words(ids, args.vocab_size, special_ids=args.special_ids)
    counted = count_cooccurrences(ids, counts, eos_id, Path(directory) / "pairs", window=args.window)
    batches = CooccurrenceBatches(counted, Layout(args.batch_pairs // 64, 64, seed=1))
    recipe = GloVeConfig.recipe
    names = ("optimizer", "schedule", "warmup_steps", "weight_decay", "clip_norm")
    run = SimpleNamespace(learning_rate=args.rate, steps=10**6, **{name: recipe[name] for name in names})
    optimizer = optimizers.create(run, model.trainable_variables)
    trainer = loop.Trainer(model, task, optimizer, batch_size=args.batch_pairs // 64, seq_length=64, xla=True)
    return trainer, batches, model


def tables_of(model):
    """The four tables of a model, float64: words and contexts (V, D), their biases (V, 1)."""
    head = model.head
    tables = [np.asarray(table).astype(np.float64) for table in (*model.without_head().sides(), head.bias, head.context_bias)]
    return [table.reshape(len(table), -1) for table in tables]


class Plain:
    """GloVe in NumPy (Pennington et al. 2014; AdaGrad whose sums begin at 1, as in the original program).

    Args:
        tables: as `tables_of` gives them; copied.
        args: with `x_max`, `alpha` and `rate`.
    """

    def __init__(self, tables, args):
        self.tables, self.args = [table.copy() for table in tables], args
        self.sums = [np.ones_like(table) for table in tables]

    def step(self, batch):
        """One update by the summed gradient of a batch. Returns the mean cost before it."""
        rows, columns, counts = (batch[name].ravel() for name in ("token_ids", "labels", "counts"))
        words, contexts, bias, context_bias = self.tables
        counts = counts.astype(np.float64)
        shares = np.minimum(counts / self.args.x_max, 1.0) ** self.args.alpha
        apart = (words[rows] * contexts[columns]).sum(1) + (bias[rows] + context_bias[columns])[:, 0] - np.log(counts)
        slopes = (shares * apart)[:, None]
        gradients = [np.zeros_like(table) for table in self.tables]
        np.add.at(gradients[0], rows, slopes * contexts[columns])
        np.add.at(gradients[1], columns, slopes * words[rows])
        np.add.at(gradients[2], rows, slopes)
        np.add.at(gradients[3], columns, slopes)
        for table, sums, gradient in zip(self.tables, self.sums, gradients, strict=True):
            sums += gradient**2
            table -= self.args.rate * gradient / np.sqrt(sums)
        return float((0.5 * shares * apart**2).mean())

    def one_by_one(self, batch):
        """An update after every pair. Returns the mean cost of the pairs, each before its update."""
        cost, rows = 0.0, zip(*(batch[name].ravel().tolist() for name in ("token_ids", "labels", "counts")), strict=True)
        words, contexts, bias, context_bias = self.tables
        for row, column, count in rows:
            share = min(count / self.args.x_max, 1.0) ** self.args.alpha
            apart = words[row] @ contexts[column] + bias[row, 0] + context_bias[column, 0] - np.log(count)
            cost += 0.5 * share * apart**2
            slope = share * apart
            gradients = slope * contexts[column], slope * words[row], slope, slope
            for table, sums, at, gradient in zip(self.tables, self.sums, (row, column) * 2, gradients, strict=True):
                # The original program divides by the sum before this gradient is part of it; Duchi et al. (2011) do not.
                table[at] -= self.args.rate * gradient / np.sqrt(sums[at])
                sums[at] += gradient**2
        return cost / batch["token_ids"].size


if __name__ == "__main__":
    main()
