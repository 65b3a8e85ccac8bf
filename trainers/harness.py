"""Judges a language model by tasks of EleutherAI's lm_eval: python -m trainers.harness --model_dir=runs/gpt/latest --tasks=mine

Tasks that the package brings fetch their data from the network. With --include_path tasks are read from your own files.
"""

import json
from pathlib import Path

from absl import flags

from trainers import flags as trainer_flags
from trainers import program
from zoo.config import Refusal

FLAGS = flags.FLAGS


def main():
    if FLAGS.export_dir and FLAGS.model_dir:
        raise Refusal("--model_dir and --export_dir are two models; give one of them.")
    directory = None if FLAGS.export_dir else trainer_flags.model_dir()
    if not FLAGS.tasks:
        raise Refusal("--tasks is missing; give names of lm_eval's tasks, or of those in --include_path.")
    with program.quiet():
        import lm_eval
        from lm_eval.tasks import TaskManager

        from trainers.harness_model import ServedLM, ZooLM
        from trainers.served import Served

    manager = TaskManager(include_path=FLAGS.include_path)
    if unknown := [name for name in FLAGS.tasks if not manager.match_tasks([name])]:
        raise Refusal(f"lm_eval has no task {unknown[0]!r}; --include_path names a directory with your own.")
    size = FLAGS.batch_size or 16
    model = ServedLM(Served(Path(FLAGS.export_dir)), size) if FLAGS.export_dir else ZooLM(directory, size)
    found = lm_eval.simple_evaluate(
        model, tasks=list(FLAGS.tasks), num_fewshot=FLAGS.num_fewshot, limit=FLAGS.limit,
        task_manager=manager, bootstrap_iters=FLAGS.bootstrap, log_samples=False,
    )  # fmt: skip
    for name, scores in found["results"].items():
        print(json.dumps({"task": name, **{key: value for key, value in scores.items() if key != "alias"}}), flush=True)


def start():
    """The program, with its flags."""
    trainer_flags.define_harness()
    program.start(main)


if __name__ == "__main__":
    start()
