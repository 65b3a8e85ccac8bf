"""Tokens at a place that machines share, by TensorFlow's file system layer: ram://, file:// and, of a storage here, gs://."""

import os
import subprocess
import sys

import numpy as np
import pytest

import tfds_configs
from tests import gcs
from trainers import ngram_counts, shared_cache
from trainers.parts import Here
from trainers.prepare import cache_directory, prepare
from zoo.config import Refusal
from zoo.data.packing import PackedBatches
from zoo.data.shards import TokenShards, write_shards

TEXT = "the cat sat on the mat\nthe dog ran\n" * 50


@pytest.fixture(params=["ram", "file"])
def shared(request, tmp_path, monkeypatch):
    url = f"ram://{tmp_path.name}/tokens" if request.param == "ram" else f"file://{tmp_path}/shared"
    monkeypatch.setenv("ZOO_SHARED_CACHE", url)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf8")
    return url


def prepared(tmp_path, machine):
    source = tfds_configs.get("local_text", str(tmp_path / "text.txt"))
    return prepare(source, "word", cache_dir=tmp_path / machine)


def test_a_second_machine_reads_what_the_first_has_made(shared, tmp_path, monkeypatch):
    tokenizer, ours = prepared(tmp_path, "first")
    monkeypatch.setattr("trainers.prepare.encoded", lambda *_: pytest.fail("the text was encoded again"))
    again, theirs = prepared(tmp_path, "second")
    assert again.vocabulary == tokenizer.vocabulary
    assert not list((tmp_path / "second").rglob("tokens-*.bin")) and theirs["train"].directory is None
    for split in ours:
        np.testing.assert_array_equal(theirs[split][:], ours[split][:])
        assert (theirs[split].num_bytes, theirs[split].num_documents) == (ours[split].num_bytes, ours[split].num_documents)
    np.testing.assert_array_equal(theirs["train"][7:19], ours["train"][7:19])
    for step in (0, 1, 20):
        first, second = (PackedBatches(streams["train"], 5, 3).batch(step) for streams in (ours, theirs))
        assert all(np.array_equal(first[name], second[name]) for name in first)
    with pytest.raises(Refusal, match="leave out ZOO_SHARED_CACHE"):
        ngram_counts.make_counts(theirs["train"], 2, Here(lambda done: None))


def test_what_is_not_there_whole_is_a_sentence(shared, tmp_path, monkeypatch):
    import tensorflow as tf

    directory = write_shards(tmp_path / "key" / "train", [np.arange(1, 9)], vocab_size=9, eos_id=0, shard_tokens=4).directory
    url = shared_cache.url_of(directory)
    assert not shared_cache.is_there(url)
    shared_cache.publish(directory, url)
    assert shared_cache.is_there(url) and TokenShards.open(url)[2:9].tolist() == [2, 3, 4, 5, 6, 7, 8]
    tf.io.gfile.remove(f"{url}/tokens-00001.bin")
    with tf.io.gfile.GFile(f"{url}/tokens-00001.bin", "wb") as file:
        file.write(b"\0\0")
    with pytest.raises(Refusal, match="has 2 bytes where 8 were written"):
        TokenShards.open(url)
    with pytest.raises(Refusal, match="holds no complete token shards"):
        TokenShards.open(f"{url}-not")
    monkeypatch.setenv("ZOO_SHARED_CACHE", "nowhere://bucket")
    with pytest.raises(Refusal, match="nowhere://bucket/key/train cannot be reached"):
        shared_cache.is_there(shared_cache.url_of(directory))


OTHER_MACHINE = """
from pathlib import Path

from trainers import program, shared_cache
from zoo.data.shards import TokenShards

with program.quiet():
    import tensorflow
here, url = Path("key/train"), "gs://bucket/tokens/key/train"
assert shared_cache.url_of(here) == url and not shared_cache.is_there(url)
shared_cache.publish(here, url)
shared_cache.publish(here, url)  # once more, for nothing
shards = TokenShards.open(url)
assert shared_cache.is_there(url) and shards.directory is None
assert shards[990:1010].tolist() == [*range(990, 1000), 0, *range(1, 10)]
shared_cache.fetch(url, Path("copy"))
for path in here.iterdir():
    assert (Path("copy") / path.name).read_bytes() == path.read_bytes()
"""


def test_tensorflows_client_of_gs_finds_what_was_shared(tmp_path):
    """In a process of its own: the client reads its environment once. `python -m tests.gcs` trains in this way."""
    write_shards(tmp_path / "key" / "train", [np.arange(1, 1000)] * 3, vocab_size=1000, eos_id=0, shard_tokens=1024)
    ranges = []
    with gcs.serving(tmp_path, ranges) as variables:
        environment = {**os.environ, **variables, "ZOO_SHARED_CACHE": "gs://bucket/tokens", "PYTHONPATH": str(gcs.ROOT)}
        other = subprocess.run(
            [sys.executable, "-c", OTHER_MACHINE], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
    assert other.returncode == 0, other.stderr
    sizes = [last - first + 1 for path, first, last in ranges if "tokens-" in path]
    assert sizes and max(sizes) <= 2**20, "a slice is read with more than a megabyte behind it"


def test_a_url_and_a_directory_are_told_apart(monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", "gs://bucket/tokens")
    with pytest.raises(Refusal, match="is a URL; give a directory here, and the URL as ZOO_SHARED_CACHE"):
        cache_directory()
    monkeypatch.setenv("ZOO_SHARED_CACHE", "/mnt/tokens")
    with pytest.raises(Refusal, match="a common disk is for ZOO_CACHE"):
        shared_cache.url_of(cache_directory("/somewhere") / "key" / "train")
