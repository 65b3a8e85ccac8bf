"""The whole path as a user walks it, by the command line: text in, a run, a bundle and a served answer out."""

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import programs
from trainers.engine.metrics_log import MEASURED

ROOT = Path(__file__).parent.parent
WORDS = ("the", "a", "cat", "dog", "house", "garden", "sees", "finds", "likes", "leaves", "old", "small", "and")
SETTINGS = ("--preset=tiny", "--batch_size=4", "--seq_length=16")
# model -> its further flags; the one that is exported stands for all here, the conformance suite exports each.
RUNS = {
    "gpt": (
        "--tokenizer=bpe",
        "--vocab_size=300",
        "--steps=12",
        "--eval_every=5",
        "--set=max_length=48",
        "--set=num_layers=1",
    ),
    "lstm": ("--tokenizer=byte", "--steps=12", "--eval_every=5", "--noexport"),
    "ngram": ("--tokenizer=word", "--noexport"),
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A directory of the user's own with a text file in it."""
    directory = tmp_path_factory.mktemp("workplace")
    chance = random.Random(5)
    sentences = [" ".join(chance.choices(WORDS, k=chance.randint(4, 11))).capitalize() + "." for _ in range(400)]
    (directory / "corpus.txt").write_text("\n".join(sentences) + "\n", encoding="utf8")
    return directory


def shell(workplace, *command):
    """Runs a command in the workplace and returns what it printed; it must succeed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=workplace, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout


@pytest.fixture(scope="module", params=sorted(RUNS))
def trained(request, workplace):
    """(family, its run directory, what the program printed)."""
    model = request.param
    printed = shell(
        workplace,
        sys.executable,
        "-m",
        "trainers.run",
        f"--model={model}",
        "--data_path=corpus.txt",
        *SETTINGS,
        *RUNS[model],
    )
    return model, workplace / "runs" / model / "latest", printed


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf8").splitlines()]


def test_the_run_directory_holds_what_is_promised(trained):
    model, run, _ = trained
    assert run.is_symlink() and run.resolve().parent == run.parent
    names = {path.name for path in run.iterdir()}
    expected = {"config.json", "metrics.jsonl", "bundle", "tensorboard"}
    expected |= {"checkpoints"} if model != "ngram" else set()
    expected |= {"export"} if model == "gpt" else set()
    assert names == expected
    config = json.loads((run / "config.json").read_text(encoding="utf8"))
    assert config["model"] == model and config["dataset"] == "local_text" and config["seq_length"] == 16
    assert {path.name for path in (run / "bundle").iterdir()} == {"config.json", "model.weights.h5", "tokenizer"}
    bundle = json.loads((run / "bundle" / "config.json").read_text(encoding="utf8"))
    assert bundle["format_version"] == 2 and bundle["model"] == model
    if model == "gpt":
        assert {path.name for path in (run / "export").iterdir()} == {"1", "deployment"}


def test_every_line_of_the_metrics_has_the_promised_keys(trained):
    model, run, _ = trained
    lines = metrics(run)
    steps = 0 if model == "ngram" else 12
    if model == "ngram":
        fit = lines.pop(0)
        assert fit.keys() == {"step", "split", "tokens", "seconds"} and fit["split"] == "fit" and fit["seconds"] > 0
    for line in lines:
        assert {"step", "split", "loss", "bits_per_byte", "perplexity", "tokens_per_second"} <= line.keys()
        assert line["split"] in ("train", "validation", "test")
        assert line["perplexity"] == pytest.approx(math.exp(line["loss"]))
        assert line["tokens_per_second"] > 0
    assert [(line["step"], line["split"]) for line in lines[-2:]] == [(steps, "validation"), (steps, "test")]
    if model != "ngram":
        training = [line for line in lines if line["split"] == "train"]
        assert [line["step"] for line in training] == list(range(1, 13))
        assert training[-1]["loss"] < training[0]["loss"]
        assert [line["step"] for line in lines if line["split"] == "validation"] == [5, 10, 12]


def test_the_program_prints_a_sample_and_what_to_do_next(trained):
    model, run, printed = trained
    assert re.search(r"^Sample: ['\"]The", printed, re.MULTILINE)
    name = run.resolve().relative_to(run.parent.parent.parent)
    assert f"python -m trainers.generate --model_dir={name}" in printed
    assert f"python -m trainers.evaluate --model_dir={name}" in printed
    assert f"python -m trainers.report --model_dir={name}" in printed
    assert f"\nTest: loss {metrics(run)[-1]['loss']:.4f}  perplexity " in printed
    assert ("tensorflow_model_server" in printed) == (model == "gpt")
    if model != "ngram":  # batches are of one shape, however long the documents are
        assert "Graphs of the step: 1, " in printed


def test_the_report_shows_the_figures_of_the_run(trained, workplace, monkeypatch, capfd):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from trainers.reporting.charts import figure

    model, run, _ = trained
    monkeypatch.chdir(workplace)
    answer = programs.call(capfd, "report", f"--model_dir=runs/{model}/latest", "--nosamples")
    assert answer.status == 0 and answer.out.startswith(f"Report: runs/{model}/latest/report.html, "), answer.err
    text = (run / "report.html").read_text(encoding="utf8")
    (run / "report.html").unlink()
    for line in metrics(run):
        names = ("loss", "bits_per_byte", "perplexity", "learning_rate", "gradient_norm")
        assert all(f">{figure(line[name])}<" in text for name in names if name in line), line
    assert f"{sum(line['seconds'] for line in metrics(run) if 'seconds' in line):.1f}s" in text
    assert "not known" not in text


def test_evaluate_gives_the_figures_of_the_run(trained, workplace, monkeypatch, capfd):
    model, run, _ = trained
    monkeypatch.chdir(workplace)
    if model == "gpt":  # one of them in a process of its own, as a user would
        out = shell(workplace, sys.executable, "-m", "trainers.evaluate", f"--model_dir={run}")
    else:
        answer = programs.call(capfd, "evaluate", f"--model_dir={run}")
        assert answer.status == 0, answer.err
        out = answer.out
    judged = {line["split"]: line for line in map(json.loads, out.splitlines())}
    final = {line["split"]: line for line in metrics(run)[-2:]}
    assert judged.keys() == final.keys() == {"validation", "test"}
    for split, scores in judged.items():
        for name in ("loss", "perplexity", "bits_per_byte"):
            assert scores[name] == pytest.approx(final[split][name], rel=1e-6), (split, name)
        assert scores["num_tokens"] == final[split]["num_tokens"]


def test_generate_continues_a_prompt(trained, workplace, monkeypatch, capfd):
    model, run, _ = trained
    monkeypatch.chdir(workplace)
    options = ("--max_new_tokens=9", "--temperature=1", "--seed=4")
    if model == "gpt":
        out = shell(workplace, sys.executable, "-m", "trainers.generate", f"--model_dir={run}", "--prompt=The cat", *options)
    else:
        answer = programs.call(capfd, "generate", f"--model_dir={run}", "--prompt=The cat", *options)
        assert answer.status == 0, answer.err
        out = answer.out
    assert out.startswith("The cat") and len(out.rstrip("\n")) > len("The cat")

    (workplace / "prompts.txt").write_text("The cat\n\nA small dog\n", encoding="utf8")
    answer = programs.call(capfd, "generate", f"--model_dir={run}", "--prompt_file=prompts.txt", *options)
    assert answer.status == 0, answer.err
    lines = [json.loads(line) for line in answer.out.splitlines()]
    assert [line["prompt"] for line in lines] == ["The cat", "", "A small dog"]
    assert all(line["text"].startswith(line["prompt"]) for line in lines)
    assert lines[0]["text"] == out.rstrip("\n")  # whatever stands beside it in the file


@pytest.mark.parametrize("trained", ["gpt"], indirect=True)
def test_the_saved_model_answers_without_any_code_of_ours(trained, tmp_path):
    _, run, _ = trained
    program = (
        "import json, sys, tensorflow as tf\n"
        "signatures = tf.saved_model.load(sys.argv[1]).signatures\n"
        "text = signatures['serving_default'](prompt=tf.constant(['The cat', 'A']))['text'].numpy()\n"
        "score = signatures['score'](text=tf.constant(['The cat likes the house.']))\n"
        "assert not {'zoo', 'trainers', 'tfds_configs'} & set(sys.modules), 'our code was loaded'\n"
        "print(json.dumps([[t.decode() for t in text], float(score['log_prob'][0])]))\n"
    )
    command = [sys.executable, "-I", "-c", program, str(run.resolve() / "export" / "1")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    texts, log_prob = json.loads(result.stdout)

    import zoo

    loaded = zoo.load(run)
    assert texts == loaded.generate(["The cat", "A"], max_new_tokens=64)
    assert log_prob == pytest.approx(loaded.score("The cat likes the house.")["log_prob"], rel=1e-5)


def test_ctrl_c_saves_and_the_command_it_prints_goes_on_to_equal_scores(workplace):
    steps = 700
    arguments = [
        "--model=gpt", "--data_path=corpus.txt", *SETTINGS, "--tokenizer=byte", f"--steps={steps}", "--eval_every=250",
        "--checkpoint_every=100000", "--noexport", "--set=dropout=0.2", "--set=num_layers=1", "--xla=off",
    ]  # fmt: skip
    command = [sys.executable, "-m", "trainers.run", *arguments, "--model_dir=interrupted"]
    # Bits are equal with one set of kernels. Some processes compute with oneDNN's and a few without (benchmarks/LOG.md), so all
    # three are told the same.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_ENABLE_ONEDNN_OPTS": "0"}
    process = subprocess.Popen(
        command, cwd=workplace, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    log = workplace / "interrupted" / "metrics.jsonl"
    while process.poll() is None and not (log.is_file() and log.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, out + err
    assert "Traceback" not in err
    done, again = re.search(r"^Interrupted after step ([\d,]+), and saved. Go on with: (.*)$", out, re.MULTILINE).groups()
    assert steps // 20 <= int(done.replace(",", "")) < steps
    assert again == " ".join(["python -m trainers.run", *arguments, "--model_dir=interrupted"])

    def run(*given):
        result = subprocess.run(
            [sys.executable, "-m", "trainers.run", *given],
            cwd=workplace,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert f"Resuming after step {done}." in run(*again.split()[3:])
    run(*arguments, "--model_dir=whole")

    def without_speed(run):
        return [{k: v for k, v in line.items() if k not in MEASURED} for line in metrics(workplace / run)]

    assert without_speed("interrupted") == without_speed("whole")
