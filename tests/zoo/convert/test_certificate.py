"""A certificate where the peer is not the last word: a SentencePiece model says itself how texts are cut."""

import io
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import sentencepiece

from zoo.config import Refusal
from zoo.convert import certificate, reference
from zoo.convert.certificate import TEXTS
from zoo.registry import TASKS
from zoo.tokenizers.special import Special
from zoo.tokenizers.unigram import UnigramTokenizer


@pytest.fixture
def bundle(tmp_path):
    """A vocabulary whose normalizer makes blanks of tabs and line feeds, in the directory that it came from."""
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(re.split(r"(?<=\.) ", " ".join(TEXTS))), model_writer=made, vocab_size=330, model_type="bpe",
        byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(made.getvalue())
    tokenizer = UnigramTokenizer.from_sentencepiece(tmp_path / "tokenizer.model")
    return SimpleNamespace(
        tokenizer=tokenizer, task=TASKS.get("language_modeling")(), model=SimpleNamespace(kind="language_model"), path=tmp_path
    )


def answers(bundle, changed=()):
    """What a peer answers that cuts the texts with these numbers otherwise."""
    ids = [bundle.tokenizer.encode(text) for text in TEXTS]
    return {f"ids_{i}": np.array([*one, 5] if i in changed else one, np.int32) for i, one in enumerate(ids)}


def test_a_peer_that_leaves_the_normalizer_out_is_told_and_not_followed(bundle):
    answer = answers(bundle, changed=[1])
    assert certificate._apart(bundle, bundle.path, answer) == [1]
    assert certificate._check_answers(bundle, answer, "transformers", [1]) == ["texts"]
    with pytest.raises(Refusal, match="gives other ids than transformers for texts"):
        certificate._check_answers(bundle, answer, "transformers", [])
    assert certificate._apart(bundle, bundle.path, answers(bundle)) == []


def test_ids_that_are_not_the_models_own_stay_refused(bundle):
    answer, encode = answers(bundle), bundle.tokenizer.encode
    bundle.tokenizer.encode = lambda text: [
        (i + 1) % bundle.tokenizer.vocab_size for i in encode(text)
    ]  # every id one too high
    assert certificate._apart(bundle, bundle.path, answer) == []
    with pytest.raises(Refusal, match="gives other ids than transformers for texts"):
        certificate._check_answers(bundle, answer, "transformers", [])


def test_a_tokenizer_json_beside_the_model_is_the_last_word(bundle):
    (bundle.path / "tokenizer.json").write_text("{}")
    assert certificate._apart(bundle, bundle.path, answers(bundle, changed=[1])) == []


def test_a_peer_that_knows_no_frame_is_told_and_not_followed(bundle):
    bundle.tokenizer.special = Special({"bos": "<s>", "eos": "</s>"}, (("<s>",), ("<s>",), ()))
    answer = answers(bundle)
    answer |= {f"whole_{i}": answer[f"ids_{i}"] for i in range(len(TEXTS))}
    assert certificate._is_bare(bundle, bundle.path, answer)
    assert certificate._check_answers(bundle, answer, "transformers", [], bare=True) == ["texts"]
    (bundle.path / "tokenizer_config.json").write_text("{}")
    assert certificate._is_bare(bundle, bundle.path, answer)
    (bundle.path / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    assert not certificate._is_bare(bundle, bundle.path, answer)
    with pytest.raises(Refusal, match="gives other ids than transformers for default calls"):
        certificate._check_answers(bundle, answer, "transformers", [])


def test_a_gguf_file_that_the_peer_does_not_read_is_not_compared(tmp_path, monkeypatch):
    path = tmp_path / "a.gguf"
    path.write_bytes(b"")
    for name in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__version__="5.24.0"))
    request = {"library": "transformers", "path": str(path), "old_tensorflow": False}

    def refuses(sentence):
        def of_gguf(transformers, path):
            raise ValueError(sentence)

        monkeypatch.setattr(reference, "_of_gguf", of_gguf)

    refuses("GGUF model with architecture chatglm is not supported yet.")
    answer = reference.answer(request)
    assert answer["reason"] == "transformers 5.24.0 says: GGUF model with architecture chatglm is not supported yet."
    assert answer.keys() == {"versions", "reason"}
    refuses("transformers reads a.gguf in part only")
    with pytest.raises(ValueError, match="in part only"):
        reference.answer(request)
