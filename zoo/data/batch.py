"""What a batch is: the table of its names, its layout, and the random streams that its order comes from.

A *batch* is a dict of numpy arrays with these names, and no others, wherever a batch occurs in this project. A model takes
those of `INPUTS`; the others belong to the head of a task or to its loss.

| name            | dtype, shape            | meaning                                                                      |
|-----------------|-------------------------|------------------------------------------------------------------------------|
| token_ids       | int32 (B, T)            | the inputs; of an encoder-decoder what its decoder reads                     |
| padding_mask    | bool (B, T)             | True for real tokens; absent when every position is real                     |
| segment_ids     | int32 (B, T)            | language model: the document of a token, and documents do not see each       |
|                 |                         | other; 0 is one that began before the row. Encoder: the part of a pair, or   |
|                 |                         | whatever else a task marks in a row                                          |
| positions       | int32 (B, T), (B, T, 2) | position of a token in its document, or in the row                           |
| characters      | int32 (B, T, L)         | code points of the word that begins at a token, filled up with 0; all 0 at   |
|                 |                         | tokens that begin none                                                       |
| prefix_lengths  | int32 (B,)              | so many tokens of each row, from its first on, see each other                |
| source_ids      | int32 (B, S)            | the text that an encoder reads for a decoder                                 |
| source_mask     | bool (B, S)             | True for real tokens of the source                                           |
| labels          | int32 (B,), (B, T), ... | what is to be predicted: a class, or a token or tag for each position that   |
|                 |                         | is asked for; two positions (B, 2) of an answer                              |
| loss_weights    | float32, as the labels  | what each label counts in the loss: 1, or 0 where it is not scored           |
| allowed         | bool (B, W, C)          | of partial labels, the tags that each word may have; absent where all are    |
|                 |                         | whole                                                                        |
| label_positions | int32 (B, P)            | the positions of a row that are asked for; absent when all are               |
| candidates      | bool (B, T)             | where an answer may start or end                                             |
| pair_labels     | int32 (B,)              | whether the two parts of a row stand as they did in the text                 |
| pair_weights    | float32 (B,)            | what each of those counts                                                    |

Batches of word vectors have further names: `zoo/data/pairs.py`, `subwords.py` and `cooccurrence.py` have their tables. Those
that judge word vectors have `word_ids` int32 (B, 2) or (B, 4), -1 for unknown words; `groups` int32 (B,), which file or kind a
question is of; `judgements` float32 (B,) of pairs; `least_counts` float32 (B,), how often a candidate for an answer occurs at
least.

Shape letters: B batch, T positions, S positions of a source, P positions that are asked for, L characters of a word, W words,
C classes.
"""

import dataclasses

import numpy as np

# Name -> (dtype, numbers of axes that it may have).
NAMES = {
    "token_ids": ("int32", (2,)), "padding_mask": ("bool", (2,)), "segment_ids": ("int32", (2,)),
    "positions": ("int32", (2, 3)), "characters": ("int32", (3,)),
    "prefix_lengths": ("int32", (1,)), "source_ids": ("int32", (2,)), "source_mask": ("bool", (2,)),
    "labels": ("int32", (1, 2)), "loss_weights": ("float32", (1, 2)), "label_positions": ("int32", (2,)),
    "allowed": ("bool", (3,)),
    "candidates": ("bool", (2,)), "pair_labels": ("int32", (1,)), "pair_weights": ("float32", (1,)),
    "contexts_before": ("int32", (2,)), "contexts_after": ("int32", (2,)), "negative_ids": ("int32", (2,)),
    "input_rates": ("float32", (2,)), "label_rates": ("float32", (2,)), "negative_rates": ("float32", (2,)),
    "path_nodes": ("int32", (3,)), "path_codes": ("int32", (3,)), "path_rates": ("float32", (3,)), "counts": ("float32", (2,)),
    "part_ids": ("int32", (2,)), "part_places": ("int32", (2,)), "part_rates": ("float32", (2,)),
    "word_ids": ("int32", (2,)), "groups": ("int32", (1,)), "judgements": ("float32", (1,)), "least_counts": ("float32", (1,)),
}  # fmt: skip
# Those that a model may take.
INPUTS = (
    "token_ids", "padding_mask", "segment_ids", "positions", "characters", "prefix_lengths", "source_ids", "source_mask",
)  # fmt: skip
# Those that belong to the head of a task or to its loss.
NO_INPUTS = tuple(name for name in NAMES if name not in INPUTS)

# Each purpose draws from streams of its own. The first three are parted by the highest bits of the seed, (modulus, offset), as
# runs that are under way know them; all others by the highest word of the generator's counter.
_HIGH_BITS = {"order": (2**64, 0), "masking": (2**63, 2**63), "augmentation": (2**62, 2**62)}
_BLOCKS = {"spans": 1, "pairs": 2, "split": 3, "negatives": 4, "sampling": 5, "windows": 6, "canaries": 7, "excerpts": 8}


def random_stream(seed, purpose, counter):
    """A numpy `Philox` bit generator that is a pure function of its arguments, under every version of numpy.

        random_stream(7, "order", 0).random_raw(2)    the same two integers for ever

    Args:
        seed: any integer: the run's.
        purpose: what is drawn: `order`, `masking`, `augmentation`, `spans`, `pairs`, `split`,
            `negatives`, `sampling`, `windows`, `canaries` or `excerpts`.
        counter: an integer of at least 0: the step or the epoch.
    """
    modulus, offset = _HIGH_BITS.get(purpose, (2**64, 0))
    key = np.array([seed % modulus + offset, counter], np.uint64)
    if purpose in _HIGH_BITS:
        return np.random.Philox(key=key)
    return np.random.Philox(key=key, counter=np.array([0, 0, 0, _BLOCKS[purpose]], np.uint64))


def uniform(random, count):
    """float64 (count,) in [0, 1), from raw draws of a numpy bit generator: the same under every version of numpy."""
    return (random.random_raw(count) >> np.uint64(11)) * 2.0**-53


@dataclasses.dataclass(frozen=True)
class Layout:
    """How data is cut into batches.

    Attributes:
        seq_length: T, the most tokens of a row.
        batch_size: B, over all replicas.
        seed: the order of the data, and whatever else is random in a batch, is a pure function of (seed, step).
        separate_documents: for token streams, whether documents packed into one row see each other.
        pairs_share_rows: whether both texts of a pair stand in one row, as a language model reads them.
    """

    seq_length: int
    batch_size: int
    seed: int = 0
    separate_documents: bool = False
    pairs_share_rows: bool = False
