"""Rows of ids that stand for examples, and batches of such rows.

A `Frame` says what stands around the texts of a row. Training, evaluation, decoding and serving all use it, natively here and
in graph in `zoo/signatures/rows.py`.

    before  text  after                  before  text  between  second text  after
    0       0     0      segment ids     0       0     0        1            1

Shape letters: B batch, T positions.
"""

from dataclasses import dataclass

import numpy as np

from zoo.config import Refusal
from zoo.data.batch import random_stream


@dataclass(frozen=True)
class Frame:
    """What stands around the texts of a row: tuples of ids, each of which may be empty.

        >>> frame = Frame(before=(2,), between=(3,), after=(3,), segments=True)
        >>> ids, segments = row([[7, 8], [9]], frame, 6)
        >>> ids.tolist(), segments.tolist()
        ([2, 7, 8, 3, 9, 3], [0, 0, 0, 0, 1, 1])

    Attributes:
        before: in front of the first text.
        between: between two texts.
        after: behind the last text.
        segments: whether the model tells the parts of a row by `segment_ids`.
        target_start: what a decoder reads before the first token of its target.
    """

    before: tuple = ()
    between: tuple = ()
    after: tuple = ()
    segments: bool = False
    target_start: tuple = ()

    def num_special(self, num_parts=1):
        """How many ids of a row with so many texts are the frame's."""
        return len(self.before) + len(self.between) * (num_parts - 1) + len(self.after)

    def behind(self, part, num_parts):
        """The ids behind text number `part`, counted from 0."""
        return self.after if part == num_parts - 1 else self.between


def framed_texts(kind, tokenizer):
    """The `Frame` of one or two texts as a model of this kind reads them, whatever its task asks of them.

    It is `[CLS] text [SEP] text [SEP]`, with `bos_id` or `eos_id` where the vocabulary has no such tokens. An encoder tells the
    parts by segment ids. An encoder-decoder reads `source_template` around a source: nothing in front and `eos_id` behind it,
    unless the tokenizer says otherwise. Its decoder starts with the padding id of targets.
    """
    begin = next(i for i in (tokenizer.cls_id, tokenizer.bos_id, tokenizer.eos_id) if i is not None)
    end = tokenizer.eos_id if tokenizer.sep_id is None else tokenizer.sep_id
    if kind == "encoder_decoder":
        return Frame(*tokenizer.source_template, target_start=(tokenizer.target.pad_id,))
    # RoBERTa has two separators between the texts of a pair.
    separators = max(1, len(tokenizer.special.template[1])) if kind == "encoder" and tokenizer.special.template else 1
    return Frame((begin,), (end,) * separators, (end,), segments=kind == "encoder")


def kept_lengths(lengths, room, minimum=min, maximum=max):
    """How many tokens of each of one or two texts remain when there is room for `room`: the longer one gives way first.

    Args:
        lengths: list of ints, or of whatever `minimum` and `maximum` take.
        room: int.
        minimum, maximum: of two lengths.
    """
    if len(lengths) == 1:
        return [minimum(lengths[0], room)]
    first = minimum(lengths[0], maximum(room - lengths[1], room // 2))
    return [first, minimum(lengths[1], room - first)]


def row(parts, frame, limit):
    """Ids of one or two texts -> (token ids, segment ids) of a row of at most `limit`, int32 arrays."""
    lengths = kept_lengths([len(part) for part in parts], limit - frame.num_special(len(parts)))
    ids, segments = [*frame.before], [0] * len(frame.before)
    for number, (part, length) in enumerate(zip(parts, lengths, strict=True)):
        behind = frame.behind(number, len(parts))
        ids += [*part[:length], *behind]
        segments += [number] * (length + len(behind))
    return np.array(ids, np.int32), np.array(segments, np.int32)


def overlong(parts, frame, limit):
    """Whether the ids of one or two texts, with the frame around them, do not fit into a row."""
    return sum(map(len, parts)) + frame.num_special(len(parts)) > limit


def row_batch(rows, width, frame, pad_id):
    """A batch of `token_ids`, `padding_mask`, and where the frame has them `segment_ids`, all (B, T).

    Args:
        rows: list of what `row` gives.
        width: T.
        frame: a `Frame`.
        pad_id: what fills rows up.
    """
    ids = [ids for ids, _ in rows]
    batch = {
        "token_ids": padded(ids, width, pad_id),
        "padding_mask": np.arange(width) < np.array([len(one) for one in ids])[:, None],
    }
    if frame.segments:
        batch["segment_ids"] = padded([segments for _, segments in rows], width, 0)
    return batch


def padded(rows, width, fill):
    """1-d arrays -> one array (B, width), filled up at the right."""
    out = np.full((len(rows), width), fill, rows[0].dtype)
    for i, values in enumerate(rows):
        out[i, : len(values)] = values
    return out


class ExampleBatches:
    """Training batches of examples; `batch(step)` is a pure function of (seed, step).

    Each epoch takes every example once, in an order of its own drawn from a counter-based generator keyed by
    (seed, epoch). When the examples of an epoch are used up in the midst of a batch, the next epoch's follow.

    Args:
        num_examples: how many there are.
        batch_size: B.
        seed: any integer.
        make: (numbers of examples, step) -> batch of them, a dict of arrays that are of one shape at every step.
    """

    def __init__(self, num_examples, batch_size, seed, make):
        if num_examples < 1:
            raise Refusal("There is nothing to train on: the train split holds no examples.")
        self.num_examples, self.batch_size, self.seed, self._make = num_examples, batch_size, seed, make
        self.steps_per_epoch = -(-num_examples // batch_size)

    def starts_epoch(self, step):
        """True: rows never go on from the batch before."""
        return True

    @property
    def num_units(self):
        """How many examples there are."""
        return self.num_examples

    def of(self, chosen, step):
        """The batch of the examples with these numbers, int (B,)."""
        return self._make(chosen.tolist(), step)

    def batch(self, step):
        """The batch of training step `step`, counted from 0."""
        samples = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        chosen = np.empty_like(samples)
        for epoch in range(samples[0] // self.num_examples, samples[-1] // self.num_examples + 1):
            here = samples // self.num_examples == epoch
            chosen[here] = self._order(epoch)[samples[here] % self.num_examples]
        return self.of(chosen, step)

    def _order(self, epoch):
        random = random_stream(self.seed, "order", epoch)
        # Sorting raw draws, unlike Generator.permutation, gives the same order under every version of numpy.
        return np.argsort(random.random_raw(self.num_examples), kind="stable")


def in_order(num_examples, batch_size, make):
    """Yields batches of every example once, in order; the last one is filled up with rows of no weight.

    Args:
        num_examples: how many there are.
        batch_size: B.
        make: numbers of examples -> batch of them, with `loss_weights` that begin with the axis B.
    """
    for start in range(0, num_examples, batch_size):
        chosen = list(range(start, min(start + batch_size, num_examples)))
        missing = batch_size - len(chosen)
        batch = make(chosen + chosen[:1] * missing)
        if missing:
            batch["loss_weights"][-missing:] = 0
        yield batch
