"""What a run trains of a model, and how fast: freezing, rates by depth, adapters; and what is refused.

Shape letters: B batch, T positions.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from tests import programs, tiny_models
from trainers.cost import plan
from trainers.engine import optimizers, tuning
from trainers.engine.tuning import TuningConfig
from trainers.flags import task_config, train_config, tuning_config
from zoo.registry import MODELS
from zoo.tasks.classification import Classification, ClassificationConfig

LABELS = ("no", "perhaps", "yes")
NAMES = [name for name in MODELS.names() if "layers_by_depth" in vars(MODELS.get(name)) and not MODELS.config(name).fitted]
WITH_ADAPTERS = ["bert", "gpt"]


def classifier(name):
    """A tiny model with the head of a classifier, and a batch for it."""
    task = Classification(ClassificationConfig(labels=LABELS, head_dropout=0.0))
    model = task.assemble(tiny_models.create(name)).build_from_ids()
    random = np.random.default_rng(5)
    batch = {
        "token_ids": tiny_models.token_ids(model, 5, 13), "segment_ids": np.zeros((5, 13), np.int32),
        "padding_mask": np.arange(13) < random.integers(2, 14, 5)[:, None],
        "labels": random.integers(0, 3, 5).astype(np.int32), "loss_weights": np.ones(5, np.float32),
    }  # fmt: skip
    return task, model, batch


def moved(model, task, batch, steps=3):
    """Paths of the variables that a few steps change."""
    before = {v.path: v.numpy() for v in model.variables}
    trainer = tiny_models.trainer(model, steps, task=task)
    for _ in range(steps):
        trainer.step(batch)
    return {v.path for v in model.variables if not np.array_equal(before[v.path], v)}


def paths(layers):
    return {variable.path for layer in layers for variable in layer.variables if "seed" not in variable.path}


@pytest.mark.parametrize("name", NAMES)
def test_stages_hold_every_weight_of_a_model(name):
    model = tiny_models.create(name)
    assert {v.path for v in model.weights} == paths(layer for stage in model.layers_by_depth() for layer in stage)
    assert len(model.layers_by_depth()) == model.config.cost(16).num_blocks + 2


@pytest.mark.parametrize(("name", "fields"), [
    ("bert", dict(lora_rank=2)), ("gpt", dict(lora_rank=3)), ("bert", dict(freeze="1")), ("lstm", dict(freeze="backbone")),
])  # fmt: skip
def test_the_plan_counts_moments_and_gradients_of_what_is_trained(name, fields):
    settings, (_, model, _) = TuningConfig(**fields), classifier(name)
    classes = plan.output_of(model.config, 16, "classification", facts=SimpleNamespace(labels=LABELS))
    tuning.begin(model, settings)
    trained = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert plan.trained_params(model.config, classes, settings) == pytest.approx(trained, rel=0.05)
    memory = plan.training_memory(model.config, 3, 16, output=classes, tuning=settings)
    assert memory.optimizer == 2 * memory.gradients < memory.weights
    whole = plan.flops_per_token(model.config, 16, classes)
    assert 1 / 3 < plan.flops_per_token(model.config, 16, classes, settings) / whole < 1


@pytest.mark.parametrize(("name", "freeze", "frozen_stages"), [
    ("gpt", "embeddings", 1), ("gpt", "1", 2), ("gpt", "backbone", 4), ("bert", "2", 3), ("lstm", "1", 2), ("lstm", "0", 1),
])  # fmt: skip
def test_what_is_frozen_stays_bit_for_bit_and_the_rest_moves(name, freeze, frozen_stages):
    task, model, batch = classifier(name)
    tuning.begin(model, TuningConfig(freeze=freeze))
    stages = model.backbone.layers_by_depth()
    frozen = paths(layer for stage in stages[:frozen_stages] for layer in stage)
    assert moved(model, task, batch) == {v.path for v in model.trainable_variables} - paths(
        [model.backbone.head] if name == "lstm" else []  # logits over the vocabulary, which no classifier asks for
    )
    assert not frozen & {v.path for v in model.trainable_variables}
    assert {v.path for v in model.weights} == frozen | {v.path for v in model.trainable_variables}


def test_rates_fall_from_the_head_to_the_embeddings():
    _, model, _ = classifier("gpt")
    config = TuningConfig(layer_decay=0.5, freeze="embeddings")
    tuning.begin(model, config)
    by_path = dict(zip([v.path for v in model.trainable_variables], tuning.rates(model, config), strict=True))
    expected = {"gpt/block_0": 0.25, "gpt/block_1": 0.5, "gpt/final_norm": 1.0, "classifier": 1.0}
    for path, rate in by_path.items():
        assert rate == next(value for part, value in expected.items() if path.startswith(part)), path
    assert len(by_path) == len(model.weights) - 2
    assert tuning.rates(model, TuningConfig()) is None


@pytest.mark.parametrize("name", ["adamw", "sgd", "adafactor", "muon"])
def test_every_rule_obeys_rates(name):
    """A step with rate r is that of an optimizer whose learning rate is r times as high, weight decay and l1 included."""
    settings = dict(optimizer=name, schedule="constant", warmup_steps=0, steps=9, weight_decay=0.3, clip_norm=0.0)
    value, gradients = np.linspace(-1, 1, 12, dtype="float32").reshape(3, 4), np.ones((3, 4), "float32")

    def stepped(learning_rate, rates):
        variables = [tf.keras.Variable(value, name=letter) for letter in "ab"]
        config = tiny_models._Settings({**settings, "learning_rate": learning_rate})
        optimizer = optimizers.create(config, variables, rates, l1=0.4)
        tf.function(lambda: optimizer.apply([tf.constant(gradients)] * 2, variables))()
        return [v.numpy() for v in variables]

    slow, fast = stepped(0.1, [0.25, 1.0])
    np.testing.assert_allclose(slow, stepped(0.025, None)[0], rtol=1e-6)
    np.testing.assert_allclose(fast, stepped(0.1, None)[1], rtol=1e-6)
    assert np.abs(fast - slow).max() > 1e-3


def test_l1_takes_matrices_to_zero_and_no_further():
    settings = dict(
        optimizer="sgd", learning_rate=0.1, schedule="constant", warmup_steps=0, steps=9, weight_decay=0.0, clip_norm=0
    )
    variables = [tf.keras.Variable(np.float32([[0.5, -0.03, 0.0, -2.0]])), tf.keras.Variable(np.float32([0.5]))]
    optimizer = optimizers.create(tiny_models._Settings(settings), variables, l1=0.4)
    optimizer.apply([tf.zeros((1, 4)), tf.zeros(1)], variables)
    np.testing.assert_allclose(variables[0], [[0.46, 0.0, 0.0, -1.96]], rtol=1e-6)
    np.testing.assert_array_equal(variables[1], [0.5])


@pytest.mark.parametrize("name", WITH_ADAPTERS)
def test_adapters_alone_are_trained_and_leave_no_trace(name):
    task, model, batch = classifier(name)
    names, plain = [v.path for v in model.variables], np.asarray(task.forward(model, batch)[0])
    tuning.begin(model, TuningConfig(lora_rank=2, lora_alpha=3.0))
    adapters = [v.path for v in model.variables if "adapter" in v.path]
    assert len(adapters) == 2 * 2 * 4  # two for each of two blocks' four matrices
    assert {v.path for v in model.trainable_variables} == {*adapters, *paths([model.head])}
    np.testing.assert_array_equal(task.forward(model, batch)[0], plain)  # B is zero
    graph = tf.function(lambda batch: task.forward(model, batch)[0])
    graph(batch)
    kernel = model.backbone.blocks[1].mlp.expand
    before = kernel.kernel.numpy()
    assert moved(model, task, batch, steps=4) == {v.path for v in model.trainable_variables}
    with_adapters = np.asarray(graph(batch))
    assert np.abs(with_adapters - plain).max() > 1e-3
    product = 1.5 * np.asarray(kernel.adapter_a) @ np.asarray(kernel.adapter_b)
    tuning.finish(model)
    np.testing.assert_allclose(kernel.kernel, before + product, rtol=1e-6, atol=1e-7)
    assert [v.path for v in model.variables] == names
    np.testing.assert_allclose(task.forward(model, batch)[0], with_adapters, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(graph(batch), with_adapters, rtol=1e-5, atol=1e-5)  # traced before, and not twice the adapter


@pytest.mark.parametrize(("name", "fields", "sentence"), [
    ("gpt", dict(freeze="3"), "freeze=3 is more than the 2 blocks of this gpt"),
    ("gpt", dict(freeze="backbone"), "freeze=backbone leaves nothing to train: this gpt has no head of its own"),
    ("lstm", dict(lora_rank=2), "lstm has no matrices that lora_rank could stand beside; it is for bert and gpt"),
    ("ngram", dict(l1=0.1), "ngram is fitted in closed form"),
])  # fmt: skip
def test_what_a_family_cannot_do_is_refused(name, fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        tuning.begin(tiny_models.create(name), TuningConfig(**fields))


def test_a_bag_of_words_has_no_blocks():
    model_class = MODELS.get("bag_of_words")
    model = model_class(model_class.config_class.preset("tiny")).build_from_ids()
    tuning.begin(model, TuningConfig(l1=0.1))
    with pytest.raises(
        ValueError, match="bag_of_words has no blocks; freeze, layer_decay and lora_rank are for models that have some"
    ):
        tuning.begin(model, TuningConfig(layer_decay=0.5))


@pytest.mark.parametrize(("fields", "sentence"), [
    (dict(freeze="head"), "freeze is none, embeddings, a number of blocks or backbone, got 'head'"),
    (dict(layer_decay=1.5), "layer_decay must be above 0 and at most 1, got 1.5"),
    (dict(lora_rank=-1), "lora_rank must not be negative"), (dict(lora_alpha=0.0), "lora_alpha must be positive"),
    (dict(l1=-1.0), "l1 must not be negative"), (dict(lora_rank=2, freeze="1"), "leave out freeze"),
])  # fmt: skip
def test_senseless_settings_are_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        TuningConfig(**fields)


def test_set_reaches_all_three_configs():
    arguments = ("--set=lora_rank=4", "--set=head_dropout=0.3", "--set=num_layers=3")
    with programs.parsed("run", "--model=gpt", "--task=classification", *arguments):
        config, model_config = train_config()
        assert (tuning_config(config).lora_rank, task_config(config).head_dropout, model_config.num_layers) == (4, 0.3, 3)
    with programs.parsed("run", "--model=gpt", "--set=lora_rnk=4"), pytest.raises(ValueError) as error:
        train_config()
    assert str(error.value) == "GPTConfig has no field 'lora_rnk'; did you mean 'lora_rank'?"


def test_a_run_with_adapters_goes_on_where_it_stopped_and_its_bundle_has_none(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("A cat sat on a mat, and then it sat on another mat. " * 20, encoding="utf8")
    settings = (
        "--model=gpt", "--preset=tiny", "--tokenizer=byte", "--batch_size=3", "--data_path=text.txt", "--xla=off", "--noexport",
        "--set=lora_rank=2", "--set=layer_decay=0.5", "--set=num_layers=1", "--schedule=constant", "--set=dropout=0.1",
    )  # fmt: skip
    for steps, run in ((3, "parts"), (6, "parts"), (6, "whole")):
        answer = programs.call(capfd, "run", *settings, f"--steps={steps}", "--eval_every=3", f"--model_dir={run}")
        assert answer.status == 0, answer.err
        assert "of them trained" in answer.out
    lines = [
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()] for run in ("parts", "whole")
    ]
    assert lines[0][-1]["loss"] == lines[1][-1]["loss"]

    import zoo

    parts, whole = (zoo.load(run).model for run in ("parts", "whole"))
    assert not any("adapter" in v.path for v in whole.variables)
    for mine, theirs in zip(parts.weights, whole.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
