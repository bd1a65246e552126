"""Counters and histograms, and their text for Prometheus as TensorFlow Serving writes it.

References: TensorFlow Serving, `util/prometheus_exporter.cc` (slashes become colons, a histogram's
    last bucket is `+Inf`); Prometheus, Exposition formats, text format.
"""

import bisect
import re
import threading
from collections.abc import Iterator, Sequence

Labels = tuple[str, ...]


def exponential_buckets(scale: float, growth: float, count: int) -> list[float]:
    """Returns `count` limits that start at `scale` and grow by `growth`."""
    return [scale * growth**power for power in range(count)]


class Counter:
    """Sums that only grow, one for each combination of label values."""

    kind = "counter"

    def __init__(self, name: str, labels: Sequence[str] = ()) -> None:
        """Creates a counter without values.

        Args:
            name: as TensorFlow names it, with slashes.
            labels: the labels' names.
        """
        self.name = name
        self._label_names = tuple(labels)
        self._values: dict[Labels, int] = {}
        self._lock = threading.Lock()

    def add(self, labels: Labels = (), by: int = 1) -> None:
        """Adds to the sum of these label values."""
        with self._lock:
            self._values[labels] = self._values.get(labels, 0) + by

    def first(self) -> int:
        """Returns the sum of the first label values in order, 0 if there are none."""
        with self._lock:
            return self._values[min(self._values)] if self._values else 0

    def lines(self) -> Iterator[str]:
        """Yields the lines of the values."""
        with self._lock:
            values = sorted(self._values.items())
        for labels, value in values:
            yield f"{_metric_name(self.name)}{{{_pairs(self._label_names, labels)}}} {value}"


class Histogram:
    """Counts of values by size, for each combination of label values."""

    kind = "histogram"

    def __init__(self, name: str, limits: Sequence[float], labels: Sequence[str] = ()) -> None:
        """Creates a histogram without values.

        Args:
            name: as TensorFlow names it, with slashes.
            limits: the upper limits of all buckets but the last, which has none; ascending.
            labels: the labels' names.
        """
        self.name = name
        self._limits = list(limits)
        self._label_names = tuple(labels)
        self._cells: dict[Labels, tuple[list[int], list[float]]] = {}
        self._lock = threading.Lock()

    def add(self, value: float, labels: Labels = ()) -> None:
        """Counts a value."""
        bucket = bisect.bisect_right(self._limits, value)
        with self._lock:
            cell = self._cells.get(labels)
            if cell is None:
                cell = self._cells[labels] = ([0] * (len(self._limits) + 1), [0.0])
            cell[0][bucket] += 1
            cell[1][0] += value

    def first(self) -> int:
        """Returns 0: a distribution has no single value."""
        return 0

    def lines(self) -> Iterator[str]:
        """Yields the lines of the buckets, the sums and the counts."""
        with self._lock:
            cells = sorted(
                (labels, list(counts), total[0]) for labels, (counts, total) in self._cells.items()
            )
        name = _metric_name(self.name)
        ends = [f"{limit:g}" for limit in self._limits] + ["+Inf"]
        for labels, counts, total in cells:
            pairs = _pairs(self._label_names, labels)
            comma = "," if pairs else ""
            seen = 0
            for end, count in zip(ends, counts, strict=True):
                seen += count
                yield f'{name}_bucket{{{pairs}{comma}le="{end}"}} {seen}'
            yield f"{name}_sum{{{pairs}}} {total:g}"
            yield f"{name}_count{{{pairs}}} {seen}"


class Registry:
    """The metrics of one server."""

    def __init__(self) -> None:
        """Creates an empty registry."""
        self._metrics: dict[str, Counter | Histogram] = {}

    def counter(self, name: str, *labels: str) -> Counter:
        """Adds a counter."""
        counter = self._metrics[name] = Counter(name, labels)
        return counter

    def histogram(self, name: str, limits: Sequence[float], *labels: str) -> Histogram:
        """Adds a histogram."""
        histogram = self._metrics[name] = Histogram(name, limits, labels)
        return histogram

    def first(self, name: str) -> int:
        """Returns a counter's first value; 0 if there is no such metric or it has no values."""
        metric = self._metrics.get(name)
        return metric.first() if metric else 0

    def render(self) -> str:
        """Returns the text of all metrics, in the order of their names."""
        lines = []
        for name, metric in sorted(self._metrics.items()):
            lines.append(f"# TYPE {_metric_name(name)} {metric.kind}")
            lines += metric.lines()
        return "\n".join(lines) + "\n"


def _metric_name(name: str) -> str:
    return re.sub("[^a-zA-Z0-9_]", ":", name)


def _pairs(names: Sequence[str], values: Labels) -> str:
    return ",".join(
        f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)
    )


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
