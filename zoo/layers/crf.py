"""A linear-chain conditional random field: how well a sequence of tags fits a sentence (Lafferty et al. 2001).

    score(tags) = sum over words t of unary[t, tags[t]] + sum of the moves from each tag to the next
    log p(tags) = score(tags) - log of the sum of exp(score) over all sequences of tags

All moves stand in one matrix. Besides the tags it has one more state, the last: `outside`, where a sentence comes from and
goes to. `moves[j, k]` is the weight of tag k after tag j, `moves[-1, k]` of tag k at the first word, `moves[j, -1]` of tag j
at the last word. A move of -inf is forbidden.

The words of a row stand at the left. `mask` is True for them, and what stands in the other columns changes nothing. A row
without words has one path, the empty one, with score 0.

    crf = CRF(3, forbidden=forbidden_moves(["O", "B-PER", "I-PER"], "BIO"))
    unary, mask = keras.random.normal((1, 4, 3)), ops.ones((1, 4), "bool")
    tags, score = crf(unary, mask)
    loss = -crf.log_likelihood(unary, [[0, 1, 2, 0]], mask)

Shape letters: B batch, W words, N words of all rows, C tags, S states (the C tags, then `outside`), K paths.
"""

import keras
import numpy as np
from keras import ops

from zoo.config import Refusal

# Sums over paths are in float64. A unary score that lies further than this below the highest of its word counts as this much
# below it, and so does a move below the highest move. It is log(1e-150): the product of two such numbers is not yet 0.
LOWEST = -345.0
NEVER = -1e4  # added to the unary scores of tags that a label excludes
WORDS_AT_ONCE = 4


# Sums over all paths


def log_partition(unary_BWC, moves_SS, mask_BW):
    """log of the sum of exp(score) over all sequences of tags.

    Its gradient is written out: for the unary scores it is the `marginals`, for the moves how often each is expected.

    Args:
        unary_BWC: float (B, W, C).
        moves_SS: float (S, S).
        mask_BW: bool (B, W).

    Returns:
        float32 (B,).
    """
    return ops.cast(_log_partition(_wide(unary_BWC), _weights(moves_SS), mask_BW), "float32")


def sequence_score(unary_BWC, tags_BW, moves_SS, mask_BW):
    """The score of one sequence of tags a row: the unary scores of its tags and the weights of its moves.

    Args:
        unary_BWC, moves_SS, mask_BW: as in `log_partition`.
        tags_BW: int (B, W), in [0, C) where the mask is True.

    Returns:
        float32 (B,). A forbidden move counts 345 less than the highest move, so that the score is finite.
    """
    return ops.cast(_sequence_score(_wide(unary_BWC), tags_BW, _weights(moves_SS), mask_BW), "float32")


def log_likelihood(unary_BWC, tags_BW, moves_SS, mask_BW):
    """log p(tags), at most 0: `sequence_score` - `log_partition`. Arguments and result as in `sequence_score`."""
    unary_BWC, moves_SS = _wide(unary_BWC), _weights(moves_SS)
    score_B = _sequence_score(unary_BWC, tags_BW, moves_SS, mask_BW)
    return ops.cast(score_B - _log_partition(unary_BWC, moves_SS, mask_BW), "float32")


def multitag_log_likelihood(unary_BWC, allowed_BWC, moves_SS, mask_BW):
    """log of the probability that every word has one of the tags that are allowed for it (Tsuboi et al. 2008, eq. 2).

    Args:
        unary_BWC, moves_SS, mask_BW: as in `log_partition`.
        allowed_BWC: bool (B, W, C), at least one tag a word. A word of which nothing is known allows all.

    Returns:
        float32 (B,), at most 0. With one allowed tag a word it is `log_likelihood`.
    """
    unary_BWC, moves_SS = _wide(unary_BWC), _weights(moves_SS)
    kept_BWC = unary_BWC + ops.where(allowed_BWC, 0.0, ops.cast(NEVER, "float64"))
    # Both sums in one scan.
    sums = _log_partition(ops.concatenate([kept_BWC, unary_BWC]), moves_SS, ops.concatenate([mask_BW, mask_BW]))
    return ops.cast(ops.subtract(*ops.split(sums, 2)), "float32")


