"""Whether explanations tell the truth: a planted word that must be found, and how far the methods agree on real texts.

    python -m benchmarks.explanations
    python -m benchmarks.explanations --model_dir=runs/bag_of_words/latest

The toy is a bag of words that learns 200 texts of six words, each drawn from forty; half of them have one word more in a place
that is drawn, and the class says which. Of 100 other texts with that word each method must give it the highest score. With a
classifier of one text, the methods' scores of up to --texts of its test texts are compared: Spearman's rank correlation within
each text of three tokens or more, and how far integrated gradients are from complete.
"""

import argparse
import json

import numpy as np

NUM_WORDS, LENGTH, PLANTED = 40, 6, "zzz"


def text_with(number, planted):
    """(text, place): six words drawn by a number; with `planted` the planted word stands at that place."""
    random = np.random.default_rng([int(planted), number])
    text, place = random.choice([f"w{i}" for i in range(NUM_WORDS)], LENGTH).tolist(), int(random.integers(LENGTH))
    if planted:
        text[place] = PLANTED
    return " ".join(text), place


def toy(steps=40):
    """A `zoo.api.Loaded` that tells texts with the planted word from others."""
    import keras
    import tensorflow as tf

    import zoo
    from zoo.bundle import Bundle
    from zoo.data.batch import Layout
    from zoo.tasks.classification import Classification, ClassificationFacts
    from zoo.tokenizers.base import create as create_tokenizer

    words = " ".join([*(f"w{i}" for i in range(NUM_WORDS)), PLANTED])
    tokenizer = create_tokenizer("word", [words] * 3, NUM_WORDS + 20)
    task, layout = Classification(facts=ClassificationFacts(labels=("no", "yes"))), Layout(16, 32)
    data = task.encode([{"text": text_with(i, i % 2)[0], "label": ("no", "yes")[i % 2]} for i in range(200)], tokenizer, layout)
    model = zoo.create("bag_of_words", "tiny", order=1, vocab_size=tokenizer.vocab_size)
    model = task.assemble(model)
    batches, optimizer = task.training_batches(data, model, tokenizer, layout), keras.optimizers.Adam(0.3)
    for step in range(steps):
        with tf.GradientTape() as tape:
            total, count = task.loss(batches.batch(step), model(batches.batch(step)))
            loss = total / count
        optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)
    return zoo.api.Loaded(Bundle(model, tokenizer, task, {}))


def found(loaded, method, count=100):
    """In how many of `count` texts the planted word has the highest score and its class is the answer."""
    answers = [(loaded.explain(text, method), place) for text, place in (text_with(i, True) for i in range(500, 500 + count))]
    return sum(answer.target == "yes" and int(np.argmax(answer.scores)) == place for answer, place in answers)


def agreement(directory, count):
    """The figures of a classifier on its test texts, a dict."""
    import tfds_configs
    import zoo
    from trainers.evaluate import run_of
    from zoo import bundle as bundles
    from zoo import metrics
    from zoo.explanation import METHODS

    directory = bundles.find(directory)
    run, loaded = run_of(directory), zoo.load(directory)
    source = tfds_configs.get(run["dataset"], run["data_path"])
    texts = [str(example["text"]) for example in source.examples("test")][:count]
    correlations, gaps = {f"{METHODS[0]} and occlusion": [], f"{METHODS[1]} and occlusion": []}, []
    for text in texts:
        answers = [loaded.explain(text, method) for method in METHODS]
        difference = answers[0].value - answers[0].baseline
        gaps.append(abs(sum(answers[0].scores) - difference) / max(1.0, abs(difference)))
        if len(answers[0].tokens) > 2:
            for name, answer in zip(correlations, answers, strict=False):
                correlations[name].append(metrics.spearman(answer.scores, answers[2].scores))
    means = {name: [float(np.nanmean(values)), len(values)] for name, values in correlations.items()}
    return {"texts": len(texts), "largest gap of completeness": max(gaps), "spearman (mean, texts)": means}


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.explanations", description=__doc__.splitlines()[0])
    parser.add_argument("--model_dir", help="a run of a classifier of one text")
    parser.add_argument("--texts", type=int, default=100, help="of its test split")
    args = parser.parse_args()
    if args.model_dir:
        print(json.dumps(agreement(args.model_dir, args.texts)))
        return
    from zoo.explanation import METHODS

    loaded = toy()
    print(json.dumps({"planted word found, of 100": {method: found(loaded, method) for method in METHODS}}))


if __name__ == "__main__":
    main()
