"""Logs events as JSON lines, which `join_feedback` reads.

    {"request_id": "42", "ad_id": "ad-17", "event_id": "e-9", "user_id": "u17", "time": 1.8e9,
     "click": 1, "received": 1.8e9}

An event that belongs to no answer has null as `request_id`. `received` is when the event arrived.
Lines are written whole and immediately, and several processes may write to one directory. A written
line survives the end of its process; the operating system writes it to the disk within seconds.
"""

import json
import os
import pathlib
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from serving import errors, requests
from serving.health import Health

FEEDBACK_PATTERN = "feedback-*.jsonl"
# A file that is no longer written can be joined and moved away.
_SECONDS_PER_FILE = 3600.0
_PART = "event log"


class FeedbackLog:
    """A log of events in a directory. Thread-safe.

    Args:
        directory: Directory for the files; created if it does not exist.
        clock: Returns seconds.
        health: Where a problem is reported. None: nowhere.

    Raises:
        ImpressionLogError: The directory cannot be created.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        clock: Callable[[], float] = time.monotonic,
        health: Health | None = None,
    ) -> None:
        self._clock = clock
        self._health = health or Health()
        self._directory = pathlib.Path(directory)
        self._lock = threading.Lock()
        self._path: pathlib.Path | None = None
        self._since = 0.0
        try:
            # The files name users, so only this account can read a new directory.
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(self._directory, error) from error

    def append(self, events: Sequence[requests.Event]) -> None:
        """Writes events.

        Args:
            events: Events with their times.

        Raises:
            ImpressionLogError: The events cannot be written.
        """
        received = time.time()
        lines = [json.dumps({**_line(event), "received": received}) + "\n" for event in events]
        if not lines:
            return
        with self._lock:
            try:
                self._write("".join(lines).encode())
            except OSError as error:
                problem = _unwritable(self._path or self._directory, error)
                # The rest of a half line would make the next one malformed.
                self._path = None
                self._health.set(_PART, problem)
                raise problem from error
            self._health.set(_PART, None)

    def _write(self, content: bytes) -> None:
        # Closed at once, so that a file that was moved away does not stay open.
        descriptor = self._open()
        try:
            written = os.write(descriptor, content)
        finally:
            os.close(descriptor)
        if written < len(content):
            raise OSError(f"{written} of {len(content)} bytes were written")

    def _open(self) -> int:
        now = self._clock()
        if self._path is not None and now - self._since <= _SECONDS_PER_FILE:
            try:
                return os.open(self._path, os.O_WRONLY | os.O_APPEND)
            except FileNotFoundError:
                pass  # It was moved away. The same name again would replace it there.
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        name = FEEDBACK_PATTERN.replace("*", f"{stamp}-{uuid.uuid4().hex[:12]}")
        self._path, self._since = self._directory / name, now
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o666)


def _line(event: requests.Event) -> dict[str, Any]:
    value = 1 if event.amount is None else event.amount
    ids = {name: getattr(event, name) for name in ("request_id", "ad_id", "event_id", "user_id")}
    return {**ids, "time": event.time, event.event: value}


def _unwritable(path: pathlib.Path, error: OSError) -> errors.ImpressionLogError:
    return errors.ImpressionLogError(
        f"{path} cannot be written ({error}); expected a writable directory for the log of events. "
        "Check its permissions and the space on its disk."
    )
