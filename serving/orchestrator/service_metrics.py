"""Prometheus metrics of the service, labeled with the release version that gave the answer.

Shown ads are the best of many, so their scores are above the mean of the log from the start. A
change over time of the mean of `tfrec_score` over `tfrec_recorded_mean`, or a difference of it
between two versions, indicates drift.

With several processes, `PROMETHEUS_MULTIPROC_DIR` names a directory that they share, and each
process's `/metrics` aggregates all of them.
"""

import datetime
import functools
import os
from typing import Any

import prometheus_client
from prometheus_client import multiprocess

from serving import manifest, process, requests

METRICS_CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
METRICS_DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05),
    *(0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
_COUNTS = (0, 1, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000)
_SCORES = (0.001, 0.003, 0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0, 3.0, 10.0, 100.0)
# Metric -> labels, and its meaning; the name of a counter ends in `_total`.
_COUNTERS = {
    "requests": ("path status", "HTTP requests."),
    "answers": ("version outcome", "Answers: full, fewer_candidates or retrieval_order."),
    "ranker_calls": ("version outcome", "Ranker calls: ok, late, busy or failed."),
    "impression_rows": ("outcome", "Rows of the impression log."),
    "user_reads": ("outcome", "Users of requests by the outcome of their read."),
    "user_events": ("outcome", "Events for the user store."),
}
# Outcomes whose series exist from the start, so that a rate includes the first event.
_OUTCOMES = {
    "impression_rows": ("written", "dropped"),
    "user_reads": ("found", "unknown", "late", "failed"),
    "user_events": ("received", "shown", "dropped"),
}
# Metric -> labels, aggregation over processes, and its meaning.
_GAUGES: dict[str, tuple[str, Any, str]] = {
    "recorded_mean": ("version head", "mostrecent", "Mean label of the validation split."),
    "release_created_seconds": (
        "version",
        "mostrecent",
        "When the release and its index were exported, in seconds since 1970.",
    ),
    "in_flight": ("", "livesum", "Requests in flight."),
    "problem": ("part", "livesum", "Processes in which a part has a problem; /readyz tells which."),
    "resident_bytes": ("", "livesum", "Resident memory of the processes, in bytes."),
    "live_updates": (
        "version",
        "livemin",
        "Live updates since the export that all processes apply.",
    ),
}
# Metric -> labels, limits of its buckets, and its meaning.
_HISTOGRAMS = {
    "request_seconds": ("path", _SECONDS, "Time from first to last byte of a request, in seconds."),
    "stage_seconds": ("version stage", _SECONDS, "Duration of a stage of an answer, in seconds."),
    "candidates": ("version kind", _COUNTS, "Ads of a request: found by the index, and ranked."),
    "score": ("version head", _SCORES, "Scores and utility of shown ads."),
}


class ServiceMetrics:
    """The metrics of one service; `render` returns them in Prometheus's text format."""

    def __init__(self) -> None:
        self._shared = os.environ.get(METRICS_DIRECTORY_VARIABLE)
        # A separate registry, so that two services in a process do not collide.
        collectors = self._registry = prometheus_client.CollectorRegistry()
        self.counters = {
            name: prometheus_client.Counter(
                f"tfrec_{name}_total", text, labels.split(), registry=collectors
            )
            for name, (labels, text) in _COUNTERS.items()
        }
        self.gauges = {
            name: prometheus_client.Gauge(
                f"tfrec_{name}", text, labels.split(), multiprocess_mode=mode, registry=collectors
            )
            for name, (labels, mode, text) in _GAUGES.items()
        }
        self.histograms = {
            name: prometheus_client.Histogram(
                f"tfrec_{name}", text, labels.split(), buckets=buckets, registry=collectors
            )
            for name, (labels, buckets, text) in _HISTOGRAMS.items()
        }
        self.in_flight = self.gauges["in_flight"]
        # Each lookup of label values in the library takes a microsecond.
        self.labeled = functools.cache(lambda metric, *values: metric.labels(*values))
        for name, outcomes in _OUTCOMES.items():
            for outcome in outcomes:
                self.labeled(self.counters[name], outcome)
        self._releases: dict[int, _Release] = {}

    def observe_request(self, path: str, status: int, seconds: float) -> None:
        """Records an HTTP request.

        Args:
            path: Route, from a small fixed set.
            status: HTTP status of the response.
            seconds: Duration in seconds.
        """
        self.labeled(self.counters["requests"], path, status).inc()
        self.labeled(self.histograms["request_seconds"], path).observe(seconds)

    def observe_answer(
        self, release: manifest.Manifest, answer: requests.Answer, num_found: int, num_ranked: int
    ) -> None:
        """Records an answer.

        Args:
            release: Manifest of the release that gave the answer.
            answer: Answer to record.
            num_found: Number of candidates that the index found.
            num_ranked: Number of candidates that the ranker scored.
        """
        known = self._releases.get(release.version)
        if known is None:
            known = self._releases[release.version] = _Release(self, release)
        known.observe(answer, num_found, num_ranked)

    def count_ranker_call(self, version: int, outcome: str) -> None:
        """Counts a call of a version's ranker: `ok`, `late`, `busy` or `failed`."""
        self.labeled(self.counters["ranker_calls"], version, outcome).inc()

    def observe_problem(self, part: str, has_problem: bool) -> None:
        """Records whether a part of this process has a problem; see `Health`."""
        self.labeled(self.gauges["problem"], part).set(has_problem)

    def count(self, counter: str, outcome: str, number: int = 1) -> None:
        """Adds to a counter whose only label is the outcome, such as `impression_rows`."""
        self.labeled(self.counters[counter], outcome).inc(number)

    def observe_live(self, version: int, num_updates: int) -> None:
        """Records the number of live updates of a release that are applied."""
        self.labeled(self.gauges["live_updates"], version).set(num_updates)

    def render(self) -> bytes:
        """Returns the metrics page, aggregated over all processes that share the directory."""
        # Each process of a service measures itself on request.
        self.gauges["resident_bytes"].set(process.resident_bytes())
        collectors = self._registry
        if self._shared is not None:
            collectors = prometheus_client.CollectorRegistry()
            multiprocess.MultiProcessCollector(collectors, self._shared)  # type: ignore[no-untyped-call]
        return prometheus_client.generate_latest(collectors)


class _Release:
    """The metrics of the answers of one version."""

    def __init__(self, metrics: ServiceMetrics, release: manifest.Manifest) -> None:
        self._metrics = metrics
        self._version = str(release.version)
        self._fields = {**release.outputs, "utility": "utility"}
        # With the first answer, all series exist, so that a rate includes the first event of each.
        for outcome in ("full", "fewer_candidates", "retrieval_order"):
            metrics.labeled(metrics.counters["answers"], self._version, outcome)
        for head in self._fields:
            metrics.labeled(metrics.histograms["score"], self._version, head)
        created = datetime.datetime.fromisoformat(release.created).timestamp()
        metrics.gauges["release_created_seconds"].labels(self._version).set(created)
        for head, mean in _recorded_means(release).items():
            metrics.gauges["recorded_mean"].labels(self._version, head).set(mean)

    def observe(self, answer: requests.Answer, num_found: int, num_ranked: int) -> None:
        """Records an answer."""
        if answer.degraded is None:
            outcome = "full"
        else:
            outcome = "fewer_candidates" if answer.order == "utility" else "retrieval_order"
        labeled, histograms = self._metrics.labeled, self._metrics.histograms
        labeled(self._metrics.counters["answers"], self._version, outcome).inc()
        labeled(histograms["candidates"], self._version, "found").observe(num_found)
        labeled(histograms["candidates"], self._version, "ranked").observe(num_ranked)
        for stage, milliseconds in answer.stage_ms.items():
            labeled(histograms["stage_seconds"], self._version, stage).observe(milliseconds / 1000)
        if answer.order == "utility" and answer.ads:
            self._observe_scores(answer)

    def _observe_scores(self, answer: requests.Answer) -> None:
        for head, output in self._fields.items():
            histogram = self._metrics.labeled(
                self._metrics.histograms["score"], self._version, head
            )
            for ad in answer.ads:
                histogram.observe(getattr(ad, output))


def _recorded_means(release: manifest.Manifest) -> dict[str, float]:
    """Returns the mean label of each head that the export has measured."""
    measured = release.metrics.get("validation") or {}
    return {
        head: float(measured[head]["mean_label"])
        for head in release.present_heads
        if isinstance(measured.get(head), dict) and "mean_label" in measured[head]
    }
