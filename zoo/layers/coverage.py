"""How much of a source a decoder has looked at so far, kept in its state: what a search punishes that left something out.

Shape letters: B batch, T tokens, S source positions.
"""

from keras import ops

# What a token of the source counts at which nobody has looked at all: its logarithm must be finite.
LEAST = 1e-9


def with_coverage(state):
    """The state of an encoder-decoder before its first token, with a `coverage` float32 (B, S) besides."""
    return {**state, "coverage": ops.zeros_like(state["source_mask"], dtype="float32")}


def looked_at(state, weights_BTS, padding_mask=None):
    """The `coverage` after T more tokens, a dict, given how much each looks at the source; empty for a state that has none.

    Args:
        state: a dict.
        weights_BTS: float32, of attention.
        padding_mask: bool (B, T), True for real tokens, or None: all are.
    """
    if "coverage" not in state:
        return {}
    if padding_mask is not None:
        weights_BTS = ops.where(padding_mask[:, :, None], weights_BTS, 0.0)
    return {"coverage": state["coverage"] + ops.sum(weights_BTS, axis=1)}


def covered(state):
    """float32 (B,): the sum over the source of log min(coverage, 1), at most 0 (Wu et al. 2016, eq. 14)."""
    logs = ops.log(ops.clip(state["coverage"], LEAST, 1.0))
    return ops.sum(ops.where(state["source_mask"], logs, 0.0), axis=1)
