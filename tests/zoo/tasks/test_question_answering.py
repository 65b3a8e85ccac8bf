"""Question answering: words and their bytes, windows, the best span, SQuAD's scores, answers; and what is refused."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests import tiny_models
from zoo import metrics
from zoo.data.batch import Layout
from zoo.registry import MODELS, tasks_of
from zoo.tasks.question_answering import IMPOSSIBLE, QuestionAnswering, QuestionAnsweringConfig, best_spans, words_with_offsets
from zoo.tokenizers.base import create

CONTEXT = "abs: the value. len: a number of items, 東京! max: the largest of all items."
EXAMPLES = [
    {"question": "What is abs?", "context": CONTEXT, "answers": ["the value."], "answer_starts": [5]},
    {"question": "What is max?", "context": CONTEXT, "answers": ["largest of all"], "answer_starts": [CONTEXT.index("larg")]},
    {"question": "What is len?", "context": CONTEXT, "answers": ["東京"], "answer_starts": [CONTEXT.index("東")]},
]
LAYOUT = Layout(seq_length=24, batch_size=4)


def parts():
    task = QuestionAnswering(QuestionAnsweringConfig(max_question=6, stride=4, head_dropout=0.0))
    task.inspect(EXAMPLES)
    return task, create("wordpiece", [CONTEXT, "What is abs? max len"] * 3, vocab_size=120)


def test_words_and_the_bytes_they_stand_at():
    texts = ["It's  5%,\t東京naïve! ", "", "  "]
    words, starts, ends = words_with_offsets(tf.constant(texts))
    assert [word.decode() for word in words[0].numpy()] == ["It", "'", "s", "5", "%", ",", "東", "京", "naïve", "!"]
    data = texts[0].encode()
    assert [data[a:b] for a, b in zip(starts[0].numpy(), ends[0].numpy(), strict=True)] == words[0].numpy().tolist()
    assert words.row_lengths().numpy().tolist() == [10, 0, 0]


@pytest.mark.parametrize(("text", "expected"), [
    ("カナダの首都はオタワ", list("カナダの首都はオタワ")),
    ("กรุงเทพ 12 คน", [*"กรุงเทพ", "12", *"คน"]),
    ("5\u00a0km\u3000à\u202fl\u2009est", ["5", "km", "à", "l", "est"]),
    ("𠮷野家", list("𠮷野家")),
])  # fmt: skip
def test_writing_without_blanks_is_cut_at_every_character_and_blanks_of_all_kinds_are_blanks(text, expected):
    words, starts, ends = words_with_offsets(tf.constant([text]))
    assert [word.decode() for word in words[0].numpy()] == expected
    data = text.encode()
    assert [data[a:b].decode() for a, b in zip(starts[0].numpy(), ends[0].numpy(), strict=True)] == expected


def test_every_answer_of_a_japanese_text_can_be_given_and_what_cannot_is_counted():
    """A perfect reader of the labels gives back each answer, letter by letter."""
    context = "オタワはカナダの首都であり、2021年の人口は約101万人である。Tokyoite lives here."
    wanted = ["カナダ", "オタワ", "101万人", "首都", "Tokyoite lives", "Tokyo"]
    tokenizer = create("wordpiece", [context] * 3, vocab_size=200)
    task = QuestionAnswering(QuestionAnsweringConfig(max_question=8, stride=8, max_answer=5))
    data = task.encode(
        [{"question": "何?", "context": context, "answers": [text], "answer_starts": [context.index(text)]} for text in wanted],
        tokenizer, Layout(128, 2),
    )  # fmt: skip
    read = []
    for i, (first, last) in enumerate(data.batch["labels"]):
        text, starts, ends = data.contexts[data.questions[i]]
        read.append(text[starts[data.words[i, first]] : ends[data.words[i, last]]].decode())
    assert read == [*wanted[:-1], "Tokyoite"]
    assert task.size(data) == "6 questions in 6 windows (1 answers are widened to whole words)"
    assert metrics.overlap_f1("カナダの", "カナダ") == pytest.approx(2 * 3 / 7) and metrics.exact_match("カナダ", "カナ") == 0


def test_windows_overlap_and_every_answer_is_whole_in_one():
    task, tokenizer = parts()
    data = task.encode(EXAMPLES, tokenizer, LAYOUT)
    assert data.questions.tolist() == sorted(data.questions.tolist()) and len(data) > 3
    begin, end = tokenizer.cls_id, tokenizer.sep_id
    for row in range(len(data)):
        ids = data.batch["token_ids"][row][data.batch["padding_mask"][row]].tolist()
        assert ids[0] == begin and ids[-1] == end and ids.count(end) == 2 and len(ids) <= 24
        segments = data.batch["segment_ids"][row][: len(ids)].tolist()
        assert segments == [0] * (ids.index(end) + 1) + [1] * (len(ids) - ids.index(end) - 1)
    for question, example in enumerate(EXAMPLES):
        mine = data.questions == question
        labels = data.batch["labels"][mine]
        assert labels.any(1).any()
        text, starts, ends = data.contexts[question]
        for words, (first, last) in zip(data.words[mine], labels, strict=True):
            if last:
                found = text[starts[words[first]] : ends[words[last]]].decode()
                assert found == example["answers"][0]
        seen = set(data.words[mine].ravel().tolist()) - {-1}
        assert seen == set(range(len(starts)))  # no word is lost between windows


def test_what_the_question_holds_too_is_marked():
    task, tokenizer = parts()
    plain = task.encode(EXAMPLES, tokenizer, LAYOUT).batch
    task.config = dataclasses.replace(task.config, match=True)
    matched = task.encode(EXAMPLES, tokenizer, LAYOUT).batch
    assert task.model_fields(tokenizer)["num_segments"] == 3
    marked = []
    for row, segments in enumerate(plain["segment_ids"]):
        ids, real = plain["token_ids"][row].tolist(), int(plain["padding_mask"][row].sum())
        asked = ids[1 : ids.index(tokenizer.sep_id)]
        wanted = [2 if i < real - 1 and s == 1 and ids[i] in asked else s for i, s in enumerate(segments.tolist())]
        assert matched["segment_ids"][row].tolist() == wanted
        marked += [token for token, segment in zip(ids, wanted, strict=True) if segment == 2]
    assert tokenizer.encode("max")[0] in marked and tokenizer.encode("number")[0] not in marked


def test_the_best_span_of_all_windows():
    words = np.array([[[-1, 0, -1, 1, 2], [-1, 1, 2, 3, -1]]])
    logits = np.full((1, 2, 5, 2), 0.0, np.float32)
    logits[0, 0, 4, 0], logits[0, 0, 1, 1] = 9, 9  # a start after its end is not a span
    logits[0, 1, 2, 0], logits[0, 1, 3, 1] = 5, 6
    best, first, last = best_spans(tf.constant(logits), tf.constant(words), 2)
    assert (float(best[0]), int(first[0]), int(last[0])) == (11.0, 2, 3)
    best, first, last = best_spans(tf.constant(logits), tf.constant(words), 1)  # of one word
    assert (float(best[0]), int(first[0]), int(last[0])) == (9.0, 2, 2) or float(best[0]) == 9.0
    best, _, _ = best_spans(tf.constant(logits), tf.constant(np.full_like(words, -1)), 3)
    assert best[0] < IMPOSSIBLE / 2


def test_scores_are_squads():
    assert metrics.exact_match("The  Cat!", "cat") == 1.0 and metrics.exact_match("cats", "cat") == 0.0
    assert metrics.overlap_f1("the black cat sat", "a black cat") == pytest.approx(2 * 2 / (3 + 2))
    assert metrics.overlap_f1("", "") == 1.0 and metrics.overlap_f1("cat", "") == 0.0
    assert metrics.overlap_f1("在北京大学", "北京") == pytest.approx(2 * 2 / (5 + 2))
    assert metrics.exact_match("北京。", "北京") == 1.0


def test_scores_of_chinese_are_those_of_cmrc():
    """The longest run that both have, of characters and of words of other writing; its marks are not units."""
    assert metrics.overlap_f1("京北大学", "北京大学") == pytest.approx(2 * 2 / (4 + 4))  # SQuAD would find all four characters
    assert metrics.overlap_f1("1998年，GPT 模型", "gpt模型") == pytest.approx(2 * 3 / (5 + 3))
    assert metrics.exact_match("《红楼梦》", "红楼梦") == 1.0 and metrics.exact_match("红楼梦(上)", "红楼梦") == 0.0
    assert metrics.overlap_f1("", "北京") == metrics.overlap_f1("北京", "") == 0.0
    assert metrics.exact_match("it’s", "its") == 0.0 and metrics.exact_match("it's", "its") == 1.0  # SQuAD strips ASCII alone


def test_smoothing_is_over_the_positions_that_could_be_labels():
    batch = {
        "labels": np.array([[0, 2]]),
        "loss_weights": np.ones(1, "float32"),
        "candidates": np.array([[True, False, True, True]]),
    }
    p = np.array([[0.5, 0.2], [1e-30, 1e-30], [0.25, 0.3], [0.25, 0.5]], "float32")[None]
    plain, _ = QuestionAnswering().loss(batch, np.log(p))
    assert float(plain) == pytest.approx(-(np.log(0.5) + np.log(0.3)) / 2, rel=1e-5)
    smoothed, count = QuestionAnswering(label_smoothing=0.3).loss(batch, np.log(p))
    targets = np.array([[0.8, 0.1], [0.1, 0.8], [0.1, 0.1]])
    assert float(smoothed) == pytest.approx(-(targets * np.log(p[0, [0, 2, 3]])).sum() / 2, rel=1e-5) and float(count) == 1


def test_an_answer_in_other_words_is_judged_by_and_not_trained_on():
    """CMRC 2018 tells of it by a start of -1, beside answers that are in the context."""
    task, tokenizer = parts()
    example = {**EXAMPLES[2], "answers": ["Tokyo", "東京", "abs"], "answer_starts": [-1, CONTEXT.index("東"), -1]}
    data = task.encode([EXAMPLES[2], example], tokenizer, Layout(48, 2))
    np.testing.assert_array_equal(*data.batch["labels"])
    assert data.batch["labels"].all() and data.answers[1] == ["Tokyo", "東京", "abs"]


@pytest.mark.parametrize(("changes", "sentence"), [
    (dict(answers=["Tokyo"], answer_starts=[-1]), "answer 'Tokyo', which is not in its context"),
    (dict(answers=["no such thing"], answer_starts=[0]), "answer 'no such thing', which is not in its context"),
    (dict(question=""), "Example 1 has an empty question"), (dict(context=None), "Example 1 has an empty context"),
    (dict(answer_starts=[]), "Example 1 has 1 answers and 0 starts"),
])  # fmt: skip
def test_examples_that_are_refused(changes, sentence):
    task, tokenizer = parts()
    with pytest.raises(ValueError, match=sentence):
        task.encode([{**EXAMPLES[0], **changes}], tokenizer, LAYOUT)


def test_windows_without_room_are_refused():
    task, tokenizer = parts()
    with pytest.raises(ValueError, match="windows of 12 tokens leave 3 for the context beside a question of 6"):
        task.encode(EXAMPLES, tokenizer, Layout(12, 2))


@pytest.mark.parametrize("name", [name for name in MODELS.names() if "question_answering" in tasks_of(MODELS.config(name))])
def test_a_model_learns_and_a_server_answers_as_evaluation_does(name):
    task, tokenizer = parts()
    fields = {**task.model_fields(tokenizer), "dropout": 0.0, "max_length": 24}
    config = MODELS.config(name).preset("tiny")
    config = config.replace(**{k: v for k, v in fields.items() if k in config.field_names()})
    model = task.assemble(MODELS.get(name)(config)).build_from_ids()
    data = task.encode(EXAMPLES, tokenizer, LAYOUT)
    batches = task.training_batches(data, model, tokenizer, LAYOUT)
    trainer = tiny_models.trainer(model, steps=50, task=task, learning_rate=0.01 if name == "bert" else 0.05)
    losses = [float(trainer.step(batches.batch(step))[0]) for step in range(50)]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    totals, rows = {}, {}
    for batch in task.evaluation_batches(data, model, tokenizer, LAYOUT):
        sums, kept, _ = task.score(model, batch)
        for key, value in sums.items():
            totals[key] = totals.get(key, 0) + np.asarray(value)
        for key, value in kept.items():
            rows.setdefault(key, []).append(np.asarray(value))
    scores = task.metrics(totals, rows, data)
    answer = task.signatures(model, tokenizer)["answer"]
    questions, contexts = ([example[key] for example in EXAMPLES] for key in ("question", "context"))
    together = answer(tf.constant([*questions, ""]), tf.constant([*contexts, ""]))
    texts = [text.decode() for text in together["answer"].numpy()]
    assert texts[3] == "" and together["start"][3] == together["end"][3] == -1
    exact = np.mean([metrics.exact_match(text, example["answers"][0]) for text, example in zip(texts, EXAMPLES, strict=False)])
    assert scores["exact_match"] == pytest.approx(exact) and scores["num_questions"] == 3
    for row in range(3):
        start, end = int(together["start"][row]), int(together["end"][row])
        assert contexts[row].encode()[start:end].decode() == texts[row]
        alone = answer(tf.constant(questions[row : row + 1]), tf.constant(contexts[row : row + 1]))
        assert alone["answer"][0] == together["answer"][row]
        np.testing.assert_allclose(alone["score"][0], together["score"][row], rtol=1e-4, atol=1e-5)


def test_starts_in_bytes_and_answers_that_no_window_holds_are_told():
    task, tokenizer = parts()
    context = "é anna met ben and ben met anna"
    second = context.index("ben", 15)

    def read(start, answer="ben"):
        asked = {"question": "who?", "context": context, "answers": [answer], "answer_starts": [start]}
        data = task.encode([asked], tokenizer, LAYOUT)
        found = [
            [int(data.contexts[0][1][words[place]]) for place in labels]
            for words, labels in zip(data.words, data.batch["labels"], strict=True) if labels.any()
        ]  # fmt: skip
        return found, data.remarks

    byte = len(context[:second].encode())
    told = ["1 answers do not stand at their start: the nearest place is taken"]
    given, said = read(second)
    assert given and {tuple(place) for place in given} == {(byte, byte)} and not said
    assert read(byte) == (given, told), "a start in bytes is understood, and told"
    assert read(second + 2) == (given, told)
    assert read(3, "and") == read(context.index("and"), "and") and not read(3, "and")[1], "there is one such place only"
    context = f"{context} " * 4
    assert read(0, context.strip())[1][-1] == "1 answers stand whole in no window; raise stride or --seq_length"
