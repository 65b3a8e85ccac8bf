"""Decoding with a draft: the text is that of decoding without one, whatever a pass over several tokens rounds otherwise.

The toy model is a table: the next token depends on the last one. Where it reads several tokens at once, its logits are moved,
and so they are wherever it looks back at tokens that were read so, unless these are read again.
"""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests import exports, tiny_models
from zoo import bundle as bundles
from zoo.config import Refusal
from zoo.decoding import Sampling, generate
from zoo.export import loaded_draft
from zoo.models.ngram import NGram, NGramConfig
from zoo.serving.c_api import SavedModel
from zoo.signatures.drafting import NEAR, Draft, parsed_draft, require_draft, with_draft
from zoo.signatures.generation import generation
from zoo.signatures.request import with_one_row_apart

V, STOP, NEW = 7, 6, 24


class Toy:
    """As much of a language model as decoding needs; `noise` is by how much the logits of several tokens are moved."""

    def __init__(self, table, noise, passes):
        self.table, self.noise, self.passes = table, noise, passes

    def rewound(self, state, num_columns):
        return {**state, "index": num_columns}

    def next_logits(self, token_ids, state, padding_mask=None):
        logits, state = self._read(token_ids, state, False)
        return logits[:, -1], state

    def logits_after_each(self, token_ids, state):
        return self._read(token_ids, state, True)

    def _read(self, token_ids, state, several):
        self.passes.assign_add(1)
        columns, end = tf.range(tf.shape(state["moved"])[0]), state["index"] + tf.shape(token_ids)[1]
        new = (columns >= state["index"]) & (columns < end)
        moved = tf.where(new, several, state["moved"])
        read_T = tf.range(state["index"], end)
        looks_back_T = tf.reduce_any(moved & (columns[None] <= read_T[:, None]), 1)
        noise_TV = self.noise * tf.sin(tf.range(V, dtype=tf.float32) * tf.cast(7 * read_T[:, None] + 3, tf.float32))
        logits = tf.gather(self.table, token_ids) + tf.where(looks_back_T[:, None], noise_TV, 0.0)
        return logits, {"index": end, "moved": moved}


def fitted(vocab_size, eos_id, ids, order=3):
    model = NGram(NGramConfig(order=order, vocab_size=vocab_size, eos_id=eos_id))
    model.fit_closed_form(np.asarray(ids))
    return model


def mostly_the_next():
    """Trigrams of a text in which the next number follows four times in five, and else the one after it."""
    steps = 1 + (np.random.default_rng(3).random(600) > 0.8)
    return fitted(V, STOP, np.append(np.cumsum(steps) % 6, STOP))


@pytest.fixture(scope="module", params=["the row", "an n-gram model"])
def decode(request):
    """Table, prompt and options -> the tokens of a row, their log-probability, and how many passes they took. Drafts come from
    the row itself, or from an n-gram model besides."""
    passes, asks_model = tf.Variable(0), request.param != "the row"
    guess = Draft(0, 4, "toy").with_model(mostly_the_next()) if asks_model else Draft(3, 4)

    shapes = ([V, V], tf.float32), ([], tf.float32), ([1, None], tf.int32), ([1], tf.float32), ([1], tf.int64)

    @tf.function(input_signature=[tf.TensorSpec(*shape) for shape in shapes], autograph=False)
    def both(table, noise, ids, temperature, seed):
        def one(draft):
            passes.assign(0)
            length = tf.shape(ids)[1]
            model = Toy(table, noise, passes)
            enter = None if draft is None else with_draft(model, draft, length, (STOP,))
            state = {"index": tf.constant(0), "moved": tf.fill([length + NEW], False)}
            decoded = generate(
                model.next_logits, state, ids, max_new_tokens=NEW, stop_ids=(STOP,), pad_id=5, enter=enter,
                sampling=Sampling(temperature=temperature, seed=seed),
            )  # fmt: skip
            return *decoded, passes.read_value()

        with tf.control_dependencies([tf.constant(0)]):
            plain = one(None)
        with tf.control_dependencies(plain):
            return plain, one(guess)

    def call(table, prompt, noise=0.0, temperature=0.0, seed=0):
        given = (table, np.float32(noise), np.array([prompt], np.int32), np.float32([temperature]), np.array([seed]))
        return [(ids[0, : lengths[0]].numpy().tolist(), float(logs[0]), int(n)) for ids, lengths, logs, n in both(*given)]

    call.asks_model = asks_model
    return call


def tables(count, near):
    """Tables of logits in which many tokens have several successors that are almost equally likely, or just so."""
    random = np.random.default_rng(5)
    for _ in range(count):
        table = random.normal(size=(V, V)) - 3 * (np.arange(V) == STOP)
        almost = table.max(1, keepdims=True) - near * random.random((V, V)) * random.integers(0, 2, (V, V))
        yield np.where(random.random((V, V)) < 0.3, almost, table).astype(np.float32)


