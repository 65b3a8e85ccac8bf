"""One or two texts as one row of ids, natively and in graph, and batches of such rows.

    begin  text  end                  begin  text  end  second text  end
    0      0     0      segment ids   0      0     0    1            1

`begin` and `end` are the tokenizer's [CLS] and [SEP], or its `eos_id` where it has none.

Shape letters: B batch, T positions.
"""

import numpy as np
import tensorflow as tf

from zoo.config import Refusal
from zoo.data.batch import random_stream


def marks(tokenizer):
    """(begin, end): the ids that stand before and after texts."""
    begin = tokenizer.eos_id if tokenizer.cls_id is None else tokenizer.cls_id
    return begin, tokenizer.eos_id if tokenizer.sep_id is None else tokenizer.sep_id


def kept_lengths(lengths, room):
    """How many tokens of each of one or two texts remain when there is room for `room`: the longer one gives way first.

    Args:
        lengths: list of ints, or of integer tensors (B,).
        room: int.
    """
    minimum, maximum = (tf.minimum, tf.maximum) if tf.is_tensor(lengths[0]) else (min, max)
    if len(lengths) == 1:
        return [minimum(lengths[0], room)]
    first = minimum(lengths[0], maximum(room - lengths[1], room // 2))
    return [first, minimum(lengths[1], room - first)]


def row(parts, tokenizer, max_tokens):
    """Ids of one or two texts -> (token ids, segment ids) of a row of at most `max_tokens`, int32 arrays."""
    begin, end = marks(tokenizer)
    lengths = kept_lengths([len(part) for part in parts], max_tokens - 1 - len(parts))
    ids, segments = [begin], [0]
    for number, (part, length) in enumerate(zip(parts, lengths, strict=True)):
        ids += [*part[:length], end]
        segments += [number] * (length + 1)
    return np.array(ids, np.int32), np.array(segments, np.int32)


def overlong(parts, max_tokens):
    """Whether the ids of one or two texts, with the marks around them, do not fit into a row."""
    return sum(map(len, parts)) + 1 + len(parts) > max_tokens


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

    def batch(self, step):
        """The batch of training step `step`, counted from 0."""
        samples = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        chosen = np.empty_like(samples)
        for epoch in range(samples[0] // self.num_examples, samples[-1] // self.num_examples + 1):
            here = samples // self.num_examples == epoch
            chosen[here] = self._order(epoch)[samples[here] % self.num_examples]
        return self._make(chosen.tolist(), step)

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
