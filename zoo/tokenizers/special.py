"""What the special tokens of a vocabulary are for: their roles, and what stands around one text or two.

    special = Special(roles={"bos": "<s>", "eos": "</s>"}, template=(("<s>",), ("<s>",), ()))

A tokenizer that was trained here says this by its class. One that was read from third-party files keeps what they say, so
that it can go out again.
"""

from dataclasses import dataclass, field

import tokenizers

from zoo.config import Refusal

BLANK = "\u2581"  # what a blank is written as in a piece of SentencePiece
BEGIN = "<extra_id_"  # of a sentinel's name, as in the published vocabularies of T5
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclass(frozen=True)
class Special:
    """The special tokens of third-party files.

    Attributes:
        roles: role, one of `ROLES`, -> token.
        template: three tuples of tokens: before a text, between two texts, after the last; None where nothing says so.
        mask_lstrip: whether the mask token takes the blanks to its left, as RoBERTa's does.
        chat_template: the program that makes one text of a conversation (`zoo/tokenizers/chat.py`), or None.
        ends: ids that end what a model writes, where these are others than the one of `eos`.
    """

    roles: dict = field(default_factory=dict)
    template: tuple | None = None
    mask_lstrip: bool = False
    chat_template: str | None = None
    ends: tuple = ()

    def saved(self):
        """JSON fields of `zoo_tokenizer.json`; none where there is nothing to say, so that older files stay as they are."""
        if self == NOTHING:
            return {}
        more = {} if self.chat_template is None else {"chat_template": self.chat_template}
        more |= {"ends": list(self.ends)} if self.ends else {}
        return {"special": {"roles": self.roles, "template": self.template, "mask_lstrip": self.mask_lstrip, **more}}

    @classmethod
    def loaded(cls, config):
        """The inverse of `saved`."""
        fields = dict(config.get("special") or {})
        if fields.get("template") is not None:
            fields["template"] = tuple(tuple(part) for part in fields["template"])
        return cls(**{**fields, "ends": tuple(fields.get("ends", ()))})


NOTHING = Special()


def sentinel_name(number):
    """How the sentinel of a number is written."""
    return f"{BEGIN}{number}>"


def sentinels_among(ids):
    """The ids of a vocabulary's sentinels, in the order of their numbers, as far as these have no gap.

    sentinels_among({"a": 0, "<extra_id_1>": 1, "<extra_id_0>": 2}) -> (2, 1)

    Args:
        ids: dict, token -> id. A blank may stand before a name, as mT5 has it.
    """
    found = []
    while True:
        name = sentinel_name(len(found))
        i = ids.get(name, ids.get(BLANK + name))
        if i is None:
            return tuple(found)
        found.append(i)


def template_of(native, where):
    """The template of a `tokenizers.Tokenizer`: what its post-processor puts around texts, whatever kind it is of.

    Raises Refusal when two texts begin or end otherwise than one does.
    """
    if native.post_processor is None:
        return None
    native.no_padding()
    native.no_truncation()
    vocabulary = native.get_vocab(with_added_tokens=False)
    probe = next((text for text in ("a", *vocabulary) if native.encode(text, add_special_tokens=False).ids), None)
    if probe is None:
        return None
    one, two = native.encode(probe), native.encode(probe, probe)
    first, last = (edge([i for i, part in enumerate(one.sequence_ids) if part == 0]) for edge in (min, max))
    before, after = tuple(one.tokens[:first]), tuple(one.tokens[last + 1 :])
    where_first = [i for i, part in enumerate(two.sequence_ids) if part == 0]
    where_second = [i for i, part in enumerate(two.sequence_ids) if part == 1]
    between = tuple(two.tokens[max(where_first) + 1 : min(where_second)])
    if (tuple(two.tokens[: min(where_first)]), tuple(two.tokens[max(where_second) + 1 :])) != (before, after):
        raise Refusal(f"{where} puts other tokens around two texts than around one; that is not supported.")
    return before, between, after


def post_processor(template, id_of):
    """The post-processor of the `tokenizers` library that makes a template; None where nothing stands around a text.

    Args:
        template: three tuples of tokens, as in `Special`.
        id_of: function, token -> id.
    """
    before, between, after = template
    if not (before or between or after):
        return None
    # One separator tells the parts apart by type, as BERT does; RoBERTa has two separators and one type.
    second = 1 if len(between) == 1 and after else 0
    words = {part: [f"{token}:{kind}" for token in tokens] for part, tokens, kind in (
        ("before", before, 0), ("between", between, 0), ("after", after, 0), ("end", after, second),
    )}  # fmt: skip
    return tokenizers.processors.TemplateProcessing(
        single=[*words["before"], "$A:0", *words["after"]],
        pair=[*words["before"], "$A:0", *words["between"], f"$B:{second}", *words["end"]],
        special_tokens=[(token, id_of(token)) for token in dict.fromkeys((*before, *between, *after))],
    )
