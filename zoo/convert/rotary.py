"""Scaled rotary positions in third-party files: `rope_parameters` (once `rope_scaling`) of Hugging Face <-> our fields.

read({"rope_type": "linear", "factor": 4.0})   ->   {"rotary_scaling": "linear", "rotary_numbers": (4.0,)}
"""

import math

from zoo.config import Refusal

# Keys that say nothing about the scaling itself.
BESIDE = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
KEYS = {
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": {
        "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
        "truncate",
    },
}  # fmt: skip
# By these nothing is scaled up to `max_position_embeddings`, and there are no longer texts.
PLAIN = ("default", "dynamic")


def read(rope, original, longest):
    """Fields of a `GPTConfig`: `rotary_scaling` and `rotary_numbers`.

    Args:
        rope: dict, their `rope_parameters`.
        original: the length of the training before, where config.json has it outside of `rope`; or None.
        longest: their `max_position_embeddings`.

    Raises:
        Refusal: another kind of scaling, a number that is missing, or a key that is not known.
    """
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind in PLAIN:
        return {"rotary_scaling": "none", "rotary_numbers": ()}
    if kind not in KEYS:
        kinds = ", ".join((*PLAIN, *KEYS))
        raise Refusal(f"The rotary positions are scaled by {kind!r}; only {kinds} are read here.")
    unknown = sorted(set(rope) - KEYS[kind] - BESIDE)
    if unknown:
        raise Refusal(f"The rotary positions are scaled by {kind!r} with {unknown[0]!r}, which is not known here.")
    length = original or rope.get("original_max_position_embeddings") or longest
    try:
        if kind == "linear":
            numbers = (rope["factor"],)
        elif kind == "llama3":
            numbers = (rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"], length)
        else:
            factor = rope.get("factor") or longest / length
            fast, slow = rope.get("beta_fast") or 32, rope.get("beta_slow") or 1
            numbers = (factor, length, attention_factor(rope, factor), fast, slow, float(rope.get("truncate", True)))
        return {"rotary_scaling": kind, "rotary_numbers": tuple(map(float, numbers))}
    except KeyError as error:
        raise Refusal(f"The rotary positions are scaled by {kind!r}, but config.json does not say {error}.") from error


def attention_factor(rope, factor):
    """What cos and sin are multiplied by under YaRN: 0.1 ln(s) + 1 unless `rope` says otherwise."""

    def grown(by):
        return 0.1 * by * math.log(factor) + 1 if factor > 1 else 1.0

    given, one, all_dims = (rope.get(name) for name in ("attention_factor", "mscale", "mscale_all_dim"))
    if given is not None:
        return given
    return grown(one) / grown(all_dims) if one and all_dims else grown(1)


def written(config):
    """The fields of their config.json, given ours."""
    if getattr(config, "rotary_scaling", "none") == "none":
        return {"rope_theta": config.rotary_theta}
    numbers = config.rotary_numbers
    if config.rotary_scaling == "linear":
        named = {"factor": numbers[0]}
    elif config.rotary_scaling == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor")
        named = {**dict(zip(names, numbers, strict=False)), "original_max_position_embeddings": round(numbers[3])}
    else:
        names = ("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "truncate")
        named = dict(zip(names, numbers, strict=True))
        named |= {"original_max_position_embeddings": round(numbers[1]), "truncate": bool(numbers[5])}
    # Older libraries read the first, newer ones take it for the second.
    return {"rope_theta": config.rotary_theta, "rope_scaling": {"rope_type": config.rotary_scaling, **named}}
