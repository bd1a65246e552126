"""Prometheus metrics of the service, labeled with the release version that gave the answer.

    tfrec_stage_seconds{version,stage}         query_tower, index, features, ranker, total
    tfrec_candidates{version,kind}             found, ranked: number of ads of a request
    tfrec_answers_total{version,outcome}       full, fewer_candidates, retrieval_order
    tfrec_score{version,head}                  scores and utility of shown ads
    tfrec_recorded_mean{version,head}          mean label of the release's validation split
    tfrec_calibration_drift{version,head}      mean of recently shown scores, divided by that mean
    tfrec_release_age_seconds{version}         time since the export of the release and its index
    tfrec_release_refused                      processes that could not load a published release
    tfrec_resident_bytes                       anonymous memory of the processes
    tfrec_live_problem{version}                processes that cannot apply live updates
    tfrec_live_updates{version}                live updates since the export that are applied
    tfrec_live_cut_bytes{version}              kept from interrupted updates, next to the journal
    tfrec_impression_rows_total{outcome}       written, dropped: rows of the impression log
    tfrec_user_reads_total{outcome}            found, unknown, late, failed: users of requests
    tfrec_user_events_total{outcome}           received, shown, dropped: events for the user store
    tfrec_ranker_calls_total{version,replica,outcome}   ok, late, busy, failed
    tfrec_ranker_replicas{version}             least number of healthy replicas
    tfrec_ranker_replica_down{version,replica} processes that cannot use the replica
    tfrec_requests_total, tfrec_request_seconds, tfrec_in_flight, tfrec_breaker_open{version}

Shown ads are the best of many, so their scores are above the mean of the log from the start. A
change of `tfrec_calibration_drift` over time, or a difference between two versions, indicates
drift.

With several processes, `PROMETHEUS_MULTIPROC_DIR` names a directory that they share, and each
process's `/metrics` aggregates all of them.
"""

