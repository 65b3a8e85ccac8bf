"""How an example is written with a blank where its label's word stands, and which words stand for labels.

    pattern       {text} It was {label}.
    words         0=bad, 1=good

A classifier then asks which word is likeliest in the blank (Schick and Schuetze 2021, arXiv:2001.07676, section 3, who call
the words verbalizers; Du et al. 2022, section 2.3).
"""

import csv
import re

from zoo.config import Refusal

MASK = "[MASK]"  # in a pattern the same as {label}
_SLOT = re.compile(r"\{(\w+)\}")


class Pattern:
    """A text with the fields of an example in braces, and `{label}` once.

        >>> Pattern("{text} It was {label}.").slots
        [('', '', 'text'), (' It was', ' ', 'label'), ('.', '', None)]

    Args:
        text: the pattern. `[MASK]` means the same as `{label}`, and `\\n` a line's end.
        name: what the user calls it, for the error.

    Attributes:
        slots: list of (literal, spaces, field): what stands before a field, spaces at its end apart, as tokenizers have them
            with the word that follows; the last field is None, and its spaces belong to the literal.

    Raises:
        Refusal: `{label}` is not there once.
    """

    def __init__(self, text, name="--pattern"):
        self.text = text.replace("\\n", "\n").replace(MASK, "{label}")
        if self.text.count("{label}") != 1:
            raise Refusal(
                f"{name} must have {{label}} once, where the label's word stands ({MASK} says the same), got {text!r}."
            )
        *pieces, last = _SLOT.split(self.text)
        literals, fields = pieces[::2], pieces[1::2]
        stems = [literal.rstrip(" ") for literal in literals]
        spaces = [literal[len(stem) :] for literal, stem in zip(literals, stems, strict=True)]
        self.slots = [*zip(stems, spaces, fields, strict=True), (last, "", None)]

    @property
    def fields(self):
        """Names of the fields in their order, without `label`."""
        return [field for _, _, field in self.slots if field not in (None, "label")]

    def parts(self, example):
        """What stands before and behind the label's word of an example, a dict. Raises Refusal for a field that it does not
        have."""

        def value(match):
            if match[1] not in example:
                raise Refusal(f"--pattern names the field {match[1]!r}; an example has {', '.join(sorted(example))}.")
            return str(example[match[1]]).strip()

        return tuple(_SLOT.sub(value, part) for part in self.text.split("{label}"))


def items(text, name):
    """The items of a list that is written in one string, separated by commas; one with a comma in it stands in quotes.

    items('a=b, "c, d=e"', "verbalizers") -> ["a=b", "c, d=e"]
    """
    try:
        rows = list(csv.reader([text], strict=True, skipinitialspace=True))
    except csv.Error as error:
        raise Refusal(
            f"{name} cannot be read ({error}): items stand between commas, and one with a comma in quotes, got {text!r}."
        ) from error
    return [item.strip() for row in rows for item in row]


def label_words(labels, given, name="--label_words"):
    """Label -> its word, for the labels of which something is said.

    Args:
        labels: the labels.
        given: list of `label=word`.
        name: what the user calls that list, for the error.

    Raises:
        Refusal: a label that no example has, or one that is there twice.
    """
    words = {}
    for item in given:
        known = [label for label in labels if item.startswith(f"{label}=") and len(item) > len(label) + 1]
        if not known:
            raise Refusal(f"{name} has {item!r}; each is label=word, with a label among {', '.join(map(repr, labels))}.")
        label = max(known, key=len)
        if label in words:
            raise Refusal(f"{name} has two words for the label {label!r}; give it one.")
        words[label] = item[len(label) + 1 :]
    return words


def require_distinct(words, name="--label_words"):
    """Raises Refusal where two labels of a dict, label -> word, have one word."""
    for word in words.values():
        if list(words.values()).count(word) > 1:
            raise Refusal(f"Two labels have one word in {name}, {word!r}; they could not be told apart.")


def parted(before, word):
    """A context and a word: a space between them belongs to the word, as tokenizers have it."""
    stem = before.rstrip(" ")
    return stem, before[len(stem) :] + word


def following(tokenizer, context, text):
    """Ids of a text behind another one, as they are when both are one text: a list."""
    begun, whole = list(tokenizer.encode(context)), list(tokenizer.encode(context + text))
    return whole[len(begun) :] if whole[: len(begun)] == begun else list(tokenizer.encode(text))


def encoded(tokenizer, context, word):
    """Ids of a context and of the word behind it, two lists. Raises Refusal for a word without a token."""
    ids = following(tokenizer, context, word)
    if not ids:
        raise Refusal(f"{word!r} has no token; give each label a word.")
    return list(tokenizer.encode(context)), ids
