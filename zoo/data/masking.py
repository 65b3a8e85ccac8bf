"""Which tokens a masked language model is asked for, and rows in which they are hidden.

A mask is drawn anew for every batch (dynamic masking, Liu et al. 2019, section 4.1), from a counter-based generator keyed by
(seed, step): the same step has the same mask in a run that was resumed. Of the chosen tokens 80% become the mask token, 10% a
random one, and 10% stay (Devlin et al. 2019, section 3.1).

Shape letters: B batch, T positions, P predictions a row.
"""

import math
from dataclasses import dataclass

import numpy as np

from zoo.config import Refusal
from zoo.data.batch import random_stream, uniform
from zoo.data.packing import PackedBatches

HIDDEN, REPLACED = 0.8, 0.1
# Joshi et al. 2020 (SpanBERT), section 3.1: lengths in words are geometric, and at most 10.
SPAN_STOP, LONGEST_SPAN = 0.2, 10


@dataclass(frozen=True)
class Masking:
    """How tokens are chosen.

    Attributes:
        rate: share of the ordinary tokens of a row.
        kind: `token`, `whole_word` (all pieces of a word or none), or `span` (words in a row, geometric in number).
        mask_id: hides a token.
        special_ids: never chosen, and never put in another's place.
        begins_word: bool (V,), whether an id begins a word.
    """

    rate: float
    kind: str
    mask_id: int
    special_ids: tuple
    begins_word: np.ndarray

    def num_predictions(self, seq_length):
        """P: the most tokens that are chosen in a row of `seq_length`."""
        return max(1, math.ceil(self.rate * seq_length))

    def apply(self, token_ids, random):
        """A batch of what a model reads and what it is asked for.

        Args:
            token_ids: int32 (B, T).
            random: a numpy bit generator.

        Returns:
            dict of `token_ids` (B, T) with some hidden; `label_positions` (B, P), where in the row each label belongs; `labels`
            (B, P), the tokens that stood there; `loss_weights` (B, P), 0 where a row has fewer than P.
        """
        batch_size, length = token_ids.shape
        num_predictions = self.num_predictions(length)
        ordinary = ~np.isin(token_ids, self.special_ids)
        ranks = self._ranks(token_ids, ordinary, random, num_predictions)
        quota = np.maximum(1, np.round(self.rate * ordinary.sum(1))).astype(int).clip(max=num_predictions)
        order = np.argsort(ranks, axis=1, kind="stable")
        # A unit is chosen whole or not at all: its last token must be within the quota, and the first unit is always in.
        chosen = self._within_quota(np.take_along_axis(ranks, order, 1), quota)[:, :num_predictions]
        positions = np.where(chosen, order[:, :num_predictions], 0)
        labels = np.take_along_axis(token_ids, positions, 1)
        hidden = token_ids.copy()
        rows, columns = np.nonzero(chosen)
        hidden[rows, positions[rows, columns]] = self._shown(labels[rows, columns], random)
        return {
            "token_ids": hidden,
            "label_positions": positions.astype(np.int32),
            "labels": np.where(chosen, labels, 0).astype(np.int32),
            "loss_weights": chosen.astype(np.float32),
        }

    def _ranks(self, token_ids, ordinary, random, num_predictions):
        """float (B, T): one random number a unit, the same for all of its tokens; infinity where nothing may be chosen."""
        batch_size, length = token_ids.shape
        begins = np.ones_like(ordinary)
        if self.kind != "token":
            # What follows a special token begins a word, whatever piece it is.
            begins = self.begins_word[token_ids] | ~ordinary
            begins[:, 1:] |= ~ordinary[:, :-1]
            begins[:, 0] = True
        if self.kind == "span":
            begins = _spans(begins, ordinary, random)
        unit = np.cumsum(begins, 1) - 1 + np.arange(batch_size)[:, None] * length
        draws = uniform(random, batch_size * length)
        too_long = np.bincount(unit.ravel(), minlength=batch_size * length) > num_predictions
        return np.where(ordinary & ~too_long[unit], draws[unit], np.inf)

    @staticmethod
    def _within_quota(ranks, quota):
        """bool (B, T) for tokens sorted by the rank of their unit: whether the unit ends within the quota of its row.

        ranks  .1 .1 .4 .6 .6 inf    quota 4
        chosen  T  T  T  F  F  F     the third unit would end at the fifth token
        """
        length = ranks.shape[1]
        last_of_unit = np.ones_like(ranks, bool)
        last_of_unit[:, :-1] = ranks[:, 1:] != ranks[:, :-1]
        ends = np.where(last_of_unit, np.arange(1, length + 1), length + 1)
        unit_end = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
        return (unit_end <= np.maximum(quota, unit_end[:, 0])[:, None]) & np.isfinite(ranks)

    def _shown(self, labels, random):
        """What stands in place of chosen tokens (N,)."""
        fate = uniform(random, len(labels))
        ordinary_ids = np.setdiff1d(np.arange(len(self.begins_word)), self.special_ids)
        others = ordinary_ids[(uniform(random, len(labels)) * len(ordinary_ids)).astype(int)]
        return np.where(fate < HIDDEN, self.mask_id, np.where(fate < HIDDEN + REPLACED, others, labels))


