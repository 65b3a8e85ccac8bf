"""CTranslate2's directories <-> bundles of a Transformer: `config.json`, the lists of tokens, and `model.bin`.

bundle = read("ende_ctranslate2")      float32, float16, bfloat16, int16 and int8, which are made float32
write(bundle, "mine")                  for ctranslate2.Translator("mine"), through that library's own specification

model.bin is little-endian: the version; the name and the revision of the specification; the number of variables, and of each
its name, shape, type, size and bytes; the number of aliases, and of each its name and the variable that it stands for. A string
is its length, with the byte 0 behind it, and its bytes.
"""

import importlib.util
import json
import math
import re
import struct
import sys
from pathlib import Path

import numpy as np

from zoo.bundle import Bundle
from zoo.config import Refusal
from zoo.convert import opennmt, translator_certificate
from zoo.convert.checklist import Checklist
from zoo.convert.opennmt import OUTPUT, SOURCE, TARGET
from zoo.convert.rules import parts, to_theirs
from zoo.convert.weights import Tensors, variables_by_path
from zoo.layers.forms import GATED_ACTIVATIONS
from zoo.layers.positions import sinusoids
from zoo.registry import MODELS
from zoo.tokenizers import base as tokenizers
from zoo.tokenizers.base import read_json, read_lines

FILE, SPECIFICATION, VERSIONS = "model.bin", "TransformerSpec", (4, 5, 6)
TYPES = ("float32", "int8", "int16", "int32", "float16", "bfloat16")
# Its numbers of activations, in order, and ours.
ACTIVATIONS = ("relu", "gelu", "silu", "gelu_exact")
GATES = dict(zip(ACTIVATIONS, ("reglu", "geglu", "swiglu", "geglu_exact"), strict=True))
# Where its config.json is silent.
EPSILON = 1e-5
# Positions of a model that computes them: as many as it can be given here.
LENGTH = 1_024
START = "<pad>"  # stands for the zeros with which a decoder of Marian's begins
# Attributes that change no number here.
IRRELEVANT = re.compile(r"decoder/alignment_(layer|heads)|encoder/embeddings_merge|encoder/multi_query_attention")
# Attributes that must have this value.
FIXED = {"alibi": 0, "alibi_use_positive_positions": 0, "scale_alibi": 0, "rotary_interleave": 0, "rotary_base": 10_000}


class Stored:
    """A variable in the file, read as float32 a few rows at a time.

    Args:
        array: of the type in the file; bfloat16 as its upper halves.
        dtype: its name there.
        scale: what an integer was multiplied by, a number or one a row; or None.
    """

    def __init__(self, array, dtype, scale=None):
        self._array, self._dtype, self._scale, self.shape = array, dtype, scale, array.shape

    def __getitem__(self, rows):
        piece = self._array[rows]
        if self._dtype == "bfloat16":
            return (piece.astype(np.uint32) << 16).view(np.float32)
        piece = piece.astype(np.float32)
        if self._scale is None:
            return piece
        scale = np.asarray(self._scale, np.float32)
        return piece / (scale[rows].reshape(-1, *(1,) * (piece.ndim - 1)) if scale.ndim else scale)


class WithZeros:
    """A tensor with one more row, of zeros."""

    def __init__(self, array):
        self._array, self.shape = array, (array.shape[0] + 1, *array.shape[1:])

    def __getitem__(self, rows):
        first, last, _ = rows.indices(self.shape[0])
        piece = np.asarray(self._array[first : min(last, self.shape[0] - 1)])
        return piece if last < self.shape[0] else np.concatenate([piece, np.zeros((1, *piece.shape[1:]), np.float32)])


