"""Spans written in schemes and read back, in all ways; strict spans against seqeval; which tags may follow which."""

import itertools

import numpy as np
import pytest

from zoo import metrics
from zoo.config import Refusal
from zoo.data.schemes import SCHEMES, closest_scheme, forbidden_moves, scheme_of, tags_of, well_formed, written

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


ROWS = {  # well formed, and not
    "BIO": (["O B-X I-X I-X B-X B-Y O", "B-X", "B-X I-X", "O"], ["I-X", "O I-X", "B-Y I-X", "B-X O I-X", "I-Y I-Y"]),
    "IOB1": (["I-X", "O I-X I-X B-X I-X I-Y", "I-X B-X B-X", "O"], ["B-X", "O B-X", "I-Y B-X", "I-X O B-X"]),
    "BIOES": (
        ["S-X", "B-X E-X S-Y O B-Y I-Y I-Y E-Y", "O"],
        ["B-X", "I-X E-X", "E-X", "B-X I-X", "B-X O", "B-X S-X", "B-X E-Y", "B-X B-X E-X", "O E-X", "S-X I-X E-X"],
    ),
    "BIOUL": (["U-X", "B-X L-X U-Y O B-Y I-Y I-Y L-Y"], ["B-X", "I-X L-X", "L-X", "B-X U-X", "B-X L-Y"]),
    "BMES": (["S", "B E S B M M E", "O"], ["B", "M E", "E", "B M", "B S", "B B E"]),
}


@pytest.mark.parametrize("scheme", ROWS)
def test_forbidden_moves_of_a_scheme(scheme):
    assert set(ROWS) == set(SCHEMES)
    kinds = [""] if scheme == "BMES" else ["-X", "-Y"]
    tags = ["O", *(letter + kind for letter in SCHEMES[scheme] for kind in kinds)]
    forbidden = forbidden_moves(tags, scheme)
    assert forbidden.shape == (len(tags) + 1, len(tags) + 1) and forbidden[-1, -1]

    def is_forbidden(row):
        ids = [tags.index(tag) for tag in row.split()]
        return any(forbidden[before, after] for before, after in zip([-1, *ids], [*ids, -1], strict=True))

    fits, fails = ROWS[scheme]
    assert [row for row in fits if is_forbidden(row)] == []
    assert [row for row in fails if not is_forbidden(row)] == []


def test_the_scheme_of_sentences():
    for scheme, (fits, _) in ROWS.items():
        sentences = [row.split() for row in fits]
        assert scheme_of(sentences) == scheme
    assert scheme_of([["O", "O"], []]) == "BIO"
    assert scheme_of([["B-X"], ["O", "I-X"], ["O", "B-X"]]) is None  # BIO with an error
    assert scheme_of([["NOUN", "VERB"]]) is None


@pytest.mark.parametrize("tags, scheme, match", [
    (["O", "B-X"], "BILOU", "one of BIO, IOB1, BIOES, BIOUL, BMES, got 'BILOU'"),
    (["O", "B-X", "S-X"], "BIO", "one of B, I with a type, as in B-PER; got 'S-X'"),
    (["O", "B-"], "BIO", "got 'B-'"),
    (["", "B-X"], "BIO", "got ''"),
])  # fmt: skip
def test_tags_that_are_not_of_the_scheme_are_refused(tags, scheme, match):
    with pytest.raises(Refusal, match=match):
        forbidden_moves(tags, scheme)
