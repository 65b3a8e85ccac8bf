"""Trains a model, from text to a SavedModel: python -m trainers.run --model=gpt"""

import datetime
import json
import os
from pathlib import Path

from absl import flags

from trainers import flags as trainer_flags

FLAGS = flags.FLAGS
# Fields of config.json that may change when a run goes on: they move no weight.
HARMLESS = ("export", "eval_every", "checkpoint_every")


def main():
    if FLAGS.list:
        from trainers.listing import table

        print(table())
        return
    config, model_config = trainer_flags.train_config()
    if FLAGS.dry_run:
        print(json.dumps(_described(config, model_config), indent=1))
        return
    run = _open_run(Path(FLAGS.model_dir) if FLAGS.model_dir else _fresh_directory(config.model), config)
    print(f"Run: {run}  (TensorBoard: tensorboard --logdir {run / 'tensorboard'})", flush=True)
    with trainer_flags.quiet():
        import tensorflow  # noqa: F401
    from trainers.training import train

    train(run, config, model_config)


def _described(config, model_config):
    return {**config.to_dict(), "model_config": model_config.to_dict(), "num_params": model_config.num_params()}


def _fresh_directory(model):
    directory = Path("runs") / model / datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    directory.mkdir(parents=True)
    latest = directory.parent / "latest"
    aside = directory.parent / f".latest-{os.getpid()}"
    aside.symlink_to(directory.name)
    os.replace(aside, latest)
    return directory


def _open_run(directory, config):
    """Creates the run directory with its config.json, or checks that the run in it may go on with this config."""
    path = directory / "config.json"
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is damaged ({error}); choose another --model_dir.") from error
        if FLAGS.resume == "never":
            raise ValueError(f"{directory} holds another run; choose another --model_dir, or --resume=auto.")
        now = config.to_dict()
        differing = [k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k) and k not in HARMLESS]
        if differing:
            changes = ", ".join(f"{key} ({before.get(key)!r} then, {now.get(key)!r} now)" for key in differing)
            raise ValueError(f"{directory} holds another run; it differs in {changes}. Choose another --model_dir.")
    elif directory.exists() and any(directory.iterdir()):
        raise ValueError(f"{directory} is not empty and holds no run; choose another --model_dir.")
    directory.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".json.partial")
    aside.write_text(json.dumps(config.to_dict(), indent=1) + "\n", encoding="utf8")
    os.replace(aside, path)
    return directory


if __name__ == "__main__":
    trainer_flags.define_training()
    trainer_flags.program(main)
