"""Files of word vectors: every form there and back, by hand, and what a damaged file is told."""

import gzip
import struct

import numpy as np
import pytest

import zoo
from tests import foreign_models, programs
from zoo import bundle as bundles
from zoo.config import Refusal
from zoo.convert import fasttext, vector_files
from zoo.data import subwords

WORDS = ["the", "naïve", "世界", "a_b", ".", "zwei\u00a0drei"]
VECTORS = np.random.default_rng(3).normal(size=(6, 5)).astype(np.float32)
VECTORS[2] = [1e-30, -3.4e38, 0, 1, 1 / 3]
NAMES = ["v.txt", "v.vec", "v.glove.txt", "v.bin", "v.txt.gz", "v.vec.gz", "v.glove.txt.gz", "v.bin.gz"]


def text(words=WORDS, vectors=VECTORS, header=True, end=" \n"):
    """A file as the original programs write it: a blank ends each line."""
    lines = [f"{word} {' '.join(repr(float(x)) for x in row)}{end}" for word, row in zip(words, vectors, strict=True)]
    return ([f"{len(words)} {len(vectors[0])}\n"] if header else []) + lines


def written(path, lines):
    path.write_text("".join(lines), encoding="utf8")
    return path


def vectors_of(bundle):
    """Word -> vector."""
    table = np.asarray(bundle.model.without_head().embeddings)
    return dict(zip(bundle.tokenizer.vocabulary[2:], table[2:], strict=True))


def assert_same(found, words=WORDS, vectors=VECTORS):
    assert list(found) == words
    np.testing.assert_array_equal(np.stack(list(found.values())), vectors)


@pytest.mark.parametrize("name", NAMES)
def test_every_form_comes_back_bit_for_bit(name, tmp_path):
    bundle = vector_files.read_bundle(written(tmp_path / "first.txt", text()))
    assert_same(vectors_of(bundle))
    assert vector_files.write_bundle(bundle, tmp_path / name) == []
    again = vector_files.read_bundle(tmp_path / name)
    assert_same(vectors_of(again))
    assert not np.asarray(again.model.without_head().embeddings)[:2].any()
    np.testing.assert_array_equal(np.asarray(again.model.head.counts), [0, 0, 6, 5, 4, 3, 2, 1])  # the most frequent first


def test_what_is_written_by_hand(tmp_path):
    bundle = vector_files.read_bundle(written(tmp_path / "v.txt", ["2 3\n", "b 1 0.5 -2\n", "a 3 4 5\r\n"]))
    vector_files.write_bundle(bundle, tmp_path / "o.vec")
    vector_files.write_bundle(bundle, tmp_path / "o.glove.txt")
    vector_files.write_bundle(bundle, tmp_path / "o.bin")
    assert (tmp_path / "o.vec").read_bytes() == b"2 3\nb 1 0.5 -2\na 3 4 5\n"
    assert (tmp_path / "o.glove.txt").read_bytes() == b"b 1 0.5 -2\na 3 4 5\n"
    numbers = struct.pack("<3f", 1, 0.5, -2), struct.pack("<3f", 3, 4, 5)
    assert (tmp_path / "o.bin").read_bytes() == b"2 3\nb " + numbers[0] + b"\na " + numbers[1] + b"\n"
    # gensim writes no line feed behind the numbers.
    (tmp_path / "g.bin").write_bytes(b"2 3\nb " + numbers[0] + b"a " + numbers[1])
    assert_same(vectors_of(vector_files.read_bundle(tmp_path / "g.bin")), ["b", "a"], [[1, 0.5, -2], [3, 4, 5]])


@pytest.mark.parametrize("lines", [
    ["\ufeff2 2\n", "b 1 2\n", "a 3 4\n"], ["\ufeffb 1 2\n", "a 3 4\n"], ["b\t1\t2\n", "a\t3\t4\n"],
    ["b 1 2\n", "a 3 4\n", "\n", "\n"], ["2 2\n", "b  1  2\n", "a 3 4\n", "\r\n"],
], ids=["mark", "mark and no first line", "tabs", "empty lines at the end", "blanks"])  # fmt: skip
def test_what_other_programs_write_around_words_is_not_part_of_them(lines, tmp_path):
    assert_same(vectors_of(vector_files.read_bundle(written(tmp_path / "v.txt", lines))), ["b", "a"], [[1, 2], [3, 4]])


