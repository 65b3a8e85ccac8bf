"""The page of a report: one HTML file that needs no network, for light and dark screens and for readers of screens."""

import html

import numpy as np

from trainers.progress import duration
from trainers.reporting import charts, intervals, records
from trainers.reporting.charts import Series, figure
from zoo.serving import measured

MOST_CLASSES = 40  # of a confusion matrix that is shown whole
NUM_CONFUSED = 10
# What a score is a mean over, as a line of the log counts it.
COUNTS = ("num_examples", "num_questions", "num_predicates", "num_words", "num_pairs", "num_tokens")
TEXT = ' class="text"'
STYLE = """
:root { color-scheme: light dark; --mark: 9, 105, 218;
 --back: #fff; --ink: #1b1f24; --soft: #59636e; --line: #d1d9e0; --grid: #e3e7eb;
 --series-0: #0969da; --series-1: #bc4c00; --series-2: #1a7f37; --series-3: #8250df; --series-4: #bf3989; --series-5: #7d4e00;
 --series-6: #0e7490; --series-7: #57606a; }
@media (prefers-color-scheme: dark) {
:root { --mark: 88, 166, 255;
 --back: #0d1117; --ink: #e6edf3; --soft: #9198a1; --line: #3d444d; --grid: #2b3138;
 --series-0: #58a6ff; --series-1: #f0883e; --series-2: #56d364; --series-3: #bc8cff; --series-4: #f778ba; --series-5: #d29922;
 --series-6: #39c5cf; --series-7: #9198a1; } }
body { background: var(--back); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 0 .5rem; } h1, h2, h3 { line-height: 1.25; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
a { color: var(--series-0); }
figure { margin: 1rem 0; } figcaption, caption { font-weight: 600; text-align: left; margin-bottom: .25rem; }
svg { width: 100%; height: auto; stroke-linejoin: round; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid var(--line); padding: .2rem .5rem; text-align: right; vertical-align: top; }
th[scope=row], .text { text-align: left; } td.text { overflow-wrap: break-word; min-width: 7rem; }
.scroll { overflow-x: auto; } .note { color: var(--soft); }
pre { white-space: pre-wrap; border: 1px solid var(--line); padding: .5rem; }
.matrix td, .matrix th { padding: .1rem .35rem; font-size: .8rem; } .matrix td { min-width: 1.4rem; }
summary { cursor: pointer; color: var(--soft); }
"""


def page(runs, answers):
    """The whole page.

    Args:
        runs: a `Record` each.
        answers: for each what its model answers, an `Answers`, or None where it was not asked.
    """
    names = records.names(runs)
    title = f"Report of {', '.join(names)}"
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if len(runs) > 1:
        links = ", ".join(f'<a href="#run-{i}">{html.escape(name)}</a>' for i, name in enumerate(names))
        parts += [f"<nav>Runs: {links}</nav>", comparison(runs, names, answers)]
    for i, (run, name, answer) in enumerate(zip(runs, names, answers, strict=True)):
        sections = (trained_on(run), scores(run), training(run), classes(run), beyond(run), answered(answer), machine(run))
        parts.append(f'<section id="run-{i}"><h2>{html.escape(name)}</h2>\n{"".join(sections)}</section>')
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n" + "\n".join(parts)
    ) + "\n</main></body></html>\n"