def marginals(unary_BWC, moves_SS, mask_BW):
    """The probability of each tag at each word, over all sequences of tags.

    Args:
        unary_BWC, moves_SS, mask_BW: as in `log_partition`.

    Returns:
        float32 (B, W, C), which sums to 1 over the tags of a word and is 0 where the mask is False.
    """
    sums = _PathSums(_wide(unary_BWC), _weights(moves_SS), mask_BW)
    return ops.cast(sums.marginals(ops.ones_like(sums.lengths_B, "float64")), "float32")


def _wide(x):
    return ops.cast(x, "float64")


def _weights(moves_SS):
    """float64 (S, S) without -inf."""
    moves_SS = _wide(moves_SS)
    return ops.maximum(moves_SS, ops.stop_gradient(ops.max(moves_SS)) + LOWEST)


def _sequence_score(unary_BWC, tags_BW, moves_SS, mask_BW):
    tags_BW = ops.where(mask_BW, ops.cast(tags_BW, "int32"), 0)
    at_words_BW = ops.take_along_axis(unary_BWC, tags_BW[..., None], axis=-1)[..., 0]
    return ops.sum(ops.where(mask_BW, at_words_BW, 0.0), axis=1) + _moves_score(tags_BW, moves_SS, mask_BW)


def _moves_score(tags_BW, moves_SS, mask_BW):
    num_states = moves_SS.shape[-1]
    # The moves of a row: outside -> tag, ..., tag -> outside; one more than it has words.
    length_B1 = _lengths(mask_BW)[:, None]
    outside_B1 = ops.full_like(length_B1, num_states - 1)
    number = ops.arange(ops.shape(tags_BW)[1] + 1)[None]
    before = ops.concatenate([outside_B1, tags_BW], axis=1)
    after = ops.where(number < length_B1, ops.concatenate([tags_BW, outside_B1], axis=1), outside_B1)
    of_moves = ops.take(ops.reshape(moves_SS, (-1,)), before * num_states + after, axis=0)
    is_move = ops.logical_and(number <= length_B1, length_B1 > 0)
    return ops.sum(ops.where(is_move, of_moves, 0.0), axis=1)


def _log_partition(unary_BWC, moves_SS, mask_BW):
    @ops.custom_gradient
    def run(unary_BWC, moves_SS):
        sums = _PathSums(unary_BWC, moves_SS, mask_BW)
        return sums.log_partition(), lambda *upstream: sums.gradient(upstream[-1])

    return run(unary_BWC, moves_SS)


