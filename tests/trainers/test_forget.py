"""Documents taken out of an n-gram: bit for bit what a fit without them gives."""

import json

import numpy as np
import pytest

import zoo
from tests import programs
from tests.programs import refusal
from trainers import forget, ngram_counts, parts
from zoo.bundle import Bundle
from zoo.config import Refusal
from zoo.data.shards import write_shards
from zoo.layers import ngram_estimation
from zoo.tokenizers.base import create as create_tokenizer

EOS, V = 3, 29
TEXTS = ["A cat sat on a mat.", "A dog ran after a cat.", "The cat sat on a chair."]


def documents():
    rng = np.random.default_rng(2)
    return [np.where((ids := rng.zipf(1.5, rng.integers(1, 30)) % V) == EOS, 0, ids) for _ in range(60)]


def test_counts_on_disk_are_those_in_memory(tmp_path):
    shards = write_shards(tmp_path / "train", documents(), vocab_size=V, eos_id=EOS)
    found = ngram_counts.nodes_of(ngram_counts.make_counts(shards, 4, parts.Here(lambda done: None)))
    for mine, theirs in zip(found, ngram_estimation.corpus_count(shards[:], 4, V, EOS), strict=True):
        for name in ("keys", "suffixes", "counts", "opens"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name), err_msg=name)


@pytest.mark.parametrize("fields", [
    dict(), dict(smoothing="add_k"), dict(smoothing="stupid_backoff"), dict(cutoffs=(0, 0, 1)), dict(bits=8),
])  # fmt: skip
def test_what_is_left_is_a_fit_without_the_documents(tmp_path, fields):
    some, taken = documents(), [0, 7, 8, 59]
    shards = write_shards(tmp_path / "all" / "train", some, vocab_size=V, eos_id=EOS)
    rest = write_shards(
        tmp_path / "rest" / "train", [d for i, d in enumerate(some) if i not in taken], vocab_size=V, eos_id=EOS
    )
    model, other = (zoo.create("ngram", "tiny", vocab_size=V, eos_id=EOS, order=4, **fields) for _ in range(2))
    model.fit_closed_form(shards)
    other.fit_closed_form(rest)
    assert forget.forget(model, shards, taken) == sum(len(some[i]) for i in taken)
    assert model.config == other.config
    for n in range(1, 5):
        for mine, theirs in zip(model.tables.arrays(n), other.tables.arrays(n), strict=True):
            np.testing.assert_array_equal(mine, theirs, err_msg=str(n))
    with pytest.raises(Refusal, match="numbered from 0; there is none with the number 60"):
        forget.forget(other, shards, [60])
    with pytest.raises(Refusal, match="Nothing would be left"):
        forget.forget(other, shards, list(range(60)))
    if "cutoffs" not in fields:
        with pytest.raises(Refusal, match="are not those of the model"):
            forget.forget(other, shards, [1])


def test_what_is_not_there_cannot_be_taken():
    whole, other = (ngram_estimation.corpus_count(np.array(ids), 2, 4, 0) for ids in ([0, 1, 2, 0], [0, 2, 1, 0]))
    with pytest.raises(ValueError, match="does not have an n-gram"):
        ngram_estimation.without(whole, other, 4)
    twice = ngram_estimation.corpus_count(np.array([0, 1, 2, 0, 1, 2, 0]), 2, 4, 0)
    with pytest.raises(ValueError, match="less often"):
        ngram_estimation.without(whole, twice, 4)


def test_the_program_takes_out_what_trace_tells(tmp_path, capfd):
    path = tmp_path / "text.jsonl"
    path.write_text("".join(f"{json.dumps({'text': text})}\n" for text in TEXTS), encoding="utf8")
    tokenizer = create_tokenizer("byte")
    config = {"dataset": "local_text", "data_path": f"train={path},validation={path}", "tokenizer": "byte", "vocab_size": None}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf8")
    fields = dict(order=3, vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id)
    model, other = (zoo.create("ngram", "tiny", **fields) for _ in range(2))

    def stream(texts):
        return np.array([tokenizer.eos_id, *(i for text in texts for i in (*tokenizer.encode(text), tokenizer.eos_id))])

    model.fit_closed_form(stream(TEXTS))
    other.fit_closed_form(stream([TEXTS[0], TEXTS[2]]))
    Bundle(model, tokenizer, "language_modeling", {"dataset": "mine"}).save(tmp_path / "bundle")
    flags = [f"--model_dir={tmp_path}", "--documents=1", f"--to={tmp_path / 'without'}"]
    answer = programs.call(capfd, "forget", *flags)
    assert answer.status == 0, answer.err
    assert "Taken out: 1 documents of 22 tokens" in answer.out
    left = zoo.load(tmp_path / "without")
    assert left.bundle.provenance == {"dataset": "mine", "documents taken out": [1]}
    for n in range(1, 4):
        np.testing.assert_array_equal(left.model.tables.arrays(n)[1], other.tables.arrays(n)[1])
    assert "is there already" in refusal(capfd, "forget", *flags)
    assert refusal(capfd, "forget", flags[0], "--to=x").startswith("--documents takes numbers")
    assert refusal(capfd, "forget", *flags[:2]).startswith("--to is missing")
