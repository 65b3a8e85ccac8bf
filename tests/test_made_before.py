"""Bundles and exports that version 0.1 made load, and give the numbers that it gave; see fixtures/made_before/README.md.

Shape letters: B batch, T positions, V vocabulary, C classes.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pytest

import zoo
from zoo.serving import c_api

MADE_BEFORE = Path(__file__).parent / "fixtures" / "made_before"
# Of each case its model, task and tokenizer.
CASES = {
    "gpt": ("gpt", "language_modeling", "byte"),
    "bert_classification": ("bert", "classification", "wordpiece"),
    "ngram": ("ngram", "language_modeling", "word"),
}
LOGITS = dict(rtol=1e-6, atol=1e-6)
# As near as an export must come to Python when it is made.
ANSWER = dict(rtol=1e-5, atol=1e-5)


@functools.cache
def numbers(case):
    """What version 0.1 gave: `token_ids` (B, T), their `logits` (B, T, V) or (B, C), `requests`, for some cases `generate`."""
    return json.loads((MADE_BEFORE / case / "numbers.json").read_text(encoding="utf8"))


@functools.cache
def loaded(case):
    """The bundle of a case. It is kept, as tracing its signatures takes seconds."""
    return zoo.load(MADE_BEFORE / case / "bundle")


@pytest.mark.parametrize("case", CASES)
def test_a_bundle_loads_and_gives_the_same_logits(case):
    bundle = loaded(case)
    names = tuple(part.registered_name for part in (bundle.model, bundle.task, bundle.tokenizer))
    assert names == CASES[case]
    logits = bundle.model(np.array(numbers(case)["token_ids"], np.int32))
    np.testing.assert_allclose(logits, numbers(case)["logits"], **LOGITS)


@pytest.mark.parametrize("case", CASES)
def test_a_bundle_answers_the_same(case):
    """The export answers through all signatures, below; here are those that differ in what they compute."""
    for request in numbers(case)["requests"]:
        if request["signature"] in ("generate", "score", "classify", "embed"):
            assert_same(loaded(case).predict(request["signature"], **request["inputs"]), request, in_python)
    for request in numbers(case).get("generate", []):
        assert loaded(case).generate(**request["arguments"]) == request["text"], request["arguments"]


@pytest.mark.parametrize("case", CASES)
def test_an_export_loads_and_answers_the_same(case):
    export = c_api.SavedModel(MADE_BEFORE / case / "export" / "1")
    requests, answers = numbers(case)["requests"], []
    assert {request["signature"] for request in requests} == export.signatures.keys()
    for request in requests:
        signature, earlier = request["signature"], request["feed"]
        fed = {} if earlier is None else answers[earlier]
        fed = {name: value for name, value in fed.items() if name in export.signatures[signature].inputs}
        answers.append(export.run(signature, {**fed, **request["inputs"]}))
        assert_same(answers[-1], request, in_bytes)
    export.close()


def assert_same(answer, request, as_string):
    """An answer, name -> array, has the outputs that a request of numbers.json had.

    Args:
        as_string: turns a string of numbers.json into what stands in the answer.
    """
    for name, expected in request["outputs"].items():
        actual, message = answer[name], f"{request['signature']}, {name} for {request['inputs']}"
        if actual.dtype.kind == "f":
            np.testing.assert_allclose(actual, expected, **ANSWER, err_msg=message)
            continue
        if actual.dtype == object:
            expected = np.vectorize(as_string, otypes=[object])(expected)
        np.testing.assert_array_equal(actual, expected, err_msg=message)


def in_bytes(text):
    """A string of numbers.json, where a byte that is not UTF-8 is a surrogate, as bytes."""
    return text.encode("utf8", "surrogateescape")


def in_python(text):
    """The same as a string in which a character says that bytes were not UTF-8."""
    return in_bytes(text).decode("utf8", "replace")
