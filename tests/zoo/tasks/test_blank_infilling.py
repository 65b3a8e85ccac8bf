"""Blank infilling: ids behind a vocabulary, texts with blanks in graph, what is written beside a loop without a cache, scores.

Shape letters: B batch, T positions, V vocabulary.
"""

import functools
import re

import numpy as np
import pytest
import tensorflow as tf

from tests import exports, tiny_models
from zoo import api
from zoo.bundle import Bundle
from zoo.config import Refusal
from zoo.data.batch import Layout
from zoo.models.glm import GLMConfig
from zoo.registry import MODELS, tasks_of
from zoo.signatures.fill_blanks import BlankIds, WithBlanks
from zoo.tasks.blank_infilling import BlankInfillingConfig, BlankInfillingFacts, BlankInfillingTask, blank_ids
from zoo.tokenizers.base import create as create_tokenizer

EOS = 256
MASK, SMASK, GMASK, SOP, EOP = range(257, 262)


@pytest.fixture(scope="module")
def spelling():
    """Bytes are 0 to 255, 256 is the end."""
    return WithBlanks(create_tokenizer("byte"), BlankIds(MASK, SMASK, GMASK, SOP, EOP))


@functools.cache
def made():
    """A small model that likes to end: the row of `eop` in its table is about that of a token that it writes often."""
    made = exports.make("glm", "blank_infilling")
    table = np.array(made.model.embeddings.embeddings)
    table[EOP] = table[ord("T")] + np.random.default_rng(1).normal(0, 0.4, table.shape[1])
    made.model.embeddings.embeddings.assign(table)
    return made


@functools.cache
def fill():
    """The signature of that model."""
    model, tokenizer, task = made()
    return task.signatures(model, tokenizer)["fill"]


def ids(text):
    return list(text.encode())


def greedy(model, part_a, masks, limit, stop=()):
    """Ids that a model writes for the masks of one row, without a cache: rows are read whole at each step.

    Without `stop` blanks are filled: there only text and its end may stand, and in the rest of a text the end of a document."""
    inputs, pairs, out = list(part_a), [(i, 0) for i in range(len(part_a))], []
    for mask in masks:
        inputs, pairs, within = [*inputs, SOP], [*pairs, (mask, 1)], 1
        while len(out) < limit:
            batch = {
                "token_ids": np.array([inputs], np.int32),
                "positions": np.array([pairs], np.int32),
                "prefix_lengths": np.array([len(part_a)], np.int32),
            }
            logits = np.asarray(model(batch))[0, -1]
            if not stop:
                is_rest = part_a[mask] == GMASK
                logits = np.where([i == EOP or i < EOS + is_rest for i in range(len(logits))], logits, -np.inf)
            out.append(int(np.argmax(logits)))
            if out[-1] in (EOP, EOS) or out[-1] in stop:
                break
            within += 1
            inputs, pairs = [*inputs, out[-1]], [*pairs, (mask, within)]
    return out


def test_masks_stand_behind_the_vocabulary():
    assert blank_ids(create_tokenizer("byte")) == (MASK, SMASK, GMASK, SOP, EOP)
    fields = BlankInfillingTask().model_fields(create_tokenizer("byte"))
    assert (fields["vocab_size"], fields["sop_id"]) == (320, SOP)
    assert blank_ids(tiny_models.ToyVocabulary()) == (tiny_models.MASK_ID, 61, 62, 63, 64)  # which has a mask

    class WithItsOwn(tiny_models.ToyVocabulary):
        blank_ids = (3, 4, 5, 6, 7)

    assert blank_ids(WithItsOwn()) == BlankIds(3, 4, 5, 6, 7)
    assert BlankInfillingTask().model_fields(WithItsOwn())["vocab_size"] == 64


def test_only_models_that_read_blanks_are_served():
    assert tasks_of(MODELS.config("glm"))[0] == "blank_infilling"
    assert "blank_infilling" not in tasks_of(MODELS.config("gpt"))


def test_texts_with_blanks_are_read_and_written(spelling):
    texts = [
        "ab [MASK] c[MASK]",
        "",
        "[MASK]",
        "[MASK][MASK] d",
        "[mask] [MAS",
        "m[sMASK]s [gMASK]",
        "[gMASK]",
        "[[sMASK]MASK]",
    ]
    rows = spelling.tokenize_blanks(tf.constant(texts))
    # A space before a blank belongs to it; what is not quite a mask is text.
    expected = [[*ids("ab"), MASK, *ids(" c"), MASK], [], [MASK], [MASK, MASK, *ids(" d")], ids("[mask] [MAS")]
    expected += [[*ids("m"), SMASK, *ids("s"), GMASK], [GMASK], [*ids("["), SMASK, *ids("MASK]")]]
    assert rows.to_list() == expected
    written = [b"ab c", b"", b"", b" d", b"[mask] [MAS", b"ms", b"", b"[MASK]"]
    assert spelling.detokenize(rows).numpy().tolist() == written
    assert spelling.decode([97, GMASK, SOP, 98, EOP, 310]) == "ab"
    assert spelling.tokenize(tf.constant(["[MASK]"])).to_list() == [ids("[MASK]")]  # a prompt has no blanks


