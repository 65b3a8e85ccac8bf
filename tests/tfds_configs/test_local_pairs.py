"""Pairs of texts from your own files: two files line by line, columns and fields, gettext catalogues, translation memories."""

import gzip
import json

import pytest

import tfds_configs
from tfds_configs.local_text.data_path import parse
from zoo.config import Refusal


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(data_path, split="train"):
    source = tfds_configs.get("local_text", data_path)
    return list(source.examples(split)), source


def sides(data_path, split="train"):
    return [(record["source"], record["target"]) for record in read(data_path, split)[0]]


def refusal(data_path, split="train"):
    with pytest.raises(Refusal) as caught:
        read(data_path, split)
    return str(caught.value)


class TestTwoFiles:
    def test_they_are_read_line_by_line(self, here):
        (here / "a.en").write_bytes(b"\xef\xbb\xbfone\r\ntwo\xe2\x80\xa8still two\nthree")
        (here / "a.fr").write_bytes(b"un\ndeux\ntrois\n")
        (here / "b.en.gz").write_bytes(gzip.compress(b"four\n"))
        (here / "b.fr").write_bytes(b"quatre\n")
        both = "train=a.en:a.fr,validation=b.en.gz:b.fr"
        assert sides(both) == [("one", "un"), ("two\u2028still two", "deux"), ("three", "trois")]
        assert sides(both, "validation") == sides(both, "test") == [("four", "quatre")]
        source = read(both)[1]
        assert source.fields() == ("source", "target")
        with pytest.raises(Refusal, match="local_text has no field 'text'; it has source, target; name yours with field="):
            list(source.texts("train"))

    def test_globs_and_colons_in_names(self, here):
        for name in ("1.en", "2.en", "1.fr", "2.fr", "odd:name.en"):
            (here / name).write_text(f"{name}\n")
        assert sides("train=*.en:?.fr,validation=1.en:1.fr".replace("*", "?")) == [("1.en", "1.fr"), ("2.en", "2.fr")]
        assert parse("odd:name.en").files == {"train": ("odd:name.en",)}
        paired = parse(r"train=odd\:name.en:1.fr,2.en:2.fr")
        assert paired.files_of("train") == [("odd:name.en", "1.fr"), ("2.en", "2.fr")]
        assert "names 3 files on the left and 2 on the right" in refusal("train=*.en:*.fr")
        assert "names 3 files with colons" in refusal("1.en:1.fr:2.fr")
        assert sides("train=1.en:1.fr,validation=1.en:1.fr,format=parallel") == [("1.en", "1.fr")]
        assert "1.en has no file beside it; format=parallel reads two" in refusal("1.en,format=parallel")
        assert "There is no file '3.fr'" in refusal("1.en:3.fr")
        assert "format=lines reads one file" in refusal("1.en:1.fr,format=lines")

    @pytest.mark.parametrize(("left", "right", "shorter", "last"), [(3, 5, "a.en", 4), (7, 5, "a.fr", 6)])
    def test_unequal_numbers_of_lines_are_refused_with_both(self, here, left, right, shorter, last):
        (here / "a.en").write_text("x\n" * left)
        (here / "a.fr").write_text("y\n" * right)
        said = refusal("train=a.en:a.fr,validation=a.en:a.fr")
        assert said.startswith(f"a.en has {left} lines and a.fr has {right}: line {last} has no partner in {shorter}; ")

    def test_empty_sides_are_left_out_and_counted_once(self, here):
        (here / "a.en").write_text("one\n\n three\nfour\n")
        (here / "a.fr").write_text("un\ndeux\n\t\nquatre\n")
        records, source = read("train=a.en:a.fr,validation=a.en:a.fr")
        assert [record["source"] for record in records] == ["one", "four"]
        list(source.examples("train"))
        assert source.found.sentences() == ["a.en: pairs with an empty side are left out (2 in all, the first in line 2)."]
        (here / "a.fr").write_text("\n" * 4)
        assert refusal("train=a.en:a.fr,validation=a.en:a.fr") == "The train split of local_text holds no text: a.en."

    def test_the_fingerprint_knows_both_files(self, here):
        for name in ("a.en", "a.fr"):
            (here / name).write_text("x\n" * 20)
        prints = [read("a.en:a.fr")[1].fingerprint(), read("a.fr:a.en")[1].fingerprint()]
        assert prints[0] == prints[1]  # equal bytes
        (here / "a.fr").write_text("y\n" * 20)
        assert len({read(path)[1].fingerprint() for path in ("a.en:a.fr", "a.fr:a.en", "a.en,a.fr")} | set(prints)) == 4


