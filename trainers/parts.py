"""A text in parts that many processes encode side by side, with Apache Beam, and the token shards that come of them.

    make_shards(source, "train", tokenizer, "cache/x/tokenizer", "cache/x/train", Beam("DirectRunner", []))

The shards are those of `trainers.prepare`, byte for byte. First every part is surveyed: a large file is divided where the
tokenizer may cut it, and what is held out is cut at the same character or document. Then every part is encoded into a file of
its own, and last they are put together in their order. What a part has left on disk is not made again: a run that was killed
goes on. Processes share the directory, so on several machines it is on a file system that all of them see.
"""

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tfds_configs.local_text.reader import in_pieces, pieces
from tfds_configs.local_text.source import HEAD, TAIL, TRAIN_SHARE, LocalTextSource
from trainers.prepare import CHUNK_CHARACTERS, encoded
from zoo.config import Refusal
from zoo.data.shards import write_shards
from zoo.files import replace_file
from zoo.text_files import decoded

RANGE_BYTES = 2**22
WORTH_KEEPING = 16  # ranges of a file
SUBSPLITS = 64  # of a set that TFDS reads
BLOCK_TOKENS = 2**20


@dataclass(frozen=True)
class Beam:
    """How a pipeline runs: the name of a runner, and options for it such as `--direct_num_workers=2`."""

    runner: str
    options: tuple[str, ...] = ()

    def run(self, function, items):
        """Calls `function(number, item)` for each item, in any order and on any worker. Raises what one of them raises."""
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions

        options = PipelineOptions([f"--runner={self.runner}", *self.options])
        with apache_beam.Pipeline(options=options) as pipeline:
            numbered = pipeline | apache_beam.Create(list(enumerate(items))) | apache_beam.Reshuffle()
            _ = numbered | apache_beam.MapTuple(function)


@dataclass(frozen=True)
class Here:
    """Runs parts in this process, one after the other. `report` is called with the bytes of text that are done."""

    report: Callable[[int], None]

    def run(self, function, items):
        done = 0
        for number, item in enumerate(items):
            function(number, item)
            if isinstance(item, Part) and item.stop is not None:
                done += item.stop - item.start
                self.report(done)


@dataclass(frozen=True)
class Part:
    """What one call encodes.

    Attributes:
        path: a file; or None for a part of a TFDS split, which `first` and `last` say: number `first` of `last` equal ones.
        start, stop: bytes of a file that is divided, whose document this part is in; `stop` is None for a file read whole.
        first, last: the characters of the text that belong to it, or the documents of a file that has several.
        by_documents: which of both.
        ends: whether the document ends with it.
    """

    path: str | None
    start: int = 0
    stop: int | None = None
    first: int = 0
    last: int | None = None
    by_documents: bool = False
    ends: bool = True


def is_divided(source, split, tokenizer):
    """Whether a split has a file so large that who is interrupted in it would rather not begin it again."""
    if not isinstance(source, LocalTextSource):
        return False
    name = source.splits[split]
    files = source.data_path.files_of("train" if name in (HEAD, TAIL) else name)
    if not all(in_pieces(source.data_path, path, partner) for path, partner in files):
        return False
    return any(len(_ranges(path, source.data_path, tokenizer)) >= WORTH_KEEPING for path, _ in files)


def make_shards(source, split, tokenizer, tokenizer_directory, directory, beam):
    """Writes the tokens of a split into `directory`, which must not be there.

    Args:
        source: a `tfds_configs.TextSource`.
        split: its name.
        tokenizer: a `Tokenizer`, saved in `tokenizer_directory`.
        directory: as for `zoo.data.shards.write_shards`.
        beam: a `Beam`, or `Here`.

    Raises:
        Refusal: text that cannot be read, or that has not one token.
    """
    directory = Path(directory)
    work = directory.with_name(f".{directory.name}.parts-{RANGE_BYTES}")
    work.mkdir(parents=True, exist_ok=True)
    parts = _parts(source, split, tokenizer, work, beam)
    # What was made of another division, or of another version of it, is not taken for these parts.
    made = work / hashlib.sha256(json.dumps([asdict(part) for part in parts]).encode()).hexdigest()[:16]
    made.mkdir(exist_ok=True)
    encode = functools.partial(
        encode_part,
        source=source,
        split=split,
        directory=str(made),
        # Other processes read it themselves. A second one here would take as much memory again.
        tokenizer=tokenizer if isinstance(beam, Here) else str(tokenizer_directory),
    )
    beam.run(encode, parts)
    meta = {"num_bytes": 0, "lost_bytes": 0, "source": source.name, "split": split, "licence": source.licence}
    ids = _put_together(parts, made, tokenizer, meta, f"{source.name}'s {split} split")
    write_shards(directory, ids, vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id, meta=meta, ended=True)
    shutil.rmtree(work)


