"""What the tables of decoders are put together from: rules of a layer, and fields that several families say alike."""

from zoo.config import Refusal
from zoo.convert import rotary
from zoo.convert.rules import linear, norm

GELUS = {"gelu": "gelu_exact", "gelu_new": "gelu", "gelu_fast": "gelu", "gelu_pytorch_tanh": "gelu"}
NETWORKS = {**GELUS, "relu": "relu"}
SILU = dict(hidden_act=("silu", "swish"))
# The epsilon of the norms of queries and keys.
QK_EPSILON = 1e-6
ROPE = ("rope_parameters", "rope_scaling", "rope_theta", "original_max_position_embeddings")
SHAPE = ("num_key_value_heads", "head_dim", "tie_word_embeddings")
WINDOWED, WHOLE = "sliding_attention", "full_attention"


def block(names, layer="layers.{i}", grouped=False, plus=0.0):
    """The rules in a layer as a function of our config.

    Args:
        names: the zoo's module -> theirs, one or several side by side.
        layer: what stands before their names.
        grouped: as of a `Rule`, for queries, keys and values.
        plus: as of a `Rule`, for norms.
    """

    def rules(c):
        absent = {
            "attention_norm": c.norm_at == "output", "mlp_norm": c.norm_at == "output" or c.parallel == "shared",
            "attention_output_norm": c.norm_at == "input", "mlp_output_norm": c.norm_at == "input",
            "attention/query_norm": not c.normalize_qk, "attention/key_norm": not c.normalize_qk,
        }  # fmt: skip
        made = []
        for module, theirs in names.items():
            ours, stems = f"block_{{i}}/{module}", [f"{layer}.{name}" for name in theirs.split()]
            if absent.get(module):
                continue
            if module.endswith("norm"):
                of_heads = module.startswith("attention/")
                made += norm(ours, stems[0], bias=c.norm == "layer" and not of_heads, plus=plus)
            else:
                is_qkv = module == "attention/qkv"
                made += linear(ours, *stems, bias=c.has_qkv_bias if is_qkv else c.use_bias, grouped=grouped and is_qkv)
        return made

    return rules


def head_width(theirs):
    """H, from their config.json."""
    return theirs.get("head_dim") or theirs["hidden_size"] // theirs["num_attention_heads"]


def rotary_fields(theirs, theta=10_000.0, share=1.0):
    """Fields of rotary positions.

    Args:
        theirs: their config.json.
        theta, share: base of the wavelengths and turned share of a head where it says none.
    """
    rope = theirs.get("rope_scaling") or theirs.get("rope_parameters") or {}
    head_dim, longest = head_width(theirs), theirs["max_position_embeddings"]
    rotated = int(head_dim * rope.get("partial_rotary_factor", theirs.get("partial_rotary_factor", share)))
    return {
        "rotary_theta": float(rope.get("rope_theta", theirs.get("rope_theta", theta))),
        **rotary.read(rope, theirs.get("original_max_position_embeddings"), longest),
        "rotary_dim": None if rotated == head_dim else rotated,
    }


def shape_fields(theirs):
    """Fields that most of them spell alike."""
    return {
        "num_kv_heads": theirs.get("num_key_value_heads") or theirs["num_attention_heads"],
        "head_dim": head_width(theirs),
        "tie_embeddings": bool(theirs.get("tie_word_embeddings", False)),
    }


def window_fields(theirs, kinds=None):
    """Fields of windows, where some layers have one.

    Args:
        theirs: their config.json.
        kinds: of its layers, where it does not say; None for a window in all.

    Raises:
        Refusal: a kind of layer that is not known.
    """
    window, layers = theirs.get("sliding_window"), theirs["num_hidden_layers"]
    kinds = theirs.get("layer_types") or kinds or [WINDOWED] * layers
    unknown = sorted(set(kinds) - {WINDOWED, WHOLE})
    if unknown or len(kinds) != layers:
        raise Refusal(f"layer_types must name {layers} layers of {WINDOWED} or {WHOLE}, got {str(unknown or kinds)[:60]}.")
    if window is None or WINDOWED not in kinds:
        return {}
    return {"window": window, "global_layers": tuple(i for i, kind in enumerate(kinds) if kind == WHOLE)}


def reachable(fields, longest):
    """Fields without a window that no text fills."""
    return {} if fields.get("window", 0) >= longest else fields


def layer_types(config):
    """The kinds of our layers in their words."""
    return [WHOLE if config.window_of(i) is None else WINDOWED for i in range(config.num_layers)]


def check_epsilon(theirs):
    """Raises Refusal for an epsilon that the norms of queries and keys do not have here."""
    if theirs["rms_norm_eps"] != QK_EPSILON:
        raise Refusal(f"rms_norm_eps is {theirs['rms_norm_eps']}; queries and keys are normalised with {QK_EPSILON} here.")


def their_share(config):
    """Their fields of positions that turn a part of each head."""
    rope, share = rotary.written(config), config.rotary_width / config.head_width
    if "rope_scaling" in rope:
        rope["rope_scaling"]["partial_rotary_factor"] = share
    return {**rope, "partial_rotary_factor": share}


def their_network(activation):
    """Their name of an activation, or None."""
    return {ours: theirs for theirs, ours in NETWORKS.items()}.get(activation)
