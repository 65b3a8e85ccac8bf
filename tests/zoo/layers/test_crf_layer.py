"""The layer of a CRF: its weights, what it forbids, how it learns, and a peer's weights in it. Sizes as in `test_crf`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.zoo.layers.test_crf import (
    ALLOWED,
    CONSTRAINED,
    FORBIDDEN,
    MASK,
    MOVES,
    TAGS,
    UNARY,
    C,
    W,
    layer_with_weights,
    normal,
)
from zoo.config import Refusal
from zoo.data.schemes import forbidden_moves, scheme_of
from zoo.layers.crf import (
    CRF,
    log_likelihood,
    log_partition,
    marginals,
    multitag_log_likelihood,
    n_best,
    sequence_score,
    viterbi,
)


def test_the_layer_has_its_weights_by_name():
    layer = layer_with_weights()
    assert [w.path for w in layer.weights] == ["crf/start", "crf/end", "crf/transitions"]
    np.testing.assert_array_equal(layer.moves(), MOVES)


def test_the_layer_forbids_in_decoding_always_and_in_training_if_asked():
    loose, strict = layer_with_weights(forbidden=FORBIDDEN), layer_with_weights(forbidden=FORBIDDEN, forbid_in_training=True)
    for layer, trained in ((loose, MOVES), (strict, CONSTRAINED)):
        np.testing.assert_array_equal(layer.log_likelihood(UNARY, TAGS, MASK), log_likelihood(UNARY, TAGS, trained, MASK))
        np.testing.assert_array_equal(
            layer.multitag_log_likelihood(UNARY, ALLOWED, MASK), multitag_log_likelihood(UNARY, ALLOWED, trained, MASK)
        )
        for ours, wanted in (
            (layer(UNARY, MASK), viterbi(UNARY, CONSTRAINED, MASK)),
            (layer.viterbi(UNARY, MASK), viterbi(UNARY, CONSTRAINED, MASK)),
            (layer.n_best(UNARY, MASK, 2), n_best(UNARY, CONSTRAINED, MASK, 2)),
            ([layer.marginals(UNARY, MASK)], [marginals(UNARY, CONSTRAINED, MASK)]),
            ([layer.log_partition(UNARY, MASK)], [log_partition(UNARY, CONSTRAINED, MASK)]),
            ([layer.sequence_score(UNARY, TAGS, MASK)], [sequence_score(UNARY, TAGS, CONSTRAINED, MASK)]),
        ):
            for one, other in zip(ours, wanted, strict=True):
                np.testing.assert_array_equal(one, other)


def test_training_moves_the_weights_to_the_labels():
    """Scores of zero: only the moves can tell the tags 0 1 2 3 in a row from others."""
    layer = CRF(C)
    layer.build()
    unary, tags, mask = np.zeros((3, W, C), "float32"), np.tile(np.arange(W, dtype="int32"), (3, 1)), np.ones((3, W), bool)
    optimizer = keras.optimizers.Adam(0.3)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(layer.log_likelihood(unary, tags, mask))
        optimizer.apply_gradients(zip(tape.gradient(loss, layer.trainable_variables), layer.trainable_variables, strict=True))
        return loss

    losses = [float(step()) for _ in range(40)]
    np.testing.assert_allclose(losses[0], W * np.log(C), rtol=1e-5)
    assert losses[-1] < 0.1
    np.testing.assert_array_equal(layer(unary, mask)[0], tags)


def test_a_matrix_of_another_size_is_refused():
    with pytest.raises(Refusal, match="6 x 6 booleans, got 5 x 5"):
        CRF(C, forbidden=np.zeros((C, C), bool))


def test_viterbi_with_a_scheme_gives_well_formed_tags():
    tags = ["I-X", "S-X", "O", "E-Y", "B-X", "B-Y", "I-Y", "E-X", "S-Y"]
    layer = CRF(len(tags), forbidden=forbidden_moves(tags, "BIOES"))
    layer.build()
    unary, mask = normal(30, 7, len(tags), scale=4.0), np.arange(7) < np.arange(2, 32)[:, None]
    many, scores = layer.n_best(unary, mask, 5)
    assert np.isfinite(scores).all()
    named = [[tags[i] for i in path[:n]] for rows, n in zip(many.numpy(), mask.sum(1), strict=True) for path in rows]
    assert scheme_of(named) == "BIOES"
    free = [[tags[i] for i in row[:n]] for row, n in zip(np.argmax(unary, -1), mask.sum(1), strict=True)]
    assert scheme_of(free) is None


# Against python-crfsuite

SENTENCES = (
    "Ann/B-PER Lee/I-PER met/O Bob/B-PER in/O New/B-LOC York/I-LOC",
    "the/O train/O to/O York/B-LOC left/O",
    "Lee/B-PER left/O New/B-LOC Town/I-LOC",
    "Bob/B-PER Ray/I-PER Lee/I-PER saw/O the/O new/O train/O in/O Town/B-LOC",
    "York/B-LOC met/O Ann/B-PER",
)


def test_crfsuite_with_its_weights_in_our_layer(tmp_path):
    """Its start and end have no weights. Its weights are read from its dump, which has six decimals."""
    pycrfsuite = pytest.importorskip("pycrfsuite", reason="python-crfsuite is not installed")
    words, tags = [], []
    for sentence in SENTENCES:
        pairs = [pair.split("/") for pair in sentence.split()]
        words.append([[w, w[0], f"after {pairs[i - 1][0] if i else 'nothing'}"] for i, (w, _) in enumerate(pairs)])
        tags.append([tag for _, tag in pairs])
    trainer = pycrfsuite.Trainer(params={"c2": 0.3, "max_iterations": 30}, verbose=False)
    for features, labels in zip(words, tags, strict=True):
        trainer.append(features, labels)
    trainer.train(str(tmp_path / "model.crfsuite"))
    tagger = pycrfsuite.Tagger()
    tagger.open(str(tmp_path / "model.crfsuite"))
    names, info = tagger.labels(), tagger.info()

    layer = CRF(len(names))
    layer.build()
    layer.transitions.assign([[info.transitions.get((one, other), 0.0) for other in names] for one in names])
    width = max(map(len, words))
    unary = np.full((len(words), width, len(names)), 9.0, "float32")
    for b, sentence in enumerate(words):
        for t, features in enumerate(sentence):
            unary[b, t] = [sum(info.state_features.get((f, name), 0.0) for f in features) for name in names]
    mask = np.arange(width) < np.array([len(sentence) for sentence in words])[:, None]
    gold = np.zeros(mask.shape, "int32")
    gold[mask] = [names.index(tag) for sentence in tags for tag in sentence]

    best, _ = layer(unary, mask)
    likely, found = layer.log_likelihood(unary, gold, mask), layer.log_likelihood(unary, best, mask)
    probs = layer.marginals(unary, mask)
    swapped = layer.log_likelihood(unary, np.roll(gold, 1, axis=0) % len(names), mask)  # other tags, less likely
    for b, sentence in enumerate(words):
        path = tagger.tag(sentence)
        assert [names[i] for i in best[b, : len(sentence)]] == path
        np.testing.assert_allclose(np.exp(found[b]), tagger.probability(path), rtol=1e-5)
        np.testing.assert_allclose(np.exp(likely[b]), tagger.probability(tags[b]), rtol=1e-5)
        other = [names[i] for i in np.roll(gold, 1, axis=0)[b, : len(sentence)]]
        np.testing.assert_allclose(swapped[b], np.log(tagger.probability(other)), rtol=1e-5)
        theirs = [[tagger.marginal(name, t) for name in names] for t in range(len(sentence))]
        np.testing.assert_allclose(probs[b, : len(sentence)], theirs, atol=1e-5)
    assert 0.01 < np.exp(likely).min() < 0.9
