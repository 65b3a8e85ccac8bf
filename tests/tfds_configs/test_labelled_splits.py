"""Labelled examples of your own files: held out by a hash, labels that cannot be right, what the user is told."""

import json

import pytest

import tfds_configs
from zoo.config import Refusal


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def source_of(data_path):
    return tfds_configs.get("local_text", data_path)


def splits_of(data_path):
    source = source_of(data_path)
    return source, list(source.examples("train")), list(source.examples("validation"))


def write(here, name, rows):
    (here / name).write_text("\n".join(map(json.dumps, rows)))


def test_a_file_sorted_by_class_has_each_class_in_each_split(here):
    rows = [{"text": f"text {i}", "label": label} for label in ("neg", "pos") for i in range(101)]
    write(here, "a.jsonl", rows)
    source, train, validation = splits_of("a.jsonl")
    assert len(train) == 181 and len(validation) == 21, "the shares are exact"
    assert {row["label"] for row in train} == {row["label"] for row in validation} == {"neg", "pos"}
    assert sorted(train + validation, key=str) == sorted(rows, key=str)
    assert [row for row in rows if row in train] == train, "in the order of the file"
    assert list(source.examples("test")) == validation
    assert source.remarks() == [
        "No validation data was given: a tenth of the training examples, chosen by a hash of each, is held out for it and is "
        "not trained on; validation= names your own."
    ]
    write(here, "b.jsonl", rows[::-1])
    again = splits_of("b.jsonl")[2]
    assert sorted(again, key=str) == sorted(validation, key=str), "the order of the file changes nothing"


def test_equal_examples_are_told_apart_and_counted(here):
    write(here, "a.jsonl", [{"text": "good", "label": 1}, {"text": "bad", "label": 0}] * 50)
    source, train, validation = splits_of("a.jsonl")
    assert (len(train), len(validation)) == (90, 10)
    assert {row["label"] for row in validation} == {0, 1}
    assert source.remarks()[1] == "10 of the 10 examples held out also stand in the training data, word for word."


def test_pairs_and_sentences_are_chosen_by_hash_and_plain_text_by_position(here):
    (here / "a.tsv").write_text("".join(f"{i}\t{-i}\n" for i in range(40)))
    held_out = [row["source"] for row in splits_of("a.tsv,columns=source:target")[2]]
    assert len(held_out) == 4 and held_out != ["36", "37", "38", "39"]
    assert [row["text"] for row in splits_of("a.tsv,columns=text:target,field=text")[2]] != ["36", "37", "38", "39"]
    assert [row["text"] for row in splits_of("a.tsv,columns=text:id")[2]] == ["36", "37", "38", "39"]
    (here / "a.conll").write_text("".join(f"w{i}\tX\n\n" for i in range(40)))
    assert [row["tokens"] for row in splits_of("a.conll")[2]] != [["w36"], ["w37"], ["w38"], ["w39"]]


def test_questions_about_one_context_stay_together(here):
    paragraphs = [
        {"context": f"context {i}", "qas": [{"id": f"{i}-{j}", "question": "?", "answers": []} for j in range(3)]}
        for i in range(20)
    ]
    (here / "a.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    _, train, validation = splits_of("a.json,format=squad")
    contexts = [{row["context"] for row in part} for part in (train, validation)]
    assert len(validation) == 6 and not contexts[0] & contexts[1]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "' + "long " * 40 + '", "label": "x"}'),
        ("a.conll", "word\tX\n" * 40),
        ("a.tsv", "text\tlabel\n" + "long " * 40 + "\tx\n"),
        ("a.jsonl", '{"source": "x", "target": "y"}'),
    ],
)
def test_one_labelled_example_cannot_be_cut(here, name, content):
    (here / name).write_text(content)
    for split in ("train", "validation"):
        with pytest.raises(Refusal, match=f"{name} holds a single example, from which none can be held out"):
            list(source_of(name).examples(split))
    assert len(list(source_of(f"train={name},validation={name}").examples("train"))) == 1


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", "\n"), ("a.conll", "\n\n"), ("a.csv", "text,label\n")])
def test_no_examples(here, name, content):
    (here / name).write_text(content)
    for path in (name, f"train={name},validation={name}"):
        with pytest.raises(Refusal, match=f"The train split of local_text holds no text: {name}"):
            list(source_of(path).examples("train"))
    with pytest.raises(Refusal, match="holds no text"):
        source_of(name).fields()


