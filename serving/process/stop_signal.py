"""Waits for the signal to stop a process."""

import os
import select
import signal
from collections.abc import Callable


class StopSignal:
    """An event that SIGTERM and SIGINT set, and that the main thread waits for.

    It uses a pipe that the signal itself writes to (`signal.set_wakeup_fd`), in any thread and at
    any time. A Python handler runs only when the main thread is back in the interpreter, which may
    never happen if it has just started to wait, or if the signal arrives in another thread.
    `threading.Event.set` in a handler can deadlock with a main thread that starts to wait.
    """

    def __init__(self, again: Callable[[int], None] | None = None) -> None:
        """Installs the signal handlers. Must be called in the main thread.

        Args:
            again: Called with the number of a signal that arrives a second time.
        """
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._again = again
        self._received: set[int] = set()
        self._is_set = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def wait(self, seconds: float | None = None) -> bool:
        """Waits until the event is set; returns False on timeout.

        Args:
            seconds: Timeout. None waits without a timeout.
        """
        while not self._is_set and select.select([self._reader], [], [], seconds)[0]:
            # Python writes the number of any signal that it handles.
            self._is_set = not {signal.SIGTERM, signal.SIGINT}.isdisjoint(
                os.read(self._reader, 4096)
            )
        return self._is_set

    def _on_signal(self, number: int, frame: object) -> None:
        if number in self._received and self._again is not None:
            self._again(number)
        self._received.add(number)
