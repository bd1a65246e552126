"""Options of the online service and their defaults.

An option with a help text is also a flag of `tfrec serve`. The module imports no TensorFlow.
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


def option(
    default: Any, help: str, *, minimum: float | None = None, flag: str | None = None
) -> Any:
    """Returns a dataclass field with the help text of its flag.

    Args:
        default: Default of the option and of the flag: a number, a string or a boolean. The flag
            has the same type.
        help: Help text, which is not repeated in the docstring of the config.
        minimum: Minimum that the flag accepts. None: any finite value.
        flag: Name of the flag. None: the name of the option.
    """
    limits = {} if minimum is None else {">=": minimum}
    return dataclasses.field(
        default=default, metadata={"help": help, "limits": limits, "flag": flag}
    )


@dataclasses.dataclass(frozen=True)
class RankingConfig:
    """Options of ranker calls.

    Attributes:
        reserve_ms: Part of each deadline reserved for assembling the answer.
        min_candidates: Minimum number of candidates per call, unless fewer were retrieved.
        margin: Factor on the expected latency of a call when the number of candidates is chosen.
    """

    reserve_ms: float = 5.0
    max_calls: int = option(
        4,
        "Maximum number of concurrent ranker calls per process and replica; further calls wait. "
        "Increase it for a model server with a GPU.",
        minimum=1,
        flag="max_ranker_calls",
    )
    min_candidates: int = 50
    margin: float = 1.25


@dataclasses.dataclass(frozen=True)
class OrchestratorConfig:
    """Options of the orchestrator.

    Attributes:
        default_k: Number of ads returned if a request does not set `k`.
        max_k: Maximum value of `k` in a request.
        requests_per_call: Maximum number of requests that share a call to the query tower, the
            index and the ranker; also of a batch's requests in flight.
        num_threads: Number of threads for the query tower and the index.
        ranker: Options of the calls to the ranker.
        rules: Business rules of requests that do not set any; `requests.ServiceRules`, or a JSON
            object with `filters`, also filter all requests.
    """

    num_candidates: int = option(
        NUM_CANDIDATES, "Number of candidates that the index passes to the ranker.", minimum=1
    )
    default_k: int = 10
    max_k: int = 1000
    default_deadline_ms: float = option(
        2_000.0,
        "Default deadline of a request, in milliseconds. If time runs out, fewer candidates are "
        "ranked or ads are returned in retrieval order. The default tolerates bursts; set the time "
        "that your callers can wait, such as 100.",
        minimum=1.0,
        flag="deadline_ms",
    )
    batch_deadline_ms: float = option(
        10_000.0,
        "Default deadline of the requests of a batch, in milliseconds.",
        minimum=1.0,
        flag="batch_deadline_ms",
    )
    max_ads_per_call: int = option(
        10_000,
        "Maximum number of ads in the answers to a call: the sum of k and of requested candidates; "
        "larger calls get 413.",
        minimum=1,
    )
    requests_per_call: int = 16
    num_threads: int = 1
    max_in_flight: int = option(
        1024,
        "Maximum number of requests in flight per process; further requests get 429, and so do "
        "those that cannot be answered before their deadline.",
        minimum=1,
    )
    max_ads_in_flight: int = option(
        20_000,
        "Maximum number of ads requested by the requests in flight, per process; further requests "
        "get 429.",
        minimum=1,
    )
    ranker: RankingConfig = dataclasses.field(default_factory=RankingConfig)
    rules: requests.Rules | Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class ImpressionLogConfig:
    """Options of the impression log.

    Attributes:
        rows_per_file: Number of rows after which a file is written.
        max_queued: Maximum number of answers waiting to be converted to rows. Others are dropped.
    """

    rows_per_file: int = 50_000
    seconds_per_file: float = option(
        60.0,
        "Time between the files of the impression log, in seconds.",
        minimum=0.1,
        flag="impression_log_seconds",
    )
    max_queued: int = 10_000


@dataclasses.dataclass(frozen=True)
class UserStoreConfig:
    """Options of the user store.

    Attributes:
        write_timeout_seconds: Time for a write, and for a connection to open, in seconds.
        max_actions: Number of latest clicks, engagements and revenue events kept for each user.
        max_impressions: Number of latest impressions kept for each user.
        max_queued: Maximum number of answers whose impressions wait to be written. Impressions of
            further answers are dropped.
    """

    read_timeout_ms: float = option(
        5.0,
        "Time that a request waits for its user's data, in milliseconds; after that, it is "
        "answered without the data.",
        minimum=0.1,
        flag="user_store_ms",
    )
    write_timeout_seconds: float = 2.0
    max_actions: int = 200
    max_impressions: int = 500
    ttl_days: float = option(
        90.0,
        "Days after which events, and users without a new event or profile, are deleted from the "
        "store.",
        minimum=0.01,
        flag="user_ttl_days",
    )
    record_impressions: bool = option(
        True,
        "Whether the ads of each answer count as shown to its user. Turn it off if your pages "
        "report impressions as events.",
        flag="store_impressions",
    )
    max_queued: int = 10_000

    @property
    def ttl_seconds(self) -> float:
        """Time to live in seconds."""
        return self.ttl_days * 86_400

    @property
    def limits(self) -> requests.StoreLimits:
        """Limits of the data that the store keeps of each user."""
        return requests.StoreLimits(self.max_actions, self.max_impressions, self.ttl_days * 24)


@dataclasses.dataclass(frozen=True)
class HttpConfig:
    """Options of the HTTP server: connections and shutdown.

    Attributes:
        tls_certificate: PEM file with the certificate and its chain. None disables TLS.
        tls_key: PEM file with the private key. None if the certificate file contains it.
        end_seconds: Time for requests in flight to finish after the port is closed.
    """

    tls_certificate: str | None = None
    tls_key: str | None = None
    drain_seconds: float = option(
        1.0,
        "Time after SIGTERM during which requests are still accepted while /readyz returns "
        "`draining`, in seconds. Set it to more than a load balancer's health check interval.",
        minimum=0.0,
    )
    end_seconds: int = 20
    max_connections: int = option(
        4096,
        "Maximum number of open connections per process. At the limit, requests get 503.",
        minimum=1,
    )
