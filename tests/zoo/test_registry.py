"""The registry: what it reads from source without importing, and what it refuses."""

import importlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from zoo.registry import MODELS, TASKS, TOKENIZERS, Registry

FAMILY = """
    from dataclasses import dataclass
    from zoo.config import Config
    import a_module_that_does_not_exist  # the heavy part: only imported with the class

    WIDTH = 7


    @dataclass(frozen=True)
    class ToyConfig(Config):
        width: int = WIDTH


    @ANIMALS.register({name!r}, ToyConfig)
    class Toy:
        pass
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An importable package `zoo_of_toys_<n>`; call it with file name -> source."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name, **files):
        (tmp_path / name).mkdir()
        for stem, source in {"__init__": '"""Toys."""', **files}.items():
            (tmp_path / name / f"{stem}.py").write_text(textwrap.dedent(source), encoding="utf8")
        importlib.invalidate_caches()
        return Registry("animal", name, "ANIMALS")

    return write


def test_names_and_configs_come_from_source_alone(package):
    animals = package("toys_a", ant=FAMILY.format(name="ant"), bee=FAMILY.format(name="bee"))
    assert animals.names() == ["ant", "bee"]
    assert animals.config("ant")().width == 7
    assert "toys_a.ant" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        animals.get("ant")


def test_two_of_one_name_are_refused_with_the_file(package):
    animals = package("toys_b", ant=FAMILY.format(name="ant"), bee=FAMILY.format(name="ant"))
    with pytest.raises(ValueError, match="Two animals are registered as 'ant': see .*bee.py"):
        animals.names()


def test_registering_a_class_names_it_and_refuses_a_second():
    animals = Registry("animal", "zoo.convert", "ANIMALS")

    @animals.register("cat", dict)
    class Cat:
        pass

    assert animals.names() == ["cat"] and animals.get("cat") is Cat and animals.config("cat") is dict
    assert Cat.registered_name == "cat"
    animals.register("cat")(Cat)  # the same class again, as when a module is reloaded
    with pytest.raises(ValueError, match="Two animals are registered as 'cat'"):
        animals.register("cat")(type("Dog", (), {}))


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(ValueError, match=r"^No model is called 'gtp'; did you mean 'gpt'\?$"):
        MODELS.get("gtp")
    with pytest.raises(ValueError, match=r"^No task is called 'zzz'; known: .*language_modeling.*\.$"):
        TASKS.check("zzz")
    with pytest.raises(ValueError, match="No tokenizer is called 'bype'"):
        TOKENIZERS.config("bype")


def test_what_is_registered():
    assert {"gpt", "lstm", "ngram"} <= set(MODELS.names())
    assert "language_modeling" in TASKS.names()
    assert {"byte", "char", "word", "bpe"} <= set(TOKENIZERS.names())


def test_the_config_read_from_source_is_the_real_one():
    """Executed on its own, a file's upper part must give what the whole file gives."""
    program = (
        "import json, sys\n"
        "from zoo.registry import MODELS\n"
        "print(json.dumps({n: {p: MODELS.config(n).preset(p).to_dict() for p in MODELS.config(n).presets} "
        "for n in MODELS.names()}))\n"
        "assert 'keras' not in sys.modules\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    for name, presets in json.loads(result.stdout).items():
        real = MODELS.get(name).config_class
        assert {preset: real.preset(preset).to_dict() for preset in real.presets} == presets