def variables(path):
    """`(attributes, tensors)` of a model.bin: name -> number, and name -> `Stored`.

    Raises:
        Refusal: the file is damaged, of another version, or of another kind of model.
    """
    data, at = np.memmap(path, np.uint8, "r"), 0

    def number(form):
        nonlocal at
        (value,) = struct.unpack_from(f"<{form}", data, at)
        at += struct.calcsize(f"<{form}")
        return value

    def string():
        nonlocal at
        size = number("H")
        at += size
        return bytes(data[at - size : at - 1]).decode("utf8")

    try:
        version, name, _ = number("I"), string(), number("I")
        if version not in VERSIONS or name != SPECIFICATION:
            raise Refusal(f"{path} is a {name} of version {version}; a {SPECIFICATION} of version 4 to 6 is read.")
        found = {}
        for _ in range(number("I")):
            name = string()
            shape = [number("I") for _ in range(number("B"))]
            dtype, size = TYPES[number("B")], number("I")
            raw = data[at : at + size].view(np.uint16 if dtype == "bfloat16" else dtype)
            found[name] = raw.reshape(shape), dtype
            at += size
        for _ in range(number("I")):
            alias = string()
            found[alias] = found[string()]
    except (struct.error, ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
        raise Refusal(f"{path} is damaged ({error}); copy it again from where it was made.") from error
    numbers = {name: array.item() for name, (array, dtype) in found.items() if not array.shape and dtype != "bfloat16"}
    tensors = {}
    for name, (array, dtype) in found.items():
        if array.shape and not name.endswith("_scale"):
            scale = found.get(f"{name}_scale")
            tensors[name] = Stored(array, dtype, None if scale is None else scale[0])
    return {name: value for name, value in numbers.items() if not name.endswith("weight_scale")}, tensors


def read(directory):
    """The bundle of a directory of CTranslate2's, for translation; `provenance` has the checklist of the source.

    Raises:
        Refusal: a model that a `transformer` cannot be, tensors that are missing or left over, no tokenizer, a field that is
            not known.
    """
    directory = Path(directory)
    settings = read_json(directory / "config.json") if (directory / "config.json").is_file() else {}
    attributes, tensors = variables(directory / FILE)
    checklist = Checklist(directory)
    names = (
        "unk_token",
        "bos_token",
        "eos_token",
        "decoder_start_token",
        "add_source_bos",
        "add_source_eos",
        "layer_norm_epsilon",
    )
    checklist.fields("config.json", settings, names, {}, {"multi_query_attention": (None, False)})
    sides, files = _vocabularies(directory)
    config = _config(attributes, tensors, settings, directory / FILE)
    zero = bool(attributes.get("decoder/start_from_zero_embedding"))
    if zero:
        config = config.replace(vocab_size=config.vocab_size + 1)
        shared = config.source_vocab_size is None
        for name in (TARGET, OUTPUT, "decoder/projection/bias", *([SOURCE] if shared else [])):
            if name in tensors:
                tensors[name] = WithZeros(tensors[name])
        start = next(name for name in (START, f"{START}_start") if name not in sides[1])
        sides = [[*sides[0], start] if shared else sides[0], [*sides[1], start]]
    else:
        start = settings.get("decoder_start_token", "<s>")
    for tokens, size in zip(sides, (config.source_vocab_size or config.vocab_size, config.vocab_size), strict=True):
        if len(tokens) != size:
            raise Refusal(f"{directory} has a list of {len(tokens)} tokens and a table of {size}; copy it again.")
    tokenizer, own = _tokenizer(directory, sides, settings, start)
    spoken = [path.name for path in directory.iterdir() if path.suffix in (".spm", ".model")]
    checklist.files({FILE, "config.json", *files, *own, *spoken})
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("position_encodings/encodings")}
    model, task = opennmt.assembled(config, Tensors(tensors), directory)
    provenance = {"converted_from": "ctranslate2", "source": directory.name, "checklist": checklist.report()}
    bundle = Bundle(model, tokenizer, task, provenance)
    if model.num_ids is not None and model.output_bias is not None:  # those rows of it forbid ids, which the model does itself
        bias = model.output_bias.numpy()
        model.output_bias.assign(np.where(np.isneginf(bias) & (np.arange(len(bias)) >= model.num_ids), 0, bias))
    return bundle


def _vocabularies(directory):
    """([tokens of sources, tokens of targets], names of the files)."""

    def tokens(name):
        for file in (f"{name}_vocabulary.json", f"{name}_vocabulary.txt"):
            path = directory / file
            if path.is_file():
                found = json.loads(path.read_text(encoding="utf8")) if path.suffix == ".json" else read_lines(path)
                return list(found), file
        return None, None

    (shared, file), (source, first), (target, second) = map(tokens, ("shared", "source", "target"))
    if shared is not None:
        return [shared, shared], [file]
    if source is None or target is None:
        raise Refusal(
            f"{directory} has no list of tokens: neither shared_vocabulary.json nor one of sources and one of targets."
        )
    return [source, target], [first, second]


def _tokenizer(directory, sides, settings, start):
    """(the tokenizer, names of what it was read from)."""
    if (directory / "tokenizer" / "zoo_tokenizer.json").is_file():
        return tokenizers.load(directory / "tokenizer"), ["tokenizer"]
    bos, eos = settings.get("bos_token", "<s>"), settings.get("eos_token", "</s>")
    roles = {"eos": eos, "unk": settings.get("unk_token", "<unk>")}
    after = (eos,) if settings.get("add_source_eos") else ()
    template = (bos,) if settings.get("add_source_bos") else (), (), after
    return opennmt.tokenizer_of(directory, sides, [{**roles, "pad": start}] * 2, template), []


