"""Schedules by hand, and what each update rule does to known gradients."""

import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.engine import optimizers
from trainers.flags import OPTIMIZERS, SCHEDULES


@dataclasses.dataclass
class Settings:
    """The flags that `optimizers.create` reads."""

    optimizer: str = "adamw"
    learning_rate: float = 0.1
    schedule: str = "constant"
    warmup_steps: int = 0
    steps: int = 100
    weight_decay: float = 0.0
    clip_norm: float = 0.0


def rates(kind, steps, peak=2.0, warmup=4, total=14):
    schedule = optimizers.Schedule(kind, peak, warmup, total)
    return [float(schedule(step)) for step in steps]


@pytest.mark.parametrize("kind", SCHEDULES)
def test_warm_up_is_linear_and_reaches_the_peak(kind):
    np.testing.assert_allclose(rates(kind, range(4)), [0.5, 1.0, 1.5, 2.0], rtol=1e-6)


@pytest.mark.parametrize(("kind", "step", "expected"), [
    ("constant", 13, 2.0),
    ("linear", 9, 2 * (1 - 0.9 * 0.5)),
    ("linear", 14, 0.2),
    ("linear", 99, 0.2),
    ("cosine", 9, 2 * (0.1 + 0.9 * 0.5)),
    ("cosine", 6, 2 * (0.1 + 0.45 * (1 + math.cos(math.pi * 0.2)))),
    ("cosine", 14, 0.2),
    ("inverse_sqrt", 4, 2 * math.sqrt(4 / 5)),
    ("inverse_sqrt", 15, 1.0),
])  # fmt: skip
def test_shapes(kind, step, expected):
    assert rates(kind, [step])[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_without_warm_up_the_first_step_is_at_the_peak(kind):
    assert rates(kind, [0], warmup=0)[0] == pytest.approx(2.0)


def test_a_schedule_is_rebuilt_from_its_config():
    schedule = optimizers.Schedule("cosine", 0.3, 5, 50)
    again = optimizers.Schedule.from_config(schedule.get_config())
    assert float(again(17)) == float(schedule(17))


def stepped(settings, gradients, values, names=None):
    """Values of variables after one update for each entry of `gradients`."""
    names = names or [f"w{i}" for i in range(len(values))]
    variables = [keras.Variable(np.asarray(v, "float32"), name=n) for v, n in zip(values, names, strict=True)]
    optimizer = optimizers.create(settings, variables)
    step = tf.function(lambda gradients: optimizer.apply(gradients, variables))
    for gradient in gradients:
        step([tf.constant(g, tf.float32) for g in gradient])
    return [np.asarray(v) for v in variables]


def test_adam_by_hand():
    # first step: m/(1-b1) = g, sqrt(v/(1-b2)) = |g|, so the step is the rate; second with g = -1:
    # m = (0.9*0.1*3 - 0.1)/(1-0.81), v = (0.95*0.05*9 + 0.05)/(1-0.9025)
    after = stepped(Settings(), [[[3.0, -5.0]]], [[1.0, 1.0]])[0]
    np.testing.assert_allclose(after, [0.9, 1.1], rtol=1e-6)
    after = stepped(Settings(), [[[3.0]], [[-1.0]]], [[1.0]])[0]
    m, v = (0.9 * 0.1 * 3 - 0.1) / 0.19, (0.95 * 0.05 * 9 + 0.05) / 0.0975
    np.testing.assert_allclose(after, [0.9 - 0.1 * m / math.sqrt(v)], rtol=1e-5)


def test_the_fused_adam_is_keras_adam():
    random = np.random.default_rng(0)
    values, gradients = random.normal(size=(3, 5)), random.normal(size=(20, 1, 3, 5))
    settings = Settings(schedule="cosine", warmup_steps=5, steps=20, learning_rate=0.03)
    ours = stepped(settings, gradients, [values])[0]
    variable = keras.Variable(values.astype("float32"))
    peer = keras.optimizers.Adam(optimizers.Schedule("cosine", 0.03, 5, 20), beta_1=0.9, beta_2=0.95, epsilon=1e-8)
    for gradient in gradients:
        peer.apply([tf.constant(gradient[0], tf.float32)], [variable])
    np.testing.assert_allclose(ours, np.asarray(variable), rtol=1e-5, atol=1e-6)


def test_sgd_with_momentum_by_hand():
    after = stepped(Settings("sgd"), [[[2.0]], [[2.0]]], [[1.0]])[0]
    np.testing.assert_allclose(after, [1 - 0.1 * 2 - 0.1 * (0.9 * 2 + 2)], rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "sgd", "adafactor", "muon"])
def test_weight_decay_moves_matrices_and_leaves_vectors(name):
    zeros = [np.zeros((2, 3)), np.zeros(3)]
    matrix, vector = stepped(Settings(name, weight_decay=0.5), [zeros], [np.full((2, 3), 2.0), np.full(3, 2.0)])
    np.testing.assert_allclose(matrix, np.full((2, 3), 2 * (1 - 0.1 * 0.5)), rtol=1e-5)
    np.testing.assert_array_equal(vector, np.full(3, 2.0))


def test_clipping_is_by_the_norm_of_all_gradients_together():
    first, second = stepped(Settings("sgd", clip_norm=1.0), [[[3.0], [4.0]]], [[0.0], [0.0]])
    np.testing.assert_allclose([first[0], second[0]], [-0.1 * 3 / 5, -0.1 * 4 / 5], rtol=1e-5)
    small = stepped(Settings("sgd", clip_norm=1.0), [[[0.3]]], [[0.0]])[0]
    np.testing.assert_allclose(small, [-0.03], rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_rule_finds_the_bottom_of_a_bowl(name):
    target = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    weight, bias = keras.Variable(np.ones((4, 6), "float32"), name="w"), keras.Variable(np.ones(6, "float32"), name="b")
    optimizer = optimizers.create(Settings(name, learning_rate=0.3, schedule="cosine", steps=200), [weight, bias])

    @tf.function
    def step():
        optimizer.apply([2 * (weight - target), bias + 0.5], [weight, bias])

    for _ in range(200):
        step()
    assert np.abs(np.asarray(weight) - target).mean() < np.abs(1 - target).mean() / 10
    assert np.abs(np.asarray(bias) + 0.5).max() < 0.1


def test_variables_of_the_state_have_lasting_names():
    variables = [keras.Variable(np.zeros((2, 3), "float32"), name="w")]
    paths = [[v.path for v in optimizers.create(Settings(), variables).variables] for _ in range(2)]
    assert paths[0] == paths[1]
    assert all(path.startswith("adamw/") for path in paths[0])


@pytest.mark.parametrize("clip_norm", [0.0, 0.7, 50.0])
def test_the_one_kernel_adam_is_that_of_keras(clip_norm):
    random = np.random.default_rng(3)
    values = [random.normal(size=shape).astype("float32") for shape in ((5, 3), (7, 2))]
    gradients = [[random.normal(size=v.shape) for v in values] for _ in range(3)]
    ours = stepped(Settings(weight_decay=0.3, clip_norm=clip_norm), gradients, values)

    variables = [keras.Variable(v) for v in values]
    reference = keras.optimizers.AdamW(
        0.1, weight_decay=0.3, beta_1=0.9, beta_2=0.95, epsilon=1e-8, global_clipnorm=clip_norm or None
    )
    for gradient in gradients:
        reference.apply([tf.constant(g, tf.float32) for g in gradient], variables)
    for mine, other in zip(ours, variables, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5)
