"""Pieces of SentencePiece under the ids of a list, and a pair of such tokenizers: graph = native, on disk, what is refused."""

import json

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import foreign_models
from tests.zoo.tokenizers.unicode_texts import inputs
from zoo.config import Refusal
from zoo.tokenizers.base import create, load
from zoo.tokenizers.numbered_pieces import NumberedPieces
from zoo.tokenizers.pair import PairTokenizer
from zoo.tokenizers.special import Special

PAIR = foreign_models.marian_tokenizer()
ROLES = {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}


@pytest.fixture(scope="module", params=["source", "target"])
def side(request):
    return getattr(PAIR, request.param)


def test_pieces_have_the_ids_of_the_list_and_others_are_unknown():
    tokens = PAIR.vocabulary
    assert [tokens[i] for i in PAIR.encode("the")] == ["▁", "t", "h", "e"]
    assert [tokens[i] for i in PAIR.encode("cat")] == ["▁", "<unk>", "a", "t"]  # the list lacks "c"
    assert [tokens[i] for i in PAIR.encode("ï")] == ["▁", "ï"]  # of French, which English does not know
    assert (
        PAIR.target.decode(PAIR.target.encode("le chien")) == "le chien" and PAIR.decode(PAIR.encode("the cat")) == "the  ⁇ at"
    )
    assert PAIR.decode([*PAIR.encode("the"), PAIR.eos_id, PAIR.pad_id]) == "the"
    assert PAIR.lost_bytes("a cc ï") == 2


def test_a_language_code_is_read_at_the_front_alone():
    code = PAIR.vocabulary.index(">>fra<<")
    assert PAIR.encode(">>fra<< the") == [code, *PAIR.encode(" the")]
    assert PAIR.encode(">>deu<<the") == [PAIR.unk_id, *PAIR.encode("the")]
    assert code not in PAIR.encode("the >>fra<<") and code not in PAIR.encode(">>fra")
    assert PAIR.lost_bytes(">>deu<<the") == 7
    plain = foreign_models.marian_tokenizer(code="x")  # a list without codes has no such rule
    assert len(plain.encode(">>fra<< the")) > len(plain.encode("the")) + 1


def test_no_text_spells_a_special_token():
    for text in ("</s>", "<pad>", "<unk>", "a</s>"):
        assert not {PAIR.eos_id, PAIR.pad_id} & set(PAIR.encode(text))


@settings(max_examples=60, deadline=None)
@given(batch=inputs, coded=st.booleans())
def test_graph_ids_and_texts_are_native_ones(side, batch, coded):
    batch = [b">>fra<<" + text if isinstance(text, bytes) else ">>fra<<" + text for text in batch] if coded else batch
    native = [ids.tolist() for ids in side.encode_batch(batch)]
    ragged = side.tokenize(tf.constant(batch, tf.string))
    assert ragged.to_list() == native == [side.encode(text) for text in batch]
    texts = [text.decode() for text in side.detokenize(ragged).numpy()]
    assert texts == [side.decode(ids) for ids in native]


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.lists(st.integers(0, PAIR.vocab_size - 1), max_size=9), min_size=1, max_size=4))
def test_graph_text_of_any_ids_is_native_text(side, rows):
    ragged = tf.ragged.constant(rows, tf.int32, ragged_rank=1)
    assert [text.decode() for text in side.detokenize(ragged).numpy()] == [side.decode(ids) for ids in rows]


def test_bytes_of_a_text_that_the_pieces_cannot_spell():
    model = foreign_models.sentencepiece_model(foreign_models.TEXTS, byte_fallback=True, vocab_size=290)
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    one = NumberedPieces(model, ["</s>", "<unk>", "▁", "a", *bytes_], Special(ROLES))
    ids = one.encode("a 東")
    assert [one.vocabulary[i] for i in ids[-3:]] == ["<0xE6>", "<0x9D>", "<0xB1>"]
    assert one.decode(ids) == one.detokenize(one.tokenize(tf.constant(["a 東"]))).numpy()[0].decode() == "a 東"
    assert one.decode(ids[:-1]) == one.detokenize(tf.ragged.constant([ids[:-1]])).numpy()[0].decode() == "a \ufffd"


def test_saved_and_loaded_is_the_same(tmp_path):
    PAIR.save(tmp_path)
    back = load(tmp_path)
    assert back.digest() == PAIR.digest() != back.source.digest()
    assert (back.vocabulary, back.special, back.pad_id, back.target.eos_id) == (
        PAIR.vocabulary, PAIR.special, PAIR.pad_id, PAIR.eos_id,
    )  # fmt: skip
    assert back.encode("the cat") == PAIR.encode("the cat") and back.target.encode("le chat") == PAIR.target.encode("le chat")
    settings = json.loads((tmp_path / "zoo_tokenizer.json").read_text())
    (tmp_path / "zoo_tokenizer.json").write_text(json.dumps({**settings, "target_vocab_size": 3}))
    with pytest.raises(Refusal, match="the target has 35 ids, and not 3"):
        load(tmp_path)


def test_in_a_saved_model(tmp_path):
    class Both(tf.Module):
        def __init__(self):
            self.pair = PAIR

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, texts):
            ids = self.pair.target.tokenize(texts)
            return self.pair.tokenize(texts).to_tensor(), self.pair.target.detokenize(ids)

    tf.saved_model.save(Both(), str(tmp_path))
    ids, texts = tf.saved_model.load(str(tmp_path))(tf.constant(["a dog"]))
    assert ids.numpy().tolist() == [PAIR.encode("a dog")]
    assert texts.numpy()[0].decode() == PAIR.target.decode(PAIR.target.encode("a dog"))


@pytest.mark.parametrize(("model", "tokens", "message"), [
    (b"no", ["</s>", "<unk>"], "This is not a SentencePiece model"),
    (None, ["</s>", "<unk>", "a", "a"], "has the token 'a' twice"),
    (None, ["a", "<unk>"], "lacks the token '</s>', which is its eos"),
])  # fmt: skip
def test_what_is_refused(model, tokens, message):
    with pytest.raises(Refusal, match=message):
        NumberedPieces(model or PAIR.source.model, tokens, Special(ROLES))


def test_a_pair_of_other_tokenizers(tmp_path):
    """Two vocabularies of two numberings."""
    one, other = create("word", ["the cat"]), create("char", ["le chat"])
    pair = PairTokenizer(one, other)
    assert pair.encode("the cat") == one.encode("the cat")
    assert pair.target.decode(pair.target.encode("le chat")) == "le chat"
    pair.save(tmp_path)
    assert load(tmp_path).digest() == pair.digest()
    with pytest.raises(Refusal, match="pieces of SentencePiece with the same ids"):
        pair.save_huggingface(tmp_path)
