"""Token shards made in parts are those of one process, byte for byte, in whatever order the parts are made."""

import gzip
import importlib.util
import json
import random

import numpy as np
import pytest

import tfds_configs
from tests import programs
from tfds_configs.sources import TextSource
from trainers import parts
from trainers.prepare import prepare
from zoo.config import Refusal
from zoo.registry import TOKENIZERS
from zoo.tokenizers.special import Special


class Shuffled:
    """Stands for a runner of Beam: calls in a random order, and stops at call number `stop`."""

    def __init__(self, stop=None):
        self.stop, self.calls = stop, 0

    def run(self, function, items):
        numbered = list(enumerate(items))
        random.Random(5).shuffle(numbered)
        for number, item in numbered:
            self.calls += 1
            if self.calls == self.stop:
                raise KeyboardInterrupt
            function(number, item)


def text(length, seed=0):
    rng = random.Random(seed)
    words = ["snow \u2603", "caf\u00e9", "a", "the", "\U0001f600x", "end.\n", "\n\n", "  ", "\r\n", "word" * 9]
    return " ".join(rng.choice(words) + rng.choice("bcdf") for _ in range(length))


def files(directory, kind):
    directory.mkdir()
    if kind == "one":
        (directory / "a.txt").write_text(text(900), encoding="utf-8-sig", newline="")
        return str(directory / "a.txt")
    if kind == "no place to cut":
        (directory / "a.txt").write_text(text(20) + "\u2603x" * 3_000 + text(50), encoding="utf8", newline="")
        return str(directory / "a.txt")
    if kind == "lines":
        (directory / "a.txt").write_text(text(300), encoding="utf8", newline="")
        return f"{directory / 'a.txt'},format=lines"
    for number in range(13):
        (directory / f"{number:02}.txt").write_text(text([0, 3, 200][number % 3], number), encoding="utf8", newline="")
    (directory / "00.txt.gz").write_bytes(gzip.compress(text(70).encode()))
    return f"train={directory / '*.txt'},train={directory / '*.gz'},test={directory / '02.txt'}"


def written(streams):
    return {split: {path.name: path.read_bytes() for path in shards.directory.iterdir()} for split, shards in streams.items()}


@pytest.fixture(autouse=True)
def short_ranges(monkeypatch):
    monkeypatch.setattr(parts, "RANGE_BYTES", 1_000)
    monkeypatch.setattr(parts, "WORTH_KEEPING", 10**9)


@pytest.mark.parametrize("kind", ["one", "no place to cut", "lines", "many"])
@pytest.mark.parametrize("tokenizer", ["word", "bpe", "char"])
def test_the_same_bytes_as_of_one_process(tmp_path, kind, tokenizer):
    path, vocab_size = files(tmp_path / "text", kind), 300 if tokenizer == "bpe" else None
    _, alone = prepare(tfds_configs.get("local_text", path), tokenizer, vocab_size, tmp_path / "alone")
    runner = Shuffled()
    _, together = prepare(tfds_configs.get("local_text", path), tokenizer, vocab_size, tmp_path / "together", beam=runner)
    assert written(together) == written(alone)
    assert runner.calls > 10 or kind == "lines"
    assert not list((tmp_path / "together").glob("*/.*parts*")), "parts are gone"


def test_a_large_file_is_made_in_parts_here_too(tmp_path, monkeypatch):
    path, said = files(tmp_path / "text", "one"), []
    _, alone = prepare(tfds_configs.get("local_text", path), "word", None, tmp_path / "alone")
    monkeypatch.setattr(parts, "WORTH_KEEPING", 4)
    monkeypatch.setattr(parts, "RANGE_BYTES", 2_000)
    monkeypatch.setattr(parts, "CHUNK_CHARACTERS", 130)
    source = tfds_configs.get("local_text", path)
    _, here = prepare(source, "word", None, tmp_path / "here", progress=lambda *what: said.append(what))
    assert written(here) == written(alone)
    train = [done for what, done in said if what == "train"]
    assert train == sorted(train) and len(train) > 2 and train[-1] <= (tmp_path / "text/a.txt").stat().st_size


