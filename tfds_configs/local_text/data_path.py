"""The grammar of --data_path: which files, for which split, and how to read them.

    notes.txt                                      one file, or a glob: 'books/**/*.txt'
    a.txt,b.txt                                    several
    train=a.txt,validation=b.txt,test=c.txt        files of each split; `train=a.txt,b.txt,...` takes several too
    corpus.txt,format=lines                        every line a document
    posts.jsonl.gz,field=body                      the text is in the field `body`
    train.tsv,columns=label:text                   no header; these are the columns
    train=a.en:a.fr,validation=b.en:b.fr           two files, line by line: fields `source` and `target`
    train.tsv,columns=source:target                the same from the columns of one file
    posts.jsonl,source=article,target=summary      the same from named fields; `translation/en` is a field in a field
    train=a.conll,test=b.conll,format=conll        words, predicates, one column of roles for each predicate
    train=a.words:a.props,format=conll             the same of CoNLL-2005: words in one file, the other columns in another
    train.conll,format=conll,column=4              words, and their tags in the fourth column

Options:
    format     text, lines, jsonl, csv, tsv, tagged, conll, conllu, squad, parallel, po or tmx; by default inferred from the
               file's name
    field      the field or column that holds the text; by default `text`
    source, target    fields or columns that hold the two texts of a pair; by default `source` and `target`
    columns    names of the columns of a file without a header. For `tagged`, `conll` and `conllu`: `word`, `tag`, `predicate`,
               `roles` (from here on, one column for each predicate); `-` for a column that is not read
    column     number of the column that holds the tags, from 1
    languages  the two languages that are read from a TMX file, such as en:fr
    blanks     refuse, or split: what to do about a tagged word that has a blank in it
    errors     strict, or replace: what to do about bytes that are not UTF-8

A comma, an equals sign or a colon in a file's name is escaped with a backslash; a name that exists as it stands needs none.

Without `validation` a tenth of the training data is held out for it; without `test` the validation data is used.
This file imports only the standard library and `zoo.config`.
"""

import glob
import itertools
import os
import re
from dataclasses import dataclass, field

from zoo.config import Refusal, nearest

SPLITS = ("train", "validation", "test")
FORMATS = ("text", "lines", "jsonl", "csv", "tsv", "tagged", "conll", "conllu", "squad", "parallel", "po", "tmx")
SUFFIXES = {
    ".conll": "tagged", ".conllu": "conllu", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".po": "po",
    ".tmx": "tmx",
}  # fmt: skip
NAMES = {"columns": "label:text", "languages": "en:fr"}
OPTIONS = {
    "format": FORMATS, "field": None, "columns": None, "errors": ("strict", "replace"), "source": None, "target": None,
    "column": None, "languages": None, "blanks": ("refuse", "split"),
}  # fmt: skip
TABLES, COLUMNS = {"jsonl", "csv", "tsv"}, {"tagged", "conll", "conllu"}
# Option -> the formats that read it; format itself is for all of them.
READ_BY = {
    "field": TABLES, "source": TABLES, "target": TABLES, "columns": TABLES | COLUMNS, "column": COLUMNS, "languages": {"tmx"},
    "blanks": COLUMNS | {"jsonl"}, "errors": set(FORMATS) - {"po", "tmx"},
}  # fmt: skip


@dataclass(frozen=True)
class DataPath:
    """What --data_path says.

    Attributes:
        files: split -> its files, in the order given, those of a glob sorted. Files of no named split are `train`'s.
        partners: split -> for each of its files the file that is read beside it, line by line, or None.
        named: whether a split was named.
        format: one of `FORMATS`, or None to infer it from each file's name.
        field: name of the field or column that holds the text, or None for `text`, which need not be there if others are.
        source, target: names of the fields or columns that hold a pair, or None for `source` and `target`.
        columns: names of the columns of a file without a header, or None.
        column: number of the column of tags, from 1, or None.
        languages: the two languages of a TMX file, or None.
        blanks: `refuse` or `split` a tagged word that has a blank in it.
        errors: `strict` or `replace`: what to do about bytes that are not UTF-8.
    """

    files: dict[str, tuple[str, ...]]
    partners: dict[str, tuple[str | None, ...]] = field(default_factory=dict)
    named: bool = False
    format: str | None = None
    field: str | None = None
    source: str | None = None
    target: str | None = None
    columns: tuple[str, ...] | None = None
    column: int | None = None
    languages: tuple[str, ...] | None = None
    blanks: str = "refuse"
    errors: str = "strict"

    def format_of(self, path):
        """How to read one file."""
        stem = path[:-3] if path.endswith(".gz") else path
        return self.format or SUFFIXES.get(os.path.splitext(stem)[1].lower(), "text")

    def files_of(self, split):
        """(file, the file beside it or None) for each file of a split."""
        files = self.files[split]
        return list(zip(files, self.partners.get(split, (None,) * len(files)), strict=True))

    def has(self, path):
        """Whether a file is one of those that are read."""
        read = itertools.chain(*self.files.values(), *self.partners.values())
        return os.path.realpath(path) in {os.path.realpath(each) for each in read if each}

    def reading(self):
        """What decides how a file is read, apart from its name: equal values read equal records."""
        return (
            self.format, self.field, self.source, self.target, self.columns, self.column, self.languages, self.blanks,
            self.errors,
        )  # fmt: skip


