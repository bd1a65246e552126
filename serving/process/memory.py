"""Measures the memory of a process, and returns freed memory to the operating system."""

import ctypes
import gc
import os
import pathlib

# From glibc's <malloc.h>.
_M_ARENA_MAX = -8


def share_heaps() -> None:
    """Limits glibc to one heap per core; its default is up to eight.

    Each model starts and ends threads. Each heap keeps memory that cannot be returned, so memory
    would grow by 3 MB with each release change. Call this before importing NumPy or
    TensorFlow. The environment variable MALLOC_ARENA_MAX takes precedence.
    """
    if "MALLOC_ARENA_MAX" in os.environ:
        return
    try:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, os.cpu_count() or 1)
    except (AttributeError, OSError):
        # The C library is not glibc.
        return


def release_freed_memory() -> None:
    """Returns unused memory to the operating system, in up to 0.1 s.

    It runs the garbage collector, because TensorFlow functions are reference cycles.
    """
    gc.collect()
    trim_heap()


def trim_heap() -> None:
    """Returns freed memory to the operating system, which glibc does only on request."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        # The C library is not glibc.
        return


def resident_bytes(pid: int | None = None) -> int:
    """Returns the anonymous resident memory of a process in bytes (Linux).

    Mapped files are excluded, because the system can reclaim their pages.

    Args:
        pid: Process id. None is this process.
    """
    path = pathlib.Path("/proc") / str(pid or os.getpid()) / "status"
    for line in path.read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{path} has no RssAnon line. Use Linux 4.5 or later.")
