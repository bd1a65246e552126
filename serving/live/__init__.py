"""Ads that are added, changed or removed while a release is served."""

from serving.live.live_index import LiveIndex
from serving.live.live_view import LiveView
from serving.live.opening import check_channel, open_channel
from serving.live.update_channel import UpdateChannel

__all__ = [
    "LiveIndex",
    "LiveView",
    "UpdateChannel",
    "check_channel",
    "open_channel",
]
