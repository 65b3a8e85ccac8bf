"""Programs on bad input and interrupted work: a sentence, status 2, no traceback, nothing half-written."""

import fcntl
import json
import os
import random
import signal

import numpy as np
import pytest
import tensorflow as tf

from tests import programs, tiny_models
from tests.programs import refusal
from trainers import run as run_program
from trainers import training
from trainers.engine.interruption import Interruption
from trainers.engine.metrics_log import MEASURED, MetricsLog
from zoo.bundle import Bundle
from zoo.data.packing import PackedBatches
from zoo.tokenizers.base import create as create_tokenizer

TRAIN = (
    "--model=gpt",
    "--preset=tiny",
    "--tokenizer=byte",
    "--batch_size=2",
    "--seq_length=8",
    "--noexport",
    "--xla=off",
)
TEXT = "A cat sat on a mat, and then it sat on another mat. " * 8


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An own working directory with a text file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf8")
    return tmp_path


def tree(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


# Text that is none


CORPORA = {
    "empty": (b"", "holds no text"),
    "shorter than a sequence": (b"abc", "give more text or a smaller seq_length"),
    "not UTF-8": (b"a good start \xff\xfe and a bad end " * 9, "offset 13"),
}


@pytest.mark.parametrize("kind", sorted(CORPORA))
@pytest.mark.parametrize("model_dir", [(), ("--model_dir=a/b",)])
def test_a_corpus_that_cannot_be_used_leaves_no_run(kind, model_dir, workplace, capfd):
    data, sentence = CORPORA[kind]
    (workplace / "bad.txt").write_bytes(data)
    before = tree(workplace)
    assert sentence in refusal(capfd, "run", *TRAIN, "--data_path=bad.txt", *model_dir)
    assert tree(workplace) == before


def test_latest_still_points_at_the_last_good_run(workplace, capfd):
    (workplace / "runs" / "gpt" / "good").mkdir(parents=True)
    latest = workplace / "runs" / "gpt" / "latest"
    latest.symlink_to("good")
    (workplace / "bad.txt").write_bytes(b"")
    before = tree(workplace)
    refusal(capfd, "run", *TRAIN, "--data_path=bad.txt")
    assert tree(workplace) == before and os.readlink(latest) == "good"


def test_a_vocabulary_that_the_tokenizer_cannot_have(workplace, capfd):
    before = tree(workplace)
    arguments = [argument for argument in TRAIN if "tokenizer" not in argument]
    assert "vocab_size" in refusal(capfd, "run", *arguments, "--tokenizer=bpe", "--vocab_size=3", "--data_path=text.txt")
    assert tree(workplace) == before


# The directory of a run


def finished(capfd, *arguments):
    """A run that ends well; its sample is not written, as that takes longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.api.Loaded.generate", lambda self, prompt, **options: prompt)
        answer = programs.call(capfd, "run", *TRAIN, "--data_path=text.txt", *arguments)
    assert answer.status == 0, answer.err
    return answer


def test_epochs_are_counted_in_steps(workplace, capfd):
    asked = ("--model_dir=r", "--set=average=2")
    assert "Epochs: 3 steps read the training data" in finished(capfd, "--epochs=0.12", *asked).out
    config = json.loads((workplace / "r" / "config.json").read_text())
    assert (config["epochs"], config["steps"], config["eval_every"], config["checkpoint_every"]) == (0.12, 3, 1, 1)
    assert config["data"]["text"]  # what was known of the run's data is kept
    told = finished(capfd, "--epochs=0.2", *asked).out
    assert "Resuming after step 3." in told and "Epochs: 5 steps read" in told
    sentence = refusal(capfd, "run", *TRAIN, "--data_path=text.txt", "--epochs=0.1", *asked)
    assert "it differs in epochs (0.2 then, 0.1 now)." in sentence
    assert "epochs (0.2 then, None now)" in refusal(capfd, "run", *TRAIN, "--data_path=text.txt", "--steps=9", *asked)


def test_what_preparing_data_draws_changes_no_weight(workplace, capfd, monkeypatch):
    """A first run makes its data, which draws random numbers in TFDS and elsewhere; the next one finds it in the cache."""
    finished(capfd, "--steps=2", "--set=dropout=0.5", "--model_dir=first")
    prepare_for = training.prepare_for

    def drawing(*arguments, **options):
        random.random(), np.random.random(), tf.random.uniform(())
        return prepare_for(*arguments, **options)

    monkeypatch.setattr(training, "prepare_for", drawing)
    finished(capfd, "--steps=2", "--set=dropout=0.5", "--model_dir=second")
    first, second = (workplace / run / "bundle" / "model.weights.h5" for run in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_a_directory_that_holds_something_else(workplace, capfd):
    (workplace / "thesis").mkdir()
    (workplace / "thesis" / "chapter1.tex").write_text("...")
    sentence = refusal(capfd, "run", *TRAIN, "--data_path=text.txt", "--model_dir=thesis")
    assert sentence == "thesis is not empty and holds no run; choose another --model_dir."
    assert refusal(capfd, "run", *TRAIN, "--data_path=text.txt", "--model_dir=text.txt") == (
        "text.txt is a file; --model_dir takes a directory."
    )
    assert tree(workplace / "thesis") == ["chapter1.tex"]


def test_a_directory_in_which_another_process_is_at_work(workplace, capfd, monkeypatch):
    monkeypatch.setattr(run_program, "LOCK_SECONDS", 0.0)
    finished(capfd, "--steps=1", "--model_dir=r")
    before = tree(workplace / "r")
    descriptor = os.open(workplace / "r", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    sentence = refusal(capfd, "run", *TRAIN, "--data_path=text.txt", "--steps=1", "--model_dir=r")
    assert sentence == "Another process is training in r; wait for its end, or choose another --model_dir."
    assert tree(workplace / "r") == before
    os.close(descriptor)
    finished(capfd, "--steps=1", "--model_dir=r")


def test_a_directory_that_may_not_be_written(workplace, capfd, monkeypatch):
    def denied(self, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.mkdir", denied)
    sentence = refusal(capfd, "run", *TRAIN, "--data_path=text.txt", "--model_dir=locked/run")
    assert sentence == "locked/run: Permission denied; choose a place that you may use."


def test_a_run_goes_on_only_with_its_own_settings_and_a_finished_one_is_judged_again(workplace, capfd):
    finished(capfd, "--steps=2", "--model_dir=r")
    log = (workplace / "r" / "metrics.jsonl").read_text()
    before = tree(workplace / "r")
    sentence = refusal(capfd, "run", *TRAIN, "--data_path=text.txt", "--steps=3", "--seed=4", "--model_dir=r")
    assert sentence == "r holds another run; it differs in seed (0 then, 4 now). Choose another --model_dir."
    sentence = refusal(capfd, "run", *TRAIN, "--data_path=text.txt", "--steps=1", "--batch_size=3", "--model_dir=r")
    assert "it differs in batch_size (2 then, 3 now), steps (2 then, 1 now)." in sentence
    again = (*TRAIN, "--data_path=text.txt", "--steps=2", "--model_dir=r")
    assert refusal(capfd, "run", *again, "--resume=never") == (
        "r holds another run; choose another --model_dir, or --resume=auto."
    )
    (workplace / "r" / "config.json").write_text("{")
    assert "r/config.json is damaged" in refusal(capfd, "run", *again)
    (workplace / "r" / "config.json").write_text("[]")
    assert "holds another run; it differs in" in refusal(capfd, "run", *again)
    assert tree(workplace / "r") == before

    config = programs.call(capfd, "run", *again, "--dry_run")
    resolved = json.loads(config.out)
    for derived in ("model_config", "num_params", "plan"):
        del resolved[derived]
    (workplace / "r" / "config.json").write_text(json.dumps(resolved))
    assert "Resuming after step 2." in finished(capfd, "--steps=2", "--model_dir=r").out

    def figures(text):
        return [{k: v for k, v in json.loads(line).items() if k not in MEASURED} for line in text.splitlines()]

    assert figures((workplace / "r" / "metrics.jsonl").read_text()) == figures(log)
    assert "Resuming after step 2." in finished(capfd, "--steps=3", "--checkpoint_every=1", "--model_dir=r").out
    longer = figures((workplace / "r" / "metrics.jsonl").read_text())
    assert longer[:3] == figures(log)[:3]
    assert [(line["step"], line["split"]) for line in longer[3:]] == [(3, "train"), (3, "validation"), (3, "test")]


def test_damaged_checkpoints(workplace, capfd):
    settings = ("--steps=4", "--checkpoint_every=2", "--eval_every=4", "--model_dir=r")
    finished(capfd, *settings)
    newest, older = (workplace / "r" / "checkpoints" / f"step_{step:08d}" / "arrays.npz" for step in (4, 2))
    newest.write_bytes(newest.read_bytes()[:100])
    answer = finished(capfd, *settings)
    assert "step_00000004 is damaged" in answer.out and "Resuming after step 2." in answer.out
    for path in (newest, older):
        path.write_bytes(b"")
    sentence = refusal(capfd, "run", *TRAIN, "--data_path=text.txt", *settings)
    assert sentence == "Every checkpoint under r/checkpoints is damaged; start anew in another --model_dir."


def test_a_full_disk_while_training(workplace, capfd, monkeypatch):
    def full(file, **arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    sentence = refusal(capfd, "run", *TRAIN, "--data_path=text.txt", "--steps=3", "--model_dir=r")
    assert sentence == "r/checkpoints/step_00000000: No space left on device; make room, or choose another place."
    assert tree(workplace / "r" / "checkpoints") == []


@pytest.mark.parametrize("error", [
    tf.errors.ResourceExhaustedError(None, None, "variables.data-00000-of-00001; No space left on device"),
    OSError("Can't write data (errno = 28, error message = 'No space left on device')"), OSError(28, "No space left on device"),
], ids=["TensorFlow", "HDF5", "system"])  # fmt: skip
def test_a_full_disk_as_the_libraries_tell_of_it(error, monkeypatch, capfd):
    def full():
        raise error

    monkeypatch.setattr(run_program, "main", full)
    assert refusal(capfd, "run", "--model=gpt") == "No space left on device; make room, and start the same command again."


def test_a_batch_that_ruins_the_weights_is_undone_and_left_out(workplace, capfd, monkeypatch):
    """Its loss is not a number and so are the weights after it, moments of the optimizer included."""
    given = PackedBatches.batch

    def batch(self, step):
        return {**given(self, step), **({"loss_weights": np.full((2, 8), np.nan, np.float32)} if step == 5 else {})}

    monkeypatch.setattr(PackedBatches, "batch", batch)
    answer = finished(capfd, "--steps=8", "--checkpoint_every=4", "--eval_every=8", "--model_dir=r")
    assert "Step 6: the loss is nan. Gone back to the checkpoint of step 4; left out from now on: 6." in answer.out
    lines = [json.loads(line) for line in (workplace / "r" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["split"]) for line in lines] == [
        *[(step, "train") for step in range(1, 6)], (6, "skipped"), (7, "train"), (8, "train"), (8, "validation"), (8, "test")
    ]  # fmt: skip
    assert all(np.isfinite(line["loss"]) for line in lines if line["split"] != "skipped")


def test_a_run_whose_last_weights_are_not_numbers_is_not_delivered(workplace, capfd):
    arguments = (*TRAIN, "--data_path=text.txt", "--steps=2", "--learning_rate=1e30", "--model_dir=r")
    sentence = refusal(capfd, "run", *arguments)
    assert sentence == "The loss on validation is nan, so training has diverged; begin a new run with a lower --learning_rate."
    assert not (workplace / "r" / "bundle").exists()
    assert "--seed=18446744073709551616" in refusal(capfd, "run", *TRAIN, f"--seed={2**64}")


# Bundles


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    model = tiny_models.create("gpt", vocab_size=257, num_layers=1)
    directory = tmp_path_factory.mktemp("bundles") / "bundle"
    return Bundle(model, create_tokenizer("byte"), "language_modeling", {}).save(directory)


@pytest.mark.parametrize("program", ["evaluate", "generate", "export"])
def test_no_bundle(program, workplace, capfd):
    assert refusal(capfd, program) == "--model_dir is missing; give the directory of a run, such as runs/gpt/latest."
    assert refusal(capfd, program, "--model_dir=nowhere").startswith("nowhere holds no bundle; give the directory of a run")
    (workplace / "r" / "checkpoints").mkdir(parents=True)
    assert "holds a run that has not ended; start its command again" in refusal(capfd, program, "--model_dir=r")


def test_a_damaged_bundle(workplace, capfd):
    directory = workplace / "b"
    (directory / "tokenizer").mkdir(parents=True)
    (directory / "config.json").write_text('{"format_version": 1')
    assert "b/config.json is damaged" in refusal(capfd, "generate", "--model_dir=b", "--prompt=x")


def test_prompts(bundle, workplace, capfd):
    def generate(*arguments):
        return programs.call(capfd, "generate", f"--model_dir={bundle}", "--max_new_tokens=3", *arguments)

    too_long = "has 21 tokens, with the special ones around it; this model takes at most 16."
    assert refusal(capfd, "generate", f"--model_dir={bundle}", f"--prompt={'x' * 20}") == f"The prompt {too_long}"
    (workplace / "prompts.txt").write_text("a\n" + "x" * 20 + "\n")
    assert refusal(capfd, "generate", f"--model_dir={bundle}", "--prompt_file=prompts.txt") == f"The prompt number 2 {too_long}"
    assert refusal(capfd, "generate", f"--model_dir={bundle}", "--prompt_file=none.txt") == (
        "none.txt: No such file or directory; give the path of something that is there."
    )
    (workplace / "latin.txt").write_bytes(b"caf\xe9\n")
    assert refusal(capfd, "generate", f"--model_dir={bundle}", "--prompt_file=latin.txt") == (
        "latin.txt is not UTF-8: byte 0xe9 at offset 3 (invalid continuation byte); convert the file. "
        "(Text to train on can be read with errors=replace.)"
    )
    assert "a lone surrogate at character 1" in refusal(capfd, "generate", f"--model_dir={bundle}", "--prompt=x\udcff")
    assert generate("--prompt=").status == 0  # the beginning of a document, like any other prompt
    (workplace / "none.txt").write_text("")
    empty = generate("--prompt_file=none.txt")
    assert (empty.status, empty.out) == (0, "")


def test_numbers_that_make_no_sense(bundle, workplace, capfd):
    for flag in ("--max_new_tokens=0", "--temperature=-1", "--top_k=-1", "--top_p=1.5"):
        assert flag in refusal(capfd, "generate", f"--model_dir={bundle}", "--prompt=x", flag)


def test_judging(bundle, workplace, capfd):
    def evaluate(*arguments):
        return refusal(capfd, "evaluate", f"--model_dir={bundle}", *arguments)

    assert evaluate() == "This bundle stands alone; say what to judge it on with --dataset or --data_path."
    assert "no split 'tset'" in evaluate("--data_path=text.txt", "--split=tset")
    assert "no split 'tset'" in evaluate("--data_path=text.txt", "--split=validation,tset")
    assert evaluate("--data_path=text.txt", "--seq_length=99") == ("seq_length 99 is more than this model's max_length of 16.")
    (workplace / "empty.txt").write_text("")
    assert "holds no text" in evaluate("--data_path=empty.txt")


def test_an_export_that_cannot_be_written(bundle, workplace, capfd):
    (workplace / "occupied").write_text("a file where a directory should be")
    sentence = refusal(capfd, "export", f"--model_dir={bundle}", "--export_dir=occupied")
    assert "occupied" in sentence
    assert tree(workplace) == ["occupied", "text.txt"]


# Interruptions


@pytest.fixture
def listening():
    """A shell starts what runs in its background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_is_a_request_and_a_second_one_is_not(listening):
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as interruption:
        assert not interruption.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_is_a_request_too():
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.requested
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_ctrl_c_before_the_first_step_says_how_to_go_on(workplace, capfd, monkeypatch):
    import trainers.training

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainers.training, "prepare_for", interrupted)
    answer = programs.call(capfd, "run", *TRAIN, "--data_path=text.txt", "--model_dir=r")
    assert answer.status == 75
    assert "Interrupted. Go on with: python -m trainers.run --model=gpt" in answer.out
    assert answer.out.rstrip().endswith("--model_dir=r") and "Traceback" not in answer.err


def test_ctrl_c_in_another_program(monkeypatch, capfd):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(run_program, "main", interrupted)
    answer = programs.call(capfd, "run", "--model=gpt")
    assert (answer.status, answer.err.strip()) == (130, "Interrupted.")


def test_the_log_of_a_resumed_run_goes_on_from_what_its_checkpoint_holds(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(tmp_path)
    assert log.text() == "" and not path.exists()  # a run that ends before its first line leaves no log
    log.write(1, "train", {"loss": 1.0})
    held = log.text()
    assert json.loads(held) == {"step": 1, "split": "train", "loss": 1.0}
    log.write(2, "validation", {"loss": 1.0})
    with open(path, "a") as file:
        file.write('{"step": 2, "spl')  # a line that a killed process did not finish
    assert MetricsLog(tmp_path, held).text() == path.read_text() == held
    log.write(2, "skipped", {"reason": "said in words"})
    assert json.loads(path.read_text().splitlines()[1])["reason"] == "said in words"
    path.unlink()
    assert MetricsLog(tmp_path, held).text() == held
    log.rewind("")
    assert path.read_text() == ""
