"""A bundle as a model of lm_eval: its numbers by hand. Those of lm_eval's own backend: benchmarks/LOG.md."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from tests import exports
from zoo.api import Loaded
from zoo.bundle import Bundle
from zoo.config import Refusal

pytest.importorskip("lm_eval", reason="needs the extra [harness]")

from trainers.harness_model import ServedLM, ZooLM


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    made = exports.made("gpt", "language_modeling")
    directory = tmp_path_factory.mktemp("gpt") / "bundle"
    Bundle(made.model, made.tokenizer, made.task, {}).save(directory)
    return ZooLM(directory, batch_size=2)


def asked(*arguments):
    return [SimpleNamespace(args=each) for each in arguments]


def by_hand(model, context, continuation):
    """(log-probability, whether greedy) of ids behind others."""
    ids = np.array([*context, *continuation], np.int32)
    log_probs = np.asarray(tf.nn.log_softmax(model.model.limited(model.model(ids[None, :-1]))))[0, -len(continuation) :]
    return log_probs[np.arange(len(continuation)), continuation].sum(), bool((log_probs.argmax(1) == continuation).all())


def test_likelihoods_are_those_of_the_model(model):
    pairs = [("the cat", " sat on the mat"), ("a dog", " ran"), ("", "the mat"), ("the ", "dog")]
    found = model.loglikelihood(asked(*pairs), disable_tqdm=True)
    split = [("the cat", " sat on the mat"), ("a dog", " ran"), (None, "the mat"), ("the", " dog")]
    for (value, greedy), (context, continuation) in zip(found, split, strict=True):
        begun = [model.prefix_token_id] if context is None else model.tok_encode(context)
        whole = model.tok_encode((context or "") + continuation)
        expected = by_hand(model, begun, whole if context is None else whole[len(begun) :])
        assert (value, greedy) == (pytest.approx(expected[0], abs=1e-4), expected[1])


def test_a_rolling_likelihood_counts_every_token_once(model):
    text = "the cat sat on the mat . " * 30
    ids = model.tok_encode(text)
    assert len(ids) > model.max_length
    (found,) = model.loglikelihood_rolling(asked((text,)))
    expected, size = 0.0, model.max_length
    for start in range(0, len(ids), size):
        piece = ids[start : start + size]
        end = start + len(piece)
        context = [model.prefix_token_id] if start == 0 else ids[end - size - 1 : start]
        expected += by_hand(model, context, piece)[0]
    assert found == pytest.approx(expected, abs=1e-2)


def test_texts_end_where_the_task_says(model):
    greedy = dict(until=[], max_gen_toks=9)
    alone = [model.generate_until(asked((text, greedy)))[0] for text in ("the cat", "a dog is not")]
    found = model.generate_until(
        asked(("the cat", greedy), ("a dog is not", greedy), ("the cat", {**greedy, "until": [alone[0][2:4]]}))
    )
    assert found[:2] == alone and alone[0] and found[2] == alone[0][: alone[0].find(alone[0][2:4])]


def test_other_models_are_refused(tmp_path):
    made = exports.made("bert", "masked_lm")
    Bundle(made.model, made.tokenizer, made.task, {}).save(tmp_path / "bundle")
    with pytest.raises(Refusal, match="asks models of language_modeling"):
        ZooLM(tmp_path / "bundle")


def test_an_export_is_asked_through_its_signatures():
    """`zoo.api.Loaded` answers with the very functions that an export holds."""
    made = exports.made("gpt", "language_modeling")
    loaded = Loaded(Bundle(made.model, made.tokenizer, made.task, {}))
    served = ServedLM(loaded, batch_size=3)
    greedy = loaded.generate("the cat", max_new_tokens=2)[len("the cat") :]
    pairs = [("the cat", " sat"), ("the cat", greedy), ("", "the mat")]
    opening, ids = made.task.frame(made.model.kind, made.tokenizer).before[0], made.tokenizer.encode
    asker = SimpleNamespace(model=made.model)
    for (value, best), (context, continuation) in zip(served.loglikelihood(asked(*pairs)), pairs, strict=True):
        expected = by_hand(asker, [opening, *ids(context)], list(ids(continuation)))
        assert value == pytest.approx(expected[0], abs=1e-3) and best == expected[1]
    (found,) = served.loglikelihood_rolling(asked(("the mat",)))
    assert found == pytest.approx(by_hand(asker, [opening], list(ids("the mat")))[0], abs=1e-3)
    whole = loaded.generate("the cat", max_new_tokens=6)[len("the cat") :]
    cut = dict(until=[whole[2:4]], max_gen_toks=6)
    assert served.generate_until(asked(("the cat", dict(max_gen_toks=6)), ("the cat", cut))) == [
        whole, whole[: whole.find(whole[2:4])],
    ]  # fmt: skip
    with pytest.raises(Refusal, match="scores no text"):
        other = exports.made("transformer", "translation")
        ServedLM(Loaded(Bundle(other.model, other.tokenizer, other.task, {})))
