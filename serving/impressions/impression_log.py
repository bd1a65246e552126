"""Logs shown ads without ever delaying or failing an answer.

    log = ImpressionLog("impressions")
    log.record(release.manifest, valid, answer)
    log.close()

Answers go into a bounded queue. A thread converts them to rows (`impression_rows`) and writes
Parquet files atomically, with checksums. Answers that do not fit into the queue, or cannot be
written, are dropped and counted. A killed process loses the rows that are not in a file yet, from
at most `seconds_per_file`. Rows may be in two files if the disk reported an error for the first
one. Several processes may write to the same directory.

`tfrec join_feedback` joins the files with feedback.
"""

import collections
import contextlib
import dataclasses
import logging
import os
import pathlib
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serving import errors, manifest, requests
from serving.config import ImpressionLogConfig
from serving.health import Health
from serving.impressions import impression_rows
from tfrecords import files

_logger = logging.getLogger(__name__)

FILE_PATTERN = "impressions-*.parquet"
_PART = "impression log"
_PARTIAL = ".{}.partial"
# Rows converted at a time, which takes some milliseconds. Answers wait for the GIL meanwhile.
_ROWS_PER_BATCH = 400
_POLL_SECONDS = 0.2
_CLOSE_SECONDS = 10.0
# An older partial file is left over from a killed process.
_ABANDONED_SECONDS = 3_600


@dataclasses.dataclass
class _Pending:
    """Rows of one release that are not in a file yet."""

    release: manifest.Manifest
    since: float
    shown: list[impression_rows.RecordedAnswer] = dataclasses.field(default_factory=list)
    shown_rows: int = 0
    batches: list[pa.RecordBatch] = dataclasses.field(default_factory=list)
    batched_rows: int = 0

    def add(self, shown: impression_rows.RecordedAnswer) -> None:
        self.shown.append(shown)
        self.shown_rows += len(shown.answer.ads)

    def convert(self) -> None:
        """Converts the added answers to a record batch; if a value does not fit, they are lost."""
        shown, self.shown, self.shown_rows = self.shown, [], 0
        if shown:
            self.batches.append(impression_rows.batch(self.release, shown))
            self.batched_rows += self.batches[-1].num_rows

    def drop_first(self) -> int:
        """Drops the oldest record batch and returns its number of rows."""
        count = self.batches.pop(0).num_rows
        self.batched_rows -= count
        return count


