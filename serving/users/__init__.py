"""The user store: profiles and latest events of users at request time, in SQLite or Redis."""

from typing import TYPE_CHECKING, Any

from serving.users.circuit_breaker import CircuitBreaker
from serving.users.store import ACTIONS, StoredEvent, User, UserStore
from serving.users.stores import check_store, open_store

if TYPE_CHECKING:
    from serving.users.event_stream import StreamEntry, StreamReader

__all__ = [
    "ACTIONS",
    "CircuitBreaker",
    "StoredEvent",
    "StreamEntry",
    "StreamReader",
    "User",
    "UserStore",
    "check_store",
    "open_store",
]


def __getattr__(name: str) -> Any:
    if name in ("StreamEntry", "StreamReader"):
        # They need the extra `redis`.
        from serving.users import event_stream

        return getattr(event_stream, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
