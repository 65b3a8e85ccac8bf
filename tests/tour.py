"""docs/tour.md as a notebook, docs/tour.ipynb: the same text, its commands in cells that run.

python -m tests.tour            writes docs/tour.ipynb
python -m tests.tour --run      runs its cells, at tiny settings, as tests.docs does
"""

import itertools
import json
import sys

from tests import doc_runs, docs

PAGE, NOTEBOOK = docs.ROOT / "docs" / "tour.md", docs.ROOT / "docs" / "tour.ipynb"
INSTALL = "In a clone of the repository, `pip install -e .` first; then run the cells from above to below."
MADE = "`python -m tests.tour` makes this notebook of [tour.md](tour.md)."


def notebook(text):
    """The notebook of a page in Markdown: JSON values as nbformat 4 wants them. Each block of commands is a cell.

    >>> cells = notebook("# A" + chr(10) + "```" + chr(10) + "python -m trainers.run --list" + chr(10) + "```")["cells"]
    >>> [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    [['!python -m trainers.run --list']]
    """
    cells, at = [], 0
    for found in docs.FENCE.finditer(text if text.endswith("\n") else f"{text}\n"):
        _add(cells, "markdown", text[at : found.start()])
        _add(cells, "code", "\n".join(map(_in_a_cell, found[2].strip().splitlines())))
        at = found.end()
    _add(cells, "markdown", text[at:])
    title, _, rest = "".join(cells[0]["source"]).partition("\n")
    cells[0]["source"] = f"{title}\n\n{INSTALL} {MADE}\n{rest}".splitlines(keepends=True)
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _add(cells, kind, text):
    if text.strip():
        cell = {"cell_type": kind, "metadata": {}, "source": text.strip("\n").splitlines(keepends=True)}
        cells.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))


def _in_a_cell(line):
    """A line of a shell as a cell takes it: Python's own lines as Python, others behind `!`."""
    before, code = 'python -c "', line.rstrip('"')
    return code.removeprefix(before).replace("; ", "\n") if line.startswith(before) else f"!{line}"


def source_lines(cell):
    """The lines of a cell."""
    return "".join(cell["source"]).splitlines()


def steps(cells):
    """What some cells run: the calls of lines behind `!`, and what stands between them as Python, a string.

    >>> cell = {"id": "a", "cell_type": "code", "source": ["!python -m a.b --c" + chr(10), "x = 1" + chr(10), "print(x)"]}
    >>> list(steps([cell]))
    [['a.b', '--c'], 'x = 1\\nprint(x)']
    """
    lines = [(cell["id"], line) for cell in cells if cell["cell_type"] == "code" for line in source_lines(cell)]
    for (_, shell), group in itertools.groupby(lines, lambda line: (line[0], line[1].startswith("!"))):
        code = "\n".join(line for _, line in group)
        yield from docs.commands(f"```\n{code.replace('!', '', 1)}\n```\n".replace("\n!", "\n")) if shell else [code]


def run(cells, directory, start=None):
    """Runs the code of some cells at tiny settings in an empty directory. Returns the number of steps that failed.

    Args:
        start: as for `doc_runs.Reader`.
    """
    reader = doc_runs.Reader(directory, start)
    reader.read(steps(cells))
    return reader.counts["failed"]


def main():
    made = notebook(PAGE.read_text(encoding="utf8"))
    if "--run" in sys.argv:
        with docs.workplace(bundles=False) as directory:
            return int(run(made["cells"], directory) > 0)
    NOTEBOOK.write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n", encoding="utf8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