def test_greedy_text_is_that_without_a_draft_whatever_is_rounded_otherwise(decode):
    """The noise moves a logit by up to two fifths of what `NEAR` allows: it turns the order of many pairs."""
    random, tried = np.random.default_rng(6), 0
    for table in tables(60, NEAR):
        prompt = random.integers(0, V - 1, 9).tolist()
        (ids, log_prob, plain), (same, close, drafted) = decode(table, prompt, noise=0.4 * NEAR * np.abs(table).max(1).min())
        assert ids == same
        np.testing.assert_allclose(close, log_prob, atol=1e-2)
        tried += plain != drafted
    assert tried > 30


def test_the_noise_of_that_law_is_enough_to_change_a_text(decode, monkeypatch):
    from zoo.signatures import drafting

    monkeypatch.setattr(drafting, "NEAR", -1.0)
    differ = 0
    for table in tables(12, NEAR):
        model = Toy(tf.constant(table), tf.constant(0.4 * NEAR * np.abs(table).max(1).min()), tf.Variable(0))
        moved, _ = model._read(tf.range(V)[None], {"index": tf.constant(0), "moved": tf.fill([V], False)}, True)
        differ += int((moved[0].numpy().argmax(1) != table.argmax(1)).sum())
    assert differ > 5


def test_text_that_repeats_itself_takes_few_passes(decode):
    cycle = np.full((V, V), -5.0, np.float32)
    for token in range(6):
        cycle[token, (token + 1) % 6] = 5.0
    plain, drafted = decode(cycle, [0, 1, 2, 3, 4, 5, 0, 1, 2])
    # The prompt, then five tokens a pass; 24 = 1 + 4 x 5 + 3.
    assert plain[0] == drafted[0] == [(3 + i) % 6 for i in range(NEW)]
    assert plain[2] == NEW and drafted[2] == 1 + 5


def test_text_that_the_model_knows_takes_few_passes_from_its_first_token(decode):
    cycle = np.full((V, V), -5.0, np.float32)
    for token in range(6):
        cycle[token, (token + 1) % 6] = 5.0
    plain, drafted = decode(cycle, [3])
    assert plain[0] == drafted[0] == [(4 + i) % 6 for i in range(NEW)]
    # The row itself repeats nothing before its eighth token.
    assert drafted[2] == 1 + 5 if decode.asks_model else drafted[2] > 8


def test_a_row_ends_at_its_stop_token_inside_a_draft(decode):
    table = np.full((V, V), -5.0, np.float32)
    for token in range(V - 1):
        table[token, token + 1] = 5.0
    plain, drafted = decode(table, [0, 1, 2, 3, 4, 5, 6, 0, 1, 2])
    assert plain[0] == drafted[0] == [3, 4, 5, 6]
    assert drafted[2] < plain[2]


def test_sampled_text_has_the_same_distribution(decode):
    """Every text of two tokens comes as often as its probability says; and each seed writes what it writes without a draft."""
    table = np.random.default_rng(8).normal(size=(V, V)).astype(np.float32)
    probs = np.exp(table) / np.exp(table).sum(1, keepdims=True)
    counts, tries = np.zeros((V, V)), 400
    for seed in range(tries):
        plain, drafted = decode(table, [1, 2, 3, 1, 2, 3, 1, 2], temperature=1.0, seed=seed)
        assert plain[0] == drafted[0]
        first, *rest = drafted[0]
        counts[first, rest[0] if rest else 0] += 1
    expected = probs[2][:, None] * probs
    expected[STOP] = 0
    expected[STOP, 0] = probs[2, STOP]
    assert (np.abs(counts / tries - expected) < 4.5 * np.sqrt(expected * (1 - expected) / tries) + 1e-9).all()


# Every family whose state can be taken back, with the structures that read a cache in another way.
CASES = {case: {} for case in tiny_models.cases("language_model") if tiny_models.class_of(case).rewinds}
CASES = {**CASES, "gpt-2018": dict(position="alibi", window=4)}


@pytest.mark.parametrize("case", CASES)
def test_every_family_writes_the_same_text_with_a_draft(case):
    model = tiny_models.strengthen(tiny_models.create(case, num_layers=1, max_length=40, **CASES[case]))
    decode = {}
    for name, draft in (("plain", None), ("draft", Draft(3, 4))):

        @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.bool)], autograph=False)
        def run(ids, _, draft=draft):
            length = tf.shape(ids)[1]
            enter = with_one_row_apart if draft is None else with_draft(model, draft, length, (0,))
            state = model.init_state(tf.shape(ids)[0], length + 20)
            return generate(model.next_logits, state, ids, max_new_tokens=20, stop_ids=(0,), enter=enter)

        decode[name] = run
    random = np.random.default_rng(4)
    rows = []
    for length, period in itertools.product((1, 3, 8), (1, 2, 5)):
        rows.append(np.resize(random.integers(1, model.config.vocab_size, period), length).astype(np.int32))
        plain, drafted = (run(rows[-1][None], [True]) for run in decode.values())
        np.testing.assert_array_equal(plain.token_ids, drafted.token_ids)
        np.testing.assert_allclose(plain.log_probs, drafted.log_probs, rtol=1e-4, atol=1e-4)
    # A batch goes on without a draft, and a row's text is the same there.
    batch = np.stack(rows[-3:])
    np.testing.assert_array_equal(decode["draft"](batch, [True]).token_ids[2], decode["draft"](batch[2:], [True]).token_ids[0])


