"""The n-gram as a language model: distributions, states, masks, weights, and its config."""

import numpy as np
import pytest
from keras import ops

from zoo.data.shards import write_shards
from zoo.layers.ngram_packed import bin_values, nearest_bin
from zoo.models.ngram import SMOOTHINGS, NGram, NGramConfig
from zoo.registry import MODELS

V, EOS = 7, 2


def corpus(length=211, seed=0):
    """A stream of sentences in which id 6 never occurs."""
    ids = np.random.default_rng(seed).choice(V, length, p=[0.25, 0.2, 0.2, 0.15, 0.15, 0.05, 0])
    return np.concatenate([[EOS], ids, [EOS]]).astype(np.int32)


def fitted(order=3, seed=0, **fields):
    model = NGram(NGramConfig(order=order, vocab_size=V, eos_id=EOS, **fields))
    model.fit_closed_form(corpus(seed=seed))
    return model


def some_ids(*shape, seed=1):
    return np.random.default_rng(seed).integers(0, V, shape).astype(np.int32)


def as_numpy(log_probs):
    return ops.convert_to_numpy(log_probs).astype(np.float64)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", range(1, 8))
def test_every_history_sums_to_one(order, smoothing):
    for cutoffs in [(), (0, 0, 1), (0, 2)]:
        model = fitted(order, smoothing=smoothing, cutoffs=cutoffs[:order])
        histories = some_ids(5, 31, order - 1)
        histories[3, :, : order // 2] = -1  # the beginning of a row
        log_probs = as_numpy(model.project(histories))
        assert log_probs.shape == (5, 31, V)
        np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1, atol=1e-6)
        assert np.isfinite(log_probs).all()  # id 6, never seen, too


def test_all_histories_of_a_trigram_sum_to_one():
    grid = np.stack(np.meshgrid(np.arange(-1, V), np.arange(-1, V), indexing="ij"), axis=-1)
    np.testing.assert_allclose(np.exp(as_numpy(fitted(3).project(grid))).sum(-1), 1, atol=1e-6)


