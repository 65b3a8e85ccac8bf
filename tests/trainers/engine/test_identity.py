"""A run goes on with the text, the tokenizer and the labels that it was begun with, or not at all."""

import json
from types import SimpleNamespace

import pytest

from tests import programs
from trainers.engine import identity
from zoo.config import Refusal
from zoo.registry import TASKS
from zoo.tokenizers.base import create

ROWS = [("hello", "ham"), ("buy", "spam")]
MAIL = "text,label\n" + "".join(f"{text} {i},{label}\n" for i in range(20) for text, label in ROWS)


def task(*labels):
    task_class = TASKS.get("classification")
    return task_class(None, task_class.facts_class(labels=labels))


def of(text="a", tokenizer=None, labels=("no", "yes")):
    return identity.of(SimpleNamespace(fingerprint=lambda: text), tokenizer or create("byte"), task(*labels))


def test_a_run_keeps_what_it_began_with_and_refuses_another(tmp_path):
    config = SimpleNamespace(to_dict=lambda: {"model": "gpt"})
    identity.write(tmp_path, config)
    assert json.loads((tmp_path / "config.json").read_text()) == {"model": "gpt"}
    identity.check(tmp_path, of())
    identity.write(tmp_path, config)  # the run is started again
    kept = json.loads((tmp_path / "config.json").read_text())
    assert kept == {"model": "gpt", "data": of()}
    identity.check(tmp_path, of())
    for now, differing in (
        (of(text="b"), "another text, and"),
        (of(tokenizer=create("char", ["ab"])), "another tokenizer, and"),
        (of(text="b", labels=("no", "oui")), "another text and labels (labels ['no', 'yes'] then, ['no', 'oui'] now), and"),
    ):
        with pytest.raises(Refusal) as refused:
            identity.check(tmp_path, now)
        assert differing in str(refused.value) and str(refused.value).startswith(f"{tmp_path} was begun with")
    assert json.loads((tmp_path / "config.json").read_text()) == kept


def test_a_run_keeps_how_its_scores_were_counted(tmp_path):
    config = SimpleNamespace(to_dict=lambda: {"model": "gpt"})
    identity.write(tmp_path, config)
    identity.check(tmp_path, of())
    identity.keep_signatures(tmp_path, {"loss": 1.0, "bleu": 3.0, "bleu_signature": "nrefs:1", "chrf_signature": "nc:6"})
    identity.keep_signatures(tmp_path, {"loss": 1.0})
    identity.write(tmp_path, config)  # the run is started again
    kept = json.loads((tmp_path / "config.json").read_text())
    assert kept == {"model": "gpt", "data": of(), "bleu_signature": "nrefs:1", "chrf_signature": "nc:6"}
    assert [name for name in kept if identity.is_known_later(name)] == ["data", "bleu_signature", "chrf_signature"]


def test_equal_tokenizers_have_equal_digests_and_others_have_not():
    one, same, other = (create("char", [text]) for text in ("abc", "abc", "abd"))
    assert one.digest() == same.digest() != other.digest()


def test_a_run_whose_classes_were_renamed_does_not_go_on(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mail.csv").write_text(MAIL)
    command = [
        "run", "--model=bag_of_words", "--preset=tiny", "--data_path=mail.csv,columns=text:label", "--steps=2",
        "--seq_length=8", "--noexport", "--model_dir=r",
    ]  # fmt: skip
    assert programs.call(capfd, *command).status == 0
    assert programs.call(capfd, *command).status == 0  # nothing is left to do
    before = (tmp_path / "r" / "metrics.jsonl").read_text()
    (tmp_path / "mail.csv").write_text(MAIL.replace("spam", "junk"))
    answer = programs.call(capfd, *command)
    assert answer.status == 2 and "(labels ['ham', 'spam'] then, ['ham', 'junk'] now)" in answer.err
    assert (tmp_path / "r" / "metrics.jsonl").read_text() == before


def test_a_run_whose_synonyms_were_changed_does_not_go_on(tmp_path):
    table = tmp_path / "synonyms.tsv"
    task_class = TASKS.get("classification")
    changing = task_class.config_class(synonym_rate=0.1, synonym_table=str(table))

    def now():
        return identity.of(SimpleNamespace(fingerprint=lambda: "a"), create("byte"), task_class(changing))

    table.write_text("cat\ttom\n")
    identity.write(tmp_path, SimpleNamespace(to_dict=dict))
    identity.check(tmp_path, now())
    identity.check(tmp_path, now())
    old = {name: value for name, value in now().items() if name != "files"}
    table.write_text("cat\tmog\n")
    with pytest.raises(Refusal, match="was begun with another synonym_table, and cannot go on"):
        identity.check(tmp_path, now())
    (tmp_path / "config.json").write_text(json.dumps({"data": old}))
    identity.check(tmp_path, now())  # of a run that an older version began nothing is known


def test_a_run_whose_questions_were_changed_does_not_go_on(tmp_path):
    pairs, other = tmp_path / "pairs.tsv", tmp_path / "other.tsv"
    task_class = TASKS.get("word_vectors")

    def now():
        task = task_class(task_class.config_class(similarity=(str(pairs), str(other))))
        return identity.of(SimpleNamespace(fingerprint=lambda: "a"), create("byte"), task)

    pairs.write_text("list\ttuple\t8\n")
    other.write_text("for\twhile\t9\n")
    identity.write(tmp_path, SimpleNamespace(to_dict=dict))
    identity.check(tmp_path, now())
    other.write_text("for\twhile\t5\n")
    with pytest.raises(Refusal, match="was begun with another similarity, and cannot go on"):
        identity.check(tmp_path, now())
