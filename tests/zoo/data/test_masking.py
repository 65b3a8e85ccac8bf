"""What is hidden from a masked language model, and that nothing else is.

Shape letters: B batch, T positions, P predictions a row.
"""

import numpy as np
import pytest

from tests.tiny_models import CLS_ID, EOS_ID, MASK_ID, ToyVocabulary
from zoo.data.batch import Layout
from zoo.data.masking import MaskedBatches, Masking, evaluation_batches, paired, require_mask

SPECIAL = (EOS_ID, CLS_ID, MASK_ID)
B, T = 7, 53


def masking(kind="token", rate=0.15):
    return Masking(rate, kind, MASK_ID, SPECIAL, ToyVocabulary.begins_word())


def rows(seed=0, batch=B, length=T):
    ids = np.random.default_rng(seed).integers(1, 59, (batch, length)).astype(np.int32)
    ids[:, 0], ids[:, -1], ids[2, 20:] = CLS_ID, EOS_ID, EOS_ID
    return ids


def apply(kind="token", rate=0.15, seed=0, ids=None):
    ids = rows() if ids is None else ids
    return ids, masking(kind, rate).apply(ids, np.random.Philox(key=np.array([seed, 3], np.uint64)))


def restored(batch):
    """The rows with every label back in its place."""
    ids = batch["token_ids"].copy()
    for row in range(len(ids)):
        there = batch["loss_weights"][row] > 0
        ids[row, batch["label_positions"][row][there]] = batch["labels"][row][there]
    return ids


@pytest.mark.parametrize("kind", ["token", "whole_word", "span"])
def test_labels_put_back_are_the_row_and_specials_are_never_chosen(kind):
    for seed in range(20):
        ids, batch = apply(kind, seed=seed)
        np.testing.assert_array_equal(restored(batch), ids)
        chosen = batch["labels"][batch["loss_weights"] > 0]
        assert not np.isin(chosen, SPECIAL).any()
        assert (batch["token_ids"][np.isin(ids, SPECIAL)] == ids[np.isin(ids, SPECIAL)]).all()
        for row in range(B):
            there = batch["label_positions"][row][batch["loss_weights"][row] > 0]
            assert len(set(there)) == len(there)


def test_as_many_are_chosen_as_the_rate_says():
    _, batch = apply()
    assert batch["labels"].shape == (B, 8)  # the ceiling of 0.15 * 53
    # 51 ordinary tokens make round(7.65) = 8 a row; the third row has 19, which make round(2.85) = 3
    np.testing.assert_array_equal(batch["loss_weights"].sum(1), [8, 8, 3, 8, 8, 8, 8])


def test_a_row_of_nothing_but_specials_asks_for_nothing():
    _, batch = apply(ids=np.full((1, 11), EOS_ID, np.int32))
    assert batch["loss_weights"].sum() == 0


def test_eighty_ten_ten():
    hidden, others, same, count = 0, 0, 0, 0
    for seed in range(200):
        ids, batch = apply(seed=seed)
        there = batch["loss_weights"] > 0
        now = np.take_along_axis(batch["token_ids"], batch["label_positions"], 1)[there]
        labels = batch["labels"][there]
        count += there.sum()
        hidden += (now == MASK_ID).sum()
        same += (now == labels).sum()
        others += ((now != labels) & (now != MASK_ID)).sum()
        assert not np.isin(now[now != MASK_ID], SPECIAL).any()
    # of 10,200 draws: standard deviations of 0.004, 0.003 and 0.003; a random token is the same one time in 58
    assert hidden / count == pytest.approx(0.8, abs=0.016)
    assert others / count == pytest.approx(0.1 * 57 / 58, abs=0.012)
    assert same / count == pytest.approx(0.1 + 0.1 / 58, abs=0.012)


def words_of(ids):
    """The word that each position of a row belongs to."""
    begins = ToyVocabulary.begins_word()[ids] | np.isin(ids, SPECIAL)
    begins[1:] |= np.isin(ids[:-1], SPECIAL)
    begins[0] = True
    return np.cumsum(begins)


@pytest.mark.parametrize("kind", ["whole_word", "span"])
def test_words_are_chosen_whole(kind):
    ids = rows()
    ids[:, 1:-1] = np.random.default_rng(1).integers(1, 20, (B, T - 2))  # half of these go on with a word
    for seed in range(20):
        _, batch = apply(kind, rate=0.3, seed=seed, ids=ids)
        for row in range(B):
            word = words_of(ids[row])
            there = set(batch["label_positions"][row][batch["loss_weights"][row] > 0].tolist())
            for number in {word[column] for column in there}:
                assert set(np.flatnonzero(word == number).tolist()) <= there


def test_spans_are_longer_than_single_tokens():
    def runs(kind):
        lengths = []
        for seed in range(40):
            ids, batch = apply(kind, rate=0.3, seed=seed, ids=np.full((1, 211), 20, np.int32))
            columns = np.sort(batch["label_positions"][0][batch["loss_weights"][0] > 0])
            lengths += [len(run) for run in np.split(columns, np.flatnonzero(np.diff(columns) != 1) + 1)]
        return np.mean(lengths)

    # geometric with 0.2 and at most 10: (1 - 0.8^10) / 0.2 = 4.46, and neighbouring spans join; single ones: 1 / 0.7
    assert 4 < runs("span") < 7
    assert runs("token") == pytest.approx(1 / 0.7, abs=0.15)


