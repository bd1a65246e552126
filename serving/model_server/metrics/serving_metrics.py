"""What the server counts, under TensorFlow Serving's names; times in microseconds.

References: TensorFlow Serving, `servables/tensorflow/util.cc`, `saved_model_warmup_util.cc`,
    `batching/batching_session.cc`; TensorFlow, `cc/saved_model/loader.cc`.
"""

from collections.abc import Mapping

from serving.model_server.metrics import metrics

_SERVING = "/tensorflow/serving/"
_LOADING = "/tensorflow/cc/saved_model/"
_LATENCY = metrics.exponential_buckets(10, 1.8, 33)
_QUEUING = metrics.exponential_buckets(100, 1.2, 52)
_SIZES = metrics.exponential_buckets(1, 2, 14)
_EXAMPLES = metrics.exponential_buckets(1, 2, 15)
_MICROSECONDS = 1e6


class ServingMetrics:
    """The counts of one server; all methods may be called from any thread."""

    def __init__(self) -> None:
        """Starts all counts at nothing."""
        registry = self._registry = metrics.Registry()
        self._requests = registry.counter(_SERVING + "request_count", "model_name", "status")
        self._request_latency = registry.histogram(
            _SERVING + "request_latency", _LATENCY, "model_name", "API", "entrypoint"
        )
        self._run_latency = registry.histogram(
            _SERVING + "runtime_latency", _LATENCY, "model_name", "API", "runtime"
        )
        self._examples = registry.histogram(_SERVING + "request_example_counts", _EXAMPLES, "model")
        self._example_total = registry.counter(_SERVING + "request_example_count_total", "model")
        self._loads = registry.counter(_LOADING + "load_attempt_count", "model_path", "status")
        self._load_latency = registry.counter(_LOADING + "load_latency", "model_path")
        self._warm_up_latency = registry.histogram(
            _SERVING + "model_warmup_latency", _LATENCY, "model_path", "status"
        )
        self._warm_up_records = registry.counter(
            _SERVING + "model_warmup_records_read", "model_path", "status"
        )
        self._define_batching(registry)

    def _define_batching(self, registry: metrics.Registry) -> None:
        batching = _SERVING + "batching_session/"
        self._queuing = registry.histogram(
            batching + "queuing_latency", _QUEUING, "thread_pool_name"
        )
        self._batches = registry.counter(batching + "wrapped_run_count")
        self._input_sizes = registry.histogram(batching + "input_batch_size", _SIZES)
        self._batch_sizes = registry.histogram(batching + "processed_batch_size", _SIZES)
        self._padding = registry.histogram(
            batching + "padding_size", _SIZES, "execution_batch_size"
        )

    def record_request(self, model: str, status: str) -> None:
        """Counts an answered request by the name of its status code."""
        self._requests.add((model, status))

    def record_latency(self, model: str, api: str, entrypoint: str, seconds: float) -> None:
        """Counts the time of a request that was answered by OK, from its arrival to its answer.

        Args:
            model: the model's name.
            api: `Predict` and the like; over REST in small letters.
            entrypoint: `GRPC` or `REST`.
            seconds: the time.
        """
        self._request_latency.add(seconds * _MICROSECONDS, (model, api, entrypoint))

    def record_run(self, model: str, api: str, seconds: float) -> None:
        """Counts the time of a run of the graph."""
        self._run_latency.add(seconds * _MICROSECONDS, (model, api, "TF1"))

    def record_examples(self, model: str, count: int) -> None:
        """Counts the examples of a MultiInference request."""
        self._examples.add(count, (model,))
        self._example_total.add((model,), count)

    def record_load(self, path: str, ok: bool, seconds: float) -> None:
        """Counts a try to load a SavedModel."""
        self._loads.add((path, "success" if ok else "fail"))
        if ok:
            self._load_latency.add((path,), round(seconds * _MICROSECONDS))

    def record_warm_up(self, path: str, records: int, seconds: float) -> None:
        """Counts the warm-up of a version by its records."""
        self._warm_up_latency.add(seconds * _MICROSECONDS, (path, "OK"))
        self._warm_up_records.add((path, "OK"), records)

    def record_input_size(self, rows: int) -> None:
        """Counts the rows of a request on its way into a batch."""
        self._input_sizes.add(rows)

    def record_batch(self, rows: int, padding: int) -> None:
        """Counts a batch that is run.

        Args:
            rows: its rows, padding included.
            padding: how many of them only fill it up to an allowed size.
        """
        self._batches.add()
        self._batch_sizes.add(rows)
        self._padding.add(padding, (str(rows),))

    def record_queuing(self, pool: str, seconds: float) -> None:
        """Counts the time of a request in a queue for a batch."""
        self._queuing.add(seconds * _MICROSECONDS, (pool,))

    def first_values(self, names: list[str]) -> Mapping[str, int]:
        """Returns the first value of each counter named, as HandleReloadConfigRequest asks."""
        return {name: self._registry.first(name) for name in names}

    def render(self) -> str:
        """Returns the text for Prometheus."""
        return self._registry.render()
