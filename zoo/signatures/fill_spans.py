"""Texts with sentinels, `<extra_id_0>` and so on, as a model that was trained on span corruption reads and writes them.

    fill  "Thank you <extra_id_0> me to your party"    the model writes  <extra_id_0> for inviting
          "Thank you for inviting me to your party"

Shape letters: B batch, L tokens written, N tokens of all texts, H holes of all texts, P pieces of all texts, M holes of a text.
"""

import numpy as np
import tensorflow as tf

from zoo.signatures.generation import OPTIONS, STRINGS, checked_options, default
from zoo.signatures.request import refusal_unless, signature
from zoo.signatures.streaming_pairs import streaming_pair_requests, streaming_pair_signatures
from zoo.signatures.text_to_text import decode, source_of, text_to_text_requests, text_to_text_signatures
from zoo.tokenizers.base import row_ids
from zoo.tokenizers.special import BEGIN, sentinel_name


class WithSentinels:
    """The graph side of a tokenizer that also reads and writes the names of sentinels.

    A space before a sentinel belongs to the span that the sentinel stands for.

    Args:
        tokenizer: a `Tokenizer`.
        sentinel_ids: the ids of the sentinels, in the order of their numbers.
        num_ids: V, rows of the model's table. Ids that neither side names are left out.
    """

    def __init__(self, tokenizer, sentinel_ids, num_ids):
        self.tokenizer, self.sentinel_ids = tokenizer, tuple(sentinel_ids)
        self.eos_id, self.pad_id, self.vocab_size = tokenizer.eos_id, tokenizer.pad_id, num_ids
        self._numbers = np.full(num_ids, -1, np.int32)
        self._numbers[list(self.sentinel_ids)] = np.arange(len(self.sentinel_ids))
        self.target = self

    def number(self, ids):
        """int32, of the shape of `ids`: the number of a sentinel, or -1."""
        return tf.gather(tf.constant(self._numbers), ids)

    def is_text(self, ids):
        """bool, of the shape of `ids`: whether the tokenizer itself can write an id."""
        return (ids < self.tokenizer.vocab_size) & (self.number(ids) < 0)

    def tokenize(self, texts):
        """string (B,) -> int32 RaggedTensor (B, None)."""
        pieces = tf.strings.split(texts, BEGIN)
        words, first = pieces.flat_values, first_pieces(pieces)
        rest = tf.strings.regex_replace(words, r"^[0-9]{1,4}>", "", replace_global=False)
        digits = tf.strings.length(words) - tf.strings.length(rest) - 1
        named = ~first & (digits > 0)
        size = tf.boolean_mask(digits, named)
        written = tf.strings.substr(tf.boolean_mask(words, named), tf.zeros_like(size), size)
        numbers = tf.strings.to_number(written, tf.int32)
        number = tf.reduce_max(tf.concat([numbers, [0]], 0))
        sentence = f"The text has {BEGIN}{{}}>, and this model has the sentinels 0 to {len(self.sentinel_ids) - 1}."
        with tf.control_dependencies([refusal_unless(number < len(self.sentinel_ids), sentence, number)]):
            sentinels = tf.gather(tf.constant(self.sentinel_ids, tf.int32), numbers)
        words = tf.where(named, rest, tf.where(first, words, BEGIN + words))
        return marked_ids(self.tokenizer, pieces.with_flat_values(words), named, sentinels)

    def detokenize(self, token_ids):
        """int32 RaggedTensor (B, None) -> string (B,)."""
        ids, number = token_ids.flat_values, self.number(token_ids.flat_values)
        is_sentinel = tf.cast(number >= 0, tf.int32)
        # Each row is a piece, and each sentinel begins a further one.
        piece = row_ids(token_ids) + tf.cumsum(is_sentinel)
        count = tf.cast(token_ids.nrows(), tf.int32) + tf.reduce_sum(is_sentinel)
        kept = self.is_text(ids)
        lengths = tf.math.unsorted_segment_sum(tf.cast(kept, tf.int64), piece, count)
        words = self.tokenizer.detokenize(tf.RaggedTensor.from_row_lengths(tf.boolean_mask(ids, kept), lengths, validate=False))
        names = tf.constant(["", *map(sentinel_name, range(len(self.sentinel_ids)))])
        words = tf.gather(names, tf.math.unsorted_segment_sum(number + 1, piece, count)) + words
        in_row = tf.reduce_sum(token_ids.with_flat_values(is_sentinel), 1) + 1
        rows = tf.RaggedTensor.from_row_lengths(words, tf.cast(in_row, tf.int64), validate=False)
        return tf.strings.reduce_join(rows.to_tensor(""), 1)


def first_pieces(pieces):
    """bool (P,): which of the pieces of a RaggedTensor (N, None) are the first of their text."""
    begins = pieces.row_splits[:-1]
    return tf.math.unsorted_segment_sum(tf.ones_like(begins, tf.int32), begins, tf.shape(pieces.flat_values)[0]) > 0


