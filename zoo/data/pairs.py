"""Words beside each other: batches of windows for word vectors, cut from a token stream of any length.

A *window* is a *centre* and its *contexts*, the words on both sides of it. Skip-gram predicts the centre from each context,
CBOW from all contexts together (Mikolov et al. 2013a, arXiv:1301.3781). A window never crosses an `eos_id`: what stands between
two of them in the stream is a sentence. With the word tokenizer that is a line, with the others a document. Words that are not
in the counts (rare, unknown and special ones) and words that subsampling leaves out are taken away first, so the words on both
sides of them become neighbours, as in the original program. Sentences may have any length.

A batch holds rows of consecutive centres with `window` more words on each side. All pairs of a row are entries of one product
of matrices, words (T + 2W, D) by centres (D, T), and all words of a row share the row's negatives (Ji et al. 2016,
arXiv:1604.04661). So a word's vector is read once a row, and not once a pair.

| name            | dtype, shape        | meaning                                                                       |
|-----------------|---------------------|-------------------------------------------------------------------------------|
| token_ids       | int32 (B, T + 2W)   | the words; those from column W to column W + T are the centres                |
| contexts_before | int32 (B, T)        | how many words before each centre belong to its window                        |
| contexts_after  | int32 (B, T)        | how many words after it                                                       |
| loss_weights    | float32 (B, T)      | 1 for a centre, 0 where a row has fewer than T                                |
| negative_ids    | int32 (B, N)        | words drawn for the row; absent without negatives                             |
| input_rates     | float32 (B, T + 2W) | what the gradient of each word's input vector is multiplied by, see `limited` |
| label_rates     | float32 (B, T)      | the same for each centre's output vector                                      |
| negative_rates  | float32 (B, N)      | the same for each negative's output vector                                    |
| path_nodes      | int32 (B, T, P)     | the inner nodes of each centre's path in a Huffman tree, -1 behind its end    |
| path_codes      | int32 (B, T, P)     | 1 where the path goes right                                                   |
| path_rates      | float32 (B, T, P)   | as `label_rates`, for the nodes of each path                                  |

Shape letters: V vocabulary, B batch, T centres of a row, W window, N negatives of a row, P nodes of a path.
"""

import math
from dataclasses import dataclass

import numpy as np

from zoo.config import Refusal
from zoo.data.batch import random_stream, uniform

# So many tokens are read and held at a time. A row's place among those of its block is random, a block's among all blocks too.
BLOCK_TOKENS = 2**20
OBJECTIVES = ("skip_gram", "cbow", "cbow_sum")


@dataclass(frozen=True)
class Windows:
    """How windows are made of a text, and how many negatives come with them.

    Attributes:
        window: W, the most words on each side of a centre.
        shrink: whether each centre draws its own window, evenly from 1 to W; near words then count more.
        sample: t, the share of the text from which on a word is thinned out; 0 keeps every word. See `keep_probabilities`.
        negatives: for how many negatives a pair (of CBOW: a centre) counts. 0 for none.
        shared_negatives: N, the negatives that are drawn for a row; each counts `negatives` / N for each pair of the row.
        exponent: negatives are drawn in proportion to count^exponent.
        objective: `skip_gram`; `cbow`, with the gradient of the mean; `cbow_sum`, in which every context gets the whole
            gradient, as in the original program.
        most_pairs: with how many pairs of one step a word moves at full rate, see `limited`; None leaves out all rates.
    """

    window: int = 5
    shrink: bool = True
    sample: float = 1e-3
    negatives: int = 5
    shared_negatives: int = 32
    exponent: float = 0.75
    objective: str = "skip_gram"
    most_pairs: float | None = 80.0

    def __post_init__(self):
        if self.window < 1:
            raise Refusal(f"window must be at least 1, got {self.window}.")
        if not 0 <= self.sample < 1:
            raise Refusal(f"sample must be at least 0 and below 1, got {self.sample}.")
        if self.negatives < 0 or (self.negatives and self.shared_negatives < 1):
            raise Refusal("negatives must be at least 0, and with some, shared_negatives at least 1.")
        if self.objective not in OBJECTIVES:
            raise Refusal(f"objective must be {', '.join(OBJECTIVES[:-1])} or {OBJECTIVES[-1]}, got {self.objective!r}.")
        if self.most_pairs is not None and self.most_pairs <= 0:
            raise Refusal(f"most_pairs must be positive, got {self.most_pairs}.")


