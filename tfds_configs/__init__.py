"""Which text: raw strings, never tokens.

    names()                               every data set that --dataset takes
    source = get("python_docs")           or get("local_text", data_path="notes/*.txt"), get("wiki40b/de")
    for text in source.texts("train"): ...

TensorFlow Datasets is imported when a source is first read, so listing and refusing a wrong name cost nothing.
"""

from dataclasses import replace

from tfds_configs import classification, language_modeling, question_answering, roles, summarization, tagging, translation
from tfds_configs.sources import TextSource
from zoo.config import Refusal, nearest

__all__ = ["TextSource", "check", "get", "names"]

TABLE = {
    source.name: source
    for module in (
        language_modeling,
        classification,
        tagging,
        question_answering,
        translation,
        summarization,
        roles,
    )  # fmt: skip
    for source in module.SOURCES
}


def names():
    """Sorted names of every data set."""
    return sorted([*TABLE, "local_text"])


def _parts(name):
    """(name of a source, config of its builder or ""): a name of the table that has a slash in it is one name."""
    if name in TABLE:
        return name, ""
    base, _, config = name.partition("/")
    return base, config


def check(name, data_path=None):
    """Raises Refusal for what `get` would refuse. Reads no text."""
    base, config = _parts(name)
    if base not in names():
        raise Refusal(f"No dataset is called {name!r}; {nearest(name, names())}")
    if config and "/" not in (TABLE[base].builder if base in TABLE else ""):
        raise Refusal(f"The dataset {base} has no configs to choose from; say {base!r} instead of {name!r}.")
    if config:
        TABLE[base].with_config(config)
    if base != "local_text":
        if data_path:
            raise Refusal(f"data_path is for the dataset local_text; {name} does not read {data_path!r}.")
    elif not data_path:
        raise Refusal("local_text reads your own files: say which with data_path, such as --data_path=notes.txt.")
    else:
        from tfds_configs.local_text.data_path import parse

        parse(data_path)


def get(name, data_path=None, data_dir=None):
    """The `TextSource` called `name`.

    Args:
        name: one of `names()`; where TFDS has several configs, also `name/config`.
        data_path: your files, for `local_text` and for nothing else; `tfds_configs/local_text/data_path.py` tells how.
        data_dir: where TFDS keeps its data sets, or None for its own default.

    Raises:
        Refusal: no such name; `data_path` where none belongs, or none where one does; a file that is not there.
    """
    check(name, data_path)
    if name == "local_text":
        from tfds_configs.local_text.source import LocalTextSource

        return LocalTextSource.from_data_path(data_path)
    base, config = _parts(name)
    source = TABLE[base].with_config(config) if config else TABLE[base]
    return replace(source, data_dir=data_dir)
