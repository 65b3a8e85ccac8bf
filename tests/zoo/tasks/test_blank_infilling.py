"""Blank infilling: ids behind a vocabulary, texts with blanks in graph, what is written beside a loop without a cache, scores.

Shape letters: B batch, T positions, V vocabulary.
"""

import functools

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


def ids(text):
    return list(text.encode())


def greedy(model, part_a, masks, limit, stop=()):
    """Ids that a model writes for the masks of one row, without a cache: rows are read whole at each step."""
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
            if not stop:  # in a blank only text and its end may stand
                logits = np.where([i == EOP or i < EOS for i in range(len(logits))], logits, -np.inf)
            out.append(int(np.argmax(logits)))
            if out[-1] == EOP or out[-1] in stop:
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
    rows = spelling.tokenize_blanks(tf.constant(["ab [MASK] c[MASK]", "", "[MASK]", "[MASK][MASK] d", "[mask] [MAS"]))
    # A space before a blank belongs to it; what is not quite a mask is text.
    expected = [[*ids("ab"), MASK, *ids(" c"), MASK], [], [MASK], [MASK, MASK, *ids(" d")], ids("[mask] [MAS")]
    assert rows.to_list() == expected
    assert spelling.detokenize(rows).numpy().tolist() == [b"ab c", b"", b"", b" d", b"[mask] [MAS"]
    assert spelling.decode([97, GMASK, SOP, 98, EOP, 310]) == "ab"
    assert spelling.tokenize(tf.constant(["[MASK]"])).to_list() == [ids("[MASK]")]  # a prompt has no blanks


def test_the_frame_is_a_text_the_mask_of_its_rest_and_the_begin_of_a_piece():
    task = BlankInfillingTask()
    frame = task.frame("language_model", create_tokenizer("byte"))
    assert (frame.before, frame.after) == ((), (GMASK, SOP))
    assert task.frame("language_model", tiny_models.ToyVocabulary()).before == (tiny_models.CLS_ID,)


def test_blanks_are_filled_with_what_a_loop_without_a_cache_writes():
    model, tokenizer, task = made()
    texts, limits = ["the [MASK] sat [MASK] on", "[MASK]", "no blank", "", "x[MASK][MASK][MASK]"], [14, 6, 5, 5, 20]
    answer = task.signatures(model, tokenizer)["fill"](tf.constant(texts), tf.constant(limits))
    ended = 0
    for row, (text, limit) in enumerate(zip(texts, limits, strict=True)):
        pieces = [piece.encode() for piece in text.split("[MASK]")]
        pieces = [*(piece.removesuffix(b" ") for piece in pieces[:-1]), pieces[-1]]
        part_a, masks = list(pieces[0]), []
        for piece in pieces[1:]:
            masks.append(len(part_a))
            part_a += [MASK, *piece]
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


def test_a_prompt_is_gone_on_with_by_the_mask_of_its_rest(tmp_path):
    """At once, and piece by piece."""
    model, tokenizer, _ = made()
    loaded = api.load(Bundle(*made(), {}).save(tmp_path / "bundle"))
    prompts = ["the cat", "", "a"]
    for prompt, text in zip(prompts, loaded.generate(prompts, max_new_tokens=9), strict=True):
        part_a = [*ids(prompt), GMASK]
        written = greedy(model, part_a, [len(part_a) - 1], 9, stop=(EOP, EOS))
        assert text == tokenizer.decode([*ids(prompt), *(i for i in written if i < EOS)])
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
