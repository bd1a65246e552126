"""Scores candidates with a release's ranker, remote or in process."""

from serving.ranker.breaker import CircuitBreaker
from serving.ranker.local_ranker import LocalRanker
from serving.ranker.pace import Pace
from serving.ranker.ranker_client import RankerClient, connect
from serving.ranker.verified_ranker import Scorer, VerifiedRanker

__all__ = [
    "CircuitBreaker",
    "LocalRanker",
    "Pace",
    "RankerClient",
    "Scorer",
    "VerifiedRanker",
    "connect",
]
