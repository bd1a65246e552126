"""Scores candidates with a release's ranker, remote or in process."""

from serving.ranker.local_ranker import LocalRanker
from serving.ranker.pace import Pace
from serving.ranker.ranker_client import RankerClient, target
from serving.ranker.verified_ranker import Scorer, VerifiedRanker, connect

__all__ = ["LocalRanker", "Pace", "RankerClient", "Scorer", "VerifiedRanker", "connect", "target"]
