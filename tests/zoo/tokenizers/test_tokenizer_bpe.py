"""Byte-level BPE, native side: what is learnt, what is read from third-party files, and what is refused."""

import functools
import json
import tempfile
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.zoo.tokenizers.unicode_texts import CORPUS, texts
from zoo.tokenizers import base, bpe_words
from zoo.tokenizers.base import create, load
from zoo.tokenizers.bpe import BYTE_SYMBOLS, DEFAULT_VOCAB_SIZE, END_OF_TEXT, BPETokenizer, read_merges

MERGES = [("h", "e"), ("l", "l"), ("Ġ", "he"), ("Ġhe", "ll")]


def vocabulary(merges=MERGES, specials=(END_OF_TEXT,)):
    return {token: i for i, token in enumerate([*BYTE_SYMBOLS, *(a + b for a, b in merges), *specials])}


def huggingface(**changes):
    """The JSON of `BPETokenizer(vocabulary(), MERGES)`, changed at dotted paths with __ for a dot."""
    native = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary(), MERGES))
    native.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    native.add_special_tokens([END_OF_TEXT])
    config = json.loads(native.to_str())
    for path, value in changes.items():
        *outer, last = path.split("__")
        target = config
        for key in outer:
            target = target[key]
        target[last] = value
    return config


def split(pattern, behavior="Isolated", **changes):
    """The JSON of a pre-tokenizer that cuts words by a pattern."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False, **changes}
    by_pattern = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}
    return {"type": "Sequence", "pretokenizers": [by_pattern, byte_level]}


def read(tmp_path, config, **arguments):
    (tmp_path / "tokenizer.json").write_text(json.dumps(config), encoding="utf8")
    return BPETokenizer.from_huggingface(tmp_path / "tokenizer.json", **arguments)


def test_byte_symbols_are_gpt2s():
    assert len(set(BYTE_SYMBOLS)) == 256
    assert [BYTE_SYMBOLS[b] for b in b"a! \n\x00\x7f"] == ["a", "!", "Ġ", "Ċ", "Ā", "ġ"]
    assert set(BYTE_SYMBOLS) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())


def test_merges_are_applied_in_the_order_learnt():
    made = BPETokenizer(vocabulary(), MERGES)
    assert (made.vocab_size, made.eos_id, made.unk_id) == (261, 260, None)
    # " hell" is "Ġhell"; in "hello" there is no blank, so "he" + "ll" + "o"; "hel" keeps one l.
    assert made.encode(" hell") == [259]
    assert made.encode("hello") == [256, 257, BYTE_SYMBOLS.index("o")]
    assert made.encode("hel") == [256, ord("l")]
    assert made.decode([259, 260, 256]) == " hellhe"


def test_special_tokens_in_a_text_are_text():
    made = BPETokenizer(vocabulary(), MERGES)
    assert made.encode(END_OF_TEXT) == [ord(c) for c in END_OF_TEXT]
    assert made.decode(made.encode(END_OF_TEXT)) == END_OF_TEXT


def test_training_learns_the_most_frequent_pairs_first():
    made = create("bpe", ["abab abab xab"], vocab_size=260)
    ids = vocabulary([("a", "b"), ("ab", "ab"), ("Ġ", "abab")])
    # "ab" is there five times, then "abab" twice; " abab" only once, and once is too rare to learn.
    assert made.vocab_size == 259 and len(ids) == 260
    assert len(made.encode("abab")) == 1 and len(made.encode("xab")) == 2
    assert made.eos_id == 0 and made.decode([0]) == ""


def test_training_refuses_what_is_no_text():
    with pytest.raises(ValueError, match="lone surrogate at character 1"):
        create("bpe", ["fine", "x\ud800"])


def test_training_stops_at_the_size_asked_for():
    assert create("bpe", CORPUS * 9, vocab_size=300).vocab_size == 300
    assert DEFAULT_VOCAB_SIZE == 4096


def test_training_reads_no_special_token_in_a_text():
    made = create("bpe", [END_OF_TEXT * 50, CORPUS[0]], vocab_size=320)
    assert made.eos_id not in made.encode(END_OF_TEXT * 2)
    assert made.decode(made.encode(END_OF_TEXT * 2)) == END_OF_TEXT * 2


@settings(max_examples=200, deadline=None)
@given(text=texts)
def test_cutting_a_text_into_pieces_changes_nothing(text):
    made, direct = trained()
    expected = direct.encode(text, add_special_tokens=False).ids
    with pytest.MonkeyPatch.context() as patch:
        for size in (1, 3):
            patch.setattr(base, "PIECE_CHARACTERS", size)
            assert made.encode(text) == expected


def trained(cache=[]):  # noqa: B006
    """Ours and the Rust library's own reading of the same vocabulary."""
    if not cache:
        made = create("bpe", CORPUS * 9)
        cache[:] = made, tokenizers.Tokenizer.from_str(made._native.to_str())
    return cache


