"""A child process that is restarted when it exits."""

import logging
import os
import pathlib
import signal
import subprocess

import pytest
import waiting

from serving import process

pytestmark = pytest.mark.process


class _Supervised:
    """A supervised shell that runs one script after another, and repeats the last one."""

    def __init__(self, *scripts, stop_seconds=60):
        self.children = []
        self._scripts = scripts
        self.running = process.SupervisedProcess("shell", self._start, stop_seconds)

    def _start(self):
        script = self._scripts[min(len(self.children), len(self._scripts) - 1)]
        command = ["sh", "-c", script]
        self.children.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return self.children[-1]


READY = "echo ready; exec sleep 1000"


def test_a_killed_process_is_reaped_and_restarted(caplog):
    shell = _Supervised(READY)
    assert shell.running.start() == "ready"
    (first,) = shell.children
    os.kill(first.pid, signal.SIGKILL)
    # It is not a zombie.
    waiting.until(lambda: not pathlib.Path(f"/proc/{first.pid}").exists())
    waiting.until(lambda: "The shell exited with status -9; restarting it." in caplog.text)
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
        lines = [("shell", logging.INFO, "one"), ("shell", logging.INFO, "two")]
        waiting.until(lambda: caplog.record_tuples == lines)


def test_a_process_that_is_never_ready_is_not_restarted():
    shell = _Supervised("exit 3")
    assert shell.running.start() is None
    shell.running.stop()
    assert [child.returncode for child in shell.children] == [3]


def test_a_process_that_does_not_exit_in_time_is_killed():
    shell = _Supervised("trap '' TERM; echo ready; exec sleep 1000", stop_seconds=0)
    assert shell.running.start() == "ready"
    shell.running.stop()
    assert [child.returncode for child in shell.children] == [-9]
