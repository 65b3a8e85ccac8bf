"""Tokens of plain text that somebody added: on both sides and on the way out they are found as the Rust library finds them."""

import functools
import json
import random

import pytest
import tensorflow as tf
import tokenizers
from tokenizers import AddedToken, normalizers, pre_tokenizers

from tests.zoo.tokenizers.test_tokenizer_sentencepiece_bpe import spelt
from tests.zoo.tokenizers.test_tokenizer_unigram import trained
from tests.zoo.tokenizers.unicode_texts import CORPUS
from zoo.tokenizers.base import create, load

BLANK = "\u2581"
PLAIN = [
    AddedToken("covid-19"),
    AddedToken("new york", normalized=False),
    AddedToken("Gpt4", single_word=True),
    AddedToken("left", lstrip=True, normalized=False),
    AddedToken("<right>", rstrip=True),
    AddedToken("  ", normalized=False),
    AddedToken("the theme", single_word=True, lstrip=True),
    AddedToken("cov"),
    AddedToken(".*[x]\\"),
    AddedToken("日本"),
]
ATOMS = [
    *(token.content for token in PLAIN), *(token.content.upper() for token in PLAIN), " ", "  ", "   ", "\n", "\t", "\u3000",
    "\u00a0", "\u2028", "_", "é", "e\u0301", "a", "the", "s", "9", "٣", "Ⓐ", "-", ".", "日", "😀", "not to be",
]  # fmt: skip


def texts_of(seed, count):
    choices = random.Random(seed)
    return ["", *("".join(choices.choices(ATOMS, k=choices.randint(1, 9))) for _ in range(count))]


def wordpiece(**options):
    made = create("wordpiece", [*CORPUS, "covid-19 new york gpt4 left right . * [ x ] \\ 日本"], 300)
    model = tokenizers.models.WordPiece({t: i for i, t in enumerate(made.vocabulary)}, unk_token="[UNK]")
    native = tokenizers.Tokenizer(model)
    native.normalizer = normalizers.BertNormalizer(**options)
    native.pre_tokenizer, native.decoder = pre_tokenizers.BertPreTokenizer(), tokenizers.decoders.WordPiece(cleanup=False)
    native.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return native


def bpe(normalizer=None):
    made = create("bpe", CORPUS, 300)
    native = tokenizers.Tokenizer(made._native.model)
    native.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    native.decoder = tokenizers.decoders.ByteLevel()
    if normalizer:
        native.normalizer = normalizer
    native.add_special_tokens(["<|endoftext|>"])
    return native


def unigram(words, strip=None, collapse=False, scheme="always"):
    pieces = [(piece.piece, piece.score) for piece in proto().pieces]
    native = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=trained().unk_id))
    steps = [normalizers.Precompiled(proto().normalizer_spec.precompiled_charsmap)]
    steps += [normalizers.Strip(*strip)] if strip else []
    steps += [normalizers.Replace(tokenizers.Regex(" {2,}"), BLANK)] if collapse else []
    native.normalizer, native.pre_tokenizer = normalizers.Sequence(steps), words
    native.decoder = tokenizers.decoders.Metaspace(prepend_scheme=scheme)
    native.add_special_tokens(["<pad>", "[CLS]", "[SEP]", "[MASK]"])
    return native


@functools.cache
def proto():
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto.FromString(trained()._model)


