"""The path of each task, as a user walks it by the command line: text in, a run, its scores by name, a bundle that answers.

`tests/test_path.py` walks it for language models, the tests of semantic roles, masked words and classification for theirs. That
what a bundle answers is what its export answers is for `tests/test_conformance_exports.py`.
"""

import json

import numpy as np
import pytest

import zoo
from tests import programs

WORDS = ("the", "cat", "sees", "a", "dog", "and", "the", "old", "man", "reads", "a", "red", "book")
SENTENCES = [" ".join(WORDS[(3 * i + j) % len(WORDS)] for j in range(3 + i % 4)) for i in range(40)]
PAIRS = [(text, " ".join(reversed(text.split()))) for text in SENTENCES]
QUESTIONS = [
    {"title": "t", "paragraphs": [{"context": text, "qas": [
        {"id": str(i), "question": "which word?", "answers": [{"text": text.split()[1], "answer_start": text.index(" ") + 1}]}
    ]}]} for i, text in enumerate(SENTENCES)
]  # fmt: skip
FILES = {
    "a.en": "".join(f"{source}\n" for source, _ in PAIRS), "a.de": "".join(f"{target}\n" for _, target in PAIRS),
    "a.jsonl": "".join(json.dumps({"source": source, "target": target}) + "\n" for source, target in PAIRS),
    "notes.txt": "".join(f"{text}.\n" for text in SENTENCES * 20),
    "similarity.tsv": "cat\tdog\t8.5\nold\tred\t5\nman\tbook\t1\n",
    "analogies.txt": ": people\ncat dog man book\nold red cat dog\n",
    "a.conll": "\n".join("".join(f"{word} {len(word)}\n" for word in text.split()) for text in SENTENCES),
    "a.json": json.dumps({"version": "1", "data": QUESTIONS}),
}  # fmt: skip
# Task -> its model, its flags, the scores that its metrics name, a request and what answers it.
TASKS = {
    "translation": (
        "seq2seq", ["--data_path=train=a.en:a.de,validation=a.en:a.de", "--set=judged=3", "--eval_tokens=200"],
        {"loss", "bits_per_byte", "bleu", "chrf", "bleu_signature", "chrf_signature"},
        ("serving_default", dict(text=["the cat"]), {"text"}),
    ),
    "summarization": (
        "lstm", ["--data_path=train=a.jsonl,validation=a.jsonl", "--set=judged=3"],
        {"loss", "bits_per_byte", "rouge1", "rouge2", "rougeL", "rougeLsum"},
        ("score", dict(text=["the cat"], target=["cat the"]), {"log_prob", "num_tokens"}),
    ),
    "span_corruption": (
        "t5", ["--data_path=notes.txt"], {"loss", "bits_per_byte"},
        ("fill", dict(text=["the <extra_id_0> sees"]), {"text", "spans"}),
    ),
    "blank_infilling": (
        "glm", ["--data_path=notes.txt"], {"loss", "bits_per_byte"},
        ("fill", dict(text=["the [MASK] sees"]), {"text", "spans"}),
    ),
    "word_vectors": (
        "word2vec", [
            "--data_path=notes.txt", "--tokenizer=word", "--set=window=2", "--set=lowercase=true", "--set=min_count=1",
            "--set=similarity=similarity.tsv", "--set=analogies=analogies.txt",
        ],
        {"loss", "similarity", "analogy"}, ("nearest", dict(word=["cat"], k=[2]), {"words", "similarity"}),
    ),
    "tagging": (
        "bilstm", ["--data_path=a.conll"], {"loss", "accuracy"},
        ("tag", dict(text=["the cat"]), {"tokens", "tags", "num_tokens", "score", "probs"}),
    ),
    "question_answering": (
        "bert", ["--data_path=train=a.json,validation=a.json,format=squad", "--set=max_question=6", "--set=stride=4"],
        {"loss", "exact_match", "f1"},
        ("serving_default", dict(question=["which?"], context=["the cat"]), {"answer", "start", "end", "score"}),
    ),
}  # fmt: skip


def test_partial_labels_by_the_command_line(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    tags = {"cat": "B-PER|B-ORG", "dog": "B-PER", "man": "B-ORG", "old": "*"}
    sentences = ["".join(f"{word} {tags.get(word, 'O')}\n" for word in text.split()) for text in SENTENCES]
    (tmp_path / "a.conll").write_text("\n".join(sentences), encoding="utf8")
    answer = programs.call(
        capfd, "run", "--model=bilstm", "--preset=tiny", "--task=tagging", "--data_path=a.conll", "--set=crf=true",
        "--set=partial=true", "--set=scheme=BIO", "--steps=2", "--eval_every=1", "--batch_size=4", "--seq_length=32",
        "--xla=off", "--noexport", "--model_dir=run",
    )  # fmt: skip
    assert answer.status == 0, answer.err
    assert sorted(zoo.load("run").task.facts.labels) == ["B-ORG", "B-PER", "I-ORG", "I-PER", "O"]
    answer = programs.call(capfd, "evaluate", "--model_dir=run", "--split=test", "--predictions=told.conll")
    assert answer.status == 0, answer.err
    lines = [line.split("\t") for line in (tmp_path / "told.conll").read_text(encoding="utf8").splitlines() if line]
    assert {line[1] for line in lines if line[0] == "cat"} <= {"B-PER|B-ORG", "B-PER", "B-ORG"}


@pytest.mark.parametrize("task", TASKS)
def test_a_task_by_the_command_line(task, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf8")
    model, flags, scores, (signature, inputs, outputs) = TASKS[task]
    command = [
        "run", f"--model={model}", "--preset=tiny", f"--task={task}", "--steps=2", "--eval_every=1", "--batch_size=4",
        "--seq_length=32", "--xla=off", "--noexport", "--model_dir=run", *flags,
    ]  # fmt: skip
    answer = programs.call(capfd, *command)
    assert answer.status == 0, answer.err
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf8").splitlines()]
    assert {line["split"] for line in lines} == {"train", "validation", "test"}
    assert all(scores <= line.keys() for line in lines if line["split"] == "test")
    assert all("loss" in line for line in lines)
    if task in ("translation", "summarization"):
        assert f"trainers.generate --model_dir=run --prompt='{SENTENCES[0]}'" in answer.out
        assert all(line["bits_per_byte"] > 0 for line in lines)
    answers = zoo.load("run").predict(signature, **inputs)
    assert answers.keys() == outputs and all(len(np.asarray(value)) == 1 for value in answers.values())
    if task == "translation":
        told = {name: value for name, value in lines[-1].items() if name.endswith("_signature")}
        config = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf8"))
        assert {name: config[name] for name in told} == told and "nrefs:1|" in told["bleu_signature"]
        assert answer.out.count("(200 of 1,280 tokens, drawn once)") >= 2
        assert programs.call(capfd, *command).status == 0  # the run goes on: nothing is left to do