def test_bigram_by_hand():
    """The corpus and the numbers of tests/zoo/layers/test_ngram_estimation.py, seen through the model."""
    model = NGram(NGramConfig(order=2, vocab_size=4, eos_id=0))
    model.fit_closed_form(np.array([0, 1, 2, 0, 1, 1, 0]))
    probs = np.exp(as_numpy(model(np.array([[0, 2, 3]]))))[0]
    p = np.array([0.39, 0.39, 0.19, 0.03])
    np.testing.assert_allclose(probs[0], p / 3 + [0, 2 / 3, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(probs[1], p * 2 / 3 + [1 / 3, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(probs[2], p, rtol=1e-6)


def test_features_are_histories_that_stop_at_eos():
    features, state = fitted(4).features(np.array([[0, 1, EOS, 3, 4]]))
    assert state is None
    expected = [[-1, -1, 0], [-1, 0, 1], [-1, -1, EOS], [-1, EOS, 3], [EOS, 3, 4]]
    assert ops.convert_to_numpy(features)[0].tolist() == expected


def test_documents_do_not_see_each_other():
    model = fitted(3)
    ids = np.array([[0, 1, 3, 4, 0]])
    together = as_numpy(model(ids, segment_ids=np.array([[5, 5, 8, 8, 8]])))
    np.testing.assert_array_equal(together[:, :2], as_numpy(model(ids[:, :2])))
    np.testing.assert_array_equal(together[:, 2:], as_numpy(model(ids[:, 2:])))


@pytest.mark.parametrize("order", [1, 2, 5])
def test_steps_equal_the_full_pass(order):
    model, ids = fitted(order), some_ids(3, 11)
    state, steps = model.init_state(3, 11), []
    for part in np.split(ids, [1, 2, 2, 7], axis=1):  # one of them empty
        log_probs, state = model(part, state)
        steps.append(as_numpy(log_probs))
    np.testing.assert_array_equal(np.concatenate(steps, axis=1), as_numpy(model(ids)))


@pytest.mark.parametrize("order", [1, 2, 5])
def test_left_padding_changes_nothing(order):
    model, ids = fitted(order), some_ids(3, 5)
    before = model(some_ids(3, 7, seed=2), model.init_state(3, 20))[1]
    expected, expected_state = model(ids, before)
    padded, mask = some_ids(3, 8, seed=3), np.arange(8) >= np.array([[3], [0], [5]])
    rows = [ids[0], None, ids[2, :3]]
    padded[0, 3:], padded[2, 5:] = rows[0], rows[2]
    found, state = model(padded, before, padding_mask=mask)
    np.testing.assert_array_equal(as_numpy(found)[0, 3:], as_numpy(expected)[0])
    np.testing.assert_array_equal(as_numpy(found)[2, 5:], as_numpy(expected)[2, :3])
    np.testing.assert_array_equal(state["history"][0], expected_state["history"][0])
    unpadded = model(padded[1:2], {"history": before["history"][1:2]})[0]
    np.testing.assert_array_equal(as_numpy(found)[1], as_numpy(unpadded)[0])
    kept = model(padded, before, padding_mask=np.zeros((3, 8), bool))[1]
    np.testing.assert_array_equal(kept["history"], before["history"])


@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_token_log_probs_are_those_of_the_logits(order):
    model, ids = fitted(order), some_ids(3, 11)
    segments = np.cumsum(some_ids(3, 11, seed=4) == 0, axis=1)
    masks = dict(segment_ids=segments, padding_mask=np.arange(11) >= np.array([[0], [2], [3]]))
    state = model.features(some_ids(3, 5), model.init_state(3, 99))[1]
    next_ids, other_ids = np.roll(ids, -1, axis=1), some_ids(3, 11, seed=5)
    for labels, given in [(next_ids, {}), (other_ids, {}), (next_ids, masks), (other_ids, masks)]:
        for start in (None, state):
            logits = as_numpy(model(ids, start, **given) if start is None else model(ids, start, **given)[0])
            found, new_state = model.token_log_probs(ids, labels, start, **given)
            expected = np.take_along_axis(logits, labels[..., None], -1)[..., 0]
            np.testing.assert_allclose(as_numpy(found), expected, atol=1e-5)
            if start is not None:
                np.testing.assert_array_equal(new_state["history"], model(ids, start, **given)[1]["history"])


def test_weights_return_from_a_file_through_the_config(tmp_path):
    model, ids = fitted(4), some_ids(3, 11)
    model.save_weights(tmp_path / "model.weights.h5")
    config = NGramConfig.from_dict(model.config.to_dict())
    assert config.ngram_counts == model.config.ngram_counts and config.num_params() == sum(config.ngram_counts)
    again = NGram(config).build_from_ids()
    assert not np.array_equal(as_numpy(again(ids)), as_numpy(model(ids)))
    again.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(as_numpy(again(ids)), as_numpy(model(ids)))
    assert not model.trainable_variables


def test_adapt_again_replaces_the_tables():
    model = fitted(3, seed=1).build_from_ids()
    model.fit_closed_form(corpus(seed=0))
    ids = some_ids(2, 5)
    np.testing.assert_array_equal(as_numpy(model(ids)), as_numpy(fitted(3, seed=0)(ids)))
    assert len(model.weights) == 5  # keys of two orders, logs of three


def test_counted_on_disk_the_weights_file_is_the_same(tmp_path):
    shards = write_shards(tmp_path / "shards", [corpus(5_000)[1:-1]], vocab_size=V, eos_id=EOS)
    models = {memory: NGram(NGramConfig(order=4, vocab_size=V, eos_id=EOS, memory=memory)) for memory in ("", "16M")}
    for memory, model in models.items():
        model.fit_closed_form(shards)
        model.save_weights(tmp_path / f"{memory}.weights.h5")
    assert models[""].config == models["16M"].config, "how it was counted is not kept"
    assert (tmp_path / "16M.weights.h5").read_bytes() == (tmp_path / ".weights.h5").read_bytes()


def test_sizes_of_memory():
    sizes = {"": 0, "16M": 2**24, "1.5g": 3 * 2**29, "2GB": 2**31, "33554432": 2**25}
    assert {text: NGramConfig(memory=text).memory_bytes() for text in sizes} == sizes


def test_without_a_fit_every_id_is_equally_probable():
    log_probs = as_numpy(NGram(NGramConfig(order=3, vocab_size=V)).build_from_ids()(some_ids(2, 3)))
    np.testing.assert_allclose(log_probs, -np.log(V), rtol=1e-6)


def test_a_corpus_shorter_than_the_order():
    model = NGram(NGramConfig(order=5, vocab_size=V, eos_id=EOS))
    model.fit_closed_form(np.array([4]))  # the sentence mark before it is understood
    assert model.config.ngram_counts == (V, 1, 0, 0, 0)
    assert as_numpy(model(np.array([[EOS]])))[0, 0].argmax() == 4


@pytest.mark.parametrize(
    "ids, sentence",
    [
        (np.zeros(0, np.int32), "empty"),
        (np.full(3, EOS), "empty"),
        (np.array([0, V]), "vocab_size"),
        (np.array([0, -1]), "vocab_size"),
        (np.array([[0, 1]]), "one stream"),
        (np.array([0.5]), "integer"),
    ],
)
def test_adapt_refuses(ids, sentence):
    with pytest.raises(ValueError, match=sentence):
        NGram(NGramConfig(vocab_size=V, eos_id=EOS)).fit_closed_form(ids)


@pytest.mark.parametrize(
    "fields, sentence",
    [
        (dict(order=0), "order must be 1 to 7"),
        (dict(order=8), "order must be 1 to 7"),
        (dict(smoothing="good_turing"), "smoothing must be one of"),
        (dict(add_k=0.0), "add_k must be positive"),
        (dict(eos_id=4096), "eos_id must be an id below"),
        (dict(cutoffs=(1,)), "cutoffs"),
        (dict(cutoffs=(0, 2, 1)), "cutoffs"),
        (dict(order=2, cutoffs=(0, 0, 1)), "cutoffs"),
        (dict(order=2, ngram_counts=(4096,)), "ngram_counts"),
        (dict(memory="much"), "memory must be a size such as 512M or 2G"),
        (dict(memory="1M"), "at least 16M"),
    ],
)
def test_config_refuses(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        NGramConfig(**fields)


def test_registered_with_its_presets():
    assert MODELS.get("ngram") is NGram
    config = NGramConfig.preset("tiny")
    assert NGram(config).context_tokens == config.order - 1 == 2


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("vocab_size", [V, 2**16 + 1])
def test_in_bins_it_says_the_same_where_every_value_has_its_own(order, vocab_size):
    """A small corpus has fewer than 256 different values of each kind."""
    plain, packed = (NGram(NGramConfig(order=order, vocab_size=vocab_size, eos_id=EOS, bits=bits)) for bits in (0, 8))
    for model in (plain, packed):
        model.fit_closed_form(corpus(67))
    ids, labels = some_ids(3, 17), some_ids(3, 17, seed=2)
    np.testing.assert_allclose(as_numpy(packed(ids)), as_numpy(plain(ids)), atol=2e-6)
    found, expected = (as_numpy(model.token_log_probs(ids, labels)[0]) for model in (packed, plain))
    np.testing.assert_allclose(found, expected, atol=2e-6)
    for n in range(2, order + 1):
        for ours, theirs in zip(packed.tables.arrays(n), plain.tables.arrays(n), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_values_in_bins():
    values = np.random.default_rng(3).normal(-5, 2, 40_001).astype(np.float32)
    values[:9_000] = 0
    bins = bin_values(values, 0.0)
    codes = nearest_bin(values, bins)
    assert (codes[:9_000] == 255).all() and (codes[9_000:] < 255).all() and (np.diff(bins[:255]) > 0).all()
    nearest = np.abs(values[9_000:, None] - bins[:255]).argmin(1)
    np.testing.assert_allclose(bins[codes[9_000:]], bins[nearest], atol=1e-5)
    share = np.bincount(codes[9_000:], minlength=255)[5:250] / 31_001
    assert (share > 0.5 / 255).all() and (share < 2 / 255).all(), "about equally many"
    few = np.array([-1, -1, -3, -2], np.float32)
    assert bin_values(few, 1.0)[-4:].tolist() == [-3, -2, -1, 1] and bin_values(few[:0], 1.0)[-1] == 1


def test_bins_cost_little_and_half_the_room():
    models = [fitted(5, bits=bits) for bits in (0, 8)]
    rng = np.random.default_rng(5)
    text = np.concatenate([[EOS], rng.zipf(1.4, 30_000) % V, [EOS]]).astype(np.int32)
    for model in models:
        model.fit_closed_form(text)
    losses = [-as_numpy(model.token_log_probs(text[None, :-1], text[None, 1:])[0]).mean() for model in models]
    assert abs(losses[1] - losses[0]) < 2e-3
    plain, packed = (sum(w.numpy().nbytes for w in model.weights) for model in models)
    assert packed < 0.62 * plain
