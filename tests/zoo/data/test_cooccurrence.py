"""Counts of pairs: by hand, and against a loop over every two words of a sentence.

Shape letters: B batch, T pairs of a row, V vocabulary.
"""

import collections
import json

import numpy as np
import pytest

from zoo.config import Refusal
from zoo.data.batch import Layout
from zoo.data.cooccurrence import (
    CooccurrenceBatches,
    Cooccurrences,
    SortedSums,
    count_cooccurrences,
    evaluation_batches,
)
from zoo.data.pairs import count_words

EOS, V = 0, 19


def stream_of(*sentences):
    return np.concatenate([[EOS], *([*sentence, EOS] for sentence in sentences)]).astype(np.int32)


def text(num_sentences=60, seed=0, longest=12):
    random = np.random.default_rng(seed)
    return stream_of(*(random.integers(1, V, random.integers(0, longest)) for _ in range(num_sentences)))


def counted(stream, directory, *, min_count=1, **options):
    counts = count_words(stream, V, min_count=min_count, special_ids=(EOS,))
    return count_cooccurrences(stream, counts, EOS, directory, **options)


def table(pairs):
    """{(row, column): count} of the ordered pairs."""
    records = np.concatenate([pairs.ordered(i) for i in range(len(pairs.num_ordered))])
    found = {(int(r["row"]), int(r["column"])): float(r["count"]) for r in records}
    assert len(found) == len(records) == pairs.num_records
    return found


def by_loop(stream, window, known):
    total, sentence = collections.Counter(), []
    for token in [*stream.tolist(), EOS]:
        if token == EOS:
            for i, a in enumerate(sentence):
                for j in range(max(0, i - window), i):
                    total[a, sentence[j]] += 1 / (i - j)
                    total[sentence[j], a] += 1 / (i - j)
            sentence = []
        elif token in known:
            sentence.append(token)
    return dict(total)


def test_a_tiny_text_by_hand(tmp_path):
    # 1 2 1 | 2 3: 1 and 2 stand side by side twice, 1 and 1 two apart, seen from both sides; 2 and 3 side by side
    pairs = counted(stream_of([1, 2, 1], [2, 3]), tmp_path / "c", window=2)
    assert table(pairs) == {(1, 2): 2, (2, 1): 2, (1, 1): 1, (2, 3): 1, (3, 2): 1}
    assert (pairs.num_pairs, pairs.num_records, pairs.window, pairs.vocab_size) == (3, 5, 2, V)


@pytest.mark.parametrize(("window", "memory_bytes"), [(1, 2**29), (4, 2**29), (4, 700), (15, 3000), (15, 10_000)])
def test_counts_are_those_of_a_loop_whatever_the_memory(tmp_path, window, memory_bytes):
    stream = text()
    expected = by_loop(stream, window, range(1, V))
    found = table(counted(stream, tmp_path / "c", window=window, memory_bytes=memory_bytes))
    assert found.keys() == expected.keys()
    for pair, count in found.items():
        assert abs(count - expected[pair]) < 1e-6 * expected[pair]


def test_the_memory_changes_no_bit(tmp_path):
    stream = text(300)
    counted(stream, tmp_path / "a", window=7)
    counted(stream, tmp_path / "b", window=7, memory_bytes=2000)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert [path.name for path in tmp_path.iterdir() if "runs" in path.name] == []


def test_rare_words_are_taken_away_first(tmp_path):
    stream = stream_of([1, 7, 2], [2, 8, 1])
    assert table(counted(stream, tmp_path / "c", window=1, min_count=2)) == {(1, 2): 2, (2, 1): 2}


def test_sums_come_in_order_and_once(tmp_path):
    random = np.random.default_rng(0)
    keys, weights = random.integers(0, 500, 20_000), random.integers(1, 9, 20_000)
    sums = SortedSums(tmp_path, memory_bytes=48 * 1024)
    for part in np.split(np.arange(20_000), 37 * np.arange(1, 500)):
        sums.add(keys[part], weights[part])
    parts = list(sums.merged())
    assert len(sums._runs) > 10 and len(parts) > 1
    found, total = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    np.testing.assert_array_equal(found, np.unique(keys))
    np.testing.assert_array_equal(total, np.bincount(keys, weights)[found])


def test_there_are_no_more_files_than_a_process_may_open(tmp_path, monkeypatch):
    one = counted(text(), tmp_path / "one", window=4)
    monkeypatch.setattr("zoo.data.cooccurrence.PAIRS_A_FILE", 1)
    monkeypatch.setattr("zoo.data.cooccurrence.MOST_FILES", 5)
    five = counted(text(), tmp_path / "five", window=4)
    assert len(one.num_ordered) == 1 and len(five.num_ordered) == 5 and five.num_pairs == one.num_pairs
    together = np.sort(np.concatenate([five.records(number) for number in range(5)]), order=["row", "column"])
    np.testing.assert_array_equal(together, one.records(0))


