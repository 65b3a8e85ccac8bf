"""Ctrl-C between steps, never within one."""

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
        self._before = {}

    def __enter__(self):
        self._before = {number: signal.signal(number, self._note) for number in self.signals}
        return self

    def __exit__(self, *_):
        self._restore()

    def _note(self, *_):
        self.requested = True
        self._restore()

    def _restore(self):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
