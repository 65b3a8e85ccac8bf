"""What a person sees while a run works: a bar at a terminal, a plain line every few seconds elsewhere."""

import sys
import time

LINE_EVERY_SECONDS = 5.0


def duration(seconds):
    """Seconds as 7s, 3m07s or 2h03m."""
    seconds = int(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


class ProgressBar:
    """Shows how far a long piece of work is.

    Args:
        title: a word for it.
        total: its size in whatever units `update` counts, or None when unknown.
        start: where it begins, for work that was resumed.
    """

    def __init__(self, title, total=None, start=0):
        self.title, self.total, self.start = title, total, start
        self._began = self._printed = time.perf_counter()
        self._bar = None
        if sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar

            title_column, figures = TextColumn("{task.description}"), TextColumn("{task.fields[s]}")
            self._bar = Bar(title_column, BarColumn(), MofNCompleteColumn(), figures, transient=True)
            self._task = self._bar.add_task(title, total=total, completed=start, s="")

    def __enter__(self):
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_):
        if self._bar:
            self._bar.stop()

    def update(self, done, **figures):
        """Says that `done` units are finished; `figures` are shown as name value, numbers at four digits.

        A figure `left` takes the place of what this makes of the time since the beginning.
        """
        now = time.perf_counter()
        if self.total and done > self.start and "left" not in figures:
            left = (self.total - done) * (now - self._began) / (done - self.start)
            figures["left"] = duration(left)
        text = "  ".join(f"{name} {_figure(value)}" for name, value in figures.items())
        if self._bar:
            self._bar.update(self._task, completed=done, s=text)
        elif now - self._printed >= LINE_EVERY_SECONDS:
            self._printed = now
            print(f"{self.title} {done:,}{f' of {self.total:,}' if self.total else ''}  {text}", flush=True)

    def say(self, line):
        """Prints a line that stays, above the bar."""
        if self._bar:
            self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            print(line, flush=True)


def _figure(value):
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
