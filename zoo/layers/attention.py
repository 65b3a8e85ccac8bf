"""Multi-head attention with shared key/value heads and an optional cache. One module serves every Transformer.

Shape letters: B batch, T queries, S keys, D hidden, N query heads, K key/value heads, G = N / K queries a key head,
H head width.
"""

import keras
from keras import ops

from zoo.config import Refusal
from zoo.layers import fusion
from zoo.layers.blockwise_attention import attend_in_blocks, attend_in_rows
from zoo.layers.forms import FORMS, resolve_form
from zoo.layers.linear import Linear, leading_shape, row_matmul
from zoo.layers.masks import MASKED, MaskRule
from zoo.layers.norms import Norm
from zoo.layers.positions import rotate


def attend(q_BNTH, k_BKSH, v_BKSH, mask):
    """The plain form: softmax(Q K' / sqrt(H)) V (Vaswani et al. 2017, eq. 1), softmax in float32.

    Args:
        q_BNTH: queries; k_BKSH, v_BKSH: keys and values with N a multiple of K.
        mask: bool (B or 1, T, S), True attends; or None.

    Returns:
        (B, N, T, H), in the queries' dtype.
    """
    num_heads, num_kv_heads, head_dim = q_BNTH.shape[1], k_BKSH.shape[1], q_BNTH.shape[-1]
    groups = num_heads // num_kv_heads
    num_queries = ops.shape(q_BNTH)[2]
    # Queries that share a key head are stacked along T: grouped-query attention is then a plain batched product.
    q = ops.reshape(q_BNTH * head_dim**-0.5, (-1, num_kv_heads, groups * num_queries, head_dim))
    if groups == 1 and q_BNTH.shape[2] == 1:
        return _attend_once(q, k_BKSH, v_BKSH, mask)
    scores = ops.cast(ops.matmul(q, ops.transpose(k_BKSH, (0, 1, 3, 2))), "float32")
    if mask is not None:
        num_keys = ops.shape(k_BKSH)[2]
        bias = ops.where(mask, 0.0, MASKED)[:, None]
        if groups > 1:
            scores = ops.reshape(scores, (-1, num_heads, num_queries, num_keys))
        scores = scores + bias
        if groups > 1:
            scores = ops.reshape(scores, (-1, num_kv_heads, groups * num_queries, num_keys))
    weights = ops.cast(ops.softmax(scores, axis=-1), v_BKSH.dtype)
    return ops.reshape(ops.matmul(weights, v_BKSH), (-1, num_heads, num_queries, head_dim))


def _attend_once(q_BK1H, k_BKSH, v_BKSH, mask_B1S):
    """`attend` in a decoding step, where there is so little to do that the large kernels (a product and a sum in one, oneDNN's
    softmax) take longer to begin than the plain ones to end."""
    scores_BK1S = ops.cast(row_matmul(q_BK1H, k_BKSH, transpose_y=True), "float32")
    if mask_B1S is not None:
        scores_BK1S = ops.where(mask_B1S[:, None], scores_BK1S, MASKED)
    powers_BK1S = ops.exp(scores_BK1S - ops.max(scores_BK1S, axis=-1, keepdims=True))
    weights_BK1S = ops.cast(powers_BK1S / ops.sum(powers_BK1S, axis=-1, keepdims=True), v_BKSH.dtype)
    return row_matmul(weights_BK1S, v_BKSH)


def attend_by_rule(q_BNTH, k_BKTH, v_BKTH, rule, form):
    """`attend` of a sequence to itself under a `MaskRule`, in one of the `FORMS`."""
    length = q_BNTH.shape[2]
    form = resolve_form(form, length, rule.causal)
    if form == "blockwise":
        return attend_in_blocks(q_BNTH, k_BKTH, v_BKTH, rule)
    if form == "rows" and rule.causal and length is not None:
        return attend_in_rows(q_BNTH, k_BKTH, v_BKTH, rule)
    return attend(q_BNTH, k_BKTH, v_BKTH, rule.whole(ops.shape(q_BNTH)[2]))


