"""The server's metrics, under TensorFlow Serving's names and in its text form for Prometheus.

Times are in microseconds.

References: TensorFlow Serving, `servables/tensorflow/util.cc`, `saved_model_warmup_util.cc` and
    `util/prometheus_exporter.cc` (slashes become colons); TensorFlow, `cc/saved_model/loader.cc`;
    Prometheus, Exposition formats, text format.
"""

import bisect
import itertools
import re
import threading
from collections.abc import Iterator, Mapping, Sequence

_SERVING = "/tensorflow/serving/"
_LOADING = "/tensorflow/cc/saved_model/"
_MICROSECONDS = 1e6

LabelValues = tuple[str, ...]


def exponential_buckets(scale: float, growth: float, count: int) -> list[float]:
    """Returns `count` limits that start at `scale` and grow by the factor `growth`."""
    return [scale * growth**power for power in range(count)]


class Metric:
    """Sums that only grow, or counts of values by size, for each combination of label values."""

    def __init__(self, name: str, *labels: str, limits: Sequence[float] | None = None) -> None:
        """Creates a metric without values.

        Args:
            name: Name in TensorFlow, with slashes.
            *labels: Label names.
            limits: Upper limits of a histogram's buckets, ascending; a last bucket has no limit.
                None: a counter.
        """
        self.name = name
        self.kind = "counter" if limits is None else "histogram"
        self._limits = list(limits or ())
        self._label_names = labels
        # The sum, and the number of values in each bucket.
        self._cells: dict[LabelValues, tuple[list[float], list[int]]] = {}
        self._lock = threading.Lock()

    def add(self, labels: LabelValues, value: float = 1) -> None:
        """Adds to the sum of these label values, and counts the value in its bucket."""
        bucket = bisect.bisect_right(self._limits, value)
        with self._lock:
            cell = self._cells.get(labels)
            if cell is None:
                cell = self._cells[labels] = ([0], [0] * (len(self._limits) + 1))
            cell[0][0] += value
            cell[1][bucket] += 1

    def first(self) -> int:
        """Returns a counter's sum of the first label values in sorted order, 0 if there is none."""
        with self._lock:
            if self.kind == "histogram" or not self._cells:
                return 0
            return int(self._cells[min(self._cells)][0][0])

    def lines(self) -> Iterator[str]:
        """Yields the lines of text of the sums or of the buckets, the sums and the counts."""
        with self._lock:
            cells = sorted(
                (key, total[0], list(counts)) for key, (total, counts) in self._cells.items()
            )
        name = _metric_name(self.name)
        ends = [f"{limit:g}" for limit in self._limits] + ["+Inf"]
        for labels, total, counts in cells:
            pairs = _pairs(self._label_names, labels)
            if self.kind == "counter":
                yield f"{name}{{{pairs}}} {total}"
                continue
            for end, seen in zip(ends, itertools.accumulate(counts), strict=True):
                yield f'{name}_bucket{{{pairs},le="{end}"}} {seen}'
            yield f"{name}_sum{{{pairs}}} {total:g}"
            yield f"{name}_count{{{pairs}}} {sum(counts)}"


class ServerMetrics:
    """The metrics of one server; all methods may be called from any thread."""

    def __init__(self) -> None:
        """Starts without values."""
        latency = exponential_buckets(10, 1.8, 33)
        self._requests = Metric(_SERVING + "request_count", "model_name", "status")
        self._request_latency = Metric(
            _SERVING + "request_latency", "model_name", "API", "entrypoint", limits=latency
        )
        self._run_latency = Metric(
            _SERVING + "runtime_latency", "model_name", "API", "runtime", limits=latency
        )
        self._examples = Metric(
            _SERVING + "request_example_counts", "model", limits=exponential_buckets(1, 2, 15)
        )
        self._example_total = Metric(_SERVING + "request_example_count_total", "model")
        self._loads = Metric(_LOADING + "load_attempt_count", "model_path", "status")
        self._load_latency = Metric(_LOADING + "load_latency", "model_path")
        self._warm_up_latency = Metric(
            _SERVING + "model_warmup_latency", "model_path", "status", limits=latency
        )
        self._warm_up_records = Metric(
            _SERVING + "model_warmup_records_read", "model_path", "status"
        )
        self._by_name = {item.name: item for item in vars(self).values()}

    def record_request(self, model: str, status: str) -> None:
        """Counts an answered request by the name of its status code."""
        self._requests.add((model, status))

    def record_latency(self, model: str, api: str, entrypoint: str, seconds: float) -> None:
        """Records the time from the arrival of a request to its OK answer.

        Args:
            model: Model name.
            api: `Predict`, `Classify` or `Regress`; over REST in lower case.
            entrypoint: `GRPC` or `REST`.
            seconds: The time.
        """
        self._request_latency.add((model, api, entrypoint), seconds * _MICROSECONDS)

    def record_run(self, model: str, api: str, seconds: float) -> None:
        """Records the time of a run of the graph."""
        self._run_latency.add((model, api, "TF1"), seconds * _MICROSECONDS)

    def record_examples(self, model: str, count: int) -> None:
        """Counts the examples of a MultiInference request."""
        self._examples.add((model,), count)
        self._example_total.add((model,), count)

    def record_load(self, path: str, ok: bool, seconds: float) -> None:
        """Counts an attempt to load a SavedModel, and its time if it succeeded."""
        self._loads.add((path, "success" if ok else "fail"))
        if ok:
            self._load_latency.add((path,), round(seconds * _MICROSECONDS))

    def record_warm_up(self, path: str, records: int, seconds: float) -> None:
        """Records the warm-up of a version: its time and its number of records."""
        self._warm_up_latency.add((path, "OK"), seconds * _MICROSECONDS)
        self._warm_up_records.add((path, "OK"), records)

    def first_values(self, names: list[str]) -> Mapping[str, int]:
        """Returns the first value of each counter, which HandleReloadConfigRequest reports.

        A name without a metric has the value 0.
        """
        known = self._by_name
        return {name: known[name].first() if name in known else 0 for name in names}

    def render(self) -> str:
        """Returns the text for Prometheus."""
        return render(list(self._by_name.values()))


def render(metrics: Sequence[Metric]) -> str:
    """Returns the text of some metrics for Prometheus, in the order of their names."""
    lines = []
    for metric in sorted(metrics, key=lambda metric: metric.name):
        lines.append(f"# TYPE {_metric_name(metric.name)} {metric.kind}")
        lines += metric.lines()
    return "\n".join(lines) + "\n"


def _metric_name(name: str) -> str:
    return re.sub("[^a-zA-Z0-9_]", ":", name)


def _pairs(names: Sequence[str], values: LabelValues) -> str:
    return ",".join(
        f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)
    )


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
