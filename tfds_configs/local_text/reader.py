"""Records of one file: a dict for each document, sentence, pair or question.

`text` is there for whatever has one text; pairs have `source` and `target`, sentences of words `tokens`.
"""

import collections
import csv
import decimal
import json
import math
import re
import sys
import unicodedata

from tfds_configs.local_text import pairs, words
from tfds_configs.local_text.remarks import Found
from zoo.config import Refusal
from zoo.text_files import BLOCK_BYTES, blocks, lines, lines_with_ends, whole

# Fields that make an example worth having without a field `text`.
OTHER_TEXTS = ({"source", "target"}, {"tokens"}, {"question", "context"})
ENOUGH = 10  # rows, to wonder about a label that only one of them has
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
UNSEEN = dict.fromkeys(map(ord, "\u200b\u2060\ufeff"))  # characters of no width


def records(path, data_path, partner=None, remarks=None):
    """Yields the records of `path`, read as `data_path` (a `DataPath`) says.

    Empty documents are left out, unless something else is told of them: a label without a text is a mistake that the task
    should see. Pairs with an empty side are left out and counted.

    Args:
        partner: the file that is read beside it, line by line, or None.
        remarks: a `Remarks` that keeps what was found once the file has been read to its end, or None.

    Raises:
        Refusal: bytes that are not UTF-8, a missing field or column, a ragged row, broken JSON or gzip, labels that cannot be
            right.
    """
    found, spellings = Found(), {} if remarks is None else remarks.spellings
    for number, record in _read(path, data_path, partner, found):
        answers = record.get("answers")
        if isinstance(answers, dict) and {"text", "answer_start"} <= answers.keys():  # as Hugging Face writes SQuAD
            record = {**record, "answers": answers["text"], "answer_starts": answers["answer_start"]}
        if "label" in record:
            record["label"] = _label(record["label"], path, number, spellings)
        if _is_pair(record):
            record = _pair(record, path, number)
            if not (record["source"].strip() and record["target"].strip()):
                found.add("pairs with an empty side are left out", number)
                continue
        if record.get("text") or len(record) > 1:
            yield record
    if remarks is not None:
        remarks.keep(path, found)


def in_pieces(data_path, path, partner=None):
    """Whether `pieces` reads the file: its documents are plain text, and nothing is told of them."""
    return partner is None and data_path.format_of(path) in ("text", "lines")


def pieces(path, data_path):
    """Yields the documents of `records` in pieces of about a megabyte: (piece, whether it ends a document).

    The last piece of a document may be empty. Raises Refusal as `records` does.
    """
    texts = blocks(path, data_path.errors)
    return _pieces_of_lines(texts) if data_path.format_of(path) == "lines" else _pieces_of_whole(texts)


def _pieces_of_whole(texts):
    held = ""
    for text in filter(None, texts):
        if held:
            yield held, False
        held = text
    if held:
        yield held, True


def _pieces_of_lines(texts):
    held, begun = "", False  # begun: a piece of this line was given already
    for text in texts:
        *ended, held = (held + text).split("\n")
        for line in ended:
            line = line.removesuffix("\r")
            if line or begun:
                yield line, True
            begun = False
        kept = len(held) - held.endswith("\r")  # which a line feed may follow
        if kept >= BLOCK_BYTES:
            yield held[:kept], False
            held, begun = held[kept:], True
    if held or begun:
        yield held, True


def _read(path, data_path, partner, found):
    """(line, record) as the file has it."""
    format = data_path.format_of(path)
    if partner is not None and format != "conll":
        return pairs.parallel(path, partner, data_path)
    match format:
        case "conll":
            return words.conll(path, data_path, found, partner)
        case "tagged":
            return words.tagged(path, data_path, found)
        case "conllu":
            return words.conllu(path, data_path, found)
        case "po":
            return pairs.po(path, data_path, found)
        case "tmx":
            return pairs.tmx(path, data_path, found)
        case "squad":
            return _questions(path, data_path)
        case "jsonl":
            return _json_lines(path, data_path, found)
        case "csv" | "tsv":
            return _rows(path, data_path, found)
        case "lines":
            return ((number, {"text": line}) for number, line in lines(path, data_path.errors))
        case _:
            return iter([(1, {"text": whole(path, data_path.errors)})])


class _Twice(Exception):
    """A JSON object has a key twice."""


def _once(pairs):
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Twice(next(key for key in keys if keys.count(key) > 1))
    return record


ONE_LINE = json.JSONDecoder(object_pairs_hook=_once)


