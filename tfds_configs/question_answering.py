"""Data sets for extractive question answering: question, context, the answers and where they start, in characters."""

from tfds_configs.classification import PYTHON_DOCS
from tfds_configs.sources import TextSource

HELD_OUT = {"train": "train[:95%]", "validation": "train[95%:]", "test": "validation"}


def _source(name, licence, *, answers="answers/text", starts="answers/answer_start", splits=None, **fields):
    features = {
        "id": "id", "question": "question", "context": "context", "answers": answers, "answer_starts": starts,
    }  # fmt: skip
    splits = splits or {split: split for split in ("train", "validation", "test")}
    return TextSource(name=name, features=features, splits=splits, licence=licence, **fields)


SOURCES = (
    _source("python_docs/question_answering", "PSF-2.0", answers="answers", starts="answer_starts", module=PYTHON_DOCS),
    _source("squad", "CC BY-SA 4.0", builder="squad/v1.1", splits=HELD_OUT),
    _source("squad_v2", "CC BY-SA 4.0", builder="squad/v2.0", splits=HELD_OUT),
    # XQuAD judges what was learnt elsewhere; it has no training text of its own but translations of SQuAD's.
    _source("xquad", "CC BY-SA 4.0", builder="xquad/de",
            splits={"train": "translate-train[:95%]", "validation": "translate-train[95%:]", "test": "test"}),
)  # fmt: skip
