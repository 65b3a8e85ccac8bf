"""What every registered encoder-decoder promises, checked at preset `tiny`.

Shape letters: B batch, T target positions, S source positions, V vocabulary.
"""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import goldens, tiny_models
from zoo import bundle as bundles
from zoo.beams import beam_search
from zoo.config import Refusal
from zoo.decoding import generate
from zoo.layers.coverage import covered, with_coverage
from zoo.registry import MODELS
from zoo.tokenizers.base import create as create_tokenizer

B, T, S = 3, 7, 5
CLOSE = dict(rtol=2e-5, atol=2e-5)


@pytest.fixture(scope="module", params=tiny_models.cases("encoder_decoder"))
def case(request):
    return request.param


@pytest.fixture(scope="module")
def model(case):
    return tiny_models.strengthen(tiny_models.create(case))


@pytest.fixture(scope="module")
def batch(model):
    mask = np.arange(S) < np.array([[S], [3], [1]])
    return {
        "source_ids": tiny_models.token_ids(model, B, S, seed=1), "source_mask": mask,
        "token_ids": tiny_models.token_ids(model, B, T, seed=2),
    }  # fmt: skip


@pytest.fixture(scope="module")
def logits(model, batch):
    return np.asarray(model(batch))


def begun(model, batch, room):
    """The state before the target."""
    return model.init_state(B, room, model.encode(batch["source_ids"], batch["source_mask"]))


def test_logits_are_float32_with_one_row_a_position(model, logits):
    assert logits.shape == (B, T, model.config.vocab_size) and logits.dtype == np.float32
    assert np.isfinite(logits).all()


def test_num_params_of_the_config_counts_the_model(model):
    assert model.config.num_params() == sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert len({v.path for v in model.variables}) == len(model.variables)


def test_variables_logits_and_losses_are_those_of_the_golden(case):
    golden = goldens.load(case)
    assert goldens.variables(case) == golden["variables"]
    np.testing.assert_allclose(goldens.logits(case), golden["logits"], rtol=1e-4, atol=1e-4)
    losses = goldens.losses(case)
    np.testing.assert_allclose(losses, golden["losses"], rtol=1e-4, atol=1e-4)
    assert losses[-1] < losses[0] - 0.3


def test_padding_of_the_source_changes_nothing(model, batch, logits):
    other = {**batch, "source_ids": np.where(batch["source_mask"], batch["source_ids"], 9)}
    np.testing.assert_allclose(model(other), logits, **CLOSE)
    for row, length in enumerate(batch["source_mask"].sum(1)):
        alone = {"source_ids": batch["source_ids"][row : row + 1, :length], "token_ids": batch["token_ids"][row : row + 1]}
        np.testing.assert_allclose(model(alone)[0], logits[row], **CLOSE)


def test_the_source_is_looked_at(model, batch, logits):
    other = {**batch, "source_ids": 1 + (batch["source_ids"] + 3) % (model.config.vocab_size - 1)}
    assert (np.abs(np.asarray(model(other)) - logits).max(axis=(1, 2)) > 1e-3).all()


def test_the_future_changes_nothing(model, batch, logits):
    for t in (1, 4, 6):
        ids = batch["token_ids"].copy()
        ids[:, t:] = 1 + (ids[:, t:] + 3) % (model.config.vocab_size - 1)
        changed = np.asarray(model({**batch, "token_ids": ids}))
        np.testing.assert_allclose(changed[:, :t], logits[:, :t], **CLOSE)
        assert not np.allclose(changed[:, t:], logits[:, t:], atol=1e-3)


@pytest.mark.parametrize("chunks", [(1,) * T, (3, 1, 3), (T,)])
def test_step_by_step_is_the_full_pass(model, batch, logits, chunks):
    state, pieces, start = begun(model, batch, T), [], 0
    for length in chunks:
        piece, state = model(batch["token_ids"][:, start : start + length], state=state)
        pieces.append(piece)
        start += length
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), logits, **CLOSE)


def test_a_state_may_count_what_was_looked_at(model, batch):
    if not model.aligns:
        assert "coverage" not in begun(model, batch, T + 2)
        return
    state, expected = with_coverage(begun(model, batch, T + 2)), np.asarray(model.alignment(batch)).sum(1)
    # Two columns of padding at the left of the first piece, which look at nothing that counts.
    padded, real = np.pad(batch["token_ids"][:, :3], ((0, 0), (2, 0))), np.arange(5)[None].repeat(B, 0) >= 2
    _, state = model.next_logits(padded, state, real)
    for t in range(3, T):
        _, state = model.next_logits(batch["token_ids"][:, t : t + 1], state)
    np.testing.assert_allclose(state["coverage"], expected, **CLOSE)
    logs = np.log(np.clip(expected, 1e-9, 1)) * batch["source_mask"]
    np.testing.assert_allclose(covered(state), logs.sum(1), rtol=1e-4, atol=1e-4)


def test_a_state_is_batch_first_and_says_what_its_axes_go_by(model, batch):
    before = begun(model, batch, T + 4)
    _, after = model(batch["token_ids"], state=before)
    assert before.keys() == after.keys()
    axes, longer = model.state_axes(), begun(model, batch, 150)
    shorter = {name: value[:, :3] for name, value in batch.items() if name.startswith("source")}
    other = model.init_state(B, T + 4, model.encode(shorter["source_ids"], shorter["source_mask"]))
    for name, value in before.items():
        assert value.shape == () or value.shape[0] == B, name
        assert value.shape == after[name].shape and value.dtype == after[name].dtype, name
        for axis in range(1, value.shape.rank):
            grows, follows = longer[name].shape[axis] != value.shape[axis], other[name].shape[axis] != value.shape[axis]
            assert axes[name].get(axis) == ("room" if grows else "source" if follows else None), (name, axis)


