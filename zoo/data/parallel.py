"""Pairs of texts as batches: a source and what is to be written of it, for encoder-decoders and for language models.

    encoder-decoder:  source_ids  source eos           token_ids  pad target        labels  target eos
    language model:   token_ids   eos source eos target           labels  ... target eos, and only those count

Shape letters: B batch, T target positions, S source positions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from zoo.config import Refusal
from zoo.data.batch import random_stream
from zoo.data.examples import ExampleBatches, padded

LADDER = (0.25, 0.5, 0.75, 1.0)  # widths of batches, as shares of the largest: few shapes to compile, little padding
NUM_WIDTHS = 6  # of batches with a budget of tokens
POOL = 64  # batches whose rows are sorted by length together


@dataclass(frozen=True)
class Pair:
    """Ids of one source and of one target, int32 arrays without special ids around them."""

    source: np.ndarray
    target: np.ndarray


class PairRows:
    """Makes batches of pairs for one kind of model.

    Args:
        pairs: list of `Pair`.
        frame: the task's `Frame`.
        kind: `encoder_decoder` or `language_model`.
        eos_id, pad_id: of the tokenizer.
        seq_length: the most tokens of a source, and of a target; of both together for a language model.
        source_pad_id: of sources, where these have ids of their own.
    """

    def __init__(self, pairs, frame, kind, eos_id, pad_id, seq_length, source_pad_id=None):
        if not pairs:
            raise Refusal("There is nothing to train on: the split holds no pairs of texts.")
        self.pairs, self.frame, self.kind, self.eos_id, self.pad_id = pairs, frame, kind, eos_id, pad_id
        self.source_pad_id = pad_id if source_pad_id is None else source_pad_id
        self.lengths = np.array([self._length(pair) for pair in pairs])
        longest = min(int(self.lengths.max()), seq_length)
        self.widths = sorted({min(-(-int(share * longest) // 8) * 8 or 8, seq_length) for share in LADDER})

    def _length(self, pair):
        """Tokens of the longer side, special ones included, or of the whole row."""
        source = len(pair.source) + self.frame.num_special()
        target = len(pair.target) + 1
        return max(source, target) if self.kind == "encoder_decoder" else source + target

    def batch(self, chosen, width=None):
        """A batch of the pairs with these numbers, `width` columns wide, or as wide as the longest needs."""
        width = self.width(chosen) if width is None else width
        pairs = [self.pairs[i] for i in chosen]
        sources = [np.array([*self.frame.before, *pair.source, *self.frame.after], np.int32) for pair in pairs]
        targets = [np.array([*pair.target, self.eos_id], np.int32) for pair in pairs]
        if self.kind == "encoder_decoder":
            starts = [np.array([*self.frame.target_start, *pair.target], np.int32) for pair in pairs]
            lengths = np.array([len(target) for target in targets])[:, None]
            return {
                "source_ids": padded(sources, width, self.source_pad_id),
                "source_mask": np.arange(width) < np.array([len(source) for source in sources])[:, None],
                "token_ids": padded(starts, width, self.pad_id),
                "labels": padded(targets, width, self.pad_id),
                "loss_weights": (np.arange(width) < lengths).astype(np.float32),
            }
        rows = [np.concatenate(each) for each in zip(sources, targets, strict=True)]
        begins = np.array([len(source) for source in sources])[:, None]
        ends = np.array([len(row) for row in rows])[:, None]
        columns = np.arange(width)
        return {
            "token_ids": padded([row[:-1] for row in rows], width, self.pad_id),
            "padding_mask": columns < ends - 1,
            "labels": padded([row[1:] for row in rows], width, self.pad_id),
            "loss_weights": ((columns >= begins - 1) & (columns < ends - 1)).astype(np.float32),
        }

    def width(self, chosen):
        """The least width of the ladder that holds the pairs with these numbers."""
        longest = int(self.lengths[chosen].max())
        return next(width for width in self.widths if width >= longest)


class PairBatches:
    """Training batches of pairs, rows of like length together; `batch(step)` is a pure function of (seed, step).

    Each epoch puts the pairs in an order of its own, sorts every `POOL` batches of them by length, and puts the batches in an
    order of their own. The first pairs of the order fill up the last batch.

    Args:
        rows: a `PairRows`.
        batch_size: B.
        seed: any integer.
    """

    def __init__(self, rows, batch_size, seed):
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.steps_per_epoch = -(-len(rows.lengths) // batch_size)
        self._plans = {}

    def starts_epoch(self, step):
        """True: rows never go on from the batch before."""
        return True

    def batch(self, step):
        """The batch of training step `step`, counted from 0."""
        epoch, number = divmod(step, self.steps_per_epoch)
        if epoch not in self._plans:
            plan = self._plan(random_stream(self.seed, "order", epoch))
            self._plans = {**{e: p for e, p in self._plans.items() if e == epoch - 1}, epoch: plan}  # the last two are kept
        return self.rows.batch(*self._plans[epoch][number])

    @property
    def num_units(self):
        """How many pairs there are."""
        return len(self.rows.lengths)

    def of(self, chosen, step):
        """The batch of the pairs with these numbers, int (B,)."""
        return self.rows.batch(chosen)

    def _order(self, random):
        """The numbers of the pairs in the order of an epoch."""
        # Sorting raw draws, unlike Generator.permutation, gives the same order under every version of numpy.
        return np.argsort(random.random_raw(len(self.rows.lengths)), kind="stable")

    def _plan(self, random):
        """(numbers of its pairs, width or None for what they need) of each batch of an epoch."""
        size = self.batch_size
        order = np.resize(self._order(random), self.steps_per_epoch * size)  # the first pairs fill the last batch
        for start in range(0, len(order), POOL * size):
            pool = order[start : start + POOL * size]
            order[start : start + POOL * size] = pool[np.argsort(self.rows.lengths[pool], kind="stable")]
        batches = order.reshape(-1, size)
        return [(batches[i], None) for i in np.argsort(random.random_raw(len(batches)), kind="stable")]


class TokenBudgetBatches(PairBatches):
    """As `PairBatches`, but rows times width of every batch is `batch_tokens` or a little less: short texts stand together in
    many rows, long ones in few.

    A batch has one of the six widths that pad the least (`widths_of_least_padding`), and each width one number of rows, so that
    a step has six shapes. Texts that do not fill a batch of their width go into the next wider one. Of the widest the first
    texts of the epoch's order fill up the last batch.

    Args:
        rows: a `PairRows`, or the `ExampleRows` of single texts.
        batch_tokens: the budget, for the source and for the target alike.
        seed: any integer.

    Raises:
        Refusal: the budget does not hold one row of the widest.
    """

    def __init__(self, rows, batch_tokens, seed):
        self._widths = widths_of_least_padding(rows.lengths, NUM_WIDTHS)
        widest = self._widths[-1]
        if batch_tokens < widest:
            raise Refusal(
                f"batch_tokens={batch_tokens} does not hold one row of {widest} tokens; give at least that, or a smaller "
                "--seq_length."
            )
        self._sizes = [batch_tokens // width for width in self._widths]
        super().__init__(rows, self._sizes[-1], seed)
        self._buckets = np.searchsorted(self._widths, rows.lengths)
        steps = left = 0
        for size, count in zip(self._sizes, np.bincount(self._buckets, minlength=len(self._sizes)).tolist(), strict=True):
            full, left = divmod(count + left, size)
            steps += full
        self.steps_per_epoch = steps + (left > 0)

    def _plan(self, random):
        order = self._order(random)
        buckets, batches, left = self._buckets[order], [], order[:0]
        for bucket, (size, width) in enumerate(zip(self._sizes, self._widths, strict=True)):
            pool = np.concatenate([left, order[buckets == bucket]])
            full = len(pool) // size * size
            batches += [(chosen, width) for chosen in pool[:full].reshape(-1, size)]
            left = pool[full:]
        if len(left):
            batches.append((np.resize(np.concatenate([left, order]), self._sizes[-1]), self._widths[-1]))
        return [batches[i] for i in np.argsort(random.random_raw(len(batches)), kind="stable")]


@dataclass(frozen=True)
class ExampleRows:
    """Examples for `TokenBudgetBatches`.

    Attributes:
        lengths: tokens of each one's row, int (N,).
        make: (numbers of examples, int (B,), width) -> batch of them, of that many columns.
    """

    lengths: np.ndarray
    make: Callable

    def batch(self, chosen, width):
        return self.make(chosen, width)


def example_batches(lengths, batch_tokens, layout, make):
    """Training batches of examples: of `batch_tokens` tokens, padding included; or of `layout.batch_size` rows where that is 0.

    Args:
        lengths, make: as in `ExampleRows`.
        batch_tokens: an int.
        layout: a `Layout`.
    """
    rows = ExampleRows(np.array(lengths), make)
    if batch_tokens:
        return TokenBudgetBatches(rows, batch_tokens, layout.seed)
    longest = max(lengths, default=0)
    return ExampleBatches(len(lengths), layout.batch_size, layout.seed, lambda chosen, step: rows.batch(chosen, longest))


def widths_of_least_padding(lengths, count):
    """The `count` widths, or fewer, with which rows of these lengths have the fewest places in all, ascending.

        >>> widths_of_least_padding([3, 4, 4, 12, 20], 2)  # with 3 x 4 + 2 x 20 places
        [4, 20]

    A width is a multiple of 4, or of more where rows are long, so that few are to be chosen from; or the greatest length.

    Args:
        lengths: int (N,).
        count: at least 1.
    """
    lengths = np.asarray(lengths)
    longest = int(lengths.max())
    step = max(4, -(-longest // 64))
    ends, sizes = np.unique(np.minimum(-(-lengths // step) * step, longest), return_counts=True)
    rows, kinds = np.concatenate([[0], np.cumsum(sizes)]), np.arange(len(ends))
    # least[j]: the fewest places for the first j of the ends, with as many widths as there were turns.
    least, chosen = np.where(np.arange(len(ends) + 1) == 0, 0.0, np.inf), []
    for _ in range(min(count, len(ends))):
        places = least[:, None] + (rows[1:] - rows[:, None]) * ends
        places[np.arange(len(ends) + 1)[:, None] > kinds] = np.inf
        chosen.append(places.argmin(0))
        least = np.concatenate([[np.inf], places.min(0)])
    widths, end = [], len(ends)
    for before in reversed(chosen):
        widths.append(int(ends[end - 1]))
        end = int(before[end - 1])
    return widths[::-1]
