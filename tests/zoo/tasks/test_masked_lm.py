"""Masked language modelling: the loss by hand, what is served, beside brute force.

Shape letters: B batch, T positions, P predictions a row, V vocabulary.
"""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests import tiny_models
from zoo.data.batch import Layout
from zoo.models.bert import BERT, BERTConfig
from zoo.tasks.masked_lm import MaskedLM, MaskedLMConfig
from zoo.tokenizers.base import create as create_tokenizer

TEXTS = ["the cat sat on the mat .", "a cat is not a dog ,", "the naive dog ran ."]


@pytest.fixture(scope="module")
def tokenizer():
    return create_tokenizer("wordpiece", TEXTS, 61)


@pytest.fixture(scope="module")
def task():
    return MaskedLM()


@pytest.fixture(scope="module")
def model(task, tokenizer):
    tf.keras.utils.set_random_seed(3)
    backbone = BERT(BERTConfig.preset("tiny", vocab_size=tokenizer.vocab_size, pooler=True))
    return tiny_models.strengthen(task.assemble(backbone).build_from_ids())


@pytest.fixture(scope="module")
def signatures(task, model, tokenizer):
    return task.signatures(model, tokenizer)


def test_loss_and_score_by_hand(task):
    logits = np.log(np.array([[[2, 1, 1], [1, 3, 4]]], "float32"))
    batch = {"labels": np.array([[0, 1]]), "loss_weights": np.array([[1, 1]], "float32")}
    loss, count = task.loss(batch, logits)
    assert float(loss) == pytest.approx(math.log(2) + math.log(8 / 3), rel=1e-6) and float(count) == 2
    batch["loss_weights"][0, 0] = 0
    assert float(task.loss(batch, logits)[0]) == pytest.approx(math.log(8 / 3), rel=1e-6)
    smoothed, _ = MaskedLM(label_smoothing=0.3).loss(batch, logits)
    assert float(smoothed) == pytest.approx(-(np.log([1 / 8, 3 / 8, 1 / 2]) @ [0.1, 0.8, 0.1]), rel=1e-6)
    scores = task.metrics({"nats": 6.0, "tokens": 4.0, "right": 3.0}, {}, None)
    assert scores == {"loss": 1.5, "perplexity": math.exp(1.5), "accuracy": 0.75, "num_tokens": 4}


def test_pairs_weigh_as_many_tokens_as_their_row_hides():
    """loss = mean over hidden tokens + mean over rows, each row as often as it hides a token."""
    task = MaskedLM(MaskedLMConfig(pairs="sentence_order"))
    logits = np.log(np.array([[[2, 1, 1], [1, 3, 4]], [[2, 1, 1], [1, 1, 2]]], "float32"))
    pairs = np.log(np.array([[1, 3], [4, 1]], "float32"))
    batch = {"labels": np.array([[0, 1], [0, 0]]), "loss_weights": np.array([[1, 1], [1, 0]], "float32")}
    batch |= {"pair_labels": np.array([1, 1])}
    loss, count = task.loss(batch, (logits, pairs))
    tokens = 2 * math.log(2) + math.log(8 / 3)
    assert float(loss) == pytest.approx(tokens + 2 * math.log(4 / 3) + math.log(5), rel=1e-6) and float(count) == 3
    scores = task.metrics({"nats": 6.0, "tokens": 4.0, "right": 3.0, "pairs": 4.0, "pairs_right": 1.0}, {}, None)
    assert scores["loss"] == 1.5 and scores["pair_accuracy"] == 0.25


def test_a_model_learns_pairs_and_its_pooler_with_them(tokenizer):
    task = MaskedLM(MaskedLMConfig(pairs="sentence_order"))
    tf.keras.utils.set_random_seed(3)
    backbone = BERT(BERTConfig.preset("tiny", vocab_size=tokenizer.vocab_size, pooler=True))
    model = task.assemble(backbone).build_from_ids()
    trained = [v.path for v in model.trainable_variables]
    assert any("pooler" in path for path in trained) and any("pair" in path for path in trained)
    stream = np.tile(np.arange(12, 32, dtype=np.int32), 30)
    layout = Layout(13, 4)
    batch = task.training_batches(stream, model, tokenizer, layout).batch(0)
    before = {v.path: v.numpy() for v in model.trainable_variables}
    trainer = tiny_models.trainer(model, 40, task=task)
    losses = [float(trainer.step(batch).loss) for _ in range(40)]
    assert losses[-1] < losses[0] / 2
    for variable in model.trainable_variables:
        assert not np.array_equal(before[variable.path], variable), variable.path
    totals = {}
    for batch in task.evaluation_batches(stream, model, tokenizer, layout):
        for name, value in task.score(model, batch)[0].items():
            totals[name] = totals.get(name, 0) + float(value)
    scores = task.metrics(totals, {}, None)
    assert 0 <= scores["pair_accuracy"] <= 1 and totals["pairs"] == 600 // 10
    assert task.signatures(model, tokenizer)["fill_mask"](text=tf.constant(["the [MASK]"]))["tokens"].shape == (1, 1, 5)