def test_token_log_probs_are_gathered_from_the_log_softmax(model, batch, logits):
    labels = tiny_models.token_ids(model, B, T, seed=5)
    expected = np.take_along_axis(np.asarray(tf.nn.log_softmax(logits)), labels[..., None], 2)[..., 0]
    inputs = model.taken(batch)
    log_probs, state = model.token_log_probs(inputs.pop("token_ids"), labels, **inputs)
    np.testing.assert_allclose(log_probs, expected, **CLOSE)
    assert state is None


def test_beams_of_full_width_are_an_exhaustive_search(model, batch):
    """Three tokens over a vocabulary that is cut to four: every text is tried."""
    allowed = np.array([1, 2, 3, 4])
    block = np.full(model.config.vocab_size, -1e9, np.float32)
    block[allowed] = 0.0
    row = {name: value[:1] for name, value in batch.items()}
    memory = model.encode(row["source_ids"], row["source_mask"])

    def step(ids, state, mask=None):
        logits, state = model.next_logits(ids, state, mask)
        return logits + block, state

    start = tf.constant([[5]])
    found = beam_search(
        step, model.init_state(1, 5, memory), start, max_new_tokens=3, num_beams=64, num_best=8, length_penalty=0.0
    )
    texts = np.array(list(itertools.product(allowed, repeat=3)), np.int32)
    inputs = np.concatenate([np.full((len(texts), 1), 5, np.int32), texts[:, :-1]], 1)
    source = {name: np.repeat(row[name], len(texts), 0) for name in ("source_ids", "source_mask")}
    log_probs = np.asarray(tf.nn.log_softmax(np.asarray(model({**source, "token_ids": inputs})) + block))
    totals = np.take_along_axis(log_probs, texts[..., None], 2)[..., 0].sum(1)
    best = np.argsort(-totals)[:8]
    np.testing.assert_allclose(found.log_probs[0], totals[best], rtol=1e-4)
    np.testing.assert_array_equal(found.token_ids[0, 0], texts[best[0]])


def test_a_row_decodes_alone_as_in_the_batch(model, batch):
    start = tf.fill([B, 1], 5)
    together = generate(model.next_logits, begun(model, batch, 8), start, max_new_tokens=6)
    for row in range(B):
        length = batch["source_mask"][row].sum()
        memory = model.encode(batch["source_ids"][row : row + 1, :length])
        alone = generate(model.next_logits, model.init_state(1, 8, memory), start[:1], max_new_tokens=6)
        np.testing.assert_array_equal(alone.token_ids[0], together.token_ids[row])


def test_the_alignment_is_a_distribution_over_the_source(model, batch):
    if not model.aligns:
        with pytest.raises(Refusal, match="has no alignment"):
            model.alignment(batch)
        return
    weights = np.asarray(model.alignment(batch))
    assert weights.shape == (B, T, S)
    np.testing.assert_allclose(weights.sum(2), 1, rtol=1e-5)
    assert np.abs(weights * ~batch["source_mask"][:, None]).max() < 1e-6


def test_gradients_reach_every_weight(model, batch):
    inputs = model.taken(batch)
    with tf.GradientTape() as tape:
        ids = inputs.pop("token_ids")
        log_probs, _ = model.token_log_probs(ids, tiny_models.token_ids(model, B, T, seed=5), **inputs)
        loss = -tf.reduce_mean(log_probs)
    variables = model.trainable_variables
    for variable, gradient in zip(variables, tape.gradient(loss, [v.value for v in variables]), strict=True):
        assert gradient is not None, variable.path
        values = np.asarray(tf.convert_to_tensor(gradient))
        assert np.isfinite(values).all() and np.abs(values).max() > 1e-7, variable.path


def test_bfloat16_is_finite_and_close(case, model, batch, logits, restore_dtype_policy):
    keras.config.set_dtype_policy("mixed_bfloat16")
    half = tiny_models.create(case)
    for variable, value in zip(half.variables, model.variables, strict=True):
        assert variable.dtype == value.dtype
        variable.assign(value)
    values = np.asarray(half(batch))
    assert values.dtype == np.float32 and np.isfinite(values).all()
    assert np.abs(values - logits).max() < 0.06 * np.abs(logits).max()


def test_xla_computes_the_same(model, batch, logits):
    compiled = tf.function(lambda batch: model(batch), jit_compile=True)
    np.testing.assert_allclose(compiled({name: tf.constant(value) for name, value in batch.items()}), logits, **CLOSE)


@pytest.mark.parametrize("name", [name for name in MODELS.names() if MODELS.config(name).kind == "encoder_decoder"])
def test_a_bundle_brings_back_task_and_weights(name, tmp_path):
    model, tokenizer = tiny_models.create(name), create_tokenizer("char", ["naïve"])
    directory = bundles.Bundle(model, tokenizer, "translation", {"steps": 3}).save(tmp_path / "bundle")
    loaded = bundles.load(directory)
    assert loaded.model.config == model.config and loaded.task.registered_name == "translation"
    batch = tiny_models.inputs(model)
    np.testing.assert_array_equal(loaded.model(batch), model(batch))
