"""The graph side of BPE against the Rust library: where words start, for every character; and merges, in any table."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.zoo.tokenizers.unicode_texts import CORPUS, texts
from zoo.tokenizers import bpe_graph, bpe_words
from zoo.tokenizers.base import byte_values, create
from zoo.tokenizers.bpe import BYTE_SYMBOLS, END_OF_TEXT, BPETokenizer

NO_MERGES = {token: i for i, token in enumerate([*BYTE_SYMBOLS, END_OF_TEXT])}


@functools.cache
def word_starts_function(words="gpt2"):
    graph = BPETokenizer(NO_MERGES, [], words=words)._graph

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def starts(texts):
        return graph.word_starts(texts, byte_values(texts))

    return starts


def check_word_starts(batch, words="gpt2"):
    """Compares starts of words, in characters of all texts one after another."""
    starts = word_starts_function(words)(tf.constant(batch)).numpy()
    splitter = bpe_words.pre_tokenizer(words)
    lead = np.frombuffer("".join(batch).encode(), np.uint8) & 0xC0 != 0x80
    assert not starts[~lead].any()
    offsets = np.cumsum([0, *map(len, batch)])[:-1]
    native = [[start for _, (start, _) in splitter.pre_tokenize_str(text)] for text in batch]
    expected = np.concatenate([offset + np.array(row, int) for offset, row in zip(offsets, native, strict=True)])
    np.testing.assert_array_equal(np.flatnonzero(starts[lead]), expected)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("it's they'll I've we're", ["it", "'s", " they", "'ll", " I", "'ve", " we", "'re"]),
        ("he'd I'm can't", ["he", "'d", " I", "'m", " can", "'t"]),
        ("'s's 's ''s 'Sx'sx'", ["'s", "'s", " '", "s", " ''", "s", " '", "Sx", "'s", "x", "'"]),
        ("a  b\n\nc \n d   ", ["a", " ", " b", "\n", "\n", "c", " \n", " d", "   "]),
        ("x12 34y!?z _", ["x", "12", " 34", "y", "!?", "z", " _"]),
        ("'l 'll'l'r'v've", ["'", "l", " '", "ll", "'", "l", "'", "r", "'", "v", "'ve"]),
    ],
)  # fmt: skip
def test_words_of_gpt2s_pattern_by_hand(text, words):
    starts = np.flatnonzero(word_starts_function()(tf.constant([text])).numpy())
    assert [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)] == words
    check_word_starts([text])


@settings(max_examples=300, deadline=None)
@given(batch=st.lists(texts.filter(bool), min_size=1, max_size=4))
def test_words_start_where_the_rust_library_starts_them(batch):
    check_word_starts(batch)


@pytest.mark.parametrize(
    ("words", "text", "expected"),
    [
        ("llama3", "it's IT'S they'Ll 'twas", ["it", "'s", " IT", "'S", " they", "'Ll", " '", "twas"]),
        ("llama3", "'re'x('s ''s", ["'re", "'x", "('", "s", " ''", "s"]),
        ("llama3", "1234567 x12y", ["123", "456", "7", " x", "12", "y"]),
        ("qwen2", "123 x12y", ["1", "2", "3", " x", "1", "2", "y"]),
        ("llama3", "a!\n\n b\n \n  c\t\td", ["a", "!\n\n", " b", "\n \n", " ", " c", "\t", "\td"]),
        ("llama3", "a  \n\n   ", ["a", "  \n\n", "   "]),
        ("llama3", "-x --x\u3000y", ["-x", " --", "x", "\u3000y"]),
        ("llama3", "x ! y\n", ["x", " !", " y", "\n"]),
    ],
)
def test_words_of_later_patterns_by_hand(words, text, expected):
    starts = np.flatnonzero(word_starts_function(words)(tf.constant([text])).numpy())
    data = text.encode()
    assert [data[a:b].decode() for a, b in zip(starts, [*starts[1:], len(data)], strict=True)] == expected
    check_word_starts([text], words)


LINES = st.text(st.sampled_from(" \n\r\t'sSlLvVeErRdDmMtTxſ12中é!.\u3000\u0301😀"), max_size=30)


@settings(max_examples=300, deadline=None)
@given(batch=st.lists(st.one_of(texts, LINES).filter(bool), min_size=1, max_size=4), words=st.sampled_from(["llama3", "qwen2"]))
def test_words_of_later_patterns_start_where_the_rust_library_starts_them(batch, words):
    check_word_starts(batch, words)


def test_every_character_of_unicode_is_of_the_class_the_rust_library_takes_it_for():
    """`!` goes on over all but letters, numbers and white space; these are asked beside a letter and beside a digit."""
    characters = [chr(c) for c in (*range(0xD800), *range(0xE000, 0x110000))]
    pages, classes = bpe_words.character_classes()
    others = [c for c in characters if classes[pages[ord(c) >> 8] * 256 + (ord(c) & 255)] != bpe_words.OTHER]
    assert len(others) > 130_000
    size = 1 << 14
    for mark, asked in [("!", characters), ("x", others), ("1", others)]:
        check_word_starts([mark + mark.join(asked[i : i + size]) for i in range(0, len(asked), size)])


@st.composite
def merge_tables(draw):
    """Merges over two or three letters, each of parts that are there already, and no token made twice."""
    tokens = draw(st.sampled_from([["a", "b"], ["a", "b", "c"]]))
    merges = []
    for left, right in draw(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=25)):
        pair = tokens[left % len(tokens)], tokens[right % len(tokens)]
        if "".join(pair) not in tokens and len("".join(pair)) <= 5:
            merges.append(pair)
            tokens.append("".join(pair))
    return merges


@settings(max_examples=60, deadline=None)
@given(merges=merge_tables(), data=st.data())
def test_any_table_of_merges_on_words_of_many_blocks(merges, data):
    """Tokens of up to 5 bytes make blocks of up to 10, so words of 150 letters have many, with runs across borders."""
    vocabulary = {token: i for i, token in enumerate([*BYTE_SYMBOLS, *(a + b for a, b in merges), END_OF_TEXT])}
    tokenizer = BPETokenizer(vocabulary, merges)
    run = st.tuples(st.sampled_from(["a", "b", "c", "ab", "ba", "aab"]), st.integers(1, 40)).map(lambda r: r[0] * r[1])
    word = st.one_of(st.text("abc", max_size=150), st.lists(run, max_size=6).map("".join))
    batch = data.draw(st.lists(word, max_size=3))
    expected = [ids.tolist() for ids in tokenizer.encode_batch(batch)]
    assert tokenizer.tokenize(tf.constant(batch, tf.string)).to_list() == expected


@settings(max_examples=100, deadline=None)
@given(data=st.data(), ignore_merges=st.booleans())
def test_merges_as_tiktoken_files_become_them(data, ignore_merges):
    """Every way to cut a token into two tokens is a merge, at the token's place; so a part may be learnt after the whole."""
    tokens = data.draw(st.lists(st.text("abc", min_size=2, max_size=5), max_size=14, unique=True))
    known = {"a", "b", "c", *tokens}
    cuts = [(token, [(token[:i], token[i:]) for i in range(1, len(token))]) for token in tokens]
    merges = [pair for _, pairs in cuts for pair in pairs if set(pair) <= known]
    vocabulary = {token: i for i, token in enumerate([*BYTE_SYMBOLS, *tokens, END_OF_TEXT])}
    tokenizer = BPETokenizer(vocabulary, merges, words="llama3", ignore_merges=ignore_merges)
    run = st.tuples(st.sampled_from(["a", "b", "c", "ab", "ba", "aab", *tokens]), st.integers(1, 12)).map(lambda r: r[0] * r[1])
    words = st.lists(st.one_of(st.text("abc", max_size=60), run, st.sampled_from(["a", *tokens])), max_size=6)
    batch = data.draw(st.lists(words.map(" ".join), max_size=3))
    expected = [ids.tolist() for ids in tokenizer.encode_batch(batch)]
    assert tokenizer.tokenize(tf.constant(batch, tf.string)).to_list() == expected
    for token in tokens if ignore_merges else ():
        assert tokenizer.encode(token) == tokenizer.tokenize([token])[0].numpy().tolist() == [vocabulary[token]]


