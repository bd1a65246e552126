"""Runs a function in a separate process, so that its time and memory are measured separately.

The processes are forks of a server that has only imported the benchmark's modules, so that
TensorFlow is imported once.
"""

import gc
import multiprocessing
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable
from concurrent import futures
from typing import TypeVar

Result = TypeVar("Result")


def call(function: Callable[..., Result], *arguments: object) -> Result:
    """Calls a module-level function in a fresh process and returns its result."""
    context = multiprocessing.get_context("forkserver")
    packages = ("tfrec", "tfrecords", "serving")
    context.set_forkserver_preload([n for n in sys.modules if n.partition(".")[0] in packages])
    with futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_call_with_frozen_imports, function, *arguments).result()


def _call_with_frozen_imports(function: Callable[..., Result], *arguments: object) -> Result:
    """Calls a function; the garbage collector does not traverse objects of earlier imports.

    A traversal takes up to 0.3 s, which would count as latency of the service that is measured.
    The process ends without the exit handlers that would delete TensorFlow's temporary files.
    """
    gc.freeze()
    with tempfile.TemporaryDirectory() as tempfile.tempdir:
        return function(*arguments)


def peak_rss_mb(process_id: int | str = "self") -> float:
    """Returns the peak resident memory of a process, in 10^6 bytes.

    Resident pages of mapped files are included.
    """
    # ru_maxrss would include the parent's memory, which Linux keeps over fork and exec.
    lines = pathlib.Path(f"/proc/{process_id}/status").read_text().splitlines()
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return kilobytes * 1024 / 1e6


def cpu_ms(process_id: int) -> float:
    """Returns the processor time that a process has used, in milliseconds."""
    stat = pathlib.Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) * 1000 / os.sysconf("SC_CLK_TCK")
