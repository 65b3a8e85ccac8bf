"""What every registered model promises, checked at preset `tiny`. What is registered is covered: `MODELS` is the list.

Shape letters: B batch, T positions, V vocabulary.
"""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.common import global_state

from tests import goldens, tiny_models
from trainers.engine.checkpoints import Checkpoints, named_variables
from zoo import bundle as bundles
from zoo.config import KINDS, Refusal
from zoo.models.base import Classifier, Encoder, EncoderDecoder, LanguageModel
from zoo.registry import MODELS, TASKS, tasks_of
from zoo.tokenizers.base import create as create_tokenizer

B, T = 3, 7
EXACT, CLOSE = dict(rtol=0, atol=0), dict(rtol=2e-5, atol=2e-5)


@pytest.fixture(scope="module", params=tiny_models.cases("language_model"))
def case(request):
    return request.param


@pytest.fixture(scope="module")
def model(case):
    return tiny_models.strengthen(tiny_models.create(case))


@pytest.fixture(scope="module")
def ids(model):
    return tiny_models.token_ids(model, B, T)


@pytest.fixture(scope="module")
def logits(model, ids):
    return np.asarray(model(ids))


def test_every_registered_model_is_of_a_kind_that_a_suite_covers():
    covered = {"language_model": LanguageModel, "encoder": Encoder, "classifier": Classifier, "encoder_decoder": EncoderDecoder}
    for name in MODELS.names():
        config = MODELS.config(name)
        assert config.kind in covered, f"{name} is of the kind {config.kind!r}, which has no laws: extend the suite."
        assert issubclass(MODELS.get(name), covered[config.kind])
        assert config.default_task in tasks_of(config)
    for name in TASKS.names():
        assert set(TASKS.config(name).kinds) <= set(KINDS)
        assert any(name in tasks_of(MODELS.config(model)) for model in MODELS.names()), f"{name} is served by no model."


def numbers(state):
    return {name: np.asarray(value) for name, value in state.items()}


# Shapes, names, numbers


def test_logits_are_float32_with_one_row_a_position(model, logits):
    assert logits.shape == (B, T, model.config.vocab_size)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()


def test_features_projected_are_the_logits(model, ids, logits):
    features, state = model.features(ids)
    assert state is None
    assert tuple(features.shape[:2]) == (B, T)
    np.testing.assert_allclose(model.project(features), logits, **CLOSE)
    np.testing.assert_allclose(model.project(features[:, 2:5]), logits[:, 2:5], **CLOSE)


def test_a_state_is_a_dict_of_batch_first_tensors_and_scalars(model, ids):
    before = model.init_state(B, T + 4)
    _, after = model(ids, state=before)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert value.shape == () or value.shape[0] == B, name
        assert value.shape == after[name].shape and value.dtype == after[name].dtype, name


def test_init_state_takes_tensors(model):
    traced = tf.function(lambda batch, length: model.init_state(batch, length))(tf.constant(B), tf.constant(5))
    for name, value in model.init_state(B, 5).items():
        np.testing.assert_array_equal(traced[name], value)


def test_num_params_of_the_config_counts_the_model(model):
    trainable = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    if trainable:
        assert model.config.num_params() == trainable == model.count_params()
    else:
        assert model.config.num_params() == sum(model.tables.num_ngrams)


def test_variables_are_those_of_the_golden(case):
    assert goldens.variables(case) == goldens.load(case)["variables"]


def test_variable_paths_are_unique(model):
    paths = [variable.path for variable in model.variables]
    assert len(set(paths)) == len(paths)


def test_logits_are_those_of_the_golden(case):
    np.testing.assert_allclose(goldens.logits(case), goldens.load(case)["logits"], rtol=1e-4, atol=1e-4)


def test_training_follows_the_loss_curve_of_the_golden(case):
    losses = goldens.losses(case)
    np.testing.assert_allclose(losses, goldens.load(case)["losses"], rtol=1e-4, atol=1e-4)
    if len(losses) > 1:
        assert losses[-1] < losses[0] - 0.3
        assert losses == sorted(losses, reverse=True)
    else:
        assert losses[0] < 2.3  # the toy language has ten tokens; ln 10 is to know nothing


# What a row sees


def test_padding_at_the_right_changes_nothing(model, ids, logits):
    mask = np.arange(T) < np.array([[T], [5], [1]])
    padded = np.asarray(model(np.where(mask, ids, 9), padding_mask=mask))
    np.testing.assert_allclose(padded[mask], logits[mask], **CLOSE)


