"""How requests are answered."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from serving import requests
from serving.orchestrator import ranking

# Over REST a longer batch is refused before its requests are looked at.
MAX_BATCH_SIZE = 1000


@dataclasses.dataclass(frozen=True)
class OrchestratorConfig:
    """How requests are answered.

    Attributes:
        num_candidates: Ads that the index gives to the ranker.
        default_k: Ads returned to a request that names no k.
        max_k: The most ads one request may ask for.
        default_deadline_ms: Of a single request that names none.
        batch_deadline_ms: Of the requests of a batch that name none; a batch is for throughput.
        max_batch: The most requests of one batch.
        requests_per_call: Requests of a batch that share one call to tower, index and ranker.
        num_threads: Threads for query tower and index; the event loop itself computes little.
        max_in_hand: Requests in hand, beyond which others are refused.
        ranker: How the ranker is called.
        rules: Of requests that name none.
    """

    num_candidates: int = 500
    default_k: int = 10
    max_k: int = 1000
    default_deadline_ms: float = 2_000.0
    batch_deadline_ms: float = 10_000.0
    max_batch: int = MAX_BATCH_SIZE
    requests_per_call: int = 16
    num_threads: int = 2
    max_in_hand: int = 1024
    ranker: ranking.RankingConfig = dataclasses.field(default_factory=ranking.RankingConfig)
    rules: requests.Rules | Mapping[str, Any] | None = None
