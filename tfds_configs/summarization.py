"""Data sets for summarisation: a text, and what it says in short."""

from tfds_configs.classification import PYTHON_DOCS
from tfds_configs.sources import TextSource


def _source(name, licence, source="source", target="target", *, splits=None, **fields):
    splits = splits or {split: split for split in ("train", "validation", "test")}
    return TextSource(name=name, features={"source": source, "target": target}, splits=splits, licence=licence, **fields)


SOURCES = (_source("python_docs/summaries", "PSF-2.0", module=PYTHON_DOCS),)