def test_words_with_blanks_in_them_are_left_out_and_told(tmp_path, capfd):
    """Some of GloVe's have them, and no text is cut into such words."""
    lines = ["a 1 2\n", ". . . 3 4\n", "at name@domain.com 5 6\n", "b 7 8\n"]
    answer = programs.call(capfd, "convert", f"--from={written(tmp_path / 'v.txt', lines)}", f"--to={tmp_path / 'ours'}")
    assert answer.status == 0 and "Left out: 2 words with white space in them, such as '. . .'" in answer.out
    bundle = bundles.load(tmp_path / "ours")
    assert_same(vectors_of(bundle), ["a", "b"], [[1, 2], [7, 8]])
    assert bundle.provenance["left_out"] == [". . .", "at name@domain.com"]


def test_a_binary_file_is_read_across_the_ends_of_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(vector_files, "READ_BYTES", 7)
    bundle = vector_files.read_bundle(written(tmp_path / "v.txt", text()))
    vector_files.write_bundle(bundle, tmp_path / "v.bin")
    assert_same(vectors_of(vector_files.read_bundle(tmp_path / "v.bin")))


def test_marks_are_no_words_and_unknown_words_keep_their_vector(tmp_path):
    lines = ["</s> 9 9\n", "a 1 2\n", "<unk> 3 4\n", "b 5 6\n"]
    bundle = vector_files.read_bundle(written(tmp_path / "v.txt", lines))
    assert bundle.provenance["left_out"] == ["</s>", "<unk>"]
    np.testing.assert_array_equal(np.asarray(bundle.model.without_head().embeddings), [[3, 4], [0, 0], [1, 2], [5, 6]])


@pytest.mark.parametrize(("words", "lower"), [(["a", "ß", "世"], True), (["a", "Paris"], False)])
def test_texts_are_read_in_lower_case_where_all_words_are(words, lower, tmp_path):
    bundle = vector_files.read_bundle(written(tmp_path / "v.txt", text(words, VECTORS[: len(words)])))
    assert bundle.tokenizer.lowercase is lower


def test_neighbours_of_a_file_by_brute_force(tmp_path, capfd):
    rng = np.random.default_rng(0)
    words, vectors = [f"w{i}" for i in range(50)], rng.normal(size=(50, 6)).astype(np.float32)
    with gzip.open(tmp_path / "v.vec.gz", "wt", encoding="utf8") as file:
        file.writelines(text(words, vectors))
    answer = programs.call(capfd, "convert", f"--from={tmp_path / 'v.vec.gz'}", f"--to={tmp_path / 'ours'}")
    assert answer.status == 0, answer.err
    assert "50 words, 6 numbers each" in answer.out and "trainers.export" in answer.out
    loaded = zoo.load(tmp_path / "ours")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit[7]
    cosines[7] = -2
    found = loaded.predict("nearest", word=["w7"], k=[4])
    best = np.argsort(-cosines)[:4]
    assert found["words"][0].tolist() == [words[i] for i in best]
    np.testing.assert_allclose(found["similarity"][0], cosines[best], atol=1e-6)
    query = unit[2] - unit[1] + unit[3]
    scores = unit @ query
    scores[[1, 2, 3]] = -9
    assert loaded.predict("analogy", a=["w1"], b=["w2"], c=["w3"], k=[1])["words"][0, 0] == words[scores.argmax()]
    mean = vectors[4] + vectors[5]
    np.testing.assert_allclose(loaded.embed(["w4 w5"])[0], mean / np.linalg.norm(mean), atol=1e-6)
    answer = programs.call(capfd, "convert", f"--from={tmp_path / 'ours'}", f"--to={tmp_path / 'back.bin'}")
    assert answer.status == 0, answer.err
    assert_same(vectors_of(vector_files.read_bundle(tmp_path / "back.bin")), words, vectors)


def test_both_sides_of_glove_are_added_and_a_frame_is_left_out(tmp_path):
    tokenizer = foreign_models.bundle("bert").tokenizer
    model = zoo.create("glove", "tiny", vocab_size=tokenizer.vocab_size)
    bundle = bundles.Bundle(model, tokenizer, "embedding", {})
    vector_files.write_bundle(bundle, tmp_path / "v.txt")
    found = vectors_of(vector_files.read_bundle(tmp_path / "v.txt"))
    sums = np.asarray(model.embeddings) + np.asarray(model.contexts)
    spelt = [i for i in range(tokenizer.vocab_size) if i not in tokenizer.special_ids]
    assert_same(found, [tokenizer.vocabulary[i] for i in spelt], sums[spelt])


