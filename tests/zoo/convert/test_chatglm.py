"""Directories of ChatGLM and GLM-4 in the layout of their makers, made here. What the models compute is checked by
`benchmarks/glm_golden.py`, through the same tables."""

import base64
import json

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file, save_file
from sentencepiece import sentencepiece_model_pb2

from tests import foreign_models
from zoo.bundle import load
from zoo.convert import certificate, huggingface
from zoo.convert.tables import FAMILIES, family_of
from zoo.convert.weights import variables_by_path
from zoo.tokenizers.base import create
from zoo.tokenizers.bpe import BYTE_OF_SYMBOL

Piece = sentencepiece_model_pb2.ModelProto.SentencePiece
D, L, F = 24, 2, 20
LATER = {
    "model_type": "chatglm", "architectures": ["ChatGLMModel"], "auto_map": {"AutoConfig": "configuration_chatglm.X"},
    "add_bias_linear": False, "add_qkv_bias": True, "apply_query_key_layer_scaling": True, "attention_dropout": 0.0,
    "apply_residual_connection_post_layernorm": False, "attention_softmax_in_fp32": True, "bias_dropout_fusion": True,
    "ffn_hidden_size": F, "fp32_residual_connection": False, "hidden_dropout": 0.0, "hidden_size": D, "kv_channels": 8,
    "layernorm_epsilon": 1e-5, "multi_query_attention": True, "multi_query_group_num": 1, "num_attention_heads": 3,
    "num_layers": L, "original_rope": True, "post_layer_norm": True, "rmsnorm": True, "seq_length": 64, "use_cache": True,
    "torch_dtype": "float16", "tie_word_embeddings": False, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
FIRST = {
    "model_type": "chatglm", "auto_map": {"AutoConfig": "configuration_chatglm.ChatGLMConfig"}, "hidden_size": D,
    "inner_hidden_size": F, "layernorm_epsilon": 1e-5, "max_sequence_length": 64, "num_attention_heads": 3, "num_layers": L,
    "position_encoding_2d": True, "use_cache": True, "torch_dtype": "float16", "quantization_bit": 0, "pre_seq_len": None,
    "prefix_projection": False,
}  # fmt: skip


def pieces(*more):
    """A SentencePiece model with some pieces behind its own."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(
        foreign_models.sentencepiece_model(foreign_models.TEXTS, vocab_size=44)
    )
    proto.pieces.insert(1, Piece(piece="<s>", type=Piece.CONTROL))
    proto.pieces.insert(2, Piece(piece="</s>", type=Piece.CONTROL))
    for piece in more:
        proto.pieces.append(Piece(piece=piece, type=Piece.USER_DEFINED))
    proto.trainer_spec.bos_id, proto.trainer_spec.eos_id = 1, 2
    return proto.SerializeToString(), len(proto.pieces)


def random(shapes):
    stream = np.random.RandomState(1)
    return {
        name: (stream.randn(*shape) * 0.3 + ("layernorm.weight" in name)).astype(np.float32) for name, shape in shapes.items()
    }


def write_later(directory, vocab_size, **changes):
    """Config and weights of ChatGLM2 and later: queries of three heads, then a key, then a value, each of 8."""
    shapes = {"transformer.embedding.word_embeddings.weight": (vocab_size, D), "transformer.rotary_pos_emb.inv_freq": (2,)}
    for i in range(L):
        layer = f"transformer.encoder.layers.{i}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (D,), f"{layer}.self_attention.query_key_value.weight": (40, D),
            f"{layer}.self_attention.query_key_value.bias": (40,), f"{layer}.self_attention.dense.weight": (D, D),
            f"{layer}.post_attention_layernorm.weight": (D,), f"{layer}.mlp.dense_h_to_4h.weight": (2 * F, D),
            f"{layer}.mlp.dense_4h_to_h.weight": (D, F),
        }  # fmt: skip
    shapes |= {"transformer.encoder.final_layernorm.weight": (D,), "transformer.output_layer.weight": (vocab_size, D)}
    save_file(random(shapes), directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps({**LATER, "padded_vocab_size": vocab_size, **changes}))


def write_first(directory, vocab_size, sop):
    """Config and weights of ChatGLM-6B: query, key and value of the first head, of the second, of the third."""
    shapes = {"transformer.word_embeddings.weight": (vocab_size, D)}
    for i in range(L):
        layer = f"transformer.layers.{i}"
        matrices = {
            "attention.query_key_value": (3 * D, D), "attention.dense": (D, D), "mlp.dense_h_to_4h": (F, D),
            "mlp.dense_4h_to_h": (D, F), "input_layernorm": None, "post_attention_layernorm": None,
        }  # fmt: skip
        for name, width in matrices.items():
            shapes |= {f"{layer}.{name}.weight": width or (D,), f"{layer}.{name}.bias": (width or (D,))[:1]}
        shapes[f"{layer}.attention.rotary_emb.inv_freq"] = (2,)
    shapes |= {"transformer.final_layernorm.weight": (D,), "transformer.final_layernorm.bias": (D,)}
    save_file(random(shapes), directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps({**FIRST, "vocab_size": vocab_size, "bos_token_id": sop}))


def test_chatglm3_is_a_glm_of_transformers_and_goes_out_as_one(tmp_path):
    model, size = pieces()
    (tmp_path / "tokenizer.model").write_bytes(model)
    write_later(tmp_path, size + 12, _name_or_path="THUDM/chatglm3-6b")
    bundle = huggingface.read(tmp_path)
    tokenizer = bundle.tokenizer
    asked = tokenizer.chat_frame.ids(tokenizer, [{"role": "user", "content": "cat"}])
    user = size + 6  # behind <|system|>
    assert asked == [size + 1, size + 3, user, *tokenizer.encode("\n cat"), user + 1]
    assert tokenizer.vocabulary[size : size + 5] == ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
    frame = bundle.task.frame("language_model", tokenizer)
    assert frame.before == (size + 1, size + 3)  # [gMASK] sop
    assert bundle.model.config.kv_heads == 1 and family_of(bundle) == "glm"
    assert certificate.certify(bundle, tmp_path)["outputs"]["compared"] is False
    back = huggingface.read(huggingface.write(bundle, tmp_path / "there"))
    ids = np.array([[1, 5, 2, 7, 9]])
    np.testing.assert_array_equal(back.model(ids), bundle.model(ids))


def test_the_columns_of_queries_keys_and_values(tmp_path):
    """ChatGLM-6B has them side by side a head; the later ones all queries, then the key, then the value."""
    model, size = pieces(*ICE)
    (tmp_path / "ice_text.model").write_bytes(model)
    write_first(tmp_path, size, sop=size - 2)
    bundle = huggingface.read(tmp_path)
    ours = variables_by_path(bundle.model)["block_1/attention/qkv/bias"].numpy()
    theirs = load_file(tmp_path / "model.safetensors")["transformer.layers.1.attention.query_key_value.bias"]
    np.testing.assert_array_equal(ours, theirs.reshape(3, 3, 8).swapaxes(0, 1).reshape(-1))


ICE = ("<n>", "<|tab|>", "<|blank_2|>", "<|blank_3|>", "<pad>", "[MASK]", "[gMASK]", "[sMASK]", "<unused>", "<sop>", "<eop>")


def test_chatglm_6b_fills_blanks_and_keeps_lines_and_blanks(tmp_path):
    model, size = pieces(*ICE)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "ice_text.model").write_bytes(model)
    write_first(tmp_path / "there", size, sop=size - 2)
    bundle = huggingface.read(tmp_path / "there")
    assert bundle.task.registered_name == "blank_infilling" and bundle.model.config.sop_id == size - 2
    tokenizer = bundle.tokenizer
    texts = ["the cat\n\tsat   on", "a  cat \n", "", "[MASK] <sop>"]
    ids = [tokenizer.encode(text) for text in texts]
    assert tokenizer.tokenize(tf.constant(texts)).to_list() == ids
    assert tokenizer.decode(ids[0]) == texts[0] and not {size - 1, size - 2} & set(ids[3])
    assert [text.decode() for text in tokenizer.detokenize(tokenizer.tokenize(tf.constant(texts))).numpy()][0] == texts[0]
    bundle.save(tmp_path / "mine")
    again = load(tmp_path / "mine")
    assert again.tokenizer.encode(texts[0]) == ids[0]
    assert again.task.frame("language_model", again.tokenizer).after == (size - 5, size - 2)  # [gMASK] <sop>
    blank = again.task.spelling(again.tokenizer).tokenize_blanks(tf.constant(["the [MASK] sat"])).to_list()[0]
    assert blank.count(size - 6) == 1


def glm4_vocabulary(path):
    """A file of tokens and ranks, as tiktoken's: the bytes, and what a BPE has learnt."""
    trained, merges = foreign_models.trained_bpe()
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [bytes(map(BYTE_OF_SYMBOL.__getitem__, "".join(merge))) for merge in merges]
    path.write_text("".join(f"{base64.b64encode(token).decode()} {i}\n" for i, token in enumerate(dict.fromkeys(tokens))))
    return trained, len(dict.fromkeys(tokens))


def test_glm4_with_its_file_of_ranks(tmp_path):
    trained, count = glm4_vocabulary(tmp_path / "tokenizer.model")
    (tmp_path / "config.json").write_text(json.dumps(LATER))
    template = "[gMASK]<sop>{% for item in messages %}<|{{ item['role'] }}|>\n{{ item['content'] }}{% endfor %}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    tokenizer = create(tmp_path)
    assert (
        tokenizer.encode("the cat sat") == [i for text in ("the", " cat", " sat") for i in tokenizer.encode(text)]
        and tokenizer.decode(tokenizer.encode("the cat, 1984!\n")) == "the cat, 1984!\n"
    )
    theirs = [[trained.vocabulary[i] for i in trained.encode(text)] for text in ("the cat sat on", "naive dog")]
    assert [[tokenizer.vocabulary[i] for i in tokenizer.encode(text)] for text in ("the cat sat on", "naive dog")] == theirs
    assert tokenizer.vocabulary[count : count + 6] == ("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>")
    ids = tokenizer.chat_frame.ids(tokenizer, [{"role": "user", "content": "cat"}])
    names = [tokenizer.vocabulary[i] for i in ids]
    assert names[:3] == ["[gMASK]", "<sop>", "<|user|>"] and names[-1] == "<|assistant|>"
    family = FAMILIES["chatglm"]
    config = family.config({**family.defaults, **LATER, "padded_vocab_size": 151_552, "rope_ratio": 500}, set(), "x")
    assert config.rotary_theta == 5_000_000.0


@pytest.mark.parametrize(("changes", "message"), [
    (dict(rope_ratio=50), "rope_ratio is 50; the programs of ChatGLM2 and of ChatGLM3 mean different things by it"),
    (dict(quantization_bit=4), "asks for quantization_bit=4, which is not supported"),
    (dict(rmsnorm=False), "asks for rmsnorm=False"),
    (dict(novelty=1), "has the field novelty=1, which is not known here"),
])  # fmt: skip
def test_what_is_not_known_is_refused(changes, message, tmp_path):
    model, size = pieces()
    (tmp_path / "tokenizer.model").write_bytes(model)
    write_later(tmp_path, size + 12, **changes)
    with pytest.raises(ValueError, match=message):
        huggingface.read(tmp_path)


def test_the_torch_files_of_2022_are_refused(tmp_path):
    (tmp_path / "blocklm").mkdir()
    (tmp_path / "blocklm" / "mp_rank_00_model_states.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="pickles of torch, which can run code when they are read"):
        huggingface.read(tmp_path)
