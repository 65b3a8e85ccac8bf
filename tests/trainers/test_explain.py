"""trainers.explain: its three outputs, and what it refuses."""

import functools
import json

import pytest

import zoo
from tests import exports, programs
from tests.programs import refusal
from zoo import api
from zoo.bundle import Bundle


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The flag that names a classifier's bundle, which is loaded once."""
    made = exports.made("bag_of_words", "classification")
    directory = tmp_path_factory.mktemp("run") / "bundle"
    Bundle(made.model, made.tokenizer, made.task, {}).save(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "load", functools.cache(lambda path: api.load(path)))
        yield f"--model_dir={directory}"


def test_the_three_outputs_tell_the_same(place, capfd):
    arguments = (place, "--text=a <cat>", "--target=yes", "--contrast=no")
    answers = {name: programs.call(capfd, "explain", *arguments, f"--format={name}") for name in ("json", "html", "terminal")}
    assert all(answer.status == 0 for answer in answers.values())
    found = json.loads(answers["json"].out)
    assert "".join(found["tokens"]) == "a <cat>" and found["contrast"] == "no"
    assert sum(found["scores"]) == pytest.approx(found["value"] - found["baseline"], abs=1e-3)
    best = max(found["scores"], key=abs)
    assert f'title="{best:+.4f}"' in answers["html"].out and "&lt;" in answers["html"].out
    shown = answers["terminal"].out
    assert shown.startswith("a <cat>\n") and "log p('yes') - log p('no')" in shown and f"{best:+9.4f}" in shown


def test_a_wrong_class_is_refused(place, capfd):
    assert "did you mean 'yes'" in refusal(capfd, "explain", place, "--text=a", "--target=yess")
    assert refusal(capfd, "explain", place).startswith("--text is missing")


@pytest.mark.parametrize("method", ["logit_lens", "attention"])
def test_layers_are_shown_in_three_outputs(method, tmp_path, capfd):
    made = exports.made("gpt", "language_modeling")
    Bundle(made.model, made.tokenizer, made.task, {}).save(tmp_path / "bundle")
    arguments = (f"--model_dir={tmp_path / 'bundle'}", "--text=a <cat>", f"--method={method}")
    answers = {name: programs.call(capfd, "explain", *arguments, f"--format={name}") for name in ("json", "html", "terminal")}
    assert all(answer.status == 0 for answer in answers.values())
    assert json.loads(answers["json"].out)["method"] == method
    assert "&lt;" in answers["html"].out and answers["html"].out.startswith("<figure>")
    assert "'<'" in answers["terminal"].out
    assert "takes no --contrast" in refusal(capfd, "explain", *arguments, "--contrast=a")
