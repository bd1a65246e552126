"""Waits until a process is to stop."""

import os
import select
import signal
from collections.abc import Callable


class StopSignal:
    """Is set by SIGTERM and SIGINT from now on, and by `set`; the main thread waits for it.

    Over a pipe that the signal itself writes to, in whichever thread it arrives and whatever the
    main thread is about to do. A handler in Python runs only once the main thread is back in the
    interpreter, which a wait that has just begun, or that another thread's signal does not
    interrupt, may never let it be. (`threading.Event.set` in a handler takes a lock that a main
    thread which begins to wait holds.)
    """

    def __init__(self, again: Callable[[int], None] | None = None) -> None:
        """Handles the signals; to be made in the main thread.

        Args:
            again: Is called with a signal's number when it comes a second time.
        """
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._again = again
        self._seen: set[int] = set()
        self._is_set = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def set(self) -> None:
        """Lets those who wait go on."""
        os.write(self._writer, bytes([signal.SIGTERM]))

    def wait(self, seconds: float | None = None) -> bool:
        """Waits; returns whether it is set, False after `seconds` without."""
        while not self._is_set and select.select([self._reader], [], [], seconds)[0]:
            # Python writes the number of any signal that it handles.
            self._is_set = not {signal.SIGTERM, signal.SIGINT}.isdisjoint(
                os.read(self._reader, 4096)
            )
        return self._is_set

    def _note(self, number: int, frame: object) -> None:
        if number in self._seen and self._again is not None:
            self._again(number)
        self._seen.add(number)
