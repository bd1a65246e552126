"""The user store: profiles and latest events of users at request time, in SQLite or Redis."""

from serving.users.store import ACTIONS, StoredEvent, User, UserStore
from serving.users.stores import check_store, open_store

__all__ = [
    "ACTIONS",
    "StoredEvent",
    "User",
    "UserStore",
    "check_store",
    "open_store",
]