class _PathSums:
    """The sums over all paths up to each word and from each word on, divided by their total at every word.

    This is forward-backward with scaling (Rabiner 1989, section V A). Both sums run in one scan: the second ones are the first
    ones of the row that is read backwards, with the transposed moves.

    Args:
        unary_BWC: float64 (B, W, C).
        moves_SS: float64 (S, S), finite.
        mask_BW: bool (B, W).
    """

    def __init__(self, unary_BWC, moves_SS, mask_BW):
        self.width, self.lengths_B = ops.shape(mask_BW)[1], _lengths(mask_BW)
        unary_WBC, self.mask_WB = _time_major(unary_BWC, mask_BW)
        highest_WB1, highest_move = ops.max(unary_WBC, axis=-1, keepdims=True), ops.max(moves_SS)
        self.offset_B = ops.sum(highest_WB1[..., 0], axis=0) + _wide(self.lengths_B + 1) * highest_move
        factors_WBC = ops.exp(ops.maximum(unary_WBC - highest_WB1, LOWEST))
        self.words_WBS = ops.pad(factors_WBC, ((0, 0), (0, 0), (0, 1)))  # no word is outside
        self.moves_SS = ops.exp(moves_SS - highest_move)
        self._scan()

    def _scan(self):
        backwards_WB = _backwards(self.mask_WB)
        words = ops.stack([self.words_WBS, _at(self.words_WBS, backwards_WB)], axis=1)
        moves = ops.stack([self.moves_SS, ops.transpose(self.moves_SS)])
        outside = _outside(words[0])

        def extend(sums, word):
            return ops.matmul(sums / ops.sum(sums, axis=-1, keepdims=True), moves) * word

        sums = _over_words(extend, outside, words)
        scales = ops.sum(sums, axis=-1, keepdims=True)
        shares = ops.concatenate([outside[None], sums / scales])  # before each word, and at the end
        self.scales_WB1, self.before_WBS, self.up_to_WBS = scales[:, 0], shares[:-1, 0], shares[1:, 0]
        # The sums from the next word on, with the move to it.
        self.after_WBS = ops.matmul(_at(shares[:, 1], backwards_WB), moves[1])
        self.joint_WBS = self.up_to_WBS * self.after_WBS
        self.joint_WB1 = ops.sum(self.joint_WBS, axis=-1, keepdims=True)

    def log_partition(self):
        """float64 (B,)."""
        logs_WB = ops.where(self.mask_WB, ops.log(self.scales_WB1[..., 0]), 0.0)
        end_B = ops.sum(self._at_last(self.up_to_WBS) * self.moves_SS[:, -1], axis=-1)
        return ops.where(self.lengths_B > 0, ops.sum(logs_WB, axis=0) + ops.log(end_B) + self.offset_B, 0.0)

    def marginals(self, weight_B):
        """float64 (B, W, C): the probability of each tag, times a weight for each row."""
        return self._batch_major(self.joint_WBS * self._over_joint(weight_B))

    def gradient(self, weight_B):
        """Of sum(weight * log_partition) for the unary scores (B, W, C) and the moves (S, S)."""
        over_joint_WB1 = self._over_joint(weight_B)
        marginals_WBS = self.joint_WBS * over_joint_WB1
        # P(tag j, then tag k) = before[j] move[j, k] word[k] after[k] / (scale joint). Here is what does not depend on j. Where
        # the divisor is as good as 0, so is the product.
        factor_WB1 = ops.clip(over_joint_WB1 / self.scales_WB1, -1e300, 1e300)
        onward_WBS = self.words_WBS * self.after_WBS * factor_WB1
        num_states = self.moves_SS.shape[0]
        before_NS, onward_NS = (ops.reshape(x, (-1, num_states)) for x in (self.before_WBS, onward_WBS))
        d_moves = self.moves_SS * ops.matmul(ops.transpose(before_NS), onward_NS)
        to_end_S = ops.sum(ops.where(self.lengths_B[:, None] > 0, self._at_last(marginals_WBS), 0.0), axis=0)
        d_moves = d_moves + to_end_S[:, None] * ops.one_hot(num_states - 1, num_states, dtype="float64")
        return self._batch_major(marginals_WBS), d_moves

    def _over_joint(self, weight_B):
        return ops.where(self.mask_WB, weight_B, 0.0)[..., None] / self.joint_WB1

    def _at_last(self, x_WBS):
        return _at(x_WBS, ops.maximum(self.lengths_B - 1, 0)[None])[0]

    def _batch_major(self, x_WBS):
        return ops.transpose(x_WBS[: self.width, :, :-1], (1, 0, 2))


# The best paths


