"""The one reader of text files: UTF-8 with or without a byte order mark, gzipped or not, and a line ends at a line feed alone.

    for number, line in lines("notes.txt.gz"): ...       the line without its end ("\\n" or "\\r\\n")
    whole("notes.txt")                                   all of it, its line ends kept
    for text in blocks("notes.txt"): ...                 the same a megabyte at a time

U+2028, U+0085, form feeds and lone carriage returns are text and end no line: `str.splitlines` and Python's text mode would cut
there. This file needs the standard library and `zoo.config` only, so that prompts, vocabularies and tables can be read by it.
"""

import contextlib
import gzip
import itertools
import zlib

from zoo.config import Refusal

UTF8_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
GZIP_MARK = b"\x1f\x8b"
BLOCK_BYTES = 2**20


def whole(path, errors="strict"):
    """The text of a file.

    Args:
        path: a str; a name that ends in `.gz` is decompressed.
        errors: `strict`, or `replace` to read U+FFFD for bytes that are not UTF-8.

    Raises:
        Refusal: bytes that are not UTF-8, with the place of the first; a damaged gzip file.
    """
    with opened(path) as file:
        return decoded(file.read(), path, 0, errors)


def blocks(path, errors="strict"):
    """Yields the text of a file in strings of about a megabyte. Args and Raises as for `whole`."""
    offset, rest = 0, b""
    with opened(path) as file:
        while data := file.read(BLOCK_BYTES):
            data = rest + data
            end = len(data) - _unfinished(data)
            rest = data[end:]
            yield decoded(data[:end], path, offset, errors)
            offset += end
        if rest:
            yield decoded(rest, path, offset, errors)


def _unfinished(data):
    """How many bytes at the end are the beginning of a character that goes on behind them: 0 to 3."""
    for length in range(1, min(len(data), 3) + 1):
        byte = data[-length]
        if byte >= 0xC0:  # the first byte of a character of several bytes
            return length if length < 2 + (byte >= 0xE0) + (byte >= 0xF0) else 0
        if byte < 0x80:
            break
    return 0


def lines(path, errors="strict"):
    """Yields (number from 1, line without its end). Args and Raises as for `whole`."""
    for number, line in lines_with_ends(path, errors):
        yield number, without_end(line)


def lines_of(file, name):
    """Yields what `lines` does, of a file of bytes that is open, such as `sys.stdin.buffer`; `name` is for a Refusal."""
    offset = 0
    for number, line in enumerate(iter(file.readline, b""), 1):
        yield number, without_end(decoded(line, name, offset, "strict"))
        offset += len(line)


def lines_with_ends(path, errors="strict"):
    """Yields (number from 1, line with its end). Args and Raises as for `whole`."""
    offset = 0
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            yield number, decoded(line, path, offset, errors)
            offset += len(line)


def together(left, right, errors="strict"):
    """Yields (number from 1, line of the file `left`, line of the file `right`).

    Raises:
        Refusal: one file has more lines than the other; both counts are told once the shorter one ends.
    """
    pairs = itertools.zip_longest(lines(left, errors), lines(right, errors))
    for ours, theirs in pairs:
        if ours is None or theirs is None:
            shorter, (last, _) = (left, theirs) if ours is None else (right, ours)
            total = last + sum(1 for _ in pairs)
            counts = {left: total, right: total, shorter: last - 1}
            raise Refusal(
                f"{left} has {counts[left]:,} lines and {right} has {counts[right]:,}: line {last} has no "
                f"partner in {shorter}; the two files belong together line by line."
            )
        yield ours[0], ours[1], theirs[1]


@contextlib.contextmanager
def opened(path):
    """The bytes of a file, decompressed if its name ends in `.gz`; a damaged gzip file is a Refusal."""
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Refusal(f"{path} is a damaged gzip file: {error}.") from error


def decoded(data, path, offset, errors):
    """UTF-8 bytes that stand at `offset` of a file, as a string; a byte order mark at the front is not text."""
    if offset == 0 and data.startswith(GZIP_MARK):
        raise Refusal(f"{path} is a gzip file; give it a name that ends in .gz.")
    try:
        text = data.decode("utf-8-sig" if offset == 0 else "utf-8", errors)
    except UnicodeDecodeError as error:
        marked = offset == 0 and data.startswith(UTF8_MARK)
        start = error.start + (len(UTF8_MARK) if marked else 0)  # utf-8-sig counts from behind the mark
        hint = " (it begins with the mark of UTF-16)" if offset == 0 and data.startswith(UTF16_MARKS) else ""
        raise Refusal(
            f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {offset + start} ({error.reason}){hint}; "
            "convert the file. (Text to train on can be read with errors=replace.)"
        ) from error
    if offset == 0 and errors == "strict" and "\0" in text and 4 * text.count("\0") >= len(text):
        raise Refusal(f"{path} is not UTF-8: so many of its bytes are zero as in UTF-16 without its mark; convert the file.")
    return text


def without_end(line):
    """A line without the `\\n` or `\\r\\n` that ends it."""
    return line[:-2] if line.endswith("\r\n") else line.removesuffix("\n")
