"""Which of our variables is which of their tensors, one table a family; read in both directions.

A rule names a variable of the zoo, by its path without the model's name, and the tensors that it is made of. Several tensors
stand side by side along our last axis (queries, keys and values; gate and value). `transposed` tensors are stored there as
(outputs, inputs), here as (inputs, outputs). A vector of the zoo may be a `row` there: (1, V). `{i}` counts the layers.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from zoo.config import Refusal
from zoo.layers.forms import GATED_ACTIVATIONS
from zoo.registry import MODELS

# Fields with a number by default that may be null, which then means another one.
NULLABLE = ("num_key_value_heads", "head_dim", "sliding_window", "original_max_position_embeddings")


@dataclass(frozen=True)
class Rule:
    """One variable of the zoo and what it is made of.

    Attributes:
        ours: path of the variable.
        theirs: names of the tensors.
        transposed: whether these are stored as (outputs, inputs).
        grouped: whether a tensor has the queries of a key head, that key and its value side by side, one key head after the
            other; ours has all queries, all keys, all values.
        plus: what is added to their numbers to have ours.
        row: whether a vector of the zoo is (1, V) there.
        first: the first layer that has it.
    """

    ours: str
    theirs: tuple
    transposed: bool = False
    grouped: bool = False
    plus: float = 0.0
    row: bool = False
    first: int = 0

    def of_layer(self, i):
        """The rule with its `{i}` filled in."""
        return replace(self, ours=self.ours.format(i=i), theirs=tuple(name.format(i=i) for name in self.theirs))

    def taken_in(self, array, config):
        """Our variable from their tensors side by side, an array that may be changed."""
        if self.plus:
            array += self.plus
        if self.grouped:
            array[..., _grouped(config)] = array.copy()
        return array

    def carried_out(self, value, config):
        """Their tensors side by side from our variable: the reverse of `taken_in`."""
        if self.grouped:
            value = value[..., _grouped(config)]
        return value - np.float32(self.plus) if self.plus else value


def _grouped(config):
    """Where each column of theirs stands in ours: int (columns,)."""
    n, k = config.num_heads, config.kv_heads
    heads = [head for g in range(k) for head in (*range(g * n // k, (g + 1) * n // k), n + g, n + k + g)]
    return (np.array(heads)[:, None] * config.head_width + np.arange(config.head_width)).reshape(-1)


def linear(ours, *theirs, bias=True, transposed=True, grouped=False):
    """The rules of a matrix and perhaps its bias."""
    rules = [Rule(f"{ours}/kernel", tuple(f"{name}.weight" for name in theirs), transposed, grouped)]
    return rules + ([Rule(f"{ours}/bias", tuple(f"{name}.bias" for name in theirs), grouped=grouped)] if bias else [])


def norm(ours, theirs, bias=True, plus=0.0):
    """The rules of a norm's gain and perhaps its bias."""
    rules = [Rule(f"{ours}/gamma", (f"{theirs}.weight",), plus=plus)]
    return rules + ([Rule(f"{ours}/beta", (f"{theirs}.bias",))] if bias else [])


