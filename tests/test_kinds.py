"""Kinds are said once: a batch goes into every model whole, a row is one row everywhere, and what is new needs no other edit.

Shape letters: B batch, T positions, V vocabulary, D hidden, C classes.
"""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tests import exports, programs, tiny_models, tiny_tasks
from trainers.cost import plan
from zoo import api
from zoo.config import Config, Cost, Output, Refusal
from zoo.data import examples
from zoo.data.batch import INPUTS, NAMES
from zoo.layers.heads import SequenceClassifier
from zoo.models.base import Encoder
from zoo.registry import MODELS, TASKS, tasks_of
from zoo.serving import c_api
from zoo.signatures.request import signature
from zoo.signatures.rows import rows_in_graph
from zoo.tasks.classification import Classification, ClassificationConfig, ClassificationFacts
from zoo.tokenizers.base import create as create_tokenizer

ROOT = Path(__file__).parent.parent


# A batch goes in whole


def batches_of_pairs():
    """(case, task, model, batch) of every model with every task that trains it."""
    for case in tiny_tasks.cases():
        if case.count(":") == 1:
            task, model, batches, _ = tiny_tasks.create(case)
            yield case, task, model, batches.batch(0)
    for name in MODELS.names():
        config = MODELS.config(name)
        if TASKS.config(config.default_task).trains and TASKS.get(config.default_task).reads == "text":
            model = tiny_models.assembled(name)
            task = TASKS.get(config.default_task)()
            yield f"{name}:{config.default_task}", task, model, tiny_models.batches(model).batch(0)


def test_a_model_called_with_a_batch_gives_what_its_task_computes():
    seen = set()
    for case, task, model, batch in batches_of_pairs():
        assert batch.keys() <= NAMES.keys(), f"{case}: the table of zoo/data/batch.py lacks a name"
        for name, value in batch.items():
            dtype, axes = NAMES[name]
            assert value.dtype == dtype and value.ndim in axes, f"{case}: {name} is {value.dtype} of {value.ndim} axes"
        batch = {name: ops.convert_to_tensor(value) for name, value in batch.items()}
        ours, theirs = task.loss(batch, model(batch)), task.loss(batch, task.forward(model, batch)[0])
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5, err_msg=case)
        np.testing.assert_allclose(ours[1], theirs[1], rtol=0, err_msg=case)
        seen.add(case)
    assert {case.split(":")[0] for case in seen} >= {name for name in MODELS.names() if not MODELS.config(name).fitted}


def test_a_model_refuses_an_input_that_it_would_ignore():
    model, ids = tiny_models.create("lstm"), np.ones((2, 3), np.int32)
    with pytest.raises(Refusal, match="lstm does not take prefix_lengths; it takes token_ids"):
        model({"token_ids": ids, "prefix_lengths": np.array([1, 2], np.int32)})
    with pytest.raises(Refusal, match="gpt does not take source_ids"):
        tiny_models.create("gpt").hidden({"token_ids": ids, "source_ids": ids})
    assert set(INPUTS) <= NAMES.keys()


@pytest.mark.parametrize("name", MODELS.names())
def test_a_model_refuses_a_name_that_no_batch_has_and_leaves_alone_what_is_for_the_loss(name):
    model = tiny_models.create(name)
    batch = tiny_models.inputs(model)
    batch = batch if isinstance(batch, dict) else {"token_ids": batch}
    with pytest.raises(Refusal, match=f"{name} does not take padding_masks; it takes token_ids"):
        model({**batch, "padding_masks": np.ones((3, 7), bool)})  # a slip of the pen: all would be read as text
    others = {"labels": np.ones((3, 7), np.int32), "loss_weights": np.ones((3, 7), np.float32)}
    np.testing.assert_array_equal(model({**batch, **others}), model(batch))


@pytest.mark.parametrize("name", MODELS.names())
def test_a_model_says_what_a_batch_lacks(name):
    model = tiny_models.create(name)
    with pytest.raises(Refusal, match=f"{name} needs token_ids; the batch has padding_mask."):
        model({"padding_mask": np.ones((2, 3), bool)})
    if model.kind == "encoder_decoder":
        ids = np.ones((2, 3), np.int32)
        for batch in (ids, {"token_ids": ids}):
            with pytest.raises(Refusal, match=f"{name} reads a source: give source_ids too"):
                model(batch)
        state = model.init_state(2, 3, model.encode(ids))
        assert model({"token_ids": ids}, state=state)[0].shape == (2, 3, model.config.vocab_size)