def test_a_class_that_a_split_lacks_is_told(here):
    write(here, "a.jsonl", [{"text": "x", "label": label} for label in "abcabc"])
    write(here, "b.jsonl", [{"text": "x", "label": label} for label in "ad"])
    source = source_of("train=a.jsonl,validation=b.jsonl")
    for split in ("train", "validation"):
        list(source.examples(split))
    assert source.remarks() == [
        "The train split has no example of the class 'd'.",
        "The validation split has no example of the class 'b', 'c'.",
    ]


@pytest.mark.parametrize("spelling", ["NaN", "Infinity", "-Infinity"])
def test_a_label_that_is_not_a_number_is_not_a_class(here, spelling):
    (here / "a.jsonl").write_text('{"text": "x", "label": "pos", "score": NaN}\n{"text": "y", "label": ' + spelling + "}")
    with pytest.raises(Refusal, match=r"a.jsonl, line 2 has the label -?(nan|inf), which is not a class"):
        list(source_of("train=a.jsonl,validation=a.jsonl").examples("train"))


def test_one_number_is_one_class(here):
    (here / "a.jsonl").write_text(
        "\n".join('{"text": "x", "label": ' + label + "}" for label in ("1", "1.0", "0", "1e0", "2.5", "true"))
    )
    labels = [row["label"] for row in source_of("train=a.jsonl,validation=a.jsonl").examples("train")]
    assert list(map(str, labels)) == ["1", "1", "0", "1", "2.5", "True"]
    (here / "a.csv").write_text("text,label\nx,1\ny,+x\nz,1.0\n")
    (here / "b.csv").write_text("text,label\nx,good\ny,bad\nz,good \n")
    with pytest.raises(Refusal, match="b.csv, line 4 has the label 'good ', and 'good' stands before it"):
        list(source_of("train=b.csv,validation=b.csv").examples("train"))
    with pytest.raises(Refusal, match="a.csv, line 4 has the label '1.0', and '1' stands before it; spell a class in one way"):
        list(source_of("train=a.csv,validation=a.csv").examples("train"))


def test_whole_holds_nothing_out(here):
    (here / "a.txt").write_text("x" * 100)
    (here / "b.txt").write_text("y" * 50)
    for split in ("train", "validation", "test"):
        assert list(source_of("a.txt").whole().texts(split)) == ["x" * 100]
    given = source_of("train=a.txt,test=b.txt")
    assert given.remarks() == [
        "No validation data was given: the last tenth of the training text is held out for it and is not trained on; "
        "validation= names your own."
    ]
    assert list(given.whole().texts("train")) == ["x" * 100] and list(given.whole().splits) == ["train", "test"]
    assert given.whole().remarks() == []
    fitting = given.for_fitting()  # a model in closed form takes all of `a`, and is judged on `b` alone
    assert list(fitting.texts("train")) == ["x" * 100] and list(fitting.texts("validation")) == ["y" * 50]
    assert fitting.splits["validation"] == fitting.splits["test"] and fitting.remarks() == []
    assert source_of("a.txt").for_fitting() == source_of("a.txt")  # there is nothing else to judge it on
    assert source_of("train=a.txt,validation=b.txt").whole().splits["test"] == "validation"
    assert tfds_configs.get("python_docs").whole() is not None


def test_a_task_finds_the_fields_that_it_reads(here):
    (here / "a.tsv").write_text("one\tun\n")
    source = source_of("a.tsv,columns=source:target")
    source.check_fields(("source", "target"))
    with pytest.raises(
        Refusal, match="local_text has no field 'tokens' and 'tags'; it has source, target; name yours with field="
    ):
        source.check_fields(("tokens", "tags"))
    with pytest.raises(Refusal, match="glue/sst2 has no field 'tokens'; it has text, label."):
        tfds_configs.get("glue/sst2").check_fields(("tokens",))
