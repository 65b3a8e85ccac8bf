"""Judges a trained model on text: python -m trainers.evaluate --model_dir=runs/gpt/latest"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from tfds_configs.local_text.data_path import parse
from trainers import flags as trainer_flags
from trainers import program
from trainers.progress import ProgressBar, preparing
from zoo.config import Refusal
from zoo.files import replace_file

FLAGS = flags.FLAGS
BESIDE = ("calibration", "calibrate", "predictions", "by_group", "against")  # asked beside the scores of a split


def main():
    directory = trainer_flags.model_dir()
    alone = {
        "pairs": _judge_pairs, "weat": _judge_association, "swaps": _judge_swaps, "memorisation": _judge_memorisation,
        "shots": _judge_few_shot,
    }  # fmt: skip
    if question := _asked_alone(alone):
        return alone[question](directory)
    if FLAGS.predictions and len(FLAGS.split) != 1:
        raise Refusal("--predictions writes those of one split; say which, such as --split=test.")
    dataset, data_path, run = _data(directory)
    if FLAGS.predictions and data_path and parse(data_path).has(FLAGS.predictions):
        raise Refusal(f"--predictions={FLAGS.predictions} is a file of the data, which would be lost; name another file.")
    with program.quiet():
        import tensorflow  # noqa: F401

    from trainers import groups
    from zoo import bundle as bundles
    from zoo.bootstrap import intervals

    bundle = bundles.load(directory)
    rival = _rival(bundle) if FLAGS.against else None
    if not bundle.task.trains:
        raise Refusal(
            f"{directory} was made for {bundle.task.registered_name}, which has no score; it can begin a run that has one: "
            f"--init_from={directory}."
        )
    if FLAGS.predictions and not bundle.task.has_words:
        name = bundle.task.registered_name
        raise Refusal(f"{directory} was made for {name}; --predictions is for tagging and semantic_roles, which have columns.")
    layout = _layout(run, bundle.model)
    source = _source(dataset, data_path, run)
    source.check_fields((*bundle.task.fields, *["group"] * FLAGS.by_group))
    if FLAGS.by_group and bundle.task.registered_name != "classification":
        raise Refusal(f"--by_group is for classification, and {directory} was made for {bundle.task.registered_name}.")
    names = list(dict.fromkeys(["validation"] * FLAGS.calibrate + _names(source)))
    data = splits(bundle.task, layout, source, directory, names)
    for remark in source.remarks():
        print(remark, file=sys.stderr, flush=True)
    other = None
    if rival is not None:
        other_layout = _layout(run_of(rival.directory), rival.bundle.model)
        other = splits(rival.bundle.task, other_layout, source, rival.directory, names)
    if FLAGS.calibrate:
        print(json.dumps(_calibrate(directory, bundle, data["validation"], layout)), flush=True)
    judged = {}  # where one part of the data is both splits it is read once
    for split in names:
        part = source.splits.get(split)
        if part not in judged:
            totals, rows = read(bundle.task, bundle.model, data[split], bundle.tokenizer, layout)
            if FLAGS.predictions:
                _write_columns(bundle.task.predictions(rows, data[split]))
            scores, beside = bundle.task.metrics(totals, rows, data[split]), []
            mine = bundle.task.samples(rows, data[split])
            scores |= intervals(mine) | bundle.task.further_metrics(rows, data[split])
            if FLAGS.calibration:
                told = calibration_scores(bundle, data[split], layout)
                _keep(directory, "calibration", f"{source.name}, {split}", [told])
                scores |= told
            if other is not None:
                of_rival = read(rival.bundle.task, rival.bundle.model, other[split], rival.bundle.tokenizer, other_layout)[1]
                mine |= bundle.task.further_samples(rows, data[split])
                its = rival.bundle.task.samples(of_rival, other[split])
                its |= rival.bundle.task.further_samples(of_rival, other[split])
                beside += [{"against": str(FLAGS.against), **each} for each in comparisons(mine, its)]
            if FLAGS.by_group:
                by_group = _by_group(bundle.task, rows, groups.of(source.examples(split)))
                beside += by_group
                _keep(directory, "by_group", f"{source.name}, {split}", by_group)
            judged[part] = scores, beside
        scores, beside = judged[part]
        baselines = bundle.task.baselines(data[split], scores) if split == "test" else {}
        print(json.dumps({"split": split, "dataset": source.name, **scores, **baselines}), flush=True)
        for each in beside:
            print(json.dumps({"split": split, **each}, ensure_ascii=False), flush=True)


def _asked_alone(alone):
    """Which of the questions that are answered instead of the scores of a split is asked, or None. Raises Refusal for two."""
    asked = [name for name in (*alone, *BESIDE) if FLAGS[name].value is not None and FLAGS[name].value is not False]
    if asked and asked[0] in alone and len(asked) > 1:
        raise Refusal(f"--{asked[0]} is asked alone; ask --{asked[1]} in another call.")
    return asked[0] if asked and asked[0] in alone else None


def _keep(directory, name, on, scores):
    """Keeps what was measured in the bundle, for its card and the report. Says so where it cannot be written."""
    from zoo import bundle as bundles

    try:
        bundles.write_measured(directory, name, on, scores)
    except OSError as error:
        print(f"{directory} cannot be written ({error.strerror}), so its card will not tell this.", file=sys.stderr, flush=True)


def _by_group(task, rows, groups):
    """The scores of each group of a classifier's examples, in the order of `rows` (`trainers/groups.py`)."""
    import numpy as np

    from trainers import groups as by_group

    real = np.concatenate(rows["weights"]) > 0
    probs, labels = (np.concatenate(rows[name])[real] for name in ("probs", "labels"))
    return by_group.judge(probs, labels, groups, task.facts.labels)