def comparison(runs, names, answers):
    """Several runs beside each other: a table, and the score against time, size, latency and tokens."""
    score = records.compared(runs)
    split = "test" if all(run.last("test") for run in runs) else "validation"
    milliseconds = {id(run): answer and answer.milliseconds for run, answer in zip(runs, answers, strict=True)}
    timed = any(milliseconds.values())
    rows = [
        [
            name, run.config["task"], figure(run.num_params), figure(run.tokens), _time(run.seconds),
            *([figure(milliseconds[id(run)])] if timed else []),
            *([figure(run.judged[score])] if score else []), figure(run.judged.get("loss")),
        ]
        for name, run in zip(names, runs, strict=True)
    ]  # fmt: skip
    columns = [
        "run", "task", "parameters", "tokens trained on", "time of training", *(["ms an answer"] if timed else []),
        *([score] if score else []), "loss",
    ]  # fmt: skip
    parts = ["<h2>Comparison</h2>", _table("The runs", columns, rows, text=2), _caution(runs)]
    if score is None:
        return "".join([*parts, _note("The runs have no score in common.")])
    better = "lower" if score in records.LOWER_IS_BETTER else "higher"
    parts.append(_note(f"Score: {score} on the {split} split; {better} is better."))
    parts.append(_against(runs, names, score, "seconds of training", lambda run: run.seconds))
    parts.append(_against(runs, names, score, "parameters", lambda run: run.num_params))
    if timed:
        parts.append(_against(runs, names, score, "milliseconds an answer", lambda run: milliseconds[id(run)]))
        parts.append(_note("An answer is one row of the request that an export was proved with first, on this machine."))
    curves = []
    for name, run in zip(names, runs, strict=True):
        steps, values = run.column("validation", score)
        at = [run.tokens] if run.of("fit") else [step * run.tokens_a_step for step in steps]
        curves.append(Series(name, at, values[-len(at) :]) if run.tokens else Series(name, [], []))
    title = f"{score} on the validation split over the tokens that were trained on"
    if any(curve.x for curve in curves):
        parts.append(charts.lines(curves, title, "tokens", score, marked=True))
        parts.append(_note("Points before the last of a run may be judged on a part of the split alone."))
    return "".join(parts)


def _caution(runs):
    """What makes scores hard to compare."""
    sentences = []
    if len({run.config["task"] for run in runs}) > 1:
        sentences.append("The runs have different tasks: their scores do not mean the same.")
    if len({run.text or run.config["dataset"] for run in runs}) > 1:
        sentences.append("The runs were judged on different text: their scores are not comparable.")
    if len({run.config.get("data", {}).get("tokenizer") for run in runs}) > 1:
        sentences.append("Their tokenizers differ: a loss a token is not comparable, bits per byte are.")
    if any(run.judged.get("tokens_read") != runs[0].judged.get("tokens_read") for run in runs):
        sentences.append("They were judged on different amounts of the split.")
    return _note(" ".join(sentences)) if sentences else ""


def _against(runs, names, score, x_name, x_of):
    known = [(name, x_of(run), run.judged[score]) for name, run in zip(names, runs, strict=True) if x_of(run)]
    missing = [name for name, run in zip(names, runs, strict=True) if not x_of(run)]
    note = _note(f"Not in the chart of {x_name}, as the run does not tell: {', '.join(missing)}.") if missing else ""
    if not known:
        return note
    series = [Series(name, [x], [y]) for name, x, y in known]
    return charts.points(series, f"{score} against {x_name}", x_name, score) + note


def trained_on(run):
    """What was trained, on what, and what the plan said of it."""
    config = run.config
    source = config["dataset"] + (f" ({config['data_path']})" if config.get("data_path") else "")
    ended = "" if run.bundle else " The run has not ended."
    preset = f", preset {config['preset']}" if "preset" in config else ""
    sentence = (
        f"{config['model']}{preset}, trained for {config['task'].replace('_', ' ')} on {source} with the tokenizer "
        f"{config.get('tokenizer', 'of its bundle')}: {run.steps:,} of {config['steps']:,} steps.{ended}"
    )
    rows = [["directory", str(run.directory)], ["parameters", figure(run.num_params)]]
    rows += [["tokens trained on, padding included", figure(run.tokens)], ["time of training steps", _time(run.seconds)]]
    if run.bundle.get("provenance", {}).get("licence"):
        rows.append(["licence of the text", run.bundle["provenance"]["licence"]])
    if run.plan:
        plan = run.plan.to_dict()
        rows += [["planned: FLOPs a token", figure(plan["flops_per_token"])], ["planned: FLOPs in all", figure(plan["flops"])]]
        rows.append(["planned: memory that training adds", _megabytes(plan["memory"]["total"])])
    if held := run.column("train", "memory_bytes")[1]:
        rows.append(["seen: largest memory of the process", _megabytes(max(held))])
    settings = [[name, _plain(value)] for name, value in config.items() if name != "data"]
    structure = [[name, _plain(value)] for name, value in run.bundle.get("model_config", {}).items()]
    return "".join([
        "<h3>What was trained on what</h3>", f"<p>{html.escape(sentence)}</p>", _table("The run", None, rows, text=2),
        _details("Every setting of the run", _table("config.json", None, settings, text=2)),
        _details("The model's structure", _table("model_config", None, structure, text=2)) if structure else "",
    ])  # fmt: skip