def require_mask(tokenizer):
    """Raises Refusal unless the vocabulary has what masked language modelling needs."""
    if None in (tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id):
        raise Refusal(
            "Masked language modelling needs a vocabulary with tokens that begin, end and hide; the "
            f"{tokenizer.registered_name} "
            "tokenizer has none: take --tokenizer=wordpiece or unigram."
        )


def _spans(begins, ordinary, random):
    """bool (B, T): where a row of words, cut into spans of geometric length, begins a new one; specials stand alone."""
    draws = uniform(random, begins.size).reshape(begins.shape)
    lengths = 1 + np.floor(np.log1p(-draws) / math.log1p(-SPAN_STOP)).astype(int).clip(0, LONGEST_SPAN - 1)
    spans = np.zeros_like(begins)
    for row, (words, plain) in enumerate(zip(begins, ordinary, strict=True)):
        left = 0
        for column in np.flatnonzero(words):
            if left == 0 or not plain[column]:
                spans[row, column] = True
                left = lengths[row, column] if plain[column] else 1
            left -= 1
    return spans


def _generator(seed, step):
    # The data's order uses (seed, epoch); another key keeps the two apart.
    return random_stream(seed, "masking", step)


class MaskedBatches:
    """Training batches: windows of a stream, each between `cls_id` and `sep_id`, with tokens hidden.

    Windows run on across documents, with the `eos_id` between them left in (full sentences, Liu et al. 2019, section 4.2).

    Args:
        stream: as `PackedBatches` takes it.
        layout: a `Layout`.
        masking: a `Masking`.
        tokenizer: for its special ids.
        pairs: `none`, or how a window is cut into two parts; see `paired`.
    """

    def __init__(self, stream, layout, masking, tokenizer, pairs="none"):
        if layout.seq_length < 6:
            raise Refusal(
                "Masked rows have a special token at each end, and perhaps one between two parts: seq_length is at "
                "least 6, got "
                f"{layout.seq_length}."
            )
        if pairs == "next_sentence" and layout.batch_size < 2:
            raise Refusal("pairs=next_sentence takes a second part from another row: batch_size is at least 2, got 1.")
        self._windows = PackedBatches(stream, layout.seq_length - _num_marks(pairs), layout.batch_size, layout.seed)
        self._seed, self._masking, self._tokenizer, self._pairs = layout.seed, masking, tokenizer, pairs

    @property
    def steps_per_epoch(self):
        return self._windows.steps_per_epoch

    def starts_epoch(self, step):
        """No state is carried."""
        return True

    def batch(self, step):
        """The batch of training step `step`, counted from 0."""
        return self._hidden(self._windows.batch(step), step)

    @property
    def num_units(self):
        """How many windows `of` knows."""
        return self._windows.num_units

    def of(self, chosen, step):
        """The batch of some windows, as `PackedBatches.of` counts them."""
        return self._hidden(self._windows.of(chosen, step), step)

    def _hidden(self, windows, step):
        windows, random = windows["token_ids"], _generator(self._seed, step)
        rows = {"token_ids": framed(windows, self._tokenizer)}
        if self._pairs != "none":
            rows = paired(windows, self._pairs, self._tokenizer, random)
        return {**rows, **self._masking.apply(rows["token_ids"], random)}


