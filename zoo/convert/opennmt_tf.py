"""Checkpoints of OpenNMT-tf 2: `ckpt-*` of its Transformer, with vocabularies and SentencePiece models beside it.

bundle = read("averaged-ende")      checkpoint, ckpt-500000.index, ckpt-500000.data-..., wmtende.vocab, wmtende.model

A checkpoint is a graph of objects. A variable is found on its way from the root, such as
`model/encoder/layers/0/self_attention/layer/linear_queries/kernel`, however many names it has.

What a checkpoint does not say has the values of OpenNMT-tf's own models: relu, sinusoids from position 1 on, embeddings
multiplied by sqrt(D), norms with an epsilon of 1e-3, heads of 64, a source without marks around it. `num_heads=` and
`ffn_activation=` are read in `model_description.py`, which is not run.
"""

import re
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from zoo.bundle import Bundle
from zoo.config import Refusal
from zoo.convert import opennmt
from zoo.convert.checklist import Checklist
from zoo.convert.opennmt import OUTPUT, SOURCE, TARGET
from zoo.convert.weights import Tensors
from zoo.registry import MODELS
from zoo.tokenizers.base import read_lines

GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
# Layers of their own of Keras, and of OpenNMT-tf, leave the epsilon at Keras's default.
EPSILON = 1e-3
HEAD = 64
LENGTH = 1_024
ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "silu", "silu": "silu"}
# Their ids 0, 1, 2, and what stands behind the last line for all other tokens.
BLANK, START, END, UNKNOWN = "<blank>", "<s>", "</s>", "<unk>"
DESCRIPTION = "model_description.py"


def found(directory):
    """The prefix of the checkpoint in a directory, the latest where there are several; None where there is none."""
    directory = Path(directory)
    numbers = [
        int(match[1]) for path in directory.glob("ckpt-*.index") if (match := re.fullmatch(r"ckpt-(\d+)\.index", path.name))
    ]
    return directory / f"ckpt-{max(numbers)}" if numbers else None


def read(directory):
    """The bundle of a directory, for translation; `provenance` has the checklist of the source.

    Raises:
        Refusal: a checkpoint that is damaged or of another model than a Transformer with absolute positions, a vocabulary or a
            SentencePiece model that is missing.
    """
    directory = Path(directory)
    prefix = found(directory)
    if prefix is None:
        raise Refusal(f"{directory} has no checkpoint of OpenNMT-tf 2: there is no ckpt-NUMBER.index.")
    tensors = _tensors(prefix)
    sides, files = _vocabularies(directory)
    described, description = _described(directory)
    fields = opennmt.structure(tensors, prefix)
    hidden = fields["hidden_dim"]
    if "num_heads" not in described and hidden % HEAD:
        raise Refusal(
            f"{prefix} does not say how many heads there are, and {hidden} is not a multiple of {HEAD}; write num_heads= into "
            f"{DESCRIPTION} there."
        )
    config = MODELS.config("transformer").from_dict({
        "num_heads": hidden // HEAD, "activation": "relu", **described, **fields, "position": "sinusoidal_opennmt",
        "max_length": LENGTH, "norm_first": "encoder/layer_norm/gamma" in tensors.names(), "epsilon": EPSILON,
    })  # fmt: skip
    for tokens, size in zip(sides, (config.source_vocab_size or config.vocab_size, config.vocab_size), strict=True):
        if len(tokens) != size:
            raise Refusal(f"{directory} has a vocabulary of {len(tokens)} tokens, {UNKNOWN} included, and a table of {size}.")
    roles = [{"eos": END, "pad": START, "unk": tokens[-1]} for tokens in sides]
    tokenizer = opennmt.tokenizer_of(directory, sides, roles, ((), (), ()))
    checklist = Checklist(directory)
    weights = [path.name for path in directory.glob(f"{prefix.name}.*")]
    spoken = [path.name for path in directory.iterdir() if path.suffix in (".spm", ".model")]
    others = [path.name for path in directory.glob("ckpt-*") if path.name not in weights]
    checklist.files({"checkpoint", *weights, *files, *description, *spoken, *others})
    model, task = opennmt.assembled(config, tensors, prefix)
    provenance = {"converted_from": "opennmt_tf", "source": directory.name, "checklist": checklist.report()}
    return Bundle(model, tokenizer, task, provenance)


def certify():
    """What a certificate says: nothing was compared, as the peer cannot be had."""
    return {"outputs": {"compared": False, "reason": "OpenNMT-tf does not install beside this TensorFlow; it stopped at 2.13"}}


