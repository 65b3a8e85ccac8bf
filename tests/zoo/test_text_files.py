"""One reader of text files, for data, prompts, vocabularies and tables."""

import gzip
import io

import pytest

from zoo import text_files
from zoo.config import Refusal
from zoo.data.augmentation import read_synonyms
from zoo.data.word_questions import read_similarity
from zoo.tokenizers.base import create

ODD = "one\u2028still one\x0cand\x85so on\rtoo"  # what str.splitlines would cut, and text mode too


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


@pytest.mark.parametrize("mark", [b"", text_files.UTF8_MARK])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_ends_at_a_line_feed_alone_and_a_mark_is_not_text(tmp_path, mark, end):
    data = mark + end.join([ODD, "", "two", ""]).encode()
    path, packed = write(tmp_path / "a.txt", data), write(tmp_path / "a.txt.gz", gzip.compress(data))
    for file in (path, packed):
        assert list(text_files.lines(file)) == [(1, ODD), (2, ""), (3, "two")]
        assert text_files.whole(file) == end.join([ODD, "", "two", ""])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_blocks_are_the_whole(tmp_path, monkeypatch, size):
    monkeypatch.setattr(text_files, "BLOCK_BYTES", size)
    for data in (
        "aé中😀\r\nb" * 3, "\ufeffé", "", "é", b"\xffa\xe2\x82b\xf0\x9f\x98\xed\xa0\x80\xc3", b"ab\xf0\x9f",
        b"\xef\xbb\xbf\x80a",
    ):  # fmt: skip
        for file in (write(tmp_path / "a", data), write(tmp_path / "a.gz", gzip.compress(tmp_path.joinpath("a").read_bytes()))):
            assert "".join(text_files.blocks(file, "replace")) == text_files.whole(file, "replace")
            refusals = []
            for read in (text_files.whole, lambda path: list(text_files.blocks(path))):
                try:
                    read(file)
                except Refusal as refusal:
                    refusals.append(str(refusal))
            assert len(set(refusals)) == len(refusals) // 2


def test_what_is_not_utf8_is_refused_with_its_place(tmp_path):
    with pytest.raises(Refusal, match="byte 0xe9 at offset 8"):
        list(text_files.lines(write(tmp_path / "a", b"fine\ncaf" + b"\xe9\n")))
    with pytest.raises(Refusal, match="begins with the mark of UTF-16"):
        text_files.whole(write(tmp_path / "b", "text".encode("utf-16")))
    with pytest.raises(Refusal, match="damaged gzip"):
        text_files.whole(write(tmp_path / "c.gz", gzip.compress(b"text")[:-4]))


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_and_vocabularies_are_read_the_same_way(tmp_path, mark, end):
    """A byte order mark is not a part of the first token or word, and a carriage return not one of any."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "##s"]
    write(tmp_path / "vocab.txt", mark + end.join(tokens) + end)
    tokenizer = create(str(tmp_path / "vocab.txt"))
    assert (list(tokenizer.vocabulary), tokenizer.pad_id, tokenizer.encode("cats")) == (tokens, 0, [5, 6])
    synonyms = write(tmp_path / "synonyms.tsv", f"{mark}cat\ttom{end}dog\thound\u2028dog{end}")
    assert read_synonyms(synonyms) == {"cat": ["tom"], "dog": ["hound\u2028dog"]}
    judged = write(tmp_path / "pairs.tsv", f"{mark}cat\tdog\t7{end}a\u2028b\tc\t1{end}")
    assert [tuple(question) for question in read_similarity(judged)] == [("cat", "dog", 7.0), ("a\u2028b", "c", 1.0)]


def test_a_stream_is_read_as_a_file_is():
    stream = io.BytesIO("\ufeffone\u2028two\r\n\nthree\rfour".encode())
    assert list(text_files.lines_of(stream, "it")) == [(1, "one\u2028two"), (2, ""), (3, "three\rfour")]
    with pytest.raises(Refusal, match="it is not UTF-8: byte 0xff at offset 2"):
        list(text_files.lines_of(io.BytesIO(b"a\n\xff\n"), "it"))
