"""Multi-head attention to the sequence itself or to another one. One module serves every Transformer.

Shape letters: B batch, T queries, S keys, D hidden, N query heads, K key/value heads, G = N / K queries a key head,
H head width; b = B or 1, the batch of a bias.
"""

import keras
import numpy as np
from keras import ops

from zoo.config import Refusal
from zoo.layers import fusion
from zoo.layers.activations import softmax
from zoo.layers.blockwise_attention import attend_in_blocks, attend_in_rows, scaled
from zoo.layers.dropout import Dropout
from zoo.layers.forms import FORMS, resolve_form
from zoo.layers.linear import Linear, leading_shape, row_matmul
from zoo.layers.masks import MASKED, MaskRule
from zoo.layers.norms import Norm
from zoo.layers.positions import rotate


def attend(q_BNTH, k_BKSH, v_BKSH, mask, bias=None, scale=None, with_weights=False, cap=None):
    """The plain form: softmax(Q K' / sqrt(H) + bias) V (Vaswani et al. 2017, eq. 1), softmax in float32.

    Args:
        q_BNTH: queries; k_BKSH, v_BKSH: keys and values with N a multiple of K.
        mask: bool (B or 1, T, S), True attends; or None.
        bias: float (b, N, T, S), added to the scores; or None.
        scale: what takes the place of 1 / sqrt(H), or None.
        with_weights: whether to return the weights, too.
        cap: c of c tanh(score / c), which takes the place of a score before the bias (Gemma 2), or None.

    Returns:
        (B, N, T, H), in the queries' dtype; `with_weights`, also what the values are weighed with, (B, N, T, S).
    """
    num_heads, num_kv_heads, head_dim = q_BNTH.shape[1], k_BKSH.shape[1], q_BNTH.shape[-1]
    groups = num_heads // num_kv_heads
    num_queries = ops.shape(q_BNTH)[2]
    # Queries that share a key head are stacked along T: grouped-query attention is then a plain batched product.
    q = ops.reshape(scaled(q_BNTH, scale), (-1, num_kv_heads, groups * num_queries, head_dim))
    if groups == 1 and q_BNTH.shape[2] == 1:
        weights = _weights_of_one(q, k_BKSH, mask, bias, v_BKSH.dtype, cap)
        out_BNTH = row_matmul(weights, v_BKSH)
        return (out_BNTH, weights) if with_weights else out_BNTH
    scores = _capped(ops.cast(ops.matmul(q, ops.transpose(k_BKSH, (0, 1, 3, 2))), "float32"), cap)
    if mask is not None or bias is not None:
        num_keys = ops.shape(k_BKSH)[2]
        if groups > 1:
            scores = ops.reshape(scores, (-1, num_heads, num_queries, num_keys))
        if bias is not None:
            scores = scores + ops.cast(bias, "float32")
        if mask is not None:
            scores = scores + ops.where(mask, 0.0, MASKED)[:, None]
        if groups > 1:
            scores = ops.reshape(scores, (-1, num_kv_heads, groups * num_queries, num_keys))
    weights = ops.cast(softmax(scores), v_BKSH.dtype)
    out_BNTH = ops.reshape(ops.matmul(weights, v_BKSH), (-1, num_heads, num_queries, head_dim))
    if not with_weights:
        return out_BNTH
    return out_BNTH, ops.reshape(weights, (-1, num_heads, num_queries, ops.shape(k_BKSH)[2]))


def _capped(scores, cap):
    return scores if cap is None else cap * ops.tanh(scores / cap)


def _weights_of_one(q_BK1H, k_BKSH, mask_B1S, bias_bN1S, dtype, cap):
    """The weights (B, K, 1, S) in a decoding step, where there is so little to do that the large kernels (a product and a sum
    in one, oneDNN's softmax) take longer to begin than the plain ones to end."""
    scores_BK1S = _capped(ops.cast(row_matmul(q_BK1H, k_BKSH, transpose_y=True), "float32"), cap)
    if bias_bN1S is not None:
        scores_BK1S = scores_BK1S + ops.cast(bias_bN1S, "float32")
    if mask_B1S is not None:
        scores_BK1S = ops.where(mask_B1S[:, None], scores_BK1S, MASKED)
    powers_BK1S = ops.exp(scores_BK1S - ops.max(scores_BK1S, axis=-1, keepdims=True))
    return ops.cast(powers_BK1S / ops.sum(powers_BK1S, axis=-1, keepdims=True), dtype)


