"""Training with differential privacy: what is sampled, clipped, added and counted.

Shape letters: B rows of a batch, T positions.
"""

import numpy as np
import pytest
import tensorflow as tf

from tests import tiny_models, tiny_tasks
from trainers.engine import gradients, loop, privacy, strategies
from trainers.engine.checkpoints import Checkpoints, named_variables
from trainers.engine.privacy import PrivacyConfig
from zoo.config import Refusal
from zoo.data.batch import Layout
from zoo.data.packing import DocumentWindows, PackedBatches
from zoo.data.sampling import PoissonBatches
from zoo.registry import TASKS
from zoo.tasks.language_modeling import LanguageModeling

SGD = dict(optimizer="sgd", learning_rate=0.5, schedule="constant", warmup_steps=0, weight_decay=0.0, clip_norm=0.0)
CASES = [
    "gpt-modern:language_modeling", "gpt:classification:lora", "bert:tagging", "t5:translation", "seq2seq:translation",
    "bilstm:tagging", "bilstm:tagging:crf", "lstm:classification", "glm:classification", "transformer:translation",
    "word2vec:classification", "glove:classification",
]  # fmt: skip


def guarantee(noise=0.0, clip=0.5, batch_size=5, seed=3):
    found = privacy.Guarantee(PrivacyConfig(dp_noise=1.0, dp_clip=clip), 1000, batch_size, 10, seed, "one row")
    found.noise = noise
    return found


def private(trainer, promise, placement=None, accumulation=1, xla=False):
    """A trainer like another, but private."""
    return loop.Trainer(
        trainer.model, trainer.task, trainer.optimizer, batch_size=5, seq_length=tiny_models.SEQ_LENGTH, xla=xla,
        placement=placement, grad_accumulation=accumulation, guarantee=promise,
    )  # fmt: skip


def case(name, **settings):
    """(trainer, batch) of a model for a task, with rows of unequal weight and one of none."""
    model_name, task_name, *_ = name.split(":")
    if task_name == "language_modeling":
        model = tiny_models.create(model_name)
        task, ids = LanguageModeling(), tiny_models.token_ids(model, 5, 14)
        weights = (np.arange(13) < np.array([[13], [2], [0], [1], [9]])).astype("float32")
        batch = {"token_ids": ids[:, :-1], "labels": ids[:, 1:], "loss_weights": weights}
    else:
        with pytest.MonkeyPatch.context() as patch:
            if name.endswith(":crf"):
                patch.setitem(tiny_tasks.FIELDS, task_name, {**tiny_tasks.FIELDS[task_name], "crf": True})
                name = name.removesuffix(":crf")
            task, model, batches, tuned = tiny_tasks.create(name)
        batch = dict(batches.batch(0))
    return tiny_models.trainer(model, task=task, **{**SGD, **settings}), batch


@pytest.mark.parametrize("name", CASES)
def test_clipped_gradients_are_those_of_a_loop_over_rows(name):
    trainer, batch = case(name)
    model, task, clip = trainer.model, trainer.task, 0.05
    variables, total, shrunk = model.trainable_variables, None, 0
    for i in range(len(batch["loss_weights"])):
        row = {key: value[i : i + 1] for key, value in batch.items()}
        with tf.GradientTape() as tape:
            loss, count = task.loss(row, task.forward(model, row, training=True)[0])
            loss = loss / max(float(count), 1e-30)
        found = tape.gradient(loss, [v.value for v in variables])
        found = [
            np.zeros(v.shape) if g is None else tf.convert_to_tensor(g).numpy() for g, v in zip(found, variables, strict=True)
        ]
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in found))
        shrunk += norm > clip
        found = [g * min(1.0, clip / max(norm, 1e-30)) for g in found]
        total = found if total is None else [a + b for a, b in zip(total, found, strict=True)]
    assert shrunk
    differentiation = gradients.PrivateDifferentiation(model, task, guarantee(clip=clip), trainer.optimizer.iterations)
    tensors = {key: tf.constant(value) for key, value in batch.items()}
    sums, *_ = tf.function(differentiation.of_sum, autograph=False)(tensors, None, 1.0)
    for mine, by_hand, variable in zip(sums, total, variables, strict=True):
        np.testing.assert_allclose(np.asarray(mine), by_hand, rtol=0, atol=1e-6, err_msg=variable.path)