def parse(data_path):
    """The `DataPath` that a string describes. Raises Refusal for what does not parse or is not there."""
    data_path = os.fspath(data_path)
    if os.path.exists(os.path.expanduser(data_path)):
        return DataPath({"train": _expanded(data_path)})
    files, partners, options, split, named = {}, {}, {}, "train", False
    for item in re.split(r"(?<!\\),", data_path):
        key, equals, value = re.match(r"((?:[^=\\]|\\.)*)(=?)(.*)", item, re.DOTALL).groups()
        if not equals:
            value = item
        elif key in OPTIONS and key in options:
            raise Refusal(f"--data_path={data_path!r} has the option {key} twice; give it once.")
        elif key in OPTIONS:
            options[key] = _option(key, value)
            continue
        elif key in SPLITS:
            split, named = key, True
        else:
            raise Refusal(f"--data_path knows no {key!r} in {item!r}; {nearest(key, [*SPLITS, *OPTIONS])}")
        found, beside = _paired(value)
        files[split] = files.get(split, ()) + found
        partners[split] = partners.get(split, ()) + beside
    if not files:
        raise Refusal(f"--data_path={data_path!r} names no file.")
    partners = {split: beside for split, beside in partners.items() if any(beside)}
    alone = [path for split in files for path in files[split] if split not in partners]
    if options.get("format") == "parallel" and alone:
        raise Refusal(f"{alone[0]} has no file beside it; format=parallel reads two line by line, such as a.en:a.fr.")
    if partners and options.get("format") not in (None, "conll", "parallel"):
        first = next(f"{a}:{b}" for split in partners for a, b in zip(files[split], partners[split], strict=True) if b)
        raise Refusal(f"{first} names two files that are read line by line; format={options['format']} reads one file.")
    parsed = DataPath(files, partners, named, **options)
    _check_options(parsed, options)
    return parsed


def _check_options(parsed, options):
    """Raises Refusal for an option that no file's format reads."""
    formats = {
        "parallel" if partner is not None and parsed.format != "conll" else parsed.format_of(path)
        for split in parsed.files
        for path, partner in parsed.files_of(split)
    }
    for option in options:
        if not READ_BY.get(option, formats) & formats:
            readers = " or ".join(name for name in FORMATS if name in READ_BY[option])
            raise Refusal(f"format={' or '.join(sorted(formats))} does not read the option {option}; it is for {readers}.")
    unknown = [name for name in parsed.columns or () if name not in ("word", "tag", "predicate", "roles", "-")]
    if unknown and formats <= COLUMNS:
        raise Refusal(
            f"columns= of a file with a word a line are word, tag, predicate, roles, or - for one that is not read; got "
            f"{unknown[0]!r}."
        )


def _option(key, value):
    if key in NAMES:
        names = tuple(value.split(":"))
        counted = [name for name in names if name != "-"]
        if len(set(counted)) < len(counted) or not all(names) or (key == "languages" and len(counted) != 2):
            two = "two " if key == "languages" else ""
            raise Refusal(f"{key} takes {two}different names with colons between them, such as {NAMES[key]}, got {value!r}.")
        return names
    if key == "column":
        if not re.fullmatch(r"[1-9][0-9]{0,5}", value):
            raise Refusal(f"The option column of --data_path takes a number from 1, got {value!r}.")
        return int(value)
    allowed = OPTIONS[key]
    if not value or (allowed and value not in allowed):
        expected = " or ".join(allowed) if allowed else "a name"
        raise Refusal(f"The option {key} of --data_path takes {expected}, got {value!r}.")
    return value


def _paired(value):
    """(files, for each the file beside it or None) that an item names."""
    plain = _unescaped(value)
    sides = re.split(r"(?<!\\):", value)
    if len(sides) == 1 or os.path.exists(os.path.expanduser(plain)) or glob.glob(os.path.expanduser(plain)):
        found = _expanded(plain)
        return found, (None,) * len(found)
    if len(sides) > 2:
        raise Refusal(f"{value!r} names {len(sides)} files with colons between them; two files make pairs.")
    left, right = (_expanded(_unescaped(side)) for side in sides)
    if len(left) != len(right):
        raise Refusal(f"{value!r} names {len(left)} files on the left and {len(right)} on the right; they go in pairs.")
    return left, right


def _unescaped(value):
    return re.sub(r"\\([,=:\\])", r"\1", value)


def _expanded(pattern):
    """The files that a path or glob names."""
    pattern = os.path.expanduser(pattern)
    if os.path.isdir(pattern):
        raise Refusal(f"{pattern} is a directory; name its files with a glob, such as {os.path.join(pattern, '*.txt')}.")
    found = [pattern] if os.path.isfile(pattern) else sorted(filter(os.path.isfile, glob.glob(pattern, recursive=True)))
    if not found:
        raise Refusal(f"There is no file {pattern!r}." if pattern else "--data_path names an empty path.")
    return tuple(found)
