"""The `TextSource` of your own files.

It reads them where they lie. The TFDS builder beside it gives the same documents to programs that want a TFDS set; on
the way to tokens, which are cached themselves, TFDS's copy would only double the space.
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
import json
import os
from dataclasses import dataclass, field

from tfds_configs.local_text.data_path import SPLITS, DataPath, parse
from tfds_configs.local_text.reader import in_pieces, pieces, records
from tfds_configs.local_text.remarks import Remarks
from tfds_configs.sources import TextSource
from zoo.config import Refusal

# Of a source without a validation split, this share is for training and the rest for validation.
TRAIN_SHARE = 0.9
HEAD, TAIL = "train[:90%]", "train[90%:]"
SPLIT_SEED = 7
# A record that has one of these is a labelled example: it has no place in a text, and a file may be sorted by it.
LABELS = ("label", "tags", "target", "answers")


@dataclass(frozen=True)
class LocalTextSource(TextSource):
    """Files as a data set. A validation split that was not given is cut from the training data.

    A single text is cut by characters, several by their number: first 90%, last 10%. Labelled examples, which files often have
    in the order of their labels, are chosen by a hash of each (of the context, for questions about one).
    """

    data_path: DataPath | None = None
    found: Remarks = field(default_factory=Remarks, compare=False)
    labels: dict = field(default_factory=dict, compare=False)

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
            features={"text": data_path.field or "text"},
            splits={split: splits[split] for split in SPLITS if split in splits},
            licence="yours",
            builder="local_text",
            data_path=data_path,
        )

    def whole(self):
        """The same files with nothing held out; files of no named split are all three splits.

        For evaluation, which reads all that it is given.
        """
        splits = dict.fromkeys(SPLITS, "train")
        if self.data_path.named:
            splits = {split: split for split in SPLITS if split in self.data_path.files}
            if "validation" in splits:
                splits.setdefault("test", "validation")
        return dataclasses.replace(self, splits=splits)

    def for_fitting(self):
        if HEAD not in self.splits.values() or "test" not in self.data_path.files:
            return self
        return dataclasses.replace(self, splits={"train": "train", "validation": "test", "test": "test"})

    def texts(self, split):
        return (text for text in super().texts(split) if text)

    def pieces(self, split):
        self.check_split(split)
        part = self.splits[split]
        if not self._in_pieces(part):
            yield from super().pieces(split)
            return
        empty = True
        for text, ends in self._cut_pieces(part) if part in (HEAD, TAIL) else self._pieces(part):
            empty = False
            yield text, ends
        if empty:
            self._refuse_empty(split)

    def num_bytes(self, split):
        part = self.splits[split]
        files = [path for path, _ in self.data_path.files_of(_files_name(part))]
        if not self._in_pieces(part) or any(path.endswith(".gz") for path in files):
            return None
        share = {HEAD: TRAIN_SHARE, TAIL: 1 - TRAIN_SHARE}.get(part, 1)
        return round(share * sum(map(os.path.getsize, files)))

    def examples(self, split):
        """Iterates over the records of a split: dicts with `text`, or the other columns or fields, or both."""
        self.check_split(split)
        part = self.splits[split]
        labels, empty = collections.Counter(), True
        for record in self._cut(part) if part in (HEAD, TAIL) else self._records(part):
            empty = False
            if isinstance(record.get("label"), str | int | float):
                labels[str(record["label"])] += 1
            yield record
        if empty:
            self._refuse_empty(split)
        self.labels[split] = labels

    def fields(self):
        split = next(iter(self.data_path.files))
        first = next(self._pieces(split) if self._in_pieces(split) else self._records(split), None)
        if first is None:
            raise Refusal(f"The {split} split of local_text holds no text: {', '.join(self.data_path.files[split])}.")
        return ("text",) if self._in_pieces(split) else tuple(first)

    def remarks(self):
        sentences = list(self.found.sentences())
        if HEAD in self.splits.values():
            chosen = (
                "a tenth of the training examples, chosen by a hash of each,"
                if _is_labelled(self.fields())
                else "the last tenth of the training text"
            )
            sentences.insert(
                0,
                f"No validation data was given: {chosen} is held out for it and is not trained on; validation= names your own.",
            )
            if "_held_out" in vars(self) and self._repeated:
                count = f"{self._repeated:,} of the {len(self._held_out):,} examples held out"
                sentences.append(f"{count} also stand in the training data, word for word.")
        sentences += self._same_files() + self._like_classes()
        everywhere = set().union(*self.labels.values())
        for split, labels in self.labels.items():
            missing = sorted(everywhere - set(labels))
            if labels and missing:
                listed = ", ".join(map(repr, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
                sentences.append(f"The {split} split has no example of the class {listed}.")
        return sentences

    def _same_files(self):
        """Sentences about a file that is read twice in training, or in training and where that is judged, by their content."""
        sentences, before = [], {}
        for split in self.data_path.files:
            for files in self.data_path.files_of(split):
                key = tuple(map(_file_digest, filter(None, files)))
                first, path = before.get(key, (None, None))
                if split == "train" and first:
                    same = path if path == files[0] else f"{path} and {files[0]} are equal and"
                    sentences.append(f"{same} stands twice in the training data, and counts twice.")
                elif split != "train" and first and split in self.splits.values():
                    same = path if path == files[0] else f"{files[0]}, equal to {path},"
                    sentences.append(f"{same} is both train and {split}: the scores of {split} are of what was trained on.")
                elif split == "train":
                    before[key] = split, files[0]
        return sentences

    def _like_classes(self):
        """A sentence about classes that are told apart and are spelt alike."""
        alike = collections.defaultdict(set)
        for name in set().union(*self.labels.values()):
            folded = name.casefold()
            alike[{"true": "1", "false": "0"}.get(folded, folded)].add(name)
        found = [" and ".join(map(repr, sorted(names))) for _, names in sorted(alike.items()) if len(names) > 1]
        return [f"The classes {'; '.join(found)} are spelt alike, and are told apart."] if found else []

    def fingerprint(self):
        digest = hashlib.sha256(repr((self.data_path.reading(), TRAIN_SHARE, SPLIT_SEED)).encode())
        for split in self.data_path.files:
            for path, partner in self.data_path.files_of(split):
                for beside, file in enumerate(filter(None, (path, partner))):
                    kind = f"{split} {self.data_path.format_of(file)} {file.endswith('.gz')} {beside} "
                    digest.update(kind.encode())
                    # of one length each, so that no two lists of files run together into the same bytes
                    digest.update(_file_digest(file))
        return f"local_text {digest.hexdigest()}"

    def _records(self, split):
        for path, partner in self.data_path.files_of(split):
            yield from records(path, self.data_path, partner, self.found)

    def _refuse_empty(self, split):
        files = ", ".join(self.data_path.files[_files_name(self.splits[split])])
        raise Refusal(f"The {split} split of local_text holds no text: {files}.")

    def _in_pieces(self, part):
        """Whether every file of a part can be read in pieces."""
        files = self.data_path.files_of(_files_name(part))
        return all(in_pieces(self.data_path, path, partner) for path, partner in files)

    def _pieces(self, split):
        for path, _ in self.data_path.files_of(split):
            yield from pieces(path, self.data_path)

    def _cut_pieces(self, part):
        """`_cut` in pieces, by the same places."""
        num_documents, num_characters = self._extent
        if num_documents == 1:
            yield from _cut_in_two(self._pieces("train"), int(num_characters * TRAIN_SHARE), part)
            return
        number, end = 0, int(num_documents * TRAIN_SHARE)
        for text, ends in self._pieces("train"):
            if part == HEAD and number >= end:
                return
            if (number < end) == (part == HEAD):
                yield text, ends
            number += ends

    @functools.cached_property
    def _extent(self):
        """(number of the training files' documents, characters of the first)."""
        num_documents = num_characters = 0
        for text, ends in self._pieces("train"):
            num_characters += 0 if num_documents else len(text)
            num_documents += ends
        return num_documents, num_characters

    def _cut(self, part):
        """The records of one part of the training files."""
        first, second = (list(itertools.islice(self._records("train"), 2)) + [None, None])[:2]
        if first is None:
            return
        if second is None:
            if set(first) != {"text"}:
                raise Refusal(
                    f"{', '.join(self.data_path.files['train'])} holds a single example, from which none can be held out; give "
                    "more, or name validation data with validation=."
                )
            end = int(len(first["text"]) * TRAIN_SHARE)
            text = first["text"][:end] if part == HEAD else first["text"][end:]
            if text:
                yield {"text": text}
        elif _is_labelled(first):
            held_out = self._held_out
            for number, record in enumerate(self._records("train")):
                if (number in held_out) == (part == TAIL):
                    yield record
        else:
            end = int(self._num_documents * TRAIN_SHARE)
            yield from itertools.islice(self._records("train"), *((end,) if part == HEAD else (end, None)))

    @functools.cached_property
    def _num_documents(self):
        return sum(1 for _ in self._records("train"))

    @functools.cached_property
    def _held_out(self):
        """Numbers of the training examples that are held out, chosen by hash."""
        contents = [_digest(record) for record in self._records("train")]
        groups = collections.defaultdict(list)
        for number, key in enumerate(self._keys(contents)):
            groups[key].append(number)
        wanted, chosen = len(contents) - int(len(contents) * TRAIN_SHARE), set()
        for key in sorted(groups)[:-1]:
            if len(chosen) >= wanted:
                break
            chosen.update(groups[key])
        kept = {content for number, content in enumerate(contents) if number not in chosen}
        vars(self)["_repeated"] = sum(contents[number] in kept for number in chosen)
        return frozenset(chosen)

    def _keys(self, contents):
        """What each training example is chosen by: questions about one context go together; equal examples do not."""
        contexts = [record.get("context") for record in self._records("train")]
        if None not in contexts and len(set(contexts)) > 1:
            return [_digest([SPLIT_SEED, context]) for context in contexts]
        times = collections.Counter()
        keys = []
        for content in contents:
            times[content] += 1
            keys.append(_digest([SPLIT_SEED, content.hex(), times[content]]))
        return keys


def _files_name(part):
    """The name under which a part's files were given."""
    return "train" if part in (HEAD, TAIL) else part


def _cut_in_two(pieces, end, part):
    """The pieces of one text before the character `end`, or from there on."""
    at = 0
    for text, ends in pieces:
        here = max(end - at, 0)
        at += len(text)
        if part == HEAD and here:
            yield text[:here], at >= end
        elif part == TAIL and (ends or text[here:]):
            yield text[here:], ends


def _is_labelled(record):
    return any(name in record for name in LABELS)


def _digest(value):
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=12).digest()


def _file_digest(path):
    status = os.stat(path)
    return _digest_of(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(4096)
def _digest_of(path, *status):  # which tells that the file is the same as before
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.digest()
