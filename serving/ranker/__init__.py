"""Scores candidates with a release's ranker, remote or in process.

Importing it does not load TensorFlow: what does is loaded on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from serving.ranker.pace import Pace

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

_MODULES = {
    "Endpoints": "endpoints",
    "LocalRanker": "local_ranker",
    "RankerClient": "ranker_client",
    "Replicas": "replicas",
    "Scorer": "verified_ranker",
    "connect": "endpoints",
    "find_servers": "endpoints",
    "split_address": "endpoints",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