class ImpressionLog:
    """An impression log in a directory, and the thread that writes it.

    Args:
        directory: Directory for the files; created if it does not exist.
        config: Options. None: the defaults.
        clock: Returns the time in seconds, for the age of rows that are not in a file yet.
        observe: Called with `written` or `dropped` and a number of rows.
        health: Where a problem is reported. None: nowhere.

    Raises:
        ImpressionLogError: The directory is not writable.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        config: ImpressionLogConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
        observe: Callable[[str, int], None] = lambda outcome, rows: None,
        health: Health | None = None,
    ) -> None:
        self.directory = pathlib.Path(directory)
        self._config = config or ImpressionLogConfig()
        self._clock = clock
        self._observe = observe
        self._health = health or Health()
        prepare_directory(self.directory)
        self._queue: collections.deque[tuple[manifest.Manifest, impression_rows.RecordedAnswer]] = (
            collections.deque()
        )
        self._pending: dict[int, _Pending] = {}
        self._dropped_answers = 0
        self._dropped_rows = 0
        self._written_rows = 0
        self._num_files = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="impression-log", daemon=True)
        self._thread.start()

    def record(
        self,
        release: manifest.Manifest,
        valid: requests.ValidRequest,
        answer: requests.Answer,
        asked_at: float | None = None,
    ) -> None:
        """Queues an answer for the log. Returns immediately and never fails.

        Args:
            release: Manifest of the release that gave the answer.
            valid: Validated request.
            answer: Answer to the request; must not be modified afterward.
            asked_at: Time of the request, in seconds since 1970. None: now.
        """
        if not answer.ads:
            return
        if len(self._queue) >= self._config.max_queued:
            self._dropped_answers += 1
            self._observe("dropped", len(answer.ads))
            return
        asked_at = time.time() if asked_at is None else asked_at
        shown = impression_rows.RecordedAnswer(valid, answer, asked_at)
        # The thread polls: waking it for each answer would delay the next one.
        self._queue.append((release, shown))

    def status(self) -> dict[str, Any]:
        """Returns the numbers of written, waiting and dropped items, for monitoring."""
        pending = list(self._pending.values())
        return {
            "written_rows": self._written_rows,
            "files": self._num_files,
            "queued_answers": len(self._queue),
            "pending_rows": sum(rows.shown_rows + rows.batched_rows for rows in pending),
            "dropped_answers": self._dropped_answers,
            "dropped_rows": self._dropped_rows,
            "problem": self._health.problem(_PART),
        }

    def close(self) -> None:
        """Writes the queued rows and stops the thread; waits for a limited time."""
        self._closing.set()
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            _logger.error(
                "The impression log was not completely written within %g s.", _CLOSE_SECONDS
            )

    def _run(self) -> None:
        is_closing = False
        while not is_closing:
            is_closing = self._closing.wait(_POLL_SECONDS)
            for _ in range(len(self._queue)):
                self._take(*self._queue.popleft())
            for pending in list(self._pending.values()):
                age = self._clock() - pending.since
                if is_closing or age >= self._config.seconds_per_file:
                    self._write(pending, is_closing)

    def _take(self, release: manifest.Manifest, shown: impression_rows.RecordedAnswer) -> None:
        pending = self._pending.setdefault(release.version, _Pending(release, self._clock()))
        pending.add(shown)
        if pending.shown_rows >= _ROWS_PER_BATCH:
            self._convert(pending)
            if pending.batched_rows >= self._config.rows_per_file:
                self._write(pending)

    def _convert(self, pending: _Pending) -> None:
        rows = pending.shown_rows
        try:
            pending.convert()
        except Exception as error:
            # The thread must survive any faulty answer.
            self._drop(rows)
            self._note(error)

    def _drop(self, rows: int) -> None:
        self._dropped_rows += rows
        self._observe("dropped", rows)

    def _write(self, pending: _Pending, is_closing: bool = False) -> None:
        self._convert(pending)
        if pending.batches:
            try:
                self._write_file(pending)
            except (OSError, pa.ArrowException) as error:
                self._note(error)
                # Unless the log is closing, the latest rows, up to one file, are kept for a retry.
                keep = self._config.rows_per_file
                if is_closing:
                    keep = 0
                    _logger.error(
                        "%d rows of the impression log were lost at shutdown: %s",
                        pending.batched_rows,
                        _reason(error),
                    )
                while pending.batched_rows > keep:
                    self._drop(pending.drop_first())
                pending.since = self._clock()
                return
            self._written_rows += pending.batched_rows
            self._observe("written", pending.batched_rows)
            self._num_files += 1
            self._health.set(_PART, None)
        del self._pending[pending.release.version]

    def _note(self, error: Exception) -> None:
        problem = f"{self.directory} cannot be written: {_reason(error)}."
        if isinstance(error, OSError):
            problem += (
                " The latest rows wait in memory. Check the directory, its permissions and the "
                "space on its disk; create it again if it was moved."
            )
        self._health.set(_PART, problem)

    def _write_file(self, pending: _Pending) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        name = f"impressions-{stamp}-v{pending.release.version}-{uuid.uuid4().hex[:12]}.parquet"
        with files.replacing(self.directory / name, durable=True) as partial:
            table = pa.Table.from_batches(pending.batches)
            pq.write_table(table, partial, write_page_checksum=True)


def prepare_directory(directory: pathlib.Path) -> None:
    """Creates the directory of an impression log, and removes leftovers of killed processes.

    Raises:
        ImpressionLogError: The directory is not writable.
    """
    try:
        # The files name users, so only this account can read a new directory.
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = directory / _PARTIAL.format(uuid.uuid4().hex)
        probe.touch()
        probe.unlink()
        for path in directory.glob(_PARTIAL.format("*")):
            # Another process may have renamed it in the meantime.
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()
    except OSError as error:
        raise errors.ImpressionLogError(
            f"{directory} is not writable ({error}); expected a directory to write the "
            "impression log to. Choose another directory, or make it writable."
        ) from error


def _reason(error: Exception) -> str:
    # Without the file, whose name differs at each attempt.
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return str(error)