def test_an_export_with_a_draft_is_proved_and_writes_the_same_text(tmp_path):
    """It holds the tables of an n-gram model that was fitted on what the model writes."""
    made = exports.made("gpt", "language_modeling")
    plain = made.task.signatures(made.model, made.tokenizer)["generate"]
    texts = ["the cat sat on the mat", "a dog"]
    known = [plain([text], [30])["text"].numpy()[0].decode("utf8", "replace") for text in texts]
    ids = [made.tokenizer.eos_id, *(i for text in known for i in [*made.tokenizer.encode(text), made.tokenizer.eos_id])]
    model = fitted(made.tokenizer.vocab_size, made.tokenizer.eos_id, ids, order=4)
    directory = bundles.Bundle(model, made.tokenizer, "language_modeling", {}).save(tmp_path / "ngram")
    path = exports.export_saved_model(tmp_path / "export", *made, draft=f"ngram:{directory}:4")
    served = SavedModel(path)
    for text in ("the cat sat on the mat", "abcabcabc", "", "a dog"):
        assert served.run("generate", {"prompt": [text], "max_new_tokens": [30]})["text"] == plain([text], [30])["text"].numpy()
    assert "4 tokens, the last 3 or fewer looked up in the text and in the tables of an n-gram model of order 4" in (
        path / "assets.extra" / "model_card.md"
    ).read_text(encoding="utf8")


def test_which_models_a_draft_takes(tmp_path):
    named = Draft(0, 5, "there")
    assert named.with_model(fitted(V, STOP, [0, 1, STOP], order=5)).longest == 4
    for model, sentence in (
        (tiny_models.create("lstm"), "there holds a lstm model; a draft takes an n-gram model"),
        (
            tiny_models.create("ngram-unigram"),
            "there holds unigrams, which look at no token before; a draft takes an order of 2",
        ),
    ):
        with pytest.raises(Refusal, match=sentence):
            named.with_model(model)
    byte, words = exports.create_tokenizer("byte"), exports.create_tokenizer("word", ["a b"], 8)
    model = fitted(words.vocab_size, words.eos_id, words.encode("a b a"))
    bundles.Bundle(model, words, "language_modeling", {}).save(tmp_path / "words")
    assert loaded_draft(f"ngram:{tmp_path / 'words'}", words).longest == 2
    with pytest.raises(Refusal, match="words was fitted with another vocabulary than this model's; fit it on text with"):
        loaded_draft(f"ngram:{tmp_path / 'words'}", byte)


@pytest.mark.parametrize(("text", "draft"), [
    ("none", None), ("ngram:4", Draft(4, 5)), ("ngram:2:9", Draft(2, 9)),
])  # fmt: skip
def test_drafts_by_name(text, draft):
    assert parsed_draft(text) == draft


def test_a_directory_is_named(tmp_path):
    assert parsed_draft(f"ngram:{tmp_path}") == Draft(0, 5, str(tmp_path))
    assert parsed_draft(f"ngram:{tmp_path}:7") == Draft(0, 7, str(tmp_path))


@pytest.mark.parametrize("text", ["ngram", "ngram:1", "ngram:4:0", "ngram:x", "ngram:.:0", "lookup:4", ""])
def test_another_name_is_refused_in_a_sentence(text):
    with pytest.raises(Refusal, match="draft is none, or ngram:N for"):
        parsed_draft(text)


@pytest.mark.parametrize("family", ["lstm", "ngram"])
def test_a_family_that_keeps_one_state_is_refused_in_a_sentence(family):
    with pytest.raises(Refusal, match=f"{family} cannot take a token back, as a draft needs it; leave draft out."):
        require_draft(tiny_models.create(family), Draft(4))
    with pytest.raises(Refusal, match=f"{family} keeps one state and not one a token"):
        tiny_models.create(family).rewound({}, 0)


def test_what_does_not_go_with_a_draft(tmp_path):
    made = exports.made("gpt", "language_modeling")
    frame = made.task.frame(made.model.kind, made.tokenizer)
    with pytest.raises(Refusal, match="repetition_penalty changes what may follow"):
        generation(made.model, made.tokenizer, frame, draft=Draft(4), repetition_penalty=1.2)
    for options, sentence in (
        (dict(precision="bfloat16"), "In bfloat16 a pass over several tokens rounds too coarsely"),
        (dict(xla=True), "A draft is for stock servers"),
        (dict(draft="ngram:4:64"), "A draft of 64 tokens does not fit"),
    ):
        with pytest.raises(Refusal, match=sentence):
            exports.export_saved_model(tmp_path, *made, **{"draft": "ngram:4", **options})
    with pytest.raises(Refusal, match="A draft is for models that go on with a prompt"):
        exports.export_saved_model(tmp_path, *exports.made("gpt", "classification"), draft="ngram:4")