def beyond(run):
    """What was asked of the model beyond its loss, and what was not."""
    provenance = run.bundle.get("provenance", {})
    lines = measured.sentences(run.bundle.get("task", ""), provenance)
    if privacy := provenance.get("privacy"):
        promise = f"epsilon {privacy['epsilon']:.4g} at delta {privacy['delta']:.3g}, for {privacy['unit']}"
    else:
        promise = "the run made no promise; the weights may hold any part of the training text"
    lines = lines and [f"Privacy: {promise}", *lines]
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<h3>Privacy, memory, fairness and calibration</h3><ul>{items}</ul>{_drawn(run, provenance)}" if lines else ""


def _drawn(run, provenance):
    """Charts of what `trainers.evaluate` has kept in the bundle."""
    kept, parts = provenance.get("measured", {}), []
    what = "Next token" if run.bundle.get("task") == "language_modeling" else "Answers"
    for told in kept.get("calibration", {}).get("scores", ()):
        if told.get("calibration"):
            parts.append(_reliability(told, f"{what}, {kept['calibration']['on']}: how often the likeliest is right"))
    for told in kept.get("memorisation", {}).get("scores", ()):
        if told.get("membership_roc"):
            curve = Series("this model", *zip(*told["membership_roc"], strict=True))
            names = "share of held-out windows taken for training text", "share of training windows found"
            parts.append(charts.lines([curve, Series("chance", [0, 1], [0, 1])], "Membership by loss: ROC", *names))
    return "".join(parts)


def scores(run):
    """Scores by split, with intervals, and over the steps."""
    parts, rows, without, over = ["<h3>Scores</h3>"], [], set(), set()
    for split in records.SPLITS:
        last = run.last(split)
        found = intervals.of_line(last)
        for name in run.score_names(split):
            low, high = found.get(name, (None, None))
            shown = f"{figure(low)} to {figure(high)}" if name in found else ""
            rows.append([split, name, figure(last[name]), shown])
            (over if name in found else without).add(name)
        if "tokens_read" in last:
            read = f"{last['tokens_read']:,} of {last['tokens_available']:,}"
            parts.append(_note(f"{split}: the scores are of {read} tokens, drawn once."))
    if not rows:
        return "".join([*parts, _note("The run has not judged itself yet.")])
    parts.insert(1, _table("Score by split", ["split", "score", "value", "95% interval"], rows, text=2))
    if over:
        counts = [
            f"{run.last(split)[name]:,} of {split}"
            for split in records.SPLITS
            for name in ("num_examples", "num_questions", "num_judged")
            if name in run.last(split)
        ]
        shown = f" ({' and '.join(counts)})" if counts else ""
        parts.append(_note(
            f"Intervals of {', '.join(sorted(over))}: bootstrap over the examples{shown}. They say what other examples of the "
            "same kind would give, and nothing of another seed."
        ))  # fmt: skip
    if without:
        parts.append(_note(f"No intervals for {', '.join(sorted(without))}: a run keeps no such scores of single examples."))
    return "".join([*parts, _over_steps(run)])


def _over_steps(run):
    lines = run.of("validation")
    if len(lines) < 2:
        return ""
    names = [name for name in run.score_names("validation") if name != "loss"]
    drawn = [
        charts.lines([Series(name, *run.column("validation", name))], f"{name} on the validation split", "step", name, True)
        for name in names
    ]
    rows = [[f"{line['step']:,}", *(figure(line.get(name)) for name in ("loss", *names))] for line in lines]
    table = _table("Validation scores over the steps", ["step", "loss", *names], rows, text=1)
    counts = [next((line[name] for name in COUNTS if name in line), None) for line in lines]
    if counts[-1] != counts[0]:
        drawn.append(_note(
            f"The last point was judged on {figure(counts[-1])} {_counted(lines[-1])}, those before it on {figure(counts[0])}: "
            "they are not quite comparable."
        ))  # fmt: skip
    return "".join([*drawn, _details("The validation scores as numbers", table)])


