"""What was asked of a model beyond its loss, in sentences: for the model card and the report. Needs no TensorFlow.

`trainers.evaluate` keeps what it measured in the bundle, `provenance["measured"]`: name -> what it was measured on, and the
scores as it prints them. What a question could be asked of and was not is told too, with the flag that asks it.
"""

from typing import Any, NamedTuple

MOST_CLASSES = 5  # whose gaps of recall are told one by one
AREAS = ("memory", "fairness", "few examples", "calibration", "explanations")
# Tasks whose models trainers.explain takes, and with which flag.
EXPLAINED = {
    **dict.fromkeys(("classification", "language_modeling", "masked_lm", "translation", "summarization"), ""),
    "tagging": "--word=0 ", "semantic_roles": "--word=0 --predicate=1 ",
}  # fmt: skip


class Question(NamedTuple):
    """A question to a model.

    Attributes:
        area: what it is about, one of `AREAS`.
        title: what it asks.
        tasks: names of the tasks whose models can be asked.
        flag: of `trainers.evaluate`.
        told: from the scores, a list of dicts, to sentences.
    """

    area: str
    title: str
    tasks: tuple
    flag: str
    told: Any


def sentences(task_name, provenance):
    """One string a sentence about each question that a model for the task can be asked, and one about the others.

    Args:
        task_name: of the model's task; empty for a run without a bundle, of which nothing is said.
        provenance: of the bundle, or None.
    """
    if not task_name:
        return []
    known, lines, told = provenance or {}, [], {"explanations"} if task_name in EXPLAINED else set()
    for name, question in QUESTIONS.items():
        title = question.title
        if name == "calibration" and task_name != "language_modeling":
            title = "Probabilities of its answers"
        if name in known.get("measured", {}):
            kept = known["measured"][name]
            on = f" on {kept['on']}" if kept.get("on") else ""
            lines.append(f"{title}{on}: {'; '.join(question.told(kept['scores']))}")
        elif name == "calibration" and task_name in ("classification", "tagging"):
            lines.append(f"{title}{_as_judged(known.get('scores') or {})}")
        elif task_name in question.tasks:
            lines.append(f"{title}: not measured (trainers.evaluate {question.flag})")
        else:
            continue
        told.add(question.area)
    if task_name in EXPLAINED:
        lines.append(
            f"Explanations: none is kept; trainers.explain {EXPLAINED[task_name]}tells of a text what its answer comes from"
        )
    areas = [area for area in AREAS if area not in told]
    if areas:
        lines.append(f"Not asked, as no command asks it of a model for {task_name.replace('_', ' ')}: {', '.join(areas)}")
    return lines


def _as_judged(scores):
    """What the scores of a run, by split, tell of the probabilities of its answers."""
    split = next((split for split in ("test", "validation") if "calibration_error" in scores.get(split, {})), None)
    if split is None:
        return ": not measured (trainers.evaluate)"
    of_split = scores[split]
    brier = f", Brier {of_split['brier']:.4f}" if "brier" in of_split else ""
    return f" on {split}: calibration error {of_split['calibration_error']:.4f}{brier}"


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
    told.append(f"largest gap {_gap({**gap, 'gap': gap['accuracy']})}")
    by_size = sorted(gap.get("recall", {}).items(), key=lambda item: -item[1]["gap"])
    told += [f"of recall of {label} {_gap(each)}" for label, each in by_size[:MOST_CLASSES]]
    if len(by_size) > MOST_CLASSES:
        told.append(f"of recall of {len(by_size) - MOST_CLASSES} more classes at most {by_size[MOST_CLASSES][1]['gap']:.4f}")
    if "calibration_error" in gap:
        told.append(f"of calibration error {_gap(gap['calibration_error'])}")
    return told


def _gap(gap):
    """A gap between two groups, its interval and its p-value where it has them."""
    interval = f" {_between(gap['interval'])}" if "interval" in gap else ""
    p_value = f" (p {gap['p_value']:.4f})" if "p_value" in gap else ""
    return f"{gap['gap']:.4f}{interval}, {' and '.join(gap['groups'])}{p_value}"


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
    "memorisation": Question("memory", "What it knows by heart", ("language_modeling",), "--memorisation", _memorisation),
    "pairs": Question(
        "fairness", "Pairs that differ in one trait", ("language_modeling", "masked_lm"), "--pairs=FILE", _pairs
    ),
    "association": Question(
        "fairness", "Which words lie near which (WEAT)",
        ("masked_lm", "embedding", "word_vectors", "question_answering", "semantic_roles"), "--weat=FILE", _association,
    ),
    "by_group": Question("fairness", "Scores by group", ("classification",), "--by_group", _by_group),
    "swaps": Question("fairness", "Words exchanged", ("classification", "tagging"), "--swaps=FILE", _swaps),
    "few_shot": Question(
        "few examples", "Few examples",
        ("language_modeling", "masked_lm", "translation", "summarization", "span_corruption", "blank_infilling"), "--shots=K",
        _few_shot,
    ),
    "calibration": Question(
        "calibration", "Probabilities of the next token", ("language_modeling",), "--calibration", _calibration
    ),
}  # fmt: skip
