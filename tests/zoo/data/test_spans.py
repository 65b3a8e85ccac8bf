"""Spans taken out of a text: what is put back is the text, and every number by hand.

Shape letters: B batch, T positions of a row, S positions of a source, L tokens of a window.
"""

import collections

import numpy as np
import pytest

from zoo.config import Refusal
from zoo.data.batch import Layout
from zoo.data.spans import (
    LONGEST_BLANK,
    BlankInfilling,
    SpanBatches,
    SpanCorruption,
    _segments,
    evaluation_batches,
    window_of,
)

EOS, PAD, START, V = 1, 0, 0, 90
SENTINELS = tuple(range(V - 1, V - 41, -1))  # 89, 88, ...
MASK, SMASK, GMASK, SOP, EOP, CLS, STOP = 50, 51, 52, 53, 54, 55, 9


def corruption(**options):
    return SpanCorruption(**{**dict(density=0.15, mean_length=3.0), **options}, sentinel_ids=SENTINELS, eos_id=EOS,
                          start_id=START, pad_id=PAD)  # fmt: skip


def infilling(**options):
    ends = np.zeros(V, bool)
    ends[STOP] = True
    given = dict(mask_id=MASK, sentence_mask_id=SMASK, suffix_mask_id=GMASK, sop_id=SOP, eop_id=EOP, pad_id=PAD,
                 special_ids=(EOS, PAD), begin_ids=(CLS,), ends_sentence=ends)  # fmt: skip
    return BlankInfilling(**{**given, **options})


def text(count, length, seed=0, eos=False):
    random = np.random.default_rng(seed)
    ids = random.integers(2, 49, (count, length)).astype(np.int32)
    if eos:
        ids[random.random(ids.shape) < 0.03] = EOS
    return ids


def philox(seed=0):
    return np.random.Philox(key=np.array([seed, 5], np.uint64))


def rebuilt(batch, row):
    """The window of a row of span corruption, from its source and its target."""
    target = batch["labels"][row][batch["loss_weights"][row] > 0].tolist()
    source = batch["source_ids"][row][batch["source_mask"][row]].tolist()
    assert source[-1] == target[-1] == EOS
    spans, tokens = {}, []
    for token in target[:-1]:
        if token in SENTINELS:
            spans[token] = []
            last = token
        else:
            spans[last].append(token)
    assert list(spans) == list(SENTINELS[: len(spans)])
    for token in source[:-1]:
        tokens += spans[token] if token in SENTINELS else [token]
    return tokens, spans, source