def append_to_cache(cache_BKSH, new_BKTH, index):
    """Writes T new columns into a cache from column `index` on."""
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
    """Multi-head self-attention; with `num_kv_heads` < `num_heads`, grouped-query (Ainslie et al. 2023).

    Args:
        num_heads: N.
        num_kv_heads: K, a divisor of N.
        head_dim: H.
        use_bias: whether the four projections have biases.
        dropout: rate on the output.
        normalize_qk: RMS-normalise queries and keys a head (Henry et al. 2020).
        output_stddev: of the output projection's initialisation.
        form: how attention under a `MaskRule` is computed, one of `forms.FORMS`.

    Call:
        x: (B, T, D).
        attention_mask: bool (B or 1, T, S), or, without a cache, a `MaskRule`.
        angles: from `rotary_angles`, or None.
        cache: dict `keys`, `values` (B, K, S, H) and scalar `index`, or None: then S = T.

    Returns:
        (B, T, D), and the dict of the updated `keys` and `values` (None without a cache).
    """

    def __init__(
        self, num_heads, num_kv_heads, head_dim, *, use_bias=True, dropout=0.0, normalize_qk=False,
        output_stddev=0.02, form="auto", **kwargs
    ):  # fmt: skip
        super().__init__(autocast=False, **kwargs)  # the angles stay float32; what is computed follows x
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, head_dim
        self.use_bias, self.output_stddev, self.form = use_bias, output_stddev, form
        if form not in FORMS:
            raise Refusal(f"form must be {' or '.join(FORMS)}, got {form!r}.")
        self.qkv = Linear((num_heads + 2 * num_kv_heads) * head_dim, use_bias, dtype=self.dtype_policy, name="qkv")
        self.normalize_qk = normalize_qk
        if normalize_qk:
            self.query_norm = Norm("rms", 1e-6, dtype=self.dtype_policy, name="query_norm")
            self.key_norm = Norm("rms", 1e-6, dtype=self.dtype_policy, name="key_norm")
        self.dropout = keras.layers.Dropout(dropout, name="dropout") if dropout else None

    def build(self, input_shape):
        self.qkv.build(input_shape)
        if self.normalize_qk:
            self.query_norm.build((None, None, None, self.head_dim))
            self.key_norm.build((None, None, None, self.head_dim))
        self.output_projection = Linear(
            input_shape[-1], self.use_bias, self.output_stddev, dtype=self.dtype_policy, name="output_projection"
        )
        self.output_projection.build((*input_shape[:-1], self.num_heads * self.head_dim))

    def call(self, x, attention_mask=None, angles=None, cache=None, training=False):
        n, k = self.num_heads, self.num_kv_heads
        heads = _exchanged(ops.reshape(self.qkv(x), (*leading_shape(x), n + 2 * k, self.head_dim)))
        # Split and not sliced: the gradient of three slices is three padded copies, that of a split one concatenation.
        q_BNTH, k_BKTH, v_BKTH = ops.split(heads, (n, n + k), axis=1)
        if self.normalize_qk:
            q_BNTH, k_BKTH = self.query_norm(q_BNTH), self.key_norm(k_BKTH)
        if angles is not None:
            q_BNTH, k_BKTH = rotate(q_BNTH, angles), rotate(k_BKTH, angles)
        updated = None
        if cache is not None:
            k_BKTH = append_to_cache(cache["keys"], k_BKTH, cache["index"])
            v_BKTH = append_to_cache(cache["values"], v_BKTH, cache["index"])
            updated = {"keys": k_BKTH, "values": v_BKTH}
        if isinstance(attention_mask, MaskRule):
            out = attend_by_rule(q_BNTH, k_BKTH, v_BKTH, attention_mask, self.form)
        else:
            out = attend(q_BNTH, k_BKTH, v_BKTH, attention_mask)
        out = self.output_projection(ops.reshape(_exchanged(out), (*leading_shape(x), n * self.head_dim)))
        if self.dropout is not None:
            out = self.dropout(out, training=training)
        return out, updated
