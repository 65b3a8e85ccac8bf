"""Judges a trained model on text: python -m trainers.evaluate --model_dir=runs/gpt/latest"""

import json
from pathlib import Path

from absl import flags

from trainers import flags as trainer_flags
from trainers.progress import Progress

FLAGS = flags.FLAGS


def main():
    directory = trainer_flags.model_dir()
    dataset, data_path, run = _data(directory)
    with trainer_flags.quiet():
        import tensorflow as tf

    import tfds_configs
    from trainers import loop
    from trainers.prepare import prepare_for
    from zoo import bundle as bundles
    from zoo.tasks.base import Layout

    bundle = bundles.load(directory)
    task = bundle.task
    layout = Layout(
        FLAGS.seq_length or run.get("seq_length", 128), FLAGS.batch_size or run.get("batch_size", 16),
        separate_documents=run.get("separate_documents", False),
    )  # fmt: skip
    source = tfds_configs.get(dataset, data_path)
    with Progress("Preparing") as progress:
        _, data = prepare_for(
            task, layout, source, str(directory / "tokenizer"), splits=FLAGS.split,
            progress=lambda split, done: progress.update(done, split=split),
        )  # fmt: skip
    score = tf.function(
        lambda batch, state: task.score(bundle.model, batch, state=state), reduce_retracing=True, autograph=False
    )
    for split in FLAGS.split:
        scores = loop.evaluate(task, bundle.model, score, data[split], bundle.tokenizer, layout)
        print(json.dumps({"split": split, "dataset": source.name, **scores}), flush=True)


def _data(directory):
    """(dataset, data_path, config of the run): by default the text that the model was trained on."""
    path = Path(directory).parent / "config.json"
    try:
        run = dict(json.loads(path.read_text(encoding="utf8"))) if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); copy the run again from where it was made.") from error
    if FLAGS.data_path:
        return FLAGS.dataset or "local_text", FLAGS.data_path, run
    if FLAGS.dataset:
        return FLAGS.dataset, None, run
    if "dataset" not in run:
        raise ValueError("This bundle stands alone; say what to judge it on with --dataset or --data_path.")
    return run["dataset"], run["data_path"], run


if __name__ == "__main__":
    trainer_flags.define_evaluation()
    trainer_flags.program(main)
