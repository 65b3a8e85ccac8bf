"""ARPA files: a round trip, KenLM as judge, and what a malformed file is told."""

import gzip
import tracemalloc

import numpy as np
import pytest
from keras import ops

import zoo
from tests import exports, programs
from zoo.bundle import Bundle
from zoo.convert import arpa
from zoo.models.ngram import NGram, NGramConfig

WORDS = ["ein", "\n", "über", "<unk>", "zwei\u00a0drei", "世界"]
EOS, UNK = 1, 3

# Order 2, written by hand: two words, and histories <s> and "a".
SMALL = """\\data\\
ngram 1=4
ngram 2=2

\\1-grams:
-0.5\t</s>
-99\t<s>\t-0.25
-0.75\ta\t-0.125
-1.5\t<unk>

\\2-grams:
-0.375\t<s> a
-0.0625\ta </s>

\\end\\
"""


def fitted(order):
    ids = np.random.default_rng(0).choice(6, 307, p=[0.3, 0.2, 0.2, 0.05, 0.25, 0])
    model = NGram(NGramConfig(order=order, vocab_size=6, eos_id=EOS, unk_id=UNK))
    model.fit_closed_form(np.concatenate([[EOS], ids, [EOS]]))
    return model


@pytest.mark.parametrize("order", [1, 2, 5])
def test_round_trip_loses_nothing(order, tmp_path):
    model = fitted(order)
    arpa.write(tmp_path / "a.arpa", model, WORDS)
    again, words = arpa.read(tmp_path / "a.arpa")
    assert words == ["ein", "</s>", "über", "<unk>", "zwei\u00a0drei", "世界"]
    assert again.config == model.config
    for ours, theirs in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    arpa.write(tmp_path / "b.arpa", again, words)
    assert (tmp_path / "a.arpa").read_bytes() == (tmp_path / "b.arpa").read_bytes()


def test_numbers_by_hand(tmp_path):
    (tmp_path / "small.arpa").write_text(SMALL, encoding="utf8")
    model, words = arpa.read(tmp_path / "small.arpa")
    assert words == ["</s>", "a", "<unk>"] and model.config.unk_id == 2 and model.config.eos_id == 0
    log10 = ops.convert_to_numpy(model(np.array([[0, 1, 2]])))[0] / np.log(10)
    np.testing.assert_allclose(log10[0], [-0.25 - 0.5, -0.375, -0.25 - 1.5], rtol=1e-6)
    np.testing.assert_allclose(log10[1], [-0.0625, -0.125 - 0.75, -0.125 - 1.5], rtol=1e-6)
    np.testing.assert_allclose(log10[2], [-0.5, -0.75, -1.5], rtol=1e-6)


def test_written_lines_by_hand(tmp_path):
    (tmp_path / "small.arpa").write_text(SMALL, encoding="utf8")
    arpa.write(tmp_path / "again.arpa", *arpa.read(tmp_path / "small.arpa"))
    lines = (tmp_path / "again.arpa").read_text(encoding="utf8").split("\n")
    assert lines[:5] == ["\\data\\", "ngram 1=4", "ngram 2=2", "", "\\1-grams:"]
    assert lines[5].startswith("-99\t<s>\t-0.25")  # before </s>, which is not a history and leaves nothing
    assert lines[6].startswith("-0.5") and lines[6].endswith("\t</s>\t0")
    assert lines[10] == "\\2-grams:" and lines[11].endswith("\t<s> a") and lines[12].endswith("\ta </s>")
    assert lines[13:] == ["", "\\end\\", ""]


def test_kenlm_gives_our_scores(tmp_path):
    kenlm = pytest.importorskip("kenlm", reason="KenLM's Python module is not installed")
    model = fitted(5)
    arpa.write(tmp_path / "a.arpa", model, WORDS)
    judge = kenlm.Model(str(tmp_path / "a.arpa"))
    rng = np.random.default_rng(7)
    for _ in range(20):
        ids = rng.choice([0, 2, 3, 4, 5], rng.integers(0, 13))
        sentence = " ".join("never-seen" if i == UNK else WORDS[i] for i in ids)
        ours = model.token_log_probs(np.array([[EOS, *ids]]), np.array([[*ids, EOS]]))[0]
        theirs = [log10 for log10, _, _ in judge.full_scores(sentence)]
        np.testing.assert_allclose(ops.convert_to_numpy(ours)[0] / np.log(10), theirs, atol=1e-4)