def test_gpt2_files(tmp_path):
    (tmp_path / "encoder.json").write_text(json.dumps(vocabulary()), encoding="utf8")
    lines = "".join(f"{a} {b}\n" for a, b in MERGES)
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\n" + lines, encoding="utf8")
    assert create(tmp_path).encode(" hello") == [259, BYTE_SYMBOLS.index("o")]
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\nh e x\n", encoding="utf8")
    with pytest.raises(ValueError, match="has the merge 'h e x'; a merge is two tokens"):
        create(tmp_path)
    (tmp_path / "vocab.bpe").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="is not UTF-8: byte .* at offset 0"):
        create(tmp_path)
    with pytest.raises(ValueError, match="There is no file"):
        read_merges(tmp_path / "absent")


def test_huggingface_file(tmp_path):
    made = read(tmp_path, huggingface())
    assert made.encode(" hello") == [259, BYTE_SYMBOLS.index("o")]
    assert made.eos_id == 260
    pairs_as_strings = huggingface(model__merges=[" ".join(pair) for pair in MERGES])
    assert read(tmp_path, pairs_as_strings).encode(" hello") == made.encode(" hello")


@pytest.mark.parametrize("pattern", bpe_words.NAMES)
def test_files_that_cut_words_by_a_pattern(pattern, tmp_path):
    """Llama 3's kind, with several special tokens, one of which ends a text as a file beside it says."""
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    config = huggingface(pre_tokenizer=split(pattern), model__ignore_merges=True)
    config["model"]["vocab"] = vocabulary(specials=())
    proto = config["added_tokens"][0]
    config["added_tokens"] = [{**proto, "content": token, "id": 260 + i} for i, token in enumerate(specials)]
    (tmp_path / "tokenizer.json").write_text(json.dumps(config), encoding="utf8")
    with pytest.raises(ValueError, match="name one of .* as eos_token in the file tokenizer_config.json beside it"):
        create(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end_of_text|>"}), encoding="utf8")
    made = create(tmp_path)
    assert (made.vocab_size, made.eos_id) == (263, 261)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    made.save(tmp_path / "saved")
    for text in ("hell hello's IT'S 1234567\n\n x?!\n  y", "a" * 20 + "!\n  \n\n hell", "", "\n"):
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert made.encode(text) == load(tmp_path / "saved").encode(text) == ids
        assert made.tokenize([text])[0].numpy().tolist() == ids
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(base, "PIECE_CHARACTERS", 1)
            assert made.encode(text) == ids


@functools.cache
def normalising():
    """Qwen2's kind, which brings texts into the normal form C: ours and the Rust library's."""
    with tempfile.TemporaryDirectory() as directory:
        made = read(Path(directory), huggingface(pre_tokenizer=split(bpe_words.QWEN2), normalizer={"type": "NFC"}))
        made.save(directory)
        return load(directory), tokenizers.Tokenizer.from_file(str(Path(directory) / "tokenizer.json"))


@settings(max_examples=100, deadline=None)
@given(text=st.one_of(texts, st.text(st.sampled_from("ea\u0301\u0323\u030a\u1100\u1161\u11a8Å \n"))))
def test_texts_in_normal_form(text):
    made, theirs = normalising()
    text = text.replace(END_OF_TEXT, "")  # which theirs reads in a text
    ids = theirs.encode(text, add_special_tokens=False).ids
    assert made.encode(text) == made.tokenize([text])[0].numpy().tolist() == ids
    assert made.encode("e\u0301") == made.encode("é") == made.encode("e\u0301".encode())


def test_a_saved_vocabulary_is_read_by_the_rust_library(tmp_path):
    made = create("bpe", CORPUS * 9)
    made.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode(CORPUS[1]).ids == made.encode(CORPUS[1])
    assert theirs.decode(made.encode(CORPUS[1])) == CORPUS[1]
    assert theirs.encode(END_OF_TEXT).ids == [made.eos_id]  # theirs does read special tokens in a text


def test_the_end_of_text_is_chosen_or_asked_for(tmp_path):
    def with_specials(*names):
        config = huggingface()
        proto = config["added_tokens"][0]
        config["model"]["vocab"] = vocabulary(specials=())
        config["added_tokens"] = [{**proto, "content": name, "id": 260 + i} for i, name in enumerate(names)]
        return config

    assert read(tmp_path, with_specials("<pad>", "</s>")).eos_id == 261
    assert read(tmp_path, with_specials("<end>")).eos_id == 260
    assert read(tmp_path, with_specials("<x>", "<y>"), eos_token="<y>").eos_id == 261
    with pytest.raises(ValueError, match=r"name one of \['<x>', '<y>'\] as eos_token in the file"):
        read(tmp_path, with_specials("<x>", "<y>"))
    with pytest.raises(ValueError, match=r"has no special token '<y>' to end a text; it has \['</s>'\]"):
        read(tmp_path, with_specials("</s>"), eos_token="<y>")
    both = read(tmp_path, with_specials("<pad>", "</s>"))
    both.save(tmp_path / "saved")
    assert load(tmp_path / "saved").eos_id == 261
    assert both.decode([260, 256, 261]) == "he"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model__type": "WordPiece"}, "a WordPiece model; only BPE"),
        ({"normalizer": {"type": "NFD"}}, "a normalizer; only null and NFC"),
        ({"pre_tokenizer": None}, "the pre-tokenizer None; only ByteLevel"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "the pre-tokenizer Whitespace; only ByteLevel"),
        ({"pre_tokenizer": split(r"\\w+")}, r"by the pattern '\\\\\\\\w\+' \(Isolated, invert=False\), which is not known"),
        ({"pre_tokenizer": split(bpe_words.LLAMA3, "Removed")}, r"\(Removed, invert=False\), which is not known"),
        ({"pre_tokenizer": split(bpe_words.LLAMA3, use_regex=True)}, "cuts words twice"),
        ({"pre_tokenizer": split(bpe_words.LLAMA3, add_prefix_space=True)}, "add_prefix_space=true behind Split; only false"),
        ({"pre_tokenizer__use_regex": False}, "has use_regex=false and no Split"),
        ({"model__dropout": 0.1}, "BPE dropout; only null"),
        ({"model__end_of_word_suffix": "</w>"}, "an end_of_word_suffix; only an empty one"),
        ({"model__continuing_subword_prefix": "##"}, "a continuing_subword_prefix; only an empty one"),
        ({"model__merges": ["a b c"]}, "a merge is two tokens"),
        ({"model": None}, "is not a tokenizer.json of Hugging Face"),
        ({"added_tokens": []}, "does not say which token ends a text"),
    ],
)
def test_what_is_not_supported_is_refused(changes, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        read(tmp_path, huggingface(**changes))


@functools.cache
def words(name):
    """(a tokenizer with few merges that cuts words as a pattern says, the library's)."""
    trained = create("bpe", CORPUS, 300)
    merges = json.loads(trained._native.to_str())["model"]["merges"]
    made = BPETokenizer({token: i for i, token in enumerate(trained.vocabulary)}, merges, words=name)
    return made, made._native


@settings(max_examples=60, deadline=None)
@given(text=st.one_of(texts, st.text(st.sampled_from(" \n\ta1.,!(|[])?…。، "))))
@pytest.mark.parametrize("name", ["bloom", "prefixed"])
def test_words_of_others_in_any_text(name, text):
    made, native = words(name)
    ids = native.encode(text, add_special_tokens=False).ids
    assert made.encode(text) == ids and made.tokenize([text])[0].numpy().tolist() == ids
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "PIECE_CHARACTERS", 1)
        assert made.encode(text) == ids


