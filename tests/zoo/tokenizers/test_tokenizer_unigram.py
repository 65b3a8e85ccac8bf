"""Unigram: equality with `sentencepiece` and `tokenizers`, special tokens, third-party files, and what is refused."""

import base64
import functools
import json

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from sentencepiece import sentencepiece_model_pb2

from tests.zoo.tokenizers.unicode_texts import CORPUS, texts
from zoo.tokenizers import base, unigram
from zoo.tokenizers.base import create, load
from zoo.tokenizers.unigram import UnigramTokenizer

SPECIALS = ("<s>", "</s>", "<pad>", "<mask>", "[CLS]", "[SEP]", "[MASK]")


def model_of(*pieces, **normalizer):
    """Bytes of a model with the special tokens of a T5, and NORMAL pieces (text, score)."""
    proto = sentencepiece_model_pb2.ModelProto()
    kinds = sentencepiece_model_pb2.ModelProto.SentencePiece
    proto.pieces.add(piece="<unk>", type=kinds.UNKNOWN)
    proto.pieces.add(piece="</s>", type=kinds.USER_DEFINED)
    for piece, score in pieces:
        proto.pieces.add(piece=piece, score=score, type=kinds.NORMAL)
    proto.trainer_spec.model_type = sentencepiece_model_pb2.TrainerSpec.UNIGRAM
    for name, value in normalizer.items():
        setattr(proto.normalizer_spec, name, value)
    return proto.SerializeToString()


@functools.cache
def trained():
    return create("unigram", CORPUS * 3, vocab_size=120)


def test_the_likeliest_pieces_are_taken():
    pieces = [("▁", -3.0), ("▁a", -2.0), ("b", -2.0), ("ab", -2.5), ("a", -2.0), ("▁ab", -4.5)]
    made = UnigramTokenizer(model_of(*pieces))
    # ▁a b is -4, ▁ab -4.5, ▁ ab -5.5
    assert [made.vocabulary[i] for i in made.encode("ab")] == ["▁a", "b"]
    assert [made.vocabulary[i] for i in made.encode("aab")] == ["▁a", "ab"]
    assert made.decode(made.encode("ab aab")) == "ab aab"
    assert made.encode("x") == [2, made.unk_id] and made.lost_bytes("xé ab") == 3
    assert (made.unk_id, made.eos_id, made.pad_id, made.cls_id, made.mask_id) == (0, 1, 1, None, None)


@settings(max_examples=100, deadline=None)
@given(text=texts)
def test_ids_are_those_of_sentencepiece(text):
    made = trained()
    native = sentencepiece.SentencePieceProcessor(model_proto=made._model)
    assert made.encode(text) == native.encode(text)


def test_a_model_whose_pieces_go_on_over_blanks_cuts_no_text():
    blank, joined = ("▁", -3.0), ("▁to▁be", -1.0)
    assert UnigramTokenizer(model_of(blank, ("▁to", -1.0))).cut is unigram.CUT_AT_BLANKS, "a line feed is a letter to it"
    assert trained().cut is base.CUT
    for model in (
        model_of(blank, joined),
        model_of(("▁to", -1.0)),
        model_of(blank, remove_extra_whitespaces=False),
        model_of(blank, add_dummy_prefix=False),
    ):
        assert UnigramTokenizer(model).cut is None
        assert list(base.cut_parts([("to ", False), ("be ", False), ("or", True)], UnigramTokenizer(model))) == [
            ("to be or", True)
        ]


def test_of_too_many_lines_every_second_or_fourth_is_learnt_from():
    lines = [str(i) for i in range(10)]
    assert [unigram._thinned(lines, most) for most in (10, 9, 4, 1)] == [lines, lines[::2], lines[::4], ["0"]]
    assert unigram._thinned(["x" * 9, "y"], 5) == ["x" * 9]


def test_no_text_spells_a_special_token():
    made = UnigramTokenizer(model_of(("▁", -1.0), ("s", -1.0)))  # where </s> was declared as a word of the user's
    assert made.eos_id not in made.encode("</s> s</s>s")
    specials = {trained().cls_id, trained().sep_id, trained().mask_id, trained().pad_id}
    assert len(specials) == 4
    assert not specials & set(trained().encode(" ".join(SPECIALS) + "".join(SPECIALS)))
    ids = [trained().cls_id, *trained().encode("the mind"), trained().sep_id, trained().pad_id]
    assert trained().decode(ids) == "the mind"


