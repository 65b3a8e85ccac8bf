"""The CRF against a walk over all paths, its gradients against differences, forbidden moves, and graphs.

Sizes: B 4 rows of 4, 2, 0 and 1 words, W 4, C 5 tags. The walk is NumPy in float64.
"""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.layers.crf import (
    CRF,
    decode,
    decode_n_best,
    log_likelihood,
    log_partition,
    marginals,
    multitag_log_likelihood,
    n_best,
    sequence_score,
    viterbi,
)

B, W, C = 4, 4, 5
LENGTHS = np.array([4, 2, 0, 1])
MASK = np.arange(W) < LENGTHS[:, None]
CLOSE = dict(rtol=1e-5, atol=1e-5)


def normal(*shape, seed=0, scale=1.0):
    return np.random.default_rng([seed, *shape]).normal(0, scale, shape).astype("float32")


UNARY = normal(B, W, C, scale=2.0)
MOVES = normal(C + 1, C + 1, scale=1.5)
MOVES[-1, -1] = -np.inf
TAGS = np.random.default_rng(3).integers(0, C, (B, W)).astype("int32")
# From each state two moves are forbidden at random; some path is left for every length.
FORBIDDEN = np.argsort(np.argsort(normal(C + 1, C + 1, seed=9), axis=1), axis=1) < 2
CONSTRAINED = np.where(FORBIDDEN, -np.inf, MOVES).astype("float32")


@functools.cache
def paths(length):
    """All sequences of tags, in lexicographic order: int (number, length)."""
    return np.array(list(itertools.product(range(C), repeat=length)), int)


def scores_of(sequences, unary, moves):
    """float64, of sequences of tags of one row, int (number, length). A row without words has the score 0."""
    if not sequences.shape[1]:
        return np.zeros(1)
    steps = np.pad(sequences, ((0, 0), (1, 1)), constant_values=-1)
    unary, moves = unary.astype("float64"), moves.astype("float64")
    return unary[np.arange(sequences.shape[1]), sequences].sum(1) + moves[steps[:, :-1], steps[:, 1:]].sum(1)


def walk(unary, moves, length):
    """(all paths, their scores) of one row."""
    return paths(length), scores_of(paths(length), unary, moves)


def kept(allowed, length):
    """Which paths have allowed tags alone, bool (number,); allowed is bool (W, C)."""
    return allowed[np.arange(length), paths(length)].all(1)


def log_sum(scores):
    return np.logaddexp.reduce(scores) if len(scores) else -np.inf


def rows(function):
    """The function of (unary scores, words) for each row."""
    return np.array([function(UNARY[b], LENGTHS[b]) for b in range(B)])


@pytest.fixture(params=["free", "constrained"])
def moves(request):
    return MOVES if request.param == "free" else CONSTRAINED


# Against all paths


def test_one_word_by_hand():
    """Two tags, one word: scores 1 + 0.5 + 0.25 and 2 - 0.5 + 0; p(tag 1) = 1 / (1 + e^0.25)."""
    unary, matrix = [[[1.0, 2.0]]], np.array([[0, 0, 0.25], [0, 0, 0], [0.5, -0.5, -np.inf]], "float32")
    mask = np.array([[True]])
    np.testing.assert_allclose(sequence_score(unary, [[0]], matrix, mask), [1.75])
    np.testing.assert_allclose(log_partition(unary, matrix, mask), [np.log(np.exp(1.75) + np.exp(1.5))], rtol=1e-6)
    np.testing.assert_allclose(marginals(unary, matrix, mask)[0, 0, 1], 1 / (1 + np.exp(0.25)), rtol=1e-6)
    tags, score = viterbi(unary, matrix, mask)
    assert tags.numpy().tolist() == [[0]] and score.numpy().tolist() == [1.75]


def test_log_partition_is_the_sum_over_all_paths(moves):
    wanted = rows(lambda unary, n: log_sum(walk(unary, moves, n)[1]))
    np.testing.assert_allclose(log_partition(UNARY, moves, MASK), wanted, **CLOSE)


