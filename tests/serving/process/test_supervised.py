"""A child process that is restarted when it exits."""

import logging
import os
import pathlib
import signal
import subprocess
import threading

import pytest
import waiting

from serving import process

pytestmark = pytest.mark.process


class _Supervised:
    """A supervised shell that runs one script after another, and repeats the last one."""

    def __init__(self, *scripts, stop_seconds=60):
        self.children, self.pauses = [], []
        # The test releases it to end a pause.
        self.go_on = threading.Semaphore(0)
        self._scripts = scripts
        self.running = process.SupervisedProcess("shell", self._start, stop_seconds, self._wait)

    def _start(self):
        script = self._scripts[min(len(self.children), len(self._scripts) - 1)]
        command = ["sh", "-c", script]
        self.children.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return self.children[-1]

    def _wait(self, seconds):
        self.pauses.append(seconds)
        assert self.go_on.acquire(timeout=waiting.GUARD_SECONDS)
        return self.running._stopping.is_set()


READY = "echo ready; exec sleep 1000"


def test_a_killed_process_is_reaped_and_restarted(caplog):
    shell = _Supervised(READY)
    assert shell.running.start() == "ready"
    (first,) = shell.children
    os.kill(first.pid, signal.SIGKILL)
    waiting.until(lambda: shell.pauses == [0.5])
    # It is not a zombie.
    assert not pathlib.Path(f"/proc/{first.pid}").exists()
    assert "The shell exited with status -9; starting another in 0.5 s." in caplog.text
    shell.go_on.release()
    waiting.until(lambda: "The shell is back: ready" in caplog.text)
    shell.running.stop()
    assert [child.returncode for child in shell.children] == [-9, -15]


def test_standard_error_is_logged_if_it_is_a_pipe(caplog):
    command = ["sh", "-c", "echo one >&2; echo two >&2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    shell = process.SupervisedProcess(
        "shell", lambda: subprocess.Popen(command, text=True, **pipes), 60
    )
    with caplog.at_level(logging.INFO):
        assert shell.start() is None
        shell.stop()
    assert caplog.record_tuples == [
        ("shell", logging.INFO, "one"),
        ("shell", logging.INFO, "two"),
    ]


def test_pauses_double_until_the_process_is_ready():
    shell = _Supervised(READY, *["exit 1"] * 7, READY)
    assert shell.running.start() == "ready"
    shell.children[0].kill()
    for _ in range(8):
        shell.go_on.release()
    waiting.until(lambda: len(shell.children) == 9)
    waiting.until(lambda: shell.running._child is shell.children[-1])
    shell.children[-1].kill()
    waiting.until(lambda: len(shell.pauses) == 9)
    shell.running._stopping.set()
    shell.go_on.release()
    shell.running.stop()
    assert shell.pauses[:8] == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_a_process_that_is_never_ready_is_not_restarted():
    shell = _Supervised("exit 3")
    assert shell.running.start() is None
    shell.running.stop()
    assert [child.returncode for child in shell.children] == [3]
    assert not shell.pauses


def test_a_process_that_does_not_exit_in_time_is_killed():
    shell = _Supervised("trap '' TERM; echo ready; exec sleep 1000", stop_seconds=0)
    assert shell.running.start() == "ready"
    shell.running.stop()
    assert [child.returncode for child in shell.children] == [-9]