def _config(attributes, tensors, settings, where):
    """The `TransformerConfig` of a model's attributes and shapes."""
    if TARGET not in tensors or SOURCE not in tensors:
        raise Refusal(f"{where} lacks {TARGET} or {SOURCE}; only a model with one source and one target is read.")
    known = {}
    for name, value in attributes.items():
        last = name.rpartition("/")[2]
        if last in FIXED and value != FIXED[last]:
            raise Refusal(f"{where} has {name}={value}, which a transformer cannot have; only {FIXED[last]} is read.")
        if last not in FIXED and not IRRELEVANT.fullmatch(name):
            stack = name.partition("/")[0]
            last = "scale_embeddings" if last == "multiply_by_sqrt_depth" else last
            if known.setdefault(last, value) != value:
                raise Refusal(f"{where} has {last}={known[last]} and, in {stack}, {value}; a transformer has one for both.")
    zero = known.pop("start_from_zero_embedding", 0)
    if zero not in (0, 1) or known.pop("num_heads_kv", None) not in (None, known["num_heads"]):
        raise Refusal(f"{where} shares keys and values between heads, which a transformer does not.")
    hidden = tensors[TARGET].shape[1]
    scale = known.pop("scale_embeddings", 1)
    if not any(math.isclose(scale, value, rel_tol=1e-5) for value in (0, 1, math.sqrt(hidden))):
        raise Refusal(
            f"{where} multiplies embeddings by {scale}; a transformer multiplies by the root of {hidden}, or not at all."
        )
    floating = isinstance(scale, float)  # a switch is an integer, a factor is not
    number = known.pop("activation", 0)
    if number >= len(ACTIVATIONS):
        raise Refusal(f"{where} has activation number {number}; only {', '.join(ACTIVATIONS)} are read.")
    activation = ACTIVATIONS[number]
    gated = "encoder/layer_0/ffn/linear_0_noact/weight" in tensors
    fields = dict(num_heads=known.pop("num_heads"), norm_first=bool(known.pop("pre_norm", 1)))
    position, length = _positions(tensors, known, hidden // fields["num_heads"], where)
    if known:
        raise Refusal(f"{where} has {', '.join(sorted(known))}, which are not known here and may change what it computes.")
    there = Tensors(tensors)
    return MODELS.config("transformer").from_dict({
        **fields,
        **opennmt.structure(there, where),
        "position": position, "max_length": length,
        "activation": GATES[activation] if gated else activation,
        "scale_embeddings": not math.isclose(scale, 1.0) if floating else bool(scale),
        "epsilon": EPSILON if settings.get("layer_norm_epsilon") is None else settings["layer_norm_epsilon"],
    })  # fmt: skip


def _positions(tensors, known, head, where):
    """(form of the positions, how many there are)."""
    rotary = known.pop("rotary_dim", None)
    if rotary is not None:
        if rotary not in (0, head):
            raise Refusal(f"{where} turns {rotary} numbers of each head of {head}; a transformer turns all.")
        return "rotary", LENGTH
    tables = [tensors.get(f"{stack}/position_encodings/encodings") for stack in ("encoder", "decoder")]
    if tables == [None, None]:
        return "sinusoidal_opennmt", LENGTH
    if None in tables:
        raise Refusal(f"{where} has a table of positions in one of its stacks alone.")
    forms = {opennmt.position_of(table[:], where) for table in tables}
    if len(forms) == 2:
        raise Refusal(f"{where} has {' and '.join(sorted(forms))} positions; a transformer has one form.")
    return forms.pop(), min(table.shape[0] for table in tables)


def certify(bundle, directory, peer_python=None):
    """Compares a bundle with what ctranslate2 gives for its directory, in float32.

    Args:
        bundle: a `Bundle` of a `transformer`.
        directory: of CTranslate2's, with the same weights.
        peer_python: an interpreter that has ctranslate2; None for this one, if it has it.

    Returns:
        dict of `outputs`: how far the log-probabilities of given tokens are apart; and `served`: what `generate` and
        `beam_search` answered as that library does.

    Raises:
        Refusal: log-probabilities or greedy texts differ, or the peer fails.
    """
    peer = sys.executable if importlib.util.find_spec("ctranslate2") and peer_python is None else peer_python
    if peer is None:
        return {"outputs": {"compared": False, "reason": "ctranslate2 is not installed; see --peer_python"}}
    return translator_certificate.certify(bundle, directory, peer)


def write(bundle, directory):
    """Writes the directory that `ctranslate2.Translator` reads, in float32, with our `tokenizer/` and the SentencePiece models
    beside it.

    Raises:
        Refusal: the library is not installed, or the bundle is not of a `transformer` whose tokens are written.
    """
    model, tokenizer, directory = bundle.model, bundle.tokenizer, Path(directory)
    if importlib.util.find_spec("ctranslate2") is None:
        raise Refusal("--export_format=ctranslate2 needs ctranslate2: pip install -e '.[ctranslate2]' in the checkout.")
    if model.registered_name != "transformer":
        raise Refusal(f"Only a transformer is written for ctranslate2, and this is a {model.registered_name}.")
    frame = bundle.task.frame(model.kind, tokenizer)
    before, after = frame.before, frame.after
    if before or after not in ((), (tokenizer.eos_id,)):
        raise Refusal("ctranslate2 puts nothing around a source but its end, and this tokenizer puts more there.")
    arrays, config, target = _arrays(model), model.config, tokenizer.target
    source_tokens = _named(tokenizer, config.source_vocab_size or config.vocab_size)
    tokens = _named(target, config.vocab_size)
    zero = _starts_from_zeros(model, target, arrays)
    if zero:  # as Marian's own files: the row of zeros goes, and with it the padding that is never written
        last = config.vocab_size - 1
        shared = config.source_vocab_size is None
        names = {TARGET, OUTPUT, "decoder/projection/bias", *([SOURCE] if shared else [])}
        arrays = {name: value[:last] if name in names else value for name, value in arrays.items()}
        source_tokens, tokens = source_tokens[:last] if shared else source_tokens, tokens[:last]
    elif model.num_ids is not None:
        bias = arrays.get("decoder/projection/bias", np.zeros(config.vocab_size, np.float32))
        arrays["decoder/projection/bias"] = np.where(np.arange(config.vocab_size) < model.num_ids, bias, -np.inf)
    spec = _specification(config, arrays, zero)
    written = {"eos_token": tokens[target.eos_id], "add_source_eos": bool(after), "layer_norm_epsilon": config.epsilon}
    written["decoder_start_token"] = written["bos_token"] = tokens[target.eos_id if zero else target.pad_id]
    if target.unk_id is not None:
        written["unk_token"] = tokens[target.unk_id]
    for name, value in written.items():
        setattr(spec.config, name, value)
    spec.register_source_vocabulary(source_tokens)
    spec.register_target_vocabulary(tokens)
    directory.mkdir(parents=True, exist_ok=True)
    spec.validate()
    spec.optimize()
    spec.save(str(directory))
    tokenizer.save(directory / "tokenizer")
    return directory


def _arrays(model):
    """Name of a variable of CTranslate2's -> array."""
    config, ours, arrays = model.config, variables_by_path(model), {}
    for rule in opennmt.family(config).rules(config):
        values = to_theirs(rule, ours[rule.ours].numpy(), parts(config, rule))
        arrays |= dict(zip(rule.theirs, values, strict=True))
    arrays.setdefault(OUTPUT, arrays[TARGET])
    arrays.setdefault(SOURCE, arrays[TARGET])
    return arrays


def _named(tokenizer, rows):
    """The tokens of a tokenizer, and names for the rows of a table that stand for none."""
    tokens = list(tokenizer.vocabulary)
    return [*tokens, *(f"<unused_{i}>" for i in range(len(tokens), rows))]


def _starts_from_zeros(model, tokenizer, arrays):
    """Whether the padding is never written and is a row of zeros: what a decoder of Marian's begins with."""
    last = model.config.vocab_size - 1
    return model.num_ids == tokenizer.pad_id == last and not arrays[TARGET][last].any()


def _specification(config, arrays, zero):
    """The library's own specification, filled."""
    from ctranslate2.specs import model_spec, transformer_spec

    gated = config.activation in GATED_ACTIVATIONS
    plain = {gate: name for name, gate in GATES.items()}.get(config.activation, config.activation)
    options = dict(
        pre_norm=config.norm_first, activation=ACTIVATIONS.index(plain), ffn_glu=gated, rms_norm=config.norm == "rms",
    )  # fmt: skip
    if config.position == "rotary":
        options |= dict(rotary_dim=config.head_width, rotary_interleave=False)
    encoder = transformer_spec.TransformerEncoderSpec(config.num_layers, config.num_heads, **options)
    decoder = transformer_spec.TransformerDecoderSpec(config.decoder_layers, config.num_heads, **options)
    spec = transformer_spec.TransformerSpec(encoder, decoder)
    for name, value in arrays.items():
        layer, _, attribute = name.rpartition("/")
        setattr(model_spec.index_spec(spec, layer), attribute, np.ascontiguousarray(value, np.float32))
    for stack in (encoder, decoder):
        stack.scale_embeddings = math.sqrt(config.hidden_dim) if config.scale_embeddings else 1.0
        if config.position in ("sinusoidal", "sinusoidal_halves"):
            form = opennmt.POSITIONS[config.position]
            stack.position_encodings.encodings = np.asarray(sinusoids(config.max_length, config.hidden_dim, **form))
    decoder.start_from_zero_embedding = zero
    return spec
