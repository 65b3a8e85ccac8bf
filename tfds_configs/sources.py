"""What a data set is to the rest of the project: named splits of raw strings."""

import contextlib
import hashlib
import importlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from zoo.config import Refusal

# Data sets up to this size are identified by every byte, larger ones by their description and the sizes of their files.
HASHED_BELOW_BYTES = 2**28
READ_TOGETHER = 64


@dataclass(frozen=True)
class TextSource:
    """One data set, read through TensorFlow Datasets (TFDS), which is imported when it is first read.

    Attributes:
        name: what --dataset takes.
        features: our name of a field -> its name in the TFDS set.
        splits: train, validation, test -> a TFDS split, such as `train[:90%]`. Equal values are the same text.
        licence: of the text, in a few words.
        builder: TFDS name, with its config, such as `wiki40b/en`; empty if it is `name`.
        module: module of ours that defines the builder; empty for those that come with TFDS.
        try_gcs: whether to fetch the set ready-made from TFDS's bucket, where building it takes Apache Beam.
        data_dir: where TFDS keeps it; None means TFDS's own default.
        rows: fields that are lists of strings, of which each is a list of words with blanks between them.
    """

    name: str
    features: Mapping[str, str]
    splits: Mapping[str, str]
    licence: str
    builder: str = ""
    module: str = ""
    try_gcs: bool = False
    data_dir: str | None = None
    rows: tuple[str, ...] = ()

    def texts(self, split):
        """Iterates over the strings of a split, in an order that never changes."""
        for example in self.examples(split):
            if "text" not in example:
                self.check_fields(["text"])
            yield example["text"]

    def pieces(self, split):
        """Iterates over what `texts` does, long strings in pieces: pairs (piece, whether it ends a string)."""
        return ((text, True) for text in self.texts(split))

    def vocabulary_pieces(self):
        """Of the train split what a tokenizer is trained on, as `pieces` has it."""
        return self.pieces("train")

    def num_bytes(self, split):
        """About how many bytes of text a split has, or None when that is not known before it is read."""
        return None

    def examples(self, split):
        """Iterates over the examples of a split: dicts with the names of `features`. Strings are str.

        Raises:
            Refusal: no such split, config or field, or text that is not UTF-8.
            OSError: the set cannot be fetched or written.
        """
        self.check_split(split)
        builder = self._prepared()
        dataset = builder.as_dataset(split=self.splits[split], shuffle_files=False)
        for theirs in self.features.values():
            if not _has(dataset.element_spec, theirs):
                has = ", ".join(dataset.element_spec)
                raise Refusal(f"{self.builder or self.name} has no field {theirs!r}; it has {has}.")
        fields = dataset.map(lambda example: {ours: _at(example, theirs) for ours, theirs in self.features.items()})
        classes = {ours: _class_names(builder.info.features, theirs) for ours, theirs in self.features.items()}
        for batch in fields.ragged_batch(READ_TOGETHER):  # one example at a time costs half a millisecond each
            for row in zip(*map(_listed, batch.values()), strict=True):
                values = {ours: self._as_field(value, classes[ours]) for ours, value in zip(batch, row, strict=True)}
                ordered = {ours: values[ours] for ours in self.features}
                yield {**ordered, **{name: [words.split(" ") for words in values[name]] for name in self.rows}}

    def fields(self):
        """Names of the fields that an example has."""
        return tuple(self.features)

    def check_fields(self, names):
        """Raises Refusal unless an example has each of the fields `names`, as a task reads them (`Task.fields`)."""
        missing = [name for name in names if name not in self.fields()]
        if missing:
            own = "; name yours with field=, source=, target= or columns=" if self.name == "local_text" else ""
            raise Refusal(
                f"{self.name} has no field {' and '.join(map(repr, missing))}; it has {', '.join(self.fields())}{own}."
            )

    def remarks(self):
        """Sentences that the user should read, such as what was left out; complete once the splits have been read."""
        return []

    def whole(self):
        """The same data with nothing held out for validation that was not given for it."""
        return self

    def for_fitting(self):
        """The same data for a model that is fitted in closed form and needs no validation: all of the training text is for
        training, where a test split was given to judge it on."""
        return self

    def with_config(self, config):
        """This set in another config, such as `de` of `wiki40b/de`. Raises Refusal for one that is known to be wrong."""
        base = self.builder.partition("/")[0]
        return replace(self, name=f"{self.name}/{config}", builder=f"{base}/{config}")

    def check_split(self, split):
        """Raises Refusal unless there is such a split."""
        if split not in self.splits:
            raise Refusal(f"{self.name} has no split {split!r}; it has {', '.join(self.splits)}.")

    def fingerprint(self):
        """Identifies the content: equal fingerprints mean equal texts in every split."""
        builder = self._prepared()
        digest = hashlib.sha256(repr((sorted(self.features.items()), sorted(self.splits.items()))).encode())
        files = sorted(Path(builder.data_dir).iterdir())
        small = sum(path.stat().st_size for path in files) < HASHED_BELOW_BYTES
        for path in files:
            digest.update(f"{path.name} {path.stat().st_size} ".encode())
            if small or path.suffix == ".json":
                digest.update(path.read_bytes())
        return f"{builder.info.full_name} {digest.hexdigest()}"

    def _prepared(self):
        """The TFDS builder, with its data in place."""
        name = self.builder or self.name
        builder = self._builder()
        try:
            # What our own builders do takes seconds, and TFDS would call it a download, with a bar.
            with contextlib.redirect_stdout(io.StringIO()) if self.module else contextlib.nullcontext():
                builder.download_and_prepare()
        except Exception as error:
            if self.module and not isinstance(error, OSError):
                raise  # a bug of ours, not the weather
            raise OSError(
                f"TFDS could not prepare {name} in {builder.data_dir} ({type(error).__name__}: {error}). "
                "It takes the network and room on the disk; --dataset=python_docs takes no network, and --data_path "
                "reads your own files."
            ) from error
        return builder

    def _builder(self):
        """The TFDS builder as it is, whether or not its data is there."""
        import tensorflow_datasets as tfds

        name = self.builder or self.name
        if self.module:
            importlib.import_module(self.module)
            tfds.disable_progress_bar()
        try:
            return tfds.builder(name, data_dir=self.data_dir, try_gcs=self.try_gcs)
        except ValueError as error:
            raise Refusal(f"TensorFlow Datasets has no {name!r}: {str(error).splitlines()[0]}") from error

    def _as_field(self, value, classes):
        """A value as Python has it: text as str, a class by its name (None for one that TFDS does not tell), a list."""
        if isinstance(value, list):
            return [self._as_field(item, classes) for item in value]
        if classes is not None:
            return classes[value] if value >= 0 else None
        return self._decoded(value)

    def _decoded(self, value):
        if not isinstance(value, bytes):
            return value
        try:
            return value.decode("utf8")
        except UnicodeDecodeError as error:
            raise Refusal(f"{self.name} has text that is not UTF-8 ({error.reason} at byte {error.start}).") from error


def _listed(column):
    """A batch of a field, a tensor or a ragged one, as nested lists."""
    return column.to_list() if hasattr(column, "to_list") else column.numpy().tolist()


def _has(tree, path):
    """Whether a nested dict has a value at `path`, which has slashes between its keys."""
    first, _, rest = path.partition("/")
    return first in tree and (not rest or (isinstance(tree[first], Mapping) and _has(tree[first], rest)))


def _at(tree, path):
    """The value of a nested dict at `path`."""
    for key in path.split("/"):
        tree = tree[key]
    return tree


def _class_names(features, path):
    """The names of the classes that a feature, or each item of a sequence, is one of; None if it is something else."""
    for key in path.split("/"):
        features = getattr(features, "feature", features)[key]
    return getattr(getattr(features, "feature", features), "names", None)
