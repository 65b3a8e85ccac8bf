"""Token shards and batches: laid out by hand, and properties over sizes that differ from each other."""

import json

import numpy as np
import pytest

from zoo.data.packing import PackedBatches, evaluation_batches
from zoo.data.shards import TokenShards, write_shards

EOS = 0


def stream_of(*documents):
    return np.concatenate([[EOS], *([*document, EOS] for document in documents)]).astype(np.int32)


def write(path, documents=((5, 6, 7), (8,), (9, 10)), **options):
    return write_shards(path, documents, **{"vocab_size": 11, "eos_id": EOS, **options})


class TestShards:
    def test_a_stream_has_eos_in_front_and_after_each_document(self, tmp_path):
        shards = write(tmp_path / "s", meta={"num_bytes": 23, "lost_bytes": 3, "source": "x"})
        assert shards[:].tolist() == [0, 5, 6, 7, 0, 8, 0, 9, 10, 0]
        assert (len(shards), shards.num_tokens, shards.num_documents) == (10, 10, 3)
        assert (shards.num_bytes, shards.lost_bytes, shards.eos_id, shards.vocab_size) == (23, 3, EOS, 11)
        assert shards.meta["source"] == "x"

    def test_a_document_with_eos_inside_counts_as_several(self, tmp_path):
        assert write(tmp_path / "s", [[5, EOS, 6], [7]]).num_documents == 3

    @pytest.mark.parametrize("shard_tokens", [1, 2, 3, 7, 10, 11])
    def test_slices_run_across_files(self, tmp_path, shard_tokens):
        whole = [0, 5, 6, 7, 0, 8, 0, 9, 10, 0]
        shards = write(tmp_path / "s", shard_tokens=shard_tokens)
        assert len(list((tmp_path / "s").glob("*.bin"))) == -(-10 // shard_tokens)
        for start in range(12):
            for stop in range(12):
                assert shards[start:stop].tolist() == whole[start:stop], (start, stop)
        assert shards[-3:].dtype == np.int32

    @pytest.mark.parametrize(("vocab_size", "width"), [(2**16, 2), (2**16 + 1, 4)])
    def test_ids_take_two_bytes_while_they_fit(self, tmp_path, vocab_size, width):
        shards = write(tmp_path / "s", [[vocab_size - 1]], vocab_size=vocab_size)
        assert (tmp_path / "s" / "tokens-00000.bin").stat().st_size == 3 * width
        assert shards[1:2].tolist() == [vocab_size - 1]

    @pytest.mark.parametrize("bad", [-1, 11])
    def test_an_id_out_of_range_leaves_nothing_behind(self, tmp_path, bad):
        with pytest.raises(ValueError, match=f"Token id {bad} is outside"):
            write(tmp_path / "s", [[5], [bad]])
        assert [p.name for p in tmp_path.iterdir()] == [".s.lock"]

    def test_an_error_in_the_documents_leaves_nothing_behind(self, tmp_path):
        def documents():
            yield [5]
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "s", documents())
        assert [p.name for p in tmp_path.iterdir()] == [".s.lock"]

    def test_what_a_killed_writer_left_is_removed(self, tmp_path):
        (tmp_path / ".s.partial" / "deep").mkdir(parents=True)
        (tmp_path / ".s.partial" / "tokens-00007.bin").write_bytes(b"half")
        write(tmp_path / "s")
        assert sorted(p.name for p in tmp_path.rglob("*")) == [".s.lock", "index.json", "s", "tokens-00000.bin"]

    def test_shards_are_never_overwritten(self, tmp_path):
        write(tmp_path / "s")
        with pytest.raises(ValueError, match="already exists"):
            write(tmp_path / "s", [[1]])
        assert len(TokenShards.open(tmp_path / "s")) == 10

    def test_damage_is_a_sentence(self, tmp_path):
        write(tmp_path / "s")
        tokens, index = tmp_path / "s" / "tokens-00000.bin", tmp_path / "s" / "index.json"
        good, text = tokens.read_bytes(), index.read_text()
        tokens.write_bytes(good[:-1])
        with pytest.raises(ValueError, match="has 19 bytes where 20 were written"):
            TokenShards.open(tmp_path / "s")
        tokens.write_bytes(good[:-2] + b"\x01\x00")
        with pytest.raises(ValueError, match="checksum differs"):
            TokenShards.open(tmp_path / "s")
        tokens.unlink()
        with pytest.raises(ValueError, match="tokens-00000.bin is missing"):
            TokenShards.open(tmp_path / "s")
        for damaged in (text[:40], "{}", "[]", '{"format_version": 1, "dtype": "<u2", "shards": 3}'):
            index.write_text(damaged)
            with pytest.raises(ValueError, match="index.json is damaged"):
                TokenShards.open(tmp_path / "s")
        index.write_text(json.dumps({"format_version": 99}))
        with pytest.raises(ValueError, match="format 99"):
            TokenShards.open(tmp_path / "s")
        with pytest.raises(ValueError, match="index.json is missing"):
            TokenShards.open(tmp_path / "nothing")


