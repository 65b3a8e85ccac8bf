"""The families on one text as a picture: bits per byte over the time of training, a larger dot for more parameters.

    python -m benchmarks.family_picture --to=docs/images/families.svg

It draws what stands in the table "Default runs" of docs/figures.md, so no figure is written twice. Where a row's bits per byte
are "of" something, words taken out of the text, its dot is hollow: such a model has seen what stands behind them, too.
"""

import argparse
import re
from pathlib import Path
from typing import NamedTuple

FIGURES = Path(__file__).parents[1] / "docs" / "figures.md"
SCORE = re.compile(r"([\d.]+) bits per byte")
TIME = re.compile(r"(?:(\d+)m)?(\d+) ?s")
FLAG = re.compile(r"--(?:model|preset)=(\w+)")
SIZE = (7.0, 3.6)  # inches
INK, DOT = "#6a7482", "#2f7fd6"  # both can be read on white and on black
AREA = 1.1e-4  # square points a parameter
LEAST_AREA = 12.0


class Run(NamedTuple):
    """A row of the table: a name, parameters, bits per byte on the test split, seconds to train and judge, and whether only
    words that were taken out were scored."""

    name: str
    num_params: int
    bits_per_byte: float
    seconds: float
    hollow: bool = False


def runs(text):
    """The `Run`s of the rows of a page that have bits per byte, parameters and a time.

    >>> runs("| `python -m trainers.run --model=gpt` | 1,334,016 | 1.635 bits per byte | 1.683 | 3m31s (4m10s), alone |")
    [Run(name='gpt', num_params=1334016, bits_per_byte=1.635, seconds=211, hollow=False)]
    """
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 5 or not SCORE.match(cells[2]):
            continue
        minutes, seconds = TIME.search(cells[4]).groups()
        num_params = int(re.match(r"[\d,]+", cells[1])[0].replace(",", ""))
        found.append(Run(" ".join(FLAG.findall(cells[0])), num_params, float(SCORE.match(cells[2])[1]),
                         60 * int(minutes or 0) + int(seconds), " of " in cells[2]))  # fmt: skip
    return found


def label(run):
    """What stands beside the dot of a `Run`."""
    return f"{run.name}: {run.bits_per_byte:.3f}, {run.num_params / 1e6:.2g}M"


def draw(chosen, path):
    """Writes the picture, .svg or .png."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    style = {
        "svg.fonttype": "none", "svg.hashsalt": "families", "font.family": "sans-serif", "font.size": 10, "text.color": INK,
        "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.spines.top": False, "axes.spines.right": False,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        picture = Figure(figsize=SIZE, layout="constrained")
        axes = picture.add_subplot()
        for run in chosen:
            area = max(AREA * run.num_params, LEAST_AREA)
            face = "none" if run.hollow else DOT
            axes.scatter(
                [run.seconds], [run.bits_per_byte], s=area, facecolors=face, edgecolors=DOT, alpha=0.75, linewidths=1.5
            )
            right = run.seconds < 10 or run.hollow  # on which side there is room
            shift = (area**0.5 / 2 + 5) * (1 if right else -1)
            axes.annotate(
                label(run), (run.seconds, run.bits_per_byte), xytext=(shift, 0), textcoords="offset points",
                ha="left" if right else "right", va="center",
            )  # fmt: skip
        if any(run.hollow for run in chosen):
            note = "hollow: only words taken out, both sides seen"
            axes.annotate(note, (1, 1), xycoords="axes fraction", ha="right", va="top", fontsize=9)
        axes.set_xscale("log")
        axes.set_xlim(0.5, 3_000)
        axes.margins(y=0.15)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("seconds to train and judge, two CPU cores")
        axes.set_ylabel("bits per byte, test")
        axes.patch.set_visible(False)
        picture.savefig(path, transparent=True, metadata={"Date": None} if str(path).endswith(".svg") else None)


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.family_picture", description=__doc__.splitlines()[0])
    parser.add_argument("--to", required=True, help="the picture: a name that ends in .svg or .png")
    args = parser.parse_args()
    chosen = runs(FIGURES.read_text(encoding="utf8"))
    draw(chosen, args.to)
    print(f"{args.to}: {len(chosen)} runs")


if __name__ == "__main__":
    main()