def attend_by_rule(q_BNTH, k_BKSH, v_BKSH, rule, form, bias=None, scale=None, with_weights=False, cap=None):
    """`attend` under a `MaskRule`, in one of the `FORMS`; the plain one alone has the weights, and a cap."""
    length, num_keys = q_BNTH.shape[2], k_BKSH.shape[2]
    form = "plain" if with_weights or cap is not None else resolve_form(form, length, rule.is_triangle)
    if form == "blockwise":
        return attend_in_blocks(q_BNTH, k_BKSH, v_BKSH, rule, bias, scale)
    if form == "rows" and rule.causal and None not in (length, num_keys):
        return attend_in_rows(q_BNTH, k_BKSH, v_BKSH, rule, bias, scale)
    mask = rule.whole(ops.shape(q_BNTH)[2], ops.shape(k_BKSH)[2])
    return attend(q_BNTH, k_BKSH, v_BKSH, mask, bias, scale, with_weights, cap)


def shared_mask(rule, form, queries, keys):
    """What the layers of a stack take as `attention_mask`: one bool mask, where they compute in the plain form, or the rule.

    Args:
        rule: a `MaskRule`.
        form: of every layer, one of `FORMS`.
        queries, keys: (B, T) and (B, S), for their lengths alone.
    """
    form = resolve_form(form, queries.shape[1], rule.is_triangle)
    if form == "plain" or None in (queries.shape[1], keys.shape[1]):
        return rule.whole(ops.shape(queries)[1], ops.shape(keys)[1])
    return rule


def append_to_cache(cache_BKSH, new_BKTH, index):
    """Writes T new columns into a cache from column `index` on.

    cache  a b . .    new  c    index 2    ->    a b c .
    """
    if keras.backend.backend() != "tensorflow":
        return ops.slice_update(cache_BKSH, (0, 0, index, 0), new_BKTH)
    if fusion.is_whole():  # XLA cannot compile the op below, and its own a server may not have: each column is chosen
        source = ops.arange(ops.shape(cache_BKSH)[2], dtype="int32") - index
        num_new = ops.shape(new_BKTH)[2]
        new_BKSH = ops.take(new_BKTH, ops.clip(source, 0, num_new - 1), axis=2)
        return ops.where(((source >= 0) & (source < num_new))[:, None], new_BKSH, cache_BKSH)
    import tensorflow as tf  # for one op; other backends need not have it

    # On TensorFlow that op is XLA's, and scatter_update copies the whole cache. This one writes into the buffer it is given
    # when nothing else holds it, as with the variable of a while loop: a token then costs the same however long the cache is.
    end = index + ops.shape(new_BKTH)[2]
    whole_but_column = 0b1011  # bit i set: axis i is taken whole
    return tf.raw_ops.TensorStridedSliceUpdate(
        input=cache_BKSH, begin=tf.stack([0, 0, index, 0]), end=tf.stack([0, 0, end, 0]), strides=[1, 1, 1, 1],
        value=new_BKTH, begin_mask=whole_but_column, end_mask=whole_but_column,
    )  # fmt: skip


def _exchanged(x):
    """x with its axes 1 and 2 exchanged; where one of them has length 1, that moves nothing."""
    one, two = x.shape[1:3]
    if 1 in (one, two) and None not in (one, two):
        return ops.reshape(x, (-1, two, one, x.shape[3]))
    return ops.transpose(x, (0, 2, 1, 3))