class TestColumnsAndFields:
    def test_columns_of_a_file_without_a_header(self, here):
        (here / "a.tsv").write_text("one\tun\ntwo\tdeux\n")
        (here / "a.csv").write_text('en,fr\n"one, two",un\n')
        assert sides("train=a.tsv,validation=a.tsv,columns=source:target") == [("one", "un"), ("two", "deux")]
        assert sides("train=a.tsv,validation=a.tsv,columns=target:source") == [("un", "one"), ("deux", "two")]
        assert sides("train=a.csv,validation=a.csv,source=en,target=fr") == [("one, two", "un")]
        assert "has no column 'de': its columns are 'en', 'fr'" in refusal("train=a.csv,validation=a.csv,source=en,target=de")
        assert "a.csv has no column 'text'" in refusal("train=a.csv,validation=a.csv")

    def test_fields_of_json_lines(self, here):
        rows = [
            {"source": "long", "target": ["short", "", "brief"]},
            {"source": "x", "target": []},
            {"source": "y", "target": "z"},
        ]
        (here / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
        records, source = read("train=a.jsonl,validation=a.jsonl,columns=source:target")
        assert records[0] == {"source": "long", "target": "short", "targets": ["short", "brief"]}
        assert records[1:] == [{"source": "y", "target": "z"}]
        assert source.found.sentences() == ["a.jsonl: pairs with an empty side are left out (1 in all, the first in line 2)."]
        assert read("train=a.jsonl,validation=a.jsonl")[0] == records, "the fields alone say that these are pairs"
        (here / "b.jsonl").write_text('{"translation": {"en": "one", "fr": "un"}}')
        fields = "source=translation/en,target=translation/fr"
        assert sides(f"train=b.jsonl,validation=b.jsonl,{fields}") == [("one", "un")]
        missing = refusal("train=b.jsonl,validation=b.jsonl,source=translation/de,target=translation/fr")
        assert missing == "b.jsonl, line 1 has no field 'translation/de': its fields are 'translation'."
        (here / "c.jsonl").write_text('{"source": 5, "target": "x"}')
        assert refusal("train=c.jsonl,validation=c.jsonl") == "c.jsonl, line 1: source must be a string, got 5."
        (here / "d.jsonl").write_text('{"source": "x", "summary": "y"}')
        assert "has no field 'target'" in refusal("train=d.jsonl,validation=d.jsonl,columns=source:target")


PO = """msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\\n"
"Plural-Forms: nplurals=2; plural=(n > 1);\\n"

msgid "Open %s"
msgstr "Ouvrir %s"

#, fuzzy
msgid "Close"
msgstr "Clore"

msgid "Untranslated"
msgstr ""

msgid "%d file"
msgid_plural "%d files"
msgstr[0] "%d fichier"
msgstr[1] "%d fichiers"

#~ msgid "Old"
#~ msgstr "Vieux"
"""


class TestCatalogues:
    def test_translated_messages(self, here):
        (here / "fr.po").write_text(PO, encoding="utf8")
        records, source = read("train=fr.po,validation=fr.po")
        assert [(record["source"], record["target"]) for record in records] == [
            ("Open %s", "Ouvrir %s"), ("%d file", "%d fichier"), ("%d files", "%d fichiers"),
        ]  # fmt: skip
        assert source.found.sentences() == [
            "fr.po: messages are obsolete (#~) and left out (1 in all, the first in line 21).",
            "fr.po: messages are marked fuzzy and left out (1 in all, the first in line 10).",
            "fr.po: messages have no translation and are left out (1 in all, the first in line 13).",
        ]

    def test_what_is_not_a_catalogue(self, here):
        (here / "fr.po").write_text('msgid "a"\nmsgstr "b"\nnonsense here\n')
        assert refusal("train=fr.po,validation=fr.po").startswith("fr.po is not a gettext catalogue: ")


TMX = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"><header srclang="en" datatype="plaintext"/><body>
<tu><tuv xml:lang="fr-FR"><seg>Deux &amp; trois</seg></tuv><tuv xml:lang="en-US"><seg>Two &amp;
 three</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>A <bpt i="1">&lt;b></bpt><hi>bold</hi><ept i="1">&lt;/b></ept> word</seg></tuv>
<tuv xml:lang="fr"><seg>Un mot <ph x="2"/>gras</seg></tuv>{more}</tu>
<tu><tuv xml:lang="en"><seg>Alone</seg></tuv></tu>
</body></tmx>
"""


class TestTranslationMemories:
    def test_units_of_the_files_two_languages(self, here):
        (here / "a.tmx").write_text(TMX.replace("{more}", ""), encoding="utf8")
        records, source = read("train=a.tmx,validation=a.tmx")
        assert [tuple(record.values()) for record in records] == [
            ("Two & three", "Deux & trois"), ("A bold word", "Un mot gras"),
        ]  # fmt: skip
        assert source.found.sentences() == [
            "a.tmx: units lack one of the two languages and are left out (1 in all, the first in line 8)."
        ]

    def test_two_of_several_languages(self, here):
        (here / "a.tmx").write_text(TMX.replace("{more}", '<tuv lang="DE"><seg>Fett</seg></tuv>'), encoding="utf-16")
        text = (here / "a.tmx").read_text(encoding="utf-16").replace('encoding="UTF-8"', 'encoding="UTF-16"')
        (here / "a.tmx").write_text(text, encoding="utf-16")
        said = refusal("train=a.tmx,validation=a.tmx")
        assert said == "a.tmx, line 6 has en, fr, de; say which two with languages=, such as en:fr."
        assert sides("train=a.tmx,validation=a.tmx,languages=fr:EN")[0] == ("Deux & trois", "Two & three")
        assert sides("train=a.tmx,validation=a.tmx,languages=de:fr") == [("Fett", "Un mot gras")]
        assert "languages takes two different names" in refusal("a.tmx,languages=en")

    def test_a_file_longer_than_a_block_is_streamed(self, here):
        unit = '<tu><tuv xml:lang="en"><seg>number {0}</seg></tuv><tuv xml:lang="nl"><seg>nummer {0}</seg></tuv></tu>'
        units = "\n".join(unit.format(i) for i in range(1_501))
        (here / "a.tmx").write_text(f'<tmx><header srclang="*all*"/><body>{units}</body></tmx>')
        assert sides("train=a.tmx,validation=a.tmx") == [(f"number {i}", f"nummer {i}") for i in range(1_501)]

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            ('<!DOCTYPE tmx [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><tmx>&b;</tmx>', "declares the entity 'a'"),
            ('<!DOCTYPE tmx [<!ENTITY a SYSTEM "/etc/hostname">]><tmx>&a;</tmx>', "declares the entity 'a'"),
            ("<tmx><body>", "a.tmx is not TMX: no element found"),
            ("<html></html>", "a.tmx is XML and not TMX"),
            ('<?xml version="1.0" encoding="foo-9"?><tmx></tmx>', "a.tmx is not TMX: unknown encoding: foo-9"),
            ("<tmx><tu><tuv><seg>x</seg></tuv></tu></tmx>", "an element tuv has no xml:lang"),
        ],
    )
    def test_what_is_refused(self, here, content, sentence):
        (here / "a.tmx").write_text(content)
        assert sentence in refusal("train=a.tmx,validation=a.tmx")
