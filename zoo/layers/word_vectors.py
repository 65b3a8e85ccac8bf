"""What word vectors are trained with: the losses of skip-gram, CBOW and GloVe as products of matrices.

A batch has whole rows of words (`zoo/data/pairs.py`), so all scores of a row are a few products, however many pairs it has.

Shape letters: B batch, S words of a row, T centres of a row, W window, N negatives of a row, P nodes of a path, D hidden,
C places around a centre, 2 W + 1, V vocabulary, F rows of parts of a row's words.
"""

import keras
import numpy as np
from keras import ops


def evenly_drawn(bound, zero_ids):
    """An initializer of a table: even between -bound and bound, and 0 in the rows of some ids."""
    draw = keras.initializers.RandomUniform(-bound, bound)

    def initializer(shape, dtype=None):
        kept = np.ones((shape[0], 1), np.float32)
        kept[[i for i in zero_ids if i < shape[0]]] = 0
        return draw(shape, dtype) * ops.cast(kept, dtype)

    return initializer


@ops.custom_gradient
def slowed(x, rates):
    """`x` as it is. Its gradient is multiplied by `rates`, which have the shape of `x` without its last axis."""

    def gradient(*upstream):
        return upstream[-1] * ops.expand_dims(ops.cast(rates, x.dtype), -1), ops.zeros_like(rates)

    return ops.convert_to_tensor(x), gradient


def _sum_of_shifted(x_BSD, shares_BTC):
    """float (B, T, D): sum over c of shares[:, t, c] x[:, t + c], one pass over the C rows that each is a sum of."""
    length = shares_BTC.shape[1]
    return sum(shares_BTC[:, :, c : c + 1] * x_BSD[:, c : c + length] for c in range(shares_BTC.shape[2]))


def spread(x_BTD, shares_BTC):
    """float (B, T + C - 1, D): the transpose of `_sum_of_shifted`: sum over c of shares[:, s - c, c] x[:, s - c]."""
    length, width = x_BTD.shape[1], shares_BTC.shape[2]
    margin = ((0, 0), (width - 1, width - 1), (0, 0))
    x, shares, total_BSD = ops.pad(x_BTD, margin), ops.pad(shares_BTC, margin), 0.0
    for c in range(width):
        first = width - 1 - c
        columns = slice(first, first + length + width - 1)
        total_BSD += shares[:, columns, c : c + 1] * x[:, columns]
    return total_BSD


@ops.custom_gradient
def window_sums(hidden_BSD, shares_BTC, back_BTC):
    """float (B, T, D): sum over c of shares[:, t, c] h[:, t + c], c from 0 to 2 W.

    The gradient of `hidden` is that of the same sum with `back` in place of `shares`. Both are sums of shifted rows, which XLA
    makes in one pass: half the time of a product with a matrix (T, S) that is mostly zeros (benchmarks/LOG.md).
    """

    def gradient(*upstream):
        return spread(upstream[-1], back_BTC), ops.zeros_like(shares_BTC), ops.zeros_like(back_BTC)

    return _sum_of_shifted(hidden_BSD, shares_BTC), gradient


@ops.custom_gradient
def window_scores(outputs_BTD, hidden_BSD):
    """float (B, T, C): outputs[:, t] . h[:, t + c], c from 0 to 2 W: a band of the product (T, S).

    The band is cut out of the product, for that is faster than its dot products one by one. Of the gradients only what the band
    holds is computed, as sums of shifted rows.
    """
    length, size = outputs_BTD.shape[1], hidden_BSD.shape[1]
    scores_BTS = ops.einsum("btd,bsd->bts", outputs_BTD, hidden_BSD)
    # Behind a row of S numbers, one more makes the next begin one column later.
    flat = ops.pad(ops.reshape(scores_BTS, (-1, length * size)), ((0, 0), (0, length)))
    band_BTC = ops.reshape(flat, (-1, length, size + 1))[:, :, : size - length + 1]

    def gradient(*upstream):
        return _sum_of_shifted(hidden_BSD, upstream[-1]), spread(outputs_BTD, upstream[-1])

    return band_BTC, gradient


