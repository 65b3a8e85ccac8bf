"""What OpenNMT's two libraries, CTranslate2 and OpenNMT-tf, have in common with our Transformer: one table of names.

The names are those of CTranslate2, whose variables are matrices (outputs, inputs), side by side where one product makes several
things. OpenNMT-tf's variables are shown under the same names (`zoo/convert/opennmt_tf.py`).
"""

import numpy as np

from zoo.bundle import unfilled
from zoo.config import Refusal
from zoo.convert.rules import Family, Rule
from zoo.convert.weights import assign, equal
from zoo.layers.forms import GATED_ACTIVATIONS
from zoo.layers.positions import sinusoids
from zoo.registry import MODELS, TASKS, TOKENIZERS
from zoo.tokenizers.pair import PairTokenizer
from zoo.tokenizers.special import Special

# The tables of the target, of the source and of the output.
TARGET, SOURCE, OUTPUT = "decoder/embeddings/weight", "encoder/embeddings_0/weight", "decoder/projection/weight"
POSITIONS = {"sinusoidal": dict(interleaved=True), "sinusoidal_halves": {}, "sinusoidal_opennmt": dict(opennmt=True)}


def family(config):
    """The `Family` of a `TransformerConfig`: its `rules` name CTranslate2's variables."""
    gated = config.activation in GATED_ACTIVATIONS
    return Family(
        model="transformer",
        prefix="",
        fields={},
        embeddings=[Rule("embeddings/embeddings", (TARGET,)), *_source(config)],
        block=_block("encoder", config, gated),
        decoder_block=_block("decoder", config, gated),
        final=[
            *(rule for stack in _final(config) for rule in _norm(f"{stack}_norm", f"{stack}/layer_norm", config)),
            *([Rule("output_bias", ("decoder/projection/bias",))] if config.output_bias else []),
        ],
        untied=[Rule("embeddings/reverse_embeddings", (OUTPUT,), transposed=True)],
        copies={OUTPUT: TARGET, SOURCE: TARGET},
        architectures={},
    )


def _source(config):
    return [] if config.source_vocab_size is None else [Rule("source_embeddings/embeddings", (SOURCE,))]


def _final(config):
    return ("encoder", "decoder") if config.norm_first else ()


def _linear(ours, *theirs, config):
    rules = [Rule(f"{ours}/kernel", tuple(f"{name}/weight" for name in theirs), transposed=True)]
    return rules + ([Rule(f"{ours}/bias", tuple(f"{name}/bias" for name in theirs))] if config.use_bias else [])


def _norm(ours, theirs, config):
    parts = ("gamma", "beta") if config.norm == "layer" else ("gamma",)
    return [Rule(f"{ours}/{part}", (f"{theirs}/{part}",)) for part in parts]


def _block(stack, config, gated):
    ours, theirs = f"{stack}_{{i}}", f"{stack}/layer_{{i}}"
    rules = _linear(f"{ours}/attention/qkv", f"{theirs}/self_attention/linear_0", config=config)
    rules += _linear(f"{ours}/attention/output_projection", f"{theirs}/self_attention/linear_1", config=config)
    rules += _norm(f"{ours}/attention_norm", f"{theirs}/self_attention/layer_norm", config)
    if stack == "decoder":
        for i, name in enumerate(("query", "key_value", "output_projection")):
            rules += _linear(f"{ours}/cross/{name}", f"{theirs}/attention/linear_{i}", config=config)
        rules += _norm(f"{ours}/cross_norm", f"{theirs}/attention/layer_norm", config)
    expand = (f"{theirs}/ffn/linear_0", f"{theirs}/ffn/linear_0_noact")[: 1 + gated]
    rules += _linear(f"{ours}/mlp/expand", *expand, config=config)
    rules += _linear(f"{ours}/mlp/contract", f"{theirs}/ffn/linear_1", config=config)
    return [*rules, *_norm(f"{ours}/mlp_norm", f"{theirs}/ffn/layer_norm", config)]


def position_of(table, where, tolerance=2e-3):
    """Which of `POSITIONS` a table (L, D) is. Raises Refusal for another one, such as a table that was learnt."""
    length, width = table.shape
    for name, form in POSITIONS.items():
        if np.abs(np.asarray(sinusoids(length, width, **form)) - table).max() < tolerance:
            return name
    raise Refusal(f"{where} has positions that were learnt, or of another form; a transformer has sinusoids or rotary ones.")


def tokenizer_of(directory, sides, roles, template):
    """The tokenizer of a directory that holds SentencePiece models beside lists of tokens.

    Args:
        directory: with `source.spm` and `target.spm`, or with one `.model` or `.spm` for both sides.
        sides: the tokens of sources and those of targets, in the order of their ids.
        roles: two dicts, role -> token: eos, unk and pad.
        template: what an encoder reads around a source, three tuples of tokens.

    Raises:
        Refusal: there are no such models, or several.
    """
    TOKENIZERS.get("unigram")  # says what to install where the library sentencepiece is missing
    from zoo.tokenizers.numbered_pieces import NumberedPieces

    pair = [directory / "source.spm", directory / "target.spm"]
    if not all(path.is_file() for path in pair):
        found = sorted([*directory.glob("*.spm"), *directory.glob("*.model")])
        if len(found) != 1:
            raise Refusal(
                f"{directory} has {len(found)} SentencePiece models; put source.spm and target.spm there, or one .model for "
                "both. Lists of tokens do not say how a text becomes tokens."
            )
        pair = found * 2
    sides = [
        NumberedPieces(path.read_bytes(), tokens, Special(side, template))
        for path, tokens, side in zip(pair, sides, roles, strict=True)
    ]
    return PairTokenizer(*sides)


def structure(tensors, where):
    """Fields of a `TransformerConfig` that the names and shapes of tensors tell.

    Args:
        tensors: a `Tensors` under CTranslate2's names.
        where: what the file is called in a message.
    """
    names = set(tensors.names())

    def layers(stack):
        return sum(f"{stack}/layer_{i}/ffn/linear_0/weight" in names for i in range(len(names)))

    if not layers("encoder") or not layers("decoder"):
        raise Refusal(f"{where} has no layers of an encoder and of a decoder.")
    size, hidden = tensors.shape(TARGET)
    return {
        "vocab_size": size,
        "source_vocab_size": None if equal(tensors, SOURCE, TARGET) else tensors.shape(SOURCE)[0],
        "num_layers": layers("encoder"),
        "num_decoder_layers": layers("decoder"),
        "hidden_dim": hidden,
        "mlp_dim": tensors.shape("encoder/layer_0/ffn/linear_0/weight")[0],
        "norm": "layer" if "encoder/layer_0/ffn/layer_norm/beta" in names else "rms",
        "use_bias": "encoder/layer_0/ffn/linear_0/bias" in names,
        "tie_embeddings": OUTPUT not in names or equal(tensors, OUTPUT, TARGET),
        "output_bias": "decoder/projection/bias" in names,
        "dropout": 0.1,
    }


def assembled(config, tensors, where):
    """(a model for translation with the tensors of a file, its task)."""
    task = TASKS.get("translation")()
    with unfilled():
        model = task.assemble(MODELS.get("transformer")(config)).build_from_ids()
    assign(model, family(config), tensors, with_head=False, where=str(where))
    return model, task