def test_the_noise_is_of_the_right_size_and_another_at_every_step():
    trainer, _ = case(CASES[0])
    differentiation = gradients.PrivateDifferentiation(
        trainer.model, trainer.task, guarantee(noise=2.0, clip=0.5), trainer.optimizer.iterations
    )
    zeros = [tf.zeros(v.shape) for v in trainer.model.trainable_variables]

    def flat():
        return np.concatenate([np.ravel(g) for g in differentiation.mean_of(zeros, 1.0, 1.0)])

    first = flat()
    assert first.std() == pytest.approx(2.0 * 0.5 / 5, rel=0.03) and abs(first.mean()) < 0.01
    np.testing.assert_array_equal(first, flat())
    trainer.optimizer.iterations.assign(1)
    assert abs(np.corrcoef(first, flat())[0, 1]) < 0.05


def test_a_gradient_that_is_not_finite_counts_nothing():
    kept = gradients.clipped([tf.constant([np.inf, 1.0]), tf.constant([2.0])], 1.0)
    assert [np.asarray(g).tolist() for g in kept] == [[0, 0], [0]]


def steps(promise, count, placement=None, accumulation=1, xla=False):
    """(losses, weights) after some steps of a private GPT with dropout off, from one seed."""
    placement = placement or strategies.Placement("cpu")
    with placement.scope():
        model = tiny_models.create("gpt")
    plain = tiny_models.trainer(model, placement=placement, **SGD)
    trainer = private(plain, promise, placement, accumulation, xla)
    units = PoissonBatches(PackedBatches(tiny_models.stream(61), 13, 5), 5, 3)
    losses = [float(trainer.step(units.batch(step)).loss) for step in range(count)]
    return losses, [np.asarray(v) for v in model.trainable_variables]


def test_xla_micro_batches_and_two_replicas_make_the_same_steps():
    promise = guarantee(noise=0.5, clip=0.3)
    losses, weights = steps(promise, 3)
    devices = [f"CPU:{i}" for i in range(len(tf.config.list_logical_devices("CPU")))]
    others = {"accumulated": dict(accumulation=2), "xla": dict(xla=True)}
    if len(devices) > 1:  # the suite makes two
        others["two"] = dict(placement=strategies.Placement("two", tf.distribute.MirroredStrategy(devices[:2])))
    for name, options in others.items():
        found, moved = steps(promise, 3, **options)
        np.testing.assert_allclose(found, losses, rtol=1e-5, err_msg=name)
        for mine, theirs in zip(moved, weights, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=2e-6, err_msg=name)


def test_a_run_that_goes_on_from_a_checkpoint_takes_the_same_steps_bit_for_bit(tmp_path):
    promise, units = guarantee(noise=0.5, clip=0.3), PoissonBatches(PackedBatches(tiny_models.stream(61), 13, 5), 5, 3)

    def begun(seed):
        plain = tiny_models.trainer(tiny_models.create("gpt", seed=seed, dropout=0.3), **{**SGD, "optimizer": "adamw"})
        trainer = private(plain, promise)
        return trainer, Checkpoints(tmp_path, named_variables(**trainer.variables()))

    whole, checkpoints = begun(7)
    losses = []
    for step in range(4):
        losses.append(float(whole.step(units.batch(step)).loss))
        if step == 1:
            checkpoints.save(2, {"step": 2}, "")
            checkpoints.wait()
    again, checkpoints = begun(8)
    assert checkpoints.restore()["step"] == 2
    assert [float(again.step(units.batch(step)).loss) for step in (2, 3)] == losses[2:]
    for mine, theirs in zip(again.model.variables, whole.model.variables, strict=True):
        np.testing.assert_array_equal(mine, theirs, err_msg=mine.path)


def test_samples_are_those_of_a_seed_and_a_step_and_as_many_as_expected():
    units = PoissonBatches(PackedBatches(tiny_models.stream(61, 4000), 13, 5), 20, 3)
    count = 3999 // 13
    sizes = [len(units.chosen(step)) for step in range(400)]
    assert np.mean(sizes) == pytest.approx(20, rel=0.05)
    assert np.var(sizes) == pytest.approx(count * (20 / count) * (1 - 20 / count), rel=0.2)
    batch, again = units.batch(7), units.batch(7)
    for name in batch:
        np.testing.assert_array_equal(batch[name], again[name])
    assert batch["loss_weights"].shape == (units.capacity, 13) == (38, 13)
    assert batch["loss_weights"].any(1).sum() == sizes[7] and not batch["loss_weights"][sizes[7] :].any()
    assert loop.num_tokens(batch) == 13 * sizes[7]
    units.chosen = lambda step: np.arange(39)
    assert units.batch(0)["loss_weights"].shape == (76, 13)
    units.chosen = lambda step: np.zeros(0, int)
    assert not units.batch(0)["loss_weights"].any()