class Attention(keras.layers.Layer):
    """Multi-head attention: softmax(Q K' / sqrt(H) + bias) V of N heads side by side (Vaswani et al. 2017, section 3.2.2).

    Q, K and V are products of the sequence itself, or, with `cross`, Q of the sequence and K and V of another one, the memory.
    With `num_kv_heads` < `num_heads` it is grouped-query attention (Ainslie et al. 2023).

    Args:
        num_heads: N.
        num_kv_heads: K, a divisor of N.
        head_dim: H.
        use_bias: whether the projections have biases; a pair tells it of queries, keys and values, and of the output.
        dropout: rate on the output.
        normalize_qk: RMS-normalise queries and keys a head (Henry et al. 2020); `whole`: all heads together, as in OLMo 2.
        output_stddev: of the output projection's initialisation.
        input_stddevs: of the initialisation of queries, and of keys and values.
        form: how attention under a `MaskRule` is computed, one of `forms.FORMS`.
        scale: what scores are multiplied with in place of 1 / sqrt(H), such as 1 (Raffel et al. 2020); or None. A pair tells
            it and the `cap` of `attend`.
        cross: whether keys and values come from a memory. The weights are `query` and `key_value` then, and not `qkv`.
        rotation: how `angles` turn queries and keys, such as `positions.rotate_pairs`.

    Call:
        x: (B, T, D).
        memory: with `cross` alone: (B, S, D), or its keys and values (B, K, S, H) from `memory_keys_values`.
        attention_mask: bool (B or 1, T, S), or a `MaskRule`, or None.
        bias: float (b, N, T, S), such as `positions.RelativeBias` gives, or None.
        angles: what `rotation` takes, such as `positions.rotary_angles` gives, or None; not with `cross`.
        cache: dict `keys`, `values` (B, K, S, H) and scalar `index`, or None: then S = T; not with `cross`.
        with_weights: whether the weights of the heads are returned, too; they are then computed in the plain form.

    Returns:
        (B, T, D), and the dict of the updated `keys` and `values` (None without a cache); `with_weights`, also the weights
        (B, N, T, S).

    Raises:
        Refusal: for an unknown `form`; if there is a memory without `cross`, or none with it.

    Example:
        >>> attention = Attention(num_heads=2, num_kv_heads=2, head_dim=4, cross=True)
        >>> attention.build((None, None, 8))
        >>> out, _ = attention(np.ones((1, 3, 8), "float32"), memory=np.ones((1, 5, 8), "float32"))
        >>> out.shape
        TensorShape([1, 3, 8])
    """

    def __init__(
        self, num_heads, num_kv_heads, head_dim, *, use_bias=True, dropout=0.0, normalize_qk=False,
        output_stddev=0.02, input_stddevs=(0.02, 0.02), form="auto", scale=None, cross=False, rotation=rotate, **kwargs
    ):  # fmt: skip
        super().__init__(autocast=False, **kwargs)  # the angles stay float32; what is computed follows x
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, head_dim
        self.use_bias, self.output_bias = use_bias if isinstance(use_bias, tuple) else (use_bias, use_bias)
        self.output_stddev, self.form = output_stddev, form
        self.scale, self.cap = scale if isinstance(scale, tuple) else (scale, None)
        self.cross, self.rotation = cross, rotation
        if form not in FORMS:
            raise Refusal(f"form must be {' or '.join(FORMS)}, got {form!r}.")
        of_query, of_memory = input_stddevs
        if cross:
            self.query = self._projection(num_heads, of_query, "query")
            self.key_value = self._projection(2 * num_kv_heads, of_memory, "key_value")
        else:
            widths = num_heads * head_dim, 2 * num_kv_heads * head_dim
            stddev = of_query if of_query == of_memory else np.repeat(np.float32(input_stddevs), widths)
            self.qkv = self._projection(num_heads + 2 * num_kv_heads, stddev, "qkv")
        self.normalize_qk = normalize_qk
        if normalize_qk:
            self.query_norm = Norm("rms", 1e-6, dtype=self.dtype_policy, name="query_norm")
            self.key_norm = Norm("rms", 1e-6, dtype=self.dtype_policy, name="key_norm")
        self.dropout = Dropout(dropout, name="dropout") if dropout else None

    def _projection(self, num_heads, stddev, name):
        return Linear(num_heads * self.head_dim, self.use_bias, stddev, dtype=self.dtype_policy, name=name)

    def build(self, input_shape, memory_shape=None):
        if self.cross:
            self.query.build(input_shape)
            self.key_value.build(input_shape if memory_shape is None else memory_shape)
        else:
            self.qkv.build(input_shape)
        if self.normalize_qk:
            whole = self.normalize_qk == "whole"
            for norm, num_heads in ((self.query_norm, self.num_heads), (self.key_norm, self.num_kv_heads)):
                norm.build((None, None, None, num_heads * self.head_dim if whole else self.head_dim))
        self.output_projection = Linear(
            input_shape[-1], self.output_bias, self.output_stddev, dtype=self.dtype_policy, name="output_projection"
        )
        self.output_projection.build((*input_shape[:-1], self.num_heads * self.head_dim))

    def memory_keys_values(self, memory_BSD):
        """Keys and values (B, K, S, H) of a memory, which a decoder keeps in its state: they are the same in every step."""
        heads = self._heads(self.key_value(memory_BSD), 2 * self.num_kv_heads)
        k_BKSH, v_BKSH = ops.split(heads, 2, axis=1)
        return (self.key_norm(k_BKSH) if self.normalize_qk else k_BKSH), v_BKSH

    def call(
        self, x, memory=None, attention_mask=None, bias=None, angles=None, cache=None, with_weights=False, training=False
    ):  # fmt: skip
        if self.cross == (memory is None):
            raise Refusal(f"Attention with cross={self.cross} takes {'a' if self.cross else 'no'} memory.")
        q_BNTH, k_BKSH, v_BKSH = self._of_memory(x, memory) if self.cross else self._of_itself(x, angles)
        updated = None
        if cache is not None:
            k_BKSH = append_to_cache(cache["keys"], k_BKSH, cache["index"])
            v_BKSH = append_to_cache(cache["values"], v_BKSH, cache["index"])
            updated = {"keys": k_BKSH, "values": v_BKSH}
        options = dict(bias=bias, scale=self.scale, with_weights=with_weights, cap=self.cap)
        if isinstance(attention_mask, MaskRule):
            out = attend_by_rule(q_BNTH, k_BKSH, v_BKSH, attention_mask, self.form, **options)
        else:
            out = attend(q_BNTH, k_BKSH, v_BKSH, attention_mask, **options)
        out, weights = out if with_weights else (out, None)
        out = ops.reshape(_exchanged(out), (*leading_shape(x), self.num_heads * self.head_dim))
        out = self.output_projection(out)
        if self.dropout is not None:
            out = self.dropout(out, training=training)
        return (out, updated, weights) if with_weights else (out, updated)

    def _heads(self, x, num_heads):
        """(B, T, n H) -> (B, n, T, H)."""
        return _exchanged(ops.reshape(x, (*leading_shape(x), num_heads, self.head_dim)))

    def _of_itself(self, x, angles):
        """Queries, keys and values of the sequence."""
        n, k = self.num_heads, self.num_kv_heads
        # Split and not sliced: the gradient of three slices is three padded copies, that of a split one concatenation.
        qkv = self.qkv(x)
        if self.normalize_qk == "whole":
            q, k_v = ops.split(qkv, (n * self.head_dim,), axis=-1)
            keys, values = ops.split(k_v, 2, axis=-1)
            qkv = ops.concatenate([self.query_norm(q), self.key_norm(keys), values], axis=-1)
        q_BNTH, k_BKTH, v_BKTH = ops.split(self._heads(qkv, n + 2 * k), (n, n + k), axis=1)
        if self.normalize_qk is True:
            q_BNTH, k_BKTH = self.query_norm(q_BNTH), self.key_norm(k_BKTH)
        if angles is not None:
            q_BNTH, k_BKTH = self.rotation(q_BNTH, angles), self.rotation(k_BKTH, angles)
        return q_BNTH, k_BKTH, v_BKTH

    def _of_memory(self, x, memory):
        """Queries of the sequence, keys and values of the memory."""
        q_BNTH = self._heads(self.query(x), self.num_heads)
        if self.normalize_qk:
            q_BNTH = self.query_norm(q_BNTH)
        return q_BNTH, *(memory if isinstance(memory, (tuple, list)) else self.memory_keys_values(memory))
