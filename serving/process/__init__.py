"""Memory and sockets of the current process, and child processes."""

from serving.process.memory import release_freed_memory, resident_bytes, share_heaps, trim_heap
from serving.process.sockets import bound_socket
from serving.process.supervised import SupervisedProcess

__all__ = [
    "SupervisedProcess",
    "bound_socket",
    "release_freed_memory",
    "resident_bytes",
    "share_heaps",
    "trim_heap",
]