def test_score_and_log_likelihood():
    wanted = np.array([scores_of(TAGS[b : b + 1, :n], UNARY[b], MOVES)[0] for b, n in enumerate(LENGTHS)])
    np.testing.assert_allclose(sequence_score(UNARY, TAGS, MOVES, MASK), wanted, **CLOSE)
    wanted -= rows(lambda unary, n: log_sum(walk(unary, MOVES, n)[1]))
    np.testing.assert_allclose(log_likelihood(UNARY, TAGS, MOVES, MASK), wanted, **CLOSE)
    assert wanted[2] == 0  # no words


def test_the_probabilities_of_all_sequences_sum_to_one(moves):
    every = paths(W)
    unary = np.repeat(UNARY[:1], len(every), 0)
    log_probs = log_likelihood(unary, every, moves, np.ones_like(every, bool)).numpy()
    assert (log_probs <= 0).all()
    np.testing.assert_allclose(np.exp(log_probs).sum(), 1, rtol=1e-5)
    is_allowed = np.isfinite(walk(UNARY[0], moves, W)[1])
    assert (log_probs[~is_allowed] < -300).all() and (log_probs[is_allowed] > -50).all()


def test_marginals_are_the_shares_of_the_paths(moves):
    wanted = np.zeros((B, W, C))
    for b, n in enumerate(LENGTHS):
        every, scores = walk(UNARY[b], moves, n)
        shares = np.exp(scores - log_sum(scores))
        for t, tag in itertools.product(range(n), range(C)):
            wanted[b, t, tag] = shares[every[:, t] == tag].sum()
    probs = marginals(UNARY, moves, MASK).numpy()
    np.testing.assert_allclose(probs, wanted, **CLOSE)
    np.testing.assert_allclose(probs.sum(-1), MASK, rtol=1e-6)


def test_viterbi_finds_the_best_path(moves):
    tags, score = viterbi(UNARY, moves, MASK)
    for b, n in enumerate(LENGTHS):
        every, scores = walk(UNARY[b], moves, n)
        assert tags[b, :n].numpy().tolist() == every[np.argmax(scores)].tolist()
        np.testing.assert_allclose(score[b], scores.max(), **CLOSE)
    assert not tags.numpy()[~MASK].any() and tags.dtype == "int32"


@pytest.mark.parametrize("k", [1, 3, 40])
def test_n_best_are_the_first_of_all_paths_in_order(moves, k):
    tags, scores = (x.numpy() for x in n_best(UNARY, moves, MASK, k))
    assert tags.shape == (B, k, W) and scores.shape == (B, k)
    for b, n in enumerate(LENGTHS):
        every, wanted = walk(UNARY[b], moves, n)
        order = [i for i in np.argsort(-wanted, kind="stable") if np.isfinite(wanted[i])][:k]
        np.testing.assert_array_equal(tags[b, : len(order), :n], every[order])
        np.testing.assert_allclose(scores[b, : len(order)], wanted[order], **CLOSE)
        assert (scores[b, len(order) :] == -np.inf).all() and not tags[b, len(order) :].any()
    assert not tags.transpose(0, 2, 1)[~MASK].any()
    if k == 40:
        assert np.isfinite(scores).sum(1)[2:].tolist() == [1, np.isfinite(walk(UNARY[3], moves, 1)[1]).sum()]


