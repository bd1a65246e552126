"""Scores candidates with a release's ranker, remote or in process."""

from serving.ranker.endpoints import Endpoints, connect, find_servers, split_address
from serving.ranker.local_ranker import LocalRanker
from serving.ranker.pace import Pace
from serving.ranker.ranker_client import RankerClient
from serving.ranker.replicas import Replicas
from serving.ranker.verified_ranker import Scorer

__all__ = [
    "Endpoints",
    "LocalRanker",
    "Pace",
    "RankerClient",
    "Replicas",
    "Scorer",
    "connect",
    "find_servers",
    "split_address",
]