class _Rival(NamedTuple):
    """The bundle of --against, and where it lies."""

    bundle: Any
    directory: Path


def _rival(bundle):
    """The `_Rival` of a bundle. Raises Refusal if the two cannot be compared."""
    from zoo import bundle as bundles

    directory = bundles.find(FLAGS.against)
    rival = bundles.load(directory)
    mine, its = (each.task.registered_name for each in (bundle, rival))
    if mine != its:
        raise Refusal(
            f"--against={FLAGS.against} was made for {its}, and this model for {mine}; give a model of the same task."
        )
    from zoo.tasks.base import Task

    if type(bundle.task).samples is Task.samples:
        raise Refusal(
            f"{mine} keeps no scores of single examples to draw from; --against is for translation, summarization, "
            "classification, question_answering, tagging and semantic_roles."
        )
    return _Rival(rival, directory)


def comparisons(first, second):
    """By `zoo.bootstrap.paired_bootstrap`, a dict for each score of two dicts of `Sample`."""
    from zoo.bootstrap import paired_bootstrap

    return [
        {
            "metric": name, "value": first[name].score(), "other": second[name].score(),
            **paired_bootstrap(first[name], second[name]),
        }
        for name in first
        if name in second
    ]  # fmt: skip


def _layout(run, model):
    """The `Layout` for judging a model, given the config of the run that made it."""
    from zoo.data.batch import Layout

    return Layout(
        FLAGS.seq_length or run.get("seq_length", 128), FLAGS.batch_size or run.get("batch_size", 16),
        separate_documents=run.get("separate_documents", False), pairs_share_rows=model.kind == "language_model",
    )  # fmt: skip


