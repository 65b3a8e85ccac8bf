"""Token streams on disk, and the batches cut from them.

A *stream* is one long row of token ids in which `eos_id` stands before the first document and after each:

    eos  document 1  eos  document 2  eos ... eos

`write_shards` puts a stream on disk and `TokenShards.open` maps it back; a plain numpy array of ids is a stream too.
As a stream begins and ends with the same token it can be read as a ring: after the last `eos` comes document 1.

A *batch* is a dict of numpy arrays with these names, wherever a batch occurs in this project:

| name         | dtype, shape   | meaning                                                                          |
|--------------|----------------|----------------------------------------------------------------------------------|
| token_ids    | int32 (B, T)   | the inputs                                                                       |
| labels       | int32 (B, T)   | what is to be predicted; here the token that follows each input                  |
| loss_weights | float32 (B, T) | what each label counts in the loss: 1, or 0 where it is not scored               |
| padding_mask | bool (B, T)    | True for real tokens; absent when every position is real                         |
| segment_ids  | int32 (B, T)   | documents do not see each other; 0 is a document that began before the row       |
| positions    | int32 (B, T)   | position of a token in its document (its `eos` in front is 0) or in the row      |

Shape letters: B batch, T positions.
"""

import contextlib
import fcntl
import json
import os
import shutil
import zlib
from pathlib import Path

import numpy as np

from zoo.config import Refusal

FORMAT_VERSION = 1
# Checksums are compared when a stream is opened, unless it is so large that reading it all would keep the user waiting.
VERIFY_BELOW_BYTES = 2**30
JOINED_TOKENS = 2**20


