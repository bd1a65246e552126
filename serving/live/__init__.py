"""Ads that are added, changed or removed while a release is served."""

from serving.live.live_index import LiveIndex
from serving.live.live_state import LiveState
from serving.live.live_store import LiveStore
from serving.live.live_update import Update

__all__ = [
    "LiveIndex",
    "LiveState",
    "LiveStore",
    "Update",
]
