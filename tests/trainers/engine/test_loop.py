"""The training step, evaluation and what feeds them.

Shape letters: B batch, T positions.
"""

import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import tiny_models
from trainers.cost import plan
from trainers.engine import loop, loss_scaling
from zoo.data.batch import Layout
from zoo.data.packing import PackedBatches
from zoo.models.base import LanguageModel
from zoo.registry import MODELS
from zoo.tasks.language_modeling import LanguageModeling


def batch(model, seed=0, weights=None):
    ids = tiny_models.token_ids(model, 5, 14, seed)
    weights = np.ones((5, 13), "float32") if weights is None else weights
    return {"token_ids": ids[:, :-1], "labels": ids[:, 1:], "loss_weights": weights}


def test_the_loss_is_the_mean_over_the_weighted_tokens():
    model = tiny_models.create("gpt")
    weights = np.zeros((5, 13), "float32")
    weights[0, :4], weights[3, :7] = 1, 1
    data = batch(model, weights=weights)
    log_probs, _ = model.token_log_probs(data["token_ids"], data["labels"])
    expected = -float(np.sum(np.asarray(log_probs) * weights)) / 11
    loss, count, *_ = tiny_models.trainer(model).step(data)
    assert float(count) == 11
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_is_that_of_the_mean():
    """Two half batches of unequal weight, summed by hand, move SGD as the whole batch does."""
    whole, parts = tiny_models.create("gpt"), tiny_models.create("gpt")
    weights = (np.arange(13) < np.array([[13], [2], [5], [1], [9]])).astype("float32")
    data = batch(whole, weights=weights)
    settings = dict(optimizer="sgd", learning_rate=0.5, schedule="constant", warmup_steps=0, weight_decay=0.0, clip_norm=0.0)
    tiny_models.trainer(whole, **settings).step(data)
    task, variables = LanguageModeling(), parts.trainable_variables
    total = [0.0] * len(variables)
    for rows in (slice(0, 2), slice(2, 5)):
        part = {name: value[rows] for name, value in data.items()}
        with tf.GradientTape() as tape:
            loss, _ = task.loss(part, task.forward(parts, part, training=True)[0])
        gradients = tape.gradient(loss, [v.value for v in variables])
        total = [t + tf.convert_to_tensor(g) for t, g in zip(total, gradients, strict=True)]
    for variable, gradient in zip(variables, total, strict=True):
        variable.assign_sub(0.5 * gradient / weights.sum())
    for mine, by_hand in zip(whole.trainable_variables, variables, strict=True):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(by_hand), rtol=1e-4, atol=1e-6, err_msg=mine.path)


def test_xla_trains_to_the_same_losses():
    losses = {}
    for xla in (False, True):
        model = tiny_models.create("gpt")
        plain = tiny_models.trainer(model)
        trainer = loop.Trainer(model, plain.task, plain.optimizer, batch_size=5, seq_length=13, xla=xla)
        losses[xla] = [float(trainer.step(batch(model, seed))[0]) for seed in range(4)]
    np.testing.assert_allclose(losses[True], losses[False], rtol=1e-4)


def test_the_state_is_carried_from_batch_to_batch_and_forgotten_at_an_epoch():
    model = tiny_models.strengthen(tiny_models.create("lstm"))
    still = dict(optimizer="sgd", learning_rate=0.0, warmup_steps=0, weight_decay=0.0, clip_norm=0.0)
    trainer = tiny_models.trainer(model, **still)
    ids = tiny_models.token_ids(model, 5, 27)
    first, second = (
        {"token_ids": ids[:, a : a + 13], "labels": ids[:, a + 1 : a + 14], "loss_weights": np.ones((5, 13), "float32")}
        for a in (0, 13)
    )
    log_probs, _ = model.token_log_probs(ids[:, :-1], ids[:, 1:])
    expected = -np.asarray(log_probs)
    assert float(trainer.step(first, starts_epoch=True)[0]) == pytest.approx(expected[:, :13].mean(), rel=1e-5)
    assert float(trainer.step(second)[0]) == pytest.approx(expected[:, 13:].mean(), rel=1e-5)
    assert float(trainer.step(first, starts_epoch=True)[0]) == pytest.approx(expected[:, :13].mean(), rel=1e-5)
    assert float(trainer.step(first)[0]) != pytest.approx(expected[:, :13].mean(), rel=1e-4)


