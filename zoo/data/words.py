"""Sentences of words as rows of ids, in which the first token of each word answers for it; in graph: `zoo/signatures/words.py`.

Shape letters: B batch, T positions, W words, L characters of a word.
"""

import functools
import unicodedata
from typing import NamedTuple

import numpy as np

from zoo.config import Refusal

MOST_CHARACTERS = 24  # L: a longer word keeps its front
WHITE_SPACE = r"[\t-\r\p{Z}]"  # one character of it, as RE2 has it


class WordRow(NamedTuple):
    """Words of a sentence as one row.

    Attributes:
        ids: token ids with the frame around them, int32 (T,).
        places: where each word's tokens begin, int32 (W,).
        end: where the tokens of the last word end.
        first: the number of the row's first word in its sentence.
        words: the words themselves, W strings.
    """

    ids: np.ndarray
    places: np.ndarray
    end: int
    first: int
    words: tuple


def word_rows(words, tokenizer, frame, limit):
    """A list of `WordRow`: the words of a sentence, in several rows if they do not fit into one.

    A word that leaves no token, such as one of control characters, is `blank_id`. A word with more tokens than a row has room
    for loses its end.

    Args:
        words: list of str, at least one.
        tokenizer: a `Tokenizer`.
        frame: a `Frame` of one text.
        limit: the most tokens of a row.

    Raises:
        Refusal: `limit` leaves no room for a word.
    """
    room = limit - frame.num_special()
    if room < 1:
        raise Refusal(f"seq_length {limit} leaves no room for a word; it must be above {frame.num_special()}.")
    pieces = tokenizer.encode_batch([word if i == 0 else f" {word}" for i, word in enumerate(words)])
    pieces = [list(some[:room]) or [blank_id(tokenizer)] for some in pieces]
    rows = []
    for start, end in _spans(list(map(len, pieces)), room):
        ids = [*frame.before, *(i for some in pieces[start:end] for i in some), *frame.after]
        places = np.cumsum([len(frame.before), *map(len, pieces[start : end - 1])])
        end_place = len(ids) - len(frame.after)
        rows.append(WordRow(np.array(ids, np.int32), places.astype(np.int32), end_place, start, tuple(words[start:end])))
    return rows


def characters_of(word):
    """The characters of a word but white space, a list; in graph: `zoo.signatures.words.characters_in_graph`."""
    return [character for character in word if not ("\t" <= character <= "\r" or unicodedata.category(character)[0] == "Z")]


def spelling_options(config):
    """How a word tokenizer is trained, a dict: what a task's config asks by `lowercase` and `zero_digits`."""
    return {name: True for name in ("lowercase", "zero_digits") if getattr(config, name)}


def characters_for(model, words, places, width):
    """What a batch has besides for a model that takes characters: `{"characters": ...}` as of `characters_at`; else {}."""
    return {"characters": characters_at(words, places, width)} if "characters" in model.takes else {}


def characters_at(words, places, width):
    """The characters of words where these begin, as `zoo/data/batch.py` has them: int32 (B, T, L).

    Args:
        words: for each row its words, strings.
        places: for each row where the tokens of its words begin, int (W,).
        width: T.
    """
    out = np.zeros((len(words), width, MOST_CHARACTERS), np.int32)
    for row, (some, at) in enumerate(zip(words, places, strict=True)):
        for word, place in zip(some, at, strict=True):
            out[row, place] = code_points(word)
    return out


@functools.lru_cache(1 << 16)
def code_points(word):
    """int32 (L,): the code points of a word's first characters, filled up with 0."""
    out = np.zeros(MOST_CHARACTERS, np.int32)
    front = word[:MOST_CHARACTERS]
    out[: len(front)] = [ord(character) for character in front]
    return out


def blank_id(tokenizer):
    """What stands for a word that leaves no token."""
    return tokenizer.eos_id if tokenizer.unk_id is None else tokenizer.unk_id


def _spans(lengths, room):
    """(first word, end) of rows of at most `room` tokens."""
    start = used = 0
    for i, length in enumerate(lengths):
        if used + length > room:
            yield start, i
            start, used = i, 0
        used += length
    yield start, len(lengths)
