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
import math
import numbers
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


KINDS = ("language_model", "encoder", "encoder_decoder", "classifier")


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one token of a sequence costs in training, below what a task puts on top. A family's own file knows it.

    Attributes:
        hidden_dim: width of the last hidden states; 0 where a task puts no head on them.
        body_params: parameters that every token is multiplied by. Tables in which rows are looked up do not count.
        num_blocks: how many blocks stand on each other, as `--set=freeze=` counts them.
        attended: keys that a query meets times N H, summed over the layers.
        adapted: inputs plus outputs of every matrix that may have an adapter, summed.
        kept: numbers that the layers keep for the gradient, in the precision of the computation.
        kept_float32: likewise, in float32 whatever the precision.
        kept_uncompiled: likewise, in float32, only where XLA does not compile the step.
        graph: what the step's graph is like: `blocks`, `recurrent` (a loop over time written out) or `flat`.
        parts: into how many parts attention is cut; XLA needs memory to compile each.
        faster_compiled: whether XLA makes the step of a small model faster on a CPU (benchmarks/LOG.md).
        unmultiplied: what takes time and is not a product, such as reading rows of a table: as the FLOPs that take as long.
    """

    hidden_dim: int
    body_params: int
    num_blocks: int = 1
    attended: float = 0.0
    adapted: int = 0
    kept: float = 0.0
    kept_float32: float = 0.0
    kept_uncompiled: float = 0.0
    graph: str = "blocks"
    parts: int = 0
    faster_compiled: bool = False
    unmultiplied: float = 0.0


@dataclasses.dataclass(frozen=True)
class Output:
    """What a task makes of the hidden states of a sequence.

    Attributes:
        positions: at how many positions of a sequence it looks.
        width: numbers that it makes at each: V, or classes.
        weights: that each of these positions is multiplied by.
        params: those of them that the model's config does not count: a head.
        chunks: whether the loss makes the numbers a chunk at a time: True, False, or None when their count decides.
    """

    positions: int
    width: int
    weights: int
    params: int = 0
    chunks: bool | None = False

    @classmethod
    def of_tokens(cls, model_config, seq_length, positions, chunks=False):
        """Of a task that gives each token of the vocabulary a logit, by the model's own table, at some positions."""
        vocab_size = model_config.vocab_size
        return cls(positions, vocab_size, vocab_size * model_config.cost(seq_length).hidden_dim, chunks=chunks)


@dataclasses.dataclass(frozen=True)
class Config:
    """Base class of every model's config, and of a task's (`TaskConfig`).

    Subclasses are frozen dataclasses whose fields are int, float, bool, str, a tuple of those, or None.
    They also declare, as class variables, what the command line needs to know before Keras is loaded:

    - `kind`: what the model is, one of `KINDS`. Nothing outside the family's file asks again.
    - `default_task`: the task that it is trained for unless another is asked for.
    - `contextual`: whether the hidden state of a token depends on the tokens around it. Word vectors are not.
    - `reads_blanks`: whether it reads rows whose first part is seen in both directions, with two positions a token.
    - `objectives`: of word vectors, what they may be trained for, the default first (`zoo/tasks/word_vectors.py`).
    - `fitted`: whether it is fitted in closed form, without gradient steps. Such a model has its default task only.
    - `presets`: name -> fields that differ from the dataclass defaults. Every family has `tiny` and `default`.
    - `recipe`: defaults of training flags for this family (`dataset`, `tokenizer`, `steps`, ...), and
      `preset_recipes`: preset -> the entries of `recipe` that differ for it,
      `task_recipes`: task -> those that differ where the family is trained for it and not for its default task.

    Two configs are equal when their classes have one name and their fields are equal: the command line makes the class from the
    light part of a file (`zoo/registry.py`), Python from all of it.
    """

    kind: ClassVar[str] = ""
    default_task: ClassVar[str] = ""
    contextual: ClassVar[bool] = True
    reads_blanks: ClassVar[bool] = False
    objectives: ClassVar[tuple[str, ...]] = ()
    fitted: ClassVar[bool] = False
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    recipe: ClassVar[dict[str, Any]] = {}
    preset_recipes: ClassVar[dict[str, dict[str, Any]]] = {}
    task_recipes: ClassVar[dict[str, dict[str, Any]]] = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.__eq__, cls.__hash__ = Config._equal, Config._hashed  # before `dataclass`, which would compare classes

    def _equal(self, other):
        return isinstance(other, Config) and self._identity() == other._identity()

    def _hashed(self):
        return hash(self._identity())

    def _identity(self):
        return type(self).__name__, tuple((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))

    def cost(self, seq_length):
        """The `Cost` of training on sequences of `seq_length` tokens. Every family implements it."""
        raise TypeError(f"{type(self).__name__} does not implement cost().")

    def num_params(self):
        """Number of parameters of the model, without any task's head. Every family implements it."""
        raise TypeError(f"{type(self).__name__} does not implement num_params().")

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

    @classmethod
    def field_names(cls):
        """Names of the fields, in order."""
        return tuple(field.name for field in dataclasses.fields(cls))

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


@dataclasses.dataclass(frozen=True)
class TaskConfig(Config):
    """Base class of every task's config: what the user may ask of the task with `--set`.

    What a task learns from its data (labels, whether examples are pairs) is not here: see `Task.facts`.

    - `kinds`: the kinds of model that it serves.
    - `needs_context`: whether it makes no sense on word vectors.
    - `least_seq_length`: the fewest tokens that a row of it has.
    - `files`: names of the fields that name files which a run reads.
    - `trains`: whether it can be trained; the task that only serves vectors cannot.
    """

    kinds: ClassVar[tuple[str, ...]] = ()
    needs_context: ClassVar[bool] = False
    files: ClassVar[tuple[str, ...]] = ()
    trains: ClassVar[bool] = True
    least_seq_length: ClassVar[int] = 1

    @classmethod
    def serves(cls, config):
        """Whether this task serves models with `config`, or with that class of configs."""
        return config.kind in cls.kinds and (config.contextual or not cls.needs_context)

    def output(self, model_config, seq_length, facts=None):
        """The `Output` of this task on a model with `model_config`.

        Args:
            model_config: the model's config.
            seq_length: T.
            facts: what the task has learnt from its data, or None: classes that only the text will tell are taken for two.
        """
        raise TypeError(f"{type(self).__name__} does not implement output().")


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
    """`value` if it has the field's type (ints become floats, lists tuples) and is finite, else a Refusal."""
    for kind in _alternatives(annotation):
        if typing.get_origin(kind) is tuple and isinstance(value, (list, tuple)):
            item = typing.get_args(kind)[0]
            return tuple(_checked(owner, f"each of {name}", item, one) for one in value)
        if kind is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
            if not math.isfinite(value):
                raise Refusal(f"{owner}: {name} must be a finite number, got {value}.")
            return float(value)
        if kind is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
            return int(value)  # NumPy's too
        plain = typing.get_origin(kind) or kind
        if isinstance(value, plain) and not (isinstance(value, bool) and plain is int):
            return value
    raise Refusal(f"{owner}: {name} must be {_words(annotation)}, got {value!r}.")
