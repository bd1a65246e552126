"""Ads that are added, changed or removed while a release is served."""

from serving.live.comparison import MissingUpdates, missing_updates
from serving.live.live_index import Applied, LiveIndex
from serving.live.live_update import Update
from serving.live.live_view import LiveView
from serving.live.opening import check_channel, open_channel
from serving.live.update_channel import UpdateChannel

__all__ = [
    "Applied",
    "LiveIndex",
    "LiveView",
    "MissingUpdates",
    "Update",
    "UpdateChannel",
    "check_channel",
    "missing_updates",
    "open_channel",
]
