"""Cross entropy of given tokens under softmax logits, with its gradient written out.

TensorFlow's own kernel computes every exponential twice, and not with vector instructions: for (700, 10,000) logits it
takes twice as long as the lines below (benchmarks/LOG.md). A small model with a large vocabulary spends a tenth of its
step there.

Shape letters: N positions (any leading axes), V vocabulary.
"""

from keras import ops

from zoo.layers.fusion import fused


def cross_entropy(labels, logits):
    """-log softmax(logits)[label] of every position.

    Its gradient is softmax(logits) - one_hot(label) (Bridle 1990).

    Args:
        labels: int (...,), ids in [0, V).
        logits: float32 (..., V).

    Returns:
        float32 (...,), in nats.
    """
    vocab_size = logits.shape[-1]
    losses_N = _cross_entropy(ops.reshape(labels, (-1,)), ops.reshape(logits, (-1, vocab_size)))
    return ops.reshape(losses_N, ops.shape(labels))


def _cross_entropy(labels_N, logits_NV):
    rows_N = ops.arange(ops.shape(labels_N)[0], dtype="int32")
    places_N2 = ops.stack([rows_N, ops.cast(labels_N, "int32")], axis=1)

    @ops.custom_gradient
    def losses(logits_NV):
        highest_N1, powers_NV, sums_N1 = exponentials(logits_NV)
        log_sums_N1 = highest_N1 + ops.log(sums_N1)
        picked_N1 = ops.take_along_axis(logits_NV, places_N2[:, 1:], axis=1)

        def gradient(*upstream):
            return _gradient(powers_NV, sums_N1, places_N2, upstream[-1][:, None])

        return (log_sums_N1 - picked_N1)[:, 0], gradient

    return losses(logits_NV)


@fused
def exponentials(logits_NV):
    """The highest logit of each row, exp(logits - highest) and its sum over a row."""
    highest_N1 = ops.max(logits_NV, axis=-1, keepdims=True)
    powers_NV = ops.exp(logits_NV - highest_N1)
    return highest_N1, powers_NV, ops.sum(powers_NV, axis=-1, keepdims=True)


@fused
def _gradient(powers_NV, sums_N1, places_N2, dy_N1):
    """dy (softmax - one_hot), in which only the N places of the labels are computed apart."""
    picked_N1 = ops.take_along_axis(powers_NV, places_N2[:, 1:], axis=1)
    at_labels_N1 = dy_N1 * (picked_N1 / sums_N1 - 1)
    return ops.scatter_update(powers_NV * (dy_N1 / sums_N1), places_N2, at_labels_N1[:, 0])
