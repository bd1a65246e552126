"""Options of the online service with their defaults: the only home of both.

The flags of `tfrec serve` take their defaults from here. Importing it loads no TensorFlow.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from serving import requests
from tfrecords.schema import NUM_CANDIDATES

LOG_FORMATS = ("text", "json")
# A larger request body is answered with 413.
DEFAULT_MAX_BODY_BYTES = 1_000_000
# Over REST a longer batch is refused before its requests are looked at.
MAX_BATCH_SIZE = 1000


@dataclasses.dataclass(frozen=True)
class BreakerConfig:
    """When the circuit breaker of the ranker opens, and for how long.

    Attributes:
        failures_to_open: Consecutive failures that open it.
        pause_seconds: How long it stays open before one call is let through.
        max_pause_seconds: The pause doubles with each such call that fails, up to this.
    """

    failures_to_open: int = 4
    pause_seconds: float = 0.5
    max_pause_seconds: float = 4.0


@dataclasses.dataclass(frozen=True)
class RankingConfig:
    """How the ranker is called.

    Attributes:
        reserve_ms: Part of each deadline kept for putting the answer together.
        max_calls: Concurrent calls; others wait in this process, where the remaining time decides.
        min_candidates: The ranker is not called for fewer, unless fewer were found.
        margin: A call is expected to take up to this many times its mean.
        pauses: When the circuit breaker opens.
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
        num_candidates: Ads that the index gives to the ranker.
        default_k: Ads returned to a request that names no k.
        max_k: Maximum number of ads that one request may ask for.
        default_deadline_ms: Deadline of a single request that names none.
        batch_deadline_ms: Deadline of a batch's requests that name none; a batch is for throughput.
        max_batch: Maximum number of requests in a batch.
        requests_per_call: Requests of a batch that share one call to tower, index and ranker.
        num_threads: Threads for query tower and index; the event loop itself computes little.
        max_in_flight: Maximum number of requests in flight; others are refused.
        ranker: How the ranker is called.
        rules: Business rules of requests that name none.
    """

    num_candidates: int = NUM_CANDIDATES
    default_k: int = 10
    max_k: int = 1000
    default_deadline_ms: float = 2_000.0
    batch_deadline_ms: float = 10_000.0
    max_batch: int = MAX_BATCH_SIZE
    requests_per_call: int = 16
    num_threads: int = 2
    max_in_flight: int = 1024
    ranker: RankingConfig = dataclasses.field(default_factory=RankingConfig)
    rules: requests.Rules | Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class ImpressionLogConfig:
    """How the impression log is written.

    Attributes:
        rows_per_file: A file is written when it has this many rows,
        seconds_per_file: or when its first row is this old.
        max_queued: Maximum number of answers waiting to be laid out; others are dropped.
    """

    rows_per_file: int = 50_000
    seconds_per_file: float = 60.0
    max_queued: int = 10_000


@dataclasses.dataclass(frozen=True)
class LiveConfig:
    """When a new release is suggested, and when the journal is rewritten.

    Attributes:
        max_added: Maximum number of added ads; each search compares all of them.
        max_added_share: Maximum number of added ads, as a share of the release.
        max_removed_share: Maximum number of removed and changed ads, as a share of the release.
        max_recall_loss: Maximum loss of recall at 500 since the export.
        max_dead: Added ads that were changed again or removed; with more of them than this, and
            than added ads, the journal is rewritten without them.
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
        poll_seconds: Time between two looks at the disk.
        ranker_seconds: How long the model server may take to serve a new version.
        retry_seconds: Time before a refused release is tried again; doubled each time,
        max_retry_seconds: up to this.
    """

    poll_seconds: float = 1.0
    ranker_seconds: float = 60.0
    retry_seconds: float = 5.0
    max_retry_seconds: float = 300.0


@dataclasses.dataclass(frozen=True)
class HttpConfig:
    """How the HTTP server takes connections and ends.

    Attributes:
        tls_certificate: PEM file of the certificate and its chain; None: no TLS.
        tls_key: PEM file of its key; None: in the same file.
        drain_seconds: Time from the signal to the closing of the port.
        end_seconds: Time from then on for the requests in flight.
    """

    tls_certificate: str | None = None
    tls_key: str | None = None
    drain_seconds: float = 1.0
    end_seconds: int = 20
