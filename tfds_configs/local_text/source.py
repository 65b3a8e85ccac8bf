"""The `TextSource` of your own files.

It reads them where they lie. The TFDS builder beside it gives the same documents to programs that want a TFDS set; on
the way to tokens, which are cached themselves, TFDS's copy would only double the space.
"""

import hashlib
import itertools
from dataclasses import dataclass

from tfds_configs.local_text.data_path import DataPath, parse
from tfds_configs.local_text.reader import records
from tfds_configs.sources import TextSource

# Of a source with no validation split, so much from the front is for training and the rest for validation.
TRAIN_SHARE = 0.9
HEAD, TAIL = "train[:90%]", "train[90%:]"


@dataclass(frozen=True)
class LocalTextSource(TextSource):
    """Files as a data set. A split that was not given is cut from the training text by position.

    A single document is cut by characters, several by their number: first 90%, last 10%.
    """

    data_path: DataPath | None = None

    @classmethod
    def from_data_path(cls, text):
        """The source that --data_path describes."""
        data_path = parse(text)
        splits = {split: split for split in data_path.files}
        if "train" in splits and "validation" not in splits:
            splits.update(train=HEAD, validation=TAIL)
        if "validation" in splits:
            splits.setdefault("test", splits["validation"])
        return cls(
            name="local_text",
            task="language_modeling",
            features={"text": data_path.field},
            splits=splits,
            licence="yours",
            builder="local_text",
            data_path=data_path,
        )

    def texts(self, split):
        return (text for text in super().texts(split) if text)

    def examples(self, split):
        """Iterates over the records of a split: dicts with `text`, and the other columns or fields if there are any."""
        self.check_split(split)
        part = self.splits[split]
        empty = True
        for record in self._cut(part) if part in (HEAD, TAIL) else self._records(part):
            empty = False
            yield record
        if empty:
            files = ", ".join(self.data_path.files["train" if part in (HEAD, TAIL) else part])
            raise ValueError(f"The {split} split of local_text holds no text: {files}.")

    def fingerprint(self):
        digest = hashlib.sha256(repr((self.data_path.format, self.data_path.field, self.data_path.columns)).encode())
        digest.update(f"{self.data_path.errors} {TRAIN_SHARE}".encode())
        for split, paths in self.data_path.files.items():
            for path in paths:
                digest.update(f"{split} {self.data_path.format_of(path)} {path.endswith('.gz')} ".encode())
                # of one length each, so that no two lists of files run together into the same bytes
                digest.update(_file_digest(path))
        return f"local_text {digest.hexdigest()}"

    def _records(self, split):
        for path in self.data_path.files[split]:
            yield from records(path, self.data_path)

    def _cut(self, part):
        """The records of one part of the training files."""
        num_documents = sum(1 for _ in self._records("train"))
        if num_documents == 1:
            for record in self._records("train"):
                end = int(len(record["text"]) * TRAIN_SHARE)
                text = record["text"][:end] if part == HEAD else record["text"][end:]
                if text:
                    yield {**record, "text": text}
        else:
            end = int(num_documents * TRAIN_SHARE)
            yield from itertools.islice(self._records("train"), *((end,) if part == HEAD else (end, None)))


def _file_digest(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.digest()
