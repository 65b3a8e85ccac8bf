"""The task of word vectors: what judges them, and options that are refused."""

import collections

import numpy as np
import pytest

import zoo
from zoo.config import Refusal
from zoo.data.batch import Layout
from zoo.registry import TASKS
from zoo.tokenizers.word import WordTokenizer


@pytest.mark.parametrize("name", ["similarity", "analogies"])
def test_questions_that_cannot_be_read_are_refused_before_the_training(name, tmp_path):
    task = TASKS.get("word_vectors")(TASKS.config("word_vectors")().override([f"{name}={tmp_path / 'nowhere.tsv'}"]))
    with pytest.raises(Refusal, match="nowhere.tsv cannot be read"):
        task.training_batches(None, zoo.create("word2vec", "tiny"), None, None)


@pytest.mark.parametrize(("name", "option"), [("word2vec", "x_max=5"), ("glove", "sample=0.01"), ("glove", "negatives=7")])
def test_an_option_that_the_objective_does_not_read_is_refused(name, option):
    task = TASKS.get("word_vectors")(TASKS.config("word_vectors")().override([option]))
    with pytest.raises(Refusal, match=f"does not read {option.partition('=')[0]}; leave out --set"):
        task.training_batches(None, zoo.create(name, "tiny"), None, None)


def test_analogies_are_counted_as_compute_accuracy_counts_them(tmp_path):
    """3CosAdd over the most frequent words, the three given ones left out, questions with unknown words apart."""
    rng = np.random.default_rng(5)
    words = [f"w{i}" for i in range(30)]
    vectors = rng.normal(size=(30, 4)).astype(np.float32)
    questions = [rng.choice(28, 3, replace=False) for _ in range(40)]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    most, answers = 25, []
    for a, b, c in questions:
        scores = unit @ (unit[b] - unit[a] + unit[c])
        scores[[a, b, c]] = -9
        answers.append(int(scores[:most].argmax()))
    asked = [(*map(int, question), answer if i % 3 else (answer + 1) % most) for i, (question, answer) in
             enumerate(zip(questions, answers, strict=True))]  # fmt: skip
    lines = [" ".join(words[i] for i in four) for four in asked]
    lines += ["w1 w2 w3 nowhere", "w1 nowhere w3 w4"]
    path = tmp_path / "questions.txt"
    path.write_text(": family\n" + "\n".join(lines[:20]) + "\n: gram\n" + "\n".join(lines[20:]) + "\n")
    known = [max(four) < most for four in asked]
    right = [four[3] == answer and len({*four}) == 4 for four, answer in zip(asked, answers, strict=True)]

    tokenizer = WordTokenizer(words)
    task = TASKS.get("word_vectors")(
        TASKS.config("word_vectors")().override([f"analogies={path}", f"candidates={most}", "sample=0"])
    )
    model = zoo.create("word2vec", "tiny", vocab_size=32, hidden_dim=4, eos_id=1, unk_id=0)
    model = task.assemble(model).build_from_ids()
    model.without_head().embeddings.assign(np.concatenate([np.zeros((2, 4), np.float32), vectors]))
    model.head.counts.assign(np.array([0, 0, *range(60, 30, -1)], np.float32))
    stream = np.array([1, 2, 3, 4, 5, 1], np.int32)
    totals, rows = collections.Counter(), collections.defaultdict(list)
    for batch in task.evaluation_batches(stream, model, tokenizer, Layout(seq_length=4, batch_size=7)):
        sums, kept, _ = task.score(model, batch)
        totals.update({name: float(value) for name, value in sums.items()})
        for name, value in kept.items():
            rows[name].append(np.asarray(value))
    found = task.metrics(totals, rows, None)
    assert found["analogy"] == pytest.approx(np.mean([r for r, k in zip(right, known, strict=True) if k]))
    first = [r for r, k in zip(right[:20], known[:20], strict=True) if k]
    assert found["analogy_semantic"] == pytest.approx(np.mean(first))
    assert found["analogy_unknown"] == 2 + known.count(False)
