"""What a batch is: the table of its names, its layout, and the random streams that its order comes from.

A *batch* is a dict of numpy arrays with these names, wherever a batch occurs in this project:

| name         | dtype, shape   | meaning                                                                          |
|--------------|----------------|----------------------------------------------------------------------------------|
| token_ids    | int32 (B, T)   | the inputs                                                                       |
| labels       | int32 (B, T)   | what is to be predicted; here the token that follows each input                  |
| loss_weights | float32 (B, T) | what each label counts in the loss: 1, or 0 where it is not scored               |
| padding_mask | bool (B, T)    | True for real tokens; absent when every position is real                         |
| segment_ids  | int32 (B, T)   | documents do not see each other; 0 is a document that began before the row       |
| positions    | int32 (B, T)   | position of a token in its document (its `eos` in front is 0) or in the row      |

Shape letters: B batch, T positions.
"""

import dataclasses

import numpy as np

# Each purpose draws from streams of its own: the seed's last 64 bits, with the two highest replaced except for the order.
_HIGH_BITS = {"order": (2**64, 0), "masking": (2**63, 2**63), "augmentation": (2**62, 2**62)}


def random_stream(seed, purpose, counter):
    """A numpy `Philox` bit generator that is a pure function of its arguments, under every version of numpy.

    Args:
        seed: any integer: the run's.
        purpose: what is drawn: `order`, `masking` or `augmentation`.
        counter: an integer of at least 0: the step or the epoch.
    """
    modulus, offset = _HIGH_BITS[purpose]
    return np.random.Philox(key=np.array([seed % modulus + offset, counter], np.uint64))


@dataclasses.dataclass(frozen=True)
class Layout:
    """How data is cut into batches.

    Attributes:
        seq_length: T, the most tokens of a row.
        batch_size: B, over all replicas.
        seed: the order of the data, and whatever else is random in a batch, is a pure function of (seed, step).
        separate_documents: for token streams, whether documents packed into one row see each other.
    """

    seq_length: int
    batch_size: int
    seed: int = 0
    separate_documents: bool = False
