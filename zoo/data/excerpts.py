"""Parts of a split that is too large to be judged whole: the same at every call, and taken from all of it.

excerpt(stream, 50_000)     of a stream some sixteen stretches of whole documents, where documents are short
drawn(units, 400)           of examples the numbers of 400 rows, those of one unit together
"""

import numpy as np

from zoo.data.batch import random_stream, uniform

STRETCHES, LEAST = 16, 2_048  # of a part: so many, each of at least so many tokens
REACH = 16_384  # tokens in which the end of a document is looked for


class Excerpt:
    """Stretches of a stream, one behind the other: `len(excerpt)` and `excerpt[start:stop]` (int32), like a stream.

    Attributes:
        spans: list of (start, stop) in the stream, in order.
        num_bytes, lost_bytes: the stream's, in proportion to the tokens.
        eos_id: the stream's.
    """

    def __init__(self, stream, spans):
        self.stream, self.spans = stream, spans
        self._starts = np.cumsum([0, *(stop - start for start, stop in spans)])
        share = (len(self) - 1) / max(len(stream) - 1, 1)
        self.num_bytes, self.lost_bytes = (getattr(stream, name, 0) * share for name in ("num_bytes", "lost_bytes"))
        self.eos_id = getattr(stream, "eos_id", None)

    def __len__(self):
        return int(self._starts[-1])

    def __getitem__(self, key):
        """Ids of a slice of step 1."""
        start, stop, _ = key.indices(len(self))
        pieces = [np.zeros(0, np.int32)]
        for begin, (first, last) in zip(self._starts.tolist(), self.spans, strict=False):
            low, high = max(start - begin, 0), min(stop - begin, last - first)
            if low < high:
                pieces.append(np.asarray(self.stream[first + low : first + high], np.int32))
        return np.concatenate(pieces)


def excerpt(stream, num_tokens):
    """An `Excerpt` of a stream with `num_tokens` tokens to be judged: one more than these, as the first has nothing before it.

    The stream is divided into equal parts, and a stretch begins at a random place of each. Both ends of a stretch are moved to
    the next end of a document, unless none is near, so that few texts lack their beginning or break off. The random places
    depend on the two numbers of tokens alone.

    Args:
        stream: `TokenShards`, or what is laid out like a stream and has its `eos_id`.
        num_tokens: positive; with as many as the stream has the excerpt is all of it.
    """
    total, wanted = len(stream), min(num_tokens + 1, len(stream))
    count = max(min(STRETCHES, wanted // LEAST), 1)
    spans, left = [], wanted
    for number, draw in enumerate(uniform(random_stream(0, "excerpts", 0), count).tolist()):
        aim = -(-left // (count - number))
        earliest = spans[-1][1] if spans else 0
        latest = total - left  # with room for all that is still to come
        low = max(total * number // count, earliest)
        high = max(min(total * (number + 1) // count - aim, latest), earliest)
        start = _after_end(stream, low + int(draw * max(high - low, 0)), latest) if latest > earliest else earliest
        start -= number == 0 and start > 0  # the first token is not judged: the end of the document before
        stop = start + left
        if number < count - 1:
            stop = _after_end(stream, start + aim - 1, start + min(2 * aim, left))
        spans.append((start, stop))
        left -= stop - start
    return Excerpt(stream, [span for span in spans if span[0] < span[1]])


def _after_end(stream, place, limit):
    """The first place above `place` that stands behind the end of a document, at most `limit`; `place` + 1 if none is near."""
    ids = np.asarray(stream[place : min(place + REACH, limit)])
    ends = np.flatnonzero(ids == stream.eos_id)
    return place + 1 + int(ends[0]) if len(ends) else min(place + 1, limit)


def drawn(units, count):
    """Numbers of at least `count` rows, int (rows,), in order: all rows of units that are drawn at random.

    Args:
        units: int (N,), what each row belongs to, such as a sentence.
        count: how many rows are wanted.
    """
    numbers, sizes = np.unique(units, return_counts=True)
    order = np.argsort(random_stream(0, "excerpts", 0).random_raw(len(numbers)), kind="stable")
    enough = int(np.searchsorted(np.cumsum(sizes[order]), count)) + 1
    return np.flatnonzero(np.isin(units, numbers[order[:enough]]))