def _judge_pairs(directory):
    """Prints which of each two sentences of --pairs is likelier, a JSON object for all and one for each trait."""
    from trainers import pairs

    found = pairs.read(FLAGS.pairs)
    with program.quiet():
        import tensorflow  # noqa: F401

    import zoo

    loaded = zoo.load(directory)
    if loaded.task.registered_name not in ("language_modeling", "masked_lm"):
        raise Refusal(
            f"{directory} was made for {loaded.task.registered_name}; --pairs is for language_modeling and masked_lm, whose "
            "models say how likely a text is."
        )
    size = FLAGS.batch_size or 16

    def log_prob(texts):
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found = [0.0] * len(texts)
        for start in range(0, len(order), size):
            some = order[start : start + size]
            for i, answer in zip(some, loaded.score([texts[i] for i in some]), strict=True):
                found[i] = answer["log_prob"]
        return found

    judged = pairs.judge(log_prob, found)
    for scores in judged:
        print(json.dumps(scores, ensure_ascii=False), flush=True)
    _keep(directory, "pairs", Path(FLAGS.pairs).name, judged)
    print(pairs.REMARK, file=sys.stderr, flush=True)


def _judge_association(directory):
    """Prints the effect size of each test of --weat, a JSON object each."""
    from trainers import association

    tests = association.read(FLAGS.weat)
    with program.quiet():
        import tensorflow  # noqa: F401

    import zoo

    loaded = zoo.load(directory)
    if "embed" not in loaded.signatures:
        raise Refusal(f"{directory} was made for {loaded.task.registered_name} and gives no vectors; --weat is for encoders.")
    unk_id = loaded.tokenizer.unk_id

    def knows(word):
        ids = list(loaded.tokenizer.encode(word))
        return bool(ids) and unk_id not in ids

    judged = association.judge(loaded.embed, tests, knows)
    for scores in judged:
        print(json.dumps(scores, ensure_ascii=False), flush=True)
    _keep(directory, "association", Path(FLAGS.weat).name, judged)
    print(association.REMARK, file=sys.stderr, flush=True)


def _judge_swaps(directory):
    """Prints what a classifier or a tagger answers when words of --swaps are exchanged, a JSON object a split and trait."""
    from trainers import swaps

    tables = swaps.read(FLAGS.swaps)
    dataset, data_path, _ = _data(directory)
    with program.quiet():
        import tensorflow  # noqa: F401

    import tfds_configs
    import zoo

    loaded, size = zoo.load(directory), FLAGS.batch_size or 32
    task = loaded.task
    if (
        task.registered_name not in ("classification", "tagging")
        or task.registered_name == "classification"
        and task.facts.pair
    ):
        raise Refusal(f"--swaps is for classification of one text and for tagging, and {directory} was made for another task.")
    source = tfds_configs.get(dataset, data_path)
    source = source.whole() if FLAGS.data_path else source
    source.check_fields(task.fields[:1])

    def probs_of(texts):
        rows = []
        for start in range(0, len(texts), size):
            answer = loaded.predict("classify", text=texts[start : start + size])
            for labels, probs in zip(answer["labels"], answer["scores"], strict=True):
                by_label = dict(zip(labels, probs.tolist(), strict=True))
                rows.append([by_label[label] for label in task.facts.labels])
        return rows

    def answers_of(texts):
        answers = []
        for start in range(0, len(texts), size):
            answer = loaded.predict("tag", text=texts[start : start + size])
            columns = answer["tags"], answer["num_tokens"], answer["score"]
            answers += [(tags[:count].tolist(), float(score)) for tags, count, score in zip(*columns, strict=True)]
        return answers

    fits = swaps.fits_whole(task, loaded.model, loaded.tokenizer)
    for split in _names(source):
        if task.registered_name == "tagging":
            texts = [" ".join(example["tokens"]) for example in source.examples(split)]
            scores = swaps.judge_tags(answers_of, texts, tables, fits, swaps.cutter(task))
        else:
            texts = [str(example["text"]) for example in source.examples(split)]
            scores = swaps.judge_classes(probs_of, texts, tables, task.facts.labels, fits)
        for each in scores:
            print(json.dumps({"split": split, "dataset": source.name, **each}, ensure_ascii=False), flush=True)
        _keep(directory, "swaps", f"{Path(FLAGS.swaps).name} and {source.name}, {split}", scores)
    print(swaps.REMARK, file=sys.stderr, flush=True)


