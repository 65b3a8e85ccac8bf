"""The four generations of GLM beside numbers that their original programs made.

    python -m benchmarks.glm_golden --data=DIR

DIR holds `glm_model.data`, `glm2_model.data`, `glm3_model.data` and `glm4_model.data` of chatglm.cpp (MIT licence,
https://github.com/li-plus/chatglm.cpp, tests/data): raw little-endian float32, the weights of one layer, then the token ids
(int32) and last hidden states of three calls, the second and third with the cache of those before. Matrices are (out, in).

The tensors go in by the tables that read the makers' directories. Prints the largest difference of each call, and ends with
exit status 1 if one is above 1e-4.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from zoo.config import Refusal
from zoo.convert.tables import FAMILIES
from zoo.convert.weights import Tensors, assign
from zoo.models.glm import GENERATIONS, GLM, GLMConfig

FILES = {"glm": "chatglm_6b", "glm2": "chatglm2_6b", "glm3": "chatglm3_6b", "glm4": "glm4_9b"}
V, D, N, CALLS = 5, 32, 8, (3, 1, 1)
TOLERANCE = 1e-4
# Of ChatGLM-6B: the third token begins part B.
POSITIONS = [[(0, 0), (1, 0), (1, 1)], [(1, 2)], [(1, 3)]]


class Reader:
    """The tensors of a file, one after the other."""

    def __init__(self, path):
        if not path.is_file():
            raise Refusal(f"There is no file {path}; --data names the directory of the four golden files.")
        self._values, self._at = np.fromfile(path, "<f4"), 0

    def next(self, *shape, dtype="<f4"):
        """The next array of a shape."""
        count = int(np.prod(shape))
        values = self._values[self._at : self._at + count].view(dtype)
        self._at += count
        return values.reshape(shape)

    def left(self):
        """How many numbers have not been read."""
        return len(self._values) - self._at


def model_of(preset):
    """The generation with one layer, small."""
    kv_heads, mlp_dim = (N, 128) if preset == "chatglm_6b" else (2, 48)
    fields = dict(vocab_size=V, max_length=16, num_layers=1, num_heads=N, num_kv_heads=kv_heads, hidden_dim=D, mlp_dim=mlp_dim)
    model = GLM(GLMConfig(**{**GENERATIONS[preset], **fields, "tie_embeddings": True})).build_from_ids()
    if model.config.scaled_residual:  # the one layer was made with the factor of all
        model.blocks[0].residual_scale = (2 * GENERATIONS[preset]["num_layers"]) ** 0.5
    return model


def weights_of(reader, config):
    """Name of a tensor in the makers' own layout -> array, in the order of the files."""
    heads, kv, h, f = config.num_heads, config.kv_heads, config.head_width, config.mlp_width
    first = config.bias == "all"
    table, layer, attention, end = (
        ("word_embeddings", "layers.0", "attention", "final_layernorm") if first else
        ("embedding.word_embeddings", "encoder.layers.0", "self_attention", "encoder.final_layernorm")
    )  # fmt: skip

    def tensors(name, *shape, bias=first):
        weight = {f"{name}.weight": reader.next(*shape)}
        return {**weight, f"{name}.bias": reader.next(shape[0])} if bias else weight

    return {
        **tensors(table, V, D, bias=False), **tensors(f"{layer}.input_layernorm", D),
        **tensors(f"{layer}.{attention}.query_key_value", (heads + 2 * kv) * h, D, bias=True),
        **tensors(f"{layer}.{attention}.dense", D, D), **tensors(f"{layer}.post_attention_layernorm", D),
        **tensors(f"{layer}.mlp.dense_h_to_4h", f if first else 2 * f, D),
        **tensors(f"{layer}.mlp.dense_4h_to_h", D, f), **tensors(end, D),
    }  # fmt: skip


def compare(path, preset):
    """The largest difference of each of the three calls."""
    reader, model = Reader(path), model_of(preset)
    family = FAMILIES["chatglm-6b" if model.config.bias == "all" else "chatglm"]
    assign(model, family, Tensors(weights_of(reader, model.config)), with_head=False, where=str(path))
    calls = [(reader.next(1, length, dtype="<i4"), reader.next(length, 1, D)) for length in CALLS]
    if reader.left():
        raise Refusal(f"{path} holds more than the weights of one layer and three calls; take the file of chatglm.cpp.")
    differences, state = [], model.init_state(1, sum(CALLS))
    for number, (ids, expected) in enumerate(calls):
        inputs = {}
        if model.config.two_positions:
            inputs = {"positions": np.array([POSITIONS[number]], np.int32), "prefix_lengths": np.array([2], np.int32)}
        hidden, state = model.features(ids, state, **inputs)
        differences.append(float(np.abs(np.asarray(hidden)[0] - expected[:, 0]).max()))
    return differences


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, type=Path, help="directory of the four files")
    directory, worst = parser.parse_args().data, 0.0
    for name, preset in FILES.items():
        try:
            differences = compare(directory / f"{name}_model.data", preset)
        except Refusal as error:
            sys.exit(str(error))
        print(f"{preset:12} {'  '.join(f'{value:.1e}' for value in differences)}")
        worst = max(worst, *differences)
    sys.exit(0 if worst <= TOLERANCE else 1)


if __name__ == "__main__":
    main()
