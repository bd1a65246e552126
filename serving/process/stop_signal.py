"""Waits until a process is to stop."""

import os
import select
import signal
from collections.abc import Callable


class StopSignal:
    """Is set by SIGTERM and SIGINT from now on, and by `set`; the main thread waits for it.

    Over a pipe: `threading.Event.set` takes a lock, which a main thread that just begins to wait
    holds while a signal's handler runs in it.
    """

    def __init__(self, again: Callable[[int], None] | None = None) -> None:
        """Handles the signals; to be made in the main thread.

        Args:
            again: Is called with a signal's number when it comes a second time.
        """
        self._reader, self._writer = os.pipe()
        self._again = again
        self._seen: set[int] = set()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def set(self) -> None:
        """Lets those who wait go on."""
        os.write(self._writer, b"\0")

    def wait(self, seconds: float | None = None) -> bool:
        """Waits; returns whether it is set, False after `seconds` without."""
        return bool(select.select([self._reader], [], [], seconds)[0])

    def _note(self, number: int, frame: object) -> None:
        if number in self._seen and self._again is not None:
            self._again(number)
        self._seen.add(number)
        self.set()
