"""The graph side of WordPiece: flat tensors over all characters of all texts, TensorFlow's core ops only.

1. `_normalized`: every character becomes none, one or several others, by two tables. Between them combining marks are
   put into canonical order where they are not (Unicode chapter 3, D109).
2. `_words`: words end at white space; a punctuation mark or a Chinese character is a word of its own.
3. `_matched`: text repeats its words, so each distinct one is matched once: longest piece first, all words at a time.

What becomes of a character is asked of the native side when the tables are made: libraries differ in their Unicode
versions, and the two sides must not.

Shape letters: B texts, N characters, W words, D distinct words, A words not yet matched to their end, L characters of
the longest piece, V vocabulary.
"""

import functools
import unicodedata

import numpy as np
import tensorflow as tf
import tokenizers

from zoo.tokenizers.base import row_ids, splits_of

PAGE = 256
# All others are of planes that hold none in any version of Unicode, or private as U+E000 is.
CHARACTERS = [*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xE1000)]
PRIVATE, PRIVATE_PLANES = 0xE000, [*range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE)]
# Stands between characters when the native side is asked about all of them at once; no normalisation changes it.
BAR = ord("|")
SPACE, ALONE, OTHER = range(3)
# Strings live there, and many small integer operations would wait for copies to an accelerator and back.
DEVICE = "CPU:0"


class WordPieceGraph(tf.Module):
    """Texts -> ids and back, as tensors.

    Args:
        normalization: keyword arguments of `tokenizers.normalizers.BertNormalizer`, all four.
        first_pieces: dict, bytes -> id, of pieces that begin a word.
        other_pieces: dict, bytes -> id, of pieces that go on with one, without their prefix.
        unk_id: what a word becomes that no pieces spell.
        max_word_length: characters of the longest word that is tried.
        written: object (V,), the bytes of each id, a space before each that begins a word; empty for those unspoken.
    """

    def __init__(self, normalization, first_pieces, other_pieces, *, unk_id, max_word_length, written):
        super().__init__()
        self._normalization = tuple(sorted(normalization.items()))
        self._pieces = first_pieces, other_pieces
        self._longest_first, self._longest_other = (
            max((len(piece.decode("utf8")) for piece in pieces), default=1) for pieces in self._pieces
        )
        self._unk_id, self._max_word_length, self._written = unk_id, max_word_length, written
        self._first_pieces = self._other_pieces = None

    @functools.cached_property
    def _tensors(self):
        """Constants, made once outside any function being traced, so that all its traces share them."""
        with tf.init_scope(), tf.device(DEVICE):
            return {name: tuple(map(tf.constant, arrays)) for name, arrays in tables(self._normalization).items()}

    @functools.cached_property
    def _written_of_id(self):
        with tf.init_scope():
            return tf.constant(self._written)

    def _make_tables(self):
        if self._first_pieces is None:  # attributes of the module, not cached properties: so they are saved with it
            with tf.init_scope(), tf.device(DEVICE):
                self._first_pieces, self._other_pieces = map(_string_table, self._pieces)

    def tokenize(self, texts):
        """string (B,) -> int32 RaggedTensor (B, None)."""
        with tf.device(DEVICE):
            words, text_of_word = self.words(texts)
            distinct, which = tf.unique(words)
            pieces = tf.gather(self._matched(distinct), which)
            words_of_text = tf.math.unsorted_segment_sum(tf.ones_like(which, tf.int64), text_of_word, tf.size(texts))
            splits = tf.gather(pieces.row_splits, splits_of(words_of_text))
            return tf.RaggedTensor.from_row_splits(pieces.flat_values, splits, validate=False)

    def normalize(self, texts):
        """string (B,) -> string (B,): what words are cut from, with the blanks around Chinese characters."""
        with tf.device(DEVICE):
            points, text = self._normalized(*_expanded(*_points(texts), self._tensors["spaced"]))
            lengths = tf.math.unsorted_segment_sum(tf.ones_like(text, tf.int64), text, tf.size(texts))
            rows = tf.RaggedTensor.from_row_lengths(points, lengths, validate=False)
            return tf.strings.unicode_encode(rows, "UTF-8")

    def words(self, texts):
        """string (B,) -> the normalised words of all texts, string (W,), and the text of each, int32 (W,)."""
        return self._words(*self._normalized(*_points(texts)))

    def detokenize(self, token_ids):
        """int32 RaggedTensor (B, None) -> string (B,)."""
        written = tf.gather(self._written_of_id, token_ids.flat_values)
        texts = tf.strings.unsorted_segment_join(written, row_ids(token_ids), token_ids.nrows())
        return tf.strings.regex_replace(texts, "^ ", "")

    def _normalized(self, points, text):
        """Code points (N,) and the text of each -> the same after normalisation."""
        points, text = _expanded(points, text, self._tensors["decomposition"])
        classes = _looked_up(points, *self._tensors["combining_class"])
        starts = (classes == 0) | (text != _before(text, -1))
        misplaced = tf.reduce_any(~starts & (_before(classes, 0) > classes))
        key = tf.cumsum(tf.cast(starts, tf.int32)) * 256 + classes
        points = tf.cond(misplaced, lambda: tf.gather(points, tf.argsort(key, stable=True)), lambda: points)
        return _expanded(points, text, self._tensors["ending"])

    def _words(self, points, text):
        """Normalised code points (N,) and the text of each -> string (W,), and the text of each word, int32 (W,)."""
        kinds = _looked_up(points, *self._tensors["kind"])
        starts = (kinds == ALONE) | (kinds != _before(kinds, SPACE)) | (text != _before(text, -1))
        stays = kinds != SPACE
        points, text, starts = (tf.boolean_mask(values, stays) for values in (points, text, starts))
        word_splits = tf.concat([tf.where(starts)[:, 0], [tf.size(points, tf.int64)]], 0)
        words = tf.RaggedTensor.from_row_splits(points, word_splits, validate=False)
        return tf.strings.unicode_encode(words, "UTF-8"), tf.boolean_mask(text, starts)

    def _matched(self, words):
        """Distinct words, string (D,) -> ids of their pieces, int32 RaggedTensor (D, None).

        Each round takes the longest piece that begins what is left of every word (Schuster and Nakajima 2012; greedy as
        in Devlin et al. 2019).
        """
        self._make_tables()
        count = tf.size(words)
        tried = tf.strings.length(words, unit="UTF8_CHAR") <= self._max_word_length
        which = tf.where(tried)[:, 0]
        ids, rest = _longest(tf.gather(words, which), self._first_pieces, self._longest_first)

        def go_on(ids, which, place, active, rest, turn):
            active, rest = (tf.boolean_mask(values, rest != "") for values in (active, rest))
            more, rest = _longest(rest, self._other_pieces, self._longest_other)
            places = tf.fill(tf.shape(active), turn)
            return (*(tf.concat(pair, 0) for pair in ((ids, more), (which, active), (place, places))),
                    active, rest, turn + 1)  # fmt: skip

        shapes = (tf.TensorShape([None]),) * 5 + (tf.TensorShape([]),)
        place, turn = tf.zeros_like(which), tf.constant(1, tf.int64)
        ids, which, place, *_ = tf.while_loop(
            lambda *state: tf.reduce_any(state[4] != ""), go_on, (ids, which, place, which, rest, turn), shapes
        )
        spelt = tried & (tf.math.unsorted_segment_min(ids, which, count) >= 0)
        stays = tf.gather(spelt, which)
        ids, which, place = (tf.boolean_mask(values, stays) for values in (ids, which, place))
        lengths = tf.math.unsorted_segment_sum(tf.ones_like(which), which, count)
        splits = splits_of(tf.where(spelt, lengths, 1))
        flat = tf.fill([splits[-1]], self._unk_id)
        flat = tf.tensor_scatter_nd_update(flat, (tf.gather(splits, which) + place)[:, None], ids)
        return tf.RaggedTensor.from_row_splits(flat, splits, validate=False)