def _parts(source, split, tokenizer, work, beam):
    if not isinstance(source, LocalTextSource):
        source.fingerprint()  # makes the set where it is not there yet
        return [Part(None, first=number, last=SUBSPLITS) for number in range(SUBSPLITS)]
    name = source.splits[split]
    part = name if name in (HEAD, TAIL) else None
    files = source.data_path.files_of("train" if part else name)
    if not all(in_pieces(source.data_path, path, partner) for path, partner in files):
        raise Refusal("Only files of plain text or of a document a line are prepared by a runner; leave out --runner.")
    ranges = [piece for path, _ in files for piece in _ranges(path, source.data_path, tokenizer)]
    place = work / f"survey-{hashlib.sha256(json.dumps(ranges).encode()).hexdigest()[:16]}"
    place.mkdir(exist_ok=True)
    survey = functools.partial(survey_range, data_path=source.data_path, cut=tokenizer.cut, directory=str(place))
    beam.run(survey, ranges)
    found = [json.loads((place / f"{number:06}.json").read_text()) for number in range(len(ranges))]
    return _cut(_files(ranges, found, tokenizer.line_documents), part)


def _ranges(path, data_path, tokenizer):
    """[path, first byte, byte behind the last, or None for a file that is read whole] of each part of a file."""
    size = os.path.getsize(path)
    whole = path.endswith(".gz") or data_path.format_of(path) != "text" or data_path.errors != "strict" or tokenizer.cut is None
    if whole or size <= RANGE_BYTES:
        return [[path, 0, None]]
    return [[path, start, min(start + RANGE_BYTES, size)] for start in range(0, size, RANGE_BYTES)]


def survey_range(number, piece, *, data_path, cut, directory):
    """Writes what must be known of a range before the text is cut: a JSON object.

    `documents` and `characters` that it has; of a range that begins inside a text also the byte `at` which the text may be cut,
    how many characters stand `before` it, and whether there is a line feed; `at` is None where there is no such place.
    """
    path, start, stop = piece
    place = Path(directory) / f"{number:06}.json"
    if place.exists():
        return
    if stop is None:
        documents = characters = 0
        for text, ends in pieces(path, data_path):
            characters += len(text)
            documents += ends
        found = {"documents": documents, "characters": characters}
    else:
        with open(path, "rb") as file:
            file.seek(start)
            data = file.read(stop - start + 4)
            size = stop - start
        lead = _whole_characters(data)
        trail = size + _whole_characters(data[size:])
        text = decoded(data[lead:trail], path, start + lead, "strict")
        match = cut.search(text, 1) if start else None
        found = {"characters": len(text), "at": 0, "before": 0, "line_feed": False}
        if start:
            at = None if match is None else start + lead + len(text[: match.start()].encode())
            before = None if match is None else match.start()
            found |= {"at": at, "before": before, "line_feed": bool(match) and text[before] == "\n"}
    replace_file(place, lambda aside: aside.write_text(json.dumps(found)))


def _whole_characters(data):
    """How many bytes at the front belong to a character that begins before."""
    return next((i for i, byte in enumerate(data[:4]) if byte & 0xC0 != 0x80), 0)


def _files(ranges, found, line_documents):
    """For each file (documents, characters, its parts as if nothing were held out)."""
    files = []
    for (path, start, stop), survey in zip(ranges, found, strict=True):
        if stop is None:
            files.append([survey["documents"], survey["characters"], [Part(path)]])
        elif not start:
            files.append([1, 0, []])
        documents, characters, parts = files[-1]
        if stop is None:
            continue
        if survey["at"] is not None:  # else it stays with the part before
            here = characters + survey["before"]
            if parts:
                ends = line_documents and survey["line_feed"]
                parts[-1] = Part(**{**asdict(parts[-1]), "stop": survey["at"], "last": here, "ends": ends})
            parts.append(Part(path, survey["at"], first=here))
        files[-1][1] = characters = characters + survey["characters"]
        parts[-1] = Part(**{**asdict(parts[-1]), "stop": stop, "last": characters})
    return files


def _cut(files, part):
    """The parts of what is trained on, of what is held out, or, if `part` is None, of all."""
    num_documents = sum(documents for documents, _, _ in files)
    if num_documents == 1:
        characters, parts = next((characters, parts) for documents, characters, parts in files if documents)
        end = int(characters * TRAIN_SHARE)
        low, high = {HEAD: (0, end), TAIL: (end, characters)}.get(part, (0, characters))
        return _between(parts, low, high)
    end = int(num_documents * TRAIN_SHARE)
    low, high = {HEAD: (0, end), TAIL: (end, num_documents)}.get(part, (0, num_documents))
    chosen, number = [], 0
    for documents, characters, parts in files:
        first, last = max(low - number, 0), min(high - number, documents)
        if first < last:
            whole = Part(parts[0].path, first=first, last=last, by_documents=True)
            chosen += [whole] if parts[0].stop is None else _between(parts, 0, characters)
        number += documents
    return chosen


