"""Attention in parts: the same numbers as `attend`, without the half of the scores that a causal mask hides, or without
ever holding all scores.

- *in rows*: a few groups of queries, each against the keys up to its end. The weights are kept for the gradient, as in the
  plain form; 1/2 + 1/(2 parts) of its products are computed.
- *in blocks*: one block of queries and one of keys at a time, with a softmax whose maximum and sum are corrected as blocks
  come (Milakov and Gimelshein 2018), and computed again for the gradient (Rabe and Staats 2021; Dao et al. 2022,
  algorithms 1 and 4). Memory is linear in the length. Blocks that a causal mask hides whole are left out.

Shape letters: B batch, T queries, S keys, N query heads, K key/value heads, H head width; M parts, t, s queries and keys of
one, G = N / K queries a key head, which are stacked along t; b = B or 1, the batch of a bias.
"""

import functools
import itertools
from dataclasses import replace
from typing import Any, NamedTuple

from keras import ops

from zoo.layers.activations import softmax
from zoo.layers.forms import BLOCK, num_rows
from zoo.layers.fusion import fused
from zoo.layers.masks import MASKED
from zoo.layers.stacks import read_block, write_block


def scaled(q, scale):
    """q times `scale`, by default 1 / sqrt(H)."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return q if scale == 1 else q * scale


def attend_in_rows(q_BNTH, k_BKSH, v_BKSH, rule, bias=None, scale=None):
    """softmax(Q K' / sqrt(H) + bias) V under a causal rule, in rows.

    Args:
        q_BNTH, k_BKSH, v_BKSH: queries, keys and values; T and S are known and N a multiple of K.
        rule: a `MaskRule`.
        bias: float (b, N, T, S), or None.
        scale: what takes the place of 1 / sqrt(H), or None.

    Returns:
        (B, N, T, H), in the queries' dtype.
    """
    length, num_keys = q_BNTH.shape[2], k_BKSH.shape[2]
    parts = num_rows(length)
    edges = [round(i * length / parts) for i in range(parts + 1)]
    rows = list(itertools.pairwise(edges))
    key_ends = [rule.keys_within(end, num_keys) for _, end in rows]
    num_heads, num_kv_heads = q_BNTH.shape[1], k_BKSH.shape[1]

    @ops.custom_gradient
    def attended(q_BNTH, k_BKSH, v_BKSH, *bias):
        weights, outputs = [], []
        for (first, end), key_end in zip(rows, key_ends, strict=True):
            scores = _scores(_stack(q_BNTH[:, :, first:end], num_kv_heads), k_BKSH[:, :, :key_end])
            if bias:
                scores = scores + _stack(bias[0][:, :, first:end, :key_end], num_kv_heads)
            scores = _hide(scores, rule.block(first, end - first, 0, key_end), num_heads)
            weights.append(ops.cast(softmax(scores), v_BKSH.dtype))
            outputs.append(_unstack(ops.matmul(weights[-1], v_BKSH[:, :, :key_end]), num_heads))
        out_BNTH = ops.concatenate(outputs, axis=2)

        def gradient(*upstream):
            dy_BNTH = upstream[-1]
            # sum_s w_s dw_s, the same for all keys of a query, is also dy . y, which is a shorter sum (Dao et al. 2022, B.4)
            inner_BNT1 = _inner_product(dy_BNTH, out_BNTH)
            dq, dk, dv, dbias = [], [], [], []
            for (first, end), key_end, w_BKts in zip(rows, key_ends, weights, strict=True):
                q_BKtH, dy_BKtH = (_stack(x[:, :, first:end], num_kv_heads) for x in (q_BNTH, dy_BNTH))
                dw_BKts = ops.matmul(dy_BKtH, _transpose(v_BKSH[:, :, :key_end]))
                ds_BKts = _softmax_gradient(w_BKts, dw_BKts, _stack(inner_BNT1[:, :, first:end], num_kv_heads))
                dq.append(_unstack(ops.matmul(ds_BKts, k_BKSH[:, :, :key_end]), num_heads))
                dk.append(ops.matmul(_transpose(ds_BKts), q_BKtH))
                dv.append(ops.matmul(_transpose(w_BKts), dy_BKtH))
                if bias:
                    ds_bNts = _as_bias(_unstack(ds_BKts, num_heads), bias[0].shape[0])
                    dbias.append(ops.pad(ds_bNts, ((0, 0), (0, 0), (0, 0), (0, num_keys - key_end))))
            dk, dv = _sum_of_starts(dk, key_ends, num_keys), _sum_of_starts(dv, key_ends, num_keys)
            return (ops.concatenate(dq, axis=2), dk, dv, *([ops.concatenate(dbias, axis=2)] if bias else []))

        return out_BNTH, gradient

    return attended(scaled(q_BNTH, scale), k_BKSH, v_BKSH, *_given(bias))


def _given(bias):
    """The bias in float32, as a list that is empty without one."""
    return [] if bias is None else [ops.cast(bias, "float32")]


def _as_bias(ds, batch):
    """The gradient of the scores (B, ...) as that of a bias whose batch is `batch`, which is 1 where rows share it: float32."""
    ds = ops.cast(ds, "float32")
    return ops.sum(ds, axis=0, keepdims=True) if batch == 1 else ds


def _sum_of_starts(parts, ends, num_columns):
    """The sum of arrays that each cover the columns from 0 to their end."""
    columns = []
    for first, end in itertools.pairwise(sorted({0, *ends})):
        covering = (part[:, :, first:end] for part, its_end in zip(parts, ends, strict=True) if its_end >= end)
        columns.append(functools.reduce(ops.add, covering))
    total = ops.concatenate(columns, axis=2)
    missing = num_columns - max(ends)
    return ops.pad(total, ((0, 0), (0, 0), (0, missing), (0, 0))) if missing else total


@fused
def _softmax_gradient(w, dw, inner):
    """w (dw - sum w dw), in float32."""
    return ops.cast(ops.cast(w, "float32") * (ops.cast(dw, "float32") - inner), w.dtype)


def attend_in_blocks(q_BNTH, k_BKSH, v_BKSH, rule, bias=None, scale=None, block=BLOCK):
    """softmax(Q K' / sqrt(H) + bias) V in blocks, in memory linear in T and S.

    Args:
        q_BNTH, k_BKSH, v_BKSH: queries, keys and values; N is a multiple of K. T and S need not be known.
        rule: a `MaskRule`.
        bias: float (b, N, T, S), or None.
        scale: what takes the place of 1 / sqrt(H), or None.
        block: most queries or keys in a block.

    Returns:
        (B, N, T, H), in the queries' dtype.
    """
    length = ops.shape(q_BNTH)[2]
    same = q_BNTH.shape[2] is not None and q_BNTH.shape[2] == k_BKSH.shape[2]
    queries = _Cut.of(length, block)
    keys = queries if same else _Cut.of(ops.shape(k_BKSH)[2], block)
    rule = _padded_rule(rule, queries, keys)
    blocks = _Blocks(rule, queries, keys, q_BNTH.shape[1], k_BKSH.shape[1])

    @ops.custom_gradient
    def attended(q_MBKtH, k_MBKsH, v_MBKsH, *bias):
        out_MBKtH, log_sums_MBKt1 = blocks.attend(q_MBKtH, k_MBKsH, v_MBKsH, *bias)

        def gradient(*upstream):
            return blocks.gradient(q_MBKtH, k_MBKsH, v_MBKsH, out_MBKtH, log_sums_MBKt1, upstream[-1], *bias)

        return out_MBKtH, gradient

    stacked = (
        queries.stack(scaled(q_BNTH, scale), k_BKSH.shape[1]),
        *(keys.stack(x, k_BKSH.shape[1]) for x in (k_BKSH, v_BKSH)),
    )
    return blocks.unstack(attended(*stacked, *(blocks.stack_bias(x) for x in _given(bias))), length)


class _Cut(NamedTuple):
    """How an axis is cut into blocks that are alike, so that little is padded.

    Attributes:
        number: M, how many blocks there are.
        size: columns of one.
        missing: columns that are added behind the last.
    """

    number: Any
    size: Any
    missing: Any

    @classmethod
    def of(cls, length, block):
        number = -(-length // block)
        size = -(-length // number)
        return cls(number, size, number * size - length)

    @property
    def is_even(self):
        return isinstance(self.missing, int) and self.missing == 0

    def pad(self, x, axis):
        """x with the missing columns."""
        if self.is_even:
            return x
        return ops.pad(x, [(0, self.missing if i == axis else 0) for i in range(len(x.shape))])

    def stack(self, x_BNTH, num_kv_heads):
        """(B, N or K, T, H) -> (M, B, K, G t or s, H)."""
        x_BNTH = self.pad(x_BNTH, 2)
        batch, heads, _, width = ops.shape(x_BNTH)
        x_BNMtH = ops.reshape(x_BNTH, (batch, heads, self.number, self.size, width))
        grouped = (self.number, batch, num_kv_heads, heads // num_kv_heads * self.size, width)
        return ops.reshape(ops.transpose(x_BNMtH, (2, 0, 1, 3, 4)), grouped)


def _padded_rule(rule, queries, keys):
    """The rule for queries and keys with the columns that their `_Cut` adds, which nothing may see."""
    padding, segments = rule.padding_mask, rule.segments
    if padding is None and not rule.causal and not keys.is_even:
        padding = ops.ones((1, keys.number * keys.size - keys.missing), "bool")
    if padding is not None and not keys.is_even:
        padding = ops.cast(keys.pad(ops.cast(padding, "int32"), 1), "bool")
    if segments is not None:
        segments = queries.pad(segments[0], 1), keys.pad(segments[1], 1)
    return replace(rule, padding_mask=padding, segments=segments)


class _Blocks:
    """The two passes over the blocks of one attention: M of t queries, and M of s keys.

    Args:
        rule: a `MaskRule` of the padded columns.
        queries, keys: the `_Cut` of either.
        num_heads, num_kv_heads: N and K.
    """

    def __init__(self, rule, queries, keys, num_heads, num_kv_heads):
        self.rule, self.queries, self.keys = rule, queries, keys
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads

    def unstack(self, x_MBKtH, length):
        """(M, B, K, G t, H) -> (B, N, T, H)."""
        _, batch, _, _, width = ops.shape(x_MBKtH)
        number, size, _ = self.queries
        x_MBNtH = ops.reshape(x_MBKtH, (number, batch, self.num_heads, size, width))
        whole = (batch, self.num_heads, number * size, width)
        x_BNTH = ops.reshape(ops.transpose(x_MBNtH, (1, 2, 0, 3, 4)), whole)
        return x_BNTH if self.queries.is_even else x_BNTH[:, :, :length]

    def stack_bias(self, bias_bNTS):
        """(b, N, T, S) -> (M M, b, K, G t, s), the blocks of one row of them side by side."""
        bias_bNTS = self.keys.pad(self.queries.pad(bias_bNTS, 2), 3)
        batch, (m, t, _), (n, s, _) = ops.shape(bias_bNTS)[0], self.queries, self.keys
        cut = ops.reshape(bias_bNTS, (batch, self.num_heads, m, t, n, s))
        grouped = (m * n, batch, self.num_kv_heads, self.num_heads // self.num_kv_heads * t, s)
        return ops.reshape(ops.transpose(cut, (2, 4, 0, 1, 3, 5)), grouped)

    def attend(self, q_MBKtH, k_MBKsH, v_MBKsH, bias=None):
        """The output (M, B, K, G t, H), and the logarithm of every query's sum of exponentials, float32."""

        def row(i, stacks):
            q_BKtH = read_block(q_MBKtH, i)

            def block(j, carry, rule):
                highest, total, mixed = carry
                scores = self._scores(q_BKtH, read_block(k_MBKsH, j), bias, rule, i, j)
                raised = ops.maximum(highest, ops.max(scores, axis=-1, keepdims=True))
                powers, shrink = ops.exp(scores - raised), ops.exp(highest - raised)
                values = ops.matmul(ops.cast(powers, v_MBKsH.dtype), read_block(v_MBKsH, j))
                total = total * shrink + ops.sum(powers, axis=-1, keepdims=True)
                return raised, total, mixed * shrink + ops.cast(values, "float32")

            zeros = _zeros(q_BKtH)
            highest, total, mixed = self._over_keys(i, block, (zeros[..., :1] + 2 * MASKED, zeros[..., :1], zeros))
            new = (ops.cast(mixed / total, q_MBKtH.dtype), highest + ops.log(total))
            return tuple(write_block(stack, x, i) for stack, x in zip(stacks, new, strict=True))

        return ops.fori_loop(0, self.queries.number, row, (ops.zeros_like(q_MBKtH), _zeros(q_MBKtH[..., :1])))

    def gradient(self, q_MBKtH, k_MBKsH, v_MBKsH, out_MBKtH, log_sums_MBKt1, dy_MBKtH, bias=None):
        """Gradients of queries, keys, values and of a bias (Dao et al. 2022, algorithm 4)."""
        inner_MBKt1 = _inner_product(dy_MBKtH, out_MBKtH)

        def row(i, stacks):
            dq_MBKtH, *sums = stacks
            q_BKtH, dy_BKtH, log_sums, inner = (read_block(x, i) for x in (q_MBKtH, dy_MBKtH, log_sums_MBKt1, inner_MBKt1))

            def block(j, carry, rule):
                dq_BKtH, dk_MBKsH, dv_MBKsH, *dbias = carry
                k_BKsH, v_BKsH = read_block(k_MBKsH, j), read_block(v_MBKsH, j)
                # A hidden score is so low that its weight is 0, but for queries that see nothing, which nobody reads.
                w_BKts = ops.exp(self._scores(q_BKtH, k_BKsH, bias, rule, i, j) - log_sums)
                ds_BKts = w_BKts * (ops.cast(ops.matmul(dy_BKtH, _transpose(v_BKsH)), "float32") - inner)
                if dbias:  # no two turns write the same block
                    dbias = [write_block(dbias[0], _as_bias(ds_BKts, bias.shape[1]), i * self.keys.number + j)]
                w_BKts, ds_BKts = ops.cast(w_BKts, dy_BKtH.dtype), ops.cast(ds_BKts, dy_BKtH.dtype)
                dk_MBKsH = _add(dk_MBKsH, ops.matmul(_transpose(ds_BKts), q_BKtH), j)
                dv_MBKsH = _add(dv_MBKsH, ops.matmul(_transpose(w_BKts), dy_BKtH), j)
                return dq_BKtH + ops.cast(ops.matmul(ds_BKts, k_BKsH), "float32"), dk_MBKsH, dv_MBKsH, *dbias

            dq_BKtH, *sums = self._over_keys(i, block, (_zeros(q_BKtH), *sums))
            return write_block(dq_MBKtH, ops.cast(dq_BKtH, dq_MBKtH.dtype), i), *sums

        start = (ops.zeros_like(q_MBKtH), _zeros(k_MBKsH), _zeros(v_MBKsH), *([] if bias is None else [_zeros(bias)]))
        dq_MBKtH, dk_MBKsH, dv_MBKsH, *dbias = ops.fori_loop(0, self.queries.number, row, start)
        return dq_MBKtH, ops.cast(dk_MBKsH, k_MBKsH.dtype), ops.cast(dv_MBKsH, v_MBKsH.dtype), *dbias

    def _over_keys(self, i, block, carry):
        """`block(j, carry, rule)` for every block of keys that block i of the queries may see."""
        rule, size, (number, key_size, _) = self.rule, self.queries.size, self.keys
        if not rule.causal:
            return ops.fori_loop(0, number, lambda j, carry: block(j, carry, rule), carry)
        # Below the diagonal no causal mask is needed.
        below = replace(rule, causal=False)
        first = rule.query_offset + i * size  # column of the block's first query
        begin = 0  # blocks that lie before the window whole are left out, too
        if rule.window is not None:
            begin = ops.maximum(first - rule.window + 1, 0) // key_size
        if self.queries is self.keys and rule.is_triangle and rule.query_offset == 0:
            carry = ops.fori_loop(begin, i, lambda j, carry: block(j, carry, below), carry)
            return block(i, carry, rule)
        open_to_all = ops.minimum((first + 1) // key_size, number)
        end = ops.minimum((first + size - 1) // key_size + 1, number)
        if rule.prefix_lengths is not None:
            end = ops.maximum(end, (ops.max(rule.prefix_lengths) + key_size - 1) // key_size)
        carry = ops.fori_loop(begin, open_to_all, lambda j, carry: block(j, carry, below), carry)
        return ops.fori_loop(open_to_all, end, lambda j, carry: block(j, carry, rule), carry)

    def _scores(self, q_BKtH, k_BKsH, bias, rule, i, j):
        scores = _scores(q_BKtH, k_BKsH)
        if bias is not None:
            scores = scores + read_block(bias, i * self.keys.number + j)
        mask = rule.block(i * self.queries.size, self.queries.size, j * self.keys.size, self.keys.size)
        return _hide(scores, mask, self.num_heads)


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
