"""Which words an answer comes from: python -m trainers.explain --model_dir=runs/bert/latest --text='A dull film.'"""

import json

from absl import flags

from trainers import flags as trainer_flags
from trainers import program

FLAGS = flags.FLAGS


MOST = 12  # tokens that are listed with their scores


def main():
    directory, text = trainer_flags.model_dir(), trainer_flags.given_text()
    with program.quiet():
        import tensorflow  # noqa: F401

    import zoo

    answer = zoo.load(directory).explain(text, FLAGS.method, FLAGS.target, FLAGS.contrast)
    if FLAGS.format == "json":
        print(json.dumps(answer.to_dict(), ensure_ascii=False))
    elif FLAGS.format == "html":
        print(answer.html(), end="")
    else:
        show(answer)


def show(answer):
    """Prints an `Explanation`: the text in colours where the terminal has them, and its tokens with the largest scores."""
    from rich.console import Console
    from rich.text import Text

    console, text = Console(soft_wrap=True, highlight=False), Text()
    for token, shade in zip(answer.tokens, answer.shades(), strict=True):
        pale = round(235 * (1 - abs(shade)))
        text.append(token, style=f"black on rgb({pale},235,{pale})" if shade > 0 else f"black on rgb(235,{pale},{pale})")
    console.print(text)
    before = "" if answer.baseline is None else f"; {answer.baseline:.4f} with the text's vectors at 0"
    console.print(f"{answer.method} of {answer.question} = {answer.value:.4f}{before}", markup=False)
    largest = sorted(range(len(answer.scores)), key=lambda i: -abs(answer.scores[i]))[:MOST]
    for i in largest:
        console.print(f"{answer.scores[i]:+9.4f}  {answer.tokens[i]!r} (token {i})", markup=False)


def start():
    """The program, with its flags."""
    trainer_flags.define_explanation()
    program.start(main)


if __name__ == "__main__":
    start()