def _json_lines(path, data_path, found):
    for number, line in lines(path, data_path.errors):
        if not line.strip():
            continue
        listed = " (A JSON array is not JSON lines: write each of its objects on a line of its own.)"
        hint = listed if line.lstrip().startswith("[") else ""
        try:
            record = ONE_LINE.decode(line)
        except json.JSONDecodeError as error:
            raise Refusal(f"{path}, line {number} is not JSON: {error.msg} at column {error.colno}.{hint}") from error
        except _Twice as error:
            raise Refusal(f"{path}, line {number} has the field {error.args[0]!r} twice; each must be there once.") from error
        if not isinstance(record, dict):
            name = data_path.field or "text"
            raise Refusal(f"{path}, line {number} has no field {name!r}: it is not a JSON object.{hint}")
        if "\\u" in line:
            record = _encodable(record, path, number, data_path.errors)
        for name in data_path.columns or ():
            _at(record, name, path, number)
        record = _named(record, data_path, path, number)
        if "text" in record and not isinstance(record["text"], str):
            name, text = data_path.field or "text", record["text"]
            raise Refusal(f"{path}, line {number}: field {name!r} must be a string, got {text!r:.60}.")
        yield number, _tagged(record, data_path, path, number, found)


def _named(record, data_path, path, number):
    """The record with `text`, `source` and `target` where `field=`, `source=` and `target=` say they are."""
    named = dict(record)
    for ours, theirs in (("text", data_path.field), ("source", data_path.source), ("target", data_path.target)):
        if theirs is not None:
            named[ours] = _at(record, theirs, path, number)
    if "text" not in named and not any(fields <= named.keys() for fields in OTHER_TEXTS):
        _at(record, "text", path, number)
    return named


def _at(record, name, path, number):
    """The field of a record; `a/b` is the field b of the field a."""
    value = record
    for key in [name] if name in record else name.split("/"):
        if not isinstance(value, dict) or key not in value:
            has = ", ".join(map(repr, record))
            raise Refusal(f"{path}, line {number} has no field {name!r}: its fields are {has}.")
        value = value[key]
    return value


def _tagged(record, data_path, path, number, found):
    """A record whose words, if it has any, are those that a server would see."""
    tokens, tags = record.get("tokens"), record.get("tags")
    are_words = isinstance(tokens, list) and all(isinstance(word, str) for word in tokens)
    are_tags = isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)
    if not (are_words and are_tags and len(tokens) == len(tags)):
        return record  # the task says what is wrong with it
    words.check_tags(tags, path, number)
    tokens, tags = words.without_blanks(tokens, tags, data_path.blanks, path, number, found)
    return {**record, "tokens": tokens, "tags": tags}


def _label(label, path, number, spellings):
    """A label as it names its class: 1.0 is 1. `spellings`: what a string means -> how it was spelt before, in any file."""
    if isinstance(label, float):
        if not math.isfinite(label):
            raise Refusal(f"{path}, line {number} has the label {label}, which is not a class; give each example a class.")
        label = int(label) if label.is_integer() else label
    if isinstance(label, str | int | float):
        name = str(label)
        spelt = spellings.setdefault(_value(name), name)
        if spelt != name:
            written = ascii if unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", spelt) else repr
            raise Refusal(
                f"{path}, line {number} has the label {written(name)}, and {written(spelt)} stands before it; spell a class in "
                "one way."
            )
    return label


def _value(label):
    """What all spellings of one label have in common: the number, or the text in one Unicode form with plain blanks."""
    if NUMBER.fullmatch(label):
        return decimal.Decimal(label)
    return " ".join(unicodedata.normalize("NFC", label).translate(UNSEEN).split())


def _is_pair(record):
    return "source" in record and "target" in record


def _pair(record, path, number):
    """A pair whose sides are strings; a list of targets is kept as `targets`, its first as `target`."""
    target = record["target"]
    if isinstance(target, list) and all(isinstance(one, str) for one in target):
        targets = [one for one in target if one.strip()]
        record = {**record, "target": targets[0] if targets else "", "targets": targets}
    for name in ("source", "target"):
        if not isinstance(record[name], str):
            listed = " or a list of strings" if name == "target" else ""
            raise Refusal(f"{path}, line {number}: {name} must be a string{listed}, got {record[name]!r:.60}.")
    return record


def _questions(path, data_path):
    """Questions of a JSON file in the format of SQuAD 1.1 and 2.0."""
    try:
        articles = json.loads(whole(path, data_path.errors))["data"]
        for paragraph in (paragraph for article in articles for paragraph in article["paragraphs"]):
            for question in paragraph["qas"]:
                answers = _answers(question, path)
                yield 1, {
                    "text": paragraph["context"], "id": str(question["id"]), "question": question["question"],
                    "context": paragraph["context"], "answers": [answer["text"] for answer in answers],
                    "answer_starts": [answer["answer_start"] for answer in answers],
                }  # fmt: skip
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise Refusal(f"{path} is not in the format of SQuAD ({type(error).__name__}: {error}).") from error