def near(batch):
    """float32 (B, T, C): 1 where the word at a distance of -W to W from a centre is one of its contexts, 0 elsewhere and where
    the centre weighs 0.

    Args:
        batch: dict of `token_ids` int32 (B, T + 2W), `contexts_before` and `contexts_after` int32 (B, T), and `loss_weights`
            (B, T).
    """
    before_BT1, after_BT1 = (ops.expand_dims(batch[name], -1) for name in ("contexts_before", "contexts_after"))
    window = window_of(batch)
    distances_C = ops.arange(-window, window + 1, dtype="int32")
    inside_BTC = ops.logical_and(distances_C >= -before_BT1, distances_C <= after_BT1)
    inside_BTC = ops.logical_and(inside_BTC, distances_C != 0)
    return ops.cast(inside_BTC, "float32") * ops.expand_dims(ops.cast(batch["loss_weights"], "float32"), -1)


def window_of(batch):
    """W: a row has so many more words than centres on each side."""
    return (batch["token_ids"].shape[1] - batch["contexts_before"].shape[1]) // 2


def softplus_sum(scores, weights):
    """float32 (B,): sum of weight * log(1 + exp(score)) over all but the first axis."""
    losses = ops.softplus(ops.cast(scores, "float32")) * weights
    return ops.sum(ops.reshape(losses, (ops.shape(losses)[0], -1)), axis=1)


