"""The likelihood of a word in its context against one pass of the model for each, unpadded."""

import numpy as np
import pytest
import tensorflow as tf

from tests import exports
from zoo import likelihood
from zoo.config import Refusal
from zoo.likelihood import log_probs

REQUESTS = [("the cat", " sat", " on"), ("a", " mat", "."), ("the naive dog ran on the mat ", "cat", " .")]


@pytest.mark.parametrize("name", ["gpt", "lstm", "ngram"])
def test_a_language_model_goes_on_behind_the_context(name):
    model, tokenizer, task = exports.made(name, "language_modeling")
    found = log_probs(model, tokenizer, task, REQUESTS, batch_size=2)
    for (before, word, _), log_prob in zip(REQUESTS, found, strict=True):
        begun, ids = list(tokenizer.encode(before.strip())), list(tokenizer.encode(before + word))  # a space is the word's
        rows = np.array([[tokenizer.eos_id, *ids]])
        every = tf.nn.log_softmax(model(rows[:, :-1]))[0]
        expected = sum(float(every[i, ids[i]]) for i in range(len(begun), len(ids)))
        assert log_prob == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["gpt", "lstm"])
def test_what_requests_have_in_common_is_read_once(name):
    model, tokenizer, task = exports.made(name, "language_modeling")
    requests = [("the cat sat: ", word, "") for word in ("on", "o", "mat", "ma", "x")] + [("the cat ran far: ", "on", "")]
    found = log_probs(model, tokenizer, task, requests, batch_size=2)
    alone = [log_probs(model, tokenizer, task, [request])[0] for request in requests]
    np.testing.assert_allclose(found, alone, atol=1e-4)


def test_rows_that_others_begin_with_are_no_rows_of_their_own():
    rows = [([1, 2], [3]), ([1, 2], [4, 5]), ([1, 2], [4, 6]), ([1, 2, 4], [7]), ([1, 3], [9])]
    assert likelihood._shared(rows) == 1 and likelihood._shared(rows[:3]) == 1 and likelihood._shared(rows[:1]) == 1
    carriers = {tuple(ids): sorted(asked) for ids, asked in likelihood._carriers(rows)}
    assert carriers == {
        (1, 2, 4): [(0, 1, 3), (1, 1, 4), (1, 2, 5), (2, 1, 4), (2, 2, 6), (3, 2, 7)], (1, 3): [(4, 1, 9)],
    }  # fmt: skip


def test_an_encoder_decoder_reads_the_context_as_its_source():
    model, tokenizer, task = exports.made("transformer", "translation")
    found = log_probs(model, tokenizer, task, REQUESTS, batch_size=2)
    frame = task.frame(model.kind, tokenizer)
    for (before, word, _), log_prob in zip(REQUESTS, found, strict=True):
        ids = list(tokenizer.encode(word.strip()))
        source = np.array([[*frame.before, *tokenizer.encode(before.strip()), *frame.after]])
        every = tf.nn.log_softmax(model({"source_ids": source, "token_ids": np.array([[*frame.target_start, *ids[:-1]]])}))[0]
        assert log_prob == pytest.approx(sum(float(every[i, ids[i]]) for i in range(len(ids))), abs=1e-4)


def test_a_model_of_blanks_writes_the_word_and_its_end_between_both_sides():
    model, tokenizer, task = exports.made("glm", "blank_infilling")
    found = log_probs(model, tokenizer, task, REQUESTS, batch_size=2)
    mask, sop, eop = (getattr(task.spelling(tokenizer).ids, name) for name in ("mask", "sop", "eop"))
    for (before, word, behind), log_prob in zip(REQUESTS, found, strict=True):
        begun, after = (list(tokenizer.encode(text)) for text in (before.strip(), behind))
        ids = list(tokenizer.encode(before[len(before.strip()) :] + word))
        part_a, blank = [*begun, mask, *after], len(begun)
        places = [*[(i, 0) for i in range(len(part_a))], *[(blank, i + 1) for i in range(len(ids) + 1)]]
        batch = {
            "token_ids": np.array([[*part_a, sop, *ids]], np.int32),
            "positions": np.array([places], np.int32),
            "prefix_lengths": np.array([len(part_a)], np.int32),
        }  # fmt: skip
        every = tf.nn.log_softmax(model.limited(model(batch)))[0, len(part_a) :]
        assert log_prob == pytest.approx(sum(float(every[i, label]) for i, label in enumerate([*ids, eop])), abs=1e-4)
    assert log_probs(model, tokenizer, task, [("a ", "b", " c")]) != log_probs(model, tokenizer, task, [("a ", "b", " d")])


def test_a_masked_model_hides_the_rest_of_the_word():
    model, tokenizer, task = exports.made("bert", "masked_lm")
    found = log_probs(model, tokenizer, task, REQUESTS, batch_size=2)
    frame = task.frame(model.kind, tokenizer)
    lengths = set()
    for (before, word, behind), log_prob in zip(REQUESTS, found, strict=True):
        begun, ids, after = (list(tokenizer.encode(text)) for text in (before, word, behind))
        lengths.add(len(ids))
        expected = 0.0
        for i in range(len(ids)):
            hidden = [tokenizer.mask_id] * (len(ids) - i)
            row = [*frame.before, *begun, *ids[:i], *hidden, *after, *frame.after]
            place = len(frame.before) + len(begun) + i
            logits = model({"token_ids": np.array([row], np.int32), "label_positions": np.array([[place]], np.int32)})[0, 0]
            expected += float(tf.nn.log_softmax(model.limited(logits))[ids[i]])
        assert log_prob == pytest.approx(expected, abs=1e-4)


def test_a_long_context_loses_its_beginning_and_other_models_are_refused():
    made = exports.made("gpt", "language_modeling")
    long, kept = "x" * 90 + "y" * 63, "y" * 63
    ids = np.array([[made.tokenizer.eos_id, *made.tokenizer.encode(kept)]])
    (found,) = log_probs(*made, [(long, "z", "")])
    (expected,) = made.tokenizer.encode("z")
    assert found == pytest.approx(float(tf.nn.log_softmax(made.model(ids))[0, -1, expected]), abs=1e-4)
    with pytest.raises(Refusal, match="has no token"):
        log_probs(*made, [("a", "", "")])
    with pytest.raises(Refusal, match="has more tokens than this model takes"):
        log_probs(*made, [("a", "z" * 70, "")])
    with pytest.raises(Refusal, match="take a language model"):
        log_probs(*exports.made("bert", "classification"), [("a", "b", "")])
