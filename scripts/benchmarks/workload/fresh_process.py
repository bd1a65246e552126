"""Runs a function in a process of its own, so that its time and memory are its own.

Where it is safe, the processes are forks of a server that has imported what the benchmark imports
and has done nothing else: TensorFlow is imported once, not for each of them.
"""

import multiprocessing
import pathlib
import resource
import sys
from collections.abc import Callable
from concurrent import futures
from typing import TypeVar

Result = TypeVar("Result")


def call(function: Callable[..., Result], *arguments: object) -> Result:
    """Returns what a module's function gives in a freshly started process."""
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    context.set_forkserver_preload([name for name in sys.modules if _is_preloaded(name)])
    with futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def _is_preloaded(module: str) -> bool:
    return module.partition(".")[0] in ("tfrec", "tfrecords", "serving")


def peak_rss_mb() -> float:
    """Returns the most memory that this process has had resident, in 10^6 bytes.

    Mapped files count as far as they were resident.
    """
    status = pathlib.Path("/proc/self/status")
    if status.is_file():
        # ru_maxrss would count the parent's memory too: Linux keeps it over fork and exec.
        lines = status.read_text().splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        return kilobytes * 1024 / 1e6
    bytes_per_unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * bytes_per_unit / 1e6
