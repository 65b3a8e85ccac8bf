"""Plain text that somebody added to a vocabulary, as `add_tokens` does: `covid-19` is one id wherever it stands.

Such tokens are found before words are cut, by the rules of the library `tokenizers`. First come those that stand in the text as
they are written; then what is left is normalised, and searched for the normal forms of the others. The leftmost token is taken,
and the longest of those that begin there. What stands between two is a text of its own.

    added = AddedTokens([Added("covid-19", 99)], str.lower)
    added.encode_batch(["My COVID-19 test"], str.lower, encode)     ids of "my ", 99, ids of " test"

The native side asks that library. The graph side runs two regular expressions, a choice between strings each, and splits.

Shape letters: B texts, P pieces of all texts.
"""

import dataclasses
import functools
import re
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
import tokenizers

from zoo.config import Refusal
from zoo.tokenizers.base import require_list, row_ids, to_text

# White space as Unicode has it.
SPACE = r"[\t-\r \x{85}\p{Z}]"
# No byte of valid UTF-8, so it stands between pieces in a graph.
BAR = b"\xff"
# What is left of a text between two tokens, in the eyes of the native side.
REST = "\U000f0000"
CHARACTERS = [*range(1, 0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xE1000)]
PAGE = 256
# Strings live there.
DEVICE = "CPU:0"


@dataclass(frozen=True)
class Added:
    """A token that somebody added.

    Attributes:
        content: how it is written.
        id: its id.
        single_word: whether it is found only where no letter, digit or underscore stands beside it.
        lstrip, rstrip: whether it takes the white space to its left, to its right.
        normalized: whether its normal form is looked for in the normalised text, or itself in the text as it is.
    """

    content: str
    id: int
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True

    @classmethod
    def of(cls, token, i=None):
        """From a dict of Hugging Face's files, whose id is `i` or its own."""
        flags = {name: bool(token[name]) for name in ("single_word", "lstrip", "rstrip") if name in token}
        normalized = token.get("normalized", not token.get("special"))
        return cls(token["content"], int(token["id"] if i is None else i), **flags, normalized=bool(normalized))

    def native(self, special=False):
        """A `tokenizers.AddedToken`."""
        flags = {name: getattr(self, name) for name in ("single_word", "lstrip", "rstrip", "normalized")}
        return tokenizers.AddedToken(self.content, special=special, **flags)

    def saved(self):
        """JSON fields, for `Added(**fields)`."""
        return dataclasses.asdict(self)


class AddedTokens(tf.Module):
    """The added tokens of a vocabulary, and how they are found in texts.

    Args:
        tokens: a list of `Added`; the first of those that look alike is found.
        normalize: function, string -> string: how a tokenizer normalises texts.

    Attributes:
        tokens: in the order of their ids.
        written: dict, id -> what is found in texts, and written for the id.

    Raises:
        Refusal: nothing is left of a token when it is normalised.
    """

    def __init__(self, tokens, normalize):
        super().__init__()
        self.tokens = tuple(sorted(tokens, key=lambda token: token.id))
        forms, self.written = ({}, {}), {}
        for token in self.tokens:
            form = normalize(token.content) if token.normalized else token.content
            if not form:
                raise Refusal(f"Nothing is left of the added token {token.content!r} when it is normalised; take it out.")
            forms[token.normalized].setdefault(form, token)
            self.written[token.id] = form
        self._as_written, self._normal = map(_Matcher, forms)

    def __bool__(self):
        return bool(self.tokens)

    def cut(self, cut):
        """The places where a text may be cut, given those without added tokens; None where a token may reach over them."""
        forms = [*self._as_written.forms.items(), *self._normal.forms.items()]
        reaches = any(token.rstrip or re.search(r"\s", form) for form, token in forms)
        return None if reaches else cut

    def segments(self, text, normalize):
        """[(id, ""), or (-1, normalised text without such tokens), ...] of a string."""
        found = []
        for i, part in self._as_written.split(text):
            found += [(i, "")] if i >= 0 else self._normal.split(normalize(part))
        return found

    def encode_batch(self, texts, normalize, encode):
        """Ids of texts on the native side.

        Args:
            texts: list of strings or bytes.
            normalize: function, string -> string.
            encode: function, (list of normalised texts, list of bool: whether they begin a text) -> list of arrays of ids.

        Returns:
            list of int32 arrays.
        """
        rows = [self.segments(to_text(text), normalize) for text in require_list(texts)]
        plain = [(part, place == 0) for row in rows for place, (i, part) in enumerate(row) if i < 0]
        ids = iter(encode([part for part, _ in plain], [first for _, first in plain]))
        none = np.zeros(0, np.int32)
        whole = ([none, *(next(ids) if i < 0 else np.array([i], np.int32) for i, _ in row)] for row in rows)
        return [np.concatenate(parts).astype(np.int32) for parts in whole]

    def tokenize(self, texts, normalize, tokenize):
        """Ids of texts in graph, valid UTF-8: `encode_batch` with functions of tensors; an empty string must have no ids.

        Returns:
            int32 RaggedTensor (B, None).
        """
        with tf.device(DEVICE):
            first = tf.ones_like(texts, tf.bool)
            return self._as_written.tokenize(
                texts, first, lambda parts, first: self._normal.tokenize(normalize(parts), first, tokenize)
            )


