"""How often words stand near each other: counted from a stream of any length, on disk, in bounded memory.

    X(a, b) = sum of 1 / d over all places where a and b stand d <= W words apart in one sentence

as in the original program of GloVe (Pennington et al. 2014, section 3). X is symmetric; a pair of equal words counts twice,
once as seen from each side. What a sentence is, and which words are taken away first, `zoo/data/pairs.py` says.

A stretch of text becomes one array of integers, pair and distance in each, which is sorted and summed. Sums go to disk and are
merged in the end, range by range. A weight is an integer of 2^-32: sums are exact, so the result does not depend on the memory.

Shape letters: V vocabulary, W window, B batch, T pairs of a row, M records.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from zoo.config import Refusal
from zoo.data.batch import random_stream
from zoo.data.pairs import BLOCK_TOKENS
from zoo.files import appearing, exclusive

FORMAT_VERSION = 1
RECORD = np.dtype([("row", "<i4"), ("column", "<i4"), ("count", "<f4")])
ONE = 2**32  # the weight 1
BYTES_A_PAIR = 48  # of memory while pairs are sorted and summed
PAIRS_A_FILE = 2**22  # at most, before equal pairs are summed
MOST_FILES = 512  # all are written in turn, and a process has 1,024 open as a rule


class SortedSums:
    """Sums of weights by key, in bounded memory: sorted runs on disk, merged at the end.

    Args:
        directory: where runs are written; the caller removes it.
        memory_bytes: about what it may hold.

    Example:

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     sums = SortedSums(directory)
        ...     sums.add(np.array([7, 3, 7]), np.array([1, 1, 5]))
        ...     [(keys.tolist(), weights.tolist()) for keys, weights in sums.merged()]
        [([3, 7], [1, 6])]
    """

    def __init__(self, directory, memory_bytes=2**29):
        self._directory, self._most = Path(directory), max(1024, memory_bytes // BYTES_A_PAIR)
        self._waiting, self._num_waiting, self._runs = [], 0, []

    def add(self, keys, weights):
        """Adds integer weights to the sums of keys. Both int64 (n,), in any order; a key may be there several times."""
        self._waiting.append((keys, weights))
        self._num_waiting += len(keys)
        if self._num_waiting >= self._most // 2:
            self._write_run()

    def merged(self):
        """Yields (keys, sums), int64 (n,), in the order of keys, each key once: some at a time."""
        self._write_run()
        lengths = [path.stat().st_size // 16 for path in self._runs]
        starts = [0] * len(lengths)
        for bound in [*self._bounds(lengths), None]:
            ends = lengths if bound is None else [self._place(path, bound) for path in self._runs]
            places = [place for place in zip(self._runs, starts, ends, lengths, strict=True) if place[2] > place[1]]
            if places:
                yield summed(*np.concatenate([_part(*place) for place in places], axis=1))
            starts = ends

    def _bounds(self, lengths):
        """Keys that cut all runs into ranges that fit in memory: quantiles of keys taken at equal distances."""
        stride = max(1, self._most // (4 * max(len(lengths), 1)))
        samples = [np.zeros(0, np.int64)]
        for path, length in zip(self._runs, lengths, strict=True):
            samples.append(np.array(np.memmap(path, np.int64, mode="r")[:length][stride::stride]))
        samples = np.sort(np.concatenate(samples))
        return np.unique(samples[:: max(1, self._most // (2 * stride))][1:]).tolist()

    @staticmethod
    def _place(path, key):
        # The map lives for one search: pages that stay mapped would count as memory of the process.
        keys = np.memmap(path, np.int64, mode="r")
        return int(np.searchsorted(keys[: len(keys) // 2], key))

    def _write_run(self):
        if not self._num_waiting:
            return
        keys, weights = (np.concatenate(arrays) for arrays in zip(*self._waiting, strict=True))
        self._waiting, self._num_waiting = [], 0
        path = self._directory / f"run-{len(self._runs):05d}.bin"
        np.stack(summed(keys, weights)).tofile(path)
        self._runs.append(path)


def _part(path, start, end, length):
    """int64 (2, n): keys and sums of a run, from `start` to `end`."""
    first = np.fromfile(path, np.int64, end - start, offset=8 * start)
    return np.stack([first, np.fromfile(path, np.int64, end - start, offset=8 * (length + start))])


def summed(keys, weights):
    """(distinct keys in order, the sum of the weights of each): int64."""
    order = np.argsort(keys)
    keys, weights = keys[order], weights[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])
    return keys[starts], np.add.reduceat(weights, starts) if len(starts) else weights


def sentences_of(stream, counts, eos_id, block_tokens=BLOCK_TOKENS):
    """Yields (ids, sentences): the words of a stream that have a count, and the number of the sentence of each.

    Args:
        stream: `TokenShards`, or a 1-d integer array laid out like a stream.
        counts: int64 (V,), as `zoo.data.pairs.count_words` gives them.
        eos_id: what separates sentences.
        block_tokens: how many tokens are read at a time.
    """
    known, before = np.asarray(counts) > 0, 0
    for start in range(0, len(stream), block_tokens):
        ids = np.asarray(stream[start : start + block_tokens])
        sentences = before + np.cumsum(ids == eos_id, dtype=np.int64)
        before, kept = int(sentences[-1]), known[ids]
        yield ids[kept], sentences[kept]


def add_pairs(sums, ids, sentences, carried, window, vocab_size):
    """Adds the weights of all pairs that end in a stretch of words to `sums`.

    Args:
        sums: a `SortedSums`; the key of a pair is smaller id * V + larger id.
        ids, sentences: the stretch, as `sentences_of` gives it.
        carried: the last W words before it, likewise, or None.
        window: W.
        vocab_size: V.

    Returns:
        What is carried to the next stretch.
    """
    fresh = len(ids)
    if carried is not None:
        ids, sentences = (np.concatenate(parts) for parts in zip(carried, (ids, sentences), strict=True))
    ids, first = ids.astype(np.int64), len(ids) - fresh
    weights = np.round(ONE / np.arange(1, window + 1)).astype(np.int64)
    bits = int(window).bit_length()
    if vocab_size**2 << bits >= 2**63:
        raise Refusal(f"A vocabulary of {vocab_size} with a window of {window} is too large to be counted: take a smaller one.")
    packed = []
    for distance in range(1, window + 1):
        start = max(first, distance)
        if start >= len(ids):
            break
        later, earlier = slice(start, None), slice(start - distance, len(ids) - distance)
        same = sentences[later] == sentences[earlier]
        a, b = ids[later][same], ids[earlier][same]
        packed.append(((np.minimum(a, b) * vocab_size + np.maximum(a, b)) << bits) | distance)
    packed = np.concatenate([np.zeros(0, np.int64), *packed])
    packed.sort()
    keys = packed >> bits
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])
    if len(starts):
        sums.add(keys[starts], np.add.reduceat(weights[(packed & (2**bits - 1)) - 1], starts))
    return ids[-window:], sentences[-window:]


def count_cooccurrences(stream, counts, eos_id, directory, *, window=15, memory_bytes=2**29, reuse=False):
    """Counts pairs of a stream into a directory, which appears only when it is complete.

    Args:
        stream: `TokenShards`, or a 1-d integer array laid out like a stream.
        counts: int64 (V,), as `zoo.data.pairs.count_words` gives them: words without a count are taken away first.
        eos_id: what separates sentences.
        directory: the path to make.
        window: W, the most words from one of a pair to the other.
        memory_bytes: about what counting may hold.
        reuse: whether a directory that exists already is opened; otherwise it is refused.

    Returns:
        The opened `Cooccurrences`.

    Raises:
        Refusal: no two words stand near each other, W is not positive, or `directory` exists.
    """
    directory = Path(directory)
    if window < 1:
        raise Refusal(f"window must be at least 1, got {window}.")
    with exclusive(directory):
        if directory.exists():
            if reuse:
                return Cooccurrences.open(directory)
            raise Refusal(f"{directory} already exists; counts are never overwritten.")
        with appearing(directory) as partial:
            num_files = min(max(1, -(-int(np.sum(counts)) * window // PAIRS_A_FILE)), MOST_FILES)
            with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-runs-") as runs:
                sums, carried = SortedSums(runs, memory_bytes), None
                # A stretch has `window` pairs a word. Half of the memory is for it, the rest for what waits in `sums`.
                stretch = max(1, min(BLOCK_TOKENS, memory_bytes // (2 * BYTES_A_PAIR * window)))
                for ids, sentences in sentences_of(stream, counts, eos_id, stretch):
                    carried = add_pairs(sums, ids, sentences, carried, window, len(counts))
                sizes = _write_records(partial, sums, num_files, len(counts))
            if not any(size for size, _ in sizes):
                raise Refusal("No two words of the text stand near each other: give more text, or a smaller min_count.")
            index = {"format_version": FORMAT_VERSION, "window": window, "vocab_size": len(counts), "sizes": sizes}
            (partial / "index.json").write_text(json.dumps(index) + "\n", encoding="utf8")
    return Cooccurrences.open(directory)


def _write_records(directory, sums, num_files, vocab_size):
    """Writes the records of merged sums, each into a file that its key picks. Returns how often each file has what."""
    sizes = [[0, 0] for _ in range(num_files)]
    files = [open(directory / _file_name(i), "wb") for i in range(num_files)]  # noqa: SIM115 - all are written in turn
    try:
        for keys, weights in sums.merged():
            records = np.empty(len(keys), RECORD)
            records["row"], records["column"] = np.divmod(keys, vocab_size)
            equal = records["row"] == records["column"]
            records["count"] = weights * np.where(equal, 2.0 / ONE, 1.0 / ONE)
            # A fixed mixture of the key's bits, so that every file is a sample of all pairs.
            mixed = keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            place = (((mixed >> np.uint64(32)) * np.uint64(num_files)) >> np.uint64(32)).astype(np.int64)
            order = np.argsort(place, kind="stable")
            ends = np.searchsorted(place[order], np.arange(num_files), side="right")
            for i, part in enumerate(np.split(records[order], ends[:-1])):
                files[i].write(part.tobytes())
                sizes[i][0] += len(part)
                sizes[i][1] += int(np.count_nonzero(part["row"] == part["column"]))
    finally:
        for file in files:
            file.close()
    return sizes


def _file_name(number):
    return f"pairs-{number:05d}.bin"


class Cooccurrences:
    """Counts of pairs on disk. A pair of two words is there once, the smaller id first.

    Attributes:
        window, vocab_size: W and V.
        num_pairs: distinct pairs, without regard to order.
        num_records: M, of ordered pairs: what an epoch trains on.
    """

    def __init__(self, directory, index):
        self._directory, self.window, self.vocab_size = Path(directory), index["window"], index["vocab_size"]
        sizes = np.array(index["sizes"], np.int64)
        self.num_pairs, self._num_ordered = int(sizes[:, 0].sum()), 2 * sizes[:, 0] - sizes[:, 1]
        self.num_records = int(self._num_ordered.sum())

    @classmethod
    def open(cls, directory):
        """The counts in `directory`. Raises Refusal when they are missing or damaged."""
        try:
            index = json.loads((Path(directory) / "index.json").read_text(encoding="utf8"))
            if index["format_version"] != FORMAT_VERSION:
                raise Refusal(f"{directory} has counts of another format; delete it and count again.")
            for number, (size, _) in enumerate(index["sizes"]):
                if (Path(directory) / _file_name(number)).stat().st_size != size * RECORD.itemsize:
                    raise Refusal(f"{directory} is damaged: {_file_name(number)} has another size; delete it and count again.")
            return cls(directory, index)
        except FileNotFoundError as error:
            raise Refusal(f"{directory} holds no complete counts: {error.filename} is missing.") from error
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise Refusal(f"{Path(directory) / 'index.json'} is damaged; delete {directory} and count again.") from error

    @property
    def num_ordered(self):
        """int64 (files,): ordered pairs of each file."""
        return self._num_ordered

    def records(self, number):
        """The records of a file, (n,) of `RECORD`, the smaller id in `row`."""
        return np.fromfile(self._directory / _file_name(number), RECORD)

    def ordered(self, number):
        """The records of a file and, for two different words, each once more with the words exchanged."""
        records = self.records(number)
        mirrored = records[records["row"] != records["column"]].copy()
        mirrored["row"], mirrored["column"] = mirrored["column"].copy(), mirrored["row"].copy()
        return np.concatenate([records, mirrored])


class CooccurrenceBatches:
    """Training batches of counted pairs; `batch(step)` is a pure function of (seed, step).

    An epoch has every ordered pair once: the files in an order of its own, and the pairs of a file too.

    Args:
        pairs: a `Cooccurrences`.
        layout: a `Layout`: B rows of T pairs.

    `batch` gives a dict of `token_ids` int32 (B, T), a word; `labels` int32 (B, T), a word near it; `counts` float32 (B, T), X
    of the two; `loss_weights` float32 (B, T), 1.
    """

    def __init__(self, pairs, layout):
        if layout.seq_length < 1 or layout.batch_size < 1:
            raise Refusal("seq_length and batch_size must be at least 1.")
        self.pairs, self.layout = pairs, layout
        self._orders, self._files = {}, {}

    @property
    def steps_per_epoch(self):
        """Batches that hold each ordered pair once, rounded up."""
        return -(-self.pairs.num_records // (self.layout.batch_size * self.layout.seq_length))

    def starts_epoch(self, step):
        """No state is carried."""
        return True

    def batch(self, step):
        """The batch of training step `step`, counted from 0."""
        shape = self.layout.batch_size, self.layout.seq_length
        size, pieces = shape[0] * shape[1], []
        sample, end = step * size, (step + 1) * size
        while sample < end:
            epoch, within = divmod(sample, self.pairs.num_records)
            order, starts = self._order(epoch)
            place = int(np.searchsorted(starts, within, side="right")) - 1
            stop = min(end, epoch * self.pairs.num_records + int(starts[place + 1]))
            records = self._shuffled(epoch, int(order[place]))
            pieces.append(records[within - starts[place] : within - starts[place] + stop - sample])
            sample = stop
        rates = np.full(shape, size, np.float32)
        return {**_batch(np.concatenate(pieces), shape), "input_rates": rates, "label_rates": rates}

    def _order(self, epoch):
        """(order of the files, first record of each and the end): of two epochs at most."""
        if epoch not in self._orders:
            draws = random_stream(self.layout.seed, "order", epoch).random_raw(len(self.pairs.num_ordered))
            order = np.argsort(draws, kind="stable")
            starts = np.cumsum([0, *self.pairs.num_ordered[order]])
            self._orders = {**{e: kept for e, kept in self._orders.items() if e == epoch - 1}, epoch: (order, starts)}
        return self._orders[epoch]

    def _shuffled(self, epoch, number):
        """The ordered pairs of a file in the order of an epoch; the last two are kept."""
        key = epoch, number
        if key not in self._files:
            records = self.pairs.ordered(number)
            random = random_stream(self.layout.seed, "pairs", epoch * len(self.pairs.num_ordered) + number)
            records = records[np.argsort(random.random_raw(len(records)), kind="stable")]
            self._files = {**dict(list(self._files.items())[-1:]), key: records}
            return records
        return self._files[key]


def _batch(records, shape):
    """A batch of records; beyond them the rest of `shape` weighs 0."""
    missing = shape[0] * shape[1] - len(records)
    columns = {name: np.pad(np.ascontiguousarray(records[name]), (0, missing)).reshape(shape) for name in RECORD.names}
    weights = (np.arange(shape[0] * shape[1]) < len(records)).reshape(shape).astype(np.float32)
    names = {"token_ids": "row", "labels": "column", "counts": "count"}
    return {**{ours: columns[theirs] for ours, theirs in names.items()}, "loss_weights": weights}


def evaluation_batches(pairs, layout):
    """Yields batches of every ordered pair once, file after file. What the last batch of a file lacks weighs 0."""
    shape = layout.batch_size, layout.seq_length
    for number in range(len(pairs.num_ordered)):
        records = pairs.ordered(number)
        for start in range(0, len(records), shape[0] * shape[1]):
            yield _batch(records[start : start + shape[0] * shape[1]], shape)