def test_a_blank_in_front_is_asked_for_in_one_of_two_files(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(huggingface(pre_tokenizer__add_prefix_space=True)), encoding="utf8")
    made = create(tmp_path)
    assert made.encode("hell") == made.encode(" hell") == [259]
    made.save(tmp_path / "saved")
    assert load(tmp_path / "saved").encode("hell") == [259]
    (tmp_path / "tokenizer_config.json").write_text('{"add_prefix_space": false}')  # which transformers follows
    assert create(tmp_path).encode("hell") != [259]


@pytest.mark.parametrize(("text", "sentence"), [("{", "is not JSON"), ("[]", "must hold a JSON object, not a list")])
def test_damaged_files_are_refused(text, sentence, tmp_path):
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf8")
    with pytest.raises(ValueError, match=sentence):
        create(tmp_path)


def without(token):
    kept = [t for t in vocabulary() if t != token]
    return {t: i for i, t in enumerate(kept)}


@pytest.mark.parametrize(
    ("tokens", "merges", "specials", "sentence"),
    [
        ({**vocabulary(), "he": 7}, MERGES, [END_OF_TEXT], "each once; id 256 is missing"),
        ({**vocabulary(), "he": 1000}, MERGES, [END_OF_TEXT], "each once; id 256 is missing"),
        (without("Ġhell"), MERGES, [END_OF_TEXT], "no id for 'Ġhell'"),
        (vocabulary(), [*MERGES, ("h", "hx")], [END_OF_TEXT], "joins 'hx', which the vocabulary does not have"),
        (vocabulary(), [*MERGES, ("h", "e")], [END_OF_TEXT], "'h' 'e' is there twice"),
        (vocabulary(), MERGES, ["<end>"], "must be one of the special tokens"),
        (without(END_OF_TEXT), MERGES, [END_OF_TEXT], "no id for '<|endoftext|>'"),
        (vocabulary(), MERGES, [END_OF_TEXT, "he"], "special token 'he' is also made by merges"),
        (vocabulary(specials=[END_OF_TEXT, "a b"]), MERGES, [END_OF_TEXT], "'a b' is neither special nor in byte"),
    ],
)
def test_what_does_not_fit_together_is_refused(tokens, merges, specials, sentence):
    with pytest.raises(ValueError, match=sentence):
        BPETokenizer(tokens, merges, specials)