@pytest.mark.parametrize("with_state", [False, True])
def test_padding_at_the_left_changes_nothing(model, ids, logits, with_state):
    lengths = np.array([T, 4, 1])
    mask = np.arange(T) >= T - lengths[:, None]
    shifted = np.full_like(ids, 9)
    for row, length in enumerate(lengths):
        shifted[row, T - length :] = ids[row, :length]
    state = model.init_state(B, T + 2) if with_state else None
    outputs = model(shifted, state=state, padding_mask=mask)
    padded = np.asarray(outputs[0] if with_state else outputs)
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(padded[row, T - length :], logits[row, :length], **CLOSE)
    if with_state:  # and the state goes on from there
        following, _ = model.next_logits(ids[:, :1], outputs[1])
        for row, length in enumerate(lengths):
            whole = np.concatenate([ids[row : row + 1, :length], ids[row : row + 1, :1]], axis=1)
            np.testing.assert_allclose(following[row], np.asarray(model(whole))[0, -1], **CLOSE)


def test_padding_at_the_left_of_any_piece_leaves_the_state_of_a_row(model, ids):
    """Three pieces, of which each row has its own share, or nothing; row by row the result is that of its tokens alone."""
    pieces = ((4, (4, 1, 2)), (3, (1, 3, 0)), (2, (2, 0, 1)))  # columns, and how many tokens each row has in them
    texts, state = [[] for _ in range(B)], model.init_state(B, 10)
    for number, (columns, counts) in enumerate(pieces):
        piece = np.full((B, columns), 9, np.int32)
        for row, count in enumerate(counts):
            piece[row, columns - count :] = ids[row, 2 * number : 2 * number + count]
            texts[row] += piece[row, columns - count :].tolist()
        mask = np.arange(columns) >= columns - np.array(counts)[:, None]
        outputs, state = model(piece, state=state, padding_mask=mask)
        for row, count in enumerate(counts):
            if count:
                alone = np.asarray(model(np.array([texts[row]], np.int32)))[0, -count:]
                np.testing.assert_allclose(np.asarray(outputs)[row, columns - count :], alone, **CLOSE)
    following, _ = model.next_logits(ids[:, :1], state)  # and without padding again
    for row, text in enumerate(texts):
        alone = np.asarray(model(np.array([[*text, ids[row, 0]]], np.int32)))[0, -1]
        np.testing.assert_allclose(following[row], alone, **CLOSE)


@pytest.mark.parametrize("read", [0, 5])
def test_a_state_takes_as_many_tokens_as_it_has_room_for_and_no_more(model, ids, read):
    state = model.init_state(B, T)
    if model.room_left(state) is None:  # never full
        assert np.isfinite(model(np.ones((B, 3 * T), np.int32), state=state)[0]).all()
        return
    state = model(ids[:, :read], state=state)[1] if read else state
    room = int(model.room_left(state))
    assert room == T - read
    assert np.isfinite(model(ids[:, :room], state=state)[0]).all()
    too_many = np.ones((B, room + 1), np.int32)
    with pytest.raises(Refusal, match=f"room for {T} tokens: it holds {read}, and {room + 1} more do not fit"):
        model(too_many, state=state)
    graph = tf.function(lambda ids, state: model(ids, state=state)[0], autograph=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match="less room than it is to hold"):
        graph(tf.constant(too_many), state)


def test_the_future_changes_nothing(model, ids, logits):
    for t in (1, 4, 6):
        other = ids.copy()
        other[:, t:] = 1 + (other[:, t:] + 3) % (model.config.vocab_size - 1)
        changed = np.asarray(model(other))
        np.testing.assert_allclose(changed[:, :t], logits[:, :t], **CLOSE)
        if getattr(model.config, "order", 2) > 1:
            assert not np.allclose(changed[:, t:], logits[:, t:], atol=1e-3)


@pytest.mark.parametrize("chunks", [(1,) * T, (3, 1, 3), (T,)])
def test_step_by_step_is_the_full_pass(model, ids, logits, chunks):
    state, pieces, start = model.init_state(B, T), [], 0
    for length in chunks:
        piece, state = model(ids[:, start : start + length], state=state)
        pieces.append(piece)
        start += length
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), logits, **CLOSE)


def test_next_logits_are_the_last_of_the_pass(model, ids, logits):
    following, state = model.next_logits(ids, model.init_state(B, T))
    _, expected = model(ids, state=model.init_state(B, T))
    np.testing.assert_allclose(following, logits[:, -1], **CLOSE)
    for name, value in expected.items():
        np.testing.assert_allclose(state[name], value, **CLOSE)


def test_a_row_alone_is_the_row_in_the_batch(model, ids, logits):
    for row in range(B):
        np.testing.assert_allclose(model(ids[row : row + 1])[0], logits[row], **CLOSE)