class _Checkpoint:
    """The variables of an object-based checkpoint, by their ways from the root.

    Args:
        prefix: its path without an ending.

    Raises:
        Refusal: it is damaged, or was written by name, as version 1 did.
    """

    def __init__(self, prefix):
        self._prefix, self.used = prefix, set()
        try:
            self._reader = tf.train.load_checkpoint(str(prefix))
            self._graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(self._reader.get_tensor(GRAPH))
        except (tf.errors.OpError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise Refusal(f"{prefix} is damaged, or no checkpoint of objects ({reason}); copy it again.") from error

    def key(self, way):
        """The key of the variable at the end of a way, or None."""
        node = self._graph.nodes[0]
        for step in way.split("/"):
            following = [child.node_id for child in node.children if child.local_name == step]
            if not following:
                return None
            node = self._graph.nodes[following[0]]
        return node.attributes[0].checkpoint_key if node.attributes else None

    def __call__(self, way):
        """The array at the end of a way, float32. Raises Refusal where there is none."""
        key = self.key(way)
        if key is None:
            raise Refusal(f"{self._prefix} lacks {way}; only a Transformer of OpenNMT-tf 2 with one source is read.")
        self.used.add(key)
        return np.asarray(self._reader.get_tensor(key), np.float32)

    def left(self):
        """Keys of the model that were not used, sorted."""
        keys = self._reader.get_variable_to_shape_map().keys() - self.used
        return sorted(key for key in keys if key.startswith("model/") and ".OPTIMIZER_SLOT" not in key)


def _tensors(prefix):
    """The `Tensors` of a checkpoint under CTranslate2's names."""
    at, arrays = _Checkpoint(prefix), {}

    def linear(name, *ways):
        arrays[f"{name}/weight"] = np.concatenate([at(f"{way}/kernel").T for way in ways])
        arrays[f"{name}/bias"] = np.concatenate([at(f"{way}/bias") for way in ways])

    def norm(name, way):
        for part in ("gamma", "beta"):
            arrays[f"{name}/{part}"] = at(f"{way}/{part}")

    def wrapped(name, way):
        """What stands around a sublayer: its norm, before it or behind it."""
        before = at.key(f"{way}/input_layer_norm/gamma") is not None
        norm(f"{name}/layer_norm", f"{way}/{'input' if before else 'output'}_layer_norm")

    for stack in ("encoder", "decoder"):
        i = 0
        while at.key(f"model/{stack}/layers/{i}/ffn/layer/inner/kernel") is not None:
            theirs, ours = f"model/{stack}/layers/{i}", f"{stack}/layer_{i}"
            inner = f"{theirs}/self_attention/layer"
            linear(f"{ours}/self_attention/linear_0", *(f"{inner}/linear_{name}" for name in ("queries", "keys", "values")))
            linear(f"{ours}/self_attention/linear_1", f"{inner}/linear_output")
            wrapped(f"{ours}/self_attention", f"{theirs}/self_attention")
            if stack == "decoder":
                inner = f"{theirs}/attention/0/layer"
                linear(f"{ours}/attention/linear_0", f"{inner}/linear_queries")
                linear(f"{ours}/attention/linear_1", f"{inner}/linear_keys", f"{inner}/linear_values")
                linear(f"{ours}/attention/linear_2", f"{inner}/linear_output")
                wrapped(f"{ours}/attention", f"{theirs}/attention/0")
            linear(f"{ours}/ffn/linear_0", f"{theirs}/ffn/layer/inner")
            linear(f"{ours}/ffn/linear_1", f"{theirs}/ffn/layer/outer")
            wrapped(f"{ours}/ffn", f"{theirs}/ffn")
            i += 1
        if at.key(f"model/{stack}/layer_norm/gamma") is not None:
            norm(f"{stack}/layer_norm", f"model/{stack}/layer_norm")
    source, target = (f"model/examples_inputter/{side}_inputter/embedding" for side in ("features", "labels"))
    output = "model/decoder/output_layer"
    arrays[SOURCE] = at(source)
    arrays[TARGET] = at(target) if at.key(target) is not None else arrays[SOURCE]
    shared = at.key(f"{output}/kernel") in (at.key(target) or at.key(source), None)
    arrays[OUTPUT] = arrays[TARGET] if shared else at(f"{output}/kernel").T
    arrays["decoder/projection/bias"] = at(f"{output}/bias")
    if at.left():
        raise Refusal(f"{prefix} has {len(at.left())} variables that a transformer has no place for: {', '.join(at.left())}.")
    return Tensors(arrays)


def _vocabularies(directory):
    """([tokens of sources, tokens of targets], names of the files)."""
    files = sorted(path for path in directory.iterdir() if re.search("vocab", path.name) and path.suffix in (".vocab", ".txt"))
    if len(files) == 2:
        sides = [[path for path in files if re.match(begin, path.name)] for begin in ("src|source", "tgt|target")]
        files = [side[0] for side in sides if len(side) == 1]
    if not files or len(files) > 2:
        raise Refusal(
            f"{directory} needs the vocabularies of the training: one .vocab file for both sides, or src-vocab.txt and "
            "tgt-vocab.txt."
        )
    sides = []
    for path in files:
        tokens = read_lines(path)
        if tokens[:3] != [BLANK, START, END]:
            raise Refusal(f"{path} begins with {tokens[:3]}, and a vocabulary of OpenNMT-tf with {[BLANK, START, END]}.")
        sides.append([*tokens, UNKNOWN if UNKNOWN not in tokens else f"{UNKNOWN}_"])
    return sides * (2 // len(sides)), [path.name for path in files]


def _described(directory):
    """(fields of the config that `model_description.py` tells, the file's name in a list); it is read as text."""
    path = directory / DESCRIPTION
    if not path.is_file():
        return {}, []
    text, described = path.read_text(encoding="utf8"), {}
    heads = re.findall(r"\bnum_heads\s*=\s*(\d+)", text)
    if heads:
        described["num_heads"] = int(heads[0])
    elif re.search(r"TransformerTiny\b", text):
        described["num_heads"] = 2
    activation = re.search(r"\bffn_activation\s*=\s*[\w.]*?(\w+)\s*[,)\n]", text)
    if activation:
        if activation[1] not in ACTIVATIONS:
            raise Refusal(f"{path} has the activation {activation[1]}; only {', '.join(ACTIVATIONS)} are read.")
        described["activation"] = ACTIVATIONS[activation[1]]
    return described, [DESCRIPTION]
