"""Labelled data, vocabularies and requests that cannot be right: each is a sentence, and never a silent guess."""

import json

import pytest

from tests import exports, programs
from zoo.serving.c_api import RequestError

ROWS = "x\tthe cat sat\ny\tin 1984\nx\ta dog\ny\tpage 7\n"
COLUMNS = ",columns=label:text"
PAIRS = "label,text,text_pair\nx,a b c,d e\ny,{},g h i\n"


def squad(**changes):
    context = "The dog sat on a mat."
    question = {"id": "1", "question": "Who sat?", "answers": [{"text": "dog", "answer_start": 4}], **changes}
    return json.dumps({"data": [{"paragraphs": [{"context": changes.get("context", context), "qas": [question]}]}]})


def tagged(tokens, tags):
    return json.dumps({"text": " ".join(tokens), "tokens": tokens, "tags": tags}) + "\n"


JSON = '{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n'
# case -> (task, the good file, the bad file, what follows the files, flags, what is said)
DATA = {
    "an unseen label": (
        "classification",
        ROWS,
        "z\ta cat\n",
        COLUMNS,
        (),
        "Example 1 has the label 'z', which no training example has: 'x', 'y'.",
    ),
    "no label": ("classification", ROWS, "x\ta\n\tno class\n", COLUMNS, (), "Example 2 has no label"),
    "no column of labels": (
        "classification",
        ROWS,
        ROWS,
        ",columns=class:text",
        (),
        "local_text has no field 'label'; it has class, text; name yours with",
    ),
    "a label and no text": ("classification", ROWS, "x\ta\ny\t\n", COLUMNS, (), "Example 2 has an empty text"),
    "one class": ("classification", "x\ta\nx\tb\n", ROWS, COLUMNS, (), "Every training example has the label 'x'"),
    "a pair too long": (
        "classification",
        PAIRS.format("f"),
        PAIRS.format("a cat " * 40),
        ",format=csv",
        ("--set=overlong=refuse", "--seq_length=20"),
        "Example 2 does not fit into --seq_length=20",
    ),
    "weights of other classes": (
        "classification",
        ROWS,
        ROWS,
        COLUMNS,
        ("--set=class_weights=1,2,3",),
        "There are 2 labels and 3 class_weights",
    ),
    "two kinds of weights": (
        "classification",
        ROWS,
        ROWS,
        COLUMNS,
        ("--set=class_weights=1,2", "--set=balance=true"),
        "balance and class_weights",
    ),
    "two labels": (
        "classification",
        JSON,
        '{"text": "a", "label": ["x", "y"]}\n',
        "",
        (),
        "Example 1 has the label ['x', 'y']; it must be one",
    ),
    "letters for words": (
        "tagging",
        tagged("ab", "DN"),
        tagged("ab", "DN"),
        ",format=jsonl",
        (),
        "Example 1 must have lists of strings",
    ),
    "tags missing": (
        "tagging",
        tagged(["a", "b"], ["D", "N"]),
        tagged(["a", "b", "c"], ["D", "N"]),
        ",format=jsonl",
        (),
        "Example 1 has 3 words and 2 tags",
    ),
    "a word without a tag": (
        "tagging",
        "a\tD\nb\tN\n",
        "a\tD\nb\n",
        ",format=tagged",
        (),
        "bad, line 2 is not a word, a tab and its tag: 'b'.",
    ),
    "an unseen tag": (
        "tagging",
        "a\tD\nb\tN\n",
        "a\tV\n",
        ",format=tagged",
        (),
        "Example 1 has the tag 'V', which no training example has",
    ),
    "an answer from elsewhere": (
        "question_answering",
        squad(),
        squad(answers=[{"text": "cat", "answer_start": 4}]),
        ",format=squad",
        (),
        "Example 1 has the answer 'cat', which is not in its context.",
    ),
    "no context": (
        "question_answering",
        squad(),
        squad(context="", answers=[]),
        ",format=squad",
        (),
        "Example 1 has an empty context",
    ),
    "no question": ("question_answering", squad(), squad(question=""), ",format=squad", (), "Example 1 has an empty question"),
}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(capfd, *arguments):
    """The sentence with which a run refuses; it has left nothing."""
    answer = programs.call(capfd, "run", *arguments, "--noexport", "--xla=off", "--steps=1", "--model_dir=run")
    assert answer.status == 2, answer.err
    assert answer.err.startswith("error: ") and len(answer.err.splitlines()) == 1
    return answer.err.removeprefix("error: ").rstrip("\n")


@pytest.mark.parametrize("case", DATA)
def test_labelled_data_that_cannot_be_right(case, workplace, capfd):
    task, good, bad, options, arguments, sentence = DATA[case]
    (workplace / "good").write_text(good, encoding="utf8")
    (workplace / "bad").write_text(bad, encoding="utf8")
    options = options if "format" in options else f"{options},format={'tsv' if options else 'jsonl'}"
    model = ("--model=bag_of_words",) if task == "classification" else ("--model=bert", "--preset=tiny", f"--task={task}")
    lengths = () if task == "classification" else ("--seq_length=64",)
    data = f"--data_path=train=good,validation=bad{options}"
    assert sentence in refusal(capfd, *model, "--tokenizer=byte", *lengths, data, *arguments)
    assert not (workplace / "run").exists()


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        (
            "vocab.txt",
            "[UNK]\n[CLS]\n[SEP]\nthe\ncat\nthe\n",
            "has the token 'the' twice, on line 4 and on line 6; each must be there once.",
        ),
        (
            "tokenizer.json",
            '{"model": {"type": "BPE", "vocab": {"the": 0, "cat": 1, "the": 2}}}',
            "tokenizer.json has 'the' twice; each must be there once.",
        ),
        ("encoder.json", '{"the": 0, "cat": 1, "the": 2}', "encoder.json has 'the' twice; each must be there once."),
    ],
)
def test_a_vocabulary_with_duplicates(name, text, sentence, workplace, capfd):
    (workplace / "text.txt").write_text("the cat " * 99)
    (workplace / "vocab.bpe").write_text("#version: 0.2\n")
    (workplace / name).write_text(text)
    spec = workplace if name == "encoder.json" else workplace / name
    assert sentence in refusal(capfd, "--model=gpt", "--preset=tiny", f"--tokenizer={spec}", "--data_path=text.txt")


def test_a_server_is_asked_what_it_cannot_answer():
    fill = exports.served("bert", "masked_lm")
    for text in ("no hole here", ""):
        with pytest.raises(RequestError, match=r"INVALID_ARGUMENT: .*Each text needs a hole to be filled, written \[MASK\]"):
            fill.run("fill_mask", {"text": ["[MASK] .", text]})
    with pytest.raises(RequestError, match="The longest text has .* tokens"):
        fill.run("fill_mask", {"text": ["[MASK] " * 99]})
    with pytest.raises(
        RequestError, match="The longest text has .* tokens, with the special ones around it; this model takes at most"
    ):
        exports.served("bert", "tagging").run("tag", {"text": ["a " * 99]})
    with pytest.raises(RequestError, match="question and context belong together row by row; got 1 and 2 rows."):
        exports.served("bert", "question_answering").run("answer", {"question": ["who?"], "context": ["a", "b"]})
