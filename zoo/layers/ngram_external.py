"""The tables of `ngram_estimation` for a text that does not fit in memory: everything as long as the text is on disk.

    tables = estimate(token_ids, order, vocab_size, eos_id, memory=2**30)

Equations and results, to the last bit, are those of `ngram_estimation.estimate`. What differs is where things are:

    counts     one record for each token; an order's records are dealt into ranges of keys, each range is sorted in memory
    sums       of what follows a history: its n-grams are neighbours, so one pass from the front adds them up
    suffixes   lie anywhere: what is looked up by them is held one span at a time, with one pass over the n-grams for each

Files are temporary and have no name (`TMPDIR` says where), so a process that is killed leaves nothing behind. They take
about 80 bytes a token.
"""

import os
import tempfile

import numpy as np

from zoo.config import Refusal
from zoo.layers import ngram_estimation
from zoo.layers.ngram_estimation import STUPID_BACKOFF_WEIGHT, Tables

POSITION_BITS = 31
MAX_TOKENS = 2**POSITION_BITS
# Bytes that one row takes while it is worked on, temporary arrays included; measured, and rounded up.
SORTED_ROW_BYTES, STREAMED_ROW_BYTES, SPAN_SHARE = 80, 400, 4
MOST_PARTS, SAMPLES, SAMPLED_ROWS = 128, 64, 4096


class Column:
    """An array of rows on disk: `append(rows)`, `column[start:stop]`, `write(start, rows)`. It has no name in any directory.

    Args:
        dtype: of the numbers.
        width: how many numbers a row has; 0 makes an array of one axis.
    """

    def __init__(self, dtype, width=0):
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - lives as long as the column
        self.dtype, self._shape, self._length = np.dtype(dtype), (width,) if width else (), 0
        self._row_bytes = self.dtype.itemsize * max(width, 1)

    def __del__(self):
        self._file.close()

    def __len__(self):
        return self._length

    def __getitem__(self, key):
        start, stop, _ = key.indices(self._length)
        rows = np.empty((max(stop - start, 0), *self._shape), self.dtype)
        self._transfer(os.preadv, start, rows)
        return rows

    def write(self, start, rows):
        """Replaces the rows from `start` on, or adds to the end."""
        self._transfer(os.pwritev, start, np.ascontiguousarray(rows, self.dtype))
        self._length = max(self._length, start + len(rows))

    def append(self, rows):
        self.write(self._length, rows)

    def _transfer(self, move, start, rows):
        left, place = memoryview(rows).cast("B") if rows.size else b"", start * self._row_bytes
        try:
            while len(left):
                moved = move(self._file.fileno(), [left], place)
                left, place = left[moved:], place + moved
        except OSError as error:
            raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from error


