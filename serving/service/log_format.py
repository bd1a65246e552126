"""JSON log lines, with time, level, logger, and a message or fields, and rate-limited records."""

import datetime
import json
import logging
import math
import sys
import time
from collections.abc import Callable


class JsonFormatter(logging.Formatter):
    """Formats a record as JSON; the keys of `extra={"fields": {...}}` replace the message."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns a record as one line of JSON."""
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        fields = getattr(record, "fields", None)
        line.update(fields if isinstance(fields, dict) else {"message": record.getMessage()})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class OncePerSecond(logging.Filter):
    """Passes one record per second from each line of code, with the number of suppressed ones."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        # Line of code -> time of the last record that passed, and number of suppressed ones since.
        self._passed: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether to log a record."""
        line = (record.pathname, record.lineno)
        now = self._clock()
        last, suppressed = self._passed.get(line, (-math.inf, 0))
        if now - last < 1:
            self._passed[line] = (last, suppressed + 1)
            return False
        self._passed[line] = (now, 0)
        if suppressed:
            record.msg = f"{record.getMessage()} ({suppressed} more since the last such message)"
            record.args = None
        return True


def use_json() -> None:
    """Writes all logs of this process, including requests, as JSON to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    # Their output at lower levels is not about the service.
    for name in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
