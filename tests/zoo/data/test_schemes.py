"""Spans written in schemes and read back, in all ways; strict spans against seqeval."""

import itertools

import numpy as np
import pytest

from zoo import metrics
from zoo.data.schemes import SCHEMES, closest_scheme, scheme_of, tags_of, well_formed, written

PLACES = {"BIO": "IOB2", "BIOES": "IOBES", "BIOUL": "BILOU"}  # our names and seqeval's


def all_spans(length, kinds):
    """Every list of spans of a sentence of `length` words."""
    if length == 0:
        yield []
        return
    for before in all_spans(length - 1, kinds):
        yield before
    for size in range(1, length + 1):
        for before, kind in itertools.product(all_spans(length - size, kinds), kinds):
            yield [*before, (kind, length - size, length - 1)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_written_is_read_back(scheme):
    for kinds in (("x", "y"), ("",)):
        for spans in all_spans(4, kinds):
            tags = written(spans, 4, scheme)
            assert metrics.entities(tags) == spans, tags
            assert well_formed(spans, tags, scheme) == set(spans)
            assert set(tags) <= set(tags_of(kinds, scheme))
            assert scheme_of([tags]) is not None


def test_the_scheme_of_what_is_written():
    sentences = {scheme: [written(spans, 4, scheme) for spans in all_spans(4, ("x",))] for scheme in SCHEMES}
    assert {scheme: scheme_of(some) for scheme, some in sentences.items()} == {scheme: scheme for scheme in SCHEMES}


def test_the_closest_scheme_and_how_many_sentences_break_it():
    assert closest_scheme([["B-x"], ["O", "I-x"], ["O", "B-x"], []]) == ("BIO", 1)
    assert closest_scheme([["N"], ["V"]]) == (None, 2) and closest_scheme([]) == ("BIO", 0)


def test_strict_spans_by_hand():
    tags = ["I-x", "O", "B-x", "I-x", "I-y"]
    assert well_formed(metrics.entities(tags), tags, "BIO") == {("x", 2, 3)}
    tags = ["B-x", "I-x", "O", "S-x", "B-y", "E-y", "E-y"]
    assert well_formed(metrics.entities(tags), tags, "BIOES") == {("x", 3, 3), ("y", 4, 5)}


@pytest.mark.parametrize("scheme", PLACES)
def test_strict_spans_are_seqevals(scheme):
    seqeval = pytest.importorskip("seqeval.scheme", reason="seqeval is not installed")
    random, tags = np.random.default_rng(3), tags_of(("x", "y"), scheme)
    for _ in range(400):
        sentence = random.choice(tags, random.integers(1, 9)).tolist()
        tokens = seqeval.Tokens(sentence, getattr(seqeval, PLACES[scheme]))
        theirs = {(entity.tag, entity.start, entity.end - 1) for entity in tokens.entities}
        assert well_formed(metrics.entities(sentence), sentence, scheme) == theirs, sentence
