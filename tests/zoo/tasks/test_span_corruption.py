"""Span corruption: sentinels behind a vocabulary, texts with sentinels in graph, holes that are filled, scores by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from tests import tiny_models
from zoo.config import Refusal
from zoo.data.batch import Layout
from zoo.registry import MODELS
from zoo.signatures.fill_spans import WithSentinels, filled
from zoo.tasks.span_corruption import SpanCorruptionConfig, SpanCorruptionFacts, SpanCorruptionTask, sentinels
from zoo.tokenizers.base import create as create_tokenizer


@pytest.fixture(scope="module")
def spelling():
    """Bytes are 0 to 255, 256 is the end, and the sentinels 0, 1, 2 are 259, 258, 257."""
    tokenizer = create_tokenizer("byte")
    return WithSentinels(tokenizer, sentinels(tokenizer, 3), 320)


def ids(text):
    return list(text.encode())


def test_sentinels_stand_behind_the_vocabulary_the_first_one_last():
    tokenizer = create_tokenizer("byte")
    assert sentinels(tokenizer, 3) == (259, 258, 257)
    task = SpanCorruptionTask(SpanCorruptionConfig(num_sentinels=3))
    assert task.model_fields(tokenizer)["vocab_size"] == 320
    assert sentinels(tiny_models.ToyVocabulary(), 100)[0] == 160


def test_a_vocabulary_with_sentinels_of_its_own_keeps_them():
    class WithItsOwn(tiny_models.ToyVocabulary):
        sentinel_ids = (7, 9)

    assert sentinels(WithItsOwn(), 100) == (7, 9)
    assert SpanCorruptionTask().model_fields(WithItsOwn())["vocab_size"] == 64


def test_texts_with_sentinels_are_read_and_written(spelling):
    texts = ["ab <extra_id_0> c<extra_id_2>", "", "<extra_id_x<extra_id_1", "<extra_id_1>", "d\n<extra_id_00001>"]
    rows = spelling.tokenize(tf.constant(texts))
    # The space before a sentinel belongs to its span; what is not a name of a sentinel is text.
    assert rows.to_list() == [
        [*ids("ab"), 259, *ids(" c"), 257], [], ids("<extra_id_x<extra_id_1"), [258], ids("d\n<extra_id_00001>"),
    ]  # fmt: skip
    expected = ["ab<extra_id_0> c<extra_id_2>", "", *texts[2:]]
    assert [text.decode() for text in spelling.detokenize(rows).numpy()] == expected
    # The end and ids that nobody names are left out.
    assert spelling.detokenize(tf.ragged.constant([[97, 256, 300, 258, 98]])).numpy().tolist() == [b"a<extra_id_1>b"]


def test_bytes_that_are_no_utf8_are_kept(spelling):
    rows = spelling.tokenize(tf.constant([b"\xff<extra_id_1>\xfe\n\xfd"]))
    assert rows.to_list() == [[0xFF, 258, 0xFE, 10, 0xFD]]


def test_a_sentinel_that_the_model_has_not_is_refused(spelling):
    with pytest.raises(tf.errors.InvalidArgumentError, match="has <extra_id_3>, and this model has the sentinels 0 to 2"):
        spelling.tokenize(tf.constant(["a", "b<extra_id_3>"]))


def test_holes_are_filled_with_what_follows_their_sentinels(spelling):
    source = spelling.tokenize(tf.constant(["ab <extra_id_1> c<extra_id_0>", "", "<extra_id_2>q <extra_id_2>", "none"]))
    written = spelling.tokenize(tf.constant(["zz<extra_id_0>!<extra_id_1> you", "<extra_id_0>x", "<extra_id_2>hey", "y"]))
    dense = written.to_tensor(0)
    lengths = tf.constant([9, 2, 3, 1])  # the third is cut: "he"
    answer = filled(spelling, source, dense, lengths)
    first = written[0].numpy().tolist()
    assert first[:9] == [122, 122, 259, 33, 258, *ids(" you")]
    assert answer["text"].numpy().tolist() == [b"ab you c!", b"", b"heqhe", b"none"]
    assert answer["spans"].numpy().tolist() == [[b" you", b"!"], [b"", b""], [b"he", b"he"], [b"", b""]]


def test_the_end_of_what_was_written_fills_nothing(spelling):
    source = spelling.tokenize(tf.constant(["<extra_id_0>"]))
    answer = filled(spelling, source, tf.constant([[259, 97, 256]]), tf.constant([3]))
    assert answer["text"].numpy().tolist() == [b"a"]


def test_scores_count_the_text_without_sentinels_and_ends():
    task = SpanCorruptionTask(facts=SpanCorruptionFacts(sentinel_ids=(9, 8)))

    class Model:
        def taken(self, batch):
            return {"token_ids": batch["token_ids"]}

        def token_log_probs(self, token_ids, labels):
            return tf.fill(tf.shape(labels), -2.0), None

    labels = np.array([[9, 3, 4, 8, 5, 0], [9, 6, 0, 0, 0, 0]], np.int32)
    weights = np.array([[1] * 6, [1] * 3 + [0] * 3], np.float32)
    totals, _, _ = task.score(Model(), {"token_ids": labels, "labels": labels, "loss_weights": weights})
    assert {name: float(value) for name, value in totals.items()} == {"nats": 18, "tokens": 9, "text": 4}

    class Data:
        num_bytes = 60

        def __len__(self):
            return 21

    scores = task.metrics(totals, {}, Data())
    assert scores["loss"] == 2 and scores["num_tokens"] == 9
    assert scores["bits_per_byte"] == pytest.approx(18 / np.log(2) / 12)  # 4 of 20 tokens have 12 of 60 bytes


def test_a_model_without_rows_for_sentinels_is_refused():
    model, toy = tiny_models.create("t5", vocab_size=61), tiny_models.ToyVocabulary()
    with pytest.raises(Refusal, match="has 61 rows for tokens, and sentinels need 161"):
        SpanCorruptionTask().training_batches(tiny_models.stream(61), model, toy, Layout(13, 2))


@pytest.mark.parametrize(("fields", "name"), [(dict(density=1.0), "density"), (dict(mean_length=0.5), "mean_length")])
def test_spans_that_cannot_be_are_refused(fields, name):
    with pytest.raises(Refusal, match=f"{name} must be"):
        SpanCorruptionConfig(**fields)


@pytest.mark.parametrize(("longest", "text"), [(16, "<extra_id_0>"), (64, "Return a <extra_id_0> of the list.")])
def test_a_run_of_short_rows_shows_a_sample_that_fits(longest, text):
    tokenizer = create_tokenizer("byte")
    facts = SpanCorruptionFacts(max_tokens=longest, sentinel_ids=sentinels(tokenizer, 3))
    task = SpanCorruptionTask(SpanCorruptionConfig(num_sentinels=3), facts)
    vocab_size = task.model_fields(tokenizer)["vocab_size"]
    model = MODELS.get("t5")(MODELS.config("t5").preset("tiny").replace(vocab_size=vocab_size))
    model.build_from_ids()
    assert task.sample(SimpleNamespace(model=model, tokenizer=tokenizer), 0).startswith(f"{text!r} -> ")


def test_the_plan_knows_the_length_of_a_target():
    """A source of 512 tokens has a target of 114 (Raffel et al. 2020, as in their program)."""
    config = tiny_models.create("t5").config
    assert abs(SpanCorruptionConfig().output(config, 512).positions - 114) <= 1