@pytest.mark.parametrize(("lines", "sentence"), [
    (["2 2\n", "a 1 2\n"], "line 2: the file ends after 1 of 2 words"),
    (["1 2\n", "a 1 2\n", "b 1 2\n"], "line 3: the file goes on after the 1 words"),
    (["a 1 2\n", "b 1 2 3\n"], "line 2: expected a word and 2 numbers, got 3 numbers"),
    (["a 1 2\n", "b 1\n"], "line 2: expected a word and 2 numbers, got 1 numbers"),
    (["a 1 2\n", "\n", "b 1 2\n"], "line 2: the line is empty, and the file goes on behind it"),
    (["3 2\n", "a 1 2\n", "\n", "\n"], "line 2: the file ends after 1 of 3 words"),
    (["\n", "\n"], "line 1: the line is empty"),
    (["a 1 2\n", "b 1 x\n"], "line 2: 'x' is not a number"),
    (["a 1 2\n", "b 1 2x\n"], "line 2: '2x' is not a number"),
    (["a 1 2\n", "b 1 2\n", "a 3 4\n"], "line 3: the word 'a' is there already (line 1)"),
    (["2 2\n", "a 1 2\n", "a 3 4\n"], "line 3: the word 'a' is there already (line 2)"),
    (["a 1 2\n", "b nan 2\n"], "line 2: the vector of 'b' has a number that is not finite"),
    (["a 1 2\n", "b 1 1e99\n"], "line 2: the vector of 'b' has a number that is not finite"),
    (["a 1 2\n", "b 1 2c 1 2\n"], "line 2: '2c' is not a number"),  # two lines that ran together
    (["a 1 2\n", "b\0c 1 2\n"], "line 2: the word 'b\\x00c' is empty or has white space in it"),
    (["a 1 2\n", " 1 2\n"], "line 2: the word '' is empty or has white space in it"),
    (["a 1 2\n", " b 1 2\n"], "line 2: the line begins with a blank, where its word should stand"),
    (["a 1 2\n", b"\xff 1 2\n"], "line 2: the word b'\\xff' is not UTF-8"),
    (["999999999 300\n", "a 1 2\n"], "line 1: 999999999 words of 300 numbers do not fit the size of the file"),
    (["the\n", "of\n"], "line 1: expected a word and 1 numbers, got 0 numbers"),
    ([gzip.compress(b"a 1 2\n")], "is a gzip file; give it a name that ends in .gz"),
    ([], "v.txt is empty"),
])  # fmt: skip
def test_a_damaged_text_names_its_line(lines, sentence, tmp_path, capfd):
    data = b"".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    (tmp_path / "v.txt").write_bytes(data)
    answer = programs.call(capfd, "convert", f"--from={tmp_path / 'v.txt'}", f"--to={tmp_path / 'ours'}")
    assert answer.status == 2 and sentence in answer.err and len(answer.err.splitlines()) == 1
    assert not (tmp_path / "ours").exists()


BINARY = b"2 2\na " + struct.pack("<2f", 1, 2) + b"\nb " + struct.pack("<2f", 3, 4) + b"\n"


@pytest.mark.parametrize(("data", "sentence"), [
    (BINARY[:-4], "word 2 of 2: the file ends here, or is damaged"),
    (BINARY + b"c", "word 2: the file goes on after the words of its first line"),
    (BINARY.replace(b"\nb", b"\na"), "word 2: the word 'a' is there already (word 1)"),
    (BINARY.replace(struct.pack("<f", 3), struct.pack("<f", np.inf)), "word 2: the vector of 'b' has a number"),
    (BINARY[4:], "line 1: expected the number of words and their width"),
    (b"2 2\n" + b"x" * 99_999, "word 1 of 2: the file ends here, or is damaged"),
    (vector_files.FASTTEXT_MAGIC + b"\0" * 33, "is a damaged model of fastText"),
])  # fmt: skip
def test_a_damaged_binary_file_names_its_word(data, sentence, tmp_path):
    (tmp_path / "v.bin").write_bytes(data)
    with pytest.raises(Refusal, match="v.bin") as error:
        vector_files.read(tmp_path / "v.bin")
    assert sentence in str(error.value)


# fastText's own models


