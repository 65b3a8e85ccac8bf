"""Data sets for language modelling: which field is the text, which splits there are, whose text it is.

A public set with a slash in its `builder` has further configs, mostly languages: `--dataset=wiki40b/de`. A split that
a set lacks is cut from the training text, except that the validation text serves as test where TFDS has only that.
OpenWebText is not among them: TFDS has no builder for it. Sets of `translation.py` and `summarization.py` have a field `text`
too: the target's language, the long text.
"""

from tfds_configs.sources import TextSource

CC_BY_SA = "CC BY-SA 3.0 (Wikipedia)"


def _source(name, licence, *, text="text", splits=None, **fields):
    splits = splits or {split: split for split in ("train", "validation", "test")}
    return TextSource(name=name, features={"text": text}, splits=splits, licence=licence, **fields)


SOURCES = (
    _source(
        "python_docs",
        "PSF-2.0",
        builder="python_docs/language_modeling",
        module="tfds_configs.python_docs.python_docs_dataset_builder",
    ),
    _source("tiny_shakespeare", "public domain"),
    _source(
        "lm1b",
        "research use (WMT 2011 news crawl)",
        splits={"train": "train[:99%]", "validation": "train[99%:]", "test": "test"},
    ),
    _source("wiki40b", CC_BY_SA, builder="wiki40b/en", try_gcs=True),
    _source(
        "wikipedia",
        CC_BY_SA,
        builder="wikipedia/20230601.en",
        splits={"train": "train[:98%]", "validation": "train[98%:99%]", "test": "train[99%:]"},
        try_gcs=True,
    ),
    _source("pg19", "public domain in the United States (books before 1919)", text="book_text"),
    _source(
        "c4",
        "ODC-BY 1.0, and the terms of Common Crawl",
        builder="c4/en",
        splits={"train": "train", "validation": "validation", "test": "validation"},
        try_gcs=True,
    ),
    _source(
        "librispeech_lm",
        "public domain",
        splits={"train": "train[:98%]", "validation": "train[98%:99%]", "test": "train[99%:]"},
    ),
    _source(
        "lambada",
        "CC BY 4.0",
        text="passage",
        splits={"train": "train[:95%]", "validation": "train[95%:]", "test": "test"},
    ),
)
