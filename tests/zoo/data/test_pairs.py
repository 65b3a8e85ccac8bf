"""Windows of a text: by hand on tiny streams, and against loops over every pair.

Shape letters: B batch, T centres of a row, W window, N negatives of a row, V vocabulary, P nodes of a path.
"""

import collections
import heapq
import threading

import numpy as np
import pytest

from zoo.config import Refusal
from zoo.data.batch import Layout
from zoo.data.pairs import (
    AliasTable,
    WindowBatches,
    Windows,
    count_words,
    evaluation_batches,
    huffman_paths,
    keep_probabilities,
    limited,
    pair_counts,
)
from zoo.data.shards import write_shards

EOS, V = 0, 23
PLAIN = dict(sample=0.0, shrink=False, negatives=0, most_pairs=None)


def stream_of(*sentences):
    return np.concatenate([[EOS], *([*sentence, EOS] for sentence in sentences)]).astype(np.int32)


def random_stream_of(num_sentences, seed=0, longest=9):
    random = np.random.default_rng(seed)
    return stream_of(*(random.integers(1, V, random.integers(0, longest)) for _ in range(num_sentences)))


def batches(stream, *, length=5, rows=3, seed=0, min_count=1, special=(EOS,), block=2**20, paths=None, **options):
    counts = count_words(stream, V, min_count=min_count, special_ids=special)
    windows = Windows(**{**PLAIN, **options})
    return WindowBatches(stream, Layout(length, rows, seed), counts, EOS, windows, paths=paths, block_tokens=block)


def pairs_of(batch, window):
    """Counter of (centre, context) by a loop over the batch."""
    pairs = collections.Counter()
    for row, (before, after) in enumerate(zip(batch["contexts_before"], batch["contexts_after"], strict=True)):
        ids = batch["token_ids"][row]
        for column in range(len(before)):
            centre = column + window
            for other in range(centre - before[column], centre + after[column] + 1):
                if other != centre:
                    pairs[int(ids[centre]), int(ids[other])] += 1
    return pairs


