"""Sentences of words in columns: tags, semantic roles, comments, document marks, words with blanks."""

import json

import pytest

import tfds_configs
from zoo.config import Refusal


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(here, content, options="", name="a.conll"):
    (here / name).write_bytes(content.encode())
    source = tfds_configs.get("local_text", f"train={name},validation={name}{options}")
    return list(source.examples("train")), source


def tags(here, content, options="", name="a.conll"):
    return [list(zip(r["tokens"], r["tags"], strict=True)) for r in read(here, content, options, name)[0]]


def refusal(here, content, options="", name="a.conll"):
    with pytest.raises(Refusal) as caught:
        read(here, content, options, name)
    return str(caught.value)


SENTENCES = [[("anna", "B-PER"), ("sings", "O")], [("oslo", "B-LOC")]]


class TestTags:
    @pytest.mark.parametrize(
        "content",
        [
            "anna\tB-PER\nsings\tO\n\noslo\tB-LOC\n",
            "anna\tB-PER\r\nsings\tO\r\n\r\n\r\noslo\tB-LOC",
            "anna NN B-PER\nsings  VB   O \n \t\noslo NN B-LOC\n",
            "-DOCSTART- -X- O\n\nanna NN B-PER\nsings VB O\n\n-DOCSTART- -X- O\n\noslo NN B-LOC\n",
            "-DOCSTART-\tO\nanna\tB-PER\nsings\tO\n\noslo\tB-LOC\n",
            "# id 0-1\tdomain=en\nanna _ _ B-PER\nsings _ _ O\n\n# id 0-2\tdomain=en\noslo _ _ B-LOC\n",
            "# sent_id = 1\n# text = anna sings\nanna\tx\ty\tB-PER\nsings\tx\ty\tO\n\n# only a comment\n\noslo\tx\ty\tB-LOC\n",
            "# text = x\nanna _ _ B-PER\nsings _ _ O\n\n# text = y\noslo _ _ B-LOC\n",
            "#begin document (a); part 000\nanna NN B-PER\nsings VB O\n\noslo NN B-LOC\n\n#end document\n",
        ],
    )
    def test_one_meaning_in_several_layouts(self, here, content):
        assert tags(here, content) == SENTENCES
        assert tags(here, content, ",format=tagged", name="a.txt") == SENTENCES

    def test_words_that_begin_with_a_hash_are_words(self, here):
        content = "#\tSYM\n1\tNUM\n\n#tag\tX\n\n# comment\n#tag\tX\nit\tPRON\n"
        assert tags(here, content) == [[("#", "SYM"), ("1", "NUM")], [("#tag", "X")], [("#tag", "X"), ("it", "PRON")]]
        assert tags(here, "# SYM\n1 NUM\n\n#tag X\n") == [[("#", "SYM"), ("1", "NUM")], [("#tag", "X")]]
        assert tags(here, "a\tX\n#\tSYM\n") == [[("a", "X"), ("#", "SYM")]]

    def test_the_column_of_the_tags(self, here):
        content = "anna\tNN\tB-NP\tB-PER\nsings\tVB\tB-VP\tO\n"
        assert tags(here, content, ",column=2") == [[("anna", "NN"), ("sings", "VB")]]
        assert tags(here, content, ",format=conll,column=3") == [[("anna", "B-NP"), ("sings", "B-VP")]]
        assert tags(here, content, ",columns=-:tag:word") == [[("B-NP", "NN"), ("B-VP", "VB")]]
        assert "a.conll, line 1 has 4 columns, and the tag should be in column 5." in refusal(here, content, ",column=5")
        assert "takes a number from 1, got '0'" in refusal(here, content, ",column=0")

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            ("a\tX\nb\n", "a.conll, line 2 is not a word, a tab and its tag: 'b'."),
            ("a\tX\nb y z\n", "a.conll, line 2 has 3 columns between blanks and line 1 has 2"),
            ("a\tX\nb\ty\tX\n", "a.conll, line 2 has 3 columns between tabs and line 1 has 2"),
            ("new york LOC\nis O\n", "a.conll, line 2 has 2 columns between blanks and line 1 has 3"),
            ("a\nb\n", "a.conll, line 1 is not a word, a tab and its tag: 'a'."),
            ("a\tX\n\nb\t\n", "a.conll, line 3 has an empty tag"),
            ("a\tX\n\n\tX\n", "a.conll, line 3 has an empty word"),
        ],
    )
    def test_what_is_refused(self, here, content, sentence):
        assert sentence in refusal(here, content)

    def test_words_with_blanks_are_refused_or_cut_as_a_server_cuts_them(self, here):
        content = "New York\tB-LOC\nis\tO\n10 000\tNUM\n\u3000\tX\n"
        said = refusal(here, content)
        assert said.startswith("a.conll, line 1 has the word 'New York' with white space in it, where a server would cut it; ")
        records, source = read(here, content, ",blanks=split")
        assert list(zip(records[0]["tokens"], records[0]["tags"], strict=True)) == [
            ("New", "B-LOC"), ("York", "I-LOC"), ("is", "O"), ("10", "NUM"), ("000", "NUM"), ("\u3000", "X"),
        ]  # fmt: skip
        assert source.found.sentences() == [
            "a.conll: words with white space in them are cut there; each part has the tag of the whole (2 in all, the first in "
            "line 1)."
        ]

    def test_json_lines_too(self, here):
        row = json.dumps({"tokens": ["in", "New York"], "tags": ["O", "LOC"]})
        assert "a.jsonl, line 2 has the word 'New York'" in refusal(here, f"\n{row}\n", name="a.jsonl")
        records, source = read(here, row, ",blanks=split", name="a.jsonl")
        assert records == [{"tokens": ["in", "New", "York"], "tags": ["O", "LOC", "LOC"]}]
        assert source.fields() == ("tokens", "tags")


