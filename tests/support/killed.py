"""Runs work in a child process that can be killed at an operation on files.

The processes are forks of a server that has only imported `serving`: a fork of the test's process
would inherit the locks of TensorFlow's and gRPC's threads. The forkserver of `multiprocessing`
would have imported only what the test that started it needs.
"""

import contextlib
import functools
import importlib
import multiprocessing
import os
import pickle
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import connection, reduction

from serving import manifest, releases

# The operations on files: module and function.
OPERATIONS = ((os, "replace"), (os, "fsync"), (os, "unlink"), (os, "rename"), (shutil, "rmtree"))
# What test modules import, so that not each process does.
MODULES = ("serving.model_server", "serving.service.rest.app", "pytest")


def status_of(work: Callable[..., object], *args, at: int | None = None) -> int:
    """Runs `work(*args)` in a child process and returns its exit code, -9 if it was killed.

    Args:
        work: Function of a module.
        *args: Its arguments.
        at: Operation on files before which the process is killed, from 0. None: not killed.
    """
    _start(work, args, at)
    return _server().recv()


@contextlib.contextmanager
def running(work: Callable[..., object], *args) -> Iterator[int]:
    """Yields the id of a child process that runs `work(*args)`, and kills it at the end."""
    process_id = _start(work, args)
    try:
        yield process_id
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGKILL)
        status = _server().recv()
    assert status == -signal.SIGKILL


@functools.cache
def _server():
    ours, theirs = multiprocessing.Pipe()
    spawning = multiprocessing.get_context("spawn")
    spawning.Process(target=_serve, args=(theirs,), daemon=True).start()
    theirs.close()
    return ours


def _start(work, args, at=None):
    _server().send_bytes(reduction.ForkingPickler.dumps((work, args, at)))
    return _server().recv()


def _serve(client: connection.Connection) -> None:
    """Answers each pickled `(work, args, at)` with the id of a fork, and then its exit code."""
    for name in MODULES:
        importlib.import_module(name)
    with contextlib.suppress(EOFError):
        while True:
            pickled = client.recv_bytes()
            process_id = os.fork()
            if not process_id:
                _run(pickled)
            client.send(process_id)
            client.send(os.waitstatus_to_exitcode(os.waitpid(process_id, 0)[1]))


def _run(pickled):
    status = 1
    try:
        work, args, at = pickle.loads(pickled)
        if at is not None:
            _kill_at(at)
        work(*args)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


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
