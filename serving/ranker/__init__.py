"""Scores candidates with a release's ranker, remote or in process.

Importing it does not load TensorFlow: what does is loaded on first use.
"""

from typing import TYPE_CHECKING

from serving.ranker.pace import Pace
from tfrecords import faces

if TYPE_CHECKING:
    from serving.ranker.endpoints import Endpoints, connect, find_servers, split_address
    from serving.ranker.local_ranker import LocalRanker
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

__getattr__ = faces.lazily(
    __name__,
    {
        ".endpoints": ["Endpoints", "connect", "find_servers", "split_address"],
        ".local_ranker": ["LocalRanker"],
        ".ranker_client": ["RankerClient"],
        ".replicas": ["Replicas"],
        ".verified_ranker": ["Scorer"],
    },
)