def viterbi(unary_BWC, moves_SS, mask_BW):
    """The sequence of tags with the highest score (Viterbi 1967). Of equally good ones it is the first in lexicographic order.

    Args:
        unary_BWC, moves_SS, mask_BW: as in `log_partition`.

    Returns:
        tags: int32 (B, W), 0 where the mask is False.
        score: float32 (B,), added up in float32; -inf where every path has a forbidden move. The probability of the tags is
            exp(`log_likelihood`), which is exact for long rows too.
    """
    moves_SS = ops.cast(moves_SS, "float32")
    num_states = moves_SS.shape[0]
    # Columns without a word are outside, and stay there at no cost: rows of all lengths begin at the last column.
    corner_SS = np.eye(num_states, dtype=bool) & (np.arange(num_states) == num_states - 1)
    moves_SS = ops.where(corner_SS, 0.0, moves_SS)
    # Rows stand last, where the maximum over the first axis is fastest on a CPU.
    more = WORDS_AT_ONCE - ops.shape(mask_BW)[1] % WORDS_AT_ONCE
    mask_WB = ops.pad(ops.transpose(mask_BW), ((0, more), (0, 0)), constant_values=False)
    unary_WCB = ops.pad(ops.transpose(ops.cast(unary_BWC, "float32"), (1, 2, 0)), ((0, more), (0, 0), (0, 0)))
    mask_W1B = mask_WB[:, None]
    words_WSB = ops.concatenate([ops.where(mask_W1B, unary_WCB, -np.inf), ops.where(mask_W1B, -np.inf, 0.0)], axis=1)
    onward_SSB = ops.transpose(moves_SS)[..., None] + ops.zeros_like(words_WSB[0])[None]

    def extend(best_SB, word_SB):
        """The best score from each tag of a word to the end, by that from each tag of the next."""
        return word_SB + ops.max(best_SB[:, None] + onward_SSB, axis=0)

    best_WBS = ops.transpose(_over_words(extend, words_WSB[-1], words_WSB, reverse=True), (0, 2, 1))

    def follow(tag_B, best_BS):
        return ops.top_k(ops.take(moves_SS, tag_B, axis=0) + best_BS, 1)[1][:, 0]

    outside_B = ops.full_like(words_WSB[0, 0], num_states - 1, dtype="int32")
    tags_WB = _over_words(follow, outside_B, best_WBS)
    tags_BW = ops.transpose(ops.where(mask_WB, tags_WB, 0))[:, : ops.shape(mask_BW)[1]]
    return tags_BW, ops.max(moves_SS[-1] + best_WBS[0], axis=-1)


def decode(unary_BWC, moves_SS, mask_BW):
    """The best sequence of tags, and how probable it and each of its tags are, from one pass over the sums of all paths.

    Args:
        unary_BWC, moves_SS, mask_BW: as in `log_partition`.

    Returns:
        tags: int32 (B, W), as of `viterbi`.
        log_prob: float32 (B,), as of `log_likelihood`.
        probs: float32 (B, W), of `marginals` those of the tags; 0 where the mask is False.
    """
    tags_BW, _ = viterbi(unary_BWC, moves_SS, mask_BW)
    unary_BWC, moves_SS = _wide(unary_BWC), _weights(moves_SS)
    sums = _PathSums(unary_BWC, moves_SS, mask_BW)
    score_B = _sequence_score(unary_BWC, tags_BW, moves_SS, mask_BW)
    marginals_BWC = sums.marginals(ops.ones_like(sums.lengths_B, "float64"))
    probs_BW = ops.take_along_axis(marginals_BWC, tags_BW[..., None], axis=-1)[..., 0]
    return tags_BW, ops.cast(score_B - sums.log_partition(), "float32"), ops.cast(probs_BW, "float32")