class _Matcher(tf.Module):
    """Finds strings in texts.

    Args:
        forms: dict, string -> `Added`.
    """

    def __init__(self, forms):
        super().__init__()
        self.forms, self._tokens, self._table = forms, list(forms.values()), None
        self._native = tokenizers.Tokenizer(tokenizers.models.WordLevel({REST: 0}, unk_token=REST))
        plain = [dataclasses.replace(token, content=form, normalized=False).native() for form, token in forms.items()]
        self._native.add_tokens(plain)
        self._ids = [-1, *(token.id for token in self._tokens)]
        longest_first = sorted(forms, key=len, reverse=True)
        self._pattern = "|".join(map(re.escape, longest_first)).replace("\0", r"\x{0}")
        if forms:
            try:
                tf.strings.regex_replace("", self._pattern, "")
            except tf.errors.InvalidArgumentError as error:
                raise Refusal(f"There are {len(forms)} added tokens, more than can be looked for in a graph.") from error

    def split(self, text):
        """[(id, "") or (-1, part of the text), ...] of a string."""
        if not text or not self.forms:
            return [(-1, text)] if text else []
        encoding = self._native.encode(text, add_special_tokens=False)
        found = zip(encoding.ids, encoding.offsets, strict=True)
        return [(self._ids[i], "" if i else text[start:end]) for i, (start, end) in found]

    def tokenize(self, texts, first, inner):
        """string (B,), and bool (B,) whether each begins a text -> int32 RaggedTensor (B, None); `inner` is given the parts
        between tokens, string (P,), and whether each begins a text."""
        if not self.forms:
            return inner(texts, first)
        pieces, number = self._split(texts)
        parts, begins = tf.where(number < 0, pieces.flat_values, ""), _edges(pieces, first=True)
        ids = inner(parts, begins & tf.gather(first, row_ids(pieces)))
        own = tf.gather(tf.constant([token.id for token in self._tokens]), tf.boolean_mask(number, number >= 0))
        own = tf.RaggedTensor.from_row_lengths(own, tf.cast(number >= 0, tf.int64), validate=False)
        ids = tf.concat([own, ids], 1)
        splits = tf.gather(ids.row_splits, pieces.row_splits)
        return tf.RaggedTensor.from_row_splits(ids.flat_values, splits, validate=False)

    def _split(self, texts):
        """string (B,) -> RaggedTensor (B, None) of texts and tokens in turn, and int32 (P,), the number of a token, or -1."""
        marked = tf.strings.regex_replace(texts, f"(?s){self._pattern}", BAR + rb"\0" + BAR)
        pieces = tf.strings.split(marked, BAR)
        place = tf.range(tf.size(pieces.flat_values, tf.int64)) - tf.gather(pieces.row_starts(), row_ids(pieces))
        number = tf.where(place % 2 == 1, self._numbers().lookup(pieces.flat_values), -1)
        if any(token.single_word for token in self._tokens):
            pieces, number = self._single_words(pieces, number)
        for name, pattern, by in (("lstrip", f"{SPACE}+$", -1), ("rstrip", f"^{SPACE}+", 1)):
            strips = [getattr(token, name) for token in self._tokens]
            if any(strips):
                takes = _moved((number >= 0) & tf.gather(tf.constant(strips), tf.maximum(number, 0)), by)
                parts = tf.strings.regex_replace(pieces.flat_values, pattern, "")
                pieces = pieces.with_flat_values(tf.where(takes & (number < 0), parts, pieces.flat_values))
        return pieces, number

    def _single_words(self, pieces, number):
        """The same without tokens that must be words and have a letter beside them: they are text again."""
        words = pieces.flat_values
        wanted = tf.gather(tf.constant([token.single_word for token in self._tokens]), tf.maximum(number, 0))
        wrong = tf.zeros_like(wanted)
        for pattern, by in ((f"(?s).*{_letters()}", 1), (f"(?s){_letters()}.*", -1)):
            at_edge = tf.strings.regex_full_match(words, pattern)
            # Texts and tokens stand in turn, and a text may be empty: then the token beyond it is the neighbour.
            beyond = _moved(at_edge, by) & ~_edges(pieces, first=by == 1)
            wrong |= _moved(tf.where(words == "", beyond, at_edge), by)
        number = tf.where(wanted & wrong, -1, number)
        row, found = row_ids(pieces), tf.cast(number >= 0, tf.int32)
        # Of each token two pieces come, and of each row one more.
        piece = 2 * tf.cumsum(found) - found + row
        count = 2 * tf.reduce_sum(found) + tf.cast(pieces.nrows(), tf.int32)
        words = tf.strings.unsorted_segment_join(words, piece, count)
        number = tf.math.unsorted_segment_max(number, piece, count)
        lengths = 2 * tf.math.unsorted_segment_sum(tf.cast(found, tf.int64), row, pieces.nrows()) + 1
        return tf.RaggedTensor.from_row_lengths(words, lengths, validate=False), number

    def _numbers(self):
        if self._table is None:  # an attribute of the module: so it is saved with it
            with tf.init_scope(), tf.device(DEVICE):
                pairs = tf.lookup.KeyValueTensorInitializer(list(self.forms), tf.range(len(self.forms)))
                self._table = tf.lookup.StaticHashTable(pairs, -1)
        return self._table


