"""Memory and stop signals of the current process."""

from serving.process.memory import release_freed_memory, resident_bytes, share_heaps, trim_heap
from serving.process.stop_signal import StopSignal

__all__ = [
    "StopSignal",
    "release_freed_memory",
    "resident_bytes",
    "share_heaps",
    "trim_heap",
]