@pytest.mark.parametrize("name", TASKS.names())
def test_inspect_gives_the_facts(name):
    examples = tiny_tasks.EXAMPLES.get(name, [{"text": "a"}])
    task = TASKS.get(name)()
    facts = task.inspect(examples)
    assert isinstance(facts, task.facts_class) and facts is task.facts


def test_a_classifier_on_a_language_model_pools_no_padding():
    task = Classification(facts=ClassificationFacts(labels=("a", "b")))
    model = tiny_models.strengthen(task.assemble(tiny_models.create("gpt")).build_from_ids())
    ids = tiny_models.token_ids(model, 2, 7)
    mask = np.arange(7) < np.array([[7], [4]])
    padded = model({"token_ids": np.where(mask, ids, 9), "padding_mask": mask})
    np.testing.assert_allclose(padded[1], model({"token_ids": ids[1:, :4], "padding_mask": mask[1:, :4]})[0], atol=1e-5)


# One row everywhere


@pytest.mark.parametrize("tokenizer", ["byte", "wordpiece"])
@pytest.mark.parametrize("name", ["bert", "gpt", "bag_of_words"])
def test_the_row_in_training_is_the_row_in_graph_and_the_row_that_embed_reads(name, tokenizer):
    tokenizer = create_tokenizer(tokenizer, exports.TEXTS, 61 if tokenizer == "wordpiece" else None)
    kind, task = MODELS.config(name).kind, Classification()
    frame, text = task.frame(kind, tokenizer), exports.TEXTS[0]
    trained, _ = examples.row([tokenizer.encode(text)], frame, 64)
    served = rows_in_graph([tokenizer.tokenize(tf.constant([text]))], frame, tokenizer.pad_id, 64)
    assert served["token_ids"][0].numpy().tolist() == trained.tolist()
    assert ("segment_ids" in served) == (kind == "encoder")
    assert examples.framed_texts(kind, tokenizer) == frame  # `embed` uses this one


# The plan and the loop


@pytest.mark.parametrize("name", ["gpt", "lstm", "bert", "bag_of_words"])
def test_the_plan_counts_with_what_the_loop_does(name):
    config = MODELS.config(name).preset("tiny")
    compiled, reason = plan.resolve_xla("auto", config.cost(16), config.num_params())
    assert compiled == (name == "gpt") and reason.startswith("auto: ")
    graphs = plan.training_memory(config, 3, 16, output=Output(1, 2, 0)).graphs
    assert (graphs >= plan.GRAPHS["compiled"]) == compiled


def test_nothing_outside_asks_what_kind_of_model_it_has():
    by_class, by_name = r"isinstance\([^)]*(Encoder|LanguageModel|Classifier)", r"hasattr\((?!os\b|value\b)"
    asked = re.compile(rf'{by_class}|{by_name}|getattr\((model|source|backbone), "')
    wrong = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in ("zoo", "trainers")
        for path in (ROOT / folder).rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf8").splitlines(), 1)
        if asked.search(line)
    ]
    assert not wrong, wrong


# What is new needs no other edit


@dataclass(frozen=True)
class ToyConfig(Config):
    """A family that only this file knows."""

    vocab_size: int = 61
    width: int = 10

    kind: ClassVar = "encoder"
    default_task: ClassVar = "toy_task"
    presets: ClassVar = {"tiny": {}, "default": {}}
    recipe: ClassVar = dict(
        dataset="python_docs", tokenizer="byte", seq_length=16, batch_size=4, steps=4, learning_rate=0.1, optimizer="adamw",
    )  # fmt: skip

    def num_params(self):
        return self.vocab_size * self.width

    def cost(self, seq_length):
        return Cost(hidden_dim=self.width, body_params=0, kept=self.width)


class Toy(Encoder):
    """h = tanh(W_e[tokens])."""

    takes = ("token_ids", "padding_mask")

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        self.embeddings = keras.layers.Embedding(config.vocab_size, config.width, name="embeddings")

    def build(self, input_shape=None):
        self.embeddings.build()
        self.built = True

    def hidden(self, batch, training=False):
        return ops.tanh(self.embeddings(self.taken(batch)["token_ids"]))


