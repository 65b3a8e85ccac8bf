"""Training texts with small changes, drawn anew at every step: fewer words, words in another order, synonyms, typing errors.

After EDA (Wei and Zou 2019, section 2), whose insertion of synonyms is left out, and with the character noise of Belinkov and
Bisk (2018, section 4.2). Evaluation and serving never see it. Words are what stands between white space; a Chinese character is
a word.
"""

import math
import re
from dataclasses import dataclass

import numpy as np

from zoo import text_files
from zoo.config import Refusal
from zoo.data.batch import random_stream

PIECE = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|[^\s\u3400-\u9fff\uf900-\ufaff]+|\s+")


@dataclass(frozen=True)
class Augmentation:
    """What is changed, and how much of it.

    Attributes:
        deletion: probability with which a word is left out; one always stays.
        swap: share of the words of a text by which so many pairs of words change places.
        synonym: probability with which a word that has synonyms becomes one of them.
        noise: probability with which a character of a word is left out, doubled, or changes places with the next.
        synonyms: word in lower case -> its synonyms.
    """

    deletion: float = 0.0
    swap: float = 0.0
    synonym: float = 0.0
    noise: float = 0.0
    synonyms: dict | None = None

    def __call__(self, text, random):
        """The changed text.

        Args:
            text: string.
            random: a function from a count to as many numbers in [0, 1).
        """
        pieces = PIECE.findall(text)
        places = [i for i, piece in enumerate(pieces) if not piece.isspace()]
        words = [pieces[i] for i in places]
        if not words:
            return text
        if self.synonym:
            words = self._synonyms(words, random)
        if self.noise:
            words = [self._noisy(word, random) for word in words]
        if self.swap:
            for first, second in (random(2 * math.ceil(self.swap * len(words))) * len(words)).astype(int).reshape(-1, 2):
                words[first], words[second] = words[second], words[first]
        for place, word in zip(places, words, strict=True):
            pieces[place] = word
        if self.deletion:
            self._delete(pieces, places, random)
        return "".join(pieces)

    def _synonyms(self, words, random):
        chances, choices = random(len(words)), random(len(words))
        out = []
        for word, chance, choice in zip(words, chances, choices, strict=True):
            known = self.synonyms.get(word.lower()) if chance < self.synonym else None
            out.append(known[int(choice * len(known))] if known else word)
        return out

    def _noisy(self, word, random):
        chances, kinds = random(len(word)), (random(len(word)) * 3).astype(int)
        out, i = [], 0
        while i < len(word):
            if chances[i] >= self.noise:
                out.append(word[i])
            elif kinds[i] == 1:
                out.append(2 * word[i])
            elif kinds[i] == 2 and i + 1 < len(word):
                out += [word[i + 1], word[i]]
                i += 1
            i += 1
        return "".join(out) or word

    def _delete(self, pieces, places, random):
        """Empties some of the words, and the white space behind each."""
        stays = random(len(places)) >= self.deletion
        stays[int(random(1)[0] * len(places))] |= not stays.any()
        for place, stay in zip(places, stays, strict=True):
            if not stay:
                pieces[place] = ""
                if place + 1 < len(pieces) and pieces[place + 1].isspace():
                    pieces[place + 1] = ""


def read_synonyms(path):
    """Word in lower case -> its synonyms, from a UTF-8 file with a row a word: `word TAB synonym TAB synonym ...`.

    Raises:
        Refusal: there is no such file, or a row is none.
    """
    try:
        lines = list(text_files.lines(str(path)))
    except (OSError, Refusal) as error:
        raise Refusal(
            f"synonym_table={path} cannot be read ({error}); give a UTF-8 file of word TAB synonym TAB ...."
        ) from error
    table = {}
    for number, line in lines:
        word, *synonyms = (cell.strip() for cell in line.split("\t"))
        if not line.strip():
            continue
        if not word or not synonyms or not all(synonyms):
            raise Refusal(f"{path}, line {number}: {line!r:.60} is not a word with its synonyms; write word TAB synonym ...")
        table.setdefault(word.lower(), []).extend(synonyms)
    return table


def uniform(seed, step):
    """A function from a count to as many float64 in [0, 1): a stream of its own for each (seed, step)."""
    # Orders of data are drawn with the key (seed, epoch) and masks with seed + 2^63: a third range keeps these apart.
    bits = random_stream(seed, "augmentation", step)
    return lambda count: (bits.random_raw(count) >> np.uint64(11)) * 2.0**-53
