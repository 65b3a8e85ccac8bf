"""GGUF files of many decoders, made of Hugging Face's tensors as llama.cpp's converter makes them: named by the `gguf` package
itself, rows regrouped, gains made whole. They give the numbers of the directory that they were made of."""

import json

import gguf as library
import numpy as np
import pytest
from safetensors.numpy import load_file
from sentencepiece import sentencepiece_model_pb2

from tests import foreign_models
from tests.zoo.convert import test_chatglm
from zoo.bundle import load
from zoo.convert import gguf, huggingface
from zoo.convert.weights import variables_by_path
from zoo.tokenizers.chatglm import BEHIND_PIECES, CHATS

ARCH = library.MODEL_ARCH
GROUPED = {"gpt_neox", "bloom", "falcon", "falcon-7b"}
# Case of `foreign_models` -> (architecture, changes of its fields that a file of this kind cannot say otherwise).
CASES = {
    "llama": (ARCH.LLAMA, {}),
    "qwen2": (ARCH.QWEN2, dict(window=None, global_layers=())),
    "qwen3": (ARCH.QWEN3, {}),
    "phi3": (ARCH.PHI3, {}),
    "gemma": (ARCH.GEMMA, {}),
    "gemma2": (ARCH.GEMMA2, dict(attention_scale=None)),
    "gemma3_text": (ARCH.GEMMA3, dict(num_layers=6, global_layers=(5,), attention_scale=None)),
    "olmo2": (ARCH.OLMO2, {}),
    "smollm3": (ARCH.SMOLLM3, dict(num_layers=4, unrotated_layers=(3,))),
    "stablelm": (ARCH.STABLELM, {}),
    "gpt2": (ARCH.GPT2, {}),
    "gpt_neox": (ARCH.GPTNEOX, {}),
    "bloom": (ARCH.BLOOM, {}),
    "falcon": (ARCH.FALCON, {}),
    "falcon-7b": (ARCH.FALCON, {}),
    "glm": (ARCH.CHATGLM, dict(num_heads=3, num_kv_heads=1, head_dim=4)),
    "glm4": (ARCH.GLM4, {}),
}
GLM_TOKENS = ("[gMASK]", "<sop>", "<|user|>")