@pytest.mark.parametrize(
    "old, new, sentence",
    [
        ("\\data\\\n", "hello\n", "line 15: the file ends where .data. should stand"),
        ("\\data\\\n", "mmap lm http://kheafield.com/code format version 5\n", "is a binary file of KenLM"),
        ("ngram 2=2", "ngram 2=two", "line 3: expected 'ngram 2='"),
        ("ngram 2=2", "ngram 3=2", "line 3: expected 'ngram 2='"),
        ("ngram 2=2", "ngram 2=3", "line 14: expected a log10 probability"),
        ("ngram 2=2", "ngram 2=1", "line 13: expected .end"),
        ("-0.75\ta", "-0.75\ta b c", "line 8: expected a log10 probability, 1 words"),
        ("-0.75\ta", "0.75\ta", "line 8: a log10 probability must be"),
        ("-0.75\ta", "nan\ta", "line 8: a log10 probability must be"),
        ("\ta\t-0.125", "\ta\tinf", "line 8: a log10 back-off weight must be finite"),
        ("-1.5\t<unk>", "-1.5\ta", "line 8: this word stands in the list again"),
        ("<s> a", "a a", None),
        ("<s> a", "a <s>", "line 12: <s> can only begin"),
        ("a </s>", "</s> a", "line 13: </s> can only end"),
        ("a </s>", "<s> a", "line 13: this n-gram stands in the list twice"),
        ("<s> a", "b a", "line 12: a word is not among the unigrams"),
        ("\\2-grams:", "\\3-grams:", "line 11: expected .2-grams"),
        ("\\end\\", "", "ends where .end"),
        ("</s>", "x", "has no </s>"),
        ("ngram 2=2\n", "ngram 2=2\n" + "".join(f"ngram {n}=0\n" for n in range(3, 9)), "order 8"),
    ],
)
def test_malformed_files_name_their_line(old, new, sentence, tmp_path):
    path = tmp_path / "bad.arpa"
    path.write_text(SMALL.replace(old, new), encoding="utf8")
    if sentence is None:
        assert arpa.read(path)[0].config.ngram_counts == (3, 2)
        return
    with pytest.raises(ValueError, match=sentence) as error:
        arpa.read(path)
    assert str(path) in str(error.value)


def test_a_history_that_is_missing_names_its_line(tmp_path):
    text = SMALL.replace("ngram 2=2\n", "ngram 2=2\nngram 3=1\n")
    text = text.replace("a </s>\n", "a </s>\n\n\\3-grams:\n-0.5\ta a a\n")
    (tmp_path / "bad.arpa").write_text(text, encoding="utf8")
    with pytest.raises(ValueError, match="line 17: the file lacks this n-gram without its last word"):
        arpa.read(tmp_path / "bad.arpa")


def test_a_gzip_file_without_its_name(tmp_path):
    (tmp_path / "a.arpa").write_bytes(gzip.compress(SMALL.encode()))
    with pytest.raises(ValueError, match="a.arpa is a gzip file; give it a name that ends in .gz"):
        arpa.read(tmp_path / "a.arpa")


def test_a_truncated_file(tmp_path):
    (tmp_path / "bad.arpa").write_text(SMALL[: SMALL.index("-0.0625")], encoding="utf8")
    with pytest.raises(ValueError, match="line 12: the file ends after 1 of 2 2-grams"):
        arpa.read(tmp_path / "bad.arpa")


