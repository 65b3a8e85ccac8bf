"""Text to cached tokens: the right ids, made once, whatever interrupts it and however many ask at a time."""

import concurrent.futures
import itertools
import json
import signal
import subprocess
import sys

import numpy as np
import pytest

import tfds_configs
from benchmarks import prepare_memory
from tfds_configs.sources import TextSource
from trainers import prepare as module
from trainers.prepare import cache_directory, check_tokenizer, prepare, prepare_for
from zoo import text_files
from zoo.config import Refusal
from zoo.data.batch import Layout
from zoo.registry import TASKS, TOKENIZERS
from zoo.tokenizers import base
from zoo.tokenizers.special import Special


class Counted(TextSource):
    """A source of given documents that counts how often it is read."""

    def __init__(self, **documents):
        splits = {split: split for split in ("train", "validation", "test") if split in documents}
        super().__init__("counted/x", {"text": "text"}, splits, "none")
        object.__setattr__(self, "documents", documents)
        object.__setattr__(self, "reads", [])

    def texts(self, split):
        self.check_split(split)
        self.reads.append(split)
        yield from self.documents[split]

    def fingerprint(self):
        return json.dumps(self.documents)


DOCUMENTS = dict(train=["snow \u2603", "", "two\r\nlines\n"], validation=["abc"], test=["de"])


def ids_of(streams):
    return {split: stream[:].tolist() for split, stream in streams.items()}


def test_bytes_by_hand(tmp_path):
    seen = []
    tokenizer, streams = prepare(Counted(**DOCUMENTS), "byte", cache_dir=tmp_path, progress=lambda *said: seen.append(said))
    eos = tokenizer.eos_id
    first, second = tokenizer.encode("snow \u2603"), tokenizer.encode("two\r\nlines\n")
    assert streams["train"][:].tolist() == [eos, *first, eos, *second, eos]
    assert (streams["train"].num_documents, streams["train"].num_bytes, streams["train"].lost_bytes) == (2, 19, 0)
    assert tokenizer.decode(streams["validation"][:]) == "abc" and streams["test"].num_bytes == 2
    assert streams["test"].meta["split"] == "test" and streams["test"].vocab_size == tokenizer.vocab_size
    assert ("train", 19) in seen and seen[-1] == ("test", 2)


def test_a_document_begins_with_bos_where_that_is_not_eos(tmp_path):
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *"abcde"])}
    special = Special(roles={"bos": "<s>", "eos": "</s>"})
    TOKENIZERS.get("bpe")(vocabulary, [], ["<s>", "</s>"], "</s>", special=special).save(tmp_path / "tokenizer")
    documents = dict(train=["ab", "c"], validation=["d"])
    _, streams = prepare(Counted(**documents), str(tmp_path / "tokenizer"), cache_dir=tmp_path / "cache")
    assert ids_of(streams) == {"train": [1, 0, 2, 3, 1, 0, 4, 1], "validation": [1, 0, 5, 1]}


def test_the_second_time_nothing_is_read(tmp_path):
    source = Counted(**DOCUMENTS)
    _, first = prepare(source, "char", cache_dir=tmp_path)
    assert source.reads == ["train", "train", "validation", "test"], "once for the tokenizer, once for each split"
    _, again = prepare(source, "char", cache_dir=tmp_path)
    assert len(source.reads) == 4
    assert ids_of(first) == ids_of(again)


def test_words_are_learnt_from_the_train_split_and_lost_bytes_counted(tmp_path):
    source = Counted(train=["a bb\n\na ccc\n"], validation=["a dddd bb\nx\u2603 a"])
    tokenizer, streams = prepare(source, "word", cache_dir=tmp_path)
    assert tokenizer.vocab_size == 2 + 3
    eos, a, unk = tokenizer.eos_id, tokenizer.encode("a")[0], tokenizer.unk_id
    (bb,), (ccc,) = tokenizer.encode("bb"), tokenizer.encode("ccc")
    assert streams["train"][:].tolist() == [eos, a, bb, eos, a, ccc, eos]
    assert streams["train"].num_documents == 2, "a line is a document"
    assert streams["validation"][:].tolist() == [eos, a, unk, bb, eos, unk, a, eos]
    assert (streams["validation"].num_bytes, streams["validation"].lost_bytes) == (16, 4 + 4)


