"""What was asked of a model beyond its loss, in sentences: for the model card and the report. Needs no TensorFlow.

`trainers.evaluate` keeps what it measured in the bundle, `provenance["measured"]`: name -> what it was measured on, and the
scores as it prints them. What a question could be asked of and was not is told too, with the flag that asks it.
"""

from typing import Any, NamedTuple


class Question(NamedTuple):
    """A question to a model.

    Attributes:
        title: what it asks.
        tasks: names of the tasks whose models can be asked.
        flag: of `trainers.evaluate`.
        told: from the scores, a list of dicts, to sentences.
    """

    title: str
    tasks: tuple
    flag: str
    told: Any


def sentences(task_name, provenance):
    """One string a sentence about each question that a model for the task can be asked."""
    measured, lines = (provenance or {}).get("measured", {}), []
    for name, question in QUESTIONS.items():
        if name in measured:
            kept = measured[name]
            on = f" on {kept['on']}" if kept.get("on") else ""
            lines.append(f"{question.title}{on}: {'; '.join(question.told(kept['scores']))}")
        elif task_name in question.tasks:
            lines.append(f"{question.title}: not measured (trainers.evaluate {question.flag})")
    return lines


def _between(interval):
    return f"[{interval[0]:.4f}, {interval[1]:.4f}]"


def _memorisation(scores):
    told, (found,) = [], scores
    if "exposure_mean" in found:
        limit = found["exposure_limit"]
        told.append(f"planted secrets have exposure {found['exposure_mean']:.2f} on average of at most {limit:.0f}")
    for split, text in (("train", "the training text"), ("held_out", "held-out text")):
        part = found[split]
        told.append(
            f"{part['extracted']:.4f} {_between(part['extracted_interval'])} of {part['num_prefixes']} passages of {text} come "
            "back word for word"
        )
    area = f"{found['membership_auc']:.4f} {_between(found['membership_auc_interval'])}"
    return [*told, f"membership by loss has AUC {area}"]


def _pairs(scores):
    return [
        f"{each['trait']}: the first sentence is likelier in {each['preferred']:.4f} {_between(each['interval'])} of "
        f"{each['num_pairs']} pairs"
        for each in scores
    ]


def _association(scores):
    return [f"{each['name']}: effect {each['effect']:.3f} (p {each['p_value']:.4f})" for each in scores]


def _by_group(scores):
    told = [f"{each['group']}: accuracy {each['accuracy']:.4f} {_between(each['interval'])}" for each in scores[:-1]]
    gap = scores[-1]["largest_gap"]
    return [*told, f"largest gap {gap['accuracy']:.4f} {_between(gap['interval'])}, {' and '.join(gap['groups'])}"]


def _swaps(scores):
    return [
        f"{each['trait']}: the answer changes in {each['decision_changed']:.4f} {_between(each['interval'])} of "
        f"{each['num_texts']} texts" + _left_out(each)
        if each["num_texts"] else f"{each['trait']}: no text has such words" + _left_out(each)
        for each in scores
    ]  # fmt: skip


def _left_out(each):
    return f" ({each['num_left_out']} more are too long for a row)" if each.get("num_left_out") else ""


def _few_shot(scores):
    return [
        f"{each['shots']} shots: accuracy {each['accuracy']:.4f}"
        + (f" {_between(each['accuracy_interval'])}" if "accuracy_interval" in each else "")
        + f" on {each['num_examples']} examples, majority {each['majority']:.4f}"
        for each in scores
    ]


def _calibration(scores):
    return [f"calibration error {each['calibration_error']:.4f}, Brier {each['brier']:.4f}" for each in scores]


QUESTIONS = {
    "memorisation": Question("What it knows by heart", ("language_modeling",), "--memorisation", _memorisation),
    "pairs": Question("Pairs that differ in one trait", ("language_modeling", "masked_lm"), "--pairs=FILE", _pairs),
    "association": Question(
        "Which words lie near which (WEAT)", ("masked_lm", "embedding", "word_vectors"), "--weat=FILE", _association
    ),
    "by_group": Question("Scores by group", ("classification",), "--by_group", _by_group),
    "swaps": Question("Words exchanged", ("classification", "tagging"), "--swaps=FILE", _swaps),
    "few_shot": Question(
        "Few examples", ("language_modeling", "masked_lm", "translation", "summarization"), "--shots=K", _few_shot
    ),
    "calibration": Question("Probabilities of the next token", ("language_modeling",), "--calibration", _calibration),
}
