"""Data sets for semantic role labelling: words, the places of the predicates, and BIO tags of roles, a list a predicate.

TFDS has none. PropBank and its like are read with `--data_path=...,format=conll`.
"""

from tfds_configs.classification import PYTHON_DOCS
from tfds_configs.sources import TextSource

SOURCES = (
    TextSource(
        name="python_docs/calls", features={name: name for name in ("tokens", "predicates", "tags")}, licence="PSF-2.0",
        splits={split: split for split in ("train", "validation", "test")}, module=PYTHON_DOCS,
        rows=("tags",),
    ),
)  # fmt: skip
