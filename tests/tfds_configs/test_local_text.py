"""Your own files: the grammar of --data_path, exact reading, honest errors, splits by position."""

import gzip
import json

import pytest

import tfds_configs
from tfds_configs.local_text import reader
from tfds_configs.local_text.data_path import parse
from tfds_configs.local_text.local_text_dataset_builder import LocalText
from zoo import text_files


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def texts(data_path, split="train"):
    return list(tfds_configs.get("local_text", data_path).texts(split))


def refusal(data_path, split="train"):
    with pytest.raises(ValueError) as caught:
        texts(data_path, split)
    return str(caught.value)


class TestGrammar:
    def test_files_globs_splits_and_options(self, here):
        for name in ("b.txt", "a.txt", "c.md", "odd,name=1.txt"):
            (here / name).write_text(name)
        assert parse("a.txt").files == {"train": ("a.txt",)}
        assert parse("*.txt").files == {"train": ("a.txt", "b.txt", "odd,name=1.txt")}
        assert parse("b.txt,a.txt").files == {"train": ("b.txt", "a.txt")}
        assert parse("train=a.txt,b.txt,validation=c.md").files == {
            "train": ("a.txt", "b.txt"),
            "validation": ("c.md",),
        }
        assert parse("odd,name=1.txt").files == {"train": ("odd,name=1.txt",)}, "a name that exists is taken as it stands"
        assert parse(r"a.txt,odd\,name\=1.txt").files == {"train": ("a.txt", "odd,name=1.txt")}
        full = parse("test=a.txt,format=csv,field=body,columns=label:body,errors=replace")
        assert (full.files, full.format, full.field) == ({"test": ("a.txt",)}, "csv", "body")
        assert (full.columns, full.errors) == (("label", "body"), "replace")

    @pytest.mark.parametrize(
        ("data_path", "sentence"),
        [
            ("x.txt", "There is no file 'x.txt'"),
            ("*.log", "There is no file '\\*.log'"),
            ("train=a.txt,validation=x.txt", "There is no file 'x.txt'"),
            ("trian=a.txt", "did you mean 'train'"),
            ("a.txt,format=xml", "tagged or conll or conllu or squad or parallel or po or tmx, got 'xml'"),
            ("a.txt,errors=ignore", "takes strict or replace, got 'ignore'"),
            ("a.txt,field=", "takes a name, got ''"),
            ("a.txt,columns=a::b", "different names with colons"),
            ("a.txt,columns=a:a", "different names with colons"),
            ("format=lines", "names no file"),
            ("a.txt,", "names an empty path"),
            (".", "is a directory; name its files with a glob"),
        ],
    )
    def test_what_is_refused(self, here, data_path, sentence):
        (here / "a.txt").write_text("a")
        with pytest.raises(ValueError, match=sentence):
            parse(data_path)

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("a.txt", "text"),
            ("a", "text"),
            ("a.JSONL", "jsonl"),
            ("a.ndjson.gz", "jsonl"),
            ("a.csv", "csv"),
            ("a.tsv.gz", "tsv"),
        ],
    )
    def test_the_name_tells_the_format(self, here, name, expected):
        (here / name).write_text("x")
        assert parse(name).format_of(name) == expected
        assert parse(name + ",format=lines").format_of(name) == "lines"


