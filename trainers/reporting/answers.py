"""What the model of a run answers: samples, examples of the data with their answers, alignments, neighbours of words.

The part of a report that loads the bundle, and so needs TensorFlow.
"""

import dataclasses
import inspect
import itertools
import statistics
import time

import numpy as np

from trainers.reporting.records import Record
from zoo.config import Refusal

NUM_SAMPLES, NUM_EXAMPLES, NUM_ALIGNED, NUM_WORDS, NUM_NEIGHBOURS = 3, 5, 3, 8, 8
NUM_EXPLAINED = 3
LONGEST = 400  # characters of a text that are shown
LONGEST_ALIGNED = 160  # characters of a text whose alignment is drawn
MOST_NEW_TOKENS = 100
TIMED = 5  # requests, after one that is not timed
COMMON = 100  # words more frequent than this one are mostly words of grammar


@dataclasses.dataclass
class Answers:
    """What there is to show of a model.

    Attributes:
        samples: lines of text.
        examples: `(names of columns, rows of strings)`, or None.
        alignments: `(source tokens, target tokens, weights (T, S) as lists)`.
        explanations: of a classifier of one text or a tagger, which tokens its first answers come from, an `Explanation` each.
        neighbours: `(word, [(neighbour, similarity)])`.
        milliseconds: that the export takes to answer one row, or None: there is no export.
        remarks: sentences that say what could not be shown.
    """

    samples: list = dataclasses.field(default_factory=list)
    examples: tuple | None = None
    alignments: list = dataclasses.field(default_factory=list)
    explanations: list = dataclasses.field(default_factory=list)
    neighbours: list = dataclasses.field(default_factory=list)
    milliseconds: float | None = None
    remarks: list = dataclasses.field(default_factory=list)


def ask(record: Record):
    """The `Answers` of the model of a run."""
    import zoo

    loaded, answers = zoo.load(record.directory), Answers(milliseconds=_latency(record.directory / "export"))
    if "nearest" in loaded.signatures:
        answers.neighbours = _neighbours(loaded)
    else:
        seed = record.config.get("seed", 0)
        seeds = range(seed, seed + (NUM_SAMPLES if loaded.task.generates else 1))
        samples = [loaded.task.sample(loaded, each) for each in seeds]
        answers.samples = [sample for sample in dict.fromkeys(samples) if sample is not None]
        if not answers.samples and loaded.task.reads == "text":
            answers.samples = _requested(loaded)
    try:
        if loaded.task.reads == "examples":
            _answer_examples(record, loaded, answers)
    except (Refusal, OSError) as error:  # the text may be gone: a report is of what is left
        answers.remarks.append(f"Examples of the data are left out: {' '.join(str(error).split())}")
    return answers


def _latency(export):
    """Milliseconds from a request to its answer, through the loader that a server uses: of the first row of the first request
    that the newest version was proved with, the median of `TIMED`. None where there is no version."""
    if not any(export.glob("*/saved_model.pb")):
        return None
    from zoo.serving.versions import Versions

    versions = Versions(export)
    inputs = {name: values[:1] for name, values in versions.examples().get("serving_default", {}).items()}
    if not inputs:
        return None
    seconds = []
    with versions.borrowed() as loaded:
        for _ in range(TIMED + 1):
            begun = time.perf_counter()
            loaded.model.run("serving_default", inputs)
            seconds.append(time.perf_counter() - begun)
        loaded.model.close()
    return 1e3 * statistics.median(seconds[1:])


