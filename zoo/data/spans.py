"""Spans taken out of a text, to be written by a model: T5's span corruption, and GLM's blank infilling.

Both cut a stream into windows as `PackedBatches` does and take spans out with random numbers keyed by (seed, step), so a batch
is a pure function of (seed, step). Documents run on in a window, with the `eos_id` between them.

**Span corruption** (Raffel et al. 2020, arXiv:1910.10683, section 3.1.4). Spans that stay and spans that go take turns, a span
that stays first. In the source a sentinel stands for each span that goes; the target says what stood there:

    text     Thank you for inviting me to your party last week
    source   Thank you <0> me to your party <1> week eos
    target   <0> for inviting <1> last eos

**Blank infilling** (Du et al. 2022, arXiv:2103.10360, section 2.1). One row: part A, the text with a mask for each span, seen
in both directions, then part B, the spans in random order, each behind `sop` and predicted up to `eop`:

    row        x1 x2 M x4 M   sop x5 x6   sop x3
    labels                    x5 x6 eop   x3 eop
    positions  0  1  2 3  4   4   4  4    2   2      of the mask in part A
               0  0  0 0  0   1   2  3    1   2      within the span

Shape letters: B batch, T positions of a row, S positions of a source, L tokens of a window, K spans of a row.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np

from zoo.config import Refusal
from zoo.data.batch import random_stream, uniform
from zoo.data.packing import PackedBatches

LONGEST_BLANK = 39  # Du et al. draw lengths from a Poisson distribution that is cut there


@dataclass(frozen=True)
class SpanCorruption:
    """How spans are chosen, and the ids that stand around them.

    Attributes:
        density: share of the tokens of a window that go.
        mean_length: tokens of a span in the mean.
        sentinel_ids: the ids that stand for spans, in the order of the text.
        eos_id: ends the source and the target.
        start_id: what a decoder reads before the first token of the target.
        pad_id: fills rows up.
    """

    density: float
    mean_length: float
    sentinel_ids: tuple
    eos_id: int
    start_id: int
    pad_id: int

    def __post_init__(self):
        if not 0 < self.density < 1:
            raise Refusal(f"density must be between 0 and 1, got {self.density}.")
        if self.mean_length < 1:
            raise Refusal(f"mean_length must be at least 1, got {self.mean_length}.")

    def parts(self, num_tokens):
        """(tokens that go, spans) of a window of so many tokens, which is at least 2: of each kind of span there is one."""
        return _parts(self.density, self.mean_length, num_tokens)

    def sizes(self, seq_length):
        """(L, T): the tokens of a window whose source fills `seq_length` exactly, and the length of its target.

        source = L - going + spans + 1,   target = going + spans + 1

        A source of 512 takes a window of 568 tokens and has a target of 114.

        Raises:
            Refusal: the source is too short for a span, or has more spans than there are sentinels.
        """
        if seq_length < 4:
            raise Refusal(f"A source needs a token, a sentinel and an end: seq_length is at least 4, got {seq_length}.")
        num_tokens = _longest_window(self.density, self.mean_length, seq_length)
        going, spans = self.parts(num_tokens)
        if spans > len(self.sentinel_ids):
            raise Refusal(
                f"A source of {seq_length} tokens has {spans} spans, and the vocabulary has {len(self.sentinel_ids)} "
                "sentinels: take a smaller seq_length, longer spans, or a vocabulary with more sentinels."
            )
        return num_tokens, going + spans + 1

    def apply(self, token_ids, random, seq_length, lengths=None):
        """A batch of windows with spans taken out.

        Args:
            token_ids: int32 (B, L), L as `sizes` has it.
            random: a numpy bit generator.
            seq_length: S.
            lengths: how many tokens each row has, int (B,), or None for L. Fewer than 2 are not scored.

        Returns:
            dict of `source_ids` int32 (B, S) and `source_mask`; `token_ids` (B, T), the target behind `start_id`; `labels` (B,
            T), the target; `loss_weights`, 0 behind its end.
        """
        count, window = token_ids.shape
        lengths = np.full(count, window) if lengths is None else np.asarray(lengths)
        scored = lengths >= 2
        going, spans = np.where(scored, np.array([self.parts(max(int(n), 2)) for n in lengths]).T, 0)
        gone = _segments(going, spans, window, random)
        stay = _segments(np.where(scored, lengths - going, 0), spans, window, random)
        source = np.full((count, seq_length), self.pad_id, np.int32)
        labels = np.full((count, self.sizes(seq_length)[1]), self.pad_id, np.int32)
        rows, items = np.nonzero(stay.segments >= 0)
        number = stay.segments[rows, items]  # so many spans have gone before the token
        source[rows, items + number] = token_ids[rows, items + gone.before[rows, number]]
        rows, items = np.nonzero(gone.segments >= 0)
        number = gone.segments[rows, items]
        labels[rows, items + number + 1] = token_ids[rows, items + stay.before[rows, number + 1]]
        rows, number = np.nonzero(np.arange(window) < spans[:, None])
        sentinels = np.array(self.sentinel_ids, np.int32)[number]
        source[rows, stay.before[rows, number + 1] + number] = sentinels
        labels[rows, gone.before[rows, number] + number] = sentinels
        rows = np.flatnonzero(scored)
        source_lengths, target_lengths = lengths - going + spans + 1, going + spans + 1
        source[rows, source_lengths[rows] - 1] = labels[rows, target_lengths[rows] - 1] = self.eos_id
        weights = (np.arange(labels.shape[1]) < target_lengths[:, None]) & scored[:, None]
        mask = (np.arange(seq_length) < source_lengths[:, None]) & scored[:, None]
        mask[:, 0] = True  # no model need cope with an empty row
        started = np.concatenate([np.full((count, 1), self.start_id, np.int32), labels[:, :-1]], axis=1)
        return {
            "source_ids": source, "source_mask": mask, "token_ids": started, "labels": labels,
            "loss_weights": weights.astype(np.float32),
        }  # fmt: skip


def _parts(density, mean_length, num_tokens):
    going = min(max(round(num_tokens * density), 1), num_tokens - 1)
    return going, min(max(round(going / mean_length), 1), going, num_tokens - going)


@functools.lru_cache
def _longest_window(density, mean_length, seq_length):
    """The most tokens whose source, without those that go and with a sentinel for each span and an end, has `seq_length`."""
    num_tokens = 2
    while True:
        going, spans = _parts(density, mean_length, num_tokens + 1)
        if num_tokens + 1 - going + spans + 1 > seq_length:
            return num_tokens
        num_tokens += 1


class _Segments:
    """`segments` int (B, L), the number of the segment of each item, -1 behind the last; `before` int (B, L + 1), how many
    items stand in the segments before each."""

    def __init__(self, segments, before):
        self.segments, self.before = segments, before


def _segments(items, parts, width, random):
    """Cuts items of each row into as many non-empty segments as it is to have, all cuts being equally likely.

    Args:
        items: int (B,), at most `width`.
        parts: int (B,), at most `items`.
        width: L.
        random: a numpy bit generator.
    """
    count = len(items)
    draws = random.random_raw(count * width).reshape(count, width)
    # Of the n - 1 places between two items the ones with the least draws are cut.
    inner = (np.arange(width) >= 1) & (np.arange(width) < items[:, None])
    ranks = np.argsort(np.argsort(np.where(inner, draws, np.uint64(2**64 - 1)), axis=1, kind="stable"), axis=1)
    begins = inner & (ranks < parts[:, None] - 1)
    there = np.arange(width) < items[:, None]
    segments = np.where(there, np.cumsum(begins, axis=1), -1)
    sizes = np.zeros((count, width), np.int64)
    np.add.at(sizes, (np.nonzero(there)[0], segments[there]), 1)
    return _Segments(segments, np.concatenate([np.zeros((count, 1), np.int64), np.cumsum(sizes, axis=1)], axis=1))


@dataclass(frozen=True)
class BlankInfilling:
    """How blanks are chosen, and the ids that stand around them. Each row draws one of these kinds, by weight:

    - short spans, with lengths from a Poisson distribution, until they hold `rate` of the row (`mask_id`)
    - whole sentences, until they hold `rate` of the row (`sentence_mask_id`)
    - the end of the row, from `suffix_rate` of it to all but one token (`suffix_mask_id`)
    - whole words, one or several in a row, until they hold `rate` of the words of the row (`mask_id`)

    Attributes:
        mask_id, sentence_mask_id, suffix_mask_id: [MASK], [sMASK] and [gMASK] in part A.
        sop_id, eop_id: stand before the input, and behind the labels, of a span.
        pad_id: fills rows up.
        special_ids: never in a short span or a sentence, such as `eos_id`.
        begin_ids: what stands before the text in part A, such as `cls_id`.
        weights: of the kinds; three numbers are without words.
        rate, suffix_rate: see above.
        mean_length: of the Poisson distribution from which the lengths of short spans are drawn, in tokens, and of whole words,
            in words; those below 1 are drawn again.
        ends_sentence: bool (V,), whether a token ends a sentence; None where no sentences are asked for.
        letters, begins_word: bool (V,), whether a token has a letter, and whether it begins a word whatever stands before it.
            A token with letters behind one that has none always does. None where no words are asked for.
    """

    mask_id: int
    sentence_mask_id: int
    suffix_mask_id: int
    sop_id: int
    eop_id: int
    pad_id: int
    special_ids: tuple
    begin_ids: tuple = ()
    weights: tuple = (1.0, 0.0, 0.0)
    rate: float = 0.15
    mean_length: float = 3.0
    suffix_rate: float = 0.25
    ends_sentence: np.ndarray | None = None
    letters: np.ndarray | None = None
    begins_word: np.ndarray | None = None

    def __post_init__(self):
        if len(self.weights) not in (3, 4) or min(self.weights) < 0 or not sum(self.weights):
            raise Refusal(
                "weights are three or four numbers of at least 0, for spans, sentences, suffixes and words, got "
                f"{self.weights}."
            )
        if not 0 < self.rate < 1 or not 0 < self.suffix_rate < 1:
            raise Refusal(f"rate and suffix_rate must be between 0 and 1, got {self.rate} and {self.suffix_rate}.")
        if self.mean_length <= 0:
            raise Refusal(f"mean_length must be positive, got {self.mean_length}.")
        if self.weights[1] and self.ends_sentence is None:
            raise Refusal("To leave out sentences it must be known which tokens end one.")
        if self._has_words and (self.letters is None or self.begins_word is None):
            raise Refusal("To leave out words it must be known which tokens have letters and which begin a word.")

    @property
    def _has_words(self):
        return len(self.weights) == 4 and self.weights[3] > 0

    def most_spans(self, num_tokens):
        """K: the most spans of a row. Four standard deviations more than the mean; what is drawn beyond is left out."""
        words = self._most_words(num_tokens) if self._has_words else 1
        if not self.weights[0] and not self.weights[1]:
            return words
        mean = self.rate * num_tokens / (self.mean_length / -math.expm1(-self.mean_length))
        spread = min(self.mean_length, 1 / self.mean_length)  # lengths of nearly always 1 hardly vary
        return max(words, math.ceil(mean + 4 * math.sqrt(mean * spread)))

    def _most_words(self, num_tokens):
        """The most spans of words, if every other token begins a word: three standard deviations more than the mean."""
        mean, square = (sum(n**power * p for n, p in enumerate(self._lengths, 1)) for power in (1, 2))
        spans = self.rate * num_tokens / 2 / mean
        return math.ceil(spans + 3 * math.sqrt(spans * (square / mean**2 - 1))) + 1

    @property
    def _lengths(self):
        """The probabilities of a length of 1, 2 and so on, a list."""
        terms = [self.mean_length**n / math.factorial(n) for n in range(1, LONGEST_BLANK + 1)]
        return [term / sum(terms) for term in terms]

    def window(self, seq_length):
        """L: the tokens of a window whose row fits in `seq_length`, with two more tokens for each span.

        Raises:
            Refusal: there is no room for a token and a span.
        """
        room = seq_length - len(self.begin_ids)
        fitting = [n for n in range(2, room) if n + 2 * self.most_spans(n) <= room]
        if not fitting:
            raise Refusal(f"A row with a blank needs at least {len(self.begin_ids) + 4} tokens, got seq_length {seq_length}.")
        return fitting[-1]

    def apply(self, token_ids, random, seq_length, lengths=None):
        """A batch of windows with blanks.

        Args:
            token_ids: int32 (B, L), L as `window` has it.
            random: a numpy bit generator.
            seq_length: T.
            lengths: how many tokens each row has, int (B,), or None for L. Fewer than 2 are not scored.

        Returns:
            dict of `token_ids` int32 (B, T), parts A and B; `padding_mask`; `positions` int32 (B, T, 2), in part A and in the
            span; `prefix_lengths` int32 (B,), of part A; `labels` (B, T) and `loss_weights`, 0 outside part B.
        """
        count, window = token_ids.shape
        lengths = np.full(count, window) if lengths is None else np.asarray(lengths)
        kind = np.searchsorted(np.cumsum(self.weights) / sum(self.weights), uniform(random, count), side="right").clip(0, 3)
        starts, ends = np.zeros((2, count, self.most_spans(window)), np.int64)
        kinds = (self._short, self._sentences, self._suffix, self._words)
        for number, spans in enumerate(kinds if self._has_words else kinds[:3]):
            rows = np.flatnonzero(kind == number)
            # All draws are made for every row: what a row gets does not depend on the kinds of the others.
            s, e = spans(token_ids, lengths, starts.shape[1], random)
            starts[rows], ends[rows] = s[rows], e[rows]
        ends = np.where((lengths >= 2)[:, None], ends, starts)
        order = np.argsort(random.random_raw(starts.size).reshape(starts.shape), axis=1, kind="stable")
        mask_ids = np.array([self.mask_id, self.sentence_mask_id, self.suffix_mask_id, self.mask_id], np.int32)[kind]
        return self._rows(token_ids, lengths, starts, ends, mask_ids, order, seq_length)

    def _short(self, token_ids, lengths, most, random):
        """(starts, ends) of spans of Poisson length that lie evenly over each row, with a token between them. Those that reach
        a special token end before it."""
        starts, ends = self._apart(lengths, token_ids.shape[1], most, random)
        return self._before_special(starts, ends, token_ids)

    def _apart(self, lengths, window, most, random):
        """(starts, ends) of spans that lie evenly over rows of `lengths` tokens or words, with one between them."""
        count = len(lengths)
        drawn = 1 + np.searchsorted(np.cumsum(self._lengths), uniform(random, count * most), side="right")
        drawn = drawn.clip(1, LONGEST_BLANK).reshape(count, most)
        quota = np.floor(self.rate * lengths)[:, None]
        through = np.cumsum(drawn, axis=1)
        # At least one stays for each span, besides the ones that are between two of them.
        fits = through + np.arange(1, most + 1) <= lengths[:, None]
        used = ((through - drawn < np.maximum(quota, 1)) & fits).cumprod(axis=1).astype(bool)
        drawn = np.where(used, drawn, 0)
        free = lengths - drawn.sum(1) - used.sum(1) + 1
        places = np.floor(uniform(random, count * most).reshape(count, most) * (free + 1).clip(1)[:, None]).astype(np.int64)
        places = np.sort(np.where(used, places, window), axis=1)
        starts = np.where(used, places + np.cumsum(drawn, axis=1) - drawn + np.arange(most), 0)
        return starts, starts + drawn

    def _before_special(self, starts, ends, token_ids):
        """Spans that reach a special token end before it, and those that begin with one begin behind it."""
        count, window = token_ids.shape
        # The first special token from each place on.
        special = np.isin(token_ids, self.special_ids)
        columns = np.where(special, np.arange(window), window)
        following = np.minimum.accumulate(columns[:, ::-1], axis=1)[:, ::-1]
        following = np.concatenate([following, np.full((count, 2), window)], axis=1)
        starts = np.where(np.take_along_axis(following, starts, 1) == starts, starts + 1, starts)
        ends = np.minimum(ends, np.take_along_axis(following, starts, 1))
        return starts, np.maximum(starts, ends)

    def _sentences(self, token_ids, lengths, most, random):
        """(starts, ends) of sentences in random order, until they hold their share of the row."""
        count, window = token_ids.shape
        draws = random.random_raw(count * window).reshape(count, window)
        if self.ends_sentence is None:
            return np.zeros((2, count, most), np.int64)
        real = np.arange(window) < lengths[:, None]
        special = np.isin(token_ids, self.special_ids) | ~real
        ends_here = self.ends_sentence[token_ids] | special
        begins = np.concatenate([np.ones((count, 1), bool), ends_here[:, :-1]], axis=1) & ~special
        columns = np.arange(window)
        # A sentence ends behind a token that ends it, or before a special one.
        stop = np.where(special, columns, np.where(ends_here, columns + 1, window))
        stop = np.minimum.accumulate(stop[:, ::-1], axis=1)[:, ::-1].clip(max=lengths[:, None])
        order = np.argsort(np.where(begins, draws, np.uint64(2**64 - 1)), axis=1, kind="stable")[:, :most]
        size = np.take_along_axis(np.where(begins, stop - columns, 0), order, 1)
        used = (size > 0) & (np.cumsum(size, axis=1) - size < np.floor(self.rate * lengths).clip(1)[:, None])
        spans = np.zeros((2, count, most), np.int64)
        spans[:, :, : used.shape[1]] = np.where(used, order, 0), np.where(used, order + size, 0)
        return spans

    def _words(self, token_ids, lengths, most, random):
        """(starts, ends) of words of Poisson number that lie evenly over each row, with a word between them."""
        count, window = token_ids.shape
        columns = np.arange(window)
        letters = self.letters[token_ids] & ~np.isin(token_ids, self.special_ids) & (columns < lengths[:, None])
        behind = np.concatenate([np.zeros((count, 1), bool), letters[:, :-1]], axis=1)
        begins = letters & (self.begins_word[token_ids] | ~behind)
        # A word ends before the next one, or before what has no letters.
        stop = np.where(begins | ~letters, columns, window)
        stop = np.minimum.accumulate(stop[:, ::-1], axis=1)[:, ::-1]
        stop = np.concatenate([stop[:, 1:], np.full((count, 1), window)], axis=1)
        first, last = self._apart(begins.sum(1), window, most, random)
        places = np.argsort(~begins, axis=1, kind="stable")  # of the words, and behind them of all other tokens
        starts = np.take_along_axis(places, first, 1)
        ends = np.take_along_axis(stop, np.take_along_axis(places, (last - 1).clip(0), 1), 1)
        starts, ends = np.where(last > first, starts, 0), np.where(last > first, ends, 0)
        return self._before_special(starts, ends, token_ids)

    def _suffix(self, token_ids, lengths, most, random):
        """(starts, ends) of one span a row: its end."""
        count = len(token_ids)
        least = np.ceil(self.suffix_rate * lengths).astype(np.int64).clip(1)
        size = least + np.floor(uniform(random, count) * (lengths - least).clip(1)).astype(np.int64)
        starts, ends = np.zeros((2, count, most), np.int64)
        starts[:, 0], ends[:, 0] = (lengths - size).clip(0), lengths
        return starts, ends

    def _rows(self, token_ids, lengths, starts, ends, mask_ids, order, seq_length):
        """The batch of given spans. Empty spans are left out; `order` int (B, K) is that of part B."""
        count, window = token_ids.shape
        by_place = np.argsort(np.where(ends > starts, starts, window), axis=1, kind="stable")
        starts, ends = (np.take_along_axis(values, by_place, 1) for values in (starts, ends))
        sizes, used = ends - starts, ends > starts
        first = len(self.begin_ids)
        earlier = np.cumsum(sizes, axis=1) - sizes
        masks = first + starts - earlier + np.arange(sizes.shape[1])  # where each mask stands in part A
        prefix = first + lengths - sizes.sum(1) + used.sum(1)
        ids = np.full((count, seq_length), self.pad_id, np.int32)
        labels, weights = ids.copy(), np.zeros(ids.shape, np.float32)
        positions = np.zeros((count, seq_length, 2), np.int32)
        positions[:, :, 0] = np.where(np.arange(seq_length) < prefix[:, None], np.arange(seq_length), 0)
        ids[:, :first] = self.begin_ids
        # Behind each place of the text: how many spans began before it, and how many tokens of them it is past.
        delta = np.zeros((2, count, window + 1), np.int64)
        rows, spans = np.nonzero(used)
        np.add.at(delta[0], (rows, starts[rows, spans]), 1)
        np.add.at(delta[1], (rows, ends[rows, spans]), 1)
        begun, ended = np.cumsum(delta, axis=2)[:, :, :window]
        gone, real = begun > ended, np.arange(window) < lengths[:, None]
        tokens = np.nonzero(real & ~gone)
        removed = np.concatenate([np.zeros((count, 1), np.int64), np.cumsum(sizes, axis=1)], axis=1)
        passed = ended[tokens]
        ids[tokens[0], first + tokens[1] - removed[tokens[0], passed] + passed] = token_ids[tokens]
        ids[rows, masks[rows, spans]] = mask_ids[rows]
        offsets = _offsets(np.where(used, sizes + 1, 0), order) + prefix[:, None]
        begin, end = offsets[rows, spans], offsets[rows, spans] + sizes[rows, spans]
        ids[rows, begin], labels[rows, end] = self.sop_id, self.eop_id
        token_rows, columns = np.nonzero(gone & real)
        span = begun[token_rows, columns] - 1
        within = columns - starts[token_rows, span]
        ids[token_rows, offsets[token_rows, span] + 1 + within] = token_ids[token_rows, columns]
        labels[token_rows, offsets[token_rows, span] + within] = token_ids[token_rows, columns]
        for r, at, place in ((rows, begin, 1), (token_rows, offsets[token_rows, span] + 1 + within, within + 2)):
            positions[r, at, 1] = place
            weights[r, at] = 1
        positions[rows, begin, 0] = masks[rows, spans]
        positions[token_rows, offsets[token_rows, span] + 1 + within, 0] = masks[token_rows, span]
        total = prefix + np.where(used, sizes + 1, 0).sum(1)
        return {
            "token_ids": ids, "padding_mask": np.arange(seq_length) < np.maximum(total, 1)[:, None], "positions": positions,
            "prefix_lengths": prefix.astype(np.int32), "labels": labels, "loss_weights": weights,
        }  # fmt: skip


def _offsets(sizes, order):
    """int (B, K): where each span begins when the spans stand one behind the other in `order`."""
    ordered = np.take_along_axis(sizes, order, 1)
    offsets = np.empty_like(sizes)
    np.put_along_axis(offsets, order, np.cumsum(ordered, axis=1) - ordered, 1)
    return offsets


class SpanBatches:
    """Training batches of a stream with spans taken out; `batch(step)` is a pure function of (seed, step).

    Args:
        stream: as `PackedBatches` takes it.
        layout: a `Layout`: `seq_length` is S of a `SpanCorruption`, T of a `BlankInfilling`.
        spans: a `SpanCorruption` or a `BlankInfilling`.
    """

    def __init__(self, stream, layout, spans):
        self._windows = PackedBatches(stream, window_of(spans, layout.seq_length), layout.batch_size, layout.seed)
        self._layout, self._spans = layout, spans

    @property
    def steps_per_epoch(self):
        return self._windows.steps_per_epoch

    def starts_epoch(self, step):
        """No state is carried."""
        return True

    def batch(self, step):
        """The batch of training step `step`, counted from 0."""
        windows = self._windows.batch(step)["token_ids"]
        return self._spans.apply(windows, random_stream(self._layout.seed, "spans", step), self._layout.seq_length)


def window_of(spans, seq_length):
    """L: the tokens of a window whose row has `seq_length`."""
    return spans.sizes(seq_length)[0] if isinstance(spans, SpanCorruption) else spans.window(seq_length)


def evaluation_batches(stream, layout, spans, max_tokens=None):
    """Yields batches of all windows of a stream in order, with spans taken out the same at every call. The last ones are
    padded.

    Args:
        stream, layout, spans: as for `SpanBatches`; the seed does not count.
        max_tokens: only so many tokens, from the front.
    """
    window, size = window_of(spans, layout.seq_length), layout.batch_size
    end = len(stream) if max_tokens is None else min(len(stream), max_tokens)
    for index, first in enumerate(range(0, end, window * size)):
        ids = np.asarray(stream[first : min(first + window * size, end)], np.int32)
        rows = np.full(window * size, spans.pad_id, np.int32)
        rows[: len(ids)] = ids
        lengths = (len(ids) - window * np.arange(size)).clip(0, window)
        yield spans.apply(rows.reshape(size, window), random_stream(0, "spans", index), layout.seq_length, lengths)