def huggingface(**changes):
    """A tokenizer.json of `trained()` as `tokenizers` writes it."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(trained()._model)
    vocabulary = [(piece.piece, piece.score) for piece in proto.pieces]
    native = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=trained().unk_id))
    native.normalizer = tokenizers.normalizers.Sequence([
        tokenizers.normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
        tokenizers.normalizers.Replace(tokenizers.Regex(" {2,}"), " "),
    ])  # fmt: skip
    native.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    native.add_special_tokens(["<pad>", "[CLS]", "[SEP]", "[MASK]"])
    return native, {**json.loads(native.to_str()), **changes}


def test_files_of_other_people(tmp_path):
    trained().save(tmp_path)
    expected = trained().encode("Whether 'tis nobler")
    assert load(tmp_path).vocabulary == trained().vocabulary
    (tmp_path / "zoo_tokenizer.json").unlink()
    assert create(tmp_path).encode("Whether 'tis nobler") == expected
    assert create(tmp_path / "sentencepiece.model").encode("Whether 'tis nobler") == expected

    native, config = huggingface()
    (tmp_path / "tokenizer.json").write_text(json.dumps(config), encoding="utf8")
    made = create(tmp_path)
    assert (made.vocabulary, made.mask_id) == (trained().vocabulary, trained().mask_id)
    for text in CORPUS[0].split("\n"):
        assert made.encode(text) == native.encode(text, add_special_tokens=False).ids == trained().encode(text)


def test_a_token_added_behind_the_vocabulary_is_special(tmp_path):
    _, config = huggingface()
    config["model"]["vocab"] = [entry for entry in config["model"]["vocab"] if entry[0] != "[MASK]"]
    last = len(config["model"]["vocab"])
    for token in config["added_tokens"]:
        token["id"] = last if token["content"] == "[MASK]" else token["id"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(config), encoding="utf8")
    assert create(tmp_path).mask_id == last
    config["added_tokens"][-1]["id"] += 1
    (tmp_path / "tokenizer.json").write_text(json.dumps(config), encoding="utf8")
    with pytest.raises(ValueError, match=f"gives '\\[MASK\\]' the id {last + 1}, and none {last}"):
        create(tmp_path)


@pytest.mark.parametrize(("changes", "sentence"), [
    (dict(normalizer=dict(type="Lowercase")), "the normalizer Lowercase; only Precompiled"),
    (dict(pre_tokenizer=dict(type="Whitespace")), "the pre-tokenizer Whitespace; only Metaspace"),
    (dict(pre_tokenizer=None), "the pre-tokenizer None; only Metaspace"),
    (dict(model=dict(type="Unigram", vocab=[["a", 0.0]], byte_fallback=True)), "byte_fallback=true"),
    (dict(model=dict(type="Unigram", vocab=3, unk_id=0)), "is not a tokenizer.json"),
])  # fmt: skip
def test_a_tokenizer_json_that_asks_for_something_else_is_refused(tmp_path, changes, sentence):
    _, config = huggingface(**changes)
    (tmp_path / "tokenizer.json").write_text(json.dumps(config), encoding="utf8")
    with pytest.raises(ValueError, match=sentence):
        create(tmp_path)


def test_models_that_cannot_be(tmp_path):
    (tmp_path / "m.model").write_bytes(base64.b64encode(b"no model at all"))
    with pytest.raises(ValueError, match="This is not a SentencePiece model"):
        create(tmp_path)
    with pytest.raises(ValueError, match="has the piece 'a' twice"):
        UnigramTokenizer(model_of(("a", 0.0), ("a", -1.0)))
    with pytest.raises(ValueError, match="The model has no pieces"):
        UnigramTokenizer(b"")
    with pytest.raises(ValueError, match="at least 6 ids"):
        create("unigram", ["a"], vocab_size=5)
    with pytest.raises(ValueError, match="There is no text"):
        create("unigram", ["\n \n"])