@pytest.mark.parametrize(
    "words, sentence",
    [
        (WORDS[:5], "6 ids"),
        (["ein", "", "ein", "", "a", "b"], "id 2 as 'ein'"),
        (["ein", "", "a b", "", "c", "d"], "id 2 as 'a b'"),
        (["", "", "a", "", "c", "d"], "id 0 as ''"),
        (["<s>", "", "a", "", "c", "d"], "id 0 as '<s>'"),
    ],
)
def test_words_that_arpa_cannot_spell(words, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        arpa.write(tmp_path / "a.arpa", fitted(2), words)
    assert not (tmp_path / "a.arpa").exists()


WITHOUT_UNKNOWN = SMALL.replace("ngram 1=4", "ngram 1=3").replace("-1.5\t<unk>\n", "")


@pytest.mark.parametrize("name", ["small.arpa", "small.arpa.gz"])
def test_a_bundle_has_the_words_of_the_file_as_its_tokenizer(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(gzip.compress(SMALL.encode()) if name.endswith(".gz") else SMALL.encode())
    bundle = arpa.read_bundle(path)
    tokenizer, config = bundle.tokenizer, bundle.model.config
    assert tokenizer.vocabulary == ["<unk>", "\n", "a"] and (config.unk_id, config.eos_id) == (0, 1)
    ids = [1, *tokenizer.encode("a b")]
    log10 = ops.convert_to_numpy(bundle.model.token_log_probs(np.array([ids]), np.array([[*ids[1:], 1]]))[0])[0] / np.log(10)
    np.testing.assert_allclose(log10, [-0.375, -0.125 - 1.5, -0.5], rtol=1e-6)
    arpa.write_bundle(bundle, tmp_path / "again.arpa.gz")
    again = arpa.read_bundle(tmp_path / "again.arpa.gz")
    for ours, theirs in zip(bundle.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_oddities_of_other_toolkits(tmp_path):
    """No <unk> (KenLM then takes -100), no back-off weights, -99 and -inf of what never comes."""
    path = tmp_path / "a.arpa"
    path.write_text(WITHOUT_UNKNOWN.replace("-0.75\ta\t-0.125", "-inf\ta"), encoding="utf8")
    bundle = arpa.read_bundle(path)
    scores = bundle.model.token_log_probs(np.array([[1, 0]]), np.array([[0, 2]]))[0]
    np.testing.assert_allclose(ops.convert_to_numpy(scores)[0] / np.log(10), [-0.25 - 100, -np.inf], rtol=1e-6)
    path.write_bytes(gzip.compress(SMALL.encode())[:-9])
    path = path.rename(tmp_path / "a.arpa.gz")
    with pytest.raises(ValueError, match="damaged gzip"):
        arpa.read_bundle(path)


@pytest.mark.parametrize("rows_at_once", [1, 2, 1 << 16])
@pytest.mark.parametrize(("old", "new"), [
    ("<unk>", "<UNK>"), ("\\data\\", "A model of CMU's toolkit\n#####\n\n\\data\\"), ("\\data\\", "\ufeff\\data\\"),
    ("\n", "\r\n"), ("\t", "  "), ("\\end\\", "\\end\\\n\nwhat follows"),
], ids=["UNK", "text in front", "mark", "carriage returns", "blanks", "text behind"])  # fmt: skip
def test_what_kenlm_or_srilm_read_alike_is_the_same_model(old, new, rows_at_once, tmp_path, monkeypatch):
    monkeypatch.setattr(arpa, "ROWS_AT_ONCE", rows_at_once)
    (tmp_path / "a.arpa").write_text(SMALL, encoding="utf8")
    (tmp_path / "b.arpa").write_bytes(SMALL.replace(old, new).encode())
    first, second = (arpa.read_bundle(tmp_path / name) for name in ("a.arpa", "b.arpa"))
    assert first.tokenizer.vocabulary == second.tokenizer.vocabulary
    for ours, theirs in zip(first.model.get_weights(), second.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_file_is_read_as_a_stream(tmp_path, monkeypatch):
    """60,000 trigrams: what is held is their ids and numbers, and not a string for each word."""
    rng = np.random.default_rng(0)
    words = [f"word{i}" for i in range(300)]
    pairs = sorted({(int(a), int(b)) for a, b in rng.integers(0, 300, (20_000, 2))})
    triples = sorted({(*pairs[i], int(c)) for i, c in rng.integers(0, (len(pairs), 300), (60_000, 2))})
    lines = ["\\data\\", "ngram 1=303", f"ngram 2={len(pairs)}", f"ngram 3={len(triples)}", "", "\\1-grams:"]
    lines += ["-1\t<unk>", "-99\t<s>\t-1", "-2\t</s>", *(f"-2.5\t{word}\t-0.25" for word in words), "", "\\2-grams:"]
    lines += [*(f"-1.5\t{words[a]} {words[b]}\t-0.5" for a, b in pairs), "", "\\3-grams:"]
    lines += [*(f"-0.5\t{words[a]} {words[b]} {words[c]}" for a, b, c in triples), "", "\\end\\", ""]
    (tmp_path / "a.arpa").write_text("\n".join(lines), encoding="utf8")
    monkeypatch.setattr(arpa, "ROWS_AT_ONCE", 1024)
    tracemalloc.start()
    model, _ = arpa.read(tmp_path / "a.arpa")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert model.config.ngram_counts == (302, len(pairs), len(triples))
    assert peak < 150 * len(triples), peak / len(triples)


def test_by_command_and_back(tmp_path, capfd):
    (tmp_path / "a.arpa").write_text(SMALL, encoding="utf8")
    answer = programs.call(capfd, "convert", f"--from={tmp_path / 'a.arpa'}", f"--to={tmp_path / 'ours'}")
    assert answer.status == 0, answer.err
    assert "order 2, 3, 2 n-grams" in answer.out
    assert zoo.load(tmp_path / "ours").score("a")["log_prob"] == pytest.approx(-0.375 * np.log(10), rel=1e-5)
    answer = programs.call(capfd, "convert", f"--from={tmp_path / 'ours'}", f"--to={tmp_path / 'b.arpa'}")
    assert answer.status == 0, answer.err
    again = arpa.read_bundle(tmp_path / "b.arpa")
    for ours, theirs in zip(arpa.read_bundle(tmp_path / "a.arpa").model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    again = programs.refusal(capfd, "convert", f"--from={tmp_path / 'ours'}", f"--to={tmp_path / 'b.arpa'}")
    assert again.endswith("is there already; give the name of a new file.")


def test_what_has_no_place_in_arpa_is_refused(tmp_path):
    made = exports.made("ngram", "language_modeling")
    with pytest.raises(ValueError, match="those of the byte tokenizer; train with --tokenizer=word"):
        arpa.write_bundle(Bundle(*made, {}), tmp_path / "a.arpa")
    with pytest.raises(ValueError, match="ARPA files hold n-gram models, and this is gpt"):
        arpa.write_bundle(Bundle(*exports.made("gpt", "language_modeling"), {}), tmp_path / "a.arpa")
    assert not list(tmp_path.iterdir())
