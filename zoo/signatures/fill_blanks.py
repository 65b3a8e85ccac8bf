"""Texts with blanks, in graph: a language model of blank infilling writes what stands in each, one blank after the other.

    fill  "Return a [MASK] of the [MASK]."
    reads              Return a [MASK] of the [MASK]. [sop]
    writes and reads   list [eop] -> [sop] items [eop]
          "Return a list of the items."

A blank is written as the mask that stood for such a one in training: `[MASK]` for a short span, `[sMASK]` for a sentence,
`[gMASK]` for the rest of a text.

Shape letters: B batch, P prompt length, L tokens written, N tokens of all texts, M blanks of a text, V vocabulary.
"""

import re
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from zoo.data.examples import Frame
from zoo.decoding import generate, is_one_of
from zoo.signatures.fill_spans import first_pieces, marked_ids, with_spans
from zoo.signatures.generation import (
    OPTIONS,
    STRINGS,
    as_many_as_fit,
    checked_options,
    default,
    language_model_requests,
    language_model_signatures,
    longest_text,
)  # fmt: skip
from zoo.signatures.request import refusal_unless, signature, with_one_row_apart
from zoo.signatures.rows import left_padded_rows
from zoo.signatures.streaming import streaming_requests, streaming_signatures
from zoo.tokenizers.base import row_ids

# How a blank is written by who wants it filled, in the order of `BlankIds`; and a letter for each.
BLANKS, LETTERS = ("[MASK]", "[sMASK]", "[gMASK]"), "msg"
BLANK, SENTENCE, REST = BLANKS


class BlankIds(NamedTuple):
    """The ids of blank infilling: masks of a short span, of a sentence, of the rest of a text; the begin and end of a piece."""

    mask: int
    sentence_mask: int
    suffix_mask: int
    sop: int
    eop: int


def begin_ids(tokenizer):
    """What stands before a text: the id of [CLS], where the vocabulary has it."""
    return () if tokenizer.cls_id is None else (tokenizer.cls_id,)


class WithBlanks:
    """A tokenizer whose texts end with `eop`, or where a document ends, and which leaves out ids behind its vocabulary.

    Args:
        tokenizer: a `Tokenizer`.
        ids: a `BlankIds`.
        blanks: those of `BLANKS` that the model was trained to fill.
    """

    def __init__(self, tokenizer, ids, blanks=BLANKS):
        self.tokenizer, self.ids, self.blanks = tokenizer, ids, blanks
        # Besides `eop`: these end a text, and so a blank that is the rest of it.
        self.end_ids = tuple(dict.fromkeys(i for i in (tokenizer.eos_id, *tokenizer.stop_ids) if i != ids.eop))
        self.vocab_size, self.pad_id, self.eos_id = tokenizer.vocab_size, tokenizer.pad_id, ids.eop
        self.stop_ids = (ids.eop, *tokenizer.stop_ids)
        self.encode, self.tokenize = tokenizer.encode, tokenizer.tokenize

    def decode(self, ids):
        """Ids -> string."""
        return self.tokenizer.decode([token_id for token_id in ids if token_id < self.vocab_size and token_id not in self.ids])

    def detokenize(self, token_ids):
        """int32 RaggedTensor (B, None) -> string (B,)."""
        known = token_ids.flat_values < self.vocab_size
        for special in self.ids:
            known &= token_ids.flat_values != special
        return self.tokenizer.detokenize(tf.ragged.boolean_mask(token_ids, token_ids.with_flat_values(known)))

    def is_blank(self, ids):
        """bool, of the shape of `ids`: whether a token is the mask of a blank."""
        return is_one_of(ids, self.ids[: len(BLANKS)])

    def tokenize_blanks(self, texts):
        """string (B,) -> int32 RaggedTensor (B, None), with a mask for each of `BLANKS`; a space before a blank belongs to it.

        A blank that the model was not trained to fill, or text behind the rest of a text, is an InvalidArgumentError.
        """
        for name, letter in zip(BLANKS, LETTERS, strict=True):
            texts = tf.strings.regex_replace(texts, re.escape(name), BLANK + letter)
        pieces = tf.strings.split(texts, BLANK)
        words, marked = pieces.flat_values, ~first_pieces(pieces)
        letters, skipped = tf.strings.substr(words, 0, 1), tf.cast(marked, tf.int32)
        words = tf.strings.substr(words, skipped, tf.strings.length(words) - skipped)
        followed = tf.concat([marked[1:], tf.zeros_like(marked[:1])], 0) | (words != "")
        checks = [
            refusal_unless(~tf.reduce_any(marked & (letters == letter)), self._untrained(name))
            for name, letter in zip(BLANKS, LETTERS, strict=True) if name not in self.blanks
        ]  # fmt: skip
        sentence = f"{REST} stands for the rest of a text, so nothing may stand behind it."
        checks.append(refusal_unless(~tf.reduce_any(marked & (letters == LETTERS[2]) & followed), sentence))
        with tf.control_dependencies(checks):
            kinds = tf.argmax(tf.cast(tf.boolean_mask(letters, marked)[:, None] == tf.constant(list(LETTERS)), tf.int32), 1)
        marks = tf.gather(tf.constant(self.ids[: len(BLANKS)], tf.int32), kinds)
        return marked_ids(self.tokenizer, pieces.with_flat_values(words), marked, marks)

    def _untrained(self, name):
        what = dict(zip(BLANKS, ("short spans", "sentences", "the rest of a text"), strict=True))[name]
        return f"{name} stands for {what}, which this model was not trained to write; it fills {' and '.join(self.blanks)}."


