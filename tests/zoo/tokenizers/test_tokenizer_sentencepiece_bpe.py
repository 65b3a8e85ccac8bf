"""SentencePiece's BPE in a tokenizer.json, as of Llama 2 and Mistral: equal ids, and what is refused."""

import functools
import io
import json

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.zoo.tokenizers.unicode_texts import CORPUS, texts
from zoo.tokenizers.base import create, load

BLANK = "\u2581"
SPECIALS = ["<unk>", "<s>", "</s>"]


@functools.cache
def library():
    """A model that the library trains, with runs of blanks among its pieces."""
    model = io.BytesIO()
    sentences = [*CORPUS[0].split("\n"), *CORPUS[1].split("\n"), "def f(x):", "        return    x", "    if x:   y"] * 3
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=model, vocab_size=420, model_type="bpe", byte_fallback=True,
        hard_vocab_limit=False, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
        allow_whitespace_only_pieces=True, max_sentence_length=10_000,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@functools.cache
def spelt():
    """Its tokenizer.json, as transformers makes one of it: every way to cut a piece in two is a merge, by the piece's place."""
    vocabulary = {library().id_to_piece(i): i for i in range(library().get_piece_size())}
    merges = []
    for token, i in vocabulary.items():
        if i >= 3 + 256:
            pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
            pairs = [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
            merges += sorted(pairs, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    model = tokenizers.models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    native = tokenizers.Tokenizer(model)
    steps = tokenizers.normalizers
    native.normalizer = steps.Sequence([steps.Prepend(BLANK), steps.Replace(" ", BLANK)])
    native.add_special_tokens(SPECIALS)
    native.post_processor = tokenizers.processors.TemplateProcessing(
        single=["<s>", "$A"], pair=["<s>", "$A", "<s>", "$B"], special_tokens=[("<s>", 1)]
    )
    return native


def write(directory, **changes):
    config = json.loads(spelt().to_str())
    for path, value in changes.items():
        part, _, key = path.partition("__")
        if key:
            config[part][key] = value
        else:
            config[part] = value
    (directory / "tokenizer.json").write_text(json.dumps(config), encoding="utf8")
    (directory / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}')
    return directory


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return create(write(tmp_path_factory.mktemp("spelt")))


@functools.cache
def plain():
    """The same, to which a special token in a text is text."""
    config = json.loads(spelt().to_str())
    return tokenizers.Tokenizer.from_str(json.dumps({**config, "added_tokens": [], "post_processor": None}))


def check(tokenizer, text):
    ids = plain().encode(text).ids
    assert tokenizer.encode(text) == ids
    assert tokenizer.tokenize([text])[0].numpy().tolist() == ids


def test_its_special_tokens_and_its_way_out(made, tmp_path):
    assert (made.vocab_size, made.bos_id, made.eos_id, made.unk_id) == (library().get_piece_size(), 1, 2, 0)
    assert made.template == (("<s>",), ("<s>",), ())
    made.save(tmp_path / "saved")
    made.save_huggingface(tmp_path)
    there = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in (CORPUS[0], "naïve 中 😀 \n  two  blanks ", ""):
        check(made, text)
        assert load(tmp_path / "saved").encode(text) == made.encode(text)
        assert there.encode(text).ids == spelt().encode(text).ids == [1, *made.encode(text)]
        assert made.decode(made.encode(text)) == text


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(texts, st.lists(st.sampled_from([*CORPUS[0].split(" "), " ", "  ", "\n", "x", "    "])).map(" ".join)))
def test_any_text_has_the_ids_that_the_rust_library_gives(made, text):
    check(made, text)


def test_a_metaspace_that_prepends_nothing(tmp_path):
    words = {"type": "Metaspace", "replacement": BLANK, "prepend_scheme": "never", "split": False}
    tokenizer = create(write(tmp_path, normalizer=None, pre_tokenizer=words))
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in (CORPUS[0], " two  blanks "):
        assert tokenizer.encode(text) == theirs.encode(text, add_special_tokens=False).ids


def test_a_metaspace_that_cuts_words_wants_pieces_of_one_word(tmp_path):
    words = {"type": "Metaspace", "replacement": BLANK, "prepend_scheme": "always", "split": True}
    with pytest.raises(ValueError, match="cuts words at blanks .Metaspace, split=true. and has the token '▁▁"):
        create(write(tmp_path, normalizer=None, pre_tokenizer=words))
    config = json.loads(spelt().to_str())
    runs = {token for token in config["model"]["vocab"] if BLANK in token[1:]}
    spoken = [token for token in config["model"]["vocab"] if token not in runs]
    merges = [pair for pair in config["model"]["merges"] if not runs & {*pair, "".join(pair)}]
    vocabulary = {token: i for i, token in enumerate(spoken)}
    made = create(write(
        tmp_path, normalizer=None, pre_tokenizer=words, model__vocab=vocabulary, model__merges=merges
    ))  # fmt: skip
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in (CORPUS[0], " two  blanks ", "", "  ", "\n a"):
        assert made.encode(text) == theirs.encode(text, add_special_tokens=False).ids


METASPACE = {"type": "Metaspace", "replacement": BLANK, "prepend_scheme": "first", "split": False}


def test_the_model_beside_it_says_how_pieces_are_joined(tmp_path):
    write(tmp_path, normalizer=None, pre_tokenizer=METASPACE, model__merges=[])
    with pytest.raises(ValueError, match="has no merge of"):
        create(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(library().serialized_model_proto())
    made = create(tmp_path)
    theirs = json.loads(spelt().to_str()) | {"normalizer": None, "pre_tokenizer": METASPACE}
    theirs = tokenizers.Tokenizer.from_str(json.dumps(theirs))
    for text in (CORPUS[0], " two  blanks ", "\n"):
        assert made.encode(text) == theirs.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(normalizer={"type": "NFC"}), "behind NFC \\+ None; .* put the"),
        (dict(model__ignore_merges=True), "ignore_merges=true beside byte_fallback=true"),
        (dict(model__unk_token=None), "no token for what is unknown"),
        (dict(model__merges=[]), "has no merge of .* which SentencePiece's BPE would join"),
    ],
)
def test_what_no_model_of_sentencepiece_does_is_refused(changes, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        create(write(tmp_path, **changes))


def test_merges_out_of_the_order_of_pieces_are_refused(tmp_path):
    merges = json.loads(spelt().to_str())["model"]["merges"]
    first = next(i for i, (a, b) in enumerate(zip(merges, merges[1:], strict=False)) if "".join(a) == "".join(b))
    with pytest.raises(ValueError, match="in two places, which SentencePiece's BPE has not; put the tokenizer.model"):
        create(write(tmp_path, model__merges=[*merges[:first], *merges[first + 1 :], merges[first]]))