class TestBatches:
    def made(self, tmp_path, monkeypatch, seed=3, rows=3, length=7):
        monkeypatch.setattr("zoo.data.cooccurrence.PAIRS_A_FILE", 300)  # several files for a small text
        path = tmp_path / "c"
        pairs = Cooccurrences.open(path) if path.exists() else counted(text(), path, window=4)
        assert len(pairs.num_ordered) > 3
        return pairs, CooccurrenceBatches(pairs, Layout(length, rows, seed))

    @pytest.mark.parametrize("epoch", [0, 3])
    def test_an_epoch_has_every_ordered_pair_once(self, tmp_path, monkeypatch, epoch):
        pairs, batches = self.made(tmp_path, monkeypatch)
        first, size = epoch * pairs.num_records, 21
        batch = [batches.batch(step) for step in range(first // size, -(-(first + pairs.num_records) // size))]
        names = ("token_ids", "labels", "counts")
        rows, columns, counts = (np.concatenate([b[name].ravel() for b in batch]) for name in names)
        mine = slice(first % size, first % size + pairs.num_records)
        found = dict(zip(zip(rows[mine].tolist(), columns[mine].tolist(), strict=True), counts[mine].tolist(), strict=True))
        assert found == table(pairs)

    def test_a_batch_depends_on_seed_and_step_alone(self, tmp_path, monkeypatch):
        _, batches = self.made(tmp_path, monkeypatch)
        forwards = [batches.batch(step) for step in range(60)]
        for step in (59, 2, 40, 2):
            for name, value in self.made(tmp_path, monkeypatch)[1].batch(step).items():
                np.testing.assert_array_equal(value, forwards[step][name])
        other = self.made(tmp_path, monkeypatch, seed=4)[1].batch(0)
        assert (other["token_ids"] != forwards[0]["token_ids"]).any()

    def test_names_and_shapes(self, tmp_path, monkeypatch):
        pairs, batches = self.made(tmp_path, monkeypatch)
        batch = batches.batch(1)
        assert {name: (value.shape, value.dtype.name) for name, value in batch.items()} == {
            "token_ids": ((3, 7), "int32"), "labels": ((3, 7), "int32"),
            **dict.fromkeys(("counts", "loss_weights", "input_rates", "label_rates"), ((3, 7), "float32")),
        }  # fmt: skip
        assert batches.steps_per_epoch == -(-pairs.num_records // 21) and batches.starts_epoch(5)
        assert (batch["input_rates"] == 21).all() and (batch["label_rates"] == 21).all()

    def test_evaluation_has_every_ordered_pair_once(self, tmp_path, monkeypatch):
        pairs, _ = self.made(tmp_path, monkeypatch)
        found = {}
        for batch in evaluation_batches(pairs, Layout(7, 3)):
            there = batch["loss_weights"] > 0
            words = zip(batch["token_ids"][there].tolist(), batch["labels"][there].tolist(), strict=True)
            found |= dict(zip(words, batch["counts"][there].tolist(), strict=True))
            assert batch["loss_weights"].shape == (3, 7)
        assert found == table(pairs)


class TestRefusals:
    def test_counts_are_never_overwritten(self, tmp_path):
        counted(text(), tmp_path / "c")
        with pytest.raises(Refusal, match="never overwritten"):
            counted(text(), tmp_path / "c")

    def test_counts_that_are_there_are_reused_if_asked_for(self, tmp_path):
        first = counted(text(), tmp_path / "c")
        assert counted(text(), tmp_path / "c", reuse=True).num_pairs == first.num_pairs

    def test_a_text_without_pairs(self, tmp_path):
        with pytest.raises(Refusal, match="No two words"):
            counted(stream_of([1], [2]), tmp_path / "c")
        assert not (tmp_path / "c").exists()

    def test_damage_is_told(self, tmp_path):
        counted(text(), tmp_path / "c")
        file = tmp_path / "c" / "pairs-00000.bin"
        file.write_bytes(file.read_bytes()[:-5])
        with pytest.raises(Refusal, match="damaged: pairs-00000.bin"):
            Cooccurrences.open(tmp_path / "c")
        (tmp_path / "c" / "index.json").write_text("{")
        with pytest.raises(Refusal, match="is damaged"):
            Cooccurrences.open(tmp_path / "c")
        (tmp_path / "c" / "index.json").write_text(json.dumps({"format_version": 9}))
        with pytest.raises(Refusal, match="another format"):
            Cooccurrences.open(tmp_path / "c")
        with pytest.raises(Refusal, match="no complete counts"):
            Cooccurrences.open(tmp_path / "d")

    def test_a_window_of_0(self, tmp_path):
        with pytest.raises(Refusal, match="window"):
            counted(text(), tmp_path / "c", window=0)