def test_a_token_that_no_merge_reaches_makes_no_other_either():
    tokens, merges = ["aaaa", "aaaaa"], [("a", "aaa"), ("a", "aaaa"), ("aaaa", "a")]
    vocabulary = {token: i for i, token in enumerate([*BYTE_SYMBOLS, "aaa", *tokens, END_OF_TEXT])}
    tokenizer = BPETokenizer(vocabulary, merges, words="llama3")
    assert tokenizer.tokenize(tf.constant(["aaaaaa"])).to_list() == [tokenizer.encode("aaaaaa")] == [[97] * 6]


def test_a_special_token_that_is_a_word_is_refused_where_words_become_tokens():
    vocabulary = {token: i for i, token in enumerate([*BYTE_SYMBOLS, END_OF_TEXT, "end"])}
    assert BPETokenizer(vocabulary, [], [END_OF_TEXT, "end"]).decode([257]) == ""
    with pytest.raises(ValueError, match="special token 'end' is a word too"):
        BPETokenizer(vocabulary, [], [END_OF_TEXT, "end"], ignore_merges=True)


def test_a_run_is_merged_from_its_left_end_whatever_its_length():
    merges = [("a", "a"), ("aa", "aa"), ("b", "aa")]
    tokenizer = BPETokenizer({t: i for i, t in enumerate([*BYTE_SYMBOLS, "aa", "aaaa", "baa", END_OF_TEXT])}, merges)
    assert tokenizer.tokenize(tf.constant(["aaaaaaa", "baaaaaa"])).to_list() == [[257, 256, 97], [98, 257, 256]]
    for length in (1_001, 200_003):
        assert tokenizer.tokenize(tf.constant(["a" * length]))[0].numpy().tolist() == tokenizer.encode("a" * length)