class VectorsHead(keras.layers.Layer):
    """Base class of heads that train word vectors, with what they share: numbers of the training text, and lengths.

    Weights that no gradient moves: `counts` (V,), how often each word stands in the training text, 0 for what is never trained;
    `scales` (V,), one divided by the length of each word's vector, as its signatures need it.

    Args:
        vocab_size: V.

    Call: hidden states and a batch -> (losses float32 (B,), pairs float32 (B,)), sums over each row.
    """

    def __init__(self, vocab_size, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size = vocab_size

    def build(self, input_shape):
        for name in ("counts", "scales"):
            weight = self.add_weight(shape=(self.vocab_size,), initializer="zeros", trainable=False, name=name)
            setattr(self, name, weight)


class WindowHead(VectorsHead):
    """The loss of words in windows, under one of two ways to tell a word from all others.

    With negatives (Mikolov et al. 2013b, section 2.2; K negatives count for a pair, N of them shared by a row):

        skip-gram   sum over pairs of -log s(o_c . h_x) - K / N sum_n log s(-o_n . h_x),   c the centre, x a context
        CBOW        sum over centres of the same with the mean of its contexts in place of h_x

    A negative that is the centre itself does not count. On the path of a Huffman tree (section 2.1):

        sum over the nodes p of the centre's path of -log s(+-o_p . h),   + where it goes left

    `s` is the logistic function.

    Args:
        vocab_size: V.
        objective: `skip_gram`; `cbow`; or `cbow_sum`, as the original program: each context gets the gradient of the mean
            whole.
        negatives: K, or 0 for paths.
        num_parts: how many rows `parts` has, the table that words are means of (`zoo/data/subwords.py`); 0 for words that are
            rows of the model's table. A batch with `part_ids` reads it, any other the model's table.

    Call: hidden states (B, T + 2W, D) and a batch of `zoo/data/pairs.py` -> (losses, pairs), float32 (B,).
    """

    def __init__(self, vocab_size, objective="skip_gram", negatives=5, num_parts=0, **kwargs):
        super().__init__(vocab_size, **kwargs)
        self.objective, self.negatives, self.num_parts = objective, negatives, num_parts

    def build(self, input_shape):
        super().build(input_shape)
        # A tree over V words has V - 1 inner nodes.
        self.outputs = self.add_weight(shape=(self.vocab_size, input_shape[-1]), initializer="zeros", name="outputs")
        if self.num_parts:
            width = input_shape[-1]
            draw = evenly_drawn(1 / width, ())
            self.parts = self.add_weight(shape=(self.num_parts, width), initializer=draw, name="parts")

    def call(self, hidden_BSD, batch, training=False):
        if batch.get("part_ids") is not None:
            hidden_BSD = self._composed(batch)
        if batch.get("input_rates") is not None:
            hidden_BSD = slowed(hidden_BSD, batch["input_rates"])
        if batch.get("contexts_before") is None:  # a row of text, as other tasks have it: there is nothing to predict
            zeros_B = ops.zeros(ops.shape(hidden_BSD)[:1], "float32")
            return zeros_B, zeros_B
        if self.objective == "skip_gram":
            return self._skip_gram(hidden_BSD, batch)
        return self._cbow(hidden_BSD, batch)

    def _composed(self, batch):
        """float (B, S, D): each word as the mean of its rows of `parts`."""
        rows_BFD = slowed(ops.cast(ops.take(self.parts, batch["part_ids"], axis=0), self.compute_dtype), batch["part_rates"])
        columns_S1 = ops.arange(batch["token_ids"].shape[1], dtype="int32")[:, None]
        of_BSF = ops.cast(batch["part_places"][:, None, :] == columns_S1, rows_BFD.dtype)
        return ops.matmul(of_BSF / ops.sum(of_BSF, axis=2, keepdims=True), rows_BFD)

    def _rows(self, ids, rates):
        """Output vectors of words, or of nodes: (..., D)."""
        rows = ops.cast(ops.take(self.outputs, ids, axis=0), self.compute_dtype)
        return rows if rates is None else slowed(rows, rates)

    def _negatives(self, batch):
        return self._rows(batch["negative_ids"], batch.get("negative_rates"))

    def _centre_ids(self, batch):
        start = window_of(batch)
        return batch["token_ids"][:, start : start + batch["contexts_before"].shape[1]]

    def _skip_gram(self, hidden_BSD, batch):
        near_BTC = near(batch)
        pairs_B = ops.sum(near_BTC, axis=(1, 2))
        if not self.negatives:
            return self._paths_of_pairs(hidden_BSD, near_BTC, batch), pairs_B
        centres_BT = self._centre_ids(batch)
        labels_BTD = self._rows(centres_BT, batch.get("label_rates"))
        losses_B = softplus_sum(-window_scores(labels_BTD, hidden_BSD), near_BTC)
        # In how many pairs each word is a context, without those whose centre is the negative.
        other_BTN = ops.cast(centres_BT[:, :, None] != batch["negative_ids"][:, None, :], "float32")
        counted_BSN = spread(other_BTN, near_BTC)
        scores_BSN = ops.einsum("bsd,bnd->bsn", hidden_BSD, self._negatives(batch))
        share = self.negatives / other_BTN.shape[2]
        return losses_B + share * softplus_sum(scores_BSN, counted_BSN), pairs_B

    def _cbow(self, hidden_BSD, batch):
        near_BTC = near(batch)
        contexts_BT1 = ops.sum(near_BTC, axis=2, keepdims=True)
        counted_BT1 = ops.cast(contexts_BT1 > 0, "float32")
        shares_BTC = near_BTC / ops.maximum(contexts_BT1, 1.0)
        back_BTC = near_BTC if self.objective == "cbow_sum" else shares_BTC
        means_BTD = window_sums(hidden_BSD, *(ops.cast(each, hidden_BSD.dtype) for each in (shares_BTC, back_BTC)))
        pairs_B = ops.sum(counted_BT1, axis=(1, 2))
        if not self.negatives:
            nodes_BTPD, sides_BTP, there_BTP = self._nodes(batch)
            scores_BTP = ops.einsum("btd,btpd->btp", means_BTD, nodes_BTPD)
            return softplus_sum(sides_BTP * ops.cast(scores_BTP, "float32"), there_BTP * counted_BT1), pairs_B
        centres_BT = self._centre_ids(batch)
        scores_BT = ops.sum(means_BTD * self._rows(centres_BT, batch.get("label_rates")), axis=-1)
        losses_B = softplus_sum(-scores_BT, counted_BT1[..., 0])
        other_BTN = ops.cast(centres_BT[:, :, None] != batch["negative_ids"][:, None, :], "float32") * counted_BT1
        scores_BTN = ops.einsum("btd,bnd->btn", means_BTD, self._negatives(batch))
        return losses_B + self.negatives / other_BTN.shape[2] * softplus_sum(scores_BTN, other_BTN), pairs_B

    def _nodes(self, batch):
        """(vectors (B, T, P, D), signs (B, T, P), whether there is a node (B, T, P)) of the centres' paths, the last two
        float32.
        The sign is that of the score in the loss: minus where the path goes left."""
        nodes_BTP = batch["path_nodes"]
        there_BTP = ops.cast(nodes_BTP >= 0, "float32")
        sides_BTP = 2.0 * ops.cast(batch["path_codes"], "float32") - 1.0
        return self._rows(ops.maximum(nodes_BTP, 0), batch.get("path_rates")), sides_BTP, there_BTP

    def _paths_of_pairs(self, hidden_BSD, near_BTC, batch):
        """float32 (B,). Each centre's contexts are taken out of the row: a product with all of it would be mostly zeros."""
        length, width = near_BTC.shape[1:]
        contexts_BTCD = ops.stack([hidden_BSD[:, c : c + length] for c in range(width)], axis=2)
        nodes_BTPD, sides_BTP, there_BTP = self._nodes(batch)
        scores_BTCP = ops.cast(ops.einsum("btcd,btpd->btcp", contexts_BTCD, nodes_BTPD), "float32")
        return softplus_sum(sides_BTP[:, :, None] * scores_BTCP, near_BTC[..., None] * there_BTP[:, :, None])


class CooccurrenceHead(VectorsHead):
    """The loss of GloVe (Pennington et al. 2014, equation 8), halved as in the original program:

        sum over pairs of f(X) / 2 (w_i . c_j + b_i + d_j - log X)^2,   f(X) = min(1, X / x_max)^alpha

    Args:
        vocab_size: V.
        tables: a function without arguments that gives the two tables, variables (V, D): of words, and of contexts.
        x_max, alpha: how little rare pairs count.

    Call: hidden states, which it does not read, and a batch of `zoo/data/cooccurrence.py` -> (losses, pairs), float32 (B,).
    """

    def __init__(self, vocab_size, tables, x_max=100.0, alpha=0.75, **kwargs):
        super().__init__(vocab_size, **kwargs)
        self.tables, self.x_max, self.alpha = tables, x_max, alpha

    def build(self, input_shape):
        super().build(input_shape)
        for name in ("bias", "context_bias"):
            setattr(self, name, self.add_weight(shape=(self.vocab_size,), initializer="zeros", name=name))

    def call(self, hidden_BSD, batch, training=False):
        if batch.get("counts") is None:  # a row of text, as other tasks have it: there is nothing to predict
            zeros_B = ops.zeros(ops.shape(hidden_BSD)[:1], "float32")
            return zeros_B, zeros_B
        sides = (batch["token_ids"], batch.get("input_rates")), (batch["labels"], batch.get("label_rates"))
        vectors, biases = [], []
        for (ids_BT, rates_BT), table, bias in zip(sides, self.tables(), (self.bias, self.context_bias), strict=True):
            vectors_BTD = ops.cast(ops.take(table, ids_BT, axis=0), "float32")
            bias_BT = ops.cast(ops.take(bias, ids_BT), "float32")
            if rates_BT is not None:
                vectors_BTD, bias_BT = slowed(vectors_BTD, rates_BT), slowed(bias_BT[..., None], rates_BT)[..., 0]
            vectors.append(vectors_BTD)
            biases.append(bias_BT)
        counts_BT, weights_BT = (ops.cast(batch[name], "float32") for name in ("counts", "loss_weights"))
        apart_BT = ops.sum(vectors[0] * vectors[1], axis=-1) + biases[0] + biases[1] - ops.log(ops.maximum(counts_BT, 1e-30))
        shares_BT = ops.minimum(counts_BT / self.x_max, 1.0) ** self.alpha * weights_BT
        return ops.sum(0.5 * shares_BT * apart_BT**2, axis=1), ops.sum(weights_BT, axis=1)
