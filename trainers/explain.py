"""Which words an answer comes from: python -m trainers.explain --model_dir=runs/bert/latest --text='A dull film.'"""

import json

from absl import flags

from trainers import flags as trainer_flags
from trainers import program
from zoo.config import Refusal

FLAGS = flags.FLAGS


MOST = 12  # tokens that are listed with their scores
MOST_COLUMNS = 8  # tokens that a terminal has room for side by side


def main():
    directory, text = trainer_flags.model_dir(), trainer_flags.given_text()
    with program.quiet():
        import tensorflow  # noqa: F401

    import zoo

    answer = _answer(zoo.load(directory), text)
    if FLAGS.format == "json":
        print(json.dumps(answer.to_dict(), ensure_ascii=False))
    elif FLAGS.format == "html":
        print(answer.html(), end="")
    else:
        {"logit_lens": show_lens, "attention": show_attention}.get(FLAGS.method, show)(answer)


def _answer(loaded, text):
    """What --method asks for. Raises Refusal for a flag that it does not take."""
    of_words = ("word", "predicate")
    unused = {"logit_lens": ("target", "contrast", *of_words), "attention": ("contrast", *of_words)}.get(FLAGS.method, ())
    if given := [f"--{name}" for name in unused if FLAGS[name].value is not None]:
        raise Refusal(f"--method={FLAGS.method} takes no {given[0]}; leave it out.")
    if FLAGS.method == "logit_lens":
        return loaded.lens(text)
    if FLAGS.method == "attention":
        return loaded.attention(text, FLAGS.target)
    return loaded.explain(text, FLAGS.method, FLAGS.target, FLAGS.contrast, FLAGS.word, FLAGS.predicate)


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


def show_lens(answer):
    """Prints a `Lens`: a row a layer, the last one above; of many columns the last."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table, first = Table("layer"), max(len(answer.tokens) - MOST_COLUMNS, 0)
    for token in answer.tokens[first:]:
        table.add_column(Text(repr(token)))
    for layer in reversed(range(len(answer.words))):
        cells = [f"{words[0]!r} {probs[0]:.2f}" for words, probs in zip(answer.words[layer], answer.probs[layer], strict=True)]
        table.add_row(str(layer), *map(Text, cells[first:]))
    table.add_section()
    table.add_row("settled", *map(str, answer.settled.tolist()[first:]))
    console = Console(highlight=False)
    console.print(table)
    if first:
        console.print(f"The last {MOST_COLUMNS} of {len(answer.tokens)} tokens; --format=html and json have all.")


def show_attention(answer):
    """Prints `AttentionMaps`: of each token those that it looks at most, in each layer, as the mean over the heads."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("looks", *(f"layer {number}" for number in range(1, len(answer.weights) + 1)))
    for row, token in enumerate(answer.queries):
        cells = []
        for mean in answer.mean:
            best = mean[row].argsort()[::-1][:2].tolist()
            cells.append(Text(", ".join(f"{answer.keys[i]!r} {mean[row, i]:.2f}" for i in best)))
        table.add_row(Text(repr(token)), *cells)
    Console(highlight=False).print(table)


def start():
    """The program, with its flags."""
    trainer_flags.define_explanation()
    program.start(main)


if __name__ == "__main__":
    start()