def test_documents_do_not_see_each_other(model, ids, logits):
    segment_ids = np.array([[1] * 4 + [2] * 3, [3] * 7, [1] + [2] * 5 + [3]], np.int32)
    starts = np.array([[0] * 4 + [4] * 3, [0] * 7, [0] + [1] * 5 + [6]])
    positions = (np.arange(T) - starts).astype(np.int32)
    packed = np.asarray(model(ids, segment_ids=segment_ids, positions=positions))
    for row in range(B):
        for start in sorted(set(starts[row])):
            columns = starts[row] == start
            alone = np.asarray(model(ids[row : row + 1, columns]))[0]
            np.testing.assert_allclose(packed[row, columns], alone, **CLOSE)


def test_token_log_probs_are_gathered_from_the_log_softmax(model, ids, logits):
    labels = tiny_models.token_ids(model, B, T, seed=5)
    expected = np.take_along_axis(np.asarray(tf.nn.log_softmax(logits)), labels[..., None], 2)[..., 0]
    log_probs, state = model.token_log_probs(ids, labels)
    np.testing.assert_allclose(log_probs, expected, **CLOSE)
    assert state is None
    running = np.concatenate([ids[:, 1:], labels[:, -1:]], axis=1)
    expected = np.take_along_axis(np.asarray(tf.nn.log_softmax(logits)), running[..., None], 2)[..., 0]
    log_probs, state = model.token_log_probs(ids, running, state=model.init_state(B, T))
    np.testing.assert_allclose(log_probs, expected, **CLOSE)
    _, after = model(ids, state=model.init_state(B, T))
    for name, value in after.items():
        np.testing.assert_allclose(state[name], value, **CLOSE)


# Files


