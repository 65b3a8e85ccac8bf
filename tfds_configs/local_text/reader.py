"""Records of one file: a dict for each document, with its text under `text`.

Files are read as bytes and decoded here, so that line ends stay as they are and a bad byte is reported by its place.
"""

import csv
import gzip
import json
import sys
import zlib


def records(path, data_path):
    """Yields the records of `path`, read as `data_path` (a `DataPath`) says. Empty documents are left out, unless something
    else
    is told of them: a label without a text is a mistake that the task should see.

    Raises:
        ValueError: bytes that are not UTF-8, a missing field or column, a ragged row, broken JSON or gzip.
    """
    read = {
        "tagged": _sentences,
        "squad": _questions,
        "text": _whole,
        "lines": _lines,
        "jsonl": _json_lines,
        "csv": _rows,
        "tsv": _rows,
    }
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            for record in read[data_path.format_of(path)](path, file, data_path):
                if record["text"] or len(record) > 1:
                    yield record
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is a damaged gzip file: {error}.") from error


def _whole(path, file, data_path):
    yield {"text": _decoded(file.read(), path, 0, data_path.errors)}


def _lines(path, file, data_path):
    for _, line in _decoded_lines(path, file, data_path):
        yield {"text": _without_end(line)}


def _json_lines(path, file, data_path):
    for number, line in _decoded_lines(path, file, data_path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error.msg} at column {error.colno}.") from error
        if not isinstance(record, dict) or data_path.field not in record:
            has = f"its fields are {', '.join(map(repr, record))}" if isinstance(record, dict) else "it is no JSON object"
            raise ValueError(f"{path}, line {number} has no field {data_path.field!r}: {has}.")
        text = record[data_path.field]
        if not isinstance(text, str):
            raise ValueError(f"{path}, line {number}: field {data_path.field!r} must be a string, got {text!r:.60}.")
        yield {**record, "text": _encodable(text, path, number, data_path.errors)}


def _sentences(path, file, data_path):
    """`word TAB ... TAB tag`, a blank line between sentences; the first and the last column count."""
    words, tags = [], []
    for number, line in [*_decoded_lines(path, file, data_path), (0, "")]:
        line = _without_end(line)
        if line and not line.startswith("-DOCSTART-"):
            columns = line.split("\t") if "\t" in line else line.split(" ")
            if len(columns) < 2 or not columns[0] or not columns[-1]:
                raise ValueError(f"{path}, line {number} is not a word, a tab and its tag: {line!r:.60}.")
            words.append(columns[0])
            tags.append(columns[-1])
        elif words:
            yield {"text": " ".join(words), "tokens": words, "tags": tags}
            words, tags = [], []


def _questions(path, file, data_path):
    """Questions of a JSON file in the format of SQuAD 1.1 and 2.0."""
    try:
        articles = json.loads(_decoded(file.read(), path, 0, data_path.errors))["data"]
        for paragraph in (paragraph for article in articles for paragraph in article["paragraphs"]):
            for question in paragraph["qas"]:
                answers = question.get("answers") or []
                yield {
                    "text": paragraph["context"], "id": str(question["id"]), "question": question["question"],
                    "context": paragraph["context"], "answers": [answer["text"] for answer in answers],
                    "answer_starts": [answer["answer_start"] for answer in answers],
                }  # fmt: skip
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not in the format of SQuAD ({type(error).__name__}: {error}).") from error


def _rows(path, file, data_path):
    rows = (_csv_rows if data_path.format_of(path) == "csv" else _tsv_rows)(path, file, data_path)
    names = data_path.columns or next(rows, (0, ()))[1]
    for number, row in rows:
        if data_path.field not in names:
            raise ValueError(
                f"{path} has no column {data_path.field!r}: its columns are {', '.join(map(repr, names))}; choose one "
                "with field=, or name the columns of a file without a header with columns=."
            )
        if len(row) != len(names):
            raise ValueError(f"{path}, line {number} has {len(row)} columns instead of {len(names)}.")
        yield {**dict(zip(names, row, strict=True)), "text": row[names.index(data_path.field)]}


def _tsv_rows(path, file, data_path):
    """(line number, row): no quoting, so a quotation mark is a quotation mark."""
    for number, line in _decoded_lines(path, file, data_path):
        if line := _without_end(line):
            yield number, line.split("\t")


def _csv_rows(path, file, data_path):
    """(line number, row), quoted as in RFC 4180: a quoted field may hold commas and line ends."""
    csv.field_size_limit(sys.maxsize)  # the default would refuse documents above 128 kB
    reader = csv.reader((line for _, line in _decoded_lines(path, file, data_path)), strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num} is not CSV: {error}.") from error


def _decoded_lines(path, file, data_path):
    """(number, line with its end); only a line feed ends a line."""
    offset = 0
    for number, line in enumerate(file, 1):
        yield number, _decoded(line, path, offset, data_path.errors)
        offset += len(line)


def _decoded(data, path, offset, errors):
    """UTF-8 bytes that stand at `offset` of a file, as a string; a byte order mark at the front is no text."""
    try:
        return data.decode("utf-8-sig" if offset == 0 else "utf-8", errors)
    except UnicodeDecodeError as error:
        # utf-8-sig counts from behind the mark
        start = error.start + (3 if offset == 0 and data.startswith(b"\xef\xbb\xbf") else 0)
        raise ValueError(
            f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {offset + start} ({error.reason}); "
            "convert the file, or read on with errors=replace."
        ) from error


def _encodable(text, path, number, errors):
    """JSON can spell half a surrogate pair, which is no text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        if errors == "replace":
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        raise ValueError(
            f"{path}, line {number} spells a lone surrogate, which is no character; mend it, or read on with errors=replace."
        ) from error
    return text


def _without_end(line):
    return line[:-2] if line.endswith("\r\n") else line.removesuffix("\n")