class TestSpanCorruption:
    def test_the_papers_sizes(self):
        made = SpanCorruption(0.15, 3.0, tuple(range(32_099, 31_999, -1)), EOS, START, PAD)
        assert made.sizes(512) == (568, 114)
        assert made.parts(568) == (85, 28)

    @pytest.mark.parametrize("seq_length", [4, 5, 7, 16, 33, 100])
    @pytest.mark.parametrize(("density", "mean"), [(0.15, 3.0), (0.5, 3.0), (0.15, 8.0), (0.3, 1.0)])
    def test_sources_and_targets_fill_their_rows_exactly(self, seq_length, density, mean):
        made = corruption(density=density, mean_length=mean)
        window, target = made.sizes(seq_length)
        batch = made.apply(text(3, window), philox(), seq_length)
        assert batch["source_mask"].all() and (batch["loss_weights"] == 1).all()
        assert batch["source_ids"].shape == (3, seq_length) and batch["labels"].shape == (3, target)
        going, spans = made.parts(window + 1)
        assert window + 1 - going + spans + 1 > seq_length  # one more token would not fit

    @pytest.mark.parametrize("seq_length", [6, 31, 97])
    def test_what_is_put_back_is_the_text(self, seq_length):
        made = corruption()
        window = made.sizes(seq_length)[0]
        for seed in range(5):
            ids = text(7, window, seed, eos=True)
            batch = made.apply(ids, philox(seed), seq_length)
            for row in range(7):
                tokens, spans, source = rebuilt(batch, row)
                assert tokens == ids[row].tolist()
                assert (sum(map(len, spans.values())), len(spans)) == made.parts(window)
                # A span that stays comes first, and none is empty: no two sentinels are neighbours.
                assert source[0] not in SENTINELS and min(map(len, spans.values())) > 0
                assert not any(a in SENTINELS and b in SENTINELS for a, b in zip(source, source[1:], strict=False))
            assert (batch["token_ids"][:, 0] == START).all()
            np.testing.assert_array_equal(batch["token_ids"][:, 1:], batch["labels"][:, :-1])

    def test_by_hand(self):
        # 4 tokens, half of them go, in spans of one: the only way is to take every second one
        batch = corruption(density=0.5, mean_length=1.0).apply(np.array([[21, 22, 23, 24]], np.int32), philox(), 5)
        assert batch["source_ids"].tolist() == [[21, 89, 23, 88, EOS]]
        assert batch["labels"].tolist() == [[89, 22, 88, 24, EOS]]
        assert batch["token_ids"].tolist() == [[START, 89, 22, 88, 24]]

    def test_all_cuts_are_equally_likely(self):
        count = 12_000
        made = _segments(np.full(count, 5), np.full(count, 3), 7, philox())
        sizes = np.diff(made.before, axis=1)
        assert (sizes[:, 3:] == 0).all() and (made.segments[:, 5:] == -1).all()
        seen = collections.Counter(map(tuple, sizes[:, :3].tolist()))
        assert set(seen) == {(1, 1, 3), (1, 3, 1), (3, 1, 1), (1, 2, 2), (2, 1, 2), (2, 2, 1)}
        assert max(abs(number - 2000) for number in seen.values()) < 5 * 41  # five standard deviations

    def test_short_rows_are_padded_and_rows_of_one_token_weigh_nothing(self):
        made = corruption()
        window, target = made.sizes(31)
        lengths = np.array([window, 13, 2, 1, 0])
        ids = text(5, window)
        batch = made.apply(ids, philox(), 31, lengths)
        for row, length in enumerate(lengths[:3]):
            tokens, spans, _ = rebuilt(batch, row)
            assert tokens == ids[row, :length].tolist()
            assert (sum(map(len, spans.values())), len(spans)) == made.parts(length)
        assert batch["loss_weights"][3:].sum() == 0
        assert batch["source_mask"][3:].sum(1).tolist() == [1, 1]
        assert (batch["source_ids"][3:] == PAD).all() and batch["labels"].shape == (5, target)

    def test_refusals(self):
        with pytest.raises(Refusal, match="41 spans, and the vocabulary has 40 sentinels"):
            corruption(density=0.5, mean_length=1.0).sizes(83)
        with pytest.raises(Refusal, match="at least 4"):
            corruption().sizes(3)
        with pytest.raises(Refusal, match="density"):
            corruption(density=1.0)
        with pytest.raises(Refusal, match="mean_length"):
            corruption(mean_length=0.5)


def filled(batch, row):
    """(window, spans, mask ids, prefix) of a row of blank infilling, with everything checked on the way."""
    ids, labels, weights, positions = (batch[name][row] for name in ("token_ids", "labels", "loss_weights", "positions"))
    prefix, end = int(batch["prefix_lengths"][row]), int(batch["padding_mask"][row].sum())
    assert batch["padding_mask"][row, :end].all() and (ids[end:] == PAD).all() and (weights[end:] == 0).all()
    assert (weights[:prefix] == 0).all() and (weights[prefix:end] == 1).all()
    assert positions[:prefix].tolist() == [[i, 0] for i in range(prefix)] and ids[0] == CLS
    masks = [i for i in range(prefix) if ids[i] in (MASK, SMASK, GMASK)]
    spans, at = {}, prefix
    while at < end:
        assert ids[at] == SOP
        stop = at + 1
        while stop < end and ids[stop] != SOP:
            stop += 1
        span = ids[at + 1 : stop].tolist()
        assert labels[at:stop].tolist() == [*span, EOP]
        place = int(positions[at, 0])
        assert positions[at:stop].tolist() == [[place, i + 1] for i in range(stop - at)]
        spans[place] = span
        at = stop
    assert sorted(spans) == masks
    window = []
    for place in range(1, prefix):
        window += spans.get(place, [int(ids[place])])
    return window, spans, [int(ids[i]) for i in masks], prefix


