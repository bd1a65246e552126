"""Memory and stop signals of the current process, and child processes."""

from serving.process.memory import release_freed_memory, resident_bytes, share_heaps, trim_heap
from serving.process.stop_signal import StopSignal
from serving.process.supervised import SupervisedProcess

__all__ = [
    "StopSignal",
    "SupervisedProcess",
    "release_freed_memory",
    "resident_bytes",
    "share_heaps",
    "trim_heap",
]
