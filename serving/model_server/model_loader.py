"""Loads a version of a model as the server's options say: threads, batches, warm-up."""

import os
import time

from serving.model_server import server_options, warm_up
from serving.model_server.batching import batching_options
from serving.model_server.batching.scheduler import BatchingRunner, BatchScheduler
from serving.model_server.metrics import serving_metrics
from serving.model_server.models import servable

BATCHING_FILE = "batching_params.pbtxt"


class ModelLoader:
    """Loads versions, and owns the threads that run their batches."""

    def __init__(
        self, options: server_options.ServerOptions, metrics: serving_metrics.ServingMetrics
    ) -> None:
        """Takes the options of the server and the place where it counts."""
        self._options = options
        self._metrics = metrics
        self._scheduler: BatchScheduler | None = None

    def load(self, name: str, version: int, path: str | os.PathLike[str]) -> servable.Servable:
        """Returns the loaded version, warmed up.

        Raises:
            StatusError: if it cannot be loaded, its batching parameters are wrong or one of its
                warm-up records fails.
        """
        started = time.perf_counter()
        try:
            model = self._load(name, version, path)
        except Exception:
            self._metrics.record_load(os.fspath(path), False, 0.0)
            raise
        self._metrics.record_load(os.fspath(path), True, time.perf_counter() - started)
        try:
            if self._options.enable_model_warmup:
                self._warm_up(model)
        except Exception:
            model.close()
            raise
        return model

    def close(self) -> None:
        """Ends the threads; all models must be closed."""
        if self._scheduler is not None:
            self._scheduler.close()

    def _load(self, name: str, version: int, path: str | os.PathLike[str]) -> servable.Servable:
        options = self._batching(path)
        model = servable.Servable(
            name,
            version,
            path,
            self._options.session_config or servable.session_config(),
            tags=self._options.saved_model_tags,
            metrics=self._metrics,
            check_method=self._options.enable_signature_method_name_check,
            tflite_interpreters=self._options.tflite_interpreters,
        )
        if options is not None:
            scheduler = self._threads()
            model.wrap(lambda runner: BatchingRunner(runner, scheduler, options, self._metrics))
        return model

    def _batching(self, path: str | os.PathLike[str]) -> batching_options.BatchingOptions | None:
        options = self._options.batching
        if options is None or not self._options.enable_per_model_batching_parameters:
            return options
        own = os.path.join(path, BATCHING_FILE)
        return batching_options.read(own) if os.path.exists(own) else None

    def _threads(self) -> BatchScheduler:
        # One pool for all models: loads happen one after the other.
        if self._scheduler is None:
            shared = self._options.batching or batching_options.BatchingOptions()
            self._scheduler = BatchScheduler(shared.num_batch_threads)
        return self._scheduler

    def _warm_up(self, model: servable.Servable) -> None:
        started = time.perf_counter()
        records = warm_up.run(model, self._options.num_request_iterations_for_warmup)
        if records:
            self._metrics.record_warm_up(model.path, records, time.perf_counter() - started)
