"""Training GloVe is the update that one would write down in NumPy."""

import argparse

import numpy as np

from benchmarks.glove import Plain, tables_of, trained_side


def test_costs_and_tables_are_those_of_plain_numpy(tmp_path):
    random = np.random.default_rng(0)
    sentences = [random.integers(2, 40, random.integers(2, 20)) for _ in range(80)]
    ids = np.concatenate([np.append(sentence, 1) for sentence in sentences]).astype(np.int32)
    args = argparse.Namespace(
        vocab_size=40, special_ids=(0, 1), hidden_dim=6, window=4, x_max=2.0, alpha=0.75, rate=0.05, batch_pairs=128
    )
    trainer, batches, model = trained_side(ids, args, tmp_path)
    plain = Plain(tables_of(model), args)
    for step in range(2 * batches.steps_per_epoch + 1):
        batch = batches.batch(step)
        assert abs(float(trainer.step(batch).loss) - plain.step(batch)) < 1e-5
    for ours, theirs in zip(tables_of(model), plain.tables, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
