"""Ctrl-C and SIGTERM: between steps, never within one."""

import contextlib
import signal


class Interruption:
    """Turns the first Ctrl-C (or SIGTERM, which schedulers send) into a request that a loop reads when a step is done.

    A step that was cut in two could have changed the weights and not been counted; what is saved after it would not be
    the state of any step. A second Ctrl-C acts as if nobody had been listening.

    Use as a context manager, in the main thread; then ask `requested`.
    """

    signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.requested = False
        self._at_once = False
        self._before = {}

    def __enter__(self):
        self._before = {number: signal.signal(number, self._note) for number in self.signals}
        return self

    def __exit__(self, *_):
        self._restore()

    @contextlib.contextmanager
    def at_once(self):
        """A block that changes nothing and may be left in the middle: a signal raises KeyboardInterrupt in it."""
        if self.requested:
            raise KeyboardInterrupt
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _note(self, *_):
        self.requested = True
        self._restore()
        if self._at_once:
            raise KeyboardInterrupt

    def _restore(self):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


@contextlib.contextmanager
def sigterm_as_ctrl_c():
    """Outside the loop too, SIGTERM unwinds the program as Ctrl-C does: a scheduler then sees the same exit status."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