def test_the_frame_is_a_text_the_mask_of_its_rest_and_the_begin_of_a_piece():
    task = BlankInfillingTask()
    frame = task.frame("language_model", create_tokenizer("byte"))
    assert (frame.before, frame.after) == ((), (GMASK, SOP))
    assert task.frame("language_model", tiny_models.ToyVocabulary()).before == (tiny_models.CLS_ID,)


def test_blanks_are_filled_with_what_a_loop_without_a_cache_writes():
    model, tokenizer, _ = made()
    texts, limits = ["the [MASK] sat [MASK] on", "[MASK]", "no blank", "", "x[MASK][MASK][MASK]"], [14, 6, 5, 5, 20]
    texts, limits = [*texts, "the [sMASK] sat [gMASK]", "[gMASK]", "[sMASK] T[sMASK][MASK]"], [*limits, 12, 9, 12]
    answer = fill()(tf.constant(texts), tf.constant(limits))
    ended = 0
    for row, (text, limit) in enumerate(zip(texts, limits, strict=True)):
        pieces = [piece.encode() for piece in re.split(r"\[[sg]?MASK\]", text)]
        pieces = [*(piece.removesuffix(b" ") for piece in pieces[:-1]), pieces[-1]]
        part_a, masks = list(pieces[0]), []
        for name, piece in zip(re.findall(r"\[([sg]?)MASK\]", text), pieces[1:], strict=True):
            masks.append(len(part_a))
            part_a += [{"": MASK, "s": SMASK, "g": GMASK}[name], *piece]
        written = greedy(model, part_a, masks, limit)
        spans = [[]]
        for token_id in written:
            spans = [*spans, []] if token_id == EOP else [*spans[:-1], [*spans[-1], token_id]]
        spans = [tokenizer.decode(span).encode() for span in spans[: len(masks)]]
        spans += [b""] * (len(masks) - len(spans))
        ended += written.count(EOP)
        assert answer["spans"][row].numpy().tolist() == [*spans, *[b""] * (3 - len(masks))]
        if b"\xef\xbf\xbd" not in b"".join(spans):
            joined = b"".join(a + b for a, b in zip(pieces, [*spans, b""], strict=True))
            assert answer["text"][row].numpy() == (text.encode() if not masks else joined)
    assert ended > 2  # or the law would say nothing of blanks behind the first


def test_the_rest_of_a_text_ends_where_a_document_does():
    model, tokenizer, _ = made()
    table, ended = np.array(model.embeddings.embeddings), 0
    likes_to_end = table.copy()
    likes_to_end[[EOS, EOP]] = table[[EOP, EOS]]
    model.embeddings.embeddings.assign(likes_to_end)
    try:
        for text in ("the cat", "a", "", "dog ran ."):
            part_a = [*ids(text), GMASK]
            written = greedy(model, part_a, [len(part_a) - 1], 12)
            ended += written[-1] == EOS
            answer = fill()(tf.constant([f"{text}[gMASK]"]), tf.constant([12]))
            assert answer["spans"][0, 0].numpy() == tokenizer.decode([i for i in written if i < EOS]).encode()
    finally:
        model.embeddings.embeddings.assign(table)
    assert ended


def test_blanks_of_a_kind_that_was_not_trained_are_refused_and_so_is_text_behind_the_rest():
    task = BlankInfillingTask(BlankInfillingConfig(weights=(0.0, 0.0, 0.3, 0.7)))
    assert task.blanks == ("[MASK]", "[gMASK]")
    assert BlankInfillingTask(BlankInfillingConfig(weights=(0.0, 1.0, 0.0))).blanks == ("[sMASK]",)
    assert BlankInfillingTask().blanks == ("[MASK]", "[sMASK]", "[gMASK]")
    spelling = task.spelling(create_tokenizer("byte"))
    for text, sentence in (
        ("a [sMASK]", r"\[sMASK\] stands for sentences, which this model was not trained to write; it fills \[MASK\] and \[gM"),
        ("a [gMASK] b", r"\[gMASK\] stands for the rest of a text, so nothing may stand behind it."),
        ("[gMASK][MASK]", r"\[gMASK\] stands for the rest of a text, so nothing may stand behind it."),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=sentence):
            spelling.tokenize_blanks(tf.constant(["a [MASK]", text]))


