"""The graph side of byte-level BPE."""

import tensorflow as tf

from zoo.tokenizers.base import valid_utf8


class BPEGraph(tf.Module):
    """Byte-level BPE as tensors."""

    def __init__(self, pairs, ids, pieces):
        super().__init__()
        self._pieces = pieces

    def detokenize(self, token_ids):
        """int32 RaggedTensor (B, None) -> string (B,)."""
        pieces = tf.gather(tf.constant(self._pieces), token_ids.flat_values)
        return valid_utf8(tf.strings.unsorted_segment_join(pieces, token_ids.value_rowids(), token_ids.nrows()))