@dataclass(frozen=True)
class ToyTaskConfig(ClassificationConfig):
    """A task that only this file knows: is a text longer than ten bytes?"""

    kinds: ClassVar = ("encoder", "language_model")
    recipe: ClassVar = dict(dataset="local_text")

    def output(self, model_config, seq_length, facts=None):
        width = model_config.cost(seq_length).hidden_dim
        return Output(1, 2, (width + 1) * (width + 2), (width + 1) * (width + 2))


class ToyTask(Classification):
    """As classification, with labels of its own."""

    def inspect(self, examples):
        return self.learn(labels=("short", "long"))

    def encode(self, found, tokenizer, layout):
        labelled = [{**e, "label": "long" if len(e["text"]) > 10 else "short"} for e in found]
        return super().encode(labelled, tokenizer, layout)

    def head(self, model):
        return SequenceClassifier(2, "mean", 0.0, name="toy")

    def signatures(self, model, tokenizer):
        frame = self.frame_for(model, tokenizer)

        @signature(tf.TensorSpec([None], tf.string))
        def how_long(text):
            batch = rows_in_graph([tokenizer.tokenize(text)], frame, tokenizer.pad_id, self.facts.max_tokens)
            return {"probs": tf.nn.softmax(model(batch))}

        return {"serving_default": how_long}

    def requests(self, model, tokenizer):
        return [("serving_default", {"text": ["", "a", "a much longer text"]})]


@pytest.fixture
def registered(monkeypatch):
    """The toy family and the toy task, registered for one test."""
    for registry in (MODELS, TASKS):
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    MODELS.register("toy", ToyConfig)(Toy)
    TASKS.register("toy_task", ToyTaskConfig)(ToyTask)


def test_a_toy_family_and_a_toy_task_train_and_serve_with_no_other_edit(registered, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("rows.tsv").write_text("x\ta\ny\ta text that is long\nx\tb\ny\tc c c c c c c\n", encoding="utf8")
    assert tasks_of(MODELS.config("toy"))[0] == "toy_task"
    assert {"classification", "tagging", "embedding"} <= set(tasks_of(MODELS.config("toy")))
    assert "toy_task" in tasks_of(MODELS.config("gpt")) and "toy_task" not in tasks_of(MODELS.config("ngram"))
    answer = programs.call(
        capfd, "run", "--model=toy", "--data_path=train=rows.tsv,validation=rows.tsv,test=rows.tsv,columns=label:text",
        "--steps=4", "--batch_size=4", "--seq_length=24", "--tokenizer=byte", "--model_dir=run", "--xla=off", "--noexport",
    )  # fmt: skip
    assert answer.status == 0, answer.err
    loaded = api.load("run")
    probs = loaded.predict(text=["a", "a text that is long"])["probs"]
    assert probs.shape == (2, 2)
    exported = loaded.export(tmp_path / "export")
    served = c_api.SavedModel(exported)
    np.testing.assert_allclose(served.run("serving_default", {"text": ["a", "a text that is long"]})["probs"], probs, rtol=1e-5)
    served.close()


# A Keras user's habits


def test_a_model_can_be_cloned_and_its_weights_saved_and_a_keras_file_is_refused(tmp_path):
    model = tiny_models.create("gpt")
    clone = keras.models.clone_model(model)
    assert clone.config == model.config and [v.path for v in clone.variables] == [v.path for v in model.variables]
    model.save_weights(tmp_path / "a.weights.h5")
    clone.load_weights(tmp_path / "a.weights.h5")
    ids = tiny_models.token_ids(model)
    np.testing.assert_array_equal(clone(ids), model(ids))
    for each in (model, tiny_models.assembled("bert")):
        with pytest.raises(Refusal, match="is saved as a bundle"):
            each.save(tmp_path / "m.keras")
        with pytest.raises(Refusal, match=r"is exported with its tokenizer: zoo.load\(bundle\).export\("):
            each.export(tmp_path / "export")  # Keras asks for a call first, also after one
    assert not (tmp_path / "m.keras").exists() and not (tmp_path / "export").exists()


def test_configs_are_equal_by_name_and_fields():
    """The command line makes the class from a part of the file, Python from all of it."""
    declared = MODELS._walk()["gpt"]
    light = dataclasses.replace(declared.config().preset("tiny"))
    assert light == MODELS.get("gpt").config_class.preset("tiny")
    assert hash(light) == hash(MODELS.get("gpt").config_class.preset("tiny"))
    assert light != light.replace(num_layers=5) and light != MODELS.config("bert").preset("tiny")