class TestReading:
    def test_line_ends_are_kept(self, here):
        text = "one\r\ntwo\rthree\n\n\u2028four\x0b\x85 end\r\n"
        (here / "a.txt").write_bytes(text.encode())
        (here / "b.txt").write_text("b")
        assert texts("train=a.txt,b.txt,validation=b.txt") == [text, "b"]

    def test_lines(self, here):
        (here / "a.txt").write_bytes("one\r\n\ntwo\u2028still two\rand still\n three".encode())
        assert texts("train=a.txt,validation=a.txt,format=lines") == ["one", "two\u2028still two\rand still", " three"]

    def test_a_byte_order_mark_is_no_text(self, here):
        (here / "a.txt").write_bytes(b"\xef\xbb\xbfone\ntwo\n")
        (here / "a.csv").write_bytes(b"\xef\xbb\xbftext,n\nx,1\ny,2\n")
        assert texts("train=a.txt,validation=a.txt") == ["one\ntwo\n"]
        assert texts("train=a.txt,validation=a.txt,format=lines") == ["one", "two"]
        assert texts("train=a.csv,validation=a.csv") == ["x", "y"]

    def test_json_lines(self, here):
        rows = [{"text": "one\ntwo", "id": 1}, {"text": "", "id": 2}, {"text": "snow \u2603", "id": 3}]
        (here / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf8")
        source = tfds_configs.get("local_text", "train=a.jsonl,validation=a.jsonl")
        assert list(source.examples("train")) == rows  # a task is told of a label without a text
        assert list(source.texts("train")) == ["one\ntwo", "snow \u2603"]
        (here / "b.jsonl").write_text('{"body": "x"}\n')
        assert texts("train=b.jsonl,validation=b.jsonl,field=body") == ["x"]

    def test_csv_has_quotes_and_tsv_has_none(self, here):
        (here / "a.csv").write_bytes(b'label,text\r\npos,"one, ""two""\r\nthree"\r\n\r\nneg,four\r\n')
        (here / "a.tsv").write_bytes(b'label\ttext\npos\t"one, "two\nneg\tfour\n')
        source = tfds_configs.get("local_text", "train=a.csv,validation=a.csv")
        assert list(source.examples("train")) == [
            {"label": "pos", "text": 'one, "two"\r\nthree'},
            {"label": "neg", "text": "four"},
        ]
        assert texts("train=a.tsv,validation=a.tsv") == ['"one, "two', "four"]

    def test_columns_without_a_header(self, here):
        (here / "a.tsv").write_text("3\tone\n4\ttwo\n")
        assert texts("train=a.tsv,validation=a.tsv,columns=label:text") == ["one", "two"]
        (here / "headed.tsv").write_text("label\ttext\n1\tone\n2\ttwo\n")  # a header that says the same is not a row
        assert texts("train=headed.tsv,validation=headed.tsv,columns=label:text") == ["one", "two"]
        source = tfds_configs.get("local_text", "train=a.tsv,validation=a.tsv,columns=label:body,field=body")
        assert list(source.examples("train"))[1] == {"label": "4", "body": "two", "text": "two"}

    def test_a_long_field_is_read(self, here):
        (here / "a.csv").write_text("text\n" + "x" * 200_003 + "\n")
        assert len(texts("train=a.csv,validation=a.csv")[0]) == 200_003

    def test_gzip(self, here):
        (here / "a.txt.gz").write_bytes(gzip.compress(b"one\r\n"))
        (here / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "two"}'))
        assert texts("train=a.txt.gz,b.jsonl.gz,validation=a.txt.gz") == ["one\r\n", "two"]


class TestErrors:
    def test_invalid_utf8_has_a_file_and_an_offset(self, here):
        (here / "a.txt").write_bytes(b"good \xff bad")
        (here / "lines.txt").write_bytes(b"12345\n6789\n\xe2\x82")
        (here / "mark.txt").write_bytes(b"\xef\xbb\xbfab\xfe")
        assert refusal("train=a.txt,validation=a.txt").startswith("a.txt is not UTF-8: byte 0xff at offset 5 (")
        assert "byte 0xe2 at offset 11 (unexpected end" in refusal("train=lines.txt,validation=a.txt,format=lines")
        assert "byte 0xfe at offset 5 " in refusal("train=mark.txt,validation=a.txt")
        assert texts("train=a.txt,validation=a.txt,errors=replace") == ["good \ufffd bad"]

    @pytest.mark.parametrize(
        ("name", "content", "options", "sentence"),
        [
            (
                "a.jsonl",
                '{"text": "x"}\n{"body": "y"}',
                "",
                "a.jsonl, line 2 has no field 'text': its fields are 'body'.",
            ),
            ("a.jsonl", "[1]", "", "a.jsonl, line 1 has no field 'text': it is not a JSON object."),
            ("a.jsonl", '{"text": "x"}\n{"text": ', "", "a.jsonl, line 2 is not JSON: Expecting value at column 10."),
            ("a.jsonl", '{"text": 5}', "", "a.jsonl, line 1: field 'text' must be a string, got 5."),
            ("a.jsonl", '{"text": "\\ud800"}', "", "a.jsonl, line 1 spells a lone surrogate"),
            (
                "a.csv",
                "label,body\n1,x\n",
                "",
                "a.csv has no column 'text': its columns are 'label', 'body'; choose one with field=",
            ),
            ("a.csv", "label,text\n1,x\n2\n", "", "a.csv, line 3 has 1 columns instead of 2."),
            ("a.csv", 'text\n"x"y\n', "", "a.csv, line 2 is not CSV: "),
            ("a.tsv", "1\tx\n2\ty\tz\n", ",columns=label:text", "a.tsv, line 2 has 3 columns instead of 2."),
            ("a.txt", "", "", "The train split of local_text holds no text: a.txt."),
            ("a.csv", "text\n", "", "The train split of local_text holds no text: a.csv."),
            ("a.txt", "\n\r\n", ",format=lines", "The train split of local_text holds no text: a.txt."),
        ],
    )
    def test_sentences(self, here, name, content, options, sentence):
        (here / name).write_bytes(content.encode())
        assert refusal(f"train={name},validation={name}{options}").startswith(sentence)

    def test_lone_surrogates_can_be_replaced(self, here):
        (here / "a.jsonl").write_text('{"text": "a\\ud800b\\ud83d\\ude00"}')
        assert texts("train=a.jsonl,validation=a.jsonl,errors=replace") == ["a\ufffdb\U0001f600"]

    def test_damaged_gzip(self, here):
        whole = gzip.compress(b"some text that is long enough" * 9)
        for damaged in (whole[:-12], b"no gzip", whole[:15] + b"\0\0\0\0\0" + whole[20:]):
            (here / "a.txt.gz").write_bytes(damaged)
            assert refusal("train=a.txt.gz,validation=a.txt.gz").startswith("a.txt.gz is a damaged gzip file")

    def test_a_split_that_was_not_given(self, here):
        (here / "a.txt").write_text("x")
        assert refusal("test=a.txt") == "local_text has no split 'train'; it has test."


class TestSplits:
    def test_one_document_is_cut_by_characters(self, here):
        text = "".join(chr(0x4E00 + i) for i in range(1115))
        (here / "a.txt").write_text(text, encoding="utf8")
        assert texts("a.txt") == [text[:1003]]
        assert texts("a.txt", "validation") == texts("a.txt", "test") == [text[1003:]]

    @pytest.mark.parametrize(("count", "for_training"), [(2, 1), (9, 8), (10, 9), (23, 20)])
    def test_several_documents_are_cut_by_number(self, here, count, for_training):
        (here / "a.txt").write_text("".join(f"{i}\n" for i in range(count)))
        found = [str(i) for i in range(count)]
        assert texts("a.txt,format=lines") == found[:for_training]
        assert texts("a.txt,format=lines", "validation") == texts("a.txt,format=lines", "test") == found[for_training:]

    def test_given_splits_are_not_cut(self, here):
        for name in "abc":
            (here / f"{name}.txt").write_text(name * 20)
        assert [texts("train=a.txt,validation=b.txt", s)[0][0] for s in ("train", "validation", "test")] == [
            "a",
            "b",
            "b",
        ]
        assert [texts("train=a.txt,validation=b.txt,test=c.txt", s)[0][0] for s in ("validation", "test")] == ["b", "c"]
        assert len(texts("train=a.txt,validation=b.txt")[0]) == 20
        held_out = "train=a.txt,test=c.txt"
        assert [texts(held_out, s) for s in ("train", "validation", "test")] == [["a" * 18], ["aa"], ["c" * 20]]

    @pytest.mark.parametrize("size", [1, 2, 7, 2**20])
    def test_pieces_are_the_texts(self, here, monkeypatch, size):
        monkeypatch.setattr(text_files, "BLOCK_BYTES", size)
        monkeypatch.setattr(reader, "BLOCK_BYTES", size)
        (here / "a.txt").write_bytes("\ufeffein \u2603\r\n\r\n\nzwei\rdrei\nvier fünf\r".encode())
        (here / "b.txt.gz").write_bytes(gzip.compress(b"sechs sieben\n"))
        (here / "empty.txt").write_text("")
        (here / "c.jsonl").write_text('{"text": "acht"}\n{"text": "neun"}\n')
        for files in (
            "a.txt",
            "b.txt.gz",
            "a.txt,empty.txt,b.txt.gz",
            "empty.txt,a.txt",
            "a.txt,c.jsonl",
            "train=a.txt,test=b.txt.gz",
        ):
            for format in ("", ",format=lines", ",format=text"):
                source = tfds_configs.get("local_text", files + format)
                for split in source.splits:
                    documents = [""]
                    for piece, ends in source.pieces(split):
                        documents[-1] += piece
                        documents += [""] * ends
                    assert documents == [*source.texts(split), ""]
                assert source.fields() == ("text",)

    def test_about_how_many_bytes_a_split_has(self, here):
        (here / "a.txt").write_text("x" * 100)
        (here / "b.txt.gz").write_bytes(gzip.compress(b"y"))
        (here / "c.jsonl").write_text('{"text": "acht"}\n')
        source = tfds_configs.get("local_text", "a.txt")
        assert [source.num_bytes(split) for split in source.splits] == [90, 10, 10]
        assert tfds_configs.get("local_text", "train=a.txt,test=a.txt").num_bytes("test") == 100
        assert [tfds_configs.get("local_text", file).num_bytes("train") for file in ("b.txt.gz", "c.jsonl")] == [None, None]

    def test_too_little_to_cut(self, here):
        (here / "a.txt").write_text("x")
        assert refusal("a.txt") == "The train split of local_text holds no text: a.txt."


class TestFingerprint:
    def test_it_changes_with_content_order_and_reading(self, here):
        (here / "a.txt").write_text("one\ntwo\n")
        (here / "b.txt").write_text("three\nfour\n")

        def fingerprint(data_path):
            return tfds_configs.get("local_text", data_path).fingerprint()

        paths = [
            "a.txt",
            "b.txt",
            "a.txt,b.txt",
            "b.txt,a.txt",
            "a.txt,format=lines",
            "a.txt,errors=replace",
            "test=a.txt",
        ]
        assert len({fingerprint(path) for path in paths}) == len(paths)
        before = fingerprint("a.txt")
        assert fingerprint(str(here / "a.txt")) == before, "the content counts, not the path"
        (here / "a.txt").write_text("one\nTwo\n")
        assert fingerprint("a.txt") != before


def test_the_tfds_builder_gives_the_same_documents(here):
    (here / "a.txt").write_bytes("eins\r\nzwei\n\u2603".encode() * 7)
    (here / "t.jsonl").write_text('{"body": "x"}\n{"body": "y"}\n')
    for data_path in ("a.txt", "a.txt,format=lines", "train=a.txt,test=t.jsonl,field=body"):
        source = tfds_configs.get("local_text", data_path)
        builder = LocalText(data_path=data_path, data_dir=here / "tfds")
        builder.download_and_prepare()
        assert set(builder.info.splits) == set(source.splits)
        for split in source.splits:
            stored = [example["text"].decode() for example in builder.as_dataset(split=split).as_numpy_iterator()]
            assert stored == list(source.texts(split))
