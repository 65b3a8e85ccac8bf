"""Cross entropy from features and the matrix that makes logits of them, a chunk of positions at a time.

The logits of a batch, (B, T, V), are by far its largest array, and three of them stand at once: logits, softmax, gradient. Here
each chunk's logits are made, used and forgotten. As the loss is a sum, its gradient is known up to one factor as soon as the
chunk's logits are: it is computed there and then, and nothing is computed twice (Hsu et al. 2024, section 3.2).

Shape letters: B batch, T positions, M chunks of n positions, D hidden, V vocabulary.
"""

from typing import Any, NamedTuple

from keras import ops

from zoo.layers.cross_entropy import exponentials
from zoo.layers.forms import CHUNK
from zoo.layers.fusion import fused
from zoo.layers.stacks import read_block, write_block

FEW = 256  # positions of a chunk where many positions need no logits


class Projection(NamedTuple):
    """logits = x W + b.

    Fields:
        kernel: W (D, V); when `transposed`, W' (V, D), as a table of embeddings is.
        bias: (V,), or None.
        transposed: see kernel.
    """

    kernel: Any
    bias: Any = None
    transposed: bool = False

    @property
    def vocab_size(self):
        return self.kernel.shape[0 if self.transposed else 1]


class Unprojected(NamedTuple):
    """Features (B, T, D) and the `Projection` that would make logits of them."""

    features: Any
    projection: Projection


def resolve_logits(logits, projection, token_ids):
    """Whether the logits of a batch are made in chunks.

    `auto` holds them whole while they fit into two chunks, where a loop saves little and any layer's activations are as
    large. Sizes that are not known may be any: chunks.

    Args:
        logits: `auto`, `whole` or `chunks`.
        projection: a `Projection`, or None where a model has none: then always whole.
        token_ids: (B, T).
    """
    if logits == "whole" or projection is None:
        return False
    batch, length = token_ids.shape
    return logits == "chunks" or batch is None or length is None or batch * length * projection.vocab_size > 2 * CHUNK


def weighted_cross_entropy(outputs, labels, weights, **options):
    """`summed_cross_entropy` where many weights are 0: positions that have one come first, in chunks of `FEW` positions, and no
    logits are made for the others."""
    count, width = ops.size(weights), ops.shape(outputs.features)[-1]
    features, labels, weights = (ops.reshape(x, (count, *rest)) for x, rest in (
        (outputs.features, (width,)), (labels, ()), (weights, ()),
    ))  # fmt: skip
    order = ops.argsort(ops.cast(ops.equal(weights, 0), "int32"))
    features, labels, weights = (ops.take(x, order, axis=0)[None] for x in (features, labels, weights))
    chunk = min(CHUNK, FEW * outputs.projection.vocab_size)
    return summed_cross_entropy(
        Unprojected(features, outputs.projection), labels, weights, chunk=chunk, weighted_first=True, **options
    )


def summed_cross_entropy(
    outputs, labels, weights, *, label_smoothing=0.0, z_loss=0.0, chunk=CHUNK, weighted_first=False
):  # fmt: skip
    """sum_t w_t ((1 - s) (-log p(label_t)) + s mean_v(-log p(v)) + z log^2 Z_t), the gradient written out.

    d / d logit_v = w ((1 + 2 z log Z) p(v) - s / V - (1 - s) [v = label])

    Args:
        outputs: `Unprojected`.
        labels: int (B, T).
        weights: float (B, T), w. No gradient goes there.
        label_smoothing, z_loss: s and z.
        chunk: most logits at a time.
        weighted_first: whether all positions behind the first of weight 0 have weight 0, too; then no logits are made for the
            chunks behind it.

    Returns:
        float32 scalar.
    """
    projection = outputs.projection
    num_chunks, x_MnD, (labels_Mn, weights_Mn) = _chunks(
        outputs, chunk, ops.cast(labels, "int32"), ops.cast(weights, "float32")
    )

    num_used = num_chunks
    if weighted_first:
        size = ops.shape(weights_Mn)[1]
        num_used = (ops.sum(ops.cast(ops.not_equal(weights_Mn, 0), "int32")) + size - 1) // size

    @ops.custom_gradient
    def total(x_MnD, kernel, *bias):
        head = _cast(Projection(kernel, *(bias or [None]), projection.transposed), x_MnD.dtype)

        def add_chunk(i, sums):
            loss, dx_MnD, dkernel, *dbias = sums
            x_nD, labels_n, weights_n = (read_block(x, i) for x in (x_MnD, labels_Mn, weights_Mn))
            losses_n, dlogits_nV = _losses(_logits(x_nD, head), labels_n, weights_n, label_smoothing, z_loss)
            dx_nD, dkernel_chunk = _products(x_nD, head, ops.cast(dlogits_nV, x_nD.dtype))
            sums = [loss + ops.sum(losses_n), write_block(dx_MnD, dx_nD, i), dkernel + dkernel_chunk]
            return (*sums, dbias[0] + ops.sum(dlogits_nV, axis=0)) if bias else tuple(sums)

        zeros = [ops.zeros_like(ops.cast(w, "float32")) for w in (kernel, *bias)]
        loss, *gradients = ops.fori_loop(0, num_used, add_chunk, (ops.zeros(()), ops.zeros_like(x_MnD), *zeros))

        def gradient(*upstream):
            scaled = (ops.cast(g, "float32") * upstream[-1] for g in gradients)
            return tuple(ops.cast(g, w.dtype) for g, w in zip(scaled, (x_MnD, kernel, *bias), strict=True))

        return loss, gradient

    # Tensors: a custom gradient may not see a variable.
    return total(x_MnD, *(ops.cast(x, "float32") for x in (projection.kernel, projection.bias) if x is not None))