import datetime
import os
import time
from collections.abc import Callable, Mapping

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
        registry = self._registry = prometheus_client.CollectorRegistry()
        counter, gauge = prometheus_client.Counter, prometheus_client.Gauge
        histogram = prometheus_client.Histogram
        self._requests = counter(
            "tfrec_requests_total", "HTTP requests.", ["path", "status"], registry=registry
        )
        self._request_seconds = histogram(
            "tfrec_request_seconds",
            "Time from the first byte of a request to the last byte of its answer, in seconds.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._answers = counter(
            "tfrec_answers_total", "Answers by outcome.", ["version", "outcome"], registry=registry
        )
        self._stages = histogram(
            "tfrec_stage_seconds",
            "Duration of the stages of an answer, in seconds.",
            ["version", "stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._candidates = histogram(
            "tfrec_candidates",
            "Number of ads per request that the index found and that the ranker scored.",
            ["version", "kind"],
            buckets=_COUNTS,
            registry=registry,
        )
        self._scores = histogram(
            "tfrec_score",
            "Scores of shown ads.",
            ["version", "head"],
            buckets=_SCORES,
            registry=registry,
        )
        gauges = {
            "tfrec_recorded_mean": "Mean label of the release's validation split.",
            "tfrec_calibration_drift": "Mean of recently shown scores over the recorded mean.",
        }
        self._recorded, self._drift = (
            gauge(
                name, text, ["version", "head"], multiprocess_mode="mostrecent", registry=registry
            )
            for name, text in gauges.items()
        )
        self._age = gauge(
            "tfrec_release_age_seconds",
            "Time since the release and its index were exported, in seconds.",
            ["version"],
            multiprocess_mode="mostrecent",
            registry=registry,
        )
        self.in_flight = gauge(
            "tfrec_in_flight",
            "Requests in flight.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._breaker = gauge(
            "tfrec_breaker_open",
            "Processes whose ranker circuit breaker is open.",
            ["version"],
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._ranker_calls = counter(
            "tfrec_ranker_calls_total",
            "Ranker calls by replica and outcome.",
            ["version", "replica", "outcome"],
            registry=registry,
        )
        self._replicas = gauge(
            "tfrec_ranker_replicas",
            "Healthy replicas of the ranker; of several processes, the least.",
            ["version"],
            multiprocess_mode="livemin",
            registry=registry,
        )
        self._replica_down = gauge(
            "tfrec_ranker_replica_down",
            "Processes that cannot use a replica of the ranker.",
            ["version", "replica"],
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._refused = gauge(
            "tfrec_release_refused",
            "Processes that cannot serve the stable or the canary release.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._memory = gauge(
            "tfrec_resident_bytes",
            "Anonymous memory of the processes, without mapped files, in bytes.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._live_problem = gauge(
            "tfrec_live_problem",
            "Processes that cannot apply live updates.",
            ["version"],
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._live_updates = gauge(
            "tfrec_live_updates",
            "Number of live updates since the export that are applied.",
            ["version"],
            multiprocess_mode="mostrecent",
            registry=registry,
        )
        self._live_cut = gauge(
            "tfrec_live_cut_bytes",
            "Size of what interrupted live updates have left, in bytes.",
            ["version"],
            multiprocess_mode="mostrecent",
            registry=registry,
        )
        rows = counter(
            "tfrec_impression_rows_total",
            "Rows of the impression log.",
            ["outcome"],
            registry=registry,
        )
        self._impressions = {outcome: rows.labels(outcome) for outcome in ("written", "dropped")}
        reads = counter(
            "tfrec_user_reads_total",
            "Users of requests by what the user store had.",
            ["outcome"],
            registry=registry,
        )
        outcomes = ("found", "unknown", "late", "failed")
        self._user_reads = {outcome: reads.labels(outcome) for outcome in outcomes}
        events = counter(
            "tfrec_user_events_total",
            "Events for the user store.",
            ["outcome"],
            registry=registry,
        )
        self._user_events = {
            outcome: events.labels(outcome) for outcome in ("received", "shown", "dropped")
        }
        self._releases: dict[int, _Release] = {}
        self._known_replicas: dict[int, set[str]] = {}

    def observe_request(self, path: str, status: int, seconds: float) -> None:
        """Records an HTTP request.

        Args:
            path: Route, from a small fixed set.
            status: HTTP status of the response.
            seconds: Duration in seconds.
        """
        self._requests.labels(path, status).inc()
        self._request_seconds.labels(path).observe(seconds)

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

    def observe_breaker(self, version: int, state: str) -> None:
        """Records the state of the circuit breaker of a version's ranker."""
        self._breaker.labels(version).set(state == "open")

    def ranker_calls(self, version: int) -> Callable[[str, str], None]:
        """Returns a function that counts a call of a version's ranker: replica and outcome."""
        # Looked up once, because each lookup costs a microsecond.
        known: dict[tuple[str, str], prometheus_client.Counter] = {}

        def count(replica: str, outcome: str) -> None:
            counter = known.get((replica, outcome))
            if counter is None:
                counter = self._ranker_calls.labels(version, replica, outcome)
                known[replica, outcome] = counter
            counter.inc()

        return count

    def observe_replicas(self, version: int, states: Mapping[str, bool]) -> None:
        """Records which replicas of a version's ranker are healthy.

        Args:
            version: Release version.
            states: Whether it is healthy, for the address of each replica. Those that are left out
                no longer count as down.
        """
        known = self._known_replicas.setdefault(version, set())
        known.update(states)
        for replica in known:
            self._replica_down.labels(version, replica).set(not states.get(replica, True))
        self._replicas.labels(version).set(sum(states.values()))

    def observe_refused(self, refused: bool) -> None:
        """Records whether the stable or the canary release cannot be served."""
        self._refused.set(refused)

    def observe_live(
        self, version: int, has_problem: bool, cut_bytes: int, num_updates: int
    ) -> None:
        """Records the state of the live updates of a release; see `LiveIndex.status`."""
        self._live_problem.labels(version).set(has_problem)
        self._live_cut.labels(version).set(cut_bytes)
        self._live_updates.labels(version).set(num_updates)

    def observe_impressions(self, outcome: str, rows: int) -> None:
        """Counts rows of the impression log, `written` or `dropped`."""
        self._impressions[outcome].inc(rows)

    def observe_user_read(self, outcome: str) -> None:
        """Counts a user that was read: `found`, `unknown`, `late` or `failed`."""
        self._user_reads[outcome].inc()

    def observe_user_events(self, outcome: str, count: int) -> None:
        """Counts events: `received`, `shown` by an answer, or `dropped` impressions."""
        self._user_events[outcome].inc(count)

    def render(self) -> bytes:
        """Returns the metrics page, aggregated over all processes that share the directory."""
        now = self._clock()
        for version, known in self._releases.items():
            self._age.labels(version).set(now - known.created)
        # Each process of a service measures itself when it is asked.
        self._memory.set(process.resident_bytes())
        if self._shared is None:
            return prometheus_client.generate_latest(self._registry)
        together = prometheus_client.CollectorRegistry()
        multiprocess.MultiProcessCollector(together, self._shared)  # type: ignore[no-untyped-call]
        return prometheus_client.generate_latest(together)


class _Release:
    """The metrics of one version, looked up once because each lookup costs a microsecond."""

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
        """Records an answer."""
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
    """Returns the mean label of each head that the export has measured."""
    measured = release.metrics.get("validation") or {}
    return {
        head: float(measured[head]["mean_label"])
        for head in release.present_heads
        if isinstance(measured.get(head), dict) and "mean_label" in measured[head]
    }
