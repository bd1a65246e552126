"""Writes logs as JSON, one object per line: time, level, logger, and a message or fields."""

import datetime
import json
import logging
import sys


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