def count_words(stream, vocab_size, *, min_count=1, special_ids=(), block_tokens=BLOCK_TOKENS):
    """How often each id stands in a stream: int64 (V,), 0 for special ids and for those below `min_count`.

    Args:
        stream: `TokenShards`, or a 1-d integer array.
        vocab_size: V.
        min_count: the fewest occurrences of a word that counts.
        special_ids: ids that are not words, such as `eos_id` and `unk_id`.
        block_tokens: how many tokens are read at a time.

    Raises:
        Refusal: no word is left.
    """
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, len(stream), block_tokens):
        counts += np.bincount(stream[start : start + block_tokens], minlength=vocab_size)
    counts[list(special_ids)] = 0
    counts[counts < min_count] = 0
    if not counts.any():
        raise Refusal(f"No word occurs {min_count} times in the text: give more text or a smaller min_count.")
    return counts


def keep_probabilities(counts, sample):
    """The probability that a word stays when frequent words are thinned out: float64 (V,), 0 for what has no count.

        p(w) = min(1, (sqrt(c / (t n)) + 1) t n / c),   c the count of w, n the sum of all counts, t = `sample`

    This is what the original program computes. The paper's formula, 1 - sqrt(t n / c) for the words left out (Mikolov et al.
    2013b, arXiv:1310.4546, section 2.3), is another.
    """
    counts = np.asarray(counts, np.float64)
    if not sample:
        return (counts > 0).astype(np.float64)
    ratio = counts / (sample * counts.sum())
    safe = np.maximum(ratio, 1e-300)
    return np.where(counts > 0, np.minimum(1.0, (np.sqrt(safe) + 1) / safe), 0.0)


class AliasTable:
    """Draws ids in proportion to given weights, in constant time each (Walker 1977; built as in Vose 1991).

    Args:
        weights: float (V,), none negative and one positive. An id of weight 0 is never drawn.

    Example: `AliasTable([1, 0, 3]).draw(random, 5)` is five ids, three of four of them 2 in the long run.
    """

    def __init__(self, weights):
        weights = np.asarray(weights, np.float64)
        self._threshold, self._alias = np.ones(len(weights)), np.arange(len(weights), dtype=np.int32)
        scaled = weights * (len(weights) / weights.sum())
        poor, rich = np.flatnonzero(scaled < 1).tolist(), np.flatnonzero(scaled >= 1).tolist()
        left = scaled.tolist()
        while poor and rich:
            small, large = poor.pop(), rich[-1]
            self._threshold[small], self._alias[small] = left[small], large
            left[large] -= 1 - left[small]
            if left[large] < 1:
                poor.append(rich.pop())
        # Rounding leaves places over whose share is 1. An id of weight 0 never takes one.
        likeliest = int(weights.argmax())
        for place in poor + rich:
            if not weights[place]:
                self._threshold[place], self._alias[place] = 0.0, likeliest

    def draw(self, random, shape):
        """int32 ids of `shape`, from a numpy bit generator."""
        place = uniform(random, math.prod(shape) if isinstance(shape, tuple) else shape) * len(self._alias)
        column = place.astype(np.int64)
        own = place - column < self._threshold[column]
        return np.where(own, column, self._alias[column]).astype(np.int32).reshape(shape)


def limited(pairs, most_pairs):
    """What the gradient of a vector is multiplied by when it takes part in so many pairs of a step: min(1, most / pairs).

    The original program moves a vector after each pair. A step here moves it once, by the sum over all its pairs, and a word
    that stands in hundreds of them would jump past its goal. From `most_pairs` on, the sum no longer grows.

    The loop divides a gradient by the number of all pairs of the step. Rates in a batch are multiplied by it, so that a
    learning rate is that of one pair, as in the original program.
    """
    return np.minimum(1.0, most_pairs / np.maximum(pairs, most_pairs)).astype(np.float32)