@dataclass(frozen=True)
class Family:
    """How one `model_type` of Hugging Face becomes one of our models.

    Attributes:
        model: our registered model.
        prefix: what some files put before the names of the model itself.
        fields: field of our config -> theirs.
        fixed: fields of our config that this family always has.
        required: their field -> the values that our model can be; None among them also stands for an absent one.
        embeddings, block, final: rules before, in (with `{i}`) and after the layers. `block` may be a function of our config
            that gives them.
        decoder_block: of an encoder-decoder, whose `block` is the encoder's: rules in the layers of the decoder.
        gated: end of the name of a tensor -> the ends of those that stand in its place in a network with a gate.
        tied: two tensors, where a model has one table if the files have only the second, or the same in both.
        pooler, untied, head: rules that hold only where the files have their tensors.
        ignored: patterns of tensors that are not weights.
        irrelevant: their fields that change no number of this kind of model, in one string.
        copies: tensors that repeat another one, and which.
        dropped: patterns of tensors of heads that no task of the zoo has; leaving them out is reported.
        adjust: further fields of our config, given theirs.
        adjusted: their fields that `adjust` reads besides.
        defaults: their fields -> the values that transformers takes where a config.json lacks them.
        theirs: further fields of their config, given ours.
        aliases: other names that transformers takes for their fields -> these.
    """

    model: str
    prefix: str
    fields: dict
    block: list | Callable
    embeddings: list
    architectures: dict
    fixed: dict = field(default_factory=dict)
    required: dict = field(default_factory=dict)
    decoder_block: list = field(default_factory=list)
    gated: dict = field(default_factory=dict)
    tied: tuple = ()
    final: list = field(default_factory=list)
    pooler: list = field(default_factory=list)
    untied: list = field(default_factory=list)
    head: list = field(default_factory=list)
    ignored: tuple = ()
    irrelevant: str = ""
    copies: dict = field(default_factory=dict)
    dropped: tuple = ()
    adjust: Callable = lambda theirs: {}
    adjusted: tuple = ()
    defaults: dict = field(default_factory=dict)
    theirs: Callable = lambda config: {}
    aliases: dict = field(default_factory=dict)

    def in_own_names(self, theirs, where):
        """Their config.json without `aliases`. Raises Refusal where two names disagree, or a number is null."""
        made = {name: value for name, value in theirs.items() if name not in self.aliases}
        for name in sorted(theirs.keys() & self.aliases.keys()):
            own = self.aliases[name]
            if made.setdefault(own, theirs[name]) != theirs[name]:
                raise Refusal(
                    f"{where} has {name}={theirs[name]} and {own}={made[own]} in config.json, two names of one field."
                )
        numbers = [name for name, value in self.defaults.items() if isinstance(value, int | float)]
        for name in (*numbers, "rope_theta"):
            if name in made and made[name] is None and name not in NULLABLE:
                raise Refusal(f"{where} has {name}=null in config.json; write the number there, or take the field out.")
        return made

    def rules(self, config, *, with_head=False):
        """The rules of a model of the zoo with this config, all layers spelt out."""
        rules = list(self.embeddings)
        first = self.block(config) if callable(self.block) else self.block
        for block, count in ((first, config.num_layers), (self.decoder_block, getattr(config, "decoder_layers", 0))):
            for i in range(count):
                rules += [rule.of_layer(i) for rule in block if i >= rule.first]
        rules += self.final
        if getattr(config, "pooler", False):
            rules += self.pooler
        if not getattr(config, "tie_embeddings", True):
            rules += self.untied
        if getattr(config, "bias", None) == "none":
            rules = [rule for rule in rules if not rule.ours.endswith("/bias")]
        if self.gated and config.activation in GATED_ACTIVATIONS:
            rules = [replace(rule, theirs=self._gated(rule.theirs)) for rule in rules]
        return rules + (self.head if with_head else [])

    def transposed(self):
        """Names of tensors, with `{i}`, that are stored as (outputs, inputs), whether or not a network has a gate."""
        rules = (*self.block, *self.decoder_block, *self.pooler, *self.untied, *self.head)
        names = [rule.theirs for rule in rules if rule.transposed]
        return {name for each in names for name in (*each, *self._gated(each))}

    def _gated(self, names):
        for end, ends in self.gated.items():
            if names[0].endswith(end):
                return tuple(names[0].removesuffix(end) + other for other in ends)
        return names

    def config(self, theirs, names, where):
        """Our config of their model.

        Args:
            theirs: dict, their config.json with `defaults` for what it lacks.
            names: of the tensors.
            where: what the file is called in a message.

        Raises:
            Refusal: our model cannot be that.
        """
        try:
            for key, allowed in self.required.items():
                if theirs.get(key) not in allowed:
                    wanted = " or ".join(repr(value) for value in allowed if value is not None) or "none"
                    raise Refusal(f"{where} asks for {key}={theirs[key]!r}, which is not supported; only {wanted} is.")
            fields = {ours: theirs[key] for ours, key in self.fields.items() if key in theirs or ours == "vocab_size"}
            if self.pooler:
                fields["pooler"] = set(self.pooler[0].theirs) <= names
            return MODELS.config(self.model).from_dict({**fields, **self.fixed, **self.adjust(theirs)})
        except KeyError as error:
            raise Refusal(f"The config in {where} has no {error}, which this type of model needs.") from error

    def written(self, config):
        """Their config.json of our model, apart from what is the tokenizer's: a dict."""
        return {**{key: getattr(config, ours) for ours, key in self.fields.items()}, **self.theirs(config)}

    def known_fields(self):
        """Their fields that are read."""
        return {"model_type", *self.fields.values(), *self.required, *self.adjusted}

    def our_name(self, name):
        """A tensor's name as the table writes it: without the prefix, and with the newer names of a norm's parts."""
        name = name.removeprefix(self.prefix)
        return re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))


def parts(config, rule):
    """Widths of the zoo's pieces, along its last axis, that a rule's tensors are; None where there is but one."""
    if len(rule.theirs) == 1:
        return None
    head = getattr(config, "head_width", config.hidden_dim // config.num_heads)
    if len(rule.theirs) == 3:
        kv_heads = getattr(config, "kv_heads", config.num_heads)
        return [config.num_heads * head, kv_heads * head, kv_heads * head]
    return [config.num_heads * head if "/key_value/" in rule.ours else config.mlp_width] * 2


def made_shape(rule, shapes):
    """The shape of our variable, from those of the tensors of a rule."""
    shapes = [tuple(shape)[1:] if rule.row and shape[0] == 1 else tuple(shape) for shape in shapes]
    pieces = [shape[::-1] if rule.transposed else shape for shape in shapes]
    return (*pieces[0][:-1], sum(piece[-1] for piece in pieces))


def to_theirs(rule, value, widths):
    """The tensors of a rule from the value of our variable."""
    pieces = [value] if widths is None else np.split(value, np.cumsum(widths)[:-1], axis=-1)
    return [piece.T if rule.transposed else piece[None] if rule.row else piece for piece in pieces]
