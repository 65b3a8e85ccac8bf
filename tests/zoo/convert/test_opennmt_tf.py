"""OpenNMT-tf's checkpoints: objects of its layout, saved by TensorFlow, beside their formula in NumPy; and what is refused."""

import numpy as np
import pytest
import tensorflow as tf

from tests import foreign_models
from zoo.config import Refusal
from zoo.convert import opennmt_tf
from zoo.signatures.text_to_text import source_of

WIDTH, HEADS, INNER, LAYERS = 12, 3, 10, 2
SPECIAL = ["<blank>", "<s>", "</s>"]


class Node(tf.Module):
    """An object of a model, with parts and variables as attributes."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


class Model:
    """A Transformer of OpenNMT-tf's layout: its objects, and what it computes of ids, by the formulas of its documentation."""

    def __init__(self, source_size, target_size, *, pre_norm=True, share=None):
        random = np.random.default_rng(7)

        def variable(*shape):
            return tf.Variable(random.normal(0, 0.4, shape).astype(np.float32))

        def dense(width, outputs):
            return Node(kernel=variable(width, outputs), bias=variable(outputs))

        def norm():
            return Node(gamma=tf.Variable(1 + variable(WIDTH)), beta=variable(WIDTH))

        def wrapped(layer):
            return Node(layer=layer, **{f"{'input' if pre_norm else 'output'}_layer_norm": norm()})

        def attention():
            return wrapped(Node(**{f"linear_{n}": dense(WIDTH, WIDTH) for n in ("queries", "keys", "values", "output")}))

        def layer(cross):
            ffn = wrapped(Node(inner=dense(WIDTH, INNER), outer=dense(INNER, WIDTH)))
            return Node(self_attention=attention(), ffn=ffn, **({"attention": [attention()]} if cross else {}))

        def stack(cross):
            return Node(layers=[layer(cross) for _ in range(LAYERS)], **({"layer_norm": norm()} if pre_norm else {}))

        self.pre_norm, self.source = pre_norm, variable(source_size, WIDTH)
        self.target = self.source if share == "all" else variable(target_size, WIDTH)
        self.encoder, self.decoder = stack(cross=False), stack(cross=True)
        self.decoder.output_layer = dense(WIDTH, target_size)
        if share == "all":  # the product goes with the table
            self.decoder.output_layer.kernel = self.target
        inputters = Node(features_inputter=Node(embedding=self.source), labels_inputter=Node(embedding=self.target))
        self.root = Node(examples_inputter=inputters, encoder=self.encoder, decoder=self.decoder)

    def save(self, directory, step=300):
        steps = tf.Variable(step)
        tf.train.Checkpoint(model=self.root, optimizer=Node(iterations=steps)).write(str(directory / f"ckpt-{step}"))
        (directory / "checkpoint").write_text(f'model_checkpoint_path: "ckpt-{step}"\n')

    def logits(self, source_ids, target_ids):
        memory = self._stack(self.encoder, self._embedded(self.source, source_ids), None)
        hidden = self._stack(self.decoder, self._embedded(self.target, target_ids), memory)
        output = self.decoder.output_layer
        kernel = output.kernel.numpy()
        return hidden @ (kernel if kernel.shape[0] == WIDTH else kernel.T) + output.bias.numpy()

    @staticmethod
    def _embedded(table, ids):
        """Position 1 is the first; sines, then cosines, of rates from 1 to 1/10,000."""
        rates = np.exp(-np.arange(WIDTH // 2) * np.log(10_000) / (WIDTH // 2 - 1))
        angles = (np.arange(len(ids)) + 1)[:, None] * rates
        return table.numpy()[ids] * np.sqrt(WIDTH) + np.concatenate([np.sin(angles), np.cos(angles)], 1)

    def _stack(self, stack, x, memory):
        for layer in stack.layers:
            x = self._around(layer.self_attention, x, lambda y, at: self._attention(at, y, y, memory is not None))
            if memory is not None:
                x = self._around(layer.attention[0], x, lambda y, at: self._attention(at, y, memory, False))
            x = self._around(layer.ffn, x, lambda y, at: _dense(at.outer, np.maximum(_dense(at.inner, y), 0)))
        return _normed(stack.layer_norm, x) if self.pre_norm else x

    def _around(self, wrapper, x, compute):
        if self.pre_norm:
            return x + compute(_normed(wrapper.input_layer_norm, x), wrapper.layer)
        return _normed(wrapper.output_layer_norm, x + compute(x, wrapper.layer))

    @staticmethod
    def _attention(layer, x, memory, causal):
        q, k, v = _dense(layer.linear_queries, x), _dense(layer.linear_keys, memory), _dense(layer.linear_values, memory)
        heads = []
        for some in np.split(np.arange(WIDTH), HEADS):
            scores = q[:, some] @ k[:, some].T / np.sqrt(WIDTH // HEADS)
            scores = np.where(np.tri(*scores.shape) > 0, scores, -np.inf) if causal else scores
            weights = np.exp(scores - scores.max(1, keepdims=True))
            heads.append(weights / weights.sum(1, keepdims=True) @ v[:, some])
        return _dense(layer.linear_output, np.concatenate(heads, 1))


def _dense(layer, x):
    return x @ layer.kernel.numpy() + layer.bias.numpy()


def _normed(norm, x):
    centred = x - x.mean(1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-3) * norm.gamma.numpy() + norm.beta.numpy()


def directory_of(path, model, vocabularies):
    """A directory of a model with vocabularies, a dict of file -> tokens, and a SentencePiece model."""
    model.save(path)
    for name, tokens in vocabularies.items():
        (path / name).write_text("".join(f"{token}\n" for token in [*SPECIAL, *tokens]), encoding="utf8")
    (path / "model_description.py").write_text("model = lambda: onmt.models.Transformer(num_heads=3, num_units=12)\n")
    (path / "wmt.model").write_bytes(foreign_models.sentencepiece_model(foreign_models.TEXTS))
    return path


ENGLISH, FRENCH = ["▁", "t", "h", "e", "a"], ["▁", "l", "e", "c", "h", "a", "t"]
TWO = {"src-vocab.txt": ENGLISH, "tgt-vocab.txt": FRENCH}


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("share", [None, "all"])
def test_logits_are_those_of_the_formula(tmp_path, pre_norm, share):
    vocabularies = TWO if share is None else {"wmt.vocab": ENGLISH}
    theirs = Model(9, 11 if share is None else 9, pre_norm=pre_norm, share=share)
    bundle = opennmt_tf.read(directory_of(tmp_path, theirs, vocabularies))
    config = bundle.model.config
    assert (config.num_heads, config.norm_first, config.tie_embeddings) == (HEADS, pre_norm, share == "all")
    assert (config.source_vocab_size, config.vocab_size) == ((9, 11) if share is None else (None, 9))
    source, target = [5, 3, 8, 4, 6], [1, 4, 7]
    got = bundle.model({"source_ids": np.array([source]), "token_ids": np.array([target])})[0]
    np.testing.assert_allclose(got, theirs.logits(source, target), rtol=1e-4, atol=1e-4)


def test_texts_are_framed_as_there(tmp_path):
    bundle = opennmt_tf.read(directory_of(tmp_path, Model(9, 11), TWO))
    source, target = bundle.tokenizer, bundle.tokenizer.target
    assert source.encode("the") == [3, 4, 5, 6] and target.encode("xe") == [3, 10, 5]  # what the list lacks is its last id
    frame = bundle.task.frame("encoder_decoder", source)
    assert (frame.before, frame.after, frame.target_start) == ((), (), (1,))  # nothing around a source; <s> begins a target
    assert target.eos_id == 2 and target.decode([4, 5, 2]) == "le"
    read = source_of(bundle.model, source, frame, None, tf.constant(["the tea", ""]))
    assert read["source_mask"].numpy().sum(1).tolist() == [8, 0]  # an empty text has no token at all
    assert np.isfinite(bundle.model({**read, "token_ids": np.array([[1, 4]] * 2)})).all()
    assert bundle.provenance["checklist"]["applied"].keys() >= {"ckpt-300.index", "src-vocab.txt", "wmt.model"}


def test_the_latest_of_several_checkpoints_is_read(tmp_path):
    model = Model(9, 11)
    directory_of(tmp_path, model, TWO)
    model.source.assign(2 * model.source)
    model.save(tmp_path, 1_000)
    assert opennmt_tf.found(tmp_path).name == "ckpt-1000"
    table = opennmt_tf.read(tmp_path).model.source_embeddings.embeddings.numpy()
    np.testing.assert_array_equal(table, model.source.numpy())


def relative(model):
    model.encoder.layers[0].self_attention.layer.relative_position_keys = tf.Variable(np.ones((3, 4), np.float32))


def several(model):
    del model.root.examples_inputter.features_inputter.embedding


@pytest.mark.parametrize(("change", "message"), [
    (relative, "has 1 variables that a transformer has no place for: model/encoder/layers/0/self_attention/layer/relative"),
    (several, "lacks model/examples_inputter/features_inputter/embedding"),
])  # fmt: skip
def test_other_models_are_refused(tmp_path, change, message):
    model = Model(9, 11)
    change(model)
    with pytest.raises(Refusal, match=message):
        opennmt_tf.read(directory_of(tmp_path, model, TWO))


def test_what_is_missing_beside_a_checkpoint_is_named(tmp_path):
    with pytest.raises(Refusal, match="there is no ckpt-NUMBER.index"):
        opennmt_tf.read(tmp_path)
    directory_of(tmp_path, Model(9, 11), TWO)
    (tmp_path / "model_description.py").write_text("ffn_activation=tf.nn.tanh, num_heads=3\n")
    with pytest.raises(Refusal, match="has the activation tanh; only relu, gelu, swish, silu are read"):
        opennmt_tf.read(tmp_path)
    (tmp_path / "model_description.py").unlink()
    with pytest.raises(Refusal, match="12 is not a multiple of 64; write num_heads="):
        opennmt_tf.read(tmp_path)
    (tmp_path / "tgt-vocab.txt").write_text("a\nb\nc\n")
    with pytest.raises(Refusal, match="begins with"):
        opennmt_tf.read(tmp_path)
    (tmp_path / "tgt-vocab.txt").unlink()
    (tmp_path / "src-vocab.txt").unlink()
    with pytest.raises(Refusal, match="needs the vocabularies of the training"):
        opennmt_tf.read(tmp_path)
    (tmp_path / "ckpt-300.index").write_bytes(b"no")
    with pytest.raises(Refusal, match="ckpt-300 is damaged"):
        opennmt_tf.read(tmp_path)


def test_what_a_description_tells(tmp_path):
    (tmp_path / "model_description.py").write_text("models.catalog.TransformerTiny()  # ffn_activation=onmt.layers.gelu)\n")
    fields, _ = opennmt_tf._described(tmp_path)
    assert fields == {"num_heads": 2, "activation": "gelu"}
