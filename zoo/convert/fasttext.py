"""The words and vectors of fastText's own models, `model.bin` (Bojanowski et al. 2017, arXiv:1607.04606).

    count, width, rows = read("cc.de.300.bin")      rows yields (word as bytes, float32 (width,))

The vector of a word is the mean of its own row and of those of its parts: of all `minn` to `maxn` characters of `<word>` that
follow each other. Each part has the row of its hash. What a model knows of words outside its vocabulary is not carried over.

Layout, little-endian: magic, version; 12 int32 and a float64 of settings; the numbers of entries, words and labels, int32; of
tokens, int64; of rows that were pruned, int64; for each entry its text, a zero byte, its count int64, its type int8; a byte
that says whether the matrix is quantised; its two sizes, int64, and its numbers, float32, words first and then the hashes.
"""

import struct

import numpy as np

from zoo.config import Refusal
from zoo.data.subwords import hashed, parts_of

MAGIC = 793712314
NEWEST_VERSION = 12
CLASSES = 3  # the kind of model that had no parts in version 11, whatever maxn says
WORDS_AT_ONCE = 512


def read(path):
    """Opens a model.

    Returns:
        `(count, width, rows)`: how many words it has, how many numbers each, and an iterator of the words and vectors.

    Raises:
        Refusal: the file is gzipped, quantised, too new or cut.
    """
    if path.name.endswith(".gz"):
        raise Refusal(f"{path} is a gzipped model of fastText, whose rows are read in any order; decompress it first (gunzip).")
    try:
        with open(path, "rb") as file:
            _, version, *settings = _fields(file, "<14id")
            width, (bucket, minn, maxn) = settings[0], settings[8:11]
            num_entries, num_words, _, _, pruned = _fields(file, "<3i2q")
            entries = [_entry(file) for _ in range(num_entries)]
            (quantised,) = _fields(file, "<?")
            if version > NEWEST_VERSION or quantised or pruned > 0:
                raise Refusal(f"{path} is a quantised model of fastText, or a newer one; read the .vec beside it.")
            num_rows, num_columns = _fields(file, "<2q")
            maxn = 0 if version == 11 and settings[7] == CLASSES else maxn
            bucket = bucket if maxn > 0 else 0
            whole = num_columns == width and num_rows >= num_words + bucket
            matrix = np.memmap(path, "<f4", "r", file.tell(), (num_rows, num_columns)) if whole else None
    except (struct.error, ValueError, OverflowError) as error:
        raise Refusal(f"{path} is a damaged model of fastText ({error}); copy it again.") from error
    if matrix is None:
        raise Refusal(f"{path} is a damaged model of fastText: its matrix has {num_rows} x {num_columns} numbers.")
    return num_words, width, _rows([word for word, is_word in entries if is_word], matrix, minn, maxn, bucket)


def _fields(file, layout):
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _entry(file):
    """(text as bytes, whether it is a word and not a label)."""
    text = bytearray()
    while (byte := file.read(1)) != b"\0":
        if not byte:
            raise ValueError("it ends among its words")
        text += byte
    _, kind = _fields(file, "<qb")
    return bytes(text), kind == 0


def _rows(words, matrix, minn, maxn, bucket):
    for start in range(0, len(words), WORDS_AT_ONCE):
        chunk = words[start : start + WORDS_AT_ONCE]
        parts = [parts_of(word, minn, maxn) if bucket > 0 else [] for word in chunk]
        hashes = hashed([part for each in parts for part in each])
        ids, begins, used = [], [], 0
        for i, each in enumerate(parts):
            begins.append(len(ids))
            ids += [start + i, *(len(words) + hashes[used : used + len(each)] % max(bucket, 1)).tolist()]
            used += len(each)
        sums = np.add.reduceat(matrix[np.array(ids)], begins, axis=0)
        yield from zip(chunk, sums / np.diff([*begins, len(ids)])[:, None].astype(np.float32), strict=True)