def chunked_log_probs(outputs, labels, chunk=CHUNK):
    """float32 (B, T): natural log-probabilities of the labels, int (B, T), from `Unprojected` outputs."""
    num_chunks, x_MnD, (labels_Mn,) = _chunks(outputs, chunk, ops.cast(labels, "int32"))
    head = _cast(outputs.projection, x_MnD.dtype)

    def score_chunk(i, log_probs_Mn):
        x_nD, labels_n = (read_block(x, i) for x in (x_MnD, labels_Mn))
        logits_nV = _logits(x_nD, head)
        picked_n = ops.take_along_axis(logits_nV, labels_n[:, None], axis=1)[:, 0]
        return write_block(log_probs_Mn, picked_n - ops.logsumexp(logits_nV, axis=-1), i)

    start = ops.cast(ops.zeros_like(labels_Mn), "float32")
    log_probs_Mn = ops.fori_loop(0, num_chunks, score_chunk, start)
    batch, length = ops.shape(labels)
    return ops.reshape(ops.reshape(log_probs_Mn, (-1,))[: batch * length], (batch, length))


def _chunks(outputs, chunk, *others):
    """M; the features (M, n, D) and other arrays (M, n), padded at the end to whole chunks."""
    batch, length, width = ops.shape(outputs.features)
    num_positions = batch * length
    num_chunks = -(-num_positions // max(1, chunk // outputs.projection.vocab_size))
    at_least_one = ops.maximum if ops.is_tensor(num_chunks) else max
    size = -(-num_positions // at_least_one(num_chunks, 1))  # chunks alike, so that little is padded
    missing = num_chunks * size - num_positions
    arrays = [ops.reshape(outputs.features, (num_positions, width)), *(ops.reshape(x, (num_positions,)) for x in others)]
    if ops.is_tensor(missing) or missing:
        arrays = [ops.pad(x, [(0, missing)] + [(0, 0)] * (len(x.shape) - 1)) for x in arrays]
    features, *others = (ops.reshape(x, (num_chunks, size, *x.shape[1:])) for x in arrays)
    return num_chunks, features, others


def _cast(projection, dtype):
    kernel, bias, transposed = projection
    return Projection(ops.cast(kernel, dtype), None if bias is None else ops.cast(bias, dtype), transposed)


def _logits(x_nD, head):
    logits_nV = ops.matmul(x_nD, ops.transpose(head.kernel) if head.transposed else head.kernel)
    return ops.cast(logits_nV if head.bias is None else logits_nV + head.bias, "float32")


def _products(x_nD, head, dlogits_nV):
    """Gradients of the features and, in float32, of the kernel."""
    if head.transposed:
        dx_nD, dkernel = ops.matmul(dlogits_nV, head.kernel), ops.matmul(ops.transpose(dlogits_nV), x_nD)
    else:
        dx_nD, dkernel = ops.matmul(dlogits_nV, ops.transpose(head.kernel)), ops.matmul(ops.transpose(x_nD), dlogits_nV)
    return dx_nD, ops.cast(dkernel, "float32")


def _losses(logits_nV, labels_n, weights_n, label_smoothing, z_loss):
    """The weighted losses (n,) and their gradients (n, V)."""
    vocab_size = logits_nV.shape[-1]
    highest_n1, powers_nV, sums_n1 = exponentials(logits_nV)
    log_z_n1 = highest_n1 + ops.log(sums_n1)
    picked_n1 = ops.take_along_axis(logits_nV, labels_n[:, None], axis=1)
    losses_n1 = log_z_n1 - (1 - label_smoothing) * picked_n1 + z_loss * ops.square(log_z_n1)
    if label_smoothing:
        losses_n1 = losses_n1 - label_smoothing * ops.mean(logits_nV, axis=-1, keepdims=True)
    weights_n1 = weights_n[:, None]
    dlogits_nV = _gradient(
        powers_nV, weights_n1 * (1 + 2 * z_loss * log_z_n1) / sums_n1, weights_n1 * (label_smoothing / vocab_size),
        weights_n1 * (1 - label_smoothing), labels_n,
    )  # fmt: skip
    return (losses_n1 * weights_n1)[:, 0], dlogits_nV


@fused
def _gradient(powers_nV, factors_n1, even_n1, at_labels_n1, labels_n):
    is_label_nV = ops.arange(powers_nV.shape[-1], dtype="int32")[None] == labels_n[:, None]
    return powers_nV * factors_n1 - even_n1 - ops.where(is_label_nV, at_labels_n1, 0.0)
