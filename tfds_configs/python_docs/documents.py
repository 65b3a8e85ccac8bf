"""The documentation of the running Python as documents: the language reference's topics and every docstring it ships.

Source files are parsed, never imported: importing the whole standard library would open windows and browsers. Only
modules written in C, which have no source to parse, are imported, and only those that do nothing when imported.
"""

import ast
import hashlib
import importlib
import inspect
import itertools
import re
import sysconfig
import warnings
from dataclasses import dataclass
from pathlib import Path

# Folders that hold tests or other people's packages. `site-packages` and its like are not identifiers and drop out too.
SKIPPED_FOLDERS = {"test", "tests", "idle_test", "idlelib", "lib2to3"}
C_MODULES = """
    _asyncio _bisect _blake2 _bz2 _codecs _collections _contextvars _csv _ctypes _datetime _decimal _elementtree
    _functools _hashlib _heapq _io _json _lsprof _lzma _opcode _operator _pickle _queue _random _sha1 _signal _socket
    _sqlite3 _sre _ssl _struct _symtable _thread _tracemalloc _warnings _weakref array atexit binascii builtins cmath
    errno faulthandler fcntl gc grp itertools marshal math mmap posix pwd pyexpat resource select sys syslog termios
    time unicodedata zlib
""".split()  # noqa: SIM905
# Chosen so that the shares by size come out within 0.6 percent of 90, 5 and 5 on Python 3.10 to 3.13.
SPLIT_SALT = 11


@dataclass(frozen=True)
class Document:
    """One piece of documentation.

    Attributes:
        module: dotted name of the module, or `pydoc_data.topics`.
        name: qualified name within it, such as `Random.choice`; empty for the module itself; a topic's title.
        text: the cleaned docstring, without surrounding blank lines.
    """

    module: str
    name: str
    text: str

    @property
    def split(self):
        """train, validation or test: about 90, 5 and 5 percent of the text, all of a module in one of them.

        A topic is a unit of its own, and `decimal`, `_decimal` and `_pydecimal` are one: they say the same.
        """
        topic = self.module == "pydoc_data.topics"
        unit = f"topic {self.name}" if topic else re.sub(r"^_(py)?", "", self.module)
        share = int.from_bytes(hashlib.sha256(f"{SPLIT_SALT} {unit}".encode()).digest()[:8], "big") / 2**64
        return "train" if share < 0.9 else "validation" if share < 0.95 else "test"


def documents():
    """Every `Document` of this Python once, in an order that depends on nothing but its files."""
    seen = set()
    stdlib = Path(sysconfig.get_path("stdlib"))
    for document in itertools.chain(_topics(), _source_docstrings(stdlib), _c_docstrings()):
        if document.text and document.text not in seen:
            seen.add(document.text)
            yield document


def _topics():
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions package it apart
        return
    for title in sorted(topics):
        yield Document("pydoc_data.topics", title, inspect.cleandoc(topics[title]).strip())


def _source_docstrings(root):
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if SKIPPED_FOLDERS.isdisjoint(parts) and all(part.isidentifier() for part in parts):
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            for name, text in _docstrings(path.read_bytes()):
                yield Document(module, name, text.strip())


def _docstrings(source):
    """(qualified name, docstring) of a module's source, in its order; nothing if it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old string escapes, which are not ours to mend
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    yield "", ast.get_docstring(tree) or ""
    yield from _inner_docstrings(tree, "")


def _inner_docstrings(node, prefix):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, ast.get_docstring(child) or ""
            yield from _inner_docstrings(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.stmt | ast.ExceptHandler):
            yield from _inner_docstrings(child, prefix)


def _c_docstrings():
    for module_name in C_MODULES:
        try:
            module = importlib.import_module(module_name)
        except ImportError:  # not in this build of Python
            continue
        yield Document(module_name, "", _clean(module))
        for name, member in sorted(vars(module).items()):
            if inspect.isbuiltin(member) or inspect.isclass(member):
                yield Document(module_name, name, _clean(member))
            if inspect.isclass(member):
                for attribute, value in sorted(vars(member).items()):
                    if inspect.isroutine(value) or inspect.isdatadescriptor(value):
                        yield Document(module_name, f"{name}.{attribute}", _clean(value))


def _clean(thing):
    text = getattr(thing, "__doc__", None)
    return inspect.cleandoc(text).strip() if isinstance(text, str) else ""
