"""Python clients of the service, over HTTP and in process.

Importing it does not load TensorFlow. `LocalClient`, which runs both stages in process, loads it on
first use.
"""

from typing import TYPE_CHECKING

from serving.client.async_client import AsyncClient
from serving.client.client import Client
from serving.client.http_calls import Retry
from tfrecords import faces

if TYPE_CHECKING:
    from serving.client.local_client import LocalClient

__all__ = ["AsyncClient", "Client", "LocalClient", "Retry"]

__getattr__ = faces.lazily(__name__, {".local_client": ["LocalClient"]})
