"""In which form attention is computed, what that costs, and what else the plan shares with layers: plain Python, without Keras.

`auto` goes by the length T: plain for short sequences, in rows of queries for longer ones, in blocks of a running softmax for
the longest. The numbers are the same, the memory is not.

Shape letters: T positions, D hidden, N query heads, K key/value heads, H head width, F mlp width.
"""

FORMS = ("auto", "plain", "rows", "blockwise")
ROW = 128  # queries in a row, and
MAX_ROWS = 8
BLOCK = 512  # queries or keys in a block, at most
# T from which on `auto` takes rows, which are faster, and blocks, which save memory: plain or in rows, twelve heads would hold
# over 100 MB a layer and sequence (benchmarks/LOG.md).
ROWS_FROM, BLOCKS_FROM = 256, 2_048
# Names of activations (zoo/layers/activations.py computes them).
PLAIN_ACTIVATIONS = ("gelu", "gelu_exact", "relu", "silu")
GATED_ACTIVATIONS = ("swiglu", "geglu", "geglu_exact", "reglu")
ATTENTION_SCORES = ("dot", "general", "additive")  # of a recurrent decoder (zoo/layers/recurrent_attention.py)
LETTER_CASES = 4  # where a word has capital letters (zoo/layers/characters.py)
MOST_PARTS = 8  # of attention in blocks, as XLA meets them
CHUNK = 1 << 25  # logits that a loss in chunks makes at a time, at most: 128 MB (zoo/layers/chunked_cross_entropy.py)


def resolve_form(form, length, causal):
    """The form that `auto` stands for: plain, rows or blockwise.

    Args:
        form: one of `FORMS`.
        length: T, or None where it is not known: such a trace is for serving, and plain.
        causal: whether a query sees only the keys up to itself; rows gain nothing otherwise.
    """
    if form != "auto":
        return form
    if length is None or length < (ROWS_FROM if causal else BLOCKS_FROM):
        return "plain"
    return "rows" if length < BLOCKS_FROM else "blockwise"


def num_rows(length):
    """How many rows the queries of T positions are cut into."""
    return max(1, min(MAX_ROWS, length // ROW))


def attention_memory(form, seq_length, num_heads, causal=True):
    """What one layer of attention keeps for the gradient, for each query.

    Args:
        form: one of `FORMS`.
        seq_length: T.
        num_heads: N.
        causal: as for `resolve_form`.

    Returns:
        `(kept_float32, kept_uncompiled, parts)`, as `zoo.config.Cost` has them.
    """
    form = resolve_form(form, seq_length, causal)
    if form == "rows":
        rows = num_rows(seq_length)
        return 1.5 * num_heads * seq_length * (1 + 1 / rows) / 2, 0.0, rows
    if form == "blockwise":
        return 0.0, 3.0 * num_heads * min(seq_length, BLOCK), MOST_PARTS
    return 1.5 * num_heads * seq_length, 0.0, 0


def transformer_block_memory(hidden_dim, attended, mlp_dim, *, gated=False, normalized=0.0):
    """Numbers a token that a Transformer block keeps for the gradient, its scores apart; fitted to measured peaks.

    Args:
        hidden_dim: D.
        attended: N H.
        mlp_dim: F.
        gated: whether the network has a gate.
        normalized: (N + K) H where queries and keys are normalised, which are kept before and after; else 0.
    """
    return 5.0 * hidden_dim + 2.0 * attended + (5.0 if gated else 3.0) * mlp_dim + 3.0 * normalized
