"""Python clients of the service, over HTTP and in process.

Importing it does not load TensorFlow. `LocalClient`, which runs both stages in process, loads it on
first use.
"""

from typing import TYPE_CHECKING, Any

from serving.client.async_client import AsyncClient
from serving.client.client import Client

if TYPE_CHECKING:
    from serving.client.local_client import LocalClient

__all__ = ["AsyncClient", "Client", "LocalClient"]


def __getattr__(name: str) -> Any:
    if name == "LocalClient":
        from serving.client import local_client

        return local_client.LocalClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