def decode_n_best(unary_BWC, moves_SS, mask_BW, num_paths):
    """The K best sequences of tags, and how probable each is.

    Args:
        unary_BWC, moves_SS, mask_BW, num_paths: as in `n_best`.

    Returns:
        tags: int32 (B, K, W), as of `n_best`.
        log_prob: float32 (B, K), as of `log_likelihood`; -inf where there are fewer than K paths.
    """
    tags_BKW, score_BK = n_best(unary_BWC, moves_SS, mask_BW, num_paths)
    unary_BWC, moves_SS = _wide(unary_BWC), _weights(moves_SS)
    rows, paths, width = ops.shape(tags_BKW)
    at_words_BWK = ops.take_along_axis(unary_BWC, ops.transpose(tags_BKW, (0, 2, 1)), axis=-1)
    of_words_BK = ops.sum(ops.where(mask_BW[..., None], at_words_BWK, 0.0), axis=1)
    masks_BKW = ops.broadcast_to(mask_BW[:, None], (rows, paths, width))
    tags_NW, masks_NW = (ops.reshape(x, (rows * paths, width)) for x in (tags_BKW, masks_BKW))
    of_moves_BK = ops.reshape(_moves_score(tags_NW, moves_SS, masks_NW), (rows, paths))
    log_probs_BK = of_words_BK + of_moves_BK - _log_partition(unary_BWC, moves_SS, mask_BW)[:, None]
    return tags_BKW, ops.where(score_BK > -np.inf, ops.cast(log_probs_BK, "float32"), -np.inf)


def n_best(unary_BWC, moves_SS, mask_BW, num_paths):
    """The K sequences of tags with the highest scores, the best first; of equally good ones as `viterbi`.

    Args:
        unary_BWC, moves_SS, mask_BW: as in `log_partition`.
        num_paths: K, an int, or int32 ().

    Returns:
        tags: int32 (B, K, W), 0 where the mask is False and where there are fewer than K paths.
        score: float32 (B, K), -inf where there are fewer.
    """
    words_WBS, mask_WB = _words_of_best_paths(unary_BWC, mask_BW)
    moves_SS, backwards_WB, lengths_B = ops.cast(moves_SS, "float32"), _backwards(mask_WB), _lengths(mask_BW)
    num_states = moves_SS.shape[0]
    is_first_K = ops.arange(num_paths) == 0

    def ranked(best_BSK, moves_xS):
        """The K best ways on from each state x: scores and places (B, x, K). A place is state * K + rank."""
        totals = best_BSK[:, None] + moves_xS[None, ..., None]
        return ops.top_k(ops.reshape(totals, (-1, moves_xS.shape[0], num_states * num_paths)), num_paths)

    def extend(best, word_BS):
        scores_BSK, places_BSK = ranked(best[0], moves_SS)
        return scores_BSK + word_BS[..., None], places_BSK

    start_BSK = ops.where(is_first_K, ops.log(_outside(words_WBS[0]))[..., None], -np.inf)
    start = start_BSK, ops.zeros_like(start_BSK, "int32")
    best_WBSK, places_WBSK = _over_words(extend, start, _at(words_WBS, backwards_WB))
    first_BSK = _at(best_WBSK, ops.maximum(lengths_B - 1, 0)[None])[0]
    score_B1K, place_B1K = ranked(first_BSK, moves_SS[-1:])

    def follow(place_BK, places_BSK):
        return ops.take_along_axis(ops.reshape(places_BSK, (-1, num_states * num_paths)), place_BK, axis=1)

    first_1BK = ops.transpose(place_B1K, (1, 0, 2))
    later_WBK = _over_words(follow, first_1BK[0], _at(places_WBSK, backwards_WB))
    tags_WBK = ops.concatenate([first_1BK, later_WBK[:-1]]) // num_paths
    score_BK = ops.where(lengths_B[:, None] > 0, score_B1K[:, 0], ops.where(is_first_K, 0.0, -np.inf))
    tags_BKW = ops.transpose(tags_WBK, (1, 2, 0))[..., : ops.shape(mask_BW)[1]]
    return ops.where(ops.logical_and(mask_BW[:, None], score_BK[..., None] > -np.inf), tags_BKW, 0), score_BK


