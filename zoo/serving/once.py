"""What several signatures of an export compute alike is traced once and called by each, as a function of the graph.

Tracing takes most of the Python time of an export, and goes by the number of operations. A tokenizer's graph side is hundreds
of them, and so is each pass of a model. TensorFlow puts called functions in line again before it optimises a graph, so the
answers and their speed are the same.
"""

import contextlib

import tensorflow as tf

STRINGS = tf.TensorSpec([None], tf.string)
IDS = tf.RaggedTensorSpec([None, None], tf.int32, ragged_rank=1, row_splits_dtype=tf.int64)


class TokenizerOnce:
    """A tokenizer whose `tokenize` and `detokenize` are traced once; in all else it is the one that it is made of.

    Args:
        tokenizer: a `Tokenizer`.

    Attributes:
        target: that of the tokenizer, likewise.
    """

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self.target = self if tokenizer.target is tokenizer else TokenizerOnce(tokenizer.target)
        self.tokenize = tf.function(tokenizer.tokenize, input_signature=[STRINGS], autograph=False)
        self._detokenize = tf.function(tokenizer.detokenize, input_signature=[IDS], autograph=False)

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def detokenize(self, token_ids):
        """As `Tokenizer.detokenize`."""
        # Made anew, without what it knows besides, such as that all rows are of one length.
        values, splits = tf.cast(token_ids.flat_values, tf.int32), tf.cast(token_ids.row_splits, tf.int64)
        return self._detokenize(tf.RaggedTensor.from_row_splits(values, splits, validate=False))


@contextlib.contextmanager
def passes_once(model):
    """While graphs are traced in this block, each pass that `model` names in `passes` is traced once for each kind of its
    inputs: a prompt, a token of one row, a token of several. `init_state`, which is a few zeros, is left as it is.
    """
    base = model.without_head()
    names = [name for name in base.passes if name != "init_state"]
    # Past Keras, which would take them for parts of the model.
    for name in names:
        object.__setattr__(base, name, tf.function(getattr(base, name), autograph=False))
    try:
        yield
    finally:
        for name in names:
            object.__delattr__(base, name)
