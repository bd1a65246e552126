"""The requests for one graph that wait to be run together.

References: TensorFlow, `core/kernels/batching_util/shared_batch_scheduler.h`.
"""

import collections
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures

import numpy as np

from serving import saved_model
from serving.model_server.batching import batching_options


class Task:
    """A request, or a part of a large one, and its answer."""

    def __init__(self, feeds: Mapping[str, np.ndarray], rows: int) -> None:
        """Waits for an answer from now on."""
        self.feeds = feeds
        self.rows = rows
        self.enqueued = time.monotonic()
        self.deadline = saved_model.current_deadline()
        self.answer: futures.Future[saved_model.Arrays] = futures.Future()


class BatchQueue:
    """Batches in the order of their arrival; the last one is open. The scheduler locks it."""

    def __init__(
        self,
        options: batching_options.BatchingOptions,
        process: Callable[[Sequence[Task]], None],
    ) -> None:
        """Creates an empty queue whose batches `process` runs and answers; it never raises."""
        self.process = process
        self._options = options
        self._batches: collections.deque[list[Task]] = collections.deque([[]])
        self._open_rows = 0
        self._opened = 0.0

    def add(self, feeds: Mapping[str, np.ndarray], rows: int) -> list[Task]:
        """Adds a request, whole or, where that is allowed, in parts.

        Returns:
            Its parts, in order.

        Raises:
            StatusError: INVALID_ARGUMENT if it is larger than a request may be, UNAVAILABLE if
                there is no room.
        """
        limit = self._options.max_batch_size
        if rows > limit:
            raise saved_model.invalid_argument(
                f"Task size {rows} is larger than maximum input batch size {limit}"
            )
        self._check_room(rows)
        tasks = [Task(part, size) for part, size in self._parts(feeds, rows)]
        for task in tasks:
            if self._open_rows + task.rows > self._options.max_execution_batch_size:
                self._start_batch()
            if not self._batches[-1]:
                self._opened = task.enqueued
            self._batches[-1].append(task)
            self._open_rows += task.rows
        return tasks

    def seconds_until_ready(self, now: float) -> float | None:
        """Returns when the first batch is to be run: 0 for now, None if nothing waits."""
        if len(self._batches) > 1 or self._open_rows >= self._options.max_execution_batch_size:
            return 0.0
        if not self._batches[-1]:
            return None
        return max(0.0, self._opened + self._options.batch_timeout_seconds - now)

    def take(self) -> list[Task]:
        """Removes and returns the first batch, which must be ready."""
        if len(self._batches) == 1:
            self._start_batch()
        return self._batches.popleft()

    def _start_batch(self) -> None:
        self._batches.append([])
        self._open_rows = 0

    def _check_room(self, rows: int) -> None:
        options, count = self._options, len(self._batches)
        full = "The batch scheduling queue to which this task was submitted is full; "
        size = options.max_execution_batch_size
        if options.split_large_requests:
            capacity = (options.max_enqueued_batches - count) * size + size - self._open_rows
            if rows > capacity:
                raise saved_model.unavailable(
                    f"{full}task size is {rows} but scheduling capacity is only {capacity} "
                    f"(num_enqueued_batches={count}, "
                    f"max_enqueued_batches={options.max_enqueued_batches}, "
                    f"open_batch_size={self._open_rows}, max_execution_batch_size={size})"
                )
        elif self._open_rows + rows > size and count >= options.max_enqueued_batches:
            raise saved_model.unavailable(
                f"{full}currently {count} batches enqueued and max_enqueued_batches is "
                f"{options.max_enqueued_batches}"
            )

    def _parts(
        self, feeds: Mapping[str, np.ndarray], rows: int
    ) -> list[tuple[Mapping[str, np.ndarray], int]]:
        """Cuts a request that does not fit in the open batch, filling that one first."""
        size = self._options.max_execution_batch_size
        room = size - self._open_rows
        if rows <= room or not self._options.split_large_requests:
            return [(feeds, rows)]
        ends = [*range(room or size, rows, size), rows]
        parts: list[tuple[Mapping[str, np.ndarray], int]] = []
        start = 0
        for end in ends:
            cut = {name: array[start:end] for name, array in feeds.items()}
            parts.append((cut, end - start))
            start = end
        return parts
