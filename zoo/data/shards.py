"""Token streams on disk.

A *stream* is one long row of token ids in which `eos_id` stands before the first document and after each:

    eos  document 1  eos  document 2  eos ... eos

`write_shards` puts a stream on disk and `TokenShards.open` maps it back; a plain numpy array of ids is a stream too.
As a stream begins and ends with the same token it can be read as a ring: after the last `eos` comes document 1.
"""

import concurrent.futures
import contextlib
import json
import zlib
from pathlib import Path

import numpy as np

from zoo.config import Refusal
from zoo.files import appearing, exclusive

FORMAT_VERSION = 1
# Checksums are compared when a stream is opened, unless it is so large that reading it all would keep the user waiting.
VERIFY_BELOW_BYTES = 2**30
JOINED_TOKENS = 2**20
READS_AT_ONCE = 16


def write_shards(directory, documents, *, vocab_size, eos_id, meta=None, shard_tokens=2**28, ended=False):
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
        ended: whether `documents` has the `eos_id` after each document already; then one may come in several arrays.

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
                for ids in _joined(documents if ended else _ended(documents, eos_id)):
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


def _ended(documents, eos_id):
    eos = np.array([eos_id])
    for ids in documents:
        yield ids
        yield eos


def _joined(arrays):
    """Arrays of ids, many at a time: numpy's cost by the call would rule over short ones."""
    pieces, size = [], 0
    for ids in arrays:
        pieces.append(ids)
        size += len(ids)
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
        directory: where they are; None for a URL.
        arrays: the mapped files in their order, integer arrays of two or four bytes an id; of a URL what gives such slices.
    """

    directory = None

    def __init__(self, arrays, index):
        self.arrays = arrays
        self._starts = np.cumsum([0, *map(len, arrays)])
        self.num_tokens = int(self._starts[-1])
        self.num_documents = index["num_documents"]
        self.eos_id, self.vocab_size = index["eos_id"], index["vocab_size"]
        self.meta = index["meta"]
        self.num_bytes, self.lost_bytes = self.meta.get("num_bytes", 0), self.meta.get("lost_bytes", 0)

    @classmethod
    def open(cls, directory):
        """Maps the stream in `directory`, or reads it at a URL, a slice at a time, through TensorFlow's file system layer.

        Raises:
            Refusal: it is missing, truncated or damaged. The checksums of a URL are not compared: that would read all of it.
        """
        remote = "://" in str(directory)
        directory = str(directory) if remote else Path(directory)
        try:
            index = json.loads(_remote_text(directory) if remote else (directory / "index.json").read_text(encoding="utf8"))
            if index["format_version"] != FORMAT_VERSION:
                raise Refusal(
                    f"{directory} has token shards of format {index['format_version']}, and this version reads format "
                    f"{FORMAT_VERSION}; delete the directory and prepare the tokens again."
                )
            dtype, shards = np.dtype(index["dtype"]), index["shards"]
            if remote:
                return cls([RemoteArray(f"{directory}/{each['file']}", each["num_tokens"], dtype) for each in shards], index)
            verify = sum(shard["num_tokens"] for shard in shards) * dtype.itemsize < VERIFY_BELOW_BYTES
            arrays = [_mapped(directory / shard["file"], shard, dtype, verify) for shard in shards]
            shards = cls(arrays, index)
            shards.directory = directory
            return shards
        except FileNotFoundError as error:
            raise Refusal(f"{directory} holds no complete token shards: {error.filename} is missing.") from error
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise Refusal(f"{directory}/index.json is damaged; delete {directory} and prepare the tokens again.") from error

    def __len__(self):
        return self.num_tokens

    def map(self, work, items):
        """`map`; of a URL by many threads, each of which waits for its own slices."""
        if self.directory is not None:
            return map(work, items)
        with concurrent.futures.ThreadPoolExecutor(READS_AT_ONCE) as threads:
            return list(threads.map(work, items))

    def __getitem__(self, key):
        """Ids of a slice of step 1, int32."""
        start, stop, _ = key.indices(self.num_tokens)
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        pieces = []
        for begin, array in zip(self._starts[first:], self.arrays[first:], strict=False):
            if begin >= stop:
                break
            pieces.append(array[max(start - begin, 0) : stop - begin])
        return np.concatenate(pieces).astype(np.int32) if pieces else np.zeros(0, np.int32)


class RemoteArray:
    """Slices of a file of ids that TensorFlow's file system layer reads: `len(array)`, `array[start:stop]`.

    Args:
        path: a URL.
        length: how many ids it has.
        dtype: of an id.
    """

    def __init__(self, path, length, dtype):
        import tensorflow as tf

        self.dtype, self._path, self._length, self._open = dtype, path, length, tf.io.gfile.GFile
        try:
            size = tf.io.gfile.stat(path).length
        except tf.errors.OpError as error:
            raise Refusal(f"{path} cannot be read: {error.message}") from error
        if size != length * dtype.itemsize:
            raise Refusal(f"{path} has {size} bytes where {length * dtype.itemsize} were written; put it there again.")

    def __len__(self):
        return self._length

    def __getitem__(self, key):
        start, stop, _ = key.indices(self._length)
        count = max(stop - start, 0)
        with self._open(self._path, "rb") as file:  # anew each time: an open file of gs:// holds what it last read
            file.seek(start * self.dtype.itemsize)
            data = file.read(count * self.dtype.itemsize)
        if len(data) != count * self.dtype.itemsize:
            raise Refusal(f"{self._path} ends at byte {start * self.dtype.itemsize + len(data)}; put it there again.")
        return np.frombuffer(data, self.dtype)


def _remote_text(directory):
    import tensorflow as tf

    try:
        with tf.io.gfile.GFile(f"{directory}/index.json", "r") as file:
            return file.read()
    except tf.errors.OpError as error:
        raise Refusal(f"{directory} holds no complete token shards: {error.message}") from error


def _checksum(path):
    """The file's CRC-32, read a megabyte at a time: what is read through a map counts as memory held."""
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(2**20):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _mapped(path, shard, dtype, verify):
    size, expected = path.stat().st_size, shard["num_tokens"] * dtype.itemsize
    if size != expected:
        raise Refusal(
            f"{path} has {size} bytes where {expected} were written; delete {path.parent} and prepare the tokens again."
        )
    array = np.memmap(path, dtype, mode="r").view(np.ndarray)  # the subclass would cost time at every slice
    if verify and _checksum(path) != shard["crc32"]:
        raise Refusal(f"{path} is damaged: its checksum differs; delete {path.parent} and prepare the tokens again.")
    return array
