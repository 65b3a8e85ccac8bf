"""Batches cut from token streams: packed windows for training, every token once for evaluation.

A stream begins and ends with the same token, so it can be read as a ring: after the last `eos` comes document 1.

Shape letters: B batch, T positions.
"""

import numpy as np

from zoo.config import Refusal
from zoo.data.batch import random_stream, uniform


class PackedBatches:
    """Training batches of a stream in which every position is filled; `batch(step)` is a pure function of (seed, step).

    Each epoch cuts the ring into windows of `seq_length` inputs at an offset of its own and takes them in an order of
    its own, both drawn from a counter-based generator keyed by (seed, epoch). When the windows of an epoch are used up
    in the midst of a batch, the next epoch's follow.

    With `contiguous`, for models that carry their state from batch to batch, an epoch cuts the ring into `batch_size`
    rows of equal length, and row r of one batch goes on where row r of the last batch stopped.

    Args:
        stream: `TokenShards`, or a 1-d integer array laid out like a stream.
        seq_length: T.
        batch_size: B.
        seed: any integer.
        separate_documents: adds `segment_ids` and `positions`.
        contiguous: rows go on from batch to batch.
        eos_id: what separates documents; by default the stream's own.

    Raises:
        Refusal: the stream is shorter than one sequence, that is `seq_length + 1` tokens.
    """

    def __init__(self, stream, seq_length, batch_size, seed=0, *, separate_documents=False, contiguous=False, eos_id=None):
        _require_positive(seq_length=seq_length, batch_size=batch_size)
        if len(stream) <= seq_length:
            raise Refusal(
                f"The corpus has {len(stream)} tokens, and one sequence takes {seq_length + 1} (seq_length + 1): "
                "give more text or a smaller seq_length."
            )
        self.stream, self.seq_length, self.batch_size, self.seed = stream, seq_length, batch_size, seed
        self.contiguous = contiguous
        self._separator = _separator(stream, eos_id) if separate_documents else None
        self._ring = len(stream) - 1
        self.num_windows = self._ring // seq_length
        self._plans = {}

    @property
    def steps_per_epoch(self):
        """Batches that hold each window once, rounded up; with `contiguous`, batches before the rows start anew."""
        if self.contiguous:
            return max(1, self._ring // self.batch_size // self.seq_length)
        return -(-self.num_windows // self.batch_size)

    def starts_epoch(self, step):
        """Whether rows do not go on from the batch before, so that a carried state must be reset."""
        return not self.contiguous or step % self.steps_per_epoch == 0

    def batch(self, step):
        """The batch of training step `step`, counted from 0."""
        return self._rows(self._contiguous_starts(step) if self.contiguous else self._window_starts(step))

    @property
    def num_units(self):
        """How many windows `of` knows."""
        return self.num_windows

    def of(self, chosen, step):
        """The batch of the windows with these numbers, int (B,), where the ring is cut at its beginning at every step."""
        return self._rows(chosen * self.seq_length)

    def _rows(self, starts):
        each = getattr(self.stream, "map", map)
        tokens = np.stack(list(each(lambda start: _around(self.stream, start, self.seq_length + 1), starts.tolist())))
        batch = {
            "token_ids": tokens[:, :-1],
            "labels": tokens[:, 1:],
            "loss_weights": np.ones((len(starts), self.seq_length), np.float32),
        }
        return _with_segments(batch, self._separator)

    def _window_starts(self, step):
        samples = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        starts = np.empty_like(samples)
        for epoch in range(samples[0] // self.num_windows, samples[-1] // self.num_windows + 1):
            offset, order = self._plan(epoch)
            rows = samples // self.num_windows == epoch
            starts[rows] = offset + order[samples[rows] % self.num_windows] * self.seq_length
        return starts % self._ring

    def _contiguous_starts(self, step):
        epoch, column = divmod(step, self.steps_per_epoch)
        offset = random_stream(self.seed, "order", epoch).random_raw() % self._ring
        rows = np.arange(self.batch_size) * (self._ring // self.batch_size)
        return (offset + rows + column * self.seq_length) % self._ring

    def _plan(self, epoch):
        """(offset of the cut, order of the windows) of an epoch; the last two are kept."""
        if epoch not in self._plans:
            random = random_stream(self.seed, "order", epoch)
            offset = random.random_raw() % self._ring
            # Sorting raw draws, unlike Generator.permutation, gives the same order under every version of numpy.
            order = np.argsort(random.random_raw(self.num_windows), kind="stable")
            self._plans = {**{e: p for e, p in self._plans.items() if e == epoch - 1}, epoch: (offset, order)}
        return self._plans[epoch]


class DocumentWindows:
    """Rows that each hold tokens of one document alone, for a run in which documents are sampled.

    A document that is longer than a row gives a window of it, at a place drawn anew at every step; a shorter one is padded.

    Args:
        stream: `TokenShards`, or an integer array laid out like a stream with its `eos_id`.
        seq_length: T.
        seed: any integer.

    Attributes:
        num_units: how many documents there are.
    """

    def __init__(self, stream, seq_length, seed=0):
        self.stream, self.seq_length, self.seed, self._eos_id = stream, seq_length, seed, _separator(stream, None)
        self._ends = np.flatnonzero(np.asarray(stream[:]) == self._eos_id)  # the first opens the stream
        self.num_units = len(self._ends) - 1

    def of(self, chosen, step):
        """The batch of the documents with these numbers, int (B,): `PackedBatches.batch` with a `padding_mask`."""
        draws = uniform(random_stream(self.seed, "windows", step), len(chosen))
        spans = []
        for document, draw in zip(chosen.tolist(), draws.tolist(), strict=True):
            first, end = int(self._ends[document]), int(self._ends[document + 1])
            first += int(draw * (max(end - first - self.seq_length, 0) + 1))
            spans.append((first, first, min(first + self.seq_length, end)))
        return _padded(self.stream, spans, self.seq_length, self._eos_id)


def _around(stream, start, length):
    """`length` ids of the ring from `start` on; the stream's closing eos and its opening one are the same place."""
    piece = stream[start : start + length]
    if len(piece) < length:
        piece = np.concatenate([piece, stream[1 : 1 + length - len(piece)]])
    return np.asarray(piece, np.int32)


def evaluation_batches(
    stream,
    seq_length,
    batch_size,
    *,
    context_tokens=0,
    contiguous=False,
    separate_documents=False,
    eos_id=None,
):
    """Yields batches in which every token of the stream but the first is a label of weight 1 exactly once, in order.

    The last window is padded at its right with tokens of weight 0, and the last batch with rows of them; `padding_mask`
    tells (the first position of every row stays True: no model need cope with an empty row).

    Args:
        stream: `TokenShards`, or a 1-d integer array laid out like a stream.
        seq_length: T.
        batch_size: B.
        context_tokens: by how many tokens each window overlaps the one before; their labels weigh 0 there. With n - 1
            an n-gram model scores as if it read the whole stream at once.
        contiguous: rows go on from batch to batch, for a state carried along (zero in front of the first batch). Every
            row but the first then starts amid the stream. There is no `padding_mask`: nothing follows the padding.
        separate_documents: adds `segment_ids` and `positions`.
        eos_id: what separates documents, and pads; by default the stream's own.

    Raises:
        Refusal: nothing to score, or `context_tokens` leaves no room in a window.
    """
    _require_positive(seq_length=seq_length, batch_size=batch_size)
    if not 0 <= context_tokens < seq_length:
        raise Refusal(f"context_tokens must be at least 0 and below seq_length ({seq_length}), got {context_tokens}.")
    end = len(stream) - 1
    if end < 1:
        raise Refusal("There is nothing to score: the split has no tokens.")
    if contiguous and context_tokens:
        raise Refusal("context_tokens is for windows on their own; with contiguous rows the state is the context.")
    pad = stream[0:1][0] if eos_id is None else eos_id
    separator = _separator(stream, eos_id) if separate_documents else None
    plan = _contiguous_spans if contiguous else _window_spans
    for spans in plan(end, seq_length, batch_size, context_tokens):
        batch = _padded(stream, spans, seq_length, pad)
        if contiguous:
            del batch["padding_mask"]
        yield _with_segments(batch, separator)


def _window_spans(end, seq_length, batch_size, context_tokens):
    """Batches of (first input, first scored input, end) for windows on their own."""
    stride = seq_length - context_tokens
    spans = [(0, 0, min(seq_length, end))]
    while len(spans) and spans[-1][2] < end:
        first = spans[-1][2]
        spans.append((first - context_tokens, first, min(first + stride, end)))
        if len(spans) > batch_size:
            yield spans[:batch_size]
            spans = spans[batch_size:]
    yield spans + [(end, end, end)] * (batch_size - len(spans))


def _contiguous_spans(end, seq_length, batch_size, _):
    """Batches of (first input, first scored input, end) for rows that go on from batch to batch."""
    length = -(-end // batch_size)
    for column in range(0, length, seq_length):
        spans = []
        for row in range(batch_size):
            row_end = min((row + 1) * length, end)
            first = min(row * length + column, row_end)
            spans.append((first, first, min(first + seq_length, row_end)))
        yield spans


def _padded(stream, spans, seq_length, pad):
    shape = (len(spans), seq_length)
    batch = {
        "token_ids": np.full(shape, pad, np.int32),
        "labels": np.full(shape, pad, np.int32),
        "loss_weights": np.zeros(shape, np.float32),
        "padding_mask": np.zeros(shape, bool),
    }
    batch["padding_mask"][:, 0] = True
    for row, (first, scored, end) in enumerate(spans):
        tokens, length = stream[first : end + 1], end - first
        batch["token_ids"][row, :length] = tokens[:length]
        batch["labels"][row, :length] = tokens[1 : length + 1]
        batch["loss_weights"][row, scored - first : length] = 1
        batch["padding_mask"][row, :length] = True
    return batch


def _with_segments(batch, separator):
    """Adds `segment_ids` and `positions`, unless `separator` is None."""
    if separator is None:
        return batch
    opens = batch["token_ids"] == separator
    columns = np.arange(opens.shape[1], dtype=np.int32)
    document_start = np.maximum.accumulate(np.where(opens, columns, 0), axis=1)
    return {
        **batch,
        "segment_ids": np.cumsum(opens, axis=1, dtype=np.int32),
        "positions": (columns - document_start).astype(np.int32),
    }


def _separator(stream, eos_id):
    eos_id = getattr(stream, "eos_id", None) if eos_id is None else eos_id
    if eos_id is None:
        raise Refusal("To separate documents the id between them must be known: pass eos_id.")
    return eos_id


def _require_positive(**values):
    for name, value in values.items():
        if value < 1:
            raise Refusal(f"{name} must be at least 1, got {value}.")