class TestBlankInfilling:
    @pytest.mark.parametrize("weights", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (3, 2, 2)])
    def test_what_is_put_back_is_the_text(self, weights):
        made = infilling(weights=weights)
        window = made.window(130)
        for seed in range(6):
            ids = text(9, window, seed, eos=True)
            batch = made.apply(ids, philox(seed), 130)
            for row in range(9):
                assert filled(batch, row)[0] == ids[row].tolist()

    def test_short_spans(self):
        made = infilling()
        ids, sizes = text(200, made.window(200), eos=True), collections.Counter()
        batch = made.apply(ids, philox(), 200)
        quota, shuffled = int(0.15 * ids.shape[1]), 0
        for row in range(200):
            _, spans, masks, _ = filled(batch, row)
            assert set(masks) == {MASK}
            assert not any(EOS in span for span in spans.values())
            sizes.update(map(len, spans.values()))
            shuffled += list(spans) != sorted(spans)
            total = sum(map(len, spans.values()))
            assert quota * 0.5 < total < quota + LONGEST_BLANK  # some spans end early, before an eos
        share = np.array([sizes[n] for n in range(1, 8)]) / sum(sizes.values())
        poisson = np.array([3.0**n / np.prod(np.arange(1.0, n + 1)) for n in range(1, 8)]) / np.expm1(3.0)
        assert np.abs(share - poisson).max() < 0.04
        assert shuffled > 195

    def test_spans_lie_evenly_and_apart(self):
        made = infilling()
        window = made.window(100)
        ids = np.tile(np.arange(window), (4000, 1)).astype(np.int32) + 100  # no special ones
        batch = BlankInfilling(**{**made.__dict__, "ends_sentence": None}).apply(ids, philox(), 100)
        hidden = np.zeros(window)
        for row in range(4000):
            _, spans, _, prefix = filled(batch, row)
            for place, span in spans.items():
                hidden[np.array(span) - 100] += 1
                assert place + 1 not in spans and (place + 1 == prefix or batch["token_ids"][row, place + 1] >= 100)
        share = hidden / 4000
        assert abs(share.mean() - 0.15) < 0.03
        assert share[8:-8].max() < 1.35 * share[8:-8].min()

    def test_whole_sentences(self):
        made = infilling(weights=(0, 1, 0))
        ids = text(60, made.window(150), 3, eos=True)
        batch, several = made.apply(ids, philox(), 150), 0
        for row in range(60):
            _, spans, masks, _ = filled(batch, row)
            assert set(masks) == {SMASK}
            line = ids[row].tolist()
            sentences, begin = set(), 0
            for i, token in enumerate(line):
                if token in (EOS, STOP):
                    sentences.add(tuple(line[begin : i + (token == STOP)]))
                    begin = i + 1
            sentences.add(tuple(line[begin:]))
            assert {tuple(span) for span in spans.values()} <= sentences
            sizes = [len(span) for span in spans.values()]
            assert sum(sizes) >= int(0.15 * len(line)) or len(spans) == made.most_spans(len(line))
            several += len(spans) > 1
        assert several > 20

    def test_the_end_of_the_text(self):
        made = infilling(weights=(0, 0, 1))
        window = made.window(60)
        assert window == 60 - 1 - 2
        ids = text(500, window, 1)
        batch = made.apply(ids, philox(), 60)
        sizes = []
        for row in range(500):
            _, spans, masks, prefix = filled(batch, row)
            assert masks == [GMASK] and batch["token_ids"][row, prefix - 1] == GMASK
            sizes.append(len(spans[prefix - 1]))
        assert min(sizes) == 15 and max(sizes) == window - 1  # the ceiling of a quarter of 57, and all but one
        assert abs(np.mean(sizes) - (15 + 56) / 2) < 3

    def test_whole_words(self):
        letters, begins = np.ones(V, bool), np.arange(V) % 3 == 0  # two in three go on with a word
        letters[[STOP, 10, 11]] = False
        made = infilling(weights=(0, 0, 0, 1), rate=0.5, mean_length=1.0, letters=letters, begins_word=begins)
        window, lengths = made.window(120), collections.Counter()
        assert window + 1 + 2 * made.most_spans(window) <= 120
        ids = text(300, window, 3, eos=True)
        batch = made.apply(ids, philox(), 120)
        for row in range(300):
            back, spans, masks, _ = filled(batch, row)
            line = ids[row].tolist()
            assert back == line and set(masks) == {MASK}
            inside = [letters[token] and token not in (EOS, PAD) for token in line]
            starts = [i for i in range(window) if inside[i] and (begins[line[i]] or not i or not inside[i - 1])]
            here, gone = 0, 0
            for place in range(1, batch["prefix_lengths"][row]):  # behind [CLS]
                if place in spans:
                    first, last = here, here + len(spans[place])
                    words = [i for i in starts if first <= i < last]
                    assert words[0] == first and EOS not in line[first:last]  # it begins with a word
                    assert last == window or last in starts or not inside[last]  # and ends with one
                    lengths[len(words)] += EOS not in line[last : last + 1]
                    gone += len(words)
                here += len(spans.get(place, "."))
            if len(spans) < made.most_spans(window) and line.count(EOS) == 0:
                assert gone >= int(0.5 * len(starts))
        shares = [lengths[n] / sum(lengths.values()) for n in (1, 2, 3)]
        np.testing.assert_allclose(shares, [0.582, 0.291, 0.097], atol=0.04)  # 1 / (e - 1), and then by half and by a third

    def test_words_by_hand(self):
        letters, begins = np.zeros(V, bool), np.zeros(V, bool)
        letters[[20, 21, 22]] = begins[20] = True
        made = infilling(weights=(0, 0, 0, 1), rate=0.3, mean_length=0.01, letters=letters, begins_word=begins)
        line = [20, 21, 30, 22, 21, 20, EOS, 21, 30, 30]  # (20 21) . (22 21) (20) eos (21) . .
        seen = set()
        for seed in range(40):
            spans = filled(made.apply(np.array([line], np.int32), philox(seed), 40), 0)[1]
            seen.add(tuple(map(tuple, spans.values())))
        assert seen == {((20, 21),), ((22, 21),), ((20,),), ((21,),)}

    def test_kinds_are_mixed_by_weight(self):
        made = infilling(weights=(2, 1, 1))
        batch = made.apply(text(2000, made.window(80)), philox(), 80)
        kinds = collections.Counter(filled(batch, row)[2][0] for row in range(2000))
        assert abs(kinds[MASK] / 2000 - 0.5) < 0.05 and abs(kinds[SMASK] / 2000 - 0.25) < 0.05

    def test_short_rows(self):
        made = infilling(weights=(1, 1, 1))
        lengths = np.array([made.window(50), 11, 2, 1, 0])
        ids = text(5, lengths[0], 2)
        for seed in range(20):
            batch = made.apply(np.where(np.arange(lengths[0]) < lengths[:, None], ids, PAD), philox(seed), 50, lengths)
            for row in range(3):
                assert filled(batch, row)[0] == ids[row, : lengths[row]].tolist()
            assert batch["loss_weights"][3:].sum() == 0 and batch["padding_mask"][:, 0].all()

    def test_a_row_always_fits(self):
        for seq_length in (5, 9, 33, 128):
            made = infilling(weights=(1, 1, 1))
            window = made.window(seq_length)
            assert window + 1 + 2 * made.most_spans(window) <= seq_length
            for seed in range(30):
                ids = text(5, window, seed)
                batch = made.apply(ids, philox(seed), seq_length)
                assert [filled(batch, row)[0] for row in range(5)] == ids.tolist()

    def test_refusals(self):
        with pytest.raises(Refusal, match="weights"):
            infilling(weights=(0, 0, 0))
        with pytest.raises(Refusal, match="rate"):
            infilling(rate=1.0)
        with pytest.raises(Refusal, match="mean_length"):
            infilling(mean_length=0.0)
        with pytest.raises(Refusal, match="which tokens end one"):
            infilling(weights=(0, 1, 0), ends_sentence=None)
        with pytest.raises(Refusal, match="which begin a word"):
            infilling(weights=(0, 0, 0, 1))
        with pytest.raises(Refusal, match="three or four numbers"):
            infilling(weights=(1, 1))
        with pytest.raises(Refusal, match="at least 5 tokens"):
            infilling().window(4)


