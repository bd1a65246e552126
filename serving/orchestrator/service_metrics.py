"""Prometheus metrics of the service, labeled with the release version that gave the answer.

Shown ads are the best of many, so their scores are above the mean of the log from the start. A
change of `tfrec_calibration_drift` over time, or a difference between two versions, indicates
drift.

With several processes, `PROMETHEUS_MULTIPROC_DIR` names a directory that they share, and each
process's `/metrics` aggregates all of them. Series of releases that are no longer served, and of
replicas that are gone, are removed, because they would accumulate.
"""

import collections
import contextlib
import datetime
import functools
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import prometheus_client
from prometheus_client import metrics_core, multiprocess, registry

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
    "ranker_calls": ("version replica outcome", "Ranker calls: ok, late, busy or failed."),
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
    "calibration_drift": (
        "version head",
        "mostrecent",
        "Mean of recently shown scores over the recorded mean.",
    ),
    "release_age_seconds": (
        "version",
        "mostrecent",
        "Time since the release and its index were exported, in seconds.",
    ),
    "in_flight": ("", "livesum", "Requests in flight."),
    "breaker_open": ("version", "livesum", "Processes whose ranker circuit breaker is open."),
    "ranker_replicas": (
        "version",
        "livemin",
        "Healthy replicas of the ranker, the minimum over all processes.",
    ),
    "ranker_replica_down": (
        "version replica",
        "livesum",
        "Processes that cannot use a replica of the ranker.",
    ),
    "release_refused": (
        "",
        "livesum",
        "Processes that cannot serve the stable or the canary release.",
    ),
    "resident_bytes": (
        "",
        "livesum",
        "Anonymous memory of the processes, without mapped files, in bytes.",
    ),
    "impression_log_problem": ("", "livesum", "Processes that cannot write the impression log."),
    "feedback_log_problem": ("", "livesum", "Processes that cannot write the log of events."),
    "user_store_problem": ("", "livesum", "Processes whose user store has a problem."),
    "live_problem": ("version", "livesum", "Processes that cannot apply live updates."),
    "live_updates": ("version", "mostrecent", "Live updates since the export that are applied."),
    "live_cut_bytes": (
        "version",
        "mostrecent",
        "Size of the remains of interrupted live updates, in bytes.",
    ),
}
# Metric -> labels, limits of its buckets, and its meaning.
_HISTOGRAMS = {
    "request_seconds": ("path", _SECONDS, "Time from first to last byte of a request, in seconds."),
    "stage_seconds": ("version stage", _SECONDS, "Duration of a stage of an answer, in seconds."),
    "candidates": ("version kind", _COUNTS, "Ads of a request: found by the index, and ranked."),
    "score": ("version head", _SCORES, "Scores and utility of shown ads."),
}
# Weight of a new answer in the moving average of scores: about a thousand recent answers.
_DRIFT_WEIGHT = 0.001