def _answers(question, path):
    """The answers of a question; none where it says of itself that there is none."""
    answers, impossible = question.get("answers"), question.get("is_impossible")
    if answers is None and not impossible:
        raise Refusal(f"{path}: the question {question['id']!r} has no answers and is not marked is_impossible.")
    if impossible is not None and bool(impossible) == bool(answers):
        count = len(answers or [])
        raise Refusal(
            f"{path}: the question {question['id']!r} has {count} answers and is_impossible={json.dumps(impossible)}; one of "
            "the two is wrong."
        )
    return answers or []


def _rows(path, data_path, found):
    rows = (_csv_rows if data_path.format_of(path) == "csv" else _tsv_rows)(path, data_path.errors)
    names = data_path.columns or next(rows, (0, ()))[1]
    twice = next((name for name in names if name not in ("", "-") and names.count(name) > 1), None)
    if twice is not None:
        raise Refusal(
            f"{path} has two columns called {twice!r}; give each a name of its own, here or with columns= (- for one that is "
            "not read)."
        )
    wanted = {"text": data_path.field, "source": data_path.source, "target": data_path.target}
    if data_path.field is None and not any(
        fields <= {*names, *(ours for ours, theirs in wanted.items() if theirs)} for fields in OTHER_TEXTS
    ):
        wanted["text"] = "text"
    wanted = {ours: theirs for ours, theirs in wanted.items() if theirs is not None}
    labels, begin = collections.Counter(), None
    for place, (number, row) in enumerate(rows):
        if place == 0 and data_path.columns and _is_header(row, names, path, number):
            continue
        if place and len(names) > 1 and list(row) == list(names):
            found.add("rows are the header once more and are left out", number)
            continue
        for theirs in wanted.values():
            if theirs not in names:
                raise Refusal(
                    f"{path} has no column {theirs!r}: its columns are {', '.join(map(repr, names))}; choose one with field=, "
                    "source= or target=, or name the columns of a file without a header with columns=."
                )
        if len(row) != len(names):
            raise Refusal(f"{path}, line {number} has {len(row)} columns instead of {len(names)}.")
        record = {name: cell for name, cell in zip(names, row, strict=True) if name != "-"}
        if "label" in record:
            begin = begin or (number, record["label"])
            labels[record["label"]] += 1
        yield number, {**record, **{ours: row[names.index(theirs)] for ours, theirs in wanted.items()}}
    if data_path.columns and begin and labels[begin[1]] == 1 and labels.total() >= ENOUGH:
        found.add("first rows have a label that stands nowhere else: they may be headers, and are read as examples", begin[0])


def _is_header(row, names, path, number):
    """Whether the first row of a file is a header that says what columns= says. Raises Refusal where it says otherwise."""
    if tuple(row) == tuple(names):
        return True
    cells, wanted = ([cell.strip().casefold() for cell in some] for some in (row, names))
    asked = [name for name in wanted if name != "-"]
    if len(asked) < 2 or not set(asked) <= set(cells):  # one word may be a text
        return False
    if len(cells) == len(wanted) and all(name in ("-", cell) for cell, name in zip(cells, wanted, strict=True)):
        return True
    raise Refusal(
        f"{path}, line {number} names the columns {':'.join(row)}, and columns= names them {':'.join(names)}; leave columns= "
        "out, or name them as they stand."
    )


def _tsv_rows(path, errors):
    """(line number, row): no quoting, so a quotation mark is a quotation mark."""
    for number, line in lines(path, errors):
        if line:
            yield number, line.split("\t")


def _csv_rows(path, errors):
    """(line number, row), quoted as in RFC 4180: a quoted field may hold commas and line ends."""
    csv.field_size_limit(sys.maxsize)  # the default would refuse documents above 128 kB
    reader = csv.reader((line for _, line in lines_with_ends(path, errors)), strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise Refusal(f"{path}, line {reader.line_num} is not CSV: {error}.") from error


def _encodable(value, path, number, errors):
    """A JSON value without half surrogate pairs, which JSON can spell and which are not text."""
    if isinstance(value, dict):
        return {key: _encodable(inner, path, number, errors) for key, inner in value.items()}
    if isinstance(value, list):
        return [_encodable(inner, path, number, errors) for inner in value]
    if not isinstance(value, str):
        return value
    try:
        value.encode()
    except UnicodeEncodeError as error:
        if errors == "replace":
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        raise Refusal(
            f"{path}, line {number} spells a lone surrogate, which is not a character; mend it, or read on with errors=replace."
        ) from error
    return value
