"""Data sets for summarisation: a text, and what it says in short.

XSum and SAMSum must be fetched by hand, as TFDS says when it is asked for them.
"""

from tfds_configs.classification import PYTHON_DOCS
from tfds_configs.sources import TextSource

RESEARCH = "research use"
WITHOUT_VALIDATION = {"train": "train[:95%]", "validation": "train[95%:]", "test": "test"}


def _source(name, licence, source="source", target="target", *, splits=None, **fields):
    splits = splits or {split: split for split in ("train", "validation", "test")}
    features = {"text": source, "source": source, "target": target}
    return TextSource(name=name, features=features, splits=splits, licence=licence, **fields)


SOURCES = (
    _source("python_docs/summaries", "PSF-2.0", module=PYTHON_DOCS),
    _source("cnn_dailymail", RESEARCH, "article", "highlights"),
    _source("xsum", RESEARCH, "document", "summary"),
    _source("gigaword", RESEARCH, "document", "summary"),
    _source("samsum", "CC BY-NC-ND 4.0", "dialogue", "summary"),
    _source("scientific_papers", RESEARCH, "article", "abstract", builder="scientific_papers/arxiv"),
    _source("billsum", "public domain (United States)", "text", "summary", splits=WITHOUT_VALIDATION),
    _source("multi_news", RESEARCH, "document", "summary"),
)