class WindowBatches:
    """Training batches of windows; `batch(step)` is a pure function of (seed, step), whatever was asked before.

    The stream is read in blocks of about `block_tokens` that end with a sentence where one ends near. A block is thinned out
    with random numbers keyed by (seed, epoch, block) and cut into rows of equally many centres. How many rows a block has
    follows from its counts alone: they have room for eight standard deviations more than the words that are expected to stay.
    So the step of every row is known without reading the stream. An epoch takes the blocks in an order of its own, and the rows
    of a block too.

    Memory: a few arrays as long as a block, and tables as long as the vocabulary.

    Args:
        stream: `TokenShards`, or a 1-d integer array laid out like a stream.
        layout: a `Layout`: T is its `seq_length`, B its `batch_size`.
        counts: int64 (V,), as `count_words` gives them; of the training text also where another one is evaluated.
        eos_id: what separates sentences.
        windows: a `Windows`.
        paths: what `huffman_paths` gives, for hierarchical softmax; or None.
        block_tokens: how many tokens are read at a time.

    Raises:
        Refusal: the stream has no word of the counts.

    Example:

        counts = count_words(stream, vocab_size, min_count=5, special_ids=(eos_id,))
        batch = WindowBatches(stream, Layout(seq_length=32, batch_size=128), counts, eos_id, Windows()).batch(0)
    """

    def __init__(self, stream, layout, counts, eos_id, windows, *, paths=None, block_tokens=BLOCK_TOKENS):
        if layout.seq_length < 1 or layout.batch_size < 1:
            raise Refusal("seq_length and batch_size must be at least 1.")
        self.stream, self.layout, self.windows, self._eos_id, self._paths = stream, layout, windows, eos_id, paths
        keep = keep_probabilities(counts, windows.sample)
        # Draws are integers of 31 bits, and a word stays when its draw is at most this.
        self._highest_kept = np.round(keep * 2**31 - 1).astype(np.int64).clip(-1, 2**31 - 1).astype(np.int32)
        self._table = AliasTable(np.where(counts > 0, np.maximum(counts, 1.0) ** windows.exponent, 0.0))
        self._vocab_size = len(counts)
        self._cuts = _block_cuts(stream, eos_id, block_tokens)
        self.expected_words, self._rows_of_block = 0.0, []
        for first, end in zip(self._cuts[:-1], self._cuts[1:], strict=True):
            stay = keep[stream[first:end]]
            expected = float(stay.sum())
            self.expected_words += expected
            self._rows_of_block.append(-(-_room(expected, float((stay * (1 - stay)).sum())) // layout.seq_length))
        self.num_rows = sum(self._rows_of_block)
        if not self.num_rows:
            raise Refusal("The text has no word of the vocabulary that is counted: give more text or a smaller min_count.")
        self._orders, self._blocks = {}, {}

    @property
    def steps_per_epoch(self):
        """Batches that hold each row once, rounded up."""
        return -(-self.num_rows // self.layout.batch_size)

    def starts_epoch(self, step):
        """No state is carried."""
        return True

    def batch(self, step):
        """The batch of training step `step`, counted from 0: a dict as the table of this file says."""
        size = self.layout.batch_size
        samples = np.arange(step * size, (step + 1) * size)
        rows = self._rows(samples)
        if self._paths is not None:
            centres = self._centres(rows)
            rows["path_nodes"], rows["path_codes"] = (table[centres].astype(np.int32) for table in self._paths)
        if self.windows.negatives:
            random = random_stream(self.layout.seed, "negatives", step)
            rows["negative_ids"] = self._table.draw(random, (size, self.windows.shared_negatives))
        return rows if self.windows.most_pairs is None else {**rows, **self._rates(rows)}

    def _centres(self, rows):
        return rows["token_ids"][:, self.windows.window : self.windows.window + self.layout.seq_length]

    def _rows(self, samples):
        """The rows of some samples, counted over all epochs, without what is drawn for them."""
        size, width = len(samples), self.layout.seq_length + 2 * self.windows.window
        shapes = {"token_ids": (size, width), **dict.fromkeys(("contexts_before", "contexts_after"), (size, width))}
        rows = {name: np.empty(shape, np.int32) for name, shape in shapes.items()}
        real = np.empty((size, self.layout.seq_length), bool)
        epochs = samples // self.num_rows
        for epoch in range(epochs[0], epochs[-1] + 1):
            order, starts = self._order(epoch)
            places = np.searchsorted(starts, samples - epoch * self.num_rows, side="right") - 1
            for place in np.unique(places[epochs == epoch]).tolist():
                chosen = np.flatnonzero((epochs == epoch) & (places == place))
                block = self._block(epoch, int(order[place]))
                first, real[chosen] = block.rows(samples[chosen] - epoch * self.num_rows - starts[place])
                columns = first[:, None] + np.arange(width)
                for name in rows:
                    rows[name][chosen] = getattr(block, name)[columns]
        centres = slice(self.windows.window, self.windows.window + self.layout.seq_length)
        for name in ("contexts_before", "contexts_after"):
            rows[name] = rows[name][:, centres] * real
        return {**rows, "loss_weights": real.astype(np.float32)}

    def _order(self, epoch):
        """(order of the blocks, first sample of each, the end of the last): of two epochs at most."""
        if epoch not in self._orders:
            draws = random_stream(self.layout.seed, "order", epoch).random_raw(len(self._rows_of_block))
            order = np.argsort(draws, kind="stable")
            starts = np.cumsum([0, *np.array(self._rows_of_block)[order]])[:-1]
            self._orders = {**{e: kept for e, kept in self._orders.items() if e == epoch - 1}, epoch: (order, starts)}
        return self._orders[epoch]

    def _block(self, epoch, number):
        """A block thinned out for an epoch; the last three are kept."""
        key = epoch, number
        if key not in self._blocks:
            random = random_stream(self.layout.seed, "pairs", epoch * len(self._rows_of_block) + number)
            ids = np.asarray(self.stream[self._cuts[number] : self._cuts[number + 1]], np.int32)
            draws = random.random_raw(-(-len(ids) // 2)).view(np.uint32)[: len(ids)] >> np.uint32(1)
            kept = draws.astype(np.int32) <= self._highest_kept[ids]
            sentences = np.cumsum(ids == self._eos_id, dtype=np.int32)[kept]
            block = _Block(ids[kept], sentences, self._rows_of_block[number], self.layout.seq_length, self.windows, random)
            self._blocks = {**dict(list(self._blocks.items())[-2:]), key: block}
            return block
        return self._blocks[key]

    def _rates(self, rows):
        """`input_rates`, `label_rates` and `negative_rates` of a batch: a word's pairs are counted over all its rows."""
        w, token_ids = self.windows, rows["token_ids"]
        contexts, inputs = pair_counts(rows, w.window, w.objective)
        if w.objective != "skip_gram":
            contexts = np.minimum(contexts, 1)  # a centre is one pair, whatever its contexts
        pairs, centres = contexts.sum(), self._centres(rows)
        outputs = np.bincount(centres.ravel(), contexts.ravel(), self._vocab_size)
        if w.negatives:
            each = np.repeat(contexts.sum(1) * (w.negatives / w.shared_negatives), w.shared_negatives)
            outputs += np.bincount(rows["negative_ids"].ravel(), each, self._vocab_size)
        inputs = np.bincount(token_ids.ravel(), inputs.ravel(), self._vocab_size)
        rates = {
            "input_rates": pairs * limited(inputs[token_ids], w.most_pairs),
            "label_rates": pairs * limited(outputs[centres], w.most_pairs),
        }
        if w.negatives:
            rates["negative_rates"] = pairs * limited(outputs[rows["negative_ids"]], w.most_pairs)
        if self._paths is not None:
            nodes = rows["path_nodes"] + 1  # behind the end of a path stands -1
            through = np.bincount(nodes.ravel(), np.repeat(contexts.ravel(), nodes.shape[-1]), self._vocab_size)
            rates["path_rates"] = pairs * limited(through[nodes], w.most_pairs)
        return {name: rate.astype(np.float32) for name, rate in rates.items()}


class _Block:
    """Words of a block that stay, with what is around each: the arrays that rows are cut from.

    `token_ids`, `contexts_before` and `contexts_after` are padded by a window in front and by a row and a window behind.
    """

    def __init__(self, token_ids, sentences, num_rows, row_length, windows, random):
        size, width = len(token_ids), windows.window
        # Beyond the room is what happens once in 10^13 blocks.
        self._num_centres, self._num_rows = min(size, num_rows * row_length), num_rows
        self._row_length = row_length
        place = np.arange(size, dtype=np.int32)
        begins = np.concatenate([[True], sentences[1:] != sentences[:-1]])[:size]
        first = np.maximum.accumulate(np.where(begins, place, 0))
        last = np.minimum.accumulate(np.where(np.roll(begins, -1), place, size)[::-1])[::-1]
        reach = np.full(size, width, np.int32)
        if windows.shrink:
            draws = random.random_raw(-(-size // 2)).view(np.uint32)[:size].astype(np.uint64)
            reach = (1 + ((draws * np.uint64(width)) >> np.uint64(32))).astype(np.int32)
        margins = (width, width + row_length)
        self.token_ids = np.pad(token_ids, margins)
        self.contexts_before = np.pad(np.minimum(reach, place - first), margins)
        self.contexts_after = np.pad(np.minimum(reach, last - place), margins)
        self._order = np.argsort(random.random_raw(num_rows), kind="stable")

    def rows(self, numbers):
        """(first column of each row, bool (n, T) which of its places hold a centre), in the order of the epoch."""
        number = self._order[numbers]
        start, end = (n * self._num_centres // self._num_rows for n in (number, number + 1))
        return start, np.arange(self._row_length) < (end - start)[:, None]


def pair_counts(rows, window, objective="skip_gram"):
    """How many pairs each centre and each word of a batch stands in.

    Args:
        rows: dict with `token_ids`, `contexts_before`, `contexts_after`.
        window: W.
        objective: as in `Windows`. With `cbow` a context counts 1 / n in a window of n contexts.

    Returns:
        float64 (B, T), the contexts of each centre, and float64 (B, T + 2W), the centres that each word is a context of.
    """
    before, after = rows["contexts_before"], rows["contexts_after"]
    size, length = before.shape
    contexts = (before + after).astype(np.float64)
    weights = np.where(contexts > 0, 1.0, 0.0)
    if objective == "cbow":
        weights /= np.maximum(contexts, 1)
    # A window adds its weight from its first column on, and takes it away behind its last.
    width = length + 2 * window + 1
    at = np.arange(size)[:, None] * width + window + np.arange(length)
    change = np.bincount((at - before).ravel(), weights.ravel(), size * width)
    change -= np.bincount((at + after + 1).ravel(), weights.ravel(), size * width)
    inputs = change.reshape(size, width).cumsum(1)[:, :-1]
    inputs[:, window : window + length] -= weights  # a centre is not its own context
    return contexts, inputs.clip(0)


def evaluation_batches(stream, layout, counts, eos_id, windows, paths=None):
    """Yields batches that hold every window of a stream once, the same at every call.

    Words are thinned out and negatives are drawn as in the first epoch of seed 0, so the mean loss is that of training. Rows
    that the last batch does not need weigh 0.
    """
    layout = type(layout)(layout.seq_length, layout.batch_size)
    batches = WindowBatches(stream, layout, counts, eos_id, windows, paths=paths)
    for step in range(batches.steps_per_epoch):
        batch = batches.batch(step)
        beyond = np.arange(step * layout.batch_size, (step + 1) * layout.batch_size) >= batches.num_rows
        for name in ("contexts_before", "contexts_after", "loss_weights"):
            batch[name][beyond] = 0
        yield batch


def huffman_paths(counts):
    """The path of each word in the binary tree of least mean depth, for hierarchical softmax (Mikolov et al. 2013b, section
    2.1).

    Of the two nodes that are joined the rarer one is on the left. Ties go to the lower id, as in the original program.

    Args:
        counts: int64 (V,); a word of count 0 has no path.

    Returns:
        (nodes, codes): nodes int32 (V, P), from the root on, the inner nodes that a word's path goes through, numbered from 0
        in the order in which they were joined, -1 behind the end; codes int8 (V, P), 1 where the path goes right.

    Raises:
        Refusal: there are fewer than two words.
    """
    counts = np.asarray(counts)
    words = np.flatnonzero(counts > 0)
    if len(words) < 2:
        raise Refusal("Hierarchical softmax needs at least two words that are counted.")
    words = words[np.argsort(counts[words], kind="stable")]
    weights = counts[words].tolist()
    size, leaf, inner = len(words), 0, len(words)
    parent, side = np.zeros(2 * size - 1, np.int64), np.zeros(2 * size - 1, np.int8)
    # Leaves are sorted and inner nodes come in rising order: the two least are always at the front of one of the two queues.
    for new in range(size, 2 * size - 1):
        joined = 0
        for right in (0, 1):
            if leaf < size and (inner >= new or weights[leaf] <= weights[inner]):
                least, leaf = leaf, leaf + 1
            else:
                least, inner = inner, inner + 1
            parent[least], side[least] = new, right
            joined += weights[least]
        weights.append(joined)
    root, node, upwards = 2 * size - 2, np.arange(size), []
    while (node != root).any():
        upwards.append((np.where(node == root, -1, parent[node] - size), np.where(node == root, 0, side[node])))
        node = np.where(node == root, root, parent[node])
    depth = len(upwards)
    nodes, codes = np.full((len(counts), depth), -1, np.int32), np.zeros((len(counts), depth), np.int8)
    lengths = np.sum([level >= 0 for level, _ in upwards], axis=0)
    for level, (inner_nodes, sides) in enumerate(upwards):
        there = lengths > level
        place = lengths[there] - 1 - level
        nodes[words[there], place], codes[words[there], place] = inner_nodes[there], sides[there]
    return nodes, codes


def _block_cuts(stream, eos_id, block_tokens):
    """Where blocks begin, and the end of the stream: at the first end of a sentence in the first eighth, else at once."""
    cuts = [0]
    for start in range(block_tokens, len(stream), block_tokens):
        ends = np.flatnonzero(stream[start : start + block_tokens // 8] == eos_id)
        cuts.append(start + int(ends[0]) if len(ends) else start)
    return [*cuts, len(stream)]


def _room(expected, variance):
    """Words that a block has room for: by Bernstein's inequality it holds more in one case of 10^13."""
    return math.ceil(expected + (8 * math.sqrt(variance) + 24 if variance > 0 else 0) - 1e-9)