def _num_marks(pairs):
    """How many special tokens stand in a row."""
    return 2 if pairs == "none" else 3


def framed(token_ids, tokenizer):
    """int32 (B, T + 2): rows between `cls_id` and `sep_id`."""
    shape = (len(token_ids), 1)
    ends = np.full(shape, tokenizer.cls_id, np.int32), np.full(shape, tokenizer.sep_id, np.int32)
    return np.concatenate([ends[0], token_ids, ends[1]], axis=1)


def paired(token_ids, kind, tokenizer, random):
    """Windows cut into two parts, in every second row otherwise than the text has them.

        cls  first part  sep  second part  sep

    A window is cut at a place drawn from its middle half. A part is any stretch of the stream, in which a document may end.

    Args:
        token_ids: int32 (B, T).
        kind: `sentence_order`, which lets the parts change places, or `next_sentence`, which takes the second part of another
            row.
        tokenizer: for its special ids.
        random: a numpy bit generator.

    Returns:
        dict of `token_ids` and `segment_ids` int32 (B, T + 3); `pair_labels` int32 (B,), 1 for parts that stand as in the text;
        `pair_weights` float32 (B,), 1.
    """
    count, length = token_ids.shape
    cuts = np.clip((length * (0.25 + 0.5 * uniform(random, count))).astype(int), 1, length - 1)
    as_written = uniform(random, count) >= 0.5
    others = (np.arange(count) + 1 + (uniform(random, count) * max(count - 1, 1)).astype(int)) % count
    begin, end = [tokenizer.cls_id], [tokenizer.sep_id]
    rows, segments = np.empty((2, count, length + 3), np.int32)
    for i, (cut, same) in enumerate(zip(cuts, as_written, strict=True)):
        first, second = token_ids[i, :cut], token_ids[i if same or kind == "sentence_order" else others[i], cut:]
        if not same and kind == "sentence_order":
            first, second = second, first
        rows[i] = np.concatenate([begin, first, end, second, end])
        segments[i] = np.arange(length + 3) >= len(first) + 2
    weights = np.ones(count, np.float32)
    return {"token_ids": rows, "segment_ids": segments, "pair_labels": as_written.astype(np.int32), "pair_weights": weights}


def evaluation_batches(stream, layout, masking, tokenizer, pairs="none"):
    """Yields batches of all windows of a stream in order, masked the same at every call. The last ones are padded.

    With pairs, rows that are full are `paired`, as long as there are two in a batch; the others do not count as pairs.
    """
    body, batch_size = layout.seq_length - _num_marks(pairs), layout.batch_size
    for index, first in enumerate(range(0, len(stream), body * batch_size)):
        windows = np.full((batch_size, body), tokenizer.pad_id, np.int32)
        mask = np.zeros((batch_size, body), bool)
        ids = stream[first : first + body * batch_size]
        windows.ravel()[: len(ids)], mask.ravel()[: len(ids)] = ids, True
        rows, random = _evaluated(windows, mask, tokenizer, pairs, _generator(0, index))
        masked = masking.apply(np.where(rows["padding_mask"], rows["token_ids"], tokenizer.pad_id), random)
        yield {**rows, **masked}


def _evaluated(windows, mask, tokenizer, pairs, random):
    """Rows of an evaluation before anything is hidden, with their `padding_mask`; and the generator."""
    marks = _num_marks(pairs)
    rows = {
        "token_ids": np.pad(framed(windows, tokenizer), ((0, 0), (0, marks - 2)), constant_values=tokenizer.pad_id),
        "padding_mask": np.pad(mask, ((0, 0), (1, 1)), constant_values=True),
    }
    if pairs == "none":
        return rows, random
    count = len(windows)
    rows["padding_mask"] = np.pad(rows["padding_mask"], ((0, 0), (0, 1)))
    rows |= {
        "segment_ids": np.zeros_like(rows["token_ids"]), "pair_labels": np.zeros(count, np.int32),
        "pair_weights": np.zeros(count, np.float32),
    }  # fmt: skip
    full = int(mask.all(1).sum())  # they stand before those that are not
    if full > 1:
        for name, values in paired(windows[:full], pairs, tokenizer, random).items():
            rows[name][:full] = values
        rows["padding_mask"][:full] = True
    return rows, random
