"""The examples in docstrings run and print what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

from tests.test_architecture import SOURCES, module_name
from zoo.registry import MODELS

WITH_EXAMPLES = [path for path in SOURCES if ">>> " in path.read_text(encoding="utf8")]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=module_name)
def test_the_examples_of_a_file_print_what_they_show(path):
    tried = doctest.testmod(importlib.import_module(module_name(path)), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried.attempted and not tried.failed


def test_every_family_shows_an_example():
    named = {Path(importlib.import_module(MODELS.get(name).__module__).__file__) for name in MODELS.names()}
    assert named <= set(WITH_EXAMPLES)
