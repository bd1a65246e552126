"""Stands in for a full disk."""

import contextlib
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def full(max_bytes: int) -> Iterator[None]:
    """Lets no file grow beyond `max_bytes`, in this process: the kernel cuts and rejects writes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores the signal that comes with it.
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