class Space:
    """How much is held at a time. `memory`: bytes that all arrays together may take."""

    def __init__(self, memory):
        self.sorted_rows = max(memory // SORTED_ROW_BYTES, 2)
        self.streamed_rows = max(memory // STREAMED_ROW_BYTES, 1)
        self.span = max(memory // SPAN_SHARE // 8, 1)

    def slices(self, length, rows=None):
        """Slices that cover `length` rows in their order."""
        rows = rows or self.streamed_rows
        return [slice(start, min(start + rows, length)) for start in range(0, length, rows)]

    def mapped(self, function, dtype, *columns):
        """The column of `function` of these columns, row by row."""
        result = Column(dtype)
        for rows in self.slices(len(columns[0])):
            result.append(function(*(column[rows] for column in columns)))
        return result

    def gathered(self, values, indices):
        """The column `values[indices]`."""
        result = Column(values.dtype)
        spans = self.slices(len(values), self.span)
        for span in spans:
            held = values[span]
            for rows in self.slices(len(indices)):
                at = indices[rows] - np.int64(span.start)
                if len(spans) == 1:
                    result.append(held[at])
                    continue
                here = (at >= 0) & (at < len(held))
                found = np.zeros(len(at), values.dtype) if span.start == 0 else result[rows]
                found[here] = held[at[here]]
                result.write(rows.start, found)
        return result

    def occurrences(self, indices, length):
        """The column of how often each number below `length` is among `indices`, int64."""
        result = Column(np.int64)
        for span in self.slices(length, self.span):
            held = np.zeros(span.stop - span.start, np.int64)
            for rows in self.slices(len(indices)):
                at = indices[rows] - np.int64(span.start)
                np.add.at(held, at[(at >= 0) & (at < len(held))], 1)
            result.append(held)
        return result

    def sums(self, keys, base, length, function, *columns):
        """The column of `function(*columns)` added up by prefix, float64 (length,), in the order of the rows.

        The prefix of a row, `key // base`, never falls, so all but the last of those that a slice has are finished by it.
        """
        result, last, carried = Column(np.float64), 0, 0.0
        for rows in self.slices(len(keys)):
            prefixes = keys[rows] // base
            weights = np.concatenate([[carried], function(*(column[rows] for column in columns))])
            added = np.bincount(np.concatenate([[last], prefixes]) - last, weights=weights)
            result.append(added[:-1])
            last, carried = last + len(added) - 1, added[-1]
        unfinished = np.zeros(length - last)
        unfinished[:1] = carried
        result.append(unfinished)
        return result


class NGrams:
    """As `ngram_estimation.NGrams`, in columns on disk."""

    def __init__(self, base):
        self.base = base
        self.keys, self.suffixes = Column(np.int64), Column(np.int32)
        self.counts, self.opens = Column(np.int32), Column(np.bool_)

    def __len__(self):
        return len(self.keys)


def estimate(token_ids, order, vocab_size, eos_id, *, memory, smoothing="kneser_ney", add_k=1.0, cutoffs=()):
    """`ngram_estimation.estimate` in bounded memory.

    Args:
        token_ids: what has a length and gives int arrays for slices: an array, or `zoo.data.shards.TokenShards`.
        memory: bytes that the arrays of this function may take together.
        order, vocab_size, eos_id, smoothing, add_k, cutoffs: as there.

    Returns:
        A list of `order` Tables; their fields are `Column`s.

    Raises:
        Refusal: 2**31 tokens or more.
    """
    if len(token_ids) >= MAX_TOKENS:
        raise Refusal(f"An n-gram model counts fewer than {MAX_TOKENS:,} tokens, got {len(token_ids):,}: train on a part.")
    cutoffs = tuple(cutoffs) or (0,)
    cutoffs += cutoffs[-1:] * (order - len(cutoffs))
    space = Space(memory)
    ngrams = corpus_count(token_ids, order, vocab_size, eos_id, space)
    kept = [space.mapped(lambda counts, cutoff=cutoff: counts > cutoff, bool, table.counts)
            for table, cutoff in zip(ngrams, cutoffs, strict=True)]  # fmt: skip
    kept[0] = space.mapped(lambda counts: counts >= 0, bool, ngrams[0].counts)
    smooth = {"kneser_ney": _kneser_ney, "add_k": _lidstone, "stupid_backoff": _stupid_backoff}[smoothing]
    tables = []
    for n, (probs, backoffs) in enumerate(smooth(space, ngrams, kept, vocab_size, add_k), start=1):
        if n > 1:
            tables[-1].log_backoffs = space.mapped(np.log, np.float32, backoffs)
        tables.append(Tables(ngrams[n - 1].keys, space.mapped(np.log, np.float32, probs), None))
        ngrams[n - 1] = None  # only the next order is still looked at
    return _prune(space, tables, kept, vocab_size) if any(cutoffs) else tables


def corpus_count(token_ids, order, vocab_size, eos_id, space):
    """All distinct n-grams of order 1 to `order`: a list of `NGrams`."""
    length, base = len(token_ids), vocab_size + 1
    tables, nodes = [_unigrams(token_ids, vocab_size, space)], token_ids
    before = Column(np.int32)  # where the sentence of each token begins: the place of its <s>
    opening = 0
    for rows in space.slices(length):
        position = np.arange(rows.start, rows.stop)
        found = np.maximum.accumulate(np.where(token_ids[rows] == eos_id, position, opening))
        before.append(found)
        opening = int(found[-1])

    def records(n, nodes, start, stop):
        """int64 (R, 2) of the n-grams that end in [start, stop): their keys; suffix node, opens and position in one."""
        start = max(start, n - 1)
        if stop <= start:
            return np.zeros((0, 2), np.int64)
        ends = np.arange(start, stop)
        opening = before[start - 1 : stop - 1]
        whole = ends - opening >= n - 1
        ends, opens = ends[whole], (ends - opening == n - 1)[whole]
        keys = nodes[start - 1 : stop - 1][whole].astype(np.int64) * base + token_ids[start:stop][whole]
        suffixes = nodes[start:stop][whole].astype(np.int64)
        return np.stack([keys, (suffixes * 2 + opens) * MAX_TOKENS + ends], axis=1)

    for n in range(2, order + 1):
        table = NGrams(base)
        places = _Places(space, length) if n < order else None
        _group(_sorted(lambda start, stop, n=n, nodes=nodes: records(n, nodes, start, stop), length, space), table, places)
        tables.append(table)
        nodes = places and places.column()
    return tables


def _unigrams(token_ids, vocab_size, space):
    counts = np.zeros(vocab_size, np.int64)
    for rows in space.slices(len(token_ids)):
        counts += np.bincount(token_ids[rows], minlength=vocab_size)
    counts[token_ids[0:1]] -= 1  # the first is only history
    table = NGrams(vocab_size + 1)
    table.keys.append(np.arange(vocab_size))
    table.counts.append(counts)
    table.suffixes.append(np.zeros(vocab_size, np.int32))
    table.opens.append(np.zeros(vocab_size, bool))
    return table


def _sorted(read, length, space):
    """Yields blocks of records that rise by key, all records of `read(start, stop)` for starts and stops up to `length`.

    The records of one key may lie in several blocks, and then nothing else is in these.
    """
    if length <= space.sorted_rows:
        records = read(0, length)
        records = records[np.argsort(records[:, 0])]
        yield records
        return
    bounds = _bounds(read, length, min(-(-3 * length // (2 * space.sorted_rows)), MOST_PARTS))
    parts = [Column(np.int64, 2) for _ in range(len(bounds) + 1)]
    for rows in space.slices(length):
        records = read(rows.start, rows.stop)
        part = np.searchsorted(bounds, records[:, 0], side="right").astype(np.uint8)
        records = records[np.argsort(part, kind="stable")]
        ends = np.cumsum(np.bincount(part, minlength=len(parts)))
        for column, start, stop in zip(parts, [0, *ends[:-1]], ends, strict=True):
            column.append(records[start:stop])
    for i, part in enumerate(parts):
        parts[i] = None
        if 0 < i < len(bounds) and bounds[i] == bounds[i - 1] + 1:  # one key, of which there may be any number
            for rows in space.slices(len(part), space.sorted_rows):
                yield part[rows]
        else:
            yield from _sorted(lambda start, stop, part=part: part[start:stop], len(part), space)


def _bounds(read, length, num_parts):
    """Keys, rising, that cut the records into about equal parts; a key that would fill a part gets one of its own."""
    starts = np.linspace(0, max(length - SAMPLED_ROWS, 0), SAMPLES).astype(int)
    keys = np.sort(np.concatenate([read(int(start), min(int(start) + SAMPLED_ROWS, length))[:, 0] for start in starts]))
    if not len(keys):
        return keys
    cuts = keys[np.arange(1, num_parts) * len(keys) // num_parts] if num_parts > 1 else keys[:0]
    heavy = cuts[1:][cuts[1:] == cuts[:-1]] if num_parts > 2 else keys[[0]]
    return np.unique(np.concatenate([cuts, heavy, heavy + 1]))


def _group(blocks, table, places):
    """Writes the n-grams of sorted blocks of records into `table`, and the node of each token into `places`."""
    num_nodes, last_key, count = 0, None, 0  # `count`: of the last n-gram, which the next block may go on with
    for records in blocks:
        if not len(records):
            continue
        keys, places_and_more = records[:, 0], records[:, 1]
        is_first = np.ones(len(keys), bool)
        is_first[1:] = keys[1:] != keys[:-1]
        is_first[0] = keys[0] != last_key
        if places is not None:
            places.put(places_and_more & (MAX_TOKENS - 1), num_nodes - 1 + np.cumsum(is_first))
        first = np.flatnonzero(is_first)
        ends = np.append(first, len(keys))
        count += int(ends[0])
        if len(first):
            counts = np.concatenate([[count], np.diff(ends)])
            table.counts.append(counts[:-1] if num_nodes else counts[1:-1])
            count = int(counts[-1])
        num_nodes, last_key = num_nodes + len(first), keys[-1]
        table.keys.append(keys[first])
        suffixes = places_and_more[first] >> POSITION_BITS
        table.suffixes.append(suffixes >> 1)
        table.opens.append(suffixes & 1)
    if num_nodes:
        table.counts.append(np.array([count]))


class _Places:
    """Numbers that come in any order for the places of a column of int32; places that get none are 0."""

    def __init__(self, space, length):
        self._space, self._spans = space, space.slices(length, 2 * space.span)
        self._whole = np.zeros(length, np.int32) if len(self._spans) == 1 else None
        self._parts = [Column(np.int64) for _ in self._spans]

    def put(self, places, numbers):
        if self._whole is not None:
            self._whole[places] = numbers
            return
        pairs = (numbers << POSITION_BITS) + places
        part = places // (self._spans[0].stop)
        for i in np.unique(part):
            self._parts[i].append(pairs[part == i])

    def column(self):
        result = Column(np.int32)
        for span, part in zip(self._spans, self._parts, strict=True):
            whole = np.zeros(span.stop - span.start, np.int32) if self._whole is None else self._whole
            for rows in self._space.slices(len(part)):
                pairs = part[rows]
                whole[(pairs & (MAX_TOKENS - 1)) - span.start] = pairs >> POSITION_BITS
            result.append(whole)
        return result


def _of_prefixes(values, keys, base):
    """`values[keys // base]` for neighbouring rows, whose prefixes lie close together."""
    prefixes = keys // base
    if not len(prefixes):
        return values[0:0]
    return values[int(prefixes[0]) : int(prefixes[-1]) + 1][prefixes - prefixes[0]]


def _kneser_ney(space, ngrams, kept, vocab_size, _):
    shorter, num_prefixes, base = Column(np.float64), 1, vocab_size + 1
    shorter.append(np.full(1, 1 / vocab_size))
    for k in range(len(ngrams)):
        table, adjusted = ngrams[k], ngrams[k].counts
        if k + 1 < len(ngrams):
            different = space.occurrences(ngrams[k + 1].suffixes, len(table))
            adjusted = space.mapped(np.where, np.int64, table.opens, table.counts, different)
        by_count = sum(np.bincount(np.minimum(adjusted[rows], 5), minlength=6) for rows in space.slices(len(table)))
        takes = ngram_estimation.discounts_of(by_count + np.zeros(6))
        total = space.sums(table.keys, base, num_prefixes, np.float64, adjusted)
        left = space.sums(
            table.keys, base, num_prefixes,
            lambda counts, stays, takes=takes: np.where(stays, takes[np.minimum(counts, 3)], counts), adjusted, kept[k],
        )  # fmt: skip
        backoffs = space.mapped(
            lambda part, whole: np.divide(part, whole, out=np.ones(len(whole)), where=whole > 0), np.float64, left, total
        )
        below, probs = space.gathered(shorter, table.suffixes), Column(np.float64)
        for rows in space.slices(len(table)):
            keys, counts = table.keys[rows], adjusted[rows]
            own = (counts - takes[np.minimum(counts, 3)]) / _of_prefixes(total, keys, base)
            probs.append(own + _of_prefixes(backoffs, keys, base) * below[rows])
        shorter, num_prefixes = probs, len(table)
        yield probs, backoffs


def _lidstone(space, ngrams, kept, vocab_size, k):
    num_prefixes, base = 1, vocab_size + 1
    for n, table in enumerate(ngrams, start=1):
        top = n == len(ngrams)
        used = space.mapped(
            lambda counts, opens, stays, top=top: np.where((opens | top) & stays, counts, 0), np.int32,
            table.counts, table.opens, kept[n - 1],
        )  # fmt: skip
        total = space.sums(table.keys, base, num_prefixes, np.float64, used)
        total = space.mapped(lambda total: total + k * vocab_size, np.float64, total)
        probs = Column(np.float64)
        for rows in space.slices(len(table)):
            share = (used[rows] + k) / _of_prefixes(total, table.keys[rows], base)
            probs.append(np.where(table.opens[rows] | top, share, 1 / vocab_size))
        yield probs, space.mapped(lambda total: k * vocab_size / total, np.float64, total)
        num_prefixes = len(table)


def _stupid_backoff(space, ngrams, kept, vocab_size, _):
    scores, sums, suffixes = Column(np.float64), Column(np.float64), Column(np.int64)
    scores.append(np.full(1, 1 / vocab_size))
    sums.append(np.ones(1))
    suffixes.append(np.zeros(1))
    base, weight = vocab_size + 1, STUPID_BACKOFF_WEIGHT
    for table, in_table in zip(ngrams, kept, strict=True):
        total = space.sums(table.keys, base, len(suffixes), np.float64, table.counts)
        backed_off = space.mapped(lambda below: weight * below, np.float64, space.gathered(scores, table.suffixes))
        scores = Column(np.float64)
        for rows in space.slices(len(table)):
            counts = table.counts[rows]
            share = counts / np.maximum(_of_prefixes(total, table.keys[rows], base), 1)
            scores.append(np.where(in_table[rows] & (counts > 0), share, backed_off[rows]))
        below = space.mapped(lambda shorter: weight * shorter, np.float64, space.gathered(sums, suffixes))
        above = space.sums(table.keys, base, len(suffixes), np.subtract, scores, backed_off)
        sums = space.mapped(np.add, np.float64, below, above)
        probs = Column(np.float64)
        for rows in space.slices(len(table)):
            probs.append(scores[rows] / _of_prefixes(sums, table.keys[rows], base))
        suffixes = table.suffixes
        yield probs, space.mapped(np.divide, np.float64, below, sums)


def _prune(space, tables, kept, vocab_size):
    base = vocab_size + 1
    for k in range(1, len(tables)):
        renumbered, above = Column(np.int64), 0
        for rows in space.slices(len(kept[k - 1])):
            renumbered.append(above + np.cumsum(kept[k - 1][rows]) - 1)
            above = int(renumbered[len(renumbered) - 1 : len(renumbered)][0]) + 1
        old = tables[k]
        new = Tables(Column(np.int64), Column(np.float32), None if old.log_backoffs is None else Column(np.float32))
        for rows in space.slices(len(old.keys)):
            stays, keys = kept[k][rows], old.keys[rows]
            new.keys.append((_of_prefixes(renumbered, keys, base) * base + keys % base)[stays])
            new.log_probs.append(old.log_probs[rows][stays])
            if new.log_backoffs is not None:
                new.log_backoffs.append(old.log_backoffs[rows][stays])
        tables[k] = new
    return tables
