"""OpenAI's GPT-2 and GPT in the files of their own programs, made here with random weights, beside their formula in NumPy."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf

from tests import foreign_models
from zoo.bundle import load
from zoo.convert import certificate, openai
from zoo.tokenizers.character_bpe import CharacterBPE

V, T, D, L = 270, 16, 128, 2
LAYER = {
    "attn/c_attn": (D, 3 * D), "attn/c_proj": (D, D), "ln_1": (D,), "mlp/c_fc": (D, 4 * D), "mlp/c_proj": (4 * D, D),
    "ln_2": (D,),
}  # fmt: skip
IDS = np.array([[3, 7, 260, 4, 9, 9, 1]])


def weights(seed=0):
    """Variable -> array, as the programs name and shape them, in the order in which they make them."""
    random = np.random.RandomState(seed)
    made = {"model/wpe": random.randn(T, D), "model/wte": random.randn(V, D)}
    for i in range(L):
        for name, shape in LAYER.items():
            gain = len(shape) == 1
            stored = shape if gain else (1, *shape)
            made[f"model/h{i}/{name}/{'g' if gain else 'w'}"] = random.randn(*stored) * 0.1 + gain
            made[f"model/h{i}/{name}/b"] = random.randn(shape[-1]) * 0.1
    return {name: array.astype(np.float32) for name, array in made.items()}


def norm(x, gain, bias):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * gain + bias


def logits(w, ids, num_heads, norm_first):
    """The formula of both (finetune-transformer-lm/train.py; gpt-2/src/model.py) in NumPy, (B, T, V)."""
    b, t = ids.shape

    def product(x, name):
        return x @ w[f"{name}/w"][0] + w[f"{name}/b"]

    def normed(x, name):
        return norm(x, w[f"{name}/g"], w[f"{name}/b"])

    def attention(x, name):
        heads = product(x, f"{name}/c_attn").reshape(b, t, 3, num_heads, -1).transpose(2, 0, 3, 1, 4)
        scores = heads[0] @ heads[1].swapaxes(-1, -2) / math.sqrt(heads.shape[-1])
        scores = np.where(np.tril(np.ones((t, t), bool)), scores, -1e10)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (shares / shares.sum(-1, keepdims=True)) @ heads[2]
        return product(mixed.transpose(0, 2, 1, 3).reshape(b, t, D), f"{name}/c_proj")

    def network(x, name):
        x = product(x, f"{name}/c_fc")
        return product(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))), f"{name}/c_proj")

    x = w["model/wte"][ids] + w["model/wpe"][:t]
    for i in range(L):
        h = f"model/h{i}"
        if norm_first:
            x = x + attention(normed(x, f"{h}/ln_1"), f"{h}/attn")
            x = x + network(normed(x, f"{h}/ln_2"), f"{h}/mlp")
        else:
            x = normed(x + attention(x, f"{h}/attn"), f"{h}/ln_1")
            x = normed(x + network(x, f"{h}/mlp"), f"{h}/ln_2")
    return (normed(x, "model/ln_f") if norm_first else x) @ w["model/wte"].T


def write_gpt2(directory, *, without=(), further=()):
    """A directory as gpt-2/download_model.py fetches it."""
    directory.mkdir()
    w = {**weights(), "model/ln_f/g": np.full(D, 1.5, np.float32), "model/ln_f/b": np.full(D, 0.5, np.float32)}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        stored = {name: array for name, array in w.items() if name not in without}
        stored |= dict.fromkeys(further, np.ones(3, np.float32))
        variables = [tf.compat.v1.Variable(array, name=name, use_resource=False) for name, array in stored.items()]
        session.run([variable.initializer for variable in variables])
        tf.compat.v1.train.Saver(variables).save(session, str(directory / "model.ckpt"))
    (directory / "hparams.json").write_text(json.dumps({"n_vocab": V, "n_ctx": T, "n_embd": D, "n_head": 4, "n_layer": L}))
    trained, merges = foreign_models.trained_bpe()
    (directory / "encoder.json").write_text(json.dumps({token: i for i, token in enumerate(trained.vocabulary)}))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
    (directory / "vocab.bpe").write_text("\n".join(lines), encoding="utf8")
    return w


def write_gpt(directory):
    """A directory as finetune-transformer-lm/model is."""
    directory.mkdir()
    w = weights()
    numbers = np.concatenate([array.reshape(-1) for array in w.values()])
    for i, piece in enumerate(np.array_split(numbers, 10)):
        np.save(directory / f"params_{i}.npy", piece)
    (directory / "params_shapes.json").write_text(json.dumps([array.shape for array in w.values()]))
    vocabulary, merges = foreign_models.character_bpe(V)
    (directory / "encoder_bpe_40000.json").write_text(json.dumps(vocabulary))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
    (directory / "vocab_40000.bpe").write_text("\n".join(lines), encoding="utf8")
    return w


def test_gpt2_gives_the_numbers_of_its_program(tmp_path):
    w = write_gpt2(tmp_path / "117M")
    bundle = openai.read(tmp_path / "117M")
    expected = logits(w, IDS, 4, norm_first=True)
    np.testing.assert_allclose(bundle.model(IDS), expected, atol=1e-4 * np.abs(expected).max())
    assert bundle.tokenizer.decode(bundle.tokenizer.encode("the cat")) == "the cat"
    assert certificate.certify(bundle, tmp_path / "117M")["outputs"]["compared"] is False
    assert (bundle.model.config.max_length, bundle.model.config.num_heads) == (T, 4)


def test_gpt_gives_the_numbers_of_its_program_and_comes_back_from_disk(tmp_path):
    w = write_gpt(tmp_path / "model")
    bundle = openai.read(tmp_path / "model")
    expected = logits(w, IDS, 2, norm_first=False)
    np.testing.assert_allclose(bundle.model(IDS), expected, atol=1e-4 * np.abs(expected).max())
    bundle.save(tmp_path / "mine")
    again = load(tmp_path / "mine")
    np.testing.assert_array_equal(again.model(IDS), bundle.model(IDS))
    assert again.tokenizer.encode("The cat sat!") == bundle.tokenizer.encode("The cat sat!")


@pytest.mark.parametrize(("options", "message"), [
    (dict(without=("model/h1/ln_2/g",)), "lacks 1 tensors that this model has: h.1.ln_2.weight"),
    (dict(further=("model/clf/w",)), "1 tensors that this model has no place for: clf.weight"),
])  # fmt: skip
def test_a_gpt2_that_is_not_whole_is_refused(options, message, tmp_path):
    write_gpt2(tmp_path / "x", **options)
    with pytest.raises(ValueError, match=message):
        openai.read(tmp_path / "x")


def test_a_gpt_that_is_not_whole_is_refused(tmp_path):
    write_gpt(tmp_path / "x")
    (tmp_path / "x" / "params_9.npy").unlink()
    with pytest.raises(ValueError, match="tells of 26 arrays with .* numbers, and params_.* hold"):
        openai.read(tmp_path / "x")
    (tmp_path / "x" / "params_4.npy").unlink()
    with pytest.raises(ValueError, match="lacks a part of GPT, or has a damaged one"):
        openai.read(tmp_path / "x")


@pytest.mark.parametrize("name", ["n_head", "n_layer"])
def test_hparams_that_do_not_say_all_are_refused(name, tmp_path):
    write_gpt2(tmp_path / "x")
    path = tmp_path / "x" / "hparams.json"
    fields = json.loads(path.read_text())
    del fields[name]
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=f"does not say {name}"):
        openai.read(tmp_path / "x")


TEXTS = ["", " ", "The CAT sat, on the mat.", "naïve dog\n\tran ... 1984 東京 é 😀", "théâtre </w> <unk> a", "ß"]


def test_characters_are_joined_as_the_library_joins_them():
    vocabulary, merges = foreign_models.character_bpe(V)
    tokenizer = CharacterBPE(vocabulary, merges)
    native = [tokenizer.encode(text) for text in TEXTS]
    ragged = tokenizer.tokenize(tf.constant(TEXTS))
    assert ragged.to_list() == native
    written = [tokenizer.decode(ids) for ids in native]
    assert [text.decode() for text in tokenizer.detokenize(ragged).numpy()] == written
    assert written[2] == "the cat sat , on the mat ."
    assert tokenizer.vocabulary[tokenizer.eos_id] == "\n</w>"
    assert tokenizer.tokenize(tf.constant([], tf.string)).to_list() == []
    assert tokenizer.lost_bytes("a 東 a") == 3