def _judge_memorisation(directory):
    """Prints what a language model has kept of its training text, a JSON object."""
    run = run_of(directory)
    if "dataset" not in run:
        raise Refusal("This bundle stands alone and does not tell its training text; give the run that it was made in.")
    with program.quiet():
        import tensorflow  # noqa: F401

    from trainers import canaries, memorisation
    from zoo import bundle as bundles
    from zoo.data.batch import Layout

    bundle, size = bundles.load(directory), FLAGS.batch_size or 32
    if bundle.task.reads != "text":
        raise Refusal("--memorisation is for models of language_modeling, which go on from a text.")
    layout = Layout(FLAGS.seq_length or run["seq_length"], size)
    source = canaries.source_of(run)
    data = splits(bundle.task, layout, source, directory, ["train", "validation"])
    found = memorisation.judge(bundle, data["train"], data["validation"], layout.seq_length, size)
    count = canaries.settings_of(run).canaries
    if count:
        found |= memorisation.exposure(bundle, run["seed"], count, size)
    print(json.dumps(found), flush=True)
    _keep(directory, "memorisation", run["dataset"], [found])


def _judge_few_shot(directory):
    """Prints the scores of classification by likelihood with --shots examples, a JSON object a split."""
    import tfds_configs
    from trainers import few_shot
    from zoo.data.patterns import Pattern

    pattern = Pattern(FLAGS.pattern)
    if not (FLAGS.data_path or FLAGS.dataset):
        raise Refusal("--shots needs examples with a text and a label; say where they are with --data_path or --dataset.")
    source = tfds_configs.get(FLAGS.dataset or "local_text", FLAGS.data_path)
    source.check_fields(("text", "label"))
    names = ["train", *dict.fromkeys(_names(source))]
    examples = {name: few_shot.labelled(source.examples(name)) for name in names}
    labels = sorted({example["label"] for some in examples.values() for example in some})
    words = few_shot.label_words(labels, FLAGS.label_words)
    with program.quiet():
        import tensorflow  # noqa: F401

    from zoo import bundle as bundles
    from zoo import likelihood

    bundle = bundles.load(directory)

    def log_probs(requests):
        return likelihood.log_probs(bundle.model, bundle.tokenizer, bundle.task, requests, FLAGS.batch_size or 16)

    judged = {}  # where one part of the data is both splits it is read once
    for name in names[1:]:
        part = source.splits[name]
        if part not in judged:
            some = examples[name]
            judged[part] = few_shot.judge(log_probs, examples["train"], some, pattern, words, FLAGS.shots, FLAGS.shot_seeds)
        print(json.dumps({"split": name, "dataset": source.name, **judged[part]}, ensure_ascii=False), flush=True)
        _keep(directory, "few_shot", f"{source.name}, {name}", [judged[part]])


def _names(source):
    """The splits to judge on: those of --split, or of its default those that there are. Raises Refusal for one that is not."""
    asked = FLAGS.split if FLAGS["split"].present else [split for split in FLAGS.split if split in source.splits]
    for split in asked or FLAGS.split:
        source.check_split(split)
    return asked


def splits(task, layout, source, directory, names):
    """Split -> what batches are made of, with the tokenizer of the bundle in `directory`."""
    from trainers.prepare import prepare_for

    with ProgressBar("Preparing") as progress:
        return prepare_for(
            task, layout, source, str(Path(directory) / "tokenizer"), splits=names,
            progress=preparing(progress, source.num_bytes),
        )[1]  # fmt: skip


def _write_columns(lines):
    """Writes --predictions."""
    text = "".join(line + "\n" for line in lines)
    replace_file(FLAGS.predictions, lambda path: path.write_text(text, encoding="utf8"))


def judge(task, model, data, tokenizer, layout):
    """The scores of a model on a split, a dict of numbers."""
    return task.metrics(*read(task, model, data, tokenizer, layout), data)


