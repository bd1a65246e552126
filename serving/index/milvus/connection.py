"""Calls of `pymilvus`, which is imported on first use, and their errors."""

import contextlib
import contextvars
import logging
import math
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from serving import errors

URI_VARIABLE, TOKEN_VARIABLE = "TFREC_MILVUS_URI", "TFREC_MILVUS_TOKEN"
CONNECT_SECONDS, CALL_SECONDS = 10.0, 60.0
# Milvus accepts messages of up to 64 MB.
BYTES_PER_CALL = 16_000_000
_until: contextvars.ContextVar[float] = contextvars.ContextVar("until", default=math.inf)


def connect(uri: str) -> Any:
    """Returns a `pymilvus.MilvusClient`."""
    try:
        import pymilvus
    except ModuleNotFoundError as error:
        raise errors.BundleError(
            f"An index in Milvus needs {error.name}, which is not installed. Install the extra "
            "'milvus': pip install -c constraints.txt -e '.[milvus]'"
        ) from error
    # pymilvus logs the stack trace of every error that it raises.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    options: dict[str, Any] = {
        "uri": address_of(uri),
        "token": os.environ.get(TOKEN_VARIABLE, ""),
        "timeout": CONNECT_SECONDS,
    }
    if is_file(address_of(uri)):
        return _open_file(options)
    try:
        return pymilvus.MilvusClient(**options)
    except pymilvus.MilvusException:
        # A channel that the server has closed because it was idle connects on the second attempt.
        with calls(uri, "it cannot be reached"):
            return pymilvus.MilvusClient(**options)


def _open_file(options: dict[str, Any]) -> Any:
    """Returns the client of a milvus-lite file, whose server runs in this process."""
    import pymilvus

    # They log the stack trace of an error, and that milvus-lite lacks a call that is not needed.
    for name in ("milvus_lite", "grpc._server"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # milvus-lite closes a connection after a few of the client's pings, which come every 10 s.
    no_pings = {"grpc.keepalive_time_ms": 2**31 - 1}
    try:
        return pymilvus.MilvusClient(**options, grpc_options=no_pings)
    except pymilvus.MilvusException as error:
        raise errors.IndexUnavailableError(
            f"The milvus-lite file {options['uri']} cannot be opened: {error.message}. Only one "
            "process can have it open: stop any other, such as tfrec serve, or use a Milvus "
            f"server. {URI_VARIABLE} overrides the path."
        ) from error


def address_of(uri: str) -> str:
    """Returns the address to connect to, given the address in a manifest."""
    return os.environ.get(URI_VARIABLE) or uri


def is_file(uri: str) -> bool:
    """Returns whether an address is the path of a milvus-lite file."""
    return "://" not in uri


def portable(uri: str) -> str:
    """Returns an address in which the path of a milvus-lite file is absolute."""
    return str(pathlib.Path(uri).absolute()) if is_file(uri) else uri


@contextlib.contextmanager
def limited(timeout_seconds: float | None) -> Iterator[None]:
    """Limits the total time of the calls in a `with` block; None gives each `CALL_SECONDS`."""
    token = _until.set(math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds)
    try:
        yield
    finally:
        _until.reset(token)


def remaining() -> float:
    """Returns the timeout of the next call in seconds."""
    left = _until.get() - time.monotonic()
    if left <= 0:
        raise errors.IndexUnavailableError(
            "Milvus has not answered by the deadline of the request. Send requests with longer "
            "deadlines, or at a lower rate, or give Milvus more query nodes."
        )
    return CALL_SECONDS if left == math.inf else left


@contextlib.contextmanager
def calls(uri: str, what: str) -> Iterator[None]:
    """Converts errors of `pymilvus` in a `with` block."""
    import grpc
    import pymilvus

    try:
        yield
    except (pymilvus.MilvusException, grpc.RpcError, ConnectionError) as error:
        reason = getattr(error, "message", None) or str(error)
        raise errors.IndexUnavailableError(
            f"Milvus at {address_of(uri)}: {what}: {reason}. Check that it runs and is reachable; "
            f"{URI_VARIABLE} overrides the address. The next request tries again."
        ) from error
