"""Where the tokens of a piece stand, what they may see, and when a cache is full.

Shape letters: B batch, T tokens of a piece, S columns of a cache.
"""

import numpy as np
import pytest
import tensorflow as tf

from zoo.config import Refusal
from zoo.layers.cache import checked_index, init_cache, place, room_left

T, F = True, False
IDS = np.ones((2, 3), np.int32)


def cache(max_length=6):
    return init_cache(2, 2, max_length, 3, 4, "float32")


def test_an_empty_cache():
    state = cache()
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "index": (), "start": (2,), "padding": (2, 6),
        "layer_0/keys": (2, 3, 6, 4), "layer_0/values": (2, 3, 6, 4), "layer_1/keys": (2, 3, 6, 4),
        "layer_1/values": (2, 3, 6, 4),
    }  # fmt: skip
    assert place(IDS).cache(1) is None
    layer = place(IDS, state).cache(1)
    assert layer["keys"] is state["layer_1/keys"] and layer["values"] is state["layer_1/values"] and int(layer["index"]) == 0
    assert int(room_left(state)) == 6


def test_a_whole_text():
    piece = place(IDS, padding_mask=np.array([[T, T, T], [F, F, T]]), prefix_lengths=np.array([2, 1]))
    assert piece.state is None
    np.testing.assert_array_equal(piece.positions, [[0, 1, 2], [0, 0, 0]])
    np.testing.assert_array_equal(piece.key_positions(), piece.positions)
    # Row 1 has two columns of padding: its prefix of one token is column 2.
    np.testing.assert_array_equal(piece.rule.whole(3, 3), [[[T, T, F], [T, T, F], [T, T, T]], [[F, F, T]] * 3])


def test_two_pieces_with_padding():
    first = place(IDS, cache(), np.array([[T, T, T], [F, F, T]]))
    np.testing.assert_array_equal(first.positions, [[0, 1, 2], [0, 0, 0]])
    second = place(IDS[:, :2], cache() | first.state, np.array([[F, T], [T, T]]))
    assert int(second.state["index"]) == 5 and int(room_left(second.state)) == 1
    np.testing.assert_array_equal(second.state["start"], [1, 2])
    np.testing.assert_array_equal(second.state["padding"], [[F, F, F, T, F, F], [T, T, F, F, F, F]])
    np.testing.assert_array_equal(second.positions[:, -1], [3, 2])
    np.testing.assert_array_equal(second.key_positions()[:, :5], [[0, 1, 2, 2, 3], [-1, -1, 0, 1, 2]])
    np.testing.assert_array_equal(
        second.rule.whole(2, 6), [[[T, T, T, F, F, F], [T, T, T, F, T, F]], [[F, F, T, T, F, F], [F, F, T, T, T, F]]]
    )
    third = place(IDS[:, :1], cache() | second.state)  # no padding: nothing is written
    assert third.state["padding"] is second.state["padding"]
    np.testing.assert_array_equal(third.positions, [[4], [3]])


def test_a_prefix_ends_where_the_cache_has_been_written():
    piece = place(IDS, cache(), prefix_lengths=np.array([2, 5]))
    np.testing.assert_array_equal(piece.rule.whole(3, 6)[0, 0], [T, T, F, F, F, F])
    np.testing.assert_array_equal(piece.rule.whole(3, 6)[1, 0], [T, T, T, F, F, F])


def test_a_graph_that_knows_no_sizes_says_the_same():
    specs = [tf.TensorSpec((None, None), t) for t in (tf.int32, tf.bool)]

    @tf.function(input_signature=specs, autograph=False)
    def twice(ids, mask):
        state = init_cache(1, tf.shape(ids)[0], 2 * tf.shape(ids)[1], 1, 2, "float32")
        piece = place(ids, state, mask)
        piece = place(ids, state | piece.state, mask)
        return piece.positions, piece.state["padding"], piece.rule.whole(tf.shape(ids)[1], 2 * tf.shape(ids)[1])

    positions, padding, mask = twice(IDS, np.array([[T, T, T], [F, F, T]]))
    np.testing.assert_array_equal(positions[:, -1], [5, 1])
    np.testing.assert_array_equal(padding, [[F] * 6, [T, T, F, T, T, F]])
    np.testing.assert_array_equal(mask[1], [[F, F, T, F, F, F], [F, F, T, F, F, F], [F, F, T, F, F, T]])


@pytest.mark.parametrize(("index", "num_new", "fits"), [(0, 5, True), (2, 3, True), (5, 0, True), (0, 6, False), (5, 1, False)])
def test_a_full_cache_is_refused(index, num_new, fits):
    graph = tf.function(lambda index, room: checked_index(index, num_new, room), autograph=False)
    calls = [
        (Refusal, "has room for 5 tokens: it holds", lambda: checked_index(tf.constant(index), num_new, 5)),
        (tf.errors.InvalidArgumentError, "less room than it is to hold", lambda: graph(tf.constant(index), tf.constant(5))),
    ]
    for kind, sentence, call in calls:
        if fits:
            assert int(call()) == index
        else:
            with pytest.raises(kind, match=sentence):
                call()


def test_a_loop_that_writes_too_much_ends():
    """As decoding does: the assertion is in the body."""

    def body(state):
        piece = place(IDS[:, :1], state)
        return (state | piece.state,)

    @tf.function(autograph=False)
    def steps(number):
        state = cache(4)
        return tf.while_loop(lambda state: state["index"] < number, body, (state,))[0]["index"]

    assert int(steps(tf.constant(4))) == 4
    with pytest.raises(tf.errors.InvalidArgumentError, match="less room than it is to hold"):
        steps(tf.constant(5))


def test_a_state_has_one_document_a_row():
    with pytest.raises(Refusal, match="a state holds one document a row"):
        place(IDS, cache(), segment_ids=IDS)
