"""Data sets for classification: which field is the text, which the label, whether there are two texts.

A split that a set lacks, or whose labels it keeps to itself (as GLUE's test splits), is cut from the training text, and
the validation text serves as test.
"""

from tfds_configs.sources import TextSource

PYTHON_DOCS = "tfds_configs.python_docs.python_docs_dataset_builder"
HELD_OUT = {"train": "train[:90%]", "validation": "train[90%:]", "test": "test"}
WITHOUT_TEST = {"train": "train[:95%]", "validation": "train[95%:]", "test": "validation"}
RESEARCH = "research use"


def _source(name, licence, text="text", pair=None, *, label="label", splits=None, **fields):
    features = {"text": text, **({"text_pair": pair} if pair else {}), "label": label}
    splits = splits or {split: split for split in ("train", "validation", "test")}
    return TextSource(name=name, features=features, splits=splits, licence=licence, **fields)


def _glue(name, text, pair=None, splits=WITHOUT_TEST):
    return _source(f"glue/{name}", f"{RESEARCH} (GLUE)", text, pair, splits=splits)


SOURCES = (
    _source("python_docs/classification", "PSF-2.0", module=PYTHON_DOCS),
    _source("imdb_reviews", RESEARCH, builder="imdb_reviews/plain_text", splits=HELD_OUT),
    _source("ag_news_subset", RESEARCH, "description", splits=HELD_OUT),
    _source("yelp_polarity_reviews", RESEARCH, splits=HELD_OUT),
    _glue("cola", "sentence"),
    _glue("sst2", "sentence"),
    _glue("mrpc", "sentence1", "sentence2", splits={split: split for split in ("train", "validation", "test")}),
    _glue("qqp", "question1", "question2"),
    _glue("qnli", "question", "sentence"),
    _glue("rte", "sentence1", "sentence2"),
    _glue("wnli", "sentence1", "sentence2"),
    _glue("mnli", "premise", "hypothesis",
          splits={"train": "train", "validation": "validation_matched", "test": "validation_mismatched"}),
    _source("paws_wiki", "Wikipedia, CC BY-SA 3.0", "sentence1", "sentence2",
            builder="paws_wiki/labeled_final_tokenized"),
    _source("snli", "CC BY-SA 4.0", "premise", "hypothesis"),
)  # fmt: skip