def model_of_fasttext(words, matrix, bucket, minn=2, maxn=3, quantised=False):
    """The bytes of a model, field by field; words are bytes."""
    settings = [len(matrix[0]), 5, 1, 1, 5, 1, 2, 2, bucket, minn, maxn, 100]
    entries = b"".join(word + b"\0" + struct.pack("<qb", 9, 0) for word in words)
    label = b"__label__x\0" + struct.pack("<qb", 9, 1)
    return b"".join([
        struct.pack("<2i12id", 793712314, 12, *settings, 1e-4), struct.pack("<3i2q", len(words) + 1, len(words), 1, 99, -1),
        entries, label, struct.pack("<?2q", quantised, *matrix.shape), matrix.astype("<f4").tobytes(),
    ])  # fmt: skip


def test_a_model_of_fasttext_by_brute_force(tmp_path, monkeypatch):
    monkeypatch.setattr(fasttext, "WORDS_AT_ONCE", 2)
    words, bucket = ["</s>", "ab", "über", "世"], 11
    matrix = np.random.default_rng(0).normal(size=(4 + bucket, 3)).astype(np.float32)
    (tmp_path / "m.bin").write_bytes(model_of_fasttext([word.encode() for word in words], matrix, bucket))
    found = vectors_of(vector_files.read_bundle(tmp_path / "m.bin"))
    assert list(found) == words[1:]

    def row(text):
        value = 2166136261
        for byte in text.encode():
            value = ((value ^ (byte if byte < 128 else byte + 0xFFFFFF00)) * 16777619) % 2**32
        return matrix[4 + value % bucket]

    parts = {"ab": ["<a", "<ab", "ab", "ab>", "b>"], "世": ["<世", "<世>", "世>"]}
    parts["über"] = ["<ü", "<üb", "üb", "übe", "be", "ber", "er", "er>", "r>"]
    for word, expected in parts.items():
        mean = (matrix[words.index(word)] + sum(map(row, expected))) / (1 + len(expected))
        np.testing.assert_allclose(found[word], mean, atol=1e-6)


def test_the_hash_and_the_parts_are_the_published_ones():
    assert subwords.hashed([b"a", b"foobar", b""]).tolist() == [0xE40C292C, 0xBF9CF968, 0x811C9DC5]  # FNV-1a's test vectors
    assert subwords.parts_of(b"ab", 1, 2) == [b"<a", b"a", b"ab", b"b", b"b>"]  # no mark alone
    assert subwords.parts_of(b"ab", 0, 0) == subwords.parts_of(b"</s>", 3, 6) == []


def test_models_of_fasttext_that_are_refused(tmp_path):
    matrix = np.ones((6, 3), np.float32)
    whole = model_of_fasttext([b"a"], matrix, 5)
    for data, sentence in [
        (model_of_fasttext([b"a"], matrix, 5, quantised=True), "is a quantised model of fastText, or a newer one"),
        (model_of_fasttext([b"a"], matrix, 6), "its matrix has 6 x 3 numbers"),
        (whole[:-1], "is a damaged model of fastText"),
        (whole[:120], "is a damaged model of fastText"),
        (whole.replace(b"a\0", b"\xff\0", 1), "word 1: the word b'\\xff' is not UTF-8"),
    ]:
        (tmp_path / "m.bin").write_bytes(data)
        with pytest.raises(Refusal) as error:
            vector_files.read(tmp_path / "m.bin")
        assert sentence in str(error.value)
    (tmp_path / "m.bin.gz").write_bytes(gzip.compress(whole))
    with pytest.raises(Refusal, match="decompress it first"):
        vector_files.read(tmp_path / "m.bin.gz")


def test_a_cut_gzip_file_and_an_encoder_are_refused(tmp_path, capfd):
    (tmp_path / "v.txt.gz").write_bytes(gzip.compress("".join(text()).encode())[:-9])
    answer = programs.call(capfd, "convert", f"--from={tmp_path / 'v.txt.gz'}", f"--to={tmp_path / 'ours'}")
    assert answer.status == 2 and "is a damaged gzip file" in answer.err
    foreign_models.bundle("bert").save(tmp_path / "bert")
    answer = programs.call(capfd, "convert", f"--from={tmp_path / 'bert'}", f"--to={tmp_path / 'v.txt'}")
    assert answer.status == 2 and "in bert those depend on the words around" in answer.err
    assert not (tmp_path / "v.txt").exists()
