"""Calls as semantic roles: which words are whose role, how modules are split, and the real TFDS builder."""

import collections

import pytest

import tfds_configs
from tfds_configs.python_docs import calls


@pytest.fixture(scope="module")
def found():
    """The examples of some of the packages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls, "LABELLED", ("asyncio", "email", "json", "logging", "urllib"))
        return list(calls.called())


def roles(line):
    """predicate -> {role: its words} of the calls of one line."""
    ((tokens, predicates, tags),) = calls.lines(line.encode())
    return {
        tokens[place]: [
            (role, " ".join(word for word, tag in zip(tokens, column, strict=True) if tag[2:] == role))
            for role in dict.fromkeys(tag[2:] for tag in column if tag != "O")
        ]
        for place, column in zip(predicates, tags, strict=True)
    }


def test_receiver_arguments_keywords_and_stars():
    assert roles("x = a.b[0].warn(m + 1, n, o, p, q)  # comment\n")["warn"] == [
        ("RECEIVER", "a . b [ 0 ]"), ("V", "warn"), ("ARG0", "m + 1"), ("ARG1", "n"), ("ARG2", "o"), ("ARG3+", "p q"),
    ]  # fmt: skip
    said = roles("warn(*r, s=t(), **u)\n")
    assert said == {"warn": [("V", "warn"), ("STARRED", "* r ** u"), ("KEYWORD", "s = t ( )")], "t": [("V", "t")]}
    assert roles("if f(g(x), (y)): pass\n") == {
        "f": [("V", "f"), ("ARG0", "g ( x )"), ("ARG1", "y")],
        "g": [("V", "g"), ("ARG0", "x")],
    }


def test_lines_that_are_not_single_and_bytes_that_are_not_characters():
    assert roles("größe = f(ü, 'é',\n    z)\n") == {"f": [("V", "f"), ("ARG0", "ü"), ("ARG1", "'é'"), ("ARG2", "z")]}
    assert roles("any(x for x in y)\n") == {"any": [("V", "any"), ("ARG0", "x for x in y")]}
    assert roles("\x0cf(x)\n") == {"f": [("V", "f"), ("ARG0", "x")]}
    latin = "# -*- coding: latin-1 -*-\nf('é', x)\n".encode("latin-1")
    assert list(calls.lines(latin)) == [(["f", "(", "'é'", ",", "x", ")"], [0], [["B-V", "O", "B-ARG0", "O", "B-ARG1", "O"]])]


@pytest.mark.parametrize(
    "source",
    [
        "f('two words')\n",
        "f(f'{x}')\n",
        "f()(x)\n" + "y" * 3 + "\n",
        "def (:\n",
        "f(" + "x," * 20 + ")\n",
        "f(g(h(i(j(k)))))\n",
    ],
)
def test_lines_that_are_left_out(source):
    kept = list(calls.lines(source.encode()))
    assert kept == [] or (source.startswith("f()(x)") and kept == [(["f", "(", ")", "(", "x", ")"], [0], [["B-V", *"O" * 5]])])


def test_a_definition_is_not_a_call():
    assert list(calls.lines(b"class A(B): pass\ndef f(x): pass\n")) == [
        (["class", "A", "(", "B", ")", ":", "pass"], [], []),
        (["def", "f", "(", "x", ")", ":", "pass"], [], []),
    ]


def test_every_example_is_what_its_tags_say(found):
    assert len(found) > 3_000
    for _, example in found:
        assert len(example["tags"]) == len(example["predicates"]) <= calls.MOST_CALLS
        assert all(len(token.split()) == 1 for token in example["tokens"]) and len(example["tokens"]) <= calls.LONGEST_LINE
        assert sum(map(len, example["tokens"])) <= calls.MOST_CHARACTERS
        assert example["predicates"] == sorted(set(example["predicates"]))
        for place, column in zip(example["predicates"], example["tags"], strict=True):
            assert len(column) == len(example["tokens"]) and set(column) <= set(calls.TAGS)
            assert [i for i, tag in enumerate(column) if tag == "B-V"] == [place] and "I-V" not in column
            before = ["O", *column[:-1]]
            assert all(tag[0] != "I" or tag[2:] == last[2:] for last, tag in zip(before, column, strict=True))


def test_no_line_occurs_twice_and_most_have_a_call(found):
    lines = [tuple(example["tokens"]) for _, example in found]
    assert len(set(lines)) == len(lines)
    sizes = collections.Counter(split for split, _ in found)
    assert min(sizes.values()) > 200 and sizes["train"] / len(found) > 0.6
    assert 0.6 < sum(bool(example["predicates"]) for _, example in found) / len(found) < 0.9
    roles = collections.Counter(
        tag[2:] for _, example in found for column in example["tags"] for tag in column if tag[0] == "B"
    )
    assert set(roles) == set(calls.ROLES) and min(roles.values()) > 50


def test_the_builder_gives_the_examples(tmp_path, monkeypatch):
    monkeypatch.setattr(calls, "LABELLED", ("collections", "concurrent", "html", "json", "logging"))
    found = list(calls.called())
    source = tfds_configs.get("python_docs/calls", data_dir=str(tmp_path))
    for split in ("train", "validation", "test"):
        assert list(source.examples(split)) == [example for its_split, example in found if its_split == split]
