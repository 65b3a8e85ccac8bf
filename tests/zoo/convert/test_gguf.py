"""GGUF files into bundles: files written here with the `gguf` package, read back."""

import io
from types import SimpleNamespace

import gguf as library
import numpy as np
import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from tests import foreign_models
from zoo.convert import gguf
from zoo.convert.llama_like import LLAMA
from zoo.convert.rules import parts, to_theirs
from zoo.convert.weights import variables_by_path
from zoo.registry import MODELS


def renamed(name):
    """Hugging Face's name of a tensor -> GGUF's."""
    for old, new in [
        ("embed_tokens", "token_embd"), ("lm_head", "output"), ("layers.", "blk."), ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"), ("self_attn.o_proj", "attn_output"), ("self_attn.", "attn_"),
        ("mlp.", "ffn_"), ("_proj", ""),
    ]:  # fmt: skip
        name = name.replace(old, new)
    return "output_norm.weight" if name == "norm.weight" else name


def interleaved(rows, num_heads):
    """Rows of a projection as llama.cpp stores them: the two halves of each head take turns."""
    return np.stack(np.split(rows.reshape(num_heads, -1, rows.shape[-1]), 2, axis=1), axis=2).reshape(rows.shape)


def write(path, bundle, *, without=(), further=(), kind=None, **fields):
    config, tokenizer = bundle.model.config, bundle.tokenizer
    writer = library.GGUFWriter(path, "llama")
    values = {
        "llama.context_length": config.max_length, "llama.block_count": config.num_layers,
        "llama.embedding_length": config.hidden_dim, "llama.feed_forward_length": config.mlp_width,
        "llama.attention.head_count": config.num_heads, "llama.attention.head_count_kv": config.kv_heads,
        "llama.attention.key_length": config.head_width,
    }  # fmt: skip
    for name, value in values.items():
        if name not in without:
            writer.add_uint32(name, value)
    writer.add_float32("llama.rope.freq_base", config.rotary_theta)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", config.epsilon)
    writer.add_tokenizer_model(fields.get("model", "gpt2"))
    if fields.get("pre", "smollm") is not None:
        writer.add_tokenizer_pre(fields.get("pre", "smollm"))
    writer.add_token_list(list(tokenizer.vocabulary))
    kinds = {tokenizer.eos_id: 3, **fields.get("kinds", {})}
    writer.add_token_types([kinds.get(i, 1) for i in range(tokenizer.vocab_size)])
    if "scores" in fields:
        writer.add_token_scores(fields["scores"])
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for name, value in fields.get("metadata", {}).items():
        add[type(value)](name, value)
    writer.add_token_merges([" ".join(pair) for pair in fields.get("merges", [("a", "b")])])
    for rule in LLAMA.rules(config):
        variable = variables_by_path(bundle.model)[rule.ours]
        for name, array in zip(rule.theirs, to_theirs(rule, variable.numpy(), parts(config, rule)), strict=True):
            if "q_proj" in name or "k_proj" in name:
                array = interleaved(array, config.num_heads if "q_proj" in name else config.kv_heads)
            array = np.ascontiguousarray(array)
            if renamed(name) in without:
                continue
            if kind is not None and array.ndim == 2 and array.shape[1] % 32 == 0:
                writer.add_tensor(renamed(name), library.quants.quantize(array, kind), raw_dtype=kind)
            else:
                writer.add_tensor(renamed(name), array)
    for name in further:
        writer.add_tensor(name, np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def bundle():
    return foreign_models.bundle("llama")


@pytest.fixture(scope="module")
def merges(bundle, tmp_path_factory):
    import json

    directory = tmp_path_factory.mktemp("tokenizer")
    bundle.tokenizer.save(directory)
    return [tuple(m) for m in json.loads((directory / "tokenizer.json").read_text())["model"]["merges"]]


@pytest.mark.parametrize("name", ["llama", "llama-tied"])
def test_every_weight_comes_back(name, merges, tmp_path):
    expected = foreign_models.bundle(name)
    got = gguf.read(write(tmp_path / "model.gguf", expected, merges=merges))
    assert got.model.config == expected.model.config
    for path, variable in variables_by_path(expected.model).items():
        np.testing.assert_array_equal(variable.numpy(), variables_by_path(got.model)[path].numpy(), err_msg=path)
    assert got.provenance["stored_as"] == ["F32"]
    assert got.task.registered_name == "language_modeling"
    assert got.tokenizer.eos_id == expected.tokenizer.eos_id


def test_digits_are_words_of_their_own_as_the_file_says(bundle, merges, tmp_path):
    smollm = gguf.read(write(tmp_path / "a.gguf", bundle, merges=merges, pre="smollm")).tokenizer
    gpt2 = gguf.read(write(tmp_path / "b.gguf", bundle, merges=merges, pre="gpt-2")).tokenizer
    text = "the cat 1984 sat"
    assert gpt2.encode(text) == bundle.tokenizer.encode(text)
    assert [smollm.decode([i]) for i in smollm.encode(" 19 x")][:3] == [" ", "1", "9"]


def test_tokens_that_a_user_defined_are_found_in_texts(bundle, merges, tmp_path):
    last = bundle.tokenizer.vocab_size - 1
    spelt = bundle.tokenizer.decode([last])
    merges = merges[:-1] if "".join(merges[-1]) == bundle.tokenizer.vocabulary[last] else merges
    tokenizer = gguf.read(write(tmp_path / "a.gguf", bundle, merges=merges, kinds={last: 4})).tokenizer
    assert tokenizer.added and tokenizer.encode(f"x{spelt}the{spelt}").count(last) == 2 and tokenizer.decode([last]) == spelt
    ids = tokenizer.encode(f"x{spelt}the")
    assert tokenizer.tokenize([f"x{spelt}the"])[0].numpy().tolist() == ids
    # One that merges make is still what words become.
    tokenizer = gguf.read(write(tmp_path / "b.gguf", bundle, merges=merges, kinds={7: 4})).tokenizer
    assert tokenizer.encode("the cat") == bundle.tokenizer.encode("the cat")


@pytest.mark.parametrize("metadata", [
    {"llama.rope.scaling.factor": 4.0}, {"llama.rope.scale_linear": 4.0},
    {"llama.rope.scaling.factor": 4.0, "llama.rope.scaling.type": "linear"},
])  # fmt: skip
def test_positions_scaled_by_a_factor(bundle, merges, metadata, tmp_path):
    got = gguf.read(write(tmp_path / "model.gguf", bundle, merges=merges, metadata=metadata)).model.config
    assert got == bundle.model.config.replace(rotary_scaling="linear", rotary_numbers=(4.0,))


def test_words_of_llama_3(bundle, merges, tmp_path):
    tokenizer = gguf.read(write(tmp_path / "model.gguf", bundle, merges=merges, pre="llama-bpe")).tokenizer
    three_at_a_time = [i for part in ("198", "419", "84") for i in tokenizer.encode(part)]
    assert tokenizer.encode("19841984") == three_at_a_time != bundle.tokenizer.encode("19841984")
    ids = tokenizer.encode("the CAT'S 1234 cats!\n\n x")
    assert tokenizer.tokenize(["the CAT'S 1234 cats!\n\n x"])[0].numpy().tolist() == ids


def test_quantised_weights_are_dequantised(merges, tmp_path):
    import dataclasses

    expected = foreign_models.bundle("llama")
    assert dataclasses.asdict(expected.model.config)["mlp_dim"] == 26
    row = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
    kind = library.GGMLQuantizationType.Q8_0
    values = library.quants.dequantize(library.quants.quantize(row, kind), kind)
    assert np.abs(values - row).max() < 0.005  # what the package promises of 8 bits


@pytest.mark.parametrize(("options", "message"), [
    (dict(without=("output_norm.weight",)), "lacks 1 tensors that this model has: output_norm.weight"),
    (dict(further=("rope_freqs.weight",)), "has rope_freqs.weight with other factors than those of Llama 3.1"),
    (dict(without=("llama.block_count",)), "does not say 'block_count'"),
    (dict(model="bert"), "has a bert tokenizer"),
    (dict(pre="deepseek-llm"), "words cut as 'deepseek-llm'"),
    (dict(pre=None), "does not say how words are cut"),
    (dict(metadata={"llama.rope.scaling.type": "yarn"}), "by 'yarn', and does not say rope.scaling.factor"),
    (dict(metadata={"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 4.0}), "'longrope' with the factor 4"),
    (dict(metadata={"llama.logit_scale": 0.5}), "has llama.logit_scale=0.5, which is not supported"),
    (dict(metadata={"llama.expert_count": 8}), "has llama.expert_count=8, which is not supported"),
    (dict(metadata={"split.count": 2}), "has split.count=2, which is not supported"),
    (dict(metadata={"llama.attention.novelty": 1}), "has the field llama.attention.novelty=1, which is not known here"),
    (dict(metadata={"llama.attention.value_length": 3}), "has values of another width than keys"),
])  # fmt: skip
def test_what_cannot_be_read_is_refused(options, message, bundle, merges, tmp_path):
    with pytest.raises(ValueError, match=message):
        gguf.read(write(tmp_path / "model.gguf", bundle, merges=merges, **options))


@pytest.mark.parametrize("metadata", [
    {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0},
    {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 1.0},
    {"general.tags": "x", "llama.vocab_size": 3, "tokenizer.chat_template": "{}", "llama.expert_count": 0},
])  # fmt: skip
def test_metadata_that_changes_nothing_is_listed(metadata, bundle, merges, tmp_path):
    got = gguf.read(write(tmp_path / "model.gguf", bundle, merges=merges, metadata=metadata))
    report = got.provenance["checklist"]
    listed = ", ".join([report["applied"]["metadata"], *report["irrelevant"].values()])
    assert all(name in listed for name in metadata)


def test_a_bos_that_the_file_adds_begins_every_text(bundle, merges, tmp_path):
    first = bundle.tokenizer.vocab_size - 1
    merges = merges[:-1] if "".join(merges[-1]) == bundle.tokenizer.vocabulary[first] else merges
    metadata = {"tokenizer.ggml.bos_token_id": first, "tokenizer.ggml.eos_token_id": bundle.tokenizer.eos_id}
    options = dict(merges=merges, kinds={first: 3})
    adds = {**metadata, "tokenizer.ggml.add_bos_token": True}
    tokenizer = gguf.read(write(tmp_path / "a.gguf", bundle, metadata=adds, **options)).tokenizer
    assert (tokenizer.bos_id, tokenizer.eos_id) == (first, bundle.tokenizer.eos_id)
    assert tokenizer.template == ((tokenizer.vocabulary[first],), (tokenizer.vocabulary[first],), ())
    assert gguf.read(write(tmp_path / "b.gguf", bundle, metadata=metadata, **options)).tokenizer.bos_id is None


def test_rows_are_filled_up_with_the_token_that_the_file_names(bundle, merges, tmp_path):
    pad = bundle.tokenizer.vocab_size - 1
    merges = merges[:-1] if "".join(merges[-1]) == bundle.tokenizer.vocabulary[pad] else merges
    metadata = {"tokenizer.ggml.eos_token_id": bundle.tokenizer.eos_id, "tokenizer.ggml.padding_token_id": pad}
    path = write(tmp_path / "a.gguf", bundle, metadata=metadata, merges=merges, kinds={pad: 3})
    tokenizer = gguf.read(path).tokenizer
    assert (tokenizer.pad_id, tokenizer.eos_id) == (pad, bundle.tokenizer.eos_id)


def test_the_words_of_llama_3_begin_with_bos_and_end_at_each_end(bundle, merges, tmp_path):
    first, end = bundle.tokenizer.vocab_size - 1, bundle.tokenizer.eos_id
    merges = merges[:-1] if "".join(merges[-1]) == bundle.tokenizer.vocabulary[first] else merges
    said = {"bos_token_id": first, "eos_token_id": end, "eot_token_id": 7}
    metadata = {f"tokenizer.ggml.{name}": i for name, i in said.items()}
    options = dict(merges=merges, kinds={first: 3}, pre="llama-bpe")
    tokens = SimpleNamespace(vocabulary=[*bundle.tokenizer.vocabulary[:-1], "<|begin|>"], vocab_size=first + 1, eos_id=end)
    bundle = SimpleNamespace(model=bundle.model, tokenizer=tokens)
    tokenizer = gguf.read(write(tmp_path / "a.gguf", bundle, metadata=metadata, **options)).tokenizer
    assert tokenizer.bos_id == first and tokenizer.template[0] == ("<|begin|>",)
    assert tokenizer.stop_ids == (end, 7)
    metadata["tokenizer.ggml.add_bos_token"] = False
    assert gguf.read(write(tmp_path / "b.gguf", bundle, metadata=metadata, **options)).tokenizer.bos_id is None


def test_another_file_is_refused(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"no such format, whatever it is called")
    with pytest.raises(ValueError, match="is not a GGUF file, or a damaged one"):
        gguf.read(tmp_path / "x.gguf")
    with pytest.raises(ValueError, match="There is no file"):
        gguf.read(tmp_path / "y.gguf")


PIECES = "the cat sat on the mat; a cat and a mat, naïve façade\n" * 30
TEXTS = ["", " ", "the cat", "  the  cat\n\nsat ", "naïve 東京 😀", "a\tb", "</s> <s> <unk>", "x" * 40, "mat,the"]


def write_pieces(path, *, user_defined=(), changes=None, **metadata):
    """A file with pieces of SentencePiece's BPE. Returns the processor of the same model."""
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(PIECES.split("\n")), model_writer=made, vocab_size=320, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, user_defined_symbols=list(user_defined),
        add_dummy_prefix=metadata.get("tokenizer.ggml.add_space_prefix", True), minloglevel=2, character_coverage=1.0,
    )  # fmt: skip
    proto = sentencepiece_model_pb2.ModelProto.FromString(made.getvalue())
    config = foreign_models.bundle("llama").model.config.replace(vocab_size=len(proto.pieces))
    pieces = SimpleNamespace(
        vocabulary=[piece.piece for piece in proto.pieces], eos_id=2, vocab_size=len(proto.pieces),
    )  # fmt: skip
    bundle = SimpleNamespace(model=MODELS.get("gpt")(config).build_from_ids(), tokenizer=pieces)
    options = dict(
        model="llama", pre=None, scores=[piece.score for piece in proto.pieces], metadata=metadata,
        kinds={i: piece.type for i, piece in enumerate(proto.pieces)},
    )  # fmt: skip
    write(path, bundle, **{**options, **(changes or {})})
    return sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())


@pytest.mark.parametrize("prefix", [True, False])
def test_pieces_are_those_of_sentencepiece(prefix, tmp_path):
    metadata = {} if prefix else {"tokenizer.ggml.add_space_prefix": False, "tokenizer.ggml.add_bos_token": False}
    expected = write_pieces(tmp_path / "model.gguf", **metadata)
    tokenizer = gguf.read(tmp_path / "model.gguf").tokenizer
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert ids == expected.encode(text), text
        assert tokenizer.tokenize([text])[0].numpy().tolist() == ids
    assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.unk_id) == (2, 1, 0)
    assert tokenizer.special.template == ((("<s>",), ("<s>",), ()) if prefix else None)


def test_a_piece_that_a_user_defined_begins_a_text_anew(tmp_path):
    # llama.cpp puts a blank before what follows such a token; SentencePiece itself does not.
    expected = write_pieces(tmp_path / "model.gguf", user_defined=["<tag>"])
    tokenizer = gguf.read(tmp_path / "model.gguf").tokenizer
    tag = expected.piece_to_id("<tag>")
    ids = tokenizer.encode("the cat<tag>sat")
    assert ids == [*expected.encode("the cat"), tag, *expected.encode("sat")]
    assert tokenizer.tokenize(["the cat<tag>sat"])[0].numpy().tolist() == ids


def test_pieces_without_scores_are_refused(tmp_path):
    write_pieces(tmp_path / "model.gguf", changes={"scores": [0.0]})
    with pytest.raises(ValueError, match=r"has 320 tokens, 1 scores and 320 kinds of them; each token has one of both"):
        gguf.read(tmp_path / "model.gguf")


def test_pieces_whose_unknown_token_fills_up_rows(tmp_path):
    expected = write_pieces(tmp_path / "model.gguf", **{"tokenizer.ggml.padding_token_id": 0})
    tokenizer = gguf.read(tmp_path / "model.gguf").tokenizer
    assert tokenizer.pad_id == tokenizer.unk_id == 0
    for text in TEXTS:
        assert tokenizer.encode(text) == tokenizer.tokenize([text])[0].numpy().tolist() == expected.encode(text)
