"""Memory of this process: how much there is, and giving back what a closed release leaves."""

import ctypes
import gc
import os
import pathlib

# In glibc's <malloc.h>.
_M_ARENA_MAX = -8


def share_heaps() -> None:
    """Lets the threads to come share one heap a core, where glibc would make up to eight.

    Threads come and go with each model, and what is left of a model in every heap is memory that
    cannot be returned: 3 MB a release change, without an end in sight. To be called before numpy
    or TensorFlow is imported. The variable MALLOC_ARENA_MAX of the environment goes first.
    """
    if "MALLOC_ARENA_MAX" in os.environ:
        return
    try:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, os.cpu_count() or 1)
    except (AttributeError, OSError):
        # Another C library; it has its own ways.
        return


def release_freed_memory() -> None:
    """Returns what is no longer used to the system; a tenth of a second or less.

    TensorFlow's functions refer to each other, so that it takes a collection to free them.
    """
    gc.collect()
    trim_heap()


def trim_heap() -> None:
    """Returns freed memory to the system: glibc keeps it for itself until it is asked."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        # Another C library; it has its own ways.
        return


def resident_bytes(pid: int | None = None) -> int:
    """Returns the memory that a process holds and that no file backs, in bytes (Linux).

    Mapped files are left out: the system takes their pages back when it needs them.

    Args:
        pid: None = this process.
    """
    path = pathlib.Path("/proc") / str(pid or os.getpid()) / "status"
    for line in path.read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{path} has no line RssAnon: its kernel does not say what memory is mapped.")
