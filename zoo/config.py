"""Frozen dataclasses that describe a model: to JSON and back, with typed `key=value` overrides.

    @dataclass(frozen=True)
    class GPTConfig(Config):
        num_layers: int = 4

    GPTConfig.preset("gpt2_small").override(["num_layers=2"])

This file imports neither Keras nor TensorFlow, so the command line can list models and refuse a wrong key at once.
"""

import dataclasses
import difflib
import json
import types
import typing
from typing import Any, ClassVar


class Refusal(ValueError):
    """A mistake of the user: one sentence that says what was wrong and what would be right.

    Programs print it and end with exit status 2. Any other exception is a bug of ours: it keeps its traceback, and the exit
    status is 1.
    """


def nearest(word, known):
    """The tail of an error message: the closest known word, or all of them when none is close."""
    known = sorted(str(k) for k in known)
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known) or 'none'}."


@dataclasses.dataclass(frozen=True)
class Config:
    """Base class of every model's config.

    Subclasses are frozen dataclasses whose fields are int, float, bool, str, a tuple of those, or None.
    They also declare, as class variables, what the command line needs to know before Keras is loaded:

    - `presets`: name -> fields that differ from the dataclass defaults. Every family has `tiny` and `default`.
    - `tasks`: names of the tasks that the model can be trained on; the first is its default.
    - `recipe`: defaults of training flags for this family (`dataset`, `tokenizer`, `steps`, ...), and
      `preset_recipes`: preset -> the entries of `recipe` that differ for it.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    tasks: ClassVar[tuple[str, ...]] = ()
    recipe: ClassVar[dict[str, Any]] = {}
    preset_recipes: ClassVar[dict[str, dict[str, Any]]] = {}

    def __post_init__(self):
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = _checked(type(self).__name__, field.name, hints[field.name], getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        self.validate()

    def validate(self):
        """Raises Refusal, in one sentence, when fields contradict each other. Subclasses override this."""

    def require(self, condition, sentence):
        """Raises Refusal with `sentence` unless `condition` holds."""
        if not condition:
            raise Refusal(f"{type(self).__name__}: {sentence}")

    def require_positive(self, *names):
        """Raises Refusal unless each of the named fields is above zero."""
        for name in names:
            value = getattr(self, name)
            self.require(value > 0, f"{name} must be positive, got {value}.")

    def require_rate(self, *names):
        """Raises Refusal unless each of the named fields is a rate in [0, 1)."""
        for name in names:
            value = getattr(self, name)
            self.require(0 <= value < 1, f"{name} must be at least 0 and below 1, got {value}.")

    @classmethod
    def preset(cls, name, **overrides):
        """The preset `name`, with fields replaced by `overrides`."""
        if name not in cls.presets:
            raise Refusal(f"{cls.__name__} has no preset {name!r}; {nearest(name, cls.presets)}")
        return cls(**{**cls.presets[name], **overrides})

    @classmethod
    def recipe_for(cls, preset):
        """Training defaults of this family for one preset."""
        return {**cls.recipe, **cls.preset_recipes.get(preset, {})}

    @classmethod
    def from_dict(cls, values):
        """A config from a dict of fields, as read from JSON; an unknown key is an error that names the nearest."""
        fields = {f.name for f in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                raise Refusal(f"{cls.__name__} has no field {key!r}; {nearest(key, fields)}")
        return cls(**values)

    def to_dict(self):
        """The fields as JSON types."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def replace(self, **changes):
        """A copy with some fields changed."""
        return type(self).from_dict({**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, **changes})

    def override(self, assignments):
        """A copy with `key=value` strings applied, each value read as the type of its field."""
        hints = typing.get_type_hints(type(self))
        fields = {f.name for f in dataclasses.fields(self)}
        changes = {}
        for assignment in assignments:
            key, equals, text = assignment.partition("=")
            if not equals:
                raise Refusal(f"--set takes key=value, got {assignment!r}.")
            if key not in fields:
                raise Refusal(f"{type(self).__name__} has no field {key!r}; {nearest(key, fields)}")
            changes[key] = _parsed(key, hints[key], text)
        return self.replace(**changes)


def _alternatives(annotation):
    """The plain types that an annotation admits: `int | None` -> (int, NoneType)."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _words(annotation):
    return " or ".join(getattr(a, "__name__", str(a)).replace("NoneType", "none") for a in _alternatives(annotation))


def _parsed(key, annotation, text):
    """Reads `text` as the type of a field."""
    for kind in _alternatives(annotation):
        try:
            if kind is type(None) and text.lower() == "none":
                return None
            if kind is bool and text.lower() in ("true", "false", "1", "0"):
                return text.lower() in ("true", "1")
            if kind in (int, float):
                return kind(text)
            if kind is str:
                return text
            if typing.get_origin(kind) is tuple:
                item = typing.get_args(kind)[0]
                return tuple(item(part) for part in text.strip("()[]").split(",") if part.strip())
        except ValueError:
            continue
    raise Refusal(f"--set={key}={text}: {key} takes {_words(annotation)}.")


def _checked(owner, name, annotation, value):
    """`value` if it has the field's type (ints become floats, lists tuples), else a Refusal."""
    for kind in _alternatives(annotation):
        if typing.get_origin(kind) is tuple and isinstance(value, (list, tuple)):
            return tuple(value)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        plain = typing.get_origin(kind) or kind
        if isinstance(value, plain) and not (isinstance(value, bool) and plain is int):
            return value
    raise Refusal(f"{owner}: {name} must be {_words(annotation)}, got {value!r}.")