def blank_signatures(model, spelling, frame, draft=None):
    """The functions that a model of blank infilling answers requests with.

    Args:
        model: a `LanguageModel` with two positions a token.
        spelling: a `WithBlanks`.
        frame: what stands around a prompt, the task's `Frame`: the mask of a suffix and the begin of a piece behind it.
        draft: as for `language_model_signatures`; `fill` goes on without.

    Returns:
        Name -> `tf.function`: those of `language_model_signatures` and `streaming_signatures`, which write what stands in a
        blank behind the prompt (`score`: in a blank that is the whole text), and

        - `fill`: `text` string (B,), with one of `BLANKS` for each blank, and `max_new_tokens` int32 (B,), for all blanks of a
          text together, an end for each included -> `text` string (B,), the text with its blanks filled, and `spans` string
          (B, M), what was written in each, filled up with empty strings.
    """

    @signature(STRINGS, OPTIONS["max_new_tokens"][0])
    def fill(text, max_new_tokens=default("max_new_tokens")):
        options = checked_options(text, max_new_tokens=max_new_tokens)
        source = spelling.tokenize_blanks(text)
        written = _fill(model, spelling, frame, source, options["max_new_tokens"])
        is_blank = spelling.is_blank(source.flat_values)
        before = tf.cumsum(tf.cast(is_blank, tf.int32), exclusive=True)
        first = tf.gather(tf.concat([before, [0]], 0), tf.gather(source.row_splits, row_ids(source)))
        real_BL = tf.sequence_mask(written.lengths, tf.shape(written.token_ids)[1])
        ends_BL = real_BL & (written.token_ids == spelling.ids.eop)
        number_BL = tf.cumsum(tf.cast(ends_BL, tf.int32), axis=1, exclusive=True)
        belongs_BL = tf.where(real_BL & ~ends_BL & ~is_one_of(written.token_ids, spelling.end_ids), number_BL, -1)
        return with_spans(spelling, source, tf.where(is_blank, before - first, -1), written.token_ids, belongs_BL)

    signatures = language_model_signatures(model, spelling, frame, draft)
    return {**signatures, **streaming_signatures(model, spelling, frame), "fill": fill}