@pytest.mark.parametrize("k", [1, 3, 40])
def test_n_best_have_the_probabilities_of_their_paths(moves, k):
    tags, scores = n_best(UNARY, moves, MASK, k)
    best, log_probs = (x.numpy() for x in decode_n_best(UNARY, moves, MASK, k))
    np.testing.assert_array_equal(best, tags)
    np.testing.assert_array_equal(np.isfinite(log_probs), np.isfinite(scores))
    for row in range(k):
        wanted = log_likelihood(UNARY, best[:, row], moves, MASK).numpy()
        there = np.isfinite(log_probs[:, row])
        np.testing.assert_allclose(log_probs[there, row], wanted[there], rtol=1e-6)
    if k == 40:  # all paths of a short row
        np.testing.assert_allclose(np.exp(log_probs[2:]).sum(1), 1, rtol=1e-5)
    # A graph that learns K from a request, and rows without columns.
    shapes = [None, None, C], [C + 1, C + 1], [None, None], []
    kinds = tf.float32, tf.float32, tf.bool, tf.int32
    served = tf.function(decode_n_best, input_signature=list(map(tf.TensorSpec, shapes, kinds)))
    for ours, theirs in zip(served(UNARY, moves, MASK, k), (best, log_probs), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    tags, log_probs = served(UNARY[:, :0], moves, MASK[:, :0], k)
    assert tags.shape == (B, k, 0) and np.isfinite(log_probs).sum(1).tolist() == [1] * B


def test_of_equally_good_paths_the_first_in_lexicographic_order():
    unary = np.random.default_rng(5).integers(0, 2, (6, W, C)).astype("float32")
    matrix = np.random.default_rng(6).integers(0, 2, (C + 1, C + 1)).astype("float32")
    mask = np.ones((6, W), bool)
    tags, score = viterbi(unary, matrix, mask)
    many, scores = n_best(unary, matrix, mask, 7)
    for b in range(6):
        every, wanted = walk(unary[b], matrix, W)
        assert (wanted == wanted.max()).sum() > 1
        order = np.argsort(-wanted, kind="stable")[:7]
        assert tags[b].numpy().tolist() == every[order[0]].tolist() and score[b] == wanted.max()
        np.testing.assert_array_equal(many[b], every[order])
        np.testing.assert_array_equal(scores[b], wanted[order])


def test_partial_labels_are_the_sum_over_the_paths_they_allow(moves):
    allowed = (normal(B, W, C, seed=4) > 0.3) | np.eye(C, dtype=bool)[viterbi(UNARY, moves, MASK)[0]]
    wanted = []
    for b, n in enumerate(LENGTHS):
        scores = walk(UNARY[b], moves, n)[1]
        wanted.append(log_sum(scores[kept(allowed[b], n)]) - log_sum(scores))
    assert np.isfinite(wanted).all()
    np.testing.assert_allclose(multitag_log_likelihood(UNARY, allowed, moves, MASK), wanted, **CLOSE)


def test_partial_labels_that_allow_one_tag_or_all():
    one, every = np.eye(C, dtype=bool)[TAGS], np.ones((B, W, C), bool)
    np.testing.assert_allclose(
        multitag_log_likelihood(UNARY, one, MOVES, MASK), log_likelihood(UNARY, TAGS, MOVES, MASK), **CLOSE
    )
    np.testing.assert_allclose(multitag_log_likelihood(UNARY, every, MOVES, MASK), np.zeros(B), atol=1e-6)


def test_decode_is_viterbi_with_its_probability_and_marginals():
    tags, log_prob, probs = decode(UNARY, MOVES, MASK)
    np.testing.assert_array_equal(tags, viterbi(UNARY, MOVES, MASK)[0])
    np.testing.assert_allclose(log_prob, log_likelihood(UNARY, tags, MOVES, MASK), **CLOSE)
    expected = np.take_along_axis(np.asarray(marginals(UNARY, MOVES, MASK)), np.asarray(tags)[..., None], -1)[..., 0]
    np.testing.assert_allclose(probs, expected, **CLOSE)


# Gradients


def differences(function, *arrays, step=1e-5):
    """Central differences in float64 of a function of arrays, for each of them; 0 where they are not finite."""
    results = []
    for i, array in enumerate(arrays):
        result = np.zeros(array.shape)
        for place in np.ndindex(array.shape):
            if np.isfinite(array[place]):
                ends = []
                for sign in (1, -1):
                    moved = [a.astype("float64") for a in arrays]
                    moved[i][place] += sign * step
                    ends.append(function(*moved))
                result[place] = (ends[0] - ends[1]) / (2 * step)
        results.append(result)
    return results


WEIGHTS = np.array([0.7, -1.3, 2.0, 0.4])  # of the rows in a loss


def walked_log_likelihood(unary, moves, allowed):
    """Of all rows, weighted: the paths that are allowed against all paths."""
    total = 0.0
    for b, n in enumerate(LENGTHS):
        scores = walk(unary[b], moves, n)[1]
        total += WEIGHTS[b] * (log_sum(scores[kept(allowed[b], n)]) - log_sum(scores))
    return total


def gradients(function, unary=UNARY, moves=MOVES, jit_compile=None, **kwargs):
    """Of a weighted sum over the rows of function(unary, moves), for both."""

    def compute(unary, moves):
        with tf.GradientTape() as tape:
            tape.watch([unary, moves])
            total = tf.reduce_sum(function(unary, moves) * WEIGHTS.astype("float32"))
        return tape.gradient(total, [unary, moves])

    if jit_compile is not None:
        compute = tf.function(compute, jit_compile=jit_compile, **kwargs)
    return [np.asarray(g) for g in compute(tf.constant(unary), tf.constant(moves))]


def test_gradients_of_the_log_likelihood_are_differences(moves):
    tags = viterbi(UNARY, moves, MASK)[0].numpy()  # without forbidden moves
    tags[0, 1] = tags[0, 1] if moves is CONSTRAINED else 3
    wanted = differences(lambda u, m: walked_log_likelihood(u, m, np.eye(C, dtype=bool)[tags]), UNARY, moves)
    for ours, by_differences in zip(gradients(lambda u, m: log_likelihood(u, tags, m, MASK), moves=moves), wanted, strict=True):
        np.testing.assert_allclose(ours, by_differences, **CLOSE)
    assert np.abs(wanted[0]).max() > 0.1 and np.abs(wanted[1]).max() > 0.1


def test_gradients_of_partial_labels_are_differences():
    allowed = normal(B, W, C, seed=4) > 0.3
    allowed[..., 2] |= ~allowed.any(-1)
    wanted = differences(lambda u, m: walked_log_likelihood(u, m, allowed), UNARY, MOVES)
    for ours, by_differences in zip(gradients(lambda u, m: multitag_log_likelihood(u, allowed, m, MASK)), wanted, strict=True):
        np.testing.assert_allclose(ours, by_differences, **CLOSE)


def test_gradient_of_the_log_partition_is_the_marginals(moves):
    d_unary, _ = gradients(lambda u, m: log_partition(u, m, MASK), moves=moves)
    np.testing.assert_allclose(d_unary, WEIGHTS[:, None, None] * marginals(UNARY, moves, MASK), **CLOSE)


def test_numbers_stay_finite_where_scores_are_far_apart():
    """The labels are hundreds of nats away from the best path, and one of them needs a forbidden move."""
    unary, tags = 200 * np.sign(UNARY), np.argmin(UNARY, -1)
    for matrix in (100 * CONSTRAINED, np.where(FORBIDDEN, -np.inf, 0).astype("float32")):
        assert np.isfinite(log_likelihood(unary, tags, matrix, MASK)).all()
        for gradient in gradients(lambda u, m: log_likelihood(u, tags, m, MASK), unary, matrix):
            assert np.isfinite(gradient).all()


def test_a_path_that_begins_hundreds_of_nats_behind_can_still_win():
    """float32 loses such a path: tag 1 is 150 nats behind at the first word, and the second word needs it."""
    unary = np.array([[[0.0, -150.0], [-400.0, 0.0]]], "float32")
    matrix = np.array([[0, -np.inf, 0], [0, 0, 0], [0, 0, -np.inf]], "float32")
    mask = np.ones((1, 2), bool)
    np.testing.assert_allclose(log_partition(unary, matrix, mask), [-150.0])
    np.testing.assert_allclose(marginals(unary, matrix, mask)[0], [[0, 1], [0, 1]], atol=1e-6)


def test_labels_that_allow_nothing_leave_a_finite_loss():
    allowed = np.ones((B, W, C), bool)
    allowed[0, 1] = False
    values = multitag_log_likelihood(UNARY, allowed, MOVES, MASK).numpy()
    assert np.isfinite(values).all() and values[0] < -1000 and np.abs(values[1:]).max() < 1e-5
    assert all(np.isfinite(g).all() for g in gradients(lambda u, m: multitag_log_likelihood(u, allowed, m, MASK)))


def test_every_path_forbidden_is_no_path():
    matrix = np.where(np.arange(C + 1)[:, None] == C, -np.inf, MOVES).astype("float32")
    tags, score = viterbi(UNARY, matrix, MASK)
    many, scores = n_best(UNARY, matrix, MASK, 2)
    assert score.numpy().tolist() == [-np.inf, -np.inf, 0, -np.inf]
    assert scores[:, 0].numpy().tolist() == score.numpy().tolist() and (scores[:, 1].numpy() == -np.inf).all()
    assert tags.shape == (B, W) and not many.numpy().any()


# Rows, padding, dtypes


def layer_with_weights(**kwargs):
    layer = CRF(C, name="crf", **kwargs)
    layer.build()
    layer.set_weights([MOVES[-1, :-1], MOVES[:-1, -1], MOVES[:-1, :-1]])
    return layer


def everything(unary, moves, mask, tags, allowed):
    """Every result of the file, by name."""
    best, score = viterbi(unary, moves, mask)
    many, scores = n_best(unary, moves, mask, 3)
    return {
        "log_partition": log_partition(unary, moves, mask),
        "sequence_score": sequence_score(unary, tags, moves, mask),
        "log_likelihood": log_likelihood(unary, tags, moves, mask),
        "multitag": multitag_log_likelihood(unary, allowed, moves, mask),
        "marginals": marginals(unary, moves, mask),
        "best": best, "score": score, "many": many, "scores": scores,
    }  # fmt: skip


ALLOWED = np.eye(C, dtype=bool)[TAGS] | (normal(B, W, C, seed=8) > 1)


def as_numpy(results):
    return {name: np.asarray(value) for name, value in results.items()}


def assert_same(ours, wanted, words=W, **close):
    """Checks that results are equal, but for further columns of ours."""
    for name, value in wanted.items():
        if name in ("best", "many"):
            np.testing.assert_array_equal(ours[name][..., :words], value, name)
        else:
            np.testing.assert_allclose(
                ours[name][:, :words] if name == "marginals" else ours[name], value, err_msg=name, **close
            )


def test_what_stands_in_padding_changes_nothing(moves):
    wanted = as_numpy(everything(UNARY, moves, MASK, TAGS, ALLOWED))
    unary = np.concatenate([np.where(MASK[..., None], UNARY, 77.0), np.full((B, 3, C), -1e4, "float32")], 1)
    tags = np.concatenate([np.where(MASK, TAGS, -100), np.full((B, 3), 99)], 1)
    mask = np.concatenate([MASK, np.zeros((B, 3), bool)], 1)
    allowed = np.concatenate([ALLOWED & MASK[..., None], np.zeros((B, 3, C), bool)], 1)
    ours = as_numpy(everything(unary, moves, mask, tags, allowed))
    assert_same(ours, wanted, rtol=1e-6, atol=1e-6)
    assert not ours["marginals"][:, W:].any() and not ours["best"][:, W:].any() and not ours["many"][..., W:].any()
    d_unary, _ = gradients(lambda u, m: log_likelihood(u, tags, m, mask), unary, moves)
    assert np.isfinite(d_unary).all() and not d_unary[~mask].any()


def test_a_row_alone_is_as_in_the_batch(moves):
    together = as_numpy(everything(UNARY, moves, MASK, TAGS, ALLOWED))
    for b, n in enumerate(LENGTHS):
        width = max(n, 1)
        alone = everything(*(x[b : b + 1, :width] if x is not moves else x for x in (UNARY, moves, MASK, TAGS, ALLOWED)))
        wanted = {name: value[b : b + 1] for name, value in together.items()}
        assert_same(wanted, as_numpy(alone), width, rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A function (unary, mask, tags, allowed) -> `everything` of a layer, from a SavedModel that knows no size but C."""
    layer, module, directory = layer_with_weights(forbidden=FORBIDDEN), tf.Module(), str(tmp_path_factory.mktemp("crf"))
    module.weights = [w.value for w in layer.weights]
    shapes = ([None, None, C], tf.float32), ([None, None], tf.bool), ([None, None], tf.int32), ([None, None, C], tf.bool)
    module.run = tf.function(
        lambda unary, mask, tags, allowed: everything(unary, layer.moves(), mask, tags, allowed),
        input_signature=[tf.TensorSpec(*spec, name=f"x{i}") for i, spec in enumerate(shapes)],
    )
    tf.saved_model.save(module, directory)
    loaded = tf.saved_model.load(directory)
    yield loaded.run


def test_rows_without_words(served):
    """A batch without a column, and a batch of empty rows."""
    for width in (0, 2):
        mask = np.zeros((3, width), bool)
        results = as_numpy(served(*map(tf.constant, (UNARY[:3, :width], mask, TAGS[:3, :width], ALLOWED[:3, :width]))))
        for name in ("log_partition", "sequence_score", "log_likelihood", "multitag", "score"):
            assert results[name].tolist() == [0, 0, 0], name
        assert results["scores"].tolist() == [[0, -np.inf, -np.inf]] * 3
        assert results["best"].shape == (3, width) and results["many"].shape == (3, 3, width)
        assert results["marginals"].shape == (3, width, C) and not results["marginals"].any()
    empty = np.zeros_like(MASK)
    for gradient in gradients(lambda u, m: log_likelihood(u, TAGS, m, empty)):
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


def test_bfloat16_scores_are_computed_in_float32_and_more(restore_dtype_policy):
    keras.config.set_dtype_policy("mixed_bfloat16")
    rounded = tf.cast(UNARY, tf.bfloat16)
    ours = as_numpy(everything(rounded, MOVES, MASK, TAGS, ALLOWED))
    assert {v.dtype.name for v in ours.values()} == {"float32", "int32"}
    assert_same(ours, as_numpy(everything(tf.cast(rounded, tf.float32), MOVES, MASK, TAGS, ALLOWED)), rtol=0, atol=0)
    layer = layer_with_weights()
    assert {w.dtype for w in layer.weights} == {"float32"}
    tags, score = layer(UNARY, MASK)
    np.testing.assert_array_equal(score, viterbi(UNARY, layer.moves(), MASK)[1])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer.log_likelihood(rounded, TAGS, MASK))
    assert {g.dtype.name for g in tape.gradient(total, layer.trainable_variables)} == {"float32"}


# Graphs


def test_xla_computes_the_same():
    given = UNARY, CONSTRAINED, MASK, TAGS, ALLOWED
    ours = tf.function(everything, jit_compile=True)(*map(tf.constant, given))
    assert_same(as_numpy(ours), as_numpy(everything(*given)), rtol=1e-6, atol=1e-6)


def test_a_saved_model_computes_the_same_by_core_operations(served):
    wanted = as_numpy(everything(UNARY, CONSTRAINED, MASK, TAGS, ALLOWED))
    assert_same(as_numpy(served(*map(tf.constant, (UNARY, MASK, TAGS, ALLOWED)))), wanted, rtol=1e-6, atol=1e-6)
    library = served.concrete_functions[0].graph.as_graph_def().library
    names = {node.op for function in library.function for node in function.node_def}
    assert names and not [name for name in names if "Xla" in name or "PyFunc" in name]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_gradient_where_sizes_are_not_known(jit_compile):
    tags, mask = tf.constant(TAGS), tf.constant(MASK)
    spec = [tf.TensorSpec([None, None, C]), tf.TensorSpec([C + 1, C + 1])]
    ours = gradients(lambda u, m: log_likelihood(u, tags, m, mask), jit_compile=jit_compile, input_signature=spec)
    for value, eager in zip(ours, gradients(lambda u, m: log_likelihood(u, tags, m, mask)), strict=True):
        np.testing.assert_allclose(value, eager, rtol=1e-5, atol=1e-6)
