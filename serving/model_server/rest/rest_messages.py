"""A request and a reply of the REST API, as they pass between `rest_server` and `rest_api`."""

import dataclasses
import math
import threading
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Request:
    """An HTTP request.

    Attributes:
        method: GET, POST and so on.
        path: the path as sent, with the query: TensorFlow Serving does not tell them apart.
        headers: by lower-case name.
        body: the whole body.
        deadline: until when its client waits, by `time.monotonic`.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    deadline: float = math.inf
    _counted: threading.Lock = dataclasses.field(default_factory=threading.Lock, repr=False)

    def is_first_answer(self) -> bool:
        """Returns True once: what answers first, the run or the time-out, counts the request."""
        return self._counted.acquire(blocking=False)


@dataclasses.dataclass(frozen=True)
class Reply:
    """An HTTP reply: status, body, its type and further headers."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
