"""What a request to a model that turns one text into another may ask: prefixes, least lengths, n-grams, coverage."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests import exports
from zoo.api import Loaded
from zoo.beams import beam_search
from zoo.bundle import Bundle
from zoo.config import Refusal
from zoo.layers.coverage import covered, with_coverage
from zoo.signatures.text_to_text import begin, source_of

TEXTS, PREFIXES = ["the cat sat .", "a", "the naive dog ran"], ["le ", "", "un chat"]
MODELS = ("transformer", "seq2seq", "gpt")
KINDS = {"target_prefix": tf.string, "length_penalty": tf.float32, "coverage_penalty": tf.float32}


@functools.cache
def case(name):
    model, tokenizer, task = exports.made(name, "translation")
    return model, tokenizer, task.frame(model.kind, tokenizer), task.signatures(model, tokenizer)


def ask(name, signature, texts=TEXTS, **options):
    given = {option: tf.constant(value, KINDS.get(option, tf.int32)) for option, value in options.items()}
    return {key: value.numpy() for key, value in case(name)[3][signature](tf.constant(texts), **given).items()}


def greedy(name, text, prefix, num_new, least):
    """(ids, log-probability) of a row by whole passes, without a state."""
    model, tokenizer, frame, _ = case(name)
    source = source_of(model, tokenizer, frame, 64, tf.constant([text]))
    ids, total = list(tokenizer.encode(prefix)), 0.0
    given = len(ids)
    while len(ids) - given < num_new and ids[given:][-1:] != [tokenizer.eos_id]:
        if model.kind == "encoder_decoder":
            batch = {**source, "token_ids": np.array([[*frame.target_start, *ids]], np.int32)}
        else:
            batch = {"token_ids": np.array([[*source["token_ids"].numpy()[0], *ids]], np.int32)}
        log_probs = tf.nn.log_softmax(model.limited(model(batch)[0, -1])).numpy()
        allowed = log_probs.copy()
        if len(ids) - given < least:
            allowed[tokenizer.eos_id] = -np.inf
        ids.append(int(allowed.argmax()))
        total += log_probs[ids[-1]]
    return ids, total


@pytest.mark.parametrize("name", MODELS)
def test_a_prefix_is_read_and_what_follows_has_the_models_own_probability(name):
    tokenizer, num_new, least = case(name)[1], [7, 9, 4], [0, 9, 2]
    answer = ask(name, "generate", target_prefix=PREFIXES, max_new_tokens=num_new, min_new_tokens=least)
    for row, prefix in enumerate(PREFIXES):
        ids, total = greedy(name, TEXTS[row], prefix, num_new[row], least[row])
        np.testing.assert_allclose(answer["log_prob"][row], total, rtol=1e-4, atol=1e-4)
        assert answer["text"][row] == tokenizer.detokenize(tf.ragged.constant([ids])).numpy()[0]
        assert answer["text"][row].startswith(prefix.encode())


@pytest.mark.parametrize("name", ["transformer", "gpt"])
def test_a_search_with_a_prefix_does_not_notice_the_batch(name):
    options = dict(max_new_tokens=[4], num_beams=[3], no_repeat_ngram=[2], min_new_tokens=[1])
    best = ask(name, "beam_search", target_prefix=PREFIXES, **options)
    for row, prefix in enumerate(PREFIXES):
        alone = ask(name, "beam_search", TEXTS[row : row + 1], target_prefix=[prefix], **options)
        assert alone["text"].tolist() == best["text"][row : row + 1].tolist()
        np.testing.assert_allclose(alone["score"], best["score"][row : row + 1], rtol=1e-4, atol=1e-5)
        assert all(text.startswith(prefix.encode()) for text in best["text"][row])


@pytest.mark.parametrize("name", ["transformer", "seq2seq"])
def test_the_score_has_the_coverage_of_the_alignment(name):
    model, tokenizer, frame, _ = case(name)
    source, prefix = source_of(model, tokenizer, frame, 64, tf.constant(TEXTS)), tokenizer.tokenize(tf.constant(PREFIXES))
    state, ids, mask = begin(model, tokenizer, frame, source, tf.constant([5, 5, 5]), prefix)
    best = beam_search(
        model.next_logits, with_coverage(state), ids, mask, max_new_tokens=5, num_beams=3, num_best=None,
        coverage_penalty=tf.constant([0.0, 0.2, 1.0]), covered=covered, stop_ids=(tokenizer.eos_id,),
    )  # fmt: skip
    for row, (text, beta) in enumerate(zip(TEXTS, (0.0, 0.2, 1.0), strict=True)):
        for rank in range(3):
            length = int(best.lengths[row, rank])
            written = [*tokenizer.encode(PREFIXES[row]), *best.token_ids[row, rank, :length].numpy()]
            batch = source_of(model, tokenizer, frame, 64, tf.constant([text]))
            batch["token_ids"] = np.array([[*frame.target_start, *written[:-1]]], np.int32)
            coverage = np.log(np.clip(np.asarray(model.alignment(batch))[0].sum(0), 1e-9, 1)).sum()
            expected = float(best.log_probs[row, rank]) / ((5 + length) / 6) ** 0.6 + beta * coverage
            np.testing.assert_allclose(best.scores[row, rank], expected, rtol=1e-4, atol=1e-4)
    answer = ask(
        name, "beam_search", target_prefix=PREFIXES, max_new_tokens=[5], num_beams=[3], coverage_penalty=[0.0, 0.2, 1.0]
    )
    np.testing.assert_allclose(answer["score"], best.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["transformer", "t5", "seq2seq"])
def test_a_step_multiplies_each_matrix_once_and_copies_no_cache(name):
    """Not the source's keys and values again, in particular."""
    model = case(name)[0]
    layers = model.config.num_layers
    state = model.init_state(2, 5, model.encode(np.array([[5, 7, 2], [4, 3, 1]], np.int32)))
    graph = tf.function(model.next_logits).get_concrete_function(tf.zeros([2, 1], tf.int32), state).graph
    ops = graph.get_operations()
    products = [op for op in ops if "MatMul" in op.type]
    # Of a block queries, keys and values; their scores and sums; the output; the same without keys and values of the source;
    # the two of the network. Of an LSTM two a layer, scores and sums, and what follows them.
    assert len(products) == (2 * layers + 4 if name == "seq2seq" else 10 * layers + 1)
    assert not [op for op in ops if op.type in ("GatherV2", "ConcatV2") and op.inputs[0].shape.rank == 4]


