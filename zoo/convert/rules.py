"""Which of our variables is which of their tensors, one table a family; read in both directions.

A rule names a variable of ours, by its path without the model's name, and the tensors that it is made of. Several tensors stand
side by side along our last axis (queries, keys and values; gate and value). `transposed` tensors are stored there as (outputs,
inputs), here as (inputs, outputs). A vector of ours may be a `row` there: (1, V). `{i}` counts the layers.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from zoo.layers.forms import GATED_ACTIVATIONS


@dataclass(frozen=True)
class Rule:
    """One variable of ours and what it is made of."""

    ours: str
    theirs: tuple
    transposed: bool = False
    row: bool = False

    def of_layer(self, i):
        """The rule with its `{i}` filled in."""
        return Rule(self.ours.format(i=i), tuple(name.format(i=i) for name in self.theirs), self.transposed, self.row)


def linear(ours, *theirs, bias=True, transposed=True):
    """The rules of a matrix and perhaps its bias."""
    rules = [Rule(f"{ours}/kernel", tuple(f"{name}.weight" for name in theirs), transposed)]
    return rules + ([Rule(f"{ours}/bias", tuple(f"{name}.bias" for name in theirs))] if bias else [])


def norm(ours, theirs, bias=True):
    """The rules of a norm's gain and perhaps its bias."""
    rules = [Rule(f"{ours}/gamma", (f"{theirs}.weight",))]
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
        embeddings, block, final: rules before, in (with `{i}`) and after the layers.
        decoder_block: of an encoder-decoder, whose `block` is the encoder's: rules in the layers of the decoder.
        gated: end of the name of a tensor -> the ends of those that stand in its place in a network with a gate.
        tied: two tensors, where a model has one table if the files have only the second, or the same in both.
        pooler, untied, head: rules that hold only where the files have their tensors.
        ignored: patterns of tensors that are not weights.
        irrelevant: their fields that change no number of this kind of model, in one string.
        copies: tensors that repeat another one, and which.
        dropped: patterns of tensors of heads that no task of ours has; leaving them out is reported.
        adjust: further changes of our config, given theirs.
        adjusted: their fields that `adjust` reads besides.
        defaults: their fields -> the values that transformers takes where a config.json lacks them.
        theirs: further fields of their config, given ours.
    """

    model: str
    prefix: str
    fields: dict
    block: list
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
    adjust: Callable = lambda config, theirs: {}
    adjusted: tuple = ()
    defaults: dict = field(default_factory=dict)
    theirs: Callable = lambda config: {}

    def rules(self, config, *, with_head=False):
        """The rules of a model of ours with this config, all layers spelt out."""
        rules = list(self.embeddings)
        for block, count in ((self.block, config.num_layers), (self.decoder_block, getattr(config, "decoder_layers", 0))):
            for i in range(count):
                rules += [rule.of_layer(i) for rule in block]
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

    def _gated(self, names):
        for end, ends in self.gated.items():
            if names[0].endswith(end):
                return tuple(names[0].removesuffix(end) + other for other in ends)
        return names

    def known_fields(self):
        """Their fields that are read."""
        return {"model_type", *self.fields.values(), *self.required, *self.adjusted}

    def our_name(self, name):
        """A tensor's name as the table writes it: without the prefix, and with the newer names of a norm's parts."""
        name = name.removeprefix(self.prefix)
        return re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))


def parts(config, rule):
    """Widths of the pieces of ours, along its last axis, that a rule's tensors are."""
    if len(rule.theirs) == 3:
        head = getattr(config, "head_width", config.hidden_dim // config.num_heads)
        kv_heads = getattr(config, "kv_heads", config.num_heads)
        return [config.num_heads * head, kv_heads * head, kv_heads * head]
    if "/key_value/" in rule.ours:
        return [config.num_heads * config.head_width] * 2
    return [config.mlp_width] * 2 if len(rule.theirs) == 2 else None


def made_shape(rule, shapes):
    """The shape of our variable, from those of the tensors of a rule."""
    shapes = [tuple(shape)[1:] if rule.row and shape[0] == 1 else tuple(shape) for shape in shapes]
    pieces = [shape[::-1] if rule.transposed else shape for shape in shapes]
    return (*pieces[0][:-1], sum(piece[-1] for piece in pieces))


def to_theirs(rule, value, widths):
    """The tensors of a rule from the value of our variable."""
    pieces = [value] if widths is None else np.split(value, np.cumsum(widths)[:-1], axis=-1)
    return [piece.T if rule.transposed else piece[None] if rule.row else piece for piece in pieces]