class TestPackedBatches:
    """The stream is 0..N-1, N odd sizes; as a ring, token N-1 is token 0 again."""

    @pytest.mark.parametrize(("num_tokens", "seq_length", "batch_size"), [(23, 3, 2), (24, 5, 3), (12, 11, 7), (8, 7, 2)])
    def test_labels_follow_inputs_around_the_ring(self, num_tokens, seq_length, batch_size):
        ring = num_tokens - 1
        tokens = np.arange(num_tokens) % ring
        batches = PackedBatches(tokens, seq_length, batch_size, seed=5)
        for step in range(9):
            batch = batches.batch(step)
            assert set(batch) == {"token_ids", "labels", "loss_weights"}
            assert batch["token_ids"].shape == batch["labels"].shape == (batch_size, seq_length)
            assert batch["token_ids"].dtype == batch["labels"].dtype == np.int32
            assert batch["loss_weights"].dtype == np.float32 and (batch["loss_weights"] == 1).all()
            np.testing.assert_array_equal(batch["labels"], (batch["token_ids"] + 1) % ring)
            np.testing.assert_array_equal(batch["labels"][:, :-1], batch["token_ids"][:, 1:])

    def test_an_epoch_visits_every_window_once_and_the_next_cuts_elsewhere(self):
        tokens = np.arange(36) % 35
        batches = PackedBatches(tokens, 5, 7, seed=1)  # 7 windows of 5 make the ring exactly
        assert batches.steps_per_epoch == 1
        firsts = []
        for step in range(6):
            ids = batches.batch(step)["token_ids"]
            assert sorted(ids.ravel()) == list(range(35))
            firsts.append(ids[:, 0])
        assert len({int(first.min()) for first in firsts}) > 1, "epochs cut at different offsets"
        assert len({tuple(np.argsort(first)) for first in firsts}) > 1, "epochs differ in order"

    def test_batches_depend_on_seed_and_step_alone(self):
        tokens = np.arange(1001) % 1000
        first, again, other = (PackedBatches(tokens, 7, 3, seed) for seed in (3, 3, 4))
        forward = [first.batch(step)["token_ids"] for step in range(200)]
        for step in (199, 0, 57, 148, 1):
            np.testing.assert_array_equal(again.batch(step)["token_ids"], forward[step])
        assert any((other.batch(step)["token_ids"] != forward[step]).any() for step in range(3))

    def test_the_order_is_the_same_on_every_machine(self):
        batches = PackedBatches(np.arange(31) % 30, 3, 2, seed=7)
        assert [batches.batch(step)["token_ids"][:, 0].tolist() for step in (0, 1, 5)] == [[3, 21], [12, 27], [29, 17]]

    def test_a_batch_larger_than_an_epoch_goes_on_in_the_next(self):
        tokens = np.arange(12) % 11
        batches = PackedBatches(tokens, 5, 7, seed=0)  # 2 windows an epoch
        assert (batches.num_windows, batches.steps_per_epoch) == (2, 1)
        assert batches.batch(3)["token_ids"].shape == (7, 5)
        one = PackedBatches(np.array([0, 4, 5, 0]), 3, 2, seed=0).batch(0)["token_ids"]
        assert all(sorted(row) == [0, 4, 5] for row in one.tolist())

    def test_too_little_text(self):
        with pytest.raises(ValueError, match=r"has 3 tokens, and one sequence takes 4"):
            PackedBatches(np.array([0, 4, 0]), 3, 1)
        with pytest.raises(ValueError, match="has 1 tokens"):
            PackedBatches(np.array([0]), 1, 1)
        for sizes in ((0, 1), (1, -2)):
            with pytest.raises(ValueError, match="must be at least 1"):
                PackedBatches(np.arange(9), *sizes)

    def test_segments_and_positions_by_hand(self):
        stream = stream_of([5, 6, 7], [8], [9, 10])
        batches = PackedBatches(stream, 9, 1, separate_documents=True, eos_id=EOS)
        row = next(b for b in map(batches.batch, range(99)) if b["token_ids"][0, :3].tolist() == [6, 7, 0])
        assert row["token_ids"].tolist() == [[6, 7, 0, 8, 0, 9, 10, 0, 5]]
        assert row["labels"].tolist() == [[7, 0, 8, 0, 9, 10, 0, 5, 6]]
        assert row["segment_ids"].tolist() == [[0, 0, 1, 1, 2, 2, 2, 3, 3]]
        assert row["positions"].tolist() == [[0, 1, 0, 1, 0, 1, 2, 0, 1]]
        assert row["segment_ids"].dtype == row["positions"].dtype == np.int32

    def test_separating_needs_to_know_what_separates(self, tmp_path):
        with pytest.raises(ValueError, match="pass eos_id"):
            PackedBatches(stream_of([5, 6]), 2, 1, separate_documents=True)
        shards = write(tmp_path / "s", shard_tokens=3)
        assert "segment_ids" in PackedBatches(shards, 2, 1, separate_documents=True).batch(0)

    @pytest.mark.parametrize(("num_tokens", "seq_length", "batch_size", "steps"), [(72, 5, 3, 4), (24, 11, 2, 1), (9, 7, 5, 1)])
    def test_contiguous_rows_go_on_where_they_stopped(self, num_tokens, seq_length, batch_size, steps):
        ring = num_tokens - 1
        batches = PackedBatches(np.arange(num_tokens) % ring, seq_length, batch_size, seed=2, contiguous=True)
        assert batches.steps_per_epoch == steps
        last = None
        for step in range(3 * steps):
            assert batches.starts_epoch(step) == (step % steps == 0)
            batch = batches.batch(step)
            np.testing.assert_array_equal(batch["labels"], (batch["token_ids"] + 1) % ring)
            if not batches.starts_epoch(step):
                np.testing.assert_array_equal(batch["token_ids"][:, 0], last["labels"][:, -1])
            last = batch

    def test_contiguous_rows_share_the_stream_among_them(self):
        batches = PackedBatches(np.arange(43) % 42, 7, 3, seed=2, contiguous=True)  # 3 rows of 14
        ids = np.concatenate([batches.batch(step)["token_ids"] for step in range(2)], axis=1)
        assert sorted(ids.ravel()) == list(range(42))