def _counted(line):
    return next((name.removeprefix("num_") for name in COUNTS if name in line), "")


def training(run):
    """Curves of the loss and of the learning rate."""
    train = run.of("train")
    if not train:
        return _note("The model was counted in closed form: there are no curves.") if run.of("fit") else ""
    loss = [Series("training", *run.column("train", "loss")), Series("validation", *run.column("validation", "loss"))]
    parts = ["<h3>Training</h3>", charts.lines(loss, "Loss over the steps", "step", "loss")]
    for name, title in (("learning_rate", "Learning rate"), ("gradient_norm", "Norm of the gradient, before clipping")):
        series = Series(name, *run.column("train", name))
        parts.append(charts.lines([series], f"{title} over the steps", "step", name.replace("_", " ")) if series.x else "")
    if skipped := run.of("skipped"):
        parts.append(_note("Left out: " + "; ".join(f"step {line['step']:,} ({line['reason']})" for line in skipped) + "."))
    if spikes := run.of("spike"):
        parts.append(_note("Spikes: " + "; ".join(f"step {line['step']:,} ({line['reason']})" for line in spikes) + "."))
    names = [name for name in ("loss", "bits_per_byte", "perplexity", "learning_rate", "gradient_norm") if name in train[-1]]
    rows = [[f"{line['step']:,}", *(figure(line.get(name)) for name in names)] for line in train]
    table = _table("Lines of training", ["step", *names], rows, text=1)
    return "".join([*parts, _details("The lines of training as numbers", table)])


def machine(run):
    """Throughput, waiting and memory over the time of training."""
    clock, parts = run.clock(), []
    x_name = "seconds" if clock else "step"
    for name, title, unit, scale in (
        ("tokens_per_second", "Throughput", "tokens a second", 1),
        ("memory_bytes", "Memory of the process", "megabytes", 1e-6),
        ("data_wait", "Share of the time spent waiting for data", "share", 1),
    ):
        steps, values = run.column("train", name)
        if steps:
            at = [clock[step] for step in steps] if clock else steps
            series = Series(name.replace("_", " "), at, [scale * value for value in values])
            parts.append(charts.lines([series], f"{title} over the {'time' if clock else 'steps'}", x_name, unit))
    if not parts:
        return ""
    _, shares = run.column("train", "flop_utilisation")
    share = f"The steps made {float(np.mean(shares)):.1%} of the peak of large products on these devices." if shares else ""
    said = (
        "Seconds are those of training steps. Judging is left out, and so is the first step, which makes the graph, unless a "
        "line of the log ends with it. "
        if clock
        else ""
    )
    return "".join(["<h3>The machine</h3>", *parts, _note(said + share)])


def classes(run):
    """Of a classifier the confusion matrix and how well its confidence is calibrated."""
    line, split = run.judged, "test" if run.last("test") else "validation"
    parts = []
    if "confusion_matrix" in line:
        confusion = np.array(line["confusion_matrix"])
        labels = run.labels if len(run.labels) == len(confusion) else [str(i) for i in range(len(confusion))]
        parts += [f"<h3>Classes ({split} split)</h3>", _matrix(confusion, labels), _confused(confusion, labels)]
    if line.get("calibration"):
        parts.append(_reliability(line, "Calibration: how often answers are right"))
    elif "calibration_error" in line:
        parts.append(_note(f"Calibration error {line['calibration_error']:.4f}; this run kept no bins to draw."))
    return "".join(parts)


def _reliability(told, title):
    """The diagram and the table of what has `calibration` and perhaps `calibration_error`."""
    error = f", calibration error {told['calibration_error']:.4f}" if "calibration_error" in told else ""
    rows = [[figure(count), f"{sure:.4f}", f"{right:.4f}"] for count, sure, right in told["calibration"]]
    table = _table("Bins of confidence", ["answers", "mean confidence", "share that is right"], rows, text=0)
    return charts.reliability(told["calibration"], title + error) + _details("The calibration as numbers", table)


