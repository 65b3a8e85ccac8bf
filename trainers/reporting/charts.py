"""Charts as SVG inside a page. Their colours are CSS variables of the page, so that light and dark suit them; words stay words.

matplotlib draws them, which `pip install '.[report]'` brings.
"""

import dataclasses
import html
import importlib.util
import io
import re

from zoo.config import Refusal

NUM_COLOURS = 8
# What matplotlib draws with, and what stands in its place in the page.
INK, GRID = "#010203", "#040506"
COLOURS = [f"#0a0b{number:02x}" for number in range(NUM_COLOURS)]
REPLACED = {INK: "currentColor", GRID: "var(--grid)"} | {c: f"var(--series-{i})" for i, c in enumerate(COLOURS)}
DASHES = ("-", "--", "-.", ":")  # colour alone must not tell lines apart
MARKERS = "osD^vP*X"
SIZE = (7.0, 3.2)  # inches


@dataclasses.dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        name: what the legend calls it.
        x, y: numbers, as many of the one as of the other.
    """

    name: str
    x: list
    y: list


def require_matplotlib():
    """Raises Refusal unless charts can be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise Refusal("A report's charts are drawn by matplotlib, which is not installed: pip install -e '.[report]'.")


def lines(series, title, x_name, y_name, marked=False):
    """A chart of lines over one x axis: an HTML fragment.

    Args:
        series: `Series`; those that are empty are left out.
        title: says what is shown.
        x_name, y_name: of the axes.
        marked: whether each point has a mark.
    """
    series = [one for one in series if len(one.x)]

    def draw(axes):
        for i, one in enumerate(series):
            mark = MARKERS[i % len(MARKERS)] if marked or len(one.x) == 1 else None
            axes.plot(one.x, one.y, DASHES[i % len(DASHES)], color=COLOURS[i % NUM_COLOURS], label=one.name, marker=mark, ms=4)
        if len(series) > 1:
            axes.legend(frameon=False, labelcolor=INK)

    description = "; ".join(_described(one, x_name) for one in series)
    return _chart(draw, title, x_name, y_name, f"Line chart of {y_name} over {x_name}. {description}.")


def points(series, title, x_name, y_name):
    """A chart of one point for each of `series`: an HTML fragment. The x axis is logarithmic where it spans a factor of 10."""
    places = [one.x[0] for one in series]

    def draw(axes):
        for i, one in enumerate(series):
            axes.plot(one.x, one.y, MARKERS[i % len(MARKERS)], color=COLOURS[i % NUM_COLOURS], label=one.name, ms=8)
        axes.margins(x=0.1, y=0.2)
        if max(places) >= 10 * min(places) > 0:
            axes.set_xscale("log")
        axes.legend(frameon=False, labelcolor=INK)

    description = "; ".join(f"{one.name}: {x_name} {figure(one.x[0])}, {y_name} {figure(one.y[0])}" for one in series)
    return _chart(draw, title, x_name, y_name, f"One point a run. {description}.")


def reliability(bins, title):
    """How often answers are right, over how sure the model is of them: an HTML fragment.

    Args:
        bins: as `zoo.metrics.calibration` gives them.
    """

    def draw(axes):
        axes.plot([0, 1], [0, 1], ":", color=INK, label="as sure as right")
        axes.plot([c for _, c, _ in bins], [r for _, _, r in bins], "-o", color=COLOURS[0], label="this model", ms=4)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.legend(frameon=False, labelcolor=INK)

    description = "; ".join(f"{count} answers at {sure:.2f}: {right:.2f} right" for count, sure, right in bins)
    return _chart(draw, title, "mean confidence", "share that is right", f"Reliability diagram. {description}.")


def figure(value):
    """A number as a report writes it: at four digits, whole ones and large ones with commas."""
    if value is None:
        return "not known"
    if isinstance(value, int) or abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _tick(value, _):
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:g}"


def _described(one, x_name):
    least = min(range(len(one.y)), key=one.y.__getitem__)
    return (
        f"{one.name}: {figure(one.y[0])} at {x_name} {figure(one.x[0])}, {figure(one.y[-1])} at {figure(one.x[-1])}, "
        f"lowest {figure(one.y[least])} at {figure(one.x[least])}"
    )


def _chart(draw, title, x_name, y_name, description):
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    style = {
        "svg.fonttype": "none", "svg.hashsalt": "report", "font.family": "sans-serif", "font.size": 10, "text.color": INK,
        "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK, "grid.color": GRID,
        "axes.spines.top": False, "axes.spines.right": False,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        picture = Figure(figsize=SIZE, layout="constrained")
        axes = picture.add_subplot()
        if x_name == "step":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(True, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel(x_name)
        axes.set_ylabel(y_name)
        axes.patch.set_visible(False)
        draw(axes)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(_tick))
        text = io.StringIO()
        picture.savefig(text, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{_for_a_page(text.getvalue(), description)}</figure>\n"


def _for_a_page(svg, description):
    """What matplotlib wrote, as a part of an HTML page: without what only a file of its own needs."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r" font-family: [^;\"]*;?", "", re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL))
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # names of groups come again in every chart
    for colour, variable in REPLACED.items():
        svg = svg.replace(colour, variable)
    opening = re.match(r'<svg[^>]*viewBox="([^"]*)"[^>]*>', svg)
    label = html.escape(description, quote=True)
    return f'<svg viewBox="{opening[1]}" role="img" aria-label="{label}"><title>{label}</title>{svg[opening.end() :]}'