def _words_of_best_paths(unary_BWC, mask_BW):
    """float32 (W, B, S), -inf for the last state: no word is outside; and the mask (W, B)."""
    unary_WBC, mask_WB = _time_major(ops.cast(unary_BWC, "float32"), mask_BW)
    return ops.pad(unary_WBC, ((0, 0), (0, 0), (0, 1)), constant_values=-np.inf), mask_WB


# Words of rows


def _lengths(mask_BW):
    """int32 (B,): how many words each row has."""
    return ops.sum(ops.cast(mask_BW, "int32"), axis=1)


def _time_major(unary_BWC, mask_BW):
    """(W, B, C) and (W, B), with 0 and False at the right so that W is a multiple of WORDS_AT_ONCE, and not 0."""
    more = WORDS_AT_ONCE - ops.shape(mask_BW)[1] % WORDS_AT_ONCE
    unary_BWC = ops.where(mask_BW[..., None], unary_BWC, 0.0)
    unary_WBC = ops.pad(ops.transpose(unary_BWC, (1, 0, 2)), ((0, more), (0, 0), (0, 0)))
    return unary_WBC, ops.pad(ops.transpose(mask_BW), ((0, more), (0, 0)), constant_values=False)


def _over_words(step, start, words, reverse=False):
    """The states after each word, of a recursion over words (W, ...) that begins with the state `start`, from
    the right where `reverse`.

    One iteration of the scan takes WORDS_AT_ONCE words: on a CPU a loop that TensorFlow runs costs as much as what is in it.
    """
    chunks = ops.reshape(words, (-1, WORDS_AT_ONCE, *ops.shape(words)[1:]))

    newest, order = (0, -1) if reverse else (-1, 1)

    def advance(states, chunk):
        state = keras.tree.map_structure(lambda x: x[newest], states)
        new = []
        for word in ops.unstack(chunk, WORDS_AT_ONCE)[::order]:
            state = step(state, word)
            new.append(state)
        new = new[::order]
        states = keras.tree.map_structure(lambda *values: ops.stack(values), *new)
        return states, states

    # What is carried on has the shape of what comes out, as ops.scan asks; only its last state is read.
    first = keras.tree.map_structure(lambda x: ops.stack([x] * WORDS_AT_ONCE), start)
    _, states = ops.scan(advance, first, chunks, reverse=reverse)
    return keras.tree.map_structure(lambda x: ops.reshape(x, (-1, *ops.shape(x)[2:])), states)


def _at(x, places_WB):
    """Of x (W, B, ...), for each row the words at some places: int32 (any number, B) -> (that number, B, ...)."""
    batch = ops.shape(x)[1]
    flat = ops.reshape(x, (-1, *ops.shape(x)[2:]))
    return ops.take(flat, places_WB * batch + ops.arange(batch, dtype="int32"), axis=0)


def _backwards(mask_WB):
    """int32 (W, B): where the words of a row stand when it is read from its last word to its first."""
    lengths_B = ops.sum(ops.cast(mask_WB, "int32"), axis=0)
    columns_W1 = ops.arange(ops.shape(mask_WB)[0], dtype="int32")[:, None]
    return ops.where(columns_W1 < lengths_B, lengths_B - 1 - columns_W1, columns_W1)


def _outside(like):
    """1 at the last state, 0 at the others, in the shape (..., S) of `like`."""
    one_hot = ops.one_hot(like.shape[-1] - 1, like.shape[-1], dtype=like.dtype)
    return ops.broadcast_to(one_hot, ops.shape(like))


