"""The user store: profiles and latest events of users at request time, in SQLite or Redis."""

from typing import TYPE_CHECKING

from serving.users.circuit_breaker import CircuitBreaker
from serving.users.store import ACTIONS, IMPRESSION, StoredEvent, User, UserStore
from serving.users.stores import check_store, open_store
from tfrecords import faces

if TYPE_CHECKING:
    from serving.users.event_stream import StreamBacklog, StreamEntry, StreamReader

__all__ = [
    "ACTIONS",
    "IMPRESSION",
    "CircuitBreaker",
    "StoredEvent",
    "StreamBacklog",
    "StreamEntry",
    "StreamReader",
    "User",
    "UserStore",
    "check_store",
    "open_store",
]

# They need the extra `redis`.
__getattr__ = faces.lazily(
    __name__, {".event_stream": ["StreamBacklog", "StreamEntry", "StreamReader"]}
)