def test_a_beginning_id_stands_before_each_document_once(tmp_path):
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", "\u0120", "\u010a", *"abcdefghijklmnopqrstuvwxyz."])}
    special = Special(roles={"bos": "<s>", "eos": "</s>"})
    TOKENIZERS.get("bpe")(vocabulary, [], ["<s>", "</s>"], "</s>", special=special).save(tmp_path / "tokenizer")
    (tmp_path / "a.txt").write_text("snow is white. " * 300 + "\n")
    spec, path = str(tmp_path / "tokenizer"), str(tmp_path / "a.txt")
    _, alone = prepare(tfds_configs.get("local_text", path), spec, None, tmp_path / "a")
    _, together = prepare(tfds_configs.get("local_text", path), spec, None, tmp_path / "b", beam=Shuffled())
    assert written(together) == written(alone)
    assert np.count_nonzero(together["train"][:] == 0) == 1


def test_killed_and_begun_again_it_does_not_begin_at_the_front(tmp_path, monkeypatch):
    path = files(tmp_path / "text", "one")
    with pytest.raises(KeyboardInterrupt):
        prepare(tfds_configs.get("local_text", path), "word", None, tmp_path / "b", beam=Shuffled(stop=14))
    made = list((tmp_path / "b").glob("*/.train.parts*/*/*.ids"))
    encoded = []
    read = parts._text
    monkeypatch.setattr(parts, "_text", lambda part: encoded.append(part) or read(part))
    assert len(made) > 1
    _, again = prepare(tfds_configs.get("local_text", path), "word", None, tmp_path / "b", beam=Shuffled())
    left = len(encoded)
    encoded.clear()
    prepare(tfds_configs.get("local_text", path), "word", None, tmp_path / "c", beam=Shuffled())
    assert left + len(made) == len(encoded)
    _, alone = prepare(tfds_configs.get("local_text", path), "word", None, tmp_path / "a")
    assert written(again) == written(alone)


def test_other_sets_are_divided_by_tfds(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    documents = [f"document {i} of some" for i in range(101)]

    class Numbers(TextSource):
        def texts(self, split):
            chosen = self.splits[split]
            if not isinstance(chosen, str):
                info = {"train": tfds.core.SplitInfo(name="train", shard_lengths=[101], num_bytes=0, filename_template=None)}
                (one,) = chosen.to_absolute(info)
                yield from documents[one.from_ : one.to]
                return
            yield from documents

        def fingerprint(self):
            return json.dumps(documents)

    source = lambda: Numbers("numbers", {"text": "text"}, {"train": "train"}, "none")  # noqa: E731
    _, alone = prepare(source(), "char", None, tmp_path / "a")
    _, together = prepare(source(), "char", None, tmp_path / "b", beam=Shuffled())
    assert written(together) == written(alone)


def test_what_cannot_be_divided_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a b c"}\n' * 3)
    with pytest.raises(Refusal, match="leave out --runner"):
        prepare(tfds_configs.get("local_text", str(tmp_path / "a.jsonl")), "char", None, tmp_path / "c", beam=Shuffled())
    (tmp_path / "a.txt").write_text("a b c")
    (tmp_path / "b.txt").write_text("\n" * 10)
    source = tfds_configs.get("local_text", f"train={tmp_path / 'a.txt'},validation={tmp_path / 'b.txt'}")
    with pytest.raises(Refusal, match="local_text's validation split holds no text"):
        prepare(source, "word", None, tmp_path / "c", beam=Shuffled())


def test_by_command(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    path = files(tmp_path / "text", "one")
    refused = programs.refusal(capfd, "prepare", f"--data_path={path}", "--option=direct_num_workers=2")
    assert refused == "--option is for a runner of Apache Beam; name it, such as --runner=DirectRunner."
    answer = programs.call(capfd, "prepare", f"--data_path={path}", "--tokenizer=char")
    assert answer.status == 0 and "train: " in answer.out and "MB" not in answer.err


@pytest.mark.skipif(not importlib.util.find_spec("apache_beam"), reason="needs apache_beam: pip install -e '.[beam]'")
def test_beams_direct_runner_with_two_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "RANGE_BYTES", 20_000)
    (tmp_path / "a.txt").write_text(text(9_000), encoding="utf8")
    _, alone = prepare(tfds_configs.get("local_text", str(tmp_path / "a.txt")), "word", None, tmp_path / "alone")
    beam = parts.Beam("DirectRunner", ("--direct_num_workers=2", "--direct_running_mode=multi_threading"))
    source = tfds_configs.get("local_text", str(tmp_path / "a.txt"))
    _, together = prepare(source, "word", None, tmp_path / "together", beam=beam)
    assert written(together) == written(alone)
