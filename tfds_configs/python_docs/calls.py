"""Semantic roles that need no annotator: the calls in the standard library's source.

    logger . warning ( message , exc_info = error )

has the predicate `warning` with the roles RECEIVER `logger`, ARG0 `message`, KEYWORD `exc_info = error`. The parser of Python
(`ast`) tells which words these are, so the labels are right, and the spans nest as those of natural language do.
"""

import ast
import io
import re
import sysconfig
import tokenize
import warnings
from pathlib import Path

from tfds_configs.python_docs.documents import SKIPPED_FOLDERS
from tfds_configs.python_docs.labelled import split_of

# Packages whose calls are labelled.
LABELLED = (
    "asyncio", "collections", "concurrent", "ctypes", "email", "encodings", "html", "http", "importlib", "json", "logging",
    "multiprocessing", "unittest", "urllib", "xml",
)  # fmt: skip
# Positional arguments from the fourth on are one role: few calls have them.
ROLES = ("V", "RECEIVER", "ARG0", "ARG1", "ARG2", "ARG3+", "KEYWORD", "STARRED")
TAGS = ("O", *(f"{place}-{role}" for role in ROLES for place in "BI"))
LONGEST_LINE, MOST_CHARACTERS, MOST_CALLS = 24, 64, 4
# Of lines without a call, which are there so that a model learns to find none, each this many-th is kept.
EVERY_WITHOUT = 4
# Types of tokens that a line of source may have. Text in quotes that white space would cut, and f-strings, whose tokens
# differ between versions of Python, are left out with their lines.
WORDS = (tokenize.NAME, tokenize.NUMBER, tokenize.STRING, tokenize.OP)
F_STRING = re.compile(r"[rR]?[fF][rR]?['\"]")


def called():
    """(split, example) of each short line of source with a call, once, and of some without; all of a module in one split.

    An example has `tokens`, `predicates` (the index of each called name), and `tags`: for each predicate a list of BIO tags.
    """
    stdlib, seen, without = Path(sysconfig.get_path("stdlib")), set(), 0
    for package in LABELLED:
        for path in sorted((stdlib / package).rglob("*.py")):
            where = path.relative_to(stdlib)
            if not SKIPPED_FOLDERS.isdisjoint(where.parts):
                continue
            for tokens, predicates, tags in lines(path.read_bytes()):
                if tuple(tokens) in seen:
                    continue
                seen.add(tuple(tokens))
                without += not predicates
                if predicates or without % EVERY_WITHOUT == 0:
                    yield split_of(where.as_posix()), {"tokens": tokens, "predicates": predicates, "tags": tags}


def lines(source):
    """(tokens, predicates, tags) of each logical line of source that is short enough; nothing if it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old string escapes, which are not ours to mend
            tree = ast.parse(source)
            found = list(tokenize.tokenize(io.BytesIO(source).readline))
    except (SyntaxError, ValueError, tokenize.TokenError):
        return
    calls = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            calls.setdefault(_name_of(node), []).append(node)
    encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    text = list(io.StringIO(source.decode(encoding, "replace")))
    line, complete = [], True
    for token in found:
        if token.type == tokenize.NEWLINE:
            short = 2 <= len(line) <= LONGEST_LINE and sum(len(token.string) for token in line) <= MOST_CHARACTERS
            if complete and short:
                labelled = _labelled(line, calls, text)
                if labelled is not None:
                    yield [token.string for token in line], *labelled
            line, complete = [], True
        elif token.type in WORDS:
            line.append(token)
            complete = complete and len(token.string.split()) == 1 and not F_STRING.match(token.string)
        elif token.type not in (tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING):
            complete = False


def _name_of(call):
    """Where the name that a call calls ends, (line, byte); None for a call of something that has no name."""
    function = call.func
    return (function.end_lineno, function.end_col_offset) if isinstance(function, ast.Name | ast.Attribute) else None


def _labelled(line, calls, text):
    """(predicates, tags) of a line of tokens; None if it has too many calls, or a part of a call is not in the line.

    What is called must have a name: of `f()(x)` the first call is labelled.
    """
    ends = [(token.end[0], _bytes(text, *token.end)) for token in line]
    starts = [(token.start[0], _bytes(text, *token.start)) for token in line]
    predicates, tags = [], []
    for i, end in enumerate(ends):
        for call in calls.get(end, ()) if line[i].type == tokenize.NAME else ():
            spans = _spans(call, starts, ends, i)
            if spans is None:
                return None
            column = ["O"] * len(line)
            for first, last, role in [*spans, (i, i, "V")]:
                for place in range(first, last + 1):
                    column[place] = f"{'B' if place == first else 'I'}-{role}"
            predicates.append(i)
            tags.append(column)
    return (predicates, tags) if len(predicates) <= MOST_CALLS else None


def _spans(call, starts, ends, name):
    """(first token, last token, role) of what a call's name is called on and with; None if a part is not in the line."""
    parts = [(call.func.value, "RECEIVER")] if isinstance(call.func, ast.Attribute) else []
    for number, argument in enumerate(call.args):
        role = "STARRED" if isinstance(argument, ast.Starred) else f"ARG{number}" if number < 3 else "ARG3+"
        parts.append((argument, role))
    parts += [(keyword, "KEYWORD" if keyword.arg else "STARRED") for keyword in call.keywords]
    spans = []
    for node, role in parts:
        start, end = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
        if start not in starts or end not in ends:
            return None
        first, last = starts.index(start), ends.index(end)
        if isinstance(node, ast.GeneratorExp) and first == name + 1:
            first, last = first + 1, last - 1  # its parentheses are those of the call
        spans.append((first, last, role))
    return spans


def _bytes(text, line, column):
    """The column of a token in bytes of UTF-8, as `ast` counts them."""
    return len(text[line - 1][:column].encode()) if line <= len(text) else column