class ServiceMetrics:
    """The metrics of one service; `render` returns them in Prometheus's text format.

    Args:
        clock: Returns seconds since the epoch, for the age of a release.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
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
        self._known_replicas: dict[int, set[str]] = {}
        # Number of orchestrators of each version, and replicas that they no longer have.
        self._served: collections.Counter[str] = collections.Counter()
        self._gone: set[tuple[str, str]] = set()
        # A page that is being rendered must not bring back what is removed.
        self._lock = threading.Lock()

    def begin(self, version: int) -> None:
        """Notes that a version is served from now on, so that `render` has its series."""
        self._served[str(version)] += 1

    def end(self, version: int) -> None:
        """Removes the series of a version, unless `begin` was called for another orchestrator."""
        self._served[str(version)] -= 1
        if self._served[str(version)] > 0:
            return
        self.gauges["breaker_open"].labels(version).set(False)
        self.gauges["live_problem"].labels(version).set(False)
        self.observe_replicas(version, {})
        with self._lock:
            del self._served[str(version)]
            self._releases.pop(version, None)
            self._known_replicas.pop(version, None)
            self._gone = {gone for gone in self._gone if gone[0] != str(version)}
            self._remove({"version": str(version)})

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

    def observe_breaker(self, version: int, is_open: bool) -> None:
        """Records the state of the circuit breaker of a version's ranker."""
        self.gauges["breaker_open"].labels(version).set(is_open)

    def ranker_calls(self, version: int) -> Callable[[str, str], None]:
        """Returns a function that counts a call of a version's ranker: replica and outcome."""

        def count(replica: str, outcome: str) -> None:
            # A call may end after its replica is gone.
            self._known_replicas.setdefault(version, set()).add(replica)
            self.labeled(self.counters["ranker_calls"], version, replica, outcome).inc()

        return count

    def observe_replicas(self, version: int, states: Mapping[str, bool]) -> None:
        """Records which replicas of a version's ranker are healthy.

        Args:
            version: Release version.
            states: Whether it is healthy, for the address of each replica. The series of replicas
                that are left out are removed.
        """
        known = self._known_replicas.setdefault(version, set())
        for replica in {*known, *states}:
            self.gauges["ranker_replica_down"].labels(version, replica).set(
                not states.get(replica, True)
            )
            self._gone.discard((str(version), replica))
        for replica in known - states.keys():
            self._gone.add((str(version), replica))
            self._remove({"version": str(version), "replica": replica})
        self._known_replicas[version] = set(states)
        self.gauges["ranker_replicas"].labels(version).set(sum(states.values()))

    def observe_problem(self, gauge: str, has_problem: bool) -> None:
        """Records whether this process has a problem, in a gauge such as `user_store_problem`."""
        self.gauges[gauge].set(has_problem)

    def count(self, counter: str, outcome: str, number: int = 1) -> None:
        """Adds to a counter whose only label is the outcome, such as `impression_rows`."""
        self.labeled(self.counters[counter], outcome).inc(number)

    def observe_live(
        self, version: int, has_problem: bool, cut_bytes: int, num_updates: int
    ) -> None:
        """Records the state of the live updates of a release; see `LiveIndex.status`."""
        self.gauges["live_problem"].labels(version).set(has_problem)
        self.gauges["live_cut_bytes"].labels(version).set(cut_bytes)
        self.gauges["live_updates"].labels(version).set(num_updates)

    def render(self) -> bytes:
        """Returns the metrics page, aggregated over all processes that share the directory."""
        now = self._clock()
        with self._lock:
            for version, known in list(self._releases.items()):
                self.gauges["release_age_seconds"].labels(version).set(now - known.created)
        # Each process of a service measures itself on request.
        self.gauges["resident_bytes"].set(process.resident_bytes())
        if self._shared is None:
            return prometheus_client.generate_latest(self._registry)
        collectors = prometheus_client.CollectorRegistry()
        collectors.register(_AllProcesses(self._shared, self._is_shown))
        return prometheus_client.generate_latest(collectors)

    def _is_shown(self, labels: Mapping[str, str]) -> bool:
        """Returns whether the labels name a release and a replica that this process serves."""
        version = labels.get("version")
        if version is None:
            return True
        return version in self._served and (version, labels.get("replica")) not in self._gone

    def _remove(self, labels: Mapping[str, str]) -> None:
        """Removes the series with some labels from the metrics that have them."""
        if self._shared is not None:
            # The library keeps them in the files of the processes. `render` leaves them out.
            return
        for kind, metrics in (
            (_COUNTERS, self.counters),
            (_GAUGES, self.gauges),
            (_HISTOGRAMS, self.histograms),
        ):
            for name, metric in metrics.items():
                if labels.keys() <= set(kind[name][0].split()):
                    metric.remove_by_labels(dict(labels))
        # It contains series that were removed.
        self.labeled.cache_clear()


class _AllProcesses(registry.Collector):
    """Collects the series of all processes of a directory, if their labels are wanted."""

    def __init__(self, directory: str, is_wanted: Callable[[Mapping[str, str]], bool]) -> None:
        self._directory = pathlib.Path(directory)
        self._is_wanted = is_wanted

    def collect(self) -> Iterator[metrics_core.Metric]:
        files = []
        for path in self._directory.glob("*.db"):
            # The library removes files of processes that have ended.
            with contextlib.suppress(FileNotFoundError):
                # A process that is killed as it makes a file leaves an empty one.
                if path.stat().st_size:
                    files.append(str(path))
        for metric in multiprocess.MultiProcessCollector.merge(files):  # type: ignore[no-untyped-call]
            metric.samples = [sample for sample in metric.samples if self._is_wanted(sample.labels)]
            yield metric


class _Release:
    """The metrics of the answers of one version."""

    def __init__(self, metrics: ServiceMetrics, release: manifest.Manifest) -> None:
        self._metrics = metrics
        self._version = str(release.version)
        self.created = datetime.datetime.fromisoformat(release.created).timestamp()
        self._fields = {**release.outputs, "utility": "utility"}
        # With the first answer, all series exist, so that a rate includes the first event of each.
        for outcome in ("full", "fewer_candidates", "retrieval_order"):
            metrics.labeled(metrics.counters["answers"], self._version, outcome)
        for head in self._fields:
            metrics.labeled(metrics.histograms["score"], self._version, head)
        self._recorded = _recorded_means(release)
        for head, mean in self._recorded.items():
            metrics.gauges["recorded_mean"].labels(self._version, head).set(mean)
        self._means: dict[str, float] = {}

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
            scores = [getattr(ad, output) for ad in answer.ads]
            histogram = self._metrics.labeled(
                self._metrics.histograms["score"], self._version, head
            )
            for score in scores:
                histogram.observe(score)
            recorded = self._recorded.get(head)
            if recorded:
                mean = sum(scores) / len(scores)
                before = self._means.get(head, mean)
                self._means[head] = before + _DRIFT_WEIGHT * (mean - before)
                self._metrics.gauges["calibration_drift"].labels(self._version, head).set(
                    self._means[head] / recorded
                )


def _recorded_means(release: manifest.Manifest) -> dict[str, float]:
    """Returns the mean label of each head that the export has measured."""
    measured = release.metrics.get("validation") or {}
    return {
        head: float(measured[head]["mean_label"])
        for head in release.present_heads
        if isinstance(measured.get(head), dict) and "mean_label" in measured[head]
    }
