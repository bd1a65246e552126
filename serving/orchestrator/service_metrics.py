"""What the service tells Prometheus, each number of an answer under the version that gave it.

    tfrec_stage_seconds{version,stage}         query_tower, index, features, ranker, total
    tfrec_candidates{version,kind}             found, ranked: ads of a request
    tfrec_answers_total{version,outcome}       full, fewer_candidates, retrieval_order
    tfrec_score{version,head}                  scores of shown ads, and their utility
    tfrec_recorded_mean{version,head}          the label's mean in the release's validation split
    tfrec_calibration_drift{version,head}      mean of the latest shown scores over that mean
    tfrec_release_age_seconds{version}         since the export; with it, the index's age
    tfrec_release_refused                      processes that do not serve what the disk names
    tfrec_requests_total, tfrec_request_seconds, tfrec_in_hand, tfrec_breaker_open{version}

Shown ads are the best of many, so their scores lie above the log's mean from the start: what tells
of drift is a change of `tfrec_calibration_drift`, and a difference between two versions.

With several processes, `PROMETHEUS_MULTIPROC_DIR` names a directory that they share, and each
`/metrics` is the sum of all.
"""

import datetime
import os
import time
from collections.abc import Callable

import prometheus_client
from prometheus_client import multiprocess

from serving import manifest, requests