@contextlib.contextmanager
def exclusive(directory):
    """Holds a lock on the name `directory` (which need not exist); the kernel frees it when the process dies."""
    directory = Path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with open(directory.with_name(f".{directory.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def appearing(directory):
    """Yields an empty directory that takes the name `directory` in one step, and only if the block ends without error.

    What a killed writer left behind is removed first; call it under `exclusive(directory)`.
    """
    directory = Path(directory)
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in [*partial.rglob("*"), partial]:
            _sync(path)
        os.rename(partial, directory)
        _sync(directory.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_shards(directory, documents, *, vocab_size, eos_id, meta=None, shard_tokens=2**28):
    """Writes documents as a stream into `directory`, which appears only when it is complete.

    Args:
        directory: the path to make; it must not exist.
        documents: iterable of 1-d integer arrays, without the `eos_id` around them. A document that holds `eos_id`
            inside counts as several.
        vocab_size: every id is in [0, vocab_size); up to 65,536 they take two bytes each, above that four.
        eos_id: written before the first document and after each.
        meta: JSON fields to keep beside the tokens, such as `num_bytes` and `lost_bytes`. It is read after the last
            document, so a generator may count into it.
        shard_tokens: most tokens of one file.

    Returns:
        The opened `TokenShards`.

    Raises:
        Refusal: an id out of range, or `directory` exists.
    """
    directory = Path(directory)
    dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
    with exclusive(directory):
        if directory.exists():
            raise Refusal(f"{directory} already exists; token shards are never overwritten.")
        with appearing(directory) as partial:
            num_documents = 0
            with contextlib.closing(_ShardWriter(partial, dtype, shard_tokens)) as writer:
                writer.append(np.array([eos_id], dtype))
                for ids in _joined(documents, eos_id):
                    _check_ids(ids, vocab_size)
                    num_documents += int(np.count_nonzero(ids == eos_id))
                    writer.append(ids.astype(dtype))
            index = {
                "format_version": FORMAT_VERSION,
                "dtype": dtype.str,
                "vocab_size": int(vocab_size),
                "eos_id": int(eos_id),
                "num_documents": num_documents,
                "shards": writer.shards,
                "meta": dict(meta or {}),
            }
            (partial / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf8")
    return TokenShards.open(directory)


def _joined(documents, eos_id):
    """Documents with an eos after each, many at a time: numpy's cost by the call would rule over short ones."""
    pieces, size, eos = [], 0, np.array([eos_id])
    for ids in documents:
        pieces += (ids, eos)
        size += len(ids) + 1
        if size >= JOINED_TOKENS:
            yield np.concatenate(pieces, dtype=np.int64)
            pieces, size = [], 0
    if pieces:
        yield np.concatenate(pieces, dtype=np.int64)


def _check_ids(ids, vocab_size):
    if ids.min() < 0 or ids.max() >= vocab_size:
        bad = ids[(ids < 0) | (ids >= vocab_size)][0]
        raise Refusal(f"Token id {bad} is outside the vocabulary: ids must be at least 0 and below {vocab_size}.")


class _ShardWriter:
    """Appends ids to numbered files of at most `shard_tokens` tokens each; `shards` describes them."""

    def __init__(self, directory, dtype, shard_tokens):
        self._directory, self._dtype, self._shard_tokens = directory, dtype, shard_tokens
        self.shards, self._file = [], None

    def append(self, ids):
        while len(ids):
            if self._file is None or self.shards[-1]["num_tokens"] == self._shard_tokens:
                self._begin()
            shard = self.shards[-1]
            head, ids = np.split(ids, [self._shard_tokens - shard["num_tokens"]])
            data = head.tobytes()
            self._file.write(data)
            shard["num_tokens"] += len(head)
            shard["crc32"] = zlib.crc32(data, shard["crc32"])

    def _begin(self):
        self.close()
        name = f"tokens-{len(self.shards):05d}.bin"
        self._file = open(self._directory / name, "wb")  # noqa: SIM115 - lives across calls
        self.shards.append({"file": name, "num_tokens": 0, "crc32": 0})

    def close(self):
        if self._file is not None:
            self._file.close()


class TokenShards:
    """A stream on disk, memory-mapped: `len(shards)` and `shards[start:stop]` (int32), whatever the number of files.

    Attributes:
        num_tokens: length of the stream, the `eos_id` at its front included.
        num_documents: documents in it, each closed by an `eos_id`.
        num_bytes: UTF-8 bytes of the original text, as `write_shards` was told; 0 if it was not.
        lost_bytes: those of them that the ids do not tell, as they stand under an unknown-token id.
        eos_id, vocab_size: of the tokenizer that made the ids.
        meta: all further fields that `write_shards` was given.
    """

    def __init__(self, arrays, index):
        self._arrays = arrays
        self._starts = np.cumsum([0, *map(len, arrays)])
        self.num_tokens = int(self._starts[-1])
        self.num_documents = index["num_documents"]
        self.eos_id, self.vocab_size = index["eos_id"], index["vocab_size"]
        self.meta = index["meta"]
        self.num_bytes, self.lost_bytes = self.meta.get("num_bytes", 0), self.meta.get("lost_bytes", 0)

    @classmethod
    def open(cls, directory):
        """Maps the stream in `directory`. Raises Refusal when it is missing, truncated or damaged."""
        directory = Path(directory)
        try:
            index = json.loads((directory / "index.json").read_text(encoding="utf8"))
            if index["format_version"] != FORMAT_VERSION:
                raise Refusal(
                    f"{directory} has token shards of format {index['format_version']}, and this version reads format "
                    f"{FORMAT_VERSION}; delete the directory and prepare the tokens again."
                )
            dtype, shards = np.dtype(index["dtype"]), index["shards"]
            verify = sum(shard["num_tokens"] for shard in shards) * dtype.itemsize < VERIFY_BELOW_BYTES
            arrays = [_mapped(directory / shard["file"], shard, dtype, verify) for shard in shards]
            return cls(arrays, index)
        except FileNotFoundError as error:
            raise Refusal(f"{directory} holds no complete token shards: {error.filename} is missing.") from error
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise Refusal(f"{directory / 'index.json'} is damaged; delete {directory} and prepare the tokens again.") from error

    def __len__(self):
        return self.num_tokens

    def __getitem__(self, key):
        """Ids of a slice of step 1, int32."""
        start, stop, _ = key.indices(self.num_tokens)
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        pieces = []
        for begin, array in zip(self._starts[first:], self._arrays[first:], strict=False):
            if begin >= stop:
                break
            pieces.append(array[max(start - begin, 0) : stop - begin])
        return np.concatenate(pieces).astype(np.int32) if pieces else np.zeros(0, np.int32)


def _mapped(path, shard, dtype, verify):
    size, expected = path.stat().st_size, shard["num_tokens"] * dtype.itemsize
    if size != expected:
        raise Refusal(
            f"{path} has {size} bytes where {expected} were written; delete {path.parent} and prepare the tokens again."
        )
    array = np.memmap(path, dtype, mode="r").view(np.ndarray)  # the subclass would cost time at every slice
    if verify and zlib.crc32(array) != shard["crc32"]:
        raise Refusal(f"{path} is damaged: its checksum differs; delete {path.parent} and prepare the tokens again.")
    return array


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
        starts = self._contiguous_starts(step) if self.contiguous else self._window_starts(step)
        tokens = np.stack([_around(self.stream, start, self.seq_length + 1) for start in starts.tolist()])
        batch = {
            "token_ids": tokens[:, :-1],
            "labels": tokens[:, 1:],
            "loss_weights": np.ones((self.batch_size, self.seq_length), np.float32),
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
        offset = _philox(self.seed, epoch).random_raw() % self._ring
        rows = np.arange(self.batch_size) * (self._ring // self.batch_size)
        return (offset + rows + column * self.seq_length) % self._ring

    def _plan(self, epoch):
        """(offset of the cut, order of the windows) of an epoch; the last two are kept."""
        if epoch not in self._plans:
            random = _philox(self.seed, epoch)
            offset = random.random_raw() % self._ring
            # Sorting raw draws, unlike Generator.permutation, gives the same order under every version of numpy.
            order = np.argsort(random.random_raw(self.num_windows), kind="stable")
            self._plans = {**{e: p for e, p in self._plans.items() if e == epoch - 1}, epoch: (offset, order)}
        return self._plans[epoch]


def _philox(seed, epoch):
    return np.random.Philox(key=np.array([seed % 2**64, epoch], np.uint64))


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
    max_tokens=None,
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
        max_tokens: score only so many tokens, from the front.
        separate_documents: adds `segment_ids` and `positions`.
        eos_id: what separates documents, and pads; by default the stream's own.

    Raises:
        Refusal: nothing to score, or `context_tokens` leaves no room in a window.
    """
    _require_positive(seq_length=seq_length, batch_size=batch_size)
    if not 0 <= context_tokens < seq_length:
        raise Refusal(f"context_tokens must be at least 0 and below seq_length ({seq_length}), got {context_tokens}.")
    end = len(stream) - 1 if max_tokens is None else min(len(stream) - 1, max_tokens)
    if end < 1:
        raise Refusal("There is nothing to score: the split has no tokens, or max_tokens is not positive.")
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
