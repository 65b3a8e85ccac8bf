"""Questions about words that judge word vectors: how similar two words are, and what is to one word as a second is to a third.

Similarity files have a pair a line, two words and a judgement, such as WordSim-353 and SimLex-999 as they are published: tabs,
commas or blanks separate them, a first line may name the columns, and the judgement is the first column of numbers. Analogy
files have four words a line, the fourth being the answer, under lines `: section`, such as Google's questions-words.txt.

Shape letters: B batch, V vocabulary.
"""

import math

import numpy as np

from zoo import text_files
from zoo.config import Refusal

# A few pairs from Python's documentation, judged by hand, for runs that name no file. They show that judging works, no more.
SIMILAR_WORDS = (
    ("list", "tuple", 8), ("list", "sequence", 7), ("string", "str", 8), ("int", "float", 7), ("file", "directory", 6),
    ("socket", "connection", 7), ("thread", "process", 7), ("error", "exception", 9), ("true", "false", 6),
    ("first", "last", 6), ("read", "write", 7), ("key", "value", 7), ("class", "method", 5), ("encoding", "bytes", 5),
    ("list", "thread", 1), ("string", "socket", 1), ("error", "sequence", 1), ("file", "float", 1), ("true", "directory", 0),
    ("write", "class", 1), ("key", "process", 1), ("tuple", "connection", 0), ("last", "exception", 1), ("read", "int", 1),
)  # fmt: skip
ANALOGIES = (
    ("plural", "file", "files", "object", "objects"), ("plural", "value", "values", "argument", "arguments"),
    ("plural", "name", "names", "key", "keys"), ("plural", "line", "lines", "character", "characters"),
    ("verb", "return", "returns", "read", "reads"), ("verb", "return", "returned", "call", "called"),
    ("verb", "use", "used", "call", "called"), ("verb", "write", "writing", "read", "reading"),
)  # fmt: skip


def read_similarity(path):
    """The pairs of a similarity file: list of (word, word, judgement). Lines that begin with `#` are left out.

    Raises:
        Refusal: the file cannot be read, or a line is not two words and a number.
    """
    pairs, separator, column, begun = [], None, None, False
    for number, line in _lines(path):
        if not begun:
            separator = next((mark for mark in "\t," if line.count(mark) >= 2), None)
        parts = [part.strip() for part in line.split(separator)]
        if column is None:
            column = next((i for i, part in enumerate(parts) if i >= 2 and _number(part) is not None), None)
        judgement = _number(parts[column]) if column is not None and column < len(parts) else None
        if judgement is None and not begun and len(parts) >= 3:
            begun = True
            continue  # names of the columns
        if judgement is None:
            raise Refusal(
                f"{path}, line {number}: a line is `word TAB word TAB number`, or the same with commas or blanks, got {line!r}."
            )
        begun = True
        pairs.append((parts[0], parts[1], judgement))
    return _some(pairs, path, "pair")


def read_analogies(path):
    """The questions of an analogy file: list of (section, a, b, c, answer): a is to b as c is to the answer.

    Raises:
        Refusal: the file cannot be read, or a line is not four words.
    """
    section, questions = "", []
    for number, line in _lines(path):
        if line.startswith(":"):
            section = line[1:].strip()
            continue
        words = line.split()
        if len(words) != 4:
            raise Refusal(f"{path}, line {number}: a question has four words, got {len(words)}: {line!r}.")
        questions.append((section, *words))
    return _some(questions, path, "question")


def is_semantic(section):
    """Whether a section of Google's analogies is about meaning. All other sections count as grammar."""
    return section in ("capital-common-countries", "capital-world", "currency", "city-in-state", "family")


class Lookup:
    """Words -> ids, or -1 for those that a vocabulary does not have as one token.

    A word that is not there as it is written is looked for without regard to case; of several the most frequent counts.

    Args:
        tokenizer: a `Tokenizer`.
        counts: (V,), how often each id stands in the training text; ids of count 0 are not words.
    """

    def __init__(self, tokenizer, counts):
        self._tokenizer, self._counts, self._folded = tokenizer, np.asarray(counts), None
        self._found = {}  # Google's 19,544 questions have 905 words

    def __call__(self, word):
        if word not in self._found:
            self._found[word] = self._id_of(word)
        return self._found[word]

    def _id_of(self, word):
        ids = self._tokenizer.encode(word)
        if len(ids) == 1 and self._counts[ids[0]] > 0:
            return int(ids[0])
        return self._by_case().get(word.casefold(), -1)

    def _by_case(self):
        if self._folded is None:
            self._folded, order = {}, np.argsort(-self._counts, kind="stable")
            for i in order[: np.count_nonzero(self._counts)].tolist():
                self._folded.setdefault(self._tokenizer.decode([i]).casefold(), i)
        return self._folded


def least_count(counts, most):
    """The count that the `most` most frequent words have at least."""
    counts = np.sort(np.asarray(counts))[::-1]
    return max(float(counts[min(most, len(counts)) - 1]), 1.0)


def _lines(path):
    """(number, line) of the lines of a text file that say something."""
    try:
        for number, line in text_files.lines(str(path)):
            if line.strip() and not line.startswith("#"):
                yield number, line
    except OSError as error:
        raise Refusal(f"{path} cannot be read: {error.strerror}.") from error


def _number(text):
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _some(found, path, what):
    if not found:
        raise Refusal(f"{path} has no {what} in it.")
    return found