def llama(words=None, normalizer=None):
    native = tokenizers.Tokenizer.from_str(spelt().to_str())
    native.post_processor = None
    if words:
        native = tokenizers.Tokenizer.from_str(json.dumps({**json.loads(native.to_str()), "normalizer": None}))
        native.pre_tokenizer = words
    if normalizer:
        native.normalizer = normalizer
    prefix = [] if normalizer else [tokenizers.decoders.Strip(" ", 1, 0)]
    fuse = [tokenizers.decoders.Replace(BLANK, " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    native.decoder = tokenizers.decoders.Sequence([*fuse, *prefix])
    return native


meta = pre_tokenizers.Metaspace
KINDS = {
    "uncased": wordpiece,
    "cased": lambda: wordpiece(lowercase=False, strip_accents=False, handle_chinese_chars=False),
    "bytes": bpe,
    "bytes in normal form": lambda: bpe(normalizers.NFC()),
    "words of T5": lambda: unigram(pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), meta()])),
    "metaspace": lambda: unigram(meta()),
    "metaspace, collapsed": lambda: unigram(meta(), strip=(False, True), collapse=True),
    "metaspace, first": lambda: unigram(meta(prepend_scheme="first"), strip=(False, True), collapse=True),
    "metaspace, never": lambda: unigram(meta(prepend_scheme="never"), scheme="never"),
    "Llama 2": llama,
    "Llama, always": lambda: llama(meta(split=False)),
    "Llama, first": lambda: llama(meta(prepend_scheme="first", split=False)),
    "Gemma": lambda: llama(pre_tokenizers.Split(" ", "merged_with_previous"), normalizers.Replace(" ", BLANK)),
}


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    """(the library's tokenizer, to which special tokens in a text are text; ours of its file; a directory)."""
    native, directory = KINDS[request.param](), tmp_path_factory.mktemp("added")
    native.add_tokens(PLAIN)
    native.save(str(directory / "tokenizer.json"))
    roles = {"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}
    if "Llama" in request.param or request.param == "Gemma":
        (directory / "tokenizer_config.json").write_text(json.dumps(roles))
    native.encode_special_tokens = True
    return native, create(directory), directory


def ids_of(native, texts):
    return [native.encode(text, add_special_tokens=False).ids for text in texts]


def rows(tokenizer, texts):
    return tokenizer.tokenize(tf.constant(texts)).to_list()


def test_they_are_found_as_the_library_finds_them(both):
    native, ours, _ = both
    texts = texts_of(0, 300)
    expected = ids_of(native, texts)
    for text, made, ids in zip(texts, ours.encode_batch(texts), expected, strict=True):
        assert made.tolist() == ids, text
    for text, made, ids in zip(texts, rows(ours, texts), expected, strict=True):
        assert made == ids, text
    added = {token.id for token in ours.added}
    assert len(added) == len(PLAIN) and added <= {i for ids in expected for i in ids}


def test_they_are_written_as_they_are(both):
    native, ours, _ = both
    rows = [ids.tolist() for ids in ours.encode_batch(texts_of(1, 200))]
    texts = [ours.decode(ids) for ids in rows]
    assert [text.decode() for text in ours.detokenize(tf.ragged.constant(rows, tf.int32)).numpy()] == texts
    for ids, text in zip(rows, texts, strict=True):
        if ours.unk_id is None or ours.unk_id not in ids:
            assert text == native.decode(ids, skip_special_tokens=False)


def test_they_are_saved_and_go_out(both, tmp_path):
    native, ours, _ = both
    ours.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.added == ours.added and again.vocabulary == ours.vocabulary
    out = tmp_path / "out"
    out.mkdir()
    ours.save_huggingface(out)
    theirs = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    theirs.encode_special_tokens, theirs.post_processor = True, tokenizers.processors.Sequence([])
    texts = texts_of(2, 60)
    expected = ids_of(native, texts)
    assert ids_of(theirs, texts) == [ids.tolist() for ids in again.encode_batch(texts)] == expected
    assert theirs.get_vocab() == native.get_vocab()


def test_an_export_finds_them(tmp_path):
    native = wordpiece()
    native.add_tokens(PLAIN)
    native.save(str(tmp_path / "tokenizer.json"))
    module, texts = tf.Module(), texts_of(3, 40)
    module.tokenizer = create(tmp_path)
    signature = [tf.TensorSpec([None], tf.string)]
    module.ids = tf.function(lambda text: module.tokenizer.tokenize(text), input_signature=signature, autograph=False)
    tf.saved_model.save(module, str(tmp_path / "export"))
    ids = tf.saved_model.load(str(tmp_path / "export")).ids(tf.constant(texts)).to_list()
    assert ids == [ids.tolist() for ids in module.tokenizer.encode_batch(texts)]


def test_a_long_text_is_cut_where_no_token_reaches_over(tmp_path):
    native = wordpiece()
    native.add_tokens(["covid-19"])
    native.save(str(tmp_path / "tokenizer.json"))
    assert create(tmp_path).cut is not None
    native.add_tokens([AddedToken("x y", normalized=False)])
    native.save(str(tmp_path / "tokenizer.json"))
    assert create(tmp_path).cut is None


def test_what_nothing_is_left_of_is_refused(tmp_path):
    native = wordpiece()
    native.add_tokens([AddedToken("\u0301")])
    native.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="Nothing is left of the added token"):
        create(tmp_path)
