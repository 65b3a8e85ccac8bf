"""Schemes in which tags mark spans: which there are, which moves they forbid, and spans written in one of them.

    BIO, IOB1      a span is B I I; in IOB1 it begins with B only right behind another of its type, else with I
    BIOES          a span is B I E, or S of one word; BIOUL and BMES are the same in other letters

References: Ramshaw and Marcus 1995; Ratinov and Roth 2009, section 3.2.
"""

import numpy as np

from zoo.config import Refusal

# What the letter of a tag says of its word: B begins a span, I is inside, E ends it, S is a span of one word.
SCHEMES = {
    "BIO": {"B": "B", "I": "I"},
    "IOB1": {"B": "B", "I": "I"},
    "BIOES": {"B": "B", "I": "I", "E": "E", "S": "S"},
    "BIOUL": {"B": "B", "I": "I", "L": "E", "U": "S"},
    "BMES": {"B": "B", "M": "I", "E": "E", "S": "S"},
}


def forbidden_moves(tags, scheme):
    """Which moves between tags never occur in a scheme of spans.

        >>> bool(forbidden_moves(["O", "B-PER", "I-PER"], "BIO")[0, 2])  # I-PER cannot follow O
        True

    Args:
        tags: list of str: `O`, or a letter of the scheme, with `-` and a type if there are types: `B-PER`, `B`.
        scheme: a key of `SCHEMES`.

    Returns:
        bool array (S, S), True for a forbidden move; the last row is of the first word, the last column of the last.

    Raises:
        Refusal: if the scheme is unknown, or a tag is not of the scheme.
    """
    if scheme not in SCHEMES:
        raise Refusal(f"A scheme of tags is one of {', '.join(SCHEMES)}, got {scheme!r}.")
    wrong = [tag for tag in tags if not _is_of(scheme, tag)]
    if wrong:
        letters = ", ".join(SCHEMES[scheme])
        raise Refusal(f"A tag in {scheme} is O, or one of {letters} with a type, as in B-PER; got {wrong[0]!r}.")
    words = [*((SCHEMES[scheme].get(tag[0], "O"), tag[2:]) for tag in tags), ("O", "")]
    forbidden = np.array([[not _may_follow(scheme, before, after) for after in words] for before in words])
    forbidden[-1, -1] = True
    return forbidden


def scheme_of(sentences):
    """The scheme in which no sentence has a forbidden move: a key of `SCHEMES`, the first that fits, or None.

    Args:
        sentences: list of lists of tags. Without a span they fit BIO.
    """
    scheme, broken = closest_scheme(sentences)
    return None if broken else scheme


def closest_scheme(sentences):
    """The scheme in which the fewest sentences have a forbidden move, and how many have one: (a key of `SCHEMES`, int).

    Of equally close ones it is the first. (None, number of sentences) where the tags are of no scheme.
    """
    tags = sorted({tag for sentence in sentences for tag in sentence})
    number = {tag: i for i, tag in enumerate(tags)}
    moves = [
        {(number.get(one, -1), number.get(other, -1)) for one, other in zip([None, *words], [*words, None], strict=True)}
        for words in sentences
        if words
    ]
    broken = {}
    for scheme in SCHEMES:
        if all(_is_of(scheme, tag) for tag in tags):
            forbidden = forbidden_moves(tags, scheme).tolist()
            broken[scheme] = sum(any(forbidden[one][other] for one, other in some) for some in moves)
    return min(broken.items(), key=lambda item: item[1], default=(None, len(moves)))


def tags_of(types, scheme):
    """All tags of a scheme for spans of some types, sorted, `O` among them.

    tags_of(["PER"], "BIO")     ("B-PER", "I-PER", "O")
    """
    return tuple(sorted({"O", *(_tag(letter, kind) for kind in types for letter in SCHEMES[scheme])}))


def written(spans, length, scheme):
    """The tags of a sentence with some spans, in a scheme.

        >>> written([("PER", 0, 1), ("LOC", 3, 3)], 5, "BIOES")
        ['B-PER', 'E-PER', 'O', 'S-LOC', 'O']

    Args:
        spans: list of (type, first word, last word), in order, without overlap; `zoo.metrics.entities` gives them.
        length: how many words the sentence has.
        scheme: a key of `SCHEMES`.
    """
    letters = {place: letter for letter, place in SCHEMES[scheme].items()}
    tags, end, kind_before = ["O"] * length, None, None
    for kind, first, last in spans:
        places = ["B", *"I" * (last - first)]
        if scheme == "IOB1" and not (end == first - 1 and kind_before == kind):
            places[0] = "I"
        if "E" in letters:
            places[-1] = "E" if last > first else "S"
        tags[first : last + 1] = [_tag(letters[place], kind) for place in places]
        end, kind_before = last, kind
    return tags


def choices(tag):
    """The tags that a word may have, of a partial label; none where nothing is known of the word.

        >>> choices("B-PER|B-ORG"), choices("O"), choices("*")
        (('B-PER', 'B-ORG'), ('O',), ())

    Raises:
        Refusal: a tag beside a `|` is empty.
    """
    several = tuple(tag.split("|"))
    if "" in several:
        raise Refusal(f"The label {tag!r} has an empty tag; write several as B-PER|B-ORG, and * where nothing is known.")
    return () if "*" in several else several


def well_formed(spans, tags, scheme):
    """Those of the spans, (type, first word, last word), whose tags are what the scheme writes for them: a set.

    These are the entities that seqeval counts with `mode="strict"`.
    """
    right = written(spans, len(tags), scheme)
    return {span for span in spans if right[span[1] : span[2] + 1] == tags[span[1] : span[2] + 1]}


def _tag(letter, kind):
    return f"{letter}-{kind}" if kind else letter


def _is_of(scheme, tag):
    letter, dash, kind = tag.partition("-")
    return tag == "O" or (letter in SCHEMES[scheme] and bool(dash) == bool(kind))


def _may_follow(scheme, before, after):
    (place, kind), (next_place, next_kind) = before, after
    goes_on = place in "BI" and kind == next_kind
    if scheme == "BIO":
        return next_place != "I" or goes_on
    if scheme == "IOB1":
        return next_place != "B" or goes_on
    return next_place in "IE" and goes_on if place in "BI" else next_place in "OBS"
