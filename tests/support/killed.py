"""Runs work in a child process that can be killed at an operation on files.

The processes are forks of a server that has only imported `serving`: a fork of the test's process
would inherit the locks of TensorFlow's and gRPC's threads.
"""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable

from serving import manifest, releases

# The operations on files: module and function.
OPERATIONS = ((os, "replace"), (os, "fsync"), (os, "unlink"), (os, "rename"), (shutil, "rmtree"))

processes = multiprocessing.get_context("forkserver")
# What test modules import, so that not each process does.
processes.set_forkserver_preload(
    ["serving.releases", "serving.model_server", "serving.service.rest.app", "pytest"]
)


def status_of(work: Callable[..., object], *args, at: int | None = None) -> int:
    """Runs `work(*args)` in a child process and returns its exit code, -9 if it was killed.

    Args:
        work: Function of a module.
        *args: Its arguments.
        at: Operation on files before which the process is killed, from 0. None: not killed.
    """
    process = processes.Process(target=_run, args=(work, args, at))
    process.start()
    process.join()
    return process.exitcode


def _run(work, args, at):
    if at is not None:
        _kill_at(at)
    work(*args)


def _kill_at(left):
    def counted(operation):
        def call(*args, **kwargs):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*args, **kwargs)

        return call

    for module, name in OPERATIONS:
        setattr(module, name, counted(getattr(module, name)))


def copy_parts(source, staged):
    """Fills the directories from release 1 of `source`, and returns its content."""
    for part in manifest.PARTS:
        shutil.copytree(source / part / "1", getattr(staged, part), dirs_exist_ok=True)
    return manifest.read(source, 1)


def publish_copy(base, source):
    """Publishes release 1 of `source` in `base`, with fewer operations than saving models."""
    return releases.publish(base, lambda staged: copy_parts(source, staged)).version
