"""What `evaluate` judges on where nothing is named: the text of the run, with what was held out of it then."""

import json

import pytest

from tests import programs


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("".join(f"line {i} of the first text\n" for i in range(50)))
    (tmp_path / "b.txt").write_text("".join(f"row {i} of another text\n" for i in range(20)))
    return tmp_path


def scores_of(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_a_fitted_model_is_not_judged_on_what_it_was_fitted_to(here, capfd):
    asked = ["--model=ngram", "--preset=tiny", "--tokenizer=byte", "--data_path=train=a.txt,test=b.txt", "--noexport"]
    assert programs.call(capfd, "run", *asked, "--model_dir=r").status == 0
    answer = programs.call(capfd, "evaluate", "--model_dir=r/bundle", "--split=validation,test")
    assert answer.status == 0 and "has changed" not in answer.err
    validation, test = scores_of(answer.out)
    assert validation["loss"] == test["loss"] and validation["num_tokens"] == test["num_tokens"]
    (here / "b.txt").write_text("something else\n")
    answer = programs.call(capfd, "evaluate", "--model_dir=r/bundle", "--split=test")
    assert answer.status == 0
    assert "The text train=a.txt,test=b.txt has changed since the model was trained on it" in answer.err
