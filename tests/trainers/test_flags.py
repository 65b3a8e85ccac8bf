"""From flags to a resolved run; what is not a run at all."""

import dataclasses
import json
import sys

import numpy as np
import pytest
from absl import flags

from tests import programs
from trainers import flags as trainer_flags
from trainers import program, run
from trainers.engine import length
from trainers.engine.optimizers import Schedule
from zoo.config import Refusal
from zoo.registry import MODELS


def resolved(*arguments):
    with programs.parsed("run", *arguments):
        return trainer_flags.train_config()


def test_the_recipe_of_the_family_and_preset_is_the_default():
    config, model_config = resolved("--model=gpt")
    recipe = MODELS.config("gpt").recipe_for("default")
    assert {key: getattr(config, key) for key in recipe} == recipe
    assert (config.preset, config.task) == ("default", "language_modeling")
    assert model_config == MODELS.config("gpt").preset("default")
    assert config.eval_every == config.checkpoint_every == recipe["steps"] // 6


def test_a_flag_beats_the_recipe_of_the_preset_which_beats_that_of_the_family():
    assert resolved("--model=gpt", "--preset=tiny")[0].seq_length == 16
    assert resolved("--model=gpt", "--preset=tiny", "--seq_length=9")[0].seq_length == 9
    assert resolved("--model=gpt", "--learning_rate=0.5", "--steps=12")[0].learning_rate == 0.5