def epoch_pairs(made, window, epoch=0):
    """Counter of the pairs of one epoch; rows of its neighbours, where the last batch has some, are left out."""
    pairs, size = collections.Counter(), made.layout.batch_size
    first, end = epoch * made.num_rows, (epoch + 1) * made.num_rows
    for step in range(first // size, -(-end // size)):
        batch = made.batch(step)
        mine = [first <= step * size + row < end for row in range(size)]
        pairs += pairs_of({name: value[mine] for name, value in batch.items()}, window)
    return pairs


def true_pairs(stream, window, known=range(1, V)):
    """The same from the text, by a loop over its sentences."""
    pairs, sentence = collections.Counter(), []
    for token in [*stream.tolist(), EOS]:
        if token == EOS:
            for i, centre in enumerate(sentence):
                for j in range(max(0, i - window), min(len(sentence), i + window + 1)):
                    if j != i:
                        pairs[centre, sentence[j]] += 1
            sentence = []
        elif token in known:
            sentence.append(token)
    return pairs


class TestCounts:
    def test_special_and_rare_ids_have_no_count(self):
        stream = stream_of([1, 2, 2, 3], [3, 3, 4])
        assert count_words(stream, 6, min_count=2, special_ids=(EOS, 4)).tolist() == [0, 0, 2, 3, 0, 0]

    def test_blocks_add_up(self):
        stream = random_stream_of(40)
        whole = count_words(stream, V, special_ids=(EOS,))
        np.testing.assert_array_equal(count_words(stream, V, special_ids=(EOS,), block_tokens=7), whole)

    def test_without_a_word_it_is_refused(self):
        with pytest.raises(Refusal, match="No word occurs 3 times"):
            count_words(stream_of([1, 2], [1]), 4, min_count=3, special_ids=(EOS,))

    def test_frequent_words_are_thinned_out_as_the_original_program_does(self):
        # n = 20, t n = 2: (sqrt(16 / 2) + 1) 2 / 16 = 0.478553...; (sqrt(3 / 2) + 1) 2 / 3 = 1.48 -> 1; a single one stays
        np.testing.assert_allclose(keep_probabilities([0, 16, 3, 1], 0.1), [0, (8**0.5 + 1) / 8, 1, 1], rtol=1e-12)
        assert keep_probabilities([0, 16, 3, 1], 0.0).tolist() == [0, 1, 1, 1]


class TestAliasTable:
    @pytest.mark.parametrize("weights", [[1, 0, 3], [5], [0, 0, 1e-9, 2, 0.5, 0], [1] * 7, [3, 1, 4, 1, 5, 9, 2, 6]])
    def test_its_table_holds_exactly_the_weights(self, weights):
        table, size = AliasTable(weights), len(weights)
        share = table._threshold / size
        np.add.at(share, table._alias, (1 - table._threshold) / size)
        np.testing.assert_allclose(share, np.array(weights) / np.sum(weights), atol=1e-15)

    def test_draws_follow_the_weights_and_never_hit_a_weight_of_0(self):
        draws = AliasTable([1, 0, 3]).draw(np.random.Philox(7), (40, 1000))
        shares = np.bincount(draws.ravel(), minlength=3) / draws.size
        assert shares[1] == 0 and abs(shares[2] - 0.75) < 0.01  # five standard deviations

    def test_negatives_are_drawn_by_counts_to_a_power(self):
        made = batches(stream_of([1] * 16, [2]), negatives=5, shared_negatives=4000)
        drawn = np.bincount(made.batch(0)["negative_ids"].ravel(), minlength=V) / 12000
        # 16^0.75 = 8 to 1
        assert abs(drawn[1] - 8 / 9) < 0.015 and drawn[1] + drawn[2] == 1


class TestWindows:
    def test_two_tiny_sentences(self):
        made = batches(stream_of([1, 2, 3], [4], [5, 6]), window=1)
        expected = {(1, 2): 1, (2, 1): 1, (2, 3): 1, (3, 2): 1, (5, 6): 1, (6, 5): 1}
        assert epoch_pairs(made, 1) == expected

    def test_columns_of_a_row(self):
        made = batches(stream_of([1, 2, 3, 4, 5]), window=2, length=5, rows=1)
        batch = made.batch(0)
        assert batch["token_ids"].tolist() == [[0, 0, 1, 2, 3, 4, 5, 0, 0]]
        assert batch["contexts_before"].tolist() == [[0, 1, 2, 2, 2]]
        assert batch["contexts_after"].tolist() == [[2, 2, 2, 1, 0]]
        assert batch["loss_weights"].tolist() == [[1, 1, 1, 1, 1]]
        assert set(batch) == {"token_ids", "contexts_before", "contexts_after", "loss_weights"}

    @pytest.mark.parametrize(("window", "length", "rows"), [(1, 1, 1), (2, 5, 3), (3, 7, 4), (4, 64, 2), (11, 3, 5)])
    @pytest.mark.parametrize("epoch", [0, 2])
    def test_an_epoch_has_every_pair_once(self, window, length, rows, epoch):
        stream = random_stream_of(37)
        made = batches(stream, window=window, length=length, rows=rows, seed=11)
        assert epoch_pairs(made, window, epoch) == true_pairs(stream, window)

    def test_a_sentence_of_any_length_is_whole(self):
        stream = stream_of(np.random.default_rng(1).integers(1, V, 3001))
        made = batches(stream, window=2, length=32, rows=8)
        assert epoch_pairs(made, 2) == true_pairs(stream, 2)

    def test_what_is_no_word_is_taken_away_and_its_neighbours_meet(self):
        stream = stream_of([1, 9, 2, 2], [1, 7, 1, 9])  # 7 and 9 are rare
        made = batches(stream, window=1, min_count=2, special=(EOS, 9))
        assert epoch_pairs(made, 1) == {(1, 2): 1, (2, 1): 1, (2, 2): 2, (1, 1): 2}

    def test_blocks_end_where_sentences_end(self):
        stream = random_stream_of(300, longest=5)
        made = batches(stream, window=2, block=64)
        assert len(made._cuts) > 12
        assert epoch_pairs(made, 2) == true_pairs(stream, 2)

    def test_a_block_within_a_sentence_loses_the_windows_across_its_end_alone(self):
        sentence = np.arange(1, 21)
        made = batches(stream_of(sentence), window=1, block=8)
        assert made._cuts == [0, 8, 16, 22]
        lost = true_pairs(stream_of(sentence), 1) - epoch_pairs(made, 1)
        assert lost == {(7, 8): 1, (8, 7): 1, (15, 16): 1, (16, 15): 1}

    def test_shrunk_windows_are_even_from_1_to_w(self):
        made = batches(stream_of([3] * 20_000), window=4, length=50, rows=400, shrink=True)
        batch = made.batch(0)
        inner = batch["contexts_before"][batch["loss_weights"] > 0]
        shares = np.bincount(inner, minlength=6)[1:] / inner.size
        assert np.abs(shares[:4] - 0.25).max() < 0.02 and shares[4] == 0
        same = (batch["contexts_before"] == batch["contexts_after"]).mean()
        assert same > 0.99  # one draw for both sides; at the ends of the sentence there is less

    def test_words_stay_as_often_as_they_should(self):
        stream = random_stream_of(4000, longest=30)
        counts = count_words(stream, V, special_ids=(EOS,))
        made = batches(stream, sample=0.01, length=64, rows=1)
        keep = keep_probabilities(counts, 0.01)
        seen = np.zeros(V)
        for step in range(made.num_rows):
            batch = made.batch(step)
            centres = batch["token_ids"][:, 5:69][batch["loss_weights"] > 0]
            seen += np.bincount(centres, minlength=V)
        expected = keep * counts
        assert abs(made.expected_words - expected.sum()) < 1e-6
        deviation = np.abs(seen - expected)[1:] / np.sqrt(expected * (1 - keep))[1:]
        assert deviation.max() < 4.5 and keep[1:].max() < 0.71

    def test_centres_are_spread_evenly_over_rows(self):
        made = batches(random_stream_of(900, longest=40), sample=0.02, length=16, rows=8)
        sizes = [made.batch(step)["loss_weights"].sum(1) for step in range(made.num_rows // 8)]
        assert np.ptp(np.concatenate(sizes)) <= 1

    def test_a_split_of_shards_reads_as_the_array_does(self, tmp_path):
        stream = random_stream_of(60)
        documents = np.split(stream[1:], np.flatnonzero(stream[1:] == EOS) + 1)
        shards = write_shards(tmp_path / "s", [d[:-1] for d in documents if len(d)], vocab_size=V, eos_id=EOS, shard_tokens=50)
        a, b = batches(stream, sample=0.05, seed=3), batches(shards, sample=0.05, seed=3)
        for step in range(5):
            for name, value in a.batch(step).items():
                np.testing.assert_array_equal(value, b.batch(step)[name])


class TestOrder:
    def test_a_batch_depends_on_seed_and_step_alone(self):
        stream, options = random_stream_of(200), dict(sample=0.05, shrink=True, negatives=5, most_pairs=9.0, block=128)
        first = batches(stream, seed=5, **options)
        forwards = [first.batch(step) for step in range(20)]
        for step in (17, 3, 3, 19, 0):
            for name, value in batches(stream, seed=5, **options).batch(step).items():
                np.testing.assert_array_equal(value, forwards[step][name])
        other = batches(stream, seed=6, **options).batch(0)
        assert any((other[name] != forwards[0][name]).any() for name in other)

    def test_threads_make_the_same_batches(self):
        stream, options = random_stream_of(200), dict(sample=0.05, negatives=5, block=64)
        alone = [batches(stream, **options).batch(step) for step in range(24)]
        shared, made = batches(stream, **options), {}
        threads = [
            threading.Thread(target=lambda i=i: made.update({s: shared.batch(s) for s in range(i, 24, 3)})) for i in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for step, batch in enumerate(alone):
            for name, value in batch.items():
                np.testing.assert_array_equal(value, made[step][name])

    def test_epochs_differ_in_order_and_in_what_stays(self):
        made = batches(random_stream_of(300), sample=0.02, rows=6, block=256)
        assert made.steps_per_epoch == -(-made.num_rows // 6) and made.starts_epoch(3)
        assert epoch_pairs(made, 5, 0) != epoch_pairs(made, 5, 1)

    def test_few_blocks_are_held(self):
        made = batches(random_stream_of(500), block=64)
        for step in range(made.steps_per_epoch):
            made.batch(step)
        assert len(made._blocks) == 3 and len(made._cuts) > 20


class TestRates:
    def test_a_sum_over_many_pairs_stops_growing(self):
        np.testing.assert_allclose(limited(np.array([0, 3, 8, 16, 80]), 8), [1, 1, 1, 0.5, 0.1])

    @pytest.mark.parametrize("objective", ["skip_gram", "cbow", "cbow_sum"])
    def test_pairs_are_counted_as_a_loop_counts_them(self, objective):
        batch = batches(random_stream_of(80), window=3, length=7, shrink=True).batch(2)
        contexts, inputs = pair_counts(batch, 3, objective)
        by_hand, by_input = np.zeros((3, 7)), np.zeros((3, 13))
        for row in range(3):
            for column in range(7):
                before, after = batch["contexts_before"][row, column], batch["contexts_after"][row, column]
                by_hand[row, column] = before + after
                for other in range(column + 3 - before, column + 4 + after):
                    if other != column + 3:
                        by_input[row, other] += 1 / (before + after) if objective == "cbow" else 1
        np.testing.assert_allclose(contexts, by_hand)
        np.testing.assert_allclose(inputs, by_input, atol=1e-12)

    @pytest.mark.parametrize("objective", ["skip_gram", "cbow"])
    def test_rates_follow_from_a_words_pairs_in_the_whole_batch(self, objective):
        stream = random_stream_of(200)
        paths = nodes, codes = huffman_paths(count_words(stream, V, special_ids=(EOS,)))
        made = batches(
            stream,
            window=2,
            length=7,
            rows=4,
            negatives=3,
            shared_negatives=5,
            most_pairs=2.5,
            objective=objective,
            paths=paths,
        )
        batch = made.batch(1)
        inputs, outputs, through = collections.Counter(), collections.Counter(), collections.Counter()
        all_pairs = 0
        for row in range(4):
            pairs_of_row = 0
            for column in range(7):
                ids, centre = batch["token_ids"][row], column + 2
                before, after = batch["contexts_before"][row, column], batch["contexts_after"][row, column]
                n = before + after
                size = n if objective == "skip_gram" else min(n, 1)
                pairs_of_row += size
                all_pairs += size
                outputs[ids[centre]] += size
                for node in nodes[ids[centre]]:
                    through[node] += size
                for other in {*range(centre - before, centre + after + 1)} - {centre}:
                    inputs[ids[other]] += 1 if objective == "skip_gram" else 1 / n
            for negative in batch["negative_ids"][row]:
                outputs[negative] += pairs_of_row * 3 / 5
        rate = np.vectorize(lambda pairs: all_pairs * min(1.0, 2.5 / max(pairs, 1e-9)), otypes=[float])
        np.testing.assert_allclose(batch["input_rates"], rate([[inputs[i] for i in r] for r in batch["token_ids"]]), rtol=1e-6)
        centres = batch["token_ids"][:, 2:9]
        np.testing.assert_allclose(batch["label_rates"], rate([[outputs[i] for i in r] for r in centres]), rtol=1e-6)
        negatives = [[outputs[i] for i in r] for r in batch["negative_ids"]]
        np.testing.assert_allclose(batch["negative_rates"], rate(negatives), rtol=1e-6)
        inner = nodes[centres] >= 0
        expected = np.array([[[through[n] for n in nodes[c]] for c in r] for r in centres])
        np.testing.assert_allclose(batch["path_rates"][inner], rate(expected[inner]), rtol=1e-6)
        np.testing.assert_array_equal(batch["path_nodes"], nodes[centres])
        np.testing.assert_array_equal(batch["path_codes"], codes[centres])
        assert (batch["input_rates"] < all_pairs).any() and (batch["label_rates"] < all_pairs).any()


class TestEvaluation:
    @pytest.mark.parametrize("rows", [1, 4, 7])
    def test_every_pair_once_and_the_same_at_every_call(self, rows):
        stream = random_stream_of(50)
        counts = count_words(stream, V, special_ids=(EOS,))
        windows, layout = Windows(window=2, **PLAIN), Layout(6, rows, seed=9)
        pairs = collections.Counter()
        made = list(evaluation_batches(stream, layout, counts, EOS, windows))
        for batch in made:
            pairs += pairs_of(batch, 2)
        assert pairs == true_pairs(stream, 2)
        for one, other in zip(made, evaluation_batches(stream, layout, counts, EOS, windows), strict=True):
            for name, value in one.items():
                np.testing.assert_array_equal(value, other[name])

    def test_of_the_front_of_a_split(self):
        stream = random_stream_of(50)
        counts = count_words(stream, V, special_ids=(EOS,))
        made = evaluation_batches(stream[:61], Layout(6, 4), counts, EOS, Windows(window=2, **PLAIN))
        assert sum((pairs_of(batch, 2) for batch in made), collections.Counter()) == true_pairs(stream[:61], 2)


class TestHuffman:
    def test_by_hand(self):
        # c (1) and d (2) make 3; that and b (3) make 6; that and a (7) make 13. Of two equal ones the leaf comes first.
        nodes, codes = huffman_paths([0, 7, 3, 1, 2])
        assert nodes.tolist() == [[-1] * 3, [2, -1, -1], [2, 1, -1], [2, 1, 0], [2, 1, 0]]
        assert codes[1:].tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 1, 1]]

    @pytest.mark.parametrize("size", [2, 3, 17, 100])
    def test_paths_are_those_of_the_least_cost(self, size):
        counts = np.random.default_rng(size).integers(0, 50, size)
        counts[:2] = 9, 4
        nodes, codes = huffman_paths(counts)
        lengths = (nodes >= 0).sum(1)
        heap = counts[counts > 0].tolist()
        heapq.heapify(heap)
        least = 0
        while len(heap) > 1:
            joined = heapq.heappop(heap) + heapq.heappop(heap)
            least += joined
            heapq.heappush(heap, joined)
        assert (lengths * counts).sum() == least
        words = {tuple(codes[i, : lengths[i]]) for i in np.flatnonzero(counts)}
        assert len(words) == (counts > 0).sum()
        assert abs(sum(0.5 ** len(word) for word in words) - 1) < 1e-12  # no path is the beginning of another
        assert set(nodes[nodes >= 0].tolist()) == set(range((counts > 0).sum() - 1))

    def test_a_shared_beginning_goes_through_the_same_nodes(self):
        nodes, codes = huffman_paths(np.arange(1, 40))
        for i in range(39):
            for j in range(39):
                same = (codes[i] == codes[j]) & (nodes[i] >= 0) & (nodes[j] >= 0)
                common = len(same) if same.all() else int(same.argmin())
                assert (nodes[i, : common + 1] == nodes[j, : common + 1]).all() or (nodes[[i, j], common] == -1).any()

    def test_one_word_is_refused(self):
        with pytest.raises(Refusal, match="two words"):
            huffman_paths([0, 3, 0])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(window=0), "window must be at least 1"),
        (dict(sample=1.0), "sample must be"),
        (dict(negatives=3, shared_negatives=0), "shared_negatives at least 1"),
        (dict(objective="glove"), "objective must be skip_gram, cbow or cbow_sum"),
        (dict(most_pairs=0.0), "most_pairs must be positive"),
    ],
)
def test_what_cannot_be_is_refused(options, sentence):
    with pytest.raises(Refusal, match=sentence):
        Windows(**options)


def test_a_text_without_a_counted_word_is_refused():
    counts = count_words(stream_of([1, 1, 2]), V, special_ids=(EOS,))
    with pytest.raises(Refusal, match="no word of the vocabulary"):
        WindowBatches(stream_of([5, 6]), Layout(4, 2), counts, EOS, Windows(**PLAIN))
