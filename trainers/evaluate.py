"""Judges a trained model on text: python -m trainers.evaluate --model_dir=runs/gpt/latest"""

import json
import sys
from pathlib import Path

from absl import flags

from trainers import flags as trainer_flags
from trainers import program
from trainers.progress import ProgressBar, preparing
from zoo.config import Refusal

FLAGS = flags.FLAGS


def main():
    directory = trainer_flags.model_dir()
    dataset, data_path, run = _data(directory)
    with program.quiet():
        import tensorflow  # noqa: F401

    import tfds_configs
    from zoo import bundle as bundles
    from zoo.data.batch import Layout

    bundle = bundles.load(directory)
    if not bundle.task.trains:
        raise Refusal(
            f"{directory} was made for {bundle.task.registered_name}, which has no score; it can begin a run that has one: "
            f"--init_from={directory}."
        )
    layout = Layout(
        FLAGS.seq_length or run.get("seq_length", 128), FLAGS.batch_size or run.get("batch_size", 16),
        separate_documents=run.get("separate_documents", False),
    )  # fmt: skip
    source = tfds_configs.get(dataset, data_path)
    if FLAGS.data_path:
        source = source.whole()  # nothing of what is given for judging is held out
    source.check_fields(bundle.task.fields)
    names = [split for split in FLAGS.split if split in source.splits] or FLAGS.split
    data = splits(bundle.task, layout, source, directory, names)
    for remark in source.remarks():
        print(remark, file=sys.stderr, flush=True)
    judged = {}  # where one part of the data is both splits it is read once
    for split in names:
        part = source.splits.get(split)
        if part not in judged:
            judged[part] = judge(bundle.task, bundle.model, data[split], bundle.tokenizer, layout)
        print(json.dumps({"split": split, "dataset": source.name, **judged[part]}), flush=True)


def splits(task, layout, source, directory, names):
    """Split -> what batches are made of, with the tokenizer of the bundle in `directory`."""
    from trainers.prepare import prepare_for

    with ProgressBar("Preparing") as progress:
        return prepare_for(
            task, layout, source, str(Path(directory) / "tokenizer"), splits=names,
            progress=preparing(progress, source.num_bytes),
        )[1]  # fmt: skip


def judge(task, model, data, tokenizer, layout):
    """The scores of a model on a split, a dict of numbers."""
    import tensorflow as tf

    from trainers.engine import loop

    score = tf.function(lambda batch, state: task.score(model, batch, state=state), reduce_retracing=True, autograph=False)
    return loop.evaluate(task, model, score, data, tokenizer, layout)


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


if __name__ == "__main__":
    trainer_flags.define_evaluation()
    program.start(main)
