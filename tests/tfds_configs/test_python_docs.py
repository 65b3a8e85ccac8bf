"""The embedded data set: what is extracted, how it is split, and the real TFDS builder."""

import collections
import hashlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

import tfds_configs
from tfds_configs.python_docs import documents as extraction
from tfds_configs.python_docs.documents import Document, documents
from tfds_configs.python_docs.labelled import DESCRIBED_TOGETHER, ROUNDS, questions, summarized
from tfds_configs.python_docs.python_docs_dataset_builder import PythonDocs


@pytest.fixture(scope="module")
def found():
    return list(documents())


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tfds_configs.get("python_docs", data_dir=str(tmp_path_factory.mktemp("tfds")))


def test_there_is_about_two_megabytes_of_it(found):
    assert 1_500_000 < sum(len(document.text) for document in found) < 4_000_000
    assert {"json", "json.decoder", "builtins", "itertools"} <= {document.module for document in found}


def test_known_docstrings_are_there(found):
    texts = {(document.module, document.name): document.text for document in found}
    assert texts["json", ""].startswith("JSON (JavaScript Object Notation) <")
    assert texts["random", "Random.shuffle"] == "Shuffle list x in place, and return None."
    assert texts["builtins", "str.isdigit"].startswith("Return True if the string is a digit string")


def test_no_text_occurs_twice_and_none_is_blank(found):
    texts = [document.text for document in found]
    assert len(set(texts)) == len(texts)
    assert all(text == text.strip() and text for text in texts)


def test_tests_and_other_peoples_packages_are_left_out(found):
    modules = {document.module for document in found}
    assert not [m for m in modules if {"test", "tests", "idlelib", "lib2to3", "numpy", "pytest"} & set(m.split("."))]


def test_splits_are_about_90_5_5_and_share_no_module(found):
    size, splits = collections.Counter(), collections.defaultdict(set)
    for document in found:
        size[document.split] += len(document.text)
        if document.module != "pydoc_data.topics":
            splits[document.module].add(document.split)
    assert all(len(of_module) == 1 for of_module in splits.values())
    total = sum(size.values())
    assert size["train"] / total == pytest.approx(0.90, abs=0.015)
    assert size["validation"] / total == pytest.approx(0.05, abs=0.01)
    assert size["test"] / total == pytest.approx(0.05, abs=0.01)


def test_twins_of_a_module_share_its_split():
    for names in (("decimal", "_decimal", "_pydecimal"), ("io", "_io", "_pyio"), ("heapq", "_heapq")):
        assert len({Document(name, "x", "y").split for name in names}) == 1
    topics = {Document("pydoc_data.topics", name, "y").split for name in map(str, range(100))}
    assert topics == {"train", "validation", "test"}


def test_another_process_finds_the_same(found):
    program = (
        "import hashlib\nfrom tfds_configs.python_docs.documents import documents\n"
        "print(hashlib.sha256(repr([(d.module, d.name, d.text) for d in documents()]).encode()).hexdigest())"
    )
    ours = hashlib.sha256(repr([(d.module, d.name, d.text) for d in found]).encode()).hexdigest()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ours


def test_it_works_without_topics(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert next(documents()).module != "pydoc_data.topics"


def test_docstrings_of_a_file(tmp_path):
    (tmp_path / "package" / "tests").mkdir(parents=True)
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "package" / "tests" / "a.py").write_text('"""No."""')
    (tmp_path / "site-packages" / "b.py").write_text('"""No."""')
    (tmp_path / "broken.py").write_text("def (:")
    (tmp_path / "package" / "__init__.py").write_text(
        '"""\n    First.\n\n      Indented.\n    """\n'
        "class C:\n  'About C.'\n  async def m(self):\n    '''About m.'''\n    def inner(): 'About inner.'\n"
        "if True:\n  try: x = 1\n  except ValueError:\n    def f(): 'About f.'\n"
        "def without(): return 'no docstring'\n"
    )
    got = [(d.module, d.name, d.text) for d in extraction._source_docstrings(tmp_path) if d.text]
    assert got == [
        ("package", "", "First.\n\n  Indented."),
        ("package", "C", "About C."),
        ("package", "C.m", "About m."),
        ("package", "C.m.inner", "About inner."),
        ("package", "f", "About f."),
    ]


def test_the_builder_gives_the_documents_in_order(source, found):
    for split in ("train", "validation", "test"):
        assert list(source.texts(split)) == [document.text for document in found if document.split == split]


def test_the_builder_describes_itself(source):
    list(source.texts("test"))
    builder = PythonDocs(data_dir=source.data_dir)
    major, minor, micro = sys.version_info[:3]
    assert builder.info.full_name == f"python_docs/language_modeling/2.{100 * major + minor}.{micro}"
    assert "documentation that every Python carries" in builder.info.description
    assert "Python Software Foundation" in builder.info.citation
    assert sorted(builder.info.features) == ["module", "name", "text"]
    example = next(iter(tfds.as_numpy(builder.as_dataset(split="test"))))
    assert example["module"] and example["text"]


def test_the_fingerprint_names_python_and_stays(source):
    fingerprint = source.fingerprint()
    assert fingerprint == source.fingerprint()
    assert fingerprint.startswith(f"python_docs/language_modeling/2.3{sys.version_info.minor:02d}.")


def test_questions_stand_among_others_and_are_asked_again_in_training(found):
    asked = {}
    for split, example in questions(found):
        (answer,), (start,) = example["answers"], example["answer_starts"]
        lines = example["context"].splitlines()
        names = [line.partition(": ")[0] for line in lines]
        name = example["question"].removeprefix("What does ").removesuffix(" do?")
        assert example["context"][start:].startswith(answer) and lines[names.index(name)] == f"{name}: {answer}"
        assert len(set(names)) == len(lines) == DESCRIBED_TOGETHER
        asked.setdefault((split, example["id"]), set()).add(example["context"])
    assert len({key for _, key in asked}) == len(asked)  # no function is in two splits
    times = [len(contexts) for (split, _), contexts in asked.items() if split == "train"]
    assert max(times) == ROUNDS and np.mean(times) > 0.95 * ROUNDS
    assert {len(contexts) for (split, _), contexts in asked.items() if split != "train"} == {1}


def test_a_summary_is_the_first_line_of_a_longer_docstring():
    body = "What follows says more than the line above it, and takes two lines\nto do so."
    texts = {
        f"Return the sum of all.\n\n{body}": True,
        f"Return the sum of all\n\n{body}": True,
        f"f(x) -> the sum of all\n\n{body}": False,
        f"Return the following things:\n\n{body}": False,
        f"Two words.\n\n{body}": False,
        f"Return the sum\nof all.\n\n{body}": False,
        "Return the sum of all.": False,
        "Return the sum of all.\n\nShort.": False,
    }
    for text, kept in texts.items():
        found = [example for _, example in summarized([Document("json", "f", text)])]
        assert found == ([{"source": body, "target": text.partition("\n")[0]}] if kept else []), text


def test_summaries_are_two_thousand_and_share_no_module(found):
    by_split = collections.Counter(split for split, _ in summarized(found))
    assert by_split["train"] > 1_500 and min(by_split.values()) > 50
    sources = [example["source"] for _, example in summarized(found)]
    assert len(set(sources)) == len(sources)