def test_only_hidden_positions_go_through_the_head(task, model):
    """The logits of some positions are those that the head gives everywhere, and the pooler is not trained."""
    ids = tiny_models.token_ids(model, 3, 7)
    positions = np.array([[1, 5], [0, 0], [6, 2]], np.int32)
    some, state = task.forward(model, {"token_ids": ids, "label_positions": positions})
    everywhere = model.head.logits(model.backbone.hidden(ids))
    np.testing.assert_allclose(some, np.take_along_axis(np.asarray(everywhere), positions[..., None], 1), rtol=1e-5, atol=1e-5)
    assert state is None and some.shape == (3, 2, model.config.vocab_size)
    assert not any("pooler" in v.path for v in model.trainable_variables)


def test_a_score_counts_what_the_loss_counts(task, model, tokenizer):
    ids = tiny_models.token_ids(model, 3, 7)
    positions = np.array([[1, 5], [0, 0], [6, 2]], np.int32)
    batch = {
        "token_ids": ids, "label_positions": positions, "labels": np.take_along_axis(ids, positions, 1),
        "loss_weights": np.array([[1, 1], [1, 0], [0, 0]], "float32"),
    }  # fmt: skip
    totals, rows, _ = task.score(model, batch)
    loss, count = task.loss(batch, task.forward(model, batch)[0])
    assert float(totals["nats"]) == pytest.approx(float(loss), rel=1e-6)
    assert float(totals["tokens"]) == float(count) == 3 and rows == {}
    best = np.argmax(np.asarray(task.forward(model, batch)[0]), -1)
    assert float(totals["right"]) == ((best == batch["labels"]) * batch["loss_weights"]).sum()


def test_fill_mask_is_the_head_at_the_holes(task, model, tokenizer, signatures):
    texts = ["the [MASK] sat", "[MASK] cat[MASK].", "a [MASK]"]
    answer = signatures["fill_mask"](text=tf.constant(texts))
    tokens, probs = answer["tokens"].numpy(), answer["probs"].numpy()
    assert tokens.shape == probs.shape == (3, 2, 5)
    for row, text in enumerate(texts):
        ids = [tokenizer.cls_id]
        for number, part in enumerate(text.split("[MASK]")):
            ids += [tokenizer.mask_id] * bool(number) + tokenizer.encode(part)
        ids.append(tokenizer.sep_id)
        holes = [i for i, token in enumerate(ids) if token == tokenizer.mask_id]
        batch = {"token_ids": np.array([ids], np.int32), "label_positions": np.array([holes], np.int32)}
        expected = tf.nn.softmax(model(batch)[0]).numpy()
        for place in range(2):
            if place >= len(holes):
                assert (tokens[row, place] == b"").all() and (probs[row, place] == 0).all()
                continue
            best = np.argsort(-expected[place])[:5]
            np.testing.assert_allclose(probs[row, place], expected[place][best], rtol=1e-4)
            assert [t.decode() for t in tokens[row, place]] == [tokenizer.decode([i]).strip() for i in best]


def test_texts_without_a_hole_or_too_long_are_refused(signatures):
    for texts in (["no hole here"], ["[MASK]", ""]):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"needs a hole to be filled, written \[MASK\]"):
            signatures["fill_mask"](text=tf.constant(texts))
    with pytest.raises(tf.errors.InvalidArgumentError, match="takes at most 16"):
        signatures["fill_mask"](text=tf.constant(["[MASK] " * 15]))


def test_score_hides_each_token_in_turn(task, model, tokenizer, signatures):
    texts = ["the cat sat", "", "a dog"]
    answer = signatures["score"](text=tf.constant(texts))
    for row, text in enumerate(texts):
        ids = [tokenizer.cls_id, *tokenizer.encode(text), tokenizer.sep_id]
        total = 0.0
        for place in range(1, len(ids) - 1):
            masked = np.array([ids], np.int32)
            masked[0, place] = tokenizer.mask_id
            logits = model({"token_ids": masked, "label_positions": np.array([[place]], np.int32)})[0, 0]
            total += float(tf.nn.log_softmax(logits)[ids[place]])
        assert float(answer["log_prob"][row]) == pytest.approx(total, rel=1e-4, abs=1e-5)
        assert int(answer["num_tokens"][row]) == len(ids) - 2
        bits = -total / math.log(2) / max(len(text), 1)
        assert float(answer["bits_per_byte"][row]) == pytest.approx(bits, rel=1e-4, abs=1e-5)


def test_embeddings_are_means_of_length_one(model, tokenizer, signatures):
    texts = ["the cat", "", "a dog ran on the mat"]
    vectors = signatures["embed"](text=tf.constant(texts))["embedding"].numpy()
    for row, text in enumerate(texts):
        ids = [tokenizer.cls_id, *tokenizer.encode(text), tokenizer.sep_id]
        mean = np.asarray(model.backbone.hidden(np.array([ids], np.int32)))[0].mean(0)
        np.testing.assert_allclose(vectors[row], mean / np.linalg.norm(mean), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("fields", "message"), [
    (dict(mask_rate=0.0), "mask_rate must be between 0 and 1, got 0.0"),
    (dict(pairs="order"), "pairs must be none, next_sentence or sentence_order, got 'order'"),
    (dict(masking="word"), "masking must be token, whole_word or span, got 'word'"),
])  # fmt: skip
def test_senseless_configs_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        MaskedLMConfig(**fields)