def test_a_prompt_is_gone_on_with_by_the_mask_of_its_rest(tmp_path):
    """At once, and piece by piece."""
    model, tokenizer, _ = made()
    loaded = api.load(Bundle(*made(), {}).save(tmp_path / "bundle"))
    prompts = ["the cat", "", "a"]
    for prompt, text in zip(prompts, loaded.generate(prompts, max_new_tokens=9), strict=True):
        part_a = [*ids(prompt), GMASK]
        written = greedy(model, part_a, [len(part_a) - 1], 9, stop=(EOP, EOS))
        assert text == tokenizer.decode([*ids(prompt), *(i for i in written if i < EOS)])
        if all(i < EOS or i == EOP for i in written):  # as a blank behind it would be filled
            assert loaded.predict("fill", text=[f"{prompt}[gMASK]"], max_new_tokens=[9])["text"][0] == text
    assert prompt + "".join(loaded.stream(prompt, max_new_tokens=9)) == text


def test_a_text_is_scored_as_the_only_blank():
    model, tokenizer, task = made()
    texts = ["the cat", "", "a"]
    answer = task.signatures(model, tokenizer)["score"](tf.constant(texts))
    assert answer["num_tokens"].numpy().tolist() == [7, 0, 1]
    for text, log_prob in zip(texts, answer["log_prob"].numpy(), strict=True):
        row = np.array([[GMASK, SOP, *ids(text)]], np.int32)
        pairs = [(0, 0), *((0, i + 1) for i in range(len(text) + 1))]
        batch = {"token_ids": row, "positions": np.array([pairs], np.int32), "prefix_lengths": np.array([1], np.int32)}
        log_probs = tf.nn.log_softmax(model(batch)[..., : EOP + 1]).numpy()[0]  # rows above are not ids
        assert log_prob == pytest.approx(sum(log_probs[i + 1, token] for i, token in enumerate(ids(text))), abs=1e-4)


def test_a_batch_is_a_function_of_seed_and_step_and_only_part_b_counts():
    model, toy, stream = (
        tiny_models.create("glm"),
        tiny_models.ToyVocabulary(),
        tiny_models.stream(61).view(tiny_models._Stream),
    )

    def batch(seed, step):
        return BlankInfillingTask().training_batches(stream, model, toy, Layout(24, 4, seed)).batch(step)

    first, again = batch(3, 5), batch(3, 5)
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
    assert (first["token_ids"] != batch(4, 5)["token_ids"]).any() and (first["token_ids"] != batch(3, 6)["token_ids"]).any()
    in_a = np.arange(24) < first["prefix_lengths"][:, None]
    assert not first["loss_weights"][in_a].any() and first["loss_weights"][~in_a].any()
    assert (first["token_ids"][:, 0] == tiny_models.CLS_ID).all()


def test_scores_count_the_text_without_ends():
    task = BlankInfillingTask(facts=BlankInfillingFacts(blank_ids=(1, 2, 3, 4, 9)))

    class Model:
        def taken(self, batch):
            return {"token_ids": batch["token_ids"]}

        def token_log_probs(self, token_ids, labels):
            return tf.fill(tf.shape(labels), -2.0), None

    labels = np.array([[0, 0, 5, 6, 9, 7, 9], [0, 0, 0, 0, 8, 9, 0]], np.int32)
    weights = np.array([[0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 0]], np.float32)
    totals, _, _ = task.score(Model(), {"token_ids": labels, "labels": labels, "loss_weights": weights})
    assert {name: float(value) for name, value in totals.items()} == {"nats": 14, "tokens": 7, "text": 4}


def test_models_that_cannot_are_refused():
    toy, stream = tiny_models.ToyVocabulary(), tiny_models.stream(61)
    with pytest.raises(Refusal, match="has 61 rows for tokens, and blanks need 65"):
        BlankInfillingTask().training_batches(stream, tiny_models.create("glm", vocab_size=61), toy, Layout(24, 2))
    causal = tiny_models.create("glm", position="rotary", head_dim=4)
    with pytest.raises(Refusal, match="reads in one direction, with one position a token: train it with --task=language_mod"):
        BlankInfillingTask().training_batches(stream, causal, toy, Layout(24, 2))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (dict(weights=(1.0, 1.0)), "weights are three or four numbers"),
        (dict(weights=(0.0, 0.0, 0.0)), "weights are three or four numbers"),
        (dict(rate=1.0), "rate must be between 0 and 1"),
        (dict(suffix_rate=0.0), "suffix_rate must be between 0 and 1"),
        (dict(mean_length=0.0), "mean_length must be positive"),
    ],
)
def test_blanks_that_cannot_be_are_refused(fields, sentence):
    with pytest.raises(Refusal, match=sentence):
        BlankInfillingConfig(**fields)


def test_tokens_that_end_a_sentence():
    ends = create_tokenizer("byte").ends_sentence()
    assert [chr(i) for i in np.flatnonzero(ends[:128])] == ["\n", "!", ".", "?"] and len(ends) == 257


def test_the_plan_counts_all_positions():
    output = BlankInfillingConfig().output(GLMConfig.preset("tiny"), 24)
    assert (output.positions, output.width) == (24, 128)
