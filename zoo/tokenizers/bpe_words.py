"""How byte-level BPE cuts a text into words: patterns of others, on the native side and in a graph.

Whether a word starts at a character depends on the classes of the characters around it and on the run of equal classes that
it stands in. So the graph runs no regular expression. Which characters are \\p{L}, \\p{N} and \\s is asked of the native side:
regular expression libraries differ in their Unicode versions.

Shape letters: N characters of all texts.
"""

import functools

import numpy as np
import tensorflow as tf
import tokenizers

from zoo.config import Refusal

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4 = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
STOPS = ".,!?…。，、।۔،"
BLOOM = rf" ?[^(\s|[{STOPS}])]+"
# Name -> pattern. With `digits` every digit is a text of its own, and so is what stands between two. With `prefixed` a text
# that begins with no blank gets one.
PATTERNS = {"gpt2": GPT2, "digits": GPT2, "prefixed": GPT2, "llama3": LLAMA3, "qwen2": QWEN2, "bloom": BLOOM}
# Patterns in tokenizer.json -> name; GPT-4's says the same as Llama 3's.
NAMES = {GPT2: "gpt2", LLAMA3: "llama3", GPT4: "llama3", QWEN2: "qwen2", BLOOM: "bloom"}
# The most digits in a word.
DIGITS = {"llama3": 3, "qwen2": 1}
LETTER, NUMBER, SPACE, OTHER = range(4)
PAGE = 256
# Planes 4 to 13 hold no character in any version of Unicode, 15 and 16 only private ones: all of them are OTHER.
CLASSIFIED = [*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xF0000)]


def pre_tokenizer(name):
    """The pre-tokenizer of the `tokenizers` library that cuts words as `name` says."""
    split = tokenizers.pre_tokenizers
    if name in ("gpt2", "prefixed"):
        return split.ByteLevel(add_prefix_space=name == "prefixed", use_regex=True)
    if name == "digits":
        return split.Sequence([split.Digits(individual_digits=True), pre_tokenizer("gpt2")])
    pattern = split.Split(tokenizers.Regex(PATTERNS[name]), "isolated")
    return split.Sequence([pattern, split.ByteLevel(add_prefix_space=False, use_regex=False)])


def read(words, path):
    """The name in `PATTERNS` of a pre-tokenizer.

    Args:
        words: dict, or None: the `pre_tokenizer` of a tokenizer.json.
        path: of the file, for messages.

    Raises:
        Refusal: it cuts words in a way that is not known.
    """
    words = words or {}
    first, *others = words.get("pretokenizers") or [{}] if words.get("type") == "Sequence" else [words]
    last = others[0] if others else first
    kinds = [step.get("type") for step in (first, *others)]
    digits = kinds == ["Digits", "ByteLevel"] and first.get("individual_digits")
    split = kinds == ["Split", "ByteLevel"]
    if not (digits or split or kinds == ["ByteLevel"]):
        raise Refusal(
            f"{path} has the pre-tokenizer {' + '.join(map(str, kinds))}; only ByteLevel, Digits + ByteLevel and "
            "Split + ByteLevel are supported."
        )
    prefixed = last.get("add_prefix_space", True)
    if prefixed and others:
        raise Refusal(f"{path} has add_prefix_space=true behind {kinds[0]}; only false is supported there.")
    if last.get("use_regex", True) == split:
        found = "cuts words twice, by Split and by use_regex=true" if split else "has use_regex=false and no Split"
        raise Refusal(f"{path} {found}; only one of both is supported.")
    if not split:
        return "digits" if digits else "prefixed" if prefixed else "gpt2"
    pattern = (first.get("pattern") or {}).get("Regex")
    how = first.get("behavior"), bool(first.get("invert"))
    if pattern not in NAMES or how not in (("Isolated", False), ("Removed", True)):
        raise Refusal(
            f"{path} cuts words by the pattern {str(pattern)!r} ({how[0]}, invert={how[1]}), which is not known; the patterns "
            "of GPT-2, GPT-4, Llama 3, Qwen2 and BLOOM are."
        )
    return NAMES[pattern]


def starts(name, kind, points, text):
    """Where words start: bool (N,).

    Args:
        name: one of `PATTERNS`.
        kind: int32 (N,), the class of each character.
        points: int32 (N,), the characters.
        text: integers (N,) that say which text each belongs to.
    """
    if name in DIGITS:
        return _starts_in_runs(kind, points, text, DIGITS[name])
    if name == "bloom":
        return _starts_of_stops(kind, points, text)
    return _starts_beside(kind, points, text, name == "digits")


def _starts_beside(kind, points, text, individual_digits):
    """The starts of GPT-2's pattern, which depend on three characters on either side."""
    if individual_digits:
        # A digit is a text of its own, and so is what stands between two.
        digit = kind == NUMBER
        text = tf.cumsum(tf.cast((text != shift(text, 1, -1)) | digit | shift(digit, 1, False), tf.int32))
    first = text != shift(text, 1, -1)
    last = text != shift(text, -1, -1)
    space = kind == SPACE
    # The last white space before a word is a word of its own, or, when it is a blank, the start of that word.
    space_starts = ~shift(space, 1, False) | ~(last | shift(space, -1, True))
    other_starts = (kind != shift(kind, 1, OTHER)) & (shift(points, 1, 0) != ord(" "))
    made = first | tf.where(space, space_starts, other_starts)

    second = tf.where(shift(text, -1, -1) == text, shift(points, -1, 0), 0)
    third = tf.where(shift(text, -2, -1) == text, shift(points, -2, 0), 0)
    short, long = _contractions(made & (points == ord("'")), second, third)
    made &= ~(shift(short | long, 1, False) | shift(long, 2, False))
    return made | shift(short, 2, False) | shift(long, 3, False)


