"""The examples in docstrings run and print what they show."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

from tests.test_architecture import SOURCES, TREES, module_name
from zoo.registry import MODELS

WITH_EXAMPLES = [path for path in SOURCES if ">>> " in path.read_text(encoding="utf8")]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=module_name)
def test_the_examples_of_a_file_print_what_they_show(path):
    tried = doctest.testmod(importlib.import_module(module_name(path)), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried.attempted and not tried.failed


def test_every_family_shows_an_example():
    named = {Path(importlib.import_module(MODELS.get(name).__module__).__file__) for name in MODELS.names()}
    assert named <= set(WITH_EXAMPLES)


BASES = {"SpelledWords", "VectorsHead"}  # of layers, not used alone


def test_every_layer_and_every_task_shows_an_example():
    without = []
    for path, tree in TREES.items():
        for node in tree.body:
            if not isinstance(node, ast.ClassDef) or node.name in BASES:
                continue
            of_layers = module_name(path).startswith("zoo.layers")
            layer = of_layers and any(ast.unparse(base) == "keras.layers.Layer" for base in node.bases)
            task = any("TASKS.register" in ast.unparse(decorator) for decorator in node.decorator_list)
            if (layer or task) and ">>> " not in (ast.get_docstring(node) or ""):
                without.append(f"{module_name(path)}.{node.name}")
    assert not without, without