def _points(texts):
    """string (B,) -> code points (N,) and the text of each."""
    decoded = tf.strings.unicode_decode(texts, "UTF-8", errors="replace", replacement_char=0xFFFD)
    return decoded.flat_values, row_ids(decoded)


def _longest(words, table, longest):
    """Words (A,) -> the id of the longest piece that begins each, int32 (A,), -1 for none; the rest of each word."""
    length = tf.strings.length(words, unit="UTF8_CHAR")
    lengths = tf.range(longest, 0, -1)[None] + tf.zeros_like(length)[:, None]
    heads = tf.strings.substr(tf.repeat(words[:, None], longest, 1), tf.zeros_like(lengths), lengths, unit="UTF8_CHAR")
    ids = table.lookup(heads)
    best = tf.argmax(ids >= 0, 1, tf.int32)
    ids = tf.gather(ids, best, batch_dims=1)
    end = tf.where(ids >= 0, tf.minimum(longest - best, length), length)  # nothing more to do for a word without a piece
    return ids, tf.strings.substr(words, end, length - end, unit="UTF8_CHAR")


def _string_table(ids):
    """StaticHashTable from bytes to ids, -1 for what it does not have."""
    ids = ids or {b"": -1}  # TensorFlow initialises no empty table
    pairs = tf.lookup.KeyValueTensorInitializer(tf.constant(list(ids), tf.string), tf.constant([*ids.values()], tf.int32))
    return tf.lookup.StaticHashTable(pairs, -1)


def _before(values, fill):
    """Values (N,) moved right by one, `fill` first."""
    return tf.concat([tf.fill([1], tf.constant(fill, values.dtype)), values], 0)[:-1]


def _looked_up(points, pages, values):
    """Code points (N,) -> what a two-level table says of each, (N,)."""
    page = tf.gather(pages, tf.bitwise.right_shift(points, 8))
    return tf.gather(values, page * PAGE + tf.bitwise.bitwise_and(points, PAGE - 1))