def scored(batches):
    """The labels of weight 1 and the inputs that predict them, in order of rows within each batch."""
    for batch in batches:
        chosen = batch["loss_weights"] == 1
        yield from zip(batch["token_ids"][chosen].tolist(), batch["labels"][chosen].tolist(), strict=True)


class TestEvaluationBatches:
    def test_by_hand(self):
        first, second = evaluation_batches(np.array([0, 1, 2, 3, 4, 5, 0]), 4, 1)
        assert first["token_ids"].tolist() == [[0, 1, 2, 3]] and first["labels"].tolist() == [[1, 2, 3, 4]]
        assert first["padding_mask"].all() and (first["loss_weights"] == 1).all()
        assert second["token_ids"].tolist() == [[4, 5, 0, 0]] and second["labels"].tolist() == [[5, 0, 0, 0]]
        assert second["padding_mask"].tolist() == [[True, True, False, False]]
        assert second["loss_weights"].tolist() == [[1, 1, 0, 0]]

    def test_context_by_hand(self):
        (batch,) = evaluation_batches(np.array([0, 1, 2, 3, 4, 5, 0]), 4, 2, context_tokens=2)
        assert batch["token_ids"].tolist() == [[0, 1, 2, 3], [2, 3, 4, 5]]
        assert batch["labels"].tolist() == [[1, 2, 3, 4], [3, 4, 5, 0]]
        assert batch["loss_weights"].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]

    @pytest.mark.parametrize("num_tokens", [2, 3, 12, 13, 14, 57, 101])
    @pytest.mark.parametrize(("seq_length", "batch_size", "context"), [(3, 2, 0), (5, 3, 2), (11, 7, 10), (1, 5, 0)])
    def test_every_token_but_the_first_is_scored_once(self, num_tokens, seq_length, batch_size, context):
        tokens = np.arange(num_tokens)
        batches = list(evaluation_batches(tokens, seq_length, batch_size, context_tokens=context))
        assert list(scored(batches)) == [(i, i + 1) for i in range(num_tokens - 1)]
        for batch in batches:
            assert all(value.shape == (batch_size, seq_length) for value in batch.values())
            assert batch["padding_mask"][:, 0].all(), "no row is empty"
            # Enough in front of each scored token: the context asked for, or all there is.
            rows, columns = np.nonzero(batch["loss_weights"])
            assert (columns >= np.minimum(context, batch["token_ids"][rows, columns])).all()

    @pytest.mark.parametrize("num_tokens", [2, 6, 13, 57])
    @pytest.mark.parametrize(("seq_length", "batch_size"), [(3, 2), (5, 7), (11, 3)])
    def test_contiguous_rows_score_every_token_once_and_go_on(self, num_tokens, seq_length, batch_size):
        batches = list(evaluation_batches(np.arange(num_tokens), seq_length, batch_size, contiguous=True))
        assert sorted(scored(batches)) == [(i, i + 1) for i in range(num_tokens - 1)]
        for before, after in zip(batches, batches[1:], strict=False):
            goes_on = after["loss_weights"][:, 0] == 1
            assert "padding_mask" not in after
            np.testing.assert_array_equal(after["token_ids"][goes_on, 0], before["labels"][goes_on, -1])
        weights = np.concatenate([batch["loss_weights"] for batch in batches], axis=1)
        assert (np.diff(weights, axis=1) <= 0).all(), "padding stands only at the end of a row"

    def test_segments_restart_at_each_row(self):
        (batch,) = evaluation_batches(stream_of([5, 6, 7], [8]), 4, 2, separate_documents=True, eos_id=EOS)
        assert batch["token_ids"].tolist() == [[0, 5, 6, 7], [0, 8, 0, 0]]
        assert batch["segment_ids"].tolist()[0] == [1, 1, 1, 1] and batch["segment_ids"].tolist()[1][:2] == [1, 1]
        assert batch["positions"].tolist()[0] == [0, 1, 2, 3] and batch["positions"].tolist()[1][:2] == [0, 1]

    def test_shards_of_a_few_tokens_give_the_same_batches(self, tmp_path):
        shards = write(tmp_path / "s", shard_tokens=3)
        for ours, theirs in zip(evaluation_batches(shards, 4, 2), evaluation_batches(shards[:], 4, 2), strict=True):
            for name in ours:
                np.testing.assert_array_equal(ours[name], theirs[name])
        packed, whole = PackedBatches(shards, 4, 2, 1), PackedBatches(shards[:], 4, 2, 1)
        np.testing.assert_array_equal(packed.batch(6)["labels"], whole.batch(6)["labels"])

    def test_nothing_to_score_and_contradictions(self):
        for stream, options, sentence in [
            (np.array([0]), {}, "nothing to score"),
            (np.arange(9), {"context_tokens": 3}, "below seq_length"),
            (np.arange(9), {"context_tokens": -1}, "at least 0"),
            (np.arange(9), {"context_tokens": 1, "contiguous": True}, "the state is the context"),
        ]:
            with pytest.raises(ValueError, match=sentence):
                list(evaluation_batches(stream, 3, 2, **options))
