"""Memory, sockets and stop signals of the current process, and child processes."""

from serving.process.memory import release_freed_memory, resident_bytes, share_heaps, trim_heap
from serving.process.sockets import bound_socket
from serving.process.stop_signal import StopSignal
from serving.process.supervised import SupervisedProcess, pauses

__all__ = [
    "StopSignal",
    "SupervisedProcess",
    "bound_socket",
    "pauses",
    "release_freed_memory",
    "resident_bytes",
    "share_heaps",
    "trim_heap",
]