METRICS_CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
METRICS_DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05),
    *(0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
_COUNTS = (0, 1, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000)
_SCORES = (0.001, 0.003, 0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0, 3.0, 10.0, 100.0)
# Of the mean of the latest scores: about the latest thousand answers.
_DRIFT_WEIGHT = 0.001


class ServiceMetrics:
    """The metrics of one service; `render` gives them as Prometheus reads them.

    Args:
        clock: Returns seconds since the epoch; the age of a release goes by it.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._shared = os.environ.get(METRICS_DIRECTORY_VARIABLE)
        # One of its own, so that two services of a process do not meet.
        registry = self._registry = prometheus_client.CollectorRegistry()
        counter, gauge = prometheus_client.Counter, prometheus_client.Gauge
        histogram = prometheus_client.Histogram
        self._requests = counter(
            "tfrec_requests_total", "HTTP requests.", ["path", "status"], registry=registry
        )
        self._request_seconds = histogram(
            "tfrec_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._answers = counter(
            "tfrec_answers_total", "Answers.", ["version", "outcome"], registry=registry
        )
        self._stages = histogram(
            "tfrec_stage_seconds",
            "Time of the stages of an answer.",
            ["version", "stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._candidates = histogram(
            "tfrec_candidates",
            "Ads of a request that the index found, and that the ranker scored.",
            ["version", "kind"],
            buckets=_COUNTS,
            registry=registry,
        )
        self._scores = histogram(
            "tfrec_score",
            "Scores of the ads that were shown.",
            ["version", "head"],
            buckets=_SCORES,
            registry=registry,
        )
        gauges = {
            "tfrec_recorded_mean": "Mean label of the release's validation split.",
            "tfrec_calibration_drift": "Mean of the latest shown scores over the recorded mean.",
        }
        self._recorded, self._drift = (
            gauge(
                name, text, ["version", "head"], multiprocess_mode="mostrecent", registry=registry
            )
            for name, text in gauges.items()
        )
        self._age = gauge(
            "tfrec_release_age_seconds",
            "Since the release, and its index, were exported.",
            ["version"],
            multiprocess_mode="mostrecent",
            registry=registry,
        )
        self.in_flight = gauge(
            "tfrec_in_hand",
            "Requests in hand.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._breaker = gauge(
            "tfrec_breaker_open",
            "Processes that leave the ranker alone for a while.",
            ["version"],
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._refused = gauge(
            "tfrec_release_refused",
            "Processes that cannot serve a release that is stable or canary.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._releases: dict[int, _Release] = {}

    def observe_request(self, path: str, status: int, seconds: float) -> None:
        """Counts an HTTP request; `path` is a known route, so that there are few."""
        self._requests.labels(path, status).inc()
        self._request_seconds.labels(path).observe(seconds)

    def observe_answer(
        self, release: manifest.Manifest, answer: requests.Answer, num_found: int, num_ranked: int
    ) -> None:
        """Counts an answer.

        Args:
            release: That gave it.
            answer: The answer.
            num_found: Candidates of the index.
            num_ranked: Of them, those with scores.
        """
        known = self._releases.get(release.version)
        if known is None:
            known = self._releases[release.version] = _Release(self, release)
        known.observe(answer, num_found, num_ranked)

    def observe_breaker(self, version: int, state: str) -> None:
        """Notes whether a version's ranker is left alone."""
        self._breaker.labels(version).set(state == "open")

    def observe_refused(self, refused: bool) -> None:
        """Notes whether a release that the disk names cannot be served."""
        self._refused.set(refused)

    def render(self) -> bytes:
        """Returns the page, with what all processes that share the directory have counted."""
        now = self._clock()
        for version, known in self._releases.items():
            self._age.labels(version).set(now - known.created)
        if self._shared is None:
            return prometheus_client.generate_latest(self._registry)
        together = prometheus_client.CollectorRegistry()
        multiprocess.MultiProcessCollector(together, self._shared)  # type: ignore[no-untyped-call]
        return prometheus_client.generate_latest(together)


class _Release:
    """The metrics of one version, looked up once: labels cost a microsecond each."""

    def __init__(self, metrics: ServiceMetrics, release: manifest.Manifest) -> None:
        self._metrics = metrics
        self._version = str(release.version)
        self.created = datetime.datetime.fromisoformat(release.created).timestamp()
        self._stages: dict[str, prometheus_client.Histogram] = {}
        self._outcomes = {
            outcome: metrics._answers.labels(self._version, outcome)
            for outcome in ("full", "fewer_candidates", "retrieval_order")
        }
        self._found, self._ranked = (
            metrics._candidates.labels(self._version, kind) for kind in ("found", "ranked")
        )
        self._fields = {**release.outputs, "utility": "utility"}
        self._scores = {head: metrics._scores.labels(self._version, head) for head in self._fields}
        self._recorded = _recorded_means(release)
        for head, mean in self._recorded.items():
            metrics._recorded.labels(self._version, head).set(mean)
        self._means: dict[str, float] = {}

    def observe(self, answer: requests.Answer, num_found: int, num_ranked: int) -> None:
        """Counts an answer."""
        if answer.degraded is None:
            outcome = "full"
        else:
            outcome = "fewer_candidates" if answer.order == "utility" else "retrieval_order"
        self._outcomes[outcome].inc()
        self._found.observe(num_found)
        self._ranked.observe(num_ranked)
        for stage, milliseconds in answer.stage_ms.items():
            known = self._stages.get(stage)
            if known is None:
                known = self._metrics._stages.labels(self._version, stage)
                self._stages[stage] = known
            known.observe(milliseconds / 1000)
        if answer.order == "utility" and answer.ads:
            self._observe_scores(answer)

    def _observe_scores(self, answer: requests.Answer) -> None:
        for head, histogram in self._scores.items():
            scores = [getattr(ad, self._fields[head]) for ad in answer.ads]
            for score in scores:
                histogram.observe(score)
            recorded = self._recorded.get(head)
            if recorded:
                mean = sum(scores) / len(scores)
                before = self._means.get(head, mean)
                self._means[head] = before + _DRIFT_WEIGHT * (mean - before)
                self._metrics._drift.labels(self._version, head).set(self._means[head] / recorded)


def _recorded_means(release: manifest.Manifest) -> dict[str, float]:
    """Returns the mean label of each head, where the export has measured it."""
    measured = release.metrics.get("validation") or {}
    return {
        head: float(measured[head]["mean_label"])
        for head in release.present_heads
        if isinstance(measured.get(head), dict) and "mean_label" in measured[head]
    }
