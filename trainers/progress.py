"""What the user sees while a run works: a bar at a terminal, a plain line every few seconds elsewhere."""

import sys
import time

LINE_EVERY_SECONDS, DRAW_EVERY_SECONDS = 5.0, 0.1
BAR, WIDEST_BAR, NARROWEST_BAR = "\u2501", 40, 5


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

    At a terminal one row is drawn over itself. The title, the count and the time left always stand in it; a bar and figures
    take what room there is. Elsewhere a plain line comes every few seconds.

    Args:
        title: a word for it.
        total: its size in whatever units `update` counts, or None when unknown.
        start: where it begins, for work that was resumed.
    """

    def __init__(self, title, total=None, start=0):
        self.title, self.total, self.start = title, total, start
        self._began = self._printed = self._drawn = time.perf_counter()
        self._done, self._figures, self._length = start, {}, 0
        self._live = None
        if sys.stdout.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(), auto_refresh=False, transient=True)

    def __enter__(self):
        if self._live:
            self._live.start()
            self._draw()
        return self

    def __exit__(self, *_):
        if self._live:
            self._clear_wrapped()
            self._live.stop()

    def update(self, done, **figures):
        """Says that `done` units are finished; `figures` are shown as name value, numbers at four digits.

        A figure `left` takes the place of what this makes of the time since the beginning.
        """
        now = time.perf_counter()
        if self.total and done > self.start and "left" not in figures:
            left = (self.total - done) * (now - self._began) / (done - self.start)
            figures["left"] = duration(left)
        self._done, self._figures = done, figures
        if self._live:
            if now - self._drawn >= DRAW_EVERY_SECONDS:
                self._draw()
        elif now - self._printed >= LINE_EVERY_SECONDS:
            self._printed = now
            text = "  ".join(f"{name} {_figure(value)}" for name, value in figures.items())
            print(f"{self.title} {done:,}{f' of {self.total:,}' if self.total else ''}  {text}", flush=True)

    def say(self, line):
        """Prints a line that stays, above the row."""
        if self._live:
            self._clear_wrapped()
            self._live.console.print(line, highlight=False, markup=False, soft_wrap=True)
            self._draw()
        else:
            print(line, flush=True)

    def note(self, text):
        """Shows what is done before the first unit is, such as `making the graph`; at a terminal only."""
        if self._live:
            self._figures = {text: ""}
            self._draw()

    def _draw(self):
        from rich.text import Text

        self._clear_wrapped()
        line, filled, width = row(self.title, self._done, self.total, self._figures, self._live.console.width)
        text = Text(line, no_wrap=True, overflow="crop")
        if width:
            first = line.index(BAR)
            text.stylize("green", first, first + filled)
            text.stylize("bright_black", first + filled, first + width)
        self._live.update(text, refresh=True)
        self._length, self._drawn = len(line), time.perf_counter()

    def _clear_wrapped(self):
        """Takes away what a terminal that was made narrower has wrapped of the last row."""
        console = self._live.console
        for _ in range((max(self._length, 1) - 1) // max(console.width, 1)):
            console.file.write("\r\x1b[2K\x1b[1A")
        self._length = min(self._length, console.width)


def preparing(bar, num_bytes):
    """The `progress` of `trainers.prepare`: shows how much of which split was read, in bytes, with MB/s and the time left.

    Args:
        bar: a `ProgressBar`.
        num_bytes: a function, split -> its size or None when that is unknown, such as `TextSource.num_bytes`. A tokenizer is
            learnt from the train split.
    """
    began, part, last = 0.0, None, time.perf_counter()

    def report(what, done):
        nonlocal began, part, last
        if what != part:
            began, part = last, what
        last = time.perf_counter()
        speed = done / max(last - began, 1e-9)
        total = num_bytes("train" if what == "tokenizer" else what)
        bar.total = max(total, done) if total else None
        left = {"left": duration((bar.total - done) / speed)} if total and done else {}
        bar.update(done, split=what, **{"MB/s": speed / 1e6}, **left)

    return report


def row(title, done, total, figures, width):
    """`(line, filled, bar)`: a row of at most `width` - 1 columns, and how many columns of its bar are full, of how many.

        step 25/1,200 ━━━━━━━━━━  loss 4.257  tokens/s 2,703  left 3m07s

    Title, count and time left always stand in it. The first figure comes next, then a short bar, then the other figures. The
    bar grows into the room that is left.
    """
    width -= 1  # the last column stays free: some terminals begin a new line behind it
    count = f"{title} {done:,}{f'/{total:,}' if total else ''}"
    shown = [f"{name} {_figure(value)}".rstrip() for name, value in figures.items() if name != "left"]
    left = f"left {figures['left']}" if "left" in figures else ""
    for number in range(len(shown), -1, -1):
        reserved = NARROWEST_BAR + 1 if total and number > 1 else 0
        shown = shown[:number]
        if len("  ".join(filter(None, [count, *shown, left]))) + reserved <= width:
            break
    tail = "".join(f"  {part}" for part in [*shown, left] if part)
    bar = min(WIDEST_BAR, width - len(count) - len(tail) - 1) if total else 0
    if bar < NARROWEST_BAR:
        return count + tail, 0, 0
    return f"{count} {BAR * bar}{tail}", min(bar, int(bar * done / total)), bar


def _figure(value):
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
