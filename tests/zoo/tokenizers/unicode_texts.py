"""Texts that tokenizers stumble over, for the property tests of this folder."""

from hypothesis import strategies as st

CORPUS = [
    "To be, or not to be: that is the question.\nWhether 'tis nobler in the mind\n\nto suffer the slings and arrows",
    "the the the theme then there\n  indented  \t text\u00a0with\u3000spaces\r\nand windows lines\r\n",
]
ATOMS = [
    "'", "'s", "'S", "'t", "'re", "'ve", "'m", "'ll", "'d", "s", "ll", "l", "re", "r", "the", "to be", "nobler", "not",
    " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\v", "\f", "\0", "\x1c", "\x1f", "\x7f", "\x85", "\u00a0",
    "\u1680", "\u2003", "\u200b", "\u2028", "\u202f", "\u205f", "\u3000", "\ufeff", "\ufffd", "\ufffe",
    "0", "12", "٣", "Ⅷ", "²", "½", "é", "e\u0301", "\u0301", "ß", "İ", "ﬁ", "中", "文字", "日", "한",
    "😀", "👩‍👩‍👧", "\u200d", "\U000e0041", "\U0001f1e9", "\u0378", "\U0003fffe", "\U0010ffff",
    "!", "--", "...", "_", "<|endoftext|>", "<s>", "</s>", "<unk>", "question", "aaaaaaa", "ababab",
]  # fmt: skip
INVALID = [b"\xff", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xf4\x90\x80\x80", b"\xc0\x80", b"\x80"]

texts = st.one_of(
    st.lists(st.sampled_from(ATOMS), max_size=20).map("".join),
    st.text(max_size=20),
    st.text(st.sampled_from(" \n'saé中")),
)
pieces = st.one_of(st.sampled_from(INVALID), st.sampled_from(ATOMS).map(str.encode))
invalid_bytes = st.lists(pieces, max_size=9).map(b"".join)
inputs = st.lists(st.one_of(texts.map(str.encode), invalid_bytes, st.binary(max_size=20)), max_size=5)