class CRF(keras.layers.Layer):
    """A CRF as a layer: it holds the weights of the moves, and its methods are the functions of this file with them.

    Forbidden moves are left out whenever tags are chosen or get a probability. In the likelihood that is trained they have
    their weights, unless `forbid_in_training`: then sequences with a forbidden move get no probability there either, and no
    label may have one.

    Args:
        num_tags: C.
        forbidden: bool array (S, S), True for forbidden moves, or None; see `zoo.data.schemes.forbidden_moves`.
        forbid_in_training: whether forbidden moves are left out of the likelihood too.

    Call: unary scores float (B, W, C) and mask bool (B, W) -> the best tags int32 (B, W) and their score float32 (B,).

    Raises:
        Refusal: if `forbidden` has another shape.

    Example:
        >>> crf = CRF(2)
        >>> crf.build()
        >>> tags, score = crf(np.array([[[1.0, 0.0], [0.0, 3.0]]], "float32"), np.array([[True, True]]))
        >>> tags.numpy().tolist(), score.shape
        ([[0, 1]], TensorShape([1]))
    """

    def __init__(self, num_tags, forbidden=None, forbid_in_training=False, **kwargs):
        super().__init__(autocast=False, **kwargs)  # scores come and stay in float32
        self.num_tags, self.forbid_in_training = num_tags, forbid_in_training
        self.forbidden = None if forbidden is None else np.asarray(forbidden, bool)
        if forbidden is not None and self.forbidden.shape != (num_tags + 1, num_tags + 1):
            shape = " x ".join(map(str, self.forbidden.shape))
            raise Refusal(f"Forbidden moves of {num_tags} tags are {num_tags + 1} x {num_tags + 1} booleans, got {shape}.")

    def build(self, input_shape=None):
        def weights(shape, name):
            return self.add_weight(shape=shape, initializer="zeros", autocast=False, dtype="float32", name=name)

        self.start = weights((self.num_tags,), "start")
        self.end = weights((self.num_tags,), "end")
        self.transitions = weights((self.num_tags, self.num_tags), "transitions")

    def call(self, unary_BWC, mask_BW):
        return self.viterbi(unary_BWC, mask_BW)

    def moves(self, forbid=True):
        """float32 (S, S): the weights as the functions take them, with or without -inf for what is forbidden."""
        between = ops.concatenate([self.transitions, self.end[:, None]], axis=1)
        first = ops.concatenate([self.start, ops.full((1,), -np.inf, "float32")])[None]
        moves_SS = ops.concatenate([between, first])
        return ops.where(self.forbidden, -np.inf, moves_SS) if forbid and self.forbidden is not None else moves_SS

    def log_likelihood(self, unary_BWC, tags_BW, mask_BW):
        """float32 (B,), to be trained; see the function."""
        return log_likelihood(unary_BWC, tags_BW, self.moves(self.forbid_in_training), mask_BW)

    def multitag_log_likelihood(self, unary_BWC, allowed_BWC, mask_BW):
        """float32 (B,), to be trained; see the function."""
        return multitag_log_likelihood(unary_BWC, allowed_BWC, self.moves(self.forbid_in_training), mask_BW)

    def sequence_score(self, unary_BWC, tags_BW, mask_BW):
        """float32 (B,), without forbidden moves; see the function."""
        return sequence_score(unary_BWC, tags_BW, self.moves(), mask_BW)

    def log_partition(self, unary_BWC, mask_BW):
        """float32 (B,), without forbidden moves; see the function."""
        return log_partition(unary_BWC, self.moves(), mask_BW)

    def viterbi(self, unary_BWC, mask_BW):
        """Tags int32 (B, W) and score float32 (B,), without forbidden moves; see the function."""
        return viterbi(unary_BWC, self.moves(), mask_BW)

    def n_best(self, unary_BWC, mask_BW, num_paths):
        """Tags int32 (B, K, W) and scores float32 (B, K), without forbidden moves; see the function."""
        return n_best(unary_BWC, self.moves(), mask_BW, num_paths)

    def marginals(self, unary_BWC, mask_BW):
        """float32 (B, W, C), without forbidden moves; see the function."""
        return marginals(unary_BWC, self.moves(), mask_BW)
