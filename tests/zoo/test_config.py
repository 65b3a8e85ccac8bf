"""Config dataclasses: types, JSON, overrides, messages."""

import dataclasses
import json
from dataclasses import dataclass
from typing import ClassVar

import pytest

from zoo.config import Config, nearest


@dataclass(frozen=True)
class Toy(Config):
    num_layers: int = 2
    rate: float = 0.5
    scale: float = 1.0
    deep: bool = False
    kind: str = "plain"
    head_dim: int | None = None
    cutoffs: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()

    presets: ClassVar = {"tiny": {"num_layers": 1}, "default": {}}
    recipe: ClassVar = {"steps": 10, "batch_size": 3}
    preset_recipes: ClassVar = {"tiny": {"steps": 2}}

    def validate(self):
        self.require_positive("num_layers", "scale")
        self.require_rate("rate")


def test_presets_and_their_overrides():
    assert Toy.preset("tiny") == Toy(num_layers=1)
    assert Toy.preset("tiny", rate=0.25) == Toy(num_layers=1, rate=0.25)
    assert Toy.recipe_for("tiny") == {"steps": 2, "batch_size": 3}
    assert Toy.recipe_for("default") == {"steps": 10, "batch_size": 3}


def test_json_and_back():
    config = Toy(num_layers=3, head_dim=5, cutoffs=(0, 1, 1))
    text = json.dumps(config.to_dict())
    assert Toy.from_dict(json.loads(text)) == config
    assert json.loads(text)["cutoffs"] == [0, 1, 1]


def test_a_config_is_frozen_and_hashable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Toy().num_layers = 3
    assert len({Toy(), Toy(), Toy(num_layers=3)}) == 2


def test_values_take_the_type_of_their_field():
    config = Toy(rate=0, cutoffs=[1, 2])
    assert isinstance(config.rate, float) and config.cutoffs == (1, 2)


@pytest.mark.parametrize(("assignment", "field", "value"), [
    ("num_layers=7", "num_layers", 7),
    ("rate=1e-3", "rate", 1e-3),
    ("deep=true", "deep", True),
    ("deep=0", "deep", False),
    ("kind=a=b", "kind", "a=b"),
    ("head_dim=9", "head_dim", 9),
    ("head_dim=none", "head_dim", None),
    ("cutoffs=0,1,2", "cutoffs", (0, 1, 2)),
    ("cutoffs=(0, 1)", "cutoffs", (0, 1)),
    ("cutoffs=()", "cutoffs", ()),
])  # fmt: skip
def test_overrides_are_read_as_the_type_of_their_field(assignment, field, value):
    assert getattr(Toy().override([assignment]), field) == value


def test_the_last_override_wins_and_all_are_applied_together():
    assert Toy().override(["num_layers=3", "rate=0.1", "num_layers=4"]) == Toy(num_layers=4, rate=0.1)
    assert Toy(num_layers=3).override([]) == Toy(num_layers=3)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Toy.preset("tniy"), "Toy has no preset 'tniy'; did you mean 'tiny'?"),
    (lambda: Toy.preset("x"), "Toy has no preset 'x'; known: default, tiny."),
    (lambda: Toy.from_dict({"num_layer": 1}), "Toy has no field 'num_layer'; did you mean 'num_layers'?"),
    (lambda: Toy().replace(depth=1), "Toy has no field 'depth'; did you mean 'deep'?"),
    (lambda: Toy().override(["num_layers"]), "--set takes key=value, got 'num_layers'."),
    (lambda: Toy().override(["rat=1"]), "Toy has no field 'rat'; did you mean 'rate'?"),
    (lambda: Toy().override(["num_layers=2.5"]), "--set=num_layers=2.5: num_layers takes int."),
    (lambda: Toy().override(["deep=perhaps"]), "--set=deep=perhaps: deep takes bool."),
    (lambda: Toy().override(["head_dim=wide"]), "--set=head_dim=wide: head_dim takes int or none."),
    (lambda: Toy().override(["num_layers=0"]), "Toy: num_layers must be positive, got 0."),
    (lambda: Toy(scale=float("inf")), "Toy: scale must be a finite number, got inf."),
    (lambda: Toy().override(["scale=nan"]), "Toy: scale must be a finite number, got nan."),
    (lambda: Toy(scale=-1), "Toy: scale must be positive, got -1.0."),
    (lambda: Toy(weights=[1, float("inf")]), "Toy: each of weights must be a finite number, got inf."),
    (lambda: Toy(rate=1.0), "Toy: rate must be at least 0 and below 1, got 1.0."),
    (lambda: Toy(rate=-0.1), "Toy: rate must be at least 0 and below 1, got -0.1."),
    (lambda: Toy(num_layers="3"), "Toy: num_layers must be int, got '3'."),
    (lambda: Toy(num_layers=True), "Toy: num_layers must be int, got True."),
    (lambda: Toy(head_dim=1.5), "Toy: head_dim must be int or none, got 1.5."),
])  # fmt: skip
def test_messages(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message


def test_nearest():
    assert nearest("lstn", ["gpt", "lstm"]) == "did you mean 'lstm'?"
    assert nearest("zzz", ["lstm", "gpt"]) == "known: gpt, lstm."
    assert nearest("zzz", []) == "known: none."
