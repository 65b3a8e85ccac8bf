"""Classification by likelihood: a language model chooses among the words of the labels, after some examples.

Every example becomes a text by a pattern, `{text} It was {label}.`. The model reads K examples with their labels' words, the
shots, and then the text in question; the label whose word is likeliest is its answer (Brown et al. 2020, section 2.4).
"""

import numpy as np

from zoo import metrics
from zoo.config import Refusal
from zoo.data import patterns
from zoo.data.batch import random_stream

BETWEEN = "\n\n"  # between two examples
SCORES = ("accuracy", "accuracy_normalized", "calibration_error", "brier")


def label_words(labels, given):
    """Label -> its word, as `--label_words` says: `label=word`, separated by commas; the label itself where it says nothing.

    Raises:
        Refusal: a label that no example has, or two with one word.
    """
    words = {label: label for label in labels} | patterns.label_words(labels, given)
    patterns.require_distinct(words)
    return words


def labelled(examples):
    """A list of examples, their labels as strings. Raises Refusal for one without a label."""
    examples = list(examples)
    for number, example in enumerate(examples, 1):
        label = example.get("label")
        if not isinstance(label, str | int | float) or not str(label).strip():
            raise Refusal(f"Example {number} has no label; each must have one, in the field or column `label`.")
    return [{**example, "label": str(example["label"])} for example in examples]


def shots(examples, count, seed):
    """`count` examples to show, a pure function of the seed: the classes take turns as far as their examples reach.

    Raises:
        Refusal: there are not so many.
    """
    if count > len(examples):
        raise Refusal(f"--shots={count} is more than the {len(examples)} examples of the train split.")
    order = np.argsort(random_stream(seed, "order", 0).random_raw(len(examples)), kind="stable")
    by_label = {}
    for i in order.tolist():
        by_label.setdefault(examples[i]["label"], []).append(examples[i])
    chosen = []
    while len(chosen) < count:
        for label in sorted(by_label):
            if by_label[label] and len(chosen) < count:
                chosen.append(by_label[label].pop())
    order = np.argsort(random_stream(seed, "order", 1).random_raw(count), kind="stable")
    return [chosen[i] for i in order.tolist()]


def judge(log_probs, train, test, pattern, words, num_shots, num_seeds):
    """The scores of classification by likelihood, a dict of JSON values.

    Args:
        log_probs: list of (before, word, behind) -> float (N,), as `zoo.likelihood.log_probs`.
        train, test: lists of examples, each with a `label`; the shots are taken from the former.
        pattern: a `Pattern`.
        words: label -> word.
        num_shots, num_seeds: K, and how many draws of K shots. Without shots there is one.

    Returns:
        Each of `SCORES` as its mean over the seeds, with its 95% interval over them; `per_seed` has the numbers themselves.
        Labels are compared by the log-probability of their words, and in `accuracy_normalized` by that for each byte of them.
    """
    labels = list(words)
    unknown = next((example["label"] for example in [*train, *test] if example["label"] not in words), None)
    if unknown is not None:
        raise Refusal(f"An example has the label {unknown!r}; known are {', '.join(map(repr, labels))}.")
    num_bytes = np.array([len(word.encode()) for word in words.values()])
    true = np.array([labels.index(example["label"]) for example in test])
    runs = []
    for seed in range(num_seeds if num_shots else 1):
        shown = ""
        for example in shots(train, num_shots, seed):
            before, behind = pattern.parts(example)
            shown += before + words[example["label"]] + behind + BETWEEN
        asked = [pattern.parts(example) for example in test]
        requests = [(shown + before, word, behind) for before, behind in asked for word in words.values()]
        found = np.asarray(log_probs(requests)).reshape(len(test), len(labels))
        probs = np.exp(found - found.max(1, keepdims=True))
        probs /= probs.sum(1, keepdims=True)
        runs.append({
            "accuracy": float((found.argmax(1) == true).mean()),
            "accuracy_normalized": float(((found / num_bytes).argmax(1) == true).mean()),
            "calibration_error": metrics.calibration_error(probs, true),
            "brier": metrics.brier_score(probs, true),
        })  # fmt: skip
    scores = {"shots": num_shots, "seeds": len(runs), "num_examples": len(test)}
    scores["majority"] = float(np.bincount(true).max() / len(true))
    for name in SCORES:
        values = [run[name] for run in runs]
        scores[name] = float(np.mean(values))
        if len(values) > 1:
            scores[f"{name}_interval"] = list(metrics.mean_interval(values))
    return {**scores, "per_seed": runs}