def test_trained_weights_take_small_steps_unless_a_rate_is_given(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    tiny = MODELS.config("bert").preset("tiny").to_dict()
    (tmp_path / "config.json").write_text(
        json.dumps({"format_version": 1, "model": "bert", "task": "masked_lm", "model_config": tiny})
    )
    arguments = ("--model=bert", "--task=tagging", "--seq_length=16")
    scratch, trained = resolved(*arguments)[0], resolved(*arguments, f"--init_from={tmp_path}")[0]
    assert (scratch.optimizer, scratch.learning_rate) == ("muon", 3e-3)
    assert (trained.optimizer, trained.learning_rate) == ("adamw", 1e-4)
    assert resolved(*arguments, f"--init_from={tmp_path}", "--learning_rate=1e-3")[0].learning_rate == 1e-3


def test_a_task_may_have_settings_for_training_from_scratch(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    tiny = MODELS.config("bert").preset("tiny").to_dict()
    (tmp_path / "config.json").write_text(
        json.dumps({"format_version": 1, "task": "masked_lm", "model": "bert", "model_config": tiny})
    )
    arguments = ("--model=bert", "--task=question_answering", "--seq_length=16", "--set=max_question=4", "--set=stride=2")

    def matches(*further):
        with programs.parsed("run", *arguments, *further):
            return trainer_flags.task_config(trainer_flags.train_config()[0]).match

    assert matches() and not matches("--set=match=false")
    assert not matches(f"--init_from={tmp_path}") and matches(f"--init_from={tmp_path}", "--set=match=true")


def test_what_a_recipe_sets_is_for_the_first_task_of_its_family():
    config, _ = resolved("--model=transformer", "--preset=multi30k")
    assert trainer_flags.task_config(config).bleu_tokenize == "none"
    assert resolved("--model=transformer", "--preset=multi30k", "--task=summarization")[0].set == ()
    assert resolved("--model=word2vec")[0].set and resolved("--model=word2vec", "--task=tagging")[0].set == ()


def test_what_a_recipe_sets_for_its_tokenizer_is_not_for_another():
    assert resolved("--model=word2vec", "--tokenizer=char")[0].set == ("min_count=5",)
    assert resolved("--model=word2vec", "--tokenizer=char", "--set=lowercase=true")[0].set == ("min_count=5", "lowercase=true")


def test_a_family_may_have_a_recipe_for_a_task_that_is_not_its_first():
    config, _ = resolved("--model=word2vec", "--task=classification", "--set=head_dropout=0.1")
    assert (config.optimizer, config.tokenizer, config.vocab_size) == ("adamw", "wordpiece", 16_000)
    assert config.dataset == "python_docs/classification" and trainer_flags.task_config(config).head_dropout == 0.1


def test_set_reaches_the_models_config():
    config, model_config = resolved("--model=gpt", "--set=num_layers=3", "--set=dropout=0.1")
    assert (model_config.num_layers, model_config.dropout) == (3, 0.1)
    assert config.set == ("num_layers=3", "dropout=0.1")


def test_a_budget_of_tokens_stands_for_a_number_of_rows():
    config, _ = resolved("--model=transformer", "--set=batch_tokens=1000", "--seq_length=48")
    assert config.batch_size == 20 and trainer_flags.task_config(config).batch_tokens == 1000
    with pytest.raises(Refusal, match="give one of the two"):
        resolved("--model=transformer", "--set=batch_tokens=1000", "--batch_size=8")


def test_epochs_wait_for_the_data():
    config, _ = resolved("--model=gpt", "--epochs=2.5", "--eval_every=7")
    assert (config.steps, config.epochs, config.eval_every, config.checkpoint_every) == (None, 2.5, 7, None)
    known = length.settled(config, 0, steps_per_epoch=101)
    assert (known.steps, known.eval_every, known.checkpoint_every) == (253, 7, 42)
    assert length.settled(config, 5, steps_per_epoch=100).checkpoint_every == 12  # as --steps=250 has it
    assert length.settled(dataclasses.replace(config, epochs=3.0), 0, 127).steps == 381
    with pytest.raises(Refusal, match="average=50 is more than the"):
        length.settled(config, 50, steps_per_epoch=10)


def test_noam_is_the_inverse_square_root_with_its_own_peak():
    asked = ("--model=transformer", "--schedule=noam", "--warmup_steps=400", "--set=hidden_dim=64")
    config, _ = resolved(*asked)
    assert config.schedule == "inverse_sqrt"
    schedule = Schedule.of(config)
    for step in (1, 7, 400, 401, 10_000):
        expected = 64**-0.5 * min(step**-0.5, step * 400**-1.5)  # Vaswani et al. 2017, eq. 3
        np.testing.assert_allclose(float(schedule(step - 1)), expected, rtol=1e-5)
    assert resolved(*asked, "--learning_rate=2")[0].learning_rate == 2 * config.learning_rate
    with pytest.raises(Refusal, match="warmup_steps of at least 1"):
        resolved("--model=transformer", "--schedule=noam", "--warmup_steps=0")


def test_files_of_the_user_are_the_dataset(tmp_path):
    (tmp_path / "a.txt").write_text("a text")
    config, _ = resolved("--model=gpt", f"--data_path={tmp_path / 'a.txt'}")
    assert config.dataset == "local_text"


def test_the_recipes_vocabulary_goes_with_the_recipes_tokenizer():
    assert resolved("--model=gpt")[0].vocab_size == 4_096
    assert resolved("--model=gpt", "--tokenizer=bpe")[0].vocab_size == 4_096
    assert resolved("--model=gpt", "--tokenizer=byte")[0].vocab_size is None
    assert resolved("--model=gpt", "--tokenizer=word", "--vocab_size=99")[0].vocab_size == 99


def test_learned_positions_grow_with_the_sequences():
    assert resolved("--model=gpt", "--seq_length=300")[1].max_length == 300
    assert resolved("--model=gpt", "--seq_length=100")[1].max_length == 128
    with pytest.raises(ValueError, match="--seq_length=300 does not fit max_length=200; set them alike"):
        resolved("--model=gpt", "--seq_length=300", "--set=max_length=200")


def test_the_steps_of_a_trace():
    with programs.parsed("run", "--model=gpt", "--profile=10:20"):
        assert trainer_flags.profiled_steps() == (10, 20)
    for wrong in ("10", "0:3", "5:4", "a:b", ":", "1:2:3"):
        with pytest.raises(ValueError, match="--profile takes two steps such as 10:20, got"):
            resolved("--model=gpt", f"--profile={wrong}")


def test_the_config_is_json():
    config, _ = resolved("--model=lstm", "--set=num_layers=1")
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()


def test_every_flag_of_training_stands_in_one_group_of_the_help():
    with programs.parsed("run"):
        own = sorted(flag.name for flag in flags.FLAGS.get_key_flags_for_module("trainers.flags"))
        assert sorted(name for names in trainer_flags.GROUPS.values() for name in names) == own
        told = program.help_of(run.main, trainer_flags.GROUPS)
    assert told.startswith("Trains a model") and max(map(len, told.splitlines()[3:])) <= 100
    assert [told.index(f"\n{title}:\n") for title in trainer_flags.GROUPS] == sorted(
        told.index(f"\n{title}:\n") for title in trainer_flags.GROUPS
    )
    assert "--list: " in told and "--[no]export: Write the SavedModel at the end. [true]" in told
    words = " ".join(told.split())
    assert "TF_CONFIG. [1]" in words and "It may be given several times." in words


def test_dry_run_prints_what_would_run_and_writes_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    answer = programs.call(capfd, "run", "--model=gpt", "--preset=tiny", "--dry_run")
    described = json.loads(answer.out)
    assert (answer.status, described["model"], described["seq_length"]) == (0, "gpt", 16)
    assert described["num_params"] == described["plan"]["num_params"]
    assert described["num_params"] == MODELS.config("gpt").preset("tiny", vocab_size=described["vocab_size"]).num_params()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("given", "kept"), [
    (["--model=gpt"], "--model=gpt"),
    (["--model", "gpt", "--model_dir=a"], "--model gpt"),
    (["--model_dir", "a", "--model=gpt", "-model_dir=b", "--resume=never"], "--model=gpt"),
    (["--model=gpt", "--data_path=my notes.txt"], "--model=gpt '--data_path=my notes.txt'"),
])  # fmt: skip
def test_the_command_to_go_on(given, kept, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py", *given])
    assert program.command_to_go_on("runs/x") == f"python -m trainers.run {kept} --model_dir=runs/x"


MISTAKES = {
    "no model": ([], f"--model is missing; known: {', '.join(MODELS.names())}."),
    "model": (["--model=gtp"], "No model is called 'gtp'; did you mean 'gpt'?"),
    "preset": (["--model=gpt", "--preset=smal"], "GPTConfig has no preset 'smal'"),
    "key": (["--model=gpt", "--set=num_layer=3"], "GPTConfig has no field 'num_layer'; did you mean 'num_layers'?"),
    "value": (["--model=gpt", "--set=num_layers=many"], "--set=num_layers=many: num_layers takes int."),
    "no equals sign": (["--model=gpt", "--set=num_layers"], "--set takes key=value, got 'num_layers'."),
    "contradiction": (["--model=gpt", "--set=hidden_dim=10"], "GPTConfig: hidden_dim 10 is not a multiple of num_heads 4"),
    "task": (["--model=gpt", "--task=language_modelling"], "No task is called 'language_modelling'; did you mean"),
    "dataset": (
        ["--model=gpt", "--dataset=python_doc"],
        "No dataset is called 'python_doc'; did you mean 'python_docs'?",
    ),
    "tokenizer": (["--model=gpt", "--tokenizer=bpee"], "No tokenizer is called 'bpee'; did you mean 'bpe'?"),
    "file": (["--model=gpt", "--data_path=nowhere.txt"], "There is no file 'nowhere.txt'."),
    "files of a dataset": (
        ["--model=gpt", "--dataset=python_docs", "--data_path=README.md"],
        "data_path is for the dataset",
    ),
    "local_text": (["--model=gpt", "--dataset=local_text"], "local_text reads your own files: say which"),
    "flag": (["--model=gpt", "--step=3"], "Unknown command line flag 'step'. Did you mean: steps ?"),
    "choice": (["--model=gpt", "--optimizer=adan"], "--optimizer=adan"),
    "negative steps": (["--model=gpt", "--steps=-1"], "--steps=-1"),
    "steps and epochs": (["--model=gpt", "--steps=5", "--epochs=2"], "--steps and --epochs both say how long to train"),
    "epochs of counts": (["--model=ngram", "--epochs=2"], "ngram is fitted in one pass over its text; leave out --epochs."),
    "endless epochs": (["--model=gpt", "--epochs=inf"], "--epochs must be a finite number, got inf."),
    "no batch": (["--model=gpt", "--batch_size=0"], "--batch_size=0"),
    "negative rate": (["--model=gpt", "--learning_rate=-0.1"], "--learning_rate=-0.1"),
    "no number": (["--model=gpt", "--learning_rate=fast"], "flag --learning_rate=fast: it takes a number"),
    "not finite": (["--model=gpt", "--learning_rate=nan"], "--learning_rate must be a finite number, got nan."),
    "endless": (["--model=gpt", "--clip_norm=inf"], "--clip_norm must be a finite number, got inf."),
    "negative seed": (["--model=gpt", "--seed=-1"], "--seed=-1"),
    "an empty value": (["--model=gpt", "--preset="], "--preset is empty; give a value, or leave it out."),
    "an empty path": (["--model=gpt", "--data_path="], "--data_path is empty; give a value, or leave it out."),
    "a number with an exponent": (["--model=gpt", "--steps=1e3"], "flag --steps=1e3: it takes an integer"),
    "no flag": (["--model=gpt", "gpt"], "'gpt' is not a flag; write --name=value."),
}


@pytest.mark.parametrize("mistake", sorted(MISTAKES))
def test_a_mistake_in_the_call_is_one_sentence_and_status_2(mistake, tmp_path, monkeypatch, capfd):
    arguments, sentence = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    answer = programs.call(capfd, "run", *arguments)
    assert answer.status == 2
    assert answer.err.startswith("error: ") and sentence in answer.err
    assert len(answer.err.splitlines()) == 1 and answer.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["prompt_file", "export_dir", "model_dir", "draft"])
def test_no_program_takes_an_empty_value_for_none(name, capfd):
    assert programs.refusal(capfd, "generate", f"--{name}=") == f"--{name} is empty; give a value, or leave it out."


def test_too_little_memory_is_a_sentence():
    class ResourceExhaustedError(Exception):
        """TensorFlow's, which is told by its name."""

    for error in (MemoryError("Unable to allocate 9 TiB"), ResourceExhaustedError("Unable to allocate 9 TiB [Op:Mul]")):
        assert program.is_refusal(error)
        assert program.sentence_of(error) == (
            "Memory does not suffice (Unable to allocate 9 TiB); take a smaller model, shorter texts or fewer rows at a time."
        )


def test_the_systems_errors_say_which_file_and_what_to_do():
    assert program.sentence_of(PermissionError(13, "Permission denied", "/a/b")) == (
        "/a/b: Permission denied; choose a place that you may use."
    )
    assert program.sentence_of(OSError(28, "No space left on device", "x")) == (
        "x: No space left on device; make room, or choose another place."
    )
    assert program.sentence_of(ValueError("one\n  two")) == "one two"


def test_a_librarys_own_error_is_a_bug_and_keeps_its_traceback(monkeypatch, capfd):
    import trainers.run

    monkeypatch.setattr(trainers.run, "main", lambda: int("x"))
    with pytest.raises(ValueError, match="invalid literal"):
        programs.call(capfd, "run", "--model=gpt")


def test_a_refusal_inside_a_layers_call_is_told_without_keras_words(monkeypatch, capfd):
    import keras

    import trainers.run

    class Picky(keras.layers.Layer):
        def call(self, x):
            raise Refusal("Seven is too many; give six.")

    monkeypatch.setattr(trainers.run, "main", lambda: Picky()(keras.ops.ones((1, 2))))
    assert programs.refusal(capfd, "run", "--model=gpt") == "Seven is too many; give six."


def test_what_tensorflow_writes_to_stderr_is_held_back_unless_it_fails(capfd):
    import os

    with program.quiet():
        os.write(2, b"chatter\n")
    assert capfd.readouterr().err == ""
    with pytest.raises(RuntimeError), program.quiet():
        os.write(2, b"the reason\n")
        raise RuntimeError
    assert capfd.readouterr().err == "the reason\n"


def test_latest_is_the_run_that_it_leads_to_when_the_command_is_given(tmp_path, monkeypatch):
    """The link moves to the new run as soon as that has a directory."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "one").mkdir()
    (tmp_path / "runs" / "latest").symlink_to("one")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trainers.engine.initial.width_of_rows", lambda path, model: 16)
    arguments = ["--model=lstm", "--preset=tiny", "--init_from=runs/latest"]
    monkeypatch.setattr("sys.argv", ["trainers/run.py", *arguments])
    with programs.parsed("run", *arguments):
        config, _ = trainer_flags.train_config()
        assert config.init_from == str(tmp_path / "runs" / "one")
        assert f"--init_from={tmp_path / 'runs' / 'one'}" in program.command_to_go_on("runs/two")