def _matrix(confusion, labels):
    if len(labels) > MOST_CLASSES:
        return _note(f"{len(labels):,} classes: the matrix is not shown.")
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    head = "".join(f'<th scope="col">{html.escape(label)}</th>' for label in labels)
    body = "".join(
        f'<tr><th scope="row">{html.escape(label)}</th>{"".join(map(_cell, counts, share))}</tr>'
        for label, counts, share in zip(labels, confusion.tolist(), shares.tolist(), strict=True)
    )
    return (
        '<div class="scroll"><table class="matrix"><caption>Confusion matrix: the right class by rows, the answer by columns'
        f"</caption><tr><th></th>{head}</tr>{body}</table></div>"
    )


def _cell(shown, share, title=None):
    attribute = f' title="{html.escape(title, quote=True)}"' if title else ""
    return f'<td style="background: rgba(var(--mark), {0.6 * share:.2f})"{attribute}>{shown}</td>'


def _confused(confusion, labels):
    wrong = confusion * (1 - np.eye(len(confusion), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:NUM_CONFUSED]
    pairs = [divmod(int(place), len(confusion)) for place in order if wrong.flat[place]]
    if not pairs:
        return _note("No example was taken for another class.")
    rows = [[labels[i], labels[j], figure(int(wrong[i, j])), figure(int(confusion[i].sum()))] for i, j in pairs]
    return _table("What is confused most", ["right class", "answer", "examples", "examples of the class"], rows, text=2)


def answered(answers):
    """What the model answers: samples, examples, alignments, neighbours."""
    if answers is None:
        return _note("The model was not asked for samples.")
    parts = ["<h3>What it answers</h3>"]
    parts += [f"<pre>{html.escape(sample)}</pre>" for sample in answers.samples]
    if answers.neighbours:
        rows = [
            [word, ", ".join(f"{other} {similarity:.2f}" for other, similarity in near)] for word, near in answers.neighbours
        ]
        parts.append(_table("Nearest words, with their cosines", ["word", "neighbours"], rows, text=2))
    if answers.examples:
        columns, rows = answers.examples
        parts.append(_table("The first examples of the split", columns, rows, text=len(columns)))
    parts += [each.html() for each in answers.explanations]
    parts += [_alignment(*each) for each in answers.alignments]
    parts += [_note(remark) for remark in answers.remarks]
    return "".join(parts) if len(parts) > 1 else _note("The task has no samples to show.")


def _alignment(source, target, weights):
    """A table of how much each token of the target looked at each of the source."""
    columns, rows = [i for i, token in enumerate(source) if token], [i for i, token in enumerate(target) if token]
    head = "".join(f'<th scope="col">{html.escape(source[i])}</th>' for i in columns)
    body = "".join(
        f'<tr><th scope="row">{html.escape(target[t])}</th>'
        + "".join(_cell(f"{weights[t][s]:.2f}", weights[t][s]) for s in columns)
        + "</tr>"
        for t in rows
    )
    return (
        '<div class="scroll"><table class="matrix"><caption>Alignment: how much each written token (rows) looked at each token '
        f"of the source (columns)</caption><tr><th></th>{head}</tr>{body}</table></div>"
    )


def _table(caption, columns, rows, text):
    """A table; the first `text` columns are words, the others numbers. The first column names its row."""
    head = "".join(
        f'<th scope="col"{TEXT if i < text else ""}>{html.escape(column)}</th>' for i, column in enumerate(columns or ())
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row">{html.escape(value)}</th>' if i == 0 and text
            else f"<td{TEXT if i < text else ''}>{html.escape(value)}</td>"
            for i, value in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )  # fmt: skip
    head = f"<tr>{head}</tr>" if head else ""
    return f'<div class="scroll"><table><caption>{html.escape(caption)}</caption>{head}{body}</table></div>\n'


def _details(summary, inside):
    return f"<details><summary>{html.escape(summary)}</summary>{inside}</details>"


def _note(sentence):
    return f'<p class="note">{html.escape(sentence)}</p>'


def _plain(value):
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _time(seconds):
    return "not known" if seconds is None else f"{seconds:.1f}s" if seconds < 60 else duration(seconds)


def _megabytes(value):
    return f"{value / 1e6:,.0f} MB"