def test_everything_that_a_resume_needs_is_named():
    trainer = tiny_models.trainer(tiny_models.create("lstm", **tiny_models.DROPOUT["lstm"]))
    groups = trainer.variables()
    assert set(groups) == {"model", "optimizer", "carried"}
    assert any("seed" in variable.path for variable in groups["model"])
    assert len(groups["carried"]) == 4
    assert "carried" not in tiny_models.trainer(tiny_models.create("gpt")).variables()


class Uniform(LanguageModel):
    """Gives each of `vocab_size` ids the same probability."""

    registered_name = "uniform"

    def token_log_probs(self, token_ids, labels, state=None, **masks):
        return -tf.math.log(4.0) * tf.ones(tf.shape(labels)), state


class Stream(np.ndarray):
    """An array of ids that also knows its text."""

    eos_id, num_bytes, lost_bytes = 0, 0, 0


def text_stream(length, num_bytes, lost_bytes=0):
    ids = np.ones(length, np.int32).view(Stream)
    ids[[0, -1]] = 0
    ids.num_bytes, ids.lost_bytes = num_bytes, lost_bytes
    return ids


def evaluate(stream, model=None, **options):
    model = model or Uniform(None)
    task = LanguageModeling()
    return loop.evaluate(
        task, model, lambda batch, state: task.score(model, batch, state=state), stream, None,
        Layout(**{"seq_length": 5, "batch_size": 3, **options}),
    )  # fmt: skip


def test_figures_of_a_model_that_knows_nothing():
    # 22 scored tokens of two bits each are 44 bits over 11 bytes
    scores = evaluate(text_stream(23, num_bytes=11))
    assert scores["num_tokens"] == 22
    assert scores["loss"] == pytest.approx(np.log(4), rel=1e-6)
    assert scores["perplexity"] == pytest.approx(4, rel=1e-5)
    assert scores["bits_per_byte"] == pytest.approx(4, rel=1e-6)


def test_bytes_under_the_unknown_token_are_charged():
    assert evaluate(text_stream(23, 11, lost_bytes=3))["bits_per_byte"] == pytest.approx((44 + 24) / 11, rel=1e-6)


def test_a_part_of_a_stream_counts_its_bytes_in_proportion():
    stream = text_stream(23, 11)
    stream.eos_id = 0
    scores = evaluate(LanguageModeling().part(stream, 10, None))
    assert scores["num_tokens"] == 10
    assert scores["bits_per_byte"] == pytest.approx(4, rel=1e-6)


def test_without_bytes_there_are_no_bits_per_byte():
    assert "bits_per_byte" not in evaluate(text_stream(23, 0))


@pytest.mark.parametrize("case", ["lstm", "ngram"])
def test_windows_score_as_if_the_stream_were_read_at_once(case):
    model = tiny_models.create(case)
    ids = tiny_models.stream(model.config.vocab_size, 101)
    expected, _ = model.token_log_probs(ids[None, :-1], ids[None, 1:])
    options = dict(seq_length=7, batch_size=1 if case == "lstm" else 4)
    scores = evaluate(ids.view(Stream), model, **options)
    assert scores["num_tokens"] == 100
    assert scores["loss"] == pytest.approx(-float(np.mean(expected)), rel=1e-5)


def test_separate_documents_are_scored_alone():
    model = tiny_models.strengthen(tiny_models.create("gpt"))
    ids = np.array([0, 5, 6, 7, 0, 8, 9, 0], np.int32).view(Stream)
    log_probs = [model.token_log_probs(ids[None, a:b], ids[None, a + 1 : b + 1])[0] for a, b in ((0, 4), (4, 7))]
    expected = -float(sum(np.sum(x) for x in log_probs)) / 7
    assert evaluate(ids, model, seq_length=7, separate_documents=True)["loss"] == pytest.approx(expected, rel=1e-5)
    assert evaluate(ids, model, seq_length=7)["loss"] != pytest.approx(expected, rel=1e-4)


def test_windows_longer_than_the_model_are_refused():
    with pytest.raises(ValueError, match="seq_length 17 is more than this model's max_length of 16"):
        evaluate(text_stream(40, 9), tiny_models.create("gpt"), seq_length=17)


# Whether XLA compiles the step


