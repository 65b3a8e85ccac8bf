"""Which text: raw strings, never tokens.

    names()                               every data set that --dataset takes, nothing imported
    source = get("python_docs")           or get("local_text", data_path="notes/*.txt")
    for text in source.texts("train"): ...

TensorFlow Datasets is imported when a source is first read, so listing and refusing a wrong name cost nothing.
"""

import difflib
import functools
import hashlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True)
class TextSource:
    """One data set for one task, read through TensorFlow Datasets (TFDS).

    Attributes:
        name: what --dataset takes.
        task: the task that it is for, such as `language_modeling`.
        features: our name of a field -> its name in the TFDS set; `a/b` is field b of field a.
        splits: train, validation, test -> a TFDS split, such as `train[:90%]`.
        licence: of the text, in a few words.
        builder: TFDS name, with its config, such as `wiki40b/en`; by default `name`.
        module: module of ours that defines the builder; empty for those that come with TFDS.
        try_gcs: whether to fetch the set ready-made from TFDS's bucket, where building it takes Apache Beam.
        data_dir: where TFDS keeps it; None means TFDS's own default.
    """

    name: str
    task: str
    features: Mapping[str, str] = field(default_factory=lambda: {"text": "text"})
    splits: Mapping[str, str] = field(default_factory=lambda: {s: s for s in ("train", "validation", "test")})
    licence: str = "unknown"
    builder: str = ""
    module: str = ""
    try_gcs: bool = False
    data_dir: str | None = None

    def texts(self, split):
        """Iterates over the strings of a split, in an order that never changes."""
        for example in self.examples(split):
            yield example["text"]

    def examples(self, split):
        """Iterates over the examples of a split: dicts with the names of `features`. Strings are str."""
        self.check_split(split)
        import tensorflow_datasets as tfds

        dataset = self._prepared().as_dataset(split=self.splits[split], shuffle_files=False)
        for example in tfds.as_numpy(dataset):
            yield {ours: _field(example, theirs) for ours, theirs in self.features.items()}

    def check_split(self, split):
        """Raises ValueError unless there is such a split."""
        if split not in self.splits:
            raise ValueError(f"{self.name} has no split {split!r}; it has {', '.join(self.splits)}.")

    def fingerprint(self):
        """Identifies the content: equal fingerprints mean equal texts in every split."""
        builder = self._prepared()
        digest = hashlib.sha256(repr((sorted(self.features.items()), sorted(self.splits.items()))).encode())
        for path in sorted(Path(builder.data_dir).iterdir()):
            digest.update(f"{path.name} {path.stat().st_size}".encode())
            if path.stat().st_size < 2**26:  # of larger ones the size, and the version in the name, must do
                digest.update(path.read_bytes())
        return f"{builder.info.full_name} {digest.hexdigest()}"

    def _prepared(self):
        return _prepared(self.builder or self.name, self.module, self.data_dir, self.try_gcs)


@functools.cache
def _prepared(name, module, data_dir, try_gcs):
    """The TFDS builder, its data downloaded and prepared."""
    import tensorflow_datasets as tfds

    if module:
        importlib.import_module(module)
    tfds.disable_progress_bar()
    builder = tfds.builder(name, data_dir=data_dir, try_gcs=try_gcs)
    builder.download_and_prepare()
    return builder


def _field(example, path):
    for name in path.split("/"):
        example = example[name]
    return example.decode("utf8") if isinstance(example, bytes) else example


PYTHON_DOCS = TextSource(
    name="python_docs",
    task="language_modeling",
    licence="PSF-2.0",
    builder="python_docs/language_modeling",
    module="tfds_configs.python_docs.python_docs_dataset_builder",
)


def _table():
    return {source.name: source for source in (PYTHON_DOCS,)}


def names():
    """Sorted names of every data set."""
    return sorted([*_table(), "local_text"])


def get(name, data_path=None, data_dir=None):
    """The `TextSource` called `name`.

    Args:
        name: one of `names()`.
        data_path: your files, for `local_text` and for nothing else; `tfds_configs/local_text/data_path.py` tells how.
        data_dir: where TFDS keeps its data sets, or None for its own default.

    Raises:
        ValueError: no such name; `data_path` where none belongs, or none where one does; files that cannot be read.
    """
    check(name, data_path)
    if name == "local_text":
        from tfds_configs.local_text.source import LocalTextSource

        return LocalTextSource.from_data_path(data_path)
    return replace(_table()[name], data_dir=data_dir)


def check(name, data_path=None):
    """Raises ValueError for what `get` would refuse. Reads no text."""
    if name not in names():
        close = difflib.get_close_matches(str(name), names(), n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names())}."
        raise ValueError(f"No dataset is called {name!r}; {hint}")
    if name == "local_text":
        if not data_path:
            raise ValueError("local_text reads your own files: say which with data_path, such as --data_path=notes.txt.")
        from tfds_configs.local_text.data_path import parse

        parse(data_path)
    elif data_path:
        raise ValueError(f"data_path is for the dataset local_text; {name} does not read {data_path!r}.")