def test_a_row_of_documents_holds_tokens_of_one_alone():
    stream = np.array([0, 5, 6, 0, 7, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0], np.int32).view(tiny_models._Stream)
    units = DocumentWindows(stream, 4, 1)
    assert units.num_units == 3
    starts = set()
    for step in range(60):
        batch = units.of(np.array([0, 1, 2]), step)
        assert batch["token_ids"][:2].tolist() == [[0, 5, 6, 0], [0, 7, 0, 0]]
        assert batch["labels"][0, :3].tolist() == [5, 6, 0] and batch["loss_weights"].sum(1).tolist() == [3, 2, 4]
        row = batch["token_ids"][2].tolist()
        starts.add(row[0])
        assert batch["labels"][2].tolist() == [*row[1:], batch["labels"][2, -1]] and batch["labels"][2, -1] in (
            4,
            5,
            6,
            7,
            8,
            0,
        )
    assert starts == {0, 1, 2, 3, 4, 5}  # every window of nine tokens and the end


def test_what_breaks_the_promise_is_refused_in_a_sentence():
    config, layout = PrivacyConfig(dp_noise=1.0), Layout(13, 5)
    lstm, gpt = tiny_models.create("lstm"), tiny_models.create("gpt")
    stream = tiny_models.stream(61).view(tiny_models._Stream)
    for model, sentence in ((lstm, "carries each row on"), (gpt, "say what is to be protected")):
        batches = LanguageModeling().training_batches(stream, model, None, layout)
        with pytest.raises(Refusal, match=sentence):
            privacy.units_of(config, batches, model, stream, layout)
    batches = LanguageModeling().training_batches(stream, gpt, None, layout)
    units, unit = privacy.units_of(config.replace(dp_unit="row"), batches, gpt, stream, layout)
    assert units is batches and unit == "one row of 13 tokens"
    units, unit = privacy.units_of(config.replace(dp_unit="document"), batches, gpt, stream, layout)
    assert units.num_units == (stream == 0).sum() - 1 and unit == "one document"
    with pytest.raises(Refusal, match="tasks that read examples"):
        privacy.units_of(config, object(), gpt, stream, layout)
    task, model, batches, _ = tiny_tasks.create("bert:classification")
    with pytest.raises(Refusal, match="each example counts alike"):
        privacy.check(task, model, "float32")
    assert privacy.units_of(config, batches, model, None, layout) == (batches, "one row")
    task, model, *_ = tiny_tasks.create("bert:tagging")
    with pytest.raises(Refusal, match="float16"):
        privacy.check(task, model, "float16")
    with pytest.raises(Refusal, match="as many in each step"):
        privacy.Guarantee(config, 5, 5, 10, 0, "one row")


@pytest.mark.parametrize(("fields", "sentence"), [
    (dict(dp_noise=1.0, dp_epsilon=3.0), "give one of them"), (dict(dp_clip=2.0), "dp_clip takes dp_noise"),
    (dict(dp_noise=-1.0), "must not be negative"), (dict(dp_noise=1.0, dp_unit="word"), "document or row"),
    (dict(dp_noise=1.0, dp_clip=0.0), "must be positive"),
    (dict(canaries=10**9, canary_repeats=2), "at most 1,000,000 documents"),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(fields, sentence):
    with pytest.raises(Refusal, match=sentence):
        PrivacyConfig(**fields)


def test_a_budget_of_tokens_is_refused():
    task = TASKS.get("translation")(TASKS.config("translation")(batch_tokens=64))
    with pytest.raises(Refusal, match="batch_tokens puts pairs together by their lengths"):
        privacy.check(task, tiny_models.create("transformer"), "float32")


def test_epsilon_is_what_dp_accounting_counts():
    accounting = pytest.importorskip("dp_accounting", reason="needs the extra [privacy]")
    from dp_accounting import pld

    rate, delta = 0.01, 1e-5
    event = accounting.SelfComposedDpEvent(accounting.PoissonSampledDpEvent(rate, accounting.GaussianDpEvent(1.1)), 300)
    accountant = pld.PLDAccountant(value_discretization_interval=1e-3)
    accountant.compose(event)
    assert privacy.epsilon(1.1, rate, 300, delta) == accountant.get_epsilon(delta)
    exact = pld.PLDAccountant()
    exact.compose(event)
    assert exact.get_epsilon(delta) <= privacy.epsilon(1.1, rate, 300, delta) < 1.01 * exact.get_epsilon(delta)
    assert privacy.epsilon(1.1, rate, 0, delta) == 0
    # One step over all of the data is the Gaussian mechanism, whose epsilon Balle and Wang 2018 give in closed form.
    assert privacy.epsilon(3.0, 1.0, 1, delta) == pytest.approx(1.2634, rel=2e-2)
    noise = privacy.noise_for(2.0, rate, 300, delta)
    assert privacy.epsilon(noise, rate, 300, delta) <= 2.0 < privacy.epsilon(noise - 5e-3, rate, 300, delta)