def _neighbours(loaded):
    """The nearest words of some words: from frequent ones, behind those of grammar, to half of all, in equal ratios of rank."""
    tokenizer = loaded.tokenizer
    special = {tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id}
    counts = loaded.model.head.counts.numpy()
    order = [i for i in np.argsort(-counts, kind="stable").tolist() if counts[i] and i not in special]
    first = min(COMMON, len(order) // 10)
    ranks = np.geomspace(first + 1, max(first + 1, len(order) // 2), NUM_WORDS).astype(int) - 1 if order else []
    words = [tokenizer.decode([order[rank]]).strip() for rank in dict.fromkeys(ranks)]
    if not words:
        return []
    found = loaded.predict("nearest", word=words, k=[NUM_NEIGHBOURS])
    rows = zip(words, found["words"], found["similarity"], strict=True)
    return [(word, [(n, float(s)) for n, s in zip(near, sims, strict=True) if n]) for word, near, sims in rows]


def _requested(loaded):
    """The requests that an export of the task is proved with first, with their answers, a line each."""
    inputs = loaded.task.requests(loaded.model, loaded.tokenizer)[0][1]
    rows = [dict(zip(inputs, values, strict=True)) for values in zip(*inputs.values(), strict=True)]
    asked = [loaded.predict(**{name: [value] for name, value in row.items()}) for row in rows]
    return [f"{', '.join(map(repr, row.values()))} -> {_shown(answer)}" for row, answer in zip(rows, asked, strict=True)]


def _answer_examples(record, loaded, answers):
    import tfds_configs

    source = tfds_configs.get(record.config["dataset"], record.config.get("data_path"))
    split = "test" if "test" in source.splits else "validation"
    # A sentence without predicates shows nothing of roles.
    telling = (example for example in source.examples(split) if example.get("predicates", True))
    examples = list(itertools.islice(telling, NUM_EXAMPLES))
    if "source" in loaded.task.fields:
        _answer_pairs(loaded, examples, answers)
        return
    parameters = inspect.signature(loaded.signatures["serving_default"].python_function).parameters
    rows = []
    for example in examples:
        asked = {"text": " ".join(example["tokens"]), **example} if "tokens" in example else example
        inputs = {name: [asked[name]] for name in parameters if isinstance(asked.get(name), str)}
        wanted = ", ".join(_plain(asked[name]) for name in ("label", "tags", "answers") if name in asked)
        try:
            answer = _shown(loaded.predict("serving_default", **inputs))
        except Refusal as refusal:
            answer = str(refusal)
        rows.append([*(_short(value) for (value,) in inputs.values()), _short(wanted), _short(answer)])
        columns = (*inputs, "right", "answer")
    if rows:
        answers.examples = columns, rows
    for example in examples[:NUM_EXPLAINED]:
        question = _explained(loaded.task, example)
        try:
            answers.explanations += [loaded.explain(**question)] if question else []
        except Refusal as refusal:  # a text without a token, or without complete gradients
            answers.remarks.append(str(refusal))


def _explained(task, example):
    """What `explain` is asked about an example, or None: a class, or the first tag or role that is not the outside."""
    if task.registered_name == "classification" and not task.facts.pair:
        return {"text": _short(str(example["text"]))}
    if task.registered_name == "tagging":
        telling = [number for number, tag in enumerate(example["tags"]) if tag != "O"]
        return {"text": " ".join(example["tokens"]), "word": min(telling, default=0)}
    if task.registered_name == "semantic_roles":
        telling = [
            (predicate, number)
            for predicate, tags in zip(example["predicates"], example["tags"], strict=True)
            for number, tag in enumerate(tags)
            if tag != "O" and number != predicate
        ]
        predicate, word = min(telling, default=(example["predicates"][0],) * 2)
        return {"text": " ".join(example["tokens"]), "word": word, "predicate": predicate}
    return None


def _answer_pairs(loaded, examples, answers):
    """Of a task that turns one text into another: what is written, and how the written text looks at its source."""
    rows = []
    for example in examples:
        try:
            written = loaded.predict("generate", text=[example["source"]], max_new_tokens=[MOST_NEW_TOKENS])["text"][0]
        except Refusal as refusal:
            written = str(refusal)
        rows.append([_short(example["source"]), _short(_plain(example["target"])), _short(written)])
        short = written and max(len(example["source"]), len(written)) <= LONGEST_ALIGNED
        if "align" in loaded.signatures and short and len(answers.alignments) < NUM_ALIGNED:
            alignment = loaded.predict("align", text=[example["source"]], target=[written])
            answers.alignments.append(
                tuple(alignment[name][0].tolist() for name in ("source_tokens", "target_tokens", "weights"))
            )
    answers.examples = ("source", "reference", "written"), rows


def _shown(answer):
    """The answer of a signature in a line: classes with their scores, else its texts."""
    if {"labels", "scores"} <= answer.keys():
        pairs = zip(answer["labels"][0], answer["scores"][0], strict=True)
        return ", ".join(f"{label} {score:.2f}" for label, score in itertools.islice(pairs, 3))
    for name in ("answer", "tags", "text", "tokens"):
        if name in answer:
            rows = np.atleast_1d(answer[name][0])
            rows = rows if rows.ndim > 1 else rows[None]
            return " | ".join(" ".join(filter(None, row)) for row in rows)
    return "; ".join(f"{name} {_plain(value[0].tolist())}" for name, value in answer.items())


def _plain(value):
    """A value of an example in words."""
    if isinstance(value, list | tuple):
        between = " | " if any(isinstance(item, list) for item in value) else " "
        return between.join(_plain(item) for item in value)
    return str(value)


def _short(text):
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
