"""Ads that are added, changed or removed while a release is served."""

from serving.live.live_index import Applied, LiveIndex
from serving.live.live_update import Update
from serving.live.live_view import LiveView

__all__ = ["Applied", "LiveIndex", "LiveView", "Update"]
