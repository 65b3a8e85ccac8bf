"""Attention in parts: the same numbers as `attend`, without the half of the scores that a causal mask hides, or without
ever holding all scores.

- *in rows*: a few groups of queries, each against the keys up to its end. The weights are kept for the gradient, as in the
  plain form; 1/2 + 1/(2 parts) of its products are computed.
- *in blocks*: one block of queries and one of keys at a time, with a softmax whose maximum and sum are corrected as blocks
  come (Milakov and Gimelshein 2018), and computed again for the gradient (Rabe and Staats 2021; Dao et al. 2022,
  algorithms 1 and 4). Memory is linear in the length. Blocks above the diagonal of a causal mask are left out.

Shape letters: B batch, T positions, N query heads, K key/value heads, H head width; M parts, t, s queries and keys of one,
G = N / K queries a key head, which are stacked along t.
"""

from dataclasses import replace

from keras import ops

from zoo.layers.forms import BLOCK, MAX_ROWS, ROW
from zoo.layers.fusion import fused
from zoo.layers.masks import MASKED
from zoo.layers.stacks import read_block, write_block


def attend_in_rows(q_BNTH, k_BKTH, v_BKTH, rule):
    """softmax(Q K' / sqrt(H)) V under a causal rule, in rows.

    Args:
        q_BNTH, k_BKTH, v_BKTH: queries, keys and values of one sequence; T is known and N a multiple of K.
        rule: a causal `MaskRule`.

    Returns:
        (B, N, T, H), in the queries' dtype.
    """
    length = q_BNTH.shape[2]
    parts = max(1, min(MAX_ROWS, length // ROW))
    edges = [round(i * length / parts) for i in range(parts + 1)]
    rows = list(zip(edges, edges[1:], strict=False))
    scale, num_heads, num_kv_heads = q_BNTH.shape[-1] ** -0.5, q_BNTH.shape[1], k_BKTH.shape[1]

    @ops.custom_gradient
    def attended(q_BNTH, k_BKTH, v_BKTH):
        q_BNTH = q_BNTH * scale
        weights, outputs = [], []
        for first, end in rows:
            scores = _scores(_stack(q_BNTH[:, :, first:end], num_kv_heads), k_BKTH[:, :, :end])
            scores = _hide(scores, rule.block(first, end - first, 0, end), num_heads)
            weights.append(ops.cast(ops.softmax(scores, axis=-1), v_BKTH.dtype))
            outputs.append(_unstack(ops.matmul(weights[-1], v_BKTH[:, :, :end]), num_heads))
        out_BNTH = ops.concatenate(outputs, axis=2)

        def gradient(*upstream):
            dy_BNTH = upstream[-1]
            # sum_s w_s dw_s, the same for all keys of a query, is also dy . y, which is a shorter sum (Dao et al. 2022, B.4)
            inner_BNT1 = _inner_product(dy_BNTH, out_BNTH)
            dq, dk, dv = [], [], []
            for (first, end), w_BKts in zip(rows, weights, strict=True):
                q_BKtH, dy_BKtH = (_stack(x[:, :, first:end], num_kv_heads) for x in (q_BNTH, dy_BNTH))
                dw_BKts = ops.matmul(dy_BKtH, _transpose(v_BKTH[:, :, :end]))
                ds_BKts = _softmax_gradient(w_BKts, dw_BKts, _stack(inner_BNT1[:, :, first:end], num_kv_heads))
                dq.append(_unstack(ops.matmul(ds_BKts, k_BKTH[:, :, :end]), num_heads))
                dk.append(ops.matmul(_transpose(ds_BKts), q_BKtH))
                dv.append(ops.matmul(_transpose(w_BKts), dy_BKtH))
            return ops.concatenate(dq, axis=2) * scale, _sum_of_starts(dk, rows), _sum_of_starts(dv, rows)

        return out_BNTH, gradient

    return attended(q_BNTH, k_BKTH, v_BKTH)


def _sum_of_starts(parts, rows):
    """The sum of arrays that each cover the columns from 0 to the end of their row."""
    columns = [
        sum((part[:, :, first:end] for part in parts[i + 1 :]), parts[i][:, :, first:end])
        for i, (first, end) in enumerate(rows)
    ]
    return ops.concatenate(columns, axis=2)


@fused
def _softmax_gradient(w, dw, inner):
    """w (dw - sum w dw), in float32."""
    return ops.cast(ops.cast(w, "float32") * (ops.cast(dw, "float32") - inner), w.dtype)


def attend_in_blocks(q_BNTH, k_BKTH, v_BKTH, rule, block=BLOCK):
    """softmax(Q K' / sqrt(H)) V in blocks, in memory linear in T.

    Args:
        q_BNTH, k_BKTH, v_BKTH: queries, keys and values of one sequence; N is a multiple of K. T need not be known.
        rule: a `MaskRule`.
        block: most queries or keys in a block.

    Returns:
        (B, N, T, H), in the queries' dtype.
    """
    length = ops.shape(q_BNTH)[2]
    num_blocks = -(-length // block)
    size = -(-length // num_blocks)  # blocks alike, so that little is padded
    missing = num_blocks * size - length
    padded = isinstance(missing, int) and missing == 0
    if not padded:
        rule = _padded_rule(rule, q_BNTH, missing)
        q_BNTH, k_BKTH, v_BKTH = (ops.pad(x, ((0, 0), (0, 0), (0, missing), (0, 0))) for x in (q_BNTH, k_BKTH, v_BKTH))
    blocks = _Blocks(rule, num_blocks, size, q_BNTH.shape[1], k_BKTH.shape[1])

    @ops.custom_gradient
    def attended(q_MBKtH, k_MBKsH, v_MBKsH):
        out_MBKtH, log_sums_MBKt1 = blocks.attend(q_MBKtH, k_MBKsH, v_MBKsH)

        def gradient(*upstream):
            return blocks.gradient(q_MBKtH, k_MBKsH, v_MBKsH, out_MBKtH, log_sums_MBKt1, upstream[-1])

        return out_MBKtH, gradient

    q_BNTH = q_BNTH * q_BNTH.shape[-1] ** -0.5
    out_BNTH = blocks.unstack(attended(*(blocks.stack(x) for x in (q_BNTH, k_BKTH, v_BKTH))))
    return out_BNTH if padded else out_BNTH[:, :, :length]


def _padded_rule(rule, q_BNTH, missing):
    """The rule for rows that `missing` columns were added to, which nothing may see."""
    columns = ((0, 0), (0, missing))
    padding, segments = rule.padding_mask, rule.segment_ids
    if padding is None and not rule.causal:
        padding = ops.ones((ops.shape(q_BNTH)[0], ops.shape(q_BNTH)[2]), "bool")
    if padding is not None:
        padding = ops.cast(ops.pad(ops.cast(padding, "int32"), columns), "bool")
    return replace(rule, padding_mask=padding, segment_ids=None if segments is None else ops.pad(segments, columns))


class _Blocks:
    """The two passes over the M blocks of one attention, whose T is M blocks of t = s columns."""

    def __init__(self, rule, num_blocks, size, num_heads, num_kv_heads):
        self.rule, self.num_blocks, self.size = rule, num_blocks, size
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads

    def stack(self, x_BNTH):
        """(B, N or K, T, H) -> (M, B, K, G t or s, H)."""
        batch, heads, _, width = ops.shape(x_BNTH)
        x_BNMtH = ops.reshape(x_BNTH, (batch, heads, self.num_blocks, self.size, width))
        grouped = (self.num_blocks, batch, self.num_kv_heads, heads // self.num_kv_heads * self.size, width)
        return ops.reshape(ops.transpose(x_BNMtH, (2, 0, 1, 3, 4)), grouped)

    def unstack(self, x_MBKtH):
        """(M, B, K, G t, H) -> (B, N, T, H)."""
        _, batch, _, _, width = ops.shape(x_MBKtH)
        x_MBNtH = ops.reshape(x_MBKtH, (self.num_blocks, batch, self.num_heads, self.size, width))
        whole = (batch, self.num_heads, self.num_blocks * self.size, width)
        return ops.reshape(ops.transpose(x_MBNtH, (1, 2, 0, 3, 4)), whole)

    def attend(self, q_MBKtH, k_MBKsH, v_MBKsH):
        """The output (M, B, K, G t, H), and the logarithm of every query's sum of exponentials, float32."""

        def row(i, stacks):
            q_BKtH = read_block(q_MBKtH, i)

            def block(j, carry, rule):
                highest, total, mixed = carry
                scores = self._scores(q_BKtH, read_block(k_MBKsH, j), rule, i, j)
                raised = ops.maximum(highest, ops.max(scores, axis=-1, keepdims=True))
                powers, shrink = ops.exp(scores - raised), ops.exp(highest - raised)
                values = ops.matmul(ops.cast(powers, v_MBKsH.dtype), read_block(v_MBKsH, j))
                total = total * shrink + ops.sum(powers, axis=-1, keepdims=True)
                return raised, total, mixed * shrink + ops.cast(values, "float32")

            zeros = _zeros(q_BKtH)
            highest, total, mixed = self._over_keys(i, block, (zeros[..., :1] + 2 * MASKED, zeros[..., :1], zeros))
            new = (ops.cast(mixed / total, q_MBKtH.dtype), highest + ops.log(total))
            return tuple(write_block(stack, x, i) for stack, x in zip(stacks, new, strict=True))

        return ops.fori_loop(0, self.num_blocks, row, (ops.zeros_like(q_MBKtH), _zeros(q_MBKtH[..., :1])))

    def gradient(self, q_MBKtH, k_MBKsH, v_MBKsH, out_MBKtH, log_sums_MBKt1, dy_MBKtH):
        """Gradients of queries, keys and values (Dao et al. 2022, algorithm 4)."""
        inner_MBKt1 = _inner_product(dy_MBKtH, out_MBKtH)

        def row(i, stacks):
            dq_MBKtH, dk_MBKsH, dv_MBKsH = stacks
            q_BKtH, dy_BKtH, log_sums, inner = (read_block(x, i) for x in (q_MBKtH, dy_MBKtH, log_sums_MBKt1, inner_MBKt1))

            def block(j, carry, rule):
                dq_BKtH, dk_MBKsH, dv_MBKsH = carry
                k_BKsH, v_BKsH = read_block(k_MBKsH, j), read_block(v_MBKsH, j)
                # A hidden score is so low that its weight is 0, but for queries that see nothing, which nobody reads.
                w_BKts = ops.exp(self._scores(q_BKtH, k_BKsH, rule, i, j) - log_sums)
                ds_BKts = w_BKts * (ops.cast(ops.matmul(dy_BKtH, _transpose(v_BKsH)), "float32") - inner)
                w_BKts, ds_BKts = ops.cast(w_BKts, dy_BKtH.dtype), ops.cast(ds_BKts, dy_BKtH.dtype)
                dk_MBKsH = _add(dk_MBKsH, ops.matmul(_transpose(ds_BKts), q_BKtH), j)
                dv_MBKsH = _add(dv_MBKsH, ops.matmul(_transpose(w_BKts), dy_BKtH), j)
                return dq_BKtH + ops.cast(ops.matmul(ds_BKts, k_BKsH), "float32"), dk_MBKsH, dv_MBKsH

            dq_BKtH, dk_MBKsH, dv_MBKsH = self._over_keys(i, block, (_zeros(q_BKtH), dk_MBKsH, dv_MBKsH))
            return write_block(dq_MBKtH, ops.cast(dq_BKtH, dq_MBKtH.dtype), i), dk_MBKsH, dv_MBKsH

        start = (ops.zeros_like(q_MBKtH), _zeros(k_MBKsH), _zeros(v_MBKsH))
        dq_MBKtH, dk_MBKsH, dv_MBKsH = ops.fori_loop(0, self.num_blocks, row, start)
        return dq_MBKtH, ops.cast(dk_MBKsH, k_MBKsH.dtype), ops.cast(dv_MBKsH, v_MBKsH.dtype)

    def _over_keys(self, i, block, carry):
        """`block(j, carry, rule)` for every block of keys that block i of the queries may see."""
        if not self.rule.causal:
            return ops.fori_loop(0, self.num_blocks, lambda j, carry: block(j, carry, self.rule), carry)
        # Below the diagonal no causal mask is needed.
        below = replace(self.rule, causal=False)
        carry = ops.fori_loop(0, i, lambda j, carry: block(j, carry, below), carry)
        return block(i, carry, self.rule)

    def _scores(self, q_BKtH, k_BKsH, rule, i, j):
        mask = rule.block(i * self.size, self.size, j * self.size, self.size)
        return _hide(_scores(q_BKtH, k_BKsH), mask, self.num_heads)


def _zeros(x):
    return ops.zeros_like(x, dtype="float32")


def _add(stack, block, j):
    return write_block(stack, read_block(stack, j) + ops.cast(block, stack.dtype), j)


def _scores(q_BKtH, k_BKsH):
    return ops.cast(ops.matmul(q_BKtH, _transpose(k_BKsH)), "float32")


def _hide(scores_BKts, mask, num_heads):
    """Scores with those that the mask (B or 1, t, s) hides made too low to count."""
    if mask is None:
        return scores_BKts
    num_kv_heads = scores_BKts.shape[1]
    scores_BNts = ops.where(mask[:, None], _unstack(scores_BKts, num_heads), MASKED)
    return _stack(scores_BNts, num_kv_heads)


def _inner_product(x, y):
    return ops.sum(ops.cast(x, "float32") * ops.cast(y, "float32"), axis=-1, keepdims=True)


def _transpose(x):
    return ops.transpose(x, (0, 1, 3, 2))


def _stack(x_BNtH, num_kv_heads):
    """(B, N, t, H) -> (B, K, G t, H)."""
    batch, heads, length, width = ops.shape(x_BNtH)
    return (
        x_BNtH if heads == num_kv_heads else ops.reshape(x_BNtH, (batch, num_kv_heads, heads // num_kv_heads * length, width))
    )


def _unstack(x_BKtH, num_heads):
    """(B, K, G t, H) -> (B, N, t, H)."""
    batch, heads, length, width = ops.shape(x_BKtH)
    return x_BKtH if heads == num_heads else ops.reshape(x_BKtH, (batch, num_heads, length * heads // num_heads, width))
