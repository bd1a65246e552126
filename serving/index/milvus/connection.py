"""Calls of `pymilvus`, which is imported on first use, and their errors."""

import contextlib
import logging
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from serving import errors

URI_VARIABLE, TOKEN_VARIABLE = "TFREC_MILVUS_URI", "TFREC_MILVUS_TOKEN"
CONNECT_SECONDS, CALL_SECONDS = 10.0, 60.0
# A message may have 64 MB.
BYTES_PER_CALL = 16_000_000


def connect(uri: str) -> Any:
    """Returns a `pymilvus.MilvusClient`.

    Args:
        uri: Address of Milvus, or path of a milvus-lite file; `URI_VARIABLE` overrides it.

    Raises:
        AdIndexError: `pymilvus` is not installed.
        IndexUnavailableError: Milvus does not answer.
    """
    try:
        import pymilvus
    except ModuleNotFoundError as error:
        raise errors.AdIndexError(
            f"An index in Milvus needs {error.name}, which is not installed. Install the extra "
            "'milvus': pip install -c constraints.txt -e '.[milvus]'"
        ) from error
    # It logs the stack trace of every error that it raises.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    if "://" not in address_of(uri):
        # milvus-lite, in this process, lacks a call that `pymilvus` does without.
        logging.getLogger("grpc._server").setLevel(logging.CRITICAL)
    options: dict[str, Any] = {
        "uri": address_of(uri),
        "token": os.environ.get(TOKEN_VARIABLE, ""),
        "timeout": CONNECT_SECONDS,
    }
    try:
        return pymilvus.MilvusClient(**options)
    except pymilvus.MilvusException:
        # A channel that its server has closed for idleness connects at the second attempt.
        with calls(uri, "it cannot be reached"):
            return pymilvus.MilvusClient(**options)


def address_of(uri: str) -> str:
    """Returns the address to connect to for an address in a manifest."""
    return os.environ.get(URI_VARIABLE) or uri


def portable(uri: str) -> str:
    """Returns the path of a milvus-lite file as an absolute one."""
    return uri if "://" in uri else str(pathlib.Path(uri).absolute())


@contextlib.contextmanager
def calls(uri: str, what: str) -> Iterator[None]:
    """Converts errors of `pymilvus` in a `with` block.

    Args:
        uri: Address of the manifest.
        what: Description of the failure, for the error.

    Raises:
        IndexUnavailableError: Milvus does not answer, or refuses the call.
    """
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
