"""The server's metrics, under TensorFlow Serving's names, for Prometheus.

Times are in microseconds.

References: TensorFlow Serving, `servables/tensorflow/util.cc`, `saved_model_warmup_util.cc` and
    `util/prometheus_exporter.cc` (slashes become colons); TensorFlow, `cc/saved_model/loader.cc`.
"""

import functools

import prometheus_client

_SERVING = ":tensorflow:serving:"
_LOADING = ":tensorflow:cc:saved_model:"
_MICROSECONDS = 1e6
# TensorFlow Serving's buckets.
_LATENCY = tuple(10 * 1.8**power for power in range(33))
_EXAMPLES = tuple(2.0**power for power in range(15))


class _Counter(prometheus_client.Gauge):
    """A counter without the suffix `_total`, which the client library adds to its own."""

    _type = "unknown"


class ServerMetrics:
    """The metrics of one server; all methods may be called from any thread."""

    def __init__(self) -> None:
        """Starts without values."""
        registry = self._registry = prometheus_client.CollectorRegistry()
        # Each lookup of label values in the library takes microseconds.
        self._series = functools.cache(lambda metric, *values: metric.labels(*values))

        def counter(name: str, text: str, *labels: str) -> _Counter:
            return _Counter(name, text, labels, registry=registry)

        def histogram(
            name: str, text: str, *labels: str, buckets: tuple[float, ...] = _LATENCY
        ) -> prometheus_client.Histogram:
            return prometheus_client.Histogram(
                name, text, labels, buckets=buckets, registry=registry
            )

        self._requests = counter(
            _SERVING + "request_count", "Answered requests.", "model_name", "status"
        )
        self._request_latency = histogram(
            _SERVING + "request_latency", "From arrival to OK.", "model_name", "API", "entrypoint"
        )
        self._run_latency = histogram(
            _SERVING + "runtime_latency", "Runs of graphs.", "model_name", "API", "runtime"
        )
        self._examples = histogram(
            _SERVING + "request_example_counts", "Examples.", "model", buckets=_EXAMPLES
        )
        self._example_total = counter(
            _SERVING + "request_example_count_total", "Examples of all requests.", "model"
        )
        self._loads = counter(
            _LOADING + "load_attempt_count", "Attempts to load.", "model_path", "status"
        )
        self._load_latency = counter(_LOADING + "load_latency", "Time of loads.", "model_path")
        self._warm_up_latency = histogram(
            _SERVING + "model_warmup_latency", "Warm-ups.", "model_path", "status"
        )
        self._warm_up_records = counter(
            _SERVING + "model_warmup_records_read", "Records.", "model_path", "status"
        )

    def record_request(self, model: str, status: str) -> None:
        """Counts an answered request by the name of its status code."""
        self._series(self._requests, model, status).inc()

    def record_latency(self, model: str, api: str, entrypoint: str, seconds: float) -> None:
        """Records the time from the arrival of a request to its OK answer.

        Args:
            model: Model name.
            api: `Predict`, `Classify` or `Regress`; over REST in lower case.
            entrypoint: `GRPC` or `REST`.
            seconds: The time.
        """
        self._series(self._request_latency, model, api, entrypoint).observe(seconds * _MICROSECONDS)

    def record_run(self, model: str, api: str, seconds: float) -> None:
        """Records the time of a run of the graph."""
        self._series(self._run_latency, model, api, "TF1").observe(seconds * _MICROSECONDS)

    def record_examples(self, model: str, count: int) -> None:
        """Counts the examples of a MultiInference request."""
        self._series(self._examples, model).observe(count)
        self._series(self._example_total, model).inc(count)

    def record_load(self, path: str, ok: bool, seconds: float) -> None:
        """Counts an attempt to load a SavedModel, and its time if it succeeded."""
        self._series(self._loads, path, "success" if ok else "fail").inc()
        if ok:
            self._series(self._load_latency, path).inc(round(seconds * _MICROSECONDS))

    def record_warm_up(self, path: str, records: int, seconds: float) -> None:
        """Records the warm-up of a version: its time and its number of records."""
        self._series(self._warm_up_latency, path, "OK").observe(seconds * _MICROSECONDS)
        self._series(self._warm_up_records, path, "OK").inc(records)

    def render(self) -> bytes:
        """Returns the text for Prometheus."""
        # A gauge of unknown type is the only way past the suffix.
        text = prometheus_client.generate_latest(self._registry)
        return text.replace(b" untyped\n", b" counter\n")
