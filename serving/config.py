"""Options of the online service and their defaults.

The flags of `tfrec serve` take their defaults from here. Importing it loads no TensorFlow.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from serving import requests
from tfrecords.schema import NUM_CANDIDATES

LOG_FORMATS = ("text", "json")
# Larger request bodies get 413.
DEFAULT_MAX_BODY_BYTES = 1_000_000
# Over REST, larger batches are rejected before their requests are validated.
MAX_BATCH_SIZE = 1000


@dataclasses.dataclass(frozen=True)
class BreakerConfig:
    """When the circuit breaker of the ranker opens, and for how long.

    Attributes:
        failures_to_open: Number of consecutive failures that open the breaker.
        pause_seconds: Time the breaker stays open before it lets a trial call through.
        max_pause_seconds: Maximum pause. The pause doubles after each failed trial call.
    """

    failures_to_open: int = 4
    pause_seconds: float = 0.5
    max_pause_seconds: float = 4.0


@dataclasses.dataclass(frozen=True)
class RankingConfig:
    """How the ranker is called.

    Attributes:
        reserve_ms: Part of each deadline reserved for assembling the answer.
        max_calls: Maximum number of concurrent calls for each replica of the ranker. Others wait in
            this process.
        min_candidates: Minimum number of candidates per call, unless fewer were retrieved.
        margin: Factor on the expected latency of a call when the number of candidates is chosen.
        pauses: Options of the circuit breaker.
    """

    reserve_ms: float = 5.0
    max_calls: int = 4
    min_candidates: int = 50
    margin: float = 1.25
    pauses: BreakerConfig = dataclasses.field(default_factory=BreakerConfig)


@dataclasses.dataclass(frozen=True)
class OrchestratorConfig:
    """How requests are answered.

    Attributes:
        num_candidates: Number of ads retrieved from the index for the ranker.
        default_k: Number of ads returned if a request does not set `k`.
        max_k: Maximum value of `k` in a request.
        default_deadline_ms: Deadline of a single request that does not set one.
        batch_deadline_ms: Deadline of requests in a batch that do not set one.
        max_batch: Maximum number of requests in a batch.
        max_ads_per_call: Maximum number of ads that the requests of a batch ask for: the sum of
            their `k`, and of the candidates if they ask for them.
        requests_per_call: Number of requests of a batch that share a call to the query tower, the
            index and the ranker.
        num_threads: Number of threads for the query tower and the index.
        max_in_flight: Maximum number of requests in flight. Others are rejected, and so are those
            that cannot be answered before their deadline.
        max_ads_in_flight: Maximum number of ads that the requests in flight ask for.
        ranker: Options of the calls to the ranker.
        rules: Business rules of requests that do not set any; `requests.ServiceRules`, or a JSON
            object with `filters`, also filter all requests.
    """

    num_candidates: int = NUM_CANDIDATES
    default_k: int = 10
    max_k: int = 1000
    default_deadline_ms: float = 2_000.0
    batch_deadline_ms: float = 10_000.0
    max_batch: int = MAX_BATCH_SIZE
    max_ads_per_call: int = 10_000
    requests_per_call: int = 16
    num_threads: int = 2
    max_in_flight: int = 1024
    max_ads_in_flight: int = 20_000
    ranker: RankingConfig = dataclasses.field(default_factory=RankingConfig)
    rules: requests.Rules | Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class ImpressionLogConfig:
    """How the impression log is written.

    Attributes:
        rows_per_file: Number of rows after which a file is written.
        seconds_per_file: Age of the first row after which a file is written.
        max_queued: Maximum number of answers waiting to be converted to rows. Others are dropped.
    """

    rows_per_file: int = 50_000
    seconds_per_file: float = 60.0
    max_queued: int = 10_000


@dataclasses.dataclass(frozen=True)
class UserStoreConfig:
    """How users are stored, read and written.

    Attributes:
        read_timeout_ms: Time that a request waits for its user, in milliseconds; then it goes on
            without.
        write_timeout_seconds: Time for a write, and for a connection to open, in seconds.
        max_actions: Number of clicks, engagements and purchases kept for each user, the latest.
        max_impressions: Number of impressions kept for each user, the latest.
        ttl_days: Time after the last write to a user until the user is deleted, and age at which
            an event is deleted, in days.
        record_impressions: Whether the ads of each answer are recorded as impressions of its user.
        max_queued: Maximum number of answers whose impressions wait to be written. Those of others
            are dropped.
        pauses: When the store is given a pause, and how long.
    """

    read_timeout_ms: float = 5.0
    write_timeout_seconds: float = 2.0
    max_actions: int = 200
    max_impressions: int = 500
    ttl_days: float = 90.0
    record_impressions: bool = True
    max_queued: int = 10_000
    pauses: BreakerConfig = dataclasses.field(default_factory=BreakerConfig)

    @property
    def ttl_seconds(self) -> float:
        """Time to live in seconds."""
        return self.ttl_days * 86_400


@dataclasses.dataclass(frozen=True)
class LiveConfig:
    """When a new release is suggested, and when the journal is rewritten.

    Attributes:
        max_added: Maximum number of added ads. Each search compares all of them.
        max_added_share: Maximum number of added ads, as a share of the release.
        max_removed_share: Maximum number of removed and changed ads, as a share of the release.
        max_recall_loss: Maximum loss of recall at 500 since the export.
        max_dead: Maximum number of added ads that were later changed or removed. If there are
            more, and more than there are added ads, the journal is rewritten without them.
    """

    max_added: int = 50_000
    max_added_share: float = 0.1
    max_removed_share: float = 0.2
    max_recall_loss: float = 0.01
    max_dead: int = 10_000


@dataclasses.dataclass(frozen=True)
class FollowConfig:
    """How the service follows the releases on disk.

    Attributes:
        poll_seconds: Time between two checks of the disk.
        ranker_seconds: Time the model server has to start serving a new version.
        retry_seconds: Time before a refused release is retried. Doubles with each attempt.
        max_retry_seconds: Maximum time between two attempts.
    """

    poll_seconds: float = 1.0
    ranker_seconds: float = 60.0
    retry_seconds: float = 5.0
    max_retry_seconds: float = 300.0


@dataclasses.dataclass(frozen=True)
class HttpConfig:
    """How the HTTP server accepts connections and shuts down.

    Attributes:
        tls_certificate: PEM file with the certificate and its chain. None disables TLS.
        tls_key: PEM file with the private key. None if the certificate file contains it.
        drain_seconds: Time between the stop signal and closing the port.
        end_seconds: Time for requests in flight to finish after the port is closed.
        max_connections: Maximum number of open connections of a process. At the limit, the
            connection that has waited longest for its client is closed.
    """

    tls_certificate: str | None = None
    tls_key: str | None = None
    drain_seconds: float = 1.0
    end_seconds: int = 20
    max_connections: int = 4096