def test_chunks_change_nothing(tmp_path, monkeypatch):
    source = Counted(train=[f"document {i} " * (i % 5) for i in range(53)])
    _, whole = prepare(source, "bpe", 260, tmp_path / "a")
    monkeypatch.setattr(module, "CHUNK_CHARACTERS", 29)
    _, pieces = prepare(source, "bpe", 260, tmp_path / "b")
    assert ids_of(whole) == ids_of(pieces)


def test_the_key_is_text_tokenizer_and_size(tmp_path):
    other = {**DOCUMENTS, "train": ["something else, and more"]}
    for documents, spec, size in [
        (DOCUMENTS, "byte", None),
        (DOCUMENTS, "bpe", 257),
        (DOCUMENTS, "bpe", 259),
        (other, "bpe", 257),
    ]:
        prepare(Counted(**documents), spec, size, tmp_path)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 4


def test_a_tokenizer_from_a_path(tmp_path):
    tokenizer, first = prepare(Counted(**DOCUMENTS), "char", cache_dir=tmp_path)
    tokenizer.save(tmp_path / "mine")
    source = Counted(train=["won"], test=["now"])
    for _ in range(2):
        _, streams = prepare(source, tmp_path / "mine", cache_dir=tmp_path / "cache")
    assert source.reads == ["train", "test"], "it is not trained again"
    assert streams["train"][:].tolist() == [tokenizer.eos_id, *tokenizer.encode("won"), tokenizer.eos_id]
    with pytest.raises(ValueError, match="has its vocabulary already"):
        prepare(source, tmp_path / "mine", 300, tmp_path)


def test_splits_of_the_same_text_are_made_once(tmp_path):
    (tmp_path / "a.txt").write_text("0123456789")
    source = tfds_configs.get("local_text", str(tmp_path / "a.txt"))
    tokenizer, streams = prepare(source, "byte", cache_dir=tmp_path / "cache")
    assert streams["test"] is streams["validation"]
    assert [tokenizer.decode(streams[split][:]) for split in ("train", "test")] == ["012345678", "9"]
    _, only = prepare(source, "byte", cache_dir=tmp_path / "cache", splits=["test"])
    assert list(only) == ["test"]


@pytest.mark.parametrize(
    ("documents", "spec", "sentence"),
    [
        (dict(train=["a"], validation=["", "\n"]), "word", "counted/x's validation split holds no text"),
        (dict(train=["", ""]), "byte", "counted/x's train split holds no text"),
        (dict(validation=["a"]), "char", "has no split 'train'"),
        (DOCUMENTS, "bite", "did you mean 'byte'"),
        (DOCUMENTS, "no/such/tokenizer", "No tokenizer is called 'no/such/tokenizer'"),
    ],
)
def test_sentences(tmp_path, documents, spec, sentence):
    source = Counted(**documents)
    with pytest.raises(ValueError, match=sentence):
        prepare(source, spec, cache_dir=tmp_path)
    assert not list(tmp_path.rglob("*.partial")), "nothing half-written"


def test_a_cache_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Refusal, match="cannot be written .*set ZOO_CACHE"):
        prepare(Counted(**DOCUMENTS), "byte", cache_dir=tmp_path / "file")