@pytest.mark.parametrize(("requested", "case", "devices", "expected", "reason"), [
    ("on", "lstm", ["CPU"], True, "--xla=on"),
    ("require", "lstm", ["CPU"], True, "--xla=require"),
    ("off", "gpt", ["GPU"], False, "--xla=off"),
    ("auto", "gpt", ["CPU"], True, "auto: {:,} parameters are few for a CPU"),
    ("auto", "lstm", ["CPU"], False, "auto: on a CPU a recurrent loop is faster without"),
    ("auto", "bert", ["CPU"], False, "auto: on a CPU an encoder is faster without"),
    ("auto", "lstm", ["CPU", "GPU"], True, "auto: an accelerator is present"),
    ("auto", "gpt", ["CPU", "TPU"], True, "auto: an accelerator is present"),
])  # fmt: skip
def test_xla_is_decided_with_a_reason(requested, case, devices, expected, reason):
    model = tiny_models.create(case)
    reason = reason.format(model.count_params())
    accelerator = devices != ["CPU"]
    decided = plan.resolve_xla(requested, model.config.cost(16), model.count_params(), accelerator)
    assert decided == (expected, reason)


def test_bfloat16_is_not_compiled_on_a_cpu():
    cost = MODELS.config("gpt").preset("tiny").cost(16)
    assert plan.resolve_xla("auto", cost, 11, precision="bfloat16") == (False, "auto: on a CPU bfloat16 is faster without")
    assert plan.resolve_xla("auto", cost, 11, accelerator=True, precision="bfloat16")[0]
    assert plan.resolve_xla("on", cost, 11, precision="bfloat16")[0]


def test_a_large_model_is_not_compiled_on_a_cpu(monkeypatch):
    monkeypatch.setattr(plan, "XLA_CPU_MAX_PARAMS", 10)
    compiled, reason = plan.resolve_xla("auto", MODELS.config("gpt").preset("tiny").cost(16), 11)
    assert not compiled and reason.endswith("parameters are many for a CPU")


def test_lengths_cost_no_more_compilations_than_there_are_buckets():
    model = tiny_models.create("gpt")
    trainer = tiny_models.trainer(model, xla=True)
    for step, length in enumerate((7, 13, 5, 13, 6, 9, 7, 4)):
        bucket, data = 7 if length <= 7 else 13, batch(model, step)
        counted = np.broadcast_to(np.arange(bucket) < length, (5, bucket)).astype("float32")
        trainer.step({name: value[:, :bucket] for name, value in data.items()} | {"loss_weights": counted})
    assert trainer.num_compilations == 2
    trainer.step({name: value[:, :11] for name, value in data.items()})  # a length that is not a bucket would be seen
    assert trainer.num_compilations == 3


class Unknown(LanguageModeling):
    """A loss with an operation that XLA does not have."""

    def loss(self, batch, outputs):
        total, count = super().loss(batch, outputs)
        return total, tf.strings.to_number(tf.strings.as_string(count))


@pytest.mark.parametrize("required", [False, True])
def test_xla_never_falls_back_in_silence(required, capsys):
    model = tiny_models.create("lstm")
    plain = tiny_models.trainer(model)
    trainer = loop.Trainer(model, Unknown(), plain.optimizer, batch_size=5, seq_length=13, xla=True, require_xla=required)
    if required:
        with pytest.raises(ValueError, match="--xla=require: XLA cannot compile this step"):
            trainer.step(batch(model))
        return
    assert float(trainer.step(batch(model)).count) == 65
    assert "XLA cannot compile this step, which goes on without" in capsys.readouterr().out and not trainer.xla


# float16