def marked_ids(tokenizer, pieces, marked, marks):
    """Ids of texts that were cut at marks, each of which has an id; a space before a mark belongs to the mark.

    Args:
        tokenizer: a `Tokenizer`.
        pieces: string RaggedTensor (N, None).
        marked: bool (P,), whether a mark stands before a piece.
        marks: int32, the ids of the marks, one for each piece that is marked.

    Returns:
        int32 RaggedTensor (N, None).
    """
    words, followed = pieces.flat_values, tf.concat([marked[1:], tf.zeros_like(marked[:1])], 0)
    words = tf.where(followed, tf.strings.regex_replace(words, r" $", ""), words)
    before = tf.RaggedTensor.from_row_lengths(marks, tf.cast(marked, tf.int64), validate=False)
    ids = tf.concat([before, tf.cast(tokenizer.tokenize(words), tf.int32)], 1)
    return tf.RaggedTensor.from_row_splits(ids.flat_values, tf.gather(ids.row_splits, pieces.row_splits), validate=False)


def span_signatures(model, tokenizer, sentinel_ids, frame, limit):
    """The functions that a model of span corruption answers requests with.

    Args:
        model: an `EncoderDecoder`.
        tokenizer: a `Tokenizer`.
        sentinel_ids: the ids that stand for spans.
        frame: what stands around a source, the task's `Frame`.
        limit: the most tokens of a source, special ones included; or None.

    Returns:
        Name -> `tf.function`: those of `text_to_text_signatures` and `streaming_pair_signatures`, whose texts may have
        sentinels, and

        - `fill`: `text` string (B,), with a sentinel for each hole, and `max_new_tokens` int32 (B,) -> `text` string (B,), the
          text with its holes filled; `spans` string (B, M), what was written for each hole of a text, filled up with empty
          strings. A hole for which the model writes nothing is left out.
    """
    spelling = WithSentinels(tokenizer, sentinel_ids, model.config.vocab_size)

    @signature(STRINGS, OPTIONS["max_new_tokens"][0])
    def fill(text, max_new_tokens=default("max_new_tokens")):
        options = checked_options(text, max_new_tokens=max_new_tokens)
        source = source_of(model, spelling, frame, limit, text)
        decoded = decode(model, tokenizer, frame, source, options["max_new_tokens"])
        return filled(spelling, spelling.tokenize(text), decoded.token_ids, decoded.lengths)

    asked = model, spelling, frame, limit
    return {**text_to_text_signatures(*asked), **streaming_pair_signatures(*asked), "fill": fill}


def span_requests(model, tokenizer, limit):
    """Requests that exercise every signature, as `text_to_text_requests`."""
    texts = [f"the {sentinel_name(0)} sat {sentinel_name(1)}", sentinel_name(1), "a cat", ""]
    requests = [*text_to_text_requests(model, tokenizer, limit), ("fill", {"text": texts, "max_new_tokens": [9, 5, 4, 3]})]
    return requests + streaming_pair_requests(first=len(requests))


def filled(spelling, source, written, lengths):
    """The answer of `fill`; see `span_signatures`.

    Args:
        spelling: a `WithSentinels`.
        source: int32 RaggedTensor (B, None), texts with holes.
        written: int32 (B, L), what a model wrote for them.
        lengths: int32 (B,), how much of that counts.
    """
    number_BL = spelling.number(written)
    real = tf.sequence_mask(lengths, tf.shape(written)[1]) & (written != spelling.eos_id)
    begins = real & (number_BL >= 0)
    # For each token that was written the number of the sentinel that stands before it, -1 if none does.
    named = tf.ragged.boolean_mask(number_BL, begins).to_tensor(-1)
    named = tf.concat([tf.fill([tf.shape(written)[0], 1], -1), named], 1)
    belongs_BL = tf.where(
        real & spelling.is_text(written), tf.gather(named, tf.cumsum(tf.cast(begins, tf.int32), axis=1), batch_dims=1), -1
    )
    return with_spans(spelling, source, spelling.number(source.flat_values), written, belongs_BL)


def with_spans(spelling, source, numbers_N, written, belongs_BL):
    """Texts with their holes filled.

    Args:
        spelling: what detokenizes.
        source: int32 RaggedTensor (B, None), texts with holes.
        numbers_N: int32 (N,), the number of each token of the texts that is a hole, and -1 for the others.
        written: int32 (B, L), what a model wrote.
        belongs_BL: int32 (B, L), the number of the hole that each token which was written belongs to, or -1.

    Returns:
        dict of `text` string (B,), and `spans` string (B, M), filled up with empty strings.
    """
    is_hole = numbers_N >= 0
    row_H = tf.boolean_mask(row_ids(source), is_hole)
    taken_HL = tf.gather(belongs_BL, row_H) == tf.boolean_mask(numbers_N, is_hole)[:, None]
    spans = tf.ragged.boolean_mask(tf.gather(written, row_H), taken_HL)
    # The tokens of the texts one by one, then the spans; of those each place of a text takes one.
    count = tf.size(source.flat_values)
    splits = tf.concat([tf.range(tf.cast(count, tf.int64) + 1), spans.row_splits[1:] + tf.cast(count, tf.int64)], 0)
    rows = tf.RaggedTensor.from_row_splits(tf.concat([source.flat_values, spans.flat_values], 0), splits, validate=False)
    chosen = tf.gather(rows, tf.where(is_hole, count + tf.cumsum(tf.cast(is_hole, tf.int32)) - 1, tf.range(count)))
    whole = tf.RaggedTensor.from_row_splits(chosen.flat_values, tf.gather(chosen.row_splits, source.row_splits), validate=False)
    in_row = tf.reduce_sum(source.with_flat_values(tf.cast(is_hole, tf.int64)), 1)
    texts = tf.RaggedTensor.from_row_lengths(spelling.detokenize(spans), in_row, validate=False)
    return {"text": spelling.detokenize(whole), "spans": texts.to_tensor("")}