def test_a_text_that_may_not_be_read_is_not_taken_for_the_cache(tmp_path, monkeypatch):
    def denied(self, split):
        raise PermissionError(13, "Permission denied", "secret.txt")

    monkeypatch.setattr(Counted, "texts", denied)
    with pytest.raises(PermissionError, match="Permission denied: 'secret.txt'"):
        prepare(Counted(**DOCUMENTS), "byte", cache_dir=tmp_path)


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("ZOO_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "language_model_zoo"
    monkeypatch.setenv("ZOO_CACHE", "/elsewhere")
    assert str(cache_directory()) == "/elsewhere" and str(cache_directory("/here")) == "/here"


def test_checking_a_tokenizer_needs_no_tensorflow():
    program = "import sys, trainers.prepare as p; p.check_tokenizer('bpe'); assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(ValueError, match="did you mean 'char'"):
        check_tokenizer("chars")


def test_many_at_a_time_make_the_tokens_once(tmp_path):
    source = Counted(train=[f"document {i} of some length" for i in range(2003)], validation=["a"], test=["b"])
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        done = list(pool.map(lambda _: ids_of(prepare(source, "char", cache_dir=tmp_path)[1]), range(5)))
    assert all(streams == done[0] for streams in done)
    assert sorted(source.reads) == ["test", "train", "train", "validation"]


def test_one_long_line_is_prepared_in_little_memory(tmp_path):
    path = prepare_memory.make_text(tmp_path, 20 * prepare_memory.MEGABYTE, "line")
    assert b"\n" not in path.read_bytes()
    (found,) = prepare_memory.measure(path, "char")
    assert found["num_bytes"] == path.stat().st_size
    assert found["peak"] - found["before"] < 170 * prepare_memory.MEGABYTE, "all at once takes 500 MB"


@pytest.mark.parametrize("spec", TOKENIZERS.names())
def test_a_long_file_has_the_tokens_of_the_whole(tmp_path, monkeypatch, spec):
    ends = itertools.cycle([" ", "\n", "\r\n\n", "  "])
    text = "".join(f"word{i % 7} \u00e9t\u00e9, {i}!{end}" for i, end in zip(range(997), ends, strict=False))
    (tmp_path / "a.txt").write_bytes(text.encode())
    size = 260 if spec in ("bpe", "unigram", "wordpiece") else None
    for number, block in enumerate((2**20, 301)):
        monkeypatch.setattr(text_files, "BLOCK_BYTES", block)
        monkeypatch.setattr(base, "PIECE_CHARACTERS", 100)
        for files in ("a.txt", "train=a.txt,validation=a.txt"):
            source = tfds_configs.get("local_text", files.replace("a.txt", str(tmp_path / "a.txt")))
            tokenizer, streams = prepare(source, spec, size, tmp_path / f"cache{number}")
            for split, stream in streams.items():
                (whole,) = source.texts(split)
                assert stream[:].tolist() == [tokenizer.eos_id, *tokenizer.encode(whole), tokenizer.eos_id]
                assert (stream.num_bytes, stream.lost_bytes) == (len(whole.encode()), tokenizer.lost_bytes(whole))


def test_a_killed_preparation_leaves_nothing_half_and_the_next_goes_on(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "validation"):
        (tmp_path / f"{split}.txt").write_text("\n".join("".join(rng.choice(list("abc d"), 11)) for _ in range(307)))
    data_path = f"train={tmp_path / 'train.txt'},validation={tmp_path / 'validation.txt'},format=lines"
    program = (
        "import os, signal, sys, tfds_configs\nfrom trainers import prepare\n"
        "prepare.CHUNK_CHARACTERS = prepare.REPORT_EVERY_BYTES = 101\n"
        "def kill(what, num_bytes):\n"
        "    if what == 'validation' and num_bytes > 1000: os.kill(os.getpid(), signal.SIGKILL)\n"
        "prepare.prepare(tfds_configs.get('local_text', sys.argv[1]), 'char', cache_dir=sys.argv[2], progress=kill)\n"
    )
    cache = tmp_path / "cache"
    killed = subprocess.run([sys.executable, "-c", program, data_path, str(cache)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    (directory,) = (path for path in cache.iterdir() if path.is_dir())
    whole = {path.name for path in directory.iterdir() if not path.name.startswith(".")}
    assert whole == {"tokenizer", "train"} and (directory / ".validation.partial").exists()

    made = (directory / "train" / "index.json").stat().st_mtime_ns
    source = tfds_configs.get("local_text", data_path)
    tokenizer, streams = prepare(source, "char", cache_dir=cache)
    assert (directory / "train" / "index.json").stat().st_mtime_ns == made, "what was whole is not made again"
    assert not (directory / ".validation.partial").exists()
    for split in ("train", "validation"):
        expected = [tokenizer.eos_id]
        for text in source.texts(split):
            expected += [*tokenizer.encode(text), tokenizer.eos_id]
        assert streams[split][:].tolist() == expected


def test_a_cache_knows_what_was_held_out(tmp_path):
    """`evaluate` reads all of a file, a run holds some of it out, and both have tokenizers that lie in a directory."""
    (tmp_path / "text.txt").write_text("0123456789" * 10)
    source = tfds_configs.get("local_text", str(tmp_path / "text.txt"))
    prepare(Counted(train=["a"]), "byte", cache_dir=tmp_path / "one")[0].save(tmp_path / "tokenizer")
    for first, then in ((source, source.whole()), (source.whole(), source)):
        cache = tmp_path / f"cache-{first is source}"
        for asked in (first, then):
            streams = prepare(asked, str(tmp_path / "tokenizer"), cache_dir=cache)[1]
            expected = (90, 10) if asked is source else (100, 100)
            assert (streams["train"].num_bytes, streams["validation"].num_bytes) == expected


@pytest.mark.parametrize(("name", "row", "sentence"), [
    ("classification", {"text": "a", "text_pair": None, "label": 1}, "Example 2 has an empty text_pair"),
    ("tagging", {"tokens": [1, 2], "tags": ["a", "b"]}, "Example 2 must have lists of strings"),
    ("semantic_roles", {"tokens": 5}, "Example 2 has no words"),
    ("question_answering", {"text": "a"}, "Example 2 has an empty"),
    ("translation", {"source": "a"}, "Example 2 has an empty target"),
])  # fmt: skip
def test_a_row_that_lacks_something_is_refused_when_a_tokenizer_is_trained_too(tmp_path, monkeypatch, name, row, sentence):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    source, task = Counted(train=["a"]), TASKS.get(name)()
    good = {
        "text": "a", "text_pair": "b", "label": 0, "tokens": ["a", "b"], "tags": ["N", "V"], "question": "q", "context": "b",
        "answers": [], "source": "a", "target": "b",
    }  # fmt: skip
    if name == "semantic_roles":
        good |= {"tags": [["B-V", "O"]], "predicates": [0]}
    object.__setattr__(source, "examples", lambda split: iter([good, row]))
    with pytest.raises(Refusal, match=sentence):
        module.prepare_for(task, Layout(64, 2), source, "bpe")


def test_sources_and_targets_may_have_a_vocabulary_each(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    rows = [("the cat", "le chat"), ("a cat sat", "un chat"), ("the mat", "le tapis")]
    (tmp_path / "a.tsv").write_text("".join(f"{one}\t{other}\n" for one, other in rows), encoding="utf8")
    path = tmp_path / "a.tsv"
    source = tfds_configs.get("local_text", f"train={path},validation={path},columns=source:target")
    task_class = TASKS.get("translation")
    made = {}
    for apart in (True, False):
        task = task_class(task_class.config_class(separate_vocabularies=apart))
        made[apart], data = prepare_for(task, Layout(16, 2), source, "word", splits=["train"])
        assert [made[apart].target.decode(pair.target.tolist()) for pair in data["train"].pairs] == [row[1] for row in rows]
    pair, joint = made[True], made[False]
    assert pair.encode("chat") == [pair.unk_id] and pair.target.encode("cat") == [pair.target.unk_id]
    assert pair.target.decode(pair.target.encode("le chat")) == "le chat" and not pair.shares_ids
    assert joint.target is joint and joint.unk_id not in joint.encode("the cat le chat")
    fields = task_class().model_fields(pair)
    assert (fields["source_vocab_size"], fields["vocab_size"]) == (pair.vocab_size, pair.target.vocab_size)
    # A tokenizer that is given is taken as it is.
    pair.save(tmp_path / "pair")
    task = task_class(task_class.config_class(separate_vocabularies=True))
    given, _ = prepare_for(task, Layout(16, 2), source, str(tmp_path / "pair"), splits=["train"])
    assert given.target.vocabulary == pair.target.vocabulary != given.vocabulary