@pytest.mark.parametrize("name", ["transformer", "seq2seq"])
def test_pharaoh_tells_the_source_token_that_each_target_token_looked_at_most(name):
    targets = ["le chat est sur", "", "un chien"]
    answer = case(name)[3]["align"](tf.constant([*TEXTS[:2], ""]), tf.constant(targets))
    for row, target in enumerate(targets):
        length = len(case(name)[1].encode(target))
        most = answer["weights"][row].numpy()[:length].argmax(1) if row < 2 else []
        assert answer["pharaoh"][row].numpy().decode() == " ".join(f"{i}-{j}" for j, i in enumerate(most))
    empty = case(name)[3]["align"](tf.constant(["", ""]), tf.constant(["a", ""]))
    assert empty["pharaoh"].numpy().tolist() == [b"", b""]


@pytest.mark.parametrize(("name", "sentence"), [
    ("transformer", "The longest target has 71 tokens, with the special ones around it; this model takes at most 64."),
    ("gpt", "The longest text with its target has 79 tokens, with the special ones around it; this model takes at most 64."),
])  # fmt: skip
def test_a_target_for_which_the_model_has_no_positions_is_refused_in_a_sentence(name, sentence):
    signatures = case(name)[3]
    for signature in signatures.keys() & {"score", "align"}:
        for target in ("y" * 70, "y" * 40):
            asked = [tf.constant(["x" * 7, "x"]), tf.constant([target, "y"])]
            if len(target) == 70:
                with pytest.raises(tf.errors.InvalidArgumentError, match=sentence):
                    signatures[signature](*asked)
            else:
                signatures[signature](*asked)


@pytest.mark.parametrize("name", ["transformer", "seq2seq"])
def test_of_several_sources_the_one_that_is_too_long_is_named(name):
    model, tokenizer, task = exports.made(name, "translation")
    loaded = Loaded(Bundle(model, tokenizer, task, {}))
    with pytest.raises(Refusal, match="^The prompt number 2 has 71 tokens, with the special ones .* takes at most 64"):
        loaded.generate(["x", "x" * 70])


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_step_by_step_is_the_text_at_once(name, sampled):
    signatures = case(name)[3]
    options = dict(temperature=[0.9, 1.5, 0.7], seed=[3, 4, 5]) if sampled else {}
    kinds = {"temperature": tf.float32, "seed": tf.int64}
    options = {key: tf.constant(value, kinds[key]) for key, value in options.items()}
    texts, limits = tf.constant(TEXTS), tf.constant([9, 4, 12])
    at_once = signatures["generate"](texts, limits, **options)
    answer = signatures["prefill"](text=texts, max_new_tokens=limits, **options)
    total, steps = answer["log_prob"], 1
    takes = [key for key in answer if key in ("token_ids", "prompt_length", "remaining") or key.startswith("state_")]
    while not bool(tf.reduce_all(answer["finished"])):
        answer = signatures["decode_step"](**{key: answer[key] for key in takes}, **options)
        total, steps = total + answer["log_prob"], steps + 1
    assert 1 < steps <= 12
    assert answer["text"].numpy().tolist() == at_once["text"].numpy().tolist()
    np.testing.assert_allclose(total, at_once["log_prob"], rtol=1e-4, atol=1e-4)
    assert (answer["remaining"].numpy() == 0).all() and "prompt" not in answer