def stored(name, case, array, config):
    """A tensor of Hugging Face's as llama.cpp's converter stores it."""
    n, k, h = config.num_heads, config.kv_heads, config.head_width
    if case in ("llama", "smollm3") and ("q_proj" in name or "k_proj" in name):
        return array.reshape(-1, 2, h // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
    if case in GROUPED and "query_key_value" in name:
        groups = array.reshape(k, n // k + 2, h, *array.shape[1:])
        parts = groups[:, :-2], groups[:, -2:-1], groups[:, -1:]
        return np.concatenate([part.reshape(-1, *array.shape[1:]) for part in parts])
    if case == "gpt2" and array.ndim == 2 and ".h." in name:
        return array.T
    return array + 1 if case.startswith("gemma") and name.endswith("norm.weight") else array


def metadata(writer, case, config):
    """What is said of the model, by the package's own methods."""
    writer.add_context_length(config.max_length)
    writer.add_block_count(config.num_layers)
    writer.add_embedding_length(config.hidden_dim)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.kv_heads)
    (writer.add_layer_norm_eps if config.norm == "layer" else writer.add_layer_norm_rms_eps)(config.epsilon)
    is_glm = case.startswith("glm")
    if config.position == "rotary" and not case.startswith("falcon"):
        writer.add_rope_freq_base(config.rotary_theta)
        writer.add_rope_dimension_count(config.head_width // 2 if is_glm else config.rotary_width)
    if config.head_width * config.num_heads != config.hidden_dim or case.startswith("gemma"):
        writer.add_key_length(config.head_width)
        writer.add_value_length(config.head_width)
    if is_glm:
        return
    if config.window is not None:
        writer.add_sliding_window(config.window)
    if config.attention_cap is not None:
        writer.add_attn_logit_softcapping(config.attention_cap)
        writer.add_final_logit_softcapping(config.logit_cap)
    if config.rotary_scaling == "linear":
        writer.add_rope_scaling_type(library.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rotary_numbers[0])
    if case in ("stablelm", "gpt_neox"):
        writer.add_parallel_residual(config.parallel != "no")
    if config.window_theta is not None:
        writer.add_rope_freq_base_swa(config.window_theta)
    if case.startswith("falcon"):
        writer.add_tensor_data_layout("jploski")
    if case == "bloom":
        writer.add_max_alibi_bias(8.0)


def write(path, case, bundle, directory, controls=(), pre="gpt-2", vocabulary=None, **more):
    """A GGUF file of a directory of Hugging Face's; the last tokens of its vocabulary are `controls`, of which the last ends a
    turn. `vocabulary`: what says another one, given the writer."""
    architecture, config = CASES[case][0], bundle.model.config
    writer = library.GGUFWriter(path, library.MODEL_ARCH_NAMES[architecture])
    metadata(writer, case, config)
    for name, value in more.items():
        writer.add_float32(f"{library.MODEL_ARCH_NAMES[architecture]}.{name}", value)
    (vocabulary or (lambda writer: byte_pairs(writer, bundle, directory, controls, pre)))(writer)
    names = library.get_tensor_name_map(architecture, config.num_layers)
    for name, array in load_file(directory / "model.safetensors").items():
        name = name.removeprefix("transformer.") if case == "bloom" else name
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(new, np.ascontiguousarray(stored(name, case, array, config)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def byte_pairs(writer, bundle, directory, controls, pre):
    """The vocabulary of a bundle."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    tokens = [*bundle.tokenizer.vocabulary[: bundle.tokenizer.vocab_size - len(controls)], *controls]
    writer.add_token_list(tokens)
    ends = bundle.tokenizer.eos_id
    writer.add_token_types([3 if i == ends or token in controls else 1 for i, token in enumerate(tokens)])
    if controls:
        writer.add_eos_token_id(ends)
        writer.add_eot_token_id(len(tokens) - 1)
        writer.add_add_bos_token(False)
    merges = json.loads((directory / "tokenizer.json").read_text())["model"]["merges"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    writer.add_token_merges([merge for merge in merges if merge.replace(" ", "") in tokens])


def chatglm_pieces(writer, proto, rows):
    """ChatGLM3's pieces with special tokens behind them, as llama.cpp's converter writes them: `chatglm-spm`."""
    tokens = ["<unk>", "<bos>", "<eos>", *(piece.piece for piece in proto.pieces[3:]), *BEHIND_PIECES]
    kinds = [*(piece.type for piece in proto.pieces), *[3] * len(BEHIND_PIECES)]
    scores = [*(piece.score for piece in proto.pieces), *[0.0] * len(BEHIND_PIECES)]
    while len(tokens) < rows:  # rows of the table that no piece has
        tokens, kinds, scores = [*tokens, f"[PAD{len(tokens)}]"], [*kinds, 5], [*scores, 0.0]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("chatglm-spm")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATS["chatglm3"])


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_model_of_the_directory(case, tmp_path):
    bundle = foreign_models.bundle(case, **CASES[case][1])
    directory = huggingface.write(bundle, tmp_path / "there")
    got = gguf.read(write(tmp_path / "model.gguf", case, bundle, directory))
    mine, theirs = variables_by_path(bundle.model), variables_by_path(got.model)
    assert mine.keys() == theirs.keys()
    for path, variable in mine.items():
        np.testing.assert_allclose(theirs[path].numpy(), variable.numpy(), atol=1e-6, err_msg=path)
    ids = np.array([[1, 5, 2, 7, 9, 30, 11, 4, 8]])
    np.testing.assert_allclose(got.model(ids), bundle.model(ids), atol=2e-5)
    assert got.provenance["model_type"] == {"falcon-7b": "falcon"}.get(case, case)


def test_a_chatglm_may_have_queries_keys_and_values_in_one_tensor(tmp_path):
    bundle = foreign_models.bundle("glm", **CASES["glm"][1])
    directory, load = huggingface.write(bundle, tmp_path / "there"), load_file

    def joined(path):
        tensors = load(path)
        for i in range(bundle.model.config.num_layers):
            for part in ("weight", "bias"):
                names = [f"model.layers.{i}.self_attn.{name}_proj.{part}" for name in "qkv"]
                whole = np.concatenate([tensors.pop(name) for name in names])
                tensors[f"encoder.layers.{i}.self_attention.query_key_value.{part}"] = whole
        return tensors

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "load_file", joined)
        got = gguf.read(write(tmp_path / "a.gguf", "glm", bundle, directory))
    ids = np.array([[1, 5, 2, 7, 9, 30]])
    np.testing.assert_allclose(got.model(ids), bundle.model(ids), atol=1e-6)


def test_the_texts_of_a_glm_begin_as_its_vocabulary_has_it(tmp_path):
    bundle = foreign_models.bundle("glm4")
    directory = huggingface.write(bundle, tmp_path / "there")
    got = gguf.read(write(tmp_path / "a.gguf", "glm4", bundle, directory, GLM_TOKENS, "glm4"))
    size, tokenizer = bundle.tokenizer.vocab_size, got.tokenizer
    assert got.task.frame("language_model", tokenizer).before == (size - 3, size - 2)
    assert tokenizer.stop_ids == (bundle.tokenizer.eos_id, size - 1)
    three_at_a_time = [i for part in ("198", "419", "84") for i in tokenizer.encode(part)]
    assert tokenizer.encode("19841984") == three_at_a_time
    # Without these tokens, and in another kind of model, nothing stands before a text but its end.
    plain = gguf.read(write(tmp_path / "b.gguf", "glm4", bundle, directory))
    assert plain.task.frame("language_model", plain.tokenizer).before == (bundle.tokenizer.eos_id,)


def test_the_pieces_of_chatglm3_are_those_of_its_directory(tmp_path):
    proto = sentencepiece_model_pb2.ModelProto.FromString(test_chatglm.pieces()[0])
    spec = proto.normalizer_spec  # blanks and lines as they are, which is how llama.cpp reads pieces
    spec.name, spec.precompiled_charsmap, spec.remove_extra_whitespaces = "identity", b"", False
    model, size = proto.SerializeToString(), len(proto.pieces)
    rows = size + len(BEHIND_PIECES) + 3
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "tokenizer.model").write_bytes(model)
    test_chatglm.write_later(tmp_path / "theirs", rows, _name_or_path="THUDM/chatglm3-6b")
    theirs = huggingface.read(tmp_path / "theirs")
    directory = huggingface.write(theirs, tmp_path / "there")
    path = write(tmp_path / "a.gguf", "glm", theirs, directory, vocabulary=lambda writer: chatglm_pieces(writer, proto, rows))
    got = gguf.read(path)
    for text in ("the cat sat on the mat .", "a dog", "", " the  cat\n\n sat", "naïve 1984", "[gMASK] sop"):
        ids = theirs.tokenizer.encode(text)
        assert got.tokenizer.encode(text) == ids, text
        assert got.tokenizer.tokenize([text])[0].numpy().tolist() == ids, text
        assert got.tokenizer.decode(ids) == theirs.tokenizer.decode(ids)
    assert got.task.frame("language_model", got.tokenizer) == theirs.task.frame("language_model", theirs.tokenizer)
    said = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "the cat"}]
    assert got.tokenizer.chat_frame.ids(got.tokenizer, said) == theirs.tokenizer.chat_frame.ids(theirs.tokenizer, said)
    assert set(got.tokenizer.chat_frame.end_ids(got.tokenizer)) <= set(theirs.tokenizer.chat_frame.end_ids(theirs.tokenizer))
    assert got.tokenizer.stop_ids == theirs.tokenizer.stop_ids == (2,)
    ids = np.array([[size + 1, size + 3, *got.tokenizer.encode("the cat")]])
    np.testing.assert_allclose(got.model(ids), theirs.model(ids), atol=1e-5)
    got.save(tmp_path / "bundle")  # and it is a bundle like any other
    assert load(tmp_path / "bundle").tokenizer.encode("the cat") == got.tokenizer.encode("the cat")


def test_a_glm_that_turns_another_part_is_refused(tmp_path):
    bundle = foreign_models.bundle("glm4")
    directory = huggingface.write(bundle, tmp_path / "there")
    add = library.GGUFWriter.add_rope_dimension_count
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library.GGUFWriter, "add_rope_dimension_count", lambda self, count: add(self, 2 * count))
        path = write(tmp_path / "a.gguf", "glm4", bundle, directory)
    with pytest.raises(ValueError, match="turn a share of 1.0 of each head; a GLM turns half"):
        gguf.read(path)


def test_what_a_file_of_another_kind_says_is_refused(tmp_path):
    bundle = foreign_models.bundle("qwen3")
    directory = huggingface.write(bundle, tmp_path / "there")
    with pytest.raises(ValueError, match="qwen3.attention.temperature_scale=0.5.*, which is not known here"):
        gguf.read(write(tmp_path / "a.gguf", "qwen3", bundle, directory, **{"attention.temperature_scale": 0.5}))
    with pytest.raises(ValueError, match="qwen3.attention.sliding_window=9.0, which is not supported"):
        gguf.read(write(tmp_path / "b.gguf", "qwen3", bundle, directory, **{"attention.sliding_window": 9.0}))


def test_yarn_is_read(tmp_path):
    bundle = foreign_models.bundle("qwen3", rotary_scaling="yarn", rotary_numbers=(4.0, 8.0, 1.138629436, 32.0, 1.0, 1.0))
    directory = huggingface.write(bundle, tmp_path / "there")
    more = {"rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 8.0}
    writer = library.GGUFWriter.add_rope_scaling_type
    with pytest.MonkeyPatch.context() as patch:
        plain = metadata
        patch.setitem(
            globals(), "metadata", lambda w, *rest: (plain(w, *rest), writer(w, library.RopeScalingType.YARN))
        )  # fmt: skip
        got = gguf.read(write(tmp_path / "a.gguf", "qwen3", bundle, directory, **more))
    np.testing.assert_allclose(got.model.config.rotary_numbers, bundle.model.config.rotary_numbers, rtol=1e-6)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_frequencies_of_llama_3_are_its_scaling(factor, tmp_path):
    bundle = foreign_models.bundle("llama", head_dim=8, rotary_theta=500_000.0, max_length=64)
    directory = huggingface.write(bundle, tmp_path / "there")
    # As llama.cpp's converter computes what each frequency is divided by (low_freq_factor 1, high_freq_factor 4, 8,192).
    frequencies = 500_000.0 ** (-np.arange(0, 8, 2) / 8)
    wavelengths = 2 * np.pi / frequencies
    smooth = (8_192 / wavelengths - 1) / 3
    factors = np.where(wavelengths < 2_048, 1, np.where(wavelengths > 8_192, factor, 1 / ((1 - smooth) / factor + smooth)))
    with pytest.MonkeyPatch.context() as patch:
        load = load_file
        extra = {"model.rope_freqs.weight": factors.astype(np.float32)}
        patch.setitem(globals(), "load_file", lambda path: load(path) | extra)
        patch.setattr(
            library.TensorNameMap, "get_name",
            lambda self, key, try_suffixes=(), get=library.TensorNameMap.get_name: key.removeprefix("model.")
            if "rope_freqs" in key else get(self, key, try_suffixes),
        )  # fmt: skip
        got = gguf.read(write(tmp_path / "a.gguf", "llama", bundle, directory)).model.config
    assert got.rotary_scaling == "llama3" and got.rotary_numbers == (factor, 1.0, 4.0, 8_192.0)


def test_another_architecture_is_refused(tmp_path):
    writer = library.GGUFWriter(tmp_path / "x.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match="has the architecture 'mamba'; did you mean 'llama'"):
        gguf.read(tmp_path / "x.gguf")