def _edges(pieces, first):
    """bool (P,): which pieces of a RaggedTensor (B, None) without empty rows are the first, or else the last, of their row."""
    at = pieces.row_splits[:-1] if first else pieces.row_splits[1:] - 1
    return tf.scatter_nd(at[:, None], tf.ones_like(at, tf.bool), tf.size(pieces.flat_values, tf.int64)[None])


def _moved(values, by):
    """bool (P,), moved right by one, or left by one, with False where nothing moved in."""
    none = tf.zeros_like(values[:1])
    return tf.concat([none, values[:-1]] if by > 0 else [values[1:], none], 0)


@functools.cache
def _letters():
    """A class of characters for regular expressions: those beside which the native side finds no single word."""
    native = tokenizers.Tokenizer(tokenizers.models.WordLevel({REST: 0}, unk_token=REST))
    native.add_tokens([tokenizers.AddedToken(REST + "|", single_word=True, normalized=False)])
    single = []
    for start in range(0, len(CHARACTERS), PAGE):  # the library reads all before a token again for each
        text = "".join(f"{chr(point)}{REST}| " for point in CHARACTERS[start : start + PAGE])
        encoding = native.encode(text, add_special_tokens=False)
        single += [start + first // 4 for i, (first, _) in zip(encoding.ids, encoding.offsets, strict=True) if i]
    points = np.delete(CHARACTERS, single)
    ends = np.flatnonzero(np.diff(points) > 1)
    ranges = zip(points[[0, *(ends + 1)]], points[[*ends, len(points) - 1]], strict=True)
    return "[" + "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in ranges) + "]"


def split_added(config, special):
    """The added tokens of a tokenizer.json: (dict, token -> id, of the special ones; list of `Added`, the plain ones).

    Args:
        config: dict, the JSON.
        special: a `Special`: a token with a role is special, whatever its entry says.
    """
    tokens, named = config.get("added_tokens") or [], set(special.roles.values())
    are_special = [bool(token["special"]) or token["content"] in named for token in tokens]
    there = list(zip(tokens, are_special, strict=True))
    return {t["content"]: t["id"] for t, yes in there if yes}, [Added.of(t) for t, yes in there if not yes]


def add_to(native, tokens, vocab_size):
    """Gives a `tokenizers.Tokenizer` its added tokens.

    Args:
        native: it, with a model that has all tokens but those of the highest ids.
        tokens: list of (`Added`, whether it is special).
        vocab_size: how many ids there are.

    Raises:
        Refusal: the library would give a token another id.
    """
    tokens = sorted(tokens, key=lambda pair: pair[0].id)
    native.add_tokens([token.native(special) for token, special in tokens])
    wrong = next((token for token, _ in tokens if native.token_to_id(token.content) != token.id), None)
    if wrong is not None or native.get_vocab_size() != vocab_size:
        raise Refusal("Added tokens stand before others of the vocabulary, which Hugging Face's libraries cannot have.")