ROLES = [
    {
        "text": "Anna sees him sing", "tokens": ["Anna", "sees", "him", "sing"], "predicates": [1, 3],
        "senses": ["see.01", "sing.01"], "tags": [["B-ARG0", "B-V", "B-ARG1", "I-ARG1"], ["O", "O", "B-ARG0", "B-V"]],
    },
    {"text": "Hello", "tokens": ["Hello"], "predicates": [], "senses": [], "tags": []},
]  # fmt: skip


class TestRoles:
    @pytest.mark.parametrize(
        ("content", "options"),
        [
            (
                "Anna\t-\tB-ARG0\tO\nsees\tsee.01\tB-V\tO\nhim\t-\tB-ARG1\tB-ARG0\nsing\tsing.01\tI-ARG1\tB-V\n\nHello\t-\n",
                "",
            ),
            (
                "Anna  -       (ARG0*)  *\r\nsees  see.01  (V*)     *\r\nhim   -       (ARG1*   (ARG0*)\r\n"
                "sing  sing.01 *)       (V*)\r\n\r\nHello -\r\n",
                "",
            ),
            (
                "d 0 Anna NN - s (ARG0*) * -\nd 1 sees VB see.01 s (V*) * -\nd 2 him PRP - s (ARG1* (ARG0*) (7)\n"
                "d 3 sing VB sing.01 s *) (V*) -\n\nd 0 Hello UH - s -\n",
                ",columns=-:-:word:-:predicate:-:roles",
            ),
        ],
    )
    def test_one_meaning_in_several_layouts(self, here, content, options):
        assert read(here, content, f",format=conll{options}")[0] == ROLES

    def test_a_v_that_is_not_at_its_predicate_is_counted(self, here):
        (record,), source = read(here, "a\tgo.01\tO\nb\t-\tB-V\n", ",format=conll")
        assert record["predicates"] == [0] and record["tags"] == [["O", "B-V"]]
        (remark,) = source.found.sentences()
        assert (
            remark == "a.conll: predicates have their V at another word than the predicate's (1 in all, the first in line 1)."
        )

    def test_words_and_props_in_two_files(self, here):
        (here / "a.words").write_text("Anna\nsees\nhim\nsing\n\nHello\n")
        props = "-       (ARG0*)  *\nsee.01  (V*)     *\n-  (ARG1*  (ARG0*)\nsing.01 *)  (V*)\n\n-\n"
        (here / "a.props").write_text(props)
        path = "train=a.words:a.props,validation=a.words:a.props,format=conll"
        assert list(tfds_configs.get("local_text", path).examples("train")) == ROLES
        (here / "a.props").write_text(props.replace("*\nsee", "*\n\nsee", 1).replace("\n\n-\n", "\n-\n"))
        with pytest.raises(Refusal, match="Line 2 ends a sentence in one of a.words and a.props"):
            list(tfds_configs.get("local_text", path).examples("train"))

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            ("a\tB-X\nb\tO\n", "line 1: the sentence has 2 predicates in column 2 and 0 columns of roles"),
            ("a\tgo.01\tB-V\tO\nb\t-\tO\tO\n", "line 1: the sentence has 1 predicates in column 2 and 2 columns of roles"),
            ("a\tgo.01\t(V*)\nb\t-\t*)\n", "line 2: *) ends a span that has no beginning"),
            ("a\tgo.01\t(V*)\nb\t-\t(A1*\n", "line 2: the span A1 has no end"),
            ("a\tgo.01\t(A1*\nb\t-\t(V*)\n", "line 2: (V*) begins a span inside of the span A1"),
            ("a\tgo.01\tB-V\nb\t-\t(A1*)\n", "line 1: a column of roles mixes BIO tags with others"),
        ],
    )
    def test_what_is_refused(self, here, content, sentence):
        assert sentence in refusal(here, content, ",format=conll")