def test_words_with_equal_sums_are_not_taken_for_each_other(monkeypatch):
    """With all factors zero every word has the same sum."""
    tokenizer = create("bpe", CORPUS)
    monkeypatch.setitem(tokenizer._graph._tensors, "hashes", tf.zeros([256], tf.int64))
    batch = [*CORPUS, "", "a a b"]
    assert tokenizer.tokenize(tf.constant(batch)).to_list() == [ids.tolist() for ids in tokenizer.encode_batch(batch)]


def test_the_hash_table_has_every_merge_and_no_other():
    random = np.random.RandomState(7)
    pairs = np.unique(random.randint(0, 3000, (5000, 2)), axis=0).astype(np.int64)
    graph = bpe_graph.BPEGraph(pairs, np.zeros(256 + len(pairs), np.int32), np.array([b"a"], object))
    asked = np.concatenate([pairs, random.randint(0, 3000, (5000, 2))])
    made = graph._made(tf.constant(asked[:, 0]), tf.constant(asked[:, 1]), tf.ones(len(asked), tf.bool)).numpy()
    known = {tuple(pair): 256 + i for i, pair in enumerate(pairs.tolist())}
    assert made.tolist() == [known.get(tuple(pair), bpe_graph.NOTHING) for pair in asked.tolist()]


def test_no_table_is_too_large_to_build():
    for count in (0, 1, 13, 4_099, 104_857):
        pairs = np.stack(np.divmod(np.arange(count), 331), axis=1).astype(np.int64)
        table, _ = bpe_graph.cuckoo_table(pairs)
        assert (table >= 0).sum() == count


def test_a_megabyte_of_one_word():
    tokenizer = create("bpe", CORPUS)
    for text in (" " * 1_000_000, "ab" * 50_000):
        assert tokenizer.tokenize(tf.constant([text]))[0].numpy().tolist() == tokenizer.encode(text)
