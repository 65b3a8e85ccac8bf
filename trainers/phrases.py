"""A text with its phrases joined, new_york for new york: python -m trainers.phrases --from=notes.txt --to=joined.txt"""

import gzip
import os
import tempfile
from pathlib import Path

import numpy as np
from absl import flags

from trainers import flags as trainer_flags
from trainers import program
from zoo import text_files
from zoo.config import Refusal

FLAGS = flags.FLAGS

CHUNK_CHARACTERS = 2**22  # of text that are read at a time
SHOWN = 8  # phrases that are told


def main():
    source, target = FLAGS["from"].value, FLAGS["to"].value
    if not source or not target:
        raise Refusal("--from and --to are needed: the text to read, and the file to write.")
    if os.path.realpath(source) == os.path.realpath(target):
        raise Refusal(f"--to={target} is the text itself; name another file.")
    with program.quiet():
        import tensorflow  # noqa: F401
    found = join_file(
        source, target, passes=FLAGS.passes, min_count=FLAGS.min_count, threshold=FLAGS.threshold, lowercase=FLAGS.lowercase,
        punctuation=FLAGS.punctuation,
    )  # fmt: skip
    best = ", ".join(f"{phrase} ({score:,.0f})" for phrase, score in found[:SHOWN])
    print(f"{target}: {len(found):,} phrases{f', such as {best}' if best else ''}")


def join_file(source, target, *, passes=1, min_count=5, threshold=100.0, lowercase=False, punctuation=True):
    """Writes a text whose phrases are single words, a sentence a line. See `zoo.data.phrases` for their score.

    A second pass joins what the first has made, so that phrases have up to four words, a third up to eight. Memory: every
    distinct word once; the text itself streams through files beside `target`.

    Args:
        source: the path of the text, a sentence a line; a name that ends in `.gz` is decompressed.
        target: the path to write, gzipped if its name ends in `.gz`; an older file is replaced.
        passes: how often phrases are looked for.
        min_count, threshold: as for `find_phrases`.
        lowercase, punctuation: as for `WordTokenizer`.

    Returns:
        List of (phrase, score), the best of the first pass first.

    Raises:
        Refusal: the text has no words, or cannot be read.
    """
    from zoo.data.pairs import count_words
    from zoo.data.phrases import find_phrases, join_phrases
    from zoo.files import replace_file
    from zoo.tokenizers.word import WordTokenizer

    tokenizer = WordTokenizer.train(_chunks(source), lowercase=lowercase, punctuation=punctuation)
    words, found = list(tokenizer.vocabulary), []
    Path(target).absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=Path(target).absolute().parent, prefix=".phrases-") as directory:
        encoded = (np.append(tokenizer.encode_batch([chunk])[0], tokenizer.eos_id) for chunk in _chunks(source))
        stream = _stored(encoded, Path(directory) / "0")
        for number in range(1, passes + 1):
            counts = count_words(stream, len(words), min_count=min_count, special_ids=tokenizer.special_ids)
            phrases, scores = find_phrases(stream, counts, min_count=min_count, threshold=threshold)
            stream = _stored(join_phrases(stream, phrases, len(words)), Path(directory) / str(number))
            named = [f"{words[first]}_{words[second]}" for first, second in phrases.tolist()]
            words += named
            found += zip(named, scores.tolist(), strict=True)
        opener = gzip.open if str(target).endswith(".gz") else open
        replace_file(target, lambda path: _write(stream, np.array(words, object), tokenizer.eos_id, opener, path))
    return found


def _chunks(path):
    """Some lines of a file at a time, as one string."""
    waiting, length = [], 0
    for _, line in text_files.lines(str(path)):
        waiting.append(line)
        length += len(line)
        if length >= CHUNK_CHARACTERS:
            yield "\n".join(waiting)
            waiting, length = [], 0
    yield "\n".join(waiting)


def _stored(parts, path):
    """Arrays of ids one after the other in a file, as an array that reads it."""
    with open(path, "wb") as file:
        for part in parts:
            file.write(np.asarray(part, np.int32).tobytes())
    return np.memmap(path, np.int32, mode="r")


def _write(stream, words, eos_id, opener, path):
    with opener(path, "wt", encoding="utf8", newline="\n") as file:
        begins = True
        for start in range(0, len(stream), CHUNK_CHARACTERS):
            for line_number, line in enumerate(_lines(stream[start : start + CHUNK_CHARACTERS], eos_id)):
                if line_number and not begins:
                    file.write("\n")
                    begins = True
                if len(line):
                    file.write(("" if begins else " ") + " ".join(words[line]))
                    begins = False
        file.write("" if begins else "\n")


def _lines(ids, eos_id):
    """Arrays between the ends of sentences; the first goes on from what was before, the last goes on behind."""
    ends = np.flatnonzero(ids == eos_id)
    return [ids[first:end] for first, end in zip([0, *(ends + 1)], [*ends, len(ids)], strict=True)]


def start():
    """The program, with its flags."""
    trainer_flags.define_phrases()
    program.start(main)


if __name__ == "__main__":
    start()