def conllu(*rows):
    """Lines of CoNLL-U, from (id, form, UPOS, further columns)."""
    return "".join("\t".join([i, form, "_", tag, *"_" * 6, *more]) + "\n" for i, form, tag, *more in rows)


class TestConllu:
    def test_tags_are_those_of_the_syntactic_words(self, here):
        content = "# text = du\n" + conllu(("1-2", "du", "_"), ("1", "de", "ADP"), ("2", "le", "DET"), ("2.1", "x", "_"))
        assert tags(here, content, name="a.conllu") == [[("de", "ADP"), ("le", "DET")]]
        assert "CoNLL-U has ten; files with a word first" in refusal(here, "a\tX\n", ",format=conllu")

    def test_universal_propositions_1_labels_heads(self, here):
        content = conllu(
            ("1", "Anna", "X", "_", "A0", "_"), ("2", "sees", "X", "see.01", "V", "_"), ("3", "him", "X", "_", "_", "A0"),
            ("4", "sing", "X", "sing.01", "A1", "V"),
        )  # fmt: skip
        (record,), _ = read(here, content, name="a.conllu")
        assert (record["predicates"], record["senses"]) == ([1, 3], ["see.01", "sing.01"])
        assert record["tags"] == [["B-A0", "B-V", "O", "B-A1"], ["O", "O", "B-A0", "B-V"]]

    def test_universal_propositions_2_has_spans(self, here):
        content = conllu(
            ("1", "Anna", "X", "_", "_", "_"), ("2", "sees", "X", "see.01", "A0:1|A1:4", "A0:1-1|A1:3-4"),
            ("3", "him", "X", "_", "_", "_"), ("4", "sing", "X", "sing.01", "A0:3", "A0:3-3"),
        )  # fmt: skip
        (record,), _ = read(here, content, name="a.conllu")
        assert record["tags"] == [["B-A0", "B-V", "B-A1", "I-A1"], ["O", "O", "B-A0", "B-V"]]
