"""Bundles and exports that version 0.1 made load, and give the numbers that it gave; see fixtures/made_before/README.md.

Shape letters: B batch, T positions, V vocabulary, C classes.
"""

import functools
import inspect
import json
from pathlib import Path

import numpy as np
import pytest

import zoo
from zoo.serving import c_api

MADE_BEFORE = Path(__file__).parent / "fixtures" / "made_before"
CASES = {
    "gpt": ("gpt", "language_modeling", "byte"),
    "bert_classification": ("bert", "classification", "wordpiece"),
    "ngram": ("ngram", "language_modeling", "word"),
}
CLOSE = dict(rtol=1e-6, atol=1e-6)
# A whole answer goes through decoding, whose log-probabilities are sums over the tokens of a text.
ANSWER = dict(rtol=1e-5, atol=1e-5)


@functools.cache
def numbers(case):
    """What version 0.1 gave for a case: `token_ids` (B, T), `logits` (B, T, V) or (B, C), `requests`, perhaps `generate`."""
    return json.loads((MADE_BEFORE / case / "numbers.json").read_text(encoding="utf8"))


@functools.cache
def loaded(case):
    """The bundle of a case."""
    return zoo.load(MADE_BEFORE / case / "bundle")


@pytest.mark.parametrize("case", CASES)
def test_a_bundle_is_what_it_was(case):
    bundle = loaded(case)
    names = tuple(part.registered_name for part in (bundle.model, bundle.task, bundle.tokenizer))
    assert names == CASES[case]
    assert bundle.bundle.provenance["licence"] == "CC0"
    logits = bundle.model(np.array(numbers(case)["token_ids"], np.int32))
    np.testing.assert_allclose(logits, numbers(case)["logits"], **CLOSE)


@pytest.mark.parametrize("case", [case for case in CASES if "generate" in numbers(case)])
def test_a_bundle_writes_what_it_wrote(case):
    for asked in numbers(case)["generate"]:
        assert loaded(case).generate(**asked["arguments"]) == asked["text"], asked["arguments"]


@pytest.mark.parametrize("case", CASES)
def test_a_bundles_signatures_answer_what_they_answered(case):
    inputs_of = {
        name: inspect.signature(function.python_function).parameters for name, function in loaded(case).signatures.items()
    }
    assert_answers(lambda name, inputs: loaded(case).predict(name, **inputs), inputs_of, case, spelt)


@pytest.mark.parametrize("case", CASES)
def test_an_exports_signatures_answer_what_they_answered(case):
    export = c_api.SavedModel(MADE_BEFORE / case / "export" / "1")
    inputs_of = {name: signature.inputs for name, signature in export.signatures.items()}
    assert_answers(export.run, inputs_of, case, as_bytes)
    export.close()


def assert_answers(run, inputs_of, case, as_string):
    """Every request gets the answer that it got. One that goes on from another is fed with the answer of now: what a state
    holds is a matter between `prefill` and `decode_step`.

    Args:
        run: `run(signature, inputs) -> name -> array`.
        inputs_of: signature -> names of its inputs.
        case: a key of `CASES`.
        as_string: turns a string of numbers.json into what `run` gives for it.
    """
    answers = []
    for request in numbers(case)["requests"]:
        name, inputs = request["signature"], request["inputs"]
        if request["feed"] is not None:
            fed = {key: value for key, value in answers[request["feed"]].items() if key in inputs_of[name]}
            inputs = {**fed, **inputs}
        answers.append(run(name, inputs))
        for output, expected in request["outputs"].items():
            actual, message = answers[-1][output], f"{name} {output} for {request['inputs']}"
            if actual.dtype == object:
                expected = np.vectorize(as_string, otypes=[object])(expected)
            if actual.dtype.kind == "f":
                np.testing.assert_allclose(actual, expected, **ANSWER, err_msg=message)
            else:
                np.testing.assert_array_equal(actual, expected, err_msg=message)


def as_bytes(text):
    """A string of numbers.json, where bytes that are no UTF-8 are surrogates, as bytes."""
    return text.encode("utf8", "surrogateescape")


def spelt(text):
    """The same as Python gives it: every byte that is no UTF-8 is replaced."""
    return as_bytes(text).decode("utf8", "replace")