def _expanded(points, text, table):
    """Code points (N,), each replaced by its row of the table, and the text of each."""
    pages, rows, starts, lengths, values = table
    row = _looked_up(points, pages, rows)
    length = tf.gather(lengths, row)
    source = tf.repeat(tf.range(tf.size(points)), length)
    offset = tf.range(tf.size(source)) - tf.gather(tf.cumsum(length, exclusive=True), source)
    row = tf.gather(row, source)
    replaced = tf.gather(values, tf.gather(starts, row) + offset)
    return tf.where(row == 0, tf.gather(points, source), replaced), tf.gather(text, source)


@functools.cache
def tables(normalization):
    """All that the graph knows of characters, as numpy arrays, asked of the native side.

    Args:
        normalization: (name, value) pairs, sorted: the keyword arguments of `BertNormalizer`.

    Returns:
        dict: `decomposition`, `ending` and `spaced`, tables for `_expanded`; `combining_class` and `kind`, for `_looked_up`.
    """
    options = dict(normalization)
    off = dict.fromkeys(options, False)
    bert, nfd = tokenizers.normalizers.BertNormalizer, tokenizers.normalizers.NFD()
    accents = options["strip_accents"]
    clean = bert(**{**off, "clean_text": options["clean_text"]})
    ending = bert(**{**off, "strip_accents": accents, "lowercase": options["lowercase"]})
    return {
        "decomposition": _expansion(_each(tokenizers.normalizers.Sequence([clean, nfd] if accents else [clean]))),
        "combining_class": _two_levels(_combining_classes(nfd) if accents else np.zeros(0x110000, np.int32)),
        "ending": _expansion(_each(ending)),
        "kind": _two_levels(_kinds(options["handle_chinese_chars"])),
        "spaced": _expansion(_each(bert(**{**off, "handle_chinese_chars": options["handle_chinese_chars"]}))),
    }


def _each(normalizer):
    """Code point -> its normal form, for those that it changes."""
    characters = [point for point in CHARACTERS if point != BAR]
    forms = normalizer.normalize_str(chr(BAR).join(map(chr, characters))).split(chr(BAR))
    return {point: form for point, form in zip(characters, forms, strict=True) if form != chr(point)}


def _expansion(forms):
    """Code point -> string, as a table for `_expanded`; row 0 means that a character stays as it is."""
    numbers, rows = {None: 0}, np.zeros(0x110000, np.int32)
    for point, form in forms.items():
        rows[point] = numbers.setdefault(form, len(numbers))
    rows[PRIVATE_PLANES] = rows[PRIVATE]  # removed or left as it is, all alike
    pieces = [[0], *(list(map(ord, form)) for form in list(numbers)[1:])]
    lengths = np.array(list(map(len, pieces)), np.int32)
    starts = (np.cumsum(lengths) - lengths).astype(np.int32)
    return *_two_levels(rows), starts, lengths, np.array([point for piece in pieces for point in piece] + [0], np.int32)


def _combining_classes(nfd):
    """int32 (0x110000,): canonical combining classes (which never change), 0 for marks newer than the native side."""
    classes = np.zeros(0x110000, np.int32)
    low, high = "\u0334", "\u0345"  # of classes 1 and 240, the first and the last
    for point in CHARACTERS:
        combining, mark = unicodedata.combining(chr(point)), chr(point)
        if combining and (nfd.normalize_str(mark + low)[0] == low or nfd.normalize_str(high + mark)[-1] == high):
            classes[point] = combining
    return classes


def _kinds(chinese_alone):
    """int32 (0x110000,): how each character separates words."""
    kinds = np.full(0x110000, OTHER, np.int32)
    words = tokenizers.pre_tokenizers.BertPreTokenizer()
    spans = [span for _, span in words.pre_tokenize_str("".join(map(chr, CHARACTERS)))]
    covered = np.zeros(len(CHARACTERS), bool)
    for start, end in spans:
        covered[start:end] = True
        if end == start + 1 and len(words.pre_tokenize_str(f"a{chr(CHARACTERS[start])}a")) == 3:
            kinds[CHARACTERS[start]] = ALONE
    kinds[np.array(CHARACTERS)[~covered]] = SPACE
    if chinese_alone:
        off = dict(clean_text=False, strip_accents=False, lowercase=False)
        kinds[list(_each(tokenizers.normalizers.BertNormalizer(**off, handle_chinese_chars=True)))] = ALONE
    return kinds


def _two_levels(values):
    """int32 (0x110000,) -> the page of each 256 code points, and the values on the distinct pages, one after another."""
    pages = {}
    page_of = [pages.setdefault(page.tobytes(), len(pages)) for page in values.reshape(-1, PAGE)]
    return np.array(page_of, np.int32), np.frombuffer(b"".join(pages), np.int32)
