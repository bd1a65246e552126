"""Runs concurrent requests together: a pool of threads, and queues that they serve in turn.

References: TensorFlow, `core/kernels/batching_util/shared_batch_scheduler.h`; TensorFlow Serving,
    `batching/batching_session.cc`.
"""

import collections
import threading
import time
from collections.abc import Mapping, Sequence

import grpc
import numpy as np

from serving import saved_model
from serving.model_server.batching import batch_queue, batch_tensors, batching_options
from serving.model_server.metrics import serving_metrics


class BatchScheduler:
    """The threads that run the batches of all models of a server."""

    def __init__(self, num_threads: int) -> None:
        """Starts the threads."""
        self._changed = threading.Condition()
        self._queues: collections.deque[batch_queue.BatchQueue] = collections.deque()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True)
            for number in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def add_queue(self, queue: batch_queue.BatchQueue) -> None:
        """Serves a queue from now on."""
        with self._changed:
            self._queues.append(queue)

    def remove_queue(self, queue: batch_queue.BatchQueue) -> None:
        """Serves a queue, which must be empty, no longer."""
        with self._changed:
            self._queues.remove(queue)

    def submit(
        self, queue: batch_queue.BatchQueue, feeds: Mapping[str, np.ndarray], rows: int
    ) -> list[batch_queue.Task]:
        """Adds a request to a queue; see `BatchQueue.add`."""
        with self._changed:
            tasks = queue.add(feeds, rows)
            self._changed.notify(len(tasks))
        return tasks

    def close(self) -> None:
        """Ends the threads; no request may be waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                ready = self._wait()
                if ready is None:
                    return
                batch = ready.take()
            ready.process(batch)

    def _wait(self) -> batch_queue.BatchQueue | None:
        """Returns the next queue with a batch to run, or None when the scheduler is closed."""
        while not self._closed:
            now, soonest = time.monotonic(), None
            for _ in range(len(self._queues)):
                queue = self._queues[0]
                self._queues.rotate(-1)
                seconds = queue.seconds_until_ready(now)
                if seconds == 0.0:
                    return queue
                if seconds is not None:
                    soonest = seconds if soonest is None else min(soonest, seconds)
            self._changed.wait(soonest)
        return None


class BatchingRunner:
    """A graph whose runs wait for each other."""

    def __init__(
        self,
        inner: saved_model.Runner,
        scheduler: BatchScheduler,
        options: batching_options.BatchingOptions,
        metrics: serving_metrics.ServingMetrics,
    ) -> None:
        """Batches the runs of `inner`, those of the same inputs and outputs together."""
        self._inner = inner
        self._scheduler = scheduler
        self._options = options
        self._metrics = metrics
        self._queues: dict[tuple[tuple[str, ...], ...], batch_queue.BatchQueue] = {}
        self._lock = threading.Lock()

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> saved_model.Arrays:
        """Returns the fetched tensors of this request; see `saved_model.Runner`.

        Raises:
            StatusError: INVALID_ARGUMENT if the inputs have no common 0th dimension or too many
                rows, UNAVAILABLE if too many batches wait, FAILED_PRECONDITION if the shapes of
                requests in a batch differ or an output has no row for each of the inputs',
                RESOURCE_EXHAUSTED if nobody in its batch waits for an answer any more.
        """
        rows = batch_tensors.num_rows(feeds)
        for _ in feeds:
            self._metrics.record_input_size(rows)
        tasks = self._scheduler.submit(self._queue(feeds, fetches), feeds, rows)
        answers = [task.answer.result() for task in tasks]
        if len(answers) == 1:
            return answers[0]
        return {name: np.concatenate([part[name] for part in answers]) for name in answers[0]}

    def close(self) -> None:
        """Frees the graph; no call may be running or follow."""
        for queue in self._queues.values():
            self._scheduler.remove_queue(queue)
        self._queues.clear()
        self._inner.close()

    def _queue(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]
    ) -> batch_queue.BatchQueue:
        targets = tuple(sorted(set(fetches)))
        key = (tuple(sorted(feeds)), targets)
        with self._lock:
            if key not in self._queues:
                queue = batch_queue.BatchQueue(
                    self._options, lambda tasks: self._process(tasks, targets)
                )
                self._scheduler.add_queue(queue)
                self._queues[key] = queue
            return self._queues[key]

    def _process(self, tasks: Sequence[batch_queue.Task], targets: Sequence[str]) -> None:
        now = time.monotonic()
        for task in tasks:
            self._metrics.record_queuing(self._options.thread_pool_name, now - task.enqueued)
        try:
            if all(task.deadline <= now for task in tasks):
                raise saved_model.StatusError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    "Run() timeout exceeded while waiting in batching queue",
                )
            parts = self._run_together(tasks, targets)
        except Exception as error:
            status = saved_model.status_from_exception(error)
            for task in tasks:
                # One each: an exception that several threads raise mixes their tracebacks.
                task.answer.set_exception(saved_model.StatusError(status.code, status.message))
            return
        for task, part in zip(tasks, parts, strict=True):
            task.answer.set_result(part)

    def _run_together(
        self, tasks: Sequence[batch_queue.Task], targets: Sequence[str]
    ) -> list[saved_model.Arrays]:
        options = self._options
        rows = [task.rows for task in tasks]
        size = batch_tensors.padded_size(sum(rows), options.allowed_batch_sizes)
        padding = size - sum(rows)
        merged = batch_tensors.merge(
            [task.feeds for task in tasks], padding, options.pad_variable_length_inputs
        )
        self._metrics.record_batch(size, padding)
        # The others of the batch must not end with the request that waits least.
        with saved_model.deadline_at(max(task.deadline for task in tasks)):
            outputs = self._inner.run(merged, targets)
        return batch_tensors.split(outputs, rows, padding)