def test_training_in_float16_follows_float32_and_an_overflow_changes_no_weight(restore_dtype_policy):
    losses = {}
    for policy in ("float32", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        model = tiny_models.create("gpt")
        trainer = tiny_models.trainer(model)
        losses[policy] = [float(trainer.step(batch(model, seed=1)).loss) for _ in range(6)]
        assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    np.testing.assert_allclose(losses["mixed_float16"], losses["float32"], rtol=0.01)
    scale, good_steps = trainer.variables()["loss_scaling"]
    assert (float(scale), int(good_steps)) == (2.0**15, 6)
    scale.assign(2.0**40)
    before = [np.asarray(v) for v in (*model.trainable_variables, *trainer.optimizer.variables)]
    told = trainer.step(batch(model, seed=1))
    assert np.isfinite(told.loss) and float(told.gradient_norm) == 0
    assert (float(scale), int(good_steps)) == (2.0**39, 0)
    for value, variable in zip(before, (*model.trainable_variables, *trainer.optimizer.variables), strict=True):
        np.testing.assert_array_equal(variable, value)


def test_the_loss_scale_halves_at_once_and_doubles_when_all_went_well(monkeypatch):
    monkeypatch.setattr(loss_scaling, "GOOD_STEPS", 3)
    scaling = loss_scaling.LossScaling()
    scales = []
    for finite in (True, False, True, True, True, True, False, False):
        scaling.learn(finite)
        scales.append(float(scaling.scale) / 2**15)
    assert scales == [1, 0.5, 0.5, 0.5, 1, 1, 0.5, 0.25]


# The thread that makes batches


def test_batches_come_in_order_from_the_first_step_on():
    prefetcher = loop.Prefetcher(lambda step: step * step, 3, 9)
    assert [(step, value) for step, value, _ in prefetcher] == [(step, step**2) for step in range(3, 9)]
    prefetcher.close()


def test_batches_are_made_ahead_but_not_without_end():
    made, threads = [], threading.active_count()
    prefetcher = loop.Prefetcher(lambda step: made.append(step), 0, 1_000, depth=4)
    deadline = time.monotonic() + 5
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3, 4]  # four in the queue, one in hand
    prefetcher.close()
    assert threading.active_count() == threads


def test_an_error_in_the_thread_is_raised_where_the_batch_is_wanted():
    def make(step):
        if step == 2:
            raise ValueError("The corpus has gone.")
        return step

    prefetcher = loop.Prefetcher(make, 0, 9)
    seen = []
    with pytest.raises(ValueError, match="The corpus has gone"):
        for step, _, _ in prefetcher:
            seen.append(step)
    assert seen == [0, 1]
    prefetcher.close()


def test_a_seed_gives_the_same_weights_and_another_seed_others():
    def first(seed):
        loop.set_seed(seed)
        model = tiny_models.MODELS.get("gpt")(tiny_models.MODELS.config("gpt").preset("tiny")).build_from_ids()
        return np.asarray(model.trainable_variables[0])

    np.testing.assert_array_equal(first(0), first(0))
    assert not np.allclose(first(0), first(1))


def test_packed_batches_go_through_a_step():
    model = tiny_models.create("gpt")
    batches = PackedBatches(tiny_models.stream(61), 13, 5, separate_documents=True, eos_id=tiny_models.EOS_ID)
    loss, count, *_ = tiny_models.trainer(model).step(batches.batch(0))
    assert float(count) == 65 and 3.9 < float(loss) < 4.3


@pytest.mark.parametrize("case", ["gpt-modern", "lstm"])
def test_training_in_bfloat16_keeps_the_weights_in_float32_and_follows_float32(case, restore_dtype_policy):
    losses = {}
    for policy in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        model = tiny_models.create(case)
        trainer = tiny_models.trainer(model)
        losses[policy] = [float(trainer.step(batch(model, seed=1), starts_epoch=True)[0]) for _ in range(6)]
        assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    assert losses["float32"][-1] < losses["float32"][0] - 0.05
    np.testing.assert_allclose(losses["mixed_bfloat16"], losses["float32"], rtol=0.02)


def test_a_batch_in_which_nothing_counts_gives_no_nan():
    model = tiny_models.create("gpt")
    trainer = tiny_models.trainer(model, weight_decay=0.0, optimizer="sgd", warmup_steps=0)
    before = [np.asarray(v) for v in model.trainable_variables]
    nothing = {**batch(model, 0), "loss_weights": np.zeros((tiny_models.BATCH_SIZE, tiny_models.SEQ_LENGTH), np.float32)}
    told = trainer.step(nothing)
    assert (float(told.loss), float(told.count), float(told.gradient_norm)) == (0.0, 0.0, 0.0)
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_speeds_count_real_tokens():
    ids, mask = np.zeros((2, 4), np.int32), np.array([[True] * 4, [True, False, False, False]])
    assert loop.num_tokens({"token_ids": ids}) == 8
    assert loop.num_tokens({"token_ids": ids, "padding_mask": mask}) == 5
    weights = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], np.float32)
    assert loop.num_tokens({"token_ids": ids, "source_mask": mask, "loss_weights": weights}) == 8
