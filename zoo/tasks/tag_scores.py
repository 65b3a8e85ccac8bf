"""What tags are worth: how good their probabilities are, and the spans that they mark."""

import numpy as np

from zoo import metrics
from zoo.data import schemes


def calibration(rows):
    """How good the probabilities of tags are, a dict; empty where none were kept."""
    if "probs" not in rows:
        return {}
    real = [weights > 0 for weights in rows["weights"]]
    probs, labels = (
        np.concatenate([values[chosen] for values, chosen in zip(rows[name], real, strict=True)])
        for name in ("probs", "labels")
    )
    return metrics.of_probabilities(probs, labels)


def of_spans(sentences, scheme):
    """The scores of spans in pairs of tags and predicted tags, by conlleval's rules, and strict ones if there is a scheme."""
    spans = [[metrics.entities(tags) for tags in pair] for pair in sentences]
    found = metrics.span_scores(*zip(*spans, strict=True))
    by_class = found["by_class"]
    scores = {f"entity_{name}": found[name] for name in ("f1", "precision", "recall")}
    if scheme:
        kept = [
            [schemes.well_formed(some, tags, scheme) for some, tags in zip(*pair, strict=True)]
            for pair in zip(spans, sentences, strict=True)
        ]
        strict = metrics.span_scores(*zip(*kept, strict=True))
        scores["entity_f1_strict"] = strict["f1"]
        for kind, rates in by_class.items():
            rates["f1_strict"] = strict["by_class"].get(kind, {"f1": 0.0})["f1"]
    return {**scores, "by_class": by_class}
