"""Parts of a split: how much of it, from where, and the same at every call."""

import numpy as np
import pytest

from zoo.data.excerpts import LEAST, REACH, STRETCHES, drawn, excerpt

EOS = 0


class Stream(np.ndarray):
    """Ids with what `TokenShards` tell of them."""

    num_bytes, lost_bytes, eos_id = 3_000_000, 30, EOS


def stream_of(lengths, seed=0):
    """A stream of documents of these lengths; ids rise, so that each tells its place."""
    ids = np.arange(sum(lengths) + len(lengths) + 1)
    ids[np.cumsum([0, *(length + 1 for length in lengths)])] = EOS
    return ids.astype(np.int32).view(Stream)


def test_whole_documents_from_all_of_the_stream():
    stream = stream_of(np.random.default_rng(1).integers(1, 400, 5_000).tolist())
    part = excerpt(stream, 50_000)
    ids = part[:]
    assert len(part) == len(ids) == 50_001 and len(part.spans) == STRETCHES
    assert ids[0] == EOS and ids.dtype == np.int32
    for (_, before), (start, stop) in zip([(0, 0), *part.spans], part.spans, strict=False):
        assert before <= start < stop
        assert stream[start - 1] == EOS or start == part.spans[0][0]
    assert all(stream[stop - 1] == EOS for _, stop in part.spans[:-1])  # the last is cut where there are enough
    starts = np.array([start for start, _ in part.spans])
    assert (np.diff(starts) > len(stream) / STRETCHES / 4).all()  # they lie apart
    assert starts[0] < len(stream) / STRETCHES and starts[-1] > len(stream) * (1 - 1 / STRETCHES)


def test_slices_are_those_of_the_ids():
    part = excerpt(stream_of([300] * 1_000), 40_000)
    ids = part[:]
    for start, stop in [(0, 1), (0, 9_000), (2_500, 2_501), (7, 39_000), (40_000, 50_000), (41_000, 42_000), (5, 5)]:
        np.testing.assert_array_equal(part[start:stop], ids[start:stop])


def test_it_is_the_same_at_every_call_and_another_for_another_size():
    stream = stream_of([200] * 2_000)
    assert excerpt(stream, 9_000).spans == excerpt(stream, 9_000).spans != excerpt(stream, 20_000).spans


@pytest.mark.parametrize("num_tokens", [1, 10, LEAST, 70_000, 199_998])
@pytest.mark.parametrize("lengths", [[200_000], [1] * 100_000, [150_000, 10, 60_000]], ids=["one", "short", "long"])
def test_the_number_of_tokens_is_that_asked_for_whatever_the_documents(lengths, num_tokens):
    stream = stream_of(lengths)
    part = excerpt(stream, num_tokens)
    places = np.concatenate([np.arange(*span) for span in part.spans])
    assert len(part) == num_tokens + 1 and (np.diff(places) > 0).all() and places[-1] < len(stream)


def test_all_of_a_stream_that_is_not_longer():
    stream = stream_of([500] * 50)
    for num_tokens in (len(stream) - 1, 10**9):
        np.testing.assert_array_equal(excerpt(stream, num_tokens)[:], stream)


def test_bytes_go_by_the_tokens():
    stream = stream_of([99] * 10_000)
    part = excerpt(stream, 250_000)
    assert part.num_bytes == pytest.approx(750_000) and part.lost_bytes == pytest.approx(7.5) and part.eos_id == EOS


def test_of_a_large_stream_little_is_read():
    class Counting:
        eos_id, read = EOS, 0

        def __len__(self):
            return 10**9

        def __getitem__(self, key):
            Counting.read += key.stop - key.start
            return np.ones(key.stop - key.start, np.int32)

    assert len(excerpt(Counting(), 50_000)) == 50_001
    assert 0 < Counting.read < 2 * STRETCHES * REACH


def test_units_are_drawn_whole():
    units = np.repeat(np.arange(300), np.random.default_rng(2).integers(1, 6, 300))
    chosen = drawn(units, 100)
    taken = set(units[chosen].tolist())
    assert (np.diff(chosen) > 0).all() and chosen.tolist() == np.flatnonzero([unit in taken for unit in units]).tolist()
    assert 100 <= len(chosen) < 105 and min(taken) < 30 and max(taken) > 270
    np.testing.assert_array_equal(chosen, drawn(units, 100))
    np.testing.assert_array_equal(drawn(units, 10**6), np.arange(len(units)))
