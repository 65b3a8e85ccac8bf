"""What your own files could mean in two ways: it is refused, or the user is told what was read."""

import gzip
import json

import pytest

import tfds_configs
from zoo.config import Refusal

WORD = "{}\t{}\t_\t{}\t_\t_\t_\t_\t_\t_\n"
SQUAD = {"context": "Anna met Ben.", "qas": [{"id": 7, "question": "Who met Ben?"}]}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(here, name, content, options=""):
    (here / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    source = tfds_configs.get("local_text", f"train={name},validation={name}{options}")
    return list(source.examples("train")), source


def lines(*rows):
    return "\n".join(map(json.dumps, rows))


def squad(**question):
    return json.dumps({"data": [{"paragraphs": [{**SQUAD, "qas": [{**SQUAD["qas"][0], **question}]}]}]})


def units(*texts, source="en"):
    body = "".join(
        "<tu>" + "".join(f'<tuv xml:lang="{each[:-1]}"><seg>{each}</seg></tuv>' for each in unit) + "</tu>" for unit in texts
    )
    return f'<tmx><header srclang="{source}"/><body>{body}</body></tmx>'


@pytest.mark.parametrize(
    ("name", "content", "options", "sentence"),
    [
        ("a.csv", "text,label,label\na,1,0\n", "", "a.csv has two columns called 'label'; give each a name of its own"),
        ("a.csv", "text,label\na,1\n", ",columns=label:text", "a.csv, line 1 names the columns text:label, and columns= names"),
        ("a.csv", "text,label\na,1\n", ",column=2", "format=csv does not read the option column; it is for tagged or conll"),
        ("a.txt", "a\n", ",field=body", "format=text does not read the option field; it is for jsonl or csv or tsv."),
        ("a.csv", "text\na\n", ",field=text,field=body", "has the option field twice; give it once."),
        ("a.conll", "a\tX\n", ",columns=token:ner", "columns= of a file with a word a line are word, tag, predicate, roles"),
        ("a.jsonl", '{"text": "a", "text": "b"}', "", "a.jsonl, line 1 has the field 'text' twice; each must be there once."),
        ("a.jsonl", '[\n{"text": "a"}\n]', "", "(A JSON array is not JSON lines: write each of its objects on a line"),
        ("a.jsonl", lines({"text": "a", "label": 1}, {"text": "b", "label": "1.0"}), "", "'1.0', and '1' stands before it"),
        ("a.jsonl", lines({"text": "a", "label": "é"}, {"text": "b", "label": "e\u0301"}), "", r"'e\u0301', and '\xe9' stands"),
        ("a.tsv", "a\tx y\nb\tx\xa0y\n", ",columns=text:label", "a.tsv, line 2 has the label 'x\\xa0y', and 'x y' stands"),
        ("a.conll", "a\tX\n\nb\tO\tX\n", "", "a.conll, line 3 has 3 columns, and the sentences before it have 2"),
        ("a.jsonl", lines({"tokens": ["a", ""], "tags": ["X", "Y"]}), "", "a.jsonl, line 1 has an empty word; leave it out."),
        ("a.conll", "a\tX\n# note\nb\tY\n", "", "a.conll, line 2 is not a word, a tab and its tag: '# note'"),
        ("a.conll", "a\tX \nb\tX\n", "", "a.conll, line 1 has the tag 'X ' with white space at its end; take it away."),
        ("a.conllu", WORD.format(1, "a", "X") + WORD.format(1, "b", "X"), "", "line 2 has the id '1' where 2 should be"),
        ("a.conllu", WORD.format(1, "a", "X") + WORD.format("b", "b", "X"), "", "line 2 has the id 'b' where 2 should be"),
        ("a.conllu", WORD.format(1, "a", "_"), "", "a.conllu, line 1 has no UPOS tag (_); give it one"),
        ("a.json", squad(), ",format=squad", "a.json: the question 7 has no answers and is not marked is_impossible."),
        ("a.json", squad(answers=[], is_impossible=False), ",format=squad", "has 0 answers and is_impossible=false; one of"),
        ("a.json", squad(answers=[{"text": "Anna", "answer_start": 0}], is_impossible=True), ",format=squad", "1 answers and"),
        ("a.tmx", units(("en1", "fr1"), ("de2", "fr2")), "", "a.tmx, line 1 has a text in de, and the units before it are in"),
        ("a.txt", "some text\n".encode("utf-16-le"), "", "a.txt is not UTF-8: so many of its bytes are zero as in UTF-16"),
        ("a.txt", gzip.compress(b"some text", mtime=0), ",errors=replace", "a.txt is a gzip file; give it a name"),
    ],
)  # fmt: skip
def test_what_is_refused(here, name, content, options, sentence):
    with pytest.raises(Refusal) as refused:
        read(here, name, content, options)
    assert sentence in str(refused.value)


def test_one_label_is_spelt_in_one_way_in_all_files(here):
    (here / "a.jsonl").write_text(lines({"text": "a", "label": "pos"}, {"text": "b", "label": "neg"}))
    (here / "b.jsonl").write_text(lines({"text": "c", "label": "pos "}))
    source = tfds_configs.get("local_text", "train=a.jsonl,b.jsonl,validation=a.jsonl")
    with pytest.raises(Refusal, match="b.jsonl, line 1 has the label 'pos ', and 'pos' stands before it"):
        list(source.examples("train"))


def test_classes_that_differ_in_case_are_told(here):
    rows = [{"text": "a", "label": label} for label in ("Pos", "pos", "neg", True, 1)]
    assert read(here, "a.jsonl", lines(*rows))[1].remarks()[-1] == (
        "The classes '1' and 'True'; 'Pos' and 'pos' are spelt alike, and are told apart."
    )


@pytest.mark.parametrize("header", ["id,label,text", "ID,Label, Text ", "-,label,text"])
def test_a_header_in_other_letters_is_a_header(here, header):
    records, _ = read(here, "a.csv", f"{header}\n7,pos,good\n", ",columns=-:label:text")
    assert records == [{"label": "pos", "text": "good"}]


def test_what_may_be_a_header_is_told(here):
    content = "sentiment\treview\n" + "pos\tgood\nneg\tbad\n" * 5
    records, source = read(here, "a.tsv", content, ",columns=label:text")
    assert len(records) == 11 and source.found.sentences() == [
        "a.tsv: first rows have a label that stands nowhere else: they may be headers, and are read as examples (1 in all, the "
        "first in line 1)."
    ]
    assert not read(here, "b.tsv", content.partition("\n")[2], ",columns=label:text")[1].found.sentences()


def test_files_that_are_trained_on_and_judged_are_told(here):
    for name, text in (("a.txt", "one"), ("b.txt", "one"), ("c.txt", "two")):
        (here / name).write_text(text)

    def remarks(data_path):
        return tfds_configs.get("local_text", data_path).remarks()

    assert remarks("train=a.txt,validation=c.txt,test=a.txt") == [
        "a.txt is both train and test: the scores of test are of what was trained on."
    ]
    assert remarks("train=a.txt,validation=c.txt,test=b.txt") == [
        "b.txt, equal to a.txt, is both train and test: the scores of test are of what was trained on."
    ]
    assert remarks("train=a.txt,a.txt,validation=c.txt") == ["a.txt stands twice in the training data, and counts twice."]
    assert remarks("train=a.txt,validation=c.txt,test=c.txt") == []


def test_the_columns_of_conllu_can_be_named(here):
    content = "1\tcats\tcat\tNOUN\tNNS\t_\t_\t_\t_\t_\n"
    (record,), _ = read(here, "a.conllu", content, ",columns=-:-:word:-:tag")
    assert (record["tokens"], record["tags"]) == (["cat"], ["NNS"])
    content = "1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_\n" + WORD.format(1, "de", "ADP") + WORD.format(2, "le", "DET")
    (record,), source = read(here, "a.conllu", content)
    assert record["tokens"] == ["de", "le"]
    assert source.found.sentences()[0].startswith("a.conllu: tokens of several words, such as 1-2, are left out; their words")


def test_answers_as_hugging_face_writes_them(here):
    row = {"question": "Who?", "context": "Anna met Ben.", "answers": {"text": ["Ben"], "answer_start": [9]}}
    (record,), _ = read(here, "a.jsonl", lines(row))
    assert (record["answers"], record["answer_starts"]) == (["Ben"], [9])


def test_units_of_one_memory_have_one_direction(here):
    content = units(("en1", "fr1"), ("fr2", "en2"), ("fr-CA3", "en-GB3"), ("en4", "fr4", "fr5"), source="*all*")
    records, source = read(here, "a.tmx", content)
    assert [tuple(record.values()) for record in records] == [
        ("en1", "fr1"),
        ("en2", "fr2"),
        ("en-GB3", "fr-CA3"),
        ("en4", "fr4"),
    ]
    assert source.found.sentences() == [
        "a.tmx: units have a second text in one language, which is left out (1 in all, the first in line 1)."
    ]
    both = read(here, "b.tmx", units(("zh-CN1", "zh-TW1"), ("zh-TW2", "zh-CN2"), source="zh-cn"))[0]
    assert [tuple(record.values()) for record in both] == [("zh-CN1", "zh-TW1"), ("zh-CN2", "zh-TW2")]


def test_a_catalogue_may_begin_with_a_byte_order_mark(here):
    content = '\ufeffmsgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n\nmsgid "a"\nmsgstr "é"\n'
    assert read(here, "a.po", content)[0] == [{"source": "a", "target": "é"}]


def test_what_stands_twice_is_told(here):
    content = "text,label\na,1\nb,0\n"
    records, source = read(here, "a.csv", content * 2)
    assert [record["text"] for record in records] == ["a", "b", "a", "b"]
    assert source.found.sentences() == [
        "a.csv: rows are the header once more and are left out (1 in all, the first in line 4)."
    ]
    header = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n\n'
    catalogue = 'msgid "a"\nmsgstr "b"\n\nmsgctxt "x"\nmsgid "a"\nmsgstr "c"\n\nmsgid ""\n"a"\nmsgstr "d"\n'
    records, source = read(here, "a.po", header + catalogue)
    assert [record["target"] for record in records] == ["b", "c"]
    assert source.found.sentences() == [
        "a.po: messages stand there twice, and the first is read (1 in all, the first in line 1)."
    ]
    assert not read(here, "b.po", catalogue.rpartition('msgid ""')[0])[1].found.sentences()