def test_a_bundle_brings_back_config_and_weights(case, model, ids, logits, tmp_path):
    tokenizer = create_tokenizer("char", ["naïve"])
    directory = bundles.Bundle(model, tokenizer, "language_modeling", {"steps": 3}).save(tmp_path / "bundle")
    loaded = bundles.load(directory)
    assert type(loaded.model) is type(model)
    assert loaded.model.config == model.config
    assert (loaded.task.registered_name, loaded.provenance) == ("language_modeling", {"steps": 3})
    assert loaded.tokenizer.encode("naïve") == tokenizer.encode("naïve")
    assert [v.path for v in loaded.model.variables] == [v.path for v in model.variables]
    np.testing.assert_allclose(loaded.model(ids), logits, **EXACT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


# Training


def test_gradients_reach_every_weight(model, ids):
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        log_probs, _ = model.token_log_probs(ids, tiny_models.token_ids(model, B, T, seed=5))
        loss = -tf.reduce_mean(log_probs)
    for variable, gradient in zip(variables, tape.gradient(loss, [v.value for v in variables]), strict=True):
        assert gradient is not None, variable.path
        values = np.asarray(tf.convert_to_tensor(gradient))
        assert np.isfinite(values).all() and np.abs(values).max() > 1e-7, variable.path


@pytest.mark.parametrize("name", sorted(tiny_models.DROPOUT))
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(name, tmp_path):
    def begin(seed):
        model = tiny_models.assembled(name, seed, **tiny_models.DROPOUT[name])
        trainer = tiny_models.trainer(model, steps=6)
        return trainer, Checkpoints(tmp_path, named_variables(**trainer.variables()))

    def advance(trainer, first, stop):
        batches = tiny_models.batches(trainer.model)
        return [float(trainer.step(batches.batch(step), batches.starts_epoch(step))[0]) for step in range(first, stop)]

    trainer, checkpoints = begin(seed=7)
    losses = advance(trainer, 0, 3)
    checkpoints.save(3, {"note": "half"})
    losses += advance(trainer, 3, 6)

    resumed, checkpoints = begin(seed=8)
    assert checkpoints.restore() == {"note": "half", "step": 3, "metrics": ""}
    assert advance(resumed, 3, 6) == losses[3:]
    before, after = (named_variables(**t.variables()) for t in (trainer, resumed))
    for key, variable in before.items():
        np.testing.assert_array_equal(np.asarray(after[key]), np.asarray(variable), err_msg=key)


# Precision and compilation


def test_bfloat16_is_finite_and_close(case, model, ids, logits, restore_dtype_policy):
    keras.config.set_dtype_policy("mixed_bfloat16")
    half = tiny_models.create(case)
    for variable, value in zip(half.variables, model.variables, strict=True):
        assert variable.dtype == value.dtype, variable.path  # the weights themselves stay as they are
        variable.assign(value)
    values, state = half(ids, state=half.init_state(B, T))
    assert values.dtype == tf.float32
    for name, value in half.init_state(B, T).items():
        assert state[name].dtype == value.dtype, name  # a decoding loop keeps its types
    values = np.asarray(values)
    assert np.isfinite(values).all()
    # bfloat16 has 8 bits of mantissa: about 1% after a few layers, of the largest logit
    assert np.abs(values - logits).max() < 0.04 * np.abs(logits).max()


def test_xla_computes_the_same(model, ids, logits):
    if model.fitted:
        # All V words of a history are spelt out from as many table rows as it has, which XLA would have to know.
        labels = tiny_models.token_ids(model, B, T, seed=5)
        compiled = tf.function(lambda: model.token_log_probs(ids, labels)[0], jit_compile=True)()
        np.testing.assert_allclose(compiled, model.token_log_probs(ids, labels)[0], **CLOSE)
        return
    compiled = tf.function(lambda ids: model(ids), jit_compile=True)(ids)
    np.testing.assert_allclose(compiled, logits, **CLOSE)


# Presets


@pytest.mark.parametrize("name", MODELS.names())
def test_every_preset_builds_a_config(name):
    config_class = MODELS.config(name)
    assert {"tiny", "default"} <= set(config_class.presets)
    for preset in config_class.presets:
        config = config_class.preset(preset)
        assert config_class.from_dict(config.to_dict()) == config
        assert config.num_params() > 0
        assert config_class.recipe_for(preset)["steps"] >= 0
    assert set(config_class.preset_recipes) <= set(config_class.presets)
    assert set(tasks_of(config_class)) <= set(TASKS.names())


# Of encoders, with their pooler: what `transformers` counts for the published checkpoints.
PUBLISHED_ENCODERS = {
    "bert_tiny_uncased": 4_385_920,
    "bert_mini_uncased": 11_170_560,
    "bert_small_uncased": 28_763_648,
    "bert_medium_uncased": 41_373_184,
    "bert_base_uncased": 109_482_240,
    "bert_base_cased": 108_310_272,
    "bert_base_multilingual_cased": 177_853_440,
    "bert_base_chinese": 102_267_648,
    "bert_large_uncased": 335_141_888,
    "roberta_base": 124_645_632,
    "roberta_large": 355_359_744,
    "xlm_roberta_base": 278_043_648,
    "xlm_roberta_large": 559_890_432,
    "minilm_l6": 22_713_216,
}


@pytest.mark.parametrize("preset", sorted(PUBLISHED_ENCODERS))
def test_parameter_counts_of_encoders_are_the_published_ones(preset):
    assert MODELS.config("bert").preset(preset).num_params() == PUBLISHED_ENCODERS[preset]


# Radford et al. 2019 and Brown et al. 2020, table 2.1 (which rounds, and leaves the positions out).
PUBLISHED = {
    "gpt": (116_534_784, 0),
    "gpt2_small": (124_439_808, 0),
    "gpt2_medium": (354_823_168, 0),
    "gpt2_large": (774_030_080, 0),
    "gpt2_xl": (1_557_611_200, 0),
    "gpt3_small": (125e6, 0.01),
    "gpt3_medium": (350e6, 0.03),
    "gpt3_large": (760e6, 0.01),
    "gpt3_xl": (1.3e9, 0.02),
    "gpt3_2.7b": (2.7e9, 0.03),
    "gpt3_6.7b": (6.7e9, 0.01),
    "gpt3_13b": (13.0e9, 0.02),
    "gpt3_175b": (174.6e9, 0.001),
}


@pytest.mark.parametrize("preset", sorted(PUBLISHED))
def test_parameter_counts_are_the_published_ones(preset):
    published, tolerance = PUBLISHED[preset]
    assert MODELS.config("gpt").preset(preset).num_params() == pytest.approx(published, rel=tolerance, abs=0)


PRESETS = [(name, preset) for name in MODELS.names() for preset in MODELS.config(name).presets]


@contextlib.contextmanager
def without_weights():
    """Models of this block have variables without values. Keras would give them some at the next symbolic call: 23 GB."""
    with keras.StatelessScope(initialize_variables=False):
        yield
    global_state.set_global_attribute("uninitialized_variables", [])


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_every_preset_has_its_shapes_without_any_weights(name, preset):
    model_class = MODELS.get(name)
    config = model_class.config_class.preset(preset)
    if getattr(config, "num_layers", 0) > 2:
        config = config.replace(num_layers=2)  # layers are alike
    with without_weights():
        model = model_class(config)
        ids = keras.KerasTensor((2, 3), "int32")
        logits = model({"token_ids": ids, "source_ids": ids} if "source_ids" in model.takes else ids)
        shapes = {Encoder: (2, 3, "hidden_dim"), LanguageModel: (2, 3, "vocab_size"), Classifier: (2, "num_classes")}
        *leading, width = next(shape for kind, shape in shapes.items() if issubclass(model_class, kind))
        assert logits.shape == (*leading, getattr(config, width))
        assert logits.dtype == "float32"
        if model.trainable_variables:
            assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == config.num_params()


def test_the_largest_gpt_can_be_laid_out_without_any_weights():
    model_class = MODELS.get("gpt")
    config = model_class.config_class.preset("gpt3_175b")
    with without_weights():
        model = model_class(config)
        model.build()
        assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == config.num_params()