def _between(parts, low, high):
    """The characters from `low` to `high` of a text."""
    if parts[0].stop is None:
        return [Part(parts[0].path, first=low, last=high)] if low < high else []
    chosen = []
    for part in parts:
        first, last = max(low, part.first), min(high, part.last)
        if first < last:
            ends = part.ends if last < high else True
            skipped = {"first": first - part.first, "last": last - part.first}
            chosen.append(Part(**{**asdict(part), **skipped, "ends": ends}))
    return chosen


@functools.lru_cache(1)
def _tokenizer(directory):
    from zoo.tokenizers import base

    return base.load(directory)


def encode_part(number, part, *, source, split, tokenizer, directory):
    """Writes the ids of a `Part`, uint32, and beside them how many bytes of text they stand for.

    `tokenizer` may be the directory where it is saved.
    """
    place = Path(directory) / f"{number:06}.json"
    if place.exists():
        return
    tokenizer = _tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
    meta = {"num_bytes": 0, "lost_bytes": 0}
    if part.stop is None:
        ids = encoded(_documents(part, source, split), tokenizer, meta)
    else:
        ids = _ids_of_range(_text(part), tokenizer, meta)

    def write(aside):
        with open(aside, "wb") as file:
            for array in ids:
                file.write(np.asarray(array, "<u4").tobytes())

    replace_file(place.with_suffix(".ids"), write)
    replace_file(place, lambda aside: aside.write_text(json.dumps(meta)))


def _ids_of_range(text, tokenizer, meta):
    """Yields the ids of a text that may go on with a document, and be gone on with; counts bytes into `meta`."""
    meta["num_bytes"] = len(text.encode())
    start = 0
    while start < len(text):
        match = tokenizer.cut.search(text, start + CHUNK_CHARACTERS)
        end = match.start() if match else len(text)
        (ids,) = tokenizer.encode_batch([text[start:end]])
        if tokenizer.unk_id is not None and (ids == tokenizer.unk_id).any():
            meta["lost_bytes"] += tokenizer.lost_bytes(text[start:end])
        yield ids
        if match and tokenizer.line_documents and text[end] == "\n":  # it stands behind a word, so the line is not empty
            yield np.array([tokenizer.eos_id])
        start = end


def _text(part):
    with open(part.path, "rb") as file:
        file.seek(part.start)
        data = file.read(part.stop - part.start)
    return decoded(data, part.path, part.start, "strict")[part.first : part.last]


def _documents(part, source, split):
    """Yields (piece, whether it ends a document) of a file, or of a part of a TFDS split."""
    if part.path is None:
        import tensorflow_datasets as tfds

        subsplit = tfds.even_splits(source.splits[split], part.last)[part.first]
        source.splits["of a part"] = subsplit
        yield from source.pieces("of a part")
        return
    number = at = 0
    for text, ends in pieces(part.path, source.data_path):
        if part.by_documents:
            if part.first <= number < part.last:
                yield text, ends
        elif part.last is None:
            yield text, ends
        else:
            inside, ends = text[max(part.first - at, 0) : part.last - at], ends or part.last <= at + len(text)
            if inside:
                yield inside, ends
            if ends:
                return
        number, at = number + ends, at + len(text)


def _put_together(parts, directory, tokenizer, meta, where):
    """Yields the ids of all parts with what stands around documents, and adds up `meta`."""
    empty, begun, eos = True, False, np.array([tokenizer.eos_id])
    for number, part in enumerate(parts):
        place = directory / f"{number:06}"
        for name, count in json.loads(place.with_suffix(".json").read_text()).items():
            meta[name] += count
        ids = np.memmap(place.with_suffix(".ids"), "<u4", mode="r") if place.with_suffix(".ids").stat().st_size else ()
        if len(ids):
            empty = False
            if part.stop is not None and not begun and tokenizer.bos_id is not None:
                yield np.array([tokenizer.bos_id])
            for start in range(0, len(ids), BLOCK_TOKENS):
                yield np.array(ids[start : start + BLOCK_TOKENS], np.int64)
            begun = part.stop is not None
        if part.stop is not None and part.ends and begun:
            yield eos
            begun = False
    if empty:
        raise Refusal(f"{where} holds no text: not one token comes of it.")
