"""WordPiece: what is learnt, what is read from third-party files, what is refused, and equality with `tokenizers`."""

import functools
import json

import pytest
import tensorflow as tf
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.zoo.tokenizers.unicode_texts import ATOMS, CORPUS, inputs, texts
from zoo.tokenizers import base
from zoo.tokenizers.base import create, load, to_text
from zoo.tokenizers.wordpiece import ROLES, WordPieceTokenizer, _learnt

PIECES = ["un", "##aff", "##able", "##a", "a", "aff", "runn", "##ing", ",", "中", "e", "the", "!", "é", "I", "[unused1]"]
VOCABULARY = {token: i for i, token in enumerate([*ROLES.values(), *PIECES])}
OPTIONS = ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase")
VARIANTS = (15, 3, 4, 8)  # uncased, cased, accents alone, lower case alone
# ToyVocabulary that no normalisation strips, in an order that is not canonical, with some that it strips between.
MARKS = ["\U0001d165", "\U0001d16d", "\u1b44", "\u302e", "\u0c3c", "\u0301", "\u0334", "\u0345", "\u0901", "a", " ", "中"]


def huggingface(path=None, **changes):
    """The JSON of a tokenizer of `VOCABULARY`, changed at dotted paths with __ for a dot."""
    native = tokenizers.Tokenizer(tokenizers.models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    native.normalizer = tokenizers.normalizers.BertNormalizer()
    native.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    native.add_special_tokens(list(ROLES.values()))
    config = json.loads(native.to_str())
    for name, value in changes.items():
        *outer, last = name.split("__")
        target = config
        for key in outer:
            target = target[key]
        target[last] = value
    if path:
        path.write_text(json.dumps(config), encoding="utf8")
    return config


def tokens(tokenizer, text):
    return [tokenizer.vocabulary[i] for i in tokenizer.encode(text)]


def test_the_longest_piece_comes_first():
    made = WordPieceTokenizer(VOCABULARY)
    assert tokens(made, "unaffable, running the éa") == [
        "un", "##aff", "##able", ",", "runn", "##ing", "the", "e", "##a",
    ]  # fmt: skip
    # No piece goes on after "aff" with "e": the whole word is unknown, however far it was spelt.
    assert tokens(made, "unaffe aff") == ["[UNK]", "aff"]
    assert tokens(made, "a" * 100) == ["a", *["##a"] * 99]
    assert tokens(made, "a" * 101 + " 中中a") == ["[UNK]", "中", "中", "a"]
    assert made.decode(made.encode("  Unaffable,\tthe 中!")) == "unaffable , the 中 !"


def test_text_never_yields_a_special_token_and_ids_keep_theirs():
    made = WordPieceTokenizer({token.strip("[]"): i for token, i in VOCABULARY.items()}, dict(lowercase=False),
                              {role: token.strip("[]") for role, token in ROLES.items()})  # fmt: skip
    assert made.encode("SEP CLS MASK PAD") == [made.unk_id] * 4
    ids = [made.cls_id, *made.encode("the"), made.sep_id, made.mask_id, made.pad_id]
    assert made.decode(ids) == "the"
    assert tokens(WordPieceTokenizer(VOCABULARY), "[SEP]") == ["[UNK]"] * 3
    assert (made.eos_id, made.pad_id, made.cls_id) == (made.sep_id, 0, 2)


def test_the_pieces_that_are_learnt():
    # The pairs a ##b, c ##a and ##a ##b are there twice each; ties go to the piece that came first.
    assert _learnt({"ab": 2, "cab": 2}, 99) == ["a", "c", "##a", "##b", "ab", "ca", "cab"]
    assert _learnt({"ab": 1, "b": 1}, 99) == ["a", "b", "##b"]  # what is there once is not merged
    assert _learnt({"aaab": 1, "zz": 1}, 2) == ["a", "##a"]  # the most frequent characters
    made = create("wordpiece", ["The theme of the thesis; the theme."], vocab_size=17)
    assert made.vocabulary[:5] == tuple(ROLES.values())
    assert made.vocab_size == 17 and tokens(made, "THE") == ["the"]


@functools.cache
def variants():
    """(ours, the same vocabulary read by `tokenizers`, our graph) for combinations of BERT's four options."""
    learnt = {}
    for bits in VARIANTS:
        options = {name: bool(bits >> i & 1) for i, name in enumerate(OPTIONS)}
        made = WordPieceTokenizer.train([*CORPUS, "".join(ATOMS), " ".join(MARKS), "".join(MARKS)] * 2, 400, options)
        native = tokenizers.Tokenizer(tokenizers.models.WordPiece(dict(zip(made.vocabulary, range(400), strict=False)),
                                                                  unk_token="[UNK]"))  # fmt: skip
        native.normalizer = tokenizers.normalizers.BertNormalizer(**options)
        native.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        graph = tf.function(made.tokenize, input_signature=[tf.TensorSpec([None], tf.string)])
        learnt[bits] = made, native, graph
    return learnt


@settings(max_examples=150, deadline=None)
@given(bits=st.sampled_from(VARIANTS), batch=st.one_of(inputs, st.lists(st.lists(st.sampled_from(MARKS)).map("".join))))
def test_graph_is_native_is_the_rust_library(bits, batch):
    made, native, graph = variants()[bits]
    expected = [encoding.ids for encoding in native.encode_batch([to_text(text) for text in batch])]
    assert [ids.tolist() for ids in made.encode_batch(batch)] == expected
    assert graph(tf.constant(batch, tf.string)).to_list() == expected


@settings(max_examples=100, deadline=None)
@given(text=texts)
def test_cutting_a_text_into_pieces_changes_nothing(text):
    made, native, _ = variants()[15]
    with pytest.MonkeyPatch.context() as patch:
        for size in (1, 3):
            patch.setattr(base, "PIECE_CHARACTERS", size)
            assert made.encode(text) == native.encode(text).ids


def test_files_of_other_people(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf8")
    made = create(tmp_path)
    assert (made.vocabulary, tokens(made, "É I")) == (tuple(VOCABULARY), ["e", "[UNK]"])
    cased = dict(do_lower_case=False, mask_token={"content": "[unused1]"}, model_max_length=512)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(cased), encoding="utf8")
    made = create(tmp_path / "vocab.txt")
    assert tokens(made, "é I") == ["é", "I"]
    assert made.mask_id == VOCABULARY["[unused1]"]

    huggingface(tmp_path / "tokenizer.json", normalizer__strip_accents=False)
    made = create(tmp_path)
    assert tokens(made, "É I") == ["é", "[UNK]"]
    made.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert (again.vocabulary, tokens(again, "É I"), again.mask_id) == (made.vocabulary, ["é", "[UNK]"], 4)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    assert theirs.encode("The, é", "unaffable").tokens == [
        "[CLS]", "the", ",", "é", "[SEP]", "un", "##aff", "##able", "[SEP]",
    ]  # fmt: skip


@pytest.mark.parametrize(("changes", "sentence"), [
    (dict(normalizer=None), "the normalizer None; only BERT's"),
    (dict(pre_tokenizer=dict(type="Whitespace")), "the pre-tokenizer Whitespace; only BERT's"),
    (dict(model__max_input_chars_per_word=7), "max_input_chars_per_word=7; only 100"),
    (dict(model__continuing_subword_prefix="@@"), "continuing_subword_prefix='@@'; only '##'"),
    (dict(model__vocab=3), "is not a tokenizer.json"),
])  # fmt: skip
def test_a_tokenizer_json_that_asks_for_something_else_is_refused(tmp_path, changes, sentence):
    huggingface(tmp_path / "tokenizer.json", **changes)
    with pytest.raises(ValueError, match=sentence):
        create(tmp_path)


def test_vocabularies_that_cannot_be(tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\nthe\n[SEP]\nthe\n", encoding="utf8")
    with pytest.raises(ValueError, match="has the token 'the' twice, on line 3 and on line 5; each must be there once"):
        create(tmp_path)
    with pytest.raises(ValueError, match="The vocabulary has no \\[CLS\\]"):
        WordPieceTokenizer({"[UNK]": 0, "[SEP]": 1})
    with pytest.raises(ValueError, match="must be 0..2, each once; id 1 is missing"):
        WordPieceTokenizer({"[UNK]": 0, "[SEP]": 2, "[CLS]": 3})
    with pytest.raises(ValueError, match="no option 'lower'; it has clean_text"):
        WordPieceTokenizer(VOCABULARY, dict(lower=True))
    with pytest.raises(ValueError, match="no special token for 'bos'"):
        WordPieceTokenizer(VOCABULARY, special_tokens=dict(bos="[CLS]"))
    with pytest.raises(ValueError, match="at least 6 ids"):
        create("wordpiece", ["a"], vocab_size=5)


def test_a_vocabulary_without_pieces_that_go_on_with_a_word(tmp_path):
    """As of a text in Chinese characters alone, each of which is a word."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "春", "风"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf8")
    tokenizer = create(str(tmp_path / "vocab.txt"))
    texts = ["春风", "春x", "风风 春", ""]
    assert tokenizer.tokenize(tf.constant(texts)).to_list() == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode("春风") == [5, 6]
