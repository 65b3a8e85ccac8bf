"""Parts of words, for vectors that words of like spelling share (Bojanowski et al. 2017, arXiv:1607.04606).

A word has one row of a table for itself, and one for each of its parts: all runs of `minn` to `maxn` characters of `<word>`. A
part's row is that of its hash, as fastText has it. The vector of a word is the mean of its rows.

    <list>, minn 3, maxn 4    the word itself, <li <lis lis list ist ist> st>

A batch of `zoo/data/pairs.py` gets these names besides, in place of `input_rates`:

| name        | dtype, shape   | meaning                                                                                     |
|-------------|----------------|---------------------------------------------------------------------------------------------|
| part_ids    | int32 (B, F)   | rows of the table: those of the row's words themselves, then those of their parts           |
| part_places | int32 (B, F)   | the column of the word that each is of; T + 2W behind the last                              |
| part_rates  | float32 (B, F) | as `input_rates`, times the number of rows of the word: each gets the gradient of the mean  |
|             |                | whole, as in the original program                                                           |

Shape letters: V vocabulary, B batch, S words of a row, F rows of the table for a row of words, N rows of all words.
"""

import math

import numpy as np

from zoo.config import Refusal
from zoo.data.pairs import keep_probabilities, limited, pair_counts

END_OF_LINE = b"</s>"  # which has no parts
OFFSET, PRIME = 2166136261, 16777619  # of the hash FNV-1a, 32 bits
WORDS_AT_ONCE = 4096


def parts_of(word, minn, maxn):
    """The parts of a word, a list of bytes: `minn` to `maxn` characters of `<word>`, but neither mark alone."""
    if word == END_OF_LINE:
        return []
    marked = b"<" + word + b">"
    # Where characters begin: at bytes that do not go on with one.
    edges = [i for i, byte in enumerate(marked) if byte & 0xC0 != 0x80] + [len(marked)]
    count = len(edges) - 1
    return [
        marked[edges[i] : edges[i + n]]
        for i in range(count)
        for n in range(max(1, minn), min(maxn, count - i) + 1)
        if not (n == 1 and i in (0, count - 1))
    ]


def hashed(parts):
    """int64 (N,): FNV-1a of bytes, which fastText takes for signed numbers."""
    lengths = np.array([len(part) for part in parts], np.int64)
    data = np.frombuffer(b"".join(parts), np.int8).astype(np.uint32)
    begins = np.cumsum(lengths) - lengths
    hashes = np.full(len(parts), OFFSET, np.uint32)
    for place in range(lengths.max(initial=0)):
        there = lengths > place
        hashes[there] = (hashes[there] ^ data[begins[there] + place]) * np.uint32(PRIME)
    return hashes.astype(np.int64)


class Subwords:
    """The rows of the table that each word of a vocabulary is the mean of.

    Args:
        words: V strings, in the order of ids.
        counts: int64 (V,); a word of count 0 has its own row alone.
        buckets: how many rows parts share; behind the V rows of the words.
        minn, maxn: the fewest and the most characters of a part.

    Attributes:
        ids: int32 (N,), the rows of all words one after the other, of each its own first.
        starts: int64 (V + 1,), where each word's begin in `ids`.
        lengths: int64 (V,), how many each has.

    Raises:
        Refusal: `minn` is not from 1 to `maxn`, or there is no bucket.

    Example: `Subwords(["", "list"], np.array([0, 3]), 100, 3, 4).lengths` is `[1, 8]`.
    """

    def __init__(self, words, counts, buckets, minn, maxn):
        if not 1 <= minn <= maxn or buckets < 1:
            raise Refusal(
                f"Parts of words need 1 <= minn <= maxn and a bucket; got minn {minn}, maxn {maxn}, {buckets} buckets."
            )
        self.num_rows, ids, lengths = len(words) + buckets, [], []
        for start in range(0, len(words), WORDS_AT_ONCE):
            some = range(start, min(start + WORDS_AT_ONCE, len(words)))
            parts = [parts_of(words[i].encode(), minn, maxn) if counts[i] > 0 else [] for i in some]
            rows = len(words) + hashed([part for each in parts for part in each]) % buckets
            sizes = np.array([len(each) for each in parts])
            ids.append(np.insert(rows, np.cumsum(sizes) - sizes, some))
            lengths.append(1 + sizes)
        self.ids, self.lengths = np.concatenate(ids).astype(np.int32), np.concatenate(lengths)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])

    def means(self, table):
        """Yields (first word, float32 (n, D)), some words at a time: the means of their rows of a table (`num_rows`, D)."""
        for start in range(0, len(self.lengths), WORDS_AT_ONCE):
            bounds = self.starts[start : start + WORDS_AT_ONCE + 1]
            sums = np.add.reduceat(table[self.ids[bounds[0] : bounds[-1]]], bounds[:-1] - bounds[0], axis=0)
            yield start, sums / np.diff(bounds)[:, None].astype(np.float32)