def read(task, model, data, tokenizer, layout):
    """`(totals, rows)` of a model on a split: what its task makes scores of."""
    import tensorflow as tf

    from trainers.engine import loop

    score = tf.function(lambda batch, state: task.score(model, batch, state=state), reduce_retracing=True, autograph=False)
    return loop.summed(task, model, score, data, tokenizer, layout)


def calibration_scores(bundle, data, layout):
    """`calibration_error`, `brier` and `calibration` of a split (`zoo/calibration.py`)."""
    from zoo import calibration

    return calibration.scores(_over(bundle, data, layout, lambda *answers: calibration.reliability(*answers)))


def _calibrate(directory, bundle, data, layout):
    """Fits the temperature of a bundle on its validation split, and keeps it: what is told of it, a dict."""
    import tensorflow as tf

    from trainers.engine import judging
    from zoo import bundle as bundles
    from zoo import calibration

    if bundle.model.fitted:
        raise Refusal(
            "A model that is fitted in closed form has counted its probabilities; --calibrate is for models with logits."
        )
    inverse, before = tf.Variable(1.0), bundle.task.temperature
    part = judging.at_most(judging.ENOUGH, bundle.task, data, layout).of(bundle.task, data, layout)
    sums = _over(bundle, part, layout, lambda *answers: calibration.slopes(*answers, inverse), repeated=True)

    def at(value):
        inverse.assign(value)
        return sums()

    factor, nats, mended = calibration.fit_temperature(at)
    bundle.task.temperature = before * factor
    bundle.task.limit_ids(bundle.model, bundle.tokenizer)
    bundles.write_temperature(directory, bundle.task.temperature)
    return {"temperature": bundle.task.temperature, "loss_before": nats, "loss_after": mended}


def _over(bundle, data, layout, sums, repeated=False):
    """Sums of `sums(logits, labels, weights)` over a split, or with `repeated` a function that takes them anew."""
    import tensorflow as tf

    from trainers.engine import loop

    task, model = bundle.task, bundle.model

    def score(batch, state):
        answers = task.class_logits(model, batch, state)
        return sums(*answers[:3]), {}, answers[3]

    compiled = tf.function(score, reduce_retracing=True, autograph=False)

    def take():
        return loop.summed(task, model, compiled, data, bundle.tokenizer, layout)[0]

    return take if repeated else take()


def run_of(directory):
    """The config of the run that a bundle lies in, or an empty dict."""
    path = Path(directory).parent / "config.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf8"))) if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise Refusal(f"{path} is damaged ({error}); copy the run again from where it was made.") from error


def _data(directory):
    """(dataset, data_path, config of the run): by default the text that the model was trained on."""
    run = run_of(directory)
    if FLAGS.data_path:
        return FLAGS.dataset or "local_text", FLAGS.data_path, run
    if FLAGS.dataset:
        return FLAGS.dataset, None, run
    if "dataset" not in run:
        raise Refusal("This bundle stands alone; say what to judge it on with --dataset or --data_path.")
    return run["dataset"], run["data_path"], run


def _source(dataset, data_path, run):
    """The `TextSource` to judge on. Says so where it is the text of the run, and that was changed since."""
    import tfds_configs
    from trainers import canaries
    from trainers.engine import identity

    if FLAGS.data_path:
        return tfds_configs.get(dataset, data_path).whole()  # nothing of what is given for judging is held out
    if FLAGS.dataset:
        return tfds_configs.get(dataset)
    source = canaries.source_of(run)
    if run.get(identity.KEY, {}).get("text") not in (None, source.fingerprint()):
        print(
            f"The text {data_path or dataset} has changed since the model was trained on it: what is held out now may have "
            "been trained on.", file=sys.stderr, flush=True,
        )  # fmt: skip
    return source


def start():
    """The program, with its flags."""
    trainer_flags.define_evaluation()
    program.start(main)


if __name__ == "__main__":
    start()
