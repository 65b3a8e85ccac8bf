"""The grammar of --data_path: which files, for which split, and how to read them.

    notes.txt                                      one file, or a glob: 'books/**/*.txt'
    a.txt,b.txt                                    several
    train=a.txt,validation=b.txt,test=c.txt        files of each split; `train=a.txt,b.txt,...` takes several too
    corpus.txt,format=lines                        every line a document
    posts.jsonl.gz,field=body                      the text is in the field `body`
    train.tsv,columns=label:text                   no header; these are the columns

Options: `format` = text, lines, jsonl, csv, tsv, tagged (`word TAB tag`, a blank line between sentences) or squad (by default
    told by the file's name); `field` (default `text`);
`columns`; `errors` = strict or replace. A comma or an equals sign in a file's name is escaped with a backslash; a name
that exists as it stands needs none.

Without `validation` the last tenth of the training text is held out for it; without `test` the validation text is used.
This file imports only the standard library.
"""

import difflib
import glob
import os
import re
from dataclasses import dataclass

SPLITS = ("train", "validation", "test")
FORMATS = ("text", "lines", "jsonl", "csv", "tsv", "tagged", "squad")
SUFFIXES = {".conll": "tagged", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
OPTIONS = {"format": FORMATS, "field": None, "columns": None, "errors": ("strict", "replace")}


@dataclass(frozen=True)
class DataPath:
    """What --data_path says.

    Attributes:
        files: split -> its files, in the order given, those of a glob sorted. Files of no named split are `train`'s.
        format: one of `FORMATS`, or None to tell it by each file's name.
        field: name of the field or column that holds the text.
        columns: names of the columns of CSV and TSV files without a header, or None where the first row names them.
        errors: `strict` or `replace`: what to do about bytes that are not UTF-8.
    """

    files: dict[str, tuple[str, ...]]
    format: str | None = None
    field: str = "text"
    columns: tuple[str, ...] | None = None
    errors: str = "strict"

    def format_of(self, path):
        """How to read one file."""
        stem = path[:-3] if path.endswith(".gz") else path
        return self.format or SUFFIXES.get(os.path.splitext(stem)[1].lower(), "text")


def parse(data_path):
    """The `DataPath` that a string describes. Raises ValueError for what does not parse or is not there."""
    data_path = os.fspath(data_path)
    if os.path.exists(os.path.expanduser(data_path)):
        return DataPath({"train": _expanded(data_path)})
    files, options, split = {}, {}, "train"
    for item in re.split(r"(?<!\\),", data_path):
        key, equals, value = re.match(r"((?:[^=\\]|\\.)*)(=?)(.*)", item, re.DOTALL).groups()
        if not equals:
            value = item
        elif key in OPTIONS:
            options[key] = _option(key, value)
            continue
        elif key in SPLITS:
            split = key
        else:
            close = difflib.get_close_matches(key, [*SPLITS, *OPTIONS], n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join([*SPLITS, *OPTIONS])}."
            raise ValueError(f"--data_path knows no {key!r} in {item!r}; {hint}")
        files[split] = files.get(split, ()) + _expanded(re.sub(r"\\([,=\\])", r"\1", value))
    if not files:
        raise ValueError(f"--data_path={data_path!r} names no file.")
    return DataPath(files, **options)


def _option(key, value):
    if key == "columns":
        names = tuple(value.split(":"))
        if len(set(names)) < len(names) or not all(names):
            raise ValueError(f"columns takes different names with colons between them, such as label:text, got {value!r}.")
        return names
    allowed = OPTIONS[key]
    if not value or (allowed and value not in allowed):
        expected = " or ".join(allowed) if allowed else "a name"
        raise ValueError(f"The option {key} of --data_path takes {expected}, got {value!r}.")
    return value


def _expanded(pattern):
    """The files that a path or glob names."""
    pattern = os.path.expanduser(pattern)
    if os.path.isdir(pattern):
        raise ValueError(f"{pattern} is a directory; name its files with a glob, such as {os.path.join(pattern, '*.txt')}.")
    found = [pattern] if os.path.isfile(pattern) else sorted(filter(os.path.isfile, glob.glob(pattern, recursive=True)))
    if not found:
        raise ValueError(f"There is no file {pattern!r}." if pattern else "--data_path names an empty path.")
    return tuple(found)