class SubwordBatches:
    """Batches of windows with the rows of their words' parts; `batch(step)` is a pure function of (seed, step).

    Every row has room for eight standard deviations more than the rows of the table that its words are expected to have. Where
    that is too little, its last words do without some parts at this step.

    Args:
        batches: a `zoo.data.pairs.WindowBatches` with rates.
        subwords: a `Subwords` of its vocabulary.
        counts: int64 (V,), as there.
    """

    def __init__(self, batches, subwords, counts):
        self.batches, self.subwords = batches, subwords
        weights = counts * keep_probabilities(counts, batches.windows.sample)
        mean, square = (float(np.average(subwords.lengths**power, weights=weights)) for power in (1, 2))
        size = batches.layout.seq_length + 2 * batches.windows.window
        room = size * mean + 8 * math.sqrt(size * max(square - mean**2, 0.0))
        self._room = max(size, math.ceil(min(room, size * float(subwords.lengths.max()))))

    @property
    def steps_per_epoch(self):
        """As of the windows."""
        return self.batches.steps_per_epoch

    def starts_epoch(self, step):
        """No state is carried."""
        return True

    def batch(self, step):
        """The batch of training step `step`, counted from 0."""
        batch = self.batches.batch(step)
        del batch["input_rates"]
        return {**batch, **self._parts(batch)}

    def _parts(self, batch):
        token_ids, w = batch["token_ids"], self.batches.windows
        size, width = token_ids.shape
        # The words' own rows come first, so that each word keeps one whatever the room.
        ids, places = np.zeros((size, self._room), np.int32), np.full((size, self._room), width, np.int32)
        ids[:, :width], places[:, :width] = token_ids, np.arange(width)
        more = self.subwords.lengths[token_ids] - 1
        ends = width + np.cumsum(more, axis=1)
        word = np.repeat(np.arange(size * width), more.ravel())
        nth = np.arange(len(word)) - np.repeat(np.cumsum(more.ravel()) - more.ravel(), more.ravel())
        column = (ends - more).ravel()[word] + nth
        fits = column < self._room
        word, nth, column = word[fits], nth[fits], column[fits]
        ids[word // width, column] = self.subwords.ids[self.subwords.starts[token_ids.ravel()[word]] + 1 + nth]
        places[word // width, column] = word % width
        contexts, inputs = pair_counts(batch, w.window, w.objective)
        pairs = np.minimum(contexts, 1).sum() if w.objective != "skip_gram" else contexts.sum()
        shared = np.pad(inputs, ((0, 0), (0, 1)))
        rows = np.arange(size)[:, None]
        each = np.bincount(ids.ravel(), shared[rows, places].ravel(), self.subwords.num_rows)
        kept = np.minimum(np.maximum(self._room - (ends - more), 0), more) + 1
        kept = np.pad(kept, ((0, 0), (0, 1)))
        rates = pairs * limited(each[ids], w.most_pairs) * kept[rows, places]
        return {"part_ids": ids, "part_places": places, "part_rates": rates.astype(np.float32)}
