"""Writes the report of a run, one HTML file: python -m trainers.report --model_dir=runs/gpt/latest

Several --model_dir compare their runs; the file then stands in the first.
"""

from absl import flags

from trainers import flags as trainer_flags
from trainers import program
from zoo.config import Refusal
from zoo.files import replace_file

FLAGS = flags.FLAGS
NAME = "report.html"


def main():
    if not FLAGS.model_dir:
        raise Refusal("--model_dir is missing; give the directory of a run, such as runs/gpt/latest.")
    from trainers.reporting import charts, page, records

    charts.require_matplotlib()
    runs = [records.read(directory) for directory in FLAGS.model_dir]
    answers = [_asked(run) if FLAGS.samples and run.bundle else None for run in runs]
    path = runs[0].directory / NAME
    text = page.page(runs, answers)
    replace_file(path, lambda partial: partial.write_text(text, encoding="utf8"))
    print(f"Report: {path}, {len(text) / 1e3:,.0f} KB")


def _asked(run):
    with program.quiet():
        import tensorflow  # noqa: F401
    from trainers.reporting import answers

    return answers.ask(run)


def start():
    """The program, with its flags."""
    trainer_flags.define_report()
    program.start(main)


if __name__ == "__main__":
    start()
