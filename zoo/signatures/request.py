"""What signatures of served models have in common: a request that does not fit is refused by a sentence, one row may have a
graph of its own, and how some answers are written."""

import inspect
import math

import tensorflow as tf


def signature(*specs):
    """Makes a Python function a `tf.function` for a SavedModel. An argument's default, an array, becomes the signature's.

    Neither a server nor a session compares what it is sent with the shapes that a signature names. Here an argument of another
    rank is an InvalidArgumentError that names both shapes, before it can mislead an operation inside.

    Args:
        *specs: a TensorSpec for each argument.
    """

    def decorate(function):
        parameters = inspect.signature(function)

        def checked(*values):
            return function(*(_of_its_shape(*given) for given in zip(parameters.parameters, specs, values, strict=True)))

        checked.__signature__, checked.__name__ = parameters, function.__name__
        return tf.function(checked, input_signature=specs, autograph=False)

    return decorate


def _of_its_shape(name, spec, value):
    # The shape is forgotten first: a check of what the graph believes to know already would be optimised away.
    unknown = tf.raw_ops.PlaceholderWithDefault(input=value, shape=tf.TensorShape(None), name=name)
    return tf.ensure_shape(unknown, spec.shape)


def refusal_unless(condition, sentence, *values):
    """An op that fails with a sentence, whose {} are filled with the values, unless the condition holds."""
    # The plain op: tf.debugging.Assert wraps it in a cond, which takes longer to trace than the rest of a signature.
    return tf.raw_ops.Assert(condition=condition, data=[tf.strings.format(sentence, list(values))])


def same_rows(**arrays):
    """The arrays, once they are known to have as many rows each."""
    sizes = [tf.size(array) for array in arrays.values()]
    sentence = f"{' and '.join(arrays)} belong together row by row; got {' and '.join(['{}'] * len(sizes))} rows."
    agree = tf.reduce_all(tf.stack(sizes) == sizes[0])
    with tf.control_dependencies([refusal_unless(agree, sentence, *sizes)]):
        return [tf.identity(array) for array in arrays.values()]


def each_alone(tokenizer, ids):
    """string, of the shape of `ids`: how each id is written, on its own."""
    alone = tf.RaggedTensor.from_uniform_row_length(tf.reshape(ids, [-1]), 1)
    return tf.reshape(tf.strings.strip(tokenizer.detokenize(alone)), tf.shape(ids))


def score_of(text, log_prob, num_tokens):
    """The answer of a signature `score`: for texts (B,) their `log_prob`, natural, and `num_tokens`, and from the two
    `bits_per_byte`, 0 for an empty text."""
    num_bytes = tf.cast(tf.strings.length(text), tf.float32)
    bits_per_byte = tf.math.divide_no_nan(-log_prob / math.log(2), num_bytes)
    return {"log_prob": log_prob, "num_tokens": num_tokens, "bits_per_byte": bits_per_byte}


def with_one_row_apart(function, *tensors):
    """`function(*tensors)`, but a batch of one row has a graph of its own, in which layers know that it is one.

    Args:
        function: of nested tensors that are batch-first or scalars, and reads no other batch-first ones; it returns such
            tensors.
        *tensors: its arguments; Python numbers among them stay.
    """
    batch_first = [leaf for leaf in tf.nest.flatten(tensors) if tf.is_tensor(leaf) and leaf.shape.rank]
    if batch_first[0].shape[0] is not None:
        return function(*tensors)

    def one_row(leaf):
        if not any(leaf is x for x in batch_first):
            return leaf
        # A slice: from an assertion or a reshape TensorFlow's optimiser learns that the batch has one row in the other graph
        # too.
        return tf.slice(leaf, [0] * leaf.shape.rank, [1, *[-1] * (leaf.shape.rank - 1)])

    return tf.cond(
        tf.shape(batch_first[0])[0] == 1,
        lambda: function(*tf.nest.map_structure(one_row, tensors)),
        lambda: function(*tensors),
    )
