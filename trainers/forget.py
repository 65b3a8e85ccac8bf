"""Takes documents out of an n-gram: python -m trainers.forget --model_dir=runs/ngram/latest --documents=3,17 --to=without

The counts of the documents' n-grams are subtracted from those of the training text, and the probabilities follow from what is
left: bit for bit those of a fit without the documents. The counts lie beside the tokens in the cache; the first call makes
them, or `trainers.prepare --counts=`, and no later one reads the text.
"""

from pathlib import Path

from absl import flags

from trainers import flags as trainer_flags
from trainers import program
from zoo.config import Refusal

FLAGS = flags.FLAGS


def main():
    directory = trainer_flags.model_dir()
    if FLAGS.to is None:
        raise Refusal("--to is missing; give the directory of the bundle that is made.")
    if Path(FLAGS.to).exists():
        raise Refusal(f"--to={FLAGS.to} is there already; give the name of a new directory.")
    if not FLAGS.documents or not all(number.isdecimal() for number in FLAGS.documents):
        raise Refusal("--documents takes numbers of documents from 0 by commas, as trainers.trace tells them.")
    with program.quiet():
        import tensorflow  # noqa: F401

    from trainers import trace
    from zoo import bundle as bundles

    bundle = bundles.load(directory)
    model = bundle.model
    if model.registered_name != "ngram":
        raise Refusal(
            f"{model.registered_name} was trained in steps, and no document can be taken out of it exactly; train it again "
            "without the documents. --model_dir takes an n-gram."
        )
    shards, _ = trace.training_tokens(directory)
    numbers = sorted(set(map(int, FLAGS.documents)))
    before = sum(model.config.ngram_counts)
    removed = forget(model, shards, numbers)
    provenance = {**bundle.provenance, "documents taken out": [*bundle.provenance.get("documents taken out", ()), *numbers]}
    bundles.Bundle(model, bundle.tokenizer, bundle.task, provenance).save(FLAGS.to)
    after = sum(model.config.ngram_counts)
    print(f"Taken out: {len(numbers):,} documents of {removed:,} tokens; {before:,} n-grams before, {after:,} behind")
    print("The tokenizer is as it was. Its vocabulary may hold words that stood in these documents alone.")
    print(f"Bundle: {FLAGS.to}")


def forget(model, shards, numbers):
    """Takes documents out of an n-gram.

    Args:
        model: an `NGram`, fitted to all of `shards`; it is fitted to the others.
        shards: the `TokenShards` of its training text.
        numbers: sorted numbers of documents, from 0.

    Returns:
        How many tokens they have.

    Raises:
        Refusal: there is no such document, nothing would be left, or the model was not fitted to these shards.
    """
    import numpy as np

    from trainers.ngram_counts import make_counts, nodes_of
    from trainers.parts import Here
    from zoo.layers import ngram_estimation

    config, ids = model.config, shards[:]
    ends = np.flatnonzero(ids == config.eos_id)
    count = len(ends) - 1
    if numbers[-1] >= count:
        raise Refusal(
            f"The training text has {count:,} documents, numbered from 0; there is none with the number {numbers[-1]}."
        )
    if len(numbers) == count:
        raise Refusal("Nothing would be left; an n-gram needs at least one document.")
    ngrams = nodes_of(make_counts(shards, config.order, Here(lambda done: None)))
    if not config.cutoffs and tuple(map(len, ngrams)) != tuple(config.ngram_counts):
        raise Refusal(
            "The n-grams of the training text are not those of the model: the text has changed, or it was taken from."
        )
    taken = np.concatenate([ids[:1], *(ids[ends[i] + 1 : ends[i + 1] + 1] for i in numbers)])
    removed = ngram_estimation.corpus_count(taken, config.order, config.vocab_size, config.eos_id)
    model.fit_counts(ngram_estimation.without(ngrams, removed, config.vocab_size))
    return len(taken) - 1 - len(numbers)


def start():
    """The program, with its flags."""
    trainer_flags.define_forgetting()
    program.start(main)


if __name__ == "__main__":
    start()