def _starts_of_stops(kind, points, text):
    """The starts of BLOOM's pattern: runs of stops and white space, and runs of all others, which take a blank before them."""
    first, last = text != shift(text, 1, -1), text != shift(text, -1, -1)
    stops = (kind == SPACE) | _any_equal(points, STOPS + "(|[])")
    taken = (points == ord(" ")) & ~last & ~shift(stops, -1, True)
    return first | taken | (stops != shift(stops, 1, False)) & ~shift(taken, 1, False)


def _starts_in_runs(kind, points, text, digits):
    """The starts of Llama 3's pattern and its like. They depend on runs of characters of one class:

    - Letters take one character before them along: white space that ends no line, or a sign that stands alone.
    - Signs take a blank before them along, and the line ends behind them.
    - Of white space all up to its last line end is a word; of the rest the last character is one, unless the text ends.
    """
    index = tf.range(tf.size(kind))
    first, last = text != shift(text, 1, -1), text != shift(text, -1, -1)
    kind_before, kind_after = tf.where(first, -1, shift(kind, 1, -1)), tf.where(last, -1, shift(kind, -1, -1))
    space, newline = kind == SPACE, _any_equal(points, "\r\n")
    newline_before = ~first & shift(newline, 1, False)
    blank_before = ~first & (shift(points, 1, 0) == ord(" "))
    begins = kind != kind_before
    run = tf.cumsum(tf.cast(begins, tf.int32)) - 1

    line = newline & ~newline_before
    behind_sign = tf.concat([[False], tf.boolean_mask(kind_before == OTHER, line)], 0)
    taken = newline & tf.gather(behind_sign, tf.cumsum(tf.cast(line, tf.int32)))
    last_newline = tf.math.unsorted_segment_max(tf.where(newline, index, -1), run, tf.math.count_nonzero(begins))
    space_starts = begins | (~first & shift(taken, 1, False))
    space_starts |= newline_before & (tf.gather(last_newline, run) == index - 1)
    space_starts |= ~newline & (kind_after != SPACE) & ~last
    made = space & ~taken & space_starts

    alone = (kind == OTHER) & begins & (kind_after != OTHER) & ~blank_before
    made |= (kind == OTHER) & begins & ~blank_before
    joined = ((kind_before == SPACE) & ~newline_before) | (~first & shift(alone, 1, False))
    made |= (kind == LETTER) & begins & ~joined
    offset = index - tf.gather(tf.boolean_mask(index, begins), run)
    made |= (kind == NUMBER) & (offset % digits == 0)

    small = tf.where((points >= ord("A")) & (points <= ord("Z")), points + 32, points)
    small = tf.where(points == ord("\u017f"), ord("s"), small)  # the long s, of which S is the capital letter
    second = tf.where(shift(text, -1, -1) == text, shift(small, -1, 0), 0)
    third = tf.where(shift(text, -2, -1) == text, shift(small, -2, 0), 0)
    short, long = _contractions(alone & (points == ord("'")), second, third)
    return made | shift(short, 2, False) | shift(long, 3, False)


def _contractions(quote, second, third):
    """Where a contraction of one letter begins, and where one of two: bool (N,) each."""
    long = _any_equal(second, "rv") & (third == ord("e")) | (second == ord("l")) & (third == ord("l"))
    return quote & _any_equal(second, "stmd"), quote & long


def shift(values, by, fill):
    """Values (N,) moved right by `by` (left when negative), with `fill` where nothing moved in."""
    fill = tf.fill([tf.minimum(abs(by), tf.size(values))], tf.constant(fill, values.dtype))
    return tf.concat([fill, values[:-by]] if by > 0 else [values[-by:], fill], 0)


def _any_equal(points, characters):
    return functools.reduce(tf.logical_or, [points == ord(c) for c in characters])


@functools.cache
def character_classes():
    """What the native side's regular expressions take each character for.

    Returns:
        int32 (4352,), the page of each 256 code points, and int32 (pages * 256,), the classes on these pages.
    """
    kinds = np.full(0x110000, OTHER, np.int32)
    # One pass finds the runs of each class, a second one, over a character of each run, says which class it is.
    runs = _split_at(r"\p{L}+|\p{N}+|\s+", "".join(map(chr, CLASSIFIED)), "isolated")
    heads = "".join(chr(CLASSIFIED[start]) for start, _ in runs)
    for kind, name in [(LETTER, r"\p{L}"), (NUMBER, r"\p{N}"), (SPACE, r"\s")]:
        others = np.ones(len(runs), bool)
        for start, end in _split_at(name, heads, "removed"):
            others[start:end] = False
        for i in np.flatnonzero(others):
            kinds[CLASSIFIED[slice(*runs[i])]] = kind
    pages = {}
    page_of = [pages.setdefault(page.tobytes(), len(pages)) for page in kinds.reshape(-1, PAGE)]
    return np.array(page_of, np.int32), np.frombuffer(b"".join(pages), np.int32)


def _split_at(pattern, text, behavior):
    """(start, end) of each piece into which the native side splits a text."""
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), behavior)
    return [span for _, span in split.pre_tokenize_str(text)]