def blank_requests(model, spelling):
    """Requests that exercise every signature: (signature, inputs as lists, perhaps the number of an earlier request)."""
    requests = language_model_requests(model, spelling)
    requests += streaming_requests(model, spelling, first=len(requests))
    first, last = spelling.blanks[0], spelling.blanks[-1]
    texts = [f"the {first} sat {last}" if first != REST else f"the {first}", last, "a cat", ""]
    return [*requests, ("fill", {"text": texts, "max_new_tokens": [9, 5, 4, 3]})]


def _fill(model, spelling, frame, source, max_new_tokens):
    """The `Decoded` that a model writes for texts with blanks, int32 RaggedTensor (B, None): the blanks of each one after the
    other, an `eop` behind each, and at last the `eos_id` of the vocabulary. A text's rest may end with that alone."""
    ids, pad_id = spelling.ids, spelling.pad_id
    frame = Frame(before=frame.before, after=(ids.sop,))
    token_ids, padding_mask, lengths = left_padded_rows([source], frame, pad_id, longest_text(model), what="text")
    is_blank = spelling.is_blank(token_ids) & padding_mask
    has_rest = tf.reduce_any((token_ids == ids.suffix_mask) & padding_mask, 1)
    places = tf.maximum(tf.cumsum(tf.cast(padding_mask, tf.int32), axis=1) - 1, 0)
    count = tf.reduce_sum(tf.cast(is_blank, tf.int32), 1)
    most = tf.reduce_max(tf.concat([count, [1]], 0))
    blanks = tf.ragged.boolean_mask(places, is_blank).to_tensor(0, shape=tf.stack([tf.size(count), most]))
    max_new_tokens = tf.where(count > 0, as_many_as_fit(model, max_new_tokens, lengths), 0)
    room = tf.shape(token_ids)[1] + tf.reduce_max(tf.concat([max_new_tokens, [0]], 0))
    end = spelling.tokenizer.eos_id
    may_end = tf.constant(np.arange(model.config.vocab_size) == end)
    may_write = tf.constant(_writable(spelling, model.config.vocab_size))
    may_write_rest = may_write | is_one_of(tf.range(model.config.vocab_size), spelling.end_ids)

    def step(token_ids, state, padding_mask):
        number, within = state["number"], state["within"]
        if padding_mask is None:
            ended = token_ids[:, 0] == ids.eop
            number, within = number + tf.cast(ended, tf.int32), tf.where(ended, 1, within + 1)
            token_ids = tf.where(ended[:, None], ids.sop, token_ids)
        place = tf.gather(state["blanks"], tf.minimum(number, tf.shape(state["blanks"])[1] - 1), batch_dims=1)
        positions = tf.stack([place, within], -1)[:, None]
        inputs = {}
        if padding_mask is not None:  # the text itself, and the token that begins its first blank
            text = tf.stack([places, tf.zeros_like(places)], -1)[:, :-1]
            positions, inputs = tf.concat([text, positions], 1), {"prefix_lengths": lengths - 1}
        logits, kept = model.next_logits(token_ids, state["model"], padding_mask, positions=positions, **inputs)
        in_rest = state["has_rest"] & (number >= state["count"] - 1)
        allowed = tf.where(in_rest[:, None], may_write_rest, may_write)
        allowed = tf.where((number >= state["count"])[:, None], may_end, allowed)
        return tf.where(allowed, logits, -float("inf")), {**state, "model": kept, "number": number, "within": within}

    zeros = tf.zeros_like(count)
    state = {
        "model": model.init_state(tf.size(count), room), "number": zeros, "within": zeros + 1, "count": count, "blanks": blanks,
        "has_rest": has_rest,
    }  # fmt: skip
    return generate(
        step, state, token_ids, padding_mask, max_new_tokens=max_new_tokens, stop_ids=spelling.end_ids, pad_id=pad_id,
        enter=with_one_row_apart if model.one_row_apart else None,
    )  # fmt: skip


def _writable(spelling, vocab_size):
    """bool (V,): the ids that may be written in a blank: text, and its end."""
    writable = np.arange(vocab_size) < spelling.vocab_size
    writable[[*spelling.ids, *spelling.end_ids]] = False
    writable[spelling.ids.eop] = True
    return writable
