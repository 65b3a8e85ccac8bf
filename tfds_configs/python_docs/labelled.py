"""Labelled examples that the running Python carries with it: further configs of `python_docs`.

classification      which package a docstring belongs to
tagging             the lexical class of each token of the standard library's source
question_answering  which sentence describes the named function, among several
summaries           the first line of a docstring, which says what follows it
"""

import hashlib
import io
import keyword
import re
import sysconfig
import tokenize
import warnings
from pathlib import Path

from tfds_configs.python_docs.documents import SKIPPED_FOLDERS

# Packages that every Python from 3.10 on has, each with more than a hundred docstrings.
PACKAGES = (
    "asyncio", "datetime", "email", "http", "importlib", "logging", "mailbox", "multiprocessing", "tkinter", "turtle",
    "unittest", "xml",
)  # fmt: skip
# Packages whose source is tagged: enough for some tens of thousands of lines.
TAGGED = ("asyncio", "collections", "concurrent", "email", "html", "http", "importlib", "json", "logging", "xml")
LEXICAL_CLASSES = ("class", "comment", "function", "keyword", "name", "number", "operator", "string")
LONGEST_LINE = 40
DESCRIBED_TOGETHER = 4
ROUNDS = 4
# One line of at least three words that begins with a capital letter, ends where a sentence may, and is not a signature.
SUMMARY = re.compile(r"(?!\w+\(|.*->)[A-Z]\S* \S+ [^\n]*[^\s:;,]")


def split_of(key):
    """train, validation or test: about 80, 10 and 10 percent, told by a hash."""
    share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    return "train" if share < 0.8 else "validation" if share < 0.9 else "test"


def classified(documents):
    """(split, example): the text of each docstring of `PACKAGES`, and its package."""
    for document in documents:
        package = document.module.partition(".")[0].removeprefix("_")
        if package in PACKAGES:
            yield split_of(f"{document.module} {document.name}"), {"text": document.text, "label": package}


def tagged():
    """(split, example): the tokens of each logical line of source, cut at white space, and their lexical classes.

    All of a module is in one split.
    """
    stdlib = Path(sysconfig.get_path("stdlib"))
    for package in TAGGED:
        for path in sorted((stdlib / package).rglob("*.py")):
            where = path.relative_to(stdlib)
            if SKIPPED_FOLDERS.isdisjoint(where.parts):
                split = split_of(where.as_posix())
                for tokens, tags in _lines(path.read_bytes()):
                    yield split, {"tokens": tokens, "tags": tags}


def _lines(source):
    """(tokens, tags) of every logical line that is short enough to be shown whole."""
    tokens, tags, before = [], [], ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old string escapes, which are not ours to mend
            found = list(tokenize.tokenize(io.BytesIO(source).readline))
    except (tokenize.TokenError, SyntaxError):  # source for another Python, or that is wrong on purpose
        return
    for token in found:
        if token.type == tokenize.NEWLINE:
            if 2 <= len(tokens) <= LONGEST_LINE:
                yield tokens, tags
            tokens, tags, before = [], [], ""
        elif token.type in CLASS_OF_TYPE:
            words = token.string.split()
            kind = _name_class(token.string, before) if token.type == tokenize.NAME else CLASS_OF_TYPE[token.type]
            tokens, tags, before = tokens + words, tags + [kind] * len(words), token.string


CLASS_OF_TYPE = {
    tokenize.NAME: "name",
    tokenize.NUMBER: "number",
    tokenize.STRING: "string",
    tokenize.COMMENT: "comment",
    tokenize.OP: "operator",
}
if hasattr(tokenize, "FSTRING_START"):  # since Python 3.12 an f-string is several tokens
    CLASS_OF_TYPE.update({
        kind: "string" for kind in (tokenize.FSTRING_START, tokenize.FSTRING_MIDDLE, tokenize.FSTRING_END)
    })  # fmt: skip


def _name_class(name, before):
    if keyword.iskeyword(name):
        return "keyword"
    return {"def": "function", "class": "class"}.get(before, "name")


def summarized(documents):
    """(split, example): what a docstring says below its first line, and that line.

    The first line must stand alone and not be a signature, as PEP 257 has it; what follows must be longer.
    """
    seen = set()
    for document in documents:
        first, _, rest = document.text.partition("\n\n")
        target, source = first.strip(), rest.strip()
        if SUMMARY.fullmatch(target) and len(source) > len(target) and source not in seen:
            seen.add(source)
            yield document.split, {"source": source, "target": target}


def questions(documents):
    """(split, example): a question for a function, and the first sentences of several docstrings, one the answer.

    Training asks for every function `ROUNDS` times, each time among others.
    """
    by_split = {}
    for document in documents:
        sentence = re.match(r"[A-Z][^.\n]{19,119}\.(?=\s|$)", document.text)
        name = document.name.rpartition(".")[2]
        if sentence and name.isidentifier() and not name.startswith("_"):
            key = f"{document.module} {document.name}"
            by_split.setdefault(split_of(key), []).append((key, name, sentence.group()))
    for split, entries in by_split.items():
        for number in range(ROUNDS if split == "train" else 1):
            ordered = sorted(entries, key=lambda entry: _digest(number, entry[0]))
            for first in range(len(ordered)):
                example = _question([ordered[(first + step) % len(ordered)] for step in range(DESCRIBED_TOGETHER)])
                if example is not None:
                    yield split, example


def _question(entries):
    """An example that asks for the first of (key, name, sentence) entries; None if names or sentences are not different."""
    key, name, sentence = entries[0]
    together = [entry[0] for entry in entries]  # the same function stands at another place among others
    described = sorted((entry[1:] for entry in entries), key=lambda pair: _digest(together, *pair))
    if any(len(set(texts)) < len(entries) for texts in zip(*described, strict=True)):
        return None
    context = "".join(f"{other}: {text}\n" for other, text in described)
    start = context.index(f"{name}: {sentence}") + len(name) + 2
    return {
        "id": key, "question": f"What does {name} do?", "context": context, "answers": [sentence], "answer_starts": [start],
    }  # fmt: skip


def _digest(*values):
    """What things are ordered by: at random, and the same everywhere."""
    return hashlib.sha256(repr(values).encode()).digest()