@pytest.mark.parametrize("spans", [corruption(), infilling(weights=(1, 1, 1))])
class TestBatches:
    def stream(self):
        ids = text(1, 900, 4, eos=True)[0]
        ids[0] = ids[-1] = EOS
        return ids

    def test_a_batch_depends_on_seed_and_step_alone(self, spans):
        batches = SpanBatches(self.stream(), Layout(40, 3, seed=6), spans)
        forwards = [batches.batch(step) for step in range(20)]
        for step in (13, 2, 2):
            for name, value in SpanBatches(self.stream(), Layout(40, 3, seed=6), spans).batch(step).items():
                np.testing.assert_array_equal(value, forwards[step][name])
                assert value.dtype.name in ("int32", "bool", "float32")
        other = SpanBatches(self.stream(), Layout(40, 3, seed=7), spans).batch(0)
        assert (other["token_ids"] != forwards[0]["token_ids"]).any()
        assert batches.starts_epoch(4)
        assert batches.steps_per_epoch == -(-(899 // window_of(spans, 40)) // 3)

    def test_evaluation_has_every_token_once(self, spans):
        stream = self.stream()
        made = list(evaluation_batches(stream, Layout(40, 3, seed=1), spans))
        back = rebuilt if isinstance(spans, SpanCorruption) else filled
        tokens = []
        for batch in made:
            for row in np.flatnonzero(batch["loss_weights"].sum(1)):
                tokens += back(batch, row)[0]
        left = len(stream) - len(tokens)
        assert left <= 1 and tokens == stream[: len(tokens)].tolist()
        for one, other in zip(made, evaluation_batches(stream, Layout(40, 3, seed=2), spans), strict=True):
            for name, value in one.items():
                np.testing.assert_array_equal(value, other[name])
        few = list(evaluation_batches(stream[:10], Layout(40, 3), spans))
        assert len(few) == 1 and (few[0]["loss_weights"].sum(1) > 0).tolist() == [True, False, False]


@pytest.mark.parametrize(("mean_length", "least"), [(0.1, 80), (0.3, 80), (3.0, 105)])
def test_spans_of_nearly_always_one_token_leave_long_windows_and_fit_all_the_same(mean_length, least):
    made = infilling(weights=(1.0, 0.0, 0.0), mean_length=mean_length, rate=0.15 if mean_length == 3 else 0.2)
    window = made.window(128)
    assert window >= least
    ids = np.full((400, window), 5, np.int32)
    batch = made.apply(ids, philox(), 128)
    labels = (batch["loss_weights"] > 0).sum(1) - (batch["labels"] == made.eop_id).sum(1)
    # The share of tokens that go is reached in all rows: no span was left out for want of room.
    assert labels.min() >= int(made.rate * window)
