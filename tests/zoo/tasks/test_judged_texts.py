"""Pairs of texts: what is decoded to be judged, and what a trained model is asked with."""

import dataclasses

import numpy as np
import pytest

from tests import exports
from zoo.config import Refusal
from zoo.data.batch import Layout
from zoo.registry import TASKS

TEXTS = ["the cat sat on the mat", "a dog", "naive cat is not a dog", "on the mat the dog ran", "ran"]
PAIRS = [{"source": text, "target": " ".join(reversed(text.split()))} for text in TEXTS]


def judged_texts(model, tokenizer, **fields):
    """What a task writes for the pairs, and the most tokens that it may write."""
    task_class = TASKS.get("translation")
    task = task_class(task_class.config_class(**fields))
    data = task.encode(PAIRS, tokenizer, Layout(seq_length=48, batch_size=2))
    batches = task.evaluation_batches(data, model, tokenizer, Layout(seq_length=48, batch_size=2))
    answers = [task.score(model, batch)[1] for batch in batches]
    rows = {name: [np.asarray(answer[name]) for answer in answers] for name in answers[0]}
    return task._texts(rows, data), task.facts.most_written * 3 // 2


@pytest.mark.parametrize("name", ["transformer", "gpt"])
def test_with_beams_the_best_of_a_search_is_judged(name):
    model, tokenizer, task = exports.make(name, "translation", strong=False)
    greedy, _ = judged_texts(model, tokenizer)
    texts, most = judged_texts(model, tokenizer, judged_beams=3)
    signatures = task.signatures(model, tokenizer)
    options = {"max_new_tokens": [most], "num_beams": [3], "length_penalty": [1.0], "beam_rule": ["ctranslate2"]}
    found = signatures["beam_search"](text=np.array(TEXTS), **{key: np.array(value) for key, value in options.items()})["text"]
    assert texts == [best.decode("utf8", errors="replace") for best in found[:, 0].numpy()]
    assert texts != greedy


def test_a_search_has_at_least_one_beam():
    config = TASKS.get("summarization").config_class()
    with pytest.raises(Refusal, match="judged_beams"):
        dataclasses.replace(config, judged_beams=0)


@pytest.mark.parametrize(("sources", "seq_length", "asked"), [
    (["a dog", "ran"], 48, "a dog"),
    (["a " + "dog " * 20, "ran\tto\nthe  mat"], 100, "ran to the mat"),  # a whole one before the beginning of another
    (["a " + "dog " * 20, "the " * 20], 100, "a " + "dog " * 13 + "dog"),
    (["犬" * 61], 400, "犬" * 60),
    (["x\x07y", " \n", "\ud7ff\u200b", "ran"], 48, "ran"),  # what a terminal cannot show, or what is blank
    (["a long dog", "ran"], 7, "ran"),  # a source that does not fit is refused
    (["a long dog"], 7, None),
])  # fmt: skip
@pytest.mark.parametrize("name", ["transformer", "gpt"])
def test_a_command_asks_with_a_short_source_that_fits(name, sources, seq_length, asked):
    model, tokenizer, task = exports.make(name, "translation", strong=False)
    layout = Layout(seq_length=seq_length, batch_size=2, pairs_share_rows=name == "gpt")
    task = TASKS.get("translation")()
    data = task.encode([{"source": source, "target": "x"} for source in sources], tokenizer, layout)
    assert task.asked_with(data) == asked


@pytest.mark.parametrize(("task", "options", "sentences", "asked"), [
    ("tagging", {}, ["a", "b c", "d e f", "g h i"], "d e f"),
    ("tagging", {}, ["a", "b c"], "a"),
    ("tagging", {"words": "characters"}, ["a", "d e f"], "def"),
    ("tagging", {}, ["x\x07 y z"], None),
    ("semantic_roles", {}, ["d e f", "go f g"], "go f g"),  # the first word is the predicate
    ("semantic_roles", {}, ["d e f"], "d e f"),
])  # fmt: skip
def test_a_command_asks_with_a_sentence_that_shows_something(task, options, sentences, asked):
    class_ = TASKS.get(task)
    task, layout = class_(class_.config_class(**options)), Layout(seq_length=48, batch_size=2)
    examples = [
        {"tokens": words, "tags": ["B-X"] * len(words)} if task.registered_name == "tagging" else
        {"tokens": words, "predicates": [0] * (words[0] == "go"), "tags": [["B-V", "O", "O"]] * (words[0] == "go")}
        for words in map(str.split, sentences)
    ]  # fmt: skip
    known = (
        {"tokens": ["go"], "predicates": [0], "tags": [["B-V"]]} if task.registered_name == "semantic_roles" else examples[0]
    )
    task.inspect([known])
    assert task.asked_with(task.encode(examples, exports.make("bert", "tagging", strong=False)[1], layout)) == asked
