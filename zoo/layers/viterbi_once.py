"""Viterbi where a sequence takes some tags at most once, such as the beginning of a core role.

Shape letters: B batch, W words, C classes, S states: the classes and the outside of a sentence.
"""

import numpy as np
from keras import ops

from zoo.layers import crf


def viterbi_once(unary_BWC, moves_SS, mask_BW, once_C):
    """A sequence of high score in which no tag of `once_C` stands twice.

    It is `crf.viterbi`'s where that has none twice. Else a tag that stands twice is allowed only where its own score is
    highest, and the sequence is found anew. That is greedy: to find the best of all such sequences would need a state for each
    subset of these tags (Täckström et al. 2015).

    Args:
        unary_BWC, moves_SS, mask_BW: as in `crf.viterbi`.
        once_C: bool (C,), the tags that stand at most once.

    Returns:
        int32 (B, W), 0 where the mask is False.

    Example:
        >>> unary = np.log([[[0.6, 0.4], [0.7, 0.3], [0.2, 0.8]]])
        >>> np.asarray(viterbi_once(unary, np.zeros((3, 3)), np.ones((1, 3), bool), [True, False])).tolist()
        [[1, 0, 1]]
    """
    once_C = np.asarray(once_C)
    unary_BWC = ops.cast(unary_BWC, "float32")
    tags_BW, _ = crf.viterbi(unary_BWC, moves_SS, mask_BW)
    if not once_C.any():
        return tags_BW

    def standing(tags_BW):
        """bool (B, W, C): where tags of `once_C` stand; and (B, 1, C): which of them stand twice."""
        here_BWC = (tags_BW[..., None] == np.arange(len(once_C))) & once_C & mask_BW[..., None]
        return here_BWC, ops.sum(ops.cast(here_BWC, "int32"), axis=1, keepdims=True) > 1

    def is_left(_, tags_BW):
        return ops.any(standing(tags_BW)[1])

    def again(unary_BWC, tags_BW):
        here_BWC, twice_B1C = standing(tags_BW)
        place_BC = ops.argmax(ops.where(here_BWC, unary_BWC, -np.inf), axis=1)
        others_BWC = ops.arange(ops.shape(unary_BWC)[1], dtype="int32")[:, None] != ops.cast(place_BC, "int32")[:, None]
        unary_BWC = ops.where(twice_B1C & others_BWC, -np.inf, unary_BWC)
        return unary_BWC, crf.viterbi(unary_BWC, moves_SS, mask_BW)[0]

    return ops.while_loop(is_left, again, (unary_BWC, tags_BW))[1]
