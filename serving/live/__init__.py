"""Ads that are added, changed or removed while a release is served."""

from serving.live.live_index import LiveIndex
from serving.live.live_update import Update
from serving.live.live_update import encode as encode_update
from serving.live.live_view import LiveView
from serving.live.opening import check_channel, open_channel
from serving.live.update_channel import UpdateChannel

__all__ = [
    "LiveIndex",
    "LiveView",
    "Update",
    "UpdateChannel",
    "check_channel",
    "encode_update",
    "open_channel",
]