def test_batches_are_a_function_of_seed_and_step():
    stream = np.concatenate([[EOS_ID], np.random.default_rng(4).integers(1, 59, 500), [EOS_ID]]).astype(np.int32)

    def make(seed):
        return MaskedBatches(stream, Layout(16, 5, seed), masking(), ToyVocabulary())

    one, again, other = make(1), make(1), make(2)
    for step in (0, 3, 40):
        batch = one.batch(step)
        assert batch["token_ids"].shape == (5, 16) and one.starts_epoch(step)
        assert (batch["token_ids"][:, 0] == CLS_ID).all() and (batch["token_ids"][:, -1] == EOS_ID).all()
        for name, value in again.batch(step).items():
            np.testing.assert_array_equal(batch[name], value)
        assert (batch["token_ids"] != other.batch(step)["token_ids"]).any()
    # dynamic: when the same windows come round again, others of their tokens are hidden
    epochs = [restored(one.batch(step)) for step in range(2 * one.steps_per_epoch)]
    assert len(epochs) == 2 * -(-501 // 14 // 5) or len(epochs) == 2 * one.steps_per_epoch


def test_evaluation_takes_everything_once_and_the_same_each_time():
    stream = np.concatenate([[EOS_ID], np.random.default_rng(4).integers(1, 59, 76), [EOS_ID]]).astype(np.int32)
    passes = [list(evaluation_batches(stream, Layout(13, 3), masking(), ToyVocabulary())) for _ in range(2)]
    assert len(passes[0]) == 3  # 78 tokens in windows of 11, three a batch
    bodies = [restored(batch)[:, 1:-1][batch["padding_mask"][:, 1:-1]] for batch in passes[0]]
    np.testing.assert_array_equal(np.concatenate(bodies), stream)
    for one, again in zip(*passes, strict=True):
        for name, value in one.items():
            np.testing.assert_array_equal(value, again[name])
        hidden = one["token_ids"][~one["padding_mask"]]
        assert (hidden == EOS_ID).all()


def test_a_vocabulary_without_a_mask_is_refused():
    class Plain(ToyVocabulary):
        mask_id, registered_name = None, "byte"

    with pytest.raises(ValueError, match="the byte tokenizer has none: take --tokenizer=wordpiece or unigram."):
        require_mask(Plain())
    with pytest.raises(ValueError, match="seq_length is at least 6, got 5"):
        MaskedBatches(np.arange(40), Layout(5, 2), masking(), ToyVocabulary())
    with pytest.raises(ValueError, match="pairs=next_sentence takes a second part from another row"):
        MaskedBatches(np.arange(40), Layout(9, 1), masking(), ToyVocabulary(), "next_sentence")


def halves(ids):
    """The two parts of a row."""
    first = ids.tolist().index(EOS_ID)
    assert ids[0] == CLS_ID and ids[-1] == EOS_ID
    return ids[1:first], ids[first + 1 : -1]


@pytest.mark.parametrize("kind", ["sentence_order", "next_sentence"])
def test_parts_of_a_pair_stand_as_in_the_text_in_half_of_the_rows(kind):
    windows = np.random.default_rng(2).permutation(40 * 17).reshape(40, 17).astype(np.int32) + 61  # every id once
    pairs = paired(windows, kind, ToyVocabulary(), np.random.Philox(key=np.array([5, 1], np.uint64)))
    assert 10 < pairs["pair_labels"].sum() < 30 and (pairs["pair_weights"] == 1).all()
    for row, window in enumerate(windows):
        first, second = halves(pairs["token_ids"][row])
        assert pairs["segment_ids"][row].tolist() == [0] * (len(first) + 2) + [1] * (len(second) + 1)
        if pairs["pair_labels"][row]:
            assert [*first, *second] == window.tolist()
        elif kind == "sentence_order":
            assert [*second, *first] == window.tolist()
        else:
            assert first.tolist() == window[: len(first)].tolist()
            other = np.flatnonzero((windows == second[0]).any(1))[0]
            assert other != row and second.tolist() == windows[other, len(first) :].tolist()
        assert min(len(first), len(second)) >= 17 // 4


def test_pairs_are_a_function_of_seed_and_step_and_evaluation_pairs_full_rows():
    stream = np.concatenate([[EOS_ID], np.random.default_rng(4).integers(1, 59, 76), [EOS_ID]]).astype(np.int32)
    one, again = (MaskedBatches(stream, Layout(13, 3, 1), masking(), ToyVocabulary(), "sentence_order") for _ in range(2))
    for step in (0, 9):
        batch = one.batch(step)
        assert batch["token_ids"].shape == batch["segment_ids"].shape == (3, 13)
        for name, value in again.batch(step).items():
            np.testing.assert_array_equal(batch[name], value)
    batches = list(evaluation_batches(stream, Layout(13, 3), masking(), ToyVocabulary(), pairs="next_sentence"))
    assert [batch["pair_weights"].tolist() for batch in batches] == [
        [1, 1, 1],
        [1, 1, 1],
        [0, 0, 0],
    ]  # 78 tokens in windows of 10
    assert sum(int(batch["padding_mask"].sum()) for batch in batches) == 78 + 3 * 6 + 2 * 3
    assert all((batch["token_ids"][~batch["padding_mask"]] == EOS_ID).all() for batch in batches)
