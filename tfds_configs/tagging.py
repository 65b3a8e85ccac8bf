"""Data sets for tagging: which field holds the words, which their tags."""

from tfds_configs.classification import PYTHON_DOCS
from tfds_configs.sources import TextSource


def _source(name, licence, tags="tags", *, splits=None, **fields):
    splits = splits or {split: split for split in ("train", "validation", "test")}
    features = {"tokens": "tokens", "tags": tags}
    return TextSource(name=name, features=features, splits=splits, licence=licence, **fields)


SOURCES = (
    _source("python_docs/tagging", "PSF-2.0", module=PYTHON_DOCS),
    _source("conll2003", "research use (Reuters)", "ner", splits={"train": "train", "validation": "dev", "test": "test"},
            builder="conll2003/conll2003"),
    _source("conll2002", "research use (EFE)", "ner", splits={"train": "train", "validation": "dev", "test": "test"},
            builder="conll2002/es"),
    _source("wikiann", "Wikipedia", builder="wikiann/en"),
)  # fmt: skip
